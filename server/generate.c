/* From a request's tokens to the messages of its stream. */
#include "server/generate.h"

#include <string.h>

#include <openssl/rand.h>

#include "base/clock.h"
#include "base/heap.h"
#include "server/check.h"
#include "server/logprobs.h"
#include "server/message.h"
#include "server/pool_exhausted.h"
#include "server/quotas.h"
#include "server/retention.h"

/* Of seeds that are drawn here: every language's numbers can hold them. */
#define SEED_BITS 53

/* Tokens in a message with log-probabilities, which are up to half a KiB each:
 * far below what clients take by default, and little memory to make it of. */
#define SEND_LOGPROBS 128

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
    else if (generate->end == REQUEST_MODEL_LOST)
        check_model(&error, generate->server->model, "");
    else if (generate->end == REQUEST_HELD_UP)
        pool_exhausted_held(
            generate->server, &generate->request.shortage, &error);
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

/* What it asks for its session is set now that it is not refused any more. (A
 * lease for which others left no room meanwhile is not there; theirs hold the
 * session.) */
static void on_request_started(struct request *request)
{
    struct generate *generate = generate_of(request);
    struct server *server = generate->server;

    retention_set(server->pool, request->session, generate->message->retention,
        server->options, kv_clock_mono_ns());
    generate->started = true;
    advance(generate);
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

/* ---- its life */

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

struct generate *generate_open(struct server *server, struct rpc_call *call,
    Kvpool__V1__GenerateRequest *message)
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
    generate->request.prefills_only = message->prefill_only;
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

struct request *generate_request(struct generate *generate)
{
    return &generate->request;
}

void generate_start(struct generate *generate, bool created)
{
    generate->created = created;
    rpc_call_set_ctx(generate->call, generate);
    rpc_call_on_cancel(generate->call, NULL);
    rpc_stream_start(generate->call, &stream_ops);
}

void generate_close(struct generate *generate)
{
    generate->message = NULL;
    free_generate(generate);
}
