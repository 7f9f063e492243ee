/* How blocks leave use.
 *
 * Two ways lead out: an eviction (somebody needed the room, a TTL ran out, a
 * person asked) and a release (the holder itself has no more use for them).
 * They differ in the report only, and both go through give_up: references are
 * dropped, what nobody holds any more is swept out of use in ascending runs,
 * and handed to be zeroed. More runs than a report takes make several parts,
 * each with a before and an after of its own.
 *
 *   table: 7 3 4 9      swept: [3,4] [7] [9]      scrub job: those three
 *
 * Who goes under pressure is decided in one place, choose_victim: first whose
 * turn it is by the quotas, then which session by the policy. What goes
 * together is told together: the members of a sweep that go for one reason
 * follow one another, and their batch follows the last. */
#include "pool/state.h"

#include <assert.h>

#include "pool/preview.h"

/* ---- blocks leave use */

/* Why and how a session loses blocks. cause is NULL for a release. */
struct departure {
    struct pool_session *session;
    const struct pool_cause *cause;
    uint32_t n_left; /* first blocks that stay */
    bool preempted;
    uint64_t tokens_kept;
    int64_t now_ns;
};

/* One part of it, as a report needs it. */
struct part {
    struct block_sweep sweep;
    struct pool_stats before;
    uint64_t scrub_id;
    uint64_t n_shared_kept;
    uint32_t number, n_parts;
    size_t n_shared; /* runs in pool->extents that live on */
};

static void report_eviction(struct pool *pool,
    const struct departure *departure, const struct part *part)
{
    struct pool_session *session = departure->session;
    int64_t now_ns = departure->now_ns;
    const struct pool_eviction eviction = {
        .key = session_key(session),
        .cause = departure->cause,
        .extents = state_extents(pool, part->sweep.n_runs),
        .n_extents = part->sweep.n_runs,
        .bytes_freed =
            part->sweep.n_blocks * (uint64_t)pool->blocks.block_bytes,
        .blocks_freed = part->sweep.n_blocks,
        .tokens_freed = part->sweep.n_tokens,
        .shared_blocks_kept = part->n_shared_kept,
        .shared = pool->extents,
        .n_shared = part->n_shared,
        .tokens_kept = departure->tokens_kept,
        .age_ns = now_ns - session->created_ns,
        .idle_ns = departure->preempted ? 0 : now_ns - session->released_ns,
        .hits = session->hits,
        .preempted = departure->preempted,
        .part = part->number,
        .n_parts = part->n_parts,
        .before = &part->before,
        .after = &pool->stats,
        .scrub_id = part->scrub_id,
        .note = part->number == 1 && session->loss != NULL
                    ? &session->loss->note
                    : NULL,
        .mono_ns = now_ns,
    };

    pool->observer->evicted(pool->observer->ctx, &eviction);
}

static void report_release(struct pool *pool, const struct departure *departure,
    const struct part *part)
{
    const struct pool_release release = {
        .key = session_key(departure->session),
        .extents = state_extents(pool, part->sweep.n_runs),
        .n_extents = part->sweep.n_runs,
        .shared = pool->extents,
        .n_shared = part->n_shared,
        .part = part->number,
        .n_parts = part->n_parts,
        .before = &part->before,
        .after = &pool->stats,
        .scrub_id = part->scrub_id,
        .mono_ns = departure->now_ns,
    };

    pool->observer->released(pool->observer->ctx, &release);
}

static void report(struct pool *pool, const struct departure *departure,
    const struct part *part)
{
    if (departure->cause != NULL && pool->observer->evicted != NULL)
        report_eviction(pool, departure, part);
    if (departure->cause == NULL && pool->observer->released != NULL)
        report_release(pool, departure, part);
}

/* Asks memory for all that is known of the next blocks that leave, each kind at
 * once: one after the other they would be waited for, block by block. */
