#include "cli/view.h"

#include <inttypes.h>
#include <stdarg.h>
#include <string.h>

#include "cli/proto_json.h"
#include "cli/text.h"
#include "receipts/json.h"

/* "Label          words", or "Label:" as the head of a paragraph. */
__attribute__((format(printf, 3, 4))) static void line(
    FILE *out, const char *label, const char *format, ...)
{
    va_list args;

    fprintf(out, "%-16s", label);
    va_start(args, format);
    vfprintf(out, format, args);
    va_end(args);
    fputc('\n', out);
}

/* ---- the model */

static void view_shape(FILE *out, const Kvpool__V1__ModelShape *shape)
{
    line(out, "  shape",
        "%" PRIu32 " layers, width %" PRIu32 ", feed-forward %" PRIu32
        ", %" PRIu32 " heads of %" PRIu32 ", %" PRIu32 " of keys and values",
        shape->layers, shape->embedding_length, shape->feed_forward_length,
        shape->heads, shape->head_length, shape->kv_heads);
}

static void view_memory(FILE *out, const Kvpool__V1__ModelMemory *memory)
{
    fputs("Memory\n", out);
    line(out, "  mapped file", "%s", text_bytes(memory->mapped_bytes).s);
    line(out, "  copied", "%s", text_bytes(memory->copied_bytes).s);
    line(out, "  repacked", "%s", text_bytes(memory->repacked_bytes).s);
    line(out, "  tokenizer", "%s", text_bytes(memory->tokenizer_bytes).s);
    line(out, "  locked", "%s", text_bytes(memory->locked_bytes).s);
    line(out, "  KV arena", "%s", text_bytes(memory->kv_bytes).s);
    line(out, "  KV tables", "%s", text_bytes(memory->kv_metadata_bytes).s);
    line(out, "  scratch", "%s", text_bytes(memory->scratch_bytes).s);
    line(out, "  kept tokens", "%s", text_bytes(memory->kept_tokens_bytes).s);
}

static void view_limits(FILE *out, const Kvpool__V1__EngineLimits *limits)
{
    fputs("Limits\n", out);
    line(out, "  batch", "%s, %s a step",
        text_count(limits->max_batch_size, "sequence").s,
        text_count(limits->max_batch_tokens, "token").s);
    line(out, "  waiting", "%s",
        text_count(limits->max_waiting_requests, "request").s);
    line(out, "  pool", "%s", text_count(limits->pool_tokens, "token").s);
}

static void view_tensors(FILE *out, const Kvpool__V1__Model *model)
{
    for (size_t i = 0; i < model->n_tensor_types; i++) {
        const Kvpool__V1__TensorTypeUsage *usage = model->tensor_types[i];

        line(out, i == 0 ? "  tensors" : "", "%s: %" PRIu32 " of %s",
            text_name(usage->type).s, usage->tensors,
            text_bytes(usage->bytes).s);
    }
}

void view_model(FILE *out, const Kvpool__V1__Model *model)
{
    line(out, "Model", "%s", text_name(model->name).s);
    line(out, "  architecture", "%s, %.1f million parameters",
        text_name(model->architecture).s, (double)model->parameters / 1e6);
    if (model->shape != NULL)
        view_shape(out, model->shape);
    view_tensors(out, model);
    line(out, "  vocabulary", "%s, %s",
        text_count(model->vocab_size, "token").s,
        text_name(model->tokenizer).s);
    line(out, "  context", "%s", text_count(model->context_length, "token").s);
    line(out, "  keys, values", "%s, %s a token", text_name(model->kv_type).s,
        text_bytes(model->kv_bytes_per_token).s);
    line(out, "  runs with", "%s, %s", text_name(model->kernels).s,
        text_count(model->threads, "thread").s);
    if (model->digest.len > 0)
        line(out, "  digest", "%s...",
            text_hex(model->digest.data, model->digest.len).s);
    if (model->memory != NULL)
        view_memory(out, model->memory);
    if (model->limits != NULL)
        view_limits(out, model->limits);
}

