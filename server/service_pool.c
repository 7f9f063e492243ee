/* KvPoolService: Evict, Snapshot, ListSessions, and the refusal of what is not
 * there yet. StreamReceipts has service_receipts.c to itself.
 *
 * An Evict call is decided in one turn of the owner. If it may preempt it waits
 * for the present step first, whose workers touch the blocks of running
 * sessions; at most as long as a step. Its answer then waits until its receipts
 * are released, which is when the blocks have been zeroed. */
#include <assert.h>
#include <stdio.h>
#include <string.h>

#include <openssl/evp.h>

#include "base/clock.h"
#include "base/heap.h"
#include "server/check.h"
#include "server/message.h"
#include "server/server.h"
#include "server/state.h"
#include "server/subscriber_status.h"

#define MAX_TARGETS 256
#define MAX_SESSIONS 10000
#define MAX_PAGE 1000
#define STANDARD_LIST_PAGE 100

static const char anonymous[] = "anonymous";

/* ---- Evict */

/* A call in progress: from its request to its answer. */
struct evict {
    struct server *server;
    struct rpc_call *call;
    Kvpool__V1__EvictRequest *request;
    struct step_errand errand; /* until it is decided */
    struct kv_list link;       /* on evict_calls, until it is answered */
    uint8_t trace_id[16];
    bool has_trace_id;
    uint32_t max_sessions;

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
    uint8_t digest[32];
};

static void free_evict(struct evict *evict)
{
    kv_free(evict->list);
    kv_free(evict->entries);
    kvpool__v1__evict_request__free_unpacked(evict->request, NULL);
    kv_free(evict);
}

static void check_target(
    struct rpc_error *error, size_t i, const Kvpool__V1__EvictTarget *target)
{
    char path[96];

    switch (target->target_case) {
    case KVPOOL__V1__EVICT_TARGET__TARGET_SESSION:
        snprintf(path, sizeof path, "targets[%zu].session", i);
        check_session_key(error, path, target->session);
        break;
    case KVPOOL__V1__EVICT_TARGET__TARGET_TENANT:
        snprintf(path, sizeof path, "targets[%zu].tenant", i);
        check_tenant(error, path, target->tenant);
        break;
    case KVPOOL__V1__EVICT_TARGET__TARGET_ALL:
        break;
    case KVPOOL__V1__EVICT_TARGET__TARGET_PREFIX:
        snprintf(path, sizeof path, "targets[%zu].prefix", i);
        check_unsupported(error, path, true);
        break;
    case KVPOOL__V1__EVICT_TARGET__TARGET_IDLE:
        snprintf(path, sizeof path, "targets[%zu].idle", i);
        check_unsupported(error, path, true);
        break;
    case KVPOOL__V1__EVICT_TARGET__TARGET_BYTES:
        snprintf(path, sizeof path, "targets[%zu].bytes", i);
        check_unsupported(error, path, true);
        break;
    default:
        snprintf(path, sizeof path, "targets[%zu].target", i);
        rpc_error_add_violation(error, path,
            "none was given; allowed is exactly one of session, tenant, all");
    }
}

