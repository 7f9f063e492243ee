#include "receipts/draft.h"

#include <assert.h>
#include <string.h>

#include "base/utf8.h"
#include "receipts/statistics.h"

/* protobuf-c's structs have no const members; it only reads what it encodes. */
static ProtobufCBinaryData borrow(const uint8_t *bytes, size_t n)
{
    return (ProtobufCBinaryData){
        .len = bytes != NULL ? n : 0, .data = (uint8_t *)bytes};
}

/* A NUL-terminated copy in buffer, of as many whole characters as fit. */
static char *copy_text(
    char buffer[DRAFT_TEXT_BYTES + 1], const char *text, size_t n_bytes)
{
    size_t n = 0;

    if (n_bytes <= DRAFT_TEXT_BYTES) {
        n = n_bytes;
    } else {
        int length = kv_utf8_length(text, n_bytes);

        while (length > 0 && n + (size_t)length <= DRAFT_TEXT_BYTES) {
            n += (size_t)length;
            length = kv_utf8_length(text + n, n_bytes - n);
        }
    }
    if (n > 0)
        memcpy(buffer, text, n);
    buffer[n] = '\0';
    return buffer;
}

static char *copy_string(char buffer[DRAFT_TEXT_BYTES + 1], const char *text)
{
    return copy_text(buffer, text, text != NULL ? strlen(text) : 0);
}

static void begin(struct draft *draft, Kvpool__V1__Receipt__KindCase kind,
    const uint8_t *trace_id)
{
    kvpool__v1__receipt__init(&draft->receipt);
    draft->receipt.kind_case = kind;
    draft->receipt.trace_id = borrow(trace_id, 16);
}

static Kvpool__V1__PoolStatistics *put_stats(
    Kvpool__V1__PoolStatistics *out, const struct pool_stats *stats)
{
    statistics_fill(out, stats);
    return out;
}

/* One list at a time: a change has only one that is not empty. */
static Kvpool__V1__Extent **put_extents(
    struct draft *draft, const struct pool_extent *extents, size_t n_extents)
{
    assert(n_extents <= POOL_PART_EXTENTS);
    for (size_t i = 0; i < n_extents; i++) {
        kvpool__v1__extent__init(&draft->extents[i]);
        draft->extents[i].offset = extents[i].offset;
        draft->extents[i].size = extents[i].size;
        draft->extent_list[i] = &draft->extents[i];
    }
    return draft->extent_list;
}

static void put_cause(struct draft *draft, const struct pool_cause *cause)
{
    Kvpool__V1__EvictionReceipt *out = &draft->kind.eviction;
    const struct pool_key *by = cause->forced_by;

    if (cause->requested_by != NULL) {
        out->cause_case = KVPOOL__V1__EVICTION_RECEIPT__CAUSE_REQUESTED_BY;
        out->requested_by = copy_string(draft->texts[2], cause->requested_by);
    } else if (by != NULL) {
        kvpool__v1__session_key__init(&draft->forced_by);
        draft->forced_by.tenant =
            copy_text(draft->texts[2], by->tenant, by->tenant_bytes);
        draft->forced_by.session_id =
            copy_text(draft->texts[3], by->id, by->id_bytes);
        out->cause_case = KVPOOL__V1__EVICTION_RECEIPT__CAUSE_FORCED_BY;
        out->forced_by = &draft->forced_by;
    }
}

/* NULL for what is whole. */
static Kvpool__V1__ReceiptPart *put_part(
    struct draft *draft, uint32_t number, uint32_t count)
{
    kvpool__v1__receipt_part__init(&draft->part);
    draft->part.number = number;
    draft->part.count = count;
    return count > 1 ? &draft->part : NULL;
}

