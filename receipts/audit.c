#include "receipts/audit.h"

#include <inttypes.h>
#include <math.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>

/* Every check reads `if (it does not hold) return wrong(...)`. The receipts may
 * come from anywhere: nothing in them is trusted, absent messages included. */

struct check {
    struct audit *audit;
    const Kvpool__V1__Receipt *receipt;
    struct kv_error *error;
};

__attribute__((format(printf, 2, 3))) static enum kv_status wrong(
    const struct check *check, const char *format, ...)
{
    char what[384];
    va_list args;

    va_start(args, format);
    vsnprintf(what, sizeof what, format, args);
    va_end(args);
    return kv_error_set(check->error, KV_INVALID, "receipt %" PRIu64 ": %s",
        check->receipt->sequence, what);
}

void audit_init(struct audit *audit)
{
    *audit = (struct audit){.last_sequence = 0};
}

/* ---- envelope */

static bool is_boot(const Kvpool__V1__Receipt *receipt)
{
    return receipt->kind_case == KVPOOL__V1__RECEIPT__KIND_LIFECYCLE &&
           receipt->lifecycle != NULL &&
           receipt->lifecycle->change_case ==
               KVPOOL__V1__LIFECYCLE_RECEIPT__CHANGE_BOOT &&
           receipt->lifecycle->boot != NULL;
}

static enum kv_status check_place(const struct check *check)
{
    const struct audit *audit = check->audit;
    const Kvpool__V1__Receipt *receipt = check->receipt;
    bool is_first = audit->n_receipts == 0;

    if (receipt->sequence == 0)
        return wrong(check, "sequences count from 1");
    if (!is_first && receipt->sequence != audit->last_sequence + 1)
        return wrong(check,
            "the receipt before is %" PRIu64 "; sequences must be dense",
            audit->last_sequence);
    if (receipt->pool_id.len != sizeof audit->pool_id)
        return wrong(
            check, "pool_id is %zu bytes; it must be 16", receipt->pool_id.len);
    if (!is_first && memcmp(receipt->pool_id.data, audit->pool_id, 16) != 0)
        return wrong(check, "pool_id is another ledger's");
    if (receipt->epoch == 0 || receipt->epoch < audit->epoch)
        return wrong(check, "epoch is %" PRIu32 " after %" PRIu32,
            receipt->epoch, audit->epoch);
    if (!is_first && is_boot(receipt) != (receipt->epoch > audit->epoch))
        return wrong(check,
            "an epoch must begin with a boot receipt, and have one only");
    if (!is_first && receipt->epoch == audit->epoch &&
        receipt->mono_ns < audit->mono_ns)
        return wrong(check, "mono_ns went back from %" PRId64 " to %" PRId64,
            audit->mono_ns, receipt->mono_ns);
    return KV_OK;
}

static enum kv_status begin_epoch(const struct check *check)
{
    struct audit *audit = check->audit;
    const Kvpool__V1__Boot *boot = check->receipt->lifecycle->boot;
    uint64_t total_bytes;

    if (audit->n_receipts > 0 &&
        boot->previous_sequence != audit->last_sequence)
        return wrong(check,
            "previous_sequence is %" PRIu64
            ", and the receipt before is %" PRIu64,
            boot->previous_sequence, audit->last_sequence);
    if (__builtin_mul_overflow(
            boot->total_blocks, boot->block_bytes, &total_bytes) ||
        total_bytes == 0)
        return wrong(check,
            "%" PRIu64 " blocks of %" PRIu64 " bytes are no arena",
            boot->total_blocks, boot->block_bytes);
    audit->block_bytes = boot->block_bytes;
    audit->has_counters = true;
    audit->counters = (struct audit_counters){.total_bytes = total_bytes};
    memset(audit->evictions_by_reason, 0, sizeof audit->evictions_by_reason);
    return KV_OK;
}

/* ---- counters */

static struct audit_counters read_stats(const Kvpool__V1__PoolStatistics *stats)
{
    return (struct audit_counters){
        .allocated_bytes = stats->allocated_bytes_total,
        .freed_bytes = stats->freed_bytes_total,
        .total_bytes = stats->total_memory_bytes,
        .evictions = stats->evictions,
        .cache_hits = stats->cache_hits,
        .cache_misses = stats->cache_misses,
    };
}

