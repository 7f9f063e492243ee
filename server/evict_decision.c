#include "server/evict_decision.h"

#include <assert.h>
#include <string.h>

#include "base/clock.h"
#include "base/heap.h"
#include "server/check.h"

/* How long a turn may be: what others on this thread wait for a call that has
 * many sessions to look at. */
#define TURN_NS KV_NS_PER_MS

/* Whom a turn looks at in any case, which takes less: a call of few is one turn
 * and has one batch, whatever the machine does meanwhile. */
#define TURN_LOOKS 64

static bool is_named(const struct evict_decision *decision, size_t target)
{
    return decision->request->targets[target]->target_case ==
           KVPOOL__V1__EVICT_TARGET__TARGET_SESSION;
}

/* place is the session's, NULL if there is none. As text, the id of a request
 * without a session is empty, for its place begins with NUL. */
static Kvpool__V1__EvictOutcome *add_outcome(struct evict_decision *decision,
    size_t target, const struct pool_key *place, Kvpool__V1__EvictResult result)
{
    struct evict_entry *entry = &decision->entries[decision->n_entries];

    assert(decision->n_entries < decision->n_room);
    kvpool__v1__evict_outcome__init(&entry->outcome);
    entry->outcome.target = (uint32_t)target;
    entry->outcome.result = result;
    if (place != NULL) {
        kvpool__v1__session_key__init(&entry->key);
        state_name_copy(entry->tenant, place->tenant, place->tenant_bytes);
        state_name_copy(entry->id, place->id, place->id_bytes);
        entry->id_bytes = place->id_bytes;
        entry->key.tenant = entry->tenant;
        entry->key.session_id = entry->id;
        entry->outcome.session = &entry->key;
    }
    decision->list[decision->n_entries++] = &entry->outcome;
    return &entry->outcome;
}

static struct pool_cause cause_of(const struct evict_decision *decision)
{
    return (struct pool_cause){
        .reason = POOL_REASON_MANUAL,
        .requested_by = EVICT_ANONYMOUS,
        .trace_id = decision->has_trace_id ? decision->trace_id : NULL,
        .forget = decision->request->forget,
    };
}

/* Sequence of the last receipt so far; 0 where receipts are off. */
static uint64_t applied(const struct server *server)
{
    struct ledger_position position;

    return recorder_position(server->recorder, &position)
               ? position.applied_sequence
               : 0;
}

/* Receipts of others may come between two turns, so the first is not simply the
 * one behind the last before the call. */
static void note_first(struct evict_decision *decision, uint64_t sequence)
{
    if (decision->server->recorder != NULL &&
        decision->receipts.first_sequence == 0)
        decision->receipts.first_sequence = sequence;
}

/* Tells the batch so far, with the outcomes in it. */
static void tell_batch(struct evict_decision *decision, bool final)
{
    const struct pool_cause cause = cause_of(decision);
    struct server *server = decision->server;
    Kvpool__V1__EvictCall call = KVPOOL__V1__EVICT_CALL__INIT;

    if (decision->request->dry_run)
        return;
    call.request_id = decision->request->request_id;
    call.request_digest.data = decision->digest;
    call.request_digest.len = sizeof decision->digest;
    call.requested_by = (char *)EVICT_ANONYMOUS;
    call.number = ++decision->n_batches;
    call.final = final;
    call.outcomes = decision->list + decision->n_told;
    call.n_outcomes = decision->n_entries - decision->n_told;
    if (final) {
        call.more = decision->response.more;
        call.sessions_held = decision->response.sessions_held;
        call.sessions_busy = decision->response.sessions_busy;
        call.sessions_forgotten = decision->response.sessions_forgotten;
    }
    note_first(decision, applied(server) + 1);
    recorder_set_call(server->recorder, &call);
    pool_batch_end(server->pool, &decision->scope, &cause, kv_clock_mono_ns());
    decision->n_told = decision->n_entries;
    decision->scope = pool_batch_begin(server->pool, kv_clock_mono_ns());
}

