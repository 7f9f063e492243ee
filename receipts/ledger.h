/* The ledger: what happened to the pool, numbered, and readable from any point
 * that it still holds.
 *
 *   pool hook -> numbered and encoded, in this turn   (applied_sequence)
 *             -> released once its blocks are zeroed
 *             -> synced, where there is a journal     (durable_sequence)
 *             -> feeds: cursors of streams and sinks
 *
 * Sequences are dense, from 1. A receipt is encoded once, into the shared log;
 * no later receipt overtakes one whose blocks are still being zeroed. The log
 * is a bounded ring in memory: its oldest receipts go when it is full. With a
 * journal they are read from disk then, as long as its retention keeps them;
 * without, or beyond, readers that had not taken them are told so, never
 * skipped silently. Receipts that are not durable yet are never dropped; they
 * may take the ring beyond its limit.
 *
 * The log is made of chunks of encoded entries (0x0a, length, Receipt), so that
 * any run of entries is a whole StreamReceiptsResponse. A run that was taken
 * keeps its chunk alive by reference until it is given back, on any thread; so
 * sending a receipt to many subscribers copies nothing.
 *
 * Each receipt is a leaf of a Merkle tree from the moment it is numbered, so
 * that anybody can be shown later what was there and that nothing was changed.
 * Its hashes stay when the ring has dropped the receipt: 64 bytes for each, for
 * the ledger's life.
 *
 * Memory: no number is ever lost. A change is numbered only where its receipt
 * has its place already. Where the system has no memory for one, the ring gives
 * up its oldest receipts early; where every byte of it is held by readers or
 * waits for zeroing, or where the tree cannot grow, the ledger fails: from then
 * on it numbers nothing, says so in the log and by ledger_failed(), and what it
 * holds stays readable.
 *
 * Hooks of allocations and releases are listened to only where those receipts
 * are asked for.
 *
 * Thread: the owner's, except feed_run_release. */
#ifndef RECEIPTS_LEDGER_H
#define RECEIPTS_LEDGER_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/error.h"
#include "base/list.h"
#include "kvpool/v1/receipts.pb-c.h"
#include "pool/observer.h"
#include "receipts/journal.h"
#include "receipts/merkle.h"
#include "receipts/performance.h"

struct ledger;

#define LEDGER_MIN_RING_BYTES ((size_t)1 << 20)

/* A receipt is at most a record of 64 KiB, less the frame that it has in a
 * journal (24 bytes in front, up to 7 of padding behind). */
#define LEDGER_MAX_RECEIPT_BYTES 65512

/* Outcomes in one EvictCall at most: so many fit into a receipt however long
 * their names and numbers, beside a request_id of 64 bytes, a digest of 32 and
 * a principal of LEDGER_MAX_PRINCIPAL_BYTES. */
#define LEDGER_MAX_CALL_OUTCOMES 192
#define LEDGER_MAX_PRINCIPAL_BYTES 256

struct ledger_config {
    size_t ring_bytes;   /* the log holds at most this much; at least 1 MiB */
    uint8_t pool_id[16]; /* UUID of this ledger */
    uint32_t epoch;      /* from 1 */
    uint8_t config_digest[32];
    /* NULL: the ring in memory is all there is. Otherwise the ring is what was
     * written last, pool_id and epoch are the journal's (those given here are
     * not looked at), and `wake` is to lead to ledger_poll. */
    const struct journal_config *journal;
    uint32_t max_ahead; /* receipts that may wait for the disk before changes
                           that need another one have to wait */
    bool allocations;   /* receipts of allocations and releases too */
    int64_t (*wall_ns)(void);        /* wall clock; a test may give its own */
    struct performance *performance; /* borrowed; NULL: no reports; looked at
                                        in builds with KVPOOL_TUNING only */
};

/* KV_INVALID: ring_bytes, epoch or max_ahead is too small. KV_NO_MEMORY. With a
 * journal also what journal_open says; and KV_LIMIT: no thread. *out is
 * untouched on failure. */
enum kv_status ledger_open(struct ledger **out,
    const struct ledger_config *config, struct kv_error *error);
/* With a journal: once all that was released is synced. Runs that are out stay
 * valid. NULL is fine. */
void ledger_close(struct ledger *ledger);

