#include <arpa/inet.h>
#include <netinet/in.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <sys/wait.h>
#include <unistd.h>

#include "base/clock.h"
#include "base/heap.h"
#include "base/log.h"
#include "tests/rpc/rig.h"
#include "tests/support/check_main.h"
#include "tests/support/faulty_heap.h"

static struct rig rig;
static struct rpc_error error;
static unsigned char *answer;
static size_t n_answer;
static struct rpc_server_counts counts;

static void tear_down(void)
{
    kv_free(answer);
}

static void start(const char *address)
{
    rig_open(&rig, (struct rpc_server_config){0}, address);
    rig_start(&rig);
}

static enum rpc_code echo(struct rpc_client *client)
{
    kv_free(answer);
    answer = NULL;
    return rig_call(client, "Echo", "x", 1, &answer, &n_answer, &error);
}

static void read_counts(struct rig *of)
{
    counts = rpc_server_counts(of->server);
}

static int port_of(const char *address)
{
    return atoi(strrchr(address, ':') + 1);
}

static int connect_port(int port)
{
    struct sockaddr_in address = {.sin_family = AF_INET,
        .sin_port = htons((uint16_t)port),
        .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);

    if (fd >= 0 &&
        connect(fd, (struct sockaddr *)&address, sizeof address) != 0) {
        close(fd);
        return -1;
    }
    return fd;
}

/* ---- addresses */

/* "unix:" and a path of this test's own. */
static const char *unix_address(void)
{
    static char address[96];

    snprintf(address, sizeof address, "unix:%s/kvpool-test-%d.sock", P_tmpdir,
        (int)getpid());
    return address;
}

START_TEST(each_kind_of_address_serves)
{
    const char *const addresses[] = {
        "127.0.0.1:0", "localhost:0", "[::1]:0", unix_address()};
    struct rpc_client *client;

    for (size_t i = 0; i < sizeof addresses / sizeof *addresses; i++) {
        start(addresses[i]);
        client = rig_client(&rig);
        ck_assert_int_eq(echo(client), RPC_OK);
        rpc_client_close(client);
        rig_close(&rig);
    }
}
END_TEST

START_TEST(what_is_no_address_is_refused_in_words)
{
    static const char *const wrong[] = {"", "localhost",
        "localhost:", "localhost:65536", "localhost:7x", ":7440", "::1:7440",
        "[::1:7440", "[]:1", "unix:relative", "unix:"};
    struct kv_error words;

    rig_open(&rig, (struct rpc_server_config){0}, "127.0.0.1:0");
    for (size_t i = 0; i < sizeof wrong / sizeof *wrong; i++) {
        words.text[0] = '\0';
        ck_assert_int_eq(
            rpc_server_listen(rig.server, wrong[i], &words), KV_INVALID);
        ck_assert_ptr_nonnull(strstr(words.text, "write host:port"));
    }
    ck_assert_ptr_null(rpc_server_address(rig.server, 1));
    rpc_server_close(rig.server);
    rpc_loop_close(rig.loop);
}
END_TEST

START_TEST(a_port_in_use_is_an_error_that_names_it)
{
    char expected[256];
    struct kv_error words;

    rig_open(&rig, (struct rpc_server_config){0}, "127.0.0.1:0");
    snprintf(
        expected, sizeof expected, "%s: address already in use", rig.address);
    ck_assert_int_eq(rpc_server_listen(rig.server, rig.address, &words), KV_IO);
    ck_assert_str_eq(words.text, expected);
    rpc_server_close(rig.server);
    rpc_loop_close(rig.loop);
}
END_TEST

static void leave_stale_socket(const char *path)
{
    struct sockaddr_un address = {.sun_family = AF_UNIX};
    int fd = socket(AF_UNIX, SOCK_STREAM, 0);

    strcpy(address.sun_path, path);
    unlink(path);
    ck_assert_int_eq(bind(fd, (struct sockaddr *)&address, sizeof address), 0);
    close(fd);
}

START_TEST(a_stale_socket_file_is_replaced_and_a_live_one_is_not)
{
    const char *address = unix_address();
    struct rpc_client *client;
    struct kv_error words;
    struct stat file;

    leave_stale_socket(address + 5);
    rig_open(&rig, (struct rpc_server_config){0}, address);
    ck_assert_int_eq(rpc_server_listen(rig.server, address, &words), KV_IO);
    ck_assert_ptr_nonnull(strstr(words.text, "address already in use"));
    rig_start(&rig);
    client = rig_client(&rig);
    ck_assert_int_eq(echo(client), RPC_OK);
    rpc_client_close(client);
    rig_close(&rig);
    ck_assert_int_ne(stat(address + 5, &file), 0);
}
END_TEST

