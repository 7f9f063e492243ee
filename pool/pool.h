/* The KV pool: one arena of equal blocks, and the sessions that hold them.
 *
 *   free ──acquire──> pinned ──last release──> cached ──evict──> scrubbing
 *    ^                   ^                       │                   │
 *    │                   └────────retain─────────┘                   │
 *    └────────────────────────────zeroed─────────────────────────────┘
 *
 * A session is a conversation: its tokens, and a table of blocks in which the
 * keys and values of the first n_cached of them lie. While a sequence runs on
 * it its blocks are pinned; between runs they are cached, and sessions are
 * given up, in the order of a policy, when room is needed. After that a session
 * keeps its tokens (within a cap), so its next run recomputes the blocks with
 * the same result: eviction costs time, never correctness.
 *
 * Life of a run:
 *
 *   get ──> begin ──> [append ──> adopt ──> reserve ──> commit]* ──> end
 *
 *   append   more tokens of the conversation
 *   adopt    blocks that other sessions have computed already
 *   reserve  blocks for them, evicting others if needed
 *   commit   their keys and values now lie in the blocks
 *
 * Given-up blocks are zeroed by somebody else, on any thread: pool_scrub_next()
 * hands out what is to be zeroed, pool_scrub_done() takes it back.
 *
 * A session that does not run is the pool's: it may be evicted, and forgotten,
 * by any call that is given another session, by pool_expire, and by its own
 * eviction or end where its tokens are not kept. Begin it, or find it again,
 * before using it later.
 *
 * Thread: the owner's only; there are no locks inside. Time arrives as an
 * argument (monotonic, nanoseconds, never less than before), so the same calls
 * give the same victims and the same reports. All memory is taken in
 * pool_open(), except for tokens and block tables of sessions, which are taken
 * when they grow, long ids, requests without a session, and tenants;
 * KV_NO_MEMORY then leaves everything as it was. */
#ifndef POOL_POOL_H
#define POOL_POOL_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/error.h"
#include "pool/observer.h"
#include "pool/stats.h"

#define POOL_NAME_BYTES 128 /* of a session's id and of a tenant, at most */
#define POOL_LEASE_BYTES 64 /* of a lease's name, at most */
#define POOL_MAX_LEASES 16  /* of a session */
#define POOL_MAX_PRIORITY 100
#define POOL_SCRUBS_OUT 32 /* scrub jobs in somebody's hands, at most */

struct pool;
struct pool_session;
typedef uint32_t pool_block_id;

struct pool_config {
    size_t block_bytes; /* K and V of one block, all layers; a multiple of 64 */
    uint32_t n_blocks;  /* 1 to 2^31 - 1 */
    uint32_t block_tokens; /* at least 1 */
    uint32_t max_sessions; /* with or without blocks, anonymous ones included */
    /* Of evicted sessions together; beyond, the longest evicted are forgotten,
     * and a session with more than that is not kept at all. */
    uint64_t max_kept_tokens;
    int64_t kept_ttl_ns; /* an evicted session is forgotten after; 0: never */
    int64_t default_idle_ttl_ns; /* of new sessions; 0: none */
    /* Who is given up first: lru (or NULL), lru_tail, priority, s3fifo,
     * cost; see policy_*.c.
     * Borrowed for the call. */
    const char *eviction_policy;
    bool share_prefixes; /* full blocks between sessions of one tenant */
    /* With it: requests without a session whose full blocks stay in the pool
     * after they ended, at most; 0: none. They count as sessions. */
    uint32_t max_beginnings;
    /* pool_sweep begins when more than high_blocks are used, and goes on until
     * low_blocks are, which is at most that; high_blocks 0: never. */
    uint32_t high_blocks, low_blocks;
    uint64_t secret[2]; /* keys the map of sessions, and prefixes */
    const struct pool_observer *observer; /* borrowed; NULL is fine */
    /* A monotonic clock for what a batch takes, and nothing else: sweeps do all
     * their work at one told time. NULL: by the told times. */
    int64_t (*stopwatch_ns)(void);
};

