/* The ledger on a real journal in a directory of its own. Nothing becomes
 * durable unless the test polls, so the disk is as slow as a test likes. */
#include <ftw.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "receipts/journal_scan.h"
#include "receipts/ledger.h"
#include "receipts/notary.h"
#include "tests/receipts/events.h"
#include "tests/support/check_main.h"
#include "tests/support/faulty_heap.h"

static struct ledger *ledger;
static struct events *events;
static struct events events_memory;
static char root[64], dir[96];

static struct {
    pthread_mutex_t mutex;
    pthread_cond_t changed;
    uint64_t n_wakes;
} bell = {PTHREAD_MUTEX_INITIALIZER, PTHREAD_COND_INITIALIZER, 0};

static int64_t wall_ns(void)
{
    return INT64_C(1763755000123456789);
}

static void wake(void *ctx)
{
    (void)ctx;
    pthread_mutex_lock(&bell.mutex);
    bell.n_wakes++;
    pthread_cond_signal(&bell.changed);
    pthread_mutex_unlock(&bell.mutex);
}

static void wait_and_poll(void)
{
    pthread_mutex_lock(&bell.mutex);
    while (bell.n_wakes == 0)
        pthread_cond_wait(&bell.changed, &bell.mutex);
    bell.n_wakes = 0;
    pthread_mutex_unlock(&bell.mutex);
    ledger_poll(ledger);
}

static struct journal_config journal_config(void)
{
    return (struct journal_config){
        .dir = dir,
        .segment_bytes = JOURNAL_MIN_SEGMENT_BYTES,
        .wall_ns = wall_ns,
        .wake = wake,
    };
}

static enum kv_status try_open(
    const struct journal_config *journal, struct kv_error *error)
{
    const struct ledger_config config = {
        .ring_bytes = LEDGER_MIN_RING_BYTES,
        .config_digest = {7},
        .journal = journal,
        .max_ahead = 1000000,
        .wall_ns = wall_ns,
    };

    return ledger_open(&ledger, &config, error);
}

static void open_ledger(void)
{
    const struct journal_config journal = journal_config();
    struct kv_error error;

    ck_assert_msg(try_open(&journal, &error) == KV_OK, "%s", error.text);
    events = &events_memory;
    events_init(events, ledger_observer(ledger));
}

static void close_ledger(void)
{
    ledger_close(ledger);
    ledger = NULL;
}

static void set_up(void)
{
    const char *where = getenv("TMPDIR");

    snprintf(root, sizeof root, "%s/kvpool-ledger-XXXXXX",
        where != NULL && strlen(where) < 30 ? where : "/tmp");
    ck_assert_ptr_nonnull(mkdtemp(root));
    snprintf(dir, sizeof dir, "%s/receipts", root);
    faulty_heap_install();
    open_ledger();
}

static int remove_one(
    const char *path, const struct stat *status, int type, struct FTW *walk)
{
    (void)status;
    (void)type;
    (void)walk;
    return remove(path);
}

static void tear_down(void)
{
    close_ledger();
    ck_assert_int_eq(faulty_heap_live(), 0);
    nftw(root, remove_one, 16, FTW_DEPTH | FTW_PHYS);
}

static struct ledger_position position(void)
{
    return ledger_position(ledger);
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

/* Until everything released is durable. */
static void settle(uint64_t sequence)
{
    ledger_poll(ledger);
    while (position().durable_sequence < sequence)
        wait_and_poll();
    ck_assert_uint_eq(position().durable_sequence, sequence);
}

/* ---- reading */

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
        ck_assert_uint_eq(
            receipt->epoch, ledger_epoch_of(ledger, receipt->sequence));
        kvpool__v1__receipt__free_unpacked(receipt, NULL);
    }
    ck_assert_uint_eq(sequence, run->first_sequence + run->n_receipts);
    feed_run_release(run->chunk);
}

/* The next run, waiting for the disk if need be. */
static enum kv_status next(
    struct feed_cursor *cursor, uint32_t n, struct feed_run *run)
{
    enum kv_status status;

    while ((status = feed_next(ledger, cursor, n, 1 << 20, run)) == KV_BUSY)
        wait_and_poll();
    return status;
}

