#include "receipts/audit_check.h"

#include <inttypes.h>
#include <math.h>

/* ---- evictions */

bool audit_needs_batch(uint32_t reason)
{
    return reason >= KVPOOL__V1__EVICTION_REASON__EVICTION_REASON_MANUAL &&
           reason <= KVPOOL__V1__EVICTION_REASON__EVICTION_REASON_QUOTA;
}

enum kv_status audit_drop_members(const struct check *check)
{
    struct audit *audit = check->audit;

    if (audit->n_members > 0 && audit_needs_batch(audit->members_reason))
        return audit_wrong(check,
            "evictions %" PRIu64 " to %" PRIu64 " have no batch receipt",
            audit->first_member, audit->last_member);
    audit->n_members = audit->member_bytes = 0;
    audit->first_member = audit->last_member = 0;
    return KV_OK;
}

static enum kv_status check_bytes(
    const struct check *check, const Kvpool__V1__EvictionReceipt *eviction)
{
    uint64_t block_bytes = check->audit->block_bytes, sum;
    enum kv_status status = audit_check_extents(check, eviction->extents,
        eviction->n_extents, eviction->before->total_memory_bytes, true, &sum);

    if (status != KV_OK)
        return status;
    if (sum != eviction->block_size_bytes)
        return audit_wrong(check,
            "extents add up to %" PRIu64 ", and block_size_bytes is %" PRIu64,
            sum, eviction->block_size_bytes);
    if (sum > 0 && eviction->block_offset != eviction->extents[0]->offset)
        return audit_wrong(check, "block_offset is not the first extent's");
    if (block_bytes != 0 && eviction->blocks_freed != sum / block_bytes)
        return audit_wrong(check,
            "blocks_freed is %" PRIu64 " of %" PRIu64 " bytes",
            eviction->blocks_freed, sum);
    if ((sum > 0) != (eviction->zeroed != 0))
        return audit_wrong(
            check, "zeroed does not go with %" PRIu64 " bytes", sum);
    return KV_OK;
}

static enum kv_status check_difference(
    const struct check *check, const Kvpool__V1__EvictionReceipt *eviction)
{
    const Kvpool__V1__PoolStatistics *before = eviction->before;
    const Kvpool__V1__PoolStatistics *after = eviction->after;
    uint64_t size = eviction->block_size_bytes;
    uint64_t more = audit_is_last_part(eviction->part) ? 1 : 0;

    if (before->used_memory_bytes - after->used_memory_bytes != size ||
        after->freed_bytes_total - before->freed_bytes_total != size)
        return audit_wrong(check,
            "used went from %" PRIu64 " to %" PRIu64 " and freed from %" PRIu64
            " to %" PRIu64 ", and block_size_bytes is %" PRIu64,
            before->used_memory_bytes, after->used_memory_bytes,
            before->freed_bytes_total, after->freed_bytes_total, size);
    if (after->evictions - before->evictions != more)
        return audit_wrong(check,
            "evictions went from %" PRIu64 " to %" PRIu64 "; %" PRIu64
            " more is right",
            before->evictions, after->evictions, more);
    if (before->total_sessions - after->total_sessions > more)
        return audit_wrong(check,
            "total_sessions went from %" PRIu64 " to %" PRIu64,
            before->total_sessions, after->total_sessions);
    if (after->session_tokens > before->session_tokens ||
        after->allocated_bytes_total != before->allocated_bytes_total ||
        after->total_memory_bytes != before->total_memory_bytes ||
        after->cache_hits != before->cache_hits ||
        after->cache_misses != before->cache_misses)
        return audit_wrong(check, "something changed that no eviction changes");
    return KV_OK;
}

static void add_member(const struct check *check)
{
    const Kvpool__V1__EvictionReceipt *eviction = check->receipt->eviction;
    struct audit *audit = check->audit;

    if (audit->first_member == 0) {
        audit->first_member = check->receipt->sequence;
        audit->used_before = eviction->before->used_memory_bytes;
        audit->free_runs_before = eviction->before->free_runs;
    }
    audit->last_member = check->receipt->sequence;
    audit->used_after = eviction->after->used_memory_bytes;
    audit->free_runs_after = eviction->after->free_runs;
    audit->member_bytes += eviction->block_size_bytes;
    audit->members_reason = eviction->reason;
    if (audit_is_last_part(eviction->part)) {
        audit->n_members++;
        if ((unsigned)eviction->reason < AUDIT_REASONS)
            audit->evictions_by_reason[eviction->reason]++;
    }
}

enum kv_status audit_check_eviction(const struct check *check)
{
    const Kvpool__V1__EvictionReceipt *eviction = check->receipt->eviction;
    const struct audit_change change = {
        .before = eviction->before,
        .after = eviction->after,
        .part = eviction->part,
        .session_id = eviction->session_id,
        .tenant = eviction->tenant,
        .reason = (uint32_t)eviction->reason,
    };
    struct audit *audit = check->audit;
    enum kv_status status = KV_OK;