/* The arena is anonymous memory, huge pages advised, left out of core dumps.
 * On success the caller owns *out and closes it; on failure *out is untouched
 * and *error (may be NULL) says what was asked and what failed: KV_INVALID,
 * KV_NO_MEMORY, KV_UNSUPPORTED (the arena cannot be kept out of core dumps). */
enum kv_status pool_open(struct pool **out, const struct pool_config *config,
    int64_t now_ns, struct kv_error *error);

/* Sessions need not be ended; scrub jobs must have come back. NULL is fine. */
void pool_close(struct pool *pool);

/* ---- sessions */

/* Finds or creates (*created). KV_INVALID: id not 1 to
 * 128 bytes, tenant over 128, not UTF-8, or with control characters; KV_LIMIT:
 * there are max_sessions, and all of them run; KV_NO_MEMORY. When there are as
 * many as allowed, the longest evicted is forgotten for a new one, or else one
 * of the policy's choice is evicted and forgotten, for the request with this
 * trace id (NULL: none); KV_IO: that may not be now (see pool_may_evict). */
enum kv_status pool_session_get(struct pool *pool, const struct pool_key *key,
    const uint8_t *trace_id, int64_t now_ns, struct pool_session **out,
    bool *created);

/* For a request without a session: nobody can ask for it, and at
 * pool_session_end it is the caller's no more. What it has computed stays as a
 * beginning (see beginning.c), or its blocks are released without an eviction.
 * Until then nobody takes it away, begun or not. KV_INVALID, KV_LIMIT, KV_IO,
 * KV_NO_MEMORY as above. */
enum kv_status pool_session_anonymous(struct pool *pool, const char *tenant,
    size_t tenant_bytes, const uint8_t *trace_id, int64_t now_ns,
    struct pool_session **out);

/* NULL if there is none. Does not count as an access. */
struct pool_session *pool_session_find(
    struct pool *pool, const struct pool_key *key);

/* Forgets an idle session altogether; its blocks are released without an
 * eviction. For undoing a pool_session_get that created it, and for an eviction
 * that should leave nothing. */
void pool_session_forget(
    struct pool *pool, struct pool_session *session, int64_t now_ns);

/* ---- tenants
 *
 * Blocks are never shared between tenants: each block in use is held by one
 * tenant, and counts for it once. A tenant beyond its soft quota gives up
 * sessions of its own before anybody else loses one (reason QUOTA), and nobody
 * loses one for it. Beyond its hard quota it gets no block more. */

struct pool_quota {
    uint32_t soft_blocks, hard_blocks; /* 0: none */
};

struct pool_tenant_quota {
    const char *tenant;
    size_t tenant_bytes; /* at most POOL_NAME_BYTES */
    struct pool_quota quota;
};

struct pool_quotas {
    struct pool_quota standard; /* of tenants that are not on the list */
    const struct pool_tenant_quota *list;
    size_t n;
};

/* In force from now on: nobody is evicted for it, but who has more than that
 * gets no more. None at first. All borrowed for the call. KV_NO_MEMORY changes
 * nothing. */
enum kv_status pool_set_quotas(
    struct pool *pool, const struct pool_quotas *quotas);

struct pool_tenant_info {
    const char *tenant; /* borrowed until sessions come or go, or quotas do */
    size_t tenant_bytes;
    struct pool_quota quota;
    uint64_t n_used_blocks, n_pinned_blocks; /* pinned are a part of used */
    uint64_t total_sessions;                 /* that hold at least one block */
    uint64_t cache_hits, cache_misses, evictions;
};

/* Walks tenants in ascending order of their names: the first behind this one
 * (NULL: of all). false: there is none. Those without a session are there if
 * they have counted something, as long as there is room, which there is for as
 * many as sessions are allowed.
 * O(log n). */
bool pool_tenant_after(const struct pool *pool, const char *tenant,
    size_t tenant_bytes, struct pool_tenant_info *out);

