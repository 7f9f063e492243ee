#include "receipts/ring.h"

#include <assert.h>
#include <string.h>

#include "base/heap.h"

/* Memory. A chunk that leaves the ring and that no reader holds becomes the
 * spare, so a full ring goes round without allocating. When the system has no
 * memory the ring gives up its oldest chunk before its time: readers that had
 * not come so far are told of a loss, but the newest receipt always finds its
 * place, unless every chunk is held or waits to be released. */

#define FIRST_TABLE 32

struct ring_chunk *ring_chunk_open(void)
{
    struct ring_chunk *chunk = kv_realloc(NULL, sizeof *chunk);

    if (chunk == NULL)
        return NULL;
    atomic_init(&chunk->refs, 1);
    chunk->n_entries = 0;
    chunk->n_bytes = 0;
    return chunk;
}

enum kv_status ring_init(struct ring *ring, size_t limit_bytes)
{
    assert(limit_bytes / RING_CHUNK_BYTES >= 2);
    *ring = (struct ring){
        .capacity = FIRST_TABLE, .max_chunks = limit_bytes / RING_CHUNK_BYTES};
    ring->chunks = kv_calloc(ring->capacity, sizeof *ring->chunks);
    if (ring->chunks == NULL)
        goto fail;
    ring->spare = ring_chunk_open();
    if (ring->spare == NULL)
        goto free_chunks;
    return KV_OK;

free_chunks:
    kv_free(ring->chunks);
fail:
    return KV_NO_MEMORY;
}

void ring_fini(struct ring *ring)
{
    for (size_t i = 0; i < ring->n_chunks; i++)
        ring_chunk_release(ring->chunks[i]);
    kv_free(ring->spare);
    kv_free(ring->chunks);
}

void ring_chunk_retain(struct ring_chunk *chunk)
{
    atomic_fetch_add_explicit(&chunk->refs, 1, memory_order_relaxed);
}

void ring_chunk_release(struct ring_chunk *chunk)
{
    if (atomic_fetch_sub_explicit(&chunk->refs, 1, memory_order_acq_rel) == 1)
        kv_free(chunk);
}

/* Only the owner takes references, so a chunk that only the ring holds stays
 * so while we look. */
static bool is_unread(const struct ring_chunk *chunk)
{
    return atomic_load_explicit(&chunk->refs, memory_order_acquire) == 1;
}

static void drop_oldest(struct ring *ring)
{
    struct ring_chunk *chunk = ring->chunks[0];

    ring->stored_bytes -= chunk->n_bytes;
    ring->n_chunks--;
    ring->first_serial++;
    memmove(
        ring->chunks, ring->chunks + 1, ring->n_chunks * sizeof *ring->chunks);
    if (ring->spare == NULL && is_unread(chunk))
        ring->spare = chunk;
    else
        ring_chunk_release(chunk);
}

static bool can_drop(const struct ring *ring, uint64_t released)
{
    const struct ring_chunk *oldest = ring->chunks[0];

    return ring->n_chunks > 0 &&
           oldest->first_sequence + oldest->n_entries - 1 <= released;
}

void ring_trim(struct ring *ring, uint64_t released)
{
    while (ring->n_chunks > ring->max_chunks && can_drop(ring, released))
        drop_oldest(ring);
}

static bool make_table_room(struct ring *ring, uint64_t released)
{
    struct ring_chunk **larger;

    if (ring->n_chunks < ring->capacity)
        return true;
    larger = kv_realloc(ring->chunks, 2 * ring->capacity * sizeof *larger);
    if (larger != NULL) {
        ring->chunks = larger;
        ring->capacity *= 2;
        return true;
    }
    if (!can_drop(ring, released))
        return false;
    drop_oldest(ring);
    return true;
}

static struct ring_chunk *take_chunk(struct ring *ring, uint64_t released)
{
    struct ring_chunk *chunk;

    if (ring->spare == NULL)
        ring->spare = ring_chunk_open();
    while (ring->spare == NULL && can_drop(ring, released))
        drop_oldest(ring);
    chunk = ring->spare;
    ring->spare = NULL;
    return chunk;
}

static bool add_chunk(struct ring *ring, uint64_t released)
{
    struct ring_chunk *chunk;

    while (ring->n_chunks >= ring->max_chunks && can_drop(ring, released))
        drop_oldest(ring);
    if (!make_table_room(ring, released))
        return false;
    chunk = take_chunk(ring, released);
    if (chunk == NULL)
        return false;
    chunk->n_entries = 0;
    chunk->n_bytes = 0;
    ring->chunks[ring->n_chunks++] = chunk;
    return true;
}

