#include "bench/load.h"

#include <ctype.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include <grpc/byte_buffer.h>
#include <grpc/grpc_security.h>
#include <grpc/slice.h>
#include <grpc/support/time.h>

#include "base/clock.h"

grpc_channel *load_channel(const char *address)
{
    static char local[] = GRPC_ARG_USE_LOCAL_SUBCHANNEL_POOL;
    grpc_arg arg = {.type = GRPC_ARG_INTEGER, .key = local, .value.integer = 1};
    grpc_channel_args args = {1, &arg};
    grpc_channel_credentials *credentials = grpc_insecure_credentials_create();
    grpc_channel *channel = grpc_channel_create(address, credentials, &args);

    grpc_channel_credentials_release(credentials);
    return channel;
}

bool load_parse_hex(const char *text, grpc_slice *out)
{
    size_t n = strcmp(text, "-") == 0 ? 0 : strlen(text);
    grpc_slice slice = grpc_slice_malloc(n / 2);
    uint8_t *bytes = GRPC_SLICE_START_PTR(slice);
    unsigned byte;

    for (size_t i = 0; i < n / 2; i++) {
        if (!isxdigit((unsigned char)text[2 * i]) ||
            sscanf(text + 2 * i, "%2x", &byte) != 1) {
            grpc_slice_unref(slice);
            return false;
        }
        bytes[i] = (uint8_t)byte;
    }
    *out = slice;
    return n % 2 == 0;
}

int64_t load_cpu_ns(int pid)
{
    struct timespec spent;
    clockid_t clock;

    if (pid == 0 || clock_getcpuclockid(pid, &clock) != 0 ||
        clock_gettime(clock, &spent) != 0)
        return 0;
    return spent.tv_sec * KV_NS_PER_S + spent.tv_nsec;
}

/* ---- unary calls */

void load_call_start(struct load_call *call, struct load_target *target)
{
    grpc_byte_buffer *request = grpc_raw_byte_buffer_create(&call->request, 1);
    grpc_op ops[6] = {
        {.op = GRPC_OP_SEND_INITIAL_METADATA},
        {.op = GRPC_OP_SEND_MESSAGE, .data.send_message.send_message = request},
        {.op = GRPC_OP_SEND_CLOSE_FROM_CLIENT},
        {.op = GRPC_OP_RECV_INITIAL_METADATA,
            .data.recv_initial_metadata.recv_initial_metadata = &call->initial},
        {.op = GRPC_OP_RECV_MESSAGE,
            .data.recv_message.recv_message = &call->answer},
        {.op = GRPC_OP_RECV_STATUS_ON_CLIENT,
            .data.recv_status_on_client = {.trailing_metadata = &call->trailing,
                .status = &call->status,
                .status_details = &call->details}},
    };

    grpc_metadata_array_init(&call->initial);
    grpc_metadata_array_init(&call->trailing);
    call->answer = NULL;
    call->started_ns = kv_clock_mono_ns();
    call->core = grpc_channel_create_registered_call(target->channel, NULL,
        GRPC_PROPAGATE_DEFAULTS, target->queue, target->method,
        gpr_inf_future(GPR_CLOCK_REALTIME), NULL);
    if (grpc_call_start_batch(call->core, ops, 6, call, NULL) != GRPC_CALL_OK)
        abort();
    grpc_byte_buffer_destroy(request);
}

void load_call_finish(struct load_call *call)
{
    if (call->answer != NULL)
        grpc_byte_buffer_destroy(call->answer);
    grpc_metadata_array_destroy(&call->initial);
    grpc_metadata_array_destroy(&call->trailing);
    grpc_slice_unref(call->details);
    grpc_call_unref(call->core);
}

void load_target_open(
    struct load_target *target, const char *address, const char *path)
{
    target->queue = grpc_completion_queue_create_for_next(NULL);
    target->channel = load_channel(address);
    target->method =
        grpc_channel_register_call(target->channel, path, NULL, NULL);
}

struct load_call *load_call_next(struct load_target *target)
{
    return grpc_completion_queue_next(
        target->queue, gpr_inf_future(GPR_CLOCK_REALTIME), NULL)
        .tag;
}

void load_target_close(struct load_target *target)
{
    grpc_channel_destroy(target->channel);
    grpc_completion_queue_shutdown(target->queue);
    grpc_completion_queue_destroy(target->queue);
}