/* To be given to the pool; lives as long as the ledger. Its may_evict is
 * whether ledger_state is LEDGER_OK, and so is may_allocate where allocations
 * are recorded. */
const struct pool_observer *ledger_observer(struct ledger *ledger);

/* ---- receipts that do not come from the pool's hooks */

struct ledger_boot {
    const char *version, *policy, *model;
    uint64_t total_blocks, block_bytes;
    uint32_t block_tokens;
    const uint8_t *model_digest; /* 32 bytes, or NULL */
};
/* With a journal it says how the epoch before ended, and where a damaged ledger
 * was given up, a receipt of that loss follows. */
void ledger_issue_boot(
    struct ledger *ledger, const struct ledger_boot *boot, int64_t mono_ns);
void ledger_issue_drain(struct ledger *ledger, const char *cause,
    int64_t limit_ns, int64_t mono_ns);

/* A sink will not get these receipts: they had left the ledger. */
void ledger_issue_sink_gap(struct ledger *ledger, const char *sink,
    uint64_t first_sequence, uint64_t last_sequence, int64_t mono_ns);

/* The configuration in force is another one from here on. At most
 * LEDGER_MAX_CHANGES names, of at most 128 bytes each. */
#define LEDGER_MAX_CHANGES 256
struct ledger_configuration_change {
    const uint8_t *previous_digest; /* 32 bytes, and of the new: */
    const uint8_t *config_digest;
    const char *const *names; /* of what changed */
    size_t n_names;
    const char *requested_by; /* the principal, or the signal */
};
void ledger_issue_configuration_change(struct ledger *ledger,
    const struct ledger_configuration_change *change, int64_t mono_ns);

struct ledger_pool_snapshot {
    struct pool_stats stats;
    uint64_t sessions_created;
    uint64_t evictions_by_reason[POOL_REASON_END];
};
/* Nothing while the disk is full. */
void ledger_issue_snapshot(struct ledger *ledger,
    const struct ledger_pool_snapshot *snapshot, int64_t mono_ns);

/* The next batch that the pool tells for reason MANUAL belongs to an Evict
 * call: its receipt carries this. Borrowed until that batch has been told, and
 * encoded in that turn, so outcomes may be added meanwhile: at most
 * LEDGER_MAX_CALL_OUTCOMES, each with names of at most 128 bytes. A call on
 * more sessions is several batches. */
void ledger_set_call(struct ledger *ledger, const Kvpool__V1__EvictCall *call);

/* ---- where it stands */

struct ledger_position {
    uint8_t pool_id[16];
    uint32_t epoch;
    uint64_t applied_sequence; /* numbered */
    uint64_t durable_sequence; /* released, readable */
    uint64_t oldest_sequence;  /* 0 if there is none */
    uint64_t stored_bytes, limit_bytes;
    /* While receipts wait for the disk: when it last made one durable, or they
     * began to wait. On the monotonic clock; 0 without a journal. */
    int64_t silent_since_ns;
};
struct ledger_position ledger_position(const struct ledger *ledger);

/* Whether the ledger had to stop numbering (see above). It stays so. */
bool ledger_failed(const struct ledger *ledger);

/* Whether a change that needs a receipt may be made now. */
enum ledger_state {
    LEDGER_OK,
    LEDGER_BEHIND, /* max_ahead receipts wait for the disk; soon again */
    LEDGER_FULL,   /* the disk is full, or no file may be opened */
    LEDGER_FAILED, /* for good: the journal has met an error, or no memory */
};
/* *error is what happened, "" while it is well; borrowed until the next call.
 */
enum ledger_state ledger_state(const struct ledger *ledger, const char **error);
/* While LEDGER_FULL the number of what happened: ENOSPC, EMFILE. */
int ledger_error_number(const struct ledger *ledger);

/* What the journal's threads have done since: durable_sequence grows, watchers
 * and readers are called. Soon after each wake, which comes of other threads;
 * nothing without a journal. */
void ledger_poll(struct ledger *ledger);

/* What the start found on disk; NULL without a journal. */
const struct journal_start *ledger_start(const struct ledger *ledger);

/* The tree over the ledger's receipts, at least all that are durable: leaf
 * `sequence - 1` is the receipt as encoded. What lies beyond durable_sequence
 * is nobody's yet. */
