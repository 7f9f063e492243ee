/* What a journal keeps, and for how long: segments, cursors, checkpoints. */
#include <pthread.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/clock.h"
#include "base/heap.h"
#include "receipts/journal_files.h"
#include "receipts/journal_notes.h"
#include "receipts/journal_scan.h"
#include "tests/receipts/journal_rig.h"
#include "tests/support/check_main.h"
#include "tests/support/faulty_heap.h"

#define RECEIPT_BYTES 1000
#define TURN 200 /* receipts at once: some 200 KB */

static struct journal_rig rig;

static void set_up(void)
{
    faulty_heap_install();
    journal_rig_init(&rig);
}

static void tear_down(void)
{
    journal_rig_fini(&rig);
    ck_assert_int_eq(faulty_heap_live(), 0);
}

/* Some n segments of receipts. */
static struct journal_position fill(size_t n_segments)
{
    struct journal_position position = {0};

    for (size_t i = 0; i < 5 * n_segments; i++) {
        journal_rig_append(&rig, TURN, RECEIPT_BYTES);
        position = journal_rig_settle(&rig);
        ck_assert_int_eq(position.state, JOURNAL_OK);
    }
    return position;
}

/* Waits for retention to let the oldest receipt be one at or behind this. */
static struct journal_position await_oldest(uint64_t sequence)
{
    struct journal_position position;

    do {
        usleep(1000);
        journal_poll(rig.journal, &position);
    } while (position.oldest_sequence < sequence);
    return position;
}

static size_t count_segments(void)
{
    struct journal_scan_info info;
    struct journal_scan *scan;

    ck_assert_int_eq(journal_scan_open(&scan, rig.dir, &rig.error), KV_OK);
    journal_scan_info(scan, &info);
    journal_scan_close(scan);
    return info.n_segments;
}

START_TEST(segments_follow_one_another_without_a_hole)
{
    struct journal_scan_receipt receipt;
    struct journal_scan *scan;
    uint64_t n = 0;

    journal_rig_must_open(&rig);
    fill(4);
    ck_assert_uint_ge(count_segments(), 4);
    journal_rig_close(&rig);
    ck_assert_int_eq(journal_scan_open(&scan, rig.dir, &rig.error), KV_OK);
    while (journal_scan_next(scan, &receipt, &rig.error) == KV_OK)
        ck_assert_uint_eq(receipt.sequence, ++n);
    ck_assert_uint_eq(n, rig.sequence);
    journal_scan_close(scan);
    journal_rig_must_open(&rig);
    ck_assert_uint_eq(rig.n_seen, n);
}
END_TEST

START_TEST(a_hole_between_segments_is_refused)
{
    struct journal_dir dir;
    uint64_t *names;
    size_t n_names;
    char path[256];

    journal_rig_must_open(&rig);
    fill(3);
    journal_rig_close(&rig);
    ck_assert_int_eq(journal_dir_open(&dir, rig.dir, NULL), KV_OK);
    ck_assert_int_eq(journal_dir_list(&dir, &names, &n_names, NULL), KV_OK);
    ck_assert_uint_ge(n_names, 3);
    journal_rig_segment(rig.dir, names[1], path);
    kv_free(names);
    journal_dir_close(&dir);
    ck_assert_int_eq(unlink(path), 0);
    ck_assert_int_eq(journal_rig_open(&rig), KV_DATA_LOSS);
    ck_assert_ptr_nonnull(strstr(rig.error.text, "is due"));
}
END_TEST

/* Removes the n oldest, as retention does. */
static void remove_oldest(size_t n)
{
    struct journal_dir dir;
    uint64_t *names;
    size_t n_names;
    char path[256];

    ck_assert_int_eq(journal_dir_open(&dir, rig.dir, NULL), KV_OK);
    ck_assert_int_eq(journal_dir_list(&dir, &names, &n_names, NULL), KV_OK);
    ck_assert_uint_gt(n_names, n);
    for (size_t i = 0; i < n; i++) {
        journal_rig_segment(rig.dir, names[i], path);
        ck_assert_int_eq(unlink(path), 0);
    }
    kv_free(names);
    journal_dir_close(&dir);
}

START_TEST(a_scan_is_told_that_retention_was_quicker)
{
    struct journal_scan_receipt receipt;
    struct journal_scan *scan;
    enum kv_status status;

    journal_rig_must_open(&rig);
    fill(5);
    ck_assert_int_eq(journal_scan_open(&scan, rig.dir, &rig.error), KV_OK);
    remove_oldest(1);
    ck_assert_int_eq(journal_scan_next(scan, &receipt, &rig.error), KV_OK);
    ck_assert_uint_gt(receipt.sequence, 1); /* at the oldest there is */
    remove_oldest(2);
    while ((status = journal_scan_next(scan, &receipt, &rig.error)) == KV_OK)
        continue;
    ck_assert_int_eq(status, KV_RANGE);
    ck_assert_ptr_nonnull(strstr(rig.error.text, "retention"));
    journal_scan_close(scan);
}
END_TEST