/* ---- the pool */

void view_ledger(FILE *out, const Kvpool__V1__PoolSnapshot *snapshot)
{
    const Kvpool__V1__LedgerStatus *ledger = snapshot->ledger;
    const Kvpool__V1__SnapshotStamp *stamp = snapshot->stamp;

    fputs("Receipts\n", out);
    if (ledger != NULL) {
        line(out, "  ledger", "%s",
            proto_enum_name(
                &kvpool__v1__ledger_mode__descriptor, (int)ledger->mode));
        line(out, "  stored", "%s of %s, oldest %" PRIu64,
            text_bytes(ledger->stored_bytes).s,
            ledger->limit_bytes > 0 ? text_bytes(ledger->limit_bytes).s
                                    : "no limit",
            ledger->oldest_sequence);
        if (ledger->error[0] != '\0')
            line(out, "  error", "%s", text_name(ledger->error).s);
    }
    if (stamp != NULL) {
        line(out, "  applied", "%" PRIu64 ", durable %" PRIu64,
            stamp->applied_sequence, stamp->durable_sequence);
        line(out, "  epoch", "%" PRIu32 " of pool %s", stamp->epoch,
            text_hex(stamp->pool_id.data, stamp->pool_id.len).s);
    }
}

static void view_blocks(FILE *out, const Kvpool__V1__BlockCounts *blocks)
{
    line(out, "  blocks",
        "%" PRIu64 ": %" PRIu64 " pinned, %" PRIu64 " cached, %" PRIu64
        " scrubbing, %" PRIu64 " free",
        blocks->total, blocks->pinned, blocks->cached, blocks->scrubbing,
        blocks->free);
    line(out, "  a block", "%s, %s; %" PRIu64 " shared",
        text_bytes(blocks->block_bytes).s,
        text_count(blocks->block_tokens, "token").s, blocks->shared);
}

static void view_statistics(
    FILE *out, const Kvpool__V1__PoolStatistics *statistics)
{
    line(out, "  used", "%s of %s", text_bytes(statistics->used_memory_bytes).s,
        text_bytes(statistics->total_memory_bytes).s);
    line(out, "  sessions", "%" PRIu64 " with blocks, %s in them",
        statistics->total_sessions,
        text_count(statistics->session_tokens, "token").s);
    line(out, "  prompt blocks", "%" PRIu64 " found, %" PRIu64 " computed",
        statistics->cache_hits, statistics->cache_misses);
    line(out, "  since start", "%s allocated, %s freed, %s",
        text_bytes(statistics->allocated_bytes_total).s,
        text_bytes(statistics->freed_bytes_total).s,
        text_count(statistics->evictions, "eviction").s);
}

static void view_reasons(FILE *out, const Kvpool__V1__PoolSnapshot *snapshot)
{
    for (size_t i = 0; i < snapshot->n_evictions_by_reason; i++) {
        const Kvpool__V1__ReasonCount *count = snapshot->evictions_by_reason[i];

        line(out, i == 0 ? "  evictions" : "", "%s %" PRIu64,
            eviction_reason_name(count->reason), count->count);
    }
}

static void view_ratios(FILE *out, const Kvpool__V1__PoolRatios *ratios)
{
    fputs("Ratios\n", out);
    line(out, "  utilization", "%s", text_percent(ratios->utilization).s);
    line(out, "  hit rate", "%s", text_percent(ratios->hit_rate).s);
    line(out, "  fragmentation", "%s (efficiency %s)",
        text_percent(ratios->fragmentation).s,
        text_percent(ratios->memory_pool_efficiency).s);
    line(out, "  unfilled", "%s", text_percent(ratios->unfilled).s);
    line(out, "  session", "%.1f tokens on average",
        ratios->average_session_length);
}

