#include <pthread.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "receipts/audit.h"
#include "receipts/ledger.h"
#include "tests/receipts/events.h"
#include "tests/support/check_main.h"
#include "tests/support/faulty_heap.h"

static struct ledger *ledger;
static struct events events_memory;
static struct events *const events = &events_memory;

static int64_t wall_ns(void)
{
    return 1;
}

static void set_up(void)
{
    const struct ledger_config config = {
        .ring_bytes = LEDGER_MIN_RING_BYTES, .epoch = 1, .wall_ns = wall_ns};

    faulty_heap_install();
    ck_assert_int_eq(ledger_open(&ledger, &config, NULL), KV_OK);
    events_init(events, ledger_observer(ledger));
}

static void tear_down(void)
{
    ledger_close(ledger);
    ck_assert_int_eq(faulty_heap_live(), 0);
}

static void scrubbed(uint64_t scrub_id)
{
    const struct pool_observer *observer = ledger_observer(ledger);

    observer->scrubbed(observer->ctx, scrub_id);
}

static void issue(int n_receipts, size_t n_extents)
{
    for (int i = 0; i < n_receipts; i++)
        scrubbed(events_evict(events, POOL_REASON_TTL, n_extents));
}

/* Every entry of a run is a receipt, in order; gives the run back. */
static void check_run(const struct feed_run *run)
{
    const unsigned char *at = run->bytes, *bytes;
    uint64_t sequence = run->first_sequence;
    size_t n_bytes;

    while (feed_run_entry(run, &at, &bytes, &n_bytes)) {
        Kvpool__V1__Receipt *receipt =
            kvpool__v1__receipt__unpack(NULL, n_bytes, bytes);

        ck_assert_ptr_nonnull(receipt);
        ck_assert_uint_eq(receipt->sequence, sequence++);
        kvpool__v1__receipt__free_unpacked(receipt, NULL);
    }
    ck_assert_uint_eq(sequence, run->first_sequence + run->n_receipts);
    feed_run_release(run->chunk);
}

START_TEST(a_run_keeps_to_its_limits_and_has_at_least_one_receipt)
{
    struct feed_cursor cursor = {0};
    struct feed_run run;

    issue(50, 10);
    ck_assert_int_eq(feed_next(ledger, &cursor, 7, 1 << 20, &run), KV_OK);
    ck_assert_uint_eq(run.n_receipts, 7);
    check_run(&run);
    ck_assert_int_eq(feed_next(ledger, &cursor, 100, 1, &run), KV_OK);
    ck_assert_uint_eq(run.n_receipts, 1);
    check_run(&run);
    ck_assert_int_eq(feed_next(ledger, &cursor, 0, 0, &run), KV_OK);
    ck_assert_uint_eq(run.n_receipts, 1);
    check_run(&run);
    ck_assert_int_eq(feed_next(ledger, &cursor, 100, 1000, &run), KV_OK);
    ck_assert_uint_gt(run.n_receipts, 1);
    ck_assert_uint_le(run.n_bytes, 1000);
    check_run(&run);
}
END_TEST

START_TEST(seek_refuses_what_is_not_yet_there_and_what_has_gone)
{
    struct feed_cursor cursor = {.sequence = 99, .chunk = 99};
    uint64_t oldest;

    ck_assert_int_eq(feed_seek(ledger, 1, &cursor), KV_RANGE);
    ck_assert_int_eq(feed_seek(ledger, UINT64_MAX, &cursor), KV_RANGE);
    ck_assert_uint_eq(cursor.sequence, 99);
    ck_assert_int_eq(feed_seek(ledger, 0, &cursor), KV_OK);
    issue(5000, 60);
    oldest = ledger_position(ledger).oldest_sequence;
    ck_assert_uint_gt(oldest, 2);
    ck_assert_int_eq(feed_seek(ledger, oldest - 2, &cursor), KV_DATA_LOSS);
    ck_assert_int_eq(feed_seek(ledger, oldest - 1, &cursor), KV_OK);
    ck_assert_uint_eq(cursor.sequence, oldest - 1);
    ck_assert_int_eq(feed_seek(ledger, 5000, &cursor), KV_OK);
    ck_assert_int_eq(feed_seek(ledger, 5001, &cursor), KV_RANGE);
}
END_TEST

