#include <string.h>

#include "base/clock.h"
#include "base/heap.h"
#include "grpc/health/v1/health.pb-c.h"
#include "tests/rpc/rig.h"
#include "tests/support/check_main.h"

#define UNKNOWN_SERVICE                                                        \
    GRPC__HEALTH__V1__HEALTH_CHECK_RESPONSE__SERVING_STATUS__SERVICE_UNKNOWN
#define SERVING GRPC__HEALTH__V1__HEALTH_CHECK_RESPONSE__SERVING_STATUS__SERVING
#define NOT_SERVING                                                            \
    GRPC__HEALTH__V1__HEALTH_CHECK_RESPONSE__SERVING_STATUS__NOT_SERVING

static const struct rpc_client_options no_options;

static struct rig rig;
static struct rpc_client *client;
static struct rpc_error error;

static void set_up(void)
{
    rig_open(&rig, (struct rpc_server_config){.max_calls = 1}, "127.0.0.1:0");
    rpc_server_set_serving(rig.server, "", true);
    rpc_server_set_serving(rig.server, "a.B", true);
    rig_start(&rig);
    client = rig_client(&rig);
}

static void tear_down(void)
{
    rpc_client_close(client);
    rig_close(&rig);
}

static int status_in(unsigned char *bytes, size_t n)
{
    Grpc__Health__V1__HealthCheckResponse *response =
        grpc__health__v1__health_check_response__unpack(NULL, n, bytes);
    int status;

    ck_assert_ptr_nonnull(response);
    status = (int)response->status;
    grpc__health__v1__health_check_response__free_unpacked(response, NULL);
    kv_free(bytes);
    return status;
}

static size_t request_for(const char *service, unsigned char out[64])
{
    Grpc__Health__V1__HealthCheckRequest request =
        GRPC__HEALTH__V1__HEALTH_CHECK_REQUEST__INIT;

    request.service = (char *)(uintptr_t)service;
    return grpc__health__v1__health_check_request__pack(&request, out);
}

/* The status, or minus the error's code. */
static int check(const char *service)
{
    unsigned char request[64], *answer;
    size_t n = request_for(service, request), n_answer;
    enum rpc_code code = rpc_client_call(client, "/grpc.health.v1.Health/Check",
        request, n, &no_options, &answer, &n_answer, &error);

    return code == RPC_OK ? status_in(answer, n_answer) : -(int)code;
}

static struct rpc_client_stream *watch(const char *service)
{
    struct rpc_client_stream *stream;
    unsigned char request[64];
    size_t n = request_for(service, request);

    ck_assert_int_eq(
        rpc_client_stream_open(client, "/grpc.health.v1.Health/Watch", request,
            n, &no_options, &stream),
        KV_OK);
    return stream;
}

static int next(struct rpc_client_stream *stream)
{
    unsigned char *bytes;
    size_t n;
    enum kv_status status =
        rpc_client_stream_next(stream, INT64_MAX, &bytes, &n, &error);

    return status == KV_OK ? status_in(bytes, n) : -(int)error.code;
}

static void fail_service(struct rig *of)
{
    rpc_server_set_serving(of->server, "a.B", false);
}

static void serve_again(struct rig *of)
{
    rpc_server_set_serving(of->server, "a.B", true);
    rpc_server_set_serving(of->server, "late.One", true);
}

START_TEST(check_tells_each_service_from_the_others)
{
    ck_assert_int_eq(check(""), SERVING);
    ck_assert_int_eq(check("a.B"), SERVING);
    rig_do(&rig, fail_service);
    ck_assert_int_eq(check("a.B"), NOT_SERVING);
    ck_assert_int_eq(check(""), SERVING);
    ck_assert_int_eq(check("late.One"), -RPC_NOT_FOUND);
    ck_assert_ptr_nonnull(strstr(error.message, "late.One"));
}
END_TEST

START_TEST(a_watcher_hears_the_state_and_then_each_change)
{
    struct rpc_client_stream *stream = watch("a.B");

    ck_assert_int_eq(next(stream), SERVING);
    rig_do(&rig, fail_service);
    ck_assert_int_eq(next(stream), NOT_SERVING);
    rig_do(&rig, fail_service);
    rig_do(&rig, serve_again);
    ck_assert_int_eq(next(stream), SERVING);
    rpc_client_stream_close(stream);
}
END_TEST

START_TEST(a_watcher_of_an_unknown_service_hears_when_it_becomes_known)
{
    struct rpc_client_stream *stream = watch("late.One");

    ck_assert_int_eq(next(stream), UNKNOWN_SERVICE);
    rig_do(&rig, serve_again);
    ck_assert_int_eq(next(stream), SERVING);
    rpc_client_stream_close(stream);
}
END_TEST

START_TEST(check_is_answered_when_no_other_call_is)
{
    struct rpc_client_stream *stream = watch("a.B");
    unsigned char *answer;
    size_t n;

    ck_assert_int_eq(next(stream), SERVING); /* max_calls is 1 */
    ck_assert_int_eq(rig_call(client, "Echo", "x", 1, &answer, &n, &error),
        RPC_RESOURCE_EXHAUSTED);
    ck_assert_int_eq(check(""), SERVING);
    rpc_client_stream_close(stream);
}
END_TEST

START_TEST(a_drain_tells_watchers_and_lets_them_go)
{
    struct rpc_client_stream *stream = watch("a.B");

    ck_assert_int_eq(next(stream), SERVING);
    rig_drain(&rig, 1000 * KV_NS_PER_S);
    ck_assert_int_eq(next(stream), NOT_SERVING);
    ck_assert_int_eq(next(stream), -RPC_UNAVAILABLE);
    ck_assert_str_eq(error.reason, "DRAINING");
    rpc_client_stream_close(stream);
    await(&rig.n_drained, 1);
}
END_TEST

START_TEST(bytes_that_are_no_request_are_an_invalid_argument)
{
    unsigned char *answer;
    size_t n;

    ck_assert_int_eq(rpc_client_call(client, "/grpc.health.v1.Health/Check",
                         "\x0a\x7f", 2, &no_options, &answer, &n, &error),
        RPC_INVALID_ARGUMENT);
}
END_TEST

int main(void)
{
    const TTest *tests[] = {
        check_tells_each_service_from_the_others,
        a_watcher_hears_the_state_and_then_each_change,
        a_watcher_of_an_unknown_service_hears_when_it_becomes_known,
        check_is_answered_when_no_other_call_is,
        a_drain_tells_watchers_and_lets_them_go,
        bytes_that_are_no_request_are_an_invalid_argument,
    };

    return CHECK_RUN("rpc health", set_up, tear_down, tests);
}
