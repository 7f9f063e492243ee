#include "receipts/calls.h"

#include <stdio.h>
#include <string.h>

#include "tests/receipts/random_receipt.h"
#include "tests/support/check_main.h"
#include "tests/support/faulty_heap.h"

#define ANYBODY "anonymous"
#define TTL 1000

static const uint8_t digest[CALLS_DIGEST_BYTES] = {7, 8, 9};
static struct calls *calls;

static void set_up(void)
{
    const struct calls_config config = {
        .max_calls = 8, .max_bytes = 4096, .ttl_ns = TTL, .secret = {1, 2}};

    faulty_heap_install();
    ck_assert_int_eq(calls_open(&calls, &config), KV_OK);
}

static void tear_down(void)
{
    calls_close(calls);
    ck_assert_int_eq(faulty_heap_live(), 0);
}

/* ---- what a call decided */

#define MAX_OUTCOMES 300

static struct {
    Kvpool__V1__EvictOutcome outcomes[MAX_OUTCOMES], *list[MAX_OUTCOMES];
    Kvpool__V1__SessionKey keys[MAX_OUTCOMES];
    char ids[MAX_OUTCOMES][16];
} many;

static Kvpool__V1__EvictOutcome **make_outcomes(size_t n)
{
    for (size_t i = 0; i < n; i++) {
        kvpool__v1__evict_outcome__init(&many.outcomes[i]);
        kvpool__v1__session_key__init(&many.keys[i]);
        snprintf(many.ids[i], sizeof many.ids[i], "chat-%d", (int)i);
        many.keys[i].session_id = many.ids[i];
        many.outcomes[i].session = &many.keys[i];
        many.outcomes[i].result =
            KVPOOL__V1__EVICT_RESULT__EVICT_RESULT_EVICTED;
        many.outcomes[i].sequence = 100 + i;
        many.list[i] = &many.outcomes[i];
    }
    return many.list;
}

static void decide(struct call *call, size_t n_outcomes, int64_t now)
{
    Kvpool__V1__EvictResponse answer = KVPOOL__V1__EVICT_RESPONSE__INIT;
    Kvpool__V1__EvictReceipts receipts = KVPOOL__V1__EVICT_RECEIPTS__INIT;

    answer.outcomes = make_outcomes(n_outcomes);
    answer.n_outcomes = n_outcomes;
    answer.sessions_evicted = n_outcomes;
    answer.bytes_freed = 64 * n_outcomes;
    answer.sessions_held = 3;
    answer.sessions_busy = 4;
    answer.sessions_forgotten = 5;
    answer.more = 1;
    receipts.epoch = 2;
    receipts.first_sequence = 100;
    receipts.last_sequence = 100 + n_outcomes;
    calls_decide(calls, call, &answer, &receipts, now);
}

static void remember(const char *id, size_t n_outcomes, int64_t now)
{
    struct call *call;

    ck_assert_int_eq(
        calls_begin(calls, ANYBODY, id, digest, n_outcomes, &call), KV_OK);
    decide(call, n_outcomes, now);
    call_release(call);
}

static struct call *find(const char *id, int64_t now)
{
    return calls_find(calls, ANYBODY, id, now);
}

static void check_page(
    const struct call *call, size_t begin, size_t n, size_t n_there)
{
    Kvpool__V1__EvictResponse *page = call_page(call, begin, n);

    ck_assert_ptr_nonnull(page);
    ck_assert_uint_eq(page->n_outcomes, n_there);
    for (size_t i = 0; i < n_there; i++) {
        ck_assert_str_eq(
            page->outcomes[i]->session->session_id, many.ids[begin + i]);
        ck_assert_uint_eq(page->outcomes[i]->sequence, 100 + begin + i);
    }
    kvpool__v1__evict_response__free_unpacked(page, NULL);
}

