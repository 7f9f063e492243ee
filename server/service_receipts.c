/* KvPoolService.StreamReceipts: the ledger to any number of readers.
 *
 * A subscriber is a cursor in the ledger's log and at most one message in
 * flight. When it can take a message it gets the run of receipts that has
 * accumulated since, as it lies in the log: nothing is copied or encoded for
 * it, and readers that are behind get longer runs, not more messages. A slow
 * one costs its cursor; if the ring passes it, it is told so by DATA_LOSS.
 *
 * One timer for all sends bookmarks, and disconnects who takes nothing. */
#include <inttypes.h>
#include <stdio.h>
#include <string.h>

#include "base/clock.h"
#include "base/heap.h"
#include "base/log.h"
#include "server/check.h"
#include "server/message.h"
#include "server/server.h"

#define METHOD "/kvpool.v1.KvPoolService/StreamReceipts"
#define TICK_MS 500
#define BOOKMARK_NS (5 * KV_NS_PER_S)
#define RUN_BYTES 65536
#define MAX_BATCH 1024
#define STANDARD_BATCH 256
#define RETRY_AFTER_NS KV_NS_PER_S

struct subscriber {
    struct kv_list link;
    struct server *server;
    struct ledger *ledger;
    struct rpc_call *call;
    struct feed_cursor cursor;
    uint32_t max_batch;
    bool bookmark_due, ending;
    int64_t
        progress_ns; /* when it last took something, or had nothing to take */
    int64_t bookmark_ns; /* when it was last told its position */
};

static struct subscriber *subscriber_of(struct rpc_call *call)
{
    return rpc_call_ctx(call);
}

/* *position and *root are what it points into. */
static void fill_position(Kvpool__V1__LedgerPosition *out,
    const struct subscriber *subscriber, struct ledger_position *position,
    struct merkle_hash *root)
{
    kvpool__v1__ledger_position__init(out);
    out->sequence = subscriber->cursor.sequence;
    out->epoch = subscriber->cursor.sequence > 0 ? position->epoch : 0;
    out->pool_id.data = position->pool_id;
    out->pool_id.len = sizeof position->pool_id;
    if (merkle_root(ledger_tree(subscriber->ledger),
            subscriber->cursor.sequence, root)) {
        out->root.data = root->bytes;
        out->root.len = sizeof root->bytes;
    }
}

static void end_stream(
    struct subscriber *subscriber, const struct rpc_error *error)
{
    subscriber->ending = true;
    if (error != NULL)
        rpc_call_fail(subscriber->call, error);
    else
        rpc_stream_finish(subscriber->call);
}

static void send_control(struct subscriber *subscriber,
    const Kvpool__V1__StreamReceiptsResponse *response)
{
    struct rpc_bytes bytes;

    if (message_encode(&response->base, &bytes))
        rpc_stream_send(subscriber->call, &bytes);
}

static void send_bookmark(struct subscriber *subscriber)
{
    struct ledger_position position = ledger_position(subscriber->ledger);
    Kvpool__V1__StreamReceiptsResponse response =
        KVPOOL__V1__STREAM_RECEIPTS_RESPONSE__INIT;
    Kvpool__V1__Bookmark bookmark = KVPOOL__V1__BOOKMARK__INIT;
    Kvpool__V1__LedgerPosition place;
    struct merkle_hash root;

    fill_position(&place, subscriber, &position, &root);
    bookmark.position = &place;
    bookmark.oldest_sequence = position.oldest_sequence;
    bookmark.time_unix_ns = kv_clock_wall_ns();
    response.bookmark = &bookmark;
    response.through_sequence = place.sequence;
    response.through_epoch = place.epoch;
    subscriber->bookmark_due = false;
    subscriber->bookmark_ns = kv_clock_mono_ns();
    send_control(subscriber, &response);
}

static void send_closing(struct subscriber *subscriber)
{
    Kvpool__V1__StreamReceiptsResponse response =
        KVPOOL__V1__STREAM_RECEIPTS_RESPONSE__INIT;
    Kvpool__V1__Closing closing = KVPOOL__V1__CLOSING__INIT;
    struct ledger_position position = ledger_position(subscriber->ledger);
    Kvpool__V1__LedgerPosition place;
    struct merkle_hash root;

    fill_position(&place, subscriber, &position, &root);
    closing.reason = KVPOOL__V1__CLOSING_REASON__CLOSING_REASON_SHUTDOWN;
    closing.position = &place;
    closing.retry_after_ns = RETRY_AFTER_NS;
    response.closing = &closing;
    response.through_sequence = place.sequence;
    response.through_epoch = place.epoch;
    send_control(subscriber, &response);
    end_stream(subscriber, NULL);
}

