#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/clock.h"
#include "base/heap.h"
#include "tests/rpc/rig.h"
#include "tests/support/check_main.h"

static struct rig rig;
static struct rpc_client *client;
static struct rpc_error error;
static unsigned char *answer;
static size_t n_answer;

static void set_up(void)
{
    rig_open(&rig, (struct rpc_server_config){.max_calls = 4}, "127.0.0.1:0");
    rig_start(&rig);
    client = rig_client(&rig);
}

static void tear_down(void)
{
    kv_free(answer);
    rpc_client_close(client);
    rig_close(&rig);
}

static enum rpc_code call(const char *method, const void *request, size_t n)
{
    kv_free(answer);
    answer = NULL;
    return rig_call(client, method, request, n, &answer, &n_answer, &error);
}

START_TEST(a_unary_call_returns_the_answer)
{
    char large[60000];

    for (size_t i = 0; i < sizeof large; i++)
        large[i] = (char)(i * 7);
    for (int i = 0; i < 300; i++) {
        ck_assert_int_eq(call("Echo", "hello", 5), RPC_OK);
        ck_assert_mem_eq(answer, "hello", 5);
    }
    ck_assert_int_eq(call("Echo", large, sizeof large), RPC_OK);
    ck_assert_uint_eq(n_answer, sizeof large);
    ck_assert_mem_eq(answer, large, sizeof large);
}
END_TEST

START_TEST(an_empty_request_is_zero_bytes)
{
    ck_assert_int_eq(call("Echo", NULL, 0), RPC_OK);
    ck_assert_uint_eq(n_answer, 0);
}
END_TEST

START_TEST(an_answer_may_come_later_from_a_timer)
{
    ck_assert_int_eq(call("Later", NULL, 0), RPC_OK);
    ck_assert_mem_eq(answer, "later", 5);
}
END_TEST

START_TEST(an_error_arrives_with_its_details)
{
    ck_assert_int_eq(call("Fail", "abc", 3), RPC_FAILED_PRECONDITION);
    ck_assert_str_eq(error.reason, "RECEIPTS_OFF");
    ck_assert_str_eq(error.message, "100 % caf\303\251,\nsecond line, 3 bytes");
    ck_assert_uint_eq(error.n_metadata, 1);
    ck_assert_str_eq(error.metadata[0].key, "option");
    ck_assert_str_eq(error.metadata[0].value, "enable_receipts");
}
END_TEST

START_TEST(an_unknown_method_is_unimplemented_by_name)
{
    ck_assert_int_eq(call("Nonsense", "abc", 3), RPC_UNIMPLEMENTED);
    ck_assert_str_eq(error.reason, "RPC_NOT_SUPPORTED");
    ck_assert_str_eq(error.metadata[0].key, "rpc");
    ck_assert_str_eq(error.metadata[0].value, "/test.v1.Test/Nonsense");
    ck_assert_int_eq(call("Echo", "x", 1), RPC_OK);
}
END_TEST

START_TEST(an_oversize_request_never_reaches_its_handler)
{
    char *large = kv_calloc(1, 65537);

    ck_assert_int_eq(call("Echo", large, 65536), RPC_OK);
    ck_assert_int_eq(call("Echo", large, 65537), RPC_RESOURCE_EXHAUSTED);
    ck_assert_int_eq(call("Wait", large, 65537), RPC_RESOURCE_EXHAUSTED);
    ck_assert_int_eq(rig.n_cancelled, 0);
    ck_assert_int_eq(call("Echo", "x", 1), RPC_OK);
    kv_free(large);
}
END_TEST

START_TEST(a_deadline_reaches_on_cancel)
{
    struct rpc_client_options options = {.timeout_ns = 200 * KV_NS_PER_MS};

    ck_assert_int_eq(call("Echo", "x", 1), RPC_OK);
    /* Where the machine pauses, the deadline may be over before the call has
     * come: then once more, with more time. */
    while (rig.n_waits == 0) {
        kv_free(answer);
        answer = NULL;
        ck_assert_int_eq(rpc_client_call(client, "/test.v1.Test/Wait", NULL, 0,
                             &options, &answer, &n_answer, &error),
            RPC_DEADLINE_EXCEEDED);
        ck_assert_int_eq(call("Echo", "x", 1), RPC_OK);
        options.timeout_ns *= 4;
    }
    await(&rig.n_cancelled, 1);
    ck_assert_int_eq(call("Echo", "x", 1), RPC_OK);
    ck_assert_int_eq(rig.n_cancelled, 1);
}
END_TEST

START_TEST(a_handler_sees_deadline_trace_and_peer)
{
    struct rpc_client_options options = {.timeout_ns = 50 * KV_NS_PER_S,
        .traceparent =
            "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"};

    ck_assert_int_eq(rpc_client_call(client, "/test.v1.Test/About", NULL, 0,
                         &options, &answer, &n_answer, &error),
        RPC_OK);
    ck_assert_int_eq(
        memcmp(answer, "0af7651916cd43dd8448eb211c80319c soon 127.0.0.1:", 48),
        0);
    ck_assert_int_eq(call("About", NULL, 0), RPC_OK);
    ck_assert_int_eq(memcmp(answer, "- none 127.0.0.1:", 17), 0);
}
END_TEST

