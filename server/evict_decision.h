/* What an Evict call does to the pool: who loses blocks, and what is said of
 * it.
 *
 *   init ──> go_on* ──> (true: response and receipts are complete) ──> fini
 *
 * A call is decided in turns of the owner, each of bounded time, between which
 * the loop turns; nearly always one is enough. Each tells a batch of what it
 * evicted, and the last one ends the call. With dry_run all is decided, and
 * nothing done or told.
 *
 * Thread: the owner's. Request and server are borrowed. */
#ifndef SERVER_EVICT_DECISION_H
#define SERVER_EVICT_DECISION_H

#include "receipts/calls.h"
#include "server/evict_check.h"
#include "server/evict_walk.h"
#include "server/server.h"

/* Whoever calls, as long as nobody is asked for a name. */
#define EVICT_ANONYMOUS "anonymous"

struct evict_decision {
    struct server *server;
    const Kvpool__V1__EvictRequest *request;
    struct evict_limits limits;
    uint8_t digest[CALLS_DIGEST_BYTES]; /* of the request */
    uint8_t trace_id[16];
    bool has_trace_id;

    bool begun;
    bool no_memory; /* for a dry run: there is no answer */
    struct evict_walk walk;
    struct pool_preview preview;   /* of a dry run */
    struct pool_batch_scope scope; /* of the batch being told */
    size_t n_told;                 /* entries in batches before it */
    uint32_t n_batches;

    /* One for each session that could be evicted, and each target. */
    struct evict_entry {
        Kvpool__V1__EvictOutcome outcome;
        Kvpool__V1__SessionKey key;
        char tenant[POOL_NAME_BYTES + 1], id[POOL_NAME_BYTES + 1];
        size_t id_bytes; /* of the session's place, which has NUL in it */
    } * entries;
    Kvpool__V1__EvictOutcome **list;
    size_t n_entries, n_room;

    /* What is said: outcomes and counts; which receipts, all 0 where there are
     * none. Both point into this struct, and are the caller's to complete. */
    Kvpool__V1__EvictResponse response;
    Kvpool__V1__EvictReceipts receipts;
};

/* Server, request, limits and trace id are set, and stay; the digest is by the
 * first turn. false: no memory; fini in any case. */
bool evict_decision_init(struct evict_decision *decision);
void evict_decision_fini(struct evict_decision *decision);

/* Whether anything may be evicted now; a decision that has begun is not asked.
 */
bool evict_decision_may_begin(const struct evict_decision *decision);

/* A turn of it. Whether it came to the end, or to no_memory. */
bool evict_decision_go_on(struct evict_decision *decision);

#endif
