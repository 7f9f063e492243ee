#include "receipts/notary.h"
#include "tests/receipts/events.h"
#include "tests/support/check_main.h"
#include "tests/support/faulty_heap.h"

static int64_t wall_ns(void)
{
    return INT64_C(1763755000123456789);
}

static struct ledger *ledger;
static struct notary *notary;
static struct checkpoint_signer signer;
static struct events events;
static int n_signed;

static void count_signed(void *ctx)
{
    (void)ctx;
    n_signed++;
}

static void set_up(void)
{
    const struct ledger_config config = {
        .ring_bytes = LEDGER_MIN_RING_BYTES,
        .pool_id = {0xA1, 0xA2},
        .epoch = 1,
        .wall_ns = wall_ns,
    };

    faulty_heap_install();
    n_signed = 0;
    ck_assert_int_eq(ledger_open(&ledger, &config, NULL), KV_OK);
    ck_assert_int_eq(checkpoint_signer_generate(&signer, "key", NULL), KV_OK);
    ck_assert_int_eq(
        notary_open(&notary, ledger, &signer, wall_ns, NULL), KV_OK);
    notary_listen(notary, count_signed, NULL);
    events_init(&events, ledger_observer(ledger));
}

static void tear_down(void)
{
    notary_close(notary);
    ledger_close(ledger);
    ck_assert_int_eq(faulty_heap_live(), 0);
}

static void scrubbed(uint64_t scrub_id)
{
    const struct pool_observer *observer = ledger_observer(ledger);

    observer->scrubbed(observer->ctx, scrub_id);
}

/* The newest checkpoint is signed, and says so many receipts and their root. */
static void expect_checkpoint(uint64_t tree_size)
{
    const struct notary_checkpoint *newest = notary_newest(notary);
    struct checkpoint read;
    struct merkle_hash root;

    ck_assert_int_eq(checkpoint_verify(newest->note.bytes, newest->note.n_bytes,
                         &signer.key, &read, NULL),
        KV_OK);
    ck_assert_str_eq(read.origin, "kvpool/a1a20000000000000000000000000000");
    ck_assert_uint_eq(read.tree_size, tree_size);
    ck_assert(merkle_root(ledger_tree(ledger), tree_size, &root));
    ck_assert(merkle_hash_equal(&root, &read.root));
    ck_assert_int_eq(newest->time_unix_ns, wall_ns());
}

START_TEST(nothing_is_signed_until_it_is_asked_for)
{
    ck_assert_int_eq(notary_newest(notary)->time_unix_ns, 0);
    notary_tick(notary);
    ck_assert_int_eq(n_signed, 1);
    expect_checkpoint(0);
}
END_TEST

START_TEST(a_tick_signs_only_what_is_new)
{
    scrubbed(events_evict(&events, POOL_REASON_TTL, 1));
    notary_tick(notary);
    expect_checkpoint(1);
    notary_tick(notary);
    ck_assert_int_eq(n_signed, 1);
    scrubbed(events_evict(&events, POOL_REASON_TTL, 1));
    notary_tick(notary);
    ck_assert_int_eq(n_signed, 2);
    expect_checkpoint(2);
}
END_TEST

START_TEST(what_waits_for_zeroes_is_not_signed)
{
    uint64_t waiting;

    scrubbed(events_evict(&events, POOL_REASON_TTL, 1));
    waiting = events_evict(&events, POOL_REASON_TTL, 1);
    scrubbed(events_evict(&events, POOL_REASON_TTL, 1));
    notary_tick(notary);
    expect_checkpoint(1);
    scrubbed(waiting);
    notary_tick(notary);
    expect_checkpoint(3);
}
END_TEST

START_TEST(a_thousand_receipts_do_not_wait_for_a_tick)
{
    for (int i = 0; i < NOTARY_RECEIPTS - 1; i++)
        scrubbed(events_evict(&events, POOL_REASON_TTL, 1));
    ck_assert_int_eq(n_signed, 0);
    scrubbed(events_evict(&events, POOL_REASON_TTL, 1));
    ck_assert_int_eq(n_signed, 1);
    expect_checkpoint(NOTARY_RECEIPTS);
    for (int i = 0; i < NOTARY_RECEIPTS; i++)
        scrubbed(events_evict(&events, POOL_REASON_TTL, 1));
    ck_assert_int_eq(n_signed, 2);
    expect_checkpoint(2 * NOTARY_RECEIPTS);
}
END_TEST

START_TEST(a_notary_without_memory_is_not_there)
{
    struct notary *other = NULL;

    faulty_heap_fail_at(0);
    ck_assert_int_eq(
        notary_open(&other, ledger, &signer, wall_ns, NULL), KV_NO_MEMORY);
    faulty_heap_fail_at(-1);
    ck_assert_ptr_null(other);
}
END_TEST

int main(void)
{
    const TTest *tests[] = {
        nothing_is_signed_until_it_is_asked_for,
        a_tick_signs_only_what_is_new,
        what_waits_for_zeroes_is_not_signed,
        a_thousand_receipts_do_not_wait_for_a_tick,
        a_notary_without_memory_is_not_there,
    };

    return CHECK_RUN("notary", set_up, tear_down, tests);
}
