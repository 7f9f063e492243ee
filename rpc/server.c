#include "rpc/server.h"

#include <assert.h>
#include <limits.h>
#include <string.h>
#include <unistd.h>

#include <grpc/grpc_posix.h>
#include <grpc/grpc_security.h>

#include "base/clock.h"
#include "base/heap.h"
#include "base/log.h"
#include "rpc/call.h"
#include "rpc/health.h"
#include "rpc/listener.h"
#include "rpc/reflection.h"

/* How a server ends:
 *
 *   drain ─────> listeners closed, new calls refused, watchers ended
 *     │ no call left; or the limit: calls are cut off, and CUT_OFF_MS later
 *   parting ───> the connections are ended
 *     │ none is left, or CUT_OFF_MS later
 *   shutting down ─> core disconnects what it still has, and says when
 *     │ it is done
 *   shut down, no call and no armed call left ─> timer closed ─> drained()
 *
 * Core's own shutdown lets clients call for a round trip more and cancels what
 * they call, which tells nobody to go elsewhere. So it comes last, when nobody
 * is connected: until then a new call is answered UNAVAILABLE, or loses its
 * connection, which its client calls UNAVAILABLE too. */

#define CUT_OFF_MS 500
#define PARTING_TICK_MS 2

/* Armed calls per method: as many as one turn of the loop may find waiting. */
#define ARMED_UNARY 64
#define ARMED_STREAMS 16
#define ARMED_OTHERS 4

#define MAX_METADATA_BYTES (16 * 1024)
#define KEEPALIVE_TIMEOUT_MS 20000
#define MIN_PING_INTERVAL_MS 5000 /* of a client's, or it is sent away */

/* ---- methods */

static size_t wanted(enum call_shape shape)
{
    switch (shape) {
    case CALL_UNARY:
        return ARMED_UNARY;
    case CALL_SERVER_STREAM:
        return ARMED_STREAMS;
    default:
        return ARMED_OTHERS;
    }
}

static void close_class(struct call_class *class)
{
    kv_list_remove(&class->link);
    call_class_free_spares(class);
    kv_free(class);
}

static bool is_registered(const struct rpc_server *server, const char *path)
{
    const struct call_class *class;

    KV_LIST_EACH (node, &server->classes) {
        class = KV_LIST_ENTRY(node, struct call_class, link);
        if (class->registered != NULL && strcmp(class->path, path) == 0)
            return true;
    }
    return false;
}

static enum kv_status register_class(struct call_class *class)
{
    if (class->shape == CALL_UNKNOWN)
        return KV_OK;
    if (is_registered(class->server, class->path))
        return KV_INVALID;
    class->registered = grpc_server_register_method(class->server->core,
        class->path, NULL,
        class->shape == CALL_BIDI ? GRPC_SRM_PAYLOAD_NONE
                                  : GRPC_SRM_PAYLOAD_READ_INITIAL_BYTE_BUFFER,
        0);
    return class->registered != NULL ? KV_OK : KV_INVALID;
}

enum kv_status server_add_class(
    struct rpc_server *server, const struct call_class *template)
{
    struct call_class *class = kv_calloc(1, sizeof *class);
    enum kv_status status;

    assert(!server->started);
    if (class == NULL)
        return KV_NO_MEMORY;
    *class = *template;
    class->server = server;
    class->n_wanted = wanted(class->shape);
    kv_list_init(&class->spares);
    kv_list_append(&server->classes, &class->link);
    status = KV_OK;
    while (status == KV_OK && class->n_spares < class->n_wanted)
        status = call_class_add_spare(class);
    if (status == KV_OK)
        status = register_class(class);
    if (status != KV_OK)
        close_class(class);
    return status;
}

enum kv_status rpc_server_add_method(
    struct rpc_server *server, const struct rpc_method *method)
{
    return server_add_class(
        server, &(struct call_class){
                    .shape = method->kind == RPC_UNARY ? CALL_UNARY
                                                       : CALL_SERVER_STREAM,
                    .path = method->path,
                    .handler = method->handler,
                    .ctx = method->ctx,
                });
}

/* ---- opening */

