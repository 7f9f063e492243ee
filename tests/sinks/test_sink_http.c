#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/clock.h"
#include "base/log.h"
#include "receipts/json.h"
#include "tests/receipts/events.h"
#include "tests/sinks/http_receiver.h"
#include "tests/sinks/sink_rig.h"
#include "tests/support/check_main.h"
#include "tests/support/faulty_heap.h"

#define POOL_ID "5f0ce100000000000000000000000000"

static struct sink_rig rig;
static struct http_receiver receiver;
static void *settings;

static void set_text(const char *name, const char *value)
{
    sink_rig_set_text(&sink_http_kind, settings, name, value);
}

static void set_uint(const char *name, uint64_t value)
{
    sink_rig_set_uint(&sink_http_kind, settings, name, value);
}

static void set_up(void)
{
    faulty_heap_install();
    kv_log_set_level(KV_LOG_ERROR);
    sink_rig_init(&rig);
    http_receiver_init(&receiver, &rig.loop);
    settings = sink_rig_settings(&sink_http_kind);
    set_text("url", receiver.url);
    set_uint("linger_ms", 0);
    set_uint("retry_least_ms", 1);
    set_uint("retry_most_ms", 4);
    set_uint("batch_receipts", 10);
}

static void tear_down(void)
{
    sink_rig_close_set(&rig);
    http_receiver_fini(&receiver);
    sink_rig_fini(&rig);
    free(settings);
    ck_assert_int_eq(faulty_heap_live(), 0);
}

static struct sink *add_sink(void)
{
    return sink_rig_add(&rig, &sink_http_kind, "web", settings);
}

static const char *id_of(uint64_t sequence)
{
    static char id[80];

    snprintf(id, sizeof id, POOL_ID "/3/%" PRIu64, sequence);
    return id;
}

/* Every receipt arrived, the first times in order, and a second time was the
 * same event (which the receiver checks). Returns how many were duplicates. */
static size_t check_complete(uint64_t n)
{
    uint64_t next = 1;
    json_t *id;
    size_t i;

    ck_assert_uint_eq(json_object_size(receiver.events), n);
    json_array_foreach(receiver.ids, i, id)
    {
        if (strcmp(json_string_value(id), id_of(next)) == 0)
            next++;
    }
    ck_assert_uint_eq(next, n + 1);
    return json_array_size(receiver.ids) - n;
}

static json_t *event_of(uint64_t sequence)
{
    return json_object_get(receiver.events, id_of(sequence));
}

static const char *text_of(const json_t *object, const char *name)
{
    return json_string_value(json_object_get(object, name));
}

/* ---- what is sent */

START_TEST(an_event_says_all_that_cloudevents_asks)
{
    struct sink *sink = add_sink();
    Kvpool__V1__Receipt *receipt;
    struct events events;
    uint64_t scrub_id;
    json_t *event, *data;

    events_init(&events, ledger_observer(rig.ledger));
    sink_rig_issue(&rig, 1);
    scrub_id = events_evict(&events, POOL_REASON_LRU, 2);
    events.observer->scrubbed(events.observer->ctx, scrub_id);
    sink_rig_run_until_acknowledged(&rig, sink, 2);

    ck_assert_uint_eq(check_complete(2), 0);
    event = event_of(1);
    ck_assert_str_eq(text_of(event, "specversion"), "1.0");
    ck_assert_str_eq(text_of(event, "type"), "kvpool.v1.kv_lifecycle");
    ck_assert_str_eq(text_of(event, "source"),
        "urn:uuid:5f0ce100-0000-0000-0000-000000000000");
    ck_assert_str_eq(text_of(event, "time"), "2025-11-21T19:56:40.123456789Z");
    ck_assert_str_eq(text_of(event, "datacontenttype"), "application/json");
    ck_assert_str_eq(text_of(event, "sequence"), "00000000000000000001");
    ck_assert_ptr_null(json_object_get(event, "subject"));
    event = event_of(2);
    data = json_object_get(event, "data");
    ck_assert_str_eq(text_of(event, "type"), "kvpool.v1.kv_eviction");
    ck_assert_str_eq(text_of(event, "subject"), text_of(data, "session_id"));
    ck_assert_int_eq(receipt_from_json(data, &receipt, NULL), KV_OK);
    ck_assert_uint_eq(receipt->sequence, 2);
    kvpool__v1__receipt__free_unpacked(receipt, NULL);
    ck_assert_str_eq(http_receiver_header(&receiver, "Content-Type"),
        "application/cloudevents-batch+json; charset=UTF-8");
    ck_assert_ptr_nonnull(
        strstr(receiver.last.head, "POST /in?a=b HTTP/1.1\r\n"));
}
END_TEST

