#include "sinks/sink.h"

#include <assert.h>

#include "base/heap.h"
#include "base/log.h"

#define LOG_TARGET "kvpool::sinks"
#define OFFER_RECEIPTS 256
#define OFFER_BYTES 65536

struct sink_set {
    struct ledger *ledger;
    struct ledger_watcher watcher;
    struct kv_list sinks;
    size_t n_open; /* sinks, and one for sink_set_close while it runs */
    void (*closed)(void *ctx);
    void *ctx;
};

/* Receipts [first, last] will not reach the sink. */
static void lose(
    struct sink *sink, uint64_t first, uint64_t last, const char *why)
{
    sink->lost_total += last - first + 1;
    kv_log(KV_LOG_WARN, LOG_TARGET, "receipts lost to a sink",
        KV_LOG_TEXT("sink", sink->name), KV_LOG_TEXT("reason", why),
        KV_LOG_UINT("first_sequence", first),
        KV_LOG_UINT("last_sequence", last),
        KV_LOG_UINT("lost_total", sink->lost_total));
}

/* The ring went past the sink: it goes on at the oldest receipt there is. */
static void skip_gap(struct sink *sink)
{
    struct ledger_position position = ledger_position(sink->set->ledger);
    uint64_t next = position.oldest_sequence != 0
                        ? position.oldest_sequence
                        : position.durable_sequence + 1;

    lose(sink, sink->cursor.sequence + 1, next - 1,
        "they left the ring before it took them");
    sink->cursor.sequence = next - 1;
}

/* false if there is no more to offer, or the sink takes no more. */
static bool offer_run(struct sink *sink)
{
    enum kv_status status;
    struct feed_run run;
    uint32_t n_taken = 0;

    status = feed_next(
        sink->set->ledger, &sink->cursor, OFFER_RECEIPTS, OFFER_BYTES, &run);
    if (status == KV_DATA_LOSS) {
        skip_gap(sink);
        return true;
    }
    if (status != KV_OK)
        return false;
    status = sink->ops->offer(sink, &run, &n_taken);
    feed_run_release(run.chunk);
    assert(n_taken <= run.n_receipts);
    assert((status == KV_OK) == (n_taken == run.n_receipts));
    sink->cursor.sequence = run.first_sequence + n_taken - 1;
    sink->delivered_total += n_taken;
    sink->waits = status == KV_BUSY;
    return status == KV_OK;
}

static void offer_rest(struct sink *sink)
{
    while (offer_run(sink))
        ;
}

static void on_durable(struct ledger_watcher *watcher)
{
    struct sink_set *set = KV_LIST_ENTRY(watcher, struct sink_set, watcher);

    KV_LIST_EACH (node, &set->sinks) {
        struct sink *sink = KV_LIST_ENTRY(node, struct sink, link);

        if (!sink->waits)
            offer_rest(sink);
    }
}

enum kv_status sink_set_open(struct sink_set **out, struct ledger *ledger)
{
    struct sink_set *set = kv_calloc(1, sizeof *set);

    if (set == NULL)
        return KV_NO_MEMORY;
    set->ledger = ledger;
    set->watcher.on_durable = on_durable;
    kv_list_init(&set->sinks);
    ledger_watch(ledger, &set->watcher);
    *out = set;
    return KV_OK;
}

void sink_set_add(struct sink_set *set, struct sink *sink)
{
    struct ledger_position position = ledger_position(set->ledger);

    sink->set = set;
    sink->cursor.sequence = position.oldest_sequence != 0
                                ? position.oldest_sequence - 1
                                : position.durable_sequence;
    kv_list_append(&set->sinks, &sink->link);
    set->n_open++;
    offer_rest(sink);
}

void sink_ready(struct sink *sink)
{
    sink->waits = false;
    offer_rest(sink);
}

/* ---- closing */

static void leave(struct sink_set *set)
{
    void (*closed)(void *ctx) = set->closed;
    void *ctx = set->ctx;

    if (--set->n_open > 0)
        return;
    kv_free(set);
    if (closed != NULL)
        closed(ctx);
}

static void on_closed(struct sink *sink, void *ctx)
{
    kv_list_remove(&sink->link);
    kv_free(sink);
    leave(ctx);
}

/* Its last chance to take what is there. */
static void drain(struct sink *sink)
{
    uint64_t durable = ledger_position(sink->set->ledger).durable_sequence;

    offer_rest(sink);
    if (sink->ops->flush != NULL)
        sink->ops->flush(sink);
    if (sink->cursor.sequence < durable)
        lose(sink, sink->cursor.sequence + 1, durable,
            "it did not take them before it was closed");
}

void sink_set_close(struct sink_set *set, void (*closed)(void *ctx), void *ctx)
{
    ledger_unwatch(set->ledger, &set->watcher);
    set->closed = closed;
    set->ctx = ctx;
    set->n_open++;
    KV_LIST_EACH (node, &set->sinks) {
        struct sink *sink = KV_LIST_ENTRY(node, struct sink, link);

        drain(sink);
        sink->ops->close(sink, on_closed, set);
    }
    leave(set);
}
