/* Evict of one idle session by each call, a fixed number of calls in flight:
 *
 *     bench_evict ADDRESS SESSIONS IN_FLIGHT [SERVER_PID]
 *
 * First makes that many sessions, each of one generated token, which is not
 * measured. Then evicts each by a call of its own, and prints calls per second
 * and the server's CPU time per call. */
#include <stdio.h>
#include <stdlib.h>

#include <grpc/byte_buffer.h>
#include <grpc/slice.h>

#include "base/clock.h"
#include "bench/load.h"
#include "bench/sessions.h"

#define MAX_IN_FLIGHT 1024

static void make_sessions(const char *address, unsigned n)
{
    struct rpc_client *client = sessions_client(address);
    char name[SESSIONS_NAME_BYTES];

    for (unsigned i = 0; i < n; i++) {
        sessions_name(name, i);
        sessions_generate(client, name, 1);
    }
    rpc_client_close(client);
}

static void evict(
    struct load_call *call, struct load_target *target, unsigned nth)
{
    unsigned char bytes[SESSIONS_EVICT_BYTES];
    char name[SESSIONS_NAME_BYTES];
    size_t n;

    sessions_name(name, nth);
    n = sessions_evict_request(bytes, name);
    call->request = grpc_slice_from_copied_buffer((const char *)bytes, n);
    load_call_start(call, target);
    grpc_slice_unref(call->request);
}

static void check(const struct load_call *call)
{
    if (call->status == GRPC_STATUS_OK)
        return;
    fprintf(stderr, "bench_evict: a call failed with %d\n", (int)call->status);
    exit(EXIT_FAILURE);
}

static void run(struct load_target *target, struct load_call *calls, unsigned n,
    unsigned n_in_flight)
{
    unsigned n_started = 0;

    while (n_started < n_in_flight) {
        evict(&calls[n_started], target, n_started);
        n_started++;
    }
    for (unsigned n_over = 0; n_over < n; n_over++) {
        struct load_call *call = load_call_next(target);

        check(call);
        load_call_finish(call);
        if (n_started < n)
            evict(call, target, n_started++);
    }
}

int main(int argc, char **argv)
{
    static struct load_call calls[MAX_IN_FLIGHT];
    unsigned n = argc > 2 ? (unsigned)atoi(argv[2]) : 0;
    unsigned n_in_flight = argc > 3 ? (unsigned)atoi(argv[3]) : 0;
    int pid = argc > 4 ? atoi(argv[4]) : 0;
    struct load_target target;
    int64_t wall_ns, cpu_ns;

    if (argc < 4 || n_in_flight == 0 || n_in_flight > MAX_IN_FLIGHT ||
        n < n_in_flight) {
        fprintf(stderr, "usage: bench_evict ADDRESS SESSIONS IN_FLIGHT "
                        "[SERVER_PID], SESSIONS >= IN_FLIGHT\n");
        return EXIT_FAILURE;
    }
    make_sessions(argv[1], n);
    grpc_init();
    load_target_open(&target, argv[1], "/kvpool.v1.KvPoolService/Evict");
    evict(&calls[0], &target, n); /* connects, and finds nothing */
    load_call_finish(load_call_next(&target));
    wall_ns = kv_clock_mono_ns();
    cpu_ns = load_cpu_ns(pid);
    run(&target, calls, n, n_in_flight);
    wall_ns = kv_clock_mono_ns() - wall_ns;
    cpu_ns = load_cpu_ns(pid) - cpu_ns;
    printf("qps=%.0f server_cpu_us_per_call=%.2f\n",
        (double)n / ((double)wall_ns / 1e9), (double)cpu_ns / 1000 / n);
    load_target_close(&target);
    grpc_shutdown_blocking();
    return EXIT_SUCCESS;
}
