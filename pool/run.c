#include "pool/state.h"

#include <assert.h>
#include <string.h>

enum kv_status pool_session_begin(
    struct pool *pool, struct pool_session *session)
{
    if (session_is_active(session))
        return KV_BUSY;
    registry_activate(pool, session);
    session->state = POOL_SESSION_RUNNING;
    registry_pin(pool, session);
    return KV_OK;
}

enum kv_status pool_session_append(struct pool *pool,
    struct pool_session *session, const uint32_t *tokens, size_t n_tokens)
{
    enum kv_status status;

    assert(session_is_active(session));
    if (n_tokens == 0)
        return KV_OK;
    if (n_tokens > UINT32_MAX - session->n_tokens)
        return KV_NO_MEMORY;
    status = registry_grow(pool, session, session->n_tokens + n_tokens, 0);
    if (status != KV_OK)
        return status;
    memcpy(
        session->tokens + session->n_tokens, tokens, n_tokens * sizeof *tokens);
    session->n_tokens += (uint32_t)n_tokens;
    return KV_OK;
}

static size_t blocks_for(const struct pool *pool, size_t n_tokens)
{
    size_t block_tokens = pool->config.block_tokens;

    return n_tokens / block_tokens + (n_tokens % block_tokens > 0);
}

enum kv_status pool_session_truncate(struct pool *pool,
    struct pool_session *session, size_t n_tokens, int64_t now_ns)
{
    uint32_t block_tokens = pool->config.block_tokens;
    size_t n_needed = blocks_for(pool, n_tokens);
    bool cuts_block =
        n_tokens < session->n_cached && n_tokens % block_tokens > 0;

    if (!session_is_active(session) || n_tokens > session->n_tokens)
        return KV_INVALID;
    if (cuts_block && share_is_shared(pool, session->blocks[n_needed - 1]))
        n_needed--;
    session->n_tokens = (uint32_t)n_tokens;
    if (session->n_computed > n_tokens)
        session->n_computed = (uint32_t)n_tokens;
    if (n_needed < session->n_blocks)
        evict_release(pool, session, (uint32_t)n_needed, now_ns);
    /* The last block that stays holds less now. */
    if (n_tokens < session->n_cached) {
        share_open(pool, session, (uint32_t)n_needed - 1);
        block_pool_set_tokens(&pool->blocks, session->blocks[n_needed - 1],
            (uint32_t)(n_tokens % block_tokens));
        pool->stats.session_tokens -= session->n_cached - n_tokens;
        session->n_cached = (uint32_t)n_tokens;
    }
    return KV_OK;
}

/* Blocks are taken in the order of the arena, so those of the next word of free
 * ones come soon. */
static void fetch_ahead(struct pool *pool, pool_block_id id)
{
    uint32_t next;

    if (id >> 6 == pool->fetched_word)
        return;
    pool->fetched_word = id >> 6;
    next = bit_tree_word_after(&pool->blocks.free, id);
    if (next == BIT_TREE_NONE)
        return;
    __builtin_prefetch(&pool->blocks.blocks[next], 1);
    __builtin_prefetch(&pool->owners.by_block[next], 1);
}

/* Puts n free blocks, at most POOL_PART_EXTENTS, on the end of the table.
 * Returns how many runs they are, which lie in pool->runs. */
static size_t take_blocks(
    struct pool *pool, struct pool_session *session, uint32_t n)
{
    uint32_t end =
        session->n_blocks > 0 ? session->blocks[session->n_blocks - 1] + 1 : 0;
    struct block_run run;
    size_t n_runs = 0;

    if (session->n_blocks == 0)
        registry_count_holder(pool, session);
    for (uint32_t n_left = n; n_left > 0; n_left -= run.n) {
        run = block_pool_acquire(&pool->blocks, end, n_left);
        fetch_ahead(pool, run.first);
        for (uint32_t i = 0; i < run.n; i++) {
            owners_hold(&pool->owners, run.first + i, session);
            session->blocks[session->n_blocks++] = run.first + i;
        }
        if (n_runs > 0 && run.first == end)
            pool->runs[n_runs - 1].n += run.n;
        else
            pool->runs[n_runs++] = run;
        end = run.first + run.n;
    }
    block_pool_pin_single(&pool->blocks, n);
    session->tenant->n_pinned += n;
    state_count_used(pool, session->tenant, n);
    return n_runs;
}

/* Every field is named, so that nobody clears all of it first. */
static void report_allocation(struct pool *pool,
    const struct pool_session *session, const struct share_told *told,
    const struct pool_stats *before, size_t n_runs, uint32_t part,
    uint32_t n_parts, int64_t now_ns)
{
    const struct pool_allocation allocation = {
        .key = session_key(session),
        .extents = state_extents(pool, n_runs),
        .n_extents = n_runs,
        .reused = NULL,
        .n_reused = 0,
        .parent_key = told->parent_key,
        .sealed = pool->sealed,
        .n_sealed = told->n_sealed,
        .part = part,
        .n_parts = n_parts,
        .before = before,
        .after = &pool->stats,
        .mono_ns = now_ns,
    };

    pool->observer->allocated(pool->observer->ctx, &allocation);
}

/* Takes n free blocks, in parts that are within the runs of a report each. */
static void allocate(
    struct pool *pool, struct pool_session *session, uint32_t n, int64_t now_ns)
{
    uint32_t n_parts = (n + POOL_PART_EXTENTS - 1) / POOL_PART_EXTENTS;

