/* From the decision to evict to the receipt in a subscriber's hands, on a
 * system that does nothing else:
 *
 *     bench_latency ADDRESS ECHO_ADDRESS SAMPLES
 *
 * A sample is a session of one token, a pause, a call of the echo server (the
 * round trip to compare with), a pause, and an Evict of the session. A process
 * of its own follows the receipts, and takes the time between the eviction's
 * mono_ns, which is when the server decided, and now: both are CLOCK_MONOTONIC
 * of one machine. (In one process gRPC would have one thread wait for both
 * connections, and wake the other.) The blocks are overwritten with zeros in
 * that time, because a receipt is not released before. */
#include <stdio.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include "base/clock.h"
#include "base/heap.h"
#include "bench/sessions.h"
#include "kvpool/v1/pool_service.pb-c.h"

#define ECHO_BYTES 120
#define PAUSE_NS (2 * KV_NS_PER_MS)
#define STREAM "/kvpool.v1.KvPoolService/StreamReceipts"

static const struct rpc_client_options patient = {.wait_for_ready = true};

struct follower {
    const char *address;
    int64_t *samples_ns;
    size_t n, n_wanted;
};

static void fail(const char *what)
{
    fprintf(stderr, "bench_latency: %s\n", what);
    exit(EXIT_FAILURE);
}

static void take(struct follower *follower, const unsigned char *bytes,
    size_t n_bytes, int64_t now_ns)
{
    Kvpool__V1__StreamReceiptsResponse *response =
        kvpool__v1__stream_receipts_response__unpack(NULL, n_bytes, bytes);

    if (response == NULL)
        fail("a message is damaged");
    for (size_t i = 0; i < response->n_receipts; i++)
        if (response->receipts[i]->kind_case ==
                KVPOOL__V1__RECEIPT__KIND_EVICTION &&
            follower->n < follower->n_wanted)
            follower->samples_ns[follower->n++] =
                now_ns - response->receipts[i]->mono_ns;
    kvpool__v1__stream_receipts_response__free_unpacked(response, NULL);
}

static void follow(struct follower *follower)
{
    struct rpc_client *client = sessions_client(follower->address);
    struct rpc_client_stream *stream;
    struct rpc_error error;
    unsigned char *message;
    size_t n;

    if (rpc_client_stream_open(client, STREAM, "", 0, &patient, &stream) !=
        KV_OK)
        fail("no memory");
    while (follower->n < follower->n_wanted) {
        if (rpc_client_stream_next(stream, INT64_MAX, &message, &n, &error) !=
            KV_OK)
            fail(error.message);
        take(follower, message, n, kv_clock_mono_ns());
        kv_free(message);
    }
    rpc_client_stream_close(stream);
    rpc_client_close(client);
}

/* Before this process has used gRPC, which does not survive a fork. */
static pid_t start_follower(struct follower *follower)
{
    pid_t pid = fork();

    if (pid < 0)
        fail("no process");
    if (pid == 0) {
        follow(follower);
        exit(EXIT_SUCCESS);
    }
    return pid;
}

static void wait_for_follower(pid_t pid)
{
    int status;

    if (waitpid(pid, &status, 0) != pid || status != 0)
        fail("the follower failed");
}

/* That a child's writing is seen in. */
static int64_t *shared_samples(size_t n)
{
    void *at = mmap(NULL, n * sizeof(int64_t), PROT_READ | PROT_WRITE,
        MAP_SHARED | MAP_ANONYMOUS, -1, 0);

    if (at == MAP_FAILED)
        fail("no memory");
    return at;
}

static void call(struct rpc_client *client, const char *path,
    const void *request, size_t n_request)
{
    struct rpc_error error;
    unsigned char *answer;
    size_t n;

    if (rpc_client_call(client, path, request, n_request, &patient, &answer, &n,
            &error) != RPC_OK)
        fail(error.message);
    kv_free(answer);
}

static int64_t time_echo(struct rpc_client *echo)
{
    static const unsigned char bytes[ECHO_BYTES];
    int64_t started_ns = kv_clock_mono_ns();

    call(echo, "/bench.v1.Bench/Echo", bytes, sizeof bytes);
    return kv_clock_mono_ns() - started_ns;
}

static void evict(struct rpc_client *client, const char *name)
{
    unsigned char request[SESSIONS_EVICT_BYTES];

    call(client, "/kvpool.v1.KvPoolService/Evict", request,
        sessions_evict_request(request, name));
}

static void pause_between(void)
{
    nanosleep(&(struct timespec){.tv_nsec = PAUSE_NS}, NULL);
}

static int compare(const void *a, const void *b)
{
    int64_t left = *(const int64_t *)a, right = *(const int64_t *)b;

    return (left > right) - (left < right);
}

static double percentile_us(int64_t *samples_ns, size_t n, size_t percent)
{
    size_t nth = n * percent / 100;

    qsort(samples_ns, n, sizeof *samples_ns, compare);
    return (double)samples_ns[nth] / 1e3;
}

int main(int argc, char **argv)
{
    size_t n = argc > 3 ? (size_t)atoi(argv[3]) : 0;
    int64_t *echo_ns = calloc(n, sizeof *echo_ns);
    struct follower follower = {.n_wanted = n};
    struct rpc_client *client, *echo;
    pid_t pid;

    if (argc != 4 || n == 0 || echo_ns == NULL) {
        fprintf(stderr, "usage: bench_latency ADDRESS ECHO_ADDRESS SAMPLES\n");
        return EXIT_FAILURE;
    }
    follower.address = argv[1];
    follower.samples_ns = shared_samples(n);
    pid = start_follower(&follower);
    client = sessions_client(argv[1]);
    echo = sessions_client(argv[2]);
    time_echo(echo);                                  /* connects */
    nanosleep(&(struct timespec){.tv_sec = 1}, NULL); /* it follows by now */
    for (size_t i = 0; i < n; i++) {
        char name[SESSIONS_NAME_BYTES];

        sessions_name(name, (unsigned)i);
        sessions_generate(client, name, 1);
        pause_between();
        echo_ns[i] = time_echo(echo);
        pause_between();
        evict(client, name);
    }
    wait_for_follower(pid);
    printf("p50_us=%.0f p99_us=%.0f echo_p50_us=%.0f echo_p99_us=%.0f\n",
        percentile_us(follower.samples_ns, n, 50),
        percentile_us(follower.samples_ns, n, 99),
        percentile_us(echo_ns, n, 50), percentile_us(echo_ns, n, 99));
    rpc_client_close(echo);
    rpc_client_close(client);
    free(echo_ns);
    return EXIT_SUCCESS;
}
