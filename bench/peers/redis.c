/* The fan-out of bench_fanout on Redis Pub/Sub: one publisher that pipelines,
 * subscribers on a connection each, every message of one receipt's size.
 *
 *     bench_peer_redis PORT SUBSCRIBERS SECONDS BYTES [SERVER_PID]
 *
 * The publisher stays at most WINDOW messages before the slowest subscriber, so
 * that nothing is lost. Prints messages delivered per second and the server's
 * CPU time for each. */
#include <pthread.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <time.h>

#include <hiredis/hiredis.h>
#include <sys/epoll.h>

#include "base/clock.h"
#include "bench/load.h"

#define WINDOW 4096
#define PIPELINE 64
#define WARM_UP_NS KV_NS_PER_S
#define HOST "127.0.0.1"

struct subscriber {
    redisContext *connection;
    _Atomic uint64_t n_taken;
};

struct bench {
    int port, epoll;
    struct subscriber *subscribers;
    size_t n_subscribers, n_bytes;
    atomic_bool stopping;
};

static void fail(const char *what)
{
    fprintf(stderr, "bench_peer_redis: %s\n", what);
    exit(EXIT_FAILURE);
}

static redisContext *connect_to(const struct bench *bench)
{
    redisContext *connection = redisConnect(HOST, bench->port);

    if (connection == NULL || connection->err != 0)
        fail("cannot connect");
    return connection;
}

static void subscribe(struct bench *bench, struct subscriber *subscriber)
{
    struct epoll_event event = {.events = EPOLLIN, .data.ptr = subscriber};

    subscriber->connection = connect_to(bench);
    freeReplyObject(redisCommand(subscriber->connection, "SUBSCRIBE receipts"));
    if (epoll_ctl(bench->epoll, EPOLL_CTL_ADD, subscriber->connection->fd,
            &event) != 0)
        fail("epoll_ctl");
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

/* ---- publishing */

static void finish(redisContext *connection, size_t n_replies)
{
    void *reply;

    for (size_t i = 0; i < n_replies; i++) {
        if (redisGetReply(connection, &reply) != REDIS_OK)
            fail("the publisher's connection broke");
        freeReplyObject(reply);
    }
}

static void *publish(void *ctx)
{
    struct bench *bench = ctx;
    redisContext *connection = connect_to(bench);
    char *payload = calloc(1, bench->n_bytes);
    uint64_t n_sent = 0;
    size_t n;

    while (payload != NULL && !bench->stopping) {
        uint64_t room = WINDOW - (n_sent - least_taken(bench));

        for (n = 0; n < PIPELINE && n < room; n++)
            redisAppendCommand(
                connection, "PUBLISH receipts %b", payload, bench->n_bytes);
        finish(connection, n);
        n_sent += n;
        if (n == 0)
            nanosleep(&(struct timespec){.tv_nsec = 50000}, NULL);
    }
    free(payload);
    redisFree(connection);
    return NULL;
}

/* ---- subscribing */

static void take(struct subscriber *subscriber)
{
    void *reply;

    if (redisBufferRead(subscriber->connection) != REDIS_OK)
        fail("a subscriber's connection broke");
    while (
        redisGetReplyFromReader(subscriber->connection, &reply) == REDIS_OK &&
        reply != NULL) {
        freeReplyObject(reply);
        atomic_fetch_add_explicit(
            &subscriber->n_taken, 1, memory_order_relaxed);
    }
}

static void run(struct bench *bench, int64_t until_ns)
{
    struct epoll_event events[64];
    int n;

    while (kv_clock_mono_ns() < until_ns) {
        n = epoll_wait(bench->epoll, events, 64, 100);
        for (int i = 0; i < n; i++)
            take(events[i].data.ptr);
    }
}

static void measure(struct bench *bench, int64_t duration_ns, int pid)
{
    int64_t wall_ns, cpu_ns;
    double n;

    run(bench, kv_clock_mono_ns() + WARM_UP_NS);
    n = (double)total_taken(bench);
    wall_ns = kv_clock_mono_ns();
    cpu_ns = load_cpu_ns(pid);
    run(bench, wall_ns + duration_ns);
    n = (double)total_taken(bench) - n;
    wall_ns = kv_clock_mono_ns() - wall_ns;
    cpu_ns = load_cpu_ns(pid) - cpu_ns;
    printf("receipts_per_s=%.0f server_cpu_us_per_receipt=%.3f\n",
        n / ((double)wall_ns / 1e9), n > 0 ? (double)cpu_ns / 1000 / n : 0);
}

int main(int argc, char **argv)
{
    struct bench bench = {.port = argc > 1 ? atoi(argv[1]) : 0,
        .n_subscribers = argc > 2 ? (size_t)atoi(argv[2]) : 0,
        .n_bytes = argc > 4 ? (size_t)atoi(argv[4]) : 0};
    pthread_t publisher;

    if (argc < 5 || bench.n_subscribers == 0 || bench.n_bytes == 0) {
        fprintf(stderr, "usage: bench_peer_redis PORT SUBSCRIBERS SECONDS "
                        "BYTES [SERVER_PID]\n");
        return EXIT_FAILURE;
    }
    bench.subscribers = calloc(bench.n_subscribers, sizeof *bench.subscribers);
    bench.epoll = epoll_create1(0);
    if (bench.subscribers == NULL || bench.epoll < 0)
        return EXIT_FAILURE;
    for (size_t i = 0; i < bench.n_subscribers; i++)
        subscribe(&bench, &bench.subscribers[i]);
    if (pthread_create(&publisher, NULL, publish, &bench) != 0)
        return EXIT_FAILURE;
    measure(&bench, (int64_t)(atof(argv[3]) * (double)KV_NS_PER_S),
        argc > 5 ? atoi(argv[5]) : 0);
    bench.stopping = true;
    pthread_join(publisher, NULL);
    for (size_t i = 0; i < bench.n_subscribers; i++)
        redisFree(bench.subscribers[i].connection);
    free(bench.subscribers);
    return EXIT_SUCCESS;
}
