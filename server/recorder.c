#include "server/recorder.h"

#include <errno.h>
#include <inttypes.h>
#include <stdatomic.h>
#include <stdio.h>
#include <string.h>
#include <sys/statvfs.h>

#include <openssl/rand.h>

#include "base/clock.h"
#include "base/heap.h"
#include "base/list.h"
#include "base/log.h"
#include "server/data_dir.h"
#include "server/outlets.h"
#include "server/server.h"
#include "server/signing_key.h"

#define MIB ((uint64_t)1 << 20)
#define PERFORMANCE_WINDOW_NS (60 * KV_NS_PER_S)
#define MAX_WATCHERS 8

struct recorder {
    const struct options *options;
    struct ledger *ledger; /* NULL once it was closed */
    struct notary *notary;
    struct outlets *outlets;
    struct calls *calls;
    enum kv_status calls_status; /* of those in the ledger at the start */
    struct performance performance;
    struct ledger_watcher *watchers[MAX_WATCHERS];
    size_t n_watchers;
    void (*flushed)(void *ctx);
    void *ctx;

    struct rpc_loop *loop;
    struct rpc_post post;
    _Atomic bool posted;
};

/* ---- what the journal's threads have to say */

static void on_post(struct rpc_post *post)
{
    struct recorder *recorder = KV_LIST_ENTRY(post, struct recorder, post);

    atomic_store(&recorder->posted, false);
    if (recorder->ledger != NULL)
        ledger_poll(recorder->ledger);
}

/* Any thread. */
static void wake(void *ctx)
{
    struct recorder *recorder = ctx;

    if (!atomic_exchange(&recorder->posted, true))
        rpc_loop_post(recorder->loop, &recorder->post);
}

/* ---- life */

/* A random UUID, version 4 of RFC 4122. */
static bool make_pool_id(uint8_t pool_id[16])
{
    if (RAND_bytes(pool_id, 16) != 1)
        return false;
    pool_id[6] = (uint8_t)((pool_id[6] & 0x0F) | 0x40);
    pool_id[8] = (uint8_t)((pool_id[8] & 0x3F) | 0x80);
    return true;
}

static void on_receipt(
    void *ctx, uint64_t sequence, const unsigned char *bytes, size_t n_bytes)
{
    struct recorder *recorder = ctx;

    if (recorder->calls_status == KV_OK)
        recorder->calls_status =
            calls_add_receipt(recorder->calls, sequence, bytes, n_bytes);
}

static void log_found(const struct journal_start *start)
{
    if (start->loss_accepted)
        kv_log(KV_LOG_WARN, SERVER_LOG_TARGET,
            "the loss of a damaged ledger was accepted, a new one begins",
            KV_LOG_TEXT("damage", start->lost_detail));
    kv_log(KV_LOG_INFO, SERVER_LOG_TARGET, "ledger open",
        KV_LOG_UINT("epoch", start->epoch),
        KV_LOG_UINT("last_sequence", start->last_sequence),
        KV_LOG_UINT("oldest_sequence", start->oldest_sequence),
        KV_LOG_BOOL("clean", start->clean),
        KV_LOG_UINT("cut_bytes", start->cut_bytes));
}

static enum kv_status open_kept_ledger(struct recorder *recorder,
    struct ledger_config *config, struct kv_error *error)
{
    const struct options *options = recorder->options;
    struct journal_config journal = {
        .segment_bytes = options->receipts_segment_mb * MIB,
        .retain_bytes = options->receipts_retain_mb * MIB,
        .retain_ns = (int64_t)options->receipts_retain_s * KV_NS_PER_S,
        .cursor_hold_bytes = options->receipts_cursor_hold_mb * MIB,
        .accept_loss = options->accept_loss,
        .wall_ns = kv_clock_wall_ns,
        .wake = wake,
        .wake_ctx = recorder,
        .on_receipt = on_receipt,
        .receipt_ctx = recorder,
    };
    enum kv_status status = data_dir_open(options->data_dir, error);
    char *dir;

