#include "server/state_sections.h"

#include <string.h>

#include "base/heap.h"

#define STANDARD_RUNS 4096

/* Blocks that one map looks at, at most: what bounds its time. */
#define MAP_VISITS (UINT32_C(1) << 19)

static void add_owner(struct state_map *map, const struct pool_session *session)
{
    const struct pool_key key = pool_session_glance(session).key;
    struct state_owner *owner = &map->owners[map->map.n_owners];

    owner->session = session;
    state_name_copy(owner->tenant, key.tenant, key.tenant_bytes);
    state_name_copy(owner->id, key.id, key.id_bytes);
    kvpool__v1__session_key__init(&owner->key);
    owner->key.tenant = owner->tenant;
    owner->key.session_id = owner->id;
    map->keys[map->map.n_owners++] = &owner->key;
}

/* 1 + its place among the owners, to which it is added at need. */
static uint32_t owner_number(
    struct state_map *map, const struct pool_session *session)
{
    uint64_t hash = (uintptr_t)session * UINT64_C(0x9E3779B97F4A7C15);
    uint32_t at = (uint32_t)(hash >> 32) % map->n_slots;

    while (map->slots[at] != 0 &&
           map->owners[map->slots[at] - 1].session != session)
        at = (at + 1) % map->n_slots;
    if (map->slots[at] == 0) {
        add_owner(map, session);
        map->slots[at] = (uint32_t)map->map.n_owners;
    }
    return map->slots[at];
}

static uint32_t add_run(struct state_map *map, const struct pool *pool,
    uint64_t at, uint32_t n_most)
{
    struct pool_block_run run = pool_block_run(pool, (pool_block_id)at, n_most);
    Kvpool__V1__BlockRun *entry = &map->entries[map->map.n_runs];

    kvpool__v1__block_run__init(entry);
    entry->blocks = run.n_blocks;
    entry->state = (Kvpool__V1__BlockState)run.state;
    entry->holders = run.n_holders;
    if (run.owner != NULL)
        entry->owner = owner_number(map, run.owner);
    map->list[map->map.n_runs++] = entry;
    return run.n_blocks;
}

enum kv_status state_map_fill(struct state_map *map,
    const struct server *server, const Kvpool__V1__BlockMapQuery *query)
{
    const struct pool *pool = server->pool;
    uint64_t n_blocks = pool_config(pool)->n_blocks;
    uint64_t at = query != NULL ? query->first_block : 0;
    uint32_t max_runs =
        query != NULL && query->max_runs > 0 ? query->max_runs : STANDARD_RUNS;
    uint32_t n_left = MAP_VISITS;

    kvpool__v1__block_map__init(&map->map);
    map->entries = kv_calloc(max_runs, sizeof *map->entries);
    map->list = kv_calloc(max_runs, sizeof *map->list);
    map->owners = kv_calloc(max_runs, sizeof *map->owners);
    map->keys = kv_calloc(max_runs, sizeof *map->keys);
    map->n_slots = 2 * max_runs;
    map->slots = kv_calloc(map->n_slots, sizeof *map->slots);
    if (map->entries == NULL || map->list == NULL || map->owners == NULL ||
        map->keys == NULL || map->slots == NULL)
        return KV_NO_MEMORY;
    map->map.first_block = at;
    while (at < n_blocks && map->map.n_runs < max_runs && n_left > 0) {
        uint32_t n = add_run(map, pool, at, n_left);

        at += n;
        n_left -= n;
    }
    map->map.next_block = at < n_blocks ? at : 0;
    map->map.runs = map->list;
    map->map.owners = map->keys;
    return KV_OK;
}

void state_map_fini(struct state_map *map)
{
    kv_free(map->slots);
    kv_free(map->keys);
    kv_free(map->owners);
    kv_free(map->entries);
    kv_free(map->list);
}

/* ---- tenants */

static void fill_tenant(struct state_tenant *out, const struct pool *pool,
    const struct pool_tenant_info *info)
{
    Kvpool__V1__TenantUsage *usage = &out->usage;

    memcpy(out->name, info->tenant, info->tenant_bytes);
    out->name[info->tenant_bytes] = '\0';
    kvpool__v1__tenant_usage__init(usage);
    usage->tenant = out->name;
    usage->used_blocks = info->n_used_blocks;
    usage->used_bytes = info->n_used_blocks * pool_config(pool)->block_bytes;
    usage->soft_quota_blocks = info->quota.soft_blocks;
    usage->hard_quota_blocks = info->quota.hard_blocks;
    usage->total_sessions = info->total_sessions;
    usage->cache_hits = info->cache_hits;
    usage->cache_misses = info->cache_misses;
    usage->evictions = info->evictions;
}

/* A token of tenants is one of sessions whose id is empty. */
static struct pool_key key_of(const struct pool_tenant_info *tenant)
{
    return (struct pool_key){.tenant = tenant->tenant,
        .tenant_bytes = tenant->tenant_bytes,
        .id = ""};
}

bool state_tenants_parse(
    struct server *server, const char *token, struct state_place *place)
{
    return state_place_parse(server, token, NULL,
               KVPOOL__V1__SESSION_ORDER__SESSION_ORDER_KEY, place) &&
           place->key.id_bytes == 0;
}

static void print_token(struct state_tenants *page, const struct server *server,
    const struct pool_tenant_info *last)
{
    const struct pool_key key = key_of(last);
    struct state_place place;

    state_place_copy(&place, &key);
    state_token_print(server, NULL,
        KVPOOL__V1__SESSION_ORDER__SESSION_ORDER_KEY, &place, page->next_token);
}

enum kv_status state_tenants_fill(struct state_tenants *page,
    const struct server *server, uint32_t page_size,
    const struct state_place *after)
{
    const struct pool *pool = server->pool;
    struct pool_tenant_info last = {.tenant = NULL}, next;

    if (after != NULL)
        last = (struct pool_tenant_info){.tenant = after->key.tenant,
            .tenant_bytes = after->key.tenant_bytes};
    *page = (struct state_tenants){
        .entries = kv_calloc(page_size, sizeof *page->entries),
        .list = kv_calloc(page_size, sizeof *page->list),
    };
    if (page->entries == NULL || page->list == NULL)
        return KV_NO_MEMORY;
    while (pool_tenant_after(pool, last.tenant, last.tenant_bytes, &next)) {
        if (page->n == page_size) {
            print_token(page, server, &last);
            break;
        }
        fill_tenant(&page->entries[page->n], pool, &next);
        page->list[page->n] = &page->entries[page->n].usage;
        page->n++;
        last = next;
    }
    return KV_OK;
}

void state_tenants_fini(struct state_tenants *page)
{
    kv_free(page->entries);
    kv_free(page->list);
}