void draft_eviction(struct draft *draft, const struct pool_eviction *eviction)
{
    Kvpool__V1__EvictionReceipt *out = &draft->kind.eviction;
    const struct pool_key *key = &eviction->key;

    begin(draft, KVPOOL__V1__RECEIPT__KIND_EVICTION, eviction->cause->trace_id);
    kvpool__v1__eviction_receipt__init(out);
    draft->receipt.eviction = out;
    out->session_id = copy_text(draft->texts[0], key->id, key->id_bytes);
    out->tenant = copy_text(draft->texts[1], key->tenant, key->tenant_bytes);
    out->reason = (Kvpool__V1__EvictionReason)eviction->cause->reason;
    if (eviction->n_extents > 0)
        out->block_offset = eviction->extents[0].offset;
    out->block_size_bytes = eviction->bytes_freed;
    out->extents = put_extents(draft, eviction->extents, eviction->n_extents);
    out->n_extents = eviction->n_extents;
    if (eviction->n_shared > 0)
        out->shared_extents =
            put_extents(draft, eviction->shared, eviction->n_shared);
    out->n_shared_extents = eviction->n_shared;
    out->before = put_stats(&draft->before, eviction->before);
    out->after = put_stats(&draft->after, eviction->after);
    out->blocks_freed = eviction->blocks_freed;
    out->tokens_freed = eviction->tokens_freed;
    out->age_ns = eviction->age_ns;
    out->idle_ns = eviction->idle_ns;
    out->hits = eviction->hits;
    out->zeroed = eviction->scrub_id != 0;
    out->shared_blocks_kept = eviction->shared_blocks_kept;
    put_cause(draft, eviction->cause);
    out->preempted = eviction->preempted;
    out->tokens_kept = eviction->tokens_kept;
    out->part = put_part(draft, eviction->part, eviction->n_parts);
}

void draft_add_performance(struct draft *draft,
    const struct performance_report *report,
    const struct performance_settings *settings)
{
    Kvpool__V1__PerformanceReport *out = &draft->performance;

    kvpool__v1__performance_report__init(out);
    out->average_requests_per_second = report->requests_per_second;
    out->average_latency_ms = report->latency_ms;
    out->sample_count = report->n_samples;
    out->window_ns = report->window_ns;
    out->kv_cache_size_mb = settings->kv_cache_size_mb;
    out->max_batch_size = settings->max_batch_size;
    out->batch_timeout_ms = settings->batch_timeout_ms;
    draft->kind.eviction.performance = out;
}

void draft_batch(struct draft *draft, const struct pool_batch *batch,
    uint64_t first_sequence, uint64_t last_sequence,
    const Kvpool__V1__EvictCall *call)
{
    Kvpool__V1__EvictionBatchReceipt *out = &draft->kind.batch;

    begin(draft, KVPOOL__V1__RECEIPT__KIND_EVICTION_BATCH, batch->trace_id);
    kvpool__v1__eviction_batch_receipt__init(out);
    draft->receipt.eviction_batch = out;
    out->count = batch->n_sessions;
    out->total_bytes_freed = batch->bytes_freed;
    out->pool_used_before = batch->before->used_bytes;
    out->pool_used_after = batch->after->used_bytes;
    out->fragmentation_before = pool_stats_fragmentation(batch->before);
    out->fragmentation_after = pool_stats_fragmentation(batch->after);
    out->duration_ns = batch->duration_ns;
    out->reason = (Kvpool__V1__EvictionReason)batch->reason;
    out->first_sequence = first_sequence;
    out->last_sequence = last_sequence;
    out->policy = copy_string(draft->texts[0], batch->policy);
    out->call = (Kvpool__V1__EvictCall *)call;
}

static Kvpool__V1__SealedBlock **put_sealed(
    struct draft *draft, const struct pool_sealed *sealed, size_t n_sealed)
{
    assert(n_sealed <= POOL_PART_SEALED);
    for (size_t i = 0; i < n_sealed; i++) {
        kvpool__v1__sealed_block__init(&draft->sealed[i]);
        draft->sealed[i].offset = sealed[i].offset;
        draft->sealed[i].key = borrow(sealed[i].key, POOL_KEY_BYTES);
        draft->sealed_list[i] = &draft->sealed[i];
    }
    return draft->sealed_list;
}

void draft_allocation(
    struct draft *draft, const struct pool_allocation *allocation)
{
    Kvpool__V1__AllocationReceipt *out = &draft->kind.allocation;
    const struct pool_key *key = &allocation->key;

    begin(draft, KVPOOL__V1__RECEIPT__KIND_ALLOCATION, NULL);
    kvpool__v1__allocation_receipt__init(out);
    draft->receipt.allocation = out;
    out->session_id = copy_text(draft->texts[0], key->id, key->id_bytes);
    out->tenant = copy_text(draft->texts[1], key->tenant, key->tenant_bytes);
    out->extents =
        put_extents(draft, allocation->extents, allocation->n_extents);
    out->n_extents = allocation->n_extents;
    if (allocation->n_reused > 0)
        out->reused_extents =
            put_extents(draft, allocation->reused, allocation->n_reused);
    out->n_reused_extents = allocation->n_reused;
    out->parent_key = borrow(allocation->parent_key, POOL_KEY_BYTES);
    out->sealed_blocks =
        put_sealed(draft, allocation->sealed, allocation->n_sealed);
    out->n_sealed_blocks = allocation->n_sealed;
    out->before = put_stats(&draft->before, allocation->before);
    out->after = put_stats(&draft->after, allocation->after);
    out->part = put_part(draft, allocation->part, allocation->n_parts);
}