static void fetch_blocks(
    const struct pool *pool, const struct pool_session *session, uint32_t first)
{
    const pool_block_id *ids = &session->blocks[first];
    uint32_t n = session->n_blocks - first;

    n = n < PREFIX_FETCHED ? n : PREFIX_FETCHED;
    for (uint32_t i = 0; i < n; i++) {
        __builtin_prefetch(&pool->blocks.blocks[ids[i]], 1);
        __builtin_prefetch(&pool->owners.by_block[ids[i]], 1);
    }
    if (pool->prefixes.entries != NULL)
        prefix_fetch(&pool->prefixes, ids, n);
}

/* Drops the session's pins and references. Returns how many blocks live on. */
static uint64_t drop_references(
    struct pool *pool, const struct departure *departure)
{
    struct pool_session *session = departure->session;
    bool is_cold = departure->cause != NULL; /* what runs is at hand */
    uint64_t n_kept = 0;

    if (session_pins(session))
        registry_unpin(pool, session, departure->n_left);
    for (uint32_t i = departure->n_left; i < session->n_blocks; i++) {
        bool is_last;

        if (is_cold && (i - departure->n_left) % PREFIX_FETCHED == 0)
            fetch_blocks(pool, session, i);
        is_last = block_pool_release(&pool->blocks, session->blocks[i]);
        share_leave(pool, session, i, is_last);
        n_kept += !is_last;
    }
    return n_kept;
}

/* What changes once, with the last part. */
static void close_departure(
    struct pool *pool, const struct departure *departure, uint32_t n_cached)
{
    struct pool_session *session = departure->session;

    session->n_blocks = departure->n_left;
    session->n_cached = n_cached;
    if (session->n_counted > departure->n_left)
        session->n_counted = departure->n_left;
    if (session->n_sealed > departure->n_left)
        session->n_sealed = departure->n_left;
    if (session->n_told > departure->n_left)
        session->n_told = departure->n_left;
    pool->stats.total_sessions -= departure->n_left == 0;
    session->tenant->n_holding -= departure->n_left == 0;
    if (departure->cause == NULL)
        return;
    session->evictions += session->evictions < UINT32_MAX;
    session->tenant->evictions++;
    pool->stats.evictions++;
    pool->evictions_by_reason[departure->cause->reason]++;
}

/* An eviction leaves nothing behind, so how many live on says it all, or takes
 * last blocks of which none lives on; of a release it must be told which, and
 * of a session without a name, since others of the tenant look like it. */
static bool tells_shared(
    const struct pool *pool, const struct departure *departure)
{
    return pool->observer->released != NULL &&
           (departure->cause == NULL || departure->session->anonymous);
}

/* The next runs of what the session has given up and others hold, from place
 * *at of its table on. */
static size_t list_shared(
    struct pool *pool, const struct pool_session *session, uint32_t *at)
{
    uint64_t block_bytes = pool->config.block_bytes;
    size_t n = 0;

    for (; *at < session->n_blocks && n < POOL_PART_EXTENTS; (*at)++) {
        pool_block_id id = session->blocks[*at];

        if (pool->blocks.blocks[id].n_refs > 0)
            pool->extents[n++] =
                (struct pool_extent){id * block_bytes, block_bytes};
    }
    return n;
}

static uint32_t parts_for(uint64_t n_runs)
{
    return (uint32_t)((n_runs + POOL_PART_EXTENTS - 1) / POOL_PART_EXTENTS);
}

static uint32_t count_parts(
    struct pool *pool, const struct departure *departure, uint64_t n_shared)
{
    uint32_t n = parts_for(block_pool_n_leaving(&pool->blocks));

    if (n_shared > 0 && tells_shared(pool, departure))
        n += parts_for(n_shared);
    return n > 0 ? n : 1;
}

/* What is gone with all tokens is not computed again, and of a session without
 * a name nobody is told. */
