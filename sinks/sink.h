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
     * *n_taken; KV_BUSY with fewer than all taken means: not now, I will call
     * sink_ready. The run is borrowed for the call. */
    enum kv_status (*offer)(
        struct sink *sink, const struct feed_run *run, uint32_t *n_taken);

    /* Hand on what was taken so far and is held back; may be NULL. */
    void (*flush)(struct sink *sink);

    /* Stop, then call back, once, now or later. The sink's memory may be freed
     * in the callback and not before. */
    void (*close)(struct sink *sink, sink_closed_cb closed, void *ctx);
};

/* Embed as the first member of the concrete sink, which fills in ops and name
 * (borrowed). The rest is the set's. */
struct sink {
    const struct sink_ops *ops;
    const char *name;
    struct sink_set *set;
    struct kv_list link;
    struct feed_cursor cursor;
    uint64_t delivered_total, lost_total;
};

/* All sinks of a server behind one ledger. */
enum kv_status sink_set_open(struct sink_set **out, struct ledger *ledger);

/* Starts at the ledger's oldest receipt. */
void sink_set_add(struct sink_set *set, struct sink *sink);

/* The sink can take again. */
void sink_ready(struct sink *sink);

/* Offers all the rest, flushes, closes every sink, frees the set, then calls
 * back, now or later. */
void sink_set_close(struct sink_set *set, void (*closed)(void *ctx), void *ctx);

#endif
