/* InferenceService.Generate.
 *
 *   request ─> checked ─> tokenised ─> submitted ─> tokens as they come ─> end
 *
 * A long text is tokenised by another thread, and only then looked at again.
 * Whatever is refused is refused before the session is touched.
 *
 * A call gathers tokens and text while a message is in flight, and sends all of
 * it in the next, so a client that reads slowly gets fewer and longer messages;
 * what it can gather is bounded by max_tokens. */
#include <inttypes.h>
#include <string.h>

#include <openssl/rand.h>

#include "base/clock.h"
#include "base/heap.h"
#include "kvpool/v1/inference_service.pb-c.h"
#include "server/check.h"
#include "server/logprobs.h"
#include "server/message.h"
#include "server/quotas.h"
#include "server/retention.h"
#include "server/server.h"
#include "server/work.h"

/* Of seeds that are drawn here: every language's numbers can hold them. */
#define SEED_BITS 53

/* Tokens in a message with log-probabilities, which are up to half a KiB each:
 * far below what clients take by default, and little memory to make it of. */
#define SEND_LOGPROBS 128

/* ---- a call in progress */

struct generate {
    struct request request; /* first */
    struct server *server;
    struct rpc_call *call;
    Kvpool__V1__GenerateRequest *message; /* owns the stop strings */
    struct sampler_bias *biases;

    /* Tokens and text that were not sent yet; log-probabilities of the same
     * tokens, if they were asked for. */
    uint32_t *tokens;
    size_t n_tokens;
    struct logprobs logprobs;
    char *text;
    size_t n_text, text_room;

    bool created;     /* this call made the session */
    bool out_of_room; /* there was no memory for text */
    bool cancelled;   /* nobody listens any more */
    bool started, sent_started, ended, sent_ended;
    enum request_end end;
    uint64_t n_session; /* tokens that the session had at the end */
};

static struct generate *generate_of(struct request *request)
{
    return (struct generate *)(void *)request;
}

static void free_generate(struct generate *generate)
{
    logprobs_fini(&generate->logprobs);
    kv_free(generate->text);
    kv_free(generate->tokens);
    kv_free(generate->biases);
    kvpool__v1__generate_request__free_unpacked(generate->message, NULL);
    kv_free(generate);
}

static bool add_text(struct generate *generate, const char *text, size_t n)
{
    if (generate->n_text + n + 1 > generate->text_room) {
        size_t room = 2 * (generate->n_text + n + 1);
        char *grown = kv_realloc(generate->text, room);

        if (grown == NULL)
            return false;
        generate->text = grown;
        generate->text_room = room;
    }
    memcpy(generate->text + generate->n_text, text, n);
    generate->n_text += n;
    generate->text[generate->n_text] = '\0';
    return true;
}

static void fill_usage(Kvpool__V1__Usage *out, const struct generate *generate)
{
    const struct request_usage *usage = &generate->request.usage;

    kvpool__v1__usage__init(out);
    out->prompt_tokens = usage->prompt_tokens;
    out->cached_tokens = usage->cached_tokens;
    out->generated_tokens = usage->generated_tokens;
    out->recomputed_tokens = usage->recomputed_tokens;
    out->session_tokens = generate->n_session;
    out->preemptions = usage->preemptions;
    out->queue_ns = usage->queue_ns;
    out->ttft_ns = usage->ttft_ns;
    out->decode_ns = usage->decode_ns;
    out->preempted_ns = usage->preempted_ns;
    out->total_ns = usage->total_ns;
}

static uint64_t session_tokens(const struct generate *generate)
{
    struct pool_key key = check_pool_key(
        generate->message->tenant, generate->message->session_id);
    struct pool_session *session;

    if (key.id_bytes == 0)
        return 0;
    session = pool_session_find(generate->server->pool, &key);
    return session == NULL
               ? 0
               : pool_session_info(generate->server->pool, session).n_tokens;
}

