/* Who goes first when room is needed.
 *
 * A policy keeps an order of the cached sessions: those that are idle, hold
 * blocks, and are held by no pin or lease. It is told when a session becomes
 * one of them and when it is one no longer, and asked for the next victim.
 *
 *   run ends, hold ends ──add──> [ order ] ──first──> victim
 *                                    │
 *              run begins, hold begins, evicted: remove
 *
 * One file each, policy_<name>.c, chosen when the pool is opened. Every call is
 * O(1) or O(log n), and none allocates but init. */
#ifndef POOL_POLICY_H
#define POOL_POLICY_H

#include <stdbool.h>
#include <stdint.h>

#include "base/list.h"
#include "base/status.h"

#define POLICY_PRIORITIES 101
#define POLICY_STANDARD_PRIORITY 50

struct pool;
struct pool_session;

/* What a policy keeps of a session; embedded there, zeroed at first. */
struct policy_place {
    union {
        struct kv_list link; /* on a list of the policy's */
        struct {             /* cost, which has none */
            double rank;     /* the least goes first */
            uint32_t at;     /* place in the heap */
        };
        int64_t idle_ns; /* of sessions without blocks: since when */
    };
    uint32_t n_blocks; /* s3fifo: that it was counted with */
    uint8_t list;      /* s3fifo: on which, or on which it was */
    uint8_t uses;      /* s3fifo, cost: a few are counted */
};

struct policy_class {
    const char *name;

    /* Takes the last blocks of a victim only, as many as are needed. */
    bool takes_tails;

    /* A priority that changes is a change of place. */
    bool looks_at_priority;

    /* Whether a of two sessions of one tenant goes first, where only that
     * tenant's are to choose from; NULL: who was released longest ago. */
    bool (*goes_before)(
        const struct pool_session *a, const struct pool_session *b);

    /* Of these settle, chosen, and init with fini may be NULL. */
    enum kv_status (*init)(struct pool *pool); /* KV_NO_MEMORY */
    void (*fini)(struct pool *pool);
    void (*add)(struct pool *pool, struct pool_session *session);
    void (*remove)(struct pool *pool, struct pool_session *session);

    /* Settles whose turn it is, before next(NULL) is asked for a victim. */
    void (*settle)(struct pool *pool);

    /* The session, still in the order, loses blocks for somebody's room. */
    void (*chosen)(struct pool *pool, struct pool_session *session);

    /* The first in the order (after is NULL), or one that comes next; each
     * exactly once, the first few in the order of their turns. NULL at the end.
     */
    struct pool_session *(*next)(
        const struct pool *pool, const struct pool_session *after);
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
    struct kv_list small, main;
    uint64_t small_blocks, main_blocks;

    /* cost */
    struct pool_session **heap;
    uint32_t n_heap;
    double floor;
};

/* By name; NULL is lru. NULL if there is none. */
const struct policy_class *policy_find(const char *name);

enum kv_status policy_init(struct pool *pool, const struct policy_class *class);
void policy_fini(struct pool *pool);
void policy_add(struct pool *pool, struct pool_session *session);
void policy_remove(struct pool *pool, struct pool_session *session);
void policy_settle(struct pool *pool);
void policy_chosen(struct pool *pool, struct pool_session *session);
struct pool_session *policy_next(
    const struct pool *pool, const struct pool_session *after);
bool policy_goes_before(const struct pool *pool, const struct pool_session *a,
    const struct pool_session *b);

#endif
