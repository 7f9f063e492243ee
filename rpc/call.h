/* A call on its way through gRPC core, and the class of calls that it was armed
 * for.
 *
 *   armed ─> arrived ─> handler ─> [sending] ─> ended ─> gone
 *     │                    └ refused: ended at once
 *     └ the server shuts down: gone
 *
 * A call is referenced by each tag that core owes it and by whoever must still
 * end it. It goes back to its class as a spare when the last of them is done,
 * so that serving allocates nothing at a steady load, and arming cannot fail
 * when memory is short.
 *
 * Private to rpc/. Thread: the loop's. */
#ifndef RPC_CALL_H
#define RPC_CALL_H

#include <grpc/grpc.h>

#include "base/list.h"
#include "rpc/connections.h"
#include "rpc/server.h"
#include "rpc/tag.h"

enum call_shape {
    CALL_UNARY,
    CALL_SERVER_STREAM,
    CALL_BIDI,    /* the handler gets no request and calls call_receive */
    CALL_UNKNOWN, /* every path that nobody added */
};

struct call_class {
    struct kv_list link; /* in server->classes */
    struct rpc_server *server;
    enum call_shape shape;
    const char *path;
    rpc_handler_cb handler;
    void *ctx;
    bool exempt;      /* served beyond max_calls and while draining */
    void *registered; /* core's; NULL for CALL_UNKNOWN */

    size_t n_wanted; /* how many to keep armed */
    size_t n_armed;
    struct kv_list spares;
    size_t n_spares;
};

/* server.c's; calls see it because they are counted and listed in it. */
struct rpc_server {
    struct rpc_server_config config;
    grpc_server *core;
    grpc_server_credentials *credentials;
    struct kv_list classes;
    struct kv_list calls; /* that arrived and are not gone */
    size_t n_armed;
    uint32_t n_admitted; /* of calls, without the refused and the exempt */
    uint64_t connections_total, calls_total;
    struct rpc_connections connections;

    struct rpc_listener **listeners;
    size_t n_listeners;
    uint64_t closed_failures_total; /* of listeners that are gone */

    struct rpc_health *health;
    struct rpc_reflection *reflection;

    bool started, draining, parting, shutting_down, shut_down, closing_timer;
    uv_timer_t timer; /* the limit of the drain, then of parting */
    int64_t drain_deadline_ns, parting_deadline_ns;
    void (*drained)(void *ctx);
    void *drained_ctx;
    struct rpc_tag shut_down_tag;
};

/* A spare more for the class. KV_NO_MEMORY. */
enum kv_status call_class_add_spare(struct call_class *class);
void call_class_free_spares(struct call_class *class);

/* Arms until n_wanted are, or no more can be. */
void call_class_top_up(struct call_class *class);

/* A bidirectional stream's next message: on_message comes once; NULL at the
 * end of what the client sends, and never for a call that was ended. The
 * bytes are borrowed for the callback. */
typedef void (*call_message_cb)(
    struct rpc_call *call, const unsigned char *bytes, size_t n);
void call_receive(struct rpc_call *call, call_message_cb on_message);

/* Cancels whatever state it is in: the limit of a drain has passed. */
void call_cut_off(struct rpc_call *call);

/* ---- what a call tells its server (server.c) */

/* Whether a call may be served; if not, why. */
bool server_admits(struct rpc_server *server, const struct call_class *class,
    struct rpc_error *error);

/* A call, or an armed one, is gone. */
void server_on_call_gone(struct rpc_server *server);

/* ---- adding the services that rpc/ serves itself */

enum kv_status server_add_class(
    struct rpc_server *server, const struct call_class *template);

/* The call that is linked so in server->calls. */
struct rpc_call *call_of_link(struct kv_list *link);

#endif
