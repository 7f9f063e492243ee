/* The messages of a stream that has begun. */
#include <inttypes.h>
#include <string.h>

#include "base/clock.h"
#include "base/heap.h"
#include "server/message.h"
#include "server/stream_request.h"
#include "server/subscriber.h"

#define RUN_BYTES 65536
#define RETRY_AFTER_NS KV_NS_PER_S

/* Receipts that one turn looks at for a filter that lets none through. */
#define TURN_RECEIPTS 4096

/* ---- control messages */

uint32_t subscriber_epoch(const struct subscriber *subscriber)
{
    struct ledger_position position = ledger_position(subscriber->ledger);
    uint64_t sequence = subscriber->cursor.sequence;
    uint32_t epoch = ledger_epoch_of(subscriber->ledger, sequence);

    /* The last receipt is of this epoch, even if retention has taken it. */
    if (epoch == 0 && sequence > 0 && sequence == position.applied_sequence)
        epoch = position.epoch;
    return epoch;
}

/* *position and *root are what it points into. */
static void fill_position(Kvpool__V1__LedgerPosition *out,
    const struct subscriber *subscriber, struct ledger_position *position,
    struct merkle_hash *root)
{
    kvpool__v1__ledger_position__init(out);
    out->sequence = subscriber->cursor.sequence;
    out->epoch = subscriber_epoch(subscriber);
    out->pool_id.data = position->pool_id;
    out->pool_id.len = sizeof position->pool_id;
    if (merkle_root(ledger_tree(subscriber->ledger),
            subscriber->cursor.sequence, root)) {
        out->root.data = root->bytes;
        out->root.len = sizeof root->bytes;
    }
}

void subscriber_send_message(struct subscriber *subscriber,
    const Kvpool__V1__StreamReceiptsResponse *message)
{
    struct rpc_bytes bytes;

    if (message_encode(&message->base, &bytes))
        rpc_stream_send(subscriber->call, &bytes);
    else
        subscriber_end_no_memory(subscriber);
}

enum turn subscriber_send_bookmark(struct subscriber *subscriber)
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
    subscriber_send_message(subscriber, &response);
    return TURN_OVER;
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
    subscriber_send_message(subscriber, &response);
    if (!subscriber->ending)
        subscriber_end(subscriber, NULL);
}

enum turn subscriber_send_nothing(struct subscriber *subscriber)
{
    struct rpc_error error;
    const char *why;

    if (ledger_state(subscriber->ledger, &why) == LEDGER_FAILED) {
        rpc_error_init(&error, RPC_UNAVAILABLE, "JOURNAL_FAILED",
            "the ledger takes no receipts any more: %s", why);
        subscriber_end(subscriber, &error);
        return TURN_OVER;
    }
    if (!subscriber->server->closing_streams || subscriber->listing != NULL)
        return TURN_WAITS;
    send_closing(subscriber);
    return TURN_OVER;
}

/* ---- readers that are too slow */

static enum turn end_lost(struct subscriber *subscriber)
{
    struct rpc_error error;

    stream_request_refuse_lost(
        &error, subscriber->ledger, subscriber->cursor.sequence);
    subscriber_end(subscriber, &error);
    return TURN_OVER;
}

static enum turn end_unreadable(struct subscriber *subscriber)
{
    struct rpc_error error;

    rpc_error_init(&error, RPC_INTERNAL, "INTERNAL_ERROR",
        "receipt %" PRIu64 " cannot be read from the journal",
        subscriber->cursor.sequence + 1);
    subscriber_end(subscriber, &error);
    return TURN_OVER;
}

static bool is_far_behind(const struct subscriber *subscriber)
{
    struct ledger_position position = ledger_position(subscriber->ledger);

    return subscriber->lossy &&
           position.durable_sequence > subscriber->cursor.sequence &&
           position.durable_sequence - subscriber->cursor.sequence >
               subscriber->server->options->lossy_lag_receipts;
}

/* ---- gaps
 *
 * What a LOSSY reader will not get is counted before it is told, as far as that
 * needs no disk: a turn's worth at a time, and meanwhile its place stays where
 * it is. */

/* The newest place that leaves it a message's worth. */
static uint64_t gap_end(const struct subscriber *subscriber)
{
    struct ledger_position position = ledger_position(subscriber->ledger);
    uint64_t to = position.durable_sequence;

    to -= to < subscriber->max_batch ? to : subscriber->max_batch;
    if (position.oldest_sequence == 0)
        return position.durable_sequence;
    return to + 1 < position.oldest_sequence ? position.oldest_sequence - 1
                                             : to;
}

