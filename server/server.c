/* Opening the house from the ground up, and closing it again. */
#include "server/server.h"

#include <inttypes.h>
#include <signal.h>
#include <string.h>
#include <unistd.h>

#include <openssl/rand.h>

#include "base/clock.h"
#include "base/heap.h"
#include "engine/residency.h"
#include "rpc/address.h"
#include "server/options_tenants.h"
#include "server/pages.h"
#include "server/progress_line.h"
#include "server/quotas.h"
#include "server/totals.h"

#define MIB ((uint64_t)1 << 20)

extern const unsigned char demo_model[], demo_model_end[];
extern const unsigned char descriptors[], descriptors_end[];

static const char *const services[] = {
    "", "kvpool.v1.KvPoolService", "kvpool.v1.InferenceService"};

#define N_SERVICES (sizeof services / sizeof *services)

/* ---- open: model, pool, computation */

static enum kv_status open_file(struct server *server, struct kv_error *error)
{
    const char *path = server->options->model;

    if (path[0] == '\0')
        return model_open_memory(&server->model, demo_model,
            (size_t)(demo_model_end - demo_model), "built-in demo model",
            error);
    return kv_error_name(
        "model", model_open(&server->model, path, error), error);
}

static enum kv_status open_tokenizer(
    struct server *server, struct kv_error *error)
{
    const char *pre = server->options->tokenizer_pre;
    const struct gguf *gguf = server->model->gguf;
    uint32_t n_vocab = server->model->shape.n_vocab;

    if (pre[0] == '\0')
        return kv_error_name("model",
            tokenizer_open(&server->tokenizer, gguf, n_vocab, error), error);
    return kv_error_name("model, tokenizer-pre",
        tokenizer_open_as(&server->tokenizer, gguf, n_vocab, pre, error),
        error);
}

static enum kv_status open_model(struct server *server,
    const struct progress *progress, struct kv_error *error)
{
    enum residency_prefetch prefetch = RESIDENCY_AHEAD;
    enum kv_status status = open_file(server, error);

    residency_prefetch_parse(server->options->model_prefetch, &prefetch);
    if (status == KV_OK)
        status = open_tokenizer(server, error);
    if (status == KV_OK)
        status = kv_error_name("kv-type",
            kv_check_block(server->model, server->kv_type,
                (uint32_t)server->options->block_tokens, error),
            error);
    if (status == KV_OK)
        status = kv_error_name("model",
            residency_prefetch(server->model, prefetch, progress, error),
            error);
    /* A model that cannot be used is no fault of the configuration. */
    return status == KV_INVALID ? KV_UNSUPPORTED : status;
}

static enum kv_status open_calls(struct server *server, struct kv_error *error)
{
    const struct options *options = server->options;
    const struct calls_config config = {
        .max_calls = (size_t)options->max_request_ids,
        .max_bytes = (size_t)(options->request_ids_mb * MIB),
        .ttl_ns = (int64_t)options->request_id_ttl_s * KV_NS_PER_S,
        .secret = {server->secret[0], server->secret[1]},
    };

    if (calls_open(&server->calls, &config) == KV_OK)
        return KV_OK;
    return kv_error_set(
        error, KV_NO_MEMORY, "no memory to remember Evict calls with");
}

/* Rounded up: what is more than nothing is at least a block. */
static uint32_t percent_of(uint32_t n, uint64_t percent)
{
    return (uint32_t)((n * percent + 99) / 100);
}

static enum kv_status open_pool(struct server *server, struct kv_error *error)
{
    const struct options *options = server->options;
    uint32_t block_tokens = (uint32_t)options->block_tokens;
    size_t block_bytes =
        kv_block_bytes(&server->model->shape, server->kv_type, block_tokens);
    uint64_t n_blocks = options->kv_cache_size_mb * MIB / block_bytes;
    struct pool_config config = {
        .block_bytes = block_bytes,
        .n_blocks = n_blocks < UINT32_MAX ? (uint32_t)n_blocks : UINT32_MAX - 1,
        .block_tokens = block_tokens,
        .max_sessions = (uint32_t)options->max_sessions,
        .max_kept_tokens = options->max_kept_tokens,
        .kept_ttl_ns = (int64_t)options->kept_tokens_ttl_s * KV_NS_PER_S,
        .eviction_policy = options->eviction_policy,
        .share_prefixes = options->prefix_cache,
        .max_beginnings = (uint32_t)options->max_beginnings,
        .default_idle_ttl_ns =
            (int64_t)options->session_idle_ttl_s * KV_NS_PER_S,
        .secret = {server->secret[0], server->secret[1]},
        .observer =
            census_init(&server->census, recorder_observer(server->recorder)),
        .stopwatch_ns = kv_clock_mono_ns,
    };
    enum kv_status status;