    for (uint32_t part = 1; part <= n_parts; part++) {
        const uint32_t n_now = n < POOL_PART_EXTENTS ? n : POOL_PART_EXTENTS;
        const struct share_told told = share_tell(pool, session, true);
        const struct pool_stats before = pool->stats;
        const size_t n_runs = take_blocks(pool, session, n_now);

        if (pool->observer->allocated != NULL)
            report_allocation(
                pool, session, &told, &before, n_runs, part, n_parts, now_ns);
        n -= n_now;
    }
}

bool run_may_allocate(const struct pool *pool)
{
    return pool->observer->may_allocate == NULL ||
           pool->observer->may_allocate(pool->observer->ctx);
}

/* Makes n more blocks free, or says why they are not. */
static enum kv_status find_room(struct pool *pool,
    const struct pool_session *session, uint32_t n, const uint8_t *trace_id,
    int64_t now_ns)
{
    enum kv_status status;

    if (!run_may_allocate(pool))
        return KV_IO;
    if (quota_turn_for_room(pool, session->tenant, n).n_wanted > 0) {
        status = quota_check(pool, session->tenant, n);
        if (status != KV_OK)
            return status;
        if (!evict_for_room(pool, n, session, trace_id, now_ns))
            return KV_IO;
    }
    return n <= pool->blocks.n_free ? KV_OK : KV_BUSY;
}

enum kv_status pool_session_reserve(struct pool *pool,
    struct pool_session *session, size_t n_tokens, const uint8_t *trace_id,
    int64_t now_ns)
{
    size_t n_needed = blocks_for(pool, n_tokens);
    enum kv_status status;

    assert(session_is_active(session) && n_tokens <= session->n_tokens);
    if (n_needed <= session->n_blocks)
        return KV_OK;
    if (n_needed > pool->config.n_blocks)
        return KV_POOL_FULL;
    /* Memory first: nobody should lose blocks to a run that cannot go on. */
    status = registry_grow(pool, session, 0, (uint32_t)n_needed);
    if (status == KV_OK)
        status = find_room(pool, session,
            (uint32_t)n_needed - session->n_blocks, trace_id, now_ns);
    if (status != KV_OK)
        return status;

    session->state = POOL_SESSION_RUNNING;
    allocate(pool, session, (uint32_t)n_needed - session->n_blocks, now_ns);
    return KV_OK;
}

void pool_session_commit(
    struct pool *pool, struct pool_session *session, size_t n_tokens)
{
    uint32_t block_tokens = pool->config.block_tokens;
    size_t at = session->n_cached;

    assert(n_tokens <= session->n_tokens);
    assert(blocks_for(pool, n_tokens) <= session->n_blocks);
    while (at < n_tokens) {
        size_t in_block = at % block_tokens;
        size_t room = block_tokens - in_block;
        size_t n = n_tokens - at < room ? n_tokens - at : room;

        block_pool_set_tokens(&pool->blocks, session->blocks[at / block_tokens],
            (uint32_t)(in_block + n));
        at += n;
    }
    pool->stats.session_tokens += at - session->n_cached;
    session->n_cached = (uint32_t)at;
    if (session->n_computed <= at) {
        session->n_computed = (uint32_t)at;
        if (session->loss != NULL)
            registry_set_loss(pool, session, NULL);
    }
    share_seal(pool, session);
}

void pool_session_count_prompt(struct pool *pool, struct pool_session *session,
    uint64_t n_hit_blocks, uint64_t n_missed_blocks)
{
    pool->stats.cache_hits += n_hit_blocks;
    pool->stats.cache_misses += n_missed_blocks;
    session->tenant->cache_hits += n_hit_blocks;
    session->tenant->cache_misses += n_missed_blocks;
    session->hits += n_hit_blocks > 0 && session->hits < UINT32_MAX;
}

static void report_recomputation(struct pool *pool,
    const struct pool_session *session, const uint8_t *trace_id, int64_t now_ns)
{
    const struct session_loss *loss = session->loss;
    const struct pool_recomputation recomputation = {
        .key = session_key(session),
        .note = loss->note,
        .reason = loss->reason,
        .gap_ns = loss->gap_ns,
        .tokens = loss->tokens,
        .blocks = blocks_for(pool, loss->tokens),
        .duration_ns = loss->spent_ns,
        .trace_id = trace_id,
        .mono_ns = now_ns,
    };

    if (pool->observer->recomputed != NULL)
        pool->observer->recomputed(pool->observer->ctx, &recomputation);
}

void pool_session_count_recomputed(struct pool *pool,
    struct pool_session *session, size_t n_tokens, const uint8_t *trace_id,
    int64_t began_ns, int64_t now_ns)
{
    struct session_loss *loss = session->loss;

    if (loss == NULL)
        return;
    if (loss->tokens == 0)
        loss->gap_ns = began_ns - loss->evicted_ns;
    loss->tokens += n_tokens;
    loss->spent_ns += now_ns - began_ns;
    if (session->n_cached + n_tokens < session->n_computed)
        return;
    report_recomputation(pool, session, trace_id, now_ns);
    registry_set_loss(pool, session, NULL);
}

void pool_session_end(
    struct pool *pool, struct pool_session *session, int64_t now_ns)
{
    assert(session_is_active(session));
    if (session->anonymous && !beginning_keep(pool, session, now_ns)) {
        if (session->n_blocks > 0)
            evict_release(pool, session, 0, now_ns);
        registry_remove(pool, session);
        return;
    }
    registry_unpin(pool, session, 0);
    registry_trim(pool, session);
    session->released_ns = now_ns;
    registry_settle(pool, session, now_ns);
}
