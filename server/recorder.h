/* Receipts as the server sees them: the ledger, its sinks, and how the service
 * did. With enable_receipts off there is none of it, and the functions say so
 * or do nothing; a build without KVPOOL_RECEIPTS has recorder_off.c in the
 * place of recorder.c, which is always off.
 *
 * Thread: the owner's. */
#ifndef SERVER_RECORDER_H
#define SERVER_RECORDER_H

#include "base/error.h"
#include "pool/pool.h"
#include "receipts/calls.h"
#include "receipts/ledger.h"
#include "receipts/notary.h"
#include "rpc/error.h"
#include "rpc/loop.h"
#include "server/options.h"
#include "sinks/sink.h"

struct recorder;

/* *out is NULL where receipts are off; the other functions take that. With a
 * data_dir receipts are kept there, and the loop is told by the journal. Where
 * it fails, what is not NULL is to be stopped and closed all the same. The
 * calls that the ledger tells of are added to *calls. options and loop are
 * borrowed. */
enum kv_status recorder_open(struct recorder **out,
    const struct options *options, struct calls *calls, struct rpc_loop *loop,
    struct kv_error *error);

/* The switch that is off: an option, or what was left out of the build. */
const char *recorder_off_switch(void);

/* NULL where receipts are off. */
struct ledger *recorder_ledger(struct recorder *recorder);
const struct pool_observer *recorder_observer(struct recorder *recorder);
struct notary *recorder_notary(struct recorder *recorder);

/* false where receipts are off. */
bool recorder_position(
    const struct recorder *recorder, struct ledger_position *out);

/* Whether its receipts outlive the process, once they are durable. */
bool recorder_is_on_disk(const struct recorder *recorder);

/* Receipts that the newest checkpoint covers; 0 where receipts are off. */
uint64_t recorder_checkpoint_size(const struct recorder *recorder);

/* Whether a change that needs a receipt may be made now; LEDGER_OK where
 * receipts are off. */
enum ledger_state recorder_state(const struct recorder *recorder);

/* The error of a call that needed such a change while it might not be made. */
void recorder_refuse(const struct recorder *recorder, struct rpc_error *error);

/* What a LedgerStatus says; borrowed from the ledger. */
void recorder_fill_status(
    const struct recorder *recorder, Kvpool__V1__LedgerStatus *out);

/* Called after receipts became durable, and after recorder_state has changed
 * for the disk's sake; never where receipts are off. Until recorder_stop. */
void recorder_watch(struct recorder *recorder, struct ledger_watcher *watcher);

void recorder_issue_boot(struct recorder *recorder, const struct pool *pool,
    const char *version, const char *model);
void recorder_issue_snapshot(
    struct recorder *recorder, const struct pool *pool);
void recorder_issue_drain(
    struct recorder *recorder, const char *cause, int64_t limit_ns);

/* The next batch of the pool is this call's; borrowed until it was told. */
void recorder_set_call(
    struct recorder *recorder, const Kvpool__V1__EvictCall *call);

/* A request was completed. */
void recorder_add_request(
    struct recorder *recorder, int64_t end_ns, int64_t latency_ns);

/* About once a second, never within a hook of the pool. */
void recorder_tick(struct recorder *recorder);

/* Sinks follow a changed configuration: what is in *options becomes what is in
 * *next, and the other way round, as far as sinks and receipts_log go. On
 * failure nothing was changed. */
enum kv_status recorder_reload(struct recorder *recorder,
    struct options *options, struct options *next, struct kv_error *error);

/* The configuration is another one now than that of the digest. */
void recorder_issue_configuration_change(struct recorder *recorder,
    const struct options *options, const uint8_t previous_digest[32],
    const char *const *names, size_t n_names, const char *requested_by);

/* How the sinks do. The texts are borrowed until the loop goes on. */
struct recorder_sink {
    const char *name, *kind, *last_error;
    enum sink_state state;
    bool guaranteed;
    uint64_t acknowledged_sequence, lag_receipts;
    int64_t lag_ns;
    uint64_t delivered_total, retries_total, lost_total;
    int64_t last_error_unix_ns;
};
/* Up to SINK_MAX_SINKS; how many. */
size_t recorder_sinks(
    struct recorder *recorder, struct recorder_sink out[SINK_MAX_SINKS]);

/* Signs what is durable, flushes and closes the sinks, then calls back, now or
 * later. */
void recorder_flush(
    struct recorder *recorder, void (*flushed)(void *ctx), void *ctx);

/* After the pool was closed: keeps what there is, and gives back all but its
 * own memory, which the loop may have a post of. NULL is fine. */
void recorder_stop(struct recorder *recorder);

/* After the loop was closed. NULL is fine. */
void recorder_close(struct recorder *recorder);

#endif
