/* A build without receipts: they are always off. */
#include "server/recorder.h"

enum kv_status recorder_open(struct recorder **out,
    const struct options *options, struct calls *calls, struct rpc_loop *loop,
    struct kv_error *error)
{
    (void)calls;
    (void)loop;
    *out = NULL;
    if (!options->enable_receipts)
        return KV_OK;
    return kv_error_set(error, KV_INVALID,
        "enable-receipts: true was given; this build is without receipts "
        "(KVPOOL_RECEIPTS)");
}

const char *recorder_off_switch(void)
{
    return "KVPOOL_RECEIPTS";
}

struct ledger *recorder_ledger(struct recorder *recorder)
{
    (void)recorder;
    return NULL;
}

const struct pool_observer *recorder_observer(struct recorder *recorder)
{
    (void)recorder;
    return NULL;
}

struct notary *recorder_notary(struct recorder *recorder)
{
    (void)recorder;
    return NULL;
}

uint64_t recorder_checkpoint_size(const struct recorder *recorder)
{
    (void)recorder;
    return 0;
}

bool recorder_position(
    const struct recorder *recorder, struct ledger_position *out)
{
    (void)recorder;
    (void)out;
    return false;
}

bool recorder_is_on_disk(const struct recorder *recorder)
{
    (void)recorder;
    return false;
}

enum ledger_state recorder_state(const struct recorder *recorder)
{
    (void)recorder;
    return LEDGER_OK;
}

void recorder_refuse(const struct recorder *recorder, struct rpc_error *error)
{
    (void)recorder;
    rpc_error_init(error, RPC_UNAVAILABLE, "", "try again");
}

void recorder_fill_status(
    const struct recorder *recorder, Kvpool__V1__LedgerStatus *out)
{
    (void)recorder;
    out->mode = KVPOOL__V1__LEDGER_MODE__LEDGER_MODE_OFF;
}

void recorder_watch(struct recorder *recorder, struct ledger_watcher *watcher)
{
    (void)recorder;
    (void)watcher;
}

void recorder_issue_boot(struct recorder *recorder, const struct pool *pool,
    const char *version, const char *model)
{
    (void)recorder;
    (void)pool;
    (void)version;
    (void)model;
}

void recorder_issue_snapshot(struct recorder *recorder, const struct pool *pool)
{
    (void)recorder;
    (void)pool;
}

void recorder_issue_drain(
    struct recorder *recorder, const char *cause, int64_t limit_ns)
{
    (void)recorder;
    (void)cause;
    (void)limit_ns;
}

void recorder_set_call(
    struct recorder *recorder, const Kvpool__V1__EvictCall *call)
{
    (void)recorder;
    (void)call;
}

void recorder_add_request(
    struct recorder *recorder, int64_t end_ns, int64_t latency_ns)
{
    (void)recorder;
    (void)end_ns;
    (void)latency_ns;
}

void recorder_tick(struct recorder *recorder)
{
    (void)recorder;
}

enum kv_status recorder_reload(struct recorder *recorder,
    struct options *options, struct options *next, struct kv_error *error)
{
    (void)recorder;
    (void)options;
    (void)next;
    (void)error;
    return KV_OK;
}

void recorder_issue_configuration_change(struct recorder *recorder,
    const struct options *options, const uint8_t previous_digest[32],
    const char *const *names, size_t n_names, const char *requested_by)
{
    (void)recorder;
    (void)options;
    (void)previous_digest;
    (void)names;
    (void)n_names;
    (void)requested_by;
}

size_t recorder_sinks(
    struct recorder *recorder, struct recorder_sink out[SINK_MAX_SINKS])
{
    (void)recorder;
    (void)out;
    return 0;
}

void recorder_flush(
    struct recorder *recorder, void (*flushed)(void *ctx), void *ctx)
{
    (void)recorder;
    flushed(ctx);
}

void recorder_stop(struct recorder *recorder)
{
    (void)recorder;
}

void recorder_close(struct recorder *recorder)
{
    (void)recorder;
}