static void check_evict(struct rpc_error *error, struct evict *evict)
{
    const Kvpool__V1__EvictRequest *request = evict->request;
    uint32_t page_size;

    if (request->n_targets < 1 || request->n_targets > MAX_TARGETS)
        rpc_error_add_violation(error, "targets",
            "%zu were given; allowed are 1 to %d", request->n_targets,
            MAX_TARGETS);
    else
        for (size_t i = 0; i < request->n_targets; i++)
            check_target(error, i, request->targets[i]);
    check_unsupported(error, "request_id", request->request_id[0] != '\0');
    check_unsupported(error, "dry_run", request->dry_run);
    check_unsupported(error, "forget", request->forget);
    check_unsupported(error, "page_token", request->page_token[0] != '\0');
    if (request->wait < 0 ||
        request->wait > KVPOOL__V1__EVICT_WAIT__EVICT_WAIT_APPLIED)
        rpc_error_add_violation(error, "wait",
            "%d was given; allowed are values of EvictWait",
            (int)request->wait);
    page_size = check_count(
        error, "page_size", request->page_size, 1, MAX_PAGE, MAX_PAGE);
    evict->max_sessions = check_count(error, "max_sessions",
        request->max_sessions, 1, MAX_SESSIONS, page_size);
    if (request->max_sessions > page_size &&
        request->max_sessions <= MAX_SESSIONS)
        rpc_error_add_violation(error, "max_sessions",
            "%u was given; allowed without request_id is at most page_size, "
            "which is %u",
            request->max_sessions, page_size);
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

/* Tells the batch so far, with the outcomes in it. */
static void tell_batch(struct evict *evict, bool final)
{
    const struct pool_cause cause = cause_of(evict);
    struct server *server = evict->server;
    Kvpool__V1__EvictCall call = KVPOOL__V1__EVICT_CALL__INIT;

    call.request_digest.data = evict->digest;
    call.request_digest.len = sizeof evict->digest;
    call.requested_by = (char *)anonymous;
    call.number = ++evict->n_batches;
    call.final = final;
    call.outcomes = evict->list + evict->n_told;
    call.n_outcomes = evict->n_entries - evict->n_told;
    recorder_set_call(server->recorder, &call);
    pool_batch_end(server->pool, &evict->scope, &cause, kv_clock_mono_ns());
    evict->n_told = evict->n_entries;
    evict->scope = pool_batch_begin(server->pool, kv_clock_mono_ns());
}

/* Evicts one session; only what became of those that `listed` says is an
 * outcome of its own, the others are counted. */
static void evict_one(struct evict *evict, size_t target,
    struct pool_session *session, bool listed)
{
    struct server *server = evict->server;
    const struct pool_cause cause = cause_of(evict);
    uint64_t before = applied(server);
    struct pool_key key = pool_session_info(server->pool, session).key;
    Kvpool__V1__EvictOutcome *entry = add_outcome(
        evict, target, &key, KVPOOL__V1__EVICT_RESULT__EVICT_RESULT_EVICTED);
    struct pool_outcome outcome = pool_evict_session(server->pool, session,
        &cause, evict->request->preempt, kv_clock_mono_ns());

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
    if (server->recorder != NULL)
        entry->sequence = before + 1;
}

static bool same_key(const struct pool_key *a, const Kvpool__V1__SessionKey *b)
{
    return strlen(b->tenant) == a->tenant_bytes &&
           strlen(b->session_id) == a->id_bytes &&
           memcmp(a->tenant, b->tenant, a->tenant_bytes) == 0 &&
           memcmp(a->id, b->session_id, a->id_bytes) == 0;
}

static bool in_target(
    const struct pool_key *key, const Kvpool__V1__EvictTarget *target)
{
    switch (target->target_case) {
    case KVPOOL__V1__EVICT_TARGET__TARGET_SESSION:
        return same_key(key, target->session);
    case KVPOOL__V1__EVICT_TARGET__TARGET_TENANT:
        return strlen(target->tenant) == key->tenant_bytes &&
               memcmp(target->tenant, key->tenant, key->tenant_bytes) == 0;
    default:
        return true;
    }
}

/* Whether an earlier target has decided this session already. */
static bool decided(
    const struct evict *evict, size_t target, const struct pool_key *key)
{
    for (size_t i = 0; i < target; i++)
        if (in_target(key, evict->request->targets[i]))
            return true;
    return false;
}

/* Whether an earlier target covers all that this one could. */
static bool covered(const struct evict *evict, size_t target)
{
    const Kvpool__V1__EvictTarget *wanted = evict->request->targets[target];

    for (size_t i = 0; i < target; i++) {
        const Kvpool__V1__EvictTarget *earlier = evict->request->targets[i];

        if (earlier->target_case == KVPOOL__V1__EVICT_TARGET__TARGET_ALL ||
            (earlier->target_case == wanted->target_case &&
                wanted->target_case ==
                    KVPOOL__V1__EVICT_TARGET__TARGET_TENANT &&
                strcmp(earlier->tenant, wanted->tenant) == 0))
            return true;
    }
    return false;
}

/* Whether one session more may go in this call. */
static bool may_go_on(const struct evict *evict)
{
    return evict->response.sessions_evicted < evict->max_sessions &&
           pool_may_evict(evict->server->pool);
}

/* A batch receipt has room for so many outcomes; another batch begins then. */
static void make_batch_room(struct evict *evict)
{
    if (evict->n_entries - evict->n_told >= LEDGER_MAX_CALL_OUTCOMES)
        tell_batch(evict, false);
}

static void evict_session(struct evict *evict, size_t target)
{
    const Kvpool__V1__SessionKey *name =
        evict->request->targets[target]->session;
    struct pool_key key = check_pool_key(name->tenant, name->session_id);
    struct pool_session *session = pool_session_find(evict->server->pool, &key);

    if (decided(evict, target, &key))
        return;
    make_batch_room(evict);
    if (session == NULL)
        add_outcome(evict, target, &key,
            KVPOOL__V1__EVICT_RESULT__EVICT_RESULT_NOT_FOUND);
    else if (!may_go_on(evict))
        evict->response.more = true;
    else
        evict_one(evict, target, session, true);
}

static void evict_matching(struct evict *evict, size_t target)
{
    const Kvpool__V1__EvictTarget *wanted = evict->request->targets[target];
    struct pool *pool = evict->server->pool;
    struct pool_key from = check_pool_key(
        wanted->target_case == KVPOOL__V1__EVICT_TARGET__TARGET_TENANT
            ? wanted->tenant
            : "",
        "");
    struct pool_session *session = pool_session_after(pool, &from);
    bool is_covered = covered(evict, target);
    struct state_place place;
    bool matched = false;

    while (session != NULL) {
        struct pool_session_info info = pool_session_info(pool, session);

        if (!in_target(&info.key, wanted))
            break;
        matched = true;
        if (is_covered) /* and there is no second walk over all sessions */
            break;
        /* Evicting may make this session go, and others, so the next one is
         * found by a copy of the name. */
        state_place_copy(&place, &info.key);
        if (info.n_blocks > 0 && !decided(evict, target, &info.key)) {
            if (!may_go_on(evict)) {
                evict->response.more = true;
                break;
            }
            make_batch_room(evict);
            evict_one(evict, target, session, false);
        }
        session = pool_session_after(pool, &place.key);
    }
    if (!matched) {
        make_batch_room(evict);
        add_outcome(evict, target, NULL,
            KVPOOL__V1__EVICT_RESULT__EVICT_RESULT_NOT_FOUND);
    }
}

static void answer(struct evict *evict)
{
    kv_list_remove(&evict->link);
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

/* Says which receipts there are, and answers now or when they are durable. */
static void finish_evict(struct evict *evict, uint64_t first_sequence)
{
    struct ledger_position *position = &evict->position;
    bool durable;

    kv_list_append(&evict->server->evict_calls, &evict->link);
    if (!recorder_position(evict->server->recorder, position)) {
        answer_off(evict);
        return;
    }
    durable = position->durable_sequence >= position->applied_sequence;
    kvpool__v1__evict_receipts__init(&evict->receipts);
    evict->receipts.first_sequence = first_sequence;
    evict->receipts.last_sequence = position->applied_sequence;
    evict->receipts.epoch = position->epoch;
    evict->receipts.pool_id.data = position->pool_id;
    evict->receipts.pool_id.len = sizeof position->pool_id;
    evict->receipts.durable =
        durable ||
        evict->request->wait != KVPOOL__V1__EVICT_WAIT__EVICT_WAIT_APPLIED;
    evict->response.receipts = &evict->receipts;
    evict->response.issued_case = KVPOOL__V1__EVICT_RESPONSE__ISSUED_RECEIPTS;
    if (durable || !evict->receipts.durable)
        answer(evict);
}

/* Nothing has been touched. */
static void refuse_unrecorded(struct evict *evict)
{
    struct rpc_error error;

    recorder_refuse(evict->server->recorder, &error);
    rpc_call_fail(evict->call, &error);
    free_evict(evict);
}

static void decide(struct step_errand *errand)
{
    struct evict *evict = KV_LIST_ENTRY(errand, struct evict, errand);
    const Kvpool__V1__EvictRequest *request = evict->request;
    uint64_t first_sequence = applied(evict->server) + 1;

    if (!pool_may_evict(evict->server->pool)) {
        refuse_unrecorded(evict);
        return;
    }
    kvpool__v1__evict_response__init(&evict->response);
    evict->scope = pool_batch_begin(evict->server->pool, kv_clock_mono_ns());
    for (size_t i = 0; i < request->n_targets; i++)
        if (request->targets[i]->target_case ==
            KVPOOL__V1__EVICT_TARGET__TARGET_SESSION)
            evict_session(evict, i);
        else
            evict_matching(evict, i);
    tell_batch(evict, true);
    evict->response.outcomes = evict->list;
    evict->response.n_outcomes = evict->n_entries;
    finish_evict(evict, first_sequence);
}

/* SHA-256 of the request without its id and paging. The server's context knows
 * its algorithm: OpenSSL takes longer to find one than to digest a request. */
static void digest_request(struct server *server,
    const Kvpool__V1__EvictRequest *request, uint8_t digest[32])
{
    Kvpool__V1__EvictRequest bare = *request;
    struct rpc_bytes bytes;

    bare.request_id = (char *)"";
    bare.page_token = (char *)"";
    bare.page_size = 0;
    memset(digest, 0, 32);
    if (!message_encode(&bare.base, &bytes))
        return;
    if (EVP_DigestInit_ex(server->sha256, NULL, NULL) != 1 ||
        EVP_DigestUpdate(server->sha256, bytes.data, bytes.n) != 1 ||
        EVP_DigestFinal_ex(server->sha256, digest, NULL) != 1)
        memset(digest, 0, 32);
    bytes.release(bytes.ctx);
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
            evict->n_room += evict->max_sessions + 1;
            break;
        }
    evict->entries = kv_calloc(evict->n_room, sizeof *evict->entries);
    evict->list = kv_calloc(evict->n_room, sizeof *evict->list);
    return evict->entries != NULL && evict->list != NULL;
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
        check_evict(&error, evict);
    if (error.n_violations > 0) {
        rpc_call_fail(call, &error);
        free_evict(evict);
        return;
    }
    if (!make_room(evict)) {
        message_fail_no_memory(call);
        free_evict(evict);
        return;
    }
    evict->has_trace_id = trace_id != NULL;
    if (trace_id != NULL)
        memcpy(evict->trace_id, trace_id, sizeof evict->trace_id);
    digest_request(server, evict->request, evict->digest);
    evict->errand.run = decide;
    if (evict->request->preempt)
        step_between(server->step, &evict->errand);
    else
        decide(&evict->errand);
    step_settle(server->step);
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

/* ---- Snapshot */

static bool has_section(const Kvpool__V1__SnapshotRequest *request,
    Kvpool__V1__SnapshotSection section)
{
    for (size_t i = 0; i < request->n_sections; i++)
        if (request->sections[i] == section)
            return true;
    return false;
}

static void check_snapshot(
    struct rpc_error *error, const Kvpool__V1__SnapshotRequest *request)
{
    bool sessions = has_section(
        request, KVPOOL__V1__SNAPSHOT_SECTION__SNAPSHOT_SECTION_SESSIONS);
    char path[32];

    for (size_t i = 0; i < request->n_sections &&
                       error->n_violations < RPC_ERROR_MAX_VIOLATIONS;
         i++) {
        snprintf(path, sizeof path, "sections[%zu]", i);
        check_section(error, path, request->sections[i]);
    }
    check_unsupported(error, "block_map", request->block_map != NULL);
    if (request->sessions == NULL)
        return;
    if (!sessions)
        rpc_error_add_violation(error, "sessions",
            "a query was given; allowed with section SESSIONS only");
    check_session_filter(error, "sessions.filter", request->sessions->filter);
    check_session_order(error, "sessions.order", request->sessions->order);
    check_count(error, "sessions.page_size", request->sessions->page_size, 1,
        MAX_PAGE, STANDARD_LIST_PAGE);
}

/* What the request's sections add to the totals. */
struct sections {
    struct state_page page;
    struct subscriber_status_list subscribers;
};

static enum kv_status fill_sections(struct sections *sections,
    Kvpool__V1__PoolSnapshot *snapshot, struct server *server,
    const Kvpool__V1__SnapshotRequest *request)
{
    const Kvpool__V1__SessionQuery *query = request->sessions;
    enum kv_status status = KV_OK;

    if (has_section(
            request, KVPOOL__V1__SNAPSHOT_SECTION__SNAPSHOT_SECTION_SESSIONS)) {
        status = state_page_fill(&sections->page, server,
            query != NULL ? query->filter : NULL,
            query != NULL && query->page_size > 0 ? query->page_size
                                                  : STANDARD_LIST_PAGE,
            NULL);
        snapshot->sessions = sections->page.list;
        snapshot->n_sessions = sections->page.n;
        snapshot->sessions_next_page_token = sections->page.next_token;
    }
    if (status == KV_OK &&
        has_section(request,
            KVPOOL__V1__SNAPSHOT_SECTION__SNAPSHOT_SECTION_SUBSCRIBERS)) {
        status = subscriber_status_fill(&sections->subscribers, server);
        snapshot->subscribers = sections->subscribers.list;
        snapshot->n_subscribers = sections->subscribers.n;
    }
    return status;
}

static void reply_snapshot(struct server *server, struct rpc_call *call,
    const Kvpool__V1__SnapshotRequest *request)
{
    Kvpool__V1__SnapshotResponse response = KVPOOL__V1__SNAPSHOT_RESPONSE__INIT;
    struct sections sections = {.page = {.n = 0}, .subscribers = {.n = 0}};
    struct state state;

    state_fill(&state, server);
    response.snapshot = &state.snapshot;
    if (fill_sections(&sections, &state.snapshot, server, request) == KV_OK)
        message_reply(call, &response.base);
    else
        message_fail_no_memory(call);
    subscriber_status_fini(&sections.subscribers);
    state_page_fini(&sections.page);
}

static void on_snapshot(void *ctx, struct rpc_call *call,
    const unsigned char *bytes, size_t n_bytes)
{
    struct rpc_error error;
    Kvpool__V1__SnapshotRequest *request =
        (Kvpool__V1__SnapshotRequest *)message_parse(
            &kvpool__v1__snapshot_request__descriptor, bytes, n_bytes, &error);

    if (request != NULL)
        check_snapshot(&error, request);
    if (error.n_violations > 0)
        rpc_call_fail(call, &error);
    else
        reply_snapshot(ctx, call, request);
    kvpool__v1__snapshot_request__free_unpacked(request, NULL);
}

/* ---- ListSessions */

static void reply_list(struct server *server, struct rpc_call *call,
    const Kvpool__V1__ListSessionsRequest *request,
    const struct pool_key *after)
{
    Kvpool__V1__ListSessionsResponse response =
        KVPOOL__V1__LIST_SESSIONS_RESPONSE__INIT;
    uint32_t page_size =
        request->page_size > 0 ? request->page_size : STANDARD_LIST_PAGE;
    struct state_stamp stamp;
    struct state_page page;

    if (state_page_fill(&page, server, request->filter, page_size, after) !=
        KV_OK) {
        message_fail_no_memory(call);
    } else {
        response.sessions = page.list;
        response.n_sessions = page.n;
        response.next_page_token = page.next_token;
        if (state_stamp(server, &stamp))
            response.stamp = &stamp.stamp;
        message_reply(call, &response.base);
    }
    state_page_fini(&page);
}

static void refuse_page_token(struct rpc_error *error)
{
    rpc_error_init(error, RPC_INVALID_ARGUMENT, "PAGE_TOKEN_INVALID", "%s", "");
    rpc_error_add_violation(error, "page_token",
        "damaged, of another epoch, or of another request; allowed is the "
        "next_page_token of the page before");
}

static void on_list_sessions(void *ctx, struct rpc_call *call,
    const unsigned char *bytes, size_t n_bytes)
{
    struct rpc_error error;
    struct state_place place;
    Kvpool__V1__ListSessionsRequest *request =
        (Kvpool__V1__ListSessionsRequest *)message_parse(
            &kvpool__v1__list_sessions_request__descriptor, bytes, n_bytes,
            &error);
    bool first = request == NULL || request->page_token[0] == '\0';

    if (request != NULL) {
        check_count(&error, "page_size", request->page_size, 1, MAX_PAGE,
            STANDARD_LIST_PAGE);
        check_session_filter(&error, "filter", request->filter);
        check_session_order(&error, "order", request->order);
    }
    if (error.n_violations == 0 && !first &&
        !state_place_parse(ctx, request->page_token, request->filter, &place))
        refuse_page_token(&error);
    if (error.code != RPC_OK)
        rpc_call_fail(call, &error);
    else
        reply_list(ctx, call, request, first ? NULL : &place.key);
    kvpool__v1__list_sessions_request__free_unpacked(request, NULL);
}

/* ---- what is part of the contract and not there */

static void on_unsupported(void *ctx, struct rpc_call *call,
    const unsigned char *bytes, size_t n_bytes)
{
    const char *rpc = ctx;
    struct rpc_error error;

    (void)bytes;
    (void)n_bytes;
    rpc_error_init(&error, RPC_UNIMPLEMENTED, "RPC_NOT_SUPPORTED",
        "this server does not have %s", rpc);
    rpc_error_add_metadata(&error, "rpc", "%s", rpc);
    rpc_call_fail(call, &error);
}

enum kv_status service_pool_add(struct server *server)
{
#define PATH "/kvpool.v1.KvPoolService/"
    const struct rpc_method methods[] = {
        {PATH "Evict", RPC_UNARY, on_evict, server},
        {PATH "Snapshot", RPC_UNARY, on_snapshot, server},
        {PATH "ListSessions", RPC_UNARY, on_list_sessions, server},
        {PATH "SetRetention", RPC_UNARY, on_unsupported,
            (void *)"SetRetention"},
    };
#undef PATH
    enum kv_status status = KV_OK;

    kv_list_init(&server->evict_calls);
    server->evict_watcher.on_durable = on_durable;
    recorder_watch(server->recorder, &server->evict_watcher);
    server->sha256 = EVP_MD_CTX_new();
    if (server->sha256 == NULL ||
        EVP_DigestInit_ex(server->sha256, EVP_sha256(), NULL) != 1)
        return KV_NO_MEMORY;
    for (size_t i = 0; i < sizeof methods / sizeof *methods; i++)
        if (status == KV_OK)
            status = rpc_server_add_method(server->rpc, &methods[i]);
    return status;
}

void service_pool_close(struct server *server)
{
    EVP_MD_CTX_free(server->sha256);
}
