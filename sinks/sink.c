/* The set of sinks, and what sinks call.
 *
 *   acknowledged <= cursor <= durable
 *                   what was offered and taken
 *
 * A gap (retention, or the ring, went past the cursor) is to become a receipt,
 * and none may be issued where a gap is met: that may be a hook of the pool. So
 * the sink is held until the next tick, which issues the receipt and lets it go
 * on behind the gap; there is never more than one gap of a sink to be issued.
 *
 * Where a ledger keeps no positions (it is in memory only) the set does, for a
 * sink that is closed and opened again with other settings. */
#include "sinks/sink.h"

#include <assert.h>
#include <inttypes.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/clock.h"
#include "base/heap.h"
#include "base/log.h"

#define LOG_TARGET "kvpool::sinks"
#define OFFER_RECEIPTS 256
#define OFFER_BYTES 65536
#define CLOSE_TICKS 5

_Static_assert(SINK_NAME_BYTES <= JOURNAL_NAME_BYTES &&
                   SINK_MAX_SINKS <= JOURNAL_MAX_CURSORS,
    "the journal keeps the position of every sink");

struct sink_place {
    char name[SINK_NAME_BYTES + 1];
    uint64_t sequence;
};

struct sink_set {
    struct ledger *ledger;
    struct ledger_watcher watcher;
    struct kv_list sinks;
    size_t n_sinks;
    struct sink_place places[SINK_MAX_SINKS]; /* of sinks that are gone */
    size_t n_places;                          /* ever kept; the oldest go */
    void (*removed)(void *ctx);
    void *removed_ctx;
    size_t n_open; /* sinks, and one for the set itself until it is closed */
    void (*closed)(void *ctx);
    void *ctx;
};

static struct sink *sink_at(struct kv_list *node)
{
    return KV_LIST_ENTRY(node, struct sink, link);
}

/* ---- what will not be delivered */

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

/* The ledger went past the sink: it goes on at the oldest receipt there is. */
static void skip_gap(struct sink *sink)
{
    struct ledger_position position = ledger_position(sink->set->ledger);
    uint64_t first = sink->cursor.sequence + 1;
    uint64_t next = position.oldest_sequence != 0
                        ? position.oldest_sequence
                        : position.durable_sequence + 1;

    lose(sink, first, next - 1, "they left the ledger before it took them");
    sink->cursor.sequence = next - 1;
    if (!sink->ops->guaranteed)
        return;
    sink->gap_first = first;
    sink->gap_last = next - 1;
    sink->n_skipped += next - first;
    sink->is_held = true;
}

/* ---- offers */

static void recover(struct sink *sink)
{
    if (sink->state != SINK_RETRYING)
        return;
    sink->state = SINK_RUNNING;
    kv_log(KV_LOG_INFO, LOG_TARGET, "a sink delivers again",
        KV_LOG_TEXT("sink", sink->name),
        KV_LOG_UINT("retries_total", sink->retries_total));
}

/* Those without guarantee have delivered what they took. */
static void count_taken(struct sink *sink, uint32_t n_taken)
{
    if (sink->ops->guaranteed)
        return;
    recover(sink);
    sink->acknowledged_sequence = sink->cursor.sequence;
    sink->delivered_total += n_taken;
}

/* It is tried again with the next tick. */
static void hold_unreadable(struct sink *sink)
{
    sink_failed(sink, "receipt %" PRIu64 " cannot be read from the journal",
        sink->cursor.sequence + 1);
    sink->is_held = true;
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
        return !sink->is_held;
    }
    if (status == KV_IO)
        hold_unreadable(sink);
    if (status != KV_OK)
        return false;
    status = sink->ops->offer(sink, &run, &n_taken);
    feed_run_release(run.chunk);
    assert(n_taken <= run.n_receipts);
    assert((status == KV_OK) == (n_taken == run.n_receipts));
    sink->cursor.sequence = run.first_sequence + n_taken - 1;
    count_taken(sink, n_taken);
    sink->waits = status == KV_BUSY;
    return status == KV_OK;
}

static void offer_rest(struct sink *sink)
{
    if (sink->waits || sink->is_held || sink->state >= SINK_FAILED)
        return;
    while (offer_run(sink))
        ;
}

static void on_durable(struct ledger_watcher *watcher)
{
    struct sink_set *set = KV_LIST_ENTRY(watcher, struct sink_set, watcher);

    KV_LIST_EACH (node, &set->sinks)
        offer_rest(sink_at(node));
}

