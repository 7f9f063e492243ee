/* A subscriber: one call of StreamReceipts, from its acceptance to its end.
 *
 * It is a cursor in the ledger and at most one message in flight. When it can
 * take a message it gets the run of receipts that has accumulated since, as it
 * lies in the log: nothing is copied or encoded for it, and readers that are
 * behind get longer runs, not more messages. A filter copies the receipts that
 * it lets through, where it does not let all of a run through.
 *
 *             ┌────────── on_durable ──────────┐
 *             v                                │
 *          due ──> a turn ──> nothing there: waiting
 *             ^       ├─────> in flight ── on_ready: a turn at once
 *             │       ├─────> being read from disk ─┐
 *             └───────┴─ more to look through       │
 *             └─────────────── the cursor is ready ─┘
 *
 * So what news costs does not grow with the number of subscribers within one
 * event: `waiting` becomes `due` at once, and turns are given in slices with
 * other events between. Nothing here runs within a hook of the pool.
 *
 * What a message is (subscriber_*.c): a part of the state that a start with
 * `snapshot` begins with, before everything else; a bookmark when one is due,
 * before receipts, so that a busy stream gets it too; a gap; a run of receipts;
 * `closing` when there is nothing else.
 *
 * Private to server/subscriber*.c and service_receipts.c. Thread: the owner's.
 */
#ifndef SERVER_SUBSCRIBER_H
#define SERVER_SUBSCRIBER_H

#include "receipts/filter.h"
#include "server/server.h"

struct subscriber_listing; /* of the state, while it is being sent */

struct subscriber {
    struct kv_list link; /* in server->subscribers */
    struct kv_list turn; /* in subscribers_waiting or _due, or alone */
    struct server *server;
    struct ledger *ledger;
    struct rpc_call *call;
    struct feed_cursor cursor;
    struct filter *filter;              /* NULL: everything */
    struct subscriber_listing *listing; /* NULL: not, or not any more */
    struct subscriber_gap {             /* not told yet, while last is not 0 */
        uint64_t first, last;
        uint64_t matching;          /* of those that were looked at */
        struct feed_cursor counted; /* never waits for the disk */
    } gap;
    uint32_t max_batch;
    bool lossy, bookmark_due, ending;
    int64_t progress_ns; /* when it last took something, or had nothing to take
                          */
    int64_t bookmark_ns; /* when it was last told its position */
    uint64_t taken_sequence; /* the connection took what goes so far; a message
                                beyond it may be on its way, and be lost */

    uint64_t id, n_sent, n_lost; /* receipts sent, and told to be left out */
    int64_t connected_unix_ns;
};

/* What came of a turn. */
enum turn {
    TURN_OVER,   /* something was sent, the stream ended, or the disk is asked:
                    whoever that is says when there is more */
    TURN_WAITS,  /* nothing is there until something becomes durable */
    TURN_GOES_ON /* nothing was sent yet, and there is more to look at */
};

/* ---- subscriber.c */

/* Takes over filter and listing, and starts the stream; the cursor is set. */
void subscriber_start(struct subscriber *subscriber);

/* Ends the stream, in order if error is NULL. */
void subscriber_end(
    struct subscriber *subscriber, const struct rpc_error *error);
void subscriber_end_no_memory(struct subscriber *subscriber);

/* It has something to do. */
void subscriber_wake(struct subscriber *subscriber);

/* All that wait have. */
void subscriber_wake_all(struct server *server);

/* Each 500 ms: bookmarks that are due, and readers that take nothing. */
void subscriber_tick(struct server *server);

/* Before anything else of this file. */
void subscriber_init(struct server *server);

/* ---- subscriber_send.c: the stream takes a message */

enum turn subscriber_send_receipts(struct subscriber *subscriber);
enum turn subscriber_send_bookmark(struct subscriber *subscriber);

/* There is nothing to send, perhaps for good. */
enum turn subscriber_send_nothing(struct subscriber *subscriber);

/* Encodes and sends; ends the stream where there is no memory. */
void subscriber_send_message(struct subscriber *subscriber,
    const Kvpool__V1__StreamReceiptsResponse *message);

/* Under which epoch the receipt was issued that the cursor is behind. */
uint32_t subscriber_epoch(const struct subscriber *subscriber);

/* ---- subscriber_listing.c */

/* What a start with `snapshot` asks for. NULL: no memory. */
struct subscriber_listing *subscriber_listing_open(
    const Kvpool__V1__StartSnapshot *start);
void subscriber_listing_close(
    struct subscriber_listing *listing); /* NULL is fine */

/* The next part; behind the last, `listing` is gone. */
enum turn subscriber_send_listing(struct subscriber *subscriber);

#endif
