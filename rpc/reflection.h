/* grpc.reflection.v1 and v1alpha ServerReflection.
 *
 * Private to rpc/. Thread: the loop's. */
#ifndef RPC_REFLECTION_H
#define RPC_REFLECTION_H

#include "rpc/server.h"

struct rpc_reflection;

/* Adds its methods to server. descriptors is a FileDescriptorSet, borrowed.
 * KV_INVALID: it is not. KV_NO_MEMORY. */
enum kv_status rpc_reflection_open(struct rpc_reflection **out,
    struct rpc_server *server, const unsigned char *descriptors, size_t n);

/* Ends the streams that wait for a question. */
void rpc_reflection_end(struct rpc_reflection *reflection);

/* Without streams. NULL is fine. */
void rpc_reflection_close(struct rpc_reflection *reflection);

#endif
