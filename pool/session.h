/* A session as the pool keeps it. Everything here changes memory only: lists,
 * counters and reports are the matter of whoever calls.
 *
 *                    begin                        end
 *   EVICTED, CACHED, HELD ─> RUNNING ────────────────> CACHED, HELD, EVICTED
 *                             │   ^                                 ^
 *                     preempt └─> PREEMPTED ────────────────────────┘
 *                                  reserve: RUNNING again
 *
 * CACHED is idle with blocks, HELD the same under a pin or a lease, EVICTED
 * idle without, also when it never had any.
 */
#ifndef POOL_SESSION_H
#define POOL_SESSION_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/list.h"
#include "base/map.h"
#include "base/status.h"
#include "pool/policy.h"
#include "pool/pool.h"
#include "pool/tenant.h"
#include "pool/timer_wheel.h"
#include "pool/treap.h"

/* What the last eviction costs. */
struct session_loss {
    uint64_t note;   /* the observer's */
    uint64_t tokens; /* computed again so far */
    int64_t spent_ns;
    int64_t gap_ns; /* until the first of them */
    int64_t evicted_ns;
    enum pool_reason reason;
};

struct session_lease {
    char name[POOL_LEASE_BYTES + 1];
    int64_t until_ns;
};

/* Names up to this long lie in the session. */
#define SESSION_SHORT_ID_BYTES 23

/* What others are not told: it begins with NUL, which no name does, so nobody
 * can ask for it. */
#define SESSION_HIDDEN_ID_BYTES 9

/* Small, for there may be a million: what few sessions have lies elsewhere. */
struct pool_session {
    /* What every run touches comes first, within two lines of memory or three
     * that are asked for at once. */
    union { /* in one place by state, see pool/state.h */
        struct kv_list link;
        struct treap_node of_tenant; /* cost, while it is cached */
    };
    struct policy_place place;
    uint8_t state : 3;           /* enum pool_session_state */
    uint8_t anonymous : 1;       /* its id is hidden, see session_place */
    uint8_t is_beginning : 1;    /* anonymous, idle: see beginning.c */
    uint8_t has_held_blocks : 1; /* at some time */
    uint8_t priority;            /* 0 goes first, 100 last */
    uint8_t n_leases, lease_capacity;
    uint32_t n_blocks, block_capacity;
    uint32_t n_counted; /* first blocks that count their pins one by one; of
                           the others it is the only holder */
    uint32_t n_tokens, token_capacity;
    struct pool_tenant *tenant;
    int64_t released_ns; /* end of the last run, or creation */
    int64_t idle_ttl_ns;
    int64_t absolute_ttl_ns; /* from creation; 0: none */
    int64_t pin_until_ns;    /* 0: not pinned */
    int64_t created_ns;
    struct timer timer; /* set by registry_due_ns, perhaps for earlier */

    pool_block_id *blocks;
    uint32_t *tokens;
    struct session_lease *leases;
    struct session_loss *loss; /* NULL: nothing is missing, or it is not told */
    uint32_t n_cached;         /* tokens whose keys and values lie in blocks */
    uint32_t n_computed;       /* or once lay there: at least n_cached */
    uint32_t n_sealed;         /* first blocks whose prefix keys are known */
    uint32_t n_told;           /* of these, that reports have told of */
    uint32_t hits, evictions;
    struct kv_map_node node;
    struct treap_node order;
    union {
        char short_id[SESSION_SHORT_ID_BYTES];
        char *long_id;
        struct { /* anonymous */
            struct beginning *beginning;
            char hidden_id[SESSION_HIDDEN_ID_BYTES];
        };
        struct {
            char room_for_id[SESSION_SHORT_ID_BYTES];
            uint8_t id_bytes; /* behind each of these */
        };
    };
};

/* Of a session without a name. */
struct beginning {
    struct kv_list link;     /* of all, in the order of their ends */
    struct kv_map_node leaf; /* by its last block */
    struct pool_session *session;
};

/* All sessions, in one table that a look at one of them misses the cache for,
 * and not the page as well. Places are taken from the start, and memory of the
 * system as they are, so that few sessions take little. A place is a session's
 * number for as long as there is that session. */
struct session_table {
    struct pool_session *places; /* [n_places]; that of 0 is nobody's */
    size_t n_places;
    uint32_t n_used;       /* first places that were taken at some time */
    struct kv_list closed; /* of them: those that are free again */
};

/* For so many sessions at once. KV_NO_MEMORY. */
enum kv_status session_table_init(
    struct session_table *table, uint32_t n_sessions);
/* Closes those that there are. */
void session_table_fini(struct session_table *table);

/* Zero but for its name; NULL when there is no memory. */
struct pool_session *session_open(struct session_table *table,
    struct pool_tenant *tenant, const char *id, size_t id_bytes,
    bool anonymous);
void session_close(struct session_table *table, struct pool_session *session);

/* A copy of it, in place of the one before; NULL: none. Where there is no
 * memory there is none either. */
void session_set_loss(
    struct pool_session *session, const struct session_loss *loss);

/* Room for n in all; what is there stays. KV_NO_MEMORY changes nothing. */
enum kv_status session_grow_tokens(struct pool_session *session, size_t n);
enum kv_status session_grow_blocks(struct pool_session *session, uint32_t n);
enum kv_status session_grow_leases(struct pool_session *session, uint32_t n);

/* Asks memory for all of it. */
static inline void session_fetch(const struct pool_session *session)
{
    for (size_t at = 0; at < sizeof *session; at += 64)
        __builtin_prefetch((const char *)session + at, 1);
}

/* Whether there is room that session_trim would give back. */
static inline bool session_has_room(const struct pool_session *session)
{
    return session->n_tokens < session->token_capacity ||
           session->n_blocks < session->block_capacity;
}

/* Gives back room for tokens and blocks that are not there; where that takes
 * memory that cannot be had, it stays. */
void session_trim(struct pool_session *session);

size_t session_metadata_bytes(const struct pool_session *session);

static inline const char *session_id(const struct pool_session *session)
{
    if (session->anonymous)
        return session->hidden_id;
    return session->id_bytes > SESSION_SHORT_ID_BYTES ? session->long_id
                                                      : session->short_id;
}

/* What it is known by in the pool: the name, or what is hidden. */
static inline struct pool_key session_place(const struct pool_session *session)
{
    return (struct pool_key){
        .tenant = session->tenant->name,
        .tenant_bytes = session->tenant->name_bytes,
        .id = session_id(session),
        .id_bytes = session->id_bytes,
    };
}

/* What others are told of it. */
static inline struct pool_key session_key(const struct pool_session *session)
{
    struct pool_key key = session_place(session);

    if (session->anonymous)
        key.id_bytes = 0;
    return key;
}

/* Whether its blocks are pinned. */
static inline bool session_pins(const struct pool_session *session)
{
    return session->state == POOL_SESSION_RUNNING ||
           session->state == POOL_SESSION_HELD;
}

/* Between begin and end. */
static inline bool session_is_active(const struct pool_session *session)
{
    return session->state == POOL_SESSION_RUNNING ||
           session->state == POOL_SESSION_PREEMPTED;
}

#endif