/* Moves the reader behind the gap. What has left the ledger since it was begun
 * makes it longer, by what nobody has counted. */
static bool pass_gap(struct subscriber *subscriber)
{
    struct subscriber_gap *gap = &subscriber->gap;

    if (feed_seek(subscriber->ledger, gap->last, &subscriber->cursor) == KV_OK)
        return true;
    gap->matching = 0;
    gap->last = gap_end(subscriber);
    return feed_seek(subscriber->ledger, gap->last, &subscriber->cursor) ==
           KV_OK;
}

static enum turn send_gap(struct subscriber *subscriber)
{
    struct subscriber_gap *gap = &subscriber->gap;
    Kvpool__V1__StreamReceiptsResponse response =
        KVPOOL__V1__STREAM_RECEIPTS_RESPONSE__INIT;
    Kvpool__V1__Gap told = KVPOOL__V1__GAP__INIT;

    if (!pass_gap(subscriber))
        return end_lost(subscriber);
    told.first_sequence = gap->first;
    told.last_sequence = gap->last;
    told.matching = gap->matching;
    subscriber->n_lost += gap->last - gap->first + 1;
    gap->last = 0;
    response.gap = &told;
    subscriber_send_message(subscriber, &response);
    return TURN_OVER;
}

/* How many the gap has is not known: 0 says so. */
static enum turn send_uncounted_gap(struct subscriber *subscriber)
{
    feed_leave(subscriber->ledger, &subscriber->gap.counted);
    subscriber->gap.matching = 0;
    return send_gap(subscriber);
}

static uint32_t count_matching(
    const struct feed_run *run, const struct filter *filter)
{
    const unsigned char *at = run->bytes, *receipt;
    uint32_t n_matching = 0;
    size_t n;

    while (feed_run_entry(run, &at, &receipt, &n))
        n_matching += filter_matches(filter, receipt, n);
    return n_matching;
}

static enum turn count_gap(struct subscriber *subscriber)
{
    struct subscriber_gap *gap = &subscriber->gap;
    struct feed_run run;

    for (uint32_t n_seen = 0; n_seen < TURN_RECEIPTS;
         n_seen += run.n_receipts) {
        uint64_t n_left = gap->last - gap->counted.sequence;

        if (n_left == 0)
            return send_gap(subscriber);
        if (feed_next(subscriber->ledger, &gap->counted,
                n_left < STREAM_MAX_BATCH ? (uint32_t)n_left : STREAM_MAX_BATCH,
                RUN_BYTES, &run) != KV_OK)
            return send_uncounted_gap(subscriber);
        gap->matching += count_matching(&run, subscriber->filter);
        feed_run_release(run.chunk);
    }
    return TURN_GOES_ON;
}

static enum turn begin_gap(struct subscriber *subscriber)
{
    struct subscriber_gap *gap = &subscriber->gap;

    gap->first = subscriber->cursor.sequence + 1;
    gap->last = gap_end(subscriber);
    if (gap->last < gap->first)
        return end_lost(subscriber);
    gap->matching = subscriber->filter == NULL ? gap->last - gap->first + 1 : 0;
    gap->counted = (struct feed_cursor){
        .sequence = subscriber->filter == NULL ? gap->last : gap->first - 1};
    return count_gap(subscriber);
}

/* ---- receipts */

static enum turn send_no_run(
    struct subscriber *subscriber, enum kv_status status)
{
    switch (status) {
    case KV_BUSY:
        return TURN_OVER;
    case KV_DATA_LOSS:
        return subscriber->lossy ? begin_gap(subscriber) : end_lost(subscriber);
    case KV_IO:
        return end_unreadable(subscriber);
    case KV_NO_MEMORY:
        subscriber_end_no_memory(subscriber);
        return TURN_OVER;
    default:
        return subscriber_send_nothing(subscriber);
    }
}

/* Sends bytes of the run as they lie in the log; they are given back then. */
static void send_run(struct subscriber *subscriber, const struct feed_run *run,
    size_t begin, size_t end)
{
    rpc_stream_send(
        subscriber->call, &(struct rpc_bytes){.data = run->bytes + begin,
                              .n = end - begin,
                              .release = feed_run_release,
                              .ctx = run->chunk});
}

static enum turn send_all(struct subscriber *subscriber)
{
    struct feed_run run;
    enum kv_status status = feed_next(subscriber->ledger, &subscriber->cursor,
        subscriber->max_batch, RUN_BYTES, &run);

    if (status != KV_OK)
        return send_no_run(subscriber, status);
    subscriber->n_sent += run.n_receipts;
    send_run(subscriber, &run, 0, run.n_bytes);
    return TURN_OVER;
}

