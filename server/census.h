/* Distributions of what happens in the pool, counted as it happens.
 *
 * A census stands between the pool and its observer: it counts, and passes
 * everything on. Counting is O(1).
 *
 * Thread: the pool's owner's. */
#ifndef SERVER_CENSUS_H
#define SERVER_CENSUS_H

#include <stdint.h>

#include "base/histogram.h"
#include "pool/observer.h"

/* The caller's memory; zeroed it has counted nothing. */
struct census {
    struct pool_observer observer;
    const struct pool_observer *next;
    struct kv_histogram age_at_eviction, idle_at_eviction;
    struct kv_histogram reuse_gap, return_gap;
};

/* next is borrowed; NULL is fine. Returns what the pool is to be given. */
const struct pool_observer *census_init(
    struct census *census, const struct pool_observer *next);

/* n blocks are used again, that long after the last time. */
void census_count_reuse(struct census *census, int64_t gap_ns, uint64_t n);

#endif