START_TEST(segments_beyond_the_bytes_to_retain_go_and_the_rest_is_proven)
{
    struct journal_position position;
    struct ring_chunk *chunk;

    rig.config.retain_bytes = 2 * JOURNAL_MIN_SEGMENT_BYTES;
    journal_rig_must_open(&rig);
    position = fill(6);
    position = await_oldest(position.durable_sequence - 4 * 1000);
    ck_assert_uint_le(
        position.stored_bytes, 3 * JOURNAL_MIN_SEGMENT_BYTES + 65536);
    ck_assert_int_eq(
        journal_load(rig.journal, 1, &chunk, &rig.error), KV_RANGE);
    ck_assert_uint_eq(journal_epoch_of(rig.journal, 1), 0);
    journal_rig_close(&rig);

    /* The tree still has the leaves of those that are gone. */
    journal_rig_must_open(&rig);
    ck_assert_uint_eq(rig.start.oldest_sequence, position.oldest_sequence);
    ck_assert_uint_eq(rig.start.last_sequence, position.durable_sequence);
    ck_assert_uint_eq(
        merkle_size(journal_tree(rig.journal)), position.durable_sequence);
}
END_TEST

START_TEST(segments_of_an_age_go)
{
    rig.config.retain_ns = 60 * KV_NS_PER_S;
    journal_rig_must_open(&rig);
    fill(3);
    ck_assert_uint_ge(count_segments(), 3);
    journal_rig_pass(61 * KV_NS_PER_S);
    await_oldest(2);
    while (count_segments() > 1)
        usleep(1000);
}
END_TEST

START_TEST(a_cursor_holds_segments_up_to_its_bound)
{
    struct journal_position position;

    rig.config.retain_bytes = JOURNAL_MIN_SEGMENT_BYTES;
    rig.config.cursor_hold_bytes = 3 * JOURNAL_MIN_SEGMENT_BYTES;
    journal_rig_must_open(&rig);
    ck_assert_int_eq(journal_set_cursor(rig.journal, "sink", 10), KV_OK);
    position = fill(3);
    ck_assert_uint_eq(position.oldest_sequence, 1);
    fill(5);
    position = await_oldest(2);
    ck_assert_uint_le(position.stored_bytes, 6 * JOURNAL_MIN_SEGMENT_BYTES);
    ck_assert_uint_ge(position.stored_bytes, 3 * JOURNAL_MIN_SEGMENT_BYTES);
    /* Past it, nothing is held. */
    ck_assert_int_eq(
        journal_set_cursor(rig.journal, "sink", rig.sequence), KV_OK);
    await_oldest(rig.sequence - 2500);
}
END_TEST

START_TEST(cursors_survive_a_start_and_the_end_of_their_segment)
{
    uint64_t sequence;

    rig.config.retain_bytes = 1;
    journal_rig_must_open(&rig);
    ck_assert_int_eq(journal_set_cursor(rig.journal, "a", 3), KV_OK);
    ck_assert_int_eq(journal_set_cursor(rig.journal, "b", 4), KV_OK);
    ck_assert_int_eq(journal_set_cursor(rig.journal, "b", 5000), KV_OK);
    ck_assert_int_eq(journal_set_cursor(rig.journal, "gone", 4), KV_OK);
    ck_assert_int_eq(journal_set_cursor(rig.journal, "", 4), KV_INVALID);
    journal_rig_write(&rig, 2);
    journal_rig_close(&rig);
    journal_rig_must_open(&rig);
    ck_assert(journal_cursor(rig.journal, "gone", &sequence));
    journal_drop_cursor(rig.journal, "gone");
    journal_drop_cursor(rig.journal, "never");
    fill(4);
    ck_assert_int_eq(journal_set_cursor(rig.journal, "a", 5000), KV_OK);
    await_oldest(3);
    journal_rig_close(&rig);
    journal_rig_must_open(&rig);
    ck_assert_uint_gt(rig.start.oldest_sequence, 2);
    ck_assert(journal_cursor(rig.journal, "a", &sequence));
    ck_assert_uint_eq(sequence, 5000);
    ck_assert(journal_cursor(rig.journal, "b", &sequence));
    ck_assert_uint_eq(sequence, 5000);
    ck_assert(!journal_cursor(rig.journal, "gone", &sequence));
}
END_TEST