static void view_load(FILE *out, const Kvpool__V1__EngineLoad *load)
{
    fputs("Inference\n", out);
    line(out, "  sequences",
        "%" PRIu32 " running, %" PRIu32 " waiting, %" PRIu32 " set aside",
        load->running_sequences, load->waiting_requests,
        load->preempted_sequences);
    line(out, "  tokens",
        "%" PRIu64 " of prompts (%" PRIu64 " cached), %" PRIu64
        " generated, %" PRIu64 " recomputed",
        load->prompt_tokens_total, load->cached_tokens_total,
        load->generated_tokens_total, load->recomputed_tokens_total);
    line(out, "  steps", "%" PRIu64 ", preemptions %" PRIu64, load->steps_total,
        load->preemptions_total);
}

void view_snapshot(FILE *out, const Kvpool__V1__PoolSnapshot *snapshot)
{
    line(out, "Pool", "at %s, policy %s", text_time(snapshot->time_unix_ns).s,
        text_name(snapshot->policy).s);
    if (snapshot->statistics != NULL)
        view_statistics(out, snapshot->statistics);
    line(out, "", "%s created",
        text_count(snapshot->total_sessions_created, "session").s);
    view_reasons(out, snapshot);
    if (snapshot->blocks != NULL)
        view_blocks(out, snapshot->blocks);
    if (snapshot->ratios != NULL)
        view_ratios(out, snapshot->ratios);
    if (snapshot->load != NULL)
        view_load(out, snapshot->load);
    view_ledger(out, snapshot);
}

/* ---- histograms */

/* The bound that this share of observations does not exceed. */
static struct text quantile(
    const Kvpool__V1__DurationHistogram *histogram, double share)
{
    uint64_t sum = 0;

    for (size_t i = 0; i < histogram->n_counts; i++) {
        sum += histogram->counts[i];
        if ((double)sum < share * (double)histogram->count)
            continue;
        if (i < histogram->n_bounds_ns)
            return text_duration(histogram->bounds_ns[i]);
        break;
    }
    return (struct text){"more"};
}

static void view_histogram(FILE *out, const char *label,
    const Kvpool__V1__DurationHistogram *histogram)
{
    if (histogram == NULL)
        return;
    if (histogram->count == 0) {
        line(out, label, "none yet");
        return;
    }
    line(out, label, "%" PRIu64 ", mean %s; within %s half, %s 90%%, %s 99%%",
        histogram->count,
        text_duration(
            (int64_t)((double)histogram->sum_ns / (double)histogram->count))
            .s,
        quantile(histogram, 0.5).s, quantile(histogram, 0.9).s,
        quantile(histogram, 0.99).s);
}

void view_histograms(FILE *out, const Kvpool__V1__Histograms *histograms)
{
    fputs("Durations\n", out);
    view_histogram(out, "  age evicted", histograms->age_at_eviction);
    view_histogram(out, "  idle evicted", histograms->idle_at_eviction);
    view_histogram(out, "  reuse", histograms->reuse_gap);
    view_histogram(out, "  return", histograms->return_gap);
    view_histogram(out, "  waiting", histograms->queue_wait);
    view_histogram(out, "  first token", histograms->time_to_first_token);
    view_histogram(out, "  next token", histograms->time_per_output_token);
    view_histogram(out, "  journal", histograms->journal_commit);
}

/* ---- sessions */

static void add_sink(struct table *table, const Kvpool__V1__SinkStatus *sink)
{
    table_cell(table, "%s", text_name(sink->name).s);
    table_cell(table, "%s", text_name(sink->kind).s);
    table_cell(table, "%s",
        proto_enum_name(&kvpool__v1__sink_state__descriptor, (int)sink->state));
    table_cell(table, "%s", sink->guaranteed ? "yes" : "no");
    table_cell(table, "%" PRIu64, sink->acknowledged_sequence);
    table_cell(table, "%" PRIu64, sink->lag_receipts);
    table_cell(table, "%s", text_duration(sink->lag_ns).s);
    table_cell(table, "%" PRIu64, sink->delivered_total);
    table_cell(table, "%" PRIu64, sink->retries_total);
    table_cell(table, "%" PRIu64, sink->lost_total);
    table_cell(table, "%s",
        sink->last_error[0] != '\0' ? text_name(sink->last_error).s : "-");
}

