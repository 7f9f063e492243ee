/* Tenants as the pool keeps them: what each holds, and what it may hold.
 *
 *   first session ──> known ──> last session forgotten ──> idle
 *                       ^                                   │
 *                       └───────── another session ─────────┤
 *                                                           v
 *                           forgotten, longest idle first, when too many
 *
 * Blocks are never shared between tenants, so each block in use counts for
 * exactly one, once, however many of its sessions hold it. A tenant that has a
 * quota of its own is known from the start and never forgotten. Counters last
 * as long as the tenant is known.
 *
 * Thread: the owner's. */
#ifndef POOL_TENANT_H
#define POOL_TENANT_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/list.h"
#include "pool/policy.h"
#include "pool/pool.h"
#include "pool/treap.h"

/* What the name of a tenant is looked up by. */
struct tenant_name {
    const char *text;
    size_t n;
};

struct pool_tenant {
    struct treap_node order;
    uint64_t rank;       /* there */
    struct kv_list idle; /* on the table's list: it has no session */
    struct kv_list over; /* on the table's list: beyond its soft quota, with
                            sessions that can be evicted */
    struct policy_order turns; /* of those */
    struct pool_quota quota;
    bool has_own_quota;
    uint8_t name_bytes;
    uint32_t n_sessions; /* named and anonymous, with and without blocks */
    uint32_t n_used;     /* blocks; */
    uint32_t n_pinned;   /* of them */
    uint32_t n_holding;  /* sessions with blocks; */
    uint32_t n_cached;   /* of them: that can be evicted */
    uint64_t cache_hits, cache_misses, evictions;
    char name[];
};

/* The caller's memory; fields are for reading only. */
struct tenant_table {
    struct treap by_name;
    struct kv_list idle; /* longest idle first */
    struct kv_list over; /* the first went over first */
    struct pool_quota standard;
    uint32_t n_tenants, n_most; /* without a quota of their own */
    uint64_t secret[2];
    uint64_t metadata_bytes;
    const struct policy_class *policy; /* whose order they have */
};

/* n_most: beyond, idle tenants are forgotten. */
void tenant_table_init(struct tenant_table *table, uint32_t n_most,
    const uint64_t secret[2], const struct policy_class *policy);
void tenant_table_fini(struct tenant_table *table);

/* NULL: not known. */
struct pool_tenant *tenant_find(
    const struct tenant_table *table, struct tenant_name name);

/* The first whose name comes behind this one, or of all; NULL: none. */
struct pool_tenant *tenant_after(
    const struct tenant_table *table, const struct tenant_name *name);

/* One session more, of a tenant that is perhaps new; NULL: no memory. */
struct pool_tenant *tenant_join(
    struct tenant_table *table, struct tenant_name name);
/* One session less. With the last a tenant is gone that has counted nothing. */
void tenant_leave(struct tenant_table *table, struct pool_tenant *tenant);

/* Gives all of them their quotas. KV_NO_MEMORY changes nothing. */
enum kv_status tenant_set_quotas(
    struct tenant_table *table, const struct pool_quotas *quotas);

/* Blocks came into use, or left it. */
void tenant_use(
    struct tenant_table *table, struct pool_tenant *tenant, uint32_t n);
void tenant_free(
    struct tenant_table *table, struct pool_tenant *tenant, uint32_t n);

/* A session of the tenant can be evicted from now on, or no longer. */
void tenant_cache(struct tenant_table *table, struct pool_tenant *tenant);
void tenant_uncache(struct tenant_table *table, struct pool_tenant *tenant);

/* By how much n is more than a limit, of which 0 is none. */
static inline uint32_t tenant_excess(uint32_t limit, uint64_t n)
{
    return limit > 0 && n > limit ? (uint32_t)(n - limit) : 0;
}

#endif
