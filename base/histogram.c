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

void kv_histogram_add(struct kv_histogram *histogram, int64_t duration_ns)
{
    const int64_t duration = duration_ns > 0 ? duration_ns : 0;
    size_t bucket = 0;

    while (bucket < KV_HISTOGRAM_BOUNDS &&
           duration > kv_histogram_bound_ns(bucket))
        bucket++;
    histogram->counts[bucket]++;
    histogram->count++;
    if (__builtin_add_overflow(histogram->sum_ns, duration, &histogram->sum_ns))
        histogram->sum_ns = INT64_MAX;
}
