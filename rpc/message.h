/* Messages between our memory and gRPC core's byte buffers. Private to rpc/. */
#ifndef RPC_MESSAGE_H
#define RPC_MESSAGE_H

#include <grpc/grpc.h>

#include "rpc/server.h"

/* A new byte buffer over message, which is consumed: released when core is done
 * with it, or copied now. Destroy it after the batch was started. */
grpc_byte_buffer *message_wrap(const struct rpc_bytes *message);

/* The bytes of a buffer in one piece, without a copy where they are. */
struct message_view {
    const unsigned char *bytes;
    size_t n;
    grpc_slice slice; /* holds them, short ones in itself: do not copy a view */
};
void message_view_init(struct message_view *view, grpc_byte_buffer *buffer);
void message_view_fini(struct message_view *view);

#endif
