/* Sections of a snapshot beside sessions: the arena, and distributions. The
 * messages live in the caller's struct; see state.h. */
#ifndef SERVER_STATE_SECTIONS_H
#define SERVER_STATE_SECTIONS_H

#include "server/census.h"
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

/* Section HISTOGRAMS. */
struct state_histograms {
    Kvpool__V1__Histograms message;
    Kvpool__V1__DurationHistogram entries[4];
    int64_t bounds_ns[CENSUS_BOUNDS];
};
void state_histograms_fill(
    struct state_histograms *out, const struct census *census);

#endif