START_TEST(a_request_names_its_receipts)
{
    struct sink *sink;

    set_uint("linger_ms", 60000);
    sink = add_sink();
    sink_rig_issue(&rig, 25);
    sink_rig_run_until_acknowledged(&rig, sink, 20);
    ck_assert_uint_eq(receiver.n_requests, 2); /* the third lingers */
    ck_assert_str_eq(
        http_receiver_header(&receiver, "Idempotency-Key"), POOL_ID "/3/11-20");
    ck_assert_str_eq(
        http_receiver_header(&receiver, "X-Kvpool-First-Sequence"), "11");
    ck_assert_str_eq(
        http_receiver_header(&receiver, "X-Kvpool-Last-Sequence"), "20");
    ck_assert_ptr_null(http_receiver_header(&receiver, "Authorization"));
    sink_rig_close_set(&rig); /* flushes */
    check_complete(25);
}
END_TEST

START_TEST(the_json_of_a_batch_is_bounded)
{
    struct sink *sink;

    set_uint("batch_receipts", 10000);
    set_uint("batch_bytes", 4096);
    sink = add_sink();
    sink_rig_issue(&rig, 100);
    sink_rig_run_until_acknowledged(&rig, sink, 100);
    check_complete(100);
    ck_assert_uint_le(receiver.last.n_body, 4096);
    ck_assert_uint_gt(receiver.n_requests, 10);
}
END_TEST

START_TEST(a_receipt_larger_than_a_batch_goes_alone)
{
    struct sink *sink;
    struct events events;
    uint64_t scrub_id;

    set_uint("batch_bytes", 1024);
    events_init(&events, ledger_observer(rig.ledger));
    scrub_id = events_evict(&events, POOL_REASON_LRU, 500);
    events.observer->scrubbed(events.observer->ctx, scrub_id);
    sink = add_sink();
    sink_rig_issue(&rig, 1);
    sink_rig_run_until_acknowledged(&rig, sink, 2);
    check_complete(2);
    ck_assert_uint_eq(receiver.n_requests, 2);
}
END_TEST

START_TEST(a_packed_batch_says_so)
{
    struct sink *sink;

    sink_rig_set_bool(&sink_http_kind, settings, "gzip", true);
    sink = add_sink();
    sink_rig_issue(&rig, 100);
    sink_rig_run_until_acknowledged(&rig, sink, 100);
    ck_assert_str_eq(
        http_receiver_header(&receiver, "Content-Encoding"), "gzip");
    check_complete(100);
}
END_TEST

START_TEST(the_token_is_read_anew)
{
    struct sink *sink;

    sink_rig_write(&rig, "token", " first-token \n");
    set_text("token_file", sink_rig_path(&rig, "token"));
    sink = add_sink();
    sink_rig_issue(&rig, 1);
    sink_rig_run_until_acknowledged(&rig, sink, 1);
    ck_assert_str_eq(
        http_receiver_header(&receiver, "Authorization"), "Bearer first-token");
    sink_rig_write(&rig, "token", "second\r\nEvil: header\n");
    sink_rig_issue(&rig, 1);
    sink_rig_run_until_error(&rig, sink, "not a visible ASCII character");
    ck_assert_ptr_null(strstr(sink->last_error, "second"));
    sink_rig_write(&rig, "token", "second");
    sink_rig_run_until_acknowledged(&rig, sink, 2);
    ck_assert_str_eq(
        http_receiver_header(&receiver, "Authorization"), "Bearer second");
}
END_TEST

