#include "server/recorder.h"

#include <string.h>

#include <openssl/rand.h>

#include "base/clock.h"
#include "base/heap.h"
#include "server/outlets.h"
#include "server/signing_key.h"

#define MIB ((uint64_t)1 << 20)
#define PERFORMANCE_WINDOW_NS (60 * KV_NS_PER_S)
#define MAX_WATCHERS 4

struct recorder {
    struct ledger *ledger;
    struct notary *notary;
    struct outlets *outlets;
    struct performance performance;
    struct ledger_watcher *watchers[MAX_WATCHERS];
    size_t n_watchers;
    void (*flushed)(void *ctx);
    void *ctx;
};

/* A random UUID, version 4 of RFC 4122. */
static bool make_pool_id(uint8_t pool_id[16])
{
    if (RAND_bytes(pool_id, 16) != 1)
        return false;
    pool_id[6] = (uint8_t)((pool_id[6] & 0x0F) | 0x40);
    pool_id[8] = (uint8_t)((pool_id[8] & 0x3F) | 0x80);
    return true;
}

static enum kv_status open_ledger(struct recorder *recorder,
    const struct options *options, struct kv_error *error)
{
    struct ledger_config config = {
        .ring_bytes = (size_t)(options->receipts_ring_mb * MIB),
        .epoch = 1,
        .wall_ns = kv_clock_wall_ns,
        .performance = &recorder->performance,
    };
    const struct performance_settings performance = {
        .window_ns = PERFORMANCE_WINDOW_NS,
        .kv_cache_size_mb = options->kv_cache_size_mb,
        .max_batch_size = (uint32_t)options->max_batch_size,
        .batch_timeout_ms = (uint32_t)options->batch_timeout_ms,
    };

    if (!make_pool_id(config.pool_id))
        return kv_error_set(error, KV_IO, "the system gives no random bytes");
    options_digest(options, config.config_digest);
    performance_init(&recorder->performance, &performance);
    return ledger_open(&recorder->ledger, &config, error);
}

static enum kv_status open_notary(struct recorder *recorder,
    const struct options *options, struct kv_error *error)
{
    struct ledger_position position = ledger_position(recorder->ledger);
    struct notary_origin origin = notary_origin(position.pool_id);
    struct checkpoint_signer signer;
    enum kv_status status =
        signing_key_load(&signer, options->signing_key, origin.s, error);

    if (status != KV_OK)
        return status;
    status = notary_open(
        &recorder->notary, recorder->ledger, &signer, kv_clock_wall_ns);
    checkpoint_signer_fini(&signer);
    if (status != KV_OK)
        kv_error_set(error, status, "no memory for checkpoints");
    return status;
}

enum kv_status recorder_open(struct recorder **out,
    const struct options *options, struct rpc_loop *loop,
    struct kv_error *error)
{
    struct recorder *recorder;
    enum kv_status status;

    *out = NULL;
    if (!options->enable_receipts)
        return KV_OK;
    recorder = kv_calloc(1, sizeof *recorder);
    if (recorder == NULL)
        return kv_error_set(error, KV_NO_MEMORY, "no memory for receipts");
    status = open_ledger(recorder, options, error);
    if (status != KV_OK)
        goto free_recorder;
    status = open_notary(recorder, options, error);
    if (status != KV_OK)
        goto close_ledger;
    status = outlets_open(
        &recorder->outlets, recorder->ledger, options, loop, error);
    if (status != KV_OK)
        goto close_notary;
    *out = recorder;
    return KV_OK;

close_notary:
    notary_close(recorder->notary);
close_ledger:
    ledger_close(recorder->ledger);
free_recorder:
    kv_free(recorder);
    return status;
}

const char *recorder_off_switch(void)
{
    return "enable_receipts";
}

struct ledger *recorder_ledger(struct recorder *recorder)
{
    return recorder != NULL ? recorder->ledger : NULL;
}

const struct pool_observer *recorder_observer(struct recorder *recorder)
{
    return recorder != NULL ? ledger_observer(recorder->ledger) : NULL;
}

struct notary *recorder_notary(struct recorder *recorder)
{
    return recorder != NULL ? recorder->notary : NULL;
}

uint64_t recorder_checkpoint_size(const struct recorder *recorder)
{
    return recorder != NULL
               ? notary_newest(recorder->notary)->checkpoint.tree_size
               : 0;
}

bool recorder_position(
    const struct recorder *recorder, struct ledger_position *out)
{
    if (recorder != NULL)
        *out = ledger_position(recorder->ledger);
    return recorder != NULL;
}

void recorder_watch(struct recorder *recorder, struct ledger_watcher *watcher)
{
    if (recorder == NULL)
        return;
    recorder->watchers[recorder->n_watchers++] = watcher;
    ledger_watch(recorder->ledger, watcher);
}

