#include "server/census.h"

void census_count_reuse(struct census *census, int64_t gap_ns, uint64_t n)
{
    kv_histogram_add_many(&census->reuse_gap, gap_ns, n);
}

/* ---- between the pool and its observer */

static bool may_evict(void *ctx)
{
    const struct census *census = ctx;

    return census->next->may_evict(census->next->ctx);
}

static bool may_allocate(void *ctx)
{
    const struct census *census = ctx;

    return census->next->may_allocate(census->next->ctx);
}

static void on_evicted(void *ctx, const struct pool_eviction *eviction)
{
    struct census *census = ctx;

    if (eviction->part == eviction->n_parts) {
        kv_histogram_add(&census->age_at_eviction, eviction->age_ns);
        kv_histogram_add(&census->idle_at_eviction, eviction->idle_ns);
    }
    if (census->next != NULL && census->next->evicted != NULL)
        census->next->evicted(census->next->ctx, eviction);
}

static void on_batch(void *ctx, const struct pool_batch *batch)
{
    const struct census *census = ctx;

    census->next->batch(census->next->ctx, batch);
}

static void on_allocated(void *ctx, const struct pool_allocation *allocation)
{
    const struct census *census = ctx;

    census->next->allocated(census->next->ctx, allocation);
}

static void on_released(void *ctx, const struct pool_release *release)
{
    const struct census *census = ctx;

    census->next->released(census->next->ctx, release);
}

static void on_recomputed(
    void *ctx, const struct pool_recomputation *recomputation)
{
    struct census *census = ctx;

    kv_histogram_add(&census->return_gap, recomputation->gap_ns);
    if (census->next != NULL && census->next->recomputed != NULL)
        census->next->recomputed(census->next->ctx, recomputation);
}

static void on_scrubbed(void *ctx, uint64_t scrub_id)
{
    const struct census *census = ctx;

    census->next->scrubbed(census->next->ctx, scrub_id);
}

/* What nobody behind wants to know the pool need not tell. */
const struct pool_observer *census_init(
    struct census *census, const struct pool_observer *next)
{
    struct pool_observer *observer = &census->observer;

    census->next = next;
    *observer = (struct pool_observer){
        .ctx = census, .evicted = on_evicted, .recomputed = on_recomputed};
    if (next == NULL)
        return observer;
    observer->may_evict = next->may_evict != NULL ? may_evict : NULL;
    observer->may_allocate = next->may_allocate != NULL ? may_allocate : NULL;
    observer->batch = next->batch != NULL ? on_batch : NULL;
    observer->allocated = next->allocated != NULL ? on_allocated : NULL;
    observer->released = next->released != NULL ? on_released : NULL;
    observer->scrubbed = next->scrubbed != NULL ? on_scrubbed : NULL;
    return observer;
}