START_TEST(a_token_in_a_pipe_is_not_waited_for)
{
    ck_assert_int_eq(mkfifo(sink_rig_path(&rig, "token"), 0600), 0);
    set_text("token_file", sink_rig_path(&rig, "token"));
    sink_rig_issue(&rig, 1);
    sink_rig_run_until_error(&rig, add_sink(), "is empty");
    unlink(sink_rig_path(&rig, "token"));
}
END_TEST

START_TEST(the_environment_has_no_say)
{
    struct sink *sink;

    setenv("http_proxy", "http://127.0.0.1:1", 1);
    setenv("all_proxy", "http://127.0.0.1:1", 1);
    sink = add_sink();
    sink_rig_issue(&rig, 1);
    sink_rig_run_until_acknowledged(&rig, sink, 1);
    ck_assert_uint_eq(sink->retries_total, 0);
}
END_TEST

START_TEST(a_proxy_that_is_set_is_used)
{
    struct sink *sink;
    char proxy[64];

    snprintf(proxy, sizeof proxy, "http://127.0.0.1:%d", receiver.port);
    setenv("no_proxy", "*", 1);
    set_text("url", "http://nowhere.invalid/in");
    set_text("proxy", proxy);
    sink = add_sink();
    sink_rig_issue(&rig, 1);
    sink_rig_run_until_acknowledged(&rig, sink, 1);
    ck_assert_ptr_nonnull(
        strstr(receiver.last.head, "POST http://nowhere.invalid/in "));
}
END_TEST

/* ---- targets that fail */

/* The receiver fails like this until the sink says `words`, then recovers. */
static struct sink *recover_from(
    enum receiver_mood mood, const char *answer, const char *words)
{
    struct sink *sink;

    receiver.mood = mood;
    receiver.answer = answer;
    sink = add_sink();
    sink_rig_issue(&rig, 30);
    sink_rig_run_until_error(&rig, sink, words);
    ck_assert_uint_eq(sink->acknowledged_sequence, 0);
    ck_assert_int_eq(sink->state, SINK_RETRYING);
    receiver.mood = RECEIVER_ACCEPTS;
    sink_rig_run_until_acknowledged(&rig, sink, 30);
    ck_assert_int_eq(sink->state, SINK_RUNNING);
    ck_assert_uint_eq(sink->lost_total, 0);
    ck_assert_uint_eq(sink->delivered_total, 30);
    return sink;
}

START_TEST(an_error_of_the_server_is_tried_again)
{
    struct sink *sink = recover_from(RECEIVER_ANSWERS,
        "HTTP/1.1 500 Oops\r\nContent-Length: 10\r\n\r\nno\r\n\x01 disk",
        "answered 500: no    disk");

    ck_assert_uint_eq(check_complete(30), 0);
    ck_assert_uint_ge(sink->retries_total, 1);
}
END_TEST

START_TEST(a_refusal_is_told_and_tried_for_ever)
{
    recover_from(RECEIVER_ANSWERS,
        "HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\n\r\n", "answered 404");
    ck_assert_uint_eq(check_complete(30), 0);
}
END_TEST

START_TEST(a_redirect_is_not_followed)
{
    char answer[256];

    snprintf(answer, sizeof answer,
        "HTTP/1.1 301 Moved\r\nLocation: http://127.0.0.1:%d/elsewhere\r\n"
        "Content-Length: 0\r\n\r\n",
        receiver.port);
    recover_from(
        RECEIVER_ANSWERS, answer, "answered 301 (redirects are not followed)");
    ck_assert_uint_eq(check_complete(30), 0);
}
END_TEST

START_TEST(a_reset_connection_is_tried_again)
{
    recover_from(RECEIVER_RESETS, NULL, "reset");
    check_complete(30);
}
END_TEST

START_TEST(a_stalled_answer_ends_by_the_timeout)
{
    set_uint("timeout_ms", 100);
    recover_from(RECEIVER_STALLS, NULL, "timed out");
    check_complete(30); /* a machine that pauses makes duplicates */
}
END_TEST

START_TEST(a_lost_acknowledgement_makes_duplicates_of_one_key)
{
    recover_from(RECEIVER_FORGETS, NULL, "reply");
    ck_assert_uint_ge(check_complete(30), 10); /* a batch, at least */
}
END_TEST