struct merkle *ledger_tree(struct ledger *ledger);

/* Under which epoch a receipt was issued; 0: it is gone, or not there yet. */
uint32_t ledger_epoch_of(const struct ledger *ledger, uint64_t sequence);

/* How far a reader of this name has got, kept over a restart (and holding back
 * retention) where there is a journal; without one nothing is kept. false:
 * there is none of that name. KV_LIMIT: too many names. */
enum kv_status ledger_set_cursor(
    struct ledger *ledger, const char *name, uint64_t sequence);
bool ledger_cursor(struct ledger *ledger, const char *name, uint64_t *sequence);
void ledger_drop_cursor(struct ledger *ledger, const char *name);

/* The newest signed note that is kept, with a journal. 0 bytes: none. Borrowed
 * until the next is kept. Without a journal nothing is kept. */
size_t ledger_checkpoint(const struct ledger *ledger, const void **note);
void ledger_keep_checkpoint(struct ledger *ledger, const void *note,
    size_t n_bytes, uint64_t tree_size);

/* A watcher is called after receipts became durable, once a release, and with a
 * journal also after ledger_state has changed for the disk's sake. That may be
 * within a hook of the pool: it reads, and never calls the pool, and issues no
 * receipt. It may add and remove watchers, itself included; one that was
 * added meanwhile is first called the next time. */
struct ledger_watcher {
    void (*on_durable)(struct ledger_watcher *watcher);
    struct ledger_watcher *prev, *next; /* the ledger's */
};
void ledger_watch(struct ledger *ledger, struct ledger_watcher *watcher);
void ledger_unwatch(struct ledger *ledger, struct ledger_watcher *watcher);

/* ---- reading */

/* A place in the log: everything up to `sequence` has been read. The caller's;
 * zeroed, it is before the first receipt. A reader that used only part of a run
 * sets sequence back to the last one used. chunk is a hint of the ledger's, and
 * any value is safe.
 *
 * What has left the ring is read from disk, by another thread: feed_next says
 * KV_BUSY then, and on_ready is called when it is worth asking again, from
 * ledger_poll, never within a hook of the pool. A reader that stops meanwhile
 * leaves with feed_leave. A cursor is not copied. */
struct feed_cursor {
    uint64_t sequence;
    uint64_t chunk;
    void (*on_ready)(struct feed_cursor *cursor); /* the caller's; may be NULL
                                                     where KV_BUSY is asked
                                                     again anyway */
    /* The ledger's: what is read from disk for it. */
    struct feed_load *load;
    struct kv_list waiting; /* where waits */
    bool waits;
};

struct feed_run {
    uint64_t first_sequence;
    uint32_t n_receipts;
    const unsigned char *bytes; /* encoded entries: 0x0a, length, Receipt */
    size_t n_bytes;
    void *chunk;
};

/* Moves the cursor behind `sequence`; on_ready stays. KV_RANGE: it is ahead of
 * what is applied. KV_DATA_LOSS: the receipt after it is gone already. */
enum kv_status feed_seek(
    struct ledger *ledger, uint64_t sequence, struct feed_cursor *cursor);

/* Gives back what was read from disk for the cursor; on_ready will not be
 * called. It may be used again. */
void feed_leave(struct ledger *ledger, struct feed_cursor *cursor);

/* The next run of at most max_receipts and about max_bytes, at least one
 * receipt; the cursor moves behind it. The caller gives it back.
 *   KV_NOT_FOUND  nothing yet
 *   KV_BUSY       it is being read from disk
 *   KV_DATA_LOSS  the next receipt is gone; the cursor stays
 *   KV_IO         it cannot be read from disk; the cursor stays */
enum kv_status feed_next(struct ledger *ledger, struct feed_cursor *cursor,
    uint32_t max_receipts, size_t max_bytes, struct feed_run *run);

/* Keeps a run that was borrowed: it is to be released once more. */
void feed_run_retain(const struct feed_run *run);
/* Any thread, once a run. */
void feed_run_release(void *chunk);

/* The bytes of the next Receipt in a run: *at starts at run->bytes and moves
 * on; false at the end. */
bool feed_run_entry(const struct feed_run *run, const unsigned char **at,
    const unsigned char **receipt, size_t *n_bytes);

#endif
