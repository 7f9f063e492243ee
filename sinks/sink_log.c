#include "sinks/sink_log.h"

#include <stdio.h>

#include "base/heap.h"
#include "base/log.h"
#include "receipts/json.h"
#include "sinks/sink_kind.h"

struct sink_log {
    struct sink sink;
};

static double mebibytes(uint64_t bytes)
{
    return (double)bytes / 1048576;
}

static void log_eviction(const Kvpool__V1__Receipt *receipt)
{
    const Kvpool__V1__EvictionReceipt *eviction = receipt->eviction;
    const Kvpool__V1__PoolStatistics *before = eviction->before;
    const Kvpool__V1__PoolStatistics *after = eviction->after;

    kv_log(KV_LOG_INFO, SINK_LOG_TARGET, "KV eviction recorded",
        KV_LOG_TEXT("kv_event", "eviction"),
        KV_LOG_TEXT("session_id", eviction->session_id),
        KV_LOG_UINT("block_offset", eviction->block_offset),
        KV_LOG_UINT("block_size_bytes", eviction->block_size_bytes),
        KV_LOG_UINT("before_sessions", before->total_sessions),
        KV_LOG_UINT("after_sessions", after->total_sessions),
        KV_LOG_REAL("before_mem_mb", mebibytes(before->used_memory_bytes)),
        KV_LOG_REAL("after_mem_mb", mebibytes(after->used_memory_bytes)),
        KV_LOG_BOOL("has_perf", eviction->performance != NULL),
        KV_LOG_TEXT("reason", eviction_reason_name(eviction->reason)),
        KV_LOG_UINT("sequence", receipt->sequence));
}

static void log_batch(const Kvpool__V1__Receipt *receipt)
{
    const Kvpool__V1__EvictionBatchReceipt *batch = receipt->eviction_batch;

    kv_log(KV_LOG_INFO, SINK_LOG_TARGET, "KV eviction batch recorded",
        KV_LOG_TEXT("kv_event", "eviction_batch"),
        KV_LOG_UINT("count", batch->count),
        KV_LOG_UINT("total_bytes_freed", batch->total_bytes_freed),
        KV_LOG_UINT("pool_used_before", batch->pool_used_before),
        KV_LOG_UINT("pool_used_after", batch->pool_used_after),
        KV_LOG_TEXT("reason", eviction_reason_name(batch->reason)),
        KV_LOG_UINT("sequence", receipt->sequence));
}

static void log_snapshot(const Kvpool__V1__Receipt *receipt)
{
    const Kvpool__V1__PoolSnapshotReceipt *snapshot = receipt->pool_snapshot;

    kv_log(KV_LOG_INFO, SINK_LOG_TARGET, "KV pool snapshot recorded",
        KV_LOG_TEXT("kv_event", "pool_snapshot"),
        KV_LOG_UINT("pool_used", snapshot->pool_used),
        KV_LOG_UINT("pool_total", snapshot->pool_total),
        KV_LOG_REAL("utilization", snapshot->utilization),
        KV_LOG_UINT("active_sessions", snapshot->active_sessions),
        KV_LOG_UINT("total_evictions", snapshot->total_evictions),
        KV_LOG_UINT("sequence", receipt->sequence));
}

/* What is common to the two that tell whose blocks came into use, or left it.
 */
static void log_blocks(const Kvpool__V1__Receipt *receipt, const char *event,
    const char *session_id, const Kvpool__V1__PoolStatistics *before,
    const Kvpool__V1__PoolStatistics *after)
{
    kv_log(KV_LOG_INFO, SINK_LOG_TARGET, "KV blocks recorded",
        KV_LOG_TEXT("kv_event", event), KV_LOG_TEXT("session_id", session_id),
        KV_LOG_REAL("before_mem_mb", mebibytes(before->used_memory_bytes)),
        KV_LOG_REAL("after_mem_mb", mebibytes(after->used_memory_bytes)),
        KV_LOG_UINT("sequence", receipt->sequence));
}

static void log_recomputation(const Kvpool__V1__Receipt *receipt)
{
    const Kvpool__V1__RecomputationReceipt *again = receipt->recomputation;

    kv_log(KV_LOG_INFO, SINK_LOG_TARGET, "KV recomputation recorded",
        KV_LOG_TEXT("kv_event", "recomputation"),
        KV_LOG_TEXT("session_id", again->session_id),
        KV_LOG_UINT("eviction_sequence", again->eviction_sequence),
        KV_LOG_TEXT("reason", eviction_reason_name(again->reason)),
        KV_LOG_UINT("tokens_recomputed", again->tokens_recomputed),
        KV_LOG_UINT("blocks_recomputed", again->blocks_recomputed),
        KV_LOG_UINT("sequence", receipt->sequence));
}

