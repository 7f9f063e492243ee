#include <inttypes.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/clock.h"
#include "base/log.h"
#include "receipts/json.h"
#include "tests/sinks/nats_peer.h"
#include "tests/sinks/sink_rig.h"
#include "tests/support/check_main.h"
#include "tests/support/faulty_heap.h"

#define POOL_ID "5f0ce100000000000000000000000000"
#define JETSTREAM "jetstream { store_dir: store }\n"

static struct sink_rig rig;
static struct nats_peer peer;
static void *settings;

static void set_text(const char *name, const char *value)
{
    sink_rig_set_text(&sink_nats_kind, settings, name, value);
}

static void set_uint(const char *name, uint64_t value)
{
    sink_rig_set_uint(&sink_nats_kind, settings, name, value);
}

static void set_up(void)
{
    faulty_heap_install();
    kv_log_set_level(KV_LOG_ERROR);
    sink_rig_init(&rig);
    peer = (struct nats_peer){0};
    settings = sink_rig_settings(&sink_nats_kind);
    set_uint("retry_least_ms", 5);
    set_uint("retry_most_ms", 20);
    set_uint("ack_timeout_ms", 1000);
}

/* A courier that was left behind gives back what it has when it can. */
static void tear_down(void)
{
    sink_rig_close_set(&rig);
    sink_rig_fini(&rig);
    free(settings);
    nats_peer_kill(&peer);
    for (int ms = 0; faulty_heap_live() > 0 && ms < 200000; ms++)
        usleep(1000);
    ck_assert_int_eq(faulty_heap_live(), 0);
}

static void start_peer(const char *configuration)
{
    nats_peer_start(&peer, rig.dir, configuration);
    set_text("url", peer.url);
}

static struct sink *add_sink(void)
{
    return sink_rig_add(&rig, &sink_nats_kind, "broker", settings);
}

static void check_id(const json_t *message, uint64_t sequence)
{
    char id[80];

    snprintf(id, sizeof id, POOL_ID "/3/%" PRIu64, sequence);
    ck_assert_str_eq(json_string_value(json_object_get(message, "id")), id);
}

/* The stream has each receipt once, in order; the caller's to free. */
static json_t *check_stream(const char *stream, uint64_t n)
{
    json_t *messages = nats_peer_read(&peer, stream);

    ck_assert_uint_eq(json_array_size(messages), n);
    for (uint64_t i = 0; i < n; i++)
        check_id(json_array_get(messages, i), i + 1);
    return messages;
}

START_TEST(a_stream_is_made_and_has_each_receipt_once)
{
    Kvpool__V1__Receipt *receipt;
    struct sink *sink;
    json_t *messages, *message;

    start_peer(JETSTREAM);
    set_uint("connect_timeout_ms", 600000);
    set_uint("ack_timeout_ms", 600000);
    sink_rig_issue(&rig, 500);
    sink = add_sink();
    sink_rig_issue(&rig, 500);
    sink_rig_run_until_acknowledged(&rig, sink, 1000);
    ck_assert_uint_eq(sink->retries_total, 0);
    messages = check_stream("KVPOOL", 1000);
    message = json_array_get(messages, 999);
    ck_assert_str_eq(json_string_value(json_object_get(message, "subject")),
        "kvpool.receipts.kv_lifecycle");
    ck_assert_int_eq(
        receipt_from_json(json_object_get(message, "data"), &receipt, NULL),
        KV_OK);
    ck_assert_uint_eq(receipt->sequence, 1000);
    kvpool__v1__receipt__free_unpacked(receipt, NULL);
    json_decref(messages);
}
END_TEST

START_TEST(a_message_may_be_the_bytes_of_the_receipt)
{
    natsConnection *connection;
    natsSubscription *subscription;
    Kvpool__V1__Receipt *receipt;
    natsMsg *message;
    struct sink *sink;

    start_peer(JETSTREAM);
    ck_assert_int_eq(natsConnection_ConnectTo(&connection, peer.url), NATS_OK);
    ck_assert_int_eq(
        natsConnection_SubscribeSync(&subscription, connection, "audit.>"),
        NATS_OK);
    ck_assert_int_eq(natsConnection_Flush(connection), NATS_OK);
    set_text("payload", "protobuf");
    set_text("subject", "audit.kv");
    sink = add_sink();
    sink_rig_issue(&rig, 1);
    sink_rig_run_until_acknowledged(&rig, sink, 1);
    ck_assert_int_eq(
        natsSubscription_NextMsg(&message, subscription, 60000), NATS_OK);
    ck_assert_str_eq(natsMsg_GetSubject(message), "audit.kv.kv_lifecycle");
    receipt = kvpool__v1__receipt__unpack(NULL,
        (size_t)natsMsg_GetDataLength(message),
        (const uint8_t *)natsMsg_GetData(message));
    ck_assert_ptr_nonnull(receipt);
    ck_assert_uint_eq(receipt->sequence, 1);
    kvpool__v1__receipt__free_unpacked(receipt, NULL);
    natsMsg_Destroy(message);
    natsSubscription_Destroy(subscription);
    natsConnection_Destroy(connection);
}
END_TEST

