#include "server/metrics.h"

#include "receipts/json.h"

#define COUNTER EXPOSITION_COUNTER
#define GAUGE EXPOSITION_GAUGE

/* One number, which is all of its family. */
static void single(struct exposition *out, const char *name,
    enum exposition_kind kind, const char *help, uint64_t value)
{
    exposition_family(out, name, kind, help);
    exposition_uint(out, value, NO_LABELS);
}

static void single_seconds(
    struct exposition *out, const char *name, const char *help, int64_t ns)
{
    exposition_family(out, name, GAUGE, help);
    exposition_seconds(out, ns, NO_LABELS);
}

/* ---- the pool */

static void print_statistics(
    struct exposition *out, const Kvpool__V1__PoolStatistics *statistics)
{
    single(out, "kvpool_capacity_bytes", GAUGE, "Bytes of the arena.",
        statistics->total_memory_bytes);
    single(out, "kvpool_used_bytes", GAUGE,
        "Bytes of blocks that are pinned or cached.",
        statistics->used_memory_bytes);
    single(out, "kvpool_allocated_bytes_total", COUNTER,
        "Bytes that became used.", statistics->allocated_bytes_total);
    single(out, "kvpool_freed_bytes_total", COUNTER,
        "Bytes that ceased to be used.", statistics->freed_bytes_total);
    single(out, "kvpool_sessions", GAUGE,
        "Sessions that hold at least one block.", statistics->total_sessions);
    single(out, "kvpool_session_tokens", GAUGE,
        "Tokens that sessions hold in blocks.", statistics->session_tokens);
    single(out, "kvpool_prefix_cache_hits_total", COUNTER,
        "Full blocks of prompts that were found in the pool.",
        statistics->cache_hits);
    single(out, "kvpool_prefix_cache_misses_total", COUNTER,
        "Full blocks of prompts that had to be computed.",
        statistics->cache_misses);
}

static void print_blocks(
    struct exposition *out, const Kvpool__V1__BlockCounts *blocks)
{
    exposition_family(out, "kvpool_blocks", GAUGE, "Blocks by state.");
    exposition_uint(out, blocks->pinned, LABELS({"state", "pinned"}));
    exposition_uint(out, blocks->cached, LABELS({"state", "cached"}));
    exposition_uint(out, blocks->scrubbing, LABELS({"state", "scrubbing"}));
    exposition_uint(out, blocks->free, LABELS({"state", "free"}));
    single(out, "kvpool_shared_blocks", GAUGE,
        "Used blocks that more than one session or request holds.",
        blocks->shared);
    single(out, "kvpool_free_runs", GAUGE,
        "Runs of neighbouring blocks that are free or scrubbing.",
        blocks->free_runs);
    single(out, "kvpool_block_bytes", GAUGE, "Bytes of one block.",
        blocks->block_bytes);
}

static uint64_t count_of_reason(
    const Kvpool__V1__PoolSnapshot *snapshot, Kvpool__V1__EvictionReason reason)
{
    for (size_t i = 0; i < snapshot->n_evictions_by_reason; i++)
        if (snapshot->evictions_by_reason[i]->reason == reason)
            return snapshot->evictions_by_reason[i]->count;
    return 0;
}

/* Reasons that never struck are 0, so that a rate sees the first one. */
static void print_evictions(
    struct exposition *out, const Kvpool__V1__PoolSnapshot *snapshot)
{
    exposition_family(out, "kvpool_evictions_total", COUNTER,
        "Evictions, one per session and eviction.");
    for (int reason = KVPOOL__V1__EVICTION_REASON__EVICTION_REASON_MANUAL;
         reason <= KVPOOL__V1__EVICTION_REASON__EVICTION_REASON_SHUTDOWN;
         reason++)
        exposition_uint(out,
            count_of_reason(snapshot, (Kvpool__V1__EvictionReason)reason),
            LABELS({"reason",
                eviction_reason_name((Kvpool__V1__EvictionReason)reason)}));
    single(out, "kvpool_sessions_created_total", COUNTER,
        "Sessions that held at least one block at some time.",
        snapshot->total_sessions_created);
}