static int to_ms(int64_t ns)
{
    int64_t ms = ns / KV_NS_PER_MS;

    return ms > INT_MAX ? INT_MAX : (int)ms;
}

static int to_int(size_t n)
{
    return n > INT_MAX ? INT_MAX : (int)n;
}

static grpc_arg int_arg(const char *key, int value)
{
    return (grpc_arg){.type = GRPC_ARG_INTEGER,
        .key = (char *)(uintptr_t)key, /* core copies it */
        .value.integer = value};
}

static grpc_server *create_core(const struct rpc_server_config *config)
{
    grpc_arg args[12];
    grpc_channel_args list = {.args = args};

    args[list.num_args++] = int_arg(
        GRPC_ARG_MAX_RECEIVE_MESSAGE_LENGTH, to_int(config->max_request_bytes));
    args[list.num_args++] = int_arg(GRPC_ARG_MAX_CONCURRENT_STREAMS,
        to_int(config->max_streams_per_connection));
    args[list.num_args++] =
        int_arg(GRPC_ARG_MAX_METADATA_SIZE, MAX_METADATA_BYTES);
    args[list.num_args++] = /* see inflate.h */
        int_arg(GRPC_ARG_ENABLE_PER_MESSAGE_DECOMPRESSION, 0);
    args[list.num_args++] =
        int_arg(GRPC_ARG_HTTP2_MIN_RECV_PING_INTERVAL_WITHOUT_DATA_MS,
            MIN_PING_INTERVAL_MS);
    if (config->keepalive_ns > 0) {
        args[list.num_args++] =
            int_arg(GRPC_ARG_KEEPALIVE_TIME_MS, to_ms(config->keepalive_ns));
        args[list.num_args++] =
            int_arg(GRPC_ARG_KEEPALIVE_TIMEOUT_MS, KEEPALIVE_TIMEOUT_MS);
        args[list.num_args++] =
            int_arg(GRPC_ARG_KEEPALIVE_PERMIT_WITHOUT_CALLS, 1);
        args[list.num_args++] =
            int_arg(GRPC_ARG_HTTP2_MAX_PINGS_WITHOUT_DATA, 0);
    }
    return grpc_server_create(&list, NULL);
}

static void on_core_shut_down(struct rpc_tag *tag, bool ok);

static enum kv_status add_own_services(struct rpc_server *server)
{
    const struct rpc_server_config *config = &server->config;
    enum kv_status status = server_add_class(
        server, &(struct call_class){.shape = CALL_UNKNOWN, .path = "unknown"});

    if (status == KV_OK)
        status = rpc_health_open(&server->health, server);
    if (status == KV_OK && config->n_descriptors > 0)
        status = rpc_reflection_open(&server->reflection, server,
            config->descriptors, config->n_descriptors);
    return status;
}

enum kv_status rpc_server_open(struct rpc_server **out,
    const struct rpc_server_config *config, struct kv_error *error)
{
    struct rpc_server *server = kv_calloc(1, sizeof *server);
    enum kv_status status;

    if (server == NULL)
        return kv_error_set(error, KV_NO_MEMORY, "server: out of memory");
    server->config = *config;
    kv_list_init(&server->classes);
    kv_list_init(&server->calls);
    server->shut_down_tag.run = on_core_shut_down;
    if (rpc_connections_init(&server->connections, config->max_connections) !=
        KV_OK) {
        kv_free(server);
        return kv_error_set(error, KV_NO_MEMORY, "server: out of memory");
    }
    server->core = create_core(config);
    grpc_server_register_completion_queue(
        server->core, rpc_loop_queue(config->loop), NULL);
    server->credentials = grpc_insecure_server_credentials_create();
    status = add_own_services(server);
    if (status != KV_OK) {
        rpc_server_close(server);
        return kv_error_set(error, status, "server: %s",
            status == KV_INVALID ? "the descriptors are not a FileDescriptorSet"
                                 : kv_status_text(status));
    }
    *out = server;
    return KV_OK;
}

enum kv_status rpc_server_listen(
    struct rpc_server *server, const char *address, struct kv_error *error)
{
    struct rpc_listener **listeners = kv_realloc(server->listeners,
        (server->n_listeners + 1) * sizeof(struct rpc_listener *));
    enum kv_status status;

