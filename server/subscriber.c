#include "server/subscriber.h"

#include <inttypes.h>

#include "base/clock.h"
#include "base/heap.h"
#include "base/log.h"

#define BOOKMARK_NS (5 * KV_NS_PER_S)
#define SLICE_NS (2 * KV_NS_PER_MS) /* of turns at once */
#define SLICE_TURNS 16              /* between two looks at the clock */
#define PAUSE_MS 1                  /* between two slices */

/* ---- turns */

static enum turn take_turn(struct subscriber *subscriber)
{
    if (subscriber->ending || !rpc_stream_ready(subscriber->call))
        return TURN_OVER;
    if (subscriber->listing != NULL)
        return subscriber_send_listing(subscriber);
    if (subscriber->bookmark_due)
        return subscriber_send_bookmark(subscriber);
    return subscriber_send_receipts(subscriber);
}

static void advance(struct subscriber *subscriber)
{
    struct server *server = subscriber->server;

    kv_list_remove(&subscriber->turn);
    switch (take_turn(subscriber)) {
    case TURN_OVER:
        break;
    case TURN_WAITS:
        kv_list_append(&server->subscribers_waiting, &subscriber->turn);
        break;
    case TURN_GOES_ON:
        subscriber_wake(subscriber);
    }
}

static void on_pause_over(uv_timer_t *timer);

/* Core reads from sockets only when it has no event left to give us. So the
 * next slice is no event yet, but a timer. */
static void pause_turns(struct server *server)
{
    uv_update_time(rpc_loop_uv(server->loop));
    uv_timer_start(&server->subscriber_pause, on_pause_over, PAUSE_MS, 0);
    rpc_loop_touched(server->loop);
}

static void give_turns(struct server *server)
{
    struct kv_list *due = &server->subscribers_due;
    int64_t end_ns = kv_clock_mono_ns() + SLICE_NS;

    do {
        for (int i = 0; i < SLICE_TURNS && !kv_list_empty(due); i++)
            advance(KV_LIST_ENTRY(due->next, struct subscriber, turn));
    } while (!kv_list_empty(due) && kv_clock_mono_ns() < end_ns);
    server->subscribers_turn = !kv_list_empty(due);
    if (server->subscribers_turn)
        pause_turns(server);
}

static void on_pause_over(uv_timer_t *timer)
{
    give_turns(timer->data);
}

static void on_post(struct rpc_post *post)
{
    give_turns(KV_LIST_ENTRY(post, struct server, subscribers_post));
}

/* Turns begin soon, if they are not being given. */
static void begin_turns(struct server *server)
{
    if (server->subscribers_turn || kv_list_empty(&server->subscribers_due))
        return;
    server->subscribers_post.run = on_post;
    server->subscribers_turn =
        rpc_loop_post(server->loop, &server->subscribers_post);
}

void subscriber_wake(struct subscriber *subscriber)
{
    kv_list_remove(&subscriber->turn);
    kv_list_append(&subscriber->server->subscribers_due, &subscriber->turn);
    begin_turns(subscriber->server);
}

void subscriber_wake_all(struct server *server)
{
    kv_list_splice(&server->subscribers_due, &server->subscribers_waiting);
    begin_turns(server);
}

/* ---- the call */

static struct subscriber *subscriber_of(struct rpc_call *call)
{
    return rpc_call_ctx(call);
}

static void on_ready(struct rpc_call *call)
{
    struct subscriber *subscriber = subscriber_of(call);

    subscriber->progress_ns = kv_clock_mono_ns();
    subscriber->taken_sequence = subscriber->cursor.sequence;
    advance(subscriber);
}

static void on_cancel(struct rpc_call *call)
{
    struct rpc_error error;

    rpc_error_init(&error, RPC_CANCELLED, "", "the reader went away");
    if (!subscriber_of(call)->ending)
        subscriber_end(subscriber_of(call), &error);
}

static void on_done(struct rpc_call *call)
{
    struct subscriber *subscriber = subscriber_of(call);

    feed_leave(subscriber->ledger, &subscriber->cursor);
    kv_list_remove(&subscriber->link);
    kv_list_remove(&subscriber->turn);
    subscriber->server->n_subscribers--;
    filter_close(subscriber->filter);
    subscriber_listing_close(subscriber->listing);
    kv_free(subscriber);
}

