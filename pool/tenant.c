#include "pool/tenant.h"

#include <assert.h>
#include <string.h>

#include "base/heap.h"
#include "base/map.h"

static struct pool_tenant *tenant_of(const struct treap_node *node)
{
    return node == NULL ? NULL : KV_LIST_ENTRY(node, struct pool_tenant, order);
}

static struct tenant_name name_of(const struct pool_tenant *tenant)
{
    return (struct tenant_name){tenant->name, tenant->name_bytes};
}

static int compare(const struct treap_node *node, const void *key)
{
    const struct pool_tenant *a = tenant_of(node);
    const struct tenant_name *b = key;

    return treap_compare_bytes(a->name, a->name_bytes, b->text, b->n);
}

static uint64_t rank_of(const struct treap_node *node)
{
    return tenant_of(node)->rank;
}

void tenant_table_init(struct tenant_table *table, uint32_t n_most,
    const uint64_t secret[2], const struct policy_class *policy)
{
    *table = (struct tenant_table){
        .by_name = {.compare = compare, .rank = rank_of},
        .n_most = n_most,
        .secret = {secret[0], secret[1]},
        .policy = policy,
    };
    kv_list_init(&table->idle);
    kv_list_init(&table->over);
}

static size_t bytes_of(const struct pool_tenant *tenant)
{
    return sizeof *tenant + tenant->name_bytes;
}

static void forget(struct tenant_table *table, struct pool_tenant *tenant)
{
    const struct tenant_name name = name_of(tenant);

    treap_remove(&table->by_name, &tenant->order, &name);
    kv_list_remove(&tenant->idle);
    kv_list_remove(&tenant->over);
    table->metadata_bytes -= bytes_of(tenant);
    table->n_tenants -= !tenant->has_own_quota;
    kv_free(tenant);
}

void tenant_table_fini(struct tenant_table *table)
{
    struct pool_tenant *tenant;

    while ((tenant = tenant_after(table, NULL)) != NULL)
        forget(table, tenant);
}

/* ---- who there is */

struct pool_tenant *tenant_find(
    const struct tenant_table *table, struct tenant_name name)
{
    return tenant_of(treap_find(&table->by_name, &name));
}

struct pool_tenant *tenant_after(
    const struct tenant_table *table, const struct tenant_name *name)
{
    return tenant_of(treap_after(&table->by_name, name));
}

/* Without a session, and on no list yet. */
static struct pool_tenant *make(
    struct tenant_table *table, struct tenant_name name)
{
    struct pool_tenant *tenant = kv_calloc(1, sizeof *tenant + name.n);

    assert(name.n <= POOL_NAME_BYTES);
    if (tenant == NULL)
        return NULL;
    if (name.n > 0)
        memcpy(tenant->name, name.text, name.n);
    tenant->name_bytes = (uint8_t)name.n;
    tenant->quota = table->standard;
    tenant->rank = kv_siphash(table->secret, name.text, name.n);
    kv_list_init(&tenant->idle);
    kv_list_init(&tenant->over);
    table->policy->init_order(&tenant->turns);
    treap_insert(&table->by_name, &tenant->order, &name);
    table->metadata_bytes += bytes_of(tenant);
    table->n_tenants++;
    return tenant;
}

static void forget_idle(struct tenant_table *table)
{
    while (table->n_tenants > table->n_most && !kv_list_empty(&table->idle))
        forget(
            table, KV_LIST_ENTRY(table->idle.next, struct pool_tenant, idle));
}

struct pool_tenant *tenant_join(
    struct tenant_table *table, struct tenant_name name)
{
    struct pool_tenant *tenant = tenant_find(table, name);

    if (tenant == NULL)
        tenant = make(table, name);
    if (tenant == NULL)
        return NULL;
    kv_list_remove(&tenant->idle);
    tenant->n_sessions++;
    forget_idle(table);
    return tenant;
}