    if (n_blocks == 0)
        return kv_error_set(error, KV_INVALID,
            "kv-cache-size-mb: %" PRIu64 " was given, which holds no sequence: "
            "a block of %" PRIu32 " tokens takes %zu bytes; allowed are at "
            "least %zu MiB",
            options->kv_cache_size_mb, block_tokens, block_bytes,
            (size_t)((block_bytes + MIB - 1) / MIB));
    config.high_blocks =
        percent_of(config.n_blocks, options->high_watermark_percent);
    config.low_blocks = percent_of(config.high_blocks > 0 ? config.n_blocks : 0,
        options->low_watermark_percent);
    status = pool_open(&server->pool, &config, kv_clock_mono_ns(), error);
    if (status != KV_OK)
        return kv_error_name("kv-cache-size-mb, max-sessions", status, error);
    return quotas_apply(options, server->pool) == KV_OK
               ? KV_OK
               : kv_error_set(error, KV_NO_MEMORY,
                     "no memory for the quotas of tenants");
}

static void on_model_lost(void *ctx)
{
    server_lose_model(ctx);
}

static enum kv_status open_compute(struct server *server,
    const struct progress *progress, struct kv_error *error)
{
    const struct options *options = server->options;
    struct compute_config compute = {
        .model = server->model,
        .arena = pool_arena(server->pool),
        .block_bytes = pool_config(server->pool)->block_bytes,
        .block_tokens = (uint32_t)options->block_tokens,
        .kv_type = server->kv_type,
        .n_threads = server->n_threads,
        .max_batch_tokens = (uint32_t)options->max_batch_tokens,
        .max_slices = (uint32_t)options->max_batch_size,
        .kernels = options->kernels,
        .nice = (int)options->compute_nice,
        .locks_weights = options->model_lock,
        .progress = progress,
    };
    struct scheduler_config scheduler = {
        .pool = server->pool,
        .tokenizer = server->tokenizer,
        .n_context = server->model->shape.n_context,
        .max_running = (uint32_t)options->max_batch_size,
        .max_waiting = (uint32_t)options->max_waiting_requests,
        .max_batch_tokens = (uint32_t)options->max_batch_tokens,
        .max_step_ns = (int64_t)options->max_step_ms * KV_NS_PER_MS,
        .max_hold_wait_ns = (int64_t)options->hold_wait_ms * KV_NS_PER_MS,
    };
    struct step_config step = {
        .loop = server->loop,
        .pool = server->pool,
        .model = server->model,
        .on_model_lost = on_model_lost,
        .ctx = server,
        .max_slices = (uint32_t)options->max_batch_size,
        .sweep_blocks = (uint32_t)options->sweep_blocks,
        .fill_wait_ns = (int64_t)options->batch_timeout_ms * KV_NS_PER_MS,
    };
    enum kv_status status = compute_open(&server->compute, &compute, error);

    if (status == KV_OK)
        status = scheduler_open(&server->scheduler, &scheduler, error);
    step.compute = server->compute;
    step.scheduler = server->scheduler;
    if (status == KV_OK)
        status = step_open(&server->step, &step, error);
    return status;
}

/* ---- open: the service */

static enum kv_status open_rpc(struct server *server, struct kv_error *error)
{
    const struct options *options = server->options;
    const struct rpc_server_config config = {
        .loop = server->loop,
        .max_request_bytes = (size_t)options->max_request_bytes,
        .max_calls = (uint32_t)options->max_calls,
        .max_connections = (uint32_t)options->max_connections,
        .max_streams_per_connection =
            (uint32_t)options->max_streams_per_connection,
        .keepalive_ns = (int64_t)options->keepalive_s * KV_NS_PER_S,
        .descriptors = descriptors,
        .n_descriptors = (size_t)(descriptors_end - descriptors),
    };
    enum kv_status status = rpc_server_open(&server->rpc, &config, error);

