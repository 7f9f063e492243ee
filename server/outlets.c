#include "server/outlets.h"

#include <stdio.h>
#include <string.h>

#include "base/clock.h"
#include "base/heap.h"
#include "base/log.h"
#include "server/options_sinks.h"

#define LOG_TARGET "kvpool::sinks"

struct outlets {
    const struct options *options;
    struct rpc_loop *loop;
    struct sink_set *set;
    struct ledger_watcher watcher;
    struct ledger *ledger;
    char complaint[KV_ERROR_TEXT_BYTES]; /* logged last */
    void (*closed)(void *ctx);           /* not NULL: it is closing */
    void *ctx;
};

/* ---- what is wanted */

/* receipts_log is short for a sink of this name and kind, unless the file has
 * one of either. */
static const struct option_sink short_log = {
    .name = "log", .kind = &sink_log_kind};

static bool wants_short_log(const struct option_sinks *sinks, bool receipts_log)
{
    for (size_t i = 0; i < sinks->n; i++) {
        if (sinks->list[i].kind == short_log.kind ||
            strcmp(sinks->list[i].name, short_log.name) == 0)
            return false;
    }
    return receipts_log;
}

static size_t count_wanted(const struct option_sinks *sinks, bool receipts_log)
{
    return sinks->n + wants_short_log(sinks, receipts_log);
}

/* i is below what count_wanted says. */
static const struct option_sink *wanted_at(
    const struct option_sinks *sinks, size_t i)
{
    return i < sinks->n ? &sinks->list[i] : &short_log;
}

static const struct option_sink *find_wanted(
    const struct option_sinks *sinks, bool receipts_log, const char *name)
{
    const struct option_sink *sink = option_sinks_find(sinks, name);

    if (sink == NULL && strcmp(name, short_log.name) == 0 &&
        wants_short_log(sinks, receipts_log))
        return &short_log;
    return sink;
}

static struct sink *find_open(struct outlets *outlets, const char *name)
{
    struct sink *sink = sink_set_first(outlets->set);

    while (sink != NULL && strcmp(sink->name, name) != 0)
        sink = sink_set_next(outlets->set, sink);
    return sink;
}

/* ---- opening */

static enum kv_status open_sink(struct outlets *outlets,
    const struct option_sink *wanted, struct sink **out, struct kv_error *error)
{
    struct kv_error why = {0};
    enum kv_status status = wanted->kind->open(
        out, wanted->name, wanted->settings, rpc_loop_uv(outlets->loop), &why);

    rpc_loop_touched(outlets->loop);
    if (status == KV_OK)
        return KV_OK;
    return kv_error_set(error, status, "sink %s: %s", wanted->name, why.text);
}

static void free_discarded(struct sink *sink, void *ctx)
{
    (void)ctx;
    kv_free(sink);
}

/* One that never was in the set. */
static void discard(struct outlets *outlets, struct sink *sink)
{
    sink->ops->close(sink, free_discarded, NULL);
    rpc_loop_touched(outlets->loop);
}

static enum kv_status add_sink(
    struct outlets *outlets, struct sink *sink, struct kv_error *error)
{
    enum kv_status status = sink_set_add(outlets->set, sink, error);

    if (status == KV_OK)
        kv_log(KV_LOG_INFO, LOG_TARGET, "sink open",
            KV_LOG_TEXT("sink", sink->name),
            KV_LOG_TEXT("kind", sink->ops->kind),
            KV_LOG_UINT("after_sequence", sink->acknowledged_sequence));
    else
        discard(outlets, sink);
    return status;
}

static enum kv_status open_and_add(struct outlets *outlets,
    const struct option_sink *wanted, struct kv_error *error)
{
    struct sink *sink = NULL;
    enum kv_status status = open_sink(outlets, wanted, &sink, error);

    return status == KV_OK ? add_sink(outlets, sink, error) : status;
}

/* Opens what is wanted and is not there. */
static enum kv_status open_missing(
    struct outlets *outlets, struct kv_error *error)
{
    const struct options *options = outlets->options;
    size_t n = count_wanted(&options->sinks, options->receipts_log);
    enum kv_status status = KV_OK;

    for (size_t i = 0; i < n && status == KV_OK; i++) {
        const struct option_sink *wanted = wanted_at(&options->sinks, i);

        if (find_open(outlets, wanted->name) == NULL)
            status = open_and_add(outlets, wanted, error);
    }
    return status;
}

/* It is tried again with each tick, and said when it is something new. */
static void reopen(void *ctx)
{
    struct outlets *outlets = ctx;
    struct kv_error error = {0};

    if (open_missing(outlets, &error) == KV_OK) {
        outlets->complaint[0] = '\0';
        return;
    }
    if (strcmp(outlets->complaint, error.text) == 0)
        return;
    memcpy(outlets->complaint, error.text, sizeof outlets->complaint);
    kv_log(KV_LOG_ERROR, LOG_TARGET, "a sink cannot be opened",
        KV_LOG_TEXT("error", error.text));
}

/* Sinks may start timers when they are offered receipts, which may be outside
 * of the loop's callbacks. */
static void on_durable(struct ledger_watcher *watcher)
{
    struct outlets *outlets = KV_LIST_ENTRY(watcher, struct outlets, watcher);

    if (outlets->options->sinks.n > 0)
        rpc_loop_touched(outlets->loop);
}

enum kv_status outlets_open(struct outlets **out, struct ledger *ledger,
    const struct options *options, struct rpc_loop *loop,
    struct kv_error *error)
{
    struct outlets *outlets = kv_calloc(1, sizeof *outlets);
    enum kv_status status;

