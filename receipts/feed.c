#include "receipts/ledger_core.h"

#include <assert.h>

enum kv_status feed_seek(
    struct ledger *ledger, uint64_t sequence, struct feed_cursor *cursor)
{
    if (sequence > ledger->applied)
        return KV_RANGE;
    if (sequence + 1 < ledger_oldest(ledger))
        return KV_DATA_LOSS;
    feed_leave(ledger, cursor);
    cursor->sequence = sequence;
    return KV_OK;
}

void feed_leave(struct ledger *ledger, struct feed_cursor *cursor)
{
    if (cursor->load != NULL)
        loader_leave(ledger->loader, cursor);
}

/* A durable receipt is in the ring, on disk, or gone. */
static enum kv_status find_chunk(struct ledger *ledger,
    struct feed_cursor *cursor, uint64_t sequence, struct ring_chunk **out)
{
    if (sequence >= ring_first(&ledger->ring, UINT64_MAX)) {
        feed_leave(ledger, cursor);
        *out = ring_find(&ledger->ring, sequence, &cursor->chunk);
        return KV_OK;
    }
    if (sequence < ledger_oldest(ledger))
        return KV_DATA_LOSS;
    switch (loader_find(ledger->loader, cursor, sequence, out)) {
    case KV_OK:
        return KV_OK;
    case KV_BUSY:
        return KV_BUSY;
    case KV_RANGE: /* retention was quicker */
        return KV_DATA_LOSS;
    default:
        return KV_IO;
    }
}

/* Entries [begin, end) that fit into max_bytes, at least one. */
static uint32_t fit_bytes(const struct ring_chunk *chunk, uint32_t begin,
    uint32_t end, size_t max_bytes)
{
    size_t from = ring_chunk_start(chunk, begin);
    uint32_t low = begin + 1, high = end;

    while (low < high) {
        uint32_t middle = low + (high - low + 1) / 2;

        if (ring_chunk_start(chunk, middle) - from <= max_bytes)
            low = middle;
        else
            high = middle - 1;
    }
    return low;
}

enum kv_status feed_next(struct ledger *ledger, struct feed_cursor *cursor,
    uint32_t max_receipts, size_t max_bytes, struct feed_run *run)
{
    uint64_t n_ready, sequence = cursor->sequence + 1;
    struct ring_chunk *chunk;
    enum kv_status status;
    uint32_t begin, end;

    if (cursor->sequence >= ledger->durable)
        return KV_NOT_FOUND;
    status = find_chunk(ledger, cursor, sequence, &chunk);
    if (status != KV_OK)
        return status;
    begin = (uint32_t)(sequence - chunk->first_sequence);
    n_ready = ledger->durable - cursor->sequence;
    if (n_ready > max_receipts)
        n_ready = max_receipts > 0 ? max_receipts : 1;
    if (n_ready > chunk->n_entries - begin)
        n_ready = chunk->n_entries - begin;
    end = fit_bytes(chunk, begin, begin + (uint32_t)n_ready, max_bytes);

    ring_chunk_retain(chunk);
    *run = (struct feed_run){
        .first_sequence = sequence,
        .n_receipts = end - begin,
        .bytes = chunk->bytes + ring_chunk_start(chunk, begin),
        .n_bytes =
            ring_chunk_start(chunk, end) - ring_chunk_start(chunk, begin),
        .chunk = chunk,
    };
    cursor->sequence += run->n_receipts;
    return KV_OK;
}

void feed_run_retain(const struct feed_run *run)
{
    ring_chunk_retain(run->chunk);
}

void feed_run_release(void *chunk)
{
    ring_chunk_release(chunk);
}

bool feed_run_entry(const struct feed_run *run, const unsigned char **at,
    const unsigned char **receipt, size_t *n_bytes)
{
    const unsigned char *p = *at;
    size_t n = 0;

    if (p == run->bytes + run->n_bytes)
        return false;
    assert(*p == 0x0a);
    p++;
    for (unsigned shift = 0;; shift += 7) {
        n |= (size_t)(*p & 0x7f) << shift;
        if ((*p++ & 0x80) == 0)
            break;
    }
    *receipt = p;
    *n_bytes = n;
    *at = p + n;
    return true;
}
