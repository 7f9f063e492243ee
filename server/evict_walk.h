/* Which sessions an Evict request names, one after the other, in the order in
 * which they are decided: by targets, and within a target by the sessions'
 * names, or for `bytes` as the policy would have them go. Requests without a
 * session, and what they left behind, are among a tenant's sessions.
 *
 *   init ──> [next ──> (evict it) ──> decided]* ──> END
 *
 * Whom several targets name is given for the first of them. Every call of next
 * looks at one session, so whoever walks may stop between
 * any two, and go on in another turn: a place is remembered by name, and what
 * comes and goes meanwhile disturbs nobody. A session that is there all the
 * while is found; one that is there for a part of it may be.
 *
 * Thread: the pool's owner's. The request and the pool are borrowed. */
#ifndef SERVER_EVICT_WALK_H
#define SERVER_EVICT_WALK_H

#include "kvpool/v1/pool_service.pb-c.h"
#include "pool/pool.h"
#include "pool/preview.h"
#include "server/evict_check.h"
#include "server/state.h"

struct evict_walk {
    struct pool *pool;
    const Kvpool__V1__EvictRequest *request;
    const struct pool_preview *preview; /* of a dry run; else NULL */
    int64_t begin_ns;                   /* idle times are those of then */
    size_t target;                      /* the one being walked */

    bool begun;    /* the target: place is of it */
    bool matched;  /* somebody */
    bool covered;  /* earlier targets name everybody that this one does */
    size_t tenant; /* of the target's, which is being walked */
    struct state_place place; /* the last one looked at */

    /* Of bytes, where an evicted session has no place any more: place is the
     * last one that stays, given the one that may or may not. */
    struct evict_walk_mark {
        struct state_place place;
        int64_t released_ns; /* another time: it is no longer where it was */
        bool set;
    } stays, given;
    enum evict_walk_pass {
        EVICT_WALK_FIRST,  /* who frees something, */
        EVICT_WALK_SPARED, /* of those whom the policy spares, too, */
        EVICT_WALK_SHARED, /* and whoever is left */
    } pass;
    bool has_spared; /* somebody was passed over for it */
    uint64_t freed_bytes;

    /* A bit for each target: that somebody it names was given for an earlier
     * one, and may be gone. */
    uint8_t given_before[(EVICT_MAX_TARGETS + 7) / 8];
};

enum evict_walk_step {
    EVICT_WALK_ON,      /* nobody to decide: ask again */
    EVICT_WALK_SESSION, /* *session is to be decided */
    EVICT_WALK_MISSING, /* the target named nobody */
    EVICT_WALK_END,
};

/* The request has been checked. preview is borrowed: what was decided so far in
 * a dry run, NULL if it is none. */
void evict_walk_init(struct evict_walk *walk, struct pool *pool,
    const Kvpool__V1__EvictRequest *request, const struct pool_preview *preview,
    int64_t now_ns);

/* *target is the one that it is about, but for END. */
enum evict_walk_step evict_walk_next(
    struct evict_walk *walk, size_t *target, struct pool_session **session);

/* What next gave last, of this target, was decided, and freed so much. */
void evict_walk_decided(
    struct evict_walk *walk, size_t target, uint64_t bytes_freed);

/* Nobody else of this target, which next gave last, is wanted. */
void evict_walk_skip(struct evict_walk *walk, size_t target);

#endif