void draft_release(struct draft *draft, const struct pool_release *release)
{
    Kvpool__V1__ReleaseReceipt *out = &draft->kind.release;
    const struct pool_key *key = &release->key;

    begin(draft, KVPOOL__V1__RECEIPT__KIND_RELEASE, NULL);
    kvpool__v1__release_receipt__init(out);
    draft->receipt.release = out;
    out->session_id = copy_text(draft->texts[0], key->id, key->id_bytes);
    out->tenant = copy_text(draft->texts[1], key->tenant, key->tenant_bytes);
    out->extents = put_extents(draft, release->extents, release->n_extents);
    out->n_extents = release->n_extents;
    if (release->n_shared > 0)
        out->shared_extents =
            put_extents(draft, release->shared, release->n_shared);
    out->n_shared_extents = release->n_shared;
    out->before = put_stats(&draft->before, release->before);
    out->after = put_stats(&draft->after, release->after);
    out->part = put_part(draft, release->part, release->n_parts);
}

void draft_recomputation(
    struct draft *draft, const struct pool_recomputation *recomputation)
{
    Kvpool__V1__RecomputationReceipt *out = &draft->kind.recomputation;
    const struct pool_key *key = &recomputation->key;

    begin(draft, KVPOOL__V1__RECEIPT__KIND_RECOMPUTATION,
        recomputation->trace_id);
    kvpool__v1__recomputation_receipt__init(out);
    draft->receipt.recomputation = out;
    out->session_id = copy_text(draft->texts[0], key->id, key->id_bytes);
    out->tenant = copy_text(draft->texts[1], key->tenant, key->tenant_bytes);
    out->eviction_sequence = recomputation->note;
    out->reason = (Kvpool__V1__EvictionReason)recomputation->reason;
    out->gap_ns = recomputation->gap_ns;
    out->tokens_recomputed = recomputation->tokens;
    out->blocks_recomputed = recomputation->blocks;
    out->duration_ns = recomputation->duration_ns;
}

static void put_reasons(struct draft *draft, const uint64_t *counts)
{
    Kvpool__V1__PoolSnapshotReceipt *out = &draft->kind.snapshot;

    out->evictions_by_reason = draft->reason_list;
    for (int reason = 1; reason < POOL_REASON_END; reason++) {
        Kvpool__V1__ReasonCount *count = &draft->reasons[reason];

        if (counts[reason] == 0)
            continue;
        kvpool__v1__reason_count__init(count);
        count->reason = (Kvpool__V1__EvictionReason)reason;
        count->count = counts[reason];
        draft->reason_list[out->n_evictions_by_reason++] = count;
    }
}

static void put_tier(struct draft *draft, uint64_t used, uint64_t total)
{
    kvpool__v1__tier_usage__init(&draft->tier);
    draft->tier.tier = copy_string(draft->texts[0], "memory");
    draft->tier.used_bytes = used;
    draft->tier.total_bytes = total;
    draft->tier_list[0] = &draft->tier;
    draft->kind.snapshot.tiers = draft->tier_list;
    draft->kind.snapshot.n_tiers = 1;
}

void draft_snapshot(
    struct draft *draft, const struct ledger_pool_snapshot *snapshot)
{
    Kvpool__V1__PoolSnapshotReceipt *out = &draft->kind.snapshot;
    const struct pool_stats *stats = &snapshot->stats;

    begin(draft, KVPOOL__V1__RECEIPT__KIND_POOL_SNAPSHOT, NULL);
    kvpool__v1__pool_snapshot_receipt__init(out);
    draft->receipt.pool_snapshot = out;
    out->pool_used = stats->used_bytes;
    out->pool_total = stats->total_bytes;
    out->utilization = pool_stats_utilization(stats);
    out->fragmentation = pool_stats_fragmentation(stats);
    out->active_sessions = stats->total_sessions;
    out->total_sessions_created = snapshot->sessions_created;
    out->total_evictions = stats->evictions;
    out->cache_hits = stats->cache_hits;
    out->cache_misses = stats->cache_misses;
    out->allocated_bytes_total = stats->allocated_bytes_total;
    out->freed_bytes_total = stats->freed_bytes_total;
    put_reasons(draft, snapshot->evictions_by_reason);
    put_tier(draft, stats->used_bytes, stats->total_bytes);
}