/* The session's. */
struct pool_tenant_info pool_session_tenant(const struct pool_session *session);

/* Blocks that a session could get at best by the quotas of its tenant, without
 * anybody being set aside: at most pool_reclaimable_blocks. O(1). */
uint64_t pool_obtainable_blocks(
    const struct pool *pool, const struct pool_session *session);

/* ---- retention
 *
 * How long, and how firmly, a session's blocks stay: running comes before pins
 * and leases, these before TTLs, these before pressure. A TTL that falls due
 * while the session runs, or is held, fires when it no longer does. What is set
 * stays with the session, with blocks or without, until it is forgotten. */

/* 0 is none; counts from the end of the last run, so it never falls due while
 * the session runs. */
void pool_session_set_idle_ttl(struct pool *pool, struct pool_session *session,
    int64_t idle_ttl_ns, int64_t now_ns);

/* 0 is none; counts from the session's creation, used or not. */
void pool_session_set_absolute_ttl(struct pool *pool,
    struct pool_session *session, int64_t absolute_ttl_ns, int64_t now_ns);

/* 0 (goes first) to POOL_MAX_PRIORITY, for policies that look at it; sessions
 * start at 50. */
void pool_session_set_priority(
    struct pool *pool, struct pool_session *session, uint32_t priority);

/* Holds the session for this long from now, instead of as long as before; 0
 * unpins. While it is held its idle blocks are nobody's to take. */
void pool_session_pin(struct pool *pool, struct pool_session *session,
    int64_t duration_ns, int64_t now_ns);

/* The same for a reader of that name, 1 to POOL_LEASE_BYTES bytes, who holds it
 * beside others; 0 releases, and no lease of that name to release is fine.
 * KV_LIMIT: POOL_MAX_LEASES others run; KV_NO_MEMORY. */
enum kv_status pool_session_lease(struct pool *pool,
    struct pool_session *session, const char *name, int64_t duration_ns,
    int64_t now_ns);

/* Makes sure that the next pool_session_lease of that name and at that time
 * cannot fail, and says if it would: KV_LIMIT, KV_NO_MEMORY. */
enum kv_status pool_session_prepare_lease(struct pool *pool,
    struct pool_session *session, const char *name, int64_t now_ns);

/* Sessions that are idle and held. */
struct pool_holds {
    uint64_t n_sessions;
    int64_t first_end_ns; /* when one of them is free again; INT64_MAX: none */
};

/* Looks at each. */
struct pool_holds pool_holds(const struct pool *pool);

/* How often one of them ceased to be one, since open. */
uint64_t pool_hold_ends(const struct pool *pool);

struct pool_lease {
    const char *name; /* borrowed until the session's leases change */
    int64_t until_ns; /* perhaps over by now */
};

/* The lease at this place, from 0; false at the end. */
bool pool_session_lease_at(
    const struct pool_session *session, uint32_t index, struct pool_lease *out);

/* ---- a run */

/* Pins the session's blocks, and with them whatever of its conversation is in
 * the pool. KV_BUSY if it runs already. */
enum kv_status pool_session_begin(
    struct pool *pool, struct pool_session *session);

/* Adds tokens to the conversation of an active session. KV_NO_MEMORY. */
enum kv_status pool_session_append(struct pool *pool,
    struct pool_session *session, const uint32_t *tokens, size_t n_tokens);

/* Takes over full blocks of other sessions of the tenant whose conversations
 * begin as this active one does, as far as they go beyond its own, but never
 * the one with its last token. Nothing is computed or copied. Blocks of its own
 * that were reserved, and not filled, give way. To be called before tokens are
 * planned: afterwards those from the returned number of cached tokens on are to
 * be computed, and none of them lies in a block that others hold. */
size_t pool_session_adopt(
    struct pool *pool, struct pool_session *session, int64_t now_ns);

/* How many tokens of full blocks the first of two sessions could take over from
 * the second, once that has computed them all. */
