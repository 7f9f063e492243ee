/* What Generate takes in a crowd: with so many idle sessions in the pool,
 * beside a server that has few.
 *
 *     bench_crowd fill ADDRESS FIRST N
 *     bench_crowd compare ADDRESS N OTHER_ADDRESS N SAMPLES
 *
 * fill makes N sessions of one block each. compare asks both servers by turns,
 * one request after the other, each for two tokens: in a new session, in one
 * made a moment before, and in one of the N, anywhere among them. Prints the
 * times from the request to the end of the answer, in us. */
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/clock.h"
#include "base/heap.h"
#include "bench/measure.h"
#include "bench/sessions.h"

#define MOMENT 16 /* requests before */

enum { NEW, RECENT, OLD, N_KINDS };

static const char *const kind_names[N_KINDS] = {"new", "recent", "old"};

struct server {
    struct rpc_client *client;
    uint32_t n_sessions;
    double *us[N_KINDS];
};

/* The number makes a beginning that no other session has. */
static double ask(struct rpc_client *client, const char *id, uint32_t number)
{
    int64_t since_ns = kv_clock_mono_ns();
    char text[SESSIONS_NAME_BYTES];

    snprintf(text, sizeof text, "%" PRIu32, number);
    sessions_ask(client, id, text, 2);
    return (double)(kv_clock_mono_ns() - since_ns) / 1000;
}

static double ask_old(struct rpc_client *client, uint32_t number)
{
    char id[SESSIONS_NAME_BYTES];

    snprintf(id, sizeof id, "crowd-%" PRIu32, number);
    return ask(client, id, number);
}

static double ask_new(struct rpc_client *client, uint32_t number)
{
    char id[SESSIONS_NAME_BYTES];

    sessions_name(id, number);
    return ask(client, id, number);
}

static void fill(const char *address, uint32_t first, uint32_t n)
{
    struct rpc_client *client = sessions_client(address);

    for (uint32_t i = first; i < first + n; i++)
        ask_old(client, i);
    rpc_client_close(client);
}

/* Each of them once before one comes again, in no order to speak of. */
static uint32_t some_old(const struct server *server, uint32_t i)
{
    return (uint32_t)(i * UINT64_C(7368787) % server->n_sessions);
}

static void take_turn(struct server *server, uint32_t i)
{
    uint32_t recent = i < MOMENT ? i : i - MOMENT;

    server->us[NEW][i] = ask_new(server->client, i);
    server->us[RECENT][i] = ask_new(server->client, recent);
    server->us[OLD][i] = ask_old(server->client, some_old(server, i));
}

static void print(const char *name, struct server *server, uint32_t n)
{
    for (int kind = 0; kind < N_KINDS; kind++) {
        double *us = server->us[kind];

        measure_sort(us, n);
        printf("%s_%s_p50=%.0f %s_%s_p99=%.0f %s_%s_max=%.0f ", name,
            kind_names[kind], us[n / 2], name, kind_names[kind],
            us[(uint64_t)n * 99 / 100], name, kind_names[kind], us[n - 1]);
    }
}

static struct server open_server(
    const char *address, const char *n_sessions, uint32_t n_samples)
{
    struct server server = {
        .client = sessions_client(address),
        .n_sessions = (uint32_t)strtoul(n_sessions, NULL, 10),
    };

    for (int kind = 0; kind < N_KINDS; kind++) {
        server.us[kind] = kv_calloc(n_samples, sizeof(double));
        if (server.us[kind] == NULL || server.n_sessions == 0) {
            fprintf(stderr, "bench_crowd: no memory, or no sessions\n");
            exit(EXIT_FAILURE);
        }
    }
    return server;
}

static void close_server(struct server *server)
{
    for (int kind = 0; kind < N_KINDS; kind++)
        kv_free(server->us[kind]);
    rpc_client_close(server->client);
}

static void compare(char **argv)
{
    uint32_t n = (uint32_t)strtoul(argv[6], NULL, 10);
    struct server crowded = open_server(argv[2], argv[3], n);
    struct server other = open_server(argv[4], argv[5], n);

    for (uint32_t i = 0; i < n; i++) {
        take_turn(i % 2 == 0 ? &crowded : &other, i);
        take_turn(i % 2 == 0 ? &other : &crowded, i);
    }
    print("crowded", &crowded, n);
    print("other", &other, n);
    putchar('\n');
    close_server(&crowded);
    close_server(&other);
}

int main(int argc, char **argv)
{
    if (argc == 5 && strcmp(argv[1], "fill") == 0) {
        fill(argv[2], (uint32_t)strtoul(argv[3], NULL, 10),
            (uint32_t)strtoul(argv[4], NULL, 10));
    } else if (argc == 7 && strcmp(argv[1], "compare") == 0 &&
               strtoul(argv[6], NULL, 10) > 0) {
        compare(argv);
    } else {
        fprintf(stderr, "usage: bench_crowd fill ADDRESS FIRST N\n"
                        "       bench_crowd compare ADDRESS N OTHER_ADDRESS N "
                        "SAMPLES\n");
        return EXIT_FAILURE;
    }
    return EXIT_SUCCESS;
}
