/* KvPoolService.StreamReceipts: the ledger to any number of readers. What a
 * reader is to the server is in subscriber.h, what it may ask for in
 * stream_request.h. */
#include <inttypes.h>

#include "base/heap.h"
#include "server/message.h"
#include "server/stream_request.h"
#include "server/subscriber.h"

#define METHOD "/kvpool.v1.KvPoolService/StreamReceipts"
#define TICK_MS 500

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

static bool begins_with_state(const Kvpool__V1__StreamReceiptsRequest *request)
{
    return request->start_case ==
           KVPOOL__V1__STREAM_RECEIPTS_REQUEST__START_SNAPSHOT;
}

static struct subscriber *make_subscriber(
    struct server *server, const Kvpool__V1__StreamReceiptsRequest *request)
{
    struct subscriber *subscriber = kv_calloc(1, sizeof *subscriber);

    if (subscriber == NULL)
        return NULL;
    if (filter_open(&subscriber->filter, request->filter) != KV_OK)
        goto free_subscriber;
    if (begins_with_state(request)) {
        subscriber->listing = subscriber_listing_open(request->snapshot);
        if (subscriber->listing == NULL)
            goto close_filter;
    }
    subscriber->server = server;
    subscriber->ledger = recorder_ledger(server->recorder);
    subscriber->max_batch =
        request->max_batch > 0 ? request->max_batch : STREAM_STANDARD_BATCH;
    subscriber->lossy =
        request->slow_reader_policy ==
        KVPOOL__V1__SLOW_READER_POLICY__SLOW_READER_POLICY_LOSSY;
    subscriber->bookmark_due =
        request->start_case ==
            KVPOOL__V1__STREAM_RECEIPTS_REQUEST__START_LATEST ||
        request->start_case ==
            KVPOOL__V1__STREAM_RECEIPTS_REQUEST__START__NOT_SET;
    return subscriber;

close_filter:
    filter_close(subscriber->filter);
free_subscriber:
    kv_free(subscriber);
    return NULL;
}

static void subscribe(struct server *server, struct rpc_call *call,
    const Kvpool__V1__StreamReceiptsRequest *request)
{
    struct rpc_error error = {.code = RPC_OK};
    struct feed_cursor cursor = {0};
    struct subscriber *subscriber;

    if (has_room(server, &error))
        stream_request_seek(
            request, recorder_ledger(server->recorder), &cursor, &error);
    if (error.code != RPC_OK) {
        rpc_call_fail(call, &error);
        return;
    }
    subscriber = make_subscriber(server, request);
    if (subscriber == NULL) {
        message_fail_no_memory(call);
        return;
    }
    subscriber->call = call;
    subscriber->cursor.sequence = cursor.sequence;
    subscriber_start(subscriber);
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
        stream_request_check(&error, request);
    if (error.n_violations > 0)
        rpc_call_fail(call, &error);
    else if (server->recorder == NULL)
        refuse_off(call);
    else
        subscribe(server, call, request);
    kvpool__v1__stream_receipts_request__free_unpacked(request, NULL);
}

/* ---- life */

static void on_durable(struct ledger_watcher *watcher)
{
    subscriber_wake_all(
        KV_LIST_ENTRY(watcher, struct server, subscriber_watcher));
}

static void on_tick(uv_timer_t *timer)
{
    subscriber_tick(timer->data);
}

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
    subscriber_wake_all(server);
}

enum kv_status service_receipts_add(struct server *server)
{
    const struct rpc_method method = {
        METHOD, RPC_SERVER_STREAM, on_stream, server};

    subscriber_init(server);
    return rpc_server_add_method(server->rpc, &method);
}