static struct pool_outcome preview(
    struct evict_decision *decision, const struct pool_session *session)
{
    const struct pool *pool = decision->server->pool;
    const Kvpool__V1__EvictRequest *request = decision->request;
    const struct pool_outcome outcome = pool_evict_preview(
        pool, &decision->preview, session, request->preempt, request->forget);

    if (outcome.result == POOL_EVICTED &&
        pool_preview_take(&decision->preview, pool, session) != KV_OK)
        decision->no_memory = true;
    return outcome;
}

/* Evicts one session. Only evictions are outcomes of their own, where the
 * target does not name the session; the others are counted. */
static void evict_one(struct evict_decision *decision, size_t target,
    struct pool_session *session)
{
    bool listed = is_named(decision, target);
    struct server *server = decision->server;
    const struct pool_cause cause = cause_of(decision);
    uint64_t before = applied(server);
    struct pool_key place = pool_session_place(session);
    Kvpool__V1__EvictOutcome *entry = add_outcome(decision, target, &place,
        KVPOOL__V1__EVICT_RESULT__EVICT_RESULT_EVICTED);
    bool preempt = decision->request->preempt;
    struct pool_outcome outcome =
        decision->request->dry_run ? preview(decision, session)
                                   : pool_evict_session(server->pool, session,
                                         &cause, preempt, kv_clock_mono_ns());

    evict_walk_decided(&decision->walk, target, outcome.bytes_freed);
    decision->response.sessions_held += outcome.result == POOL_PINNED;
    decision->response.sessions_busy += outcome.result == POOL_EVICT_BUSY;
    decision->response.sessions_forgotten += outcome.forgotten;
    if (outcome.result != POOL_EVICTED && !listed) {
        decision->n_entries--;
        return;
    }
    entry->result = (Kvpool__V1__EvictResult)outcome.result;
    entry->bytes_freed = outcome.bytes_freed;
    entry->blocks_freed = outcome.blocks_freed;
    entry->shared_blocks_kept = outcome.shared_blocks_kept;
    entry->tokens_kept = outcome.tokens_kept;
    entry->preempted = outcome.preempted;
    if (outcome.result != POOL_EVICTED)
        return;
    decision->response.sessions_evicted++;
    decision->response.bytes_freed += outcome.bytes_freed;
    if (server->recorder == NULL || decision->request->dry_run)
        return;
    entry->sequence = before + 1;
    note_first(decision, entry->sequence);
}

/* Whether this call has an outcome of the session: in a dry run it is still
 * there, and one that is not there may be named twice. */
static bool is_listed(
    const struct evict_decision *decision, const struct pool_key *place)
{
    for (size_t i = 0; i < decision->n_entries; i++) {
        const struct evict_entry *entry = &decision->entries[i];

        if (entry->outcome.session != NULL &&
            entry->id_bytes == place->id_bytes &&
            memcmp(entry->id, place->id, place->id_bytes) == 0 &&
            strlen(entry->tenant) == place->tenant_bytes &&
            memcmp(entry->tenant, place->tenant, place->tenant_bytes) == 0)
            return true;
    }
    return false;
}

/* Whether one session more may go in this call. */
static bool may_go_on(const struct evict_decision *decision)
{
    return decision->response.sessions_evicted <
               decision->limits.max_sessions &&
           pool_may_evict(decision->server->pool);
}

/* A batch receipt has room for so many outcomes; another batch begins then. */
static void make_batch_room(struct evict_decision *decision)
{
    if (decision->n_entries - decision->n_told >= LEDGER_MAX_CALL_OUTCOMES)
        tell_batch(decision, false);
}

static void miss_one(struct evict_decision *decision, size_t target)
{
    const Kvpool__V1__SessionKey *name =
        decision->request->targets[target]->session;
    struct pool_key key;

    make_batch_room(decision);
    if (!is_named(decision, target)) {
        add_outcome(decision, target, NULL,
            KVPOOL__V1__EVICT_RESULT__EVICT_RESULT_NOT_FOUND);
        return;
    }
    key = check_pool_key(name->tenant, name->session_id);
    if (!is_listed(decision, &key))
        add_outcome(decision, target, &key,
            KVPOOL__V1__EVICT_RESULT__EVICT_RESULT_NOT_FOUND);
}

