/* Evict: who loses blocks, what is answered, and what is remembered.
 *
 * An Evict call is decided in turns of the owner, each of bounded time, between
 * which the loop turns; nearly always one is enough. Each tells a batch of what
 * it evicted, and the last one ends the call. If it may preempt, a turn waits
 * for the present step first, whose workers touch the blocks of running
 * sessions; at most as long as a step. The answer then waits until the receipts
 * are released, which is when the blocks have been zeroed.
 *
 * A call with a request_id is remembered (receipts/calls.h) and answered out of
 * that memory, the first time as well as when it is repeated:
 *
 *   first   begin ──> decide ──┬──> page by page, once its receipts are durable
 *   repeat  waits for that ────┘
 */
#include <assert.h>
#include <string.h>

#include <openssl/evp.h>

#include "base/clock.h"
#include "base/heap.h"
#include "server/check.h"
#include "server/evict_check.h"
#include "server/evict_page.h"
#include "server/evict_walk.h"
#include "server/message.h"
#include "server/server.h"
#include "server/state.h"

/* How long a turn may be: what others on this thread wait for a call that has
 * many sessions to look at. */
#define TURN_NS KV_NS_PER_MS

static const char anonymous[] = "anonymous";

/* A call in progress: from its request to its answer. */
struct evict {
    struct server *server;
    struct rpc_call *call;
    Kvpool__V1__EvictRequest *request;
    struct step_errand errand; /* until it is decided, */
    struct rpc_post turn;      /* from turn to turn */
    struct evict_walk walk;
    bool begun;
    struct kv_list link; /* on evict_calls, until it is answered; or
                            on evict_repeats before */
    uint8_t trace_id[16];
    bool has_trace_id;
    struct evict_limits limits;
    struct call *known; /* NULL: it has no request_id */
    size_t page_begin;
    bool repeats; /* known, and another decides or has decided it */

    Kvpool__V1__EvictResponse response;
    Kvpool__V1__EvictReceipts receipts;
    Kvpool__V1__ReceiptsOff receipts_off;
    struct ledger_position position; /* what receipts points into */
    /* One for each session that could be evicted, and each target. */
    struct evict_entry {
        Kvpool__V1__EvictOutcome outcome;
        Kvpool__V1__SessionKey key;
        char tenant[POOL_NAME_BYTES + 1], id[POOL_NAME_BYTES + 1];
    } * entries;
    Kvpool__V1__EvictOutcome **list;
    size_t n_entries, n_room;
    struct pool_batch_scope scope; /* of the batch being told */
    size_t n_told;                 /* entries in batches before it */
    uint32_t n_batches;
    uint64_t first_sequence; /* of its receipts; 0: none so far */
    uint8_t digest[32];
};

static void free_evict(struct evict *evict)
{
    call_release(evict->known);
    kv_free(evict->list);
    kv_free(evict->entries);
    kvpool__v1__evict_request__free_unpacked(evict->request, NULL);
    kv_free(evict);
}

static bool is_named(const struct evict *evict, size_t target)
{
    return evict->request->targets[target]->target_case ==
           KVPOOL__V1__EVICT_TARGET__TARGET_SESSION;
}

static Kvpool__V1__EvictOutcome *add_outcome(struct evict *evict, size_t target,
    const struct pool_key *key, Kvpool__V1__EvictResult result)
{
    struct evict_entry *entry = &evict->entries[evict->n_entries];

    assert(evict->n_entries < evict->n_room);
    kvpool__v1__evict_outcome__init(&entry->outcome);
    entry->outcome.target = (uint32_t)target;
    entry->outcome.result = result;
    if (key != NULL) {
        kvpool__v1__session_key__init(&entry->key);
        memcpy(entry->tenant, key->tenant, key->tenant_bytes);
        memcpy(entry->id, key->id, key->id_bytes);
        entry->key.tenant = entry->tenant;
        entry->key.session_id = entry->id;
        entry->outcome.session = &entry->key;
    }
    evict->list[evict->n_entries++] = &entry->outcome;
    return &entry->outcome;
}

