/* Unary calls, a fixed number in flight on one connection, for a while:
 *
 *     bench_unary ADDRESS PATH IN_FLIGHT SECONDS [REQUEST_HEX|-] [SERVER_PID]
 *
 * prints calls per second, latency percentiles, and the server's CPU time per
 * call if its pid is given. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <grpc/byte_buffer.h>
#include <grpc/grpc.h>
#include <grpc/slice.h>
#include <grpc/support/alloc.h>
#include <grpc/support/time.h>

#include "base/clock.h"
#include "bench/load.h"

#define WARM_UP_NS (KV_NS_PER_S / 2)
#define MAX_US 1000000 /* longer ones count as this long */

struct bench {
    grpc_channel *channel;
    grpc_completion_queue *queue;
    void *method;
    grpc_slice request;
    bool measuring, stopping;
    uint64_t n_calls, n_failed;
    size_t n_answer;
    uint32_t *histogram; /* calls by microsecond */
};

struct call {
    grpc_call *core;
    grpc_metadata_array initial, trailing;
    grpc_status_code status;
    grpc_slice details;
    grpc_byte_buffer *answer;
    int64_t started_ns;
};

static void start(struct bench *bench, struct call *call)
{
    grpc_byte_buffer *request = grpc_raw_byte_buffer_create(&bench->request, 1);
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

    memset(call, 0, sizeof *call);
    grpc_metadata_array_init(&call->initial);
    grpc_metadata_array_init(&call->trailing);
    call->started_ns = kv_clock_mono_ns();
    call->core = grpc_channel_create_registered_call(bench->channel, NULL,
        GRPC_PROPAGATE_DEFAULTS, bench->queue, bench->method,
        gpr_inf_future(GPR_CLOCK_REALTIME), NULL);
    if (grpc_call_start_batch(call->core, ops, 6, call, NULL) != GRPC_CALL_OK)
        abort();
    grpc_byte_buffer_destroy(request);
}

static void count(struct bench *bench, const struct call *call)
{
    int64_t us = (kv_clock_mono_ns() - call->started_ns) / 1000;

    if (call->status != GRPC_STATUS_OK && bench->n_failed++ == 0) {
        char *words = grpc_slice_to_c_string(call->details);

        fprintf(stderr, "bench_unary: the first failure is %d: %s\n",
            (int)call->status, words);
        gpr_free(words);
    }
    if (call->answer != NULL)
        bench->n_answer = grpc_byte_buffer_length(call->answer);
    bench->n_calls++;
    bench->histogram[us < MAX_US ? us : MAX_US]++;
}

static void finish(struct call *call)
{
    if (call->answer != NULL)
        grpc_byte_buffer_destroy(call->answer);
    grpc_metadata_array_destroy(&call->initial);
    grpc_metadata_array_destroy(&call->trailing);
    grpc_slice_unref(call->details);
    grpc_call_unref(call->core);
}

/* Keeps the calls going until until_ns; then lets them end. */
static void run(struct bench *bench, size_t *n_in_flight, int64_t until_ns)
{
    gpr_timespec never = gpr_inf_future(GPR_CLOCK_REALTIME);
    struct call *call;

    while (*n_in_flight > 0 &&
           (bench->stopping || kv_clock_mono_ns() < until_ns)) {
        call = grpc_completion_queue_next(bench->queue, never, NULL).tag;
        if (bench->measuring)
            count(bench, call);
        finish(call);
        if (bench->stopping)
            --*n_in_flight;
        else
            start(bench, call);
    }
}

static uint32_t percentile_us(const struct bench *bench, double share)
{
    uint64_t left = (uint64_t)((double)bench->n_calls * share);

    for (uint32_t us = 0; us <= MAX_US; us++) {
        if (bench->histogram[us] > left)
            return us;
        left -= bench->histogram[us];
    }
    return MAX_US;
}

static void report(const struct bench *bench, int64_t wall_ns, int64_t cpu_ns)
{
    double n = bench->n_calls > 0 ? (double)bench->n_calls : 1;

    printf("qps=%.0f p50_us=%u p99_us=%u server_cpu_us_per_call=%.2f "
           "answer_bytes=%zu failed=%llu\n",
        (double)bench->n_calls / ((double)wall_ns / 1e9),
        percentile_us(bench, 0.5), percentile_us(bench, 0.99),
        (double)cpu_ns / 1000 / n, bench->n_answer,
        (unsigned long long)bench->n_failed);
}

static void measure(struct bench *bench, struct call *calls, size_t n_in_flight,
    int64_t duration_ns, int pid)
{
    int64_t started_ns, cpu_ns;

    for (size_t i = 0; i < n_in_flight; i++)
        start(bench, &calls[i]);
    run(bench, &n_in_flight, kv_clock_mono_ns() + WARM_UP_NS);
    bench->measuring = true;
    started_ns = kv_clock_mono_ns();
    cpu_ns = load_cpu_ns(pid);
    run(bench, &n_in_flight, started_ns + duration_ns);
    report(bench, kv_clock_mono_ns() - started_ns, load_cpu_ns(pid) - cpu_ns);
    bench->measuring = false;
    bench->stopping = true;
    run(bench, &n_in_flight, 0);
}

int main(int argc, char **argv)
{
    struct bench bench = {0};
    size_t n_in_flight = argc > 3 ? (size_t)atoi(argv[3]) : 0;
    struct call *calls;

    if (argc < 5 || argc > 7 || n_in_flight == 0 ||
        !load_parse_hex(argc > 5 ? argv[5] : "-", &bench.request)) {
        fprintf(stderr, "usage: bench_unary ADDRESS PATH IN_FLIGHT SECONDS "
                        "[REQUEST_HEX|-] [SERVER_PID]\n");
        return EXIT_FAILURE;
    }
    calls = calloc(n_in_flight, sizeof *calls);
    bench.histogram = calloc(MAX_US + 1, sizeof *bench.histogram);
    if (calls == NULL || bench.histogram == NULL)
        exit(EXIT_FAILURE);
    grpc_init();
    bench.queue = grpc_completion_queue_create_for_next(NULL);
    bench.channel = load_channel(argv[1]);
    bench.method =
        grpc_channel_register_call(bench.channel, argv[2], NULL, NULL);
    measure(&bench, calls, n_in_flight,
        (int64_t)(atof(argv[4]) * (double)KV_NS_PER_S),
        argc > 6 ? atoi(argv[6]) : 0);
    grpc_channel_destroy(bench.channel);
    grpc_completion_queue_shutdown(bench.queue);
    grpc_completion_queue_destroy(bench.queue);
    grpc_slice_unref(bench.request);
    grpc_shutdown_blocking();
    free(bench.histogram);
    free(calls);
    return bench.n_failed == 0 ? EXIT_SUCCESS : EXIT_FAILURE;
}