/* A session without blocks goes at once, and nobody else has to: it needs
 * neither a receipt nor a place among those that may be evicted. */
static void decide_one(struct evict_decision *decision, size_t target,
    struct pool_session *session)
{
    struct pool_session_info info = pool_session_glance(session);
    struct pool_key place = pool_session_place(session);

    if (decision->request->dry_run && is_listed(decision, &place))
        return;
    if ((is_named(decision, target) || info.n_blocks > 0) &&
        !may_go_on(decision)) {
        decision->response.more = true;
        evict_walk_skip(&decision->walk, target);
        return;
    }
    make_batch_room(decision);
    evict_one(decision, target, session);
}

/* Decides until the time of this turn is over. Whether it came to the end. */
static bool decide_some(struct evict_decision *decision)
{
    int64_t end_ns = kv_clock_mono_ns() + TURN_NS;
    struct pool_session *session = NULL;
    size_t target = 0;
    int n_looks = 0;

    do {
        switch (evict_walk_next(&decision->walk, &target, &session)) {
        case EVICT_WALK_SESSION:
            decide_one(decision, target, session);
            break;
        case EVICT_WALK_MISSING:
            miss_one(decision, target);
            break;
        case EVICT_WALK_ON:
            break;
        case EVICT_WALK_END:
            return true;
        }
    } while (!decision->no_memory &&
             (++n_looks < TURN_LOOKS || kv_clock_mono_ns() < end_ns));
    return decision->no_memory;
}

static void begin(struct evict_decision *decision)
{
    evict_walk_init(&decision->walk, decision->server->pool, decision->request,
        decision->request->dry_run ? &decision->preview : NULL,
        kv_clock_mono_ns());
    decision->begun = true;
}

/* Which receipts the decision just made has. */
static void name_receipts(struct evict_decision *decision)
{
    struct ledger_position position;

    if (!recorder_position(decision->server->recorder, &position))
        return;
    decision->receipts.last_sequence = position.applied_sequence;
    decision->receipts.epoch = position.epoch;
}

static void finish(struct evict_decision *decision)
{
    tell_batch(decision, true);
    decision->response.outcomes = decision->list;
    decision->response.n_outcomes = decision->n_entries;
    decision->response.dry_run = decision->request->dry_run;
    if (!decision->request->dry_run)
        name_receipts(decision);
}

bool evict_decision_may_begin(const struct evict_decision *decision)
{
    return decision->begun || decision->request->dry_run ||
           pool_may_evict(decision->server->pool);
}

/* What was evicted in a turn is told in it. */
bool evict_decision_go_on(struct evict_decision *decision)
{
    struct pool *pool = decision->server->pool;

    if (!decision->begun)
        begin(decision);
    decision->scope = pool_batch_begin(pool, kv_clock_mono_ns());
    if (decide_some(decision)) {
        finish(decision);
        return true;
    }
    if (pool_stats(pool).evictions > decision->scope.before.evictions)
        tell_batch(decision, false);
    return false;
}

bool evict_decision_init(struct evict_decision *decision)
{
    const Kvpool__V1__EvictRequest *request = decision->request;

    kvpool__v1__evict_response__init(&decision->response);
    kvpool__v1__evict_receipts__init(&decision->receipts);
    decision->n_room = request->n_targets;
    /* As many again as may be evicted by one that names no session, and the one
     * more that turns out not to be. */
    for (size_t i = 0; i < request->n_targets; i++)
        if (request->targets[i]->target_case !=
            KVPOOL__V1__EVICT_TARGET__TARGET_SESSION) {
            decision->n_room += decision->limits.max_sessions + 1;
            break;
        }
    decision->entries = kv_calloc(decision->n_room, sizeof *decision->entries);
    decision->list = kv_calloc(decision->n_room, sizeof *decision->list);
    return decision->entries != NULL && decision->list != NULL;
}

void evict_decision_fini(struct evict_decision *decision)
{
    pool_preview_fini(&decision->preview);
    kv_free(decision->list);
    kv_free(decision->entries);
}