/* What a filter lets through of a run: as many as a message may have. */
struct choice {
    uint64_t chosen[STREAM_MAX_BATCH / 64]; /* a bit for each entry */
    uint32_t n_seen, n_chosen;
    size_t n_bytes;    /* of what is chosen */
    size_t begin, end; /* of the first chosen entry, behind the last */
    bool last_chosen;  /* the last that was seen */
};

static void choose(struct choice *choice, const struct feed_run *run,
    const struct filter *filter, uint32_t max_batch)
{
    const unsigned char *at = run->bytes, *entry = at, *receipt;
    size_t n;

    memset(choice, 0, sizeof *choice);
    while (choice->n_chosen < max_batch &&
           feed_run_entry(run, &at, &receipt, &n)) {
        uint32_t i = choice->n_seen++;

        choice->last_chosen = filter_matches(filter, receipt, n);
        if (choice->last_chosen) {
            if (choice->n_chosen++ == 0)
                choice->begin = (size_t)(entry - run->bytes);
            choice->end = (size_t)(at - run->bytes);
            choice->n_bytes += (size_t)(at - entry);
            choice->chosen[i / 64] |= UINT64_C(1) << (i % 64);
        }
        entry = at;
    }
}

static void copy_chosen(
    unsigned char *out, const struct choice *choice, const struct feed_run *run)
{
    const unsigned char *at = run->bytes, *entry = at, *receipt;
    size_t n;

    for (uint32_t i = 0; i < choice->n_seen; i++) {
        feed_run_entry(run, &at, &receipt, &n);
        if ((choice->chosen[i / 64] >> (i % 64) & 1) != 0) {
            memcpy(out, entry, (size_t)(at - entry));
            out += at - entry;
        }
        entry = at;
    }
}

/* A copy of what is chosen, and behind it how far the reader is then. */
static void send_copy(struct subscriber *subscriber,
    const struct choice *choice, const struct feed_run *run)
{
    Kvpool__V1__StreamReceiptsResponse rest =
        KVPOOL__V1__STREAM_RECEIPTS_RESPONSE__INIT;
    unsigned char *bytes;
    size_t n_rest;

    rest.through_sequence = subscriber->cursor.sequence;
    rest.through_epoch = subscriber_epoch(subscriber);
    n_rest = kvpool__v1__stream_receipts_response__get_packed_size(&rest);
    bytes = kv_realloc(NULL, choice->n_bytes + n_rest);
    if (bytes == NULL) {
        subscriber_end_no_memory(subscriber);
    } else {
        copy_chosen(bytes, choice, run);
        kvpool__v1__stream_receipts_response__pack(
            &rest, bytes + choice->n_bytes);
        rpc_stream_send(subscriber->call, &(struct rpc_bytes){.data = bytes,
                                              .n = choice->n_bytes + n_rest,
                                              .release = kv_free,
                                              .ctx = bytes});
    }
    feed_run_release(run->chunk);
}

/* Where what is chosen lies together, up to the last that was seen, it is a
 * message as it is: its last receipt says how far the reader is. */
static void send_chosen(struct subscriber *subscriber,
    const struct choice *choice, const struct feed_run *run)
{
    subscriber->n_sent += choice->n_chosen;
    if (choice->last_chosen && choice->end - choice->begin == choice->n_bytes)
        send_run(subscriber, run, choice->begin, choice->end);
    else
        send_copy(subscriber, choice, run);
}

static enum turn send_matching(struct subscriber *subscriber)
{
    struct choice choice;
    struct feed_run run;

    for (uint32_t n_seen = 0; n_seen < TURN_RECEIPTS; n_seen += choice.n_seen) {
        enum kv_status status = feed_next(subscriber->ledger,
            &subscriber->cursor, STREAM_MAX_BATCH, RUN_BYTES, &run);

        if (status != KV_OK)
            return send_no_run(subscriber, status);
        choose(&choice, &run, subscriber->filter, subscriber->max_batch);
        subscriber->cursor.sequence = run.first_sequence + choice.n_seen - 1;
        if (choice.n_chosen > 0) {
            send_chosen(subscriber, &choice, &run);
            return TURN_OVER;
        }
        feed_run_release(run.chunk);
    }
    return TURN_GOES_ON;
}

enum turn subscriber_send_receipts(struct subscriber *subscriber)
{
    if (subscriber->gap.last != 0)
        return count_gap(subscriber);
    if (is_far_behind(subscriber))
        return begin_gap(subscriber);
    return subscriber->filter == NULL ? send_all(subscriber)
                                      : send_matching(subscriber);
}
