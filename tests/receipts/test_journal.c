#include "tests/receipts/journal_rig.h"

#include <stdio.h>
#include <string.h>

#include "receipts/journal_scan.h"
#include "tests/support/check_main.h"
#include "tests/support/faulty_heap.h"

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

START_TEST(a_journal_that_is_opened_again_goes_on_in_a_new_epoch)
{
    uint8_t pool_id[16];

    journal_rig_must_open(&rig);
    ck_assert_uint_eq(rig.start.epoch, 1);
    ck_assert_uint_eq(rig.start.last_sequence, 0);
    memcpy(pool_id, rig.start.pool_id, sizeof pool_id);
    journal_rig_append(&rig, 200, 0);
    journal_rig_close(&rig);
    for (uint32_t i = 2; i < 5; i++) {
        journal_rig_must_open(&rig);
        ck_assert_mem_eq(rig.start.pool_id, pool_id, sizeof pool_id);
        ck_assert_uint_eq(rig.start.epoch, i);
        ck_assert_uint_eq(rig.start.last_sequence, 200 + (i - 2) * 10);
        ck_assert_uint_eq(rig.start.oldest_sequence, 1);
        ck_assert_uint_eq(rig.n_seen, 200 + (i - 2) * 10);
        ck_assert(rig.start.clean);
        journal_rig_write(&rig, 10);
        ck_assert_uint_eq(journal_epoch_of(rig.journal, 200), 1);
        ck_assert_uint_eq(journal_epoch_of(rig.journal, rig.sequence), i);
        journal_rig_close(&rig);
    }
}
END_TEST

START_TEST(what_was_written_is_loaded_in_the_same_chunks_and_scanned)
{
    struct journal_scan_receipt receipt;
    struct journal_scan *scan;
    struct ring_chunk *chunk, *again;
    uint64_t n = 0;

    journal_rig_must_open(&rig);
    journal_rig_append(&rig, 3000, 0);
    ck_assert_int_eq(journal_rig_settle(&rig).state, JOURNAL_OK);
    for (uint64_t next = 1; next <= 3000; next += chunk->n_entries,
                  ring_chunk_release(chunk), ring_chunk_release(again)) {
        ck_assert_int_eq(
            journal_load(rig.journal, next, &chunk, &rig.error), KV_OK);
        ck_assert_uint_eq(chunk->first_sequence, next);
        ck_assert_int_eq(journal_load(rig.journal, next + chunk->n_entries - 1,
                             &again, &rig.error),
            KV_OK);
        ck_assert_uint_eq(again->first_sequence, next);
        ck_assert_uint_eq(again->n_bytes, chunk->n_bytes);
        ck_assert_mem_eq(again->bytes, chunk->bytes, chunk->n_bytes);
    }
    ck_assert_int_eq(
        journal_load(rig.journal, 3001, &chunk, &rig.error), KV_NOT_FOUND);
    ck_assert_int_eq(
        journal_load(rig.journal, 0, &chunk, &rig.error), KV_RANGE);
    ck_assert_int_eq(journal_scan_open(&scan, rig.dir, &rig.error), KV_OK);
    while (journal_scan_next(scan, &receipt, &rig.error) == KV_OK)
        ck_assert_uint_eq(receipt.sequence, ++n);
    ck_assert_uint_eq(n, 3000);
    journal_scan_close(scan);
}
END_TEST

START_TEST(a_second_opener_is_told_that_the_journal_is_in_use)
{
    struct journal *second;
    struct journal_start start;

    journal_rig_must_open(&rig);
    ck_assert_int_eq(
        journal_open(&second, &rig.config, &start, &rig.error), KV_BUSY);
    ck_assert_ptr_nonnull(strstr(rig.error.text, rig.dir));
}
END_TEST

START_TEST(settings_that_are_not_allowed_are_refused)
{
    const struct journal_config good = rig.config;

    rig.config.segment_bytes = JOURNAL_MIN_SEGMENT_BYTES - 1;
    ck_assert_int_eq(journal_rig_open(&rig), KV_INVALID);
    rig.config = good;
    rig.config.group_bytes = JOURNAL_MIN_SEGMENT_BYTES / 4 + 1;
    ck_assert_int_eq(journal_rig_open(&rig), KV_INVALID);
    rig.config = good;
    rig.config.retain_ns = -1;
    ck_assert_int_eq(journal_rig_open(&rig), KV_INVALID);
    rig.config = good;
    snprintf(rig.dir, sizeof rig.dir, "%s/not/there", rig.parent);
    ck_assert_int_eq(journal_rig_open(&rig), KV_IO);
    ck_assert_ptr_nonnull(strstr(rig.error.text, rig.dir));
}
END_TEST

