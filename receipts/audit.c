#include "receipts/audit_check.h"

#include <inttypes.h>
#include <math.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>

enum kv_status audit_wrong(const struct check *check, const char *format, ...)
{
    char what[384];
    va_list args;

    va_start(args, format);
    vsnprintf(what, sizeof what, format, args);
    va_end(args);
    return kv_error_set(check->error, KV_INVALID, "receipt %" PRIu64 ": %s",
        check->receipt->sequence, what);
}

enum kv_status audit_init(struct audit *audit)
{
    enum kv_status status;

    *audit = (struct audit){.follows_blocks = true};
    status = replay_open(&audit->replay);
    if (status == KV_OK)
        status = recall_open(&audit->recall);
    return status;
}

void audit_fini(struct audit *audit)
{
    recall_close(audit->recall);
    replay_close(audit->replay);
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
        return audit_wrong(check, "sequences count from 1");
    if (!is_first && receipt->sequence != audit->last_sequence + 1)
        return audit_wrong(check,
            "the receipt before is %" PRIu64 "; sequences must be dense",
            audit->last_sequence);
    if (receipt->pool_id.len != sizeof audit->pool_id)
        return audit_wrong(
            check, "pool_id is %zu bytes; it must be 16", receipt->pool_id.len);
    if (!is_first && memcmp(receipt->pool_id.data, audit->pool_id, 16) != 0)
        return audit_wrong(check, "pool_id is another ledger's");
    if (receipt->epoch == 0 || receipt->epoch < audit->epoch)
        return audit_wrong(check, "epoch is %" PRIu32 " after %" PRIu32,
            receipt->epoch, audit->epoch);
    if (!is_first && is_boot(receipt) != (receipt->epoch > audit->epoch))
        return audit_wrong(check,
            "an epoch must begin with a boot receipt, and have one only");
    if (!is_first && receipt->epoch == audit->epoch &&
        receipt->mono_ns < audit->mono_ns)
        return audit_wrong(check,
            "mono_ns went back from %" PRId64 " to %" PRId64, audit->mono_ns,
            receipt->mono_ns);
    return KV_OK;
}

static enum kv_status begin_epoch(const struct check *check)
{
    struct audit *audit = check->audit;
    const Kvpool__V1__Boot *boot = check->receipt->lifecycle->boot;
    uint64_t total_bytes;

    if (audit->n_receipts > 0 &&
        boot->previous_sequence != audit->last_sequence)
        return audit_wrong(check,
            "previous_sequence is %" PRIu64
            ", and the receipt before is %" PRIu64,
            boot->previous_sequence, audit->last_sequence);
    if (__builtin_mul_overflow(
            boot->total_blocks, boot->block_bytes, &total_bytes) ||
        total_bytes == 0)
        return audit_wrong(check,
            "%" PRIu64 " blocks of %" PRIu64 " bytes are no arena",
            boot->total_blocks, boot->block_bytes);
    audit->block_bytes = boot->block_bytes;
    audit->has_counters = true;
    audit->counters = (struct audit_counters){.total_bytes = total_bytes};
    memset(audit->evictions_by_reason, 0, sizeof audit->evictions_by_reason);
    return audit_follow_boot(check);
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
        return audit_wrong(check,
            "used %" PRIu64 " is not allocated %" PRIu64 " less freed %" PRIu64,
            used, counters->allocated_bytes, counters->freed_bytes);
    if (used > counters->total_bytes)
        return audit_wrong(check,
            "used %" PRIu64 " is more than total %" PRIu64, used,
            counters->total_bytes);
    if (block_bytes != 0 && used % block_bytes != 0)
        return audit_wrong(check,
            "used %" PRIu64 " is not whole blocks of %" PRIu64 " bytes", used,
            block_bytes);
    return KV_OK;
}