static Kvpool__V1__Receipt *read_one(uint64_t sequence)
{
    struct feed_cursor cursor = {.sequence = sequence - 1};
    const unsigned char *at, *bytes;
    Kvpool__V1__Receipt *receipt;
    struct feed_run run;
    size_t n_bytes;

    ck_assert_int_eq(next(&cursor, 1, &run), KV_OK);
    ck_assert_uint_eq(run.first_sequence, sequence);
    at = run.bytes;
    ck_assert(feed_run_entry(&run, &at, &bytes, &n_bytes));
    receipt = kvpool__v1__receipt__unpack(NULL, n_bytes, bytes);
    feed_run_release(run.chunk);
    feed_leave(ledger, &cursor);
    ck_assert_ptr_nonnull(receipt);
    return receipt;
}

static void free_receipt(Kvpool__V1__Receipt *receipt)
{
    kvpool__v1__receipt__free_unpacked(receipt, NULL);
}

static uint64_t read_all(uint64_t from)
{
    struct feed_cursor cursor = {.sequence = from};
    struct feed_run run;

    while (next(&cursor, 100, &run) == KV_OK)
        check_run(&run);
    ck_assert_uint_eq(cursor.sequence, position().durable_sequence);
    feed_leave(ledger, &cursor);
    return cursor.sequence - from;
}

/* ---- durable */

/* How many receipts lie in the files, as somebody else would see it. */
static uint64_t count_on_disk(void)
{
    struct journal_scan_receipt receipt = {.sequence = 0};
    struct journal_scan *scan;
    struct kv_error error;
    uint64_t last = 0;

    ck_assert_msg(
        journal_scan_open(&scan, dir, &error) == KV_OK, "%s", error.text);
    while (journal_scan_next(scan, &receipt, &error) == KV_OK)
        last = receipt.sequence;
    journal_scan_close(scan);
    return last;
}

static uint64_t n_told;

static void on_durable(struct ledger_watcher *watcher)
{
    (void)watcher;
    n_told++;
    ck_assert_uint_ge(count_on_disk(), position().durable_sequence);
}

START_TEST(nothing_is_durable_before_it_is_on_disk)
{
    struct ledger_watcher watcher = {.on_durable = on_durable};
    struct feed_cursor cursor = {0};
    struct feed_run run;

    n_told = 0;
    ledger_watch(ledger, &watcher);
    for (int i = 0; i < 20; i++) {
        uint64_t durable = position().durable_sequence;

        issue(7, 2);
        ck_assert_uint_eq(position().durable_sequence, durable);
        ck_assert_int_eq(
            feed_next(ledger, &cursor, 9, 999, &run), KV_NOT_FOUND);
        settle(position().applied_sequence);
        cursor.sequence = position().durable_sequence;
    }
    ck_assert_uint_ge(n_told, 20);
    ledger_unwatch(ledger, &watcher);
}
END_TEST

START_TEST(what_waits_for_zeroes_is_not_written)
{
    uint64_t first;

    issue(3, 1);
    first = events_evict(events, POOL_REASON_LRU, 1);
    events_batch(events, POOL_REASON_LRU);
    settle(3);
    ck_assert_uint_eq(position().applied_sequence, 5);
    ck_assert_uint_eq(count_on_disk(), 3);
    scrubbed(first);
    settle(5);
}
END_TEST

START_TEST(the_ring_drops_nothing_that_is_not_durable)
{
    /* Some 3 MB into a ring of one, and nobody polls. */
    issue(3000, 60);
    ck_assert_uint_eq(position().durable_sequence, 0);
    settle(3000);
    ck_assert_uint_eq(read_all(0), 3000);
    ck_assert_uint_eq(position().oldest_sequence, 1);
}
END_TEST

