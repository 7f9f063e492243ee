#include "rpc/inflate.h"

#include <limits.h>
#include <stdint.h>

#include <zlib.h>

#include "base/heap.h"

#define FIRST_BYTES ((size_t)4096)
#define ANY_HEADER (32 + MAX_WBITS) /* gzip's or zlib's */

/* What was inflated so far lies in `bytes`. */
struct inflation {
    z_stream zlib;
    unsigned char *bytes;
    size_t n, capacity, max_bytes;
};

static void *allocate(void *opaque, uInt n, uInt size)
{
    (void)opaque;
    return kv_calloc(n, size);
}

static void release(void *opaque, void *at)
{
    (void)opaque;
    kv_free(at);
}

/* One byte more than is allowed is enough to know that it is too much. */
static enum kv_status grow(struct inflation *inflation)
{
    size_t limit = inflation->max_bytes + 1;
    size_t capacity =
        inflation->capacity == 0 ? FIRST_BYTES : 2 * inflation->capacity;
    unsigned char *larger;

    if (capacity > limit)
        capacity = limit;
    larger = kv_realloc(inflation->bytes, capacity);
    if (larger == NULL)
        return KV_NO_MEMORY;
    inflation->bytes = larger;
    inflation->capacity = capacity;
    return KV_OK;
}

static enum kv_status inflate_all(struct inflation *inflation)
{
    z_stream *zlib = &inflation->zlib;
    enum kv_status status = KV_OK;
    int result = Z_OK;

    while (status == KV_OK && result != Z_STREAM_END) {
        if (inflation->n > inflation->max_bytes)
            return KV_LIMIT;
        if (inflation->n == inflation->capacity)
            status = grow(inflation);
        if (status != KV_OK)
            return status;
        zlib->next_out = inflation->bytes + inflation->n;
        zlib->avail_out = (uInt)(inflation->capacity - inflation->n);
        result = inflate(zlib, Z_NO_FLUSH);
        inflation->n = inflation->capacity - zlib->avail_out;
        if (result == Z_MEM_ERROR)
            status = KV_NO_MEMORY;
        else if (result != Z_OK && result != Z_STREAM_END)
            status = KV_INVALID; /* Z_BUF_ERROR: it was cut short */
    }
    if (status == KV_OK && zlib->avail_in > 0)
        status = KV_INVALID;
    return inflation->n > inflation->max_bytes ? KV_LIMIT : status;
}

enum kv_status rpc_inflate(const void *bytes, size_t n_bytes, size_t max_bytes,
    unsigned char **out, size_t *n_out)
{
    struct inflation inflation = {
        .zlib = {.zalloc = allocate, .zfree = release},
        .max_bytes = max_bytes,
    };
    enum kv_status status;

    if (n_bytes > UINT_MAX || max_bytes >= UINT_MAX)
        return KV_LIMIT;
    if (inflateInit2(&inflation.zlib, ANY_HEADER) != Z_OK)
        return KV_NO_MEMORY;
    inflation.zlib.next_in = (Bytef *)(uintptr_t)bytes;
    inflation.zlib.avail_in = (uInt)n_bytes;
    status = inflate_all(&inflation);
    inflateEnd(&inflation.zlib);
    if (status != KV_OK) {
        kv_free(inflation.bytes);
        return status;
    }
    *out = inflation.bytes;
    *n_out = inflation.n;
    return KV_OK;
}
