#include "rpc/client.h"

#include <assert.h>
#include <stdatomic.h>
#include <string.h>

#include <grpc/byte_buffer.h>
#include <grpc/grpc.h>
#include <grpc/grpc_security.h>
#include <grpc/slice.h>
#include <grpc/support/alloc.h>
#include <grpc/support/time.h>

#include "base/clock.h"
#include "base/heap.h"
#include "base/list.h"
#include "rpc/address.h"
#include "rpc/message.h"
#include "rpc/tag.h"

/* One completion queue, pumped by whatever waits: a call that waits for its own
 * tag runs those of open streams on the way. The bell is as in loop.c. */

#define MAX_ANSWER_BYTES (64 * 1024 * 1024)
#define FIRST_RECONNECT_MS 100
#define MAX_RECONNECT_MS 2000

struct rpc_client {
    grpc_completion_queue *queue;
    grpc_channel *channel;
    grpc_channel *lame;
    grpc_call *bell;
    struct rpc_tag bell_tag;
    _Atomic bool interrupted;
};

/* A call's ends that core fills in, alike for unary calls and streams. */
struct exchange {
    grpc_call *core;
    grpc_metadata_array initial, trailing;
    grpc_status_code code;
    grpc_slice message;
    grpc_byte_buffer *payload; /* received and not yet taken */
};

struct unary {
    struct exchange exchange;
    struct rpc_tag tag;
    bool done;
};

struct rpc_client_stream {
    struct rpc_client *client;
    struct exchange exchange;
    struct rpc_tag opened, received, finished;
    int n_tags; /* under way */
    bool reading, at_end, is_finished;
};

/* ---- life */

static void on_bell(struct rpc_tag *tag, bool ok)
{
    (void)tag;
    (void)ok;
}

static grpc_arg int_arg(const char *key, int value)
{
    return (grpc_arg){.type = GRPC_ARG_INTEGER,
        .key = (char *)(uintptr_t)key, /* core copies it */
        .value.integer = value};
}

static grpc_channel *create_channel(const char *address)
{
    grpc_arg args[] = {
        int_arg(GRPC_ARG_MAX_RECEIVE_MESSAGE_LENGTH, MAX_ANSWER_BYTES),
        int_arg(GRPC_ARG_USE_LOCAL_SUBCHANNEL_POOL, 1),
        int_arg(GRPC_ARG_ENABLE_HTTP_PROXY, 0),
        int_arg(GRPC_ARG_INITIAL_RECONNECT_BACKOFF_MS, FIRST_RECONNECT_MS),
        int_arg(GRPC_ARG_MAX_RECONNECT_BACKOFF_MS, MAX_RECONNECT_MS),
    };
    grpc_channel_args list = {sizeof args / sizeof *args, args};
    grpc_channel_credentials *credentials = grpc_insecure_credentials_create();
    grpc_channel *channel = grpc_channel_create(address, credentials, &list);

    grpc_channel_credentials_release(credentials);
    return channel;
}

enum kv_status rpc_client_open(
    struct rpc_client **out, const char *address, struct kv_error *error)
{
    struct rpc_address parsed;
    struct rpc_client *client;
    enum kv_status status = rpc_address_parse(&parsed, address, error);

    if (status != KV_OK)
        return status;
    client = kv_calloc(1, sizeof *client);
    if (client == NULL)
        return kv_error_set(
            error, KV_NO_MEMORY, "%.200s: out of memory", address);
    grpc_init();
    client->queue = grpc_completion_queue_create_for_next(NULL);
    client->channel = create_channel(address);
    client->lame = grpc_lame_client_channel_create(
        "bell", GRPC_STATUS_UNAVAILABLE, "bell");
    client->bell = grpc_channel_create_call(client->lame, NULL, 0,
        client->queue, grpc_slice_from_static_string("/bell"), NULL,
        gpr_inf_future(GPR_CLOCK_REALTIME), NULL);
    client->bell_tag.run = on_bell;
    *out = client;
    return KV_OK;
}

