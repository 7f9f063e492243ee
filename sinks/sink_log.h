/* Receipts as log lines, level info, target `kvpool::kv::receipts`. An
 * eviction has the original's fields, and two more:
 *
 *   kv_event=eviction session_id block_offset block_size_bytes before_sessions
 *   after_sessions before_mem_mb after_mem_mb has_perf reason sequence
 *
 * The other kinds are kv_event=eviction_batch, pool_snapshot, lifecycle, ...,
 * with their main figures and sequence. Best effort: a line is for people, the
 * stream for machines. */
#ifndef SINKS_SINK_LOG_H
#define SINKS_SINK_LOG_H

#include "sinks/sink.h"

#define SINK_LOG_TARGET "kvpool::kv::receipts"

/* The set that it is added to closes and frees it. KV_NO_MEMORY. */
enum kv_status sink_log_open(struct sink **out, const char *name);

#endif
