#include "tests/receipts/events.h"

void events_init(struct events *events, const struct pool_observer *observer)
{
    *events = (struct events){
        .observer = observer,
        .stats.total_bytes = (uint64_t)EVENTS_BLOCKS * EVENTS_BLOCK_BYTES,
        .stats.free_runs = 1,
        .next_scrub_id = 1,
    };
}

void events_allocate(struct events *events, uint64_t n_blocks)
{
    events->stats.total_sessions++;
    events->stats.used_bytes += n_blocks * EVENTS_BLOCK_BYTES;
    events->stats.allocated_bytes_total += n_blocks * EVENTS_BLOCK_BYTES;
    events->stats.session_tokens += 16 * n_blocks;
    events->stats.cache_misses += n_blocks;
}

static uint64_t tell_part(struct events *events, enum pool_reason reason,
    size_t n_extents, uint32_t part, uint32_t n_parts)
{
    const struct pool_key forced_by = {"acme", 4, "other", 5};
    const uint8_t trace_id[16] = {1, 2, 3};
    const struct pool_cause cause = {
        .reason = reason,
        .requested_by = reason == POOL_REASON_MANUAL ? "anonymous" : NULL,
        .forced_by = reason == POOL_REASON_LRU ? &forced_by : NULL,
        .trace_id = trace_id,
    };
    const struct pool_stats before = events->stats;
    struct pool_eviction eviction = {
        .key = {"acme", 4, "chat-7", 6},
        .cause = &cause,
        .extents = events->extents,
        .n_extents = n_extents,
        .bytes_freed = n_extents * EVENTS_BLOCK_BYTES,
        .blocks_freed = n_extents,
        .tokens_freed = 16 * n_extents,
        .tokens_kept = 16 * n_extents,
        .age_ns = 5000,
        .idle_ns = 3000,
        .hits = 2,
        .part = part,
        .n_parts = n_parts,
        .before = &before,
        .after = &events->stats,
        .scrub_id = n_extents > 0 ? events->next_scrub_id++ : 0,
        .mono_ns = ++events->now_ns,
    };

    for (size_t i = 0; i < n_extents; i++)
        events->extents[i] = (struct pool_extent){
            2 * i * EVENTS_BLOCK_BYTES, EVENTS_BLOCK_BYTES};
    events->stats.used_bytes -= eviction.bytes_freed;
    events->stats.freed_bytes_total += eviction.bytes_freed;
    events->stats.session_tokens -= eviction.tokens_freed;
    events->stats.free_runs += n_extents;
    if (part == n_parts) {
        events->stats.total_sessions--;
        events->stats.evictions++;
        events->n_members++;
    }
    events->observer->evicted(events->observer->ctx, &eviction);
    return eviction.scrub_id;
}

static void provide(struct events *events, uint64_t n_blocks)
{
    if (events->stats.total_sessions == 0 ||
        events->stats.used_bytes < n_blocks * EVENTS_BLOCK_BYTES)
        events_allocate(events, n_blocks);
}

uint64_t events_evict(
    struct events *events, enum pool_reason reason, size_t n_extents)
{
    provide(events, n_extents);
    if (events->n_members == 0)
        events->batch_before = events->stats;
    return tell_part(events, reason, n_extents, 1, 1);
}

void events_evict_in_parts(
    struct events *events, enum pool_reason reason, size_t n_extents)
{
    provide(events, 2 * n_extents);
    if (events->n_members == 0)
        events->batch_before = events->stats;
    tell_part(events, reason, n_extents, 1, 2);
    tell_part(events, reason, n_extents, 2, 2);
}

void events_batch(struct events *events, enum pool_reason reason)
{
    struct pool_batch batch = {
        .reason = reason,
        .policy = reason == POOL_REASON_LRU ? "lru" : "",
        .n_sessions = events->n_members,
        .before =
            events->n_members > 0 ? &events->batch_before : &events->stats,
        .after = &events->stats,
        .duration_ns = 700,
        .mono_ns = ++events->now_ns,
    };

    batch.bytes_freed =
        batch.after->freed_bytes_total - batch.before->freed_bytes_total;
    events->n_members = 0;
    events->observer->batch(events->observer->ctx, &batch);
}
