#include "tests/support/faulty_heap.h"

#include <malloc.h>
#include <stdatomic.h>
#include <stdlib.h>

#include "base/heap.h"

static _Atomic int countdown;
static _Atomic int live;
static _Atomic int calls;
static _Atomic size_t n_bytes;

static int refuses(void)
{
    int left = countdown;

    calls++;
    if (left > 0)
        countdown = left - 1;
    return left == 0;
}

static void *faulty_calloc(size_t n, size_t size)
{
    void *ptr = refuses() ? NULL : calloc(n, size);

    live += ptr != NULL;
    n_bytes += malloc_usable_size(ptr);
    return ptr;
}

static void *faulty_realloc(void *old, size_t size)
{
    const size_t n_old = malloc_usable_size(old);
    void *ptr = refuses() ? NULL : realloc(old, size);

    if (ptr != NULL)
        n_bytes += malloc_usable_size(ptr) - n_old;
    live += ptr != NULL && old == NULL;
    return ptr;
}

static void faulty_free(void *ptr)
{
    live -= ptr != NULL;
    n_bytes -= malloc_usable_size(ptr);
    free(ptr);
}

void faulty_heap_install(void)
{
    static const struct kv_heap heap = {
        faulty_calloc, faulty_realloc, faulty_free};

    countdown = -1;
    live = 0;
    calls = 0;
    n_bytes = 0;
    kv_heap_use(&heap);
}

void faulty_heap_fail_at(int nth)
{
    countdown = nth;
}

int faulty_heap_live(void)
{
    return live;
}

size_t faulty_heap_bytes(void)
{
    return n_bytes;
}

int faulty_heap_calls(void)
{
    return calls;
}
