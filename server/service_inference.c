/* InferenceService: Generate, Tokenize, Detokenize, GetModel.
 *
 *   Generate ─> checked, tokenised ─> submitted ─> tokens as they come ─>
 * finished
 *
 * A Generate call gathers tokens and text while a message is in flight, and
 * sends all of it in the next, so a client that reads slowly gets fewer and
 * longer messages; what it can gather is bounded by max_tokens. Whatever is
 * refused is refused before the session is touched. */
#include <inttypes.h>
#include <math.h>
#include <stdio.h>
#include <string.h>

#include <openssl/rand.h>

#include "base/clock.h"
#include "base/heap.h"
#include "base/utf8.h"
#include "kvpool/v1/inference_service.pb-c.h"
#include "server/check.h"
#include "server/message.h"
#include "server/server.h"

#define STANDARD_MAX_TOKENS 256

static void fail_no_memory(struct rpc_call *call)
{
    struct rpc_error error;

    rpc_error_init(&error, RPC_RESOURCE_EXHAUSTED, "",
        "the server has no memory for this request");
    rpc_call_fail(call, &error);
}

/* ---- Generate: a call in progress */

struct generate {
    struct request request; /* first */
    struct server *server;
    struct rpc_call *call;
    Kvpool__V1__GenerateRequest *message; /* owns the stop strings */

    /* Tokens and text that were not sent yet. */
    uint32_t *tokens;
    size_t n_tokens;
    char *text;
    size_t n_text, text_room;

    bool created;     /* this call made the session */
    bool out_of_room; /* there was no memory for text */
    bool started, sent_started, ended, sent_ended, cancelled;
    enum request_end end;
};

static struct generate *generate_of(struct request *request)
{
    return (struct generate *)(void *)request;
}

