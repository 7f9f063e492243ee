#include "base/histogram.h"

#include <assert.h>

#define FIRST_BOUND_NS 100000

int64_t kv_histogram_bound_ns(size_t nth)
{
    static const int64_t steps[] = {1, 2, 5};
    int64_t bound = FIRST_BOUND_NS;

    assert(nth < KV_HISTOGRAM_BOUNDS);
    for (size_t decade = 0; decade < nth / 3; decade++)
        bound *= 10;
    return bound * steps[nth % 3];
}

static size_t bucket_of(int64_t duration_ns)
{
    size_t low = 0, high = KV_HISTOGRAM_BOUNDS;

    while (low < high) {
        size_t middle = low + (high - low) / 2;

        if (kv_histogram_bound_ns(middle) < duration_ns)
            low = middle + 1;
        else
            high = middle;
    }
    return low;
}

void kv_histogram_add(struct kv_histogram *histogram, int64_t duration_ns)
{
    kv_histogram_add_many(histogram, duration_ns, 1);
}

void kv_histogram_add_many(
    struct kv_histogram *histogram, int64_t duration_ns, uint64_t n)
{
    const int64_t duration = duration_ns > 0 ? duration_ns : 0;
    int64_t sum_ns;

    histogram->counts[bucket_of(duration)] += n;
    histogram->count += n;
    if (__builtin_mul_overflow(duration, n, &sum_ns) ||
        __builtin_add_overflow(histogram->sum_ns, sum_ns, &histogram->sum_ns))
        histogram->sum_ns = INT64_MAX;
}