START_TEST(a_cursor_finds_its_place_whatever_its_hint_says)
{
    struct feed_run run;
    uint64_t oldest;

    issue(3000, 60);
    oldest = ledger_position(ledger).oldest_sequence;
    srand(7);
    for (int i = 0; i < 20000; i++) {
        uint64_t span = 3000 - oldest + 1;
        struct feed_cursor cursor = {
            .sequence = oldest - 1 + (uint64_t)rand() % span,
            .chunk = i % 3 == 0   ? (uint64_t)rand() % 40
                     : i % 3 == 1 ? UINT64_MAX - (uint64_t)rand() % 3
                                  : (uint64_t)rand() << 32};
        uint64_t sequence = cursor.sequence + 1;

        ck_assert_int_eq(feed_next(ledger, &cursor, 3, 5000, &run), KV_OK);
        ck_assert_uint_eq(run.first_sequence, sequence);
        feed_run_release(run.chunk);
    }
}
END_TEST

START_TEST(a_run_that_is_held_outlives_its_place_in_the_ring_and_the_ledger)
{
    struct feed_cursor cursor = {0};
    struct feed_run run;

    issue(20, 60);
    ck_assert_int_eq(feed_next(ledger, &cursor, 20, 1 << 20, &run), KV_OK);
    issue(5000, 60);
    ck_assert_int_eq(feed_seek(ledger, 0, &cursor), KV_DATA_LOSS);
    ledger_close(ledger);
    ledger = NULL;
    check_run(&run);
}
END_TEST

START_TEST(a_cursor_from_nowhere_is_only_told_that_there_is_nothing)
{
    struct feed_cursor cursor = {.sequence = UINT64_MAX, .chunk = 5};
    struct feed_run run;

    issue(3, 1);
    ck_assert_int_eq(feed_next(ledger, &cursor, 1, 1, &run), KV_NOT_FOUND);
    cursor.sequence = 17;
    ck_assert_int_eq(feed_next(ledger, &cursor, 1, 1, &run), KV_NOT_FOUND);
}
END_TEST

/* ---- random events, random zeroing, readers at random paces */

#define N_READERS 8

struct reader {
    struct feed_cursor cursor;
    uint64_t n_read, n_lost;
    struct feed_run held; /* kept for a while; chunk is NULL if none */
    int pace;             /* the smaller the slower */
};

static void read_some(struct reader *reader)
{
    uint64_t next = reader->cursor.sequence + 1;
    struct feed_run run;
    enum kv_status status = feed_next(ledger, &reader->cursor,
        1 + (uint32_t)rand() % 64, (size_t)rand() % 20000, &run);

    if (status == KV_DATA_LOSS) {
        uint64_t oldest = ledger_position(ledger).oldest_sequence;

        ck_assert_uint_eq(reader->cursor.sequence + 1, next);
        ck_assert_uint_gt(oldest, next);
        reader->n_lost += oldest - next;
        reader->cursor.sequence = oldest - 1;
        return;
    }
    if (status != KV_OK) {
        ck_assert_int_eq(status, KV_NOT_FOUND);
        ck_assert_uint_eq(
            reader->cursor.sequence, ledger_position(ledger).durable_sequence);
        return;
    }
    ck_assert_uint_eq(run.first_sequence, next);
    reader->n_read += run.n_receipts;
    if (reader->held.chunk == NULL && rand() % 4 == 0)
        reader->held = run;
    else
        check_run(&run);
}

static void let_go(struct reader *reader)
{
    if (reader->held.chunk != NULL)
        check_run(&reader->held);
    reader->held.chunk = NULL;
}

static uint64_t take_random(uint64_t *ids, size_t *n)
{
    size_t i = (size_t)rand() % *n;
    uint64_t id = ids[i];

    ids[i] = ids[--*n];
    return id;
}

static void random_event(uint64_t *waiting, size_t *n_waiting)
{
    static const struct ledger_pool_snapshot snapshot;
    int what = rand() % 16;
    uint64_t scrub_id;

    if (what < 10) {
        scrub_id = events_evict(events, POOL_REASON_TTL, (size_t)rand() % 40);
        if (scrub_id != 0)
            waiting[(*n_waiting)++] = scrub_id;
    } else if (what == 10) {
        events_batch(events, POOL_REASON_TTL);
    } else if (what == 11) {
        ledger_issue_snapshot(ledger, &snapshot, 1);
    }
    while (*n_waiting > 0 && (*n_waiting == 512 || rand() % 32 < 20))
        scrubbed(take_random(waiting, n_waiting));
}