void recorder_issue_boot(struct recorder *recorder, const struct pool *pool,
    const char *version, const char *model)
{
    const struct pool_config *config = pool_config(pool);
    const struct ledger_boot boot = {
        .version = version,
        .policy = pool_policy_name(pool),
        .model = model,
        .total_blocks = config->n_blocks,
        .block_bytes = config->block_bytes,
        .block_tokens = config->block_tokens,
    };

    if (recorder != NULL)
        ledger_issue_boot(recorder->ledger, &boot, kv_clock_mono_ns());
}

void recorder_issue_snapshot(struct recorder *recorder, const struct pool *pool)
{
    struct pool_totals totals = pool_totals(pool);
    struct ledger_pool_snapshot snapshot = {
        .stats = pool_stats(pool),
        .sessions_created = totals.sessions_created,
    };

    if (recorder == NULL)
        return;
    memcpy(snapshot.evictions_by_reason, totals.evictions_by_reason,
        sizeof snapshot.evictions_by_reason);
    ledger_issue_snapshot(recorder->ledger, &snapshot, kv_clock_mono_ns());
}

void recorder_issue_drain(
    struct recorder *recorder, const char *cause, int64_t limit_ns)
{
    if (recorder != NULL)
        ledger_issue_drain(
            recorder->ledger, cause, limit_ns, kv_clock_mono_ns());
}

void recorder_set_call(
    struct recorder *recorder, const Kvpool__V1__EvictCall *call)
{
    if (recorder != NULL)
        ledger_set_call(recorder->ledger, call);
}

void recorder_add_request(
    struct recorder *recorder, int64_t end_ns, int64_t latency_ns)
{
    if (recorder != NULL)
        performance_add(&recorder->performance, end_ns, latency_ns);
}

void recorder_tick(struct recorder *recorder)
{
    if (recorder != NULL && recorder->outlets != NULL)
        outlets_tick(recorder->outlets);
}

enum kv_status recorder_reload(struct recorder *recorder,
    struct options *options, struct options *next, struct kv_error *error)
{
    if (recorder == NULL || recorder->outlets == NULL)
        return KV_OK;
    return outlets_reload(recorder->outlets, &options->sinks,
        &options->receipts_log, &next->sinks, next->receipts_log, error);
}

void recorder_issue_configuration_change(struct recorder *recorder,
    const struct options *options, const uint8_t previous_digest[32],
    const char *const *names, size_t n_names, const char *requested_by)
{
    uint8_t digest[32];
    const struct ledger_configuration_change change = {
        .previous_digest = previous_digest,
        .config_digest = digest,
        .names = names,
        .n_names = n_names,
        .requested_by = requested_by,
    };

    if (recorder == NULL)
        return;
    options_digest(options, digest);
    ledger_issue_configuration_change(
        recorder->ledger, &change, kv_clock_mono_ns());
}

static struct recorder_sink describe_sink(const struct sink *sink)
{
    struct sink_lag lag = sink_lag(sink, kv_clock_wall_ns());

    return (struct recorder_sink){
        .name = sink->name,
        .kind = sink->ops->kind,
        .last_error = sink->last_error,
        .state = sink->state,
        .guaranteed = sink->ops->guaranteed,
        .acknowledged_sequence = sink->acknowledged_sequence,
        .lag_receipts = lag.n_receipts,
        .lag_ns = lag.ns,
        .delivered_total = sink->delivered_total,
        .retries_total = sink->retries_total,
        .lost_total = sink->lost_total,
        .last_error_unix_ns = sink->last_error_unix_ns,
    };
}

size_t recorder_sinks(
    struct recorder *recorder, struct recorder_sink out[SINK_MAX_SINKS])
{
    struct sink_set *set;
    size_t n = 0;

    if (recorder == NULL || recorder->outlets == NULL)
        return 0;
    set = outlets_set(recorder->outlets);
    for (struct sink *sink = sink_set_first(set); sink != NULL;
         sink = sink_set_next(set, sink))
        out[n++] = describe_sink(sink);
    return n;
}

static void on_outlets_closed(void *ctx)
{
    struct recorder *recorder = ctx;

    recorder->flushed(recorder->ctx);
}

void recorder_flush(
    struct recorder *recorder, void (*flushed)(void *ctx), void *ctx)
{
    struct outlets *outlets;

    if (recorder == NULL) {
        flushed(ctx);
        return;
    }
    recorder->flushed = flushed;
    recorder->ctx = ctx;
    outlets = recorder->outlets;
    recorder->outlets = NULL;
    outlets_close(outlets, on_outlets_closed, recorder);
}

void recorder_close(struct recorder *recorder)
{
    if (recorder == NULL)
        return;
    outlets_close_now(recorder->outlets);
    for (size_t i = 0; i < recorder->n_watchers; i++)
        ledger_unwatch(recorder->ledger, recorder->watchers[i]);
    notary_close(recorder->notary);
    ledger_close(recorder->ledger);
    kv_free(recorder);
}