    if (status == KV_OK)
        status = service_pool_add(server);
    if (status == KV_OK)
        status = service_evict_add(server);
    if (status == KV_OK)
        status = service_retention_add(server);
    if (status == KV_OK)
        status = service_receipts_add(server);
    if (status == KV_OK)
        status = service_proof_add(server);
    if (status == KV_OK)
        status = service_inference_add(server);
    if (status == KV_OK)
        status = service_generate_add(server);
    if (status == KV_NO_MEMORY)
        kv_error_set(error, status, "no memory for the service");
    return status;
}

static void open_timers(struct server *server)
{
    uv_loop_t *loop = rpc_loop_uv(server->loop);

    uv_timer_init(loop, &server->subscriber_tick);
    uv_timer_init(loop, &server->subscriber_pause);
    uv_timer_init(loop, &server->snapshot_tick);
    uv_timer_init(loop, &server->checkpoint_tick);
    uv_timer_init(loop, &server->drain_tick);
    model_watch_open(&server->model_watch, server);
    uv_signal_init(loop, &server->signals[0]);
    uv_signal_init(loop, &server->signals[1]);
    uv_signal_init(loop, &server->signals[2]);
    server->subscriber_tick.data = server->subscriber_pause.data =
        server->snapshot_tick.data = server->checkpoint_tick.data =
            server->drain_tick.data = server->signals[0].data =
                server->signals[1].data = server->signals[2].data = server;
    server->timers_open = true;
}

void server_close_timers(struct server *server)
{
    if (!server->timers_open)
        return;
    server->timers_open = false;
    uv_close((uv_handle_t *)&server->subscriber_tick, NULL);
    uv_close((uv_handle_t *)&server->subscriber_pause, NULL);
    uv_close((uv_handle_t *)&server->snapshot_tick, NULL);
    uv_close((uv_handle_t *)&server->checkpoint_tick, NULL);
    uv_close((uv_handle_t *)&server->drain_tick, NULL);
    model_watch_close(&server->model_watch);
    uv_close((uv_handle_t *)&server->signals[0], NULL);
    uv_close((uv_handle_t *)&server->signals[1], NULL);
    uv_close((uv_handle_t *)&server->signals[2], NULL);
    rpc_loop_touched(server->loop);
}

void server_close_pages(struct server *server)
{
    pages_close(server->pages);
    server->pages = NULL;
}

/* Each address in turn is listened on, or without a server only looked at. */
static enum kv_status take_addresses(const struct options *options,
    struct rpc_server *rpc, struct kv_error *error)
{
    char *addresses = kv_strdup(options->listen);
    enum kv_status status = KV_OK;
    char *rest = addresses;

    if (addresses == NULL)
        return kv_error_set(error, KV_NO_MEMORY, "no memory for addresses");
    /* An empty address is refused like any other that is none. */
    while (rest != NULL && status == KV_OK) {
        const char *text = strsep(&rest, ",");
        struct rpc_address address;

        status = rpc == NULL ? rpc_address_parse(&address, text, error)
                             : rpc_server_listen(rpc, text, error);
    }
    kv_free(addresses);
    return kv_error_name("listen", status, error);
}

enum kv_status server_check_options(
    const struct options *options, struct kv_error *error)
{
    const struct option_quota quota = {
        options->tenant_soft_blocks, options->tenant_hard_blocks};
    const char *admin = options->admin_listen;
    struct rpc_address address;
    enum kv_status status;

    if (options->max_batch_tokens < options->max_batch_size)
        return kv_error_set(error, KV_INVALID,
            "max-batch-tokens: %" PRIu64 " was given; allowed are at least "
            "max-batch-size, which is %" PRIu64,
            options->max_batch_tokens, options->max_batch_size);
    if (options->high_watermark_percent > 0 &&
        options->low_watermark_percent > options->high_watermark_percent)
        return kv_error_set(error, KV_INVALID,
            "low-watermark-percent: %" PRIu64 " was given; allowed are at most "
            "high-watermark-percent, which is %" PRIu64,
            options->low_watermark_percent, options->high_watermark_percent);
    if (option_quota_check("tenant-hard-blocks", &quota, error) != KV_OK)
        return KV_INVALID;
    status =
        admin[0] == '\0' ? KV_OK : rpc_address_parse(&address, admin, error);
    if (status != KV_OK)
        return kv_error_name("admin-listen", status, error);
    return take_addresses(options, NULL, error);
}