START_TEST(there_are_so_many_cursors_and_no_more)
{
    char name[JOURNAL_NAME_BYTES + 2];
    uint64_t sequence;

    journal_rig_must_open(&rig);
    for (int i = 0; i < JOURNAL_MAX_CURSORS; i++) {
        snprintf(name, sizeof name, "%0*d", JOURNAL_NAME_BYTES, i);
        ck_assert_int_eq(journal_set_cursor(rig.journal, name, 1), KV_OK);
    }
    ck_assert_int_eq(journal_set_cursor(rig.journal, "more", 1), KV_LIMIT);
    journal_drop_cursor(rig.journal, name);
    ck_assert_int_eq(journal_set_cursor(rig.journal, "more", 1), KV_OK);
    snprintf(name, sizeof name, "%0*d", JOURNAL_NAME_BYTES + 1, 1);
    ck_assert_int_eq(journal_set_cursor(rig.journal, name, 1), KV_INVALID);
    journal_rig_close(&rig);
    journal_rig_must_open(&rig);
    ck_assert(journal_cursor(rig.journal, "more", &sequence));
    ck_assert_int_eq(journal_set_cursor(rig.journal, "most", 1), KV_LIMIT);
}
END_TEST

START_TEST(the_newest_checkpoint_is_kept_and_all_can_be_scanned)
{
    struct journal_scan *scan;
    const void *note;
    size_t n, n_notes = 0;
    char newest[2048];

    journal_rig_must_open(&rig);
    ck_assert_uint_eq(journal_checkpoint(rig.journal, &note), 0);
    for (int i = 0; i < 3; i++) {
        journal_rig_write(&rig, 10);
        journal_rig_sign(&rig);
        n = journal_checkpoint(rig.journal, &note);
        memcpy(newest, note, n);
        journal_rig_close(&rig);
        journal_rig_must_open(&rig);
        ck_assert_uint_eq(journal_checkpoint(rig.journal, &note), n);
        ck_assert_mem_eq(note, newest, n);
    }
    ck_assert_int_eq(journal_scan_open(&scan, rig.dir, &rig.error), KV_OK);
    while (journal_scan_checkpoint(scan, &note, &n, &rig.error) == KV_OK)
        n_notes++;
    ck_assert_uint_eq(n_notes, 3);
    ck_assert_mem_eq(note, newest, n);
    journal_scan_close(scan);
}
END_TEST

/* The file of checkpoints, n times as long, with a bit of this byte flipped. */
static void repeat_notes(size_t n, size_t flipped)
{
    unsigned char *note, *notes;
    char path[256];
    size_t n_bytes;

    snprintf(path, sizeof path, "%s/%s", rig.dir, JOURNAL_NOTES_FILE);
    n_bytes = journal_rig_read_file(path, &note);
    notes = malloc(n * n_bytes);
    for (size_t i = 0; i < n; i++)
        memcpy(notes + i * n_bytes, note, n_bytes);
    notes[flipped < n * n_bytes ? flipped : 0] ^= flipped < n * n_bytes;
    journal_rig_write_file(path, notes, n * n_bytes);
    free(notes);
    free(note);
}

/* A start looks at the newest ones only, so an old ledger starts as quickly as
 * a young one; whoever verifies looks at all. */
START_TEST(a_start_reads_the_last_checkpoints_only)
{
    struct journal_scan *scan;
    const void *note;
    size_t n, n_note;

    journal_rig_must_open(&rig);
    journal_rig_append(&rig, 5, 0);
    journal_rig_sign(&rig);
    journal_rig_settle(&rig);
    journal_rig_close(&rig);
    n_note = journal_rig_file_bytes(rig.dir, JOURNAL_NOTES_FILE);
    n = 2 * JOURNAL_NOTES_TAIL_BYTES / n_note;
    repeat_notes(n, 40);
    journal_rig_must_open(&rig);
    ck_assert_uint_gt(journal_checkpoint(rig.journal, &note), 0);
    journal_rig_write(&rig, 1);
    journal_rig_sign(&rig);
    journal_rig_settle(&rig);
    journal_rig_close(&rig);
    ck_assert_uint_eq(
        journal_rig_file_bytes(rig.dir, JOURNAL_NOTES_FILE) / n_note, n + 1);
    ck_assert_int_eq(journal_scan_open(&scan, rig.dir, &rig.error), KV_OK);
    ck_assert_int_eq(
        journal_scan_checkpoint(scan, &note, &n, &rig.error), KV_DATA_LOSS);
    journal_scan_close(scan);
}
END_TEST

