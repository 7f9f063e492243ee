/* Serves gRPC methods on a loop.
 *
 *   open ─> add methods ─> listen ─> start ─> [handlers run] ─> drain ─> close
 *
 * Connections are accepted by a listener of our own and handed to gRPC core, so
 * that running out of descriptors is a pause and not the end, and limits on
 * connections have a place.
 *
 * Thread: the loop's, everything. */
#ifndef RPC_SERVER_H
#define RPC_SERVER_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/error.h"
#include "rpc/error.h"
#include "rpc/loop.h"

struct rpc_server;
struct rpc_call;

struct rpc_server_config {
    struct rpc_loop *loop;
    size_t max_request_bytes; /* larger ones: RESOURCE_EXHAUSTED */
    uint32_t max_calls;       /* at once; beyond, TOO_MANY_CALLS */
    uint32_t max_connections; /* at once; others are closed as they come */
    uint32_t max_streams_per_connection;
    int64_t keepalive_ns; /* pings an idle peer, drops a dead one; 0: never */
    const unsigned char *descriptors; /* FileDescriptorSet for reflection */
    size_t n_descriptors;             /* 0: no reflection */
};

/* A message to send: memory with somebody who is told when it is done with. */
struct rpc_bytes {
    const void *data;
    size_t n;
    void (*release)(void *ctx); /* any thread; NULL: data is copied at once */
    void *ctx;
};

/* A call of a method. The request's bytes are borrowed for the handler's call;
 * they have been read whole. An empty request has n_request = 0; a call that
 * ended before its request was there never reaches a handler. The handler must
 * see to it that the call ends: rpc_call_reply or rpc_call_fail for unary
 * methods, rpc_call_finish for streams, at once or later. */
typedef void (*rpc_handler_cb)(void *ctx, struct rpc_call *call,
    const unsigned char *request, size_t n_request);

enum rpc_kind { RPC_UNARY, RPC_SERVER_STREAM };

struct rpc_method {
    const char *path; /* "/kvpool.v1.KvPoolService/Evict"; lives for ever */
    enum rpc_kind kind;
    rpc_handler_cb handler;
    void *ctx;
};

enum kv_status rpc_server_open(struct rpc_server **out,
    const struct rpc_server_config *config, struct kv_error *error);

/* Before start. Methods that nobody added are UNIMPLEMENTED. KV_INVALID: that
 * path was added before. KV_NO_MEMORY. */
enum kv_status rpc_server_add_method(
    struct rpc_server *server, const struct rpc_method *method);

/* "host:port", "[v6]:port" or "unix:/path"; port 0 picks one. Before start;
 * several may be given. KV_INVALID: not an address; KV_IO: cannot be bound, and
 * *error says which and why ("127.0.0.1:7440: address already in use"). */
enum kv_status rpc_server_listen(
    struct rpc_server *server, const char *address, struct kv_error *error);

/* The address of the nth listener with its real port; borrowed. NULL behind
 * the last. */
const char *rpc_server_address(const struct rpc_server *server, size_t nth);

enum kv_status rpc_server_start(
    struct rpc_server *server, struct kv_error *error);

/* No new connections; new calls end UNAVAILABLE, DRAINING (with limit_ns as
 * metadata). Calls in progress go on; those still there after limit_ns are
 * cancelled. Health watchers are told NOT_SERVING and let go. When no call is
 * left the connections are ended, so that whoever calls then finds nobody
 * (UNAVAILABLE) and goes elsewhere. drained is called once, from the loop, when
 * all of that is over, and may close the server.
 * A second call of drain with a shorter limit cuts the first one's short; its
 * drained is not called. */
void rpc_server_drain(struct rpc_server *server, int64_t limit_ns,
    void (*drained)(void *ctx), void *ctx);

/* After `drained`, or before start. NULL is fine. */
void rpc_server_close(struct rpc_server *server);

/* grpc.health.v1: "" and each service that was set. Watchers hear of changes.
 */
void rpc_server_set_serving(
    struct rpc_server *server, const char *service, bool serving);

struct rpc_server_counts {
    uint64_t connections_total, calls_total;
    uint32_t calls;                 /* now */
    uint64_t accept_failures_total; /* EMFILE and the like */
    uint64_t refused_total;         /* connections beyond max_connections */
};
struct rpc_server_counts rpc_server_counts(const struct rpc_server *server);

/* ---- a call: valid from its handler until it was ended AND, for streams,
 * on_done was called */

void *rpc_call_ctx(const struct rpc_call *call); /* as set, else NULL */
void rpc_call_set_ctx(struct rpc_call *call, void *ctx);

/* Monotonic; INT64_MAX if none. */
int64_t rpc_call_deadline_ns(const struct rpc_call *call);

/* "127.0.0.1:4711", "[::1]:4711", "unix", or "gone" if the peer is. For logs,
 * never to authorise on; borrowed for the call's life. */
const char *rpc_call_peer(struct rpc_call *call);

/* The trace id of W3C `traceparent` metadata: 16 bytes, borrowed, NULL if there
 * is none or it is malformed. */
const uint8_t *rpc_call_trace_id(const struct rpc_call *call);

/* Ends a unary call. A message larger than what a client takes is its problem.
 */
void rpc_call_reply(struct rpc_call *call, const struct rpc_bytes *message);

/* Ends any call with an error, with details. */
void rpc_call_fail(struct rpc_call *call, const struct rpc_error *error);

/* Unary calls that wait: called once if the caller goes away or the deadline
 * passes before the call was ended. The call must still be ended (whatever is
 * sent goes nowhere). */
void rpc_call_on_cancel(
    struct rpc_call *call, void (*cancelled)(void *ctx, struct rpc_call *call));

/* ---- server streams */

struct rpc_stream_ops {
    /* The stream takes a message now: initial metadata is out, or the last
     * message is. Not called again until something was sent; rpc_stream_ready
     * tells at any time. */
    void (*on_ready)(struct rpc_call *call);

    /* The caller went away, or its deadline passed. The stream must still be
     * finished. */
    void (*on_cancel)(struct rpc_call *call);

    /* Last call: everything is over, the call is gone after it. Always called,
     * once, after rpc_stream_finish, rpc_call_fail or rpc_call_abort, and never
     * from inside them. */
    void (*on_done)(struct rpc_call *call);
};

/* Sends initial metadata at once. From the handler; on_ready follows. ops lives
 * for ever; each of its functions but on_done may be NULL. A stream that fails
 * before this has no on_done. */
void rpc_stream_start(struct rpc_call *call, const struct rpc_stream_ops *ops);

/* Whether rpc_stream_send may be called: started, nothing in flight, not over.
 */
bool rpc_stream_ready(const struct rpc_call *call);

/* One message; it is in flight until on_ready. */
void rpc_stream_send(struct rpc_call *call, const struct rpc_bytes *message);

/* Ends in OK, after what is in flight. */
void rpc_stream_finish(struct rpc_call *call);

/* Gives the peer up, when it takes nothing and even a status would wait. Ends
 * the call if it was not ended, and may follow rpc_stream_finish or
 * rpc_call_fail until on_done; on_done follows. */
void rpc_call_abort(struct rpc_call *call, const struct rpc_error *error);

#endif
