#include "rpc/call.h"

#include <assert.h>
#include <netinet/in.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>

#include <arpa/inet.h>
#include <grpc/byte_buffer.h>
#include <grpc/slice.h>
#include <grpc/support/alloc.h>
#include <grpc/support/time.h>

#include "base/clock.h"
#include "base/heap.h"
#include "base/log.h"
#include "rpc/cork.h"
#include "rpc/message.h"
#include "rpc/trace.h"

/* What may be under way for a call at once, each with its own tag:
 *
 *   arrived   request_call            from arming until the call is here
 *   closed    RECV_CLOSE_ON_SERVER    until the call is over, however
 *   sent      SEND_INITIAL_METADATA or one SEND_MESSAGE
 *   received  RECV_MESSAGE            bidirectional streams only
 *   finished  SEND_STATUS             the last batch
 *
 * Core's own rules shape the code: one SEND_MESSAGE at a time; a refused batch
 * brings no tag; metadata and payload belong to the call and die with it; a
 * status behind a message waits for the peer's flow control, so that only
 * cancelling helps against a peer that reads nothing.
 *
 * A unary call that is answered in its handler is the common case, and takes
 * one batch: RECV_CLOSE_ON_SERVER goes along. Any other call is watched from
 * the moment its handler returns. */

#define MAX_PEER_BYTES (INET6_ADDRSTRLEN + 16)

struct rpc_call {
    struct kv_list link; /* in the server's calls, or the class's spares */
    struct call_class *class;
    grpc_call *core;
    unsigned refs;

    grpc_call_details details; /* CALL_UNKNOWN only */
    gpr_timespec deadline;
    grpc_metadata_array metadata;
    grpc_byte_buffer *payload;
    int cancelled;
    struct rpc_tag arrived, closed, sent, received, finished;

    bool admitted;                /* counts against max_calls */
    bool watched;                 /* RECV_CLOSE_ON_SERVER was started */
    bool started;                 /* initial metadata was sent */
    bool sending;                 /* `sent` is under way */
    bool ended;                   /* the handler has done its duty */
    bool lost;                    /* cancelled: whatever is sent goes nowhere */
    struct rpc_post release_post; /* the end of the handler's reference */

    const struct rpc_stream_ops *ops;
    void (*on_cancel)(void *ctx, struct rpc_call *call);
    call_message_cb on_message;
    void *ctx;

    grpc_status_code status;
    grpc_slice status_message;
    grpc_metadata status_details; /* n_status_details of them */
    size_t n_status_details;

    bool has_trace_id;
    uint8_t trace_id[TRACE_ID_BYTES];
    char peer[MAX_PEER_BYTES];
};

/* ---- references */

static void clear_core(struct rpc_call *call)
{
    grpc_metadata_array_destroy(&call->metadata);
    grpc_call_details_destroy(&call->details);
    if (call->payload != NULL)
        grpc_byte_buffer_destroy(call->payload);
    grpc_slice_unref(call->status_message);
    if (call->n_status_details > 0)
        grpc_slice_unref(call->status_details.value);
    if (call->core != NULL)
        grpc_call_unref(call->core);
}

static void recycle(struct rpc_call *call)
{
    struct call_class *class = call->class;

    if (class->n_spares == class->n_wanted) {
        kv_free(call);
        return;
    }
    memset(call, 0, sizeof *call);
    call->class = class;
    kv_list_append(&class->spares, &call->link);
    class->n_spares++;
}

static void destroy(struct rpc_call *call)
{
    struct rpc_server *server = call->class->server;

    if (call->ops != NULL)
        call->ops->on_done(call);
    if (call->admitted)
        server->n_admitted--;
    kv_list_remove(&call->link);
    clear_core(call);
    recycle(call);
    server_on_call_gone(server);
}

static void release(struct rpc_call *call)
{
    if (--call->refs == 0)
        destroy(call);
}

static void on_release_post(struct rpc_post *post)
{
    release(KV_LIST_ENTRY(post, struct rpc_call, release_post));
}

/* The handler's reference, given up through the loop so that on_done never
 * comes from inside a function that the handler called. */
