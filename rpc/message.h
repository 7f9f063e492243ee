/* Messages between our memory and gRPC core's byte buffers. Private to rpc/. */
#ifndef RPC_MESSAGE_H
#define RPC_MESSAGE_H

#include <grpc/grpc.h>

#include "rpc/server.h"

/* A new byte buffer over message, which is consumed: released when core is done
 * with it, or copied now. Destroy it after the batch was started. */
grpc_byte_buffer *message_wrap(const struct rpc_bytes *message);

/* The bytes of a buffer in one piece, without a copy where they are, inflated
 * where they are compressed. */
struct message_view {
    const unsigned char *bytes;
    size_t n;
    grpc_slice slice; /* holds them, short ones in itself: do not copy a view */
    unsigned char *inflated; /* or this does */
};

/* KV_LIMIT: compressed, and more than max_bytes. KV_INVALID: compressed, and
 * damaged. KV_NO_MEMORY. There is no view then. */
enum kv_status message_view_init(
    struct message_view *view, grpc_byte_buffer *buffer, size_t max_bytes);
void message_view_fini(struct message_view *view);

#endif
