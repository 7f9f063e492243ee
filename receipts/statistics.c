#include "receipts/statistics.h"

void statistics_fill(
    Kvpool__V1__PoolStatistics *out, const struct pool_stats *stats)
{
    kvpool__v1__pool_statistics__init(out);
    out->total_sessions = stats->total_sessions;
    out->used_memory_bytes = stats->used_bytes;
    out->allocated_bytes_total = stats->allocated_bytes_total;
    out->freed_bytes_total = stats->freed_bytes_total;
    out->evictions = stats->evictions;
    out->cache_hits = stats->cache_hits;
    out->cache_misses = stats->cache_misses;
    out->session_tokens = stats->session_tokens;
    out->total_memory_bytes = stats->total_bytes;
    out->free_runs = stats->free_runs;
}