enum kv_status audit_check_between(
    const struct check *check, const struct audit_counters *now)
{
    const struct audit_counters *last = &check->audit->counters;

    if (!check->audit->has_counters)
        return KV_OK;
    if (now->total_bytes != last->total_bytes)
        return audit_wrong(check, "total went from %" PRIu64 " to %" PRIu64,
            last->total_bytes, now->total_bytes);
    if (now->evictions != last->evictions)
        return audit_wrong(check,
            "evictions went from %" PRIu64 " to %" PRIu64 " without a receipt",
            last->evictions, now->evictions);
    if (now->allocated_bytes < last->allocated_bytes ||
        now->freed_bytes < last->freed_bytes ||
        now->cache_hits < last->cache_hits ||
        now->cache_misses < last->cache_misses)
        return audit_wrong(check,
            "a counter fell: allocated %" PRIu64 " to %" PRIu64
            ", freed %" PRIu64 " to %" PRIu64,
            last->allocated_bytes, now->allocated_bytes, last->freed_bytes,
            now->freed_bytes);
    if (now->allocated_bytes == last->allocated_bytes &&
        now->freed_bytes == last->freed_bytes)
        return KV_OK;
    if (check->audit->records_blocks)
        return audit_wrong(check,
            "allocated went from %" PRIu64 " to %" PRIu64
            " and freed from %" PRIu64 " to %" PRIu64 " without a receipt",
            last->allocated_bytes, now->allocated_bytes, last->freed_bytes,
            now->freed_bytes);
    audit_unfollow(check->audit);
    return KV_OK;
}

/* ---- changes */

enum kv_status audit_check_extents(const struct check *check,
    Kvpool__V1__Extent *const *extents, size_t n_extents, uint64_t total,
    bool ascending, uint64_t *sum)
{
    uint64_t block_bytes = check->audit->block_bytes, end, least = 0;

    *sum = 0;
    for (size_t i = 0; i < n_extents; i++) {
        const Kvpool__V1__Extent *extent = extents[i];

        if (extent->size == 0 ||
            __builtin_add_overflow(extent->offset, extent->size, &end) ||
            end > total || __builtin_add_overflow(*sum, extent->size, sum))
            return audit_wrong(check,
                "extent %" PRIu64 "+%" PRIu64 " is not in the arena",
                extent->offset, extent->size);
        if (ascending && extent->offset < least)
            return audit_wrong(check,
                "extent %" PRIu64 "+%" PRIu64
                " touches or precedes the last one",
                extent->offset, extent->size);
        if (block_bytes != 0 && (extent->offset % block_bytes != 0 ||
                                    extent->size % block_bytes != 0))
            return audit_wrong(check,
                "extent %" PRIu64 "+%" PRIu64 " is not whole blocks",
                extent->offset, extent->size);
        least = end + 1;
    }
    return KV_OK;
}

bool audit_is_last_part(const Kvpool__V1__ReceiptPart *part)
{
    return part == NULL || part->number == part->count;
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

/* One that is not the first of its change. */
static enum kv_status check_next_part(
    const struct check *check, const struct audit_change *change)
{
    const struct audit *audit = check->audit;
    uint32_t number = change->part != NULL ? change->part->number : 0;
    uint32_t count = change->part != NULL ? change->part->count : 0;
    uint64_t before[10];

    read_numbers(before, change->before);
    if (number != audit->next_part || count != audit->n_parts)
        return audit_wrong(check, "part %" PRIu32 " of %" PRIu32 " was to come",
            audit->next_part, audit->n_parts);
    if (strcmp(change->session_id, audit->part_session) != 0 ||
        strcmp(change->tenant, audit->part_tenant) != 0 ||
        check->receipt->kind_case != audit->part_kind ||
        change->reason != audit->part_reason)
        return audit_wrong(check, "a part of another change was to come");
    if (memcmp(before, audit->part_numbers, sizeof before) != 0)
        return audit_wrong(check, "before is not the after of the last part");
    return KV_OK;
}

static enum kv_status check_part(
    const struct check *check, const struct audit_change *change)
{
    const Kvpool__V1__ReceiptPart *part = change->part;
    const struct audit *audit = check->audit;

    if (part != NULL &&
        (part->count < 2 || part->number < 1 || part->number > part->count))
        return audit_wrong(
            check, "part %" PRIu32 " of %" PRIu32, part->number, part->count);
    if (audit->next_part != 0)
        return check_next_part(check, change);
    if (part != NULL && part->number > 1 && audit->n_receipts > 0)
        return audit_wrong(
            check, "part %" PRIu32 " without the ones before it", part->number);
    return KV_OK;
}

enum kv_status audit_check_change(
    const struct check *check, const struct audit_change *change)
{
    struct audit_counters before, after;
    enum kv_status status;

    if (change->before == NULL || change->after == NULL)
        return audit_wrong(check, "before or after is missing");
    before = read_stats(change->before);
    after = read_stats(change->after);
    status = check_part(check, change);
    if (status == KV_OK)
        status = audit_check_between(check, &before);
    if (status == KV_OK)
        status = check_used(check, &before, change->before->used_memory_bytes);
    if (status == KV_OK)
        status = check_used(check, &after, change->after->used_memory_bytes);
    return status;
}

void audit_take_change(
    const struct check *check, const struct audit_change *change)
{
    struct audit *audit = check->audit;

    audit->counters = read_stats(change->after);
    audit->has_counters = true;
    if (audit_is_last_part(change->part)) {
        audit->next_part = 0;
        return;
    }
    audit->next_part = change->part->number + 1;
    audit->n_parts = change->part->count;
    audit->part_kind = check->receipt->kind_case;
    audit->part_reason = change->reason;
    read_numbers(audit->part_numbers, change->after);
    snprintf(audit->part_session, sizeof audit->part_session, "%s",
        change->session_id);
    snprintf(
        audit->part_tenant, sizeof audit->part_tenant, "%s", change->tenant);
}

/* ---- snapshots */

static bool is_near(double value, double expected)
{
    return fabs(value - expected) <= 1e-9;
}

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
            return audit_wrong(check,
                "it tells of %" PRIu64 " evictions for reason %u, the receipts"
                " of %" PRIu64,
                count->count, reason, own[reason]);
    }
    if (sum != snapshot->total_evictions)
        return audit_wrong(check,
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
    enum kv_status status = audit_check_between(check, &now);

    if (status == KV_OK)
        status = check_used(check, &now, snapshot->pool_used);
    if (status == KV_OK)
        status = check_reasons(check, snapshot);
    if (status != KV_OK)
        return status;
    if (!is_near(snapshot->utilization, share))
        return audit_wrong(check, "utilization is %g; %g is right",
            snapshot->utilization, share);
    if (!(snapshot->fragmentation >= 0 && snapshot->fragmentation < 1))
        return audit_wrong(
            check, "fragmentation is %g", snapshot->fragmentation);
    check->audit->counters = now;
    check->audit->has_counters = true;
    check->audit->n_snapshots++;
    return KV_OK;
}

