/* Every way we can fail: our name, the gRPC code a caller sees, our words. */
#ifndef BASE_STATUS_H
#define BASE_STATUS_H

#define KV_STATUS_TABLE(X)                                                     \
    X(KV_OK, 0, "ok")                                                          \
    X(KV_INVALID, 3, "a value is not allowed")                                 \
    X(KV_NOT_FOUND, 5, "no such thing")                                        \
    X(KV_NO_MEMORY, 8, "out of memory")                                        \
    X(KV_POOL_FULL, 8, "every block is pinned")                                \
    X(KV_OVER_QUOTA, 8, "the tenant's quota is used up")                       \
    X(KV_LIMIT, 8, "a configured limit is reached")                            \
    X(KV_UNSUPPORTED, 9, "not supported")                                      \
    X(KV_BUSY, 10, "in use, try again")                                        \
    X(KV_RANGE, 11, "out of range")                                            \
    X(KV_IO, 14, "storage or network failed")                                  \
    X(KV_CLOSED, 14, "stopping or closed")                                     \
    X(KV_DATA_LOSS, 15, "data was dropped before it was read")

#define X(name, grpc, text) name,
enum kv_status { KV_STATUS_TABLE(X) };
#undef X

const char *kv_status_text(enum kv_status status);
int kv_status_grpc(enum kv_status status);

#endif
