/* What stands behind a completion of gRPC core: whom to call.
 *
 * Private to rpc/. A tag is embedded in the struct that waits; every batch that
 * was started successfully brings its tag back exactly once. */
#ifndef RPC_TAG_H
#define RPC_TAG_H

#include <stdbool.h>

#include <grpc/grpc.h>

#include "rpc/loop.h"

struct rpc_tag {
    void (*run)(struct rpc_tag *tag, bool ok);
};

/* Where the loop's tags come back. Borrowed. */
grpc_completion_queue *rpc_loop_queue(struct rpc_loop *loop);

/* grpc_call_start_batch with tag; false if core refused it, and the tag will
 * not come back. */
bool rpc_tag_start_batch(
    grpc_call *call, const grpc_op *ops, size_t n_ops, struct rpc_tag *tag);

/* The next tag that comes back on queue, run; GRPC_QUEUE_TIMEOUT and
 * GRPC_QUEUE_SHUTDOWN as core says. */
grpc_completion_type rpc_tag_run_next(
    grpc_completion_queue *queue, gpr_timespec deadline);

#endif