static void fill_finished(Kvpool__V1__GenerateFinished *out,
    const struct generate *generate, Kvpool__V1__Usage *usage)
{
    kvpool__v1__generate_finished__init(out);
    fill_usage(usage, generate);
    out->reason = (Kvpool__V1__FinishReason)generate->end;
    if (generate->end == REQUEST_STOP_STRING)
        out->stop = generate->message->stop[generate->request.text.stopped_by];
    out->usage = usage;
}

static void fill_started(
    Kvpool__V1__GenerateStarted *out, const struct generate *generate)
{
    kvpool__v1__generate_started__init(out);
    out->prompt_tokens = generate->request.usage.prompt_tokens;
    out->cached_tokens = generate->request.usage.cached_tokens;
    out->seed = generate->request.sampling.seed;
    out->model = generate->server->model->name;
    out->created = generate->created;
}

static void fail_ended(struct generate *generate)
{
    struct rpc_error error;

    if (generate->cancelled)
        rpc_error_init(&error, RPC_CANCELLED, "", "cancelled");
    else if (generate->end == REQUEST_NO_EVICTION)
        recorder_refuse(generate->server->recorder, &error);
    else if (generate->end == REQUEST_OVER_QUOTA)
        quotas_refuse(
            &error, generate->message->tenant, &generate->request.quota);
    else
        rpc_error_init(&error, RPC_RESOURCE_EXHAUSTED, "NO_MEMORY",
            "the server ran out of memory; the session keeps what was "
            "generated");
    generate->sent_ended = true;
    rpc_call_fail(generate->call, &error);
}

/* No memory for the next message: nothing more is sent, and the call fails when
 * the request ends. */
static void fail_unsent(struct generate *generate)
{
    generate->out_of_room = true;
    if (!generate->ended)
        return;
    generate->end = REQUEST_NO_MEMORY;
    fail_ended(generate);
}

/* The first n tokens, and what goes with them. false: no memory. */
static bool encode_message(struct generate *generate, size_t n,
    Kvpool__V1__GenerateResponse *response, struct rpc_bytes *bytes)
{
    const struct tokenizer *tokenizer = generate->server->tokenizer;
    bool encoded;

    response->token_ids = generate->tokens;
    response->n_token_ids = n;
    if (generate->request.wants_logprobs && n > 0) {
        response->logprobs = logprobs_make(&generate->logprobs, n, tokenizer);
        response->n_logprobs = n;
        if (response->logprobs == NULL)
            return false;
    }
    encoded = message_encode(&response->base, bytes);
    kv_free(response->logprobs);
    return encoded;
}

static void drop_sent(struct generate *generate, size_t n)
{
    generate->n_tokens -= n;
    memmove(generate->tokens, generate->tokens + n,
        generate->n_tokens * sizeof *generate->tokens);
    if (generate->request.wants_logprobs)
        logprobs_drop(&generate->logprobs, n);
    if (generate->n_tokens == 0)
        generate->n_text = 0;
}

/* The next message: all there is, unless that is too long. Text goes with the
 * last of the tokens: it never comes before them. */
static void send_message(struct generate *generate)
{
    Kvpool__V1__GenerateResponse response = KVPOOL__V1__GENERATE_RESPONSE__INIT;
    Kvpool__V1__GenerateStarted started;
    Kvpool__V1__GenerateFinished finished;
    Kvpool__V1__Usage usage;
    struct rpc_bytes bytes;
    const bool is_part =
        generate->request.wants_logprobs && generate->n_tokens > SEND_LOGPROBS;
    const size_t n = is_part ? SEND_LOGPROBS : generate->n_tokens;

    if (!generate->sent_started) {
        fill_started(&started, generate);
        response.started = &started;
    }
    if (generate->ended && !is_part) {
        fill_finished(&finished, generate, &usage);
        response.finished = &finished;
    }
    if (generate->n_text > 0 && !is_part)
        response.text = generate->text;
    if (!encode_message(generate, n, &response, &bytes)) {
        fail_unsent(generate);
        return;
    }
    rpc_stream_send(generate->call, &bytes);
    generate->sent_started = true;
    drop_sent(generate, n);
    if (response.finished != NULL) {
        generate->sent_ended = true;
        rpc_stream_finish(generate->call);
    }
}