START_TEST(a_file_that_is_no_socket_stays)
{
    const char *address = unix_address();
    struct kv_error words;
    FILE *file = fopen(address + 5, "w");

    fclose(file);
    rig_open(&rig, (struct rpc_server_config){0}, "127.0.0.1:0");
    ck_assert_int_eq(rpc_server_listen(rig.server, address, &words), KV_IO);
    ck_assert_int_eq(unlink(address + 5), 0);
    rpc_server_close(rig.server);
    rpc_loop_close(rig.loop);
}
END_TEST

/* ---- descriptors run out */

#define N_CROWD 100

/* A process of its own holds the other ends. It is made before gRPC is. */
static pid_t gather_crowd(int *to_crowd, int *from_crowd)
{
    int down[2], up[2], port;
    pid_t pid;

    ck_assert(pipe(down) == 0 && pipe(up) == 0);
    pid = fork();
    if (pid == 0) {
        close(down[1]);
        if (read(down[0], &port, sizeof port) != sizeof port)
            _exit(1);
        for (int i = 0; i < N_CROWD; i++)
            connect_port(port);
        if (write(up[1], "", 1) != 1 || read(down[0], &port, 1) != 0)
            _exit(1);
        _exit(0);
    }
    close(down[0]);
    close(up[1]);
    *to_crowd = down[1];
    *from_crowd = up[0];
    return pid;
}

START_TEST(running_out_of_descriptors_is_a_pause_and_not_the_end)
{
    struct rpc_client *client;
    int to_crowd, from_crowd, port;
    pid_t crowd = gather_crowd(&to_crowd, &from_crowd);
    struct rlimit limit;
    char ready;

    start("127.0.0.1:0");
    kv_log_set_level(KV_LOG_ERROR);
    client = rig_client(&rig);
    ck_assert_int_eq(echo(client), RPC_OK);
    getrlimit(RLIMIT_NOFILE, &limit);
    limit.rlim_cur = 48;
    ck_assert_int_eq(setrlimit(RLIMIT_NOFILE, &limit), 0);

    port = port_of(rig.address);
    ck_assert_int_eq(write(to_crowd, &port, sizeof port), sizeof port);
    ck_assert_int_eq(read(from_crowd, &ready, 1), 1);
    do
        rig_do(&rig, read_counts);
    while (counts.accept_failures_total == 0);
    ck_assert_int_eq(echo(client), RPC_OK); /* the old connection lives */
    rpc_client_close(client);

    kv_free(answer);
    close(to_crowd); /* the crowd goes home */
    ck_assert_int_eq(waitpid(crowd, NULL, 0), crowd);
    client = rig_client(&rig);
    ck_assert_int_eq(rpc_client_call(client, "/test.v1.Test/Echo", "x", 1,
                         &(struct rpc_client_options){.wait_for_ready = true},
                         &answer, &n_answer, &error),
        RPC_OK);
    rig_do(&rig, read_counts);
    ck_assert_uint_eq(counts.connections_total, N_CROWD + 2);
    rpc_client_close(client);
    close(from_crowd);
    rig_close(&rig);
}
END_TEST

START_TEST(connections_beyond_the_limit_are_closed_and_room_comes_back)
{
    struct rpc_client *client;
    char byte;
    int port, silent, refused;

    rig_open(
        &rig, (struct rpc_server_config){.max_connections = 2}, "127.0.0.1:0");
    rig_start(&rig);
    kv_log_set_level(KV_LOG_ERROR);
    port = port_of(rig.address);
    client = rig_client(&rig);
    ck_assert_int_eq(echo(client), RPC_OK);
    silent = connect_port(port);
    for (int i = 0; i < 5; i++) {
        refused = connect_port(port);
        ck_assert_int_eq(read(refused, &byte, 1), 0);
        close(refused);
    }
    ck_assert_int_eq(echo(client), RPC_OK);
    rig_do(&rig, read_counts);
    ck_assert_uint_eq(counts.refused_total, 5);
    ck_assert_uint_eq(counts.connections_total, 2);
    rpc_client_close(client);

    client = rig_client(&rig); /* in the place of the one that went */
    kv_free(answer);
    ck_assert_int_eq(rpc_client_call(client, "/test.v1.Test/Echo", "x", 1,
                         &(struct rpc_client_options){.wait_for_ready = true},
                         &answer, &n_answer, &error),
        RPC_OK);
    rpc_client_close(client);
    close(silent);
    rig_close(&rig);
}
END_TEST

