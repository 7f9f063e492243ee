/* What the files of the pool share: its state, and what they ask of each other.
 *
 *   pool.c      opens, closes, answers questions
 *   registry.c  which sessions there are, and on which list
 *   retention.c what keeps a session, and for how long
 *   tenant.c    whose they are; quota.c what each may take, and from whom
 *   run.c       what a run does to its session
 *   share.c     what sessions have in common
 *   beginning.c what requests without a session leave behind
 *   owners.c    one holder of each block
 *   evict.c     how blocks are given up, and how it is told
 *   sweep.c     room made ahead of need
 *   policy.c    who gives them up first; policy_*.c, one file each
 *   check.c     the laws
 *
 * Every session is in the map, in the index, and in one place:
 *
 *   active  between begin and end; also an anonymous session before
 *   cached  idle with blocks: in the policy's order of its tenant's, by the
 * same link, and in that of all held    idle with blocks, under a pin or a
 * lease kept    idle without blocks; the head has been so for longest */
#ifndef POOL_STATE_H
#define POOL_STATE_H

#include "base/list.h"
#include "base/map.h"
#include "pool/block_pool.h"
#include "pool/owners.h"
#include "pool/policy.h"
#include "pool/pool.h"
#include "pool/prefix.h"
#include "pool/scrub_queue.h"
#include "pool/session.h"
#include "pool/session_index.h"
#include "pool/tenant.h"
#include "pool/timer_wheel.h"

struct pool {
    struct pool_config config;
    const struct pool_observer *observer; /* never NULL */

    struct block_pool blocks;
    struct scrub_queue scrubs;
    struct prefix_index prefixes;
    struct session_table table;
    struct owners owners;

    struct kv_map map;
    struct treap index;
    struct tenant_table tenants;
    struct timer_wheel wheel;
    struct policy policy;
    struct kv_list active, held, kept;
    uint32_t n_sessions;       /* on these, and cached */
    struct kv_list beginnings; /* by beginning.link, oldest end first */
    struct kv_map leaves;      /* the same, by their last blocks */
    uint64_t last_anonymous;   /* number of the latest */
    uint64_t kept_tokens;      /* of the sessions on kept */
    uint64_t hold_ends;        /* sessions that left held, since open */
    uint64_t session_bytes;    /* of memory */

    struct pool_stats stats; /* always of now: reports point to them */
    uint64_t evictions_by_reason[POOL_REASON_END];
    uint64_t sessions_created;

    bool sweeping;         /* began above the high watermark */
    uint32_t fetched_word; /* of free blocks: what follows it was asked for */

    struct block_run runs[POOL_PART_EXTENTS];      /* of one part, and */
    struct pool_extent extents[POOL_PART_EXTENTS]; /* of its report */
    struct pool_sealed sealed[POOL_PART_SEALED];
    struct prefix_key told_keys[POOL_PART_SEALED + 1]; /* and the parent's */
};

/* Blocks of the tenant have come into use, or left it. */
static inline void state_count_used(
    struct pool *pool, struct pool_tenant *tenant, uint32_t n)
{
    uint64_t n_bytes = n * (uint64_t)pool->blocks.block_bytes;

    pool->stats.used_bytes += n_bytes;
    pool->stats.allocated_bytes_total += n_bytes;
    pool->stats.free_runs = pool->blocks.n_free_runs;
    tenant_use(&pool->tenants, tenant, n);
}

static inline void state_count_freed(
    struct pool *pool, struct pool_tenant *tenant, uint32_t n)
{
    uint64_t n_bytes = n * (uint64_t)pool->blocks.block_bytes;

    pool->stats.used_bytes -= n_bytes;
    pool->stats.freed_bytes_total += n_bytes;
    pool->stats.free_runs = pool->blocks.n_free_runs;
    tenant_free(&pool->tenants, tenant, n);
}

/* The first n of pool->runs, where reports have them. */
static inline const struct pool_extent *state_extents(
    struct pool *pool, size_t n)
{
    uint64_t block_bytes = pool->blocks.block_bytes;

