/* Room for a run: who must go for it, and who need not. */
#include <inttypes.h>

#include "tests/sim/world.h"

static enum kv_status expected_room(const struct world *world, size_t n_more)
{
    const struct pool_blocks blocks = pool_blocks(world->pool);

    if (n_more == 0)
        return KV_OK;
    if (world->refuses && n_more <= blocks.total)
        return KV_IO;
    if (n_more > blocks.free + blocks.scrubbing + blocks.cached)
        return KV_POOL_FULL;
    return n_more <= blocks.free ? KV_OK : KV_BUSY;
}

/* With quotas there is what they leave, and no tenant gets beyond its own. */
static bool is_expected(const struct world *world, size_t n_more,
    enum kv_status status, enum kv_status expected, uint64_t n_obtainable)
{
    if (!world_has_quotas(world) || expected == KV_IO ||
        expected == KV_POOL_FULL)
        return status == expected ||
               (status == KV_OVER_QUOTA && n_more > n_obtainable);
    if (n_more > n_obtainable)
        return status == KV_OVER_QUOTA;
    return status == expected || status == KV_BUSY;
}

static void check_hard_quota(const struct world *world, size_t at)
{
    const struct pool_tenant_info tenant =
        pool_session_tenant(world_session(world, at));

    if (tenant.quota.hard_blocks > 0 &&
        tenant.n_used_blocks > tenant.quota.hard_blocks)
        world_fail(
            world, "tenant %d has more than its quota", world_tenant(at));
}

/* Whether somebody had to go for a reservation of n_more blocks, when so many
 * were coming and the tenant used so many. */
static bool needs_victim(const struct world *world, size_t at, size_t n_more,
    uint64_t n_coming, uint64_t n_used)
{
    uint32_t hard = world->quotas[world_tenant(at)].hard_blocks;

    return n_coming < n_more || (hard > 0 && n_used + n_more > hard);
}

/* Nobody goes who need not: given up is what was lacking, or what was beyond a
 * hard quota, and less than that without the last victim. */
static void check_room(const struct world *world, size_t at,
    const struct world_moment *before, size_t n_more, enum kv_status status)
{
    const struct pool_blocks blocks = pool_blocks(world->pool);
    uint64_t n_evictions =
        pool_stats(world->pool).evictions - before->stats.evictions;
    size_t n_got = status == KV_OK ? n_more : 0;
    uint64_t n_coming = blocks.free + blocks.scrubbing + n_got;
    uint64_t n_used =
        pool_session_tenant(world_session(world, at)).n_used_blocks - n_got;
    uint64_t n_last = world->last_freed_blocks;

    if (status == KV_BUSY && n_coming < n_more)
        world_fail(world, "room was said to come, and does not");
    if (n_evictions > 0 &&
        !needs_victim(world, at, n_more, n_coming - n_last,
            n_used +
                (world->last_freed_tenant == world_tenant(at) ? n_last : 0)))
        world_fail(world,
            "%" PRIu64 " evictions: %" PRIu64 " blocks are coming, %" PRIu64
            " of the last one, and %zu were needed",
            n_evictions, n_coming, n_last, n_more);
}

void world_reserve(struct world *world, const struct op *op)
{
    size_t at = world_some_active(world, op), n_tokens, n_needed, n_more;
    size_t block_tokens = world->plan->settings[PLAN_BLOCK_TOKENS];
    struct world_moment before = world_moment(world);
    enum kv_status status, expected;
    struct pool_session_info info;
    struct pool_session *session;
    uint64_t n_obtainable;

    if (at == WORLD_ACTORS)
        return;
    session = world_session(world, at);
    info = pool_session_info(world->pool, session);
    n_tokens = op->c % 2 == 0 ? info.n_tokens : op->b % (info.n_tokens + 1);
    n_needed = (n_tokens + block_tokens - 1) / block_tokens;
    n_more = n_needed > info.n_blocks ? n_needed - info.n_blocks : 0;
    expected = n_needed > world->plan->settings[PLAN_BLOCKS]
                   ? KV_POOL_FULL
                   : expected_room(world, n_more);
    n_obtainable = pool_obtainable_blocks(world->pool, session);
    world->n_asked = n_more;
    status = pool_session_reserve(
        world->pool, session, n_tokens, NULL, world->now_ns);
    world->n_asked = 0;
    if (status == KV_NO_MEMORY) {
        world_check_refusal(world, status, &before);
        return;
    }
    world_must(world,
        is_expected(world, n_more, status, expected, n_obtainable),
        kv_status_text(status));
    if (status == KV_OK && n_more > 0)
        check_hard_quota(world, at);
    check_room(world, at, &before, n_more, status);
    world->tally->n_reserved += status == KV_OK && n_more > 0;
    world->tally->n_busy += status == KV_BUSY;
    world->tally->n_full += status == KV_POOL_FULL;
    world->tally->n_over += status == KV_OVER_QUOTA;
    if (status == KV_POOL_FULL || status == KV_OVER_QUOTA || status == KV_IO)
        world_must_be_as_before(world, &before);
}