static void remember_loss(struct pool *pool, const struct departure *departure)
{
    struct pool_session *session = departure->session;
    const struct session_loss loss = {
        .evicted_ns = departure->now_ns,
        .reason = departure->cause->reason,
    };
    bool is_told = departure->tokens_kept > 0 && !session->anonymous;

    registry_set_loss(pool, session, is_told ? &loss : NULL);
}

static void give_up(struct pool *pool, const struct departure *departure)
{
    struct pool_session *session = departure->session;
    size_t n_room = (size_t)departure->n_left * pool->config.block_tokens;
    uint32_t n_cached =
        session->n_cached < n_room ? session->n_cached : (uint32_t)n_room;
    uint64_t tokens_after =
        pool->stats.session_tokens - (session->n_cached - n_cached);
    struct part part;
    uint32_t at = departure->n_left;

    part.n_shared_kept = drop_references(pool, departure);
    part.number = 0;
    part.n_shared = 0;
    if (departure->cause != NULL)
        remember_loss(pool, departure);
    part.n_parts = count_parts(pool, departure, part.n_shared_kept);
    while (part.number++ < part.n_parts) {
        part.before = pool->stats;
        part.sweep =
            block_pool_sweep(&pool->blocks, pool->runs, POOL_PART_EXTENTS);
        part.scrub_id = part.sweep.n_runs == 0
                            ? 0
                            : scrub_queue_push(
                                  &pool->scrubs, pool->runs, part.sweep.n_runs);
        state_count_freed(pool, session->tenant, part.sweep.n_blocks);
        pool->stats.session_tokens -= part.sweep.n_tokens;
        if (part.sweep.n_runs == 0 && tells_shared(pool, departure))
            part.n_shared = list_shared(pool, session, &at);
        if (part.number == part.n_parts) {
            pool->stats.session_tokens = tokens_after;
            close_departure(pool, departure, n_cached);
        }
        report(pool, departure, &part);
        part.n_shared_kept = 0;
    }
}

void evict_release(struct pool *pool, struct pool_session *session,
    uint32_t n_left, int64_t now_ns)
{
    const struct departure departure = {
        .session = session, .n_left = n_left, .now_ns = now_ns};

    give_up(pool, &departure);
}

void evict_idle(struct pool *pool, struct pool_session *session,
    const struct pool_cause *cause, int64_t now_ns)
{
    const struct departure departure = {
        .session = session,
        .cause = cause,
        .tokens_kept = cause->forget ? 0 : registry_tokens_kept(pool, session),
        .now_ns = now_ns,
    };

    give_up(pool, &departure);
    if (cause->forget)
        registry_remove(pool, session);
    else
        registry_settle(pool, session, now_ns);
}

void pool_session_preempt(struct pool *pool, struct pool_session *session,
    const struct pool_cause *cause, int64_t now_ns)
{
    const struct departure departure = {
        .session = session,
        .cause = cause,
        .preempted = true,
        .tokens_kept = session->n_tokens,
        .now_ns = now_ns,
    };

    assert(session_is_active(session));
    if (session->n_blocks > 0)
        give_up(pool, &departure);
    session->state = POOL_SESSION_PREEMPTED;
}

/* ---- under pressure */

bool pool_may_evict(const struct pool *pool)
{
    return pool->observer->may_evict == NULL ||
           pool->observer->may_evict(pool->observer->ctx);
}

/* How many sessions that would free nothing are passed over at most. */
#define MAX_PASSED_OVER 64

/* Its last blocks are those that nobody else is likely to hold. */
static bool frees_something(
    const struct pool *pool, const struct pool_session *session)
{
    for (uint32_t i = session->n_blocks; i > 0; i--)
        if (!share_is_shared(pool, session->blocks[i - 1]))
            return true;
    return false;
}

