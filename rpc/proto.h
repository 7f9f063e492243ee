/* protobuf-c on our heap. Private to rpc/. */
#ifndef RPC_PROTO_H
#define RPC_PROTO_H

#include <stdint.h>

#include <protobuf-c/protobuf-c.h>

#include "base/heap.h"

static inline void *rpc_proto_alloc(void *data, size_t n)
{
    (void)data;
    return kv_realloc(NULL, n);
}

static inline void rpc_proto_free(void *data, void *ptr)
{
    (void)data;
    kv_free(ptr);
}

#define RPC_PROTO_ALLOCATOR                                                    \
    (&(ProtobufCAllocator){rpc_proto_alloc, rpc_proto_free, NULL})

/* Not const in protobuf-c's own declarations, which do not write to it. */
#define RPC_PROTO_TEXT(text) ((char *)(uintptr_t)(text))

#endif
