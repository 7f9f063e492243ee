#include "tests/receipts/journal_rig.h"

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

int main(void)
{
    const TTest *tests[] = {
        a_journal_that_is_opened_again_goes_on_in_a_new_epoch,
        what_was_written_is_loaded_in_the_same_chunks_and_scanned,
    };

    return CHECK_RUN("journal", set_up, tear_down, tests);
}
