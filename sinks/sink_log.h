/* Receipts as log lines, target `kvpool::kv::receipts`, with the original's
 * fields: kv_event=eviction session_id block_offset block_size_bytes
 * before_sessions after_sessions before_mem_mb after_mem_mb has_perf reason
 * sequence. Best effort. */
#ifndef SINKS_SINK_LOG_H
#define SINKS_SINK_LOG_H

#include "sinks/sink.h"

#define SINK_LOG_TARGET "kvpool::kv::receipts"

/* The set that it is added to closes and frees it. */
enum kv_status sink_log_open(struct sink **out);

#endif
