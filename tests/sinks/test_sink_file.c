/* The file sink on a loop: writes on other threads, failures, closing. */
#include <dirent.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/heap.h"
#include "base/log.h"
#include "sinks/sink_kind.h"
#include "tests/support/check_main.h"
#include "tests/support/faulty_heap.h"

static struct ledger *ledger;
static struct sink_set *set;
static uv_loop_t loop;
static FILE *log_file;
static char dir[] = "/tmp/kvpool-sink-XXXXXX";
static char path[64];
static bool is_closed;

static int64_t wall_ns(void)
{
    return 1000;
}

static void set_up(void)
{
    const struct ledger_config config = {
        .ring_bytes = LEDGER_MIN_RING_BYTES, .epoch = 1, .wall_ns = wall_ns};

    faulty_heap_install();
    log_file = tmpfile();
    kv_log_set_fd(fileno(log_file));
    strcpy(dir + strlen(dir) - 6, "XXXXXX");
    ck_assert_ptr_nonnull(mkdtemp(dir));
    snprintf(path, sizeof path, "%s/r.jsonl", dir);
    ck_assert_int_eq(uv_loop_init(&loop), 0);
    ck_assert_int_eq(ledger_open(&ledger, &config, NULL), KV_OK);
    ck_assert_int_eq(sink_set_open(&set, ledger), KV_OK);
}

static void on_closed(void *ctx)
{
    (void)ctx;
    is_closed = true;
}

static void close_set(void)
{
    if (set == NULL)
        return;
    is_closed = false;
    sink_set_close(set, on_closed, NULL);
    for (int i = 0; !is_closed; i++) {
        uv_run(&loop, UV_RUN_ONCE);
        if (!is_closed && i % 10 == 9)
            sink_set_tick(set, 1);
    }
    set = NULL;
}

static void tear_down(void)
{
    char command[80];

    close_set();
    uv_run(&loop, UV_RUN_DEFAULT);
    ck_assert_int_eq(uv_loop_close(&loop), 0);
    ledger_close(ledger);
    snprintf(command, sizeof command, "rm -rf %s %s.moved", dir, dir);
    ck_assert_int_eq(system(command), 0);
    kv_log_set_fd(2);
    fclose(log_file);
    ck_assert_int_eq(faulty_heap_live(), 0);
}

static const struct sink_setting *find_setting(const char *name)
{
    size_t i = 0;

    while (strcmp(sink_file_kind.settings[i].name, name) != 0)
        ck_assert_uint_lt(++i, sink_file_kind.n_settings);
    return &sink_file_kind.settings[i];
}

static void set_number(void *settings, const char *name, uint64_t value)
{
    memcpy((char *)settings + find_setting(name)->offset, &value, sizeof value);
}

static void set_text(void *settings, const char *name, const char *value)
{
    memcpy((char *)settings + find_setting(name)->offset, &value, sizeof value);
}

static enum kv_status open_sink(
    struct sink **out, uint64_t rotate_mb, struct kv_error *error)
{
    char settings[256] = {0};

    ck_assert_uint_le(sink_file_kind.settings_bytes, sizeof settings);
    set_text(settings, "path", path);
    set_text(settings, "compress", "zstd");
    set_number(settings, "rotate_mb", rotate_mb);
    return sink_file_kind.open(out, "audit", settings, &loop, error);
}

static struct sink *add_sink(uint64_t rotate_mb)
{
    struct kv_error error;
    struct sink *sink;

    ck_assert_int_eq(open_sink(&sink, rotate_mb, &error), KV_OK);
    ck_assert_int_eq(sink_set_add(set, sink, &error), KV_OK);
    return sink;
}

static void issue(int n)
{
    for (int i = 0; i < n; i++)
        ledger_issue_drain(ledger, "a test", 1, 1);
}

static void run_until_acknowledged(struct sink *sink)
{
    while (sink_lag(sink, 1).n_receipts > 0)
        uv_run(&loop, UV_RUN_ONCE);
}

/* Lines in the file; each must have the sequence behind the one before. */
static int count_lines(int first)
{
    FILE *from = fopen(path, "r");
    char *line = NULL, wanted[64];
    size_t size = 0;
    int n = 0;

    ck_assert_ptr_nonnull(from);
    while (getline(&line, &size, from) > 0) {
        snprintf(wanted, sizeof wanted, "\"sequence\":%d,", first + n++);
        ck_assert_msg(strstr(line, wanted) != NULL, "no %s: %s", wanted, line);
    }
    free(line);
    fclose(from);
    return n;
}

static int n_closed_files(void)
{
    DIR *walk = opendir(dir);
    struct dirent *entry;
    int n = 0;

    while ((entry = readdir(walk)) != NULL)
        n += strstr(entry->d_name, ".zst") != NULL;
    closedir(walk);
    return n;
}

START_TEST(everything_is_written_and_acknowledged_in_order)
{
    struct sink *sink = add_sink(0);
    uint64_t before = 0;

    for (int i = 0; i < 50; i++) {
        issue(i);
        uv_run(&loop, UV_RUN_NOWAIT);
        ck_assert_uint_ge(sink->acknowledged_sequence, before);
        before = sink->acknowledged_sequence;
    }
    run_until_acknowledged(sink);
    ck_assert_int_eq(count_lines(1), 49 * 50 / 2);
    ck_assert_uint_eq(sink->delivered_total, 49 * 50 / 2);
    ck_assert_uint_eq(sink->lost_total, 0);
}
END_TEST

