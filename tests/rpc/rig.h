/* A real server on a loop of its own thread, and its test methods.
 *
 *   Echo     unary: the request
 *   Fail     unary: FAILED_PRECONDITION with details
 *   Later    unary: the request, from a timer
 *   Wait     unary: until the caller goes away
 *   About    unary: trace id, whether there is a deadline, peer
 *   Count    stream: as many messages as the request says, "0", "1", ...
 *   Flood    stream: 64 KiB messages, released one by one, without an end
 *   Stay     stream: no message, until the caller goes away */
#ifndef TESTS_RPC_RIG_H
#define TESTS_RPC_RIG_H

#include <pthread.h>
#include <stdatomic.h>

#include "rpc/client.h"
#include "rpc/server.h"

#define FLOOD_BYTES (64 * 1024)

struct rig {
    struct rpc_loop *loop;
    struct rpc_server *server;
    pthread_t thread;
    char address[128];
    struct rpc_post drain_post;
    int64_t drain_limit_ns;

    _Atomic int n_cancelled; /* Wait, Flood and Stay heard of it */
    _Atomic int n_waits;     /* calls of Wait that came */
    _Atomic int n_started;   /* streams */
    _Atomic int n_done;      /* streams whose on_done came */
    _Atomic int n_sent;      /* by Flood */
    _Atomic int n_released;
    _Atomic int n_drained;
    struct rpc_call *_Atomic flood; /* the last one */
};

/* Zeroed fields of config get a test's defaults; the loop is made. */
void rig_open(
    struct rig *rig, struct rpc_server_config config, const char *address);

/* Adds nothing more; serves from now on. */
void rig_start(struct rig *rig);

/* From the test's thread. */
void rig_drain(struct rig *rig, int64_t limit_ns);

/* Drains at once unless drained, waits for the thread and closes all. */
void rig_close(struct rig *rig);

/* Runs `run` on the rig's thread and waits for it. */
void rig_do(struct rig *rig, void (*run)(struct rig *rig));

/* Waits until *counter is at least n: by its own time limit the test fails. */
void await(_Atomic int *counter, int n);

struct rpc_client *rig_client(const struct rig *rig);

/* A unary call without ado. */
enum rpc_code rig_call(struct rpc_client *client, const char *method,
    const void *request, size_t n, unsigned char **out, size_t *n_out,
    struct rpc_error *error);

/* Drives the client until the server has begun n streams; none must bring a
 * message. */
void rig_await_started(
    struct rig *rig, struct rpc_client_stream *stream, int n);

struct rpc_client_stream *rig_stream(struct rpc_client *client,
    const char *method, const void *request, size_t n);

#endif
