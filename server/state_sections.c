#include "server/state_sections.h"

#include "base/heap.h"

#define STANDARD_RUNS 4096

/* Blocks that one map looks at, at most: what bounds its time. */
#define MAP_VISITS (UINT32_C(1) << 19)

static uint32_t add_run(struct state_map *map, const struct pool *pool,
    uint64_t at, uint32_t n_most)
{
    struct pool_block_run run = pool_block_run(pool, (pool_block_id)at, n_most);
    Kvpool__V1__BlockRun *entry = &map->entries[map->map.n_runs];

    kvpool__v1__block_run__init(entry);
    entry->blocks = run.n_blocks;
    entry->state = (Kvpool__V1__BlockState)run.state;
    entry->holders = run.n_holders;
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
    if (map->entries == NULL || map->list == NULL)
        return KV_NO_MEMORY;
    map->map.first_block = at;
    while (at < n_blocks && map->map.n_runs < max_runs && n_left > 0) {
        uint32_t n = add_run(map, pool, at, n_left);

        at += n;
        n_left -= n;
    }
    map->map.next_block = at < n_blocks ? at : 0;
    map->map.runs = map->list;
    return KV_OK;
}

void state_map_fini(struct state_map *map)
{
    kv_free(map->entries);
    kv_free(map->list);
}
