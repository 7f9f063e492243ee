/* A modest load of inference, to measure others beside:
 *
 *     bench_generate ADDRESS PER_SECOND TOKENS SECONDS [SERVER_PID]
 *
 * One request after the other, each of TOKENS tokens in a session of its own,
 * so that the pool's totals change all the time; prints requests and tokens a
 * second, and how much of a core the server used. */
#include <stdio.h>
#include <stdlib.h>
#include <time.h>

#include "base/clock.h"
#include "bench/load.h"
#include "bench/sessions.h"

static void sleep_until(int64_t mono_ns)
{
    const struct timespec at = {
        .tv_sec = mono_ns / KV_NS_PER_S, .tv_nsec = mono_ns % KV_NS_PER_S};

    clock_nanosleep(CLOCK_MONOTONIC, TIMER_ABSTIME, &at, NULL);
}

int main(int argc, char **argv)
{
    double per_second = argc > 2 ? atof(argv[2]) : 0;
    unsigned n_tokens = argc > 3 ? (unsigned)atoi(argv[3]) : 0, n = 0;
    int pid = argc > 5 ? atoi(argv[5]) : 0;
    struct rpc_client *client;
    int64_t started_ns, until_ns, cpu_ns;
    uint64_t n_generated = 0;
    double seconds;

    if (argc < 5 || per_second <= 0 || n_tokens == 0) {
        fprintf(stderr, "usage: bench_generate ADDRESS PER_SECOND TOKENS "
                        "SECONDS [SERVER_PID]\n");
        return EXIT_FAILURE;
    }
    client = sessions_client(argv[1]);
    started_ns = kv_clock_mono_ns();
    until_ns = started_ns + (int64_t)(atof(argv[4]) * (double)KV_NS_PER_S);
    cpu_ns = load_cpu_ns(pid);
    while (kv_clock_mono_ns() < until_ns) {
        char name[SESSIONS_NAME_BYTES];

        sessions_name(name, n);
        n_generated += sessions_generate(client, name, n_tokens);
        n++;
        sleep_until(started_ns + (int64_t)(n / per_second * 1e9));
    }
    seconds = (double)(kv_clock_mono_ns() - started_ns) / 1e9;
    printf("requests_per_s=%.1f tokens_per_s=%.1f server_cores=%.3f\n",
        n / seconds, (double)n_generated / seconds,
        (double)(load_cpu_ns(pid) - cpu_ns) / 1e9 / seconds);
    rpc_client_close(client);
    return EXIT_SUCCESS;
}
