/* Unary calls, a fixed number in flight on one connection, for a while:
 *
 *     bench_unary ADDRESS PATH IN_FLIGHT SECONDS [REQUEST_HEX|-] [SERVER_PID]
 *
 * prints calls per second, latency percentiles, and the server's CPU time per
 * call if its pid is given. */
#include <stdio.h>
#include <stdlib.h>

#include <grpc/byte_buffer.h>
#include <grpc/grpc.h>
#include <grpc/slice.h>
#include <grpc/support/alloc.h>

#include "base/clock.h"
#include "bench/load.h"

#define WARM_UP_NS (KV_NS_PER_S / 2)
#define MAX_IN_FLIGHT 4096
#define MAX_US 1000000 /* longer ones count as this long */

struct bench {
    struct load_target target;
    bool measuring, stopping;
    uint64_t n_calls, n_failed;
    size_t n_answer;
    uint32_t histogram[MAX_US + 1]; /* calls by microsecond */
};

static void count(struct bench *bench, const struct load_call *call)
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

/* Keeps the calls going until until_ns; then lets them end. */
static void run(struct bench *bench, size_t *n_in_flight, int64_t until_ns)
{
    struct load_call *call;

    while (*n_in_flight > 0 &&
           (bench->stopping || kv_clock_mono_ns() < until_ns)) {
        call = load_call_next(&bench->target);
        if (bench->measuring)
            count(bench, call);
        load_call_finish(call);
        if (bench->stopping)
            --*n_in_flight;
        else
            load_call_start(call, &bench->target);
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

static void measure(struct bench *bench, struct load_call *calls,
    size_t n_in_flight, int64_t duration_ns, int pid)
{
    int64_t started_ns, cpu_ns;

    for (size_t i = 0; i < n_in_flight; i++)
        load_call_start(&calls[i], &bench->target);
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
    static struct bench bench;
    static struct load_call calls[MAX_IN_FLIGHT];
    size_t n_in_flight = argc > 3 ? (size_t)atoi(argv[3]) : 0;
    grpc_slice request;

    if (argc < 5 || argc > 7 || n_in_flight == 0 ||
        n_in_flight > MAX_IN_FLIGHT ||
        !load_parse_hex(argc > 5 ? argv[5] : "-", &request)) {
        fprintf(stderr, "usage: bench_unary ADDRESS PATH IN_FLIGHT SECONDS "
                        "[REQUEST_HEX|-] [SERVER_PID]\n");
        return EXIT_FAILURE;
    }
    grpc_init();
    load_target_open(&bench.target, argv[1], argv[2]);
    for (size_t i = 0; i < n_in_flight; i++)
        calls[i].request = request;
    measure(&bench, calls, n_in_flight,
        (int64_t)(atof(argv[4]) * (double)KV_NS_PER_S),
        argc > 6 ? atoi(argv[6]) : 0);
    load_target_close(&bench.target);
    grpc_slice_unref(request);
    grpc_shutdown_blocking();
    return bench.n_failed == 0 ? EXIT_SUCCESS : EXIT_FAILURE;
}
