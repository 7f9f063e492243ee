#include "rpc/message.h"

#include <grpc/byte_buffer.h>
#include <grpc/byte_buffer_reader.h>
#include <grpc/slice.h>
#include <stdint.h>

grpc_byte_buffer *message_wrap(const struct rpc_bytes *message)
{
    grpc_byte_buffer *buffer;
    grpc_slice slice;

    /* Core takes memory that it may free, not that it may write to. */
    slice =
        message->release == NULL
            ? grpc_slice_from_copied_buffer(message->data, message->n)
            : grpc_slice_new_with_user_data((void *)(uintptr_t)message->data,
                  message->n, message->release, message->ctx);
    buffer = grpc_raw_byte_buffer_create(&slice, 1);
    grpc_slice_unref(slice);
    return buffer;
}

void message_view_init(struct message_view *view, grpc_byte_buffer *buffer)
{
    grpc_byte_buffer_reader reader;
    grpc_slice *first;

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
}

void message_view_fini(struct message_view *view)
{
    grpc_slice_unref(view->slice);
}
