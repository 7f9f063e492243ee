#include "server/loop_watch.h"

#include <string.h>

#include "base/clock.h"
#include "base/list.h"
#include "base/log.h"
#include "base/thread.h"
#include "server/server.h"
#include "server/totals.h"

static void on_sign(struct rpc_post *post)
{
    struct loop_watch *watch = KV_LIST_ENTRY(post, struct loop_watch, sign);

    pthread_mutex_lock(&watch->mutex);
    watch->asked = false;
    pthread_cond_signal(&watch->changed);
    pthread_mutex_unlock(&watch->mutex);
}

/* ---- on the watch's thread, under the mutex */

static void tell_stall(const struct loop_watch *watch)
{
    const struct totals totals = totals_read(watch->totals);

    kv_log(KV_LOG_WARN, SERVER_LOG_TARGET,
        "the loop stands still; nothing is answered",
        KV_LOG_INT("limit_ms", watch->limit_ns / KV_NS_PER_MS),
        KV_LOG_UINT("used_bytes", totals.stats.used_bytes),
        KV_LOG_UINT("total_bytes", totals.stats.total_bytes),
        KV_LOG_UINT("sessions", totals.stats.total_sessions),
        KV_LOG_UINT("evictions", totals.stats.evictions),
        KV_LOG_UINT("running_sequences", totals.load.running),
        KV_LOG_UINT("waiting_requests", totals.load.waiting),
        KV_LOG_UINT("applied_sequence", totals.ledger.applied_sequence),
        KV_LOG_UINT("durable_sequence", totals.ledger.durable_sequence));
}

static void tell_end(int64_t asked_ns)
{
    kv_log(KV_LOG_WARN, SERVER_LOG_TARGET, "the loop goes on",
        KV_LOG_INT("stood_ms", (kv_clock_mono_ns() - asked_ns) / KV_NS_PER_MS));
}

static bool ask(struct loop_watch *watch)
{
    bool posted;

    watch->asked = true;
    pthread_mutex_unlock(&watch->mutex); /* the answer may come at once */
    posted = rpc_loop_post(watch->loop, &watch->sign);
    pthread_mutex_lock(&watch->mutex);
    return posted;
}

static void sit_out_stall(struct loop_watch *watch, int64_t asked_ns)
{
    watch->n_stalls++;
    pthread_mutex_unlock(&watch->mutex); /* who reads the log may be slow */
    tell_stall(watch);
    pthread_mutex_lock(&watch->mutex);
    while (watch->asked)
        pthread_cond_wait(&watch->changed, &watch->mutex);
    tell_end(asked_ns);
}

static void *run(void *arg)
{
    struct loop_watch *watch = arg;
    int64_t asked_ns, until_ns;

    pthread_mutex_lock(&watch->mutex);
    for (;;) {
        asked_ns = kv_clock_mono_ns();
        until_ns = asked_ns + watch->limit_ns;
        if (watch->quit || !ask(watch))
            break;
        while (!watch->quit && kv_clock_mono_ns() < until_ns)
            kv_condition_wait_until(&watch->changed, &watch->mutex, until_ns);
        if (watch->asked)
            sit_out_stall(watch, asked_ns);
    }
    pthread_mutex_unlock(&watch->mutex);
    return NULL;
}

/* ---- its life */

static void fini_locks(struct loop_watch *watch)
{
    pthread_mutex_destroy(&watch->mutex);
    pthread_cond_destroy(&watch->changed);
}

enum kv_status loop_watch_start(struct loop_watch *watch, struct rpc_loop *loop,
    const struct kv_published *totals, uint64_t limit_ms,
    struct kv_error *error)
{
    int failure;

    *watch = (struct loop_watch){
        .loop = loop,
        .totals = totals,
        .limit_ns = (int64_t)limit_ms * KV_NS_PER_MS,
        .sign.run = on_sign,
    };
    failure = kv_condition_init(&watch->changed);
    if (failure != 0)
        goto fail;
    pthread_mutex_init(&watch->mutex, NULL);
    failure = kv_thread_start(&watch->thread, run, watch);
    if (failure != 0)
        goto fini_locks;
    watch->started = true;
    return KV_OK;

fini_locks:
    fini_locks(watch);
fail:
    return kv_error_set(
        error, KV_IO, "no thread to watch the loop: %s", strerror(failure));
}

void loop_watch_stop(struct loop_watch *watch)
{
    if (!watch->started)
        return;
    watch->started = false;
    pthread_mutex_lock(&watch->mutex);
    watch->quit = true;
    pthread_cond_signal(&watch->changed);
    pthread_mutex_unlock(&watch->mutex);
    pthread_join(watch->thread, NULL);
    fini_locks(watch);
}