    if (status != KV_OK)
        return status;
    dir = data_dir_join(options->data_dir, "receipts");
    if (dir == NULL)
        return kv_error_set(error, KV_NO_MEMORY, "no memory for data-dir");
    journal.dir = dir;
    config->journal = &journal;
    status = kv_error_name(
        "data-dir", ledger_open(&recorder->ledger, config, error), error);
    kv_free(dir);
    if (status != KV_OK)
        return status;
    log_found(ledger_start(recorder->ledger));
    if (recorder->calls_status != KV_OK)
        return kv_error_set(error, recorder->calls_status,
            "no memory for the Evict calls that the ledger remembers");
    return KV_OK;
}

static enum kv_status open_ledger(
    struct recorder *recorder, struct kv_error *error)
{
    const struct options *options = recorder->options;
    struct ledger_config config = {
        .ring_bytes = (size_t)(options->receipts_ring_mb * MIB),
        .epoch = 1,
        .max_ahead = (uint32_t)options->receipts_max_ahead,
        .allocations = options->receipts_allocations,
        .wall_ns = kv_clock_wall_ns,
        .performance = &recorder->performance,
    };
    const struct performance_settings performance = {
        .window_ns = PERFORMANCE_WINDOW_NS,
        .kv_cache_size_mb = options->kv_cache_size_mb,
        .max_batch_size = (uint32_t)options->max_batch_size,
        .batch_timeout_ms = (uint32_t)options->batch_timeout_ms,
    };

    options_digest(options, config.config_digest);
    performance_init(&recorder->performance, &performance);
    if (options->data_dir[0] != '\0')
        return open_kept_ledger(recorder, &config, error);
    if (!make_pool_id(config.pool_id))
        return kv_error_set(error, KV_IO, "the system gives no random bytes");
    return ledger_open(&recorder->ledger, &config, error);
}

/* The file that is named, or that of data_dir, or none. */
static enum kv_status load_key(struct checkpoint_signer *signer,
    const struct options *options, const char *name, struct kv_error *error)
{
    enum kv_status status;
    char *path;

    if (options->signing_key[0] != '\0' || options->data_dir[0] == '\0')
        return signing_key_load(signer, options->signing_key, name, error);
    path = data_dir_join(options->data_dir, "signing.key");
    if (path == NULL)
        return kv_error_set(error, KV_NO_MEMORY, "no memory for data-dir");
    status = signing_key_load(signer, path, name, error);
    kv_free(path);
    return status;
}

static enum kv_status open_notary(
    struct recorder *recorder, struct kv_error *error)
{
    struct ledger_position position = ledger_position(recorder->ledger);
    struct notary_origin origin = notary_origin(position.pool_id);
    struct checkpoint_signer signer;
    enum kv_status status =
        load_key(&signer, recorder->options, origin.s, error);

    if (status != KV_OK)
        return status;
    status = notary_open(
        &recorder->notary, recorder->ledger, &signer, kv_clock_wall_ns, error);
    checkpoint_signer_fini(&signer);
    return status;
}

