/* How far each of the journal's readers outside has come. A cursor that was set
 * or dropped is written when a group takes it along, and then held to.
 *
 * Thread: one at a time. */
#ifndef RECEIPTS_JOURNAL_CURSORS_H
#define RECEIPTS_JOURNAL_CURSORS_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/status.h"
#include "receipts/journal.h"
#include "receipts/journal_format.h"

struct journal_cursor {
    char name[JOURNAL_NAME_BYTES + 1];
    uint64_t sequence;
    uint64_t written; /* what the disk says */
    bool is_live;     /* false: dropped, which is to be written */
    bool is_new;      /* to be written */
};

/* Dropped ones keep their place until that is written. Zeroed, it is empty. */
#define JOURNAL_CURSOR_PLACES (2 * JOURNAL_MAX_CURSORS)

struct journal_cursors {
    struct journal_cursor at[JOURNAL_CURSOR_PLACES];
    size_t n, n_new;
};

/* KV_INVALID: the name; KV_LIMIT. */
enum kv_status journal_cursors_set(
    struct journal_cursors *cursors, const char *name, uint64_t sequence);
void journal_cursors_drop(struct journal_cursors *cursors, const char *name);
bool journal_cursors_get(const struct journal_cursors *cursors,
    const char *name, uint64_t *sequence);

/* What a record of type JOURNAL_CURSOR says is so, and written. */
void journal_cursors_read(
    struct journal_cursors *cursors, const struct journal_record *record);

/* The record's payload for a cursor; bytes. */
#define JOURNAL_CURSOR_PAYLOAD_BYTES (1 + JOURNAL_NAME_BYTES)
size_t journal_cursor_payload(
    const struct journal_cursor *cursor, unsigned char *at);

/* The disk has what these were: all that were new when they were copied. */
void journal_cursors_written(
    struct journal_cursors *cursors, const struct journal_cursors *copied);

/* The least that the disk has; UINT64_MAX: there is no cursor. */
uint64_t journal_cursors_least(const struct journal_cursors *cursors);

#endif