static size_t put_frame(unsigned char *at, size_t n_bytes)
{
    size_t n = 0;

    at[n++] = 0x0a; /* field 1, length-delimited */
    for (; n_bytes >= 0x80; n_bytes >>= 7)
        at[n++] = (unsigned char)(n_bytes | 0x80);
    at[n++] = (unsigned char)n_bytes;
    return n;
}

static size_t frame_bytes(size_t n_bytes)
{
    return n_bytes < 0x80 ? 2 : n_bytes < 0x4000 ? 3 : RING_FRAME_BYTES;
}

size_t ring_entry_bytes(size_t n_bytes)
{
    return frame_bytes(n_bytes) + n_bytes;
}

unsigned char *ring_reserve(
    struct ring *ring, size_t n_bytes, uint64_t released)
{
    size_t entry_bytes = frame_bytes(n_bytes) + n_bytes;
    struct ring_chunk *last =
        ring->n_chunks > 0 ? ring->chunks[ring->n_chunks - 1] : NULL;
    unsigned char *at;

    assert(n_bytes <= RING_CHUNK_BYTES - RING_FRAME_BYTES);
    if (last == NULL || last->n_entries == RING_CHUNK_ENTRIES ||
        RING_CHUNK_BYTES - last->n_bytes < entry_bytes) {
        if (!add_chunk(ring, released))
            return NULL;
        last = ring->chunks[ring->n_chunks - 1];
    }
    at = last->bytes + last->n_bytes;
    return at + put_frame(at, n_bytes);
}

static void commit(
    struct ring_chunk *chunk, uint64_t sequence, size_t entry_bytes)
{
    if (chunk->n_entries == 0)
        chunk->first_sequence = sequence;
    assert(sequence == chunk->first_sequence + chunk->n_entries);
    chunk->starts[chunk->n_entries++] = (uint16_t)chunk->n_bytes;
    chunk->n_bytes += (uint32_t)entry_bytes;
}

void ring_commit(struct ring *ring, uint64_t sequence, size_t n_bytes)
{
    commit(
        ring->chunks[ring->n_chunks - 1], sequence, ring_entry_bytes(n_bytes));
    ring->stored_bytes += ring_entry_bytes(n_bytes);
}

void ring_chunk_add(struct ring_chunk *chunk, uint64_t sequence,
    const unsigned char *receipt, size_t n_bytes)
{
    unsigned char *at = chunk->bytes + chunk->n_bytes;

    assert(chunk->n_entries < RING_CHUNK_ENTRIES &&
           RING_CHUNK_BYTES - chunk->n_bytes >= ring_entry_bytes(n_bytes));
    memcpy(at + put_frame(at, n_bytes), receipt, n_bytes);
    commit(chunk, sequence, ring_entry_bytes(n_bytes));
}

/* Another thread may read this while the owner appends: the entry's length is
 * in its frame, and nothing behind the entry is looked at. */
const unsigned char *ring_chunk_receipt(
    const struct ring_chunk *chunk, uint64_t sequence, size_t *n_bytes)
{
    const unsigned char *at =
        chunk->bytes + chunk->starts[sequence - chunk->first_sequence] + 1;
    unsigned shift = 0;

    *n_bytes = 0;
    for (; (*at & 0x80) != 0; at++, shift += 7)
        *n_bytes |= (size_t)(*at & 0x7f) << shift;
    *n_bytes |= (size_t)*at << shift;
    return at + 1;
}

uint64_t ring_first(const struct ring *ring, uint64_t none)
{
    return ring->n_chunks > 0 ? ring->chunks[0]->first_sequence : none;
}

static bool chunk_has(const struct ring_chunk *chunk, uint64_t sequence)
{
    return sequence >= chunk->first_sequence &&
           sequence - chunk->first_sequence < chunk->n_entries;
}

/* The last chunk that begins at or before the sequence. */
static size_t search(const struct ring *ring, uint64_t sequence)
{
    size_t low = 0, high = ring->n_chunks;

    while (high - low > 1) {
        size_t middle = low + (high - low) / 2;

        if (ring->chunks[middle]->first_sequence <= sequence)
            low = middle;
        else
            high = middle;
    }
    return low;
}

struct ring_chunk *ring_find(
    const struct ring *ring, uint64_t sequence, uint64_t *serial)
{
    uint64_t index = *serial - ring->first_serial;

    /* A reader that goes on is in the chunk of last time or in the next. */
    if (index < ring->n_chunks && !chunk_has(ring->chunks[index], sequence))
        index++;
    if (index >= ring->n_chunks || !chunk_has(ring->chunks[index], sequence))
        index = search(ring, sequence);
    assert(chunk_has(ring->chunks[index], sequence));
    *serial = ring->first_serial + index;
    return ring->chunks[index];
}

size_t ring_chunk_start(const struct ring_chunk *chunk, uint32_t index)
{
    return index < chunk->n_entries ? chunk->starts[index] : chunk->n_bytes;
}