static void release_later(struct rpc_call *call)
{
    bool posted;

    if (call->refs > 1) {
        call->refs--;
        return;
    }
    call->release_post.run = on_release_post;
    posted =
        rpc_loop_post(call->class->server->config.loop, &call->release_post);
    assert(posted); /* the loop outlives its servers */
    (void)posted;
}

/* ---- batches */

static void start_batch(struct rpc_call *call, const grpc_op *ops, size_t n_ops,
    struct rpc_tag *tag)
{
    call->refs++;
    if (rpc_tag_start_batch(call->core, ops, n_ops, tag))
        return;
    /* Cannot happen by core's rules; the call is given up, not the server. */
    kv_log(KV_LOG_ERROR, "kvpool::rpc", "gRPC core refused an operation",
        KV_LOG_TEXT("rpc", call->class->path));
    call->refs--;
    call->lost = true;
    if (tag == &call->sent)
        call->sending = false;
    grpc_call_cancel(call->core, NULL);
}

/* Its descriptor, by which core knows a connection that it was handed: "fd:7".
 */
static int connection_of(const struct rpc_call *call)
{
    char *name = grpc_call_get_peer(call->core);
    int fd = strncmp(name, "fd:", 3) == 0 ? atoi(name + 3) : -1;

    gpr_free(name);
    return fd;
}

static grpc_op initial_metadata_op(void)
{
    return (grpc_op){.op = GRPC_OP_SEND_INITIAL_METADATA};
}

static grpc_op message_op(grpc_byte_buffer *buffer)
{
    return (grpc_op){
        .op = GRPC_OP_SEND_MESSAGE, .data.send_message.send_message = buffer};
}

static grpc_op close_op(struct rpc_call *call)
{
    call->watched = true;
    return (grpc_op){.op = GRPC_OP_RECV_CLOSE_ON_SERVER,
        .data.recv_close_on_server.cancelled = &call->cancelled};
}

static grpc_op status_op(struct rpc_call *call)
{
    return (grpc_op){.op = GRPC_OP_SEND_STATUS_FROM_SERVER,
        .data.send_status_from_server = {
            .trailing_metadata_count = call->n_status_details,
            .trailing_metadata = &call->status_details,
            .status = call->status,
            .status_details = &call->status_message,
        }};
}

static void watch(struct rpc_call *call)
{
    grpc_op op = close_op(call);

    start_batch(call, &op, 1, &call->closed);
}

/* message NULL: only a status. */
static void send_last_batch(struct rpc_call *call, grpc_byte_buffer *message)
{
    grpc_op ops[4];
    size_t n = 0;

    if (!call->started)
        ops[n++] = initial_metadata_op();
    if (message != NULL)
        ops[n++] = message_op(message);
    ops[n++] = status_op(call);
    if (!call->watched)
        ops[n++] = close_op(call);
    call->started = true;
    rpc_cork_before_answer(
        rpc_loop_cork(call->class->server->config.loop), connection_of(call));
    start_batch(call, ops, n, &call->finished);
}

/* An ended call's last step: its status, once what is in flight has gone. */
static void conclude(struct rpc_call *call)
{
    assert(call->ended);
    if (call->sending)
        return;
    if (!call->lost)
        send_last_batch(call, NULL);
    release_later(call);
}

/* ---- what was received */

/* Core counts what came over the wire; what it inflates to is counted here. */
static void refuse_compressed(struct rpc_call *call, enum kv_status status)
{
    size_t limit = call->class->server->config.max_request_bytes;
    struct rpc_error error;

    if (status == KV_LIMIT) {
        rpc_error_init(&error, RPC_RESOURCE_EXHAUSTED, "REQUEST_TOO_LARGE",
            "the compressed request inflates to more than %zu bytes", limit);
        rpc_error_add_metadata(&error, "limit", "%zu", limit);
    } else if (status == KV_INVALID) {
        rpc_error_init(&error, RPC_INVALID_ARGUMENT, "INVALID_FIELD",
            "the compressed request is damaged");
    } else {
        rpc_error_init(&error, RPC_RESOURCE_EXHAUSTED, "NO_MEMORY",
            "the server has no memory to inflate the request");
    }
    rpc_call_fail(call, &error);
}

/* false: the call has failed. */
static bool open_view(
    struct rpc_call *call, grpc_byte_buffer *payload, struct message_view *view)
{
    enum kv_status status = message_view_init(
        view, payload, call->class->server->config.max_request_bytes);