START_TEST(a_server_that_is_down_gets_all_when_it_is_up)
{
    struct sink *sink;

    start_peer(JETSTREAM);
    nats_peer_kill(&peer);
    set_uint("max_pending", 100);
    sink = add_sink();
    sink_rig_issue(&rig, 1000);
    sink_rig_run_until_error(&rig, sink, "connecting: ");
    ck_assert_uint_le(sink->cursor.sequence, 100);
    ck_assert_int_eq(sink->state, SINK_RETRYING);
    nats_peer_restart(&peer, JETSTREAM);
    sink_rig_run_until_acknowledged(&rig, sink, 1000);
    ck_assert_int_eq(sink->state, SINK_RUNNING);
    json_decref(check_stream("KVPOOL", 1000));
}
END_TEST

START_TEST(a_killed_server_loses_nothing_and_has_nothing_twice)
{
    struct sink *sink;
    uint64_t n = 0;

    start_peer(JETSTREAM);
    set_uint("max_pending", 64);
    sink = add_sink();
    for (int round = 0; round < 4; round++) {
        sink_rig_issue(&rig, 500);
        n += 500;
        sink_rig_run_until_acknowledged(&rig, sink, n - 400);
        nats_peer_kill(&peer);
        sink_rig_issue(&rig, 100);
        n += 100;
        sink_rig_run_until_error(&rig, sink, "connecting: ");
        sink->last_error[0] = '\0';
        nats_peer_restart(&peer, JETSTREAM);
    }
    sink_rig_run_until_acknowledged(&rig, sink, n);
    ck_assert_uint_eq(sink->lost_total, 0);
    ck_assert_uint_eq(sink->delivered_total, n);
    json_decref(check_stream("KVPOOL", n));
}
END_TEST

START_TEST(a_server_that_stops_answering_is_left_and_found_again)
{
    struct sink *sink;

    start_peer(JETSTREAM);
    set_uint("ack_timeout_ms", 200);
    sink = add_sink();
    sink_rig_issue(&rig, 10);
    sink_rig_run_until_acknowledged(&rig, sink, 10);
    nats_peer_signal(&peer, SIGSTOP);
    sink_rig_issue(&rig, 10);
    sink_rig_run_until_error(&rig, sink, "no acknowledgement within 200 ms");
    nats_peer_signal(&peer, SIGCONT);
    sink_rig_run_until_acknowledged(&rig, sink, 20);
    json_decref(check_stream("KVPOOL", 20));
}
END_TEST

START_TEST(a_connection_lost_while_idle_is_told)
{
    struct sink *sink;

    start_peer(JETSTREAM);
    set_uint("close_ms", 100);
    sink = add_sink();
    sink_rig_issue(&rig, 1);
    sink_rig_run_until_acknowledged(&rig, sink, 1);
    nats_peer_kill(&peer);
    sink_rig_run_until_error(&rig, sink, "connecting: ");
    ck_assert_int_eq(sink->state, SINK_RETRYING);
}
END_TEST

START_TEST(a_server_without_jetstream_is_told_and_tried_again)
{
    struct sink *sink;

    start_peer("");
    sink = add_sink();
    sink_rig_issue(&rig, 5);
    sink_rig_run_until_error(&rig, sink, "the server has no JetStream");
    nats_peer_kill(&peer);
    nats_peer_restart(&peer, JETSTREAM);
    sink_rig_run_until_acknowledged(&rig, sink, 5);
}
END_TEST

START_TEST(a_stream_with_other_subjects_is_told)
{
    struct sink *sink;

    start_peer(JETSTREAM);
    nats_peer_add_stream(&peer, "KVPOOL", "kvpool.receipts.only");
    set_uint("close_ms", 0);
    sink = add_sink();
    sink_rig_issue(&rig, 5);
    sink_rig_run_until_error(&rig, sink,
        "stream KVPOOL does not have the subject kvpool.receipts.>");
}
END_TEST

START_TEST(a_stream_of_wider_subjects_will_do)
{
    static const char *const subjects[] = {
        "one.receipts.>", "*.two.*", "three.receipts.*"};
    static const char *const prefixes[] = {
        "one.receipts.deep", "any.two", "three.receipts"};
    struct sink *sink;
    char name[8];

    start_peer(JETSTREAM);
    sink_rig_issue(&rig, 5);
    for (int i = 0; i < 3; i++) {
        snprintf(name, sizeof name, "S%d", i);
        nats_peer_add_stream(&peer, name, subjects[i]);
        set_text("stream", name);
        set_text("subject", prefixes[i]);
        sink = sink_rig_add(&rig, &sink_nats_kind, name, settings);
        sink_rig_run_until_acknowledged(&rig, sink, 5);
        json_decref(check_stream(name, 5));
    }
}
END_TEST