START_TEST(evictions_stop_when_the_disk_is_behind)
{
    const struct pool_observer *observer;
    const struct journal_config journal = journal_config();
    const struct ledger_config config = {
        .ring_bytes = LEDGER_MIN_RING_BYTES,
        .journal = &journal,
        .max_ahead = 10,
        .wall_ns = wall_ns,
    };
    const char *why;

    close_ledger();
    ck_assert_int_eq(ledger_open(&ledger, &config, NULL), KV_OK);
    observer = ledger_observer(ledger);
    events_init(events, observer);
    issue(9, 1);
    ck_assert_int_eq(ledger_state(ledger, &why), LEDGER_OK);
    ck_assert_str_eq(why, "");
    ck_assert(observer->may_evict(observer->ctx));
    issue(1, 1);
    ck_assert_int_eq(ledger_state(ledger, &why), LEDGER_BEHIND);
    ck_assert_str_ne(why, "");
    ck_assert(!observer->may_evict(observer->ctx));
    issue(5, 1); /* what did not ask is numbered and kept all the same */
    settle(15);
    ck_assert_int_eq(ledger_state(ledger, &why), LEDGER_OK);
    ck_assert(observer->may_evict(observer->ctx));
}
END_TEST

/* ---- readers */

#define N_READERS 6

struct reader {
    struct feed_cursor cursor; /* first */
    int n_ready;
    uint64_t n_read;
};

static void on_ready(struct feed_cursor *cursor)
{
    ((struct reader *)(void *)cursor)->n_ready++;
}

static void read_some(struct reader *reader)
{
    uint64_t after = reader->cursor.sequence + 1;
    struct feed_run run;
    enum kv_status status = feed_next(
        ledger, &reader->cursor, 1 + (uint32_t)rand() % 300, 1 << 16, &run);

    if (status != KV_OK) {
        ck_assert(status == KV_BUSY || status == KV_NOT_FOUND);
        ck_assert_uint_eq(reader->cursor.sequence + 1, after);
        return;
    }
    ck_assert_uint_eq(run.first_sequence, after);
    reader->n_read += run.n_receipts;
    check_run(&run);
}

START_TEST(readers_behind_the_ring_are_served_from_disk_without_a_gap)
{
    static struct reader readers[N_READERS];

    srand(11);
    for (int i = 0; i < N_READERS; i++)
        readers[i] = (struct reader){.cursor.on_ready = on_ready};
    for (int step = 0; step < 6000; step++) {
        issue(1, (size_t)rand() % 100);
        if (rand() % 16 == 0)
            ledger_poll(ledger);
        for (int i = 0; i < N_READERS; i++)
            if (rand() % 1024 < 1 << 2 * i)
                read_some(&readers[i]);
        if (rand() % 512 == 0)
            feed_leave(ledger, &readers[rand() % N_READERS].cursor);
    }
    settle(6000);
    for (int i = 0; i < N_READERS; i++) {
        while (readers[i].cursor.sequence < 6000) {
            ledger_poll(ledger);
            read_some(&readers[i]);
        }
        ck_assert_uint_eq(readers[i].n_read, 6000);
        feed_leave(ledger, &readers[i].cursor);
    }
    ck_assert_int_gt(readers[0].n_ready, 3); /* or the test shows nothing */
}
END_TEST

START_TEST(a_reader_that_keeps_up_never_waits_for_the_disk)
{
    struct reader reader = {.cursor.on_ready = on_ready};

    srand(12);
    for (uint64_t i = 1; i <= 300; i++) {
        issue(1, (size_t)rand() % 100);
        settle(i);
        read_some(&reader);
        ck_assert_uint_eq(reader.n_read, i);
    }
    ck_assert_int_eq(reader.n_ready, 0);
}
END_TEST

START_TEST(a_reader_that_is_busy_is_told_from_the_poll)
{
    struct reader reader = {.cursor.on_ready = on_ready};
    struct feed_run run;

    issue(3000, 60);
    settle(3000);
    ck_assert_int_eq(feed_seek(ledger, 0, &reader.cursor), KV_OK);
    ck_assert_int_eq(feed_next(ledger, &reader.cursor, 9, 9999, &run), KV_BUSY);
    ck_assert_int_eq(reader.n_ready, 0);
    while (reader.n_ready == 0)
        wait_and_poll();
    ck_assert_int_eq(feed_next(ledger, &reader.cursor, 9, 99999, &run), KV_OK);
    check_run(&run);
    ck_assert_uint_eq(reader.cursor.sequence, 9);
    feed_leave(ledger, &reader.cursor);
}
END_TEST

