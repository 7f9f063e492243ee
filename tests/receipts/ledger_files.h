/* The files of a closed ledger in memory, to be tampered with like somebody
 * would who knows the format and has everything but the key: records are taken
 * apart and put together again with right CRCs, the tree is built anew, the
 * identity says whatever it must. */
#ifndef TESTS_RECEIPTS_LEDGER_FILES_H
#define TESTS_RECEIPTS_LEDGER_FILES_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "receipts/journal_format.h"

#define LEDGER_FILES 16
#define LEDGER_RECORDS 1024

struct ledger_file {
    char name[64];
    unsigned char *bytes;
    size_t n;
    bool changed;
};

struct ledger_files {
    struct ledger_file at[LEDGER_FILES];
    size_t n;
};

/* Segments, oldest first; then the rest. */
void ledger_files_read(struct ledger_files *files, const char *dir);
void ledger_files_free(struct ledger_files *files);
/* A deep copy, of which nothing is changed. */
void ledger_files_copy(
    struct ledger_files *out, const struct ledger_files *files);
/* Those that were changed, into the directory. */
void ledger_files_write(const struct ledger_files *files, const char *dir);

size_t ledger_files_n_segments(const struct ledger_files *files);
/* NULL: there is none. */
struct ledger_file *ledger_files_find(
    struct ledger_files *files, const char *name);

/* Puts other bytes in the place of a file's. */
void ledger_file_set(
    struct ledger_file *file, const unsigned char *bytes, size_t n);

/* Where the records of a segment, or of the checkpoints, end. */
size_t ledger_file_end(
    const struct ledger_file *file, size_t begin, uint32_t seed);

/* ---- records of a segment */

struct ledger_segment {
    struct journal_header header;
    struct journal_record records[LEDGER_RECORDS]; /* payloads: of the file */
    size_t n;
};

void ledger_segment_read(
    struct ledger_segment *segment, const struct ledger_file *file);
/* Writes them back: commits and CRCs are made right, the rest of the file's
 * length is zeros. */
void ledger_segment_write(
    struct ledger_segment *segment, struct ledger_file *file);
/* The nth receipt's place among the records. */
size_t ledger_segment_receipt(const struct ledger_segment *segment, size_t nth);
size_t ledger_segment_n_receipts(const struct ledger_segment *segment);

/* Numbers receipts from the first one on without a hole. */
void ledger_segment_renumber(struct ledger_segment *segment);

/* ---- the rest, made to fit the segments */

/* The tree of all receipts, in a scratch file. */
void ledger_files_build_tree(struct ledger_files *files, const char *scratch);
/* The identity: last receipt, last group, bytes of checkpoints. */
void ledger_files_fix_identity(struct ledger_files *files);

#endif
