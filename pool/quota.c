/* What a tenant may take, and whose blocks go for it.
 *
 *   0 ───────── soft ─────────────── hard
 *   │ its share   │ as long as there    │ refused
 *   │             │ is room: its own    │
 *   │             │ go first            │
 *
 * A tenant that would hold more than its soft quota takes what is free, and
 * gives up sessions of its own for the rest: never those of others, so that
 * nobody is pushed below their share by somebody beyond theirs. Whoever else
 * needs room takes it from tenants beyond their soft quota first, down to that
 * quota; the order of the policy comes after that. Beyond its hard quota a
 * tenant gets nothing, however much is free, unless sessions of its own go.
 *
 * Both are decided by what the tenant would hold with the blocks that it asks
 * for. What can be had at all follows from three sums, since every block that
 * is cached can be had by evicting all idle sessions of its tenant. */
#include "pool/state.h"

/* Blocks that the tenant's idle sessions would free. */
static uint32_t n_cached_of(const struct pool_tenant *tenant)
{
    return tenant->n_used - tenant->n_pinned;
}

static uint32_t n_coming(const struct pool *pool)
{
    return pool->blocks.n_free + pool->blocks.n_scrubbing;
}

/* The most that the tenant may get by its soft quota: only up to that may
 * others have to go for it. */
static uint64_t most_by_soft(
    const struct pool *pool, const struct pool_tenant *tenant)
{
    uint64_t of_own = (uint64_t)n_coming(pool) + n_cached_of(tenant);
    uint64_t of_all = pool_reclaimable_blocks(pool);
    uint64_t soft = tenant->quota.soft_blocks, share;

    if (soft == 0)
        return of_all;
    share = soft > tenant->n_pinned ? soft - tenant->n_pinned : 0;
    share = share < of_all ? share : of_all;
    return share > of_own ? share : of_own;
}

static uint64_t most_by_hard(const struct pool_tenant *tenant)
{
    uint64_t hard = tenant->quota.hard_blocks;

    if (hard == 0)
        return UINT64_MAX;
    return hard > tenant->n_pinned ? hard - tenant->n_pinned : 0;
}

uint64_t pool_obtainable_blocks(
    const struct pool *pool, const struct pool_session *session)
{
    uint64_t soft = most_by_soft(pool, session->tenant);
    uint64_t hard = most_by_hard(session->tenant);

    return soft < hard ? soft : hard;
}

enum kv_status quota_check(
    const struct pool *pool, const struct pool_tenant *tenant, uint64_t n)
{
    if (n > most_by_hard(tenant))
        return KV_OVER_QUOTA;
    if (n <= most_by_soft(pool, tenant))
        return KV_OK;
    return n > pool_reclaimable_blocks(pool) &&
                   tenant_excess(tenant->quota.soft_blocks,
                       (uint64_t)tenant->n_pinned + n) == 0
               ? KV_POOL_FULL
               : KV_OVER_QUOTA;
}

static uint32_t least(uint32_t a, uint32_t b)
{
    return a < b ? a : b;
}

/* What of its own the tenant has to give up to get n blocks, of which n_room
 * are not there yet. */
static uint32_t n_own(
    const struct pool_tenant *tenant, uint32_t n, uint32_t n_room)
{
    uint64_t n_after = (uint64_t)tenant->n_used + n;
    uint32_t hard = tenant_excess(tenant->quota.hard_blocks, n_after);
    uint32_t soft =
        least(tenant_excess(tenant->quota.soft_blocks, n_after), n_room);

    return hard > soft ? hard : soft;
}

static struct quota_turn turn_for(
    struct pool *pool, struct pool_tenant *asking, uint32_t n, uint32_t n_room)
{
    uint32_t n_of_own = asking != NULL ? n_own(asking, n, n_room) : 0;
    struct pool_tenant *over;

    if (n_of_own > 0)
        return (struct quota_turn){asking, n_of_own};
    if (n_room == 0 || kv_list_empty(&pool->tenants.over))
        return (struct quota_turn){NULL, n_room};
    over = KV_LIST_ENTRY(pool->tenants.over.next, struct pool_tenant, over);
    return (struct quota_turn){over,
        least(n_room, tenant_excess(over->quota.soft_blocks, over->n_used))};
}

struct quota_turn quota_turn_for_room(
    struct pool *pool, struct pool_tenant *asking, uint32_t n)
{
    uint32_t there = n_coming(pool);

    return turn_for(pool, asking, n, n > there ? n - there : 0);
}

struct quota_turn quota_turn_for_place(
    struct pool *pool, struct pool_tenant *asking)
{
    return turn_for(pool, asking, 0, 1);
}

struct quota_turn quota_turn_for_sweep(struct pool *pool, uint32_t n)
{
    return turn_for(pool, NULL, 0, n);
}

/* ---- the facade's part */

enum kv_status pool_set_quotas(
    struct pool *pool, const struct pool_quotas *quotas)
{
    return tenant_set_quotas(&pool->tenants, quotas);
}

static struct pool_tenant_info info_of(const struct pool_tenant *tenant)
{
    return (struct pool_tenant_info){
        .tenant = tenant->name,
        .tenant_bytes = tenant->name_bytes,
        .quota = tenant->quota,
        .n_used_blocks = tenant->n_used,
        .n_pinned_blocks = tenant->n_pinned,
        .total_sessions = tenant->n_holding,
        .cache_hits = tenant->cache_hits,
        .cache_misses = tenant->cache_misses,
        .evictions = tenant->evictions,
    };
}

struct pool_tenant_info pool_session_tenant(const struct pool_session *session)
{
    return info_of(session->tenant);
}

bool pool_tenant_after(const struct pool *pool, const char *tenant,
    size_t tenant_bytes, struct pool_tenant_info *out)
{
    const struct tenant_name name = {tenant, tenant_bytes};
    const struct pool_tenant *found =
        tenant_after(&pool->tenants, tenant == NULL ? NULL : &name);

    if (found != NULL)
        *out = info_of(found);
    return found != NULL;
}
