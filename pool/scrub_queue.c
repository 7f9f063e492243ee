#include "pool/scrub_queue.h"

#include <assert.h>

#include "base/heap.h"

#define LAST_OF_JOB (UINT32_C(1) << 31)

enum kv_status scrub_queue_init(
    struct scrub_queue *queue, size_t block_bytes, uint32_t n_blocks)
{
    *queue = (struct scrub_queue){
        .block_bytes = block_bytes,
        .capacity = n_blocks,
    };
    queue->runs = kv_calloc(n_blocks, sizeof *queue->runs);
    if (queue->runs == NULL)
        return KV_NO_MEMORY;
    queue->extents =
        kv_calloc(POOL_SCRUBS_OUT * POOL_PART_EXTENTS, sizeof *queue->extents);
    if (queue->extents == NULL) {
        kv_free(queue->runs);
        return KV_NO_MEMORY;
    }
    for (size_t i = 0; i < POOL_SCRUBS_OUT; i++)
        queue->out[i].extents = queue->extents + i * POOL_PART_EXTENTS;
    return KV_OK;
}

void scrub_queue_fini(struct scrub_queue *queue)
{
    kv_free(queue->extents);
    kv_free(queue->runs);
}

static uint32_t wrap(const struct scrub_queue *queue, uint32_t at)
{
    return at < queue->capacity ? at : at - queue->capacity;
}

uint64_t scrub_queue_push(struct scrub_queue *queue,
    const struct pool_extent *extents, size_t n_extents)
{
    assert(n_extents > 0 && n_extents <= POOL_PART_EXTENTS);
    assert(n_extents <= queue->capacity - queue->n_runs);
    for (size_t i = 0; i < n_extents; i++) {
        struct scrub_run run = {
            .first = (uint32_t)(extents[i].offset / queue->block_bytes),
            .length = (uint32_t)(extents[i].size / queue->block_bytes),
        };

        if (i + 1 == n_extents)
            run.length |= LAST_OF_JOB;
        queue->runs[wrap(queue, queue->head + queue->n_runs++)] = run;
    }
    return ++queue->pushed_id;
}

/* Number 0 finds a place that is not taken; NULL if there is none. */
static struct pool_scrub *find_out(struct scrub_queue *queue, uint64_t scrub_id)
{
    for (size_t i = 0; i < POOL_SCRUBS_OUT; i++)
        if (queue->out[i].scrub_id == scrub_id)
            return &queue->out[i];
    return NULL;
}

bool scrub_queue_next(struct scrub_queue *queue, struct pool_scrub *out)
{
    struct pool_scrub *job = find_out(queue, 0);
    struct pool_extent *extents;
    size_t n_extents = 0;
    uint32_t length;

    if (job == NULL || queue->n_runs == 0)
        return false;
    extents = queue->extents + (job - queue->out) * POOL_PART_EXTENTS;
    do {
        const struct scrub_run *run = &queue->runs[queue->head];

        length = run->length;
        extents[n_extents++] = (struct pool_extent){
            .offset = (uint64_t)run->first * queue->block_bytes,
            .size = (uint64_t)(length & ~LAST_OF_JOB) * queue->block_bytes,
        };
        queue->head = wrap(queue, queue->head + 1);
        queue->n_runs--;
    } while ((length & LAST_OF_JOB) == 0);
    *out = (struct pool_scrub){++queue->taken_id, extents, n_extents};
    *job = *out;
    return true;
}

struct pool_scrub scrub_queue_done(struct scrub_queue *queue, uint64_t scrub_id)
{
    struct pool_scrub *job = find_out(queue, scrub_id);
    struct pool_scrub done;

    assert(scrub_id != 0 && job != NULL);
    done = *job;
    job->scrub_id = 0;
    return done;
}

bool scrub_queue_has_out(const struct scrub_queue *queue)
{
    for (size_t i = 0; i < POOL_SCRUBS_OUT; i++)
        if (queue->out[i].scrub_id != 0)
            return true;
    return false;
}

uint64_t scrub_queue_metadata_bytes(const struct scrub_queue *queue)
{
    return queue->capacity * sizeof *queue->runs +
           POOL_SCRUBS_OUT * POOL_PART_EXTENTS * sizeof *queue->extents;
}
