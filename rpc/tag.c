#include "rpc/tag.h"

#include "rpc/tsan.h"

bool rpc_tag_start_batch(
    grpc_call *call, const grpc_op *ops, size_t n_ops, struct rpc_tag *tag)
{
    RPC_TSAN_RELEASE(tag);
    return grpc_call_start_batch(call, ops, n_ops, tag, NULL) == GRPC_CALL_OK;
}

grpc_completion_type rpc_tag_run_next(
    grpc_completion_queue *queue, gpr_timespec deadline)
{
    grpc_event event = grpc_completion_queue_next(queue, deadline, NULL);
    struct rpc_tag *tag = event.tag;

    if (event.type == GRPC_OP_COMPLETE) {
        RPC_TSAN_ACQUIRE(tag);
        tag->run(tag, event.success != 0);
    }
    return event.type;
}