void tenant_leave(struct tenant_table *table, struct pool_tenant *tenant)
{
    assert(tenant->n_sessions > 0);
    if (--tenant->n_sessions > 0 || tenant->has_own_quota)
        return;
    kv_list_append(&table->idle, &tenant->idle);
    if (tenant->cache_hits + tenant->cache_misses + tenant->evictions == 0)
        forget(table, tenant);
}

/* ---- what each may hold */

/* On the list of those that have to give up first, or off it. */
static void settle(struct tenant_table *table, struct pool_tenant *tenant)
{
    bool is_over =
        tenant_excess(tenant->quota.soft_blocks, tenant->n_used) > 0 &&
        tenant->n_cached > 0;

    if (is_over != kv_list_empty(&tenant->over))
        return;
    if (is_over)
        kv_list_append(&table->over, &tenant->over);
    else
        kv_list_remove(&tenant->over);
}

void tenant_use(
    struct tenant_table *table, struct pool_tenant *tenant, uint32_t n)
{
    tenant->n_used += n;
    settle(table, tenant);
}

void tenant_free(
    struct tenant_table *table, struct pool_tenant *tenant, uint32_t n)
{
    assert(tenant->n_used >= n);
    tenant->n_used -= n;
    settle(table, tenant);
}

void tenant_cache(struct tenant_table *table, struct pool_tenant *tenant)
{
    tenant->n_cached++;
    settle(table, tenant);
}

void tenant_uncache(struct tenant_table *table, struct pool_tenant *tenant)
{
    assert(tenant->n_cached > 0);
    tenant->n_cached--;
    settle(table, tenant);
}

/* All that have a quota of their own are known. KV_NO_MEMORY. */
static enum kv_status make_all(
    struct tenant_table *table, const struct pool_quotas *quotas)
{
    for (size_t i = 0; i < quotas->n; i++) {
        const struct pool_tenant_quota *own = &quotas->list[i];
        const struct tenant_name name = {own->tenant, own->tenant_bytes};
        struct pool_tenant *tenant = tenant_find(table, name);

        if (tenant != NULL)
            continue;
        tenant = make(table, name);
        if (tenant == NULL)
            return KV_NO_MEMORY;
        kv_list_append(&table->idle, &tenant->idle);
    }
    return KV_OK;
}

static void set_standard(struct tenant_table *table, struct pool_tenant *tenant)
{
    tenant->quota = table->standard;
    if (!tenant->has_own_quota)
        return;
    tenant->has_own_quota = false;
    table->n_tenants++;
    if (tenant->n_sessions == 0)
        kv_list_append(&table->idle, &tenant->idle);
}

static void set_own(
    struct tenant_table *table, const struct pool_tenant_quota *own)
{
    const struct tenant_name name = {own->tenant, own->tenant_bytes};
    struct pool_tenant *tenant = tenant_find(table, name);

    tenant->quota = own->quota;
    table->n_tenants -= !tenant->has_own_quota;
    tenant->has_own_quota = true;
    kv_list_remove(&tenant->idle);
}

enum kv_status tenant_set_quotas(
    struct tenant_table *table, const struct pool_quotas *quotas)
{
    enum kv_status status = make_all(table, quotas);
    struct pool_tenant *tenant = NULL;
    struct tenant_name name;

    if (status != KV_OK) {
        forget_idle(table);
        return status;
    }
    table->standard = quotas->standard;
    while (
        (tenant = tenant_after(table, tenant == NULL ? NULL : &name)) != NULL) {
        set_standard(table, tenant);
        name = name_of(tenant);
    }
    for (size_t i = 0; i < quotas->n; i++)
        set_own(table, &quotas->list[i]);
    while (
        (tenant = tenant_after(table, tenant == NULL ? NULL : &name)) != NULL) {
        settle(table, tenant);
        name = name_of(tenant);
    }
    forget_idle(table);
    return KV_OK;
}
