/* The file of checkpoints beside the segments: signed notes, each a record of
 * journal_format.h, oldest first. Only the last one can be torn by a crash, as
 * each is synced before the next is written.
 *
 * Thread: one at a time. */
#ifndef RECEIPTS_JOURNAL_NOTES_H
#define RECEIPTS_JOURNAL_NOTES_H

#include <stddef.h>
#include <stdint.h>

#include "receipts/journal_files.h"

/* The caller's memory; fields are for reading only. */
struct journal_notes {
    const struct journal_dir *dir;
    int fd; /* -1: there is no file */
    uint32_t seed;
    uint64_t sure_bytes; /* so much was there before */
    unsigned char *buffer;
    size_t n_buffered, position;
    uint64_t buffer_offset;
    uint64_t end_offset; /* of the last note that was read */
};

/* So much of the end of the file is enough to have the newest note, and the one
 * before: a start must not take longer because a ledger is old. */
#define JOURNAL_NOTES_TAIL_BYTES ((uint64_t)128 << 10)

/* Reads from the first one on. The directory is borrowed. KV_IO, KV_NO_MEMORY.
 */
enum kv_status journal_notes_init(struct journal_notes *notes,
    const struct journal_dir *dir, const struct journal_identity *identity,
    struct kv_error *error);
void journal_notes_fini(struct journal_notes *notes);

/* Before the first is read: goes on to those in the last
 * JOURNAL_NOTES_TAIL_BYTES, where there are more. KV_DATA_LOSS: there is none;
 * KV_IO. */
enum kv_status journal_notes_skip(
    struct journal_notes *notes, struct kv_error *error);

/* The next note: the payload, until the next call. KV_NOT_FOUND: the end, or a
 * torn last one at end_offset. KV_DATA_LOSS: damage; KV_IO. */
enum kv_status journal_notes_next(struct journal_notes *notes,
    struct journal_record *out, struct kv_error *error);

#endif
