#include "tests/pool/auditor.h"
#include "tests/support/check_main.h"

#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

static void copy_name(char *to, const char *name, size_t n_bytes)
{
    if (n_bytes > 0)
        memcpy(to, name, n_bytes);
    to[n_bytes] = '\0';
}

/* Moves every block of the extents from one state to another. Returns bytes. */
static uint64_t move(struct auditor *auditor, const struct pool_extent *extents,
    size_t n_extents, enum auditor_block from, enum auditor_block to,
    uint64_t scrub_id)
{
    uint64_t bytes = 0;

    for (size_t i = 0; i < n_extents; i++) {
        uint64_t first = extents[i].offset / auditor->block_bytes;
        uint64_t n = extents[i].size / auditor->block_bytes;

        if (extents[i].offset % auditor->block_bytes != 0 ||
            extents[i].size % auditor->block_bytes != 0 || n == 0 ||
            first + n > auditor->n_blocks)
            ck_abort_msg("extent %zu is not a run of blocks", i);
        for (uint64_t id = first; id < first + n; id++) {
            if (auditor->states[id] != from)
                ck_abort_msg("block %" PRIu64 " is %d, not %d", id,
                    auditor->states[id], from);
            auditor->states[id] = (uint8_t)to;
            auditor->scrub_jobs[id] = (uint32_t)scrub_id;
        }
        bytes += extents[i].size;
    }
    return bytes;
}

static void check_ascending(const struct pool_extent *extents, size_t n_extents)
{
    ck_assert_uint_le(n_extents, POOL_PART_EXTENTS);
    for (size_t i = 1; i < n_extents; i++)
        if (extents[i].offset <= extents[i - 1].offset + extents[i - 1].size)
            ck_abort_msg("extent %zu touches the one before", i);
}

static uint64_t count_free_runs(const struct auditor *auditor)
{
    uint64_t n_runs = 0;

    for (uint32_t id = 0; id < auditor->n_blocks; id++)
        n_runs += auditor->states[id] != AUDITOR_USED &&
                  (id == 0 || auditor->states[id - 1] == AUDITOR_USED);
    return n_runs;
}

static void check_stats(
    const struct auditor *auditor, const struct pool_stats *stats)
{
    const struct pool_stats should = {
        .total_sessions = stats->total_sessions,
        .used_bytes = auditor->used_bytes,
        .allocated_bytes_total = auditor->allocated_bytes,
        .freed_bytes_total = auditor->freed_bytes,
        .evictions = auditor->n_evictions,
        .cache_hits = stats->cache_hits,
        .cache_misses = stats->cache_misses,
        .session_tokens = stats->session_tokens,
        .total_bytes = auditor->n_blocks * auditor->block_bytes,
        .free_runs = auditor->n_blocks <= 256 ? count_free_runs(auditor)
                                              : stats->free_runs,
    };

    ck_assert_mem_eq(stats, &should, sizeof should);
}

/* Blocks leave use: what evictions and releases have in common. */
static void on_gone(struct auditor *auditor, const struct pool_extent *extents,
    size_t n_extents, uint64_t scrub_id)
{
    uint64_t bytes;

    check_ascending(extents, n_extents);
    if (n_extents > 0)
        ck_assert_uint_eq(scrub_id, ++auditor->last_scrub_id);
    else
        ck_assert_uint_eq(scrub_id, 0);
    bytes = move(
        auditor, extents, n_extents, AUDITOR_USED, AUDITOR_SCRUBBING, scrub_id);
    auditor->used_bytes -= bytes;
    auditor->freed_bytes += bytes;
}

static void on_evicted(void *ctx, const struct pool_eviction *eviction)
{
    struct auditor *auditor = ctx;
    uint64_t used_before = auditor->used_bytes;

    check_stats(auditor, eviction->before);
    on_gone(
        auditor, eviction->extents, eviction->n_extents, eviction->scrub_id);
    ck_assert_uint_eq(used_before - auditor->used_bytes, eviction->bytes_freed);
    ck_assert_uint_eq(
        eviction->blocks_freed * auditor->block_bytes, eviction->bytes_freed);

    /* Parts follow one another, and only the last one counts. */
    ck_assert_uint_ge(eviction->n_parts, 1);
    if (auditor->parts_open == 0)
        auditor->parts_open = eviction->n_parts;
    ck_assert_uint_eq(
        eviction->part, eviction->n_parts - auditor->parts_open + 1);
    auditor->parts_open--;
    if (auditor->parts_open == 0)
        auditor->n_evictions++;
    else
        ck_assert_uint_eq(
            eviction->after->total_sessions, eviction->before->total_sessions);
    check_stats(auditor, eviction->after);
    /* Tokens in blocks that live on are freed for this session only. */
    ck_assert_uint_ge(
        eviction->before->session_tokens - eviction->after->session_tokens,
        eviction->tokens_freed);
    ck_assert_int_ge(eviction->age_ns, eviction->idle_ns);
    ck_assert_int_ge(eviction->idle_ns, 0);

    if (auditor->n_members == 0 && auditor->member_bytes == 0)
        auditor->first_before = *eviction->before;
    else
        ck_assert_int_eq(
            (int)eviction->cause->reason, (int)auditor->member_reason);
    auditor->n_members += auditor->parts_open == 0;
    auditor->n_parts++;
    auditor->member_bytes += eviction->bytes_freed;
    auditor->member_reason = eviction->cause->reason;
    auditor->last_before = *eviction->before;
    auditor->last_after = *eviction->after;
    auditor->last = *eviction;
    auditor->last.before = &auditor->last_before;
    auditor->last.after = &auditor->last_after;
    copy_name(auditor->last_id, eviction->key.id, eviction->key.id_bytes);
    auditor->forced_by[0] = '\0';
    if (eviction->cause->forced_by != NULL)
        copy_name(auditor->forced_by, eviction->cause->forced_by->id,
            eviction->cause->forced_by->id_bytes);
}