static void fail_behind(struct subscriber *subscriber)
{
    struct ledger_position position = ledger_position(subscriber->ledger);
    struct rpc_error error;

    rpc_error_init(&error, RPC_DATA_LOSS, "FELL_BEHIND",
        "the ledger in memory dropped receipt %" PRIu64
        " before this reader took it; the oldest is %" PRIu64,
        subscriber->cursor.sequence + 1, position.oldest_sequence);
    rpc_error_add_metadata(
        &error, "sequence", "%" PRIu64, subscriber->cursor.sequence);
    rpc_error_add_metadata(
        &error, "oldest_sequence", "%" PRIu64, position.oldest_sequence);
    end_stream(subscriber, &error);
}

/* Sends what there is, if the stream takes something. */
static void advance(struct subscriber *subscriber)
{
    struct server *server = subscriber->server;
    struct feed_run run;

    if (subscriber->ending || !rpc_stream_ready(subscriber->call))
        return;
    if (subscriber->bookmark_due) {
        send_bookmark(subscriber);
        return;
    }
    switch (feed_next(subscriber->ledger, &subscriber->cursor,
        subscriber->max_batch, RUN_BYTES, &run)) {
    case KV_OK:
        rpc_stream_send(subscriber->call, &(struct rpc_bytes){.data = run.bytes,
                                              .n = run.n_bytes,
                                              .release = feed_run_release,
                                              .ctx = run.chunk});
        break;
    case KV_DATA_LOSS:
        fail_behind(subscriber);
        break;
    default: /* nothing yet */
        if (server->closing_streams)
            send_closing(subscriber);
    }
}

static void on_ready(struct rpc_call *call)
{
    subscriber_of(call)->progress_ns = kv_clock_mono_ns();
    advance(subscriber_of(call));
}

static void on_cancel(struct rpc_call *call)
{
    struct rpc_error error;

    rpc_error_init(&error, RPC_CANCELLED, "", "the reader went away");
    if (!subscriber_of(call)->ending)
        end_stream(subscriber_of(call), &error);
}

static void on_done(struct rpc_call *call)
{
    struct subscriber *subscriber = subscriber_of(call);

    kv_list_remove(&subscriber->link);
    subscriber->server->n_subscribers--;
    kv_free(subscriber);
}

static const struct rpc_stream_ops stream_ops = {
    .on_ready = on_ready,
    .on_cancel = on_cancel,
    .on_done = on_done,
};

static void advance_all(struct server *server)
{
    KV_LIST_EACH (link, &server->subscribers)
        advance(KV_LIST_ENTRY(link, struct subscriber, link));
}

static void on_durable(struct ledger_watcher *watcher)
{
    advance_all(KV_LIST_ENTRY(watcher, struct server, subscriber_watcher));
}

static void disconnect_stalled(struct subscriber *subscriber)
{
    struct rpc_error error;

    rpc_error_init(&error, RPC_RESOURCE_EXHAUSTED, "SUBSCRIBER_STALLED",
        "nothing was taken for %" PRIu64 " ms; resume after %" PRIu64,
        subscriber->server->options->subscriber_stall_ms,
        subscriber->cursor.sequence);
    rpc_error_add_metadata(
        &error, "sequence", "%" PRIu64, subscriber->cursor.sequence);
    kv_log(KV_LOG_WARN, SERVER_LOG_TARGET, "subscriber stalled, disconnected",
        KV_LOG_TEXT("peer", rpc_call_peer(subscriber->call)),
        KV_LOG_UINT("sequence", subscriber->cursor.sequence));
    subscriber->ending = true;
    rpc_call_abort(subscriber->call, &error);
}

static void on_tick(uv_timer_t *timer)
{
    struct server *server = timer->data;
    int64_t now = kv_clock_mono_ns();
    int64_t limit =
        (int64_t)server->options->subscriber_stall_ms * KV_NS_PER_MS;

    KV_LIST_EACH (link, &server->subscribers) {
        struct subscriber *subscriber =
            KV_LIST_ENTRY(link, struct subscriber, link);

        if (subscriber->ending)
            continue;
        if (rpc_stream_ready(subscriber->call))
            subscriber->progress_ns = now;
        if (now - subscriber->progress_ns > limit) {
            disconnect_stalled(subscriber);
            continue;
        }
        subscriber->bookmark_due |=
            now - subscriber->bookmark_ns >= BOOKMARK_NS;
        advance(subscriber);
    }
}

/* ---- where a stream begins */

