/* What the files of the journal share: its state, and whose it is.
 *
 *   owner   journal.c            what the ledger calls; opening and closing
 *           journal_start.c      what is found at the start, and done about it
 *   any     journal_load.c       reading durable receipts
 *   writer  journal_writer.c     groups, checkpoints, retention
 *   room    journal_room.c       the next segment, before it is needed
 *
 * One mutex, never held over a call that waits for the disk. */
#ifndef RECEIPTS_JOURNAL_CORE_H
#define RECEIPTS_JOURNAL_CORE_H

#include <pthread.h>

#include "receipts/checkpoint.h"
#include "receipts/journal.h"
#include "receipts/journal_cursors.h"
#include "receipts/journal_files.h"
#include "receipts/journal_reader.h"
#include "receipts/journal_segments.h"

/* Receipts that were handed over: chunks linked by next_written, each with a
 * reference of ours. The last one stays, as it may grow. */
struct journal_queue {
    struct ring_chunk *head, *tail;
    uint64_t next_sequence; /* to be written */
    uint64_t through;       /* handed over */
};

/* The next segment: a file of zeros that has no name yet. */
struct journal_room {
    pthread_t thread;
    bool is_ready, stop;
    bool is_full; /* the last attempt met a full disk */
    int fd;
    struct journal_segment segment; /* its marks */
};

/* The writer's alone. */
struct journal_writer {
    pthread_t thread;
    int fd; /* of the segment in use; -1: none in this epoch */
    struct journal_name name;
    uint32_t seed;
    uint64_t offset, last_group;
    uint64_t anchored_sequence; /* the identity and the tree's file have it */
    bool anchor_is_due;         /* a segment was closed */
    unsigned char *buffer; /* of a group, with a segment's header before it */
    struct journal_cursors cursors; /* as the group has them */
    struct merkle_hasher hasher;
    int notes_fd;
    unsigned char *note_record;
    uint64_t notes_end;
    int64_t cursors_due_ns, keep_due_ns, retention_due_ns; /* monotonic */
};

struct journal {
    struct journal_config config; /* dir is not kept */
    struct journal_dir dir;
    int lock_fd;
    uint8_t pool_id[16];
    uint32_t epoch;
    uint32_t notes_seed;
    uint64_t segment_bytes; /* of a file */
    struct merkle tree;
    struct journal_writer writer;

    pthread_mutex_t mutex; /* of all that follows */
    pthread_cond_t work;   /* to the writer */
    pthread_cond_t room_changed;
    struct journal_queue queue;
    struct journal_room room;
    struct journal_segments segments;
    struct journal_cursors cursors;
    uint64_t durable_sequence, stored_bytes;
    bool stop;
    bool is_short;         /* a write met a full disk */
    bool keeping_is_short; /* the same, of what is kept beside segments */
    bool is_failed;        /* for good */
    char error[sizeof((struct journal_position *)0)->error];
    int error_number;
    bool note_is_new;
    size_t n_note;
    uint64_t note_tree_size;
    unsigned char note[CHECKPOINT_MAX_NOTE_BYTES]; /* the newest */
};

/* Is this number of an error one that passes: a full disk's, or that of a
 * system that has no memory or may open no more files? */
bool journal_is_full(int number);

/* Says what happened to which file; the mutex is held. */
void journal_note_error(
    struct journal *journal, const char *name, const char *what, int number);
/* For good; the mutex is not held. */
void journal_fail(
    struct journal *journal, const char *name, const char *what, int number);
void journal_wake(struct journal *journal);

/* Opens the directory, recovers, begins the epoch; journal_end undoes it. */
enum kv_status journal_begin(struct journal *journal,
    const struct journal_config *config, struct journal_start *start,
    struct kv_error *error);
void journal_end(struct journal *journal);

/* What is durable now, up to last_sequence, which the tree's file has. errno
 * says why not. */
enum kv_status journal_store_identity(struct journal *journal,
    uint64_t last_sequence, bool clean, struct kv_error *error);

/* The writer: until `stop` and everything is written, or it fails. */
void *journal_writer_main(void *journal);

/* The maker of room: until room.stop. */
void *journal_room_main(void *journal);

#endif