static enum kv_status check_used(const struct check *check,
    const struct audit_counters *counters, uint64_t used)
{
    uint64_t block_bytes = check->audit->block_bytes;

    if (counters->freed_bytes > counters->allocated_bytes ||
        used != counters->allocated_bytes - counters->freed_bytes)
        return wrong(check,
            "used %" PRIu64 " is not allocated %" PRIu64 " less freed %" PRIu64,
            used, counters->allocated_bytes, counters->freed_bytes);
    if (used > counters->total_bytes)
        return wrong(check, "used %" PRIu64 " is more than total %" PRIu64,
            used, counters->total_bytes);
    if (block_bytes != 0 && used % block_bytes != 0)
        return wrong(check,
            "used %" PRIu64 " is not whole blocks of %" PRIu64 " bytes", used,
            block_bytes);
    return KV_OK;
}

/* From the last receipt to this one. */
static enum kv_status check_between(
    const struct check *check, const struct audit_counters *now)
{
    const struct audit_counters *last = &check->audit->counters;

    if (!check->audit->has_counters)
        return KV_OK;
    if (now->total_bytes != last->total_bytes)
        return wrong(check, "total went from %" PRIu64 " to %" PRIu64,
            last->total_bytes, now->total_bytes);
    if (now->evictions != last->evictions)
        return wrong(check,
            "evictions went from %" PRIu64 " to %" PRIu64 " without a receipt",
            last->evictions, now->evictions);
    if (now->allocated_bytes < last->allocated_bytes ||
        now->freed_bytes < last->freed_bytes ||
        now->cache_hits < last->cache_hits ||
        now->cache_misses < last->cache_misses)
        return wrong(check,
            "a counter fell: allocated %" PRIu64 " to %" PRIu64
            ", freed %" PRIu64 " to %" PRIu64,
            last->allocated_bytes, now->allocated_bytes, last->freed_bytes,
            now->freed_bytes);
    return KV_OK;
}

/* ---- evictions */

static bool needs_batch(uint32_t reason)
{
    return reason >= KVPOOL__V1__EVICTION_REASON__EVICTION_REASON_MANUAL &&
           reason <= KVPOOL__V1__EVICTION_REASON__EVICTION_REASON_QUOTA;
}

/* Members that no batch will follow any more. */
static enum kv_status drop_members(const struct check *check)
{
    struct audit *audit = check->audit;

    if (audit->n_members > 0 && needs_batch(audit->members_reason))
        return wrong(check,
            "evictions %" PRIu64 " to %" PRIu64 " have no batch receipt",
            audit->first_member, audit->last_member);
    audit->n_members = audit->member_bytes = 0;
    audit->first_member = audit->last_member = 0;
    return KV_OK;
}

static enum kv_status check_extent(const struct check *check,
    const Kvpool__V1__Extent *extent, uint64_t least, uint64_t *end)
{
    uint64_t block_bytes = check->audit->block_bytes;

    if (extent->size == 0 ||
        __builtin_add_overflow(extent->offset, extent->size, end) ||
        *end > check->receipt->eviction->before->total_memory_bytes)
        return wrong(check,
            "extent %" PRIu64 "+%" PRIu64 " is not in the arena",
            extent->offset, extent->size);
    if (extent->offset < least)
        return wrong(check,
            "extent %" PRIu64 "+%" PRIu64 " touches or precedes the last one",
            extent->offset, extent->size);
    if (block_bytes != 0 &&
        (extent->offset % block_bytes != 0 || extent->size % block_bytes != 0))
        return wrong(check,
            "extent %" PRIu64 "+%" PRIu64 " is not whole blocks",
            extent->offset, extent->size);
    return KV_OK;
}

