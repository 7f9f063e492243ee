#include "tests/support/faulty_heap.h"

#include <stdatomic.h>
#include <stdlib.h>

#include "base/heap.h"

static _Atomic int countdown;
static _Atomic int live;
static _Atomic int calls;

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
    return ptr;
}

static void *faulty_realloc(void *old, size_t size)
{
    void *ptr = refuses() ? NULL : realloc(old, size);

    live += ptr != NULL && old == NULL;
    return ptr;
}

static void faulty_free(void *ptr)
{
    live -= ptr != NULL;
    free(ptr);
}

void faulty_heap_install(void)
{
    static const struct kv_heap heap = {
        faulty_calloc, faulty_realloc, faulty_free};

    countdown = -1;
    live = 0;
    calls = 0;
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

int faulty_heap_calls(void)
{
    return calls;
}
