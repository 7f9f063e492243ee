/* Reading durable receipts, by any thread. What is needed of the tables is
 * copied under the mutex; the file is opened by its name and read without. When
 * retention takes the segment in between, it is gone, or open and still whole.
 */
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <unistd.h>

#include "base/heap.h"
#include "receipts/journal_core.h"

/* A part of a segment: the records of one chunk. */
struct part {
    struct journal_name name;
    uint64_t first_sequence, next_sequence;
    uint64_t offset, end_offset;
    uint32_t epoch, seed;
};

static const struct journal_mark *find_mark(
    const struct journal_segment *segment, uint64_t sequence)
{
    size_t low = 0, high = segment->n_marks;

    while (high - low > 1) {
        size_t middle = low + (high - low) / 2;

        if (segment->marks[middle].sequence <= sequence)
            low = middle;
        else
            high = middle;
    }
    return &segment->marks[low];
}

/* false: no segment has it. The mutex is held. */
static bool find_part(
    const struct journal *journal, uint64_t sequence, struct part *out)
{
    const struct journal_segment *segment =
        journal_segments_find(&journal->segments, sequence);
    const struct journal_mark *mark;
    bool is_last;

    if (segment == NULL)
        return false;
    mark = find_mark(segment, sequence);
    is_last = mark == &segment->marks[segment->n_marks - 1];
    *out = (struct part){
        .name = journal_segment_name(segment->first_sequence),
        .first_sequence = mark->sequence,
        .next_sequence = is_last ? segment->next_sequence : mark[1].sequence,
        .offset = mark->offset,
        .end_offset = is_last ? segment->end_offset : mark[1].offset,
        .epoch = segment->epoch,
        .seed = segment->seed,
    };
    return true;
}

static enum kv_status gone(uint64_t sequence, struct kv_error *error)
{
    return kv_error_set(error, KV_RANGE,
        "receipt %" PRIu64 " is not in the journal any more", sequence);
}

static enum kv_status damaged(const struct journal *journal,
    const struct part *part, uint64_t offset, struct kv_error *error)
{
    return kv_error_set(error, KV_DATA_LOSS,
        "%s/%s: at byte %" PRIu64 ": the record is damaged", journal->dir.path,
        part->name.s, offset);
}

/* The records of the part; *out is to be freed. */
static enum kv_status read_part(const struct journal *journal,
    const struct part *part, unsigned char **out, struct kv_error *error)
{
    size_t n = (size_t)(part->end_offset - part->offset);
    enum kv_status status = KV_OK;
    unsigned char *bytes;
    ptrdiff_t n_read;
    int fd = openat(journal->dir.fd, part->name.s, O_RDONLY | O_CLOEXEC);

    if (fd < 0 && errno == ENOENT)
        return gone(part->first_sequence, error);
    if (fd < 0)
        return journal_file_error(
            &journal->dir, part->name.s, "cannot be opened", error);
    bytes = kv_realloc(NULL, n);
    n_read = bytes != NULL ? journal_read(fd, bytes, n, part->offset) : 0;
    if (bytes == NULL)
        status = kv_error_set(
            error, KV_NO_MEMORY, "no memory to read receipts with");
    else if (n_read < 0)
        status = journal_file_error(
            &journal->dir, part->name.s, "cannot be read", error);
    else if ((size_t)n_read < n)
        status = damaged(journal, part, part->offset + (uint64_t)n_read, error);
    close(fd);
    if (status == KV_OK)
        *out = bytes;
    else
        kv_free(bytes);
    return status;
}

static bool has_room(const struct ring_chunk *chunk, size_t n_bytes)
{
    return chunk->n_entries < RING_CHUNK_ENTRIES &&
           RING_CHUNK_BYTES - chunk->n_bytes >= ring_entry_bytes(n_bytes);
}

/* Takes the receipts into the chunk. false: damage, at *offset. */
static bool fill_chunk(const struct part *part, const unsigned char *bytes,
    struct ring_chunk *chunk, uint64_t *offset)
{
    size_t n = (size_t)(part->end_offset - part->offset);
    uint64_t next = part->first_sequence;
    struct journal_record record;

    for (size_t at = 0; at < n; at += record.n_bytes) {
        *offset = part->offset + at;
        if (journal_record_parse(bytes + at, n - at, part->seed, &record) !=
            JOURNAL_PARSED)
            return false;
        if (record.type != JOURNAL_RECEIPT)
            continue;
        if (record.sequence != next || record.epoch != part->epoch ||
            !has_room(chunk, record.n_payload))
            return false;
        ring_chunk_add(chunk, next++, record.payload, record.n_payload);
    }
    *offset = part->end_offset;
    return next == part->next_sequence;
}

static enum kv_status load_part(const struct journal *journal,
    const struct part *part, struct ring_chunk **out, struct kv_error *error)
{
    struct ring_chunk *chunk;
    unsigned char *bytes = NULL;
    uint64_t offset;
    enum kv_status status = read_part(journal, part, &bytes, error);

    if (status != KV_OK)
        return status;
    chunk = ring_chunk_open();
    if (chunk == NULL)
        status = kv_error_set(
            error, KV_NO_MEMORY, "no memory for a chunk of receipts");
    else if (!fill_chunk(part, bytes, chunk, &offset))
        status = damaged(journal, part, offset, error);
    kv_free(bytes);
    if (status == KV_OK)
        *out = chunk;
    else if (chunk != NULL)
        ring_chunk_release(chunk);
    return status;
}

enum kv_status journal_load(struct journal *journal, uint64_t sequence,
    struct ring_chunk **out, struct kv_error *error)
{
    struct part part;
    uint64_t durable;
    bool is_there;

    pthread_mutex_lock(&journal->mutex);
    durable = journal->durable_sequence;
    is_there = find_part(journal, sequence, &part);
    pthread_mutex_unlock(&journal->mutex);
    if (sequence > durable)
        return kv_error_set(error, KV_NOT_FOUND,
            "receipt %" PRIu64 " is not durable yet; %" PRIu64 " is", sequence,
            durable);
    if (!is_there)
        return gone(sequence, error);
    return load_part(journal, &part, out, error);
}