size_t pool_session_common(const struct pool *pool,
    const struct pool_session *session, const struct pool_session *other);

/* Shortens the conversation to its first n_tokens; blocks beyond them are
 * released, not evicted, and so is the block that the last of them lies in if
 * others hold it too: fewer are cached then. KV_INVALID: it has fewer, or the
 * session is idle. */
enum kv_status pool_session_truncate(struct pool *pool,
    struct pool_session *session, size_t n_tokens, int64_t now_ns);

/* Makes the block table long enough for the first n_tokens of the conversation,
 * giving up idle sessions if there is no free block.
 *   KV_BUSY       enough has been given up and is being zeroed: ask again after
 *                 the next pool_scrub_done
 *   KV_POOL_FULL  everything else is pinned: somebody must be set aside
 *   KV_OVER_QUOTA the quotas of the session's tenant leave it no more, unless
 *                 something of its own is set aside
 *   KV_NO_MEMORY
 *   KV_IO         no more may be given up now (see pool_may_evict), or given
 *                 at all (pool_observer.may_allocate)
 * In each case the session is as it was. What was evicted stays evicted, but
 * nobody is evicted for a call that then fails with one of KV_POOL_FULL,
 * KV_OVER_QUOTA and KV_NO_MEMORY. A preempted session runs again. n_tokens is
 * at most what it has. */
enum kv_status pool_session_reserve(struct pool *pool,
    struct pool_session *session, size_t n_tokens, const uint8_t *trace_id,
    int64_t now_ns);

/* The keys and values of the first n_tokens lie in the blocks now. Never fewer
 * than before: what is to be computed again is truncated first. */
void pool_session_commit(
    struct pool *pool, struct pool_session *session, size_t n_tokens);

/* Counts how a request's prompt fared: full blocks found, and computed. Call
 * once a request, with the session running; n_hit > 0 counts as its hit. */
void pool_session_count_prompt(struct pool *pool, struct pool_session *session,
    uint64_t n_hit_blocks, uint64_t n_missed_blocks);

/* The next n_tokens, which the next commit covers, lay in blocks once and were
 * computed again by the step that began then. When they were the last of those
 * the observer is told what the eviction cost. */
void pool_session_count_recomputed(struct pool *pool,
    struct pool_session *session, size_t n_tokens, const uint8_t *trace_id,
    int64_t began_ns, int64_t now_ns);

/* Sets a running session aside (POOL_REASON_PRESSURE or MANUAL): its blocks go,
 * its tokens stay, and it counts as running (state PREEMPTED) until ended. The
 * observer hears of an eviction with `preempted`, unless it had no block; the
 * caller tells the batch, with pool_batch_begin and pool_batch_end around. */
void pool_session_preempt(struct pool *pool, struct pool_session *session,
    const struct pool_cause *cause, int64_t now_ns);

/* Last release: the blocks become cached. The session may be gone afterwards:
 * if anonymous, or if it has no blocks, and no tokens or more than may be kept.
 */
void pool_session_end(
    struct pool *pool, struct pool_session *session, int64_t now_ns);

/* ---- eviction */

/* Whether an eviction could be recorded now (pool_observer.may_evict). The pool
 * asks where it chooses a victim itself; who calls pool_session_preempt or
 * pool_evict_session asks before. */
bool pool_may_evict(const struct pool *pool);

enum pool_evict_result {
    POOL_EVICTED = 1, /* numbers as in EvictResult of the contract */
    POOL_NOT_FOUND = 2,
    POOL_PINNED = 3,
    POOL_EVICT_BUSY = 4,
    POOL_NOTHING_TO_FREE = 5,
};

struct pool_outcome {
    enum pool_evict_result result;
    uint64_t bytes_freed, blocks_freed, shared_blocks_kept, tokens_kept;
    bool preempted;
    bool forgotten; /* it had no blocks, and its kept tokens went */
};

