#include "rpc/health.h"

#include <assert.h>
#include <string.h>

#include <grpc/health/v1/health.pb-c.h>

#include "base/heap.h"
#include "base/list.h"
#include "base/log.h"
#include "rpc/call.h"
#include "rpc/proto.h"

#define SERVING GRPC__HEALTH__V1__HEALTH_CHECK_RESPONSE__SERVING_STATUS__SERVING
#define NOT_SERVING                                                            \
    GRPC__HEALTH__V1__HEALTH_CHECK_RESPONSE__SERVING_STATUS__NOT_SERVING
#define SERVICE_UNKNOWN                                                        \
    GRPC__HEALTH__V1__HEALTH_CHECK_RESPONSE__SERVING_STATUS__SERVICE_UNKNOWN

typedef Grpc__Health__V1__HealthCheckResponse__ServingStatus serving_status;

struct service {
    struct kv_list link;
    char *name;
    bool serving;
};

struct watcher {
    struct kv_list link;
    struct rpc_health *health;
    struct rpc_call *call;
    char *service;
    bool told;
    serving_status last; /* that it was told */
};

struct rpc_health {
    struct kv_list services, watchers;
    bool ending;
};

static struct service *find(const struct rpc_health *health, const char *name)
{
    struct service *service;

    KV_LIST_EACH (node, &health->services) {
        service = KV_LIST_ENTRY(node, struct service, link);
        if (strcmp(service->name, name) == 0)
            return service;
    }
    return NULL;
}

static serving_status status_of(
    const struct rpc_health *health, const char *name)
{
    const struct service *service = find(health, name);

    if (service == NULL)
        return SERVICE_UNKNOWN;
    return service->serving && !health->ending ? SERVING : NOT_SERVING;
}

/* ---- the two methods */

static Grpc__Health__V1__HealthCheckRequest *unpack(
    struct rpc_call *call, const unsigned char *request, size_t n)
{
    Grpc__Health__V1__HealthCheckRequest *message =
        grpc__health__v1__health_check_request__unpack(
            RPC_PROTO_ALLOCATOR, n, request);
    struct rpc_error error;

    if (message != NULL)
        return message;
    rpc_error_init(&error, RPC_INVALID_ARGUMENT, "INVALID_FIELD",
        "the request is not a HealthCheckRequest");
    rpc_call_fail(call, &error);
    return NULL;
}

/* A field and a varint below 128 each: at most 2 bytes. */
static struct rpc_bytes pack(uint8_t out[8], serving_status status)
{
    Grpc__Health__V1__HealthCheckResponse response =
        GRPC__HEALTH__V1__HEALTH_CHECK_RESPONSE__INIT;

    response.status = status;
    return (struct rpc_bytes){.data = out,
        .n = grpc__health__v1__health_check_response__pack(&response, out)};
}

static void on_check(void *ctx, struct rpc_call *call,
    const unsigned char *request, size_t n_request)
{
    const struct rpc_health *health = ctx;
    Grpc__Health__V1__HealthCheckRequest *message =
        unpack(call, request, n_request);
    struct rpc_bytes answer;
    struct rpc_error error;
    serving_status status;
    uint8_t bytes[8];

    if (message == NULL)
        return;
    status = status_of(health, message->service);
    if (status == SERVICE_UNKNOWN) {
        rpc_error_init(&error, RPC_NOT_FOUND, "",
            "no service \"%s\" is known here", message->service);
        rpc_call_fail(call, &error);
    } else {
        answer = pack(bytes, status);
        rpc_call_reply(call, &answer);
    }
    grpc__health__v1__health_check_request__free_unpacked(
        message, RPC_PROTO_ALLOCATOR);
}

static void tell(struct watcher *watcher)
{
    struct rpc_health *health = watcher->health;
    serving_status status = status_of(health, watcher->service);
    struct rpc_bytes message;
    struct rpc_error error;
    uint8_t bytes[8];

    if (!rpc_stream_ready(watcher->call))
        return;
    if (!watcher->told || status != watcher->last) {
        watcher->told = true;
        watcher->last = status;
        message = pack(bytes, status);
        rpc_stream_send(watcher->call, &message);
    } else if (health->ending) {
        rpc_error_init(
            &error, RPC_UNAVAILABLE, "DRAINING", "the server is stopping");
        rpc_call_fail(watcher->call, &error);
    }
}