/* Sends what there is, if the stream takes something. */
static void advance(struct generate *generate)
{
    if (!generate->started && !generate->ended)
        return;
    if (generate->sent_ended)
        return;
    /* A stream that was cancelled is never ready again. */
    if (generate->ended && generate->cancelled) {
        fail_ended(generate);
        return;
    }
    if (!rpc_stream_ready(generate->call) ||
        (generate->out_of_room && !generate->ended))
        return;
    if (generate->ended && generate->end > REQUEST_DRAINED) {
        fail_ended(generate);
        return;
    }
    if (generate->sent_started && generate->n_tokens == 0 &&
        generate->n_text == 0 && !generate->ended)
        return;
    send_message(generate);
}

static void on_request_started(struct request *request)
{
    generate_of(request)->started = true;
    advance(generate_of(request));
}

static void on_request_token(
    struct request *request, uint32_t token, const char *text, size_t n_text)
{
    struct generate *generate = generate_of(request);

    if (request->wants_logprobs && !generate->out_of_room)
        generate->out_of_room |=
            !logprobs_put(&generate->logprobs, token, &request->logprobs);
    if (generate->out_of_room)
        return;
    generate->tokens[generate->n_tokens++] = token;
    generate->out_of_room |= !add_text(generate, text, n_text);
    advance(generate);
}

static void on_request_ended(struct request *request, enum request_end end,
    const char *text, size_t n_text)
{
    struct generate *generate = generate_of(request);
    int64_t now = kv_clock_mono_ns();

    generate->out_of_room |= !add_text(generate, text, n_text);
    generate->ended = true;
    generate->n_session = session_tokens(generate);
    generate->end = generate->out_of_room ? REQUEST_NO_MEMORY : end;
    if (end < REQUEST_DRAINED)
        recorder_add_request(
            generate->server->recorder, now, request->usage.total_ns);
    advance(generate);
}

static const struct request_ops request_ops = {
    .on_started = on_request_started,
    .on_token = on_request_token,
    .on_ended = on_request_ended,
};

static void on_stream_ready(struct rpc_call *call)
{
    advance(rpc_call_ctx(call));
}

static void on_stream_cancel(struct rpc_call *call)
{
    struct generate *generate = rpc_call_ctx(call);
    struct server *server = generate->server;

    generate->cancelled = true;
    if (!generate->ended)
        scheduler_cancel(
            server->scheduler, &generate->request, kv_clock_mono_ns());
    else
        advance(generate);
    step_settle(server->step);
}

static void on_stream_done(struct rpc_call *call)
{
    free_generate(rpc_call_ctx(call));
}

static const struct rpc_stream_ops stream_ops = {
    .on_ready = on_stream_ready,
    .on_cancel = on_stream_cancel,
    .on_done = on_stream_done,
};

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

/* ---- accepted */

static struct sampler_params sampling_of(
    const Kvpool__V1__SamplingParameters *given)
{
    struct sampler_params params = {0};

    if (given != NULL)
        params = (struct sampler_params){
            .temperature = given->temperature,
            .top_k = given->top_k,
            .top_p = given->top_p,
            .min_p = given->min_p,
            .seed = given->seed,
            .repetition_penalty = given->repetition_penalty,
            .frequency_penalty = given->frequency_penalty,
            .presence_penalty = given->presence_penalty,
            .penalty_window = given->penalty_window,
        };
    while (params.seed == 0) {
        if (RAND_bytes((unsigned char *)&params.seed, sizeof params.seed) != 1)
            params.seed = (uint64_t)kv_clock_mono_ns();
        params.seed &= (UINT64_C(1) << SEED_BITS) - 1;
    }
    return params;
}

static bool copy_biases(struct generate *generate,
    const Kvpool__V1__SamplingParameters *given, struct sampler_params *params)
{
    if (given == NULL || given->n_logit_bias == 0)
        return true;
    generate->biases = kv_calloc(given->n_logit_bias, sizeof *generate->biases);
    if (generate->biases == NULL)
        return false;
    for (size_t i = 0; i < given->n_logit_bias; i++)
        generate->biases[i] = (struct sampler_bias){
            given->logit_bias[i]->token_id, given->logit_bias[i]->bias};
    params->biases = generate->biases;
    params->n_biases = given->n_logit_bias;
    return true;
}

