#include "server/census.h"

#include "base/clock.h"

int64_t census_bound_ns(unsigned i)
{
    return KV_NS_PER_MS << i;
}

/* The least i whose bound is not less. */
static unsigned bucket_of(int64_t duration_ns)
{
    uint64_t n_ms;
    unsigned i;

    if (duration_ns <= KV_NS_PER_MS)
        return 0;
    n_ms = (uint64_t)((duration_ns - 1) / KV_NS_PER_MS); /* at least 1 */
    i = 64 - (unsigned)__builtin_clzll(n_ms);
    return i < CENSUS_BOUNDS ? i : CENSUS_BOUNDS;
}

void census_add(
    struct census_histogram *histogram, int64_t duration_ns, uint64_t n)
{
    int64_t sum_ns;

    if (duration_ns < 0)
        duration_ns = 0;
    histogram->counts[bucket_of(duration_ns)] += n;
    histogram->count += n;
    if (__builtin_mul_overflow(duration_ns, n, &sum_ns) ||
        __builtin_add_overflow(histogram->sum_ns, sum_ns, &histogram->sum_ns))
        histogram->sum_ns = INT64_MAX;
}

void census_count_reuse(struct census *census, int64_t gap_ns, uint64_t n)
{
    census_add(&census->reuse_gap, gap_ns, n);
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
        census_add(&census->age_at_eviction, eviction->age_ns, 1);
        census_add(&census->idle_at_eviction, eviction->idle_ns, 1);
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

    census_add(&census->return_gap, recomputation->gap_ns, 1);
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
