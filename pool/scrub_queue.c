#include "pool/scrub_queue.h"

#include <assert.h>

#include "base/heap.h"

#define HAS_LENGTH (UINT32_C(1) << 31)

static size_t end_words(uint32_t n_blocks)
{
    return (n_blocks + (size_t)63) / 64;
}

enum kv_status scrub_queue_init(
    struct scrub_queue *queue, size_t block_bytes, uint32_t n_blocks)
{
    *queue = (struct scrub_queue){
        .block_bytes = block_bytes,
        .capacity = n_blocks,
    };
    queue->words = kv_calloc(n_blocks, sizeof *queue->words);
    if (queue->words == NULL)
        return KV_NO_MEMORY;
    queue->ends = kv_calloc(end_words(n_blocks), sizeof *queue->ends);
    if (queue->ends == NULL)
        goto free_words;
    queue->extents =
        kv_calloc(POOL_SCRUBS_OUT * POOL_PART_EXTENTS, sizeof *queue->extents);
    if (queue->extents == NULL)
        goto free_ends;
    for (size_t i = 0; i < POOL_SCRUBS_OUT; i++)
        queue->out[i].extents = queue->extents + i * POOL_PART_EXTENTS;
    return KV_OK;

free_ends:
    kv_free(queue->ends);
free_words:
    kv_free(queue->words);
    return KV_NO_MEMORY;
}

void scrub_queue_fini(struct scrub_queue *queue)
{
    kv_free(queue->extents);
    kv_free(queue->ends);
    kv_free(queue->words);
}

/* The place in the ring n words behind the head. */
static uint32_t place(const struct scrub_queue *queue, uint32_t n)
{
    uint32_t at = queue->head + n;

    return at < queue->capacity ? at : at - queue->capacity;
}

static void put_word(struct scrub_queue *queue, uint32_t word)
{
    assert(queue->n_words < queue->capacity);
    queue->words[place(queue, queue->n_words++)] = word;
}

static void put_run(struct scrub_queue *queue, const struct scrub_run *run)
{
    uint32_t at = place(queue, queue->n_words);
    uint64_t bit = UINT64_C(1) << (at & 63);

    if (run->is_last)
        queue->ends[at >> 6] |= bit;
    else
        queue->ends[at >> 6] &= ~bit;
    if (run->length == 1) {
        put_word(queue, run->first);
        return;
    }
    put_word(queue, run->first | HAS_LENGTH);
    put_word(queue, run->length);
}

uint32_t scrub_queue_run(
    const struct scrub_queue *queue, uint32_t n, struct scrub_run *out)
{
    uint32_t at = place(queue, n), word = queue->words[at];
    bool has_length = (word & HAS_LENGTH) != 0;

    *out = (struct scrub_run){
        .first = word & ~HAS_LENGTH,
        .length = has_length ? queue->words[place(queue, n + 1)] : 1,
        .is_last = (queue->ends[at >> 6] >> (at & 63) & 1) != 0,
    };
    return has_length ? 2 : 1;
}

uint64_t scrub_queue_push(struct scrub_queue *queue,
    const struct pool_extent *extents, size_t n_extents)
{
    assert(n_extents > 0 && n_extents <= POOL_PART_EXTENTS);
    for (size_t i = 0; i < n_extents; i++) {
        const struct scrub_run run = {
            .first = (uint32_t)(extents[i].offset / queue->block_bytes),
            .length = (uint32_t)(extents[i].size / queue->block_bytes),
            .is_last = i + 1 == n_extents,
        };

        put_run(queue, &run);
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
    struct scrub_run run;
    size_t n_extents = 0;

    if (job == NULL || queue->n_words == 0)
        return false;
    extents = queue->extents + (job - queue->out) * POOL_PART_EXTENTS;
    do {
        uint32_t n = scrub_queue_run(queue, 0, &run);

        extents[n_extents++] = (struct pool_extent){
            .offset = (uint64_t)run.first * queue->block_bytes,
            .size = (uint64_t)run.length * queue->block_bytes,
        };
        queue->head = place(queue, n);
        queue->n_words -= n;
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

uint64_t scrub_queue_metadata_bytes(const struct scrub_queue *queue)
{
    return queue->capacity * sizeof *queue->words +
           end_words(queue->capacity) * sizeof *queue->ends +
           POOL_SCRUBS_OUT * POOL_PART_EXTENTS * sizeof *queue->extents;
}