static void run_random(unsigned seed)
{
    static uint64_t waiting[513];
    struct reader readers[N_READERS] = {{{0}, 0, 0, {0}, 0}};
    size_t n_waiting = 0;
    uint64_t total;

    srand(seed);
    for (int i = 0; i < N_READERS; i++)
        readers[i].pace = 1 << i;
    for (int step = 0; step < 8000; step++) {
        random_event(waiting, &n_waiting);
        for (int i = 0; i < N_READERS; i++) {
            if (rand() % 1024 < readers[i].pace)
                read_some(&readers[i]);
            if (rand() % 256 == 0)
                let_go(&readers[i]);
        }
    }
    while (n_waiting > 0)
        scrubbed(take_random(waiting, &n_waiting));
    total = ledger_position(ledger).applied_sequence;
    ck_assert_uint_eq(ledger_position(ledger).durable_sequence, total);
    for (int i = 0; i < N_READERS; i++) {
        while (readers[i].cursor.sequence < total)
            read_some(&readers[i]);
        let_go(&readers[i]);
        ck_assert_uint_eq(readers[i].n_read + readers[i].n_lost, total);
    }
    ck_assert_uint_gt(readers[0].n_lost, 0); /* or the test shows nothing */
    ck_assert_uint_eq(readers[N_READERS - 1].n_lost, 0);
}

START_TEST(readers_see_each_receipt_once_in_order_or_are_told_of_a_loss)
{
    for (unsigned seed = 1; seed <= 3; seed++) {
        printf("seed %u\n", seed);
        run_random(seed);
        tear_down();
        set_up();
    }
}
END_TEST

/* ---- runs given back on other threads */

#define N_THREADS 3
#define N_RUNS 1500

struct mailbox {
    _Atomic(struct feed_run *) runs[N_RUNS];
};

static void *read_and_release(void *argument)
{
    struct mailbox *box = argument;

    for (int i = 0; i < N_RUNS; i++) {
        struct feed_run *run;
        unsigned sum = 0;

        while ((run = atomic_load_explicit(
                    &box->runs[i], memory_order_acquire)) == NULL)
            sched_yield();
        for (size_t at = 0; at < run->n_bytes; at++)
            sum += run->bytes[at];
        if (sum == 0)
            abort(); /* the bytes are receipts, never all zero */
        feed_run_release(run->chunk);
        free(run);
    }
    return NULL;
}

START_TEST(runs_are_given_back_on_any_thread_while_the_ring_goes_round)
{
    static struct mailbox boxes[N_THREADS];
    struct feed_cursor cursors[N_THREADS] = {{0}};
    pthread_t threads[N_THREADS];

    for (int t = 0; t < N_THREADS; t++)
        ck_assert_int_eq(
            pthread_create(&threads[t], NULL, read_and_release, &boxes[t]), 0);
    for (int i = 0; i < N_RUNS; i++) {
        issue(3, 30);
        for (int t = 0; t < N_THREADS; t++) {
            struct feed_run *run = malloc(sizeof *run);

            ck_assert_ptr_nonnull(run);
            ck_assert_int_eq(
                feed_next(ledger, &cursors[t], 3, 9000, run), KV_OK);
            atomic_store_explicit(&boxes[t].runs[i], run, memory_order_release);
        }
    }
    for (int t = 0; t < N_THREADS; t++)
        pthread_join(threads[t], NULL);
    ck_assert_uint_gt(ledger_position(ledger).oldest_sequence, 1);
}
END_TEST

int main(void)
{
    const TTest *tests[] = {
        a_run_keeps_to_its_limits_and_has_at_least_one_receipt,
        seek_refuses_what_is_not_yet_there_and_what_has_gone,
        a_cursor_finds_its_place_whatever_its_hint_says,
        a_run_that_is_held_outlives_its_place_in_the_ring_and_the_ledger,
        a_cursor_from_nowhere_is_only_told_that_there_is_nothing,
        readers_see_each_receipt_once_in_order_or_are_told_of_a_loss,
        runs_are_given_back_on_any_thread_while_the_ring_goes_round,
    };

    return CHECK_RUN("feed", set_up, tear_down, tests);
}