/* Whose turn it is by the policy, among the tenant's sessions or all (NULL);
 * NULL: there is nobody. A session whose blocks others hold too is passed over;
 * where there is no other, it goes all the same, for the last holder frees
 * them. A beginning goes in any case: nobody comes back to it but through its
 * blocks, and those stay. */
static struct pool_session *choose_victim(
    struct pool *pool, struct pool_tenant *tenant)
{
    struct pool_session *first, *at;
    int n = 0;

    policy_settle(pool, tenant);
    first = at = policy_next(pool, tenant, NULL);
    while (at != NULL && n++ < MAX_PASSED_OVER && !at->is_beginning &&
           !frees_something(pool, at))
        at = policy_next(pool, tenant, at);
    if (at == NULL || n > MAX_PASSED_OVER)
        at = first;
    if (at != NULL)
        policy_chosen(pool, at);
    return at;
}

const char *pool_policy_name(const struct pool *pool)
{
    return pool->policy.class->name;
}

/* How many first blocks of a victim can stay when n_wanted are to be freed: its
 * last ones go as far as nobody else holds them, so that what it gives up is
 * what is freed. Where others hold the very last, it goes altogether; so does a
 * beginning of which there would be another. */
static uint32_t blocks_left(const struct pool *pool,
    const struct pool_session *victim, uint32_t n_wanted)
{
    uint32_t n_left = victim->n_blocks;

    if (!pool->policy.class->takes_tails)
        return 0;
    while (n_left > 0 && n_wanted > 0 &&
           !share_is_shared(pool, victim->blocks[n_left - 1])) {
        n_left--;
        n_wanted--;
    }
    if (n_left == victim->n_blocks ||
        (victim->is_beginning && n_left > 0 &&
            beginning_at(pool, victim->blocks[n_left - 1]) != NULL))
        return 0;
    return n_left;
}

/* The session stays where it is, with its first n_left blocks. */
static void evict_tail(struct pool *pool, struct pool_session *session,
    uint32_t n_left, const struct pool_cause *cause, int64_t now_ns)
{
    const struct departure departure = {
        .session = session,
        .cause = cause,
        .n_left = n_left,
        .tokens_kept = session->is_beginning ? 0 : session->n_tokens,
        .now_ns = now_ns,
    };

    give_up(pool, &departure);
    if (session->is_beginning)
        beginning_shorten(pool, session);
}

/* Mostly one eviction follows another: while one goes memory is asked for the
 * session that is likely to be the next, and in the end for its block table. */
void evict_turn(struct pool *pool, const struct quota_turn *turn,
    const struct pool_cause *cause, int64_t now_ns)
{
    struct pool_session *victim = choose_victim(pool, turn->tenant);
    const struct pool_session *next = policy_next(pool, turn->tenant, victim);
    uint32_t n_left = blocks_left(pool, victim, turn->n_wanted);

    if (next != NULL)
        session_fetch(next);
    if (n_left > 0)
        evict_tail(pool, victim, n_left, cause, now_ns);
    else
        evict_idle(pool, victim, cause, now_ns);
    if (next != NULL)
        __builtin_prefetch(next->blocks);
}

struct pool_session *pool_victim_after(
    const struct pool *pool, const struct pool_session *after)
{
    return policy_next(pool, NULL, after);
}

bool pool_spares(const struct pool *pool, const struct pool_session *session)
{
    return policy_spares(pool, session);
}

enum pool_reason evict_reason(const struct quota_turn *turn)
{
    return turn->tenant != NULL ? POOL_REASON_QUOTA : POOL_REASON_LRU;
}