    if (outlets == NULL || sink_set_open(&outlets->set, ledger) != KV_OK) {
        kv_free(outlets);
        return kv_error_set(
            error, KV_NO_MEMORY, "no memory for the sinks of receipts");
    }
    outlets->options = options;
    outlets->ledger = ledger;
    outlets->loop = loop;
    outlets->watcher.on_durable = on_durable;
    ledger_watch(ledger, &outlets->watcher);
    sink_set_on_removed(outlets->set, reopen, outlets);
    status = open_missing(outlets, error);
    if (status == KV_OK)
        *out = outlets;
    else
        outlets_close_now(outlets);
    return status;
}

struct sink_set *outlets_set(struct outlets *outlets)
{
    return outlets->set;
}

void outlets_tick(struct outlets *outlets)
{
    struct rpc_loop *loop = outlets->loop;
    bool is_closing = outlets->closed != NULL;

    sink_set_tick(outlets->set, kv_clock_mono_ns());
    if (!is_closing)
        reopen(outlets);
    rpc_loop_touched(loop);
}

/* ---- reloading */

static void discard_all(struct outlets *outlets, struct kv_list *sinks)
{
    KV_LIST_EACH (node, sinks) {
        kv_list_remove(node);
        discard(outlets, KV_LIST_ENTRY(node, struct sink, link));
    }
}

/* Those of `next` that are not there, onto the list. */
static enum kv_status open_new(struct outlets *outlets,
    const struct option_sinks *next, bool next_log, struct kv_list *opened,
    struct kv_error *error)
{
    size_t n = count_wanted(next, next_log);

    for (size_t i = 0; i < n; i++) {
        const struct option_sink *wanted = wanted_at(next, i);
        struct sink *sink = NULL;
        enum kv_status status;

        if (find_open(outlets, wanted->name) != NULL)
            continue;
        status = open_sink(outlets, wanted, &sink, error);
        if (status != KV_OK) {
            discard_all(outlets, opened);
            return status;
        }
        kv_list_append(opened, &sink->link);
    }
    return KV_OK;
}

static void add_new(struct outlets *outlets, struct kv_list *opened)
{
    KV_LIST_EACH (node, opened) {
        struct kv_error error;

        kv_list_remove(node);
        if (add_sink(outlets, KV_LIST_ENTRY(node, struct sink, link), &error) !=
            KV_OK)
            kv_log(KV_LOG_ERROR, LOG_TARGET, "a sink cannot be added",
                KV_LOG_TEXT("error", error.text));
    }
}

/* Those that are wanted no more, or otherwise than they were; and those that
 * have given up, which begin anew. */
static void remove_old(
    struct outlets *outlets, const struct option_sinks *before, bool log_before)
{
    const struct options *options = outlets->options;
    struct sink *next;

    for (struct sink *sink = sink_set_first(outlets->set); sink != NULL;
         sink = next) {
        const struct option_sink *old =
            find_wanted(before, log_before, sink->name);
        const struct option_sink *wanted =
            find_wanted(&options->sinks, options->receipts_log, sink->name);

        next = sink_set_next(outlets->set, sink);
        if (wanted != NULL && old != NULL && option_sink_equal(old, wanted) &&
            sink->state != SINK_FAILED)
            continue;
        if (wanted != NULL && old == NULL && sink->state != SINK_STOPPING)
            continue; /* it was added just now */
        kv_log(KV_LOG_INFO, LOG_TARGET, "sink closing",
            KV_LOG_TEXT("sink", sink->name),
            KV_LOG_BOOL("changed", wanted != NULL));
        sink_set_remove(outlets->set, sink, wanted == NULL);
    }
    rpc_loop_touched(outlets->loop);
}

enum kv_status outlets_reload(struct outlets *outlets,
    struct option_sinks *sinks, bool *receipts_log, struct option_sinks *next,
    bool next_log, struct kv_error *error)
{
    struct option_sinks before = *sinks;
    bool log_before = *receipts_log;
    struct kv_list opened;
    enum kv_status status;

    kv_list_init(&opened);
    status = open_new(outlets, next, next_log, &opened, error);
    if (status != KV_OK)
        return status;
    *sinks = *next;
    *receipts_log = next_log;
    *next = before;
    add_new(outlets, &opened);
    remove_old(outlets, &before, log_before);
    return KV_OK;
}

/* ---- closing */

static void on_set_closed(void *ctx)
{
    struct outlets *outlets = ctx;
    void (*closed)(void *of) = outlets->closed;
    void *closed_ctx = outlets->ctx;

    kv_free(outlets);
    closed(closed_ctx);
}

void outlets_close(
    struct outlets *outlets, void (*closed)(void *ctx), void *ctx)
{
    struct rpc_loop *loop = outlets->loop;

    outlets->closed = closed;
    outlets->ctx = ctx;
    ledger_unwatch(outlets->ledger, &outlets->watcher);
    sink_set_close(outlets->set, on_set_closed, outlets);
    rpc_loop_touched(loop);
}

static void note_closed(void *ctx)
{
    *(bool *)ctx = true;
}

void outlets_close_now(struct outlets *outlets)
{
    struct sink_set *set;
    uv_loop_t *loop;
    bool is_closed = false;

    if (outlets == NULL)
        return;
    loop = rpc_loop_uv(outlets->loop);
    set = outlets->set;
    outlets_close(outlets, note_closed, &is_closed);
    if (!is_closed)
        sink_set_give_up(set);
    while (!is_closed)
        uv_run(loop, UV_RUN_ONCE);
}
