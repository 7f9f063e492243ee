/* InferenceService.Generate.
 *
 *   request ─> checked ─> tokenised ─> submitted ─> (generate.h) ─> end
 *
 * A long text is tokenised by another thread, and only then looked at again.
 * Whatever is refused is refused before the session is touched. */
#include "server/generate.h"

#include <inttypes.h>
#include <string.h>

#include "base/clock.h"
#include "base/heap.h"
#include "server/check.h"
#include "server/message.h"
#include "server/pool_exhausted.h"
#include "server/quotas.h"
#include "server/retention.h"
#include "server/work.h"

/* ---- what is refused */

static void fail_too_long(const struct server *server,
    const Kvpool__V1__GenerateRequest *message, uint64_t n_tokens,
    bool at_least, struct rpc_error *error)
{
    uint64_t most = scheduler_max_tokens(server->scheduler);
    bool context = most == server->model->shape.n_context;

    rpc_error_init(error, RPC_INVALID_ARGUMENT, "PROMPT_TOO_LONG", "%s", "");
    rpc_error_add_violation(error,
        message->input_case == KVPOOL__V1__GENERATE_REQUEST__INPUT_TOKENS
            ? "tokens.ids"
            : "text",
        "conversation and input are %s%" PRIu64 " tokens; allowed are %" PRIu64
        ", by the %s",
        at_least ? "at least " : "", n_tokens, most - 1,
        context ? "model's context" : "size of the pool");
    rpc_error_add_metadata(error, "tokens", "%" PRIu64, n_tokens);
    rpc_error_add_metadata(error, "limit_tokens", "%" PRIu64, most - 1);
    rpc_error_add_metadata(error, "limit", context ? "context" : "pool");
}

static void fail_too_short(const Kvpool__V1__GenerateRequest *message,
    size_t n_tokens, struct rpc_error *error)
{
    rpc_error_init(error, RPC_FAILED_PRECONDITION, "SESSION_TOO_SHORT",
        "continue_from.tokens: %" PRIu64
        " were given; the session has %zu tokens",
        message->continue_from->tokens, n_tokens);
    rpc_error_add_metadata(error, "tokens", "%zu", n_tokens);
}

static void fail_submit(const struct server *server, enum kv_status status,
    const Kvpool__V1__GenerateRequest *message, struct rpc_error *error)
{
    struct scheduler_load load = scheduler_load(server->scheduler);

    if (status == KV_BUSY) {
        rpc_error_init(error, RPC_ABORTED, "SESSION_BUSY",
            "another call runs on this session");
        rpc_error_add_metadata(error, "tenant", "%s", message->tenant);
        rpc_error_add_metadata(error, "session_id", "%s", message->session_id);
    } else if (status == KV_LIMIT) {
        rpc_error_init(error, RPC_RESOURCE_EXHAUSTED, "QUEUE_FULL",
            "%" PRIu32 " requests wait already", load.waiting);
        rpc_error_add_metadata(
            error, "waiting_requests", "%" PRIu32, load.waiting);
        rpc_error_add_metadata(
            error, "limit", "%" PRIu64, server->options->max_waiting_requests);
    } else {
        rpc_error_init(error, RPC_RESOURCE_EXHAUSTED, "NO_MEMORY",
            "the server has no memory for this request");
    }
}

static void fail_draining(const struct server *server, struct rpc_error *error)
{
    int64_t left_ns = server->drain_end_ns - kv_clock_mono_ns();

    rpc_error_init(
        error, RPC_UNAVAILABLE, "DRAINING", "the server is stopping");
    rpc_error_add_metadata(
        error, "limit_ns", "%" PRId64, left_ns > 0 ? left_ns : 0);
}

/* ---- accepted */

/* A conversation goes on, on the blocks that it left. */
static void count_reuse(
    struct server *server, const struct pool_session *session, int64_t now_ns)
{
    struct pool_session_info info = pool_session_glance(session);

    if (info.state == POOL_SESSION_CACHED)
        census_count_reuse(
            &server->census, now_ns - info.released_ns, info.n_blocks);
}

/* Finds the session, or makes it. */
static enum kv_status get_session(struct server *server,
    const Kvpool__V1__GenerateRequest *message, size_t n_tokens,
    struct request *request, bool *created, struct rpc_error *error)
{
    struct pool_key key = check_pool_key(message->tenant, message->session_id);
    const uint8_t *trace_id = request->has_trace_id ? request->trace_id : NULL;
    int64_t now = kv_clock_mono_ns();
    enum kv_status status;

    if (key.id_bytes == 0)
        status = pool_session_anonymous(server->pool, key.tenant,
            key.tenant_bytes, trace_id, now, &request->session);
    else
        status = pool_session_get(
            server->pool, &key, trace_id, now, &request->session, created);
    if (status == KV_OK)
        count_reuse(server, request->session, now);
    else if (status == KV_LIMIT)
        pool_exhausted_sessions(server, n_tokens, error);
    else if (status == KV_IO)
        recorder_refuse(server->recorder, error);
    else
        fail_submit(server, status, message, error);
    return status;
}