START_TEST(leaving_while_a_load_runs_is_safe)
{
    struct feed_run run;

    issue(3000, 60);
    settle(3000);
    for (uint64_t sequence = 0; sequence < 300; sequence++) {
        struct reader *reader = calloc(1, sizeof *reader);

        ck_assert_ptr_nonnull(reader);
        reader->cursor.on_ready = on_ready;
        ck_assert_int_eq(
            feed_seek(ledger, sequence % 50 * 40, &reader->cursor), KV_OK);
        if (feed_next(ledger, &reader->cursor, 9, 9999, &run) == KV_OK)
            feed_run_release(run.chunk);
        if (sequence % 3 == 0)
            ledger_poll(ledger);
        feed_leave(ledger, &reader->cursor);
        free(reader);
    }
}
END_TEST

START_TEST(a_reader_that_retention_passed_is_told_of_a_loss)
{
    struct journal_config journal = journal_config();
    struct feed_cursor cursor = {0};
    struct feed_run run;
    struct kv_error error;

    close_ledger();
    journal.retain_bytes = 1;
    ck_assert_msg(try_open(&journal, &error) == KV_OK, "%s", error.text);
    events_init(events, ledger_observer(ledger));
    while (position().oldest_sequence <= 1) {
        issue(100, 60);
        settle(position().applied_sequence);
        ck_assert_uint_lt(position().applied_sequence, 100000);
    }
    ck_assert_int_eq(next(&cursor, 9, &run), KV_DATA_LOSS);
    ck_assert_uint_eq(cursor.sequence, 0);
    ck_assert_int_eq(feed_seek(ledger, 0, &cursor), KV_DATA_LOSS);
    ck_assert_int_eq(
        feed_seek(ledger, position().oldest_sequence - 1, &cursor), KV_OK);
    ck_assert_int_eq(next(&cursor, 9, &run), KV_OK);
    check_run(&run);
    feed_leave(ledger, &cursor);
    ck_assert_uint_eq(read_all(position().oldest_sequence - 1),
        position().durable_sequence - position().oldest_sequence + 1);
}
END_TEST

/* ---- lives */

static void issue_boot(void)
{
    const struct ledger_boot boot = {
        .version = "1", .policy = "lru", .model = "m"};

    ledger_issue_boot(ledger, &boot, 1);
}

START_TEST(a_ledger_goes_on_where_the_last_life_ended)
{
    struct ledger_position before, after;
    Kvpool__V1__Receipt *receipt;
    struct merkle_hash old_root, root_now;

    ck_assert_uint_eq(ledger_start(ledger)->last_sequence, 0);
    ck_assert_uint_eq(position().epoch, 1);
    issue_boot();
    issue(200, 20);
    settle(201);
    receipt = read_one(1);
    ck_assert_uint_eq(receipt->lifecycle->boot->previous_sequence, 0);
    free_receipt(receipt);
    before = position();
    ck_assert(merkle_root(ledger_tree(ledger), 201, &old_root));
    issue(5, 1); /* written by the close */
    close_ledger();

    open_ledger();
    after = position();
    ck_assert_mem_eq(before.pool_id, after.pool_id, 16);
    ck_assert_uint_eq(after.epoch, 2);
    ck_assert_uint_eq(after.applied_sequence, 206);
    ck_assert_uint_eq(after.durable_sequence, 206);
    ck_assert_uint_eq(after.oldest_sequence, 1);
    ck_assert(ledger_start(ledger)->clean);
    issue_boot();
    issue(100, 20);
    settle(307);
    receipt = read_one(207);
    ck_assert_uint_eq(receipt->epoch, 2);
    ck_assert_uint_eq(receipt->lifecycle->boot->previous_sequence, 206);
    ck_assert(receipt->lifecycle->boot->clean);
    free_receipt(receipt);
    ck_assert_uint_eq(read_all(0), 307);
    ck_assert_uint_eq(ledger_epoch_of(ledger, 0), 0);
    ck_assert_uint_eq(ledger_epoch_of(ledger, 206), 1);
    ck_assert_uint_eq(ledger_epoch_of(ledger, 207), 2);
    ck_assert_uint_eq(ledger_epoch_of(ledger, 308), 0);
    ck_assert(merkle_root(ledger_tree(ledger), 201, &root_now));
    ck_assert(merkle_hash_equal(&old_root, &root_now));
}
END_TEST

