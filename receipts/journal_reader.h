/* Reads the groups of a journal from first to last and believes nothing. It
 * tells three things apart:
 *
 *   the end       zeros, or nothing, behind the last group
 *   a torn tail   bytes behind the last group that are no whole group: a crash
 *                 while it was written. Acknowledged to nobody; the end, too
 *   damage        anything else
 *
 * A torn tail is one only where a crash can leave it: in the last segment, of
 * an epoch that did not end in order, behind the segment's first group (which
 * is synced before the segment gets its name), and with no record of a later
 * group behind it. Group k + 1 is written only after the sync of k returned, so
 * such a record shows that k was whole once.
 *
 * A segment that is in use has its full length from the start: a file that is
 * shorter was cut by somebody else. One that was closed in order, or stopped
 * being in use at a later start, ends where the identity says.
 *
 * Over a running server's shoulder, what looks like the end or like damage is
 * looked at twice: bytes that were read too early, or a new segment.
 *
 * Thread: one at a time. */
#ifndef RECEIPTS_JOURNAL_READER_H
#define RECEIPTS_JOURNAL_READER_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "receipts/journal_files.h"

/* A group is never larger. */
#define JOURNAL_MAX_GROUP_BYTES ((size_t)2 << 20)

/* The caller's memory; fields are for reading only. */
struct journal_reader {
    const struct journal_dir *dir;
    struct journal_identity identity;
    uint64_t *names; /* of all segments */
    size_t n_names;

    int fd; /* of the segment; -1: between two */
    bool has_segment;
    struct journal_name name;
    struct journal_header header;
    uint32_t seed;
    uint64_t file_bytes;

    unsigned char *buffer; /* of the file from buffer_offset on */
    size_t buffer_bytes, n_buffered;
    size_t position; /* of the next group in it */
    uint64_t buffer_offset;

    uint64_t next_sequence; /* 0: any */
    uint64_t last_group;
    uint32_t epoch;
    bool looked_twice;
    uint64_t end_offset; /* of the last group in its segment */
    uint64_t cut_bytes;  /* of a torn tail behind it */
};

struct journal_group {
    const unsigned char *bytes; /* its records, the commit last; until the next
                                   call */
    size_t n_bytes;
    uint64_t offset;
    uint64_t first_sequence;
    uint32_t n_receipts;
    int64_t time_unix_ns;
    bool starts_segment;
};

/* The directory is borrowed. KV_NOT_FOUND: no ledger is there. KV_DATA_LOSS,
 * KV_IO, KV_NO_MEMORY; then there is nothing to finish. */
enum kv_status journal_reader_init(struct journal_reader *reader,
    const struct journal_dir *dir, struct kv_error *error);
void journal_reader_fini(struct journal_reader *reader);

/* Goes on with the segment that has, or would have, this receipt. */
void journal_reader_seek(struct journal_reader *reader, uint64_t sequence);

/* KV_NOT_FOUND: the end. KV_DATA_LOSS: damage. KV_RANGE: retention has taken
 * the receipts that would come next. KV_IO, KV_NO_MEMORY. */
enum kv_status journal_reader_next(struct journal_reader *reader,
    struct journal_group *out, struct kv_error *error);

#endif
