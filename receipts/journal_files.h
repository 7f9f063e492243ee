/* Files of a journal's directory: whole reads and writes, and changes of names
 * that survive a crash. Errors say "<dir>/<name>: <what>: <why>".
 *
 * Thread: any. */
#ifndef RECEIPTS_JOURNAL_FILES_H
#define RECEIPTS_JOURNAL_FILES_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/error.h"
#include "receipts/journal_format.h"

#define JOURNAL_LOCK_FILE "LOCK"
#define JOURNAL_IDENTITY_FILE "ledger"
#define JOURNAL_NOTES_FILE "checkpoints"
#define JOURNAL_TREE_FILE "tree"
#define JOURNAL_NEXT_FILE "next.tmp"
#define JOURNAL_DIR_BYTES 3072 /* of a path, at most */

struct journal_name {
    char s[28];
};

struct journal_dir {
    int fd;
    char path[JOURNAL_DIR_BYTES];
};

/* KV_NOT_FOUND, KV_INVALID: the path is too long, KV_IO. */
enum kv_status journal_dir_open(
    struct journal_dir *dir, const char *path, struct kv_error *error);
/* The same, of one that is made if need be. */
enum kv_status journal_dir_make(
    struct journal_dir *dir, const char *path, struct kv_error *error);
void journal_dir_close(struct journal_dir *dir);

/* Takes the lock: a descriptor to close. KV_BUSY, KV_IO. */
enum kv_status journal_dir_lock(
    const struct journal_dir *dir, int *out, struct kv_error *error);

/* Says KV_IO and errno in words. */
enum kv_status journal_file_error(const struct journal_dir *dir,
    const char *name, const char *what, struct kv_error *error);

/* The name of the segment that begins with this receipt. */
struct journal_name journal_segment_name(uint64_t first_sequence);

/* First sequences of all segments, ascending; to be freed. */
enum kv_status journal_dir_list(const struct journal_dir *dir, uint64_t **out,
    size_t *n_out, struct kv_error *error);

/* As pread and pwrite, of all bytes; errno says why not. A file that ends
 * before gives fewer: -1 is an error only. */
ptrdiff_t journal_read(int fd, void *bytes, size_t n, uint64_t offset);
bool journal_write(int fd, const void *bytes, size_t n, uint64_t offset);
bool journal_write_zeros(int fd, uint64_t from, uint64_t to);

/* Writes these bytes of the file once more and syncs it: then they are on the
 * disk. A sync alone does not say so of bytes that somebody else wrote, as
 * after one that failed the kernel takes for clean what it still has in memory.
 */
bool journal_settle(int fd, uint64_t from, uint64_t to);

/* KV_NOT_FOUND: there is none. KV_DATA_LOSS. */
enum kv_status journal_identity_load(const struct journal_dir *dir,
    struct journal_identity *out, struct kv_error *error);
/* All of it or nothing, whatever happens. errno says why not. */
enum kv_status journal_identity_store(const struct journal_dir *dir,
    const struct journal_identity *identity, struct kv_error *error);

#endif
