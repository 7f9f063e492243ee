#include "tests/rpc/rig.h"

#include <inttypes.h>
#include <semaphore.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "base/clock.h"
#include "base/heap.h"

/* Check's own assertions work below its runner only; the interop server has
 * none. */
#define REQUIRE(condition)                                                     \
    do {                                                                       \
        if (!(condition)) {                                                    \
            fprintf(stderr, "rig: not so: %s\n", #condition);                  \
            abort();                                                           \
        }                                                                      \
    } while (0)

/* ---- unary methods */

static void on_echo(
    void *ctx, struct rpc_call *call, const unsigned char *request, size_t n)
{
    (void)ctx;
    rpc_call_reply(call, &(struct rpc_bytes){.data = request, .n = n});
}

static void on_fail(
    void *ctx, struct rpc_call *call, const unsigned char *request, size_t n)
{
    struct rpc_error error;

    (void)ctx;
    (void)request;
    rpc_error_init(&error, RPC_FAILED_PRECONDITION, "RECEIPTS_OFF",
        "100 %% caf\303\251,\nsecond line, %zu bytes", n);
    rpc_error_add_metadata(&error, "option", "enable_receipts");
    rpc_call_fail(call, &error);
}

struct later {
    uv_timer_t timer;
    struct rpc_call *call;
};

static void on_later_closed(uv_handle_t *handle)
{
    kv_free(handle->data);
}

static void on_later_over(uv_timer_t *timer)
{
    struct later *later = timer->data;

    rpc_call_reply(later->call, &(struct rpc_bytes){.data = "later", .n = 5});
    uv_close((uv_handle_t *)timer, on_later_closed);
}

static void on_later(
    void *ctx, struct rpc_call *call, const unsigned char *request, size_t n)
{
    struct rig *rig = ctx;
    struct later *later = kv_calloc(1, sizeof *later);

    (void)request;
    (void)n;
    later->call = call;
    later->timer.data = later;
    uv_timer_init(rpc_loop_uv(rig->loop), &later->timer);
    uv_timer_start(&later->timer, on_later_over, 20, 0);
    rpc_loop_touched(rig->loop);
}

static void on_wait_cancelled(void *ctx, struct rpc_call *call)
{
    struct rig *rig = ctx;
    struct rpc_error error;

    rig->n_cancelled++;
    rpc_error_init(&error, RPC_CANCELLED, "", "nobody hears this");
    rpc_call_fail(call, &error);
}

static void on_wait(
    void *ctx, struct rpc_call *call, const unsigned char *request, size_t n)
{
    (void)request;
    (void)n;
    ((struct rig *)ctx)->n_waits++;
    rpc_call_set_ctx(call, ctx);
    rpc_call_on_cancel(call, on_wait_cancelled);
}

static void on_about(
    void *ctx, struct rpc_call *call, const unsigned char *request, size_t n)
{
    const uint8_t *id = rpc_call_trace_id(call);
    int64_t deadline_ns = rpc_call_deadline_ns(call);
    int64_t left_ns = deadline_ns - kv_clock_mono_ns();
    char text[256] = "-";

    (void)ctx;
    (void)request;
    (void)n;
    for (int i = 0; id != NULL && i < 16; i++)
        snprintf(text + 2 * i, sizeof text - 2 * i, "%02x", id[i]);
    snprintf(text + strlen(text), sizeof text - strlen(text), " %s %s",
        deadline_ns == INT64_MAX                     ? "none"
        : left_ns > 0 && left_ns < 100 * KV_NS_PER_S ? "soon"
                                                     : "wrong",
        rpc_call_peer(call));
    rpc_call_reply(call, &(struct rpc_bytes){.data = text, .n = strlen(text)});
}

/* ---- streams */

struct stream {
    struct rig *rig;
    int next, n;
};

static void on_stream_done(struct rpc_call *call)
{
    struct stream *stream = rpc_call_ctx(call);

    stream->rig->n_done++;
    kv_free(stream);
}

static void on_stream_cancel(struct rpc_call *call)
{
    struct stream *stream = rpc_call_ctx(call);

    stream->rig->n_cancelled++;
    rpc_stream_finish(call);
}

static void on_count_ready(struct rpc_call *call)
{
    struct stream *stream = rpc_call_ctx(call);
    char text[16];

    if (stream->next == stream->n) {
        rpc_stream_finish(call);
        return;
    }
    snprintf(text, sizeof text, "%d", stream->next++);
    rpc_stream_send(call, &(struct rpc_bytes){.data = text, .n = strlen(text)});
}

static void release_flood(void *ctx)
{
    struct rig *rig = *(struct rig **)ctx;

    rig->n_released++;
    kv_free(ctx);
}

static void on_flood_ready(struct rpc_call *call)
{
    struct stream *stream = rpc_call_ctx(call);
    struct rig **memory = kv_calloc(1, FLOOD_BYTES);

    *memory = stream->rig;
    stream->rig->n_sent++;
    rpc_stream_send(
        call, &(struct rpc_bytes){memory, FLOOD_BYTES, release_flood, memory});
}

static void start_stream(struct rig *rig, struct rpc_call *call,
    const struct rpc_stream_ops *ops, const unsigned char *request, size_t n)
{
    struct stream *stream = kv_calloc(1, sizeof *stream);
    char text[16] = "";

    REQUIRE(n < sizeof text);
    if (n > 0)
        memcpy(text, request, n);
    stream->rig = rig;
    stream->n = atoi(text);
    rpc_call_set_ctx(call, stream);
    rpc_stream_start(call, ops);
    rig->n_started++;
}

static void on_count(
    void *ctx, struct rpc_call *call, const unsigned char *request, size_t n)
{
    static const struct rpc_stream_ops ops = {
        on_count_ready, on_stream_cancel, on_stream_done};

    start_stream(ctx, call, &ops, request, n);
}

static void on_flood(
    void *ctx, struct rpc_call *call, const unsigned char *request, size_t n)
{
    static const struct rpc_stream_ops ops = {
        on_flood_ready, on_stream_cancel, on_stream_done};
    struct rig *rig = ctx;

    start_stream(ctx, call, &ops, request, n);
    rig->flood = call;
}

static void on_stay(
    void *ctx, struct rpc_call *call, const unsigned char *request, size_t n)
{
    static const struct rpc_stream_ops ops = {
        NULL, on_stream_cancel, on_stream_done};

    start_stream(ctx, call, &ops, request, n);
}

/* ---- life */

static void add_methods(struct rig *rig)
{
    const struct rpc_method methods[] = {
        {"/test.v1.Test/Echo", RPC_UNARY, on_echo, rig},
        {"/test.v1.Test/Fail", RPC_UNARY, on_fail, rig},
        {"/test.v1.Test/Later", RPC_UNARY, on_later, rig},
        {"/test.v1.Test/Wait", RPC_UNARY, on_wait, rig},
        {"/test.v1.Test/About", RPC_UNARY, on_about, rig},
        {"/test.v1.Test/Count", RPC_SERVER_STREAM, on_count, rig},
        {"/test.v1.Test/Flood", RPC_SERVER_STREAM, on_flood, rig},
        {"/test.v1.Test/Stay", RPC_SERVER_STREAM, on_stay, rig},
    };

    for (size_t i = 0; i < sizeof methods / sizeof *methods; i++)
        REQUIRE(rpc_server_add_method(rig->server, &methods[i]) == KV_OK);
}

void rig_open(
    struct rig *rig, struct rpc_server_config config, const char *address)
{
    struct kv_error error = {0};

    memset(rig, 0, sizeof *rig);
    REQUIRE(rpc_loop_open(&rig->loop, &error) == KV_OK);
    config.loop = rig->loop;
    if (config.max_request_bytes == 0)
        config.max_request_bytes = 64 * 1024;
    if (config.max_calls == 0)
        config.max_calls = 1000;
    if (config.max_connections == 0)
        config.max_connections = 1000;
    if (config.max_streams_per_connection == 0)
        config.max_streams_per_connection = 1000;
    REQUIRE(rpc_server_open(&rig->server, &config, &error) == KV_OK);
    add_methods(rig);
    REQUIRE(rpc_server_listen(rig->server, address, &error) == KV_OK);
    snprintf(rig->address, sizeof rig->address, "%s",
        rpc_server_address(rig->server, 0));
}

static void *run(void *arg)
{
    struct rig *rig = arg;

    rpc_loop_run(rig->loop);
    return NULL;
}

void rig_start(struct rig *rig)
{
    struct kv_error error = {0};

    REQUIRE(rpc_server_start(rig->server, &error) == KV_OK);
    REQUIRE(pthread_create(&rig->thread, NULL, run, rig) == 0);
}

static void on_drained(void *ctx)
{
    struct rig *rig = ctx;

    rpc_server_close(rig->server);
    rpc_loop_stop(rig->loop);
    rig->n_drained++;
}

static void on_drain_post(struct rpc_post *post)
{
    struct rig *rig =
        (struct rig *)(void *)((char *)post - offsetof(struct rig, drain_post));

    rpc_server_drain(rig->server, rig->drain_limit_ns, on_drained, rig);
}

void rig_drain(struct rig *rig, int64_t limit_ns)
{
    rig->drain_limit_ns = limit_ns;
    rig->drain_post.run = on_drain_post;
    rpc_loop_post(rig->loop, &rig->drain_post);
}

static void drain_now(struct rig *rig)
{
    rpc_server_drain(rig->server, 0, on_drained, rig);
}

void rig_close(struct rig *rig)
{
    if (rig->n_drained == 0)
        rig_do(rig, drain_now);
    pthread_join(rig->thread, NULL);
    REQUIRE(rig->n_drained == 1);
    rpc_loop_close(rig->loop);
}

struct job {
    struct rpc_post post;
    struct rig *rig;
    void (*run)(struct rig *rig);
    sem_t done;
};

static void on_job(struct rpc_post *post)
{
    struct job *job = (struct job *)(void *)post;

    job->run(job->rig);
    sem_post(&job->done);
}

void rig_do(struct rig *rig, void (*job_run)(struct rig *rig))
{
    struct job job = {.post.run = on_job, .rig = rig, .run = job_run};

    sem_init(&job.done, 0, 0);
    if (rpc_loop_post(rig->loop, &job.post)) {
        while (sem_wait(&job.done) != 0)
            ;
    }
    sem_destroy(&job.done);
}

void await(_Atomic int *counter, int n)
{
    while (atomic_load(counter) < n)
        nanosleep(&(struct timespec){.tv_nsec = 1000000}, NULL);
}

/* ---- clients */

struct rpc_client *rig_client(const struct rig *rig)
{
    struct kv_error error = {0};
    struct rpc_client *client;

    REQUIRE(rpc_client_open(&client, rig->address, &error) == KV_OK);
    return client;
}

enum rpc_code rig_call(struct rpc_client *client, const char *method,
    const void *request, size_t n, unsigned char **out, size_t *n_out,
    struct rpc_error *error)
{
    const struct rpc_client_options options = {.timeout_ns = 0};
    char path[128];

    snprintf(path, sizeof path, "/test.v1.Test/%s", method);
    return rpc_client_call(
        client, path, request, n, &options, out, n_out, error);
}

void rig_await_started(struct rig *rig, struct rpc_client_stream *stream, int n)
{
    struct rpc_error error;
    unsigned char *out;
    size_t n_out;

    while (rig->n_started < n)
        REQUIRE(rpc_client_stream_next(
                    stream, KV_NS_PER_MS, &out, &n_out, &error) == KV_BUSY);
}

struct rpc_client_stream *rig_stream(struct rpc_client *client,
    const char *method, const void *request, size_t n)
{
    const struct rpc_client_options options = {.timeout_ns = 0};
    struct rpc_client_stream *stream;
    char path[128];

    snprintf(path, sizeof path, "/test.v1.Test/%s", method);
    REQUIRE(rpc_client_stream_open(
                client, path, request, n, &options, &stream) == KV_OK);
    return stream;
}