static enum kv_status check_extents(
    const struct check *check, const Kvpool__V1__EvictionReceipt *eviction)
{
    uint64_t sum = 0, end = 0, least = 0;

    for (size_t i = 0; i < eviction->n_extents; i++) {
        enum kv_status status =
            check_extent(check, eviction->extents[i], least, &end);

        if (status != KV_OK)
            return status;
        sum += eviction->extents[i]->size;
        least = end + 1;
    }
    if (sum != eviction->block_size_bytes)
        return wrong(check,
            "extents add up to %" PRIu64 ", and block_size_bytes is %" PRIu64,
            sum, eviction->block_size_bytes);
    if (sum > 0 && eviction->block_offset != eviction->extents[0]->offset)
        return wrong(check, "block_offset is not the first extent's");
    if (check->audit->block_bytes != 0 &&
        eviction->blocks_freed != sum / check->audit->block_bytes)
        return wrong(check, "blocks_freed is %" PRIu64 " of %" PRIu64 " bytes",
            eviction->blocks_freed, sum);
    if ((sum > 0) != (eviction->zeroed != 0))
        return wrong(check, "zeroed does not go with %" PRIu64 " bytes", sum);
    return KV_OK;
}

static bool is_last_part(const Kvpool__V1__EvictionReceipt *eviction)
{
    return eviction->part == NULL ||
           eviction->part->number == eviction->part->count;
}

static enum kv_status check_difference(
    const struct check *check, const Kvpool__V1__EvictionReceipt *eviction)
{
    const Kvpool__V1__PoolStatistics *before = eviction->before;
    const Kvpool__V1__PoolStatistics *after = eviction->after;
    uint64_t size = eviction->block_size_bytes;
    uint64_t more = is_last_part(eviction) ? 1 : 0;

    if (before->used_memory_bytes - after->used_memory_bytes != size ||
        after->freed_bytes_total - before->freed_bytes_total != size)
        return wrong(check,
            "used went from %" PRIu64 " to %" PRIu64 " and freed from %" PRIu64
            " to %" PRIu64 ", and block_size_bytes is %" PRIu64,
            before->used_memory_bytes, after->used_memory_bytes,
            before->freed_bytes_total, after->freed_bytes_total, size);
    if (after->evictions - before->evictions != more)
        return wrong(check,
            "evictions went from %" PRIu64 " to %" PRIu64 "; %" PRIu64
            " more is right",
            before->evictions, after->evictions, more);
    if (before->total_sessions - after->total_sessions > more)
        return wrong(check, "total_sessions went from %" PRIu64 " to %" PRIu64,
            before->total_sessions, after->total_sessions);
    if (after->session_tokens > before->session_tokens ||
        after->allocated_bytes_total != before->allocated_bytes_total ||
        after->total_memory_bytes != before->total_memory_bytes ||
        after->cache_hits != before->cache_hits ||
        after->cache_misses != before->cache_misses)
        return wrong(check, "something changed that no eviction changes");
    return KV_OK;
}

static void read_numbers(
    uint64_t out[10], const Kvpool__V1__PoolStatistics *stats)
{
    const uint64_t numbers[10] = {stats->total_sessions,
        stats->used_memory_bytes, stats->allocated_bytes_total,
        stats->freed_bytes_total, stats->evictions, stats->cache_hits,
        stats->cache_misses, stats->session_tokens, stats->total_memory_bytes,
        stats->free_runs};

    memcpy(out, numbers, sizeof numbers);
}

static enum kv_status check_part(
    const struct check *check, const Kvpool__V1__EvictionReceipt *eviction)
{
    struct audit *audit = check->audit;
    uint32_t number = eviction->part != NULL ? eviction->part->number : 0;
    uint32_t count = eviction->part != NULL ? eviction->part->count : 0;
    uint64_t before[10];

    if (eviction->part != NULL && (count < 2 || number < 1 || number > count))
        return wrong(check, "part %" PRIu32 " of %" PRIu32, number, count);
    if (audit->next_part == 0) {
        if (number > 1 && audit->n_receipts > 0)
            return wrong(
                check, "part %" PRIu32 " without the ones before it", number);
    } else {
        read_numbers(before, eviction->before);
        if (number != audit->next_part || count != audit->n_parts)
            return wrong(check, "part %" PRIu32 " of %" PRIu32 " was to come",
                audit->next_part, audit->n_parts);
        if (strcmp(eviction->session_id, audit->part_session) != 0 ||
            strcmp(eviction->tenant, audit->part_tenant) != 0 ||
            eviction->reason != audit->members_reason)
            return wrong(check, "a part of another eviction was to come");
        if (memcmp(before, audit->part_numbers, sizeof before) != 0)
            return wrong(check, "before is not the after of the last part");
    }
    audit->next_part = number < count ? number + 1 : 0;
    audit->n_parts = count;
    read_numbers(audit->part_numbers, eviction->after);
    snprintf(audit->part_session, sizeof audit->part_session, "%s",
        eviction->session_id);
    snprintf(
        audit->part_tenant, sizeof audit->part_tenant, "%s", eviction->tenant);
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
    if (is_last_part(eviction)) {
        audit->n_members++;
        if ((unsigned)eviction->reason < AUDIT_REASONS)
            audit->evictions_by_reason[eviction->reason]++;
    }
}