static void on_ready(struct rpc_call *call)
{
    tell(rpc_call_ctx(call));
}

static void on_cancel(struct rpc_call *call)
{
    rpc_stream_finish(call);
}

static void on_done(struct rpc_call *call)
{
    struct watcher *watcher = rpc_call_ctx(call);

    kv_list_remove(&watcher->link);
    kv_free(watcher->service);
    kv_free(watcher);
}

static const struct rpc_stream_ops watch_ops = {on_ready, on_cancel, on_done};

static struct watcher *open_watcher(
    struct rpc_health *health, struct rpc_call *call, const char *service)
{
    struct watcher *watcher = kv_calloc(1, sizeof *watcher);

    if (watcher == NULL)
        return NULL;
    watcher->service = kv_strdup(service);
    if (watcher->service == NULL) {
        kv_free(watcher);
        return NULL;
    }
    watcher->health = health;
    watcher->call = call;
    kv_list_append(&health->watchers, &watcher->link);
    return watcher;
}

static void on_watch(void *ctx, struct rpc_call *call,
    const unsigned char *request, size_t n_request)
{
    Grpc__Health__V1__HealthCheckRequest *message =
        unpack(call, request, n_request);
    struct watcher *watcher;
    struct rpc_error error;

    if (message == NULL)
        return;
    watcher = open_watcher(ctx, call, message->service);
    grpc__health__v1__health_check_request__free_unpacked(
        message, RPC_PROTO_ALLOCATOR);
    if (watcher == NULL) {
        rpc_error_init(
            &error, RPC_RESOURCE_EXHAUSTED, "", "the server is out of memory");
        rpc_call_fail(call, &error);
        return;
    }
    rpc_call_set_ctx(call, watcher);
    rpc_stream_start(call, &watch_ops);
}

/* ---- life */

static void tell_all(struct rpc_health *health)
{
    KV_LIST_EACH (node, &health->watchers)
        tell(KV_LIST_ENTRY(node, struct watcher, link));
}

static struct service *add_service(struct rpc_health *health, const char *name)
{
    struct service *service = kv_calloc(1, sizeof *service);

    if (service == NULL)
        return NULL;
    service->name = kv_strdup(name);
    if (service->name == NULL) {
        kv_free(service);
        return NULL;
    }
    kv_list_append(&health->services, &service->link);
    return service;
}

void rpc_health_set(struct rpc_health *health, const char *name, bool serving)
{
    struct service *service = find(health, name);

    if (service == NULL)
        service = add_service(health, name);
    if (service == NULL) {
        kv_log(KV_LOG_ERROR, "kvpool::rpc",
            "out of memory: the service stays unknown to health checks",
            KV_LOG_TEXT("service", name));
        return;
    }
    service->serving = serving;
    tell_all(health);
}

void rpc_health_end(struct rpc_health *health)
{
    health->ending = true;
    tell_all(health);
}

enum kv_status rpc_health_open(
    struct rpc_health **out, struct rpc_server *server)
{
    struct rpc_health *health = kv_calloc(1, sizeof *health);
    enum kv_status status;

    if (health == NULL)
        return KV_NO_MEMORY;
    kv_list_init(&health->services);
    kv_list_init(&health->watchers);
    status =
        server_add_class(server, &(struct call_class){.shape = CALL_UNARY,
                                     .path = "/grpc.health.v1.Health/Check",
                                     .handler = on_check,
                                     .ctx = health,
                                     .exempt = true});
    if (status == KV_OK)
        status = server_add_class(
            server, &(struct call_class){.shape = CALL_SERVER_STREAM,
                        .path = "/grpc.health.v1.Health/Watch",
                        .handler = on_watch,
                        .ctx = health});
    if (status != KV_OK) {
        kv_free(health);
        return status;
    }
    *out = health;
    return KV_OK;
}

void rpc_health_close(struct rpc_health *health)
{
    struct service *service;

    if (health == NULL)
        return;
    assert(kv_list_empty(&health->watchers));
    KV_LIST_EACH (node, &health->services) {
        service = KV_LIST_ENTRY(node, struct service, link);
        kv_free(service->name);
        kv_free(service);
    }
    kv_free(health);
}
