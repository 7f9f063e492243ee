/* Room made ahead of need, so that who needs blocks finds them zeroed.
 *
 *     used blocks
 *   high ─ ─ ─ ─ ─/\ ─ ─ ─ ─ ─ ─    a sweep begins above it,
 *                /  \_   /\         goes on in slices while others allocate,
 *   low ─ ─ ─ ─ / ─ ─ \_/ ─\─ ─     and ends here
 *
 * Tenants beyond their soft quotas go first (QUOTA), as for anybody's need.
 * Each slice is a batch of its own, for one reason, and the owner serves others
 * between two of them. Nobody waits for a sweep: who needs more than is free
 * evicts for itself. Pinned blocks count as used, so where they are more than
 * the low watermark a sweep ends with the last idle session. */
#include "pool/state.h"

/* How many blocks are to go, of which each is held by cached sessions only. */
static uint32_t excess(const struct pool *pool)
{
    const struct block_pool *blocks = &pool->blocks;
    uint32_t least = blocks->n_pinned > pool->config.low_blocks
                         ? blocks->n_pinned
                         : pool->config.low_blocks;

    return blocks->n_used > least ? blocks->n_used - least : 0;
}

bool pool_wants_sweep(struct pool *pool)
{
    uint32_t high = pool->config.high_blocks;

    pool->sweeping = high > 0 && excess(pool) > 0 &&
                     (pool->sweeping || pool->blocks.n_used > high);
    return pool->sweeping;
}

/* Whose turn it is for so much as the slice may take yet. */
static struct quota_turn next_turn(struct pool *pool, uint32_t n_left)
{
    uint32_t n = excess(pool);

    return quota_turn_for_sweep(pool, n < n_left ? n : n_left);
}

uint32_t pool_sweep(struct pool *pool, uint32_t n_most, int64_t now_ns)
{
    const uint32_t n_before = pool->blocks.n_used;
    struct pool_batch_scope scope = pool_batch_begin(pool, now_ns);
    struct quota_turn turn = next_turn(pool, n_most);
    const struct pool_cause cause = {.reason = evict_reason(&turn)};
    uint32_t n_done = 0; /* blocks, and sessions that freed none */

    if (!pool_wants_sweep(pool) || n_most == 0 || !pool_may_evict(pool))
        return 0;
    do {
        const uint32_t n_used = pool->blocks.n_used;
        uint32_t n_freed;

        evict_turn(pool, &turn, &cause, now_ns);
        n_freed = n_used - pool->blocks.n_used;
        n_done += n_freed > 0 ? n_freed : 1;
        turn = next_turn(pool, n_done < n_most ? n_most - n_done : 0);
    } while (turn.n_wanted > 0 && evict_reason(&turn) == cause.reason &&
             pool_may_evict(pool));
    pool_batch_end(pool, &scope, &cause, now_ns);
    return n_before - pool->blocks.n_used;
}