START_TEST(cursors_of_sinks_are_kept)
{
    uint64_t sequence = 99;

    issue(20, 1);
    settle(20);
    ck_assert(!ledger_cursor(ledger, "web", &sequence));
    ck_assert_int_eq(ledger_set_cursor(ledger, "web", 12), KV_OK);
    ck_assert_int_eq(ledger_set_cursor(ledger, "gone", 3), KV_OK);
    ledger_drop_cursor(ledger, "gone");
    close_ledger();
    open_ledger();
    ck_assert(ledger_cursor(ledger, "web", &sequence));
    ck_assert_uint_eq(sequence, 12);
    ck_assert(!ledger_cursor(ledger, "gone", &sequence));
}
END_TEST

START_TEST(a_notary_keeps_its_word_over_a_start)
{
    struct checkpoint_signer signer;
    struct checkpoint_note forged;
    struct checkpoint kept;
    struct notary *notary;
    struct kv_error error;
    const void *note;
    size_t n_bytes;

    ck_assert_int_eq(checkpoint_signer_generate(&signer, "test", NULL), KV_OK);
    ck_assert_uint_eq(ledger_checkpoint(ledger, &note), 0);
    ck_assert_int_eq(
        notary_open(&notary, ledger, &signer, wall_ns, NULL), KV_OK);
    issue(30, 1);
    settle(30);
    notary_tick(notary);
    ck_assert_uint_eq(notary_newest(notary)->checkpoint.tree_size, 30);
    notary_close(notary);
    close_ledger();

    open_ledger();
    n_bytes = ledger_checkpoint(ledger, &note);
    ck_assert_int_eq(
        checkpoint_verify(note, n_bytes, &signer.key, &kept, NULL), KV_OK);
    ck_assert_uint_eq(kept.tree_size, 30);
    ck_assert_int_eq(
        notary_open(&notary, ledger, &signer, wall_ns, NULL), KV_OK);
    notary_tick(notary);
    ck_assert_uint_eq(notary_newest(notary)->checkpoint.tree_size, 30);
    ck_assert(
        merkle_hash_equal(&notary_newest(notary)->checkpoint.root, &kept.root));
    notary_close(notary);

    /* A word that was never true of this ledger is not signed over. */
    kept.tree_size = 29;
    checkpoint_sign(&signer, &kept, &forged);
    ledger_keep_checkpoint(ledger, forged.bytes, forged.n_bytes, 29);
    ck_assert_int_eq(
        notary_open(&notary, ledger, &signer, wall_ns, &error), KV_DATA_LOSS);
    ck_assert_ptr_nonnull(strstr(error.text, "29"));
    checkpoint_signer_fini(&signer);
}
END_TEST

START_TEST(a_directory_has_one_ledger_at_a_time)
{
    const struct journal_config journal = journal_config();
    struct ledger *first = ledger;
    struct kv_error error;

    ck_assert_int_eq(try_open(&journal, &error), KV_BUSY);
    ck_assert_ptr_eq(ledger, first);
    ck_assert_ptr_nonnull(strstr(error.text, dir));
}
END_TEST

/* Turns over a byte in the middle of the first segment. */
static void damage(void)
{
    char path[160];
    FILE *file;
    int byte;

    snprintf(path, sizeof path, "%s/00000000000000000001.log", dir);
    file = fopen(path, "r+");
    ck_assert_ptr_nonnull(file);
    fseek(file, 2000, SEEK_SET);
    byte = fgetc(file);
    fseek(file, 2000, SEEK_SET);
    fputc(byte ^ 1, file);
    fclose(file);
}

