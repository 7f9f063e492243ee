/* The journal: the ledger's receipts on disk, in the order of their numbers.
 *
 *   data_dir/receipts/
 *     LOCK                       held by the one process that writes
 *     ledger                     which ledger this is: its pool_id
 *     00000000000000000001.log   segments, named by their first receipt
 *     00000000000000183042.log
 *     tree                       nodes of the Merkle tree, of all receipts
 *     checkpoints                signed notes, oldest first
 *
 *   owner                                writer thread
 *   journal_append ──chunk, through──>   one group: write, fdatasync
 *   <──────────── wake ────────────────  durable_sequence has grown
 *   journal_poll
 *
 * Group commit without a timer: while a group is synced the next one gathers,
 * of at most group_bytes and group_records. Group k + 1 is written only after
 * the sync of k returned, so all that a crash can damage is the last group, and
 * that was acknowledged to nobody.
 *
 * An error of a write or a sync, other than a full disk, is final: nothing is
 * tried again, durable_sequence stays where it is, what was synced stays
 * readable. A full disk is met ahead: room for what may still come is reserved
 * before it is needed, and `state` says JOURNAL_FULL while it cannot be had.
 *
 * Whole segments go when they are older than retain_ns or beyond retain_bytes,
 * but not before every cursor (of a sink) has passed them, up to
 * cursor_hold_bytes. Tree and checkpoints stay for ever.
 *
 * journal_format.h has the bytes; journal_scan.h reads a directory, of a
 * running server too.
 *
 * Thread: the owner's, except journal_load. */
#ifndef RECEIPTS_JOURNAL_H
#define RECEIPTS_JOURNAL_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/error.h"
#include "receipts/merkle.h"
#include "receipts/ring.h"

struct journal;

#define JOURNAL_MIN_SEGMENT_BYTES ((uint64_t)1 << 20)
#define JOURNAL_NAME_BYTES 64 /* of a cursor, at most */
#define JOURNAL_MAX_CURSORS 64

struct journal_config {
    const char *dir;        /* made (0700) if it is not there; not its parent */
    uint64_t segment_bytes; /* a segment ends beyond this */
    uint64_t retain_bytes;  /* of closed segments; 0: no limit */
    int64_t retain_ns;      /* since a segment was closed; 0: no limit */
    uint64_t cursor_hold_bytes; /* retention waits for cursors up to this much
                                   beyond retain_bytes */
    uint32_t group_bytes;       /* 0: 64 KiB */
    uint32_t group_records;     /* 0: 128 */
    bool accept_loss; /* where the ledger is damaged: set it aside (the
                         directory is renamed) and begin a new one */
    int64_t (*wall_ns)(void);

    /* Of the writer's thread: something has changed, call journal_poll soon. */
    void (*wake)(void *ctx);
    void *wake_ctx;

    /* Every receipt that the directory holds, ascending, within journal_open;
     * borrowed for the call. NULL: nobody wants to see them. */
    void (*on_receipt)(void *ctx, uint64_t sequence, const unsigned char *bytes,
        size_t n_bytes);
    void *receipt_ctx;
};

/* What the start found. */
struct journal_start {
    uint8_t pool_id[16];
    uint32_t epoch;         /* of this start: one more than the last, from 1 */
    uint64_t last_sequence; /* 0: the ledger is new */
    uint64_t oldest_sequence; /* that can still be read; 0: none */
    bool clean;               /* the last epoch ended with journal_close */
    uint64_t cut_bytes;       /* of a last group that was never finished */

    /* accept_loss, and there was one: */
    bool loss_accepted;
    uint8_t lost_pool_id[16];       /* zero where even that was unreadable */
    uint64_t lost_first, lost_last; /* last 0: not known */
    char lost_detail[256];
};

enum journal_state {
    JOURNAL_OK,
    JOURNAL_FULL,   /* no room ahead; what is reserved still takes receipts */
    JOURNAL_FAILED, /* for good */
};

struct journal_position {
    uint64_t durable_sequence;
    uint64_t oldest_sequence; /* 0: none */
    uint64_t stored_bytes;    /* of all segments */
    enum journal_state state;
    char error[192]; /* FULL, FAILED: what happened, to which file */
    int error_number;
};

/* Recovers, starts the writer. *start is written on success, and what
 * on_receipt saw is then the truth.
 *   KV_INVALID    a setting
 *   KV_BUSY       another process has the directory
 *   KV_DATA_LOSS  the ledger is damaged: *error says which file, where, what is
 *                 wrong, and that --accept-loss begins a new ledger
 *   KV_IO, KV_NO_MEMORY */
enum kv_status journal_open(struct journal **out,
    const struct journal_config *config, struct journal_start *start,
    struct kv_error *error);

/* Writes what was appended, marks the end as clean, unless the journal has
 * failed. NULL is fine. */
void journal_close(struct journal *journal);

/* Hands over the receipts up to `through` that lie in this chunk, which follow
 * those handed over before; chunks come in order, each as often as it grows.
 * The chunk is retained until it is written. Cannot fail: chunks are linked by
 * their own next_written. */
void journal_append(
    struct journal *journal, struct ring_chunk *chunk, uint64_t through);

/* Its directory, as it was given. */
const char *journal_dir_path(const struct journal *journal);

/* Where it stands. */
void journal_poll(struct journal *journal, struct journal_position *out);

/* The tree over all receipts handed over and hashed so far: at least the
 * durable ones. Its functions take turns by a lock of its own. */
struct merkle *journal_tree(struct journal *journal);

/* Under which epoch a receipt that is still there was issued; 0: unknown. */
uint32_t journal_epoch_of(struct journal *journal, uint64_t sequence);

/* ---- what rides along, made durable within a second */

/* Everything up to `sequence` has reached the target of this name, 1 to
 * JOURNAL_NAME_BYTES bytes. KV_LIMIT: too many names. */
enum kv_status journal_set_cursor(
    struct journal *journal, const char *name, uint64_t sequence);
void journal_drop_cursor(struct journal *journal, const char *name);
/* false: there is none of that name. */
bool journal_cursor(
    struct journal *journal, const char *name, uint64_t *sequence);

/* Keeps a signed note, behind the tree that it speaks of. A newer one may take
 * the place of one that has not been written yet. */
void journal_keep_checkpoint(struct journal *journal, const void *note,
    size_t n_bytes, uint64_t tree_size);
/* The newest that is kept; 0 bytes: none. Borrowed until the next is kept. */
size_t journal_checkpoint(struct journal *journal, const void **note);

/* ---- reading */

/* The durable receipts around `sequence`, as a chunk with one reference (see
 * ring_chunk_release): the same chunk boundaries for whoever asks. Blocks on
 * the disk. Any thread, several at once, until journal_close.
 *   KV_RANGE      it is gone already
 *   KV_NOT_FOUND  it is not durable yet
 *   KV_DATA_LOSS  it is damaged
 *   KV_IO, KV_NO_MEMORY */
enum kv_status journal_load(struct journal *journal, uint64_t sequence,
    struct ring_chunk **out, struct kv_error *error);

#endif
