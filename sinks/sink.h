/* Somewhere receipts go: the log, a channel, a file, an endpoint, a broker.
 *
 * A sink is a reader of the ledger with a position of its own. It is offered
 * durable receipts in order, says how far it got, and is offered the rest when
 * it is ready again; so a slow one costs nobody else anything, and a dead one
 * costs what it holds back, which is bounded.
 *
 *   offer ──> taken ──> (its own batch, its own retries) ──> sink_acknowledge
 *              cursor                                         acknowledged
 *
 * A guaranteed sink delivers everything at least once: its acknowledged
 * position is kept in the journal and is where the next start goes on. A
 * receipt's key, for the target to know a duplicate by, is
 * `pool_id/epoch/sequence` (sink_receipt_key). The others take and forget.
 *
 * A new kind of sink is one new file: a sink_kind, its settings and its ops.
 *
 * Thread: the owner's, everything; a sink may use others, and comes back. */
#ifndef SINKS_SINK_H
#define SINKS_SINK_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/error.h"
#include "base/list.h"
#include "base/status.h"
#include "receipts/ledger.h"

#define SINK_NAME_BYTES 64 /* as JOURNAL_NAME_BYTES */
#define SINK_MAX_SINKS 64  /* in a set, as JOURNAL_MAX_CURSORS */
#define SINK_ERROR_BYTES 192

struct sink;
struct sink_set;
typedef void (*sink_closed_cb)(struct sink *sink, void *ctx);

struct sink_ops {
    const char *kind; /* "log", "channel", ... */
    bool guaranteed;

    /* Must not block. Takes receipts from the front of the run and sets
     * *n_taken. KV_OK: all of them. KV_BUSY: fewer, and not now, I will call
     * sink_ready. KV_NO_MEMORY: fewer; the rest is offered again with what
     * comes next. The run is borrowed for the call; who needs its bytes for
     * longer, on another thread perhaps, takes feed_run_retain. May be called
     * within a hook of the pool. */
    enum kv_status (*offer)(
        struct sink *sink, const struct feed_run *run, uint32_t *n_taken);

    /* Hand on what was taken so far and is held back; may be NULL. */
    void (*flush)(struct sink *sink);

    /* Stop, give back everything but the sink's own struct, then call back,
     * once, now or later. A guaranteed sink gives up on what is not
     * acknowledged within its `close_ms`: the next start delivers it. The set
     * frees the struct in the callback. */
    void (*close)(struct sink *sink, sink_closed_cb closed, void *ctx);
};

/* As SinkState of the contract. */
enum sink_state {
    SINK_RUNNING = 1,  /* delivering, or with nothing to deliver */
    SINK_RETRYING = 2, /* the last delivery failed */
    SINK_FAILED = 3,   /* given up until the configuration changes */
    SINK_STOPPING = 4,
};

/* Embed as the first member of the concrete sink, one kv_calloc that fills in
 * ops and name. The rest is the set's, for reading only. */
struct sink {
    const struct sink_ops *ops;
    char name[SINK_NAME_BYTES + 1];
    struct sink_set *set;
    struct kv_list link;
    struct feed_cursor cursor; /* offered */
    bool waits;                /* until sink_ready */
    bool is_held;              /* until sink_set_tick */
    bool is_forgotten;         /* its position goes with it */
    uint32_t n_ticks_left;     /* to take the rest before it is closed */
    enum sink_state state;
    uint64_t acknowledged_sequence; /* guaranteed: by the target; else: taken */
    uint64_t delivered_total;       /* receipts acknowledged */
    uint64_t retries_total;
    uint64_t lost_total; /* receipts that it will never get: they had left the
                            ledger, or the set closed while a sink without
                            guarantee did not take. Each such gap is a receipt,
                            or a line in the log. */
    uint64_t gap_first, gap_last; /* of a gap that is no receipt yet; or 0 */
    uint64_t n_skipped;           /* in gaps behind what is acknowledged */
    struct feed_cursor oldest_cursor; /* to learn the next two with */
    uint64_t oldest_sequence;         /* the first not acknowledged, as last */
    int64_t oldest_unix_ns;           /* looked at, and its time */
    char last_error[SINK_ERROR_BYTES];
    int64_t last_error_unix_ns;
};