START_TEST(a_call_is_found_by_its_caller_and_id_with_what_it_was_answered)
{
    struct call *call;

    remember("one", 150, 10);
    ck_assert_ptr_null(calls_find(calls, "somebody", "one", 10));
    ck_assert_ptr_null(calls_find(calls, "anonymouso", "ne", 10));
    call = find("one", 10);
    ck_assert_ptr_nonnull(call);
    ck_assert(call->decided);
    ck_assert_mem_eq(call->digest, digest, sizeof digest);
    ck_assert_uint_eq(call->epoch, 2);
    ck_assert_uint_eq(call->first_sequence, 100);
    ck_assert_uint_eq(call->last_sequence, 250);
    ck_assert_uint_eq(call->sessions_evicted, 150);
    ck_assert_uint_eq(call->bytes_freed, 64 * 150);
    ck_assert_uint_eq(call->sessions_held, 3);
    ck_assert_uint_eq(call->sessions_busy, 4);
    ck_assert_uint_eq(call->sessions_forgotten, 5);
    ck_assert(call->more);
    ck_assert_uint_eq(call->n_outcomes, 150);
    check_page(call, 0, 150, 150);
    check_page(call, 0, 1, 1);
    check_page(call, 149, 7, 1);
    check_page(call, 33, 40, 40);
    check_page(call, 150, 7, 0);
    check_page(call, 9999, 7, 0);
}
END_TEST

START_TEST(a_call_without_outcomes_is_remembered_too)
{
    remember("none", 0, 10);
    ck_assert_uint_eq(find("none", 10)->n_outcomes, 0);
    check_page(find("none", 10), 0, 10, 0);
}
END_TEST

START_TEST(until_it_is_decided_a_call_is_there_and_is_not_forgotten)
{
    struct call *call;
    char id[32];

    ck_assert_int_eq(
        calls_begin(calls, ANYBODY, "slow", digest, 9, &call), KV_OK);
    for (int i = 0; i < 20; i++) {
        snprintf(id, sizeof id, "other-%d", i);
        remember(id, 30, 10);
    }
    ck_assert_ptr_eq(find("slow", 10 + 2 * TTL), call);
    ck_assert(!call->decided);
    decide(call, 9, 10 + 2 * TTL);
    ck_assert_ptr_eq(find("slow", 10 + 2 * TTL), call);
    ck_assert(call->decided);
    call_release(call);
}
END_TEST

START_TEST(a_call_that_came_to_nothing_was_never_there)
{
    struct call *call;

    ck_assert_int_eq(calls_begin(calls, ANYBODY, "x", digest, 9, &call), KV_OK);
    calls_abandon(calls, call);
    ck_assert_ptr_null(find("x", 10));
    ck_assert_uint_eq(calls_count(calls), 0);
}
END_TEST

START_TEST(a_call_is_forgotten_when_its_time_is_over)
{
    remember("one", 1, 10);
    remember("two", 1, 20);
    ck_assert_ptr_nonnull(find("one", 10 + TTL));
    ck_assert_ptr_null(find("one", 11 + TTL));
    ck_assert_ptr_nonnull(find("two", 11 + TTL));
    ck_assert_uint_eq(calls_count(calls), 1);
    /* The clock was set back between them. */
    remember("three", 1, 5);
    ck_assert_ptr_null(find("three", 6 + TTL));
    ck_assert_ptr_nonnull(find("two", 6 + TTL));
}
END_TEST

START_TEST(beyond_the_limits_the_longest_decided_go_and_the_latest_stays)
{
    struct call *held;
    char id[16];

    remember("first", 1, 10);
    held = find("first", 10);
    call_retain(held);
    for (int i = 0; i < 20; i++) {
        snprintf(id, sizeof id, "n-%d", i);
        remember(id, 1, 10);
        ck_assert_uint_le(calls_count(calls), 8);
        ck_assert_ptr_nonnull(find(id, 10));
    }
    ck_assert_ptr_null(find("first", 10));
    check_page(held, 0, 9, 1);
    call_release(held);
    remember("large", MAX_OUTCOMES, 10);
    ck_assert_uint_eq(calls_count(calls), 1);
    ck_assert_uint_gt(calls_bytes(calls), 4096);
    remember("small", 1, 10);
    ck_assert_ptr_null(find("large", 10));
    ck_assert_uint_lt(calls_bytes(calls), 100);
}
END_TEST

START_TEST(each_failing_allocation_leaves_the_index_as_it_was)
{
    enum kv_status status = KV_NO_MEMORY;
    struct call *call;

    for (int nth = 0; status != KV_OK; nth++) {
        ck_assert_int_lt(nth, 9);
        faulty_heap_fail_at(nth);
        status = calls_begin(calls, ANYBODY, "x", digest, 9, &call);
        faulty_heap_fail_at(-1);
        ck_assert_uint_eq(calls_count(calls), status == KV_OK);
    }
    faulty_heap_fail_at(0); /* shrinking is not needed */
    decide(call, 9, 10);
    faulty_heap_fail_at(-1);
    check_page(call, 0, 9, 9);
    call_release(call);
}
END_TEST

