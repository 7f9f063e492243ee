/* A run: tokens that are said, taken over from others, computed, taken back. */
#include <inttypes.h>
#include <string.h>

#include "tests/sim/world.h"

void world_append(struct world *world, const struct op *op)
{
    size_t at = world_some_active(world, op);
    uint32_t tokens[40], n = op->b % 40;
    const struct world_moment before = world_moment(world);
    enum kv_status status;

    if (at == WORLD_ACTORS || world->actors[at].n_tokens + n > WORLD_MAX_TOKENS)
        return;
    for (uint32_t i = 0; i < n; i++)
        tokens[i] =
            (op->c % 3 << 16) + (uint32_t)world->actors[at].n_tokens + i;
    status =
        pool_session_append(world->pool, world_session(world, at), tokens, n);
    if (status != KV_OK) {
        world_check_refusal(world, status, &before);
        return;
    }
    for (uint32_t i = 0; i < n; i++)
        actor_say(world, at, tokens[i]);
}

/* ---- blocks with the same content
 *
 * Of these the pool lists one only, and when that one goes the others are not
 * found: such a block need not be adopted. */

static bool *twin(struct world *world, uint64_t word)
{
    return &world->twins[word % WORLD_TWINS];
}

static bool has_same_block(
    const struct world *world, size_t at, size_t other, size_t end)
{
    const struct actor *a = &world->actors[at], *b = &world->actors[other];

    return other != at && b->exists && b->n_cached >= end &&
           a->words[end - 1] == b->words[end - 1];
}

/* After the actor has filled these blocks, which others may have too. */
static void note_twins(struct world *world, size_t at, size_t from, size_t to)
{
    size_t block_tokens = world->plan->settings[PLAN_BLOCK_TOKENS];

    from += block_tokens - from % block_tokens;
    for (size_t end = from; end <= to; end += block_tokens)
        for (size_t other = 0; other < WORLD_ACTORS; other++)
            if (has_same_block(world, at, other, end))
                *twin(world, world->actors[at].words[end - 1]) = true;
}

/* Tokens of full blocks that the actor should take over from the other. */
static size_t in_common(struct world *world, size_t at, size_t other)
{
    const struct actor *a = &world->actors[at], *b = &world->actors[other];
    size_t block_tokens = world->plan->settings[PLAN_BLOCK_TOKENS], n = 0;

    if (!b->exists || other == at || world_tenant(other) != world_tenant(at) ||
        a->n_tokens == 0)
        return 0;
    while (n < a->n_tokens - 1 && n < b->n_cached &&
           a->tokens[n] == b->tokens[n] &&
           ((n + 1) % block_tokens > 0 || !*twin(world, a->words[n])))
        n++;
    return n - n % block_tokens;
}

void world_adopt(struct world *world, const struct op *op)
{
    size_t at = world_some_active(world, op), n_common = 0, n;
    struct pool_session_info before, after;
    struct pool_session *session;

    if (at == WORLD_ACTORS)
        return;
    for (size_t i = 0; i < WORLD_ACTORS; i++)
        if (in_common(world, at, i) > n_common)
            n_common = in_common(world, at, i);
    session = world_session(world, at);
    before = pool_session_info(world->pool, session);
    n = pool_session_adopt(world->pool, session, world->now_ns);
    after = pool_session_info(world->pool, session);
    world->tally->n_adopted += after.n_cached_tokens > before.n_cached_tokens;
    world_must(world, n == after.n_cached_tokens, "adopted as many as it says");
    if (before.n_cached_tokens < before.n_tokens)
        world_must(world, n >= before.n_cached_tokens, "lost by adopting");
    world_must(world,
        after.n_shared_blocks <= (after.n_tokens > 0 ? after.n_tokens - 1 : 0) /
                                     world->plan->settings[PLAN_BLOCK_TOKENS],
        "what is computed next lies in a block of somebody else's");
    if (world->plan->settings[PLAN_SHARES] > 0 && !world->has_starved &&
        world->starving == 0 && !world->refuses)
        world_must(world, n >= n_common, "not all that could be adopted was");
    laws_check_content(world, at);
}

/* ---- computing */

/* The words of these tokens, into blocks that nobody else holds. */
static void compute(
    const struct world *world, size_t at, size_t begin, size_t end)
{
    uint32_t block_tokens = world->plan->settings[PLAN_BLOCK_TOKENS];
    struct pool_session *session = world_session(world, at);
    const pool_block_id *blocks;
    size_t n_blocks;

    blocks = pool_session_blocks(session, &n_blocks);
    for (size_t i = begin; i < end; i++) {
        pool_block_id id = blocks[i / block_tokens];

        if (pool_block_run(world->pool, id, 1).n_holders != 1)
            world_fail(world, "computed into block %" PRIu32 " of others", id);
        memcpy(pool_arena(world->pool) + (size_t)id * WORLD_BLOCK_BYTES +
                   i % block_tokens * sizeof(uint64_t),
            &world->actors[at].words[i], sizeof(uint64_t));
    }
}

void world_commit(struct world *world, const struct op *op)
{
    size_t at = world_some_active(world, op), room, end, n_computed;
    struct pool_session_info info;
    struct pool_session *session;

    if (at == WORLD_ACTORS)
        return;
    session = world_session(world, at);
    info = pool_session_info(world->pool, session);
    room = info.n_blocks * world->plan->settings[PLAN_BLOCK_TOKENS];
    end = room < info.n_tokens ? room : info.n_tokens;
    if (end < info.n_cached_tokens)
        end = info.n_cached_tokens;
    if (op->b % 2 != 0)
        end = info.n_cached_tokens + (end - info.n_cached_tokens) / 2;
    compute(world, at, info.n_cached_tokens, end);
    n_computed = pool_session_n_computed(session);
    if (n_computed > end)
        n_computed = end;
    if (n_computed > info.n_cached_tokens)
        pool_session_count_recomputed(world->pool, session,
            n_computed - info.n_cached_tokens, NULL, world->now_ns,
            world->now_ns);
    pool_session_commit(world->pool, session, end);
    note_twins(world, at, info.n_cached_tokens, end);
}

void world_truncate(struct world *world, const struct op *op)
{
    size_t at = world_some_active(world, op), n;

    if (at == WORLD_ACTORS)
        return;
    n = op->b % (world->actors[at].n_tokens + 1);
    world_must(world,
        pool_session_truncate(
            world->pool, world_session(world, at), n, world->now_ns) == KV_OK,
        "a conversation is taken back");
    world->actors[at].n_tokens = n;
    laws_check_content(world, at);
}

void world_prompt(struct world *world, const struct op *op)
{
    size_t at = world_some_active(world, op);

    if (at < WORLD_ACTORS)
        pool_session_count_prompt(
            world->pool, world_session(world, at), op->b % 4, op->c % 4);
}

void world_set_aside(struct world *world, const struct op *op)
{
    const struct pool_cause cause = {.reason = POOL_REASON_PRESSURE};
    size_t at = world_some_active(world, op);
    struct pool_batch_scope scope;

    if (at == WORLD_ACTORS || world->actors[at].n_blocks == 0 ||
        !pool_may_evict(world->pool))
        return;
    scope = pool_batch_begin(world->pool, world->now_ns);
    pool_session_preempt(
        world->pool, world_session(world, at), &cause, world->now_ns);
    pool_batch_end(world->pool, &scope, &cause, world->now_ns);
}
