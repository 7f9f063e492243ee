/* InferenceService beside Generate: Tokenize, Detokenize, GetModel.
 *
 * A long text, or many tokens, are worked on by another thread: the tokenizer
 * never changes, so any thread may read it. */
#include <string.h>

#include "base/heap.h"
#include "kvpool/v1/inference_service.pb-c.h"
#include "server/check.h"
#include "server/message.h"
#include "server/server.h"
#include "server/work.h"

/* A call whose answer is being made. */
struct conversion {
    struct work work;
    const struct tokenizer *tokenizer;
    struct rpc_call *call;
    bool (*convert)(struct conversion *conversion);
    ProtobufCMessage *request;
    struct rpc_bytes answer; /* if converted */
    bool converted;
};

static struct conversion *conversion_of(struct work *work)
{
    return KV_LIST_ENTRY(work, struct conversion, work);
}

/* Any thread. */
static void on_convert(struct work *work)
{
    struct conversion *conversion = conversion_of(work);

    conversion->converted = conversion->convert(conversion);
}

static void on_converted(struct work *work, bool ran)
{
    struct conversion *conversion = conversion_of(work);
    struct rpc_error error;

    if (conversion->converted &&
        !check_model(&error, work->server->model, "")) {
        server_lose_model(work->server); /* while its vocabulary was read */
        conversion->answer.release(conversion->answer.ctx);
        rpc_call_fail(conversion->call, &error);
    } else if (conversion->converted) {
        rpc_call_reply(conversion->call, &conversion->answer);
    } else if (ran) {
        message_fail_no_memory(conversion->call);
    } else {
        rpc_error_init(&error, RPC_CANCELLED, "", "cancelled");
        rpc_call_fail(conversion->call, &error);
    }
    protobuf_c_message_free_unpacked(conversion->request, NULL);
    kv_free(conversion);
}

static void on_conversion_cancelled(void *ctx, struct rpc_call *call)
{
    struct conversion *conversion = ctx;

    (void)call;
    work_give_up(&conversion->work);
}

/* Answers the call with what convert makes of its request; takes that over. */
static void begin_conversion(struct server *server, struct rpc_call *call,
    ProtobufCMessage *request, bool (*convert)(struct conversion *conversion),
    bool is_long)
{
    struct conversion *conversion = kv_calloc(1, sizeof *conversion);

    if (conversion == NULL) {
        message_fail_no_memory(call);
        protobuf_c_message_free_unpacked(request, NULL);
        return;
    }
    conversion->tokenizer = server->tokenizer;
    conversion->call = call;
    conversion->convert = convert;
    conversion->request = request;
    conversion->work.run = on_convert;
    conversion->work.done = on_converted;
    rpc_call_set_ctx(call, conversion);
    rpc_call_on_cancel(call, on_conversion_cancelled);
    work_do(server, &conversion->work, is_long);
}

/* ---- Tokenize */

static bool add_pieces(const struct tokenizer *tokenizer, const uint32_t *ids,
    size_t n_ids, Kvpool__V1__TokenizeResponse *response)
{
    ProtobufCBinaryData *pieces = kv_calloc(n_ids, sizeof *pieces);

    if (pieces == NULL)
        return false;
    for (size_t i = 0; i < n_ids; i++) {
        struct gguf_string piece = tokenizer_piece(tokenizer, ids[i]);

        pieces[i].data = (uint8_t *)piece.data;
        pieces[i].len = piece.n;
    }
    response->pieces = pieces;
    response->n_pieces = n_ids;
    return true;
}

static bool tokenize(struct conversion *conversion)
{
    const Kvpool__V1__TokenizeRequest *request =
        (const Kvpool__V1__TokenizeRequest *)conversion->request;
    Kvpool__V1__TokenizeResponse response = KVPOOL__V1__TOKENIZE_RESPONSE__INIT;
    const unsigned flags =
        (request->add_special ? TOKENIZER_ADD_BOS : 0) |
        (request->parse_special ? TOKENIZER_PARSE_SPECIAL : 0);
    uint32_t *ids = NULL;
    size_t n_ids = 0;
    bool done;

    done = tokenizer_encode(conversion->tokenizer, request->text,
               strlen(request->text), flags, &ids, &n_ids) == KV_OK;
    if (done && request->with_pieces && n_ids > 0)
        done = add_pieces(conversion->tokenizer, ids, n_ids, &response);
    response.token_ids = ids;
    response.n_token_ids = n_ids;
    done = done && message_encode(&response.base, &conversion->answer);
    kv_free(response.pieces);
    kv_free(ids);
    return done;
}