/* Evicts one session for a Manual call. A running one answers POOL_EVICT_BUSY,
 * or is preempted with `preempt`: only between steps, since workers touch the
 * blocks of a running step. One that is held answers POOL_PINNED, running or
 * not, with `preempt` too; one without blocks POOL_NOTHING_TO_FREE. An idle
 * session of which no token is kept is gone afterwards, as it is with
 * cause->forget, with blocks and without, unless it is held; a preempted one
 * keeps its tokens in any case. */
struct pool_outcome pool_evict_session(struct pool *pool,
    struct pool_session *session, const struct pool_cause *cause, bool preempt,
    int64_t now_ns);

/* What pool_evict_session would say, if what preview has taken had been evicted
 * before (pool/preview.h; NULL: nobody); changes nothing. */
struct pool_preview;
struct pool_outcome pool_evict_preview(const struct pool *pool,
    const struct pool_preview *preview, const struct pool_session *session,
    bool preempt, bool forget);

/* Idle sessions with blocks, in the order in which the policy would have them
 * go: the first (after is NULL), or the one behind such a session; NULL behind
 * the last. Of s3fifo as its queues stand, where those that it spares for their
 * use are to go behind all others. O(1); of cost O(log n). */
struct pool_session *pool_victim_after(
    const struct pool *pool, const struct pool_session *after);
bool pool_spares(const struct pool *pool, const struct pool_session *session);

/* A batch of evictions that a caller drives (an Evict call): between begin and
 * end come its pool_evict_session calls, all in one turn. end tells the
 * observer, also when nothing was evicted. */
struct pool_batch_scope {
    struct pool_stats before;
    int64_t begin_ns;
};
struct pool_batch_scope pool_batch_begin(
    const struct pool *pool, int64_t now_ns);
void pool_batch_end(struct pool *pool, const struct pool_batch_scope *scope,
    const struct pool_cause *cause, int64_t now_ns);

/* When pool_expire has something to do, if only to look closer; INT64_MAX if
 * never. Deadlines are met within about a millisecond, never early. */
int64_t pool_next_deadline(const struct pool *pool);

/* Evicts sessions whose TTL is over, lets go those whose hold is, and forgets
 * evicted ones that were kept long enough, in one batch; looks at `budget`
 * sessions at most. Returns how many went. While nothing may be evicted it does
 * nothing, and is to be called again later. */
uint32_t pool_expire(struct pool *pool, int64_t now_ns, uint32_t budget);

/* Whether pool_sweep has something to do. */
bool pool_wants_sweep(struct pool *pool);

/* Evicts idle sessions between the watermarks, in one batch: at most n_most
 * blocks and what the last session had beyond them, where one that frees none
 * counts as one. To be called again, in another turn, while pool_wants_sweep.
 * Returns how many blocks left use. While nothing may be evicted it does
 * nothing. */
uint32_t pool_sweep(struct pool *pool, uint32_t n_most, int64_t now_ns);

/* ---- zeroing */

struct pool_scrub {
    uint64_t scrub_id;
    const struct pool_extent *extents; /* the pool's until done */
    size_t n_extents;
};

/* The next job, in order of scrub_id; false if there is none, or if
 * POOL_SCRUBS_OUT of them have not come back. Whoever takes it zeroes
 * pool_arena() + offset for each extent, on any thread. */
bool pool_scrub_next(struct pool *pool, struct pool_scrub *out);

/* On the owner's thread again: the blocks are free. Any order. */
void pool_scrub_done(struct pool *pool, uint64_t scrub_id, int64_t now_ns);

/* ---- reading */

enum pool_session_state { /* numbers as in SessionState of the contract */
    POOL_SESSION_RUNNING = 1,
    POOL_SESSION_PREEMPTED = 2,
    POOL_SESSION_HELD = 3,
    POOL_SESSION_CACHED = 4,
    POOL_SESSION_EVICTED = 5,
};