static enum kv_status check_eviction(const struct check *check)
{
    const Kvpool__V1__EvictionReceipt *eviction = check->receipt->eviction;
    struct audit *audit = check->audit;
    struct audit_counters before, after;
    enum kv_status status = KV_OK;

    if (eviction->before == NULL || eviction->after == NULL)
        return wrong(check, "before or after is missing");
    if (eviction->reason == 0)
        return wrong(check, "the reason is missing");
    before = read_stats(eviction->before);
    after = read_stats(eviction->after);
    if (audit->first_member != 0 && eviction->reason != audit->members_reason)
        status = drop_members(check);
    if (status == KV_OK)
        status = check_part(check, eviction);
    if (status == KV_OK)
        status = check_between(check, &before);
    if (status == KV_OK)
        status =
            check_used(check, &before, eviction->before->used_memory_bytes);
    if (status == KV_OK)
        status = check_used(check, &after, eviction->after->used_memory_bytes);
    if (status == KV_OK)
        status = check_extents(check, eviction);
    if (status == KV_OK)
        status = check_difference(check, eviction);
    if (status != KV_OK)
        return status;
    audit->counters = after;
    audit->has_counters = true;
    audit->n_evictions++;
    add_member(check);
    return KV_OK;
}

/* ---- batches */

static bool is_near(double value, double expected)
{
    return fabs(value - expected) <= 1e-9;
}

static bool is_fragmentation(double value, uint64_t free_runs)
{
    double expected =
        free_runs > 1 ? (double)(free_runs - 1) / (double)free_runs : 0;

    return is_near(value, expected);
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
            return wrong(check, "outcome %zu names sequence %" PRIu64, i,
                outcome->sequence);
        n_evicted++;
        sum += outcome->bytes_freed;
    }
    if (n_evicted != batch->count || sum != batch->total_bytes_freed)
        return wrong(check,
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
        return wrong(check,
            "it tells of %" PRIu64 " evictions of %" PRIu64
            " bytes, and %" PRIu64 " of %" PRIu64 " precede it",
            batch->count, batch->total_bytes_freed, audit->n_members,
            audit->member_bytes);
    if (batch->first_sequence != audit->first_member ||
        batch->last_sequence != audit->last_member)
        return wrong(check,
            "its members are %" PRIu64 " to %" PRIu64 ", and %" PRIu64
            " to %" PRIu64 " precede it",
            batch->first_sequence, batch->last_sequence, audit->first_member,
            audit->last_member);
    if (batch->pool_used_before != audit->used_before ||
        batch->pool_used_after != audit->used_after)
        return wrong(check, "used before or after is not its members'");
    if (!is_fragmentation(
            batch->fragmentation_before, audit->free_runs_before) ||
        !is_fragmentation(batch->fragmentation_after, audit->free_runs_after))
        return wrong(check, "fragmentation is not its members'");
    return KV_OK;
}

static enum kv_status check_batch(const struct check *check)
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
        return wrong(check,
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
        return wrong(check, "it has members, and none precedes it");
    } else if (batch->count == 0 &&
               batch->reason !=
                   KVPOOL__V1__EVICTION_REASON__EVICTION_REASON_MANUAL) {
        return wrong(check, "a batch without members that nobody asked for");
    }
    if (is_theirs || is_older)
        audit->n_members = 0; /* they have their batch */
    audit->n_batches++;
    return check_call(check, batch);
}

/* ---- snapshots */