START_TEST(a_loss_that_is_accepted_is_the_second_receipt_of_a_new_ledger)
{
    struct journal_config journal = journal_config();
    struct ledger_position before;
    Kvpool__V1__LossAccepted *loss;
    Kvpool__V1__Receipt *receipt;
    struct kv_error error;

    for (int i = 0; i < 10; i++) { /* in groups of their own */
        issue(10, 20);
        settle(position().applied_sequence);
    }
    before = position();
    close_ledger();
    damage();
    ck_assert_int_eq(try_open(&journal, &error), KV_DATA_LOSS);
    ck_assert_ptr_nonnull(strstr(error.text, "00000000000000000001.log"));
    ck_assert_msg(strstr(error.text, "accept-loss") != NULL, "%s", error.text);

    journal.accept_loss = true;
    ck_assert_msg(try_open(&journal, &error) == KV_OK, "%s", error.text);
    events_init(events, ledger_observer(ledger));
    ck_assert_mem_ne(position().pool_id, before.pool_id, 16);
    ck_assert_uint_eq(position().applied_sequence, 0);
    issue_boot();
    settle(2);
    receipt = read_one(1);
    ck_assert_int_eq(receipt->lifecycle->change_case,
        KVPOOL__V1__LIFECYCLE_RECEIPT__CHANGE_BOOT);
    free_receipt(receipt);
    receipt = read_one(2);
    ck_assert_int_eq(receipt->lifecycle->change_case,
        KVPOOL__V1__LIFECYCLE_RECEIPT__CHANGE_LOSS_ACCEPTED);
    loss = receipt->lifecycle->loss_accepted;
    ck_assert_uint_eq(loss->previous_pool_id.len, 16);
    ck_assert_mem_eq(loss->previous_pool_id.data, before.pool_id, 16);
    ck_assert_str_ne(loss->detail, "");
    ck_assert_mem_eq(receipt->pool_id.data, position().pool_id, 16);
    free_receipt(receipt);
}
END_TEST

START_TEST(no_memory_at_any_point_of_opening_leaves_nothing_behind)
{
    const struct journal_config journal = journal_config();
    int n = 0;

    issue(50, 5);
    close_ledger();
    for (;; n++) {
        enum kv_status status;
        struct kv_error error;

        faulty_heap_fail_at(n);
        status = try_open(&journal, &error);
        faulty_heap_fail_at(-1);
        if (status == KV_OK)
            break;
        ck_assert_msg(status == KV_NO_MEMORY, "%d: %s", n, error.text);
        ck_assert_ptr_null(ledger);
        ck_assert_int_eq(faulty_heap_live(), 0);
    }
    ck_assert_int_gt(n, 5);
    ck_assert_uint_eq(position().applied_sequence, 50);
}
END_TEST

START_TEST(a_bound_of_nothing_ahead_is_refused)
{
    const struct journal_config journal = journal_config();
    const struct ledger_config config = {.ring_bytes = LEDGER_MIN_RING_BYTES,
        .journal = &journal,
        .wall_ns = wall_ns};
    struct ledger *other;

    ck_assert_int_eq(ledger_open(&other, &config, NULL), KV_INVALID);
}
END_TEST

int main(void)
{
    const TTest *tests[] = {
        nothing_is_durable_before_it_is_on_disk,
        what_waits_for_zeroes_is_not_written,
        the_ring_drops_nothing_that_is_not_durable,
        evictions_stop_when_the_disk_is_behind,
        readers_behind_the_ring_are_served_from_disk_without_a_gap,
        a_reader_that_keeps_up_never_waits_for_the_disk,
        a_reader_that_is_busy_is_told_from_the_poll,
        leaving_while_a_load_runs_is_safe,
        a_reader_that_retention_passed_is_told_of_a_loss,
        a_ledger_goes_on_where_the_last_life_ended,
        cursors_of_sinks_are_kept,
        a_notary_keeps_its_word_over_a_start,
        a_directory_has_one_ledger_at_a_time,
        a_loss_that_is_accepted_is_the_second_receipt_of_a_new_ledger,
        no_memory_at_any_point_of_opening_leaves_nothing_behind,
        a_bound_of_nothing_ahead_is_refused,
    };

    return CHECK_RUN("ledger_journal", set_up, tear_down, tests);
}
