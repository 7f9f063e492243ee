/* The pool's numbers at one instant: exact integers, so that receipts can be
 * checked by arithmetic. docs/pool.md defines each. */
#ifndef POOL_STATS_H
#define POOL_STATS_H

#include <stdint.h>

struct pool_stats {
    uint64_t total_sessions; /* that hold at least one block now */
    uint64_t used_bytes;     /* allocated - freed, always */
    uint64_t allocated_bytes_total;
    uint64_t freed_bytes_total;
    uint64_t evictions;      /* one per session and eviction */
    uint64_t cache_hits;     /* full prompt blocks found, */
    uint64_t cache_misses;   /* or computed; once per block and request */
    uint64_t session_tokens; /* in blocks */
    uint64_t total_bytes;
    uint64_t free_runs; /* of neighbouring blocks that are free or scrubbing */
};

/* Every figure is 0 where its divisor is 0, but for efficiency, which is
 * 1 - fragmentation. */
double pool_stats_utilization(const struct pool_stats *stats);
double pool_stats_hit_rate(const struct pool_stats *stats);
double pool_stats_average_session_length(const struct pool_stats *stats);
double pool_stats_fragmentation(const struct pool_stats *stats);
double pool_stats_efficiency(const struct pool_stats *stats);

#endif
