/* Reads the directory of a journal, record by record, and believes nothing: for
 * the start of a server, and for tools. Opens nothing for writing and takes no
 * lock, so it may look at a copy, or over the shoulder of a running server;
 * then it ends at the last whole group that it saw.
 *
 *   journal_scan_open ─> [journal_scan_seek] ─> journal_scan_next ... ─> _close
 *
 * Thread: one at a time. */
#ifndef RECEIPTS_JOURNAL_SCAN_H
#define RECEIPTS_JOURNAL_SCAN_H

#include <stddef.h>
#include <stdint.h>

#include "base/error.h"

struct journal_scan;

struct journal_scan_info {
    uint8_t pool_id[16];
    uint64_t oldest_sequence; /* in the first segment; 0: there is none */
    size_t n_segments;
    uint64_t stored_bytes;
};

struct journal_scan_receipt {
    uint64_t sequence;
    uint32_t epoch;
    const unsigned char *bytes; /* the receipt as issued; until the next call */
    size_t n_bytes;
    const char *file; /* its segment's name, until the next call */
    uint64_t offset;  /* of its record there */
};

/* KV_NOT_FOUND: no ledger is there. KV_DATA_LOSS: damaged. KV_IO, KV_NO_MEMORY.
 */
enum kv_status journal_scan_open(
    struct journal_scan **out, const char *dir, struct kv_error *error);
void journal_scan_close(struct journal_scan *scan);

void journal_scan_info(
    const struct journal_scan *scan, struct journal_scan_info *info);

/* The next receipt will be this one, or the oldest there is if that is later.
 */
enum kv_status journal_scan_seek(
    struct journal_scan *scan, uint64_t sequence, struct kv_error *error);

/*   KV_NOT_FOUND  the end; an unfinished last group is no damage
 *   KV_DATA_LOSS  damage: *error says which file, where and what
 *   KV_RANGE      retention was quicker than we are: those that would come next
 *                 have gone; nothing is wrong with the ledger
 *   KV_IO, KV_NO_MEMORY */
enum kv_status journal_scan_next(struct journal_scan *scan,
    struct journal_scan_receipt *receipt, struct kv_error *error);

/* The signed notes beside the segments, oldest first: the next one, borrowed
 * until the next call. KV_NOT_FOUND at the end. */
enum kv_status journal_scan_checkpoint(struct journal_scan *scan,
    const void **note, size_t *n_bytes, struct kv_error *error);

#endif