static Kvpool__V1__LifecycleReceipt *begin_lifecycle(struct draft *draft,
    Kvpool__V1__LifecycleReceipt__ChangeCase change,
    const uint8_t config_digest[32])
{
    Kvpool__V1__LifecycleReceipt *out = &draft->kind.lifecycle;

    begin(draft, KVPOOL__V1__RECEIPT__KIND_LIFECYCLE, NULL);
    kvpool__v1__lifecycle_receipt__init(out);
    draft->receipt.lifecycle = out;
    out->config_digest = borrow(config_digest, 32);
    out->change_case = change;
    return out;
}

void draft_boot(struct draft *draft, const struct ledger_boot *boot,
    const struct journal_start *start, const uint8_t config_digest[32])
{
    Kvpool__V1__LifecycleReceipt *out = begin_lifecycle(
        draft, KVPOOL__V1__LIFECYCLE_RECEIPT__CHANGE_BOOT, config_digest);

    out->boot = &draft->boot;
    kvpool__v1__boot__init(&draft->boot);
    draft->boot.version = copy_string(draft->texts[0], boot->version);
    draft->boot.policy = copy_string(draft->texts[1], boot->policy);
    draft->boot.model = copy_string(draft->texts[2], boot->model);
    draft->boot.total_blocks = boot->total_blocks;
    draft->boot.block_bytes = boot->block_bytes;
    draft->boot.block_tokens = boot->block_tokens;
    draft->boot.model_digest = borrow(boot->model_digest, 32);
    if (start == NULL)
        return;
    draft->boot.previous_sequence = start->last_sequence;
    draft->boot.clean = start->clean;
}

void draft_drain(struct draft *draft, const char *cause, int64_t limit_ns,
    const uint8_t config_digest[32])
{
    Kvpool__V1__LifecycleReceipt *out = begin_lifecycle(
        draft, KVPOOL__V1__LIFECYCLE_RECEIPT__CHANGE_DRAIN, config_digest);

    out->drain = &draft->drain;
    kvpool__v1__drain__init(&draft->drain);
    draft->drain.cause = copy_string(draft->texts[0], cause);
    draft->drain.limit_ns = limit_ns;
}

void draft_sink_gap(struct draft *draft, const char *sink,
    uint64_t first_sequence, uint64_t last_sequence,
    const uint8_t config_digest[32])
{
    Kvpool__V1__LifecycleReceipt *out = begin_lifecycle(
        draft, KVPOOL__V1__LIFECYCLE_RECEIPT__CHANGE_SINK_GAP, config_digest);

    out->sink_gap = &draft->sink_gap;
    kvpool__v1__sink_gap__init(&draft->sink_gap);
    draft->sink_gap.sink = copy_string(draft->texts[0], sink);
    draft->sink_gap.first_sequence = first_sequence;
    draft->sink_gap.last_sequence = last_sequence;
}

void draft_configuration_change(
    struct draft *draft, const struct ledger_configuration_change *change)
{
    Kvpool__V1__LifecycleReceipt *out = begin_lifecycle(draft,
        KVPOOL__V1__LIFECYCLE_RECEIPT__CHANGE_CONFIGURATION_CHANGE,
        change->config_digest);
    Kvpool__V1__ConfigurationChange *to = &draft->configuration_change;

    out->configuration_change = to;
    kvpool__v1__configuration_change__init(to);
    to->previous_digest = borrow(change->previous_digest, 32);
    to->options = (char **)change->names;
    to->n_options = change->n_names;
    to->requested_by = copy_string(draft->texts[0], change->requested_by);
}

void draft_loss_accepted(struct draft *draft, const struct journal_start *start,
    const uint8_t config_digest[32])
{
    Kvpool__V1__LifecycleReceipt *out = begin_lifecycle(draft,
        KVPOOL__V1__LIFECYCLE_RECEIPT__CHANGE_LOSS_ACCEPTED, config_digest);

    out->loss_accepted = &draft->loss;
    kvpool__v1__loss_accepted__init(&draft->loss);
    draft->loss.first_sequence = start->lost_first;
    draft->loss.last_sequence = start->lost_last;
    draft->loss.detail = copy_string(draft->texts[0], start->lost_detail);
    draft->loss.previous_pool_id =
        borrow(start->lost_pool_id, sizeof start->lost_pool_id);
}