START_TEST(a_malformed_traceparent_is_none)
{
    static const char *const malformed[] = {
        "00-00000000000000000000000000000000-b7ad6b7169203331-01",
        "00-0af7651916cd43dd8448eb211c80319c-0000000000000000-01",
        "00-0AF7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01",
        "ff-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01",
        "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01-x",
        "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-0",
        "00-0af7651916cd43dd8448eb211c80319c b7ad6b7169203331-01",
        "00-0af7651916cd43dd8448eb211c80319g-b7ad6b7169203331-01",
        "",
    };

    for (size_t i = 0; i < sizeof malformed / sizeof *malformed; i++) {
        const struct rpc_client_options options = {.traceparent = malformed[i]};

        kv_free(answer);
        ck_assert_int_eq(rpc_client_call(client, "/test.v1.Test/About", NULL, 0,
                             &options, &answer, &n_answer, &error),
            RPC_OK);
        ck_assert_int_eq(answer[0], '-');
    }
}
END_TEST

static int count_messages(struct rpc_client_stream *stream)
{
    enum kv_status status;
    char expected[16];
    int n = 0;

    for (;;) {
        status = rpc_client_stream_next(
            stream, INT64_MAX, &answer, &n_answer, &error);
        if (status == KV_CLOSED)
            return n;
        ck_assert_int_eq(status, KV_OK);
        snprintf(expected, sizeof expected, "%d", n++);
        ck_assert_uint_eq(n_answer, strlen(expected));
        ck_assert_mem_eq(answer, expected, n_answer);
        kv_free(answer);
        answer = NULL;
    }
}

START_TEST(a_stream_delivers_all_messages_in_order)
{
    struct rpc_client_stream *stream = rig_stream(client, "Count", "3000", 4);

    ck_assert_int_eq(count_messages(stream), 3000);
    ck_assert_int_eq(error.code, RPC_OK);
    rpc_client_stream_close(stream);
    await(&rig.n_done, 1);
    ck_assert_int_eq(rig.n_cancelled, 0);
}
END_TEST

START_TEST(two_streams_and_calls_share_a_client)
{
    struct rpc_client_stream *first = rig_stream(client, "Count", "200", 3);
    struct rpc_client_stream *second = rig_stream(client, "Count", "300", 3);

    ck_assert_int_eq(call("Echo", "x", 1), RPC_OK);
    kv_free(answer);
    ck_assert_int_eq(count_messages(second), 300);
    ck_assert_int_eq(count_messages(first), 200);
    rpc_client_stream_close(first);
    rpc_client_stream_close(second);
}
END_TEST

START_TEST(a_stream_hears_that_its_client_left)
{
    struct rpc_client_stream *stream = rig_stream(client, "Stay", NULL, 0);

    rig_await_started(&rig, stream, 1);
    rpc_client_stream_close(stream);
    await(&rig.n_done, 1);
    ck_assert_int_eq(rig.n_cancelled, 1);
}
END_TEST

/* What the windows take is core's; of ours there is one message in flight. */
static void await_stall(void)
{
    int before;

    do {
        before = rig.n_sent;
        ck_assert_int_eq(call("Later", NULL, 0), RPC_OK);
        ck_assert_int_eq(call("Later", NULL, 0), RPC_OK);
    } while (before == 0 || before != rig.n_sent);
}

START_TEST(a_reader_that_reads_nothing_stops_its_stream_and_no_other)
{
    struct rpc_client_stream *stream = rig_stream(client, "Flood", NULL, 0);

    await_stall();
    ck_assert_int_lt(rig.n_sent, 32 * 1024 * 1024 / FLOOD_BYTES);
    ck_assert_int_eq(call("Echo", "x", 1), RPC_OK);
    rpc_client_stream_close(stream);
    await(&rig.n_done, 1);
    await(&rig.n_released, rig.n_sent);
    ck_assert_int_eq(rig.n_released, rig.n_sent);
}
END_TEST

static void abort_flood(struct rig *of)
{
    struct rpc_error gone;

    if (of->n_done > 0)
        return; /* it got through after all */
    rpc_error_init(
        &gone, RPC_RESOURCE_EXHAUSTED, "SUBSCRIBER_STALLED", "took nothing");
    rpc_call_abort(of->flood, &gone);
}

static void finish_flood(struct rig *of)
{
    rpc_stream_finish(of->flood);
}

START_TEST(abort_ends_a_stream_whose_reader_stalls)
{
    struct rpc_client_stream *stream = rig_stream(client, "Flood", NULL, 0);

    await_stall();
    rig_do(&rig, abort_flood);
    await(&rig.n_done, 1);
    ck_assert_int_eq(rig.n_cancelled, 0);
    rpc_client_stream_close(stream);
    await(&rig.n_released, rig.n_sent);
}
END_TEST

