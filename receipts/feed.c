#include "receipts/ledger_core.h"

#include <assert.h>

/* The oldest receipt that the ring still has; one beyond the newest if none. */
static uint64_t oldest(const struct ledger *ledger)
{
    return ring_first(&ledger->ring, ledger->applied + 1);
}

enum kv_status feed_seek(
    struct ledger *ledger, uint64_t sequence, struct feed_cursor *cursor)
{
    if (sequence > ledger->applied)
        return KV_RANGE;
    if (sequence + 1 < oldest(ledger))
        return KV_DATA_LOSS;
    feed_leave(ledger, cursor);
    cursor->sequence = sequence;
    return KV_OK;
}

void feed_leave(struct ledger *ledger, struct feed_cursor *cursor)
{
    (void)ledger;
    cursor->load = NULL;
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
    uint32_t begin, end;

    if (cursor->sequence >= ledger->durable)
        return KV_NOT_FOUND;
    if (sequence < oldest(ledger))
        return KV_DATA_LOSS;
    chunk = ring_find(&ledger->ring, sequence, &cursor->chunk);
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
