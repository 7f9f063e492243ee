/* Reads chunks of the log from where that takes time, for readers that may not
 * wait: one thread reads, cursors are told.
 *
 *   owner                                       the loader's thread
 *   loader_find ── KV_BUSY, queued ──────────>  read, one after the other
 *   <─────────────── wake ────────────────────  done
 *   loader_collect ──> on_ready of each cursor
 *   loader_find ── KV_OK, the chunk
 *
 * A cursor has one load at most: the chunk it reads, or the one it waits for.
 * Who wants what somebody else waits for waits for the same, and chunks that
 * nobody has any more stay for a while, LOADER_IDLE of them; so readers that go
 * the same way read the disk once, however many they are.
 *
 * Thread: the owner's. */
#ifndef RECEIPTS_LOADER_H
#define RECEIPTS_LOADER_H

#include "base/error.h"
#include "receipts/ledger.h"
#include "receipts/ring.h"

struct loader;

#define LOADER_IDLE 8

struct loader_config {
    /* Of the loader's thread: the chunk that has this receipt, with one
     * reference. */
    enum kv_status (*load)(void *ctx, uint64_t sequence,
        struct ring_chunk **out, struct kv_error *error);
    void *load_ctx;
    void (*wake)(void *ctx); /* call loader_collect soon */
    void *wake_ctx;
};

/* KV_NO_MEMORY; KV_LIMIT: no thread. */
enum kv_status loader_open(struct loader **out,
    const struct loader_config *config, struct kv_error *error);
/* Cursors that still have a load are not to be used with it again. NULL is
 * fine. */
void loader_close(struct loader *loader);

/* The chunk that has this receipt, borrowed until the cursor asks again or
 * leaves.
 *   KV_BUSY       cursor->on_ready will be called
 *   KV_NO_MEMORY  and it will not
 *   others        what load said; asked again, it is tried again */
enum kv_status loader_find(struct loader *loader, struct feed_cursor *cursor,
    uint64_t sequence, struct ring_chunk **out);

/* The cursor gives back what it has or waits for; on_ready is not called. */
void loader_leave(struct loader *loader, struct feed_cursor *cursor);

/* Tells the cursors whose chunks are there. They may ask, leave and go. */
void loader_collect(struct loader *loader);

#endif
