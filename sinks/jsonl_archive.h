/* The closed files of a file sink: beside the one being written, named by what
 * is in them, compressed, and limited in number.
 *
 *   /var/log/kvpool/receipts.jsonl                  being written
 *   receipts-00000000000000000001-00000000000000052817-5f0c91ab.jsonl.zst
 *            first sequence       last sequence        pool_id begins so
 *
 * A file is compressed to a name with `.tmp` behind it, synced, and renamed, so
 * that a crash leaves the plain file or the whole compressed one, or both.
 * Nothing that is named otherwise is touched.
 *
 * Thread: any, one at a time for each path; not the owner's: it waits for
 * disks. */
#ifndef SINKS_JSONL_ARCHIVE_H
#define SINKS_JSONL_ARCHIVE_H

#include <limits.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/error.h"

#define JSONL_MAX_PATH_BYTES 4000
#define JSONL_MAX_STEM_BYTES 128 /* of a file's name without its extension */

/* A path, taken apart. */
struct jsonl_names {
    char dir[JSONL_MAX_PATH_BYTES + 1];
    char name[NAME_MAX + 1]; /* within dir */
    size_t n_stem;           /* of name; its extension follows */
};

/* KV_INVALID: the path is no name of a file, or too long. */
enum kv_status jsonl_names_parse(
    struct jsonl_names *names, const char *path, struct kv_error *error);

struct jsonl_closed_name {
    char text[NAME_MAX + 1];
};
struct jsonl_closed_name jsonl_closed_name(const struct jsonl_names *names,
    uint64_t first_sequence, uint64_t last_sequence, const uint8_t pool_id[16]);

/* The last sequence that a closed file of this ledger has, 0 if there is none.
 * dir is a descriptor of names->dir. KV_IO. */
enum kv_status jsonl_archive_last(const struct jsonl_names *names, int dir,
    const uint8_t pool_id[16], uint64_t *last_sequence, struct kv_error *error);

/* Compresses what is closed and is not compressed yet, if it is to be, then
 * deletes the oldest closed files until keep_files are left (0: all are kept).
 * Ends early, as if nothing were left to do, once *stop is set. KV_IO,
 * KV_NO_MEMORY: some of it was not done; it may be tried again. */
enum kv_status jsonl_archive_tidy(const struct jsonl_names *names,
    bool compress, uint64_t keep_files, const atomic_bool *stop,
    struct kv_error *error);

#endif