/* The name that the contract has for the member that is set. */
static const char *member_name(
    const ProtobufCMessageDescriptor *type, unsigned number)
{
    const ProtobufCFieldDescriptor *field =
        protobuf_c_message_descriptor_get_field(type, number);

    return field != NULL ? field->name : "unknown";
}

static void log_lifecycle(const Kvpool__V1__Receipt *receipt)
{
    const Kvpool__V1__LifecycleReceipt *lifecycle = receipt->lifecycle;

    kv_log(KV_LOG_INFO, SINK_LOG_TARGET, "KV lifecycle recorded",
        KV_LOG_TEXT("kv_event", "lifecycle"),
        KV_LOG_TEXT("change", member_name(lifecycle->base.descriptor,
                                  (unsigned)lifecycle->change_case)),
        KV_LOG_UINT("epoch", receipt->epoch),
        KV_LOG_UINT("sequence", receipt->sequence));
}

static void log_receipt(const Kvpool__V1__Receipt *receipt)
{
    switch (receipt->kind_case) {
    case KVPOOL__V1__RECEIPT__KIND_EVICTION:
        log_eviction(receipt);
        break;
    case KVPOOL__V1__RECEIPT__KIND_EVICTION_BATCH:
        log_batch(receipt);
        break;
    case KVPOOL__V1__RECEIPT__KIND_POOL_SNAPSHOT:
        log_snapshot(receipt);
        break;
    case KVPOOL__V1__RECEIPT__KIND_LIFECYCLE:
        log_lifecycle(receipt);
        break;
    case KVPOOL__V1__RECEIPT__KIND_ALLOCATION:
        log_blocks(receipt, "allocation", receipt->allocation->session_id,
            receipt->allocation->before, receipt->allocation->after);
        break;
    case KVPOOL__V1__RECEIPT__KIND_RELEASE:
        log_blocks(receipt, "release", receipt->release->session_id,
            receipt->release->before, receipt->release->after);
        break;
    case KVPOOL__V1__RECEIPT__KIND_RECOMPUTATION:
        log_recomputation(receipt);
        break;
    default: /* a ledger that a newer version has written */
        kv_log(KV_LOG_INFO, SINK_LOG_TARGET, "receipt recorded",
            KV_LOG_TEXT("kv_event", "unknown"),
            KV_LOG_UINT("sequence", receipt->sequence));
    }
}

static enum kv_status log_offer(
    struct sink *sink, const struct feed_run *run, uint32_t *n_taken)
{
    const unsigned char *at = run->bytes, *bytes;
    size_t n_bytes;

    (void)sink;
    *n_taken = 0;
    while (feed_run_entry(run, &at, &bytes, &n_bytes)) {
        Kvpool__V1__Receipt *receipt =
            kvpool__v1__receipt__unpack(NULL, n_bytes, bytes);

        if (receipt == NULL)
            return KV_NO_MEMORY;
        log_receipt(receipt);
        kvpool__v1__receipt__free_unpacked(receipt, NULL);
        (*n_taken)++;
    }
    return KV_OK;
}

static void log_close(struct sink *sink, sink_closed_cb closed, void *ctx)
{
    closed(sink, ctx);
}

enum kv_status sink_log_open(struct sink **out, const char *name)
{
    static const struct sink_ops ops = {
        .kind = "log", .offer = log_offer, .close = log_close};
    struct sink_log *log = kv_calloc(1, sizeof *log);

    if (log == NULL)
        return KV_NO_MEMORY;
    log->sink.ops = &ops;
    snprintf(log->sink.name, sizeof log->sink.name, "%s", name);
    *out = &log->sink;
    return KV_OK;
}

static enum kv_status open_kind(struct sink **out, const char *name,
    const void *settings, uv_loop_t *loop, struct kv_error *error)
{
    enum kv_status status = sink_log_open(out, name);

    (void)settings;
    (void)loop;
    return status == KV_OK
               ? KV_OK
               : kv_error_set(error, status, "no memory for a sink");
}

const struct sink_kind sink_log_kind = {.name = "log", .open = open_kind};