START_TEST(bytes_that_are_not_http2_cost_their_connection_only)
{
    struct rpc_client *client;
    char buffer[512];
    int fd;

    start("127.0.0.1:0");
    fd = connect_port(port_of(rig.address));
    memset(buffer, 0xa5, sizeof buffer);
    ck_assert_int_eq(write(fd, buffer, sizeof buffer), sizeof buffer);
    while (read(fd, buffer, sizeof buffer) > 0)
        ;
    close(fd);
    client = rig_client(&rig);
    ck_assert_int_eq(echo(client), RPC_OK);
    rpc_client_close(client);
    rig_close(&rig);
}
END_TEST

/* ---- draining */

static void nothing(struct rig *of)
{
    (void)of;
}

static struct rpc_client_stream *open_stay(struct rpc_client *client)
{
    struct rpc_client_stream *stream = rig_stream(client, "Stay", NULL, 0);

    rig_await_started(&rig, stream, 1);
    return stream;
}

START_TEST(a_drain_waits_for_calls_and_refuses_new_ones)
{
    struct rpc_client_stream *stream;
    struct rpc_client *client, *late;

    start("127.0.0.1:0");
    client = rig_client(&rig);
    stream = open_stay(client);
    rig_drain(&rig, 100 * KV_NS_PER_S);
    rig_do(&rig, nothing);

    ck_assert_int_eq(echo(client), RPC_UNAVAILABLE);
    ck_assert_str_eq(error.reason, "DRAINING");
    ck_assert_str_eq(error.metadata[0].key, "limit_ns");
    ck_assert(atoll(error.metadata[0].value) > 50 * KV_NS_PER_S);
    late = rig_client(&rig);
    ck_assert_int_eq(echo(late), RPC_UNAVAILABLE);
    ck_assert_str_eq(error.reason, "");
    ck_assert_int_eq(rig.n_drained, 0);
    ck_assert_int_eq(rig.n_cancelled, 0);

    rpc_client_stream_close(stream);
    await(&rig.n_drained, 1);
    rpc_client_close(late);
    rpc_client_close(client);
    rig_close(&rig);
}
END_TEST

START_TEST(the_limit_cancels_what_is_left)
{
    struct rpc_client_stream *stream;
    struct rpc_client *client;

    start("127.0.0.1:0");
    client = rig_client(&rig);
    stream = open_stay(client);
    rig_drain(&rig, 30 * KV_NS_PER_MS);
    ck_assert_int_eq(
        rpc_client_stream_next(stream, INT64_MAX, &answer, &n_answer, &error),
        KV_CLOSED);
    ck_assert_int_eq(error.code, RPC_UNAVAILABLE);
    await(&rig.n_drained, 1);
    ck_assert_int_eq(rig.n_cancelled, 1);
    ck_assert_int_eq(rig.n_done, 1);
    rpc_client_stream_close(stream);
    rpc_client_close(client);
    rig_close(&rig);
}
END_TEST

START_TEST(a_second_drain_cuts_the_first_one_short_and_not_longer)
{
    struct rpc_client_stream *stream;
    struct rpc_client *client;

    start("127.0.0.1:0");
    client = rig_client(&rig);
    stream = open_stay(client);
    rig_drain(&rig, 1000 * KV_NS_PER_S);
    rig_do(&rig, nothing);
    rig_drain(&rig, 10 * KV_NS_PER_MS);
    rig_do(&rig, nothing);
    rig_drain(&rig, 1000 * KV_NS_PER_S);
    await(&rig.n_drained, 1);
    rpc_client_stream_close(stream);
    rpc_client_close(client);
    rig_close(&rig);
    ck_assert_int_eq(rig.n_drained, 1);
}
END_TEST

START_TEST(silent_connections_and_stalled_readers_do_not_hold_up_a_drain)
{
    struct rpc_client_stream *stream;
    struct rpc_client *client;
    int fd;

    start("127.0.0.1:0");
    fd = connect_port(port_of(rig.address));
    client = rig_client(&rig);
    stream = rig_stream(client, "Flood", NULL, 0);
    await(&rig.n_sent, 20);
    rig_drain(&rig, 20 * KV_NS_PER_MS);
    await(&rig.n_drained, 1);
    await(&rig.n_released, rig.n_sent);
    close(fd);
    rpc_client_stream_close(stream);
    rpc_client_close(client);
    rig_close(&rig);
}
END_TEST

START_TEST(an_idle_server_drains_at_once)
{
    start("127.0.0.1:0");
    rig_drain(&rig, 1000 * KV_NS_PER_S);
    await(&rig.n_drained, 1);
    rig_close(&rig);
}
END_TEST