START_TEST(a_slow_answer_is_an_answer)
{
    struct sink *sink;

    receiver.mood = RECEIVER_DRIPS;
    sink = add_sink();
    sink_rig_issue(&rig, 30);
    sink_rig_run_until_acknowledged(&rig, sink, 30);
    ck_assert_uint_eq(check_complete(30), 0);
    ck_assert_uint_eq(sink->retries_total, 0);
}
END_TEST

START_TEST(an_endless_answer_is_not_read_to_its_end)
{
    struct sink *sink;

    receiver.mood = RECEIVER_FLOODS;
    sink = add_sink();
    sink_rig_issue(&rig, 30);
    sink_rig_run_until_acknowledged(&rig, sink, 30);
    ck_assert_uint_eq(check_complete(30), 0);
}
END_TEST

START_TEST(a_target_that_is_down_gets_all_when_it_is_up)
{
    struct sink *sink;

    http_receiver_stop(&receiver);
    sink = add_sink();
    sink_rig_issue(&rig, 3000); /* far more than the sink may hold */
    sink_rig_run_until_error(&rig, sink, "connect");
    ck_assert_uint_le(sink->cursor.sequence, 20);
    http_receiver_start_again(&receiver);
    sink_rig_run_until_acknowledged(&rig, sink, 3000);
    ck_assert_uint_eq(check_complete(3000), 0);
}
END_TEST

static bool has_two_requests(void *ctx)
{
    (void)ctx;
    return receiver.n_requests >= 2;
}

START_TEST(retry_after_is_honoured_up_to_a_limit)
{
    int64_t begin_ns;

    set_uint("retry_after_most_ms", 300);
    receiver.mood = RECEIVER_ANSWERS;
    receiver.answer = "HTTP/1.1 503 Busy\r\nRetry-After: 86400\r\n"
                      "Content-Length: 0\r\n\r\n";
    sink_rig_issue(&rig, 1);
    begin_ns = kv_clock_mono_ns();
    add_sink();
    sink_rig_run_until(&rig, has_two_requests, NULL);
    ck_assert_int_ge(kv_clock_mono_ns() - begin_ns, 290 * KV_NS_PER_MS);
    receiver.mood = RECEIVER_ACCEPTS;
}
END_TEST

START_TEST(a_host_without_a_name_is_a_failure_of_its_sink_only)
{
    struct sink *dead, *well;

    set_text("url", "http://nowhere.invalid/");
    set_uint("close_ms", 0);
    dead = add_sink();
    set_text("url", receiver.url);
    well = sink_rig_add(&rig, &sink_http_kind, "well", settings);
    sink_rig_issue(&rig, 500);
    sink_rig_run_until_acknowledged(&rig, well, 500);
    /* "Could not resolve host", or "Resolving timed out". */
    sink_rig_run_until_error(&rig, dead, "esolv");
    check_complete(500);
}
END_TEST

/* ---- the end */

START_TEST(closing_does_not_wait_for_a_dead_target)
{
    receiver.mood = RECEIVER_STALLS;
    set_uint("timeout_ms", 600000); /* longer than the rig is patient */
    set_uint("close_ms", 100);
    add_sink();
    sink_rig_issue(&rig, 30);
    while (receiver.n_requests == 0)
        uv_run(&rig.loop, UV_RUN_ONCE);
    sink_rig_close_set(&rig);
}
END_TEST

START_TEST(closing_at_once_gives_everything_back)
{
    receiver.mood = RECEIVER_STALLS;
    set_uint("close_ms", 0);
    add_sink();
    sink_rig_issue(&rig, 30);
    sink_rig_close_set(&rig); /* the worker has just begun */
}
END_TEST

START_TEST(closing_delivers_what_was_taken)
{
    set_uint("linger_ms", 60000);
    add_sink();
    sink_rig_issue(&rig, 7);
    sink_rig_run_for(&rig, 20);
    ck_assert_uint_eq(receiver.n_requests, 0);
    sink_rig_close_set(&rig);
    ck_assert_uint_eq(check_complete(7), 0);
}
END_TEST

/* ---- memory, settings */

