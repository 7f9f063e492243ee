/* Which receipts lie where: the segments that there are, and in each the places
 * of its chunks. A chunk is what journal_load gives at once: as many receipts
 * as fit into a ring_chunk, counted from the segment's first, so that its
 * bounds are the same for whoever asks.
 *
 * Thread: one at a time. */
#ifndef RECEIPTS_JOURNAL_SEGMENTS_H
#define RECEIPTS_JOURNAL_SEGMENTS_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/* A chunk begins here. */
struct journal_mark {
    uint64_t sequence, offset;
};

struct journal_segment {
    uint64_t first_sequence;
    uint64_t next_sequence; /* behind its last */
    uint64_t end_offset;
    int64_t last_unix_ns; /* when its last group was written */
    uint32_t epoch;
    uint32_t seed;
    struct journal_mark *marks;
    size_t n_marks, marks_capacity;
    uint32_t open_bytes, open_entries; /* of the last chunk */
};

/* Zeroed, it is empty. */
struct journal_segments {
    struct journal_segment *at;
    size_t n, capacity;
};

void journal_segments_fini(struct journal_segments *segments);

/* Room for one more. false: no memory. */
bool journal_segments_reserve(struct journal_segments *segments);
/* There is room; takes over the marks. */
struct journal_segment *journal_segments_add(
    struct journal_segments *segments, const struct journal_segment *segment);
void journal_segments_drop_first(struct journal_segments *segments);

/* The one that has this receipt; NULL: none. */
struct journal_segment *journal_segments_find(
    const struct journal_segments *segments, uint64_t sequence);
/* 0: none. */
uint64_t journal_segments_oldest(const struct journal_segments *segments);
uint64_t journal_segments_bytes(const struct journal_segments *segments);

/* Marks enough for any receipts in a segment of that length. false: no memory.
 */
bool journal_segment_reserve(
    struct journal_segment *segment, uint64_t segment_bytes);
/* Enters the receipts of a group that lies at this offset, its commit last.
 * false: no memory for marks, which there is after a reserve. */
bool journal_segment_enter(struct journal_segment *segment,
    const unsigned char *records, size_t n_bytes, uint64_t offset);

#endif