/* What lies on disk for the cursor has been read. */
static void on_read(struct feed_cursor *cursor)
{
    offer_rest(KV_LIST_ENTRY(cursor, struct sink, cursor));
}

/* ---- what sinks call */

void sink_ready(struct sink *sink)
{
    sink->waits = false;
    offer_rest(sink);
}

void sink_acknowledge(struct sink *sink, uint64_t sequence)
{
    uint64_t n;

    assert(sequence <= sink->cursor.sequence);
    recover(sink);
    if (sequence <= sink->acknowledged_sequence)
        return;
    n = sequence - sink->acknowledged_sequence;
    if (sink->n_skipped > 0 && sequence > sink->gap_last) {
        n -= sink->n_skipped;
        sink->n_skipped = 0;
    }
    sink->delivered_total += n;
    sink->acknowledged_sequence = sequence;
    ledger_set_cursor(sink->set->ledger, sink->name, sequence);
}

static void note_error(struct sink *sink, const char *format, va_list list)
{
    vsnprintf(sink->last_error, sizeof sink->last_error, format, list);
    sink->last_error_unix_ns = kv_clock_wall_ns();
}

void sink_failed(struct sink *sink, const char *format, ...)
{
    va_list list;

    va_start(list, format);
    note_error(sink, format, list);
    va_end(list);
    sink->retries_total++;
    if (sink->state != SINK_RUNNING)
        return;
    sink->state = SINK_RETRYING;
    kv_log(KV_LOG_WARN, LOG_TARGET, "a sink does not deliver",
        KV_LOG_TEXT("sink", sink->name),
        KV_LOG_TEXT("error", sink->last_error));
}

void sink_gives_up(struct sink *sink, const char *format, ...)
{
    va_list list;

    va_start(list, format);
    note_error(sink, format, list);
    va_end(list);
    if (sink->state == SINK_STOPPING)
        return;
    sink->state = SINK_FAILED;
    kv_log(KV_LOG_ERROR, LOG_TARGET,
        "a sink is given up until the configuration is read again",
        KV_LOG_TEXT("sink", sink->name),
        KV_LOG_TEXT("error", sink->last_error));
}

uint64_t sink_backoff_ms(uint32_t n, uint64_t least_ms, uint64_t most_ms)
{
    uint64_t ms = least_ms;

    for (; n > 1 && ms < most_ms; n--)
        ms = ms <= most_ms / 2 ? 2 * ms : most_ms;
    if (ms > most_ms)
        ms = most_ms;
    if (ms / 2 > UINT32_MAX - 1)
        return ms;
    return ms - arc4random_uniform((uint32_t)(ms / 2) + 1);
}

struct sink_key sink_receipt_key(
    const uint8_t pool_id[16], uint32_t epoch, uint64_t sequence)
{
    struct sink_key key;
    char *at = key.s;

    for (size_t i = 0; i < 16; i++)
        at += sprintf(at, "%02x", pool_id[i]);
    sprintf(at, "/%" PRIu32 "/%" PRIu64, epoch, sequence);
    return key;
}

/* ---- the set */

enum kv_status sink_set_open(struct sink_set **out, struct ledger *ledger)
{
    struct sink_set *set = kv_calloc(1, sizeof *set);

    if (set == NULL)
        return KV_NO_MEMORY;
    set->ledger = ledger;
    set->n_open = 1;
    set->watcher.on_durable = on_durable;
    kv_list_init(&set->sinks);
    ledger_watch(ledger, &set->watcher);
    *out = set;
    return KV_OK;
}

struct sink *sink_set_first(struct sink_set *set)
{
    return kv_list_empty(&set->sinks) ? NULL : sink_at(set->sinks.next);
}

struct sink *sink_set_next(struct sink_set *set, struct sink *sink)
{
    return sink->link.next == &set->sinks ? NULL : sink_at(sink->link.next);
}

void sink_set_on_removed(
    struct sink_set *set, void (*removed)(void *ctx), void *ctx)
{
    set->removed = removed;
    set->removed_ctx = ctx;
}

/* ---- positions */

static struct sink_place *find_place(struct sink_set *set, const char *name)
{
    for (size_t i = 0; i < SINK_MAX_SINKS; i++) {
        if (strcmp(set->places[i].name, name) == 0)
            return &set->places[i];
    }
    return NULL;
}

static void keep_place(struct sink_set *set, const struct sink *sink)
{
    struct sink_place *place = find_place(set, sink->name);

    if (place == NULL)
        place = &set->places[set->n_places++ % SINK_MAX_SINKS];
    memcpy(place->name, sink->name, sizeof place->name);
    place->sequence = sink->acknowledged_sequence;
}