static struct generate *make_generate(struct server *server,
    struct rpc_call *call, Kvpool__V1__GenerateRequest *message)
{
    struct generate *generate = kv_calloc(1, sizeof *generate);
    uint32_t max_tokens = message->max_tokens > 0 ? message->max_tokens
                                                  : CHECK_STANDARD_MAX_TOKENS;
    const uint8_t *trace_id = rpc_call_trace_id(call);

    if (generate == NULL)
        return NULL;
    generate->tokens = kv_calloc(max_tokens, sizeof *generate->tokens);
    generate->text_room = 256;
    generate->text = kv_calloc(1, generate->text_room);
    generate->request.sampling = sampling_of(message->sampling);
    logprobs_init(&generate->logprobs, message->top_logprobs);
    if (generate->tokens == NULL || generate->text == NULL ||
        !copy_biases(
            generate, message->sampling, &generate->request.sampling)) {
        free_generate(generate);
        return NULL;
    }
    generate->server = server;
    generate->call = call;
    generate->message = message;
    generate->request.ops = &request_ops;
    generate->request.max_tokens = max_tokens;
    generate->request.wants_logprobs = message->logprobs;
    generate->request.n_top_logprobs = message->top_logprobs;
    generate->request.ignores_end = message->ignore_eos;
    generate->request.stops = (const char *const *)message->stop;
    generate->request.n_stops = message->n_stop;
    generate->request.has_trace_id = trace_id != NULL;
    if (trace_id != NULL)
        memcpy(generate->request.trace_id, trace_id, 16);
    return generate;
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

static void fail_no_session(
    const struct server *server, size_t n_tokens, struct rpc_error *error)
{
    uint32_t block_tokens = pool_config(server->pool)->block_tokens;
    struct pool_blocks blocks = pool_blocks(server->pool);

    rpc_error_init(error, RPC_RESOURCE_EXHAUSTED, "POOL_EXHAUSTED",
        "%" PRIu64 " sessions run, and no more than that may be known "
        "(max_sessions)",
        server->options->max_sessions);
    rpc_error_add_metadata(error, "needed_blocks", "%zu",
        (n_tokens + block_tokens - 1) / block_tokens);
    rpc_error_add_metadata(error, "total_blocks", "%" PRIu64, blocks.total);
    rpc_error_add_metadata(error, "pinned_blocks", "%" PRIu64, blocks.pinned);
}

/* A conversation goes on, on the blocks that it left. */
static void count_reuse(
    struct server *server, const struct pool_session *session, int64_t now_ns)
{
    struct pool_session_info info = pool_session_glance(session);

    if (info.state == POOL_SESSION_CACHED)
        census_count_reuse(
            &server->census, now_ns - info.released_ns, info.n_blocks);
}

static enum kv_status get_session(struct server *server,
    struct generate *generate, size_t n_tokens, struct rpc_error *error)
{
    const Kvpool__V1__GenerateRequest *message = generate->message;
    struct pool_key key = check_pool_key(message->tenant, message->session_id);
    int64_t now = kv_clock_mono_ns();
    enum kv_status status;

    if (key.id_bytes == 0)
        status = pool_session_anonymous(server->pool, key.tenant,
            key.tenant_bytes, now, &generate->request.session);
    else
        status = pool_session_get(server->pool, &key, now,
            &generate->request.session, &generate->created);
    if (status == KV_OK)
        count_reuse(server, generate->request.session, now);
    else if (status == KV_LIMIT)
        fail_no_session(server, n_tokens, error);
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

static bool submit(struct server *server, struct generate *generate,
    const uint32_t *ids, size_t n_ids, struct rpc_error *error)
{
    const Kvpool__V1__GenerateRequest *message = generate->message;
    struct pool_key key = check_pool_key(message->tenant, message->session_id);
    struct request *request = &generate->request;
    enum kv_status status;
    int64_t now;

    if (get_session(server, generate, n_ids, error) != KV_OK)
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
        if (generate->created)
            request->session = pool_session_find(server->pool, &key);
        if (generate->created && request->session != NULL)
            pool_session_forget(server->pool, request->session, now);
        return false;
    }
    retention_set(server->pool, request->session, message->retention,
        server->options, now);
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
        arrival->status =
            tokenizer_encode(arrival->server->tokenizer, message->text,
                strlen(message->text), true, &arrival->owned, &arrival->n_ids);
        arrival->ids = arrival->owned;
    }
}