static void free_generate(struct generate *generate)
{
    kv_free(generate->text);
    kv_free(generate->tokens);
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

static void fill_usage(
    Kvpool__V1__Usage *out, const struct generate *generate, uint64_t n_session)
{
    const struct request_usage *usage = &generate->request.usage;

    kvpool__v1__usage__init(out);
    out->prompt_tokens = usage->prompt_tokens;
    out->cached_tokens = usage->cached_tokens;
    out->generated_tokens = usage->generated_tokens;
    out->recomputed_tokens = usage->recomputed_tokens;
    out->session_tokens = n_session;
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
    fill_usage(usage, generate, session_tokens(generate));
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

    if (generate->end == REQUEST_CANCELLED && !generate->out_of_room)
        rpc_error_init(&error, RPC_CANCELLED, "", "cancelled");
    else
        rpc_error_init(&error, RPC_RESOURCE_EXHAUSTED, "",
            "the server ran out of memory; the session keeps what was "
            "generated");
    generate->sent_ended = true;
    rpc_call_fail(generate->call, &error);
}

/* Sends all there is, if the stream takes something. */
static void advance(struct generate *generate)
{
    Kvpool__V1__GenerateResponse response = KVPOOL__V1__GENERATE_RESPONSE__INIT;
    Kvpool__V1__GenerateStarted started;
    Kvpool__V1__GenerateFinished finished;
    Kvpool__V1__Usage usage;
    struct rpc_bytes bytes;

    if (!generate->started && !generate->ended)
        return;
    if (generate->sent_ended || !rpc_stream_ready(generate->call))
        return;
    if (generate->ended && generate->end > REQUEST_DRAINED) {
        fail_ended(generate);
        return;
    }
    if (generate->sent_started && generate->n_tokens == 0 &&
        generate->n_text == 0 && !generate->ended)
        return;
    if (!generate->sent_started) {
        fill_started(&started, generate);
        response.started = &started;
    }
    if (generate->ended) {
        fill_finished(&finished, generate, &usage);
        response.finished = &finished;
    }
    if (generate->n_text > 0)
        response.text = generate->text;
    response.token_ids = generate->tokens;
    response.n_token_ids = generate->n_tokens;
    if (!message_encode(&response.base, &bytes)) {
        generate->out_of_room = true;
        return;
    }
    rpc_stream_send(generate->call, &bytes);
    generate->sent_started = true;
    generate->n_tokens = generate->n_text = 0;
    if (generate->ended) {
        generate->sent_ended = true;
        rpc_stream_finish(generate->call);
    }
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
    generate->end = generate->out_of_room ? REQUEST_NO_MEMORY : end;
    if (end < REQUEST_DRAINED)
        recorder_add_request(
            generate->server->recorder, now, request->usage.total_ns);
    /* A stream that was cancelled takes nothing any more. */
    if (generate->cancelled)
        fail_ended(generate);
    else
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
    if (generate->ended && !generate->sent_ended) {
        generate->end = REQUEST_CANCELLED;
        fail_ended(generate);
    }
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

/* ---- Generate: what is asked for */

static void check_real(struct rpc_error *error, const char *field, float value,
    float least, float most)
{
    if (!(value >= least && value <= most))
        rpc_error_add_violation(error, field,
            "%g was given; allowed are %g to %g", (double)value, (double)least,
            (double)most);
}

static void check_sampling(struct rpc_error *error,
    const Kvpool__V1__SamplingParameters *sampling, uint32_t n_vocab)
{
    if (sampling == NULL)
        return;
    check_real(error, "sampling.temperature", sampling->temperature, 0, 2);
    check_real(error, "sampling.top_p", sampling->top_p, 0, 1);
    check_count(error, "sampling.top_k", sampling->top_k, 1, n_vocab, 0);
    check_unsupported(error, "sampling.min_p", sampling->min_p != 0);
    check_unsupported(error, "sampling.repetition_penalty",
        sampling->repetition_penalty != 0 && sampling->repetition_penalty != 1);
    check_unsupported(
        error, "sampling.frequency_penalty", sampling->frequency_penalty != 0);
    check_unsupported(
        error, "sampling.presence_penalty", sampling->presence_penalty != 0);
    check_unsupported(
        error, "sampling.penalty_window", sampling->penalty_window != 0);
    check_unsupported(error, "sampling.logit_bias", sampling->n_logit_bias > 0);
}

static void check_retention(struct rpc_error *error,
    const Kvpool__V1__RetentionSettings *retention, bool has_session)
{
    if (retention == NULL)
        return;
    check_unsupported(
        error, "retention.absolute_ttl", retention->absolute_ttl != NULL);
    check_unsupported(error, "retention.priority", retention->priority != NULL);
    check_unsupported(error, "retention.pin", retention->pin != NULL);
    check_unsupported(error, "retention.lease", retention->lease != NULL);
    if (retention->idle_ttl == NULL)
        return;
    if (!has_session)
        rpc_error_add_violation(error, "retention.idle_ttl",
            "it was given; allowed with a session_id only");
    else if (retention->idle_ttl->duration_ns < 0)
        rpc_error_add_violation(error, "retention.idle_ttl.duration_ns",
            "%" PRId64 " was given; allowed is 0 or more",
            retention->idle_ttl->duration_ns);
}

static void check_stops(
    struct rpc_error *error, const Kvpool__V1__GenerateRequest *message)
{
    char path[32];

    if (message->n_stop > TEXT_STREAM_MAX_STOPS) {
        rpc_error_add_violation(error, "stop",
            "%zu were given; allowed are at most %d", message->n_stop,
            TEXT_STREAM_MAX_STOPS);
        return;
    }
    for (size_t i = 0; i < message->n_stop; i++) {
        size_t n = strlen(message->stop[i]);

        snprintf(path, sizeof path, "stop[%zu]", i);
        if (n < 1 || n > TEXT_STREAM_STOP_BYTES)
            rpc_error_add_violation(error, path,
                "%zu bytes were given; allowed are 1 to %d", n,
                TEXT_STREAM_STOP_BYTES);
    }
}

static void check_ids(struct rpc_error *error, const char *field,
    const uint32_t *ids, size_t n_ids, uint32_t n_vocab)
{
    char path[64];

    for (size_t i = 0; i < n_ids; i++) {
        if (ids[i] < n_vocab)
            continue;
        snprintf(path, sizeof path, "%s[%zu]", field, i);
        rpc_error_add_violation(error, path,
            "%" PRIu32 " was given; allowed are 0 to %" PRIu32, ids[i],
            n_vocab - 1);
        return;
    }
}

static void check_generate(struct rpc_error *error, const struct server *server,
    const Kvpool__V1__GenerateRequest *message)
{
    const struct model_shape *shape = &server->model->shape;

    if (message->session_id[0] != '\0')
        check_session_id(error, "session_id", message->session_id);
    check_tenant(error, "tenant", message->tenant);
    if (message->input_case == KVPOOL__V1__GENERATE_REQUEST__INPUT_TOKENS)
        check_ids(error, "tokens.ids", message->tokens->ids,
            message->tokens->n_ids, shape->n_vocab);
    check_count(error, "max_tokens", message->max_tokens, 1, shape->n_context,
        STANDARD_MAX_TOKENS);
    check_sampling(error, message->sampling, shape->n_vocab);
    check_stops(error, message);
    check_unsupported(error, "continue_from", message->continue_from != NULL);
    check_retention(error, message->retention, message->session_id[0] != '\0');
    check_unsupported(error, "logprobs", message->logprobs);
    check_unsupported(error, "top_logprobs", message->top_logprobs != 0);
    check_unsupported(error, "ignore_eos", message->ignore_eos);
    check_unsupported(error, "prefill_only", message->prefill_only);
}

/* An empty name means the model that is loaded. */
static bool has_model(
    const struct server *server, const char *name, struct rpc_error *error)
{
    if (name[0] == '\0' || strcmp(name, server->model->name) == 0)
        return true;
    rpc_error_init(error, RPC_NOT_FOUND, "MODEL_NOT_FOUND",
        "no model of that name is loaded; \"%s\" is", server->model->name);
    rpc_error_add_metadata(error, "model", "%s", server->model->name);
    return false;
}

static void fail_too_long(const struct server *server, uint64_t n_tokens,
    bool at_least, struct rpc_error *error)
{
    uint64_t most = scheduler_max_tokens(server->scheduler);
    bool context = most == server->model->shape.n_context;

    rpc_error_init(error, RPC_INVALID_ARGUMENT, "PROMPT_TOO_LONG",
        "conversation and input are %s%" PRIu64 " tokens; allowed are %" PRIu64
        ", by the %s",
        at_least ? "at least " : "", n_tokens, most - 1,
        context ? "model's context" : "size of the pool");
    rpc_error_add_metadata(error, "tokens", "%" PRIu64, n_tokens);
    rpc_error_add_metadata(error, "limit_tokens", "%" PRIu64, most - 1);
    rpc_error_add_metadata(error, "limit", context ? "context" : "pool");
}

/* ---- Generate: the input, as tokens */

struct input {
    const uint32_t *ids;
    size_t n_ids;
    uint32_t *owned; /* to be freed */
};

static bool take_text(struct server *server, const char *text, bool is_new,
    struct input *input, struct rpc_error *error)
{
    size_t n = strlen(text);
    size_t longest = tokenizer_longest_piece(server->tokenizer);
    uint64_t least = n / (longest > 0 ? longest : 1);
    enum kv_status status;

    /* No text of so many bytes has fewer tokens: told before the work. */
    if (least > scheduler_max_tokens(server->scheduler)) {
        fail_too_long(server, least, true, error);
        return false;
    }
    status = tokenizer_encode(
        server->tokenizer, text, n, is_new, &input->owned, &input->n_ids);
    input->ids = input->owned;
    if (status != KV_OK)
        rpc_error_init(error, RPC_RESOURCE_EXHAUSTED, "",
            "the server has no memory for this text");
    return status == KV_OK;
}

static bool take_input(struct server *server,
    const Kvpool__V1__GenerateRequest *message, size_t n_session_tokens,
    struct input *input, struct rpc_error *error)
{
    bool text = message->input_case == KVPOOL__V1__GENERATE_REQUEST__INPUT_TEXT;
    uint64_t most = scheduler_max_tokens(server->scheduler);

    memset(input, 0, sizeof *input);
    if (message->input_case == KVPOOL__V1__GENERATE_REQUEST__INPUT_TOKENS) {
        input->ids = message->tokens->ids;
        input->n_ids = message->tokens->n_ids;
    } else if (text && message->text[0] != '\0' &&
               !take_text(server, message->text, n_session_tokens == 0, input,
                   error)) {
        return false;
    }
    if (input->n_ids == 0 && n_session_tokens == 0) {
        rpc_error_add_violation(error, text ? "text" : "input",
            "nothing was given; allowed where the session has tokens to "
            "continue from");
        return false;
    }
    if (n_session_tokens + input->n_ids >= most) {
        fail_too_long(server, n_session_tokens + input->n_ids, false, error);
        return false;
    }
    return true;
}

/* ---- Generate: accepted */

static struct sampler_params sampling_of(
    const Kvpool__V1__SamplingParameters *given)
{
    struct sampler_params params = {0};

    if (given != NULL)
        params = (struct sampler_params){
            .temperature = given->temperature,
            .top_k = given->top_k,
            .top_p = given->top_p,
            .seed = given->seed,
        };
    while (params.seed == 0)
        if (RAND_bytes((unsigned char *)&params.seed, sizeof params.seed) != 1)
            params.seed = (uint64_t)kv_clock_mono_ns();
    return params;
}

static struct generate *make_generate(struct server *server,
    struct rpc_call *call, Kvpool__V1__GenerateRequest *message)
{
    struct generate *generate = kv_calloc(1, sizeof *generate);
    uint32_t max_tokens =
        message->max_tokens > 0 ? message->max_tokens : STANDARD_MAX_TOKENS;
    const uint8_t *trace_id = rpc_call_trace_id(call);

    if (generate == NULL)
        return NULL;
    generate->tokens = kv_calloc(max_tokens, sizeof *generate->tokens);
    generate->text_room = 256;
    generate->text = kv_calloc(1, generate->text_room);
    if (generate->tokens == NULL || generate->text == NULL) {
        free_generate(generate);
        return NULL;
    }
    generate->server = server;
    generate->call = call;
    generate->message = message;
    generate->request.ops = &request_ops;
    generate->request.max_tokens = max_tokens;
    generate->request.sampling = sampling_of(message->sampling);
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
        rpc_error_init(error, RPC_RESOURCE_EXHAUSTED, "",
            "the server has no memory for this request");
    }
}

static enum kv_status get_session(
    struct server *server, struct generate *generate, struct rpc_error *error)
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
    if (status == KV_LIMIT)
        rpc_error_init(error, RPC_RESOURCE_EXHAUSTED, "POOL_EXHAUSTED",
            "%" PRIu64 " sessions are known, all with blocks, which is "
            "max_sessions",
            server->options->max_sessions);
    else if (status != KV_OK)
        fail_submit(server, status, message, error);
    return status;
}