    for (size_t i = 0; i < n; i++)
        pool->extents[i] = (struct pool_extent){
            pool->runs[i].first * block_bytes, pool->runs[i].n * block_bytes};
    return pool->extents;
}

/* ---- policy_*.c */

/* The session's link on lists of its tenant's sessions, or of all (NULL). */
static inline const struct kv_list *policy_link(
    const struct pool_session *session, const struct pool_tenant *tenant)
{
    return tenant != NULL ? &session->link : &session->place.link;
}

static inline struct pool_session *policy_session(
    const struct kv_list *link, const struct pool_tenant *tenant)
{
    return tenant != NULL
               ? KV_LIST_ENTRY(link, struct pool_session, link)
               : KV_LIST_ENTRY(link, struct pool_session, place.link);
}

/* ---- registry.c */

/* Takes a session that goes idle or changed while idle to its list, and sets
 * its timer. Without blocks it is forgotten if it has no tokens or more than
 * may be kept; others are, longest evicted first, if all together have. */
void registry_settle(
    struct pool *pool, struct pool_session *session, int64_t now_ns);

/* Every block of the session has a pin more, or one less: those behind its
 * first n_left. */
void registry_pin(struct pool *pool, struct pool_session *session);
void registry_unpin(
    struct pool *pool, struct pool_session *session, uint32_t n_left);

/* The first n blocks of the session are about to be held by others too, or are
 * already: their pins are counted from now on. */
void registry_count_pins(
    struct pool *pool, struct pool_session *session, uint32_t n);

/* Of a used block. */
bool registry_is_pinned(const struct pool *pool, pool_block_id id);

/* The session, which had none, holds blocks. */
void registry_count_holder(struct pool *pool, struct pool_session *session);

/* How many tokens the session will keep if it loses its blocks. */
uint64_t registry_tokens_kept(
    const struct pool *pool, const struct pool_session *session);

/* The session must hold no block. */
void registry_remove(struct pool *pool, struct pool_session *session);

/* Takes an idle session off its list, to the active ones. */
void registry_activate(struct pool *pool, struct pool_session *session);

/* When the pool has to do something about a session: its TTL if it is cached,
 * the end of keeping its tokens if it has no blocks, and the end of its hold.
 * INT64_MAX if never. */
int64_t registry_due_ns(
    const struct pool *pool, const struct pool_session *session);

/* Sees to it that the session's timer fires by then. A timer that fires before
 * is left alone: it looks again when it does, which spares every use of a
 * session two visits to its neighbours on the wheel. */
void registry_set_timer(struct pool *pool, struct pool_session *session);

/* Calls session_grow_* and keeps count of the memory. */
enum kv_status registry_grow(struct pool *pool, struct pool_session *session,
    size_t n_tokens, uint32_t n_blocks);
/* The same for session_trim. */
void registry_trim(struct pool *pool, struct pool_session *session);

/* And for session_set_loss. */
void registry_set_loss(struct pool *pool, struct pool_session *session,
    const struct session_loss *loss);

/* ---- retention.c */

/* The end of the last pin or lease; 0 if there is none. Those that are over are
 * dropped when the session's timer fires, in whatever state it is, and when it
 * goes idle. */
int64_t retention_hold_until_ns(const struct pool_session *session);
bool retention_is_held(const struct pool_session *session);
void retention_drop_over(struct pool_session *session, int64_t now_ns);

/* When the TTLs of an idle session fall due; INT64_MAX if never. */
int64_t retention_ttl_due_ns(const struct pool_session *session);

/* ---- run.c */

/* Whether it could be recorded that a session comes to hold blocks. */
bool run_may_allocate(const struct pool *pool);

/* ---- share.c */

/* Seals what has become full. */
void share_seal(struct pool *pool, struct pool_session *session);

/* The session gives up block `index` of its table, whose last holder it was, or
 * not. */
void share_leave(struct pool *pool, const struct pool_session *session,
    uint32_t index, bool is_last);

