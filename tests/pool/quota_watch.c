#include "tests/pool/quota_watch.h"

#include <check.h>
#include <string.h>

struct quota_watch quota_watch;

static bool is_named(
    const struct pool_tenant_info *tenant, const struct pool_key *key)
{
    return tenant->tenant_bytes == key->tenant_bytes &&
           memcmp(tenant->tenant, key->tenant, key->tenant_bytes) == 0;
}

static struct pool_tenant_info tenant_of(const struct pool_key *key)
{
    struct pool_tenant_info tenant = {.tenant = NULL};

    while (pool_tenant_after(
        fixture.pool, tenant.tenant, tenant.tenant_bytes, &tenant))
        if (is_named(&tenant, key))
            return tenant;
    ck_abort_msg("a tenant that nobody knows");
    return tenant;
}

static bool is_beyond(uint64_t n_blocks, uint64_t quota)
{
    return quota > 0 && n_blocks > quota;
}

static bool has_cached(const struct pool_tenant_info *tenant)
{
    struct pool_session *session = NULL;
    struct pool_key place;

    while ((session = pool_holder_after(
                fixture.pool, session == NULL ? NULL : &place)) != NULL) {
        place = pool_session_place(session);
        if (pool_session_glance(session).state == POOL_SESSION_CACHED &&
            is_named(tenant, &place))
            return true;
    }
    return false;
}

/* Nobody is beyond a soft quota who could give up something instead. */
static void check_nobody_goes_first(const struct pool_key *victim)
{
    struct pool_tenant_info tenant = {.tenant = NULL};

    while (pool_tenant_after(
        fixture.pool, tenant.tenant, tenant.tenant_bytes, &tenant))
        ck_assert(is_named(&tenant, victim) ||
                  !is_beyond(tenant.n_used_blocks, tenant.quota.soft_blocks) ||
                  !has_cached(&tenant));
}

/* A sweep: nobody asks. */
static void check_sweep(const struct pool_eviction *eviction)
{
    const struct pool_tenant_info victim = tenant_of(&eviction->key);
    const bool is_over =
        is_beyond(victim.n_used_blocks + eviction->blocks_freed,
            victim.quota.soft_blocks);

    ck_assert(is_over == (eviction->cause->reason == POOL_REASON_QUOTA));
    if (!is_over)
        check_nobody_goes_first(&eviction->key);
}

static void check_eviction(const struct pool_eviction *eviction)
{
    const struct pool_tenant_info victim = tenant_of(&eviction->key);
    const struct pool_tenant_info asking =
        tenant_of(eviction->cause->forced_by);
    const bool is_own = is_named(&victim, eviction->cause->forced_by);
    const uint64_t n_after = asking.n_used_blocks + quota_watch.n_asked;
    /* Of those of one's own this one was a part before. */
    const uint64_t n_before = victim.n_used_blocks + eviction->blocks_freed;

    if (eviction->cause->reason == POOL_REASON_LRU) {
        ck_assert(!is_beyond(n_before, victim.quota.soft_blocks));
        check_nobody_goes_first(&eviction->key);
        quota_watch.n_free++;
    } else if (is_own) {
        ck_assert(is_beyond(n_before + quota_watch.n_asked,
                      asking.quota.soft_blocks) ||
                  is_beyond(n_before + quota_watch.n_asked,
                      asking.quota.hard_blocks));
        quota_watch.n_own++;
    } else {
        ck_assert(is_beyond(n_before, victim.quota.soft_blocks));
        quota_watch.n_others++;
    }
    if (!is_own) /* nobody loses anything for one beyond their quota */
        ck_assert(!is_beyond(n_after, asking.quota.soft_blocks) &&
                  !is_beyond(n_after, asking.quota.hard_blocks));
}

static void on_evicted(void *ctx, const struct pool_eviction *eviction)
{
    if (eviction->part == eviction->n_parts && eviction->n_parts == 1 &&
        (eviction->cause->reason == POOL_REASON_LRU ||
            eviction->cause->reason == POOL_REASON_QUOTA))
        (eviction->cause->forced_by != NULL ? check_eviction : check_sweep)(
            eviction);
    quota_watch.evicted(ctx, eviction);
}

void quota_watch_begin(void)
{
    quota_watch.evicted = fixture.auditor.observer.evicted;
    fixture.auditor.observer.evicted = on_evicted;
}

void quota_watch_check_hard(const struct pool_session *session)
{
    const struct pool_tenant_info tenant = pool_session_tenant(session);

    ck_assert(!is_beyond(tenant.n_used_blocks, tenant.quota.hard_blocks));
}