START_TEST(opening_without_memory_leaves_nothing_behind)
{
    const struct calls_config config = {.max_calls = 1};
    struct calls *another;

    for (int nth = 0; nth < 2; nth++) {
        faulty_heap_fail_at(nth);
        ck_assert_int_eq(calls_open(&another, &config), KV_NO_MEMORY);
        faulty_heap_fail_at(-1);
    }
}
END_TEST

START_TEST(the_largest_outcome_fits_its_room)
{
    Kvpool__V1__EvictResponse one = KVPOOL__V1__EVICT_RESPONSE__INIT;
    char name[129];

    memset(name, 'n', 128);
    name[128] = '\0';
    one.outcomes = make_outcomes(1);
    one.n_outcomes = 1;
    many.keys[0].tenant = many.keys[0].session_id = name;
    many.outcomes[0].target = UINT32_MAX;
    many.outcomes[0].bytes_freed = many.outcomes[0].blocks_freed = UINT64_MAX;
    many.outcomes[0].shared_blocks_kept = UINT64_MAX;
    many.outcomes[0].tokens_kept = many.outcomes[0].sequence = UINT64_MAX;
    many.outcomes[0].preempted = 1;
    ck_assert_uint_le(
        kvpool__v1__evict_response__get_packed_size(&one), CALLS_OUTCOME_BYTES);
}
END_TEST

/* ---- from receipts */

struct batch {
    uint64_t sequence;
    uint32_t epoch, number;
    bool final;
    const char *id;
    uint64_t first_sequence;
    size_t from, n;
};

static unsigned char bytes[1 << 17];

static size_t encode(const struct batch *batch)
{
    Kvpool__V1__Receipt receipt = KVPOOL__V1__RECEIPT__INIT;
    Kvpool__V1__EvictionBatchReceipt told =
        KVPOOL__V1__EVICTION_BATCH_RECEIPT__INIT;
    Kvpool__V1__EvictCall call = KVPOOL__V1__EVICT_CALL__INIT;

    receipt.sequence = batch->sequence;
    receipt.epoch = batch->epoch;
    receipt.time_unix_ns = (int64_t)batch->sequence;
    receipt.kind_case = KVPOOL__V1__RECEIPT__KIND_EVICTION_BATCH;
    receipt.eviction_batch = &told;
    told.count = batch->n;
    told.total_bytes_freed = 64 * batch->n;
    told.first_sequence = batch->first_sequence;
    told.fragmentation_before = told.fragmentation_after = 0.5;
    told.policy = "lru";
    told.call = &call;
    call.request_id = (char *)batch->id;
    call.request_digest.data = (uint8_t *)digest;
    call.request_digest.len = sizeof digest;
    call.requested_by = ANYBODY;
    call.number = batch->number;
    call.final = batch->final;
    call.outcomes = make_outcomes(MAX_OUTCOMES) + batch->from;
    call.n_outcomes = batch->n;
    call.more = call.final;
    call.sessions_held = call.final ? 3 : 0;
    call.sessions_busy = call.final ? 4 : 0;
    call.sessions_forgotten = call.final ? 5 : 0;
    ck_assert_uint_lt(
        kvpool__v1__receipt__get_packed_size(&receipt), sizeof bytes);
    return kvpool__v1__receipt__pack(&receipt, bytes);
}

static void add(const struct batch *batch)
{
    size_t n = encode(batch);

    ck_assert_int_eq(
        calls_add_receipt(calls, batch->sequence, bytes, n), KV_OK);
}

START_TEST(after_a_restart_a_call_is_what_its_batches_say)
{
    struct call *call;

    add(&(struct batch){192 + 100, 2, 1, false, "one", 100, 0, 192});
    add(&(struct batch){301, 2, 2, true, "one", 293, 192, 8});
    call = find("one", 400);
    ck_assert_ptr_nonnull(call);
    ck_assert(call->decided && call->more);
    ck_assert_mem_eq(call->digest, digest, sizeof digest);
    ck_assert_uint_eq(call->epoch, 2);
    ck_assert_uint_eq(call->first_sequence, 100);
    ck_assert_uint_eq(call->last_sequence, 301);
    ck_assert_uint_eq(call->sessions_evicted, 200);
    ck_assert_uint_eq(call->bytes_freed, 64 * 200);
    ck_assert_uint_eq(call->sessions_held, 3);
    ck_assert_uint_eq(call->sessions_busy, 4);
    ck_assert_uint_eq(call->sessions_forgotten, 5);
    check_page(call, 0, 1000, 200);
    ck_assert_ptr_null(find("one", 302 + TTL));
}
END_TEST

