/* Who goes first when room is needed.
 *
 * A policy keeps orders of the cached sessions: those that are idle, hold
 * blocks, and are held by no pin or lease. It is told when a session becomes
 * one of them and when it is one no longer, and asked for the next victim.
 *
 *   run ends, hold ends ──add──> [ order of all     ] ──first──> victim
 *                                [ of its tenant    ]
 *                                    │
 *              run begins, hold begins, evicted: remove
 *
 * There is one of all, and one of each tenant's, for whoever gives up blocks by
 * a quota: a tenant then loses the same sessions, in the same order, as if it
 * had a pool of its own.
 *
 * One file each, policy_<name>.c, chosen when the pool is opened. Every call is
 * O(1) or O(log n), and none allocates but init. */
#ifndef POOL_POLICY_H
#define POOL_POLICY_H

#include <stdbool.h>
#include <stdint.h>

#include "base/list.h"
#include "base/status.h"
#include "pool/treap.h"

#define POLICY_PRIORITIES 101
#define POLICY_STANDARD_PRIORITY 50

struct pool;
struct pool_session;
struct pool_tenant;

/* What a policy keeps of a session; embedded there, zeroed at first. */
struct policy_place {
    union {
        struct kv_list link; /* on a list of the policy's */
        struct {             /* cost, which has none */
            double rank;     /* the least goes first */
            int32_t above;   /* in its tenant's tree, so many sessions on in the
                                table of all; 0: it is the root */
        };
        int64_t idle_ns; /* of sessions without blocks: since when */
    };
    union {
        struct {
            uint32_t n_blocks; /* s3fifo: that it was counted with */
            uint8_t list;      /* s3fifo: on which, or on which it was */
            uint8_t uses;      /* s3fifo, cost: a few are counted */
        };
        struct pool_session *below; /* priority: see there */
    };
};

/* s3fifo */
struct policy_queues {
    struct kv_list small, main;
    uint64_t small_blocks, main_blocks;
};

/* cost: a session among all, kept beside it, for it is much with which only
 * this policy would do something. */
struct policy_ranked {
    struct treap_node node, *above;
    struct pool_session *session;
    double rank; /* of the session; and of the node: */
    uint64_t chance;
};

/* What a policy keeps of a tenant; embedded there. Its sessions are on it by
 * their `link`, or by `of_tenant`. */
struct policy_order {
    union {
        struct kv_list list;         /* lru, lru_tail, priority */
        struct policy_queues queues; /* s3fifo */
        struct treap by_rank;        /* cost */
    };
};

struct policy_class {
    const char *name;

    /* Takes the last blocks of a victim only, as many as are needed. */
    bool takes_tails;

    /* A priority that changes is a change of place. */
    bool looks_at_priority;

    /* Of these settle, spares, chosen, and fini may be NULL. */
    enum kv_status (*init)(struct pool *pool); /* KV_NO_MEMORY */
    void (*fini)(struct pool *pool);
    void (*init_order)(struct policy_order *order);

    /* To both orders, and out of them, with the link not on any list. */
    void (*add)(struct pool *pool, struct pool_session *session);
    void (*remove)(struct pool *pool, struct pool_session *session);

    /* Settles whose turn it is in the order of the tenant, or of all (NULL),
     * before next is asked for the first. */
    void (*settle)(struct pool *pool, struct pool_tenant *tenant);

    /* Whether a session has another chance: those that have none go before.
     * NULL: nobody has. */
    bool (*spares)(const struct pool_session *session);

    /* The session, still in its orders, loses blocks for somebody's room. */
    void (*chosen)(struct pool *pool, struct pool_session *session);

    /* The first in the order of the tenant, or of all (NULL), if after is NULL,
     * or the one behind it. NULL at the end. */
    struct pool_session *(*next)(const struct pool *pool,
        const struct pool_tenant *tenant, const struct pool_session *after);
};

extern const struct policy_class policy_lru, policy_lru_tail, policy_priority,
    policy_s3fifo, policy_cost;

/* What the policy of a pool keeps beside the sessions' places. */
struct policy {
    const struct policy_class *class;

    /* lru, lru_tail: the head was released longest ago */
    struct kv_list released;

    /* priority */
    struct kv_list levels[POLICY_PRIORITIES];
    uint64_t occupied[2]; /* a bit for each level that is not empty */

    /* s3fifo */
    struct policy_queues queues;

    /* cost */
    struct treap by_rank;
    struct policy_ranked *ranked; /* [places of sessions] */
    double floor;
};

/* By name; NULL is lru. NULL if there is none. */
const struct policy_class *policy_find(const char *name);

enum kv_status policy_init(struct pool *pool, const struct policy_class *class);
void policy_fini(struct pool *pool);
void policy_add(struct pool *pool, struct pool_session *session);
void policy_remove(struct pool *pool, struct pool_session *session);
void policy_settle(struct pool *pool, struct pool_tenant *tenant);
bool policy_spares(const struct pool *pool, const struct pool_session *session);
void policy_chosen(struct pool *pool, struct pool_session *session);
struct pool_session *policy_next(const struct pool *pool,
    const struct pool_tenant *tenant, const struct pool_session *after);

#endif
