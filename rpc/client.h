/* A blocking gRPC client for command lines and tests.
 *
 * Thread: one client is used by one thread; rpc_client_interrupt by any, and
 * from signal handlers' self-pipes. */
#ifndef RPC_CLIENT_H
#define RPC_CLIENT_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/error.h"
#include "rpc/error.h"

struct rpc_client;
struct rpc_client_stream;

/* Connects lazily. "host:port" or "unix:/path". */
enum kv_status rpc_client_open(
    struct rpc_client **out, const char *address, struct kv_error *error);
void rpc_client_close(struct rpc_client *client); /* NULL is fine */

/* timeout_ns 0: none. RPC_OK and the answer in *out (kv_free it), or the code,
 * and all of *error. Waits for a connection only if wait_for_ready. */
struct rpc_client_options {
    int64_t timeout_ns;
    bool wait_for_ready;
    const char *traceparent; /* NULL: none */
};
enum rpc_code rpc_client_call(struct rpc_client *client, const char *path,
    const void *request, size_t n_request,
    const struct rpc_client_options *options, unsigned char **out,
    size_t *n_out, struct rpc_error *error);

/* grpc.health.v1, the whole server: *status is "SERVING", "NOT_SERVING" or
 * "UNKNOWN", and lives for ever. As rpc_client_call otherwise. */
enum rpc_code rpc_client_check_health(struct rpc_client *client,
    const struct rpc_client_options *options, const char **status,
    struct rpc_error *error);

/* A server stream. open never blocks; errors come from next. */
enum kv_status rpc_client_stream_open(struct rpc_client *client,
    const char *path, const void *request, size_t n_request,
    const struct rpc_client_options *options, struct rpc_client_stream **out);

/* The next message (kv_free it), waiting for it at most wait_ns (INT64_MAX: as
 * long as it takes; the call's own timeout holds all the same).
 *   KV_OK      *out, *n_out
 *   KV_BUSY    nothing within wait_ns, or interrupted
 *   KV_CLOSED  the stream is over: *error, its code RPC_OK if in order */
enum kv_status rpc_client_stream_next(struct rpc_client_stream *stream,
    int64_t wait_ns, unsigned char **out, size_t *n_out,
    struct rpc_error *error);

/* Cancels if it is not over. NULL is fine. */
void rpc_client_stream_close(struct rpc_client_stream *stream);

/* Makes a pending or the next rpc_client_stream_next return KV_BUSY at once.
 * Any thread; not a signal handler. */
void rpc_client_interrupt(struct rpc_client *client);

#endif
