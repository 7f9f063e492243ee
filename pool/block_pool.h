/* The arena, and what each of its blocks is used for.
 *
 *          acquire                release, sweep          free
 *   free ──────────> used (1..n) ────────────────> scrubbing ────> free
 *                    │  ^
 *                    └──┘ retain, release
 *
 * Knows nothing of sessions. A used block is pinned while somebody who holds it
 * runs, and cached otherwise. Blocks are handed out next to the one before
 * where that is free, and lowest first elsewhere, so that what is taken
 * together lies together and the arena fills from the bottom.
 *
 * What leaves use is collected first and swept then, as ascending runs: release
 * only marks a block whose last reference goes, and sweep takes the marked ones
 * out of use, as many runs at a time as its caller has room for. Between the
 * two they count as used. Mostly they are one run of neighbours, so the latest
 * run is kept aside, and joins the others in the set when it is not the only
 * one.
 *
 * Every operation is O(1) or O(blocks touched); nothing allocates after init.
 */
#ifndef POOL_BLOCK_POOL_H
#define POOL_BLOCK_POOL_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/error.h"
#include "pool/bit_tree.h"
#include "pool/observer.h"
#include "pool/pool.h"

#define BLOCK_POOL_MAX_BLOCKS INT32_MAX

#define BLOCK_POOL_MAX_TOKENS 16383  /* of a block */
#define BLOCK_POOL_MAX_REFS 33554431 /* to a block */

/* What a used block holds; and where there are no references, what the queue
 * for zeroing keeps there (see scrub_queue.h). */
struct block {
    union {
        struct {
            uint64_t n_refs : 25;   /* 0: free or scrubbing */
            uint64_t n_pins : 25;   /* of these, by who runs or holds, as far as
                                       they are counted: see registry.c */
            uint64_t n_tokens : 14; /* whose keys and values it holds */
        };
        struct {
            uint32_t no_refs : 25; /* 0 */
            uint32_t has_length : 1;
            uint32_t is_last : 1;
            uint32_t word;
        } waiting;
    };
};

struct block_run {
    uint32_t first, n;
};

struct block_pool {
    unsigned char *arena;
    size_t arena_bytes, block_bytes;
    uint32_t n_blocks;

    struct block *blocks;
    struct bit_tree free;
    struct bit_tree leaving; /* released, and not yet swept; */
    struct block_run aside; /* the latest of them, not in the set; n may be 0 */

    uint32_t n_used, n_scrubbing, n_free; /* sum: n_blocks */
    uint32_t n_shared;                    /* used, with 2 references or more */
    uint32_t n_pinned;                    /* used, with pins */
    uint32_t n_free_runs;                 /* of blocks without references */
    uint32_t n_leaving_runs;              /* in the set */
    uint64_t n_tokens;                    /* in all blocks */
};

/* KV_INVALID: a size that is not allowed; KV_NO_MEMORY: the arena or the
 * metadata do not fit; KV_UNSUPPORTED: the arena cannot be kept out of core
 * dumps. *error says which, and the sizes. */
enum kv_status block_pool_init(struct block_pool *pool, size_t block_bytes,
    uint32_t n_blocks, struct kv_error *error);
void block_pool_fini(struct block_pool *pool);

/* One reference to each of up to n_most blocks that follow one another, from
 * `first` on if that is free, and otherwise from the lowest that is, of which
 * there must be one. There are perhaps more of them right behind. */
struct block_run block_pool_acquire(
    struct block_pool *pool, uint32_t first, uint32_t n_most);

/* One more reference to a used block. */
void block_pool_retain(struct block_pool *pool, pool_block_id id);

/* A pin more or less on a used block; a pinned one is not to be given up by its
 * last holder. */
void block_pool_pin(struct block_pool *pool, pool_block_id id);
void block_pool_unpin(struct block_pool *pool, pool_block_id id);

/* The same for n blocks at once that have one holder each: how many there are
 * is all that is kept of these pins. */
void block_pool_pin_single(struct block_pool *pool, uint32_t n);
void block_pool_unpin_single(struct block_pool *pool, uint32_t n);

/* One reference less. true if it was the last, and the block waits for the
 * next sweep; false if the block lives on. */
bool block_pool_release(struct block_pool *pool, pool_block_id id);

static inline bool block_pool_is_leaving(
    const struct block_pool *pool, uint32_t id)
{
    return bit_tree_has(&pool->leaving, id) ||
           id - pool->aside.first < pool->aside.n;
}

/* How many runs wait for the next sweep. */
uint32_t block_pool_n_leaving(struct block_pool *pool);

struct block_sweep {
    size_t n_runs;
    uint32_t n_blocks;
    uint64_t n_tokens; /* that lay in them */
};

/* Takes released blocks out of use, lowest first: at most max_runs runs. */
struct block_sweep block_pool_sweep(
    struct block_pool *pool, struct block_run *runs, size_t max_runs);

/* The scrubbing blocks of that run of bytes are zero now. */
void block_pool_free(struct block_pool *pool, const struct pool_extent *extent);

/* The block holds the keys and values of that many tokens. */
void block_pool_set_tokens(
    struct block_pool *pool, pool_block_id id, uint32_t n_tokens);

uint64_t block_pool_metadata_bytes(const struct block_pool *pool);

#endif