    if (status != KV_OK)
        refuse_compressed(call, status);
    return status == KV_OK;
}

/* ---- tags */

static void on_finished(struct rpc_tag *tag, bool ok)
{
    (void)ok;
    release(KV_LIST_ENTRY(tag, struct rpc_call, finished));
}

static void on_sent(struct rpc_tag *tag, bool ok)
{
    struct rpc_call *call = KV_LIST_ENTRY(tag, struct rpc_call, sent);

    call->sending = false;
    if (!ok)
        call->lost = true; /* `closed` says it to the handler */
    if (call->ended)
        conclude(call);
    else if (!call->lost && call->ops->on_ready != NULL)
        call->ops->on_ready(call);
    release(call);
}

static void on_closed(struct rpc_tag *tag, bool ok)
{
    struct rpc_call *call = KV_LIST_ENTRY(tag, struct rpc_call, closed);

    (void)ok;
    if (call->cancelled)
        call->lost = true;
    if (call->lost && !call->ended) {
        if (call->on_cancel != NULL)
            call->on_cancel(call->ctx, call);
        else if (call->ops != NULL && call->ops->on_cancel != NULL)
            call->ops->on_cancel(call);
    }
    release(call);
}

static void on_received(struct rpc_tag *tag, bool ok)
{
    struct rpc_call *call = KV_LIST_ENTRY(tag, struct rpc_call, received);
    grpc_byte_buffer *payload = call->payload;
    struct message_view view;

    call->payload = NULL;
    if (payload == NULL) {
        if (!call->ended)
            call->on_message(call, NULL, 0);
    } else {
        if (ok && !call->ended && open_view(call, payload, &view)) {
            call->on_message(call, view.bytes, view.n);
            message_view_fini(&view);
        }
        grpc_byte_buffer_destroy(payload);
    }
    release(call);
}

/* ---- arrival */

static void refuse_unknown(struct rpc_call *call)
{
    char *path = grpc_slice_to_c_string(call->details.method);
    struct rpc_error error;

    rpc_error_init(&error, RPC_UNIMPLEMENTED, "RPC_NOT_SUPPORTED",
        "this server does not have %s", path);
    rpc_error_add_metadata(&error, "rpc", "%s", path);
    gpr_free(path);
    rpc_call_fail(call, &error);
}

/* No message is not an empty one: it is what is left of a request whose sender
 * went away in the middle, and must not be taken for a decision. */
static void refuse_missing(struct rpc_call *call)
{
    struct rpc_error error;

    rpc_error_init(&error, RPC_INVALID_ARGUMENT, "INVALID_FIELD",
        "the call ended without a request message");
    rpc_call_fail(call, &error);
}

/* Twice is malformed: nobody could say which one counts. */
static void find_trace_id(struct rpc_call *call)
{
    const grpc_metadata *entry;
    size_t n_found = 0;

    for (size_t i = 0; i < call->metadata.count; i++) {
        entry = &call->metadata.metadata[i];
        if (grpc_slice_str_cmp(entry->key, "traceparent") != 0)
            continue;
        call->has_trace_id =
            n_found++ == 0 &&
            trace_id_parse(call->trace_id,
                (const char *)GRPC_SLICE_START_PTR(entry->value),
                GRPC_SLICE_LENGTH(entry->value));
    }
}

static void handle(struct rpc_call *call)
{
    struct call_class *class = call->class;
    struct message_view view;

    find_trace_id(call);
    if (class->shape == CALL_UNKNOWN) {
        refuse_unknown(call);
    } else if (class->shape == CALL_BIDI) {
        class->handler(class->ctx, call, NULL, 0);
    } else if (call->payload == NULL) {
        refuse_missing(call);
    } else if (open_view(call, call->payload, &view)) {
        class->handler(class->ctx, call, view.bytes, view.n);
        message_view_fini(&view);
    }
}

