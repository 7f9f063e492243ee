/* Somewhere receipts go: the log, a channel, a file, an endpoint, a broker.
 *
 * A sink is a reader of the ledger with a position of its own. It is offered
 * durable receipts in order, says how far it got, and is offered the rest when
 * it is ready again; so a slow one costs nobody else anything. A new kind of
 * sink is one new file that fills in sink_ops.
 *
 * Thread: the owner's, everything. */
#ifndef SINKS_SINK_H
#define SINKS_SINK_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/list.h"
#include "base/status.h"
#include "receipts/ledger.h"

struct sink;
struct sink_set;
typedef void (*sink_closed_cb)(struct sink *sink, void *ctx);

struct sink_ops {
    const char *kind; /* "log", "channel", ... */

    /* Must not block. Takes receipts from the front of the run and sets
     * *n_taken. KV_OK: all of them. KV_BUSY: fewer, and not now, I will call
     * sink_ready. KV_NO_MEMORY: fewer; the rest is offered again with what
     * comes next. The run is borrowed for the call. May be called within a
     * hook of the pool. */
    enum kv_status (*offer)(
        struct sink *sink, const struct feed_run *run, uint32_t *n_taken);

    /* Hand on what was taken so far and is held back; may be NULL. */
    void (*flush)(struct sink *sink);

    /* Stop, give back everything but the sink's own struct, then call back,
     * once, now or later. The set frees the struct in the callback. */
    void (*close)(struct sink *sink, sink_closed_cb closed, void *ctx);
};

/* Embed as the first member of the concrete sink, one kv_calloc that fills in
 * ops and name (borrowed). The rest is the set's. */
struct sink {
    const struct sink_ops *ops;
    const char *name;
    struct sink_set *set;
    struct kv_list link;
    struct feed_cursor cursor;
    bool waits;               /* until sink_ready */
    uint64_t delivered_total; /* receipts taken */
    uint64_t lost_total; /* receipts that it will never get: they had left the
                            ledger, or the set closed while it did not take.
                            Each such gap is a line in the log. */
};

/* All sinks of a server behind one ledger, which is borrowed and outlives the
 * set. KV_NO_MEMORY. */
enum kv_status sink_set_open(struct sink_set **out, struct ledger *ledger);

/* Starts at the ledger's oldest receipt, now. The sink is the set's from here.
 */
void sink_set_add(struct sink_set *set, struct sink *sink);

/* The sink can take again, and is offered the rest. Not within an offer. */
void sink_ready(struct sink *sink);

/* Offers all the rest (what a sink does not take then is lost to it), flushes,
 * closes every sink, frees the set, then calls back, now or later. Not within
 * an offer. */
void sink_set_close(struct sink_set *set, void (*closed)(void *ctx), void *ctx);

#endif