START_TEST(a_stream_that_may_not_be_made_is_told)
{
    struct sink *sink;

    start_peer(JETSTREAM);
    sink_rig_set_bool(&sink_nats_kind, settings, "create_stream", false);
    sink = add_sink();
    sink_rig_issue(&rig, 5);
    sink_rig_run_until_error(
        &rig, sink, "there is no stream KVPOOL, and create_stream is false");
    nats_peer_add_stream(&peer, "KVPOOL", "kvpool.receipts.>");
    sink_rig_run_until_acknowledged(&rig, sink, 5);
}
END_TEST

START_TEST(a_full_stream_holds_the_sink_and_is_told)
{
    struct sink *sink;

    start_peer("jetstream { store_dir: store, max_file_store: 20K }\n");
    sink = add_sink();
    sink_rig_issue(&rig, 500);
    sink_rig_run_until_error(&rig, sink, "the stream refuses: ");
    ck_assert_uint_lt(sink->acknowledged_sequence, 500);
    nats_peer_kill(&peer);
    nats_peer_restart(&peer, JETSTREAM);
    sink_rig_run_until_acknowledged(&rig, sink, 500);
    json_decref(check_stream("KVPOOL", 500));
}
END_TEST

START_TEST(a_password_is_read_at_every_connect)
{
    static const char configuration[] =
        JETSTREAM "authorization { user: kv, password: open-sesame }\n";
    struct sink *sink;

    start_peer(configuration);
    sink_rig_write(&rig, "password", "wrong\n");
    set_text("user", "kv");
    set_text("password_file", sink_rig_path(&rig, "password"));
    sink = add_sink();
    sink_rig_issue(&rig, 5);
    sink_rig_run_until_error(&rig, sink, "uthorization");
    ck_assert_ptr_null(strstr(sink->last_error, "wrong"));
    sink_rig_write(&rig, "password", "open-sesame\n");
    sink_rig_run_until_acknowledged(&rig, sink, 5);
}
END_TEST

START_TEST(a_token_is_read_from_its_file)
{
    struct sink *sink;

    start_peer(JETSTREAM "authorization { token: open-sesame }\n");
    sink_rig_write(&rig, "token", "open-sesame\n");
    set_text("token_file", sink_rig_path(&rig, "token"));
    sink = add_sink();
    sink_rig_issue(&rig, 5);
    sink_rig_run_until_acknowledged(&rig, sink, 5);
}
END_TEST

static const char tls[] =
    JETSTREAM "tls { cert_file: server.pem, key_file: server.key }\n";

static const char *tls_url(const char *host)
{
    static char url[64];

    snprintf(url, sizeof url, "tls://%s:%d", host, peer.port);
    return url;
}

START_TEST(a_server_is_trusted_by_the_given_authority)
{
    struct sink *trusted, *distrusted;

    sink_rig_make_certificates(&rig, "localhost");
    start_peer(tls);
    set_text("url", tls_url("localhost"));
    set_text("ca_file", sink_rig_path(&rig, "ca.pem"));
    trusted = add_sink();
    set_uint("close_ms", 0);
    set_text("ca_file", sink_rig_path(&rig, "other-ca.pem"));
    distrusted = sink_rig_add(&rig, &sink_nats_kind, "other", settings);
    sink_rig_issue(&rig, 5);
    sink_rig_run_until_acknowledged(&rig, trusted, 5);
    sink_rig_run_until_error(&rig, distrusted, "certificate");
    ck_assert_uint_eq(distrusted->acknowledged_sequence, 0);
}
END_TEST

START_TEST(a_certificate_of_another_host_is_refused)
{
    struct sink *sink;

    sink_rig_make_certificates(&rig, "elsewhere.example");
    start_peer(tls);
    set_text("url", tls_url("localhost"));
    set_text("ca_file", sink_rig_path(&rig, "ca.pem"));
    set_uint("close_ms", 0);
    sink = add_sink();
    sink_rig_issue(&rig, 5);
    sink_rig_run_until_error(&rig, sink, "hostname mismatch");
    ck_assert_uint_eq(sink->acknowledged_sequence, 0);
}
END_TEST

/* ---- the end */

START_TEST(closing_delivers_what_was_taken)
{
    start_peer(JETSTREAM);
    add_sink();
    sink_rig_issue(&rig, 300);
    sink_rig_close_set(&rig);
    json_decref(check_stream("KVPOOL", 300));
}
END_TEST