enum kv_status view_sinks(FILE *out, const Kvpool__V1__PoolSnapshot *snapshot)
{
    static const char *const titles[] = {"SINK", "KIND", "STATE", "GUARANTEED",
        ">ACKNOWLEDGED", ">LAG", ">LAG AGE", ">DELIVERED", ">RETRIES", ">LOST",
        "LAST ERROR"};
    struct table table = {
        .titles = titles, .n_columns = sizeof titles / sizeof *titles};
    enum kv_status status;

    for (size_t i = 0; i < snapshot->n_sinks; i++)
        add_sink(&table, snapshot->sinks[i]);
    status = table_flush(&table, out);
    table_fini(&table);
    return status;
}

void view_sessions_begin(struct table *table)
{
    static const char *const titles[] = {"TENANT", "SESSION", "STATE",
        ">BLOCKS", ">BYTES", ">TOKENS", ">CACHED", ">IDLE", ">AGE", ">HITS",
        ">EVICTIONS"};

    *table = (struct table){
        .titles = titles, .n_columns = sizeof titles / sizeof *titles};
}

void view_sessions_add(struct table *table, const Kvpool__V1__Session *session)
{
    const Kvpool__V1__SessionKey *key = session->key;

    table_cell(table, "%s",
        key == NULL || key->tenant[0] == '\0' ? "-" : text_name(key->tenant).s);
    table_cell(table, "%s", key == NULL ? "-" : text_name(key->session_id).s);
    table_cell(table, "%s",
        proto_enum_name(
            &kvpool__v1__session_state__descriptor, (int)session->state));
    table_cell(table, "%" PRIu64, session->blocks);
    table_cell(table, "%s", text_bytes(session->used_bytes).s);
    table_cell(table, "%" PRIu64, session->tokens);
    table_cell(table, "%" PRIu64, session->cached_tokens);
    table_cell(table, "%s", text_duration(session->idle_ns).s);
    table_cell(table, "%s", text_duration(session->age_ns).s);
    table_cell(table, "%" PRIu64, session->hits);
    table_cell(table, "%" PRIu64, session->evictions);
}

/* ---- tenants */

static struct text quota_text(uint64_t n_blocks)
{
    struct text text = {"-"};

    if (n_blocks > 0)
        snprintf(text.s, sizeof text.s, "%" PRIu64, n_blocks);
    return text;
}

enum kv_status view_tenants(FILE *out, const Kvpool__V1__PoolSnapshot *snapshot)
{
    static const char *const titles[] = {"TENANT", ">BLOCKS", ">BYTES", ">SOFT",
        ">HARD", ">SESSIONS", ">HITS", ">MISSES", ">EVICTIONS"};
    struct table table = {
        .titles = titles, .n_columns = sizeof titles / sizeof *titles};
    enum kv_status status;

    for (size_t i = 0; i < snapshot->n_tenants; i++) {
        const Kvpool__V1__TenantUsage *row = snapshot->tenants[i];

        table_cell(&table, "%s",
            row->tenant[0] == '\0' ? "-" : text_name(row->tenant).s);
        table_cell(&table, "%" PRIu64, row->used_blocks);
        table_cell(&table, "%s", text_bytes(row->used_bytes).s);
        table_cell(&table, "%s", quota_text(row->soft_quota_blocks).s);
        table_cell(&table, "%s", quota_text(row->hard_quota_blocks).s);
        table_cell(&table, "%" PRIu64, row->total_sessions);
        table_cell(&table, "%" PRIu64, row->cache_hits);
        table_cell(&table, "%" PRIu64, row->cache_misses);
        table_cell(&table, "%" PRIu64, row->evictions);
    }
    status = table_flush(&table, out);
    table_fini(&table);
    return status;
}

