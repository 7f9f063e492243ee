#include "tests/sim/heap.h"

#include <stdlib.h>

#include "base/heap.h"

static uint32_t left; /* 0: none fails */
static bool paused, refused;

static bool refuses(void)
{
    if (left == 0 || paused)
        return false;
    if (left > 1) {
        left--;
        return false;
    }
    refused = true;
    return true;
}

static void *dry_calloc(size_t n, size_t size)
{
    return refuses() ? NULL : calloc(n, size);
}

static void *dry_realloc(void *old, size_t size)
{
    return refuses() ? NULL : realloc(old, size);
}

void heap_starve(uint32_t nth)
{
    static const struct kv_heap heap = {dry_calloc, dry_realloc, free};

    left = nth;
    kv_heap_use(&heap);
}

bool heap_feed(void)
{
    bool was_refused = refused;

    left = 0;
    refused = false;
    return was_refused;
}

void heap_pause(void)
{
    paused = true;
}

void heap_go_on(void)
{
    paused = false;
}