static void on_batch(void *ctx, const struct pool_batch *batch)
{
    struct auditor *auditor = ctx;

    ck_assert_uint_eq(auditor->parts_open, 0);
    ck_assert_uint_eq(batch->n_sessions, auditor->n_members);
    ck_assert_uint_eq(batch->bytes_freed, auditor->member_bytes);
    if (auditor->n_members > 0) {
        ck_assert_mem_eq(
            batch->before, &auditor->first_before, sizeof *batch->before);
        ck_assert_mem_eq(
            batch->after, &auditor->last_after, sizeof *batch->after);
        ck_assert_int_eq((int)batch->reason, (int)auditor->member_reason);
    } else {
        ck_assert_int_eq((int)batch->reason, POOL_REASON_MANUAL);
    }
    ck_assert_str_eq(batch->policy,
        batch->reason == POOL_REASON_LRU || batch->reason == POOL_REASON_QUOTA
            ? auditor->policy
            : "");
    auditor->n_members = auditor->member_bytes = 0;
    auditor->n_batches++;
    auditor->last_batch_sessions = batch->n_sessions;
    copy_name(auditor->last_policy, batch->policy, strlen(batch->policy));
}

/* Nothing else may come between members and their batch. */
static void check_no_members(const struct auditor *auditor)
{
    ck_assert_uint_eq(auditor->n_members, 0);
    ck_assert_uint_eq(auditor->parts_open, 0);
}

static void on_allocated(void *ctx, const struct pool_allocation *allocation)
{
    struct auditor *auditor = ctx;
    uint64_t bytes;

    check_no_members(auditor);
    check_stats(auditor, allocation->before);
    ck_assert((allocation->n_extents > 0) != (allocation->n_reused > 0));
    ck_assert_uint_le(allocation->n_extents, POOL_PART_EXTENTS);
    ck_assert_uint_le(allocation->n_reused, POOL_PART_EXTENTS);
    move(auditor, allocation->reused, allocation->n_reused, AUDITOR_USED,
        AUDITOR_USED, 0);
    bytes = move(auditor, allocation->extents, allocation->n_extents,
        AUDITOR_FREE, AUDITOR_USED, 0);
    auditor->used_bytes += bytes;
    auditor->allocated_bytes += bytes;
    auditor->n_allocations++;
    check_stats(auditor, allocation->after);
}

static void on_released(void *ctx, const struct pool_release *release)
{
    struct auditor *auditor = ctx;

    check_no_members(auditor);
    check_stats(auditor, release->before);
    on_gone(auditor, release->extents, release->n_extents, release->scrub_id);
    auditor->n_releases++;
    check_stats(auditor, release->after);
}

static void on_scrubbed(void *ctx, uint64_t scrub_id)
{
    struct auditor *auditor = ctx;
    uint32_t n = 0;

    ck_assert_uint_le(scrub_id, auditor->last_scrub_id);
    for (uint32_t id = 0; id < auditor->n_blocks; id++) {
        if (auditor->states[id] != AUDITOR_SCRUBBING ||
            auditor->scrub_jobs[id] != scrub_id)
            continue;
        auditor->states[id] = AUDITOR_FREE;
        n++;
    }
    ck_assert_uint_gt(n, 0);
    auditor->n_scrubbed++;
}

void auditor_init(
    struct auditor *auditor, uint64_t block_bytes, uint32_t n_blocks)
{
    memset(auditor, 0, sizeof *auditor);
    auditor->observer = (struct pool_observer){
        .ctx = auditor,
        .evicted = on_evicted,
        .batch = on_batch,
        .allocated = on_allocated,
        .released = on_released,
        .scrubbed = on_scrubbed,
    };
    auditor->block_bytes = block_bytes;
    auditor->n_blocks = n_blocks;
    auditor->states = calloc(n_blocks, sizeof *auditor->states);
    auditor->scrub_jobs = calloc(n_blocks, sizeof *auditor->scrub_jobs);
    ck_assert_ptr_nonnull(auditor->states);
    ck_assert_ptr_nonnull(auditor->scrub_jobs);
}

void auditor_fini(struct auditor *auditor)
{
    free(auditor->scrub_jobs);
    free(auditor->states);
}

void auditor_settle(
    const struct auditor *auditor, const struct pool_stats *stats)
{
    check_no_members(auditor);
    check_stats(auditor, stats);
}