void rpc_client_close(struct rpc_client *client)
{
    const gpr_timespec never = gpr_inf_future(GPR_CLOCK_REALTIME);

    if (client == NULL)
        return;
    grpc_completion_queue_shutdown(client->queue);
    while (rpc_tag_run_next(client->queue, never) != GRPC_QUEUE_SHUTDOWN)
        ;
    grpc_call_unref(client->bell);
    grpc_channel_destroy(client->lame);
    grpc_channel_destroy(client->channel);
    grpc_completion_queue_destroy(client->queue);
    grpc_shutdown_blocking();
    kv_free(client);
}

void rpc_client_interrupt(struct rpc_client *client)
{
    bool rung;

    if (atomic_exchange(&client->interrupted, true))
        return; /* rung already */
    rung = rpc_tag_start_batch(client->bell, NULL, 0, &client->bell_tag);
    assert(rung);
    (void)rung;
}

/* ---- what every call has */

static gpr_timespec deadline_in(int64_t ns)
{
    if (ns >= INT64_MAX / 2)
        return gpr_inf_future(GPR_CLOCK_MONOTONIC);
    return gpr_time_add(
        gpr_now(GPR_CLOCK_MONOTONIC), gpr_time_from_nanos(ns, GPR_TIMESPAN));
}

static void exchange_init(struct exchange *exchange, struct rpc_client *client,
    const char *path, int64_t timeout_ns)
{
    grpc_slice method = grpc_slice_from_copied_string(path);

    memset(exchange, 0, sizeof *exchange);
    grpc_metadata_array_init(&exchange->initial);
    grpc_metadata_array_init(&exchange->trailing);
    exchange->message = grpc_empty_slice();
    exchange->core = grpc_channel_create_call(client->channel, NULL,
        GRPC_PROPAGATE_DEFAULTS, client->queue, method, NULL,
        deadline_in(timeout_ns > 0 ? timeout_ns : INT64_MAX), NULL);
    grpc_slice_unref(method); /* core took a reference of its own */
}

static void exchange_fini(struct exchange *exchange)
{
    grpc_metadata_array_destroy(&exchange->initial);
    grpc_metadata_array_destroy(&exchange->trailing);
    grpc_slice_unref(exchange->message);
    if (exchange->payload != NULL)
        grpc_byte_buffer_destroy(exchange->payload);
    grpc_call_unref(exchange->core);
}

static void exchange_error(
    const struct exchange *exchange, struct rpc_error *error)
{
    const grpc_metadata_array *trailing = &exchange->trailing;
    char *message = grpc_slice_to_c_string(exchange->message);
    const grpc_slice *details = NULL;

    for (size_t i = 0; i < trailing->count; i++) {
        if (grpc_slice_str_cmp(
                trailing->metadata[i].key, "grpc-status-details-bin") == 0)
            details = &trailing->metadata[i].value;
    }
    rpc_error_decode(error, (enum rpc_code)exchange->code, message,
        details != NULL ? GRPC_SLICE_START_PTR(*details) : NULL,
        details != NULL ? GRPC_SLICE_LENGTH(*details) : 0);
    gpr_free(message);
}

/* The received message as memory of the caller's. */
static enum kv_status exchange_take(
    struct exchange *exchange, unsigned char **out, size_t *n_out)
{
    struct message_view view;
    enum kv_status status =
        message_view_init(&view, exchange->payload, SIZE_MAX);
    unsigned char *copy;

    if (status != KV_OK)
        return status;
    status = KV_NO_MEMORY;
    copy = kv_calloc(view.n + 1, 1); /* so that empty is not NULL */
    if (copy != NULL) {
        memcpy(copy, view.bytes, view.n);
        *out = copy;
        *n_out = view.n;
        status = KV_OK;
    }
    message_view_fini(&view);
    if (status == KV_OK) {
        grpc_byte_buffer_destroy(exchange->payload);
        exchange->payload = NULL;
    }
    return status;
}

/* The batch with which every call begins. */
struct opening {
    grpc_op ops[3];
    grpc_metadata traceparent;
    grpc_byte_buffer *request;
};