bool evict_for_room(struct pool *pool, uint32_t n_blocks,
    const struct pool_session *forced_by, const uint8_t *trace_id,
    int64_t now_ns)
{
    const struct pool_key key = session_key(forced_by);
    struct pool_tenant *asking = forced_by->tenant;
    struct quota_turn turn = quota_turn_for_room(pool, asking, n_blocks);

    while (turn.n_wanted > 0 && pool_may_evict(pool)) {
        const struct pool_cause cause = {
            .reason = evict_reason(&turn),
            .forced_by = &key,
            .trace_id = trace_id,
        };
        struct pool_batch_scope scope = pool_batch_begin(pool, now_ns);

        do {
            evict_turn(pool, &turn, &cause, now_ns);
            turn = quota_turn_for_room(pool, asking, n_blocks);
        } while (turn.n_wanted > 0 && evict_reason(&turn) == cause.reason &&
                 pool_may_evict(pool));
        pool_batch_end(pool, &scope, &cause, now_ns);
    }
    return turn.n_wanted == 0;
}

bool evict_has_place(struct pool *pool, struct pool_tenant *asking)
{
    const struct quota_turn turn = quota_turn_for_place(pool, asking);

    return policy_next(pool, turn.tenant, NULL) != NULL;
}

void evict_for_place(struct pool *pool, struct pool_session *victim,
    const struct pool_session *forced_by, const uint8_t *trace_id,
    int64_t now_ns)
{
    const struct pool_key key = session_key(forced_by);
    const struct quota_turn turn =
        quota_turn_for_place(pool, forced_by->tenant);
    const struct pool_cause cause = {
        .reason = evict_reason(&turn),
        .forced_by = &key,
        .trace_id = trace_id,
    };
    const struct departure departure = {
        .session = victim != NULL ? victim : choose_victim(pool, turn.tenant),
        .cause = &cause,
        .now_ns = now_ns,
    };
    struct pool_batch_scope scope = pool_batch_begin(pool, now_ns);

    give_up(pool, &departure);
    registry_remove(pool, departure.session);
    pool_batch_end(pool, &scope, &cause, now_ns);
}

/* ---- by time */

int64_t pool_next_deadline(const struct pool *pool)
{
    return timer_wheel_next_ns(&pool->wheel);
}

/* A timer fired: perhaps too early, since uses do not move it. */
static bool expire_session(struct pool *pool, struct pool_session *session,
    const struct pool_cause *cause, int64_t now_ns)
{
    retention_drop_over(session, now_ns);
    if (session->state == POOL_SESSION_HELD && !retention_is_held(session))
        registry_settle(pool, session, now_ns);
    if (registry_due_ns(pool, session) > now_ns) {
        registry_set_timer(pool, session);
        return false;
    }
    if (session->state == POOL_SESSION_CACHED)
        evict_idle(pool, session, cause, now_ns);
    else
        registry_remove(pool, session);
    return true;
}

uint32_t pool_expire(struct pool *pool, int64_t now_ns, uint32_t budget)
{
    const struct pool_cause cause = {.reason = POOL_REASON_TTL};
    struct pool_batch_scope scope = pool_batch_begin(pool, now_ns);
    uint32_t n_done = 0;

    if (!pool_may_evict(pool))
        return 0;
    timer_wheel_advance(&pool->wheel, now_ns);
    for (uint32_t n_looks = 0; n_looks < budget && pool_may_evict(pool);
         n_looks++) {
        struct timer *timer = timer_wheel_take_due(&pool->wheel);

        if (timer == NULL)
            break;
        n_done += expire_session(pool,
            KV_LIST_ENTRY(timer, struct pool_session, timer), &cause, now_ns);
    }
    if (pool->stats.evictions > scope.before.evictions)
        pool_batch_end(pool, &scope, &cause, now_ns);
    return n_done;
}

/* ---- by hand */

/* A hold keeps the tokens of a session without blocks from being forgotten. */
static enum pool_evict_result result_for(
    const struct pool_session *session, bool preempt, bool forget)
{
    bool is_kept = session->state == POOL_SESSION_EVICTED;

    if (session->n_blocks == 0)
        return is_kept && forget && retention_is_held(session)
                   ? POOL_PINNED
                   : POOL_NOTHING_TO_FREE;
    if (session_is_active(session) && !preempt)
        return POOL_EVICT_BUSY;
    if (retention_is_held(session))
        return POOL_PINNED;
    return POOL_EVICTED;
}

