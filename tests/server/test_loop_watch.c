/* A loop that stands still, told by who watches it. */
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "base/log.h"
#include "server/loop_watch.h"
#include "server/totals.h"
#include "tests/support/check_main.h"

#define LIMIT_MS 50

static struct rpc_loop *loop;
static struct loop_watch watch;
static struct kv_published published;
static FILE *log_lines;
static int log_fd;
static struct kv_error error;

static void set_up(void)
{
    int fds[2];

    ck_assert_int_eq(pipe(fds), 0);
    log_lines = fdopen(fds[0], "r");
    log_fd = fds[1];
    kv_log_set_fd(log_fd);
    ck_assert_int_eq(rpc_loop_open(&loop, &error), KV_OK);
}

static void tear_down(void)
{
    loop_watch_stop(&watch);
    rpc_loop_close(loop);
    kv_log_set_fd(STDERR_FILENO);
    fclose(log_lines);
}

static void publish(uint64_t used_bytes, uint64_t applied_sequence)
{
    const struct totals totals = {
        .stats = {.used_bytes = used_bytes, .total_sessions = 3},
        .ledger = {.applied_sequence = applied_sequence},
    };

    kv_published_write(&published, &totals, sizeof totals);
}

static char line[4096];

/* The next line that says so; none is passed over but those of stalls that
 * nobody made: the machine itself may pause. */
static void read_until(const char *message)
{
    do
        ck_assert_ptr_nonnull(fgets(line, sizeof line, log_lines));
    while (strstr(line, message) == NULL);
}

/* Stays in its turn until the log tells of that. */
static void on_stall(struct rpc_post *post)
{
    (void)post;
    read_until("the loop stands still");
    rpc_loop_stop(loop);
}

static struct rpc_post stall = {.run = on_stall};

static void run_stalled(void)
{
    publish(4096, 17);
    ck_assert_int_eq(
        loop_watch_start(&watch, loop, &published, LIMIT_MS, &error), KV_OK);
    ck_assert(rpc_loop_post(loop, &stall));
    rpc_loop_run(loop);
}

START_TEST(a_stall_is_told_while_it_lasts_with_the_totals_before_it)
{
    run_stalled();
    ck_assert_ptr_nonnull(strstr(line, "level=warn"));
    ck_assert_ptr_nonnull(strstr(line, " limit_ms=50 used_bytes=4096 "));
    ck_assert_ptr_nonnull(strstr(line, " sessions=3 "));
    ck_assert_ptr_nonnull(strstr(line, " applied_sequence=17 "));
}
END_TEST

START_TEST(its_end_is_told_and_every_stall_is_counted)
{
    uint64_t n_told = 0, n_ended = 0;

    run_stalled();
    loop_watch_stop(&watch);
    close(log_fd);
    do {
        n_told += strstr(line, "the loop stands still") != NULL;
        n_ended += strstr(line, "the loop goes on\" stood_ms=") != NULL;
    } while (fgets(line, sizeof line, log_lines) != NULL);
    ck_assert_uint_ge(n_told, 1);
    ck_assert_uint_eq(n_ended, n_told);
    ck_assert_uint_ge(watch.n_stalls, n_told);
}
END_TEST

START_TEST(a_watch_that_was_not_started_stops)
{
    loop_watch_stop(&watch);
    loop_watch_stop(&watch);
}
END_TEST

int main(void)
{
    const TTest *tests[] = {
        a_stall_is_told_while_it_lasts_with_the_totals_before_it,
        its_end_is_told_and_every_stall_is_counted,
        a_watch_that_was_not_started_stops,
    };

    return CHECK_RUN("loop watch", set_up, tear_down, tests);
}