static void opening_init(struct opening *opening, const void *request,
    size_t n_request, const struct rpc_client_options *options)
{
    const struct rpc_bytes bytes = {.data = request, .n = n_request};
    grpc_op *initial = &opening->ops[0];

    memset(opening, 0, sizeof *opening);
    opening->request = message_wrap(&bytes);
    initial->op = GRPC_OP_SEND_INITIAL_METADATA;
    if (options->wait_for_ready)
        initial->flags = GRPC_INITIAL_METADATA_WAIT_FOR_READY |
                         GRPC_INITIAL_METADATA_WAIT_FOR_READY_EXPLICITLY_SET;
    opening->traceparent.key = grpc_slice_from_static_string("traceparent");
    opening->traceparent.value =
        options->traceparent != NULL
            ? grpc_slice_from_copied_string(options->traceparent)
            : grpc_empty_slice();
    initial->data.send_initial_metadata.count = options->traceparent != NULL;
    initial->data.send_initial_metadata.metadata = &opening->traceparent;
    opening->ops[1].op = GRPC_OP_SEND_MESSAGE;
    opening->ops[1].data.send_message.send_message = opening->request;
    opening->ops[2].op = GRPC_OP_SEND_CLOSE_FROM_CLIENT;
}

static void opening_fini(struct opening *opening)
{
    grpc_slice_unref(opening->traceparent.value);
    grpc_byte_buffer_destroy(opening->request);
}

static grpc_op receive_initial_op(struct exchange *exchange)
{
    return (grpc_op){.op = GRPC_OP_RECV_INITIAL_METADATA,
        .data.recv_initial_metadata.recv_initial_metadata = &exchange->initial};
}

static grpc_op receive_message_op(struct exchange *exchange)
{
    return (grpc_op){.op = GRPC_OP_RECV_MESSAGE,
        .data.recv_message.recv_message = &exchange->payload};
}

static grpc_op receive_status_op(struct exchange *exchange)
{
    return (grpc_op){.op = GRPC_OP_RECV_STATUS_ON_CLIENT,
        .data.recv_status_on_client = {
            .trailing_metadata = &exchange->trailing,
            .status = &exchange->code,
            .status_details = &exchange->message,
        }};
}

static bool pump(struct rpc_client *client, gpr_timespec deadline)
{
    return rpc_tag_run_next(client->queue, deadline) == GRPC_OP_COMPLETE;
}

/* ---- unary calls */

static void on_unary(struct rpc_tag *tag, bool ok)
{
    (void)ok;
    KV_LIST_ENTRY(tag, struct unary, tag)->done = true;
}

/* Core takes all operations of a new call, but for metadata that is not legal
 * in a header. */
static bool start_unary(struct unary *unary, const struct opening *opening)
{
    grpc_op ops[6];

    memcpy(ops, opening->ops, sizeof opening->ops);
    ops[3] = receive_initial_op(&unary->exchange);
    ops[4] = receive_message_op(&unary->exchange);
    ops[5] = receive_status_op(&unary->exchange);
    unary->tag.run = on_unary;
    return rpc_tag_start_batch(unary->exchange.core, ops, 6, &unary->tag);
}

static enum rpc_code finish_unary(struct exchange *exchange,
    unsigned char **out, size_t *n_out, struct rpc_error *error)
{
    exchange_error(exchange, error);
    if (error->code != RPC_OK)
        return error->code;
    if (exchange->payload == NULL)
        rpc_error_init(
            error, RPC_INTERNAL, "", "the server answered without a message");
    else if (exchange_take(exchange, out, n_out) != KV_OK)
        rpc_error_init(
            error, RPC_RESOURCE_EXHAUSTED, "", "out of memory for the answer");
    return error->code;
}

enum rpc_code rpc_client_call(struct rpc_client *client, const char *path,
    const void *request, size_t n_request,
    const struct rpc_client_options *options, unsigned char **out,
    size_t *n_out, struct rpc_error *error)
{
    const gpr_timespec never = gpr_inf_future(GPR_CLOCK_REALTIME);
    struct unary unary = {.done = false};
    struct opening opening;
    bool started;

    exchange_init(&unary.exchange, client, path, options->timeout_ns);
    opening_init(&opening, request, n_request, options);
    started = start_unary(&unary, &opening);
    opening_fini(&opening);
    while (started && !unary.done)
        pump(client, never);
    if (started)
        finish_unary(&unary.exchange, out, n_out, error);
    else
        rpc_error_init(error, RPC_INVALID_ARGUMENT, "",
            "the traceparent is not legal in a header");
    exchange_fini(&unary.exchange);
    return error->code;
}