/* What the session has afterwards. */
static uint64_t tokens_after(const struct pool *pool,
    const struct pool_session *session, enum pool_evict_result result,
    bool forget)
{
    bool is_idle = !session_is_active(session);

    if (result == POOL_PINNED || result == POOL_EVICT_BUSY || !is_idle)
        return session->n_tokens;
    if (forget)
        return 0;
    return result == POOL_EVICTED ? registry_tokens_kept(pool, session)
                                  : session->n_tokens;
}

static bool would_be_shared(const struct pool *pool,
    const struct pool_preview *preview, pool_block_id id)
{
    return pool->blocks.blocks[id].n_refs >
           1 + pool_preview_dropped(preview, id);
}

struct pool_outcome pool_evict_preview(const struct pool *pool,
    const struct pool_preview *preview, const struct pool_session *session,
    bool preempt, bool forget)
{
    enum pool_evict_result result = result_for(session, preempt, forget);
    struct pool_outcome outcome = {
        .result = result,
        .tokens_kept = tokens_after(pool, session, result, forget),
        .preempted = result == POOL_EVICTED && session_is_active(session),
        .forgotten = result == POOL_NOTHING_TO_FREE && forget &&
                     session->state == POOL_SESSION_EVICTED,
    };

    if (result != POOL_EVICTED)
        return outcome;
    for (uint32_t i = 0; i < session->n_blocks; i++)
        outcome.shared_blocks_kept +=
            would_be_shared(pool, preview, session->blocks[i]);
    outcome.blocks_freed = session->n_blocks - outcome.shared_blocks_kept;
    outcome.bytes_freed = outcome.blocks_freed * pool->config.block_bytes;
    return outcome;
}

struct pool_outcome pool_evict_session(struct pool *pool,
    struct pool_session *session, const struct pool_cause *cause, bool preempt,
    int64_t now_ns)
{
    struct pool_outcome outcome =
        pool_evict_preview(pool, NULL, session, preempt, cause->forget);

    if (outcome.preempted)
        pool_session_preempt(pool, session, cause, now_ns);
    else if (outcome.result == POOL_EVICTED)
        evict_idle(pool, session, cause, now_ns);
    else if (outcome.forgotten)
        pool_session_forget(pool, session, now_ns);
    return outcome;
}

/* ---- what goes together */

static int64_t stopwatch_ns(const struct pool *pool, int64_t now_ns)
{
    return pool->config.stopwatch_ns != NULL ? pool->config.stopwatch_ns()
                                             : now_ns;
}

static bool asks_policy(enum pool_reason reason)
{
    return reason == POOL_REASON_LRU || reason == POOL_REASON_QUOTA;
}

struct pool_batch_scope pool_batch_begin(
    const struct pool *pool, int64_t now_ns)
{
    return (struct pool_batch_scope){
        .before = pool->stats,
        .begin_ns = stopwatch_ns(pool, now_ns),
    };
}

void pool_batch_end(struct pool *pool, const struct pool_batch_scope *scope,
    const struct pool_cause *cause, int64_t now_ns)
{
    const struct pool_stats *before = &scope->before, *after = &pool->stats;
    const struct pool_batch batch = {
        .reason = cause->reason,
        .policy = asks_policy(cause->reason) ? pool_policy_name(pool) : "",
        .n_sessions = after->evictions - before->evictions,
        .bytes_freed = after->freed_bytes_total - before->freed_bytes_total,
        .before = before,
        .after = after,
        .duration_ns = stopwatch_ns(pool, now_ns) - scope->begin_ns,
        .trace_id = cause->trace_id,
        .mono_ns = now_ns,
    };

    if (pool->observer->batch != NULL)
        pool->observer->batch(pool->observer->ctx, &batch);
}
