/* A compressed request, made whole again within a bound.
 *
 * gRPC core inflates before it looks at the size: four megabytes on the wire
 * become four gigabytes of memory. So it hands us what came, and this inflates
 * it, and stops where the largest request ends.
 *
 * Private to rpc/. Thread: any. */
#ifndef RPC_INFLATE_H
#define RPC_INFLATE_H

#include <stddef.h>

#include "base/error.h"

/* The content of a whole gzip or zlib ("deflate" in gRPC) stream, nothing
 * behind it; kv_free it. *out is NULL where it is empty.
 *   KV_LIMIT    it has more than max_bytes
 *   KV_INVALID  it is no such stream, or damaged
 *   KV_NO_MEMORY */
enum kv_status rpc_inflate(const void *bytes, size_t n_bytes, size_t max_bytes,
    unsigned char **out, size_t *n_out);

#endif