    assert(!server->started);
    if (listeners == NULL)
        return kv_error_set(
            error, KV_NO_MEMORY, "%.200s: out of memory", address);
    server->listeners = listeners;
    status = rpc_listener_open(&listeners[server->n_listeners], address, error);
    if (status == KV_OK)
        server->n_listeners++;
    return status;
}

const char *rpc_server_address(const struct rpc_server *server, size_t nth)
{
    if (nth >= server->n_listeners)
        return NULL;
    return rpc_listener_address(server->listeners[nth]);
}

/* ---- serving */

static void refuse_connection(const struct rpc_server *server, int fd)
{
    uint64_t n_refused = server->connections.refused_total;

    close(fd);
    if (kv_log_is_due(n_refused))
        kv_log(KV_LOG_WARN, "kvpool::rpc", "too many connections",
            KV_LOG_UINT("max_connections", server->config.max_connections),
            KV_LOG_UINT("refused", n_refused));
}

static void on_accept(void *ctx, int fd)
{
    struct rpc_server *server = ctx;

    if (!rpc_connections_add(&server->connections, fd, kv_clock_mono_ns())) {
        refuse_connection(server, fd);
        return;
    }
    server->connections_total++;
    grpc_server_add_channel_from_fd(server->core, fd, server->credentials);
}

enum kv_status rpc_server_start(
    struct rpc_server *server, struct kv_error *error)
{
    uv_loop_t *uv = rpc_loop_uv(server->config.loop);
    enum kv_status status;

    for (size_t i = 0; i < server->n_listeners; i++) {
        status = rpc_listener_start(
            server->listeners[i], uv, on_accept, server, error);
        if (status != KV_OK)
            return status;
    }
    server->started = true;
    grpc_server_start(server->core);
    KV_LIST_EACH (node, &server->classes)
        call_class_top_up(KV_LIST_ENTRY(node, struct call_class, link));
    rpc_loop_touched(server->config.loop);
    return KV_OK;
}

static int64_t drain_left_ns(const struct rpc_server *server)
{
    int64_t left_ns = server->drain_deadline_ns - kv_clock_mono_ns();

    return left_ns > 0 ? left_ns : 0;
}

bool server_admits(struct rpc_server *server, const struct call_class *class,
    struct rpc_error *error)
{
    uint32_t limit = server->config.max_calls;

    if (class->exempt)
        return true;
    if (server->draining) {
        rpc_error_init(
            error, RPC_UNAVAILABLE, "DRAINING", "the server is stopping");
        rpc_error_add_metadata(
            error, "limit_ns", "%lld", (long long)drain_left_ns(server));
        return false;
    }
    if (server->n_admitted >= limit) {
        rpc_error_init(error, RPC_RESOURCE_EXHAUSTED, "TOO_MANY_CALLS",
            "%u calls at once are allowed, and as many are under way", limit);
        rpc_error_add_metadata(error, "limit", "%u", limit);
        return false;
    }
    return true;
}

void rpc_server_set_serving(
    struct rpc_server *server, const char *service, bool serving)
{
    rpc_health_set(server->health, service, serving);
}

struct rpc_server_counts rpc_server_counts(const struct rpc_server *server)
{
    struct rpc_server_counts counts = {
        .connections_total = server->connections_total,
        .calls_total = server->calls_total,
        .calls = server->n_admitted,
        .accept_failures_total = server->closed_failures_total,
        .refused_total = server->connections.refused_total,
    };

    for (size_t i = 0; i < server->n_listeners; i++)
        counts.accept_failures_total +=
            rpc_listener_failures_total(server->listeners[i]);
    return counts;
}

/* ---- draining */

static void close_listeners(struct rpc_server *server)
{
    for (size_t i = 0; i < server->n_listeners; i++) {
        server->closed_failures_total +=
            rpc_listener_failures_total(server->listeners[i]);
        rpc_listener_close(server->listeners[i]);
    }
    server->n_listeners = 0;
}

static void on_timer_closed(uv_handle_t *timer)
{
    struct rpc_server *server = timer->data;

    server->drained(server->drained_ctx);
}

