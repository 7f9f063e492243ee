/* Tenants and the arena as sections of a snapshot. The messages live in the
 * caller's struct; see state.h. */
#ifndef SERVER_STATE_SECTIONS_H
#define SERVER_STATE_SECTIONS_H

#include "server/state.h"

#define STATE_MAX_RUNS 65536
#define STATE_MAX_TENANTS 1000 /* on a page */

/* Section TENANTS: a page of them, by name. */
struct state_tenant {
    Kvpool__V1__TenantUsage usage;
    char name[POOL_NAME_BYTES + 1];
};
struct state_tenants {
    struct state_tenant *entries;   /* [n] */
    Kvpool__V1__TenantUsage **list; /* [n] */
    size_t n;
    char next_token[STATE_TOKEN_BYTES]; /* "" at the end */
};

/* Those behind the place (NULL: from the first), at most page_size.
 * KV_NO_MEMORY; state_tenants_fini in any case. */
enum kv_status state_tenants_fill(struct state_tenants *page,
    const struct server *server, uint32_t page_size,
    const struct state_place *after);
void state_tenants_fini(struct state_tenants *page);

/* The place that a token of tenants names; false as state_place_parse. */
bool state_tenants_parse(
    struct server *server, const char *token, struct state_place *place);

/* Section BLOCK_MAP: the arena as runs of blocks in one state, and of one
 * session that holds them. */
struct state_map {
    Kvpool__V1__BlockMap map;
    Kvpool__V1__BlockRun *entries, **list; /* [map.n_runs] */
    struct state_owner *owners;            /* [map.n_owners] */
    Kvpool__V1__SessionKey **keys;
    uint32_t *slots; /* hashed by session: 1 + index into owners */
    uint32_t n_slots;
};
struct state_owner {
    const struct pool_session *session;
    Kvpool__V1__SessionKey key;
    char tenant[POOL_NAME_BYTES + 1], id[POOL_NAME_BYTES + 1];
};

/* The part that the query asks for, NULL for what is standard. Looks at a
 * bounded number of blocks, so a map may end early, and next_block says where.
 * KV_NO_MEMORY; state_map_fini in any case. */
enum kv_status state_map_fill(struct state_map *map,
    const struct server *server, const Kvpool__V1__BlockMapQuery *query);
void state_map_fini(struct state_map *map);

#endif