START_TEST(a_flipped_bit_of_a_late_checkpoint_is_refused)
{
    size_t n_note, n;

    journal_rig_must_open(&rig);
    journal_rig_append(&rig, 5, 0);
    journal_rig_sign(&rig);
    journal_rig_settle(&rig);
    journal_rig_close(&rig);
    n_note = journal_rig_file_bytes(rig.dir, JOURNAL_NOTES_FILE);
    n = 2 * JOURNAL_NOTES_TAIL_BYTES / n_note;
    repeat_notes(n, (n - 2) * n_note + 40);
    ck_assert_int_eq(journal_rig_open(&rig), KV_DATA_LOSS);
}
END_TEST

START_TEST(a_torn_checkpoint_is_cut)
{
    char path[256], copy[192];
    unsigned char *bytes;
    const void *note;
    size_t n;

    journal_rig_must_open(&rig);
    journal_rig_write(&rig, 10);
    journal_rig_sign(&rig);
    while (journal_rig_file_bytes(rig.dir, JOURNAL_NOTES_FILE) == 0)
        usleep(100);
    journal_rig_copy(&rig, copy);
    memcpy(rig.dir, copy, sizeof copy);
    snprintf(path, sizeof path, "%s/%s", rig.dir, JOURNAL_NOTES_FILE);
    n = journal_rig_read_file(path, &bytes);
    journal_rig_write_file(path, bytes, n - 9);
    free(bytes);
    journal_rig_close(&rig);
    journal_rig_must_open(&rig);
    ck_assert_uint_eq(rig.start.last_sequence, 10);
    ck_assert_uint_eq(journal_checkpoint(rig.journal, &note), 0);
    ck_assert_uint_eq(journal_rig_file_bytes(rig.dir, JOURNAL_NOTES_FILE), 0);
}
END_TEST

/* ---- threads */

static atomic_bool is_over;

static void *load_all_the_time(void *arg)
{
    unsigned seed = (unsigned)(size_t)arg;
    uint64_t n_loaded = 0;

    while (!is_over) {
        struct journal_position position;
        struct ring_chunk *chunk;
        enum kv_status status;
        uint64_t sequence;

        journal_poll(rig.journal, &position);
        if (position.oldest_sequence == 0)
            continue;
        seed = seed * 1103515245 + 12345;
        sequence =
            position.oldest_sequence +
            seed / 65536 %
                (position.durable_sequence + 1 - position.oldest_sequence);
        status = journal_load(rig.journal, sequence, &chunk, NULL);
        if (status == KV_RANGE)
            continue;
        if (status != KV_OK || chunk->first_sequence > sequence ||
            chunk->first_sequence + chunk->n_entries <= sequence)
            abort();
        n_loaded += chunk->n_entries;
        ring_chunk_release(chunk);
    }
    return (void *)(size_t)n_loaded;
}

START_TEST(loads_never_break_while_receipts_come_and_segments_go)
{
    pthread_t loaders[3];
    struct merkle_hash root;
    void *n_loaded;

    rig.config.retain_bytes = JOURNAL_MIN_SEGMENT_BYTES;
    journal_rig_must_open(&rig);
    journal_rig_write(&rig, 1);
    for (size_t i = 0; i < 3; i++)
        ck_assert_int_eq(pthread_create(&loaders[i], NULL, load_all_the_time,
                             (void *)(i + 1)),
            0);
    for (int i = 0; i < 8; i++) {
        uint64_t size = fill(1).durable_sequence;

        ck_assert(merkle_root(journal_tree(rig.journal), size, &root));
        ck_assert_int_eq(journal_set_cursor(rig.journal, "sink", size), KV_OK);
    }
    is_over = true;
    for (size_t i = 0; i < 3; i++) {
        pthread_join(loaders[i], &n_loaded);
        ck_assert_uint_gt((size_t)n_loaded, 0);
    }
}
END_TEST

int main(void)
{
    const TTest *tests[] = {
        segments_follow_one_another_without_a_hole,
        a_hole_between_segments_is_refused,
        a_scan_is_told_that_retention_was_quicker,
        segments_beyond_the_bytes_to_retain_go_and_the_rest_is_proven,
        segments_of_an_age_go,
        a_cursor_holds_segments_up_to_its_bound,
        cursors_survive_a_start_and_the_end_of_their_segment,
        there_are_so_many_cursors_and_no_more,
        the_newest_checkpoint_is_kept_and_all_can_be_scanned,
        a_start_reads_the_last_checkpoints_only,
        a_flipped_bit_of_a_late_checkpoint_is_refused,
        a_torn_checkpoint_is_cut,
        loads_never_break_while_receipts_come_and_segments_go,
    };

    return CHECK_RUN("journal_keep", set_up, tear_down, tests);
}