static void fail_lease(struct rpc_error *error)
{
    rpc_error_add_violation(error, "retention.lease",
        "%d others run; allowed are at most %d", POOL_MAX_LEASES,
        POOL_MAX_LEASES);
}

/* What the session has, or will have by this request. */
static uint32_t priority_of(const struct pool_session *session,
    const Kvpool__V1__RetentionSettings *settings)
{
    return settings != NULL && settings->priority != NULL
               ? settings->priority->priority
               : pool_session_glance(session).priority;
}

/* Hands the request to the scheduler; *created: with a new session. */
static bool submit(struct server *server,
    const Kvpool__V1__GenerateRequest *message, struct request *request,
    const uint32_t *ids, size_t n_ids, bool *created, struct rpc_error *error)
{
    struct pool_key key = check_pool_key(message->tenant, message->session_id);
    enum kv_status status;
    int64_t now;

    *created = false;
    if (get_session(server, message, n_ids, request, created, error) != KV_OK)
        return false;
    now = kv_clock_mono_ns(); /* not before the session was made */
    status = retention_prepare(
        server->pool, request->session, message->retention, now);
    if (status == KV_LIMIT)
        fail_lease(error);
    request->priority = priority_of(request->session, message->retention);
    if (status == KV_OK)
        status = scheduler_submit(server->scheduler, request, ids, n_ids, now);
    if (status == KV_OVER_QUOTA)
        quotas_refuse(error, message->tenant, &request->quota);
    if (status != KV_OK) {
        if (error->code == RPC_OK)
            fail_submit(server, status, message, error);
        /* What this call created goes, unless its end took it already. */
        if (*created)
            request->session = pool_session_find(server->pool, &key);
        if (*created && request->session != NULL)
            pool_session_forget(server->pool, request->session, now);
        return false;
    }
    return true;
}

/* ---- from request to tokens */

/* A call whose input is being made tokens. */
struct arrival {
    struct work work;
    struct server *server;
    struct rpc_call *call;
    Kvpool__V1__GenerateRequest *message; /* NULL once a generate has it */
    bool cancelled;

    /* The input; a text with the beginning-of-text token, if the model wants
     * one. */
    enum kv_status status;
    uint32_t *owned; /* to be freed */
    const uint32_t *ids;
    size_t n_ids;
};

static struct arrival *arrival_of(struct work *work)
{
    return KV_LIST_ENTRY(work, struct arrival, work);
}

static void free_arrival(struct arrival *arrival)
{
    kvpool__v1__generate_request__free_unpacked(arrival->message, NULL);
    kv_free(arrival->owned);
    kv_free(arrival);
}

static bool is_text(const Kvpool__V1__GenerateRequest *message)
{
    return message->input_case == KVPOOL__V1__GENERATE_REQUEST__INPUT_TEXT;
}

/* Any thread. */
static void make_tokens(struct work *work)
{
    struct arrival *arrival = arrival_of(work);
    const Kvpool__V1__GenerateRequest *message = arrival->message;

    if (message->input_case == KVPOOL__V1__GENERATE_REQUEST__INPUT_TOKENS) {
        arrival->ids = message->tokens->ids;
        arrival->n_ids = message->tokens->n_ids;
    } else if (is_text(message) && message->text[0] != '\0') {
        arrival->status = tokenizer_encode(arrival->server->tokenizer,
            message->text, strlen(message->text), TOKENIZER_ADD_BOS,
            &arrival->owned, &arrival->n_ids);
        arrival->ids = arrival->owned;
    }
}

/* Tokens that the session has, and those of them that the input comes behind.
 */
struct continued {
    size_t n_tokens, n_kept;
};

/* The session that is to be continued, if it is there: that nobody else runs on
 * it, and that it has the tokens to continue from. */
static bool look_at_session(const struct server *server,
    const Kvpool__V1__GenerateRequest *message, struct continued *out,
    struct rpc_error *error)
{
    struct pool_key key = check_pool_key(message->tenant, message->session_id);
    struct pool_session *session =
        key.id_bytes == 0 ? NULL : pool_session_find(server->pool, &key);
    struct pool_session_info info = {.state = POOL_SESSION_EVICTED};

    if (session != NULL)
        info = pool_session_info(server->pool, session);
    if (info.state == POOL_SESSION_RUNNING ||
        info.state == POOL_SESSION_PREEMPTED) {
        fail_submit(server, KV_BUSY, message, error);
        return false;
    }
    *out = (struct continued){info.n_tokens, info.n_tokens};
    if (message->continue_from == NULL)
        return true;
    if (message->continue_from->tokens > info.n_tokens) {
        fail_too_short(message, info.n_tokens, error);
        return false;
    }
    out->n_kept = (size_t)message->continue_from->tokens;
    return true;
}

/* What can be refused before a text is made tokens: no text of so many bytes
 * has fewer of them than the longest piece allows. */