/* Block `index` of the table, the session's alone, is about to hold less. */
void share_open(
    struct pool *pool, struct pool_session *session, uint32_t index);

/* What a report of an allocation says of prefixes: the session is about to get
 * blocks behind its last (goes_on), or has got those of others. What has become
 * full since the last report is put into pool->sealed. Nothing where nobody
 * listens. */
struct share_told {
    const uint8_t *parent_key;
    size_t n_sealed;
};
struct share_told share_tell(
    struct pool *pool, struct pool_session *session, bool goes_on);

bool share_is_shared(const struct pool *pool, pool_block_id id);

/* The block with that key and those tokens at that place of a table, or
 * PREFIX_NONE. */
uint32_t share_find(const struct pool *pool, const struct prefix_start *key,
    const uint32_t *tokens, uint32_t index);

/* ---- beginning.c */

/* A request without a session, of which there may be a beginning already, ends:
 * its full blocks stay with it, if they may. false: nothing does. */
bool beginning_keep(
    struct pool *pool, struct pool_session *session, int64_t now_ns);

/* It is one no longer. */
void beginning_leave(struct pool *pool, struct pool_session *session);

/* Of kv_map. */
bool beginning_ends_with(const struct kv_map_node *node, const void *key);

/* It has another last block, which is no other's last (see beginning_at). */
void beginning_shorten(struct pool *pool, struct pool_session *session);

/* The beginning whose last block this is; NULL if there is none. */
struct pool_session *beginning_at(const struct pool *pool, pool_block_id id);

/* ---- quota.c */

/* Whether n blocks more are to be had for the tenant by evicting idle sessions:
 * KV_POOL_FULL, KV_OVER_QUOTA. */
enum kv_status quota_check(
    const struct pool *pool, const struct pool_tenant *tenant, uint64_t n);

/* Whose sessions go next: for n blocks that a tenant asks for, for one place,
 * or so that n blocks leave use though nobody asks. */
struct quota_turn {
    struct pool_tenant *tenant; /* NULL: anybody's, in the policy's order */
    uint32_t n_wanted;          /* blocks of them; 0: nobody has to go */
};
struct quota_turn quota_turn_for_room(
    struct pool *pool, struct pool_tenant *asking, uint32_t n);
struct quota_turn quota_turn_for_place(
    struct pool *pool, struct pool_tenant *asking);
struct quota_turn quota_turn_for_sweep(struct pool *pool, uint32_t n);

/* ---- evict.c */

/* The session's blocks leave use, but for its first n_left, without an
 * eviction. */
void evict_release(struct pool *pool, struct pool_session *session,
    uint32_t n_left, int64_t now_ns);

/* An idle session with blocks loses them all, and perhaps its tokens: it may be
 * gone afterwards. */
void evict_idle(struct pool *pool, struct pool_session *session,
    const struct pool_cause *cause, int64_t now_ns);

/* The victim of a turn, of whom there must be one, gives up its blocks, or
 * where the policy takes tails as many as are wanted. */
void evict_turn(struct pool *pool, const struct quota_turn *turn,
    const struct pool_cause *cause, int64_t now_ns);

/* For a turn that is a tenant's it is the quota. */
enum pool_reason evict_reason(const struct quota_turn *turn);

/* Whether there is a session to evict for a place that this tenant wants. */
bool evict_has_place(struct pool *pool, struct pool_tenant *asking);

/* That session, or the cached one that is given, is evicted and forgotten: no
 * more are allowed, and another one is to come. */
void evict_for_place(struct pool *pool, struct pool_session *victim,
    const struct pool_session *forced_by, const uint8_t *trace_id,
    int64_t now_ns);

/* Gives up idle sessions until n_blocks are free or being zeroed, and within
 * the quotas of the session that needs them; quota_check says that it can be
 * done. false: before that, no more might be given up. */
bool evict_for_room(struct pool *pool, uint32_t n_blocks,
    const struct pool_session *forced_by, const uint8_t *trace_id,
    int64_t now_ns);

#endif