/* ---- the inference loop */

static void print_load(
    struct exposition *out, const Kvpool__V1__EngineLoad *load)
{
    single(out, "kvpool_running_sequences", GAUGE,
        "Sequences in the current batch.", load->running_sequences);
    single(out, "kvpool_waiting_requests", GAUGE,
        "Requests accepted and not yet in the batch.", load->waiting_requests);
    single(out, "kvpool_preempted_sequences", GAUGE,
        "Sequences set aside, waiting for blocks.", load->preempted_sequences);
    single(out, "kvpool_steps_total", COUNTER, "Steps of the inference loop.",
        load->steps_total);
    single(out, "kvpool_prompt_tokens_total", COUNTER,
        "Prompt tokens accepted, found in the pool or computed.",
        load->prompt_tokens_total);
    single(out, "kvpool_cached_tokens_total", COUNTER,
        "Prompt tokens found in the pool.", load->cached_tokens_total);
    single(out, "kvpool_generated_tokens_total", COUNTER, "Tokens generated.",
        load->generated_tokens_total);
    single(out, "kvpool_recomputed_tokens_total", COUNTER,
        "Tokens computed again because their blocks had been evicted.",
        load->recomputed_tokens_total);
    single(out, "kvpool_preemptions_total", COUNTER,
        "Times that a running sequence was set aside.",
        load->preemptions_total);
}

static void print_histogram(struct exposition *out, const char *name,
    const char *help, const Kvpool__V1__DurationHistogram *histogram)
{
    if (histogram == NULL)
        return;
    exposition_family(out, name, EXPOSITION_HISTOGRAM, help);
    exposition_histogram(out, histogram->bounds_ns, histogram->counts,
        histogram->n_bounds_ns, histogram->sum_ns);
}

static void print_histograms(
    struct exposition *out, const Kvpool__V1__Histograms *histograms)
{
    print_histogram(out, "kvpool_queue_wait_seconds",
        "Time that requests waited for their first step.",
        histograms->queue_wait);
    print_histogram(out, "kvpool_time_to_first_token_seconds",
        "Time from the acceptance of a request to its first token.",
        histograms->time_to_first_token);
    print_histogram(out, "kvpool_time_per_output_token_seconds",
        "Time between tokens of one request.",
        histograms->time_per_output_token);
    print_histogram(out, "kvpool_age_at_eviction_seconds",
        "Age of sessions when they were evicted.", histograms->age_at_eviction);
    print_histogram(out, "kvpool_idle_at_eviction_seconds",
        "Idle time of sessions when they were evicted.",
        histograms->idle_at_eviction);
    print_histogram(out, "kvpool_reuse_gap_seconds",
        "Time between two uses of the same block.", histograms->reuse_gap);
    print_histogram(out, "kvpool_return_gap_seconds",
        "Time from the eviction of a session to its return.",
        histograms->return_gap);
    print_histogram(out, "kvpool_journal_commit_seconds",
        "Time from the issue of a receipt to its being durable.",
        histograms->journal_commit);
}

void metrics_print_model(struct exposition *out, bool lost)
{
    single(out, "kvpool_model_lost", GAUGE,
        "1 if the model's file was spoilt, and no request is taken.",
        (uint64_t)lost);
}

void metrics_print_stalls(struct exposition *out, uint64_t n_stalls)
{
    single(out, "kvpool_loop_stalls_total", COUNTER,
        "Times that nothing was answered for longer than loop_stall_ms.",
        n_stalls);
}

/* ---- receipts and where they go */

static void print_ledger(
    struct exposition *out, const Kvpool__V1__PoolSnapshot *snapshot)
{
    const Kvpool__V1__LedgerStatus *ledger = snapshot->ledger;
    const bool has_failed =
        ledger->mode == KVPOOL__V1__LEDGER_MODE__LEDGER_MODE_FAILED;