static struct pool_cause cause_of(const struct evict *evict)
{
    return (struct pool_cause){
        .reason = POOL_REASON_MANUAL,
        .requested_by = anonymous,
        .trace_id = evict->has_trace_id ? evict->trace_id : NULL,
        .forget = evict->request->forget,
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
static void note_first(struct evict *evict, uint64_t sequence)
{
    if (evict->first_sequence == 0)
        evict->first_sequence = sequence;
}

/* Tells the batch so far, with the outcomes in it. */
static void tell_batch(struct evict *evict, bool final)
{
    const struct pool_cause cause = cause_of(evict);
    struct server *server = evict->server;
    Kvpool__V1__EvictCall call = KVPOOL__V1__EVICT_CALL__INIT;

    if (evict->request->dry_run)
        return;
    call.request_id = evict->request->request_id;
    call.request_digest.data = evict->digest;
    call.request_digest.len = sizeof evict->digest;
    call.requested_by = (char *)anonymous;
    call.number = ++evict->n_batches;
    call.final = final;
    call.outcomes = evict->list + evict->n_told;
    call.n_outcomes = evict->n_entries - evict->n_told;
    if (final) {
        call.more = evict->response.more;
        call.sessions_held = evict->response.sessions_held;
        call.sessions_busy = evict->response.sessions_busy;
    }
    note_first(evict, applied(server) + 1);
    recorder_set_call(server->recorder, &call);
    pool_batch_end(server->pool, &evict->scope, &cause, kv_clock_mono_ns());
    evict->n_told = evict->n_entries;
    evict->scope = pool_batch_begin(server->pool, kv_clock_mono_ns());
}

/* Evicts one session. Only evictions are outcomes of their own, where the
 * target does not name the session; the others are counted. */
static void evict_one(
    struct evict *evict, size_t target, struct pool_session *session)
{
    bool listed = is_named(evict, target);
    struct server *server = evict->server;
    const struct pool_cause cause = cause_of(evict);
    uint64_t before = applied(server);
    struct pool_key key = pool_session_info(server->pool, session).key;
    Kvpool__V1__EvictOutcome *entry = add_outcome(
        evict, target, &key, KVPOOL__V1__EVICT_RESULT__EVICT_RESULT_EVICTED);
    bool preempt = evict->request->preempt;
    struct pool_outcome outcome =
        evict->request->dry_run
            ? pool_evict_preview(server->pool, session, preempt, cause.forget)
            : pool_evict_session(
                  server->pool, session, &cause, preempt, kv_clock_mono_ns());

    evict_walk_decided(&evict->walk, target, outcome.bytes_freed);
    evict->response.sessions_held += outcome.result == POOL_PINNED;
    evict->response.sessions_busy += outcome.result == POOL_EVICT_BUSY;
    if (outcome.result != POOL_EVICTED && !listed) {
        evict->n_entries--;
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
    evict->response.sessions_evicted++;
    evict->response.bytes_freed += outcome.bytes_freed;
    if (server->recorder == NULL || evict->request->dry_run)
        return;
    entry->sequence = before + 1;
    note_first(evict, entry->sequence);
}

/* Whether this call has an outcome of the session: what was taken for its bytes
 * is nobody's that a later target names. */
static bool is_listed(const struct evict *evict, const struct pool_key *key)
{
    for (size_t i = 0; i < evict->n_entries; i++) {
        const struct evict_entry *entry = &evict->entries[i];

        if (entry->outcome.session != NULL &&
            strlen(entry->id) == key->id_bytes &&
            memcmp(entry->id, key->id, key->id_bytes) == 0 &&
            strlen(entry->tenant) == key->tenant_bytes &&
            memcmp(entry->tenant, key->tenant, key->tenant_bytes) == 0)
            return true;
    }
    return false;
}

/* Whether one session more may go in this call. */
static bool may_go_on(const struct evict *evict)
{
    return evict->response.sessions_evicted < evict->limits.max_sessions &&
           pool_may_evict(evict->server->pool);
}

/* A batch receipt has room for so many outcomes; another batch begins then. */
static void make_batch_room(struct evict *evict)
{
    if (evict->n_entries - evict->n_told >= LEDGER_MAX_CALL_OUTCOMES)
        tell_batch(evict, false);
}

static void miss_one(struct evict *evict, size_t target)
{
    const Kvpool__V1__SessionKey *name =
        evict->request->targets[target]->session;
    struct pool_key key;

    make_batch_room(evict);
    if (!is_named(evict, target)) {
        add_outcome(evict, target, NULL,
            KVPOOL__V1__EVICT_RESULT__EVICT_RESULT_NOT_FOUND);
        return;
    }
    key = check_pool_key(name->tenant, name->session_id);
    if (!is_listed(evict, &key))
        add_outcome(evict, target, &key,
            KVPOOL__V1__EVICT_RESULT__EVICT_RESULT_NOT_FOUND);
}

/* A session without blocks goes at once, and nobody else has to: it needs
 * neither a receipt nor a place among those that may be evicted. */
static void decide_one(
    struct evict *evict, size_t target, struct pool_session *session)
{
    struct pool_session_info info = pool_session_glance(session);

    if ((is_named(evict, target) || evict->request->dry_run) &&
        is_listed(evict, &info.key))
        return;
    if ((is_named(evict, target) || info.n_blocks > 0) && !may_go_on(evict)) {
        evict->response.more = true;
        evict_walk_skip(&evict->walk, target);
        return;
    }
    make_batch_room(evict);
    evict_one(evict, target, session);
}

/* Decides until the time of this turn is over. Whether it came to the end. */
static bool decide_some(struct evict *evict)
{
    int64_t end_ns = kv_clock_mono_ns() + TURN_NS;
    struct pool_session *session = NULL;
    size_t target = 0;

    do {
        switch (evict_walk_next(&evict->walk, &target, &session)) {
        case EVICT_WALK_SESSION:
            decide_one(evict, target, session);
            break;
        case EVICT_WALK_MISSING:
            miss_one(evict, target);
            break;
        case EVICT_WALK_ON:
            break;
        case EVICT_WALK_END:
            return true;
        }
    } while (kv_clock_mono_ns() < end_ns);
    return false;
}

/* The page of a remembered call that the request asks for. */
static void reply_page(struct evict *evict)
{
    const struct call *known = evict->known;
    Kvpool__V1__EvictResponse *page =
        call_page(known, evict->page_begin, evict->limits.page_size);
    char token[EVICT_PAGE_TOKEN_BYTES];
    size_t end;

    if (page == NULL) {
        message_fail_no_memory(evict->call);
        return;
    }
    evict->response.outcomes = page->outcomes;
    evict->response.n_outcomes = page->n_outcomes;
    end = evict->page_begin + page->n_outcomes;
    if (end < known->n_outcomes) {
        evict_page_token(token, known->digest, evict->request->request_id, end);
        evict->response.next_page_token = token;
    }
    message_reply(evict->call, &evict->response.base);
    kvpool__v1__evict_response__free_unpacked(page, NULL);
}

static void answer(struct evict *evict)
{
    kv_list_remove(&evict->link);
    if (evict->known != NULL)
        reply_page(evict);
    else
        message_reply(evict->call, &evict->response.base);
    free_evict(evict);
}

static void answer_off(struct evict *evict)
{
    kvpool__v1__receipts_off__init(&evict->receipts_off);
    evict->receipts_off.option = (char *)recorder_off_switch();
    evict->response.receipts_off = &evict->receipts_off;
    evict->response.issued_case =
        KVPOOL__V1__EVICT_RESPONSE__ISSUED_RECEIPTS_OFF;
    answer(evict);
}

/* The journal has failed: receipts that are not durable never will be. */
static void answer_unkept(struct evict *evict)
{
    struct rpc_error error;

    kv_list_remove(&evict->link);
    recorder_refuse(evict->server->recorder, &error);
    rpc_error_add_metadata(&error, "evicted", "true");
    rpc_call_fail(evict->call, &error);
    free_evict(evict);
}

/* Which receipts the decision just made has. */
static void name_receipts(struct evict *evict)
{
    struct ledger_position position;

    kvpool__v1__evict_receipts__init(&evict->receipts);
    if (!recorder_position(evict->server->recorder, &position))
        return;
    evict->receipts.first_sequence = evict->first_sequence;
    evict->receipts.last_sequence = position.applied_sequence;
    evict->receipts.epoch = position.epoch;
}

/* Says which receipts there are, and answers now or when they are durable. */
static void finish_evict(struct evict *evict)
{
    struct ledger_position *position = &evict->position;
    bool durable;

    kv_list_append(&evict->server->evict_calls, &evict->link);
    if (!recorder_position(evict->server->recorder, position)) {
        answer_off(evict);
        return;
    }
    durable = position->durable_sequence >= evict->receipts.last_sequence;
    evict->receipts.pool_id.data = position->pool_id;
    evict->receipts.pool_id.len = sizeof position->pool_id;
    evict->receipts.durable =
        durable ||
        evict->request->wait != KVPOOL__V1__EVICT_WAIT__EVICT_WAIT_APPLIED;
    evict->response.receipts = &evict->receipts;
    evict->response.issued_case = KVPOOL__V1__EVICT_RESPONSE__ISSUED_RECEIPTS;
    if (durable || !evict->receipts.durable)
        answer(evict);
    else if (recorder_state(evict->server->recorder) == LEDGER_FAILED)
        answer_unkept(evict);
}

/* Nothing has been touched, by this call or by whoever repeats it. */
static void refuse_one(struct evict *evict)
{
    struct rpc_error error;

    recorder_refuse(evict->server->recorder, &error);
    rpc_call_fail(evict->call, &error);
    free_evict(evict);
}

static void refuse_unrecorded(struct evict *evict)
{
    struct server *server = evict->server;
    struct call *known = evict->known;

    evict->known = NULL;
    refuse_one(evict);
    if (known == NULL)
        return;
    KV_LIST_EACH (link, &server->evict_repeats) {
        struct evict *repeat = KV_LIST_ENTRY(link, struct evict, link);

        if (repeat->known != known)
            continue;
        kv_list_remove(&repeat->link);
        refuse_one(repeat);
    }
    calls_abandon(server->calls, known);
}

/* ---- the same request again */

/* What was remembered is what is answered. */
static void finish_repeat(struct evict *evict)
{
    const struct call *known = evict->known;

    kvpool__v1__evict_response__init(&evict->response);
    kvpool__v1__evict_receipts__init(&evict->receipts);
    evict->response.sessions_evicted = known->sessions_evicted;
    evict->response.bytes_freed = known->bytes_freed;
    evict->response.sessions_held = known->sessions_held;
    evict->response.sessions_busy = known->sessions_busy;
    evict->response.more = known->more;
    evict->response.replayed = true;
    evict->receipts.first_sequence = known->first_sequence;
    evict->receipts.last_sequence = known->last_sequence;
    evict->receipts.epoch = known->epoch;
    finish_evict(evict);
}

/* Those that came while the first was undecided. */
static void finish_repeats(struct server *server, const struct call *known)
{
    KV_LIST_EACH (link, &server->evict_repeats) {
        struct evict *evict = KV_LIST_ENTRY(link, struct evict, link);

        if (evict->known != known)
            continue;
        kv_list_remove(&evict->link);
        finish_repeat(evict);
    }
}

static void refuse_reuse(struct rpc_error *error)
{
    rpc_error_init(error, RPC_INVALID_ARGUMENT, "REQUEST_ID_REUSED", "%s", "");
    rpc_error_add_violation(error, "request_id",
        "given before with another request; allowed is an id of its own, or "
        "the same request again");
}

/* Finds the call that this repeats, or begins one. Not KV_OK: *error says why,
 * but for KV_NO_MEMORY. */
static enum kv_status look_up(struct evict *evict, struct rpc_error *error)
{
    const Kvpool__V1__EvictRequest *request = evict->request;
    struct calls *calls = evict->server->calls;
    struct call *known =
        calls_find(calls, anonymous, request->request_id, kv_clock_wall_ns());

    if (known != NULL &&
        memcmp(known->digest, evict->digest, sizeof evict->digest) != 0) {
        refuse_reuse(error);
        return KV_INVALID;
    }
    if (request->page_token[0] != '\0' &&
        (known == NULL || !evict_page_parse(request->page_token, evict->digest,
                              request->request_id, &evict->page_begin))) {
        check_fail_page_token(error);
        return KV_INVALID;
    }
    if (known == NULL)
        return calls_begin(calls, anonymous, request->request_id, evict->digest,
            evict->n_room, &evict->known);
    call_retain(known);
    evict->known = known;
    evict->repeats = true;
    return KV_OK;
}

/* ---- the decision */

/* Whoever repeats the request, now or later, gets this answer. */
static void remember(struct evict *evict)
{
    if (evict->known == NULL)
        return;
    calls_decide(evict->server->calls, evict->known, &evict->response,
        &evict->receipts, kv_clock_wall_ns());
    finish_repeats(evict->server, evict->known);
}

static void finish_decision(struct evict *evict)
{
    tell_batch(evict, true);
    evict->response.outcomes = evict->list;
    evict->response.n_outcomes = evict->n_entries;
    if (evict->request->dry_run) {
        evict->response.dry_run = true;
        kv_list_append(&evict->server->evict_calls, &evict->link);
        answer(evict);
        return;
    }
    name_receipts(evict);
    remember(evict);
    finish_evict(evict);
}

static void begin_decision(struct evict *evict)
{
    kvpool__v1__evict_response__init(&evict->response);
    evict_walk_init(
        &evict->walk, evict->server->pool, evict->request, kv_clock_mono_ns());
    evict->begun = true;
}

/* A turn of it. What was evicted in it is told in it. */
static void decide(struct step_errand *errand)
{
    struct evict *evict = KV_LIST_ENTRY(errand, struct evict, errand);
    struct pool *pool = evict->server->pool;

    if (!evict->begun && !evict->request->dry_run && !pool_may_evict(pool)) {
        refuse_unrecorded(evict);
        return;
    }
    if (!evict->begun)
        begin_decision(evict);
    evict->scope = pool_batch_begin(pool, kv_clock_mono_ns());
    if (decide_some(evict)) {
        finish_decision(evict);
        return;
    }
    if (pool_stats(pool).evictions > evict->scope.n_evictions)
        tell_batch(evict, false);
    rpc_loop_post(evict->server->loop, &evict->turn);
}

/* Whose blocks a step touches is not to be preempted while it does. */
static void take_turn(struct evict *evict)
{
    struct step *step = evict->server->step;

    if (evict->request->preempt && !evict->request->dry_run)
        step_between(step, &evict->errand);
    else
        decide(&evict->errand);
    step_settle(step);
}

static void on_turn(struct rpc_post *post)
{
    take_turn(KV_LIST_ENTRY(post, struct evict, turn));
}

/* SHA-256 of the request without its id and paging; false: no memory. The
 * server's context knows its algorithm: OpenSSL takes longer to find one than
 * to digest a request. */
static bool digest_request(struct server *server,
    const Kvpool__V1__EvictRequest *request, uint8_t digest[32])
{
    Kvpool__V1__EvictRequest bare = *request;
    struct rpc_bytes bytes;
    bool done;

    bare.request_id = (char *)"";
    bare.page_token = (char *)"";
    bare.page_size = 0;
    if (!message_encode(&bare.base, &bytes))
        return false;
    done = EVP_DigestInit_ex(server->sha256, NULL, NULL) == 1 &&
           EVP_DigestUpdate(server->sha256, bytes.data, bytes.n) == 1 &&
           EVP_DigestFinal_ex(server->sha256, digest, NULL) == 1;
    bytes.release(bytes.ctx);
    return done;
}

static bool make_room(struct evict *evict)
{
    const Kvpool__V1__EvictRequest *request = evict->request;

    evict->n_room = request->n_targets;
    /* As many again as may be evicted by one that names no session, and the one
     * more that turns out not to be. */
    for (size_t i = 0; i < request->n_targets; i++)
        if (request->targets[i]->target_case !=
            KVPOOL__V1__EVICT_TARGET__TARGET_SESSION) {
            evict->n_room += evict->limits.max_sessions + 1;
            break;
        }
    evict->entries = kv_calloc(evict->n_room, sizeof *evict->entries);
    evict->list = kv_calloc(evict->n_room, sizeof *evict->list);
    return evict->entries != NULL && evict->list != NULL;
}

/* A call that may be decided, or repeats one. */
static void begin_evict(struct evict *evict)
{
    const Kvpool__V1__EvictRequest *request = evict->request;
    struct server *server = evict->server;
    struct rpc_error error = {.code = RPC_OK};
    enum kv_status status = KV_OK;

    if (request->request_id[0] != '\0' && !request->dry_run)
        status = look_up(evict, &error);
    if (status == KV_NO_MEMORY)
        message_fail_no_memory(evict->call);
    else if (status != KV_OK)
        rpc_call_fail(evict->call, &error);
    if (status != KV_OK) {
        free_evict(evict);
        return;
    }
    if (evict->repeats) {
        if (evict->known->decided)
            finish_repeat(evict);
        else
            kv_list_append(&server->evict_repeats, &evict->link);
        return;
    }
    evict->errand.run = decide;
    evict->turn.run = on_turn;
    take_turn(evict);
}

static void on_evict(void *ctx, struct rpc_call *call,
    const unsigned char *bytes, size_t n_bytes)
{
    struct server *server = ctx;
    struct evict *evict = kv_calloc(1, sizeof *evict);
    const uint8_t *trace_id = rpc_call_trace_id(call);
    struct rpc_error error;

    if (evict == NULL) {
        message_fail_no_memory(call);
        return;
    }
    evict->server = server;
    evict->call = call;
    evict->request = (Kvpool__V1__EvictRequest *)message_parse(
        &kvpool__v1__evict_request__descriptor, bytes, n_bytes, &error);
    if (evict->request != NULL)
        evict_check(&error, evict->request, &evict->limits);
    if (error.n_violations > 0) {
        rpc_call_fail(call, &error);
        free_evict(evict);
        return;
    }
    if (!make_room(evict) ||
        !digest_request(server, evict->request, evict->digest)) {
        message_fail_no_memory(call);
        free_evict(evict);
        return;
    }
    evict->has_trace_id = trace_id != NULL;
    if (trace_id != NULL)
        memcpy(evict->trace_id, trace_id, sizeof evict->trace_id);
    begin_evict(evict);
}

static void on_durable(struct ledger_watcher *watcher)
{
    struct server *server =
        KV_LIST_ENTRY(watcher, struct server, evict_watcher);
    struct ledger_position position;

    recorder_position(server->recorder, &position);
    KV_LIST_EACH (link, &server->evict_calls) {
        struct evict *evict = KV_LIST_ENTRY(link, struct evict, link);

        if (evict->receipts.last_sequence <= position.durable_sequence)
            answer(evict);
        else if (recorder_state(server->recorder) == LEDGER_FAILED)
            answer_unkept(evict);
    }
}

enum kv_status service_evict_add(struct server *server)
{
    const struct rpc_method method = {
        "/kvpool.v1.KvPoolService/Evict", RPC_UNARY, on_evict, server};

    kv_list_init(&server->evict_calls);
    kv_list_init(&server->evict_repeats);
    server->evict_watcher.on_durable = on_durable;
    recorder_watch(server->recorder, &server->evict_watcher);
    server->sha256 = EVP_MD_CTX_new();
    if (server->sha256 == NULL ||
        EVP_DigestInit_ex(server->sha256, EVP_sha256(), NULL) != 1)
        return KV_NO_MEMORY;
    return rpc_server_add_method(server->rpc, &method);
}

void service_evict_close(struct server *server)
{
    EVP_MD_CTX_free(server->sha256);
}