static void on_arrived(struct rpc_tag *tag, bool ok)
{
    struct rpc_call *call = KV_LIST_ENTRY(tag, struct rpc_call, arrived);
    struct call_class *class = call->class;
    struct rpc_server *server = class->server;
    struct rpc_error error;

    class->n_armed--;
    server->n_armed--;
    if (!ok) { /* the server shuts down */
        clear_core(call);
        recycle(call);
        server_on_call_gone(server);
        return;
    }
    call_class_top_up(class);
    server->calls_total++;
    kv_list_append(&server->calls, &call->link);
    call->refs = 2; /* the handler's, and this function's */
    if (server_admits(server, class, &error)) {
        call->admitted = !class->exempt;
        server->n_admitted += call->admitted;
        handle(call);
    } else {
        rpc_call_fail(call, &error);
    }
    if (!call->watched)
        watch(call);
    release(call);
}

/* ---- arming */

enum kv_status call_class_add_spare(struct call_class *class)
{
    struct rpc_call *call = kv_calloc(1, sizeof *call);

    if (call == NULL)
        return KV_NO_MEMORY;
    call->class = class;
    kv_list_append(&class->spares, &call->link);
    class->n_spares++;
    return KV_OK;
}

void call_class_free_spares(struct call_class *class)
{
    KV_LIST_EACH (node, &class->spares)
        kv_free(KV_LIST_ENTRY(node, struct rpc_call, link));
    kv_list_init(&class->spares);
    class->n_spares = 0;
}

static struct rpc_call *take_spare(struct call_class *class)
{
    struct kv_list *link = class->spares.next;
    struct rpc_call *call = KV_LIST_ENTRY(link, struct rpc_call, link);

    kv_list_remove(link);
    class->n_spares--;
    call->arrived.run = on_arrived;
    call->closed.run = on_closed;
    call->sent.run = on_sent;
    call->received.run = on_received;
    call->finished.run = on_finished;
    call->status_message = grpc_empty_slice();
    grpc_metadata_array_init(&call->metadata);
    grpc_call_details_init(&call->details);
    return call;
}

static grpc_call_error request_call(struct rpc_call *call)
{
    struct call_class *class = call->class;
    struct rpc_server *server = class->server;
    grpc_completion_queue *queue = rpc_loop_queue(server->config.loop);
    bool reads = class->shape != CALL_BIDI;

    if (class->registered == NULL)
        return grpc_server_request_call(server->core, &call->core,
            &call->details, &call->metadata, queue, queue, &call->arrived);
    return grpc_server_request_registered_call(server->core, class->registered,
        &call->core, &call->deadline, &call->metadata,
        reads ? &call->payload : NULL, queue, queue, &call->arrived);
}

static bool arm(struct call_class *class)
{
    struct rpc_call *call;

    if (class->n_spares == 0 && call_class_add_spare(class) != KV_OK)
        return false;
    call = take_spare(class);
    if (request_call(call) != GRPC_CALL_OK) {
        clear_core(call);
        recycle(call);
        return false;
    }
    class->n_armed++;
    class->server->n_armed++;
    return true;
}

void call_class_top_up(struct call_class *class)
{
    if (class->server->shutting_down)
        return;
    while (class->n_armed < class->n_wanted && arm(class))
        ;
}

/* ---- what handlers know of a call */

void *rpc_call_ctx(const struct rpc_call *call)
{
    return call->ctx;
}

void rpc_call_set_ctx(struct rpc_call *call, void *ctx)
{
    call->ctx = ctx;
}

int64_t rpc_call_deadline_ns(const struct rpc_call *call)
{
    gpr_timespec deadline =
        gpr_convert_clock_type(call->deadline, GPR_CLOCK_MONOTONIC);

    if (deadline.tv_sec >= INT64_MAX / KV_NS_PER_S)
        return INT64_MAX;
    return deadline.tv_sec * KV_NS_PER_S + deadline.tv_nsec;
}

static void describe_socket(char out[MAX_PEER_BYTES], int fd)
{
    struct sockaddr_storage address = {0};
    const struct sockaddr_in *v4 = (const struct sockaddr_in *)&address;
    const struct sockaddr_in6 *v6 = (const struct sockaddr_in6 *)&address;
    socklen_t n = sizeof address;
    char host[INET6_ADDRSTRLEN] = "";

    if (getpeername(fd, (struct sockaddr *)&address, &n) != 0)
        address.ss_family = AF_UNSPEC;
    switch (address.ss_family) {
    case AF_INET:
        inet_ntop(AF_INET, &v4->sin_addr, host, sizeof host);
        snprintf(out, MAX_PEER_BYTES, "%s:%u", host, ntohs(v4->sin_port));
        break;
    case AF_INET6:
        inet_ntop(AF_INET6, &v6->sin6_addr, host, sizeof host);
        snprintf(out, MAX_PEER_BYTES, "[%s]:%u", host, ntohs(v6->sin6_port));
        break;
    case AF_UNIX:
        snprintf(out, MAX_PEER_BYTES, "unix");
        break;
    default:
        snprintf(out, MAX_PEER_BYTES, "gone");
    }
}

