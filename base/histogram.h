/* How durations are distributed: counts in buckets that grow as 1, 2, 5, from
 * 0.1 ms to 5,000,000 s, which is 58 days: from the time between two tokens to
 * the age of a session. All zero is an empty one.
 *
 * Thread: one at a time. */
#ifndef BASE_HISTOGRAM_H
#define BASE_HISTOGRAM_H

#include <stddef.h>
#include <stdint.h>

#define KV_HISTOGRAM_BOUNDS 33

struct kv_histogram {
    uint64_t counts[KV_HISTOGRAM_BOUNDS + 1]; /* the last: above every bound */
    uint64_t count;
    int64_t sum_ns;
};

/* Upper bound of a bucket, which belongs to it; nth < KV_HISTOGRAM_BOUNDS. */
int64_t kv_histogram_bound_ns(size_t nth);

/* What is below zero counts as zero. The sum stays at its largest value. */
void kv_histogram_add(struct kv_histogram *histogram, int64_t duration_ns);

/* The same n times. */
void kv_histogram_add_many(
    struct kv_histogram *histogram, int64_t duration_ns, uint64_t n);

#endif