START_TEST(an_open_without_memory_leaves_everything_as_it_was)
{
    int n = 0;

    journal_rig_must_open(&rig);
    journal_rig_write(&rig, 20);
    ck_assert_int_eq(journal_set_cursor(rig.journal, "sink", 7), KV_OK);
    journal_rig_sign(&rig);
    journal_rig_close(&rig);
    for (;; n++) {
        enum kv_status status;

        faulty_heap_fail_at(n);
        rig.config.accept_loss = n % 2 == 0;
        status =
            journal_open(&rig.journal, &rig.config, &rig.start, &rig.error);
        faulty_heap_fail_at(-1);
        if (status == KV_OK)
            break;
        ck_assert_int_eq(status, KV_NO_MEMORY);
        ck_assert_int_eq(faulty_heap_live(), 0);
        rig.journal = NULL;
    }
    ck_assert_int_gt(n, 5);
    ck_assert_uint_eq(rig.start.last_sequence, 20);
    journal_close(rig.journal);
    rig.journal = NULL;
}
END_TEST

START_TEST(a_load_without_memory_fails_and_the_next_one_does_not)
{
    struct ring_chunk *chunk;
    int n = 0;

    journal_rig_must_open(&rig);
    journal_rig_write(&rig, 20);
    for (;; n++) {
        enum kv_status status;

        faulty_heap_fail_at(n);
        status = journal_load(rig.journal, 7, &chunk, &rig.error);
        faulty_heap_fail_at(-1);
        if (status == KV_OK)
            break;
        ck_assert_int_eq(status, KV_NO_MEMORY);
    }
    ck_assert_int_eq(n, 2);
    ck_assert_uint_eq(chunk->n_entries, 20);
    ring_chunk_release(chunk);
}
END_TEST

START_TEST(large_receipts_are_groups_of_their_own)
{
    struct ring_chunk *chunk;

    journal_rig_must_open(&rig);
    for (int i = 0; i < 40; i++) {
        journal_rig_append(&rig, 1, RING_CHUNK_BYTES - RING_FRAME_BYTES);
        journal_rig_append(&rig, 1, 1);
        ck_assert_int_eq(journal_rig_settle(&rig).state, JOURNAL_OK);
    }
    for (uint64_t sequence = 1; sequence <= 80; sequence++) {
        ck_assert_int_eq(
            journal_load(rig.journal, sequence, &chunk, &rig.error), KV_OK);
        ck_assert_uint_eq(chunk->first_sequence, sequence);
        ck_assert_uint_eq(chunk->n_entries, 1);
        ring_chunk_release(chunk);
    }
    ck_assert_uint_gt(journal_rig_file_bytes(rig.dir, "tree"), 80 * 32);
}
END_TEST

static void start_again_and_again(size_t n_starts)
{
    while (n_starts-- > 0) {
        journal_rig_must_open(&rig);
        journal_rig_close(&rig);
    }
}

START_TEST(an_epoch_without_a_receipt_is_counted_and_leaves_no_segment)
{
    start_again_and_again(3);
    journal_rig_must_open(&rig);
    ck_assert_uint_eq(rig.start.epoch, 4);
    ck_assert_uint_eq(rig.start.oldest_sequence, 0);
    journal_rig_write(&rig, 1);
    journal_rig_close(&rig);
    start_again_and_again(3);
    journal_rig_must_open(&rig);
    ck_assert_uint_eq(rig.start.epoch, 8);
    ck_assert_uint_eq(rig.start.last_sequence, 1);
    ck_assert_uint_eq(
        journal_rig_file_bytes(rig.dir, "00000000000000000002.log"), 0);
}
END_TEST

START_TEST(a_scan_over_the_shoulder_ends_where_the_writer_is)
{
    struct journal_scan_receipt receipt;
    struct journal_scan *scan;
    uint64_t n = 0;

    journal_rig_must_open(&rig);
    journal_rig_write(&rig, 5);
    ck_assert_int_eq(journal_scan_open(&scan, rig.dir, &rig.error), KV_OK);
    for (uint64_t end = 5; end < 6000; end = rig.sequence) {
        while (journal_scan_next(scan, &receipt, &rig.error) == KV_OK)
            ck_assert_uint_eq(receipt.sequence, ++n);
        ck_assert_uint_eq(n, end);
        journal_rig_append(&rig, 1500, 400);
        ck_assert_int_eq(journal_rig_settle(&rig).state, JOURNAL_OK);
    }
    ck_assert_int_eq(journal_scan_seek(scan, 4000, &rig.error), KV_OK);
    ck_assert_int_eq(journal_scan_next(scan, &receipt, &rig.error), KV_OK);
    ck_assert_uint_eq(receipt.sequence, 4000);
    journal_scan_close(scan);
}
END_TEST

int main(void)
{
    const TTest *tests[] = {
        a_journal_that_is_opened_again_goes_on_in_a_new_epoch,
        what_was_written_is_loaded_in_the_same_chunks_and_scanned,
        a_second_opener_is_told_that_the_journal_is_in_use,
        settings_that_are_not_allowed_are_refused,
        an_open_without_memory_leaves_everything_as_it_was,
        a_load_without_memory_fails_and_the_next_one_does_not,
        large_receipts_are_groups_of_their_own,
        an_epoch_without_a_receipt_is_counted_and_leaves_no_segment,
        a_scan_over_the_shoulder_ends_where_the_writer_is,
    };

    return CHECK_RUN("journal", set_up, tear_down, tests);
}
