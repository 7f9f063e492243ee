/* Distributions of what happens in the pool, counted as it happens.
 *
 * A census stands between the pool and its observer: it counts, and passes
 * everything on. Counting is O(1).
 *
 * Thread: the pool's owner's. */
#ifndef SERVER_CENSUS_H
#define SERVER_CENSUS_H

#include <stdint.h>

#include "pool/observer.h"

/* Bucket i ends with 2^i ms, about 25 days for the last but one; the last takes
 * what is longer. */
#define CENSUS_BOUNDS 32

struct census_histogram {
    uint64_t counts[CENSUS_BOUNDS + 1];
    uint64_t count;
    int64_t sum_ns; /* stays at the greatest that it can be */
};

/* The caller's memory; zeroed it has counted nothing. */
struct census {
    struct pool_observer observer;
    const struct pool_observer *next;
    struct census_histogram age_at_eviction, idle_at_eviction;
    struct census_histogram reuse_gap, return_gap;
};

/* next is borrowed; NULL is fine. Returns what the pool is to be given. */
const struct pool_observer *census_init(
    struct census *census, const struct pool_observer *next);

/* n blocks are used again, that long after the last time. */
void census_count_reuse(struct census *census, int64_t gap_ns, uint64_t n);

/* n observations of that duration; less than 0 counts as 0. */
void census_add(
    struct census_histogram *histogram, int64_t duration_ns, uint64_t n);

/* The end of bucket i, which belongs to it. */
int64_t census_bound_ns(unsigned i);

#endif
