#include "pool/block_pool.h"

#include <assert.h>
#include <errno.h>
#include <inttypes.h>
#include <string.h>
#include <sys/mman.h>

#include "base/heap.h"

static enum kv_status check_sizes(
    size_t block_bytes, uint32_t n_blocks, struct kv_error *error)
{
    if (n_blocks == 0 || n_blocks > BLOCK_POOL_MAX_BLOCKS)
        return kv_error_set(error, KV_INVALID,
            "the pool cannot have %" PRIu32 " blocks: 1 to %d are allowed",
            n_blocks, BLOCK_POOL_MAX_BLOCKS);
    if (block_bytes == 0 || block_bytes % 64 != 0)
        return kv_error_set(error, KV_INVALID,
            "a block cannot have %zu bytes: a multiple of 64 is needed",
            block_bytes);
    if (block_bytes > (size_t)PTRDIFF_MAX / n_blocks)
        return kv_error_set(error, KV_INVALID,
            "a pool of %" PRIu32 " blocks of %zu bytes is larger than the "
            "address space: at most %td bytes are allowed",
            n_blocks, block_bytes, PTRDIFF_MAX);
    return KV_OK;
}

static enum kv_status map_arena(struct block_pool *pool, struct kv_error *error)
{
    void *arena = mmap(NULL, pool->arena_bytes, PROT_READ | PROT_WRITE,
        MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);

    if (arena == MAP_FAILED)
        return kv_error_set(error, KV_NO_MEMORY,
            "cannot map the pool's %zu bytes (%" PRIu32
            " blocks of %zu bytes): %s",
            pool->arena_bytes, pool->n_blocks, pool->block_bytes,
            strerror(errno));
    if (madvise(arena, pool->arena_bytes, MADV_DONTDUMP) != 0) {
        int reason = errno;

        munmap(arena, pool->arena_bytes);
        return kv_error_set(error, KV_UNSUPPORTED,
            "cannot keep the pool's %zu bytes out of core dumps: %s",
            pool->arena_bytes, strerror(reason));
    }
    /* A kernel without huge pages is slower, not wrong. */
    (void)madvise(arena, pool->arena_bytes, MADV_HUGEPAGE);
    pool->arena = arena;
    return KV_OK;
}

enum kv_status block_pool_init(struct block_pool *pool, size_t block_bytes,
    uint32_t n_blocks, struct kv_error *error)
{
    enum kv_status status = check_sizes(block_bytes, n_blocks, error);

    if (status != KV_OK)
        return status;
    *pool = (struct block_pool){
        .arena_bytes = block_bytes * n_blocks,
        .block_bytes = block_bytes,
        .n_blocks = n_blocks,
        .n_free = n_blocks,
        .n_free_runs = 1,
    };
    status = map_arena(pool, error);
    if (status != KV_OK)
        return status;
    pool->blocks = kv_calloc_table(n_blocks, sizeof *pool->blocks);
    if (pool->blocks == NULL)
        goto unmap_arena;
    if (bit_tree_init(&pool->free, n_blocks) != KV_OK)
        goto free_blocks;
    if (bit_tree_init(&pool->leaving, n_blocks) != KV_OK)
        goto fini_free;
    bit_tree_add_run(&pool->free, 0, n_blocks);
    return KV_OK;

fini_free:
    bit_tree_fini(&pool->free);
free_blocks:
    kv_free(pool->blocks);
unmap_arena:
    munmap(pool->arena, pool->arena_bytes);
    return kv_error_set(error, KV_NO_MEMORY,
        "no memory for what is to be known of %" PRIu32 " blocks", n_blocks);
}

void block_pool_fini(struct block_pool *pool)
{
    bit_tree_fini(&pool->leaving);
    bit_tree_fini(&pool->free);
    kv_free(pool->blocks);
    munmap(pool->arena, pool->arena_bytes);
}

static bool is_used(const struct block_pool *pool, uint32_t id)
{
    return pool->blocks[id].n_refs > 0;
}

/* How many neighbours of a run are unused, which it joins or parts. */
static uint32_t unused_sides(
    const struct block_pool *pool, struct block_run run)
{
    uint32_t end = run.first + run.n;
    bool below = run.first > 0 && !is_used(pool, run.first - 1);
    bool above = end < pool->n_blocks && !is_used(pool, end);

    return (uint32_t)below + (uint32_t)above;
}

struct block_run block_pool_acquire(
    struct block_pool *pool, uint32_t first, uint32_t n_most)
{
    struct block_run run = {.first = first};

    assert(pool->n_free > 0 && n_most > 0);
    if (first >= pool->n_blocks || !bit_tree_has(&pool->free, first))
        run.first = bit_tree_least(&pool->free);
    run.n = bit_tree_take_run(&pool->free, run.first, n_most);
    for (uint32_t i = 0; i < run.n; i++)
        pool->blocks[run.first + i] = (struct block){.n_refs = 1};
    pool->n_free_runs += unused_sides(pool, run) - 1;
    pool->n_free -= run.n;
    pool->n_used += run.n;
    return run;
}

