/* The shared log of the ledger: encoded receipts in chunks, bounded.
 *
 *   chunks[0]              chunks[1]              chunks[n - 1]
 *   |entry|entry|entry|.   |entry|entry|....|     |entry|entry|   room   |
 *    ^ first_sequence                                          ^ append
 *
 * An entry is 0x0a, a varint of the length, and the receipt: field 1 of a
 * StreamReceiptsResponse, so that any run of entries is a message. An entry
 * never crosses chunks. Sequences are dense, so the place of a receipt in its
 * chunk is its sequence less the chunk's first.
 *
 * Chunks are counted by reference: the ring holds one, and every run that a
 * reader took holds one. Bytes that were appended never change while somebody
 * holds their chunk, and later entries only go behind them, so a reader on
 * another thread needs no lock.
 *
 * Thread: the owner's, except ring_chunk_release. */
#ifndef RECEIPTS_RING_H
#define RECEIPTS_RING_H

#include <stdatomic.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/status.h"

#define RING_CHUNK_BYTES 65536
#define RING_CHUNK_ENTRIES 1024
#define RING_FRAME_BYTES 4 /* of an entry, at most: tag and length */

struct ring_chunk {
    _Atomic uint32_t refs;
    uint32_t n_entries;
    uint32_t n_bytes;
    uint64_t first_sequence;
    struct ring_chunk *next_written; /* the journal's */
    uint16_t starts[RING_CHUNK_ENTRIES];
    unsigned char bytes[RING_CHUNK_BYTES];
};

/* The caller's memory; fields are for reading only. */
struct ring {
    struct ring_chunk **chunks;
    size_t n_chunks, capacity;
    size_t max_chunks;
    uint64_t first_serial; /* of chunks[0]; the next one has one more */
    struct ring_chunk *spare;
    uint64_t stored_bytes;
};

/* limit_bytes is at least two chunks. KV_NO_MEMORY. */
enum kv_status ring_init(struct ring *ring, size_t limit_bytes);
/* Chunks that readers hold live on until those give them back. */
void ring_fini(struct ring *ring);

/* Room for an entry whose receipt has n_bytes, framed already: the caller
 * writes the receipt there and commits. Receipts up to `released` may be
 * dropped for it, oldest chunk first: beyond the limit always, and below it
 * where there is no memory. NULL: not even so. */
unsigned char *ring_reserve(
    struct ring *ring, size_t n_bytes, uint64_t released);

/* The reserved entry is there, and is this receipt. */
void ring_commit(struct ring *ring, uint64_t sequence, size_t n_bytes);

/* Drops what lies beyond the limit and is released. */
void ring_trim(struct ring *ring, uint64_t released);

/* The oldest receipt; `none` if it is empty. */
uint64_t ring_first(const struct ring *ring, uint64_t none);

/* The chunk with this receipt, which must be there. *serial is where to look
 * first, and becomes where it was found. */
struct ring_chunk *ring_find(
    const struct ring *ring, uint64_t sequence, uint64_t *serial);

/* Bytes of the chunk before entry number `index`; index may be n_entries. */
size_t ring_chunk_start(const struct ring_chunk *chunk, uint32_t index);

/* The receipt of an entry, which must be there. Any thread, of an entry that it
 * was told of. */
const unsigned char *ring_chunk_receipt(
    const struct ring_chunk *chunk, uint64_t sequence, size_t *n_bytes);

/* ---- a chunk that is no ring's, with one reference */

/* Bytes of the entry of a receipt. */
size_t ring_entry_bytes(size_t n_bytes);

/* Empty. NULL: no memory. */
struct ring_chunk *ring_chunk_open(void);
/* Appends; sequences are dense. There is room. */
void ring_chunk_add(struct ring_chunk *chunk, uint64_t sequence,
    const unsigned char *receipt, size_t n_bytes);

void ring_chunk_retain(struct ring_chunk *chunk);
/* Any thread. */
void ring_chunk_release(struct ring_chunk *chunk);

#endif
