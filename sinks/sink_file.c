/* Receipts in a file, one JSON object a line (receipts/json.h); guaranteed.
 *
 *   owner                                a thread of libuv's pool
 *   offer: keeps up to MAX_RUNS ──────>  on_write: jsonl_file_write, synced
 *   after_write <────────────────────────┘
 *     done:    sink_acknowledge, the next
 *     failed:  the same again, after a while
 *     refused: nothing any more, the file is none of ours
 *
 * While one write is under way the next gathers, so the file is synced as often
 * as the disk can, and no oftener. Runs are kept as they lie in the ledger; few
 * of them, since a sink that is stuck must not hold the ledger's memory.
 *
 * Closed files are compressed and counted by work of its own beside the
 * writing: large files take their time. */
#include <errno.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "base/clock.h"
#include "base/heap.h"
#include "base/log.h"
#include "sinks/jsonl_file.h"
#include "sinks/sink_kind.h"

#define LOG_TARGET "kvpool::sinks"
#define MIB ((uint64_t)1 << 20)

enum {
    MAX_RUNS = 4,
    RETRY_LEAST_MS = 100,
    RETRY_MOST_MS = 5000,
};

struct settings {
    const char *path;
    uint64_t rotate_mb, rotate_s;
    const char *compress;
    uint64_t keep_files;
};

struct sink_file {
    struct sink sink;
    uv_loop_t *loop;
    uv_timer_t retry;
    uint32_t n_failures; /* of the present write, in a row */

    struct feed_run runs[MAX_RUNS]; /* taken; the first n_writing are out */
    size_t n_runs, n_writing;
    uv_work_t write;
    struct jsonl_file file; /* of on_write while it runs */
    struct kv_error write_error;
    enum kv_status write_status;

    uv_work_t tidy;
    struct jsonl_names names;
    bool compress;
    uint64_t keep_files;
    atomic_bool stop_tidy;
    bool is_tidying, tidy_again;
    struct kv_error tidy_error;
    enum kv_status tidy_status;

    bool is_last_try; /* when closing */
    sink_closed_cb closed;
    void *ctx;
};

static struct sink_file *file_of(struct sink *sink)
{
    return (struct sink_file *)(void *)sink;
}

/* ---- closing */

static void on_retry_closed(uv_handle_t *handle)
{
    struct sink_file *to = handle->data;

    to->closed(&to->sink, to->ctx);
}

static void drop_runs(struct sink_file *to)
{
    for (size_t i = 0; i < to->n_runs; i++)
        feed_run_release(to->runs[i].chunk);
    to->n_runs = 0;
}

/* Nothing is under way any more. */
static void finish(struct sink_file *to)
{
    drop_runs(to);
    jsonl_file_fini(&to->file);
    uv_close((uv_handle_t *)&to->retry, on_retry_closed);
}

static void finish_if_idle(struct sink_file *to)
{
    if (to->closed != NULL && to->n_writing == 0 && !to->is_tidying &&
        (to->n_runs == 0 || to->is_last_try))
        finish(to);
}

/* ---- tidying */

static void on_tidy(uv_work_t *work)
{
    struct sink_file *to = work->data;

    to->tidy_status = jsonl_archive_tidy(&to->names, to->compress,
        to->keep_files, &to->stop_tidy, &to->tidy_error);
}

static void after_tidy(uv_work_t *work, int status);

static void start_tidy(struct sink_file *to)
{
    to->tidy_again = to->is_tidying;
    if (to->is_tidying || to->closed != NULL)
        return;
    to->is_tidying = true;
    uv_queue_work(to->loop, &to->tidy, on_tidy, after_tidy);
}

/* What failed is tried again when the next file is closed. */
static void after_tidy(uv_work_t *work, int status)
{
    struct sink_file *to = work->data;

    (void)status;
    to->is_tidying = false;
    if (to->tidy_status != KV_OK)
        kv_log(KV_LOG_WARN, LOG_TARGET, "closed files of a sink are not tidied",
            KV_LOG_TEXT("sink", to->sink.name),
            KV_LOG_TEXT("error", to->tidy_error.text));
    if (to->tidy_again)
        start_tidy(to);
    finish_if_idle(to);
}

/* ---- writing */

static void on_write(uv_work_t *work)
{
    struct sink_file *to = work->data;

    to->write_status = jsonl_file_write(&to->file, to->runs, to->n_writing,
        kv_clock_wall_ns(), &to->write_error);
}

static void after_write(uv_work_t *work, int status);

static void start_write(struct sink_file *to)
{
    if (to->n_writing > 0 || to->n_runs == 0 ||
        uv_is_active((const uv_handle_t *)&to->retry))
        return;
    to->n_writing = to->n_runs;
    uv_queue_work(to->loop, &to->write, on_write, after_write);
}

static void on_retry(uv_timer_t *timer)
{
    start_write(timer->data);
}

/* A file that is none of ours, or no file, does not become one. */
static void write_refused(struct sink_file *to)
{
    to->n_writing = 0;
    drop_runs(to);
    sink_gives_up(&to->sink, "%s", to->write_error.text);
}