    single(out, "kvpool_ledger_failed", GAUGE,
        "1 if receipts cannot be kept any more, and nothing is evicted.",
        has_failed);
    if (snapshot->stamp == NULL)
        return;
    single(out, "kvpool_ledger_full", GAUGE,
        "1 while the disk has no room for receipts, and nothing is evicted.",
        !has_failed && ledger->error[0] != '\0');
    single(out, "kvpool_receipts_total", COUNTER,
        "Sequence of the last receipt that was issued.",
        snapshot->stamp->applied_sequence);
    single(out, "kvpool_durable_receipts_total", COUNTER,
        "Sequence of the last receipt that is durable.",
        snapshot->stamp->durable_sequence);
    single(out, "kvpool_oldest_receipt", GAUGE,
        "Sequence of the oldest receipt that can be read; 0 if none can.",
        ledger->oldest_sequence);
    single(out, "kvpool_checkpoint_tree_size", GAUGE,
        "Receipts that the newest signed checkpoint covers.",
        ledger->checkpoint_tree_size);
    single(out, "kvpool_receipts_bytes", GAUGE,
        "Bytes that receipts take, in memory or on disk.",
        ledger->stored_bytes);
}

/* Of one family, a number of each sink. */
enum sink_number {
    SINK_UP,
    SINK_LAG,
    SINK_LAG_SECONDS,
    SINK_DELIVERED,
    SINK_RETRIES,
    SINK_LOST
};

static void print_sink(struct exposition *out,
    const Kvpool__V1__SinkStatus *sink, enum sink_number number)
{
    const struct exposition_labels labels =
        LABELS({"sink", sink->name}, {"kind", sink->kind});
    const uint64_t numbers[] = {
        [SINK_UP] = sink->state == KVPOOL__V1__SINK_STATE__SINK_STATE_RUNNING,
        [SINK_LAG] = sink->lag_receipts,
        [SINK_DELIVERED] = sink->delivered_total,
        [SINK_RETRIES] = sink->retries_total,
        [SINK_LOST] = sink->lost_total,
    };

    if (number == SINK_LAG_SECONDS)
        exposition_seconds(out, sink->lag_ns, labels);
    else
        exposition_uint(out, numbers[number], labels);
}

static void print_sinks(
    struct exposition *out, const Kvpool__V1__PoolSnapshot *snapshot)
{
    static const struct {
        enum sink_number number;
        const char *name;
        enum exposition_kind kind;
        const char *help;
    } families[] = {
        {SINK_UP, "kvpool_sink_up", GAUGE,
            "1 if a sink delivers, or has nothing to deliver."},
        {SINK_LAG, "kvpool_sink_lag_receipts", GAUGE,
            "Durable receipts that a sink's target has not acknowledged."},
        {SINK_LAG_SECONDS, "kvpool_sink_lag_seconds", GAUGE,
            "Age of the oldest of them."},
        {SINK_DELIVERED, "kvpool_sink_delivered_receipts_total", COUNTER,
            "Receipts that a sink's target has acknowledged."},
        {SINK_RETRIES, "kvpool_sink_retries_total", COUNTER,
            "Deliveries that were tried again."},
        {SINK_LOST, "kvpool_sink_lost_receipts_total", COUNTER,
            "Receipts that a sink will never deliver."},
    };

    if (snapshot->n_sinks == 0)
        return;
    for (size_t i = 0; i < sizeof families / sizeof *families; i++) {
        exposition_family(
            out, families[i].name, families[i].kind, families[i].help);
        for (size_t k = 0; k < snapshot->n_sinks; k++)
            print_sink(out, snapshot->sinks[k], families[i].number);
    }
}

/* Streams come and go, so they are summed up instead of being named. */
static void print_subscribers(
    struct exposition *out, const Kvpool__V1__PoolSnapshot *snapshot)
{
    uint64_t most_lag = 0;
    int64_t longest_stall_ns = 0;

