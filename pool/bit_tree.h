/* A set of small numbers whose least member is found at once.
 *
 *   level 2                 1 word    bit i: word i of level 1 is not 0
 *   level 1            64 words       bit i: word i of level 0 is not 0
 *   level 0        4096 words         bit i: i is in the set
 *
 * Six levels hold every 32-bit number, so each operation is O(1): it touches at
 * most one word per level, and mostly stops after the first. Where the least
 * was is remembered, since the next one is mostly in the same word. */
#ifndef POOL_BIT_TREE_H
#define POOL_BIT_TREE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/status.h"

#define BIT_TREE_LEVELS 6
#define BIT_TREE_NONE UINT32_MAX

struct bit_tree {
    uint64_t *words; /* all levels, the lowest first */
    size_t n_words;
    uint64_t *levels[BIT_TREE_LEVELS];
    unsigned n_levels;
    uint32_t least_word; /* of level 0: those before it are 0 */
};

/* Empty; takes numbers below n_bits, which is at least 1. KV_NO_MEMORY. */
enum kv_status bit_tree_init(struct bit_tree *tree, uint32_t n_bits);
void bit_tree_fini(struct bit_tree *tree);

static inline bool bit_tree_has(const struct bit_tree *tree, uint32_t i)
{
    return (tree->words[i >> 6] >> (i & 63) & 1) != 0;
}

/* Adding what is in the set, or removing what is not, changes nothing. */
static inline void bit_tree_add(struct bit_tree *tree, uint32_t i)
{
    if (i >> 6 < tree->least_word)
        tree->least_word = i >> 6;
    for (unsigned level = 0; level < tree->n_levels; level++, i >>= 6) {
        uint64_t *word = &tree->levels[level][i >> 6];
        bool known_above = *word != 0;

        *word |= UINT64_C(1) << (i & 63);
        if (known_above)
            return;
    }
}

static inline void bit_tree_remove(struct bit_tree *tree, uint32_t i)
{
    for (unsigned level = 0; level < tree->n_levels; level++, i >>= 6) {
        uint64_t *word = &tree->levels[level][i >> 6];

        *word &= ~(UINT64_C(1) << (i & 63));
        if (*word != 0)
            return;
    }
}

/* Takes out first, a member, and those that follow it without a gap: at most
 * n_most in all, and no further than its word goes. Returns how many. */
static inline uint32_t bit_tree_take_run(
    struct bit_tree *tree, uint32_t first, uint32_t n_most)
{
    uint64_t *word = &tree->words[first >> 6];
    uint64_t gaps = ~(*word >> (first & 63));
    uint32_t n = gaps == 0 ? 64 : (uint32_t)__builtin_ctzll(gaps);

    n = n < n_most ? n : n_most;
    *word &= ~(UINT64_MAX >> (64 - n) << (first & 63));
    if (*word == 0)
        bit_tree_remove(tree, first);
    return n;
}

/* The least member behind i that lies in another word; BIT_TREE_NONE if there
 * is none near. */
uint32_t bit_tree_word_after(const struct bit_tree *tree, uint32_t i);

/* Adds first, first + 1, ... : n of them, at least 1. */
void bit_tree_add_run(struct bit_tree *tree, uint32_t first, uint32_t n);

/* BIT_TREE_NONE if the set is empty. */
uint32_t bit_tree_least(struct bit_tree *tree);

#endif
