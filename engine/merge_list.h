/* The symbols that a text is made of, and their merging: what both kinds of
 * byte-pair encoding do, whatever they merge for.
 *
 *     _ h e l l o   ->   _ h e ll o   ->   _ he ll o   ->   _he llo ...
 *
 *     merge_list_reserve ─> merge_list_add ... ─> merge_list_run ─> read
 *              ^──────────────── the next text ────────────────────┘
 *
 * Of all neighbours that may become one the pair of the least order does, the
 * leftmost among equals, until there is none. Candidates wait in a heap; one
 * whose halves have changed since is known by its length and dropped, so a text
 * of n symbols takes O(n log n).
 *
 * Any thread, each its own. Starts as zeros. */
#ifndef ENGINE_MERGE_LIST_H
#define ENGINE_MERGE_LIST_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define MERGE_NIL UINT32_MAX

struct merge_symbol {
    uint32_t id;         /* of its token; MERGE_NIL: it is none */
    uint32_t begin, n;   /* bytes of the text; n is 0 once it has become part of
                            the symbol before */
    uint32_t prev, next; /* or MERGE_NIL */
};

/* Whether two neighbours may become one: in which order (the least goes first),
 * and the id of what they become. */
typedef bool (*merge_judge_cb)(void *ctx, const struct merge_symbol *left,
    const struct merge_symbol *right, double *order, uint32_t *id);

struct merge_list {
    struct merge_symbol *symbols; /* the first is [0], the others by `next` */
    uint32_t n;
    size_t n_max;
    struct merge_candidate *candidates; /* a heap */
    size_t n_candidates;
};

/* Empties it, with room for n symbols. false: no memory. */
bool merge_list_reserve(struct merge_list *list, size_t n);

/* The next symbol, of n bytes, at least 1. */
void merge_list_add(struct merge_list *list, uint32_t id, size_t n);

void merge_list_run(struct merge_list *list, merge_judge_cb judge, void *ctx);

void merge_list_fini(struct merge_list *list);

#endif
