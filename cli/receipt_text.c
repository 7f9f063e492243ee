#include "cli/receipt_text.h"

#include <inttypes.h>
#include <string.h>

#include "cli/proto_json.h"
#include "cli/text.h"
#include "receipts/json.h"

void receipt_text_session(FILE *out, const char *tenant, const char *session_id)
{
    if (session_id[0] == '\0')
        fputs("a request without a session", out);
    else
        fputs(text_name(session_id).s, out);
    if (tenant[0] != '\0')
        fprintf(out, " of %s", text_name(tenant).s);
}

static void write_key(FILE *out, const Kvpool__V1__SessionKey *key)
{
    receipt_text_session(out, key->tenant, key->session_id);
}

/* "; pool 60.0 MiB -> 51.0 MiB of 512.0 MiB, 14 -> 13 sessions" */
static void write_change(FILE *out, const Kvpool__V1__PoolStatistics *before,
    const Kvpool__V1__PoolStatistics *after)
{
    if (before == NULL || after == NULL)
        return;
    fprintf(out, "; pool %s -> %s of %s, %" PRIu64 " -> %s",
        text_bytes(before->used_memory_bytes).s,
        text_bytes(after->used_memory_bytes).s,
        text_bytes(after->total_memory_bytes).s, before->total_sessions,
        text_count(after->total_sessions, "session").s);
}

static void write_part(FILE *out, const Kvpool__V1__ReceiptPart *part)
{
    if (part != NULL)
        fprintf(out, " (part %" PRIu32 " of %" PRIu32 ")", part->number,
            part->count);
}

static uint64_t sum_of(Kvpool__V1__Extent *const *extents, size_t n)
{
    uint64_t sum = 0;

    for (size_t i = 0; i < n; i++)
        sum += extents[i]->size;
    return sum;
}

static void write_cause(FILE *out, const Kvpool__V1__EvictionReceipt *eviction)
{
    switch (eviction->cause_case) {
    case KVPOOL__V1__EVICTION_RECEIPT__CAUSE_REQUESTED_BY:
        fprintf(out, ", by %s", text_name(eviction->requested_by).s);
        break;
    case KVPOOL__V1__EVICTION_RECEIPT__CAUSE_FORCED_BY:
        fputs(", for ", out);
        write_key(out, eviction->forced_by);
        break;
    default:
        break;
    }
}

static void write_eviction(
    FILE *out, const Kvpool__V1__EvictionReceipt *eviction)
{
    fputs("eviction: ", out);
    receipt_text_session(out, eviction->tenant, eviction->session_id);
    fprintf(out, " lost %s", text_bytes(eviction->block_size_bytes).s);
    if (eviction->n_extents > 0)
        fprintf(out, " at %s", text_bytes(eviction->block_offset).s);
    if (eviction->n_extents > 1)
        fprintf(out, " and %s more",
            text_count(eviction->n_extents - 1, "place").s);
    fprintf(out, " (%s, %s)", text_count(eviction->blocks_freed, "block").s,
        text_count(eviction->tokens_freed, "token").s);
    write_part(out, eviction->part);
    if (eviction->shared_blocks_kept > 0)
        fprintf(out, ", %s kept",
            text_count(eviction->shared_blocks_kept, "shared block").s);
    fprintf(out, ", %s", eviction_reason_name(eviction->reason));
    write_cause(out, eviction);
    if (eviction->preempted)
        fputs(", while it was running", out);
    else
        fprintf(out, ", idle %s", text_duration(eviction->idle_ns).s);
    if (!eviction->zeroed && eviction->blocks_freed > 0)
        fputs(", NOT zeroed", out);
    write_change(out, eviction->before, eviction->after);
}

static void write_batch(
    FILE *out, const Kvpool__V1__EvictionBatchReceipt *batch)
{
    fprintf(out, "batch: %s lost %s, %s", text_count(batch->count, "session").s,
        text_bytes(batch->total_bytes_freed).s,
        eviction_reason_name(batch->reason));
    if (batch->call != NULL)
        fprintf(out, ", by %s", text_name(batch->call->requested_by).s);
    else if (batch->policy[0] != '\0')
        fprintf(out, ", policy %s", text_name(batch->policy).s);
    if (batch->first_sequence != 0)
        fprintf(out, ", receipts %" PRIu64 " to %" PRIu64,
            batch->first_sequence, batch->last_sequence);
    fprintf(out, ", in %s; pool %s -> %s, fragmentation %.3f -> %.3f",
        text_duration(batch->duration_ns).s,
        text_bytes(batch->pool_used_before).s,
        text_bytes(batch->pool_used_after).s, batch->fragmentation_before,
        batch->fragmentation_after);
}

static void write_snapshot(
    FILE *out, const Kvpool__V1__PoolSnapshotReceipt *snapshot)
{
    fprintf(out,
        "snapshot: %s of %s used (%s), %s, %s, %s, %s, fragmentation %.3f",
        text_bytes(snapshot->pool_used).s, text_bytes(snapshot->pool_total).s,
        text_percent(snapshot->utilization).s,
        text_count(snapshot->active_sessions, "session").s,
        text_count(snapshot->total_evictions, "eviction").s,
        text_count(snapshot->cache_hits, "hit").s,
        text_count(snapshot->cache_misses, "miss").s, snapshot->fragmentation);
}