START_TEST(abort_may_follow_a_finish_that_does_not_get_through)
{
    struct rpc_client_stream *stream = rig_stream(client, "Flood", NULL, 0);

    await_stall();
    rig_do(&rig, finish_flood);
    rig_do(&rig, abort_flood);
    await(&rig.n_done, 1);
    rpc_client_stream_close(stream);
    await(&rig.n_released, rig.n_sent);
}
END_TEST

START_TEST(finish_comes_after_what_is_in_flight)
{
    struct rpc_client_stream *stream = rig_stream(client, "Flood", NULL, 0);
    enum kv_status status;
    int n = 0;

    await_stall();
    rig_do(&rig, finish_flood);
    kv_free(answer);
    answer = NULL;
    while ((status = rpc_client_stream_next(
                stream, INT64_MAX, &answer, &n_answer, &error)) == KV_OK) {
        ck_assert_uint_eq(n_answer, FLOOD_BYTES);
        kv_free(answer);
        answer = NULL;
        n++;
    }
    ck_assert_int_eq(status, KV_CLOSED);
    ck_assert_int_eq(error.code, RPC_OK);
    ck_assert_int_eq(n, rig.n_sent);
    rpc_client_stream_close(stream);
    await(&rig.n_done, 1);
}
END_TEST

START_TEST(calls_beyond_the_limit_are_refused_with_it)
{
    struct rpc_client_stream *streams[4];

    for (int i = 0; i < 4; i++) {
        streams[i] = rig_stream(client, "Stay", NULL, 0);
        rig_await_started(&rig, streams[i], i + 1);
    }
    ck_assert_int_eq(call("Echo", "x", 1), RPC_RESOURCE_EXHAUSTED);
    ck_assert_str_eq(error.reason, "TOO_MANY_CALLS");
    ck_assert_str_eq(error.metadata[0].key, "limit");
    ck_assert_str_eq(error.metadata[0].value, "4");
    for (int i = 0; i < 4; i++)
        rpc_client_stream_close(streams[i]);
    await(&rig.n_done, 4);
    ck_assert_int_eq(call("Echo", "x", 1), RPC_OK);
}
END_TEST

static void *interrupt_soon(void *arg)
{
    struct rpc_client *other = arg;

    rpc_client_interrupt(other);
    rpc_client_interrupt(other);
    return NULL;
}

START_TEST(an_interrupt_ends_the_wait_and_not_the_stream)
{
    struct rpc_client_stream *stream = rig_stream(client, "Stay", NULL, 0);
    struct rpc_client_stream *counted;
    pthread_t thread;

    pthread_create(&thread, NULL, interrupt_soon, client);
    ck_assert_int_eq(
        rpc_client_stream_next(stream, INT64_MAX, &answer, &n_answer, &error),
        KV_BUSY);
    pthread_join(thread, NULL);
    rpc_client_stream_close(stream);
    counted = rig_stream(client, "Count", "2", 1);
    while (rpc_client_stream_next(
               counted, INT64_MAX, &answer, &n_answer, &error) == KV_BUSY)
        ;
    rpc_client_stream_close(counted);
}
END_TEST

START_TEST(nobody_listening_is_unavailable)
{
    struct kv_error unused;
    struct rpc_client *lonely;

    ck_assert_int_eq(rpc_client_open(&lonely, "127.0.0.1:1", &unused), KV_OK);
    ck_assert_int_eq(
        rig_call(lonely, "Echo", "x", 1, &answer, &n_answer, &error),
        RPC_UNAVAILABLE);
    rpc_client_close(lonely);
    ck_assert_int_eq(rpc_client_open(&lonely, "no port", &unused), KV_INVALID);
}
END_TEST

int main(void)
{
    const TTest *tests[] = {
        a_unary_call_returns_the_answer,
        an_empty_request_is_zero_bytes,
        an_answer_may_come_later_from_a_timer,
        an_error_arrives_with_its_details,
        an_unknown_method_is_unimplemented_by_name,
        an_oversize_request_never_reaches_its_handler,
        a_deadline_reaches_on_cancel,
        a_handler_sees_deadline_trace_and_peer,
        a_malformed_traceparent_is_none,
        a_stream_delivers_all_messages_in_order,
        two_streams_and_calls_share_a_client,
        a_stream_hears_that_its_client_left,
        a_reader_that_reads_nothing_stops_its_stream_and_no_other,
        abort_ends_a_stream_whose_reader_stalls,
        abort_may_follow_a_finish_that_does_not_get_through,
        finish_comes_after_what_is_in_flight,
        calls_beyond_the_limit_are_refused_with_it,
        an_interrupt_ends_the_wait_and_not_the_stream,
        nobody_listening_is_unavailable,
    };

    return CHECK_RUN("rpc calls", set_up, tear_down, tests);
}
