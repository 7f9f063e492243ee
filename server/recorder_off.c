/* A build without receipts: they are always off. */
#include "server/recorder.h"

enum kv_status recorder_open(struct recorder **out,
    const struct options *options, struct rpc_loop *loop,
    struct kv_error *error)
{
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