static void forget_place(struct sink_set *set, const struct sink *sink)
{
    struct sink_place *place = find_place(set, sink->name);

    if (place != NULL)
        place->name[0] = '\0';
    ledger_drop_cursor(set->ledger, sink->name);
}

/* Behind which receipt a sink that is new here begins. */
static uint64_t first_place(const struct sink_set *set, bool guaranteed)
{
    struct ledger_position position = ledger_position(set->ledger);
    const struct journal_start *start = ledger_start(set->ledger);
    uint64_t before = position.oldest_sequence != 0
                          ? position.oldest_sequence - 1
                          : position.durable_sequence;

    if (!guaranteed && start != NULL && start->last_sequence > before)
        return start->last_sequence;
    return before;
}

static uint64_t start_place(struct sink_set *set, const struct sink *sink)
{
    uint64_t durable = ledger_position(set->ledger).durable_sequence;
    const struct sink_place *place = find_place(set, sink->name);
    uint64_t sequence;

    if (sink->ops->guaranteed &&
        ledger_cursor(set->ledger, sink->name, &sequence))
        return sequence < durable ? sequence : durable;
    return place != NULL ? place->sequence
                         : first_place(set, sink->ops->guaranteed);
}

static enum kv_status check_new(
    struct sink_set *set, const struct sink *sink, struct kv_error *error)
{
    assert(sink->name[0] != '\0');
    if (set->n_sinks == SINK_MAX_SINKS)
        return kv_error_set(error, KV_LIMIT,
            "sink %s: there are %d sinks, as many as are allowed", sink->name,
            SINK_MAX_SINKS);
    KV_LIST_EACH (node, &set->sinks) {
        if (strcmp(sink_at(node)->name, sink->name) == 0)
            return kv_error_set(error, KV_INVALID,
                "sink %s: there is one of this name", sink->name);
    }
    return KV_OK;
}

enum kv_status sink_set_add(
    struct sink_set *set, struct sink *sink, struct kv_error *error)
{
    enum kv_status status = check_new(set, sink, error);

    if (status != KV_OK)
        return status;
    sink->cursor.sequence = start_place(set, sink);
    if (sink->ops->guaranteed && ledger_set_cursor(set->ledger, sink->name,
                                     sink->cursor.sequence) != KV_OK)
        return kv_error_set(error, KV_LIMIT,
            "sink %s: the journal keeps no more positions; %d are allowed",
            sink->name, JOURNAL_MAX_CURSORS);
    sink->set = set;
    sink->cursor.on_ready = on_read;
    sink->acknowledged_sequence = sink->cursor.sequence;
    sink->state = SINK_RUNNING;
    kv_list_append(&set->sinks, &sink->link);
    set->n_sinks++;
    set->n_open++;
    offer_rest(sink);
    return KV_OK;
}

/* ---- gaps, and what lags */

/* What lies before the gap is acknowledged, so the gap is behind it too. */
static void pass_gap(struct sink *sink)
{
    if (sink->acknowledged_sequence + 1 == sink->gap_first) {
        sink->acknowledged_sequence = sink->gap_last;
        sink->n_skipped = 0;
        ledger_set_cursor(sink->set->ledger, sink->name, sink->gap_last);
    }
    sink->gap_first = 0;
}

static void issue_gap(struct sink *sink, int64_t mono_ns)
{
    ledger_issue_sink_gap(sink->set->ledger, sink->name, sink->gap_first,
        sink->gap_last, mono_ns);
    pass_gap(sink);
}

/* Learns the time of the oldest receipt that is not acknowledged. One that lies
 * on disk is asked for now and read with a later tick. */
static void look_at_oldest(struct sink *sink)
{
    const unsigned char *at, *bytes;
    Kvpool__V1__Receipt *receipt;
    struct feed_run run;
    size_t n_bytes;

    if (sink->oldest_sequence == sink->acknowledged_sequence + 1)
        return;
    if (sink->oldest_cursor.sequence != sink->acknowledged_sequence &&
        feed_seek(sink->set->ledger, sink->acknowledged_sequence,
            &sink->oldest_cursor) != KV_OK)
        return;
    if (feed_next(sink->set->ledger, &sink->oldest_cursor, 1, 0, &run) != KV_OK)
        return;
    at = run.bytes;
    feed_run_entry(&run, &at, &bytes, &n_bytes);
    receipt = kvpool__v1__receipt__unpack(NULL, n_bytes, bytes);
    feed_run_release(run.chunk);
    if (receipt == NULL)
        return;
    sink->oldest_sequence = receipt->sequence;
    sink->oldest_unix_ns = receipt->time_unix_ns;
    kvpool__v1__receipt__free_unpacked(receipt, NULL);
}

