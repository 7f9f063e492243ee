#include "base/heap.h"

#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

#include <sanitizer/asan_interface.h>

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

#define HUGE_PAGE_BYTES (UINT64_C(2) << 20)

void *kv_calloc_table(size_t n, size_t size)
{
    void *table = kv_calloc(n, size);
    uintptr_t at = (uintptr_t)table, first, end;

    if (table == NULL || n * size < 2 * HUGE_PAGE_BYTES)
        return table;
    first = (at + HUGE_PAGE_BYTES - 1) / HUGE_PAGE_BYTES * HUGE_PAGE_BYTES;
    end = (at + n * size) / HUGE_PAGE_BYTES * HUGE_PAGE_BYTES;
    /* Advice: without huge pages it is slower, not wrong. */
    (void)madvise((char *)table + (first - at), end - first, MADV_HUGEPAGE);
    return table;
}

void *kv_realloc(void *ptr, size_t size)
{
    return current->realloc(ptr, size);
}

void kv_heap_forbid(void *ptr, size_t size)
{
    ASAN_POISON_MEMORY_REGION(ptr, size);
}

void kv_heap_allow(void *ptr, size_t size)
{
    ASAN_UNPOISON_MEMORY_REGION(ptr, size);
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
