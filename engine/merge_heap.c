#include "engine/merge_heap.h"

#include <stdbool.h>

static bool is_better(
    const struct merge_candidate *a, const struct merge_candidate *b)
{
    return a->order < b->order || (a->order == b->order && a->left < b->left);
}

static void swap(struct merge_candidate *a, struct merge_candidate *b)
{
    struct merge_candidate other = *a;

    *a = *b;
    *b = other;
}

void merge_heap_push(struct merge_heap *heap, struct merge_candidate candidate)
{
    struct merge_candidate *candidates = heap->candidates;
    size_t at = heap->n++;

    candidates[at] = candidate;
    while (at > 0 && is_better(&candidates[at], &candidates[(at - 1) / 2])) {
        swap(&candidates[at], &candidates[(at - 1) / 2]);
        at = (at - 1) / 2;
    }
}

struct merge_candidate merge_heap_pop(struct merge_heap *heap)
{
    struct merge_candidate *candidates = heap->candidates;
    struct merge_candidate best = candidates[0];
    size_t n = --heap->n, at = 0, child;

    candidates[0] = candidates[n];
    while ((child = 2 * at + 1) < n) {
        if (child + 1 < n &&
            is_better(&candidates[child + 1], &candidates[child]))
            child++;
        if (!is_better(&candidates[child], &candidates[at]))
            break;
        swap(&candidates[child], &candidates[at]);
        at = child;
    }
    return best;
}
