#include "pool/stats.h"

static double share(uint64_t part, uint64_t whole)
{
    return whole == 0 ? 0 : (double)part / (double)whole;
}

double pool_stats_utilization(const struct pool_stats *stats)
{
    return share(stats->used_bytes, stats->total_bytes);
}

double pool_stats_hit_rate(const struct pool_stats *stats)
{
    return share(stats->cache_hits, stats->cache_hits + stats->cache_misses);
}

double pool_stats_average_session_length(const struct pool_stats *stats)
{
    return share(stats->session_tokens, stats->total_sessions);
}

double pool_stats_fragmentation(const struct pool_stats *stats)
{
    return stats->free_runs <= 1
               ? 0
               : share(stats->free_runs - 1, stats->free_runs);
}

double pool_stats_efficiency(const struct pool_stats *stats)
{
    return 1 - pool_stats_fragmentation(stats);
}