START_TEST(closing_does_not_wait_for_a_dead_server)
{
    struct sink *sink;

    start_peer(JETSTREAM);
    set_uint("ack_timeout_ms", 600000); /* longer than the rig is patient */
    set_uint("close_ms", 100);
    sink = add_sink();
    sink_rig_issue(&rig, 1);
    sink_rig_run_until_acknowledged(&rig, sink, 1);
    nats_peer_signal(&peer, SIGSTOP);
    sink_rig_issue(&rig, 10);
    sink_rig_close_set(&rig);
}
END_TEST

/* ---- memory, settings */

START_TEST(opening_gives_everything_back_when_memory_runs_out)
{
    enum kv_status status = KV_NO_MEMORY;
    int nth = 0, before = faulty_heap_live();
    struct kv_error error;
    struct sink *sink;

    set_text("url", "nats://127.0.0.1:1");
    while (status == KV_NO_MEMORY) {
        faulty_heap_fail_at(nth++);
        status =
            sink_nats_kind.open(&sink, "broker", settings, &rig.loop, &error);
        faulty_heap_fail_at(-1);
        if (status == KV_NO_MEMORY)
            ck_assert_int_eq(faulty_heap_live(), before);
    }
    ck_assert_int_eq(status, KV_OK);
    ck_assert_int_ge(nth, 5);
    ck_assert_int_eq(sink_set_add(rig.set, sink, &error), KV_OK);
}
END_TEST

START_TEST(settings_that_make_no_sense_are_named)
{
    static const struct {
        const char *name, *value, *complaint;
    } cases[] = {
        {"url", "", "url: "},
        {"url", "http://example.com", "url: "},
        {"url", "nats://joe:secret@example.com", "url: "},
        {"url", "nats://a:4222,tls://b:4222", "url: "},
        {"url", "nats://a:4222,", "url: "},
        {"url", "nats://a:4222,nats://b:4222", ""},
        {"url", "tls://a:4222,tls://b:4222", ""},
        {"stream", "", "stream: "},
        {"stream", "a.b", "stream: "},
        {"stream", "a b", "stream: "},
        {"subject", "", "subject: "},
        {"subject", "a..b", "subject: "},
        {"subject", ".a", "subject: "},
        {"subject", "a.>", "subject: "},
        {"ca_file", "/etc/hostname", "ca_file: "},
        {"user", "joe", "password_file: "},
        {"password_file", "/etc/hostname", "password_file: "},
        {"token_file", "/etc/hostname", ""},
    };

    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        void *given = sink_rig_settings(&sink_nats_kind);
        const char *complaint;

        sink_rig_set_text(
            &sink_nats_kind, given, "url", "nats://127.0.0.1:4222");
        sink_rig_set_text(
            &sink_nats_kind, given, cases[i].name, cases[i].value);
        complaint = sink_rig_complaint(&sink_nats_kind, given);
        ck_assert_msg(strncmp(complaint, cases[i].complaint,
                          strlen(cases[i].complaint)) == 0,
            "%s", complaint);
        ck_assert_int_eq(complaint[0] == '\0', cases[i].complaint[0] == '\0');
        ck_assert_ptr_null(strstr(complaint, "secret"));
        free(given);
    }
    set_text("url", "nats://127.0.0.1:4222");
    set_text("token_file", "/etc/hostname");
    set_text("credentials_file", "/etc/hostname");
    ck_assert_ptr_nonnull(strstr(
        sink_rig_complaint(&sink_nats_kind, settings), "user: one of user"));
}
END_TEST

int main(void)
{
    const TTest *tests[] = {
        a_stream_is_made_and_has_each_receipt_once,
        a_message_may_be_the_bytes_of_the_receipt,
        a_server_that_is_down_gets_all_when_it_is_up,
        a_killed_server_loses_nothing_and_has_nothing_twice,
        a_server_that_stops_answering_is_left_and_found_again,
        a_connection_lost_while_idle_is_told,
        a_server_without_jetstream_is_told_and_tried_again,
        a_stream_with_other_subjects_is_told,
        a_stream_of_wider_subjects_will_do,
        a_stream_that_may_not_be_made_is_told,
        a_full_stream_holds_the_sink_and_is_told,
        a_password_is_read_at_every_connect,
        a_token_is_read_from_its_file,
        a_server_is_trusted_by_the_given_authority,
        a_certificate_of_another_host_is_refused,
        closing_delivers_what_was_taken,
        closing_does_not_wait_for_a_dead_server,
        opening_gives_everything_back_when_memory_runs_out,
        settings_that_make_no_sense_are_named,
    };

    if (!nats_peer_is_installed()) {
        puts("skipped: there is no nats-server");
        return 77;
    }
    return CHECK_RUN("sink_nats", set_up, tear_down, tests);
}
