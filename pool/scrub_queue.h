/* Blocks that wait for being zeroed, in the order in which they were given up.
 *
 *   push ──> waiting (any number) ──next──> out (at most 32) ──done──> gone
 *
 * A job is the blocks of one eviction or release, or of one part of it. A run
 * of one block is kept in one word, a longer one in two, so a ring of a word
 * for each block of the arena has room for all, and a push cannot fail; the
 * extents of a job are written out when it is taken. */
#ifndef POOL_SCRUB_QUEUE_H
#define POOL_SCRUB_QUEUE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/status.h"
#include "pool/pool.h"

struct scrub_run {
    uint32_t first, length; /* in blocks */
    bool is_last;           /* of its job */
};

struct scrub_queue {
    size_t block_bytes;
    uint32_t *words; /* a ring: the first block of a run, and with the top bit
                        set its length behind it */
    uint64_t *ends; /* a bit for each word: the last run of a job begins here */
    uint32_t capacity, head, n_words;
    uint64_t pushed_id, taken_id; /* of the last job */
    struct pool_scrub out[POOL_SCRUBS_OUT];
    struct pool_extent *extents; /* of the jobs that are out */
};

/* KV_NO_MEMORY. */
enum kv_status scrub_queue_init(
    struct scrub_queue *queue, size_t block_bytes, uint32_t n_blocks);
void scrub_queue_fini(struct scrub_queue *queue);

/* One to POOL_PART_EXTENTS extents. Returns the number of the job. */
uint64_t scrub_queue_push(struct scrub_queue *queue,
    const struct pool_extent *extents, size_t n_extents);

/* false if nothing waits, or POOL_SCRUBS_OUT jobs are out. */
bool scrub_queue_next(struct scrub_queue *queue, struct pool_scrub *out);

/* The job that is out under that number; it stays readable until the next
 * scrub_queue_next. */
struct pool_scrub scrub_queue_done(
    struct scrub_queue *queue, uint64_t scrub_id);

/* The waiting run that begins n words behind the head, less than n_words.
 * Returns in how many words it is kept. */
uint32_t scrub_queue_run(
    const struct scrub_queue *queue, uint32_t n, struct scrub_run *out);

bool scrub_queue_has_out(const struct scrub_queue *queue);

uint64_t scrub_queue_metadata_bytes(const struct scrub_queue *queue);

#endif
