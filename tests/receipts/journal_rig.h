/* A journal in a directory of its own, receipts whose bytes are known, and ways
 * to damage what is on the disk. */
#ifndef TESTS_RECEIPTS_JOURNAL_RIG_H
#define TESTS_RECEIPTS_JOURNAL_RIG_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "receipts/journal.h"

struct journal_rig {
    char parent[128]; /* temporary, the rig's own */
    char dir[192];    /* the journal's, within */
    struct journal_config config;
    struct journal *journal; /* NULL: closed */
    struct journal_start start;
    struct kv_error error;
    struct ring ring;
    uint64_t sequence;          /* of the last receipt that was handed over */
    uint64_t n_seen, last_seen; /* by on_receipt, at the last open */
};

/* An empty directory; nothing is opened. */
void journal_rig_init(struct journal_rig *rig);
/* Closes, and removes everything. */
void journal_rig_fini(struct journal_rig *rig);

enum kv_status journal_rig_open(struct journal_rig *rig);
void journal_rig_must_open(struct journal_rig *rig);
void journal_rig_close(struct journal_rig *rig);

/* The bytes of receipt number `sequence`: some 20 to 45. */
#define JOURNAL_RIG_BYTES 64
size_t journal_rig_receipt(uint64_t sequence, unsigned char *out);

/* Hands over n receipts at once, of n_bytes each (0: as above; else they are
 * cut, or longer). A few of them, while the writer is idle, are one group. */
void journal_rig_append(struct journal_rig *rig, size_t n, size_t n_bytes);
/* Waits until all of them are durable, or the journal has failed. */
struct journal_position journal_rig_settle(struct journal_rig *rig);
/* The same, one receipt at a time: a group each. */
void journal_rig_write(struct journal_rig *rig, size_t n);
/* Waits for what was appended, signs it, and has that kept, in a while. */
void journal_rig_sign(struct journal_rig *rig);

/* The wall clock of all rigs goes on by so much. */
void journal_rig_pass(int64_t ns);

/* 0: there is no such file. */
size_t journal_rig_file_bytes(const char *dir, const char *name);

/* A copy of the directory as it is now, beside it: what a crash would leave. It
 * replaces the copy before. */
void journal_rig_copy(const struct journal_rig *rig, char to[192]);
void journal_rig_remove(const char *dir);

/* The segment's path that begins with this receipt. */
void journal_rig_segment(const char *dir, uint64_t first, char out[256]);
size_t journal_rig_read_file(const char *path, unsigned char **out);
void journal_rig_write_file(
    const char *path, const unsigned char *bytes, size_t n);

#endif
