/* A pool and a ledger on a virtual clock, beside a model that is simple enough
 * to be believed, and the laws that hold after each operation.
 *
 *            ┌────────────> pool ──hooks──> tap ──> ledger
 *   plan ──> ops              │              │         │
 *            └──> actors <────┴──── laws <───┴─────> view: receipts only
 *
 *   actors  what each session has been told and should hold (world.c, evict.c)
 *   tap     which blocks the pool says are used, scrubbing, free (tap.c)
 *   view    who holds which block by the receipts alone, and the audit (view.c)
 *   laws    after each operation these and the pool agree (laws.c)
 *
 * What lies in a block is part of the model: every token's slot has a word that
 * follows from the tenant and all tokens up to it, blocks are zero when they
 * are given out, and everything that nobody holds is zero when it is free.
 *
 * One world at a time lives in a process; the first law that is broken ends it.
 * The same plan gives the same world, byte for byte. */
#ifndef TESTS_SIM_WORLD_H
#define TESTS_SIM_WORLD_H

#include "base/clock.h"
#include "pool/pool.h"
#include "receipts/audit.h"
#include "receipts/ledger.h"
#include "tests/sim/plan.h"

#define WORLD_TENANTS 3
#define WORLD_IDS 8 /* of each tenant */
#define WORLD_NAMED (WORLD_TENANTS * WORLD_IDS)
#define WORLD_ANONYMOUS (4 * WORLD_TENANTS) /* requests without a session */
#define WORLD_ACTORS (WORLD_NAMED + WORLD_ANONYMOUS)
/* As receipts name them: those without a session of a tenant look alike. */
#define WORLD_HOLDERS (WORLD_NAMED + WORLD_TENANTS)
#define WORLD_READERS 3
#define WORLD_BLOCK_BYTES 64
#define WORLD_MAX_BLOCKS 96
#define WORLD_MAX_TOKENS 512
#define WORLD_TWINS 4099
#define WORLD_TTL_LATE_NS (2 * KV_NS_PER_MS)

/* A session, or a request without one, as the operations have made it; of the
 * latter also what is left of it when it has ended. */
struct actor {
    bool exists, active;
    char place[POOL_NAME_BYTES]; /* of those without a name, in the pool */
    size_t place_bytes;
    uint32_t tokens[WORLD_MAX_TOKENS];
    uint64_t words[WORLD_MAX_TOKENS]; /* what lies in its slot */
    size_t n_tokens;
    int64_t created_ns, released_ns, kept_ns, idle_ttl_ns, ttl_ns;
    int64_t pin_until_ns, lease_until_ns[WORLD_READERS];
    uint32_t priority;

    /* As the pool had it after the last operation. */
    enum pool_session_state state;
    size_t n_blocks, n_cached;
    bool frees_something; /* a block is its alone */
    uint64_t rank;        /* of the operation that it became CACHED with */
    bool lost_now;        /* an eviction took blocks in this operation */
};

enum books_state { BOOKS_FREE, BOOKS_USED, BOOKS_SCRUBBING };

/* What the pool says of its blocks through its hooks. */
struct books {
    uint8_t states[WORLD_MAX_BLOCKS];
    uint64_t scrub_ids[WORLD_MAX_BLOCKS];
    uint64_t last_scrub_id;
};

/* Who holds which block, as a sum that goes up and down with each holding. */
uint64_t view_holding(uint32_t block, int holder);

struct view {
    struct audit audit;
    struct feed_cursor cursor;
    uint8_t holdings[WORLD_MAX_BLOCKS][WORLD_HOLDERS];
    uint64_t sum; /* of view_holding */

    /* What it should be at which sequence; read by begin, written by end. */
    struct view_truth {
        uint64_t sequence, sum;
    } * truths;
    size_t begin, end, capacity;
};

/* How often what happened; shared with who started the world. */
struct tally {
    uint64_t n_ops, n_evictions[POOL_REASON_END], n_reserved, n_busy, n_full,
        n_over, n_adopted, n_held, n_expired, n_preempted, n_refused, n_starved,
        n_dry, n_forgotten, n_swept, n_beginnings, n_shared, n_receipts,
        n_truths, n_by_selector[6];
    uint8_t root[32]; /* of the ledger's tree at the end */
};

struct world {
    const struct plan *plan;
    size_t at; /* of the operation being done */
    struct tally *tally;

    struct pool *pool;
    struct ledger *ledger;
    struct pool_observer observer; /* the tap */
    const struct pool_observer *recorder;
    int64_t now_ns;
    bool refuses;     /* nothing may be recorded */
    bool has_starved; /* memory has run out at some time, */
    struct pool_quota quotas[WORLD_TENANTS];
    size_t n_asked;             /* blocks that the operation needs */
    uint64_t last_freed_blocks; /* by the last eviction, */
    int last_freed_tenant;      /* of whom */
    uint32_t starving;          /* or will, this many allocations on; 0: no */

    struct actor actors[WORLD_ACTORS];
    bool twins[WORLD_TWINS]; /* by word: several blocks have ended with it */
    struct books books;
    struct view view;
    struct pool_scrub out[POOL_SCRUBS_OUT];
    size_t n_out;
};

/* Does all of the plan. Returns if every law held; ends the process with 1, and
 * says on stderr which did not, otherwise. */
void world_run(const struct plan *plan, struct tally *tally);

__attribute__((format(printf, 2, 3), noreturn)) void world_fail(
    const struct world *world, const char *format, ...);

/* ---- world.c */

/* The actor's place, and its session; NULL if there is none. */
struct pool_key world_key(size_t actor);
struct pool_session *world_session(const struct world *world, size_t actor);
size_t world_actor(const struct world *world, const struct pool_key *key);
size_t world_actor_of(
    const struct world *world, const struct pool_session *session);
int world_tenant(size_t actor);

/* Whether the policy looks at priorities first. */
bool world_ranks_priority(const struct world *world);

/* The end of its last hold, and when its TTLs fall due; 0 and INT64_MAX if
 * there is none. */
int64_t actor_hold_until_ns(const struct actor *actor);
int64_t actor_due_ns(const struct actor *actor);

/* Whether some tenant has a quota. */
bool world_has_quotas(const struct world *world);
/* Blocks of a tenant, as the pool counts them. */
uint64_t world_used_by(const struct world *world, size_t tenant);

/* ---- evict.c */

void world_evict(struct world *world, const struct op *op);

/* ---- tap.c */

void tap_open(struct world *world);

/* ---- view.c */

void view_open(struct world *world);
/* At this sequence the sum should be so. */
void view_expect(struct world *world, uint64_t sum);
/* Reads what has become durable. */
void view_advance(struct world *world);
void view_close(struct world *world);

/* ---- laws.c */

/* What the session has computed lies in its blocks. */
void laws_check_content(const struct world *world, size_t actor);
void laws_check_zero(const struct world *world, pool_block_id id);

/* After each operation; thoroughly now and then. */
void laws_check(struct world *world, bool thoroughly);

#endif