static void shut_core_down(struct rpc_server *server)
{
    server->shutting_down = true;
    uv_timer_stop(&server->timer);
    grpc_server_shutdown_and_notify(server->core,
        rpc_loop_queue(server->config.loop), &server->shut_down_tag);
    grpc_server_cancel_all_calls(server->core);
    rpc_loop_touched(server->config.loop);
}

static void on_parting(uv_timer_t *timer)
{
    struct rpc_server *server = timer->data;

    if (kv_clock_mono_ns() >= server->parting_deadline_ns ||
        !rpc_connections_any(&server->connections))
        shut_core_down(server);
}

static void part(struct rpc_server *server)
{
    server->parting = true;
    server->parting_deadline_ns =
        kv_clock_mono_ns() + CUT_OFF_MS * KV_NS_PER_MS;
    rpc_connections_end(&server->connections);
    uv_timer_start(&server->timer, on_parting, 0, PARTING_TICK_MS);
    rpc_loop_touched(server->config.loop);
}

static void settle(struct rpc_server *server)
{
    if (!server->draining || !kv_list_empty(&server->calls))
        return;
    if (!server->parting)
        part(server);
    if (!server->shut_down || server->n_armed > 0 || server->closing_timer)
        return;
    server->closing_timer = true;
    uv_close((uv_handle_t *)&server->timer, on_timer_closed);
    rpc_loop_touched(server->config.loop);
}

void server_on_call_gone(struct rpc_server *server)
{
    settle(server);
}

static void on_core_shut_down(struct rpc_tag *tag, bool ok)
{
    struct rpc_server *server =
        KV_LIST_ENTRY(tag, struct rpc_server, shut_down_tag);

    (void)ok;
    server->shut_down = true;
    settle(server);
}

static void on_cut_off(uv_timer_t *timer)
{
    part(timer->data);
}

static void on_limit(uv_timer_t *timer)
{
    struct rpc_server *server = timer->data;

    uv_timer_start(&server->timer, on_cut_off, CUT_OFF_MS, 0);
    KV_LIST_EACH (link, &server->calls)
        call_cut_off(call_of_link(link));
    rpc_loop_touched(server->config.loop);
}

static void begin_drain(
    struct rpc_server *server, void (*drained)(void *ctx), void *ctx)
{
    server->draining = true;
    server->drain_deadline_ns = INT64_MAX;
    server->drained = drained;
    server->drained_ctx = ctx;
    uv_timer_init(rpc_loop_uv(server->config.loop), &server->timer);
    server->timer.data = server;
    close_listeners(server);
    rpc_health_end(server->health);
    if (server->reflection != NULL)
        rpc_reflection_end(server->reflection);
}

void rpc_server_drain(struct rpc_server *server, int64_t limit_ns,
    void (*drained)(void *ctx), void *ctx)
{
    int64_t now_ns = kv_clock_mono_ns();
    int64_t deadline_ns =
        limit_ns > INT64_MAX - now_ns ? INT64_MAX : now_ns + limit_ns;

    assert(server->started);
    if (!server->draining)
        begin_drain(server, drained, ctx);
    if (!server->parting && deadline_ns < server->drain_deadline_ns) {
        server->drain_deadline_ns = deadline_ns;
        uv_update_time(rpc_loop_uv(server->config.loop));
        uv_timer_start(&server->timer, on_limit,
            (uint64_t)(drain_left_ns(server) / KV_NS_PER_MS), 0);
    }
    rpc_loop_touched(server->config.loop);
    settle(server);
}

void rpc_server_close(struct rpc_server *server)
{
    if (server == NULL)
        return;
    assert(!server->started || server->closing_timer);
    close_listeners(server);
    kv_free(server->listeners);
    KV_LIST_EACH (node, &server->classes)
        close_class(KV_LIST_ENTRY(node, struct call_class, link));
    rpc_reflection_close(server->reflection);
    rpc_health_close(server->health);
    grpc_server_credentials_release(server->credentials);
    grpc_server_destroy(server->core);
    rpc_connections_fini(&server->connections);
    rpc_loop_touched(server->config.loop);
    kv_free(server);
}