void block_pool_retain(struct block_pool *pool, pool_block_id id)
{
    assert(is_used(pool, id));
    pool->blocks[id].n_refs++;
    pool->n_shared += pool->blocks[id].n_refs == 2;
}

void block_pool_pin(struct block_pool *pool, pool_block_id id)
{
    assert(is_used(pool, id));
    pool->n_pinned += pool->blocks[id].n_pins++ == 0;
}

void block_pool_unpin(struct block_pool *pool, pool_block_id id)
{
    assert(pool->blocks[id].n_pins > 0);
    pool->n_pinned -= --pool->blocks[id].n_pins == 0;
}

void block_pool_pin_single(struct block_pool *pool, uint32_t n)
{
    pool->n_pinned += n;
}

void block_pool_unpin_single(struct block_pool *pool, uint32_t n)
{
    assert(pool->n_pinned >= n);
    pool->n_pinned -= n;
}

static void put_aside_in_set(struct block_pool *pool)
{
    struct block_run run = pool->aside;
    uint32_t end = run.first + run.n;
    bool below, above;

    if (run.n == 0)
        return;
    below = run.first > 0 && bit_tree_has(&pool->leaving, run.first - 1);
    above = end < pool->n_blocks && bit_tree_has(&pool->leaving, end);
    bit_tree_add_run(&pool->leaving, run.first, run.n);
    pool->n_leaving_runs += 1 - (uint32_t)below - (uint32_t)above;
    pool->aside.n = 0;
}

bool block_pool_release(struct block_pool *pool, pool_block_id id)
{
    struct block *block = &pool->blocks[id];

    assert(is_used(pool, id) && !block_pool_is_leaving(pool, id));
    if (block->n_refs > 1) {
        block->n_refs--;
        pool->n_shared -= block->n_refs == 1;
        return false;
    }
    assert(block->n_pins == 0);
    if (id != pool->aside.first + pool->aside.n) {
        put_aside_in_set(pool);
        pool->aside.first = id;
    }
    pool->aside.n++;
    return true;
}

uint32_t block_pool_n_leaving(struct block_pool *pool)
{
    if (pool->n_leaving_runs == 0)
        return pool->aside.n > 0;
    put_aside_in_set(pool);
    return pool->n_leaving_runs;
}

/* Takes the lowest of the runs that leave; false if there is none. */
static bool take_leaving(struct block_pool *pool, struct block_run *out)
{
    struct block_run run = pool->aside;

    if (pool->n_leaving_runs == 0) {
        pool->aside.n = 0;
        *out = run;
        return run.n > 0;
    }
    put_aside_in_set(pool);
    run = (struct block_run){.first = bit_tree_least(&pool->leaving)};
    do
        run.n += bit_tree_take_run(&pool->leaving, run.first + run.n, 64);
    while (run.first + run.n < pool->n_blocks &&
           bit_tree_has(&pool->leaving, run.first + run.n));
    pool->n_leaving_runs--;
    *out = run;
    return true;
}

/* Returns how many tokens lay there. */
static uint64_t sweep_run(struct block_pool *pool, struct block_run run)
{
    uint64_t n_tokens = 0;

    for (uint32_t id = run.first; id < run.first + run.n; id++) {
        n_tokens += pool->blocks[id].n_tokens;
        pool->blocks[id] = (struct block){0};
    }
    pool->n_free_runs += 1 - unused_sides(pool, run);
    return n_tokens;
}

struct block_sweep block_pool_sweep(
    struct block_pool *pool, struct block_run *runs, size_t max_runs)
{
    struct block_sweep sweep = {0};
    struct block_run run;

    while (sweep.n_runs < max_runs && take_leaving(pool, &run)) {
        runs[sweep.n_runs++] = run;
        sweep.n_blocks += run.n;
        sweep.n_tokens += sweep_run(pool, run);
    }
    pool->n_used -= sweep.n_blocks;
    pool->n_scrubbing += sweep.n_blocks;
    pool->n_tokens -= sweep.n_tokens;
    return sweep;
}

void block_pool_free(struct block_pool *pool, const struct pool_extent *extent)
{
    uint32_t first = (uint32_t)(extent->offset / pool->block_bytes);
    uint32_t n = (uint32_t)(extent->size / pool->block_bytes);

    assert(n > 0 && n <= pool->n_scrubbing);
    bit_tree_add_run(&pool->free, first, n);
    pool->n_scrubbing -= n;
    pool->n_free += n;
}

void block_pool_set_tokens(
    struct block_pool *pool, pool_block_id id, uint32_t n_tokens)
{
    assert(is_used(pool, id) && n_tokens <= BLOCK_POOL_MAX_TOKENS);
    pool->n_tokens += n_tokens;
    pool->n_tokens -= pool->blocks[id].n_tokens;
    pool->blocks[id].n_tokens = n_tokens & BLOCK_POOL_MAX_TOKENS;
}

uint64_t block_pool_metadata_bytes(const struct block_pool *pool)
{
    return pool->n_blocks * sizeof *pool->blocks +
           (pool->free.n_words + pool->leaving.n_words) * sizeof(uint64_t);
}
