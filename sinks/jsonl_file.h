/* The file that a file sink writes: receipts as JSON lines (receipts/json.h),
 * every sequence of a ledger once, in order.
 *
 *   jsonl_file_init ─> jsonl_file_write ... ─> jsonl_file_fini
 *                        opens, cuts a torn last line, sees what is there,
 *                        rotates, appends, syncs
 *
 * All state is in the file: its last line says which receipt is next, so that
 * what is offered again after a crash or a failure is not written again. After
 * a failure nothing of the run that failed is in the file, or whole lines of it
 * at its end, which the next opening sees. A file that was renamed, deleted, or
 * is in a directory that is gone, is not written to any more; another one is
 * made in its place.
 *
 * While it is open it is locked (flock): two writers would mix their lines.
 *
 * Thread: any, one at a time; not the owner's: it waits for disks. */
#ifndef SINKS_JSONL_FILE_H
#define SINKS_JSONL_FILE_H

#include <sys/types.h>

#include "receipts/ledger.h"
#include "sinks/jsonl_archive.h"

struct jsonl_file {
    struct jsonl_names names;
    uint64_t rotate_bytes; /* 0: never */
    int64_t rotate_ns;     /* 0: never */
    int fd, dir;           /* -1: not open */
    dev_t device;
    ino_t inode;
    uint64_t n_written, n_synced; /* bytes of the file */
    uint64_t first_sequence;      /* 0: the file is empty */
    uint64_t last_sequence; /* in it, or if it is empty, closed before it */
    int64_t first_unix_ns;
    uint8_t pool_id[16];
    bool knows_pool;
    bool rotated; /* a file was closed; the caller takes it back */
    char *lines;  /* to be written */
    size_t n_lines, lines_capacity;
};

/* Opens nothing. */
void jsonl_file_init(struct jsonl_file *file, const struct jsonl_names *names,
    uint64_t rotate_bytes, int64_t rotate_ns);
void jsonl_file_fini(struct jsonl_file *file);

/* The receipts of these runs are in the file, on disk, on success. Where the
 * file is full or old enough, it is closed first and a new one begun. now_ns is
 * wall clock. KV_IO; KV_INVALID: it is no file, or has other things in it than
 * receipts; KV_BUSY: another process writes it; KV_NO_MEMORY. */
enum kv_status jsonl_file_write(struct jsonl_file *file,
    const struct feed_run *runs, size_t n_runs, int64_t now_ns,
    struct kv_error *error);

#endif
