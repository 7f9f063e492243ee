/* The arena as a section of a snapshot. The messages live in the caller's
 * struct; see state.h. */
#ifndef SERVER_STATE_SECTIONS_H
#define SERVER_STATE_SECTIONS_H

#include "server/state.h"

#define STATE_MAX_RUNS 65536

/* Section BLOCK_MAP: the arena as runs of blocks in one state. */
struct state_map {
    Kvpool__V1__BlockMap map;
    Kvpool__V1__BlockRun *entries, **list; /* [map.n_runs] */
};

/* The part that the query asks for, NULL for what is standard. Looks at a
 * bounded number of blocks, so a map may end early, and next_block says where.
 * KV_NO_MEMORY; state_map_fini in any case. */
enum kv_status state_map_fill(struct state_map *map,
    const struct server *server, const Kvpool__V1__BlockMapQuery *query);
void state_map_fini(struct state_map *map);

#endif