const char *rpc_call_peer(struct rpc_call *call)
{
    if (call->peer[0] == '\0')
        describe_socket(call->peer, connection_of(call));
    return call->peer;
}

const uint8_t *rpc_call_trace_id(const struct rpc_call *call)
{
    return call->has_trace_id ? call->trace_id : NULL;
}

void rpc_call_on_cancel(
    struct rpc_call *call, void (*cancelled)(void *ctx, struct rpc_call *call))
{
    call->on_cancel = cancelled;
}

/* ---- ending */

static void set_status(struct rpc_call *call, const struct rpc_error *error)
{
    unsigned char *details;
    size_t n = rpc_error_encode(error, &details);

    call->status = (grpc_status_code)error->code;
    call->status_message = grpc_slice_from_copied_string(error->message);
    if (n == 0)
        return;
    call->status_details = (grpc_metadata){
        .key = grpc_slice_from_static_string("grpc-status-details-bin"),
        .value = grpc_slice_from_copied_buffer((const char *)details, n)};
    call->n_status_details = 1;
    kv_free(details);
}

void rpc_call_reply(struct rpc_call *call, const struct rpc_bytes *message)
{
    grpc_byte_buffer *buffer = message_wrap(message);

    assert(!call->ended && !call->started);
    call->ended = true;
    if (!call->lost)
        send_last_batch(call, buffer);
    grpc_byte_buffer_destroy(buffer);
    release_later(call);
}

void rpc_call_fail(struct rpc_call *call, const struct rpc_error *error)
{
    assert(!call->ended && error->code != RPC_OK);
    call->ended = true;
    set_status(call, error);
    conclude(call);
}

void rpc_stream_finish(struct rpc_call *call)
{
    assert(!call->ended && call->started);
    call->ended = true;
    conclude(call);
}

static void cancel(
    struct rpc_call *call, grpc_status_code code, const char *message)
{
    call->lost = true;
    grpc_call_cancel_with_status(call->core, code, message, NULL);
}

void rpc_call_abort(struct rpc_call *call, const struct rpc_error *error)
{
    bool was_ended = call->ended;

    call->ended = true;
    cancel(call, (grpc_status_code)error->code, error->message);
    if (!was_ended)
        conclude(call);
}

void call_cut_off(struct rpc_call *call)
{
    grpc_call_cancel_with_status(
        call->core, GRPC_STATUS_UNAVAILABLE, "the server is stopping", NULL);
}

/* ---- streams */

void rpc_stream_start(struct rpc_call *call, const struct rpc_stream_ops *ops)
{
    grpc_op op = initial_metadata_op();

    assert(!call->started && !call->ended);
    call->ops = ops;
    call->started = call->sending = true;
    start_batch(call, &op, 1, &call->sent);
}

bool rpc_stream_ready(const struct rpc_call *call)
{
    return call->started && !call->sending && !call->ended && !call->lost;
}

void rpc_stream_send(struct rpc_call *call, const struct rpc_bytes *message)
{
    grpc_byte_buffer *buffer = message_wrap(message);
    grpc_op op = message_op(buffer);

    assert(rpc_stream_ready(call));
    call->sending = true;
    start_batch(call, &op, 1, &call->sent);
    grpc_byte_buffer_destroy(buffer);
}

void call_receive(struct rpc_call *call, call_message_cb on_message)
{
    grpc_op op = {.op = GRPC_OP_RECV_MESSAGE,
        .data.recv_message.recv_message = &call->payload};

    call->on_message = on_message;
    start_batch(call, &op, 1, &call->received);
}

struct rpc_call *call_of_link(struct kv_list *link)
{
    return KV_LIST_ENTRY(link, struct rpc_call, link);
}