static enum kv_status check_reasons(
    const struct check *check, const Kvpool__V1__PoolSnapshotReceipt *snapshot)
{
    const uint64_t *own = check->audit->evictions_by_reason;
    uint64_t sum = 0;

    for (size_t i = 0; i < snapshot->n_evictions_by_reason; i++) {
        const Kvpool__V1__ReasonCount *count = snapshot->evictions_by_reason[i];
        unsigned reason = (unsigned)count->reason;

        sum += count->count;
        if (check->audit->block_bytes != 0 && reason < AUDIT_REASONS &&
            count->count != own[reason])
            return wrong(check,
                "it tells of %" PRIu64 " evictions for reason %u, the receipts"
                " of %" PRIu64,
                count->count, reason, own[reason]);
    }
    if (sum != snapshot->total_evictions)
        return wrong(check,
            "reasons add up to %" PRIu64 " evictions, the total is %" PRIu64,
            sum, snapshot->total_evictions);
    return KV_OK;
}

static enum kv_status check_snapshot(const struct check *check)
{
    const Kvpool__V1__PoolSnapshotReceipt *snapshot =
        check->receipt->pool_snapshot;
    const struct audit_counters now = {
        .allocated_bytes = snapshot->allocated_bytes_total,
        .freed_bytes = snapshot->freed_bytes_total,
        .total_bytes = snapshot->pool_total,
        .evictions = snapshot->total_evictions,
        .cache_hits = snapshot->cache_hits,
        .cache_misses = snapshot->cache_misses,
    };
    double share = snapshot->pool_total > 0 ? (double)snapshot->pool_used /
                                                  (double)snapshot->pool_total
                                            : 0;
    enum kv_status status = check_between(check, &now);

    if (status == KV_OK)
        status = check_used(check, &now, snapshot->pool_used);
    if (status == KV_OK)
        status = check_reasons(check, snapshot);
    if (status != KV_OK)
        return status;
    if (!is_near(snapshot->utilization, share))
        return wrong(check, "utilization is %g; %g is right",
            snapshot->utilization, share);
    if (!(snapshot->fragmentation >= 0 && snapshot->fragmentation < 1))
        return wrong(check, "fragmentation is %g", snapshot->fragmentation);
    check->audit->counters = now;
    check->audit->has_counters = true;
    check->audit->n_snapshots++;
    return KV_OK;
}

/* ---- all of it */

static enum kv_status check_kind(const struct check *check)
{
    const Kvpool__V1__Receipt *receipt = check->receipt;

    if (receipt->kind_case == KVPOOL__V1__RECEIPT__KIND_EVICTION_BATCH)
        return check_batch(check);
    if (receipt->kind_case == KVPOOL__V1__RECEIPT__KIND_POOL_SNAPSHOT)
        return check_snapshot(check);
    if (is_boot(receipt))
        return begin_epoch(check);
    return KV_OK;
}

enum kv_status audit_add(struct audit *audit,
    const Kvpool__V1__Receipt *receipt, struct kv_error *error)
{
    const struct check check = {audit, receipt, error};
    enum kv_status status = check_place(&check);

    if (status != KV_OK)
        return status;
    if (receipt->kind_case == KVPOOL__V1__RECEIPT__KIND_EVICTION) {
        status = check_eviction(&check);
    } else {
        if (audit->next_part != 0)
            return wrong(&check, "part %" PRIu32 " of %" PRIu32 " was to come",
                audit->next_part, audit->n_parts);
        status = check_kind(&check);
        if (status == KV_OK)
            status = drop_members(&check);
    }
    if (status != KV_OK)
        return status;
    if (audit->n_receipts == 0)
        audit->begin_sequence = receipt->sequence;
    audit->last_sequence = receipt->sequence;
    audit->epoch = receipt->epoch;
    audit->mono_ns = receipt->mono_ns;
    memcpy(audit->pool_id, receipt->pool_id.data, sizeof audit->pool_id);
    audit->n_receipts++;
    return KV_OK;
}

enum kv_status audit_end(const struct audit *audit, struct kv_error *error)
{
    if (audit->next_part != 0)
        return kv_error_set(error, KV_INVALID,
            "receipt %" PRIu64 " is the last, and part %" PRIu32 " of %" PRIu32
            " was to come",
            audit->last_sequence, audit->next_part, audit->n_parts);
    if (audit->n_members > 0 && needs_batch(audit->members_reason))
        return kv_error_set(error, KV_INVALID,
            "evictions %" PRIu64 " to %" PRIu64 " have no batch receipt",
            audit->first_member, audit->last_member);
    return KV_OK;
}
