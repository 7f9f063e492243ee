/* The state of the pool in the contract's terms.
 *
 * The messages live in the caller's struct and point into it and into the pool,
 * so they are to be encoded before anything changes. */
#ifndef SERVER_STATE_H
#define SERVER_STATE_H

#include "kvpool/v1/pool_service.pb-c.h"
#include "server/retention.h"
#include "server/server.h"

/* The instant, in the ledger's terms. */
struct state_stamp {
    Kvpool__V1__SnapshotStamp stamp;
    struct ledger_position position; /* what the stamp points into */
};

/* false where receipts are off: there is no stamp then. */
bool state_stamp(struct server *server, struct state_stamp *out);

/* Totals: what every snapshot has. */
struct state {
    Kvpool__V1__PoolSnapshot snapshot;
    struct state_stamp stamp;
    Kvpool__V1__PoolStatistics statistics;
    Kvpool__V1__PoolRatios ratios;
    Kvpool__V1__BlockCounts blocks;
    Kvpool__V1__LedgerStatus ledger;
    Kvpool__V1__EngineLoad load;
    Kvpool__V1__ReasonCount reasons[POOL_REASON_END];
    Kvpool__V1__ReasonCount *reason_list[POOL_REASON_END];
    Kvpool__V1__TierUsage tier, *tier_list[1];
};
void state_fill(struct state *state, struct server *server);

/* Where receipts go: section SINKS. */
struct state_sinks {
    Kvpool__V1__SinkStatus entries[SINK_MAX_SINKS], *list[SINK_MAX_SINKS];
    struct recorder_sink sinks[SINK_MAX_SINKS];
    size_t n;
};
void state_sinks_fill(struct state_sinks *out, struct server *server);

/* What a token takes, its NUL included. */
#define STATE_TOKEN_BYTES 640

/* A page of sessions in the order of their keys: those that a filter lets
 * through, after *after (NULL: from the first). */
struct state_session {
    Kvpool__V1__Session session;
    Kvpool__V1__SessionKey key;
    struct retention_message retention;
    char tenant[POOL_NAME_BYTES + 1], id[POOL_NAME_BYTES + 1];
};
struct state_page {
    struct state_session *entries; /* [n] */
    Kvpool__V1__Session **list;    /* [n] */
    size_t n;
    char next_token[STATE_TOKEN_BYTES]; /* "" at the end */
};

/* Looks at a bounded number of sessions, so a page may be short, even empty,
 * with more to come. KV_NO_MEMORY; state_page_fini in any case. */
enum kv_status state_page_fill(struct state_page *page, struct server *server,
    const Kvpool__V1__SessionFilter *filter, uint32_t page_size,
    const struct pool_key *after);
void state_page_fini(struct state_page *page);

/* A place in the order of sessions, for going on after it. */
struct state_place {
    uint64_t rank;       /* of state_rank */
    struct pool_key key; /* points into names */
    char names[2 * POOL_NAME_BYTES];
};

/* The rank is 0 then. */
void state_place_copy(struct state_place *place, const struct pool_key *key);

/* The place that a page token names, for the request with this filter and
 * order; false if the token is damaged, of another process, or of another
 * request. The size of the page is no part of that: it may change from page to
 * page. */
bool state_place_parse(struct server *server, const char *token,
    const Kvpool__V1__SessionFilter *filter, Kvpool__V1__SessionOrder order,
    struct state_place *place);

/* A name of n bytes as text; out has room for a NUL behind it. */
void state_name_copy(char *out, const char *name, size_t n);

/* ---- for other orders (state_order.c) */

/* Whether the filter (NULL: none) lets the session through. */
bool state_matches(const struct pool *pool,
    const struct pool_session_info *info,
    const Kvpool__V1__SessionFilter *filter, int64_t mono_ns);

/* Its place in the order, where the least comes first; sessions of one rank are
 * in the order of their keys. */
uint64_t state_rank(
    const struct pool_session_info *info, Kvpool__V1__SessionOrder order);

/* All of it, with its retention. */
void state_session_fill(struct state_session *out, const struct pool *pool,
    const struct pool_session *session, int64_t mono_ns, int64_t wall_ns);

void state_token_print(const struct server *server,
    const Kvpool__V1__SessionFilter *filter, Kvpool__V1__SessionOrder order,
    const struct state_place *place, char out[STATE_TOKEN_BYTES]);

#endif