static uint32_t count_threads(const struct options *options)
{
    long n_processors = sysconf(_SC_NPROCESSORS_ONLN);

    if (options->threads > 0)
        return (uint32_t)options->threads;
    return n_processors > 0 ? (uint32_t)n_processors : 1;
}

static enum kv_status make_secret(struct server *server, struct kv_error *error)
{
    if (RAND_bytes((unsigned char *)server->secret, sizeof server->secret) == 1)
        return KV_OK;
    return kv_error_set(error, KV_IO, "the system gives no random bytes");
}

enum kv_status server_open(
    struct server *server, struct options *options, struct kv_error *error)
{
    enum kv_status status = server_check_options(options, error);
    struct progress_line line;
    const struct progress progress = progress_line_init(&line, stderr);

    memset(server, 0, sizeof *server);
    server->options = options;
    server->started_unix_ns = kv_clock_wall_ns();
    server->n_threads = count_threads(options);
    kv_type_parse(options->kv_type, &server->kv_type);
    if (status == KV_OK)
        status = make_secret(server, error);
    if (status == KV_OK)
        status = rpc_loop_open(&server->loop, error);
    if (status == KV_OK) {
        open_timers(server);
        status = open_model(server, &progress, error);
        progress_line_clear(&line);
    }
    if (status == KV_OK)
        status = open_calls(server, error);
    if (status == KV_OK)
        status = recorder_open(
            &server->recorder, options, server->calls, server->loop, error);
    if (status == KV_OK)
        status = open_pool(server, error);
    if (status == KV_OK)
        status = open_compute(server, &progress, error);
    progress_line_clear(&line);
    if (status == KV_OK)
        status = open_rpc(server, error);
    if (status != KV_OK)
        server_close(server);
    return status;
}

/* ---- starting */

void server_set_serving(struct server *server, bool serving)
{
    for (size_t i = 0; i < N_SERVICES; i++)
        rpc_server_set_serving(server->rpc, services[i], serving);
}

static void on_hangup(uv_signal_t *handle, int number)
{
    struct server *server = handle->data;

    (void)number;
    if (!server->draining)
        server_reload(server, "SIGHUP");
}

static void on_signal(uv_signal_t *handle, int number)
{
    server_stop(handle->data, number);
}

/* What cannot be recorded must not be done, so nobody should send more. */
static void on_ledger_changed(struct ledger_watcher *watcher)
{
    struct server *server =
        KV_LIST_ENTRY(watcher, struct server, health_watcher);

    if (recorder_state(server->recorder) == LEDGER_FAILED)
        server_set_serving(server, false);
}

void server_lose_model(struct server *server)
{
    struct kv_error error;

    if (server->model_lost || model_check_file(server->model, &error) == KV_OK)
        return;
    server->model_lost = true;
    kv_log(KV_LOG_ERROR, SERVER_LOG_TARGET,
        "model lost; requests are refused until a restart",
        KV_LOG_TEXT("cause", error.text));
    rpc_server_set_serving(server->rpc, services[0], false);
    rpc_server_set_serving(server->rpc, services[2], false);
}

static void on_snapshot_tick(uv_timer_t *timer)
{
    struct server *server = timer->data;

    recorder_issue_snapshot(server->recorder, server->pool);
}

/* Whoever says where receipts go means to have some. */
static bool wants_receipts(const struct options *options)
{
    return options->data_dir[0] != '\0' || options->sinks.n > 0;
}

