#include "pool/scrub_queue.h"

#include <assert.h>

#include "base/heap.h"

enum kv_status scrub_queue_init(
    struct scrub_queue *queue, size_t block_bytes, struct block *blocks)
{
    *queue = (struct scrub_queue){
        .block_bytes = block_bytes,
        .blocks = blocks,
    };
    queue->extents =
        kv_calloc(POOL_SCRUBS_OUT * POOL_PART_EXTENTS, sizeof *queue->extents);
    if (queue->extents == NULL)
        return KV_NO_MEMORY;
    for (size_t i = 0; i < POOL_SCRUBS_OUT; i++)
        queue->out[i].extents = queue->extents + i * POOL_PART_EXTENTS;
    return KV_OK;
}

void scrub_queue_fini(struct scrub_queue *queue)
{
    kv_free(queue->extents);
}

static void put_run(
    struct scrub_queue *queue, struct block_run run, bool is_last)
{
    struct block *block = &queue->blocks[run.first];

    assert(block->n_refs == 0);
    *block = (struct block){
        .waiting = {.has_length = run.n > 1, .is_last = is_last}};
    if (run.n > 1)
        block[1] = (struct block){.waiting = {.word = run.n}};
    if (queue->n_runs++ == 0)
        queue->head = run.first;
    else
        queue->blocks[queue->tail].waiting.word = run.first;
    queue->tail = run.first;
}

struct scrub_run scrub_queue_run(
    const struct scrub_queue *queue, uint32_t first)
{
    const struct block *block = &queue->blocks[first];

    return (struct scrub_run){
        .blocks.first = first,
        .blocks.n = block->waiting.has_length ? block[1].waiting.word : 1,
        .is_last = block->waiting.is_last,
        .behind = block->waiting.word,
    };
}

uint64_t scrub_queue_push(
    struct scrub_queue *queue, const struct block_run *runs, size_t n_runs)
{
    assert(n_runs > 0 && n_runs <= POOL_PART_EXTENTS);
    for (size_t i = 0; i < n_runs; i++)
        put_run(queue, runs[i], i + 1 == n_runs);
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
    struct scrub_run run;
    size_t n_extents = 0;

    if (job == NULL || queue->n_runs == 0)
        return false;
    extents = queue->extents + (job - queue->out) * POOL_PART_EXTENTS;
    do {
        run = scrub_queue_run(queue, queue->head);
        extents[n_extents++] = (struct pool_extent){
            .offset = (uint64_t)run.blocks.first * queue->block_bytes,
            .size = (uint64_t)run.blocks.n * queue->block_bytes,
        };
        queue->head = run.behind;
        queue->n_runs--;
    } while (!run.is_last);
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

uint64_t scrub_queue_metadata_bytes(void)
{
    return POOL_SCRUBS_OUT * POOL_PART_EXTENTS * sizeof(struct pool_extent);
}