    if (eviction->reason == 0)
        return audit_wrong(check, "the reason is missing");
    if (audit->first_member != 0 && change.reason != audit->members_reason)
        status = audit_drop_members(check);
    if (status == KV_OK)
        status = audit_check_change(check, &change);
    if (status == KV_OK)
        status = check_bytes(check, eviction);
    if (status == KV_OK)
        status = check_difference(check, eviction);
    if (status == KV_OK)
        status = audit_follow_eviction(check);
    if (status != KV_OK)
        return status;
    audit_take_change(check, &change);
    audit->n_evictions++;
    add_member(check);
    return KV_OK;
}

/* ---- batches */

static bool is_fragmentation(double value, uint64_t free_runs)
{
    double expected =
        free_runs > 1 ? (double)(free_runs - 1) / (double)free_runs : 0;

    return fabs(value - expected) <= 1e-9;
}

static enum kv_status check_call(
    const struct check *check, const Kvpool__V1__EvictionBatchReceipt *batch)
{
    const Kvpool__V1__EvictCall *call = batch->call;
    uint64_t n_evicted = 0, sum = 0;

    if (call == NULL)
        return KV_OK;
    for (size_t i = 0; i < call->n_outcomes; i++) {
        const Kvpool__V1__EvictOutcome *outcome = call->outcomes[i];

        if (outcome->result != KVPOOL__V1__EVICT_RESULT__EVICT_RESULT_EVICTED)
            continue;
        if (outcome->sequence < batch->first_sequence ||
            outcome->sequence > batch->last_sequence)
            return audit_wrong(check, "outcome %zu names sequence %" PRIu64, i,
                outcome->sequence);
        n_evicted++;
        sum += outcome->bytes_freed;
    }
    if (n_evicted != batch->count || sum != batch->total_bytes_freed)
        return audit_wrong(check,
            "the call's outcomes evict %" PRIu64 " sessions of %" PRIu64
            " bytes, the batch %" PRIu64 " of %" PRIu64,
            n_evicted, sum, batch->count, batch->total_bytes_freed);
    return KV_OK;
}

static enum kv_status check_members(
    const struct check *check, const Kvpool__V1__EvictionBatchReceipt *batch)
{
    const struct audit *audit = check->audit;

    if (batch->count != audit->n_members ||
        batch->total_bytes_freed != audit->member_bytes)
        return audit_wrong(check,
            "it tells of %" PRIu64 " evictions of %" PRIu64
            " bytes, and %" PRIu64 " of %" PRIu64 " precede it",
            batch->count, batch->total_bytes_freed, audit->n_members,
            audit->member_bytes);
    if (batch->first_sequence != audit->first_member ||
        batch->last_sequence != audit->last_member)
        return audit_wrong(check,
            "its members are %" PRIu64 " to %" PRIu64 ", and %" PRIu64
            " to %" PRIu64 " precede it",
            batch->first_sequence, batch->last_sequence, audit->first_member,
            audit->last_member);
    if (batch->pool_used_before != audit->used_before ||
        batch->pool_used_after != audit->used_after)
        return audit_wrong(check, "used before or after is not its members'");
    if (!is_fragmentation(
            batch->fragmentation_before, audit->free_runs_before) ||
        !is_fragmentation(batch->fragmentation_after, audit->free_runs_after))
        return audit_wrong(check, "fragmentation is not its members'");
    return KV_OK;
}

enum kv_status audit_check_batch(const struct check *check)
{
    const Kvpool__V1__EvictionBatchReceipt *batch =
        check->receipt->eviction_batch;
    struct audit *audit = check->audit;
    bool is_older = batch->first_sequence != 0 &&
                    batch->first_sequence < audit->begin_sequence;
    bool is_theirs = audit->n_members > 0 && batch->count > 0 && !is_older &&
                     batch->reason == audit->members_reason;
    enum kv_status status;

    if (batch->pool_used_before - batch->pool_used_after !=
        batch->total_bytes_freed)
        return audit_wrong(check,
            "used went from %" PRIu64 " to %" PRIu64
            ", and total_bytes_freed is %" PRIu64,
            batch->pool_used_before, batch->pool_used_after,
            batch->total_bytes_freed);
    if (is_theirs) {
        status = check_members(check, batch);
        if (status != KV_OK)
            return status;
    } else if (audit->n_receipts > 0 && !is_older &&
               (batch->count != 0 || batch->total_bytes_freed != 0 ||
                   batch->first_sequence != 0 || batch->last_sequence != 0)) {
        return audit_wrong(check, "it has members, and none precedes it");
    } else if (batch->count == 0 &&
               batch->reason !=
                   KVPOOL__V1__EVICTION_REASON__EVICTION_REASON_MANUAL) {
        return audit_wrong(
            check, "a batch without members that nobody asked for");
    }
    if (is_theirs || is_older)
        audit->n_members = 0; /* they have their batch */
    audit->n_batches++;
    return check_call(check, batch);
}