static bool look_ahead(const struct server *server,
    const Kvpool__V1__GenerateRequest *message, struct rpc_error *error)
{
    size_t longest = tokenizer_longest_piece(server->tokenizer);
    size_t n_bytes = is_text(message) ? strlen(message->text) : 0;
    uint64_t least = n_bytes / (longest > 0 ? longest : 1);
    struct continued continued;

    if (!look_at_session(server, message, &continued, error))
        return false;
    if (continued.n_kept + least <= scheduler_max_tokens(server->scheduler))
        return true;
    fail_too_long(server, message, continued.n_kept + least, true, error);
    return false;
}

/* That the input, now that it is tokens, fits behind the n_kept that the
 * session keeps. */
static bool check_input(
    struct arrival *arrival, size_t n_kept, struct rpc_error *error)
{
    const struct server *server = arrival->server;
    const Kvpool__V1__GenerateRequest *message = arrival->message;

    if (arrival->status != KV_OK) {
        fail_submit(server, KV_NO_MEMORY, message, error);
        return false;
    }
    if (is_text(message) && n_kept > 0 && arrival->n_ids > 0 &&
        tokenizer_info(server->tokenizer).adds_bos) {
        arrival->ids++;
        arrival->n_ids--;
    }
    if (arrival->n_ids + n_kept == 0) {
        rpc_error_add_violation(error, is_text(message) ? "text" : "input",
            "nothing was given; allowed where the session has tokens to "
            "continue from");
        return false;
    }
    if (n_kept + arrival->n_ids < scheduler_max_tokens(server->scheduler))
        return true;
    fail_too_long(server, message, n_kept + arrival->n_ids, false, error);
    return false;
}

/* Takes the message over if it returns true. */
static bool begin(struct arrival *arrival, struct rpc_error *error)
{
    struct server *server = arrival->server;
    Kvpool__V1__GenerateRequest *message = arrival->message;
    struct generate *generate;
    struct continued continued;
    bool created;

    if (!look_at_session(server, message, &continued, error) ||
        !check_input(arrival, continued.n_kept, error))
        return false;
    generate = generate_open(server, arrival->call, message);
    if (generate == NULL) {
        fail_submit(server, KV_NO_MEMORY, message, error);
        return false;
    }
    generate_request(generate)->n_dropped =
        (uint32_t)(continued.n_tokens - continued.n_kept);
    if (!submit(server, message, generate_request(generate), arrival->ids,
            arrival->n_ids, &created, error)) {
        generate_close(generate);
        return false;
    }
    arrival->message = NULL;
    generate_start(generate, created);
    return true;
}

static void on_arrived(struct work *work, bool ran)
{
    struct arrival *arrival = arrival_of(work);
    struct server *server = arrival->server;
    struct rpc_error error = {.code = RPC_OK};

    if (!ran || arrival->cancelled)
        rpc_error_init(&error, RPC_CANCELLED, "", "cancelled");
    else if (server->handed_back)
        fail_draining(server, &error);
    else if (!check_model(&error, server->model, ""))
        server_lose_model(server); /* while its vocabulary was read */
    else
        begin(arrival, &error);
    if (error.code != RPC_OK)
        rpc_call_fail(arrival->call, &error);
    free_arrival(arrival);
    step_settle(server->step);
}

static void on_arrival_cancelled(void *ctx, struct rpc_call *call)
{
    struct arrival *arrival = ctx;

    (void)call;
    arrival->cancelled = true;
    work_give_up(&arrival->work);
}

static void arrive(struct server *server, struct rpc_call *call,
    Kvpool__V1__GenerateRequest *message)
{
    struct arrival *arrival = kv_calloc(1, sizeof *arrival);

    if (arrival == NULL) {
        message_fail_no_memory(call);
        kvpool__v1__generate_request__free_unpacked(message, NULL);
        return;
    }
    arrival->server = server;
    arrival->call = call;
    arrival->message = message;
    arrival->work.run = make_tokens;
    arrival->work.done = on_arrived;
    rpc_call_set_ctx(call, arrival);
    rpc_call_on_cancel(call, on_arrival_cancelled);
    work_do(server, &arrival->work,
        is_text(message) && strlen(message->text) > SERVER_SHORT_TEXT_BYTES);
}

static void on_generate(void *ctx, struct rpc_call *call,
    const unsigned char *bytes, size_t n_bytes)
{
    struct server *server = ctx;
    struct rpc_error error;
    Kvpool__V1__GenerateRequest *message =
        (Kvpool__V1__GenerateRequest *)message_parse(
            &kvpool__v1__generate_request__descriptor, bytes, n_bytes, &error);

    if (message != NULL)
        check_generate(&error, &server->model->shape, message);
    if (error.n_violations == 0 &&
        check_model(&error, server->model, message->model) &&
        look_ahead(server, message, &error)) {
        arrive(server, call, message);
        return;
    }
    rpc_call_fail(call, &error);
    kvpool__v1__generate_request__free_unpacked(message, NULL);
}

enum kv_status service_generate_add(struct server *server)
{
    const struct rpc_method method = {"/kvpool.v1.InferenceService/Generate",
        RPC_SERVER_STREAM, on_generate, server};

    return rpc_server_add_method(server->rpc, &method);
}