static void on_tokenize(void *ctx, struct rpc_call *call,
    const unsigned char *bytes, size_t n_bytes)
{
    struct server *server = ctx;
    struct rpc_error error;
    Kvpool__V1__TokenizeRequest *request =
        (Kvpool__V1__TokenizeRequest *)message_parse(
            &kvpool__v1__tokenize_request__descriptor, bytes, n_bytes, &error);

    if (error.n_violations == 0 &&
        check_model(&error, server->model, request->model)) {
        begin_conversion(server, call, &request->base, tokenize,
            strlen(request->text) > SERVER_SHORT_TEXT_BYTES);
        return;
    }
    rpc_call_fail(call, &error);
    kvpool__v1__tokenize_request__free_unpacked(request, NULL);
}

/* ---- Detokenize */

static size_t raw_length(const struct tokenizer *tokenizer,
    const Kvpool__V1__DetokenizeRequest *request)
{
    size_t n = 0;

    for (size_t i = 0; i < request->n_token_ids; i++) {
        n += tokenizer_piece(tokenizer, request->token_ids[i]).n;
        if (request->with_special)
            n += tokenizer_special_name(tokenizer, request->token_ids[i]).n;
    }
    return n;
}

static char *put_bytes(char *out, const char *bytes, size_t n)
{
    if (n > 0)
        memcpy(out, bytes, n);
    return out + n;
}

/* The bytes of the tokens; without the space that SPM puts before a text, and
 * again behind a special token's name, so that the names can be parsed back. */
static size_t fill_raw(const struct tokenizer *tokenizer,
    const Kvpool__V1__DetokenizeRequest *request, char *raw)
{
    bool at_start = true;
    char *out = raw;

    for (size_t i = 0; i < request->n_token_ids; i++) {
        const uint32_t id = request->token_ids[i];
        struct gguf_string piece = tokenizer_piece(tokenizer, id);
        struct gguf_string name = tokenizer_special_name(tokenizer, id);
        size_t skip = at_start && tokenizer_strips_space(tokenizer) &&
                      piece.n > 0 && piece.data[0] == ' ';

        out = put_bytes(out, piece.data + skip, piece.n - skip);
        if (request->with_special)
            out = put_bytes(out, name.data, name.n);
        at_start =
            (at_start && piece.n == 0) || (request->with_special && name.n > 0);
    }
    return (size_t)(out - raw);
}

static bool detokenize(struct conversion *conversion)
{
    const Kvpool__V1__DetokenizeRequest *request =
        (const Kvpool__V1__DetokenizeRequest *)conversion->request;
    Kvpool__V1__DetokenizeResponse response =
        KVPOOL__V1__DETOKENIZE_RESPONSE__INIT;
    size_t n = raw_length(conversion->tokenizer, request);
    char *raw = kv_calloc(1, n + 1);
    char *text = kv_calloc(1, TEXT_STREAM_OUT_BYTES(n) + 1);
    struct text_stream stream;
    bool done = false;

    if (raw != NULL && text != NULL) {
        n = fill_raw(conversion->tokenizer, request, raw);
        response.raw.data = (uint8_t *)raw;
        response.raw.len = n;
        text_stream_init(&stream, NULL, 0);
        n = text_stream_put(&stream, raw, n, text);
        text_stream_end(&stream, text + n);
        response.text = text;
        done = message_encode(&response.base, &conversion->answer);
    }
    kv_free(text);
    kv_free(raw);
    return done;
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
    }
    if (error.n_violations == 0 &&
        check_model(&error, server->model, request->model)) {
        begin_conversion(server, call, &request->base, detokenize,
            request->n_token_ids > SERVER_SHORT_TEXT_BYTES);
        return;
    }
    rpc_call_fail(call, &error);
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
    out->locked_bytes = compute_locked_bytes(server->compute);
    out->tokenizer_bytes = tokenizer_bytes(server->tokenizer);
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
    out->architecture = (char *)model->architecture;
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

    if (request == NULL || !check_model(&error, server->model, request->name)) {
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
