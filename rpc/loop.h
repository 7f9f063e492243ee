/* The owner's loop: gRPC's completion queue with libuv embedded in it.
 *
 * The owner blocks in grpc_completion_queue_next. A helper thread sleeps in
 * poll() on libuv's backend descriptor and wakes the owner with an empty batch,
 * whereupon the owner runs libuv without blocking and re-arms the helper. To
 * the rest of the program it is an ordinary uv loop.
 *
 * Thread: everything but rpc_loop_post on the thread of rpc_loop_run. */
#ifndef RPC_LOOP_H
#define RPC_LOOP_H

#include <stdbool.h>

#include <uv.h>

#include "base/error.h"

struct rpc_loop;

/* Embed in the struct that the work is about. */
struct rpc_post {
    void (*run)(struct rpc_post *post); /* on the owner's thread */
    struct rpc_post *next;
};

enum kv_status rpc_loop_open(struct rpc_loop **out, struct kv_error *error);

/* After rpc_loop_run returned, and with all uv handles closed. NULL is fine. */
void rpc_loop_close(struct rpc_loop *loop);

uv_loop_t *rpc_loop_uv(struct rpc_loop *loop);

/* Runs until rpc_loop_stop, which servers and clients of the loop must have
 * been shut down before. */
void rpc_loop_run(struct rpc_loop *loop);
void rpc_loop_stop(struct rpc_loop *loop);

/* Any thread: post->run will be called soon, in the order of posting. The post
 * is the loop's until then, and may be posted again once it runs. false after
 * rpc_loop_stop: it will not be called. */
bool rpc_loop_post(struct rpc_loop *loop, struct rpc_post *post);

/* Called at the end of each turn, after what came has been dealt with and
 * before the loop waits; NULL: nobody is. */
void rpc_loop_on_turn(
    struct rpc_loop *loop, void (*on_turn)(void *ctx), void *ctx);

/* After starting, changing or closing a uv handle outside a uv callback. Cheap
 * and may be repeated: the loop acts once, when the present event is done. */
void rpc_loop_touched(struct rpc_loop *loop);

#endif
