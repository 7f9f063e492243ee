#include "base/heap.h"

#include <stdlib.h>
#include <string.h>

static const struct kv_heap libc_heap = {calloc, realloc, free};
static const struct kv_heap *current = &libc_heap;

void kv_heap_use(const struct kv_heap *heap)
{
    current = heap != NULL ? heap : &libc_heap;
}

void *kv_calloc(size_t n, size_t size)
{
    return current->calloc(n, size);
}

void *kv_realloc(void *ptr, size_t size)
{
    return current->realloc(ptr, size);
}

void kv_free(void *ptr)
{
    current->free(ptr);
}

char *kv_strndup(const char *text, size_t n)
{
    char *copy = kv_calloc(n + 1, 1);

    if (copy != NULL)
        memcpy(copy, text, n);
    return copy;
}

char *kv_strdup(const char *text)
{
    return kv_strndup(text, strlen(text));
}