static const struct rpc_stream_ops stream_ops = {
    .on_ready = on_ready,
    .on_cancel = on_cancel,
    .on_done = on_done,
};

static void on_cursor_ready(struct feed_cursor *cursor)
{
    subscriber_wake(KV_LIST_ENTRY(cursor, struct subscriber, cursor));
}

void subscriber_init(struct server *server)
{
    kv_list_init(&server->subscribers);
    kv_list_init(&server->subscribers_waiting);
    kv_list_init(&server->subscribers_due);
}

void subscriber_start(struct subscriber *subscriber)
{
    struct server *server = subscriber->server;

    subscriber->cursor.on_ready = on_cursor_ready;
    subscriber->taken_sequence = subscriber->cursor.sequence;
    subscriber->progress_ns = subscriber->bookmark_ns = kv_clock_mono_ns();
    subscriber->connected_unix_ns = kv_clock_wall_ns();
    subscriber->id = ++server->last_subscriber_id;
    kv_list_init(&subscriber->turn);
    kv_list_append(&server->subscribers, &subscriber->link);
    server->n_subscribers++;
    rpc_call_set_ctx(subscriber->call, subscriber);
    rpc_stream_start(subscriber->call, &stream_ops);
}

/* The disk is not asked any more for who is leaving. */
static void leave(struct subscriber *subscriber)
{
    subscriber->ending = true;
    feed_leave(subscriber->ledger, &subscriber->cursor);
}

void subscriber_end(
    struct subscriber *subscriber, const struct rpc_error *error)
{
    leave(subscriber);
    if (error != NULL)
        rpc_call_fail(subscriber->call, error);
    else
        rpc_stream_finish(subscriber->call);
}

void subscriber_end_no_memory(struct subscriber *subscriber)
{
    struct rpc_error error;

    rpc_error_init(&error, RPC_RESOURCE_EXHAUSTED, "NO_MEMORY",
        "the server has no memory for the next message; resume after %" PRIu64,
        subscriber->taken_sequence);
    subscriber_end(subscriber, &error);
}

/* ---- every now and then */

static void disconnect_stalled(struct subscriber *subscriber)
{
    struct rpc_error error;

    rpc_error_init(&error, RPC_RESOURCE_EXHAUSTED, "SUBSCRIBER_STALLED",
        "nothing was taken for %" PRIu64 " ms; resume after %" PRIu64
        ", or after the last receipt that arrived if that is before",
        subscriber->server->options->subscriber_stall_ms,
        subscriber->taken_sequence);
    rpc_error_add_metadata(
        &error, "sequence", "%" PRIu64, subscriber->taken_sequence);
    kv_log(KV_LOG_WARN, SERVER_LOG_TARGET, "subscriber stalled, disconnected",
        KV_LOG_TEXT("peer", rpc_call_peer(subscriber->call)),
        KV_LOG_UINT("sequence", subscriber->taken_sequence));
    leave(subscriber);
    rpc_call_abort(subscriber->call, &error);
}

void subscriber_tick(struct server *server)
{
    int64_t now = kv_clock_mono_ns();
    int64_t limit =
        (int64_t)server->options->subscriber_stall_ms * KV_NS_PER_MS;
    const char *why;

    KV_LIST_EACH (link, &server->subscribers) {
        struct subscriber *subscriber =
            KV_LIST_ENTRY(link, struct subscriber, link);

        if (subscriber->ending)
            continue;
        if (rpc_stream_ready(subscriber->call)) {
            subscriber->progress_ns = now;
        } else if (!subscriber->lossy &&
                   now - subscriber->progress_ns > limit) {
            disconnect_stalled(subscriber);
            continue;
        }
        if (!subscriber->bookmark_due &&
            now - subscriber->bookmark_ns >= BOOKMARK_NS) {
            subscriber->bookmark_due = true;
            subscriber_wake(subscriber);
        }
    }
    /* Nothing becomes durable then, and who waits must hear of it. */
    if (ledger_state(recorder_ledger(server->recorder), &why) == LEDGER_FAILED)
        subscriber_wake_all(server);
}