/* ---- the arena */

static void add_owner(
    struct table *table, const Kvpool__V1__BlockMap *map, uint32_t owner)
{
    const Kvpool__V1__SessionKey *key =
        owner > 0 && owner <= map->n_owners ? map->owners[owner - 1] : NULL;

    table_cell(table, "%s",
        key == NULL || key->tenant[0] == '\0' ? "-" : text_name(key->tenant).s);
    table_cell(table, "%s", key == NULL ? "-" : text_name(key->session_id).s);
}

enum kv_status view_block_map(
    FILE *out, const Kvpool__V1__PoolSnapshot *snapshot)
{
    static const char *const titles[] = {
        ">FIRST BLOCK", ">BLOCKS", "STATE", ">HOLDERS", "TENANT", "SESSION"};
    const Kvpool__V1__BlockMap *map = snapshot->block_map;
    struct table table = {
        .titles = titles, .n_columns = sizeof titles / sizeof *titles};
    uint64_t first = map != NULL ? map->first_block : 0;
    enum kv_status status;

    for (size_t i = 0; map != NULL && i < map->n_runs; i++) {
        const Kvpool__V1__BlockRun *run = map->runs[i];

        table_cell(&table, "%" PRIu64, first);
        table_cell(&table, "%" PRIu64, run->blocks);
        table_cell(&table, "%s",
            proto_enum_name(
                &kvpool__v1__block_state__descriptor, (int)run->state));
        table_cell(&table, "%" PRIu32, run->holders);
        add_owner(&table, map, run->owner);
        first += run->blocks;
    }
    status = table_flush(&table, out);
    table_fini(&table);
    return status;
}

/* ---- subscribers */

enum kv_status view_subscribers(
    FILE *out, const Kvpool__V1__PoolSnapshot *snapshot)
{
    static const char *const titles[] = {"SUBSCRIBER", "PEER", "SINCE", ">AT",
        ">BEHIND", ">STALLED", ">SENT", ">LOST"};
    struct table table = {
        .titles = titles, .n_columns = sizeof titles / sizeof *titles};
    enum kv_status status;

    for (size_t i = 0; i < snapshot->n_subscribers; i++) {
        const Kvpool__V1__SubscriberStatus *row = snapshot->subscribers[i];

        table_cell(&table, "%" PRIu64, row->subscriber_id);
        table_cell(&table, "%s", text_name(row->peer).s);
        table_cell(&table, "%s", text_time(row->connected_unix_ns).s);
        table_cell(&table, "%" PRIu64, row->sent_sequence);
        table_cell(&table, "%" PRIu64, row->lag_receipts);
        table_cell(&table, "%s", text_duration(row->stalled_ns).s);
        table_cell(&table, "%" PRIu64, row->sent_total);
        table_cell(&table, "%" PRIu64, row->lost_total);
    }
    status = table_flush(&table, out);
    table_fini(&table);
    return status;
}

/* ---- evictions */

static void add_outcome(
    struct table *table, const Kvpool__V1__EvictOutcome *outcome)
{
    const Kvpool__V1__SessionKey *key = outcome->session;

    table_cell(table, "%s",
        key == NULL || key->tenant[0] == '\0' ? "-" : text_name(key->tenant).s);
    table_cell(table, "%s",
        key == NULL || key->session_id[0] == '\0'
            ? "-"
            : text_name(key->session_id).s);
    table_cell(table, "%s%s",
        proto_enum_name(
            &kvpool__v1__evict_result__descriptor, (int)outcome->result),
        outcome->preempted ? " (was running)" : "");
    table_cell(table, "%s", text_bytes(outcome->bytes_freed).s);
    table_cell(table, "%" PRIu64, outcome->blocks_freed);
    table_cell(table, "%" PRIu64, outcome->shared_blocks_kept);
    table_cell(table, "%" PRIu64, outcome->tokens_kept);
    table_cell(table, "%" PRIu64, outcome->sequence);
}