static void log_start(const struct server *server)
{
    const struct pool_config *pool = pool_config(server->pool);
    const char *address;

    kv_log(KV_LOG_INFO, SERVER_LOG_TARGET, "model loaded",
        KV_LOG_TEXT("name", server->model->name),
        KV_LOG_TEXT("architecture", server->model->architecture),
        KV_LOG_UINT("parameters", server->model->n_parameters),
        KV_LOG_UINT("locked_bytes", compute_locked_bytes(server->compute)),
        KV_LOG_TEXT("kernels", compute_kernels(server->compute)),
        KV_LOG_UINT("threads", server->n_threads));
    kv_log(KV_LOG_INFO, SERVER_LOG_TARGET, "pool open",
        KV_LOG_UINT("blocks", pool->n_blocks),
        KV_LOG_UINT("block_bytes", pool->block_bytes),
        KV_LOG_UINT("block_tokens", pool->block_tokens),
        KV_LOG_TEXT("kv_type", kv_type_name(server->kv_type)),
        KV_LOG_TEXT("policy", pool_policy_name(server->pool)),
        KV_LOG_BOOL("receipts", server->recorder != NULL));
    if (server->recorder == NULL && wants_receipts(server->options))
        kv_log(KV_LOG_WARN, SERVER_LOG_TARGET,
            "receipts are off: data_dir and sinks have no effect",
            KV_LOG_TEXT("option", recorder_off_switch()),
            KV_LOG_TEXT("data_dir", server->options->data_dir),
            KV_LOG_UINT("sinks", server->options->sinks.n));
    for (size_t i = 0; (address = rpc_server_address(server->rpc, i)) != NULL;
         i++)
        kv_log(KV_LOG_INFO, SERVER_LOG_TARGET, "listening",
            KV_LOG_TEXT("address", address));
    if (server->pages != NULL)
        kv_log(KV_LOG_INFO, SERVER_LOG_TARGET, "listening for HTTP",
            KV_LOG_TEXT("address", pages_address(server->pages)));
    kv_log(KV_LOG_INFO, SERVER_LOG_TARGET, "ready", KV_LOG_END);
}

static void on_turn(void *ctx)
{
    totals_publish(ctx);
}

static enum kv_status watch_loop(struct server *server, struct kv_error *error)
{
    const uint64_t limit_ms = server->options->loop_stall_ms;

    rpc_loop_on_turn(server->loop, on_turn, server);
    totals_publish(server);
    if (limit_ms == 0)
        return KV_OK;
    return loop_watch_start(
        &server->loop_watch, server->loop, &server->totals, limit_ms, error);
}

enum kv_status server_start(struct server *server, struct kv_error *error)
{
    enum kv_status status = take_addresses(server->options, server->rpc, error);

    if (status == KV_OK)
        status = kv_error_name(
            "admin-listen", pages_open(&server->pages, server, error), error);
    if (status == KV_OK)
        status = rpc_server_start(server->rpc, error);
    if (status == KV_OK)
        status = watch_loop(server, error);
    if (status != KV_OK)
        return status;
    uv_signal_start(&server->signals[0], on_signal, SIGTERM);
    uv_signal_start(&server->signals[1], on_signal, SIGINT);
    uv_signal_start(&server->signals[2], on_hangup, SIGHUP);
    recorder_issue_boot(
        server->recorder, server->pool, SERVER_VERSION, server->model->name);
    recorder_issue_snapshot(server->recorder, server->pool);
    service_receipts_start(server);
    service_proof_start(server);
    if (server->recorder != NULL && server->options->snapshot_interval_ms > 0)
        uv_timer_start(&server->snapshot_tick, on_snapshot_tick,
            server->options->snapshot_interval_ms,
            server->options->snapshot_interval_ms);
    server_set_serving(server, true);
    if (server->options->model[0] != '\0') /* ours is in no file */
        model_watch_start(&server->model_watch);
    server->health_watcher.on_durable = on_ledger_changed;
    recorder_watch(server->recorder, &server->health_watcher);
    rpc_loop_touched(server->loop);
    log_start(server);
    return KV_OK;
}

enum kv_status server_check(const struct server *server, struct kv_error *error)
{
    if (recorder_state(server->recorder) == LEDGER_FAILED)
        return kv_error_set(
            error, KV_IO, "stopped; receipts could not be kept");
    return model_check_file(server->model, error);
}

static void unwatch_loop(struct server *server)
{
    loop_watch_stop(&server->loop_watch);
    if (server->loop != NULL) /* it may run once more when it closes */
        rpc_loop_on_turn(server->loop, NULL, NULL);
}

void server_close(struct server *server)
{
    unwatch_loop(server);
    if (server->step != NULL && server->timers_open)
        step_stop(server->step);
    server_close_timers(server);
    server_close_pages(server);
    rpc_server_close(server->rpc);
    service_evict_close(server);
    compute_close(server->compute);
    scheduler_close(server->scheduler);
    pool_close(server->pool);
    recorder_stop(server->recorder);
    tokenizer_close(server->tokenizer);
    model_close(server->model);
    rpc_loop_close(server->loop);
    recorder_close(server->recorder);
    calls_close(server->calls);
    step_close(server->step);
    alarm(0); /* of server/stop.c: nothing hangs */
}
