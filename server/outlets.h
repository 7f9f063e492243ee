/* The sinks of the configuration, behind the ledger; the running ones follow
 * the configuration when that changes.
 *
 *   options.sinks, receipts_log ──> wanted ──> opened ──> sink_set
 *                                     │  a reload: removed, changed, new
 *                                     └──> a changed one is opened anew once
 *                                          the old is closed; none other
 * notices
 *
 * A sink that cannot be opened at the start, or that is new with a reload, is
 * an error. One that was changed and cannot be opened any more is tried again,
 * since its position is kept and holds receipts.
 *
 * Thread: the owner's. */
#ifndef SERVER_OUTLETS_H
#define SERVER_OUTLETS_H

#include "rpc/loop.h"
#include "server/options.h"
#include "sinks/sink.h"

struct outlets;

/* options and ledger are borrowed. KV_IO, KV_INVALID, KV_NO_MEMORY. */
enum kv_status outlets_open(struct outlets **out, struct ledger *ledger,
    const struct options *options, struct rpc_loop *loop,
    struct kv_error *error);

/* Takes what the options say of sinks from `next`: those that are new are
 * opened, and only when all are does anything change: *sinks and *next are
 * swapped, of which *sinks is that of the options, and so is *receipts_log with
 * next_log. On failure nothing was changed. */
enum kv_status outlets_reload(struct outlets *outlets,
    struct option_sinks *sinks, bool *receipts_log, struct option_sinks *next,
    bool next_log, struct kv_error *error);

/* About once a second, never within a hook of the pool. */
void outlets_tick(struct outlets *outlets);

struct sink_set *outlets_set(struct outlets *outlets);

/* Flushes, closes, frees, calls back, now or later. */
void outlets_close(
    struct outlets *outlets, void (*closed)(void *ctx), void *ctx);

/* The same where the loop does not run (before, or any more): it is run until
 * all is closed. NULL is fine. */
void outlets_close_now(struct outlets *outlets);

#endif