static void write_allocation(
    FILE *out, const Kvpool__V1__AllocationReceipt *allocation)
{
    fputs("allocation: ", out);
    receipt_text_session(out, allocation->tenant, allocation->session_id);
    fprintf(out, " got %s",
        text_bytes(sum_of(allocation->extents, allocation->n_extents)).s);
    if (allocation->n_reused_extents > 0)
        fprintf(out, " and shares %s",
            text_bytes(sum_of(allocation->reused_extents,
                           allocation->n_reused_extents))
                .s);
    write_part(out, allocation->part);
    write_change(out, allocation->before, allocation->after);
}

static void write_release(FILE *out, const Kvpool__V1__ReleaseReceipt *release)
{
    fputs("release: ", out);
    receipt_text_session(out, release->tenant, release->session_id);
    fprintf(out, " gave back %s",
        text_bytes(sum_of(release->extents, release->n_extents)).s);
    write_part(out, release->part);
    write_change(out, release->before, release->after);
}

static void write_recomputation(
    FILE *out, const Kvpool__V1__RecomputationReceipt *recomputation)
{
    fputs("recomputation: ", out);
    receipt_text_session(out, recomputation->tenant, recomputation->session_id);
    fprintf(out,
        " came back after %s; %s computed again in %s, the cost of receipt "
        "%" PRIu64 " (%s)",
        text_duration(recomputation->gap_ns).s,
        text_count(recomputation->tokens_recomputed, "token").s,
        text_duration(recomputation->duration_ns).s,
        recomputation->eviction_sequence,
        eviction_reason_name(recomputation->reason));
}

static void write_boot(FILE *out, const Kvpool__V1__Boot *boot)
{
    fprintf(out, "boot: version %s, %s of %s (%s), policy %s",
        text_name(boot->version).s, text_count(boot->total_blocks, "block").s,
        text_bytes(boot->block_bytes).s,
        text_count(boot->block_tokens, "token").s, text_name(boot->policy).s);
    fprintf(out, ", model %s", text_name(boot->model).s);
    if (boot->previous_sequence != 0)
        fprintf(out, ", the epoch before ended %s at %" PRIu64,
            boot->clean ? "in order" : "in a crash", boot->previous_sequence);
}

static void write_options(
    FILE *out, const Kvpool__V1__ConfigurationChange *change)
{
    fputs("configuration changed:", out);
    for (size_t i = 0; i < change->n_options; i++)
        fprintf(out, " %s", text_name(change->options[i]).s);
    fprintf(out, ", by %s", text_name(change->requested_by).s);
}

static void write_lifecycle(
    FILE *out, const Kvpool__V1__LifecycleReceipt *lifecycle)
{
    switch (lifecycle->change_case) {
    case KVPOOL__V1__LIFECYCLE_RECEIPT__CHANGE_BOOT:
        write_boot(out, lifecycle->boot);
        break;
    case KVPOOL__V1__LIFECYCLE_RECEIPT__CHANGE_DRAIN:
        fprintf(out, "drain: %s, within %s",
            text_name(lifecycle->drain->cause).s,
            text_duration(lifecycle->drain->limit_ns).s);
        break;
    case KVPOOL__V1__LIFECYCLE_RECEIPT__CHANGE_CONFIGURATION_CHANGE:
        write_options(out, lifecycle->configuration_change);
        break;
    case KVPOOL__V1__LIFECYCLE_RECEIPT__CHANGE_LOSS_ACCEPTED:
        fprintf(out, "loss accepted: from receipt %" PRIu64 " on, %s",
            lifecycle->loss_accepted->first_sequence,
            text_name(lifecycle->loss_accepted->detail).s);
        break;
    case KVPOOL__V1__LIFECYCLE_RECEIPT__CHANGE_SINK_GAP:
        fprintf(out,
            "sink gap: %s will not get receipts %" PRIu64 " to %" PRIu64,
            text_name(lifecycle->sink_gap->sink).s,
            lifecycle->sink_gap->first_sequence,
            lifecycle->sink_gap->last_sequence);
        break;
    default:
        fputs("lifecycle: of a kind this client does not know", out);
    }
}

void receipt_text_write(FILE *out, const Kvpool__V1__Receipt *receipt)
{
    fprintf(out, "%" PRIu64 "  %s  ", receipt->sequence,
        text_time(receipt->time_unix_ns).s);
    switch (receipt->kind_case) {
    case KVPOOL__V1__RECEIPT__KIND_EVICTION:
        write_eviction(out, receipt->eviction);
        break;
    case KVPOOL__V1__RECEIPT__KIND_EVICTION_BATCH:
        write_batch(out, receipt->eviction_batch);
        break;
    case KVPOOL__V1__RECEIPT__KIND_POOL_SNAPSHOT:
        write_snapshot(out, receipt->pool_snapshot);
        break;
    case KVPOOL__V1__RECEIPT__KIND_ALLOCATION:
        write_allocation(out, receipt->allocation);
        break;
    case KVPOOL__V1__RECEIPT__KIND_LIFECYCLE:
        write_lifecycle(out, receipt->lifecycle);
        break;
    case KVPOOL__V1__RECEIPT__KIND_RECOMPUTATION:
        write_recomputation(out, receipt->recomputation);
        break;
    case KVPOOL__V1__RECEIPT__KIND_RELEASE:
        write_release(out, receipt->release);
        break;
    default:
        fputs("a receipt of a kind this client does not know", out);
    }
}