START_TEST(a_call_that_a_crash_cut_short_has_more)
{
    add(&(struct batch){110, 1, 1, false, "cut", 100, 0, 10});
    ck_assert(find("cut", 200)->decided && find("cut", 200)->more);
    check_page(find("cut", 200), 0, 99, 10);
    /* A later start used the id again; its batches do not belong to it. */
    add(&(struct batch){120, 2, 2, true, "cut", 115, 0, 5});
    check_page(find("cut", 200), 0, 99, 10);
    add(&(struct batch){130, 2, 1, true, "cut", 0, 0, 0});
    ck_assert_uint_eq(find("cut", 200)->n_outcomes, 0);
    ck_assert_uint_eq(find("cut", 200)->first_sequence, 130);
    ck_assert_uint_eq(find("cut", 200)->sessions_held, 3);
    ck_assert_uint_eq(calls_count(calls), 1);
}
END_TEST

START_TEST(a_call_whose_beginning_is_gone_is_not_remembered)
{
    add(&(struct batch){110, 1, 2, true, "tail", 100, 0, 10});
    add(&(struct batch){111, 1, 1, true, "", 0, 0, 0});
    ck_assert_uint_eq(calls_count(calls), 0);
}
END_TEST

START_TEST(without_memory_for_a_call_that_is_said)
{
    const struct batch batch = {110, 1, 1, true, "one", 100, 0, 10};
    size_t n = encode(&batch);

    for (int nth = 0; nth < 2; nth++) {
        faulty_heap_fail_at(nth);
        ck_assert_int_eq(calls_add_receipt(calls, 110, bytes, n), KV_NO_MEMORY);
        faulty_heap_fail_at(-1);
        ck_assert_uint_eq(calls_count(calls), 0);
    }
    ck_assert_int_eq(calls_add_receipt(calls, 110, bytes, n), KV_OK);
}
END_TEST

START_TEST(receipts_of_other_kinds_and_damaged_ones_do_no_harm)
{
    const struct batch batch = {110, 1, 1, true, "one", 100, 0, 10};
    size_t n;

    srand(3);
    for (int i = 0; i < 20000; i++) {
        Kvpool__V1__Receipt *receipt = random_receipt();

        n = kvpool__v1__receipt__pack(receipt, bytes);
        calls_add_receipt(calls, receipt->sequence, bytes, n);
        kvpool__v1__receipt__free_unpacked(receipt, NULL);
    }
    n = encode(&batch);
    for (size_t cut = 0; cut < n; cut++)
        calls_add_receipt(calls, 110, bytes, cut);
    for (size_t i = 0; i < 8 * n; i++) {
        bytes[i / 8] ^= (unsigned char)(1 << i % 8);
        calls_add_receipt(calls, 110, bytes, n);
        bytes[i / 8] ^= (unsigned char)(1 << i % 8);
    }
    ck_assert_uint_le(calls_count(calls), 8);
}
END_TEST

int main(void)
{
    const TTest *tests[] = {
        a_call_is_found_by_its_caller_and_id_with_what_it_was_answered,
        a_call_without_outcomes_is_remembered_too,
        until_it_is_decided_a_call_is_there_and_is_not_forgotten,
        a_call_that_came_to_nothing_was_never_there,
        a_call_is_forgotten_when_its_time_is_over,
        beyond_the_limits_the_longest_decided_go_and_the_latest_stays,
        each_failing_allocation_leaves_the_index_as_it_was,
        opening_without_memory_leaves_nothing_behind,
        the_largest_outcome_fits_its_room,
        after_a_restart_a_call_is_what_its_batches_say,
        a_call_that_a_crash_cut_short_has_more,
        a_call_whose_beginning_is_gone_is_not_remembered,
        without_memory_for_a_call_that_is_said,
        receipts_of_other_kinds_and_damaged_ones_do_no_harm,
    };

    return CHECK_RUN("calls", set_up, tear_down, tests);
}