/* The session that is to be continued, if it is there: its tokens, and that
 * nobody else runs on it. */
static bool look_at_session(const struct server *server,
    const Kvpool__V1__GenerateRequest *message, size_t *n_tokens,
    struct rpc_error *error)
{
    struct pool_key key = check_pool_key(message->tenant, message->session_id);
    struct pool_session *session =
        key.id_bytes == 0 ? NULL : pool_session_find(server->pool, &key);
    struct pool_session_info info;

    *n_tokens = 0;
    if (session == NULL)
        return true;
    info = pool_session_info(server->pool, session);
    *n_tokens = info.n_tokens;
    if (info.state != POOL_SESSION_RUNNING &&
        info.state != POOL_SESSION_PREEMPTED)
        return true;
    fail_submit(server, KV_BUSY, message, error);
    return false;
}

/* What can be refused before a text is made tokens: no text of so many bytes
 * has fewer of them than the longest piece allows. */
static bool look_ahead(const struct server *server,
    const Kvpool__V1__GenerateRequest *message, struct rpc_error *error)
{
    size_t longest = tokenizer_longest_piece(server->tokenizer);
    size_t n_bytes = is_text(message) ? strlen(message->text) : 0;
    uint64_t least = n_bytes / (longest > 0 ? longest : 1);
    size_t n_tokens;

    if (!look_at_session(server, message, &n_tokens, error))
        return false;
    if (n_tokens + least <= scheduler_max_tokens(server->scheduler))
        return true;
    fail_too_long(server, message, n_tokens + least, true, error);
    return false;
}

/* That the input, now that it is tokens, fits behind the n_session tokens that
 * the session has. */
static bool check_input(
    struct arrival *arrival, size_t n_session, struct rpc_error *error)
{
    const struct server *server = arrival->server;
    const Kvpool__V1__GenerateRequest *message = arrival->message;

    if (arrival->status != KV_OK) {
        fail_submit(server, KV_NO_MEMORY, message, error);
        return false;
    }
    if (is_text(message) && n_session > 0 && arrival->n_ids > 0 &&
        tokenizer_info(server->tokenizer).adds_bos) {
        arrival->ids++;
        arrival->n_ids--;
    }
    if (arrival->n_ids + n_session == 0) {
        rpc_error_add_violation(error, is_text(message) ? "text" : "input",
            "nothing was given; allowed where the session has tokens to "
            "continue from");
        return false;
    }
    if (n_session + arrival->n_ids < scheduler_max_tokens(server->scheduler))
        return true;
    fail_too_long(server, message, n_session + arrival->n_ids, false, error);
    return false;
}

/* Takes the message over if it returns true. */
static bool begin(struct arrival *arrival, struct rpc_error *error)
{
    struct server *server = arrival->server;
    Kvpool__V1__GenerateRequest *message = arrival->message;
    struct generate *generate;
    size_t n_session;

    if (!look_at_session(server, message, &n_session, error) ||
        !check_input(arrival, n_session, error))
        return false;
    generate = make_generate(server, arrival->call, message);
    if (generate == NULL) {
        fail_submit(server, KV_NO_MEMORY, message, error);
        return false;
    }
    if (!submit(server, generate, arrival->ids, arrival->n_ids, error)) {
        generate->message = NULL;
        free_generate(generate);
        return false;
    }
    arrival->message = NULL;
    rpc_call_set_ctx(arrival->call, generate);
    rpc_call_on_cancel(arrival->call, NULL);
    rpc_stream_start(arrival->call, &stream_ops);
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
