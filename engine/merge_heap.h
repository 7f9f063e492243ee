/* The pairs of neighbours that could become one token, best first: what both
 * kinds of byte-pair encoding wait with.
 *
 * The memory is the caller's: room for as many candidates as are pushed before
 * they are popped. */
#ifndef ENGINE_MERGE_HEAP_H
#define ENGINE_MERGE_HEAP_H

#include <stddef.h>
#include <stdint.h>

struct merge_candidate {
    double order;         /* the least goes first; the leftmost among equals */
    uint32_t left, right; /* symbols */
    uint32_t n;           /* bytes of both when it was found */
    uint32_t id;          /* of what they become, where that is known */
};

struct merge_heap {
    struct merge_candidate *candidates; /* the best is first */
    size_t n;
};

void merge_heap_push(struct merge_heap *heap, struct merge_candidate candidate);

/* There must be one. */
struct merge_candidate merge_heap_pop(struct merge_heap *heap);

#endif