    for (size_t i = 0; i < snapshot->n_subscribers; i++) {
        const Kvpool__V1__SubscriberStatus *each = snapshot->subscribers[i];

        if (each->lag_receipts > most_lag)
            most_lag = each->lag_receipts;
        if (each->stalled_ns > longest_stall_ns)
            longest_stall_ns = each->stalled_ns;
    }
    single(out, "kvpool_subscribers", GAUGE, "Streams of receipts.",
        snapshot->n_subscribers);
    single(out, "kvpool_subscriber_lag_receipts", GAUGE,
        "Durable receipts that the slowest stream has not been sent.",
        most_lag);
    single_seconds(out, "kvpool_subscriber_stall_seconds",
        "How long the longest stalled stream has taken nothing.",
        longest_stall_ns);
}

/* ---- tenants */

enum tenant_number {
    TENANT_USED,
    TENANT_SOFT,
    TENANT_HARD,
    TENANT_SESSIONS,
    TENANT_HITS,
    TENANT_MISSES,
    TENANT_EVICTIONS
};

static uint64_t number_of_tenant(
    const Kvpool__V1__TenantUsage *tenant, enum tenant_number number)
{
    const uint64_t numbers[] = {
        [TENANT_USED] = tenant->used_blocks,
        [TENANT_SOFT] = tenant->soft_quota_blocks,
        [TENANT_HARD] = tenant->hard_quota_blocks,
        [TENANT_SESSIONS] = tenant->total_sessions,
        [TENANT_HITS] = tenant->cache_hits,
        [TENANT_MISSES] = tenant->cache_misses,
        [TENANT_EVICTIONS] = tenant->evictions,
    };

    return numbers[number];
}

static void print_tenants(
    struct exposition *out, const Kvpool__V1__PoolSnapshot *snapshot)
{
    static const struct {
        enum tenant_number number;
        const char *name;
        enum exposition_kind kind;
        const char *help;
    } families[] = {
        {TENANT_USED, "kvpool_tenant_used_blocks", GAUGE,
            "Blocks that a tenant's sessions and prefixes hold."},
        {TENANT_SOFT, "kvpool_tenant_soft_quota_blocks", GAUGE,
            "Blocks beyond which its own sessions go first; 0 is no limit."},
        {TENANT_HARD, "kvpool_tenant_hard_quota_blocks", GAUGE,
            "Blocks beyond which it is refused; 0 is no limit."},
        {TENANT_SESSIONS, "kvpool_tenant_sessions", GAUGE,
            "A tenant's sessions that hold at least one block."},
        {TENANT_HITS, "kvpool_tenant_prefix_cache_hits_total", COUNTER,
            "A tenant's full prompt blocks that were found in the pool."},
        {TENANT_MISSES, "kvpool_tenant_prefix_cache_misses_total", COUNTER,
            "A tenant's full prompt blocks that had to be computed."},
        {TENANT_EVICTIONS, "kvpool_tenant_evictions_total", COUNTER,
            "Evictions of a tenant's sessions."},
    };

    if (snapshot->n_tenants == 0)
        return;
    for (size_t i = 0; i < sizeof families / sizeof *families; i++) {
        exposition_family(
            out, families[i].name, families[i].kind, families[i].help);
        for (size_t k = 0; k < snapshot->n_tenants; k++) {
            const Kvpool__V1__TenantUsage *tenant = snapshot->tenants[k];

            exposition_uint(out, number_of_tenant(tenant, families[i].number),
                LABELS({"tenant", tenant->tenant}));
        }
    }
}

void metrics_print(
    struct exposition *out, const Kvpool__V1__PoolSnapshot *snapshot)
{
    single_seconds(out, "kvpool_start_time_seconds",
        "Start of the server, by the wall clock.", snapshot->started_unix_ns);
    print_statistics(out, snapshot->statistics);
    print_blocks(out, snapshot->blocks);
    print_evictions(out, snapshot);
    print_load(out, snapshot->load);
    if (snapshot->histograms != NULL)
        print_histograms(out, snapshot->histograms);
    print_ledger(out, snapshot);
    print_sinks(out, snapshot);
    print_subscribers(out, snapshot);
    print_tenants(out, snapshot);
}