/* ---- all of it */

static enum kv_status check_kind(const struct check *check)
{
    const Kvpool__V1__Receipt *receipt = check->receipt;

    switch (receipt->kind_case) {
    case KVPOOL__V1__RECEIPT__KIND_EVICTION:
        return audit_check_eviction(check);
    case KVPOOL__V1__RECEIPT__KIND_EVICTION_BATCH:
        return audit_check_batch(check);
    case KVPOOL__V1__RECEIPT__KIND_POOL_SNAPSHOT:
        return check_snapshot(check);
    case KVPOOL__V1__RECEIPT__KIND_ALLOCATION:
        return audit_check_allocation(check);
    case KVPOOL__V1__RECEIPT__KIND_RELEASE:
        return audit_check_release(check);
    case KVPOOL__V1__RECEIPT__KIND_RECOMPUTATION:
        return audit_check_recomputation(check);
    default:
        return is_boot(receipt) ? begin_epoch(check) : KV_OK;
    }
}

/* What a crash cut off is not missed: the next epoch says that there was one.
 */
static void forgive_crash(const struct check *check)
{
    struct audit *audit = check->audit;

    if (!is_boot(check->receipt) || check->receipt->lifecycle->boot->clean)
        return;
    audit->next_part = 0;
    audit->n_members = 0;
}

enum kv_status audit_add(struct audit *audit,
    const Kvpool__V1__Receipt *receipt, struct kv_error *error)
{
    const struct check check = {audit, receipt, error};
    enum kv_status status = check_place(&check);

    if (status != KV_OK)
        return status;
    forgive_crash(&check);
    if (audit->next_part != 0 && receipt->kind_case != audit->part_kind)
        return audit_wrong(&check,
            "part %" PRIu32 " of %" PRIu32 " was to come", audit->next_part,
            audit->n_parts);
    status = check_kind(&check);
    if (status == KV_OK &&
        receipt->kind_case != KVPOOL__V1__RECEIPT__KIND_EVICTION)
        status = audit_drop_members(&check);
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
    if (audit->n_members > 0 && audit_needs_batch(audit->members_reason))
        return kv_error_set(error, KV_INVALID,
            "evictions %" PRIu64 " to %" PRIu64 " have no batch receipt",
            audit->first_member, audit->last_member);
    return KV_OK;
}