static void view_issued(FILE *out, const Kvpool__V1__EvictResponse *answer)
{
    const Kvpool__V1__EvictReceipts *receipts = answer->receipts;

    if (answer->issued_case == KVPOOL__V1__EVICT_RESPONSE__ISSUED_RECEIPTS)
        fprintf(out,
            "receipts %" PRIu64 " to %" PRIu64 " of epoch %" PRIu32 ", %s\n",
            receipts->first_sequence, receipts->last_sequence, receipts->epoch,
            receipts->durable ? "on disk" : "not on disk");
    if (answer->issued_case == KVPOOL__V1__EVICT_RESPONSE__ISSUED_RECEIPTS_OFF)
        fprintf(out, "receipts: off (%s)\n",
            text_name(answer->receipts_off->option).s);
}

enum kv_status view_evicted(FILE *out, const Kvpool__V1__EvictResponse *answer)
{
    static const char *const titles[] = {"TENANT", "SESSION", "RESULT",
        ">BYTES", ">BLOCKS", ">SHARED", ">KEPT TOKENS", ">RECEIPT"};
    struct table table = {
        .titles = titles, .n_columns = sizeof titles / sizeof *titles};
    enum kv_status status = KV_OK;

    for (size_t i = 0; i < answer->n_outcomes; i++)
        add_outcome(&table, answer->outcomes[i]);
    if (answer->n_outcomes > 0)
        status = table_flush(&table, out);
    table_fini(&table);
    fprintf(out, "%s %s, %s freed",
        text_count(answer->sessions_evicted, "session").s,
        answer->dry_run ? "would be evicted" : "evicted",
        text_bytes(answer->bytes_freed).s);
    if (answer->sessions_busy > 0)
        fprintf(out, ", %" PRIu64 " running (see --preempt)",
            answer->sessions_busy);
    if (answer->sessions_held > 0)
        fprintf(out, ", %" PRIu64 " held", answer->sessions_held);
    if (answer->sessions_forgotten > 0)
        fprintf(out, ", %" PRIu64 " without blocks forgotten",
            answer->sessions_forgotten);
    fputs(answer->more ? "; more match: ask again\n" : "\n", out);
    view_issued(out, answer);
    return status;
}

/* ---- generation */

static double per_second(uint32_t n, int64_t duration_ns)
{
    return duration_ns > 0 ? (double)n * 1e9 / (double)duration_ns : 0;
}

void view_finished(FILE *out, const Kvpool__V1__GenerateFinished *finished)
{
    const Kvpool__V1__Usage *usage = finished->usage;
    uint32_t n_decoded;

    fprintf(out, "%s",
        proto_enum_name(
            &kvpool__v1__finish_reason__descriptor, (int)finished->reason));
    if (finished->stop[0] != '\0')
        fprintf(out, " \"%s\"", text_name(finished->stop).s);
    if (usage == NULL) {
        fputc('\n', out);
        return;
    }
    n_decoded = usage->generated_tokens > 0 ? usage->generated_tokens - 1 : 0;
    fprintf(out,
        "; prompt %s (%" PRIu32 " cached), generated %" PRIu32
        "; first token after %s, then %.1f tokens/s, total %s",
        text_count(usage->prompt_tokens, "token").s, usage->cached_tokens,
        usage->generated_tokens, text_duration(usage->ttft_ns).s,
        per_second(n_decoded, usage->decode_ns),
        text_duration(usage->total_ns).s);
    if (usage->recomputed_tokens > 0)
        fprintf(out, "; %" PRIu32 " recomputed", usage->recomputed_tokens);
    if (usage->preemptions > 0)
        fprintf(out, "; set aside %s for %s",
            text_count(usage->preemptions, "time").s,
            text_duration(usage->preempted_ns).s);
    if (usage->session_tokens > 0)
        fprintf(out, "; the session holds %" PRIu64, usage->session_tokens);
    fputc('\n', out);
}
