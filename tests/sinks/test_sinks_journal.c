/* The set over a ledger that is kept on disk: positions over a restart, and
 * receipts that have left memory. */
#include <semaphore.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/heap.h"
#include "base/log.h"
#include "sinks/sink.h"
#include "tests/support/check_main.h"
#include "tests/support/faulty_heap.h"

static struct ledger *ledger;
static struct sink_set *set;
static FILE *log_file;
static sem_t wakes;
static char root[] = "/tmp/kvpool-sinks-XXXXXX";

static int64_t wall_ns(void)
{
    return 1000;
}

static void wake(void *ctx)
{
    (void)ctx;
    sem_post(&wakes);
}

static void wait_and_poll(void)
{
    sem_wait(&wakes);
    ledger_poll(ledger);
}

static void open_all(void)
{
    char dir[64];
    const struct journal_config journal = {
        .dir = dir,
        .segment_bytes = JOURNAL_MIN_SEGMENT_BYTES,
        .wall_ns = wall_ns,
        .wake = wake,
    };
    const struct ledger_config config = {
        .ring_bytes = LEDGER_MIN_RING_BYTES,
        .journal = &journal,
        .max_ahead = 1000000,
        .wall_ns = wall_ns,
    };
    struct kv_error error;

    snprintf(dir, sizeof dir, "%s/receipts", root);
    ck_assert_msg(
        ledger_open(&ledger, &config, &error) == KV_OK, "%s", error.text);
    ck_assert_int_eq(sink_set_open(&set, ledger), KV_OK);
}

static void on_closed(void *ctx)
{
    *(bool *)ctx = true;
}

static void close_all(void)
{
    bool is_closed = false;

    sink_set_close(set, on_closed, &is_closed);
    if (!is_closed)
        sink_set_give_up(set);
    ck_assert(is_closed);
    ledger_close(ledger);
}

static void set_up(void)
{
    faulty_heap_install();
    log_file = tmpfile();
    kv_log_set_fd(fileno(log_file));
    sem_init(&wakes, 0, 0);
    strcpy(root + strlen(root) - 6, "XXXXXX");
    ck_assert_ptr_nonnull(mkdtemp(root));
    open_all();
}

static void tear_down(void)
{
    char command[64];

    close_all();
    sem_destroy(&wakes);
    snprintf(command, sizeof command, "rm -rf %s", root);
    ck_assert_int_eq(system(command), 0);
    kv_log_set_fd(2);
    fclose(log_file);
    ck_assert_int_eq(faulty_heap_live(), 0);
}

static void issue(int n)
{
    uint64_t last = ledger_position(ledger).applied_sequence + (uint64_t)n;

    for (int i = 0; i < n; i++)
        ledger_issue_drain(ledger, "a test", 1, 1);
    while (ledger_position(ledger).durable_sequence < last)
        wait_and_poll();
}

/* ---- a sink that takes what it may */

struct slow_sink {
    struct sink sink;
    uint64_t last_sequence;
    bool is_dead;
};

static enum kv_status slow_offer(
    struct sink *sink, const struct feed_run *run, uint32_t *n_taken)
{
    struct slow_sink *slow = (struct slow_sink *)(void *)sink;

    *n_taken = slow->is_dead ? 0 : run->n_receipts;
    if (slow->is_dead)
        return KV_BUSY;
    if (slow->last_sequence != 0)
        ck_assert_uint_eq(run->first_sequence, slow->last_sequence + 1);
    slow->last_sequence = run->first_sequence + run->n_receipts - 1;
    return KV_OK;
}

static void slow_close(struct sink *sink, sink_closed_cb closed, void *ctx)
{
    closed(sink, ctx);
}

static const struct sink_ops guaranteed_ops = {.kind = "slow",
    .guaranteed = true,
    .offer = slow_offer,
    .close = slow_close};
static const struct sink_ops careless_ops = {
    .kind = "careless", .offer = slow_offer, .close = slow_close};

static struct slow_sink *add(
    const char *name, const struct sink_ops *ops, bool is_dead)
{
    struct slow_sink *slow = kv_calloc(1, sizeof *slow);

    slow->sink.ops = ops;
    slow->is_dead = is_dead;
    snprintf(slow->sink.name, sizeof slow->sink.name, "%s", name);
    ck_assert_int_eq(sink_set_add(set, &slow->sink, NULL), KV_OK);
    return slow;
}

static void restart(void)
{
    close_all();
    open_all();
}

START_TEST(a_guaranteed_sink_resumes_behind_its_acknowledged_position)
{
    struct slow_sink *slow = add("audit", &guaranteed_ops, false);

    issue(10);
    ck_assert_uint_eq(slow->last_sequence, 10);
    sink_acknowledge(&slow->sink, 7);
    restart();
    slow = add("audit", &guaranteed_ops, true);
    ck_assert_uint_eq(slow->sink.acknowledged_sequence, 7);
    ck_assert_uint_eq(slow->sink.cursor.sequence, 7);
    ck_assert_uint_eq(sink_lag(&slow->sink, 1).n_receipts, 3);
    ck_assert_uint_eq(slow->sink.lost_total, 0);
}
END_TEST

START_TEST(a_forgotten_sink_begins_with_the_oldest)
{
    struct slow_sink *slow = add("audit", &guaranteed_ops, false);

    issue(10);
    sink_acknowledge(&slow->sink, 7);
    sink_set_remove(set, &slow->sink, true);
    restart();
    slow = add("audit", &guaranteed_ops, true);
    ck_assert_uint_eq(slow->sink.cursor.sequence, 0);
}
END_TEST

START_TEST(a_sink_without_guarantee_begins_with_this_epoch)
{
    struct slow_sink *careless;

    issue(10);
    restart();
    careless = add("log", &careless_ops, false);
    ck_assert_uint_eq(careless->sink.cursor.sequence, 10);
    issue(2);
    ck_assert_uint_eq(careless->last_sequence, 12);
    ck_assert_uint_eq(careless->sink.delivered_total, 2);
}
END_TEST

START_TEST(what_left_memory_is_offered_from_disk)
{
    struct slow_sink *slow = add("audit", &guaranteed_ops, true);

    issue(40000); /* the ring holds a part */
    sink_set_tick(set, 1);
    slow->is_dead = false;
    sink_ready(&slow->sink);
    while (slow->last_sequence < 40000)
        wait_and_poll();
    ck_assert_uint_eq(slow->sink.lost_total, 0);
    sink_acknowledge(&slow->sink, 40000);
    ck_assert_uint_eq(slow->sink.delivered_total, 40000);
}
END_TEST

START_TEST(closing_while_reading_from_disk_is_fine)
{
    struct slow_sink *slow = add("audit", &guaranteed_ops, true);

    issue(40000);
    slow->is_dead = false;
    sink_ready(&slow->sink);
    ck_assert_uint_lt(slow->last_sequence, 40000);
}
END_TEST

int main(void)
{
    const TTest *tests[] = {
        a_guaranteed_sink_resumes_behind_its_acknowledged_position,
        a_forgotten_sink_begins_with_the_oldest,
        a_sink_without_guarantee_begins_with_this_epoch,
        what_left_memory_is_offered_from_disk,
        closing_while_reading_from_disk_is_fine,
    };

    return CHECK_RUN("sinks.sinks_journal", set_up, tear_down, tests);
}