START_TEST(opening_gives_everything_back_when_memory_runs_out)
{
    enum kv_status status = KV_NO_MEMORY;
    int nth = 0, before = faulty_heap_live();
    struct kv_error error;
    struct sink *sink;

    while (status == KV_NO_MEMORY) {
        faulty_heap_fail_at(nth++);
        status = sink_http_kind.open(&sink, "web", settings, &rig.loop, &error);
        faulty_heap_fail_at(-1);
        if (status == KV_NO_MEMORY)
            ck_assert_int_eq(faulty_heap_live(), before);
    }
    ck_assert_int_eq(status, KV_OK);
    ck_assert_int_ge(nth, 5);
    ck_assert_int_eq(sink_set_add(rig.set, sink, &error), KV_OK);
}
END_TEST

/* Whatever fails, everything arrives once there is memory again. */
START_TEST(no_lack_of_memory_loses_a_receipt)
{
    struct sink *sink;
    uint64_t n = 0;

    set_uint("timeout_ms", 200); /* for sockets that cannot be watched */
    sink = add_sink();
    for (int nth = 0; nth < 60; nth++) {
        sink_rig_issue(&rig, 3);
        n += 3;
        faulty_heap_fail_at(nth);
        for (int i = 0; i < 5; i++)
            uv_run(&rig.loop, UV_RUN_NOWAIT);
        usleep(1000);
        for (int i = 0; i < 5; i++)
            uv_run(&rig.loop, UV_RUN_NOWAIT);
        faulty_heap_fail_at(-1);
    }
    sink_rig_issue(&rig, 1);
    sink_rig_run_until_acknowledged(&rig, sink, n + 1);
    check_complete(n + 1);
}
END_TEST

START_TEST(settings_that_make_no_sense_are_named)
{
    static const struct {
        const char *name, *value, *complaint;
    } cases[] = {
        {"url", "", "url: "},
        {"url", "ftp://example.com/", "url: "},
        {"url", "https://joe:secret@example.com/", "url: "},
        {"url", "https://example.com/#here", "url: a fragment"},
        {"url", "example.com/in", "url: "},
        {"url", "file:///etc/passwd", "url: "},
        {"token_file", "/etc/hostname", ""},
        {"ca_file", "/etc/hostname", "ca_file: "},
        {"proxy", "socks5://example.com", "proxy: "},
        {"proxy", "http://joe:secret@example.com", "proxy: "},
        {"proxy", "http://example.com:3128", ""},
    };

    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        void *given = sink_rig_settings(&sink_http_kind);
        const char *complaint;

        sink_rig_set_text(&sink_http_kind, given, "url", receiver.url);
        sink_rig_set_text(
            &sink_http_kind, given, cases[i].name, cases[i].value);
        complaint = sink_rig_complaint(&sink_http_kind, given);
        ck_assert_msg(strncmp(complaint, cases[i].complaint,
                          strlen(cases[i].complaint)) == 0,
            "%s", complaint);
        ck_assert_int_eq(complaint[0] == '\0', cases[i].complaint[0] == '\0');
        ck_assert_ptr_null(strstr(complaint, "secret"));
        free(given);
    }
    set_text("url", "http://example.com/");
    set_text("token_file", "/etc/hostname");
    ck_assert_ptr_nonnull(strstr(
        sink_rig_complaint(&sink_http_kind, settings), "token_file: a token"));
    set_text("url", "https://example.com/");
    ck_assert_str_eq(sink_rig_complaint(&sink_http_kind, settings), "");
    set_uint("retry_least_ms", 5);
    ck_assert_ptr_nonnull(strstr(sink_rig_complaint(&sink_http_kind, settings),
        "retry_least_ms: 5 is more than retry_most_ms, 4"));
}
END_TEST

START_TEST(a_file_that_is_not_there_is_named)
{
    struct kv_error error;
    struct sink *sink;

    set_text("token_file", sink_rig_path(&rig, "no-token"));
    ck_assert_int_eq(
        sink_http_kind.open(&sink, "web", settings, &rig.loop, &error), KV_IO);
    ck_assert_ptr_nonnull(strstr(error.text, "token_file: cannot read "));
    ck_assert_ptr_nonnull(strstr(error.text, "no-token"));
}
END_TEST