static bool submit(struct server *server, struct generate *generate,
    const struct input *input, struct rpc_error *error)
{
    const Kvpool__V1__GenerateRequest *message = generate->message;
    const Kvpool__V1__RetentionSettings *retention = message->retention;
    struct pool_key key = check_pool_key(message->tenant, message->session_id);
    struct request *request = &generate->request;
    enum kv_status status;
    int64_t now;

    if (get_session(server, generate, error) != KV_OK)
        return false;
    now = kv_clock_mono_ns(); /* not before the session was made */
    status = scheduler_submit(
        server->scheduler, request, input->ids, input->n_ids, now);
    if (status != KV_OK) {
        fail_submit(server, status, message, error);
        /* What this call created goes, unless its end took it already. */
        if (generate->created)
            request->session = pool_session_find(server->pool, &key);
        if (generate->created && request->session != NULL)
            pool_session_forget(server->pool, request->session, now);
        return false;
    }
    if (retention != NULL && retention->idle_ttl != NULL)
        pool_session_set_idle_ttl(server->pool, request->session,
            retention->idle_ttl->duration_ns, now);
    return true;
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

/* Takes the message over if it returns true. */
static bool begin_generate(struct server *server, struct rpc_call *call,
    Kvpool__V1__GenerateRequest *message, struct rpc_error *error)
{
    struct generate *generate;
    struct input input = {0};
    size_t n_tokens;
    bool done = false;

    if (!look_at_session(server, message, &n_tokens, error) ||
        !take_input(server, message, n_tokens, &input, error))
        goto free_input;
    generate = make_generate(server, call, message);
    if (generate == NULL) {
        fail_submit(server, KV_NO_MEMORY, message, error);
        goto free_input;
    }
    if (!submit(server, generate, &input, error)) {
        generate->message = NULL;
        free_generate(generate);
        goto free_input;
    }
    rpc_call_set_ctx(call, generate);
    rpc_stream_start(call, &stream_ops);
    done = true;

free_input:
    kv_free(input.owned);
    return done;
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
        check_generate(&error, server, message);
    if (error.n_violations == 0 && has_model(server, message->model, &error) &&
        begin_generate(server, call, message, &error)) {
        step_settle(server->step);
        return;
    }
    rpc_call_fail(call, &error);
    kvpool__v1__generate_request__free_unpacked(message, NULL);
    step_settle(server->step);
}

/* ---- Tokenize */

static void reply_tokens(struct server *server, struct rpc_call *call,
    const Kvpool__V1__TokenizeRequest *request, uint32_t *ids, size_t n_ids)
{
    Kvpool__V1__TokenizeResponse response = KVPOOL__V1__TOKENIZE_RESPONSE__INIT;
    ProtobufCBinaryData *pieces = NULL;

    if (request->with_pieces && n_ids > 0) {
        pieces = kv_calloc(n_ids, sizeof *pieces);
        if (pieces == NULL) {
            fail_no_memory(call);
            return;
        }
        for (size_t i = 0; i < n_ids; i++) {
            struct gguf_string piece =
                tokenizer_piece(server->tokenizer, ids[i]);

            pieces[i].data = (uint8_t *)piece.data;
            pieces[i].len = piece.n;
        }
        response.pieces = pieces;
        response.n_pieces = n_ids;
    }
    response.token_ids = ids;
    response.n_token_ids = n_ids;
    message_reply(call, &response.base);
    kv_free(pieces);
}

static void on_tokenize(void *ctx, struct rpc_call *call,
    const unsigned char *bytes, size_t n_bytes)
{
    struct server *server = ctx;
    struct rpc_error error;
    Kvpool__V1__TokenizeRequest *request =
        (Kvpool__V1__TokenizeRequest *)message_parse(
            &kvpool__v1__tokenize_request__descriptor, bytes, n_bytes, &error);
    uint32_t *ids = NULL;
    size_t n_ids = 0;

    if (request != NULL)
        check_unsupported(&error, "parse_special", request->parse_special);
    if (error.n_violations > 0 || !has_model(server, request->model, &error))
        rpc_call_fail(call, &error);
    else if (tokenizer_encode(server->tokenizer, request->text,
                 strlen(request->text), request->add_special, &ids,
                 &n_ids) != KV_OK)
        fail_no_memory(call);
    else
        reply_tokens(server, call, request, ids, n_ids);
    kv_free(ids);
    kvpool__v1__tokenize_request__free_unpacked(request, NULL);
}

/* ---- Detokenize */

static size_t raw_length(
    const struct server *server, const uint32_t *ids, size_t n_ids)
{
    size_t n = 0;

    for (size_t i = 0; i < n_ids; i++)
        n += tokenizer_piece(server->tokenizer, ids[i]).n;
    return n;
}

/* The bytes of the tokens; without the space that SPM puts before a text. */
static size_t fill_raw(
    const struct server *server, const uint32_t *ids, size_t n_ids, char *raw)
{
    bool at_start = tokenizer_strips_space(server->tokenizer);
    size_t n = 0;

    for (size_t i = 0; i < n_ids; i++) {
        struct gguf_string piece = tokenizer_piece(server->tokenizer, ids[i]);
        size_t skip = at_start && piece.n > 0 && piece.data[0] == ' ';

        at_start = at_start && piece.n == 0;
        memcpy(raw + n, piece.data + skip, piece.n - skip);
        n += piece.n - skip;
    }
    return n;
}

static void reply_text(struct server *server, struct rpc_call *call,
    const Kvpool__V1__DetokenizeRequest *request)
{
    Kvpool__V1__DetokenizeResponse response =
        KVPOOL__V1__DETOKENIZE_RESPONSE__INIT;
    size_t n = raw_length(server, request->token_ids, request->n_token_ids);
    char *raw = kv_calloc(1, n + 1);
    char *text = kv_calloc(1, TEXT_STREAM_OUT_BYTES(n) + 1);
    struct text_stream stream;

    if (raw == NULL || text == NULL) {
        fail_no_memory(call);
    } else {
        n = fill_raw(server, request->token_ids, request->n_token_ids, raw);
        text_stream_init(&stream, NULL, 0);
        response.raw.data = (uint8_t *)raw;
        response.raw.len = n;
        n = text_stream_put(&stream, raw, n, text);
        text_stream_end(&stream, text + n);
        response.text = text;
        message_reply(call, &response.base);
    }
    kv_free(text);
    kv_free(raw);
}

static void on_detokenize(void *ctx, struct rpc_call *call,
    const unsigned char *bytes, size_t n_bytes)
{
    struct server *server = ctx;
    struct rpc_error error;
    Kvpool__V1__DetokenizeRequest *request =
        (Kvpool__V1__DetokenizeRequest *)message_parse(
            &kvpool__v1__detokenize_request__descriptor, bytes, n_bytes,
            &error);

    if (request != NULL) {
        check_ids(&error, "token_ids", request->token_ids, request->n_token_ids,
            server->model->shape.n_vocab);
        check_unsupported(&error, "with_special", request->with_special);
    }
    if (error.n_violations > 0 || !has_model(server, request->model, &error))
        rpc_call_fail(call, &error);
    else
        reply_text(server, call, request);
    kvpool__v1__detokenize_request__free_unpacked(request, NULL);
}

/* ---- GetModel */

struct model_reply {
    Kvpool__V1__GetModelResponse response;
    Kvpool__V1__Model model;
    Kvpool__V1__ModelShape shape;
    Kvpool__V1__ModelMemory memory;
    Kvpool__V1__EngineLimits limits;
    Kvpool__V1__TensorTypeUsage types[MODEL_MAX_TYPES];
    Kvpool__V1__TensorTypeUsage *type_list[MODEL_MAX_TYPES];
    struct tokenizer_info tokenizer;
};

static void fill_shape(
    Kvpool__V1__ModelShape *out, const struct model_shape *shape)
{
    kvpool__v1__model_shape__init(out);
    out->layers = shape->n_layers;
    out->embedding_length = shape->n_embd;
    out->feed_forward_length = shape->n_ff;
    out->heads = shape->n_heads;
    out->kv_heads = shape->n_kv_heads;
    out->head_length = shape->head_dim;
}

static void fill_memory(
    Kvpool__V1__ModelMemory *out, const struct server *server)
{
    struct pool_totals totals = pool_totals(server->pool);

    kvpool__v1__model_memory__init(out);
    out->mapped_bytes = server->model->mapped_bytes;
    out->copied_bytes = server->model->copied_bytes;
    out->repacked_bytes = compute_repacked_bytes(server->compute);
    out->kv_bytes = pool_stats(server->pool).total_bytes;
    out->kv_metadata_bytes = totals.metadata_bytes;
    out->scratch_bytes = compute_scratch_bytes(server->compute);
    out->kept_tokens_bytes = totals.kept_tokens * sizeof(uint32_t);
}

static void fill_limits(
    Kvpool__V1__EngineLimits *out, const struct server *server)
{
    const struct pool_config *pool = pool_config(server->pool);

    kvpool__v1__engine_limits__init(out);
    out->max_batch_size = (uint32_t)server->options->max_batch_size;
    out->max_batch_tokens = (uint32_t)server->options->max_batch_tokens;
    out->max_waiting_requests = (uint32_t)server->options->max_waiting_requests;
    out->pool_tokens = (uint64_t)pool->n_blocks * pool->block_tokens;
}

static size_t fill_types(struct model_reply *reply, const struct model *model)
{
    struct model_type_usage usage[MODEL_MAX_TYPES];
    size_t n = model_type_usage(model, usage);

    for (size_t i = 0; i < n; i++) {
        kvpool__v1__tensor_type_usage__init(&reply->types[i]);
        reply->types[i].type = (char *)gguf_type_name(usage[i].type);
        reply->types[i].tensors = usage[i].n_tensors;
        reply->types[i].bytes = usage[i].n_bytes;
        reply->type_list[i] = &reply->types[i];
    }
    return n;
}

static void fill_model(struct model_reply *reply, struct server *server)
{
    Kvpool__V1__Model *out = &reply->model;
    struct model *model = server->model;

    kvpool__v1__get_model_response__init(&reply->response);
    kvpool__v1__model__init(out);
    reply->tokenizer = tokenizer_info(server->tokenizer);
    out->name = model->name;
    out->architecture = model->architecture;
    out->parameters = model->n_parameters;
    out->vocab_size = model->shape.n_vocab;
    out->context_length = model->shape.n_context;
    fill_shape(&reply->shape, &model->shape);
    out->shape = &reply->shape;
    out->n_tensor_types = fill_types(reply, model);
    out->tensor_types = reply->type_list;
    out->tokenizer = (char *)reply->tokenizer.kind;
    out->bos_token_id = reply->tokenizer.bos_id;
    out->eos_token_ids = reply->tokenizer.end_ids;
    out->n_eos_token_ids = reply->tokenizer.n_end_ids;
    out->adds_bos = reply->tokenizer.adds_bos;
    out->kv_type = (char *)kv_type_name(server->kv_type);
    out->kv_bytes_per_token =
        kv_bytes_per_token(&model->shape, server->kv_type);
    fill_memory(&reply->memory, server);
    out->memory = &reply->memory;
    out->kernels = (char *)compute_kernels(server->compute);
    out->threads = server->n_threads;
    fill_limits(&reply->limits, server);
    out->limits = &reply->limits;
    reply->response.model = out;
}

static void on_get_model(void *ctx, struct rpc_call *call,
    const unsigned char *bytes, size_t n_bytes)
{
    struct server *server = ctx;
    struct model_reply reply;
    struct rpc_error error;
    Kvpool__V1__GetModelRequest *request =
        (Kvpool__V1__GetModelRequest *)message_parse(
            &kvpool__v1__get_model_request__descriptor, bytes, n_bytes, &error);

    if (request == NULL || !has_model(server, request->name, &error)) {
        rpc_call_fail(call, &error);
    } else {
        fill_model(&reply, server);
        message_reply(call, &reply.response.base);
    }
    kvpool__v1__get_model_request__free_unpacked(request, NULL);
}

enum kv_status service_inference_add(struct server *server)
{
#define PATH "/kvpool.v1.InferenceService/"
    const struct rpc_method methods[] = {
        {PATH "Generate", RPC_SERVER_STREAM, on_generate, server},
        {PATH "Tokenize", RPC_UNARY, on_tokenize, server},
        {PATH "Detokenize", RPC_UNARY, on_detokenize, server},
        {PATH "GetModel", RPC_UNARY, on_get_model, server},
    };
#undef PATH
    enum kv_status status = KV_OK;

    for (size_t i = 0; i < sizeof methods / sizeof *methods; i++)
        if (status == KV_OK)
            status = rpc_server_add_method(server->rpc, &methods[i]);
    return status;
}
