/* The fan-out of bench_fanout on nats-server's core: one publisher, subscribers
 * on a connection each, every message of one receipt's size.
 *
 *     bench_peer_nats PORT SUBSCRIBERS SECONDS BYTES [SERVER_PID]
 *
 * NATS core drops what a slow subscriber does not take, so that the publisher
 * stays at most WINDOW messages before the slowest: as fast as nothing is lost.
 * Prints messages delivered per second and the server's CPU time for each. */
#include <pthread.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include <nats/nats.h>

#include "base/clock.h"
#include "bench/load.h"

#define WINDOW 4096
#define SUBJECT "receipts"
#define MANY 4 /* from so many on, subscribers share threads */

struct subscriber {
    natsConnection *connection;
    natsSubscription *subscription;
    _Atomic uint64_t n_taken;
};

struct bench {
    char url[64];
    struct subscriber *subscribers;
    size_t n_subscribers;
    int n_bytes;
    atomic_bool stopping;
};

static void check(natsStatus status)
{
    if (status == NATS_OK)
        return;
    fprintf(stderr, "bench_peer_nats: %s\n", natsStatus_GetText(status));
    exit(EXIT_FAILURE);
}

static natsConnection *connect_to(const struct bench *bench, bool shared)
{
    natsConnection *connection;
    natsOptions *options;

    check(natsOptions_Create(&options));
    check(natsOptions_SetURL(options, bench->url));
    check(natsOptions_UseGlobalMessageDelivery(options, shared));
    check(natsConnection_Connect(&connection, options));
    natsOptions_Destroy(options);
    return connection;
}

static void on_message(natsConnection *connection,
    natsSubscription *subscription, natsMsg *message, void *ctx)
{
    struct subscriber *subscriber = ctx;

    (void)connection;
    (void)subscription;
    atomic_fetch_add_explicit(&subscriber->n_taken, 1, memory_order_relaxed);
    natsMsg_Destroy(message);
}

static void subscribe(struct bench *bench, struct subscriber *subscriber)
{
    subscriber->connection = connect_to(bench, bench->n_subscribers > MANY);
    check(natsConnection_Subscribe(&subscriber->subscription,
        subscriber->connection, SUBJECT, on_message, subscriber));
    check(natsSubscription_SetPendingLimits(subscriber->subscription, -1, -1));
    check(natsConnection_Flush(subscriber->connection));
}

static uint64_t least_taken(struct bench *bench)
{
    uint64_t least = UINT64_MAX;

    for (size_t i = 0; i < bench->n_subscribers; i++) {
        uint64_t n = bench->subscribers[i].n_taken;

        least = n < least ? n : least;
    }
    return least;
}

static uint64_t total_taken(struct bench *bench)
{
    uint64_t sum = 0;

    for (size_t i = 0; i < bench->n_subscribers; i++)
        sum += bench->subscribers[i].n_taken;
    return sum;
}

static void sleep_ns(int64_t ns)
{
    nanosleep(&(struct timespec){.tv_sec = ns / KV_NS_PER_S,
                  .tv_nsec = ns % KV_NS_PER_S},
        NULL);
}

static void *publish(void *ctx)
{
    struct bench *bench = ctx;
    natsConnection *connection = connect_to(bench, false);
    char *payload = calloc(1, (size_t)bench->n_bytes);
    uint64_t n_sent = 0, n_taken = 0;

    while (payload != NULL && !bench->stopping) {
        if (n_sent - n_taken >= WINDOW)
            n_taken = least_taken(bench);
        if (n_sent - n_taken >= WINDOW) {
            check(natsConnection_Flush(connection));
            sleep_ns(50000);
            continue;
        }
        check(natsConnection_Publish(
            connection, SUBJECT, payload, bench->n_bytes));
        n_sent++;
    }
    free(payload);
    natsConnection_Destroy(connection);
    return NULL;
}

static void measure(struct bench *bench, int64_t duration_ns, int pid)
{
    int64_t wall_ns, cpu_ns;
    double n;

    sleep_ns(KV_NS_PER_S);
    n = (double)total_taken(bench);
    wall_ns = kv_clock_mono_ns();
    cpu_ns = load_cpu_ns(pid);
    sleep_ns(duration_ns);
    n = (double)total_taken(bench) - n;
    wall_ns = kv_clock_mono_ns() - wall_ns;
    cpu_ns = load_cpu_ns(pid) - cpu_ns;
    printf("receipts_per_s=%.0f server_cpu_us_per_receipt=%.3f\n",
        n / ((double)wall_ns / 1e9), n > 0 ? (double)cpu_ns / 1000 / n : 0);
}

int main(int argc, char **argv)
{
    struct bench bench = {.n_subscribers = argc > 2 ? (size_t)atoi(argv[2]) : 0,
        .n_bytes = argc > 4 ? atoi(argv[4]) : 0};
    pthread_t publisher;

    if (argc < 5 || bench.n_subscribers == 0 || bench.n_bytes <= 0) {
        fprintf(stderr, "usage: bench_peer_nats PORT SUBSCRIBERS SECONDS BYTES "
                        "[SERVER_PID]\n");
        return EXIT_FAILURE;
    }
    bench.subscribers = calloc(bench.n_subscribers, sizeof *bench.subscribers);
    if (bench.subscribers == NULL)
        return EXIT_FAILURE;
    snprintf(bench.url, sizeof bench.url, "nats://127.0.0.1:%s", argv[1]);
    check(nats_Open(-1));
    check(nats_SetMessageDeliveryPoolSize(2));
    for (size_t i = 0; i < bench.n_subscribers; i++)
        subscribe(&bench, &bench.subscribers[i]);
    if (pthread_create(&publisher, NULL, publish, &bench) != 0)
        return EXIT_FAILURE;
    measure(&bench, (int64_t)(atof(argv[3]) * (double)KV_NS_PER_S),
        argc > 5 ? atoi(argv[5]) : 0);
    bench.stopping = true;
    pthread_join(publisher, NULL);
    for (size_t i = 0; i < bench.n_subscribers; i++) {
        natsSubscription_Destroy(bench.subscribers[i].subscription);
        natsConnection_Destroy(bench.subscribers[i].connection);
    }
    nats_Close();
    free(bench.subscribers);
    return EXIT_SUCCESS;
}