START_TEST(it_holds_few_runs_and_asks_for_the_rest)
{
    struct sink *sink = add_sink(0);

    issue(2000); /* nobody runs the loop */
    ck_assert(sink->waits);
    ck_assert_uint_lt(sink->cursor.sequence, 2000);
    run_until_acknowledged(sink);
    ck_assert_int_eq(count_lines(1), 2000);
}
END_TEST

START_TEST(closing_writes_what_was_taken)
{
    add_sink(0);
    issue(300);
    close_set();
    ck_assert_int_eq(count_lines(1), 300);
}
END_TEST

START_TEST(a_failing_target_is_tried_again_and_loses_nothing)
{
    struct sink *sink = add_sink(0);
    char moved[64];

    issue(10);
    run_until_acknowledged(sink);
    snprintf(moved, sizeof moved, "%s.moved", dir);
    ck_assert_int_eq(rename(dir, moved), 0);
    issue(10);
    while (sink->retries_total < 2)
        uv_run(&loop, UV_RUN_ONCE);
    ck_assert_int_eq(sink->state, SINK_RETRYING);
    ck_assert_ptr_nonnull(strstr(sink->last_error, "No such file"));
    ck_assert_uint_eq(sink->acknowledged_sequence, 10);
    issue(10);
    ck_assert_int_eq(rename(moved, dir), 0);
    run_until_acknowledged(sink);
    ck_assert_int_eq(sink->state, SINK_RUNNING);
    ck_assert_int_eq(count_lines(1), 30);
    ck_assert_uint_eq(sink->lost_total, 0);
}
END_TEST

START_TEST(closing_gives_up_on_a_target_that_is_dead)
{
    struct sink *sink = add_sink(0);
    char moved[64];

    snprintf(moved, sizeof moved, "%s.moved", dir);
    ck_assert_int_eq(rename(dir, moved), 0);
    issue(10);
    while (sink->retries_total < 1)
        uv_run(&loop, UV_RUN_ONCE);
    close_set();
    ck_assert_int_eq(rename(moved, dir), 0);
}
END_TEST

START_TEST(large_files_are_closed_and_compressed)
{
    struct sink *sink = add_sink(1);

    for (int i = 0; i < 45; i++) {
        issue(100);
        run_until_acknowledged(sink);
    }
    close_set();
    ck_assert_int_eq(sink_set_open(&set, ledger), KV_OK);
    add_sink(1); /* what closing kept it from doing, the next start does */
    while (n_closed_files() == 0)
        uv_run(&loop, UV_RUN_ONCE);
    ck_assert_int_eq(n_closed_files(), 1);
}
END_TEST

START_TEST(a_reopened_sink_goes_on_where_it_was)
{
    struct sink *sink = add_sink(0);

    for (int round = 1; round <= 5; round++) {
        issue(30);
        uv_run(&loop, UV_RUN_NOWAIT);
        sink_set_remove(set, sink, round == 3);
        while (sink_set_first(set) != NULL)
            uv_run(&loop, UV_RUN_ONCE);
        issue(5);
        sink = add_sink(0);
    }
    run_until_acknowledged(sink);
    ck_assert_int_eq(count_lines(1), 175);
}
END_TEST

START_TEST(a_directory_that_is_not_there_is_refused)
{
    struct kv_error error;
    struct sink *sink;

    snprintf(path, sizeof path, "%s/none/r.jsonl", dir);
    ck_assert_int_eq(open_sink(&sink, 0, &error), KV_IO);
    ck_assert_ptr_nonnull(strstr(error.text, "/none: No such file"));
    snprintf(path, sizeof path, "%s/r.jsonl", dir);
}
END_TEST

START_TEST(no_memory_is_a_failure_like_another)
{
    struct sink *sink = NULL;
    struct kv_error error;

    faulty_heap_fail_at(0);
    ck_assert_int_eq(open_sink(&sink, 0, &error), KV_NO_MEMORY);
    ck_assert_ptr_null(sink);
    faulty_heap_fail_at(-1);
    sink = add_sink(0);
    issue(20);
    uv_run(&loop, UV_RUN_NOWAIT);
    faulty_heap_fail_at(0);
    while (sink->retries_total < 1 && sink_lag(sink, 1).n_receipts > 0)
        uv_run(&loop, UV_RUN_ONCE);
    faulty_heap_fail_at(-1);
    run_until_acknowledged(sink);
    ck_assert_int_eq(count_lines(1), 20);
}
END_TEST

int main(void)
{
    const TTest *tests[] = {
        everything_is_written_and_acknowledged_in_order,
        it_holds_few_runs_and_asks_for_the_rest,
        closing_writes_what_was_taken,
        a_failing_target_is_tried_again_and_loses_nothing,
        closing_gives_up_on_a_target_that_is_dead,
        large_files_are_closed_and_compressed,
        a_reopened_sink_goes_on_where_it_was,
        a_directory_that_is_not_there_is_refused,
        no_memory_is_a_failure_like_another,
    };

    return CHECK_RUN("sinks.sink_file", set_up, tear_down, tests);
}