/* ---- streams */

static void on_opened(struct rpc_tag *tag, bool ok)
{
    (void)ok;
    KV_LIST_ENTRY(tag, struct rpc_client_stream, opened)->n_tags--;
}

static void on_received(struct rpc_tag *tag, bool ok)
{
    struct rpc_client_stream *stream =
        KV_LIST_ENTRY(tag, struct rpc_client_stream, received);

    (void)ok;
    stream->n_tags--;
    stream->reading = false;
    stream->at_end = stream->exchange.payload == NULL;
}

static void on_finished(struct rpc_tag *tag, bool ok)
{
    struct rpc_client_stream *stream =
        KV_LIST_ENTRY(tag, struct rpc_client_stream, finished);

    (void)ok;
    stream->n_tags--;
    stream->is_finished = true;
}

static bool start(struct rpc_client_stream *stream, const grpc_op *ops,
    size_t n_ops, struct rpc_tag *tag)
{
    bool started = rpc_tag_start_batch(stream->exchange.core, ops, n_ops, tag);

    stream->n_tags += started;
    return started;
}

static bool start_stream(
    struct rpc_client_stream *stream, const struct opening *opening)
{
    grpc_op ops[4], status = receive_status_op(&stream->exchange);

    memcpy(ops, opening->ops, sizeof opening->ops);
    ops[3] = receive_initial_op(&stream->exchange);
    return start(stream, ops, 4, &stream->opened) &&
           start(stream, &status, 1, &stream->finished);
}

enum kv_status rpc_client_stream_open(struct rpc_client *client,
    const char *path, const void *request, size_t n_request,
    const struct rpc_client_options *options, struct rpc_client_stream **out)
{
    struct rpc_client_stream *stream = kv_calloc(1, sizeof *stream);
    struct opening opening;
    bool started;

    if (stream == NULL)
        return KV_NO_MEMORY;
    stream->client = client;
    stream->opened.run = on_opened;
    stream->received.run = on_received;
    stream->finished.run = on_finished;
    exchange_init(&stream->exchange, client, path, options->timeout_ns);
    opening_init(&opening, request, n_request, options);
    started = start_stream(stream, &opening);
    opening_fini(&opening);
    if (!started) {
        rpc_client_stream_close(stream);
        return KV_INVALID;
    }
    *out = stream;
    return KV_OK;
}

static void read_next(struct rpc_client_stream *stream)
{
    grpc_op op = receive_message_op(&stream->exchange);

    stream->reading = start(stream, &op, 1, &stream->received);
    stream->at_end = !stream->reading;
}

enum kv_status rpc_client_stream_next(struct rpc_client_stream *stream,
    int64_t wait_ns, unsigned char **out, size_t *n_out,
    struct rpc_error *error)
{
    gpr_timespec deadline = deadline_in(wait_ns);

    for (;;) {
        if (atomic_exchange(&stream->client->interrupted, false))
            return KV_BUSY;
        if (stream->exchange.payload != NULL && !stream->reading)
            return exchange_take(&stream->exchange, out, n_out);
        if (stream->at_end && stream->is_finished) {
            exchange_error(&stream->exchange, error);
            return KV_CLOSED;
        }
        if (!stream->at_end && !stream->reading)
            read_next(stream);
        if (!pump(stream->client, deadline))
            return KV_BUSY;
    }
}

void rpc_client_stream_close(struct rpc_client_stream *stream)
{
    const gpr_timespec never = gpr_inf_future(GPR_CLOCK_REALTIME);

    if (stream == NULL)
        return;
    if (!stream->is_finished)
        grpc_call_cancel(stream->exchange.core, NULL);
    while (stream->n_tags > 0)
        pump(stream->client, never);
    exchange_fini(&stream->exchange);
    kv_free(stream);
}