static void refuse_position(struct rpc_error *error, enum rpc_code code,
    const char *reason, const struct ledger_position *position,
    uint64_t sequence)
{
    rpc_error_init(error, code, reason,
        "receipt %" PRIu64 " is not where this ledger has it: it goes from "
        "%" PRIu64 " to %" PRIu64 ", epoch %" PRIu32,
        sequence, position->oldest_sequence, position->applied_sequence,
        position->epoch);
    rpc_error_add_metadata(error, "sequence", "%" PRIu64, sequence);
    rpc_error_add_metadata(
        error, "oldest_sequence", "%" PRIu64, position->oldest_sequence);
    rpc_error_add_metadata(
        error, "durable_sequence", "%" PRIu64, position->durable_sequence);
    rpc_error_add_metadata(error, "epoch", "%" PRIu32, position->epoch);
}

static void refuse_ledger(
    struct rpc_error *error, const struct ledger_position *position)
{
    char hex[33];

    for (size_t i = 0; i < sizeof position->pool_id; i++)
        snprintf(hex + 2 * i, 3, "%02x", position->pool_id[i]);
    rpc_error_init(error, RPC_FAILED_PRECONDITION, "LEDGER_MISMATCH",
        "the position belongs to another ledger than %s; a ledger in memory "
        "is a new one at every start",
        hex);
    rpc_error_add_metadata(error, "pool_id", "%s", hex);
    rpc_error_add_metadata(error, "epoch", "%" PRIu32, position->epoch);
}

/* Whether the root that was given, if one was, is that of this ledger. */
static bool has_root(
    struct ledger *ledger, const Kvpool__V1__LedgerPosition *after)
{
    struct merkle_hash root;

    return after->root.len == 0 ||
           (merkle_root(ledger_tree(ledger), after->sequence, &root) &&
               memcmp(root.bytes, after->root.data, sizeof root.bytes) == 0);
}

static void seek_after(struct subscriber *subscriber,
    const Kvpool__V1__LedgerPosition *after, struct rpc_error *error)
{
    struct ledger *ledger = subscriber->ledger;
    struct ledger_position position = ledger_position(ledger);

    if (after->pool_id.len > 0 &&
        memcmp(after->pool_id.data, position.pool_id, 16) != 0) {
        refuse_ledger(error, &position);
        return;
    }
    if (after->sequence > position.applied_sequence ||
        (after->sequence > 0 && after->epoch != 0 &&
            after->epoch != position.epoch) ||
        !has_root(ledger, after)) {
        refuse_position(error, RPC_FAILED_PRECONDITION, "LEDGER_FORKED",
            &position, after->sequence);
        return;
    }
    if (feed_seek(ledger, after->sequence, &subscriber->cursor) != KV_OK)
        refuse_position(error, RPC_OUT_OF_RANGE, "SEQUENCE_EXPIRED", &position,
            after->sequence);
}

static void seek_start(struct subscriber *subscriber,
    const Kvpool__V1__StreamReceiptsRequest *request, struct rpc_error *error)
{
    struct ledger *ledger = subscriber->ledger;
    struct ledger_position position = ledger_position(ledger);

    switch (request->start_case) {
    case KVPOOL__V1__STREAM_RECEIPTS_REQUEST__START_EARLIEST:
        feed_seek(ledger,
            position.oldest_sequence > 0 ? position.oldest_sequence - 1
                                         : position.durable_sequence,
            &subscriber->cursor);
        break;
    case KVPOOL__V1__STREAM_RECEIPTS_REQUEST__START_AFTER:
        seek_after(subscriber, request->after, error);
        break;
    default:
        feed_seek(ledger, position.durable_sequence, &subscriber->cursor);
        subscriber->bookmark_due = true;
    }
}

/* ---- the request */

static void check_after(
    struct rpc_error *error, const Kvpool__V1__LedgerPosition *after)
{
    if (after->pool_id.len != 0 && after->pool_id.len != 16)
        rpc_error_add_violation(error, "after.pool_id",
            "%zu bytes were given; allowed are 16, or none",
            after->pool_id.len);
    if (after->root.len != 0 && after->root.len != MERKLE_HASH_BYTES)
        rpc_error_add_violation(error, "after.root",
            "%zu bytes were given; allowed are %d, or none", after->root.len,
            MERKLE_HASH_BYTES);
}

static void check_filter(
    struct rpc_error *error, const Kvpool__V1__ReceiptFilter *filter)
{
    if (filter == NULL)
        return;
    check_unsupported(error, "filter.kinds", filter->n_kinds > 0);
    check_unsupported(error, "filter.reasons", filter->n_reasons > 0);
    check_unsupported(error, "filter.sessions", filter->n_sessions > 0);
    check_unsupported(error, "filter.tenants", filter->n_tenants > 0);
}

