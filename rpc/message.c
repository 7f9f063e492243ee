#include "rpc/message.h"

#include <assert.h>
#include <stdint.h>

#include <grpc/byte_buffer.h>
#include <grpc/byte_buffer_reader.h>
#include <grpc/slice.h>

#include "base/heap.h"
#include "rpc/inflate.h"
#include "rpc/tsan.h"

#ifdef RPC_TSAN
/* Core releases on any of its threads; what orders that after the send is not
 * instrumented. */
struct ordered_release {
    void (*release)(void *ctx);
    void *ctx;
};

static void release_in_order(void *ptr)
{
    struct ordered_release ordered;

    RPC_TSAN_ACQUIRE(ptr);
    ordered = *(struct ordered_release *)ptr;
    kv_free(ptr);
    ordered.release(ordered.ctx);
}

static grpc_slice borrow(const struct rpc_bytes *message)
{
    struct ordered_release *ordered = kv_calloc(1, sizeof *ordered);

    assert(ordered != NULL);
    *ordered = (struct ordered_release){message->release, message->ctx};
    RPC_TSAN_RELEASE(ordered);
    return grpc_slice_new_with_user_data((void *)(uintptr_t)message->data,
        message->n, release_in_order, ordered);
}
#else
static grpc_slice borrow(const struct rpc_bytes *message)
{
    return grpc_slice_new_with_user_data((void *)(uintptr_t)message->data,
        message->n, message->release, message->ctx);
}
#endif

grpc_byte_buffer *message_wrap(const struct rpc_bytes *message)
{
    grpc_byte_buffer *buffer;
    grpc_slice slice;

    slice = message->release == NULL
                ? grpc_slice_from_copied_buffer(message->data, message->n)
                : borrow(message);
    buffer = grpc_raw_byte_buffer_create(&slice, 1);
    grpc_slice_unref(slice);
    return buffer;
}

static enum kv_status inflate_view(struct message_view *view, size_t max_bytes)
{
    unsigned char *inflated;
    enum kv_status status =
        rpc_inflate(view->bytes, view->n, max_bytes, &inflated, &view->n);

    grpc_slice_unref(view->slice);
    view->slice = grpc_empty_slice();
    view->bytes = view->inflated = status == KV_OK ? inflated : NULL;
    return status;
}

enum kv_status message_view_init(
    struct message_view *view, grpc_byte_buffer *buffer, size_t max_bytes)
{
    grpc_byte_buffer_reader reader;
    grpc_slice *first;

    view->inflated = NULL;
    view->slice = grpc_empty_slice();
    if (grpc_byte_buffer_reader_init(&reader, buffer)) {
        if (buffer->data.raw.slice_buffer.count > 1)
            view->slice = grpc_byte_buffer_reader_readall(&reader);
        else if (grpc_byte_buffer_reader_peek(&reader, &first))
            view->slice = grpc_slice_ref(*first);
        grpc_byte_buffer_reader_destroy(&reader);
    }
    view->bytes = GRPC_SLICE_START_PTR(view->slice);
    view->n = GRPC_SLICE_LENGTH(view->slice);
    if (buffer->data.raw.compression == GRPC_COMPRESS_NONE)
        return KV_OK;
    return inflate_view(view, max_bytes);
}

void message_view_fini(struct message_view *view)
{
    grpc_slice_unref(view->slice);
    kv_free(view->inflated);
}