/* Whoever is late is to go elsewhere, and CANCELLED tells nobody to. */
START_TEST(what_comes_at_the_very_end_is_unavailable_and_not_cancelled)
{
    struct rpc_client *client;
    enum rpc_code code;

    for (int i = 0; i < 20; i++) {
        start("127.0.0.1:0");
        client = rig_client(&rig);
        ck_assert_int_eq(echo(client), RPC_OK);
        rig_drain(&rig, 1000 * KV_NS_PER_S);
        do {
            code = echo(client);
            ck_assert(code == RPC_OK || code == RPC_UNAVAILABLE);
        } while (rig.n_drained == 0);
        rpc_client_close(client);
        rig_close(&rig);
    }
}
END_TEST

/* ---- opening without memory */

static void nobody(
    void *ctx, struct rpc_call *call, const unsigned char *request, size_t n)
{
    (void)ctx;
    (void)call;
    (void)request;
    (void)n;
}

static enum kv_status open_listen_close(struct rpc_loop *loop)
{
    const struct rpc_server_config config = {.loop = loop,
        .max_request_bytes = 1024,
        .max_calls = 1,
        .max_connections = 1,
        .max_streams_per_connection = 1};
    const struct rpc_method method = {
        "/test.v1.Test/Echo", RPC_UNARY, nobody, NULL};
    struct rpc_server *server;
    struct kv_error words;
    enum kv_status status = rpc_server_open(&server, &config, &words);

    if (status != KV_OK)
        return status;
    status = rpc_server_add_method(server, &method);
    if (status == KV_OK)
        status = rpc_server_listen(server, "127.0.0.1:0", &words);
    rpc_server_close(server);
    return status;
}

START_TEST(open_survives_every_failing_allocation)
{
    struct rpc_loop *loop;
    enum kv_status status;
    int nth = 0;

    faulty_heap_install();
    ck_assert_int_eq(rpc_loop_open(&loop, NULL), KV_OK);
    do {
        faulty_heap_fail_at(nth++);
        status = open_listen_close(loop);
        faulty_heap_fail_at(-1);
        ck_assert(status == KV_OK || status == KV_NO_MEMORY);
    } while (status != KV_OK);
    ck_assert_int_gt(nth, 10);
    rpc_loop_close(loop);
    ck_assert_int_eq(faulty_heap_live(), 0);
    kv_heap_use(NULL);
}
END_TEST

START_TEST(a_client_survives_a_failing_heap)
{
    const struct rpc_client_options options = {.timeout_ns = 0};
    struct rpc_client_stream *stream;
    struct rpc_client *client;
    struct kv_error words;

    faulty_heap_install();
    faulty_heap_fail_at(0);
    ck_assert_int_eq(
        rpc_client_open(&client, "127.0.0.1:1", &words), KV_NO_MEMORY);
    faulty_heap_fail_at(1);
    ck_assert_int_eq(rpc_client_open(&client, "127.0.0.1:1", &words), KV_OK);
    ck_assert_int_eq(rpc_client_stream_open(client, "/test.v1.Test/Stay", NULL,
                         0, &options, &stream),
        KV_NO_MEMORY);
    rpc_client_close(client);
    ck_assert_int_eq(faulty_heap_live(), 0);
    kv_heap_use(NULL);
}
END_TEST

START_TEST(a_method_cannot_be_added_twice)
{
    const struct rpc_method method = {
        "/test.v1.Test/Echo", RPC_UNARY, nobody, NULL};

    rig_open(&rig, (struct rpc_server_config){0}, "127.0.0.1:0");
    ck_assert_int_eq(rpc_server_add_method(rig.server, &method), KV_INVALID);
    rpc_server_close(rig.server);
    rpc_loop_close(rig.loop);
}
END_TEST

int main(void)
{
    const TTest *tests[] = {
        each_kind_of_address_serves,
        what_is_no_address_is_refused_in_words,
        a_port_in_use_is_an_error_that_names_it,
        a_stale_socket_file_is_replaced_and_a_live_one_is_not,
        a_file_that_is_no_socket_stays,
        running_out_of_descriptors_is_a_pause_and_not_the_end,
        connections_beyond_the_limit_are_closed_and_room_comes_back,
        bytes_that_are_not_http2_cost_their_connection_only,
        a_drain_waits_for_calls_and_refuses_new_ones,
        the_limit_cancels_what_is_left,
        a_second_drain_cuts_the_first_one_short_and_not_longer,
        silent_connections_and_stalled_readers_do_not_hold_up_a_drain,
        an_idle_server_drains_at_once,
        what_comes_at_the_very_end_is_unavailable_and_not_cancelled,
        open_survives_every_failing_allocation,
        a_client_survives_a_failing_heap,
        a_method_cannot_be_added_twice,
    };

    return CHECK_RUN("rpc server", NULL, tear_down, tests);
}