/* ---- what sinks call */

/* The sink can take again, and is offered the rest. Not within an offer. */
void sink_ready(struct sink *sink);

/* The target has everything up to this receipt, which the sink had taken. */
void sink_acknowledge(struct sink *sink, uint64_t sequence);

/* A delivery failed and will be tried again. For people, one line. */
__attribute__((format(printf, 2, 3))) void sink_failed(
    struct sink *sink, const char *format, ...);

/* No delivery will ever succeed as things are set: the sink is FAILED, offered
 * nothing more, and keeps its place, until it is closed. For people, one line.
 */
__attribute__((format(printf, 2, 3))) void sink_gives_up(
    struct sink *sink, const char *format, ...);

/* How long to wait before try number n (from 1): doubling from least_ms to
 * most_ms, of which a random half is taken off, so that many do not come back
 * at once. */
uint64_t sink_backoff_ms(uint32_t n, uint64_t least_ms, uint64_t most_ms);

/* pool_id as 32 hexadecimal digits, epoch and sequence: what names a receipt
 * for ever. */
struct sink_key {
    char s[32 + 1 + 10 + 1 + 20 + 1];
};
struct sink_key sink_receipt_key(
    const uint8_t pool_id[16], uint32_t epoch, uint64_t sequence);

/* ---- the set */

/* All sinks of a server behind one ledger, which is borrowed and outlives the
 * set. KV_NO_MEMORY. */
enum kv_status sink_set_open(struct sink_set **out, struct ledger *ledger);

/* Starts behind what is kept as acknowledged under this name; or else, if it is
 * guaranteed, at the oldest receipt, or else at the oldest of this epoch. The
 * sink is the set's from here. KV_INVALID: there is one of this name, perhaps
 * still closing; KV_LIMIT: too many; it is the caller's still. */
enum kv_status sink_set_add(
    struct sink_set *set, struct sink *sink, struct kv_error *error);

/* Closes one, as sink_set_close does all; it is in the set, STOPPING, until it
 * is closed. Where `forget`, its position is dropped: a later sink of the name
 * starts anew. Not within an offer. */
void sink_set_remove(struct sink_set *set, struct sink *sink, bool forget);

/* Called after a sink that was removed is closed and gone, so that another may
 * take its name; not while the set closes. */
void sink_set_on_removed(
    struct sink_set *set, void (*removed)(void *ctx), void *ctx);

/* The first, and the next; NULL at the end. */
struct sink *sink_set_first(struct sink_set *set);
struct sink *sink_set_next(struct sink_set *set, struct sink *sink);

/* To be called about once a second, also while the set closes, never within a
 * hook of the pool, nor by what a sink calls back: issues the
 * receipts of gaps, which the sinks wait for; tries again what could not be
 * read; learns how old the oldest receipt is that a sink lacks. */
void sink_set_tick(struct sink_set *set, int64_t mono_ns);

/* Durable receipts that it has not acknowledged, and the age of the oldest of
 * them, as of the last tick. */
struct sink_lag {
    uint64_t n_receipts;
    int64_t ns;
};
struct sink_lag sink_lag(const struct sink *sink, int64_t wall_ns);

/* Offers all the rest (what a sink without guarantee does not take then is lost
 * to it), flushes, closes every sink, frees the set, then calls back, now or
 * later. Not within an offer. A guaranteed sink that delivers, but cannot take
 * all at once, is closed with the tick after it has, or with the fifth. */
void sink_set_close(struct sink_set *set, void (*closed)(void *ctx), void *ctx);

/* After sink_set_close: none of them gets more time to take the rest. */
void sink_set_give_up(struct sink_set *set);

#endif