struct pool_session_info {
    struct pool_key key; /* borrowed until the session changes */
    enum pool_session_state state;
    uint64_t n_blocks, n_shared_blocks;
    uint64_t n_tokens, n_cached_tokens;
    int64_t created_ns;  /* monotonic */
    int64_t released_ns; /* end of the last run, or creation: idle since */
    int64_t idle_ttl_ns, absolute_ttl_ns; /* 0: none */
    int64_t pin_until_ns;                 /* 0: not pinned; perhaps over */
    uint32_t priority;
    uint64_t hits, evictions; /* counted up to 2^32 - 1 */
};

struct pool_session_info pool_session_info(
    const struct pool *pool, const struct pool_session *session);

/* The same but for n_shared_blocks, which is 0: O(1). */
struct pool_session_info pool_session_glance(
    const struct pool_session *session);

/* Borrowed until the session changes. */
const uint32_t *pool_session_tokens(
    const struct pool_session *session, size_t *n_tokens);
const pool_block_id *pool_session_blocks(
    const struct pool_session *session, size_t *n_blocks);
size_t pool_session_n_cached(const struct pool_session *session);

/* Tokens whose keys and values were committed at some time, evicted since or
 * not: computing them again is what an eviction costs. */
size_t pool_session_n_computed(const struct pool_session *session);

/* Walks named sessions in ascending order of (tenant, id): the first that comes
 * after *key (NULL: the first of all), or NULL. O(log n). */
struct pool_session *pool_session_after(
    struct pool *pool, const struct pool_key *key);

/* The same with requests without a session, running and ended, which come first
 * among a tenant's; so a place is not a key, which these have not got. */
struct pool_session *pool_holder_after(
    struct pool *pool, const struct pool_key *place);

/* Where it is in this order, and what pool_session_find finds it by. Not to be
 * shown: the id of a request without a session is NUL and a number. */
struct pool_key pool_session_place(const struct pool_session *session);

struct pool_blocks {
    uint64_t total, pinned, cached, scrubbing, free;
    uint64_t shared; /* held by more than one */
};

/* O(1). */
struct pool_stats pool_stats(const struct pool *pool);
struct pool_blocks pool_blocks(const struct pool *pool);

enum pool_block_state { /* numbers as in BlockState of the contract */
    POOL_BLOCK_FREE = 1,
    POOL_BLOCK_PINNED = 2,
    POOL_BLOCK_CACHED = 3,
    POOL_BLOCK_SCRUBBING = 4,
};

/* Neighbouring blocks in one state, and of one owner. */
struct pool_block_run {
    uint32_t n_blocks; /* at least 1 */
    enum pool_block_state state;
    const struct pool_session *owner; /* one that holds them, by name; NULL: it
                                         is not known, or there is none */
    uint32_t n_holders;               /* of the one that has most */
};

/* The run that begins with block `first`, which there must be, as far as
 * n_most blocks, at least 1; looks at each. */
struct pool_block_run pool_block_run(
    const struct pool *pool, pool_block_id first, uint32_t n_most);

/* O(1): share of token slots of used blocks that hold no token. */
double pool_unfilled(const struct pool *pool);

struct pool_totals {
    uint64_t evictions_by_reason[POOL_REASON_END];
    uint64_t sessions_created; /* that held at least one block at some time */
    uint64_t kept_tokens;      /* of evicted sessions */
    uint64_t beginnings;       /* left by requests without a session */
    uint64_t metadata_bytes;
};
struct pool_totals pool_totals(const struct pool *pool);

/* Blocks a new run could get at best: free, scrubbing and cached. */
uint64_t pool_reclaimable_blocks(const struct pool *pool);

unsigned char *pool_arena(const struct pool *pool);
const struct pool_config *pool_config(const struct pool *pool);
const char *pool_policy_name(const struct pool *pool);

/* Checks every law of docs/pool.md over all blocks and sessions; O(n), for
 * tests. false, with what is wrong, if one does not hold. */
bool pool_check(const struct pool *pool, struct kv_error *error);

#endif
