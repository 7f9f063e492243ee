/* Notices that the owner's loop stands still: a call of the system that does
 * not come back, a turn that is too long. Nothing is answered then, no Snapshot
 * and no metrics, so a thread of its own says so in the log, with the totals as
 * they were at the end of the last turn, and again when the loop goes on.
 *
 *   loop_watch_start ─> loop_watch_stop
 *
 * It asks the loop for a sign of life every `limit_ms`, which one that waits
 * for work gives as well. */
#ifndef SERVER_LOOP_WATCH_H
#define SERVER_LOOP_WATCH_H

#include <pthread.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>

#include "base/error.h"
#include "base/published.h"
#include "rpc/loop.h"

/* Zeroed it is stopped. */
struct loop_watch {
    struct rpc_loop *loop;
    const struct kv_published *totals;
    int64_t limit_ns;
    pthread_t thread;
    bool started;
    struct rpc_post sign;
    _Atomic uint64_t n_stalls; /* that were told; any thread */

    pthread_mutex_t mutex; /* of what follows */
    pthread_cond_t changed;
    bool asked, quit;
};

/* A stall of 2 * limit_ms is noticed, one of limit_ms perhaps; limit_ms is
 * positive. loop and totals are borrowed. KV_IO: there is no thread. */
enum kv_status loop_watch_start(struct loop_watch *watch, struct rpc_loop *loop,
    const struct kv_published *totals, uint64_t limit_ms,
    struct kv_error *error);

/* The owner's, after the loop has run and before it is closed. Again, or where
 * it was not started: nothing. */
void loop_watch_stop(struct loop_watch *watch);

#endif
