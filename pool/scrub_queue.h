/* Blocks that wait for being zeroed, in the order in which they were given up.
 *
 *   push ──> waiting (any number) ──next──> out (at most 32) ──done──> gone
 *
 * A job is the blocks of one eviction or release, or of one part of it. Its
 * runs are threaded through what the pool knows of each block, which nobody
 * needs while it waits, so a push cannot fail and takes no memory:
 *
 *   run of one block    [ the run behind ]
 *   longer run          [ the run behind, has_length ][ its length ]
 *
 * The extents of a job are written out when it is taken. */
#ifndef POOL_SCRUB_QUEUE_H
#define POOL_SCRUB_QUEUE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/status.h"
#include "pool/block_pool.h"
#include "pool/pool.h"

struct scrub_run {
    struct block_run blocks;
    bool is_last;    /* of its job */
    uint32_t behind; /* first block of the run that comes next, unless this is
                        the last of all */
};

struct scrub_queue {
    size_t block_bytes;
    struct block *blocks; /* of the arena; borrowed */
    uint32_t head, tail;  /* first blocks of the first and the last run */
    uint64_t n_runs;      /* that wait */
    uint64_t pushed_id, taken_id; /* of the last job */
    struct pool_scrub out[POOL_SCRUBS_OUT];
    struct pool_extent *extents; /* of the jobs that are out */
};

/* KV_NO_MEMORY. */
enum kv_status scrub_queue_init(
    struct scrub_queue *queue, size_t block_bytes, struct block *blocks);
void scrub_queue_fini(struct scrub_queue *queue);

/* One to POOL_PART_EXTENTS runs of blocks without references that do not wait.
 * Returns the number of the job. */
uint64_t scrub_queue_push(
    struct scrub_queue *queue, const struct block_run *runs, size_t n_runs);

/* false if nothing waits, or POOL_SCRUBS_OUT jobs are out. */
bool scrub_queue_next(struct scrub_queue *queue, struct pool_scrub *out);

/* The job that is out under that number; it stays readable until the next
 * scrub_queue_next. */
struct pool_scrub scrub_queue_done(
    struct scrub_queue *queue, uint64_t scrub_id);

/* The waiting run whose first block this is: queue->head, or `behind` of the
 * one before. */
struct scrub_run scrub_queue_run(
    const struct scrub_queue *queue, uint32_t first);

bool scrub_queue_has_out(const struct scrub_queue *queue);

uint64_t scrub_queue_metadata_bytes(void);

#endif