struct sink_lag sink_lag(const struct sink *sink, int64_t wall_ns)
{
    uint64_t durable = ledger_position(sink->set->ledger).durable_sequence;
    uint64_t acknowledged = sink->acknowledged_sequence;
    struct sink_lag lag = {.n_receipts = durable - acknowledged};

    if (lag.n_receipts > 0 && sink->oldest_sequence == acknowledged + 1 &&
        wall_ns > sink->oldest_unix_ns)
        lag.ns = wall_ns - sink->oldest_unix_ns;
    return lag;
}

/* ---- closing */

static void leave(struct sink_set *set)
{
    void (*closed)(void *ctx) = set->closed;
    void *ctx = set->ctx;

    if (--set->n_open > 0)
        return;
    kv_free(set);
    closed(ctx);
}

/* What is not delivered, another may deliver: the sink of the same name that
 * follows, in this set or, guaranteed and from the journal, after a restart. */
static void tell_undelivered(struct sink *sink)
{
    struct ledger *ledger = sink->set->ledger;
    uint64_t durable = ledger_position(ledger).durable_sequence;
    bool another_follows =
        sink->set->closed == NULL ||
        (sink->ops->guaranteed && ledger_start(ledger) != NULL);

    if (sink->acknowledged_sequence < durable &&
        (sink->is_forgotten || !another_follows))
        lose(sink, sink->acknowledged_sequence + 1, durable,
            "it was closed before they were delivered");
}

static void on_closed(struct sink *sink, void *ctx)
{
    struct sink_set *set = ctx;
    bool is_open = set->closed == NULL;

    tell_undelivered(sink);
    if (sink->is_forgotten)
        forget_place(set, sink);
    else
        keep_place(set, sink);
    kv_list_remove(&sink->link);
    set->n_sinks--;
    kv_free(sink);
    leave(set);
    if (is_open && set->removed != NULL)
        set->removed(set->removed_ctx);
}

/* The last chance to take what is there. */
static void close_sink(struct sink *sink)
{
    if (sink->state == SINK_STOPPING)
        return;
    offer_rest(sink);
    if (sink->ops->flush != NULL)
        sink->ops->flush(sink);
    sink->state = SINK_STOPPING;
    feed_leave(sink->set->ledger, &sink->cursor);
    feed_leave(sink->set->ledger, &sink->oldest_cursor);
    sink->ops->close(sink, on_closed, sink->set);
}

void sink_set_remove(struct sink_set *set, struct sink *sink, bool forget)
{
    assert(sink->set == set);
    (void)set;
    sink->is_forgotten = forget;
    close_sink(sink);
}

void sink_set_close(struct sink_set *set, void (*closed)(void *ctx), void *ctx)
{
    assert(closed != NULL);
    ledger_unwatch(set->ledger, &set->watcher);
    set->closed = closed;
    set->ctx = ctx;
    KV_LIST_EACH (node, &set->sinks) {
        struct sink *sink = sink_at(node);

        if (sink->ops->guaranteed && sink->waits && sink->state == SINK_RUNNING)
            sink->n_ticks_left = CLOSE_TICKS;
        else
            close_sink(sink);
    }
    leave(set);
}

void sink_set_give_up(struct sink_set *set)
{
    assert(set->closed != NULL);
    set->n_open++;
    KV_LIST_EACH (node, &set->sinks)
        close_sink(sink_at(node));
    leave(set);
}

/* ---- ticks */

static void tick(struct sink *sink, int64_t mono_ns)
{
    bool is_leaving = sink->n_ticks_left > 0;

    if (sink->gap_first != 0)
        issue_gap(sink, mono_ns);
    sink->is_held = false;
    offer_rest(sink);
    look_at_oldest(sink);
    if (is_leaving && (--sink->n_ticks_left == 0 || !sink->waits ||
                          sink->state != SINK_RUNNING))
        close_sink(sink);
}

void sink_set_tick(struct sink_set *set, int64_t mono_ns)
{
    set->n_open++; /* a sink that closes must not take the set with it */
    KV_LIST_EACH (node, &set->sinks)
        tick(sink_at(node), mono_ns);
    leave(set);
}