static void check_request(
    struct rpc_error *error, const Kvpool__V1__StreamReceiptsRequest *request)
{
    if (request->start_case == KVPOOL__V1__STREAM_RECEIPTS_REQUEST__START_AFTER)
        check_after(error, request->after);
    check_unsupported(error, "snapshot",
        request->start_case ==
            KVPOOL__V1__STREAM_RECEIPTS_REQUEST__START_SNAPSHOT);
    check_filter(error, request->filter);
    if ((int)request->slow_reader_policy < 0 ||
        request->slow_reader_policy >
            KVPOOL__V1__SLOW_READER_POLICY__SLOW_READER_POLICY_LOSSY)
        rpc_error_add_violation(error, "slow_reader_policy",
            "%d was given; allowed are values of SlowReaderPolicy",
            (int)request->slow_reader_policy);
    else
        check_unsupported(error, "slow_reader_policy",
            request->slow_reader_policy ==
                KVPOOL__V1__SLOW_READER_POLICY__SLOW_READER_POLICY_LOSSY);
    check_count(
        error, "max_batch", request->max_batch, 1, MAX_BATCH, STANDARD_BATCH);
}

static bool has_room(const struct server *server, struct rpc_error *error)
{
    if (server->n_subscribers < server->options->max_subscribers)
        return true;
    rpc_error_init(error, RPC_RESOURCE_EXHAUSTED, "TOO_MANY_SUBSCRIBERS",
        "%" PRIu32 " streams of receipts are open, which is max_subscribers",
        server->n_subscribers);
    rpc_error_add_metadata(
        error, "limit", "%" PRIu64, server->options->max_subscribers);
    return false;
}

static void subscribe(struct server *server, struct rpc_call *call,
    const Kvpool__V1__StreamReceiptsRequest *request)
{
    struct subscriber *subscriber;
    struct rpc_error error = {.code = RPC_OK};

    if (!has_room(server, &error)) {
        rpc_call_fail(call, &error);
        return;
    }
    subscriber = kv_calloc(1, sizeof *subscriber);
    if (subscriber == NULL) {
        message_fail_no_memory(call);
        return;
    }
    subscriber->server = server;
    subscriber->ledger = recorder_ledger(server->recorder);
    subscriber->call = call;
    subscriber->max_batch =
        request->max_batch > 0 ? request->max_batch : STANDARD_BATCH;
    subscriber->progress_ns = subscriber->bookmark_ns = kv_clock_mono_ns();
    seek_start(subscriber, request, &error);
    if (error.code != RPC_OK) {
        kv_free(subscriber);
        rpc_call_fail(call, &error);
        return;
    }
    kv_list_append(&server->subscribers, &subscriber->link);
    server->n_subscribers++;
    rpc_call_set_ctx(call, subscriber);
    rpc_stream_start(call, &stream_ops);
}

static void refuse_off(struct rpc_call *call)
{
    struct rpc_error error;

    rpc_error_init(&error, RPC_FAILED_PRECONDITION, "RECEIPTS_OFF",
        "receipts are off: start the server with enable_receipts");
    rpc_error_add_metadata(&error, "option", "enable_receipts");
    rpc_call_fail(call, &error);
}

static void on_stream(void *ctx, struct rpc_call *call,
    const unsigned char *bytes, size_t n_bytes)
{
    struct server *server = ctx;
    struct rpc_error error;
    Kvpool__V1__StreamReceiptsRequest *request =
        (Kvpool__V1__StreamReceiptsRequest *)message_parse(
            &kvpool__v1__stream_receipts_request__descriptor, bytes, n_bytes,
            &error);

    if (request != NULL)
        check_request(&error, request);
    if (error.n_violations > 0)
        rpc_call_fail(call, &error);
    else if (server->recorder == NULL)
        refuse_off(call);
    else
        subscribe(server, call, request);
    kvpool__v1__stream_receipts_request__free_unpacked(request, NULL);
}

/* ---- life */

void service_receipts_start(struct server *server)
{
    if (server->recorder == NULL)
        return;
    server->subscriber_watcher.on_durable = on_durable;
    recorder_watch(server->recorder, &server->subscriber_watcher);
    uv_timer_start(&server->subscriber_tick, on_tick, TICK_MS, TICK_MS);
}

void service_receipts_drain(struct server *server)
{
    advance_all(server);
}

enum kv_status service_receipts_add(struct server *server)
{
    const struct rpc_method method = {
        METHOD, RPC_SERVER_STREAM, on_stream, server};

    kv_list_init(&server->subscribers);
    return rpc_server_add_method(server->rpc, &method);
}