/* ---- TLS, against Python's server */

static FILE *start_tls_receiver(char *url, size_t size)
{
    char command[512];
    FILE *peer;
    int port;

    snprintf(command, sizeof command,
        "exec /usr/bin/python3 %s/tests/sinks/tls_receiver.py %s 2>&1",
        getenv("KVPOOL_SOURCE") != NULL ? getenv("KVPOOL_SOURCE") : ".",
        rig.dir);
    peer = popen(command, "r");
    ck_assert_ptr_nonnull(peer);
    ck_assert_int_eq(fscanf(peer, "%d", &port), 1);
    snprintf(url, size, "https://localhost:%d/in", port);
    return peer;
}

START_TEST(only_the_given_authority_vouches_for_a_target)
{
    struct sink *trusted, *distrusted;
    char url[64];
    FILE *peer;

    sink_rig_make_certificates(&rig, "localhost");
    peer = start_tls_receiver(url, sizeof url);
    set_text("url", url);
    set_uint("close_ms", 0);
    set_text("ca_file", sink_rig_path(&rig, "other-ca.pem"));
    distrusted = sink_rig_add(&rig, &sink_http_kind, "other", settings);
    sink_rig_write(&rig, "token", "a-token");
    set_text("token_file", sink_rig_path(&rig, "token"));
    set_text("ca_file", sink_rig_path(&rig, "ca.pem"));
    trusted = add_sink();
    sink_rig_issue(&rig, 24);
    sink_rig_run_until_error(&rig, distrusted, "certificate");
    sink_rig_issue(&rig, 1); /* with 25 events the peer ends */
    sink_rig_run_until_acknowledged(&rig, trusted, 25);
    ck_assert_uint_eq(distrusted->acknowledged_sequence, 0);
    pclose(peer);
}
END_TEST

START_TEST(a_certificate_of_another_host_is_refused)
{
    struct sink *sink;
    char url[64];
    FILE *peer;

    sink_rig_make_certificates(&rig, "elsewhere.example");
    peer = start_tls_receiver(url, sizeof url);
    set_text("url", url);
    set_uint("close_ms", 0);
    set_text("ca_file", sink_rig_path(&rig, "ca.pem"));
    sink = add_sink();
    sink_rig_issue(&rig, 1);
    sink_rig_run_until_error(&rig, sink, "SSL");
    ck_assert_uint_eq(sink->acknowledged_sequence, 0);
    sink_rig_write(&rig, "stop", "");
    pclose(peer);
}
END_TEST

int main(void)
{
    const TTest *tests[] = {
        an_event_says_all_that_cloudevents_asks,
        a_request_names_its_receipts,
        the_json_of_a_batch_is_bounded,
        a_receipt_larger_than_a_batch_goes_alone,
        a_packed_batch_says_so,
        the_token_is_read_anew,
        a_token_in_a_pipe_is_not_waited_for,
        the_environment_has_no_say,
        a_proxy_that_is_set_is_used,
        an_error_of_the_server_is_tried_again,
        a_refusal_is_told_and_tried_for_ever,
        a_redirect_is_not_followed,
        a_reset_connection_is_tried_again,
        a_stalled_answer_ends_by_the_timeout,
        a_lost_acknowledgement_makes_duplicates_of_one_key,
        a_slow_answer_is_an_answer,
        an_endless_answer_is_not_read_to_its_end,
        a_target_that_is_down_gets_all_when_it_is_up,
        retry_after_is_honoured_up_to_a_limit,
        a_host_without_a_name_is_a_failure_of_its_sink_only,
        closing_does_not_wait_for_a_dead_target,
        closing_at_once_gives_everything_back,
        closing_delivers_what_was_taken,
        opening_gives_everything_back_when_memory_runs_out,
        no_lack_of_memory_loses_a_receipt,
        settings_that_make_no_sense_are_named,
        a_file_that_is_not_there_is_named,
        only_the_given_authority_vouches_for_a_target,
        a_certificate_of_another_host_is_refused,
    };

    return CHECK_RUN("sink_http", set_up, tear_down, tests);
}