enum kv_status recorder_open(struct recorder **out,
    const struct options *options, struct calls *calls, struct rpc_loop *loop,
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
    recorder->options = options;
    recorder->calls = calls;
    recorder->loop = loop;
    recorder->post.run = on_post;
    *out = recorder;
    status = open_ledger(recorder, error);
    if (status == KV_OK)
        status = open_notary(recorder, error);
    if (status == KV_OK)
        status = outlets_open(
            &recorder->outlets, recorder->ledger, options, loop, error);
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

bool recorder_is_on_disk(const struct recorder *recorder)
{
    return recorder != NULL && ledger_start(recorder->ledger) != NULL;
}

/* ---- what may be done */

enum ledger_state recorder_state(const struct recorder *recorder)
{
    const char *why;

    return recorder != NULL ? ledger_state(recorder->ledger, &why) : LEDGER_OK;
}

static void add_disk_room(
    const struct options *options, struct rpc_error *error)
{
    struct statvfs disk;

    if (statvfs(options->data_dir, &disk) == 0)
        rpc_error_add_metadata(error, "free_bytes", "%" PRIu64,
            (uint64_t)disk.f_bavail * disk.f_frsize);
    rpc_error_add_metadata(
        error, "needed_bytes", "%" PRIu64, options->receipts_segment_mb * MIB);
}

/* What a person can do, where it is not the disk that is full. */
static const char *remedy_for(int number)
{
    switch (number) {
    case EMFILE:
        return "; lower max_connections or raise the limit of open files";
    case ENFILE:
        return "; raise the system's limit of open files";
    default:
        return "";
    }
}

static void refuse_full(
    const struct recorder *recorder, const char *why, struct rpc_error *error)
{
    int number = ledger_error_number(recorder->ledger);

    rpc_error_init(error, RPC_RESOURCE_EXHAUSTED, "JOURNAL_FULL",
        "an eviction cannot be recorded: %s%s", why, remedy_for(number));
    if (number == ENOSPC || number == EDQUOT)
        add_disk_room(recorder->options, error);
}

/* Also where the disk has caught up since. */
static void refuse_behind(
    const struct recorder *recorder, struct rpc_error *error)
{
    struct ledger_position position = ledger_position(recorder->ledger);
    uint64_t n_waiting = position.applied_sequence - position.durable_sequence;

    rpc_error_init(error, RPC_UNAVAILABLE, "JOURNAL_BEHIND",
        "more evictions waited for the disk than may; %" PRIu64
        " receipts wait now; try again",
        n_waiting);
    rpc_error_add_metadata(error, "waiting_receipts", "%" PRIu64, n_waiting);
    rpc_error_add_metadata(
        error, "limit", "%" PRIu64, recorder->options->receipts_max_ahead);
}

void recorder_refuse(const struct recorder *recorder, struct rpc_error *error)
{
    const char *why;

    switch (ledger_state(recorder->ledger, &why)) {
    case LEDGER_FAILED:
        rpc_error_init(error, RPC_UNAVAILABLE, "JOURNAL_FAILED",
            "receipts cannot be kept any more: %s", why);
        break;
    case LEDGER_FULL:
        refuse_full(recorder, why, error);
        break;
    case LEDGER_BEHIND:
    case LEDGER_OK:
        refuse_behind(recorder, error);
    }
}

void recorder_fill_status(
    const struct recorder *recorder, Kvpool__V1__LedgerStatus *out)
{
    struct ledger_position position;
    enum ledger_state state;
    const char *why;

    out->mode = KVPOOL__V1__LEDGER_MODE__LEDGER_MODE_OFF;
    if (!recorder_position(recorder, &position))
        return;
    out->mode = recorder_is_on_disk(recorder)
                    ? KVPOOL__V1__LEDGER_MODE__LEDGER_MODE_JOURNAL
                    : KVPOOL__V1__LEDGER_MODE__LEDGER_MODE_MEMORY;
    state = ledger_state(recorder->ledger, &why);
    if (state == LEDGER_FAILED)
        out->mode = KVPOOL__V1__LEDGER_MODE__LEDGER_MODE_FAILED;
    if (state == LEDGER_FAILED || state == LEDGER_FULL)
        out->error = (char *)why;
    out->oldest_sequence = position.oldest_sequence;
    out->stored_bytes = position.stored_bytes;
    out->limit_bytes = position.limit_bytes;
    out->checkpoint_tree_size = recorder_checkpoint_size(recorder);
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

    recorder->outlets = NULL;
    recorder->flushed(recorder->ctx);
}

void recorder_flush(
    struct recorder *recorder, void (*flushed)(void *ctx), void *ctx)
{
    if (recorder == NULL) {
        flushed(ctx);
        return;
    }
    recorder->flushed = flushed;
    recorder->ctx = ctx;
    notary_tick(recorder->notary);
    outlets_close(recorder->outlets, on_outlets_closed, recorder);
}

void recorder_stop(struct recorder *recorder)
{
    if (recorder == NULL || recorder->ledger == NULL)
        return;
    outlets_close_now(recorder->outlets);
    for (size_t i = 0; i < recorder->n_watchers; i++)
        ledger_unwatch(recorder->ledger, recorder->watchers[i]);
    notary_close(recorder->notary);
    ledger_close(recorder->ledger);
    recorder->ledger = NULL;
}

void recorder_close(struct recorder *recorder)
{
    kv_free(recorder);
}
