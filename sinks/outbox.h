/* Receipts that a sink has taken and not handed over yet: runs of the ledger's
 * shared log, kept by reference, so that taking copies no bytes.
 *
 *   outbox_take ──> [ run ][ run ][ run ] ──> outbox_drop
 *                      ^ outbox_next walks, oldest first
 *
 * The caller's struct; zeroed, it is empty. What it holds is bounded by whoever
 * takes. A run keeps the chunk of the log that it lies in, of 64 KiB.
 *
 * Thread: one at a time. */
#ifndef SINKS_OUTBOX_H
#define SINKS_OUTBOX_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/status.h"
#include "receipts/ledger.h"

struct outbox_run;

struct outbox {
    struct outbox_run *first, *last;
    uint32_t n_receipts;
    size_t n_bytes; /* of them as encoded */
};

/* Takes receipts from the front of a borrowed run, while the outbox holds fewer
 * than max_receipts and what it comes to hold is at most max_bytes (a single
 * one may be larger). KV_OK: all of them; KV_BUSY: fewer; KV_NO_MEMORY: none.
 */
enum kv_status outbox_take(struct outbox *box, const struct feed_run *run,
    uint32_t max_receipts, size_t max_bytes, uint32_t *n_taken);

/* All that is in `from` goes behind what is in `to`. */
void outbox_move(struct outbox *to, struct outbox *from);

/* Gives back everything up to this sequence. */
void outbox_drop(struct outbox *box, uint64_t through_sequence);
void outbox_clear(struct outbox *box);

/* A place in an outbox; zeroed, before its first receipt. Valid until that
 * receipt is dropped; what is added behind it will be seen. */
struct outbox_place {
    const struct outbox_run *run;
    const unsigned char *at;
    uint64_t sequence; /* of the receipt that outbox_next gave last */
};

/* The bytes of the next receipt; false at the end. */
bool outbox_next(const struct outbox *box, struct outbox_place *place,
    const unsigned char **receipt, size_t *n_bytes);

#endif