static void write_failed(struct sink_file *to)
{
    uint64_t ms =
        sink_backoff_ms(++to->n_failures, RETRY_LEAST_MS, RETRY_MOST_MS);

    to->n_writing = 0;
    sink_failed(&to->sink, "%s", to->write_error.text);
    if (to->closed != NULL)
        to->is_last_try = true;
    else
        uv_timer_start(&to->retry, on_retry, ms, 0);
}

static void write_done(struct sink_file *to)
{
    const struct feed_run *last = &to->runs[to->n_writing - 1];
    uint64_t sequence = last->first_sequence + last->n_receipts - 1;

    for (size_t i = 0; i < to->n_writing; i++)
        feed_run_release(to->runs[i].chunk);
    to->n_runs -= to->n_writing;
    memmove(to->runs, to->runs + to->n_writing, to->n_runs * sizeof *to->runs);
    to->n_writing = 0;
    to->n_failures = 0;
    sink_acknowledge(&to->sink, sequence);
    if (to->file.rotated) {
        to->file.rotated = false;
        start_tidy(to);
    }
    if (to->sink.waits)
        sink_ready(&to->sink);
    start_write(to);
}

static void after_write(uv_work_t *work, int status)
{
    struct sink_file *to = work->data;

    (void)status;
    if (to->write_status == KV_OK)
        write_done(to);
    else if (to->write_status == KV_INVALID)
        write_refused(to);
    else
        write_failed(to);
    finish_if_idle(to);
}

/* ---- ops */

static enum kv_status file_offer(
    struct sink *sink, const struct feed_run *run, uint32_t *n_taken)
{
    struct sink_file *to = file_of(sink);

    *n_taken = 0;
    if (to->n_runs == MAX_RUNS)
        return KV_BUSY;
    feed_run_retain(run);
    to->runs[to->n_runs++] = *run;
    *n_taken = run->n_receipts;
    start_write(to);
    return KV_OK;
}

/* What was taken is written once more, whatever failed before. */
static void file_close(struct sink *sink, sink_closed_cb closed, void *ctx)
{
    struct sink_file *to = file_of(sink);

    to->closed = closed;
    to->ctx = ctx;
    atomic_store(&to->stop_tidy, true);
    uv_timer_stop(&to->retry);
    start_write(to);
    finish_if_idle(to);
}

static const struct sink_ops ops = {.kind = "file",
    .guaranteed = true,
    .offer = file_offer,
    .close = file_close};

/* ---- opening */

static enum kv_status check_dir(
    const struct jsonl_names *names, struct kv_error *error)
{
    if (access(names->dir, W_OK | X_OK) != 0)
        return kv_error_set(
            error, KV_IO, "%s: %s", names->dir, strerror(errno));
    return KV_OK;
}

static enum kv_status file_open(struct sink **out, const char *name,
    const void *given, uv_loop_t *loop, struct kv_error *error)
{
    const struct settings *settings = given;
    struct jsonl_names names;
    struct sink_file *to;
    enum kv_status status = jsonl_names_parse(&names, settings->path, error);

    if (status == KV_OK)
        status = check_dir(&names, error);
    if (status != KV_OK)
        return status;
    to = kv_calloc(1, sizeof *to);
    if (to == NULL)
        return kv_error_set(error, KV_NO_MEMORY, "no memory for a sink");
    to->sink.ops = &ops;
    snprintf(to->sink.name, sizeof to->sink.name, "%s", name);
    to->loop = loop;
    to->names = names;
    to->compress = strcmp(settings->compress, "zstd") == 0;
    to->keep_files = settings->keep_files;
    jsonl_file_init(&to->file, &names, settings->rotate_mb * MIB,
        (int64_t)settings->rotate_s * KV_NS_PER_S);
    uv_timer_init(loop, &to->retry);
    to->retry.data = to->write.data = to->tidy.data = to;
    start_tidy(to);
    *out = &to->sink;
    return KV_OK;
}

static enum kv_status file_check(
    const void *given, const char **field, struct kv_error *error)
{
    const struct settings *settings = given;
    struct jsonl_names names;

    *field = "path";
    return jsonl_names_parse(&names, settings->path, error);
}

static const struct sink_setting table[] = {
    {"path", SINK_TEXT, offsetof(struct settings, path), NULL, 0, 0, "FILE",
        "the file being written; its directory must be there"},
    {"rotate_mb", SINK_UINT, offsetof(struct settings, rotate_mb), "256", 0,
        1048576, "MiB", "close the file beyond this size; 0 is never"},
    {"rotate_s", SINK_UINT, offsetof(struct settings, rotate_s), "86400", 0,
        31536000, "s",
        "close the file when its first receipt is older; 0 is "
        "never"},
    {"compress", SINK_CHOICE, offsetof(struct settings, compress), "zstd", 0, 0,
        "zstd|none", "how closed files are compressed"},
    {"keep_files", SINK_UINT, offsetof(struct settings, keep_files), "0", 0,
        1048576, "", "closed files kept, the newest; 0 is all"},
};

const struct sink_kind sink_file_kind = {
    .name = "file",
    .settings = table,
    .n_settings = sizeof table / sizeof *table,
    .settings_bytes = sizeof(struct settings),
    .check = file_check,
    .open = file_open,
};
