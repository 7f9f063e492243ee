#include "receipts/journal_segments.h"

#include <assert.h>
#include <string.h>

#include "base/heap.h"
#include "receipts/journal_format.h"
#include "receipts/ring.h"

/* A chunk is left when the next receipt does not fit, so two neighbours have
 * more than RING_CHUNK_BYTES together, or one has RING_CHUNK_ENTRIES records of
 * at least JOURNAL_RECORD_BYTES: either way more than this on average. */
#define LEAST_CHUNK_BYTES 16384
#define FIRST_SEGMENTS 16

void journal_segments_fini(struct journal_segments *segments)
{
    for (size_t i = 0; i < segments->n; i++)
        kv_free(segments->at[i].marks);
    kv_free(segments->at);
    *segments = (struct journal_segments){0};
}

bool journal_segments_reserve(struct journal_segments *segments)
{
    size_t capacity =
        segments->capacity > 0 ? 2 * segments->capacity : FIRST_SEGMENTS;
    struct journal_segment *larger;

    if (segments->n < segments->capacity)
        return true;
    larger = kv_realloc(segments->at, capacity * sizeof *larger);
    if (larger == NULL)
        return false;
    segments->at = larger;
    segments->capacity = capacity;
    return true;
}

struct journal_segment *journal_segments_add(
    struct journal_segments *segments, const struct journal_segment *segment)
{
    assert(segments->n < segments->capacity);
    segments->at[segments->n] = *segment;
    return &segments->at[segments->n++];
}

void journal_segments_drop_first(struct journal_segments *segments)
{
    kv_free(segments->at[0].marks);
    segments->n--;
    memmove(segments->at, segments->at + 1, segments->n * sizeof *segments->at);
}

struct journal_segment *journal_segments_find(
    const struct journal_segments *segments, uint64_t sequence)
{
    size_t low = 0, high = segments->n;

    /* The last one that begins at or before it. */
    while (low < high) {
        size_t middle = low + (high - low) / 2;

        if (segments->at[middle].first_sequence <= sequence)
            low = middle + 1;
        else
            high = middle;
    }
    if (low == 0 || sequence >= segments->at[low - 1].next_sequence)
        return NULL;
    return &segments->at[low - 1];
}

uint64_t journal_segments_oldest(const struct journal_segments *segments)
{
    const struct journal_segment *first = segments->at;

    /* The first may be all that there is, and have cursors only. */
    if (segments->n == 0 || first->first_sequence == first->next_sequence)
        return 0;
    return first->first_sequence;
}

uint64_t journal_segments_bytes(const struct journal_segments *segments)
{
    uint64_t n_bytes = 0;

    for (size_t i = 0; i < segments->n; i++)
        n_bytes += segments->at[i].end_offset;
    return n_bytes;
}

/* ---- marks */

static bool grow_marks(struct journal_segment *segment, size_t capacity)
{
    struct journal_mark *larger =
        kv_realloc(segment->marks, capacity * sizeof *larger);

    if (larger == NULL)
        return false;
    segment->marks = larger;
    segment->marks_capacity = capacity;
    return true;
}

bool journal_segment_reserve(
    struct journal_segment *segment, uint64_t segment_bytes)
{
    return grow_marks(segment, (size_t)(segment_bytes / LEAST_CHUNK_BYTES) + 2);
}

static bool enter_receipt(struct journal_segment *segment,
    const struct journal_record *record, uint64_t offset)
{
    size_t entry_bytes = ring_entry_bytes(record->n_payload);

    if (segment->n_marks == 0 || segment->open_entries == RING_CHUNK_ENTRIES ||
        segment->open_bytes + entry_bytes > RING_CHUNK_BYTES) {
        if (segment->n_marks == segment->marks_capacity &&
            !grow_marks(segment, 2 * segment->marks_capacity + 8))
            return false;
        segment->marks[segment->n_marks++] =
            (struct journal_mark){record->sequence, offset};
        segment->open_bytes = segment->open_entries = 0;
    }
    segment->open_bytes += (uint32_t)entry_bytes;
    segment->open_entries++;
    segment->next_sequence = record->sequence + 1;
    return true;
}

bool journal_segment_enter(struct journal_segment *segment,
    const unsigned char *records, size_t n_bytes, uint64_t offset)
{
    struct journal_record record;
    struct journal_commit commit;

    for (size_t at = 0; at < n_bytes; at += record.n_bytes) {
        journal_record_peek(records + at, &record);
        if (record.type == JOURNAL_RECEIPT &&
            !enter_receipt(segment, &record, offset + at))
            return false;
        if (record.type == JOURNAL_COMMIT &&
            journal_commit_parse(&record, &commit))
            segment->last_unix_ns = commit.time_unix_ns;
    }
    segment->end_offset = offset + n_bytes;
    return true;
}
