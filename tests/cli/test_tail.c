#include <string.h>

#include "base/clock.h"
#include "cli/tail.h"
#include "tests/support/check_main.h"

static uint8_t ledger_a[16] = "ledger A 16 byte", ledger_b[16] = "ledger B";

static Kvpool__V1__Receipt receipt_of(uint64_t sequence, uint8_t *pool_id)
{
    Kvpool__V1__Receipt receipt = KVPOOL__V1__RECEIPT__INIT;

    receipt.sequence = sequence;
    receipt.epoch = 3;
    receipt.pool_id = (ProtobufCBinaryData){16, pool_id};
    return receipt;
}

static enum kv_status take(struct tail *tail, uint64_t sequence)
{
    Kvpool__V1__Receipt receipt = receipt_of(sequence, ledger_a);
    struct kv_error error;

    return tail_take(tail, &receipt, &error);
}

static struct tail started(const char *from)
{
    struct tail tail;

    ck_assert_int_eq(tail_start(&tail, from, NULL), KV_OK);
    return tail;
}

START_TEST(a_start_is_one_of_those_that_there_are)
{
    static const char *const bad[] = {"", "first", "after",
        "after:", "after:-1", "after:x", "0", "-5", "Latest"};
    struct tail tail;
    struct kv_error error;

    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++)
        ck_assert_int_eq(tail_start(&tail, bad[i], &error), KV_INVALID);
    ck_assert(!started("latest").known);
    ck_assert(!started("earliest").known);
    ck_assert(started("after:0").known);
    ck_assert_uint_eq(started("after:41").sequence, 41);
    ck_assert_uint_eq(started("41").sequence, 40);
    ck_assert(started("1").known);
    ck_assert(!started("snapshot").known);
}
END_TEST

START_TEST(every_receipt_is_taken_once_and_none_is_missed)
{
    struct tail tail = started("after:40");

    ck_assert_int_eq(take(&tail, 41), KV_OK);
    ck_assert_int_eq(take(&tail, 41), KV_BUSY);
    ck_assert_int_eq(take(&tail, 12), KV_BUSY);
    ck_assert_int_eq(take(&tail, 43), KV_DATA_LOSS);
    ck_assert_int_eq(take(&tail, 42), KV_OK);
    ck_assert_int_eq(take(&tail, 43), KV_OK);
    ck_assert_uint_eq(tail.n_taken, 3);
    ck_assert_uint_eq(tail.n_duplicates, 2);
}
END_TEST

START_TEST(earliest_begins_wherever_the_ledger_does)
{
    struct tail tail = started("earliest");

    ck_assert_int_eq(take(&tail, 900), KV_OK);
    ck_assert_int_eq(take(&tail, 902), KV_DATA_LOSS);
}
END_TEST

START_TEST(receipts_of_another_ledger_are_not_mistaken_for_duplicates)
{
    struct tail tail = started("after:40");
    Kvpool__V1__Receipt other = receipt_of(1, ledger_b);
    struct kv_error error;

    ck_assert_int_eq(take(&tail, 41), KV_OK);
    ck_assert_int_eq(tail_take(&tail, &other, &error), KV_DATA_LOSS);
    ck_assert_ptr_nonnull(strstr(error.text, "ledger"));
}
END_TEST

START_TEST(it_comes_back_with_the_whole_place)
{
    struct tail tail = started("earliest");
    struct tail_request request;

    tail_request(&tail, 64, &request);
    ck_assert_ptr_nonnull(request.request.earliest);
    ck_assert_uint_eq(request.request.max_batch, 64);
    take(&tail, 7);
    tail_request(&tail, 64, &request);
    ck_assert_int_eq(request.request.start_case,
        KVPOOL__V1__STREAM_RECEIPTS_REQUEST__START_AFTER);
    ck_assert_uint_eq(request.after.sequence, 7);
    ck_assert_uint_eq(request.after.epoch, 3);
    ck_assert_uint_eq(request.after.pool_id.len, 16);
    ck_assert_mem_eq(request.after.pool_id.data, ledger_a, 16);
}
END_TEST

static enum kv_status bookmark(
    struct tail *tail, uint64_t sequence, uint8_t *pool_id)
{
    Kvpool__V1__StreamReceiptsResponse message =
        KVPOOL__V1__STREAM_RECEIPTS_RESPONSE__INIT;
    Kvpool__V1__Bookmark mark = KVPOOL__V1__BOOKMARK__INIT;
    Kvpool__V1__LedgerPosition place = KVPOOL__V1__LEDGER_POSITION__INIT;
    struct kv_error error;

    place.sequence = sequence;
    place.epoch = 5;
    place.pool_id = (ProtobufCBinaryData){16, pool_id};
    mark.position = &place;
    message.bookmark = &mark;
    return tail_follow(tail, &message, &error);
}

START_TEST(latest_knows_its_place_from_the_first_bookmark)
{
    struct tail tail = started("latest");

    ck_assert_int_eq(bookmark(&tail, 1000, ledger_a), KV_OK);
    ck_assert(tail.known);
    ck_assert_int_eq(take(&tail, 1002), KV_DATA_LOSS);
    ck_assert_int_eq(take(&tail, 1001), KV_OK);
}
END_TEST

START_TEST(a_bookmark_beyond_what_came_is_a_hole)
{
    struct tail tail = started("after:7");

    ck_assert_int_eq(bookmark(&tail, 7, ledger_a), KV_OK);
    ck_assert_uint_eq(tail.epoch, 5);
    ck_assert_int_eq(bookmark(&tail, 8, ledger_a), KV_DATA_LOSS);
    ck_assert_int_eq(bookmark(&tail, 7, ledger_b), KV_DATA_LOSS);
}
END_TEST

START_TEST(a_gap_that_is_told_is_no_hole)
{
    struct tail tail = started("after:7");
    Kvpool__V1__StreamReceiptsResponse message =
        KVPOOL__V1__STREAM_RECEIPTS_RESPONSE__INIT;
    Kvpool__V1__Gap gap = KVPOOL__V1__GAP__INIT;
    struct kv_error error;

    gap.first_sequence = 8;
    gap.last_sequence = 20;
    message.gap = &gap;
    ck_assert_int_eq(tail_follow(&tail, &message, &error), KV_DATA_LOSS);
    tail.lossy = true;
    gap.first_sequence = 9;
    ck_assert_int_eq(tail_follow(&tail, &message, &error), KV_DATA_LOSS);
    gap.first_sequence = 8;
    ck_assert_int_eq(tail_follow(&tail, &message, &error), KV_OK);
    ck_assert_int_eq(take(&tail, 22), KV_DATA_LOSS);
    ck_assert_int_eq(take(&tail, 21), KV_OK);
}
END_TEST

START_TEST(behind_a_gap_the_epoch_is_not_known)
{
    struct tail tail = started("after:7");
    Kvpool__V1__StreamReceiptsResponse message =
        KVPOOL__V1__STREAM_RECEIPTS_RESPONSE__INIT;
    Kvpool__V1__Gap gap = KVPOOL__V1__GAP__INIT;
    struct tail_request request;
    struct kv_error error;

    tail.lossy = true;
    ck_assert_int_eq(take(&tail, 8), KV_OK);
    gap.first_sequence = 9;
    gap.last_sequence = 20;
    message.gap = &gap;
    ck_assert_int_eq(tail_follow(&tail, &message, &error), KV_OK);
    tail_request(&tail, 0, &request);
    ck_assert_uint_eq(request.after.sequence, 20);
    ck_assert_uint_eq(request.after.epoch, 0);
    ck_assert_uint_eq(request.after.pool_id.len, 16);
    ck_assert_int_eq(request.request.slow_reader_policy,
        KVPOOL__V1__SLOW_READER_POLICY__SLOW_READER_POLICY_LOSSY);
}
END_TEST

START_TEST(with_a_filter_the_place_moves_over_what_did_not_come)
{
    const Kvpool__V1__ReceiptFilter filter = KVPOOL__V1__RECEIPT_FILTER__INIT;
    struct tail tail = started("after:7");
    Kvpool__V1__StreamReceiptsResponse message =
        KVPOOL__V1__STREAM_RECEIPTS_RESPONSE__INIT;
    struct tail_request request;
    struct kv_error error;

    tail.filter = &filter;
    ck_assert_int_eq(take(&tail, 11), KV_OK);
    ck_assert_int_eq(take(&tail, 11), KV_BUSY);
    ck_assert_int_eq(take(&tail, 10), KV_BUSY);
    message.through_sequence = 19;
    message.through_epoch = 4;
    ck_assert_int_eq(tail_follow(&tail, &message, &error), KV_OK);
    ck_assert_int_eq(take(&tail, 19), KV_BUSY);
    tail_request(&tail, 0, &request);
    ck_assert_ptr_eq(request.request.filter, &filter);
    ck_assert_uint_eq(request.after.sequence, 19);
    ck_assert_uint_eq(request.after.epoch, 4);
    ck_assert_int_eq(bookmark(&tail, 30, ledger_a), KV_OK);
    ck_assert_int_eq(take(&tail, 30), KV_BUSY);
    ck_assert_int_eq(take(&tail, 31), KV_OK);
}
END_TEST

/* A part of the state, of the instant of `stamp`. */
static enum kv_status part(
    struct tail *tail, uint32_t index, bool last, uint64_t stamp)
{
    Kvpool__V1__StreamReceiptsResponse message =
        KVPOOL__V1__STREAM_RECEIPTS_RESPONSE__INIT;
    Kvpool__V1__SnapshotChunk chunk = KVPOOL__V1__SNAPSHOT_CHUNK__INIT;
    Kvpool__V1__PoolSnapshot snapshot = KVPOOL__V1__POOL_SNAPSHOT__INIT;
    Kvpool__V1__SnapshotStamp instant = KVPOOL__V1__SNAPSHOT_STAMP__INIT;
    struct kv_error error;

    instant.applied_sequence = stamp;
    instant.epoch = 3;
    instant.pool_id = (ProtobufCBinaryData){16, ledger_a};
    snapshot.stamp = stamp > 0 ? &instant : NULL;
    chunk.snapshot = &snapshot;
    chunk.index = index;
    chunk.last = last;
    message.snapshot = &chunk;
    return tail_follow(tail, &message, &error);
}

START_TEST(behind_the_state_receipts_follow_its_first_stamp)
{
    struct tail tail = started("snapshot");
    struct tail_request request;

    ck_assert_int_eq(part(&tail, 0, false, 40), KV_OK);
    ck_assert_int_eq(take(&tail, 41), KV_DATA_LOSS);
    tail_request(&tail, 0, &request);
    ck_assert_ptr_nonnull(request.request.snapshot);
    ck_assert_int_eq(part(&tail, 0, false, 50), KV_OK); /* begun again */
    ck_assert_int_eq(part(&tail, 1, false, 55), KV_OK);
    ck_assert_int_eq(part(&tail, 3, false, 56), KV_DATA_LOSS);
    ck_assert_int_eq(part(&tail, 2, true, 0), KV_DATA_LOSS);
    ck_assert_int_eq(part(&tail, 2, true, 57), KV_OK);
    ck_assert_int_eq(take(&tail, 52), KV_DATA_LOSS);
    ck_assert_int_eq(take(&tail, 51), KV_OK);
    ck_assert_int_eq(part(&tail, 0, true, 60), KV_DATA_LOSS);
    tail_request(&tail, 0, &request);
    ck_assert_uint_eq(request.after.sequence, 51);
}
END_TEST

START_TEST(through_beyond_what_came_is_a_hole)
{
    struct tail tail = started("after:7");
    Kvpool__V1__StreamReceiptsResponse message =
        KVPOOL__V1__STREAM_RECEIPTS_RESPONSE__INIT;
    struct kv_error error;

    message.through_sequence = 9;
    ck_assert_int_eq(tail_follow(&tail, &message, &error), KV_DATA_LOSS);
    ck_assert_uint_eq(tail.sequence, 7);
}
END_TEST

START_TEST(it_comes_back_only_where_that_can_help)
{
    struct rpc_error error = {.code = RPC_UNAVAILABLE};

    ck_assert(tail_may_return(&error));
    error.code = RPC_OK;
    ck_assert(tail_may_return(&error));
    error.code = RPC_RESOURCE_EXHAUSTED;
    ck_assert(tail_may_return(&error));
    strcpy(error.reason, "SUBSCRIBER_STALLED");
    ck_assert(tail_may_return(&error));
    strcpy(error.reason, "TOO_MANY_SUBSCRIBERS");
    ck_assert(!tail_may_return(&error));
    for (int code = RPC_CANCELLED; code <= RPC_UNAUTHENTICATED; code++) {
        error = (struct rpc_error){.code = (enum rpc_code)code};
        if (code != RPC_UNAVAILABLE && code != RPC_RESOURCE_EXHAUSTED)
            ck_assert(!tail_may_return(&error));
    }
}
END_TEST

START_TEST(pauses_grow_to_a_bound_and_a_message_starts_them_over)
{
    struct tail tail = started("after:7");
    int64_t last_ns = 0;

    for (int i = 0; i < 100; i++) {
        int64_t pause_ns = tail_pause(&tail, 0);

        ck_assert_int_ge(pause_ns, last_ns);
        ck_assert_int_le(pause_ns, 10 * KV_NS_PER_S);
        last_ns = pause_ns;
    }
    ck_assert_int_eq(last_ns, 10 * KV_NS_PER_S);
    ck_assert_int_ge(tail_pause(&tail, UINT32_MAX), 5 * KV_NS_PER_S);
    take(&tail, 8);
    ck_assert_int_eq(tail_pause(&tail, 0), 100 * KV_NS_PER_MS);
}
END_TEST

START_TEST(it_does_not_come_back_sooner_than_asked)
{
    struct tail tail = started("after:7");
    Kvpool__V1__StreamReceiptsResponse message =
        KVPOOL__V1__STREAM_RECEIPTS_RESPONSE__INIT;
    Kvpool__V1__Closing closing = KVPOOL__V1__CLOSING__INIT;
    struct kv_error error;

    closing.retry_after_ns = 30 * KV_NS_PER_S;
    message.closing = &closing;
    ck_assert_int_eq(tail_follow(&tail, &message, &error), KV_OK);
    ck_assert_int_eq(tail_pause(&tail, 0), 30 * KV_NS_PER_S);
    ck_assert_int_eq(tail_pause(&tail, 0), 200 * KV_NS_PER_MS);
}
END_TEST

int main(void)
{
    const TTest *tests[] = {
        a_start_is_one_of_those_that_there_are,
        every_receipt_is_taken_once_and_none_is_missed,
        earliest_begins_wherever_the_ledger_does,
        receipts_of_another_ledger_are_not_mistaken_for_duplicates,
        it_comes_back_with_the_whole_place,
        latest_knows_its_place_from_the_first_bookmark,
        a_bookmark_beyond_what_came_is_a_hole,
        a_gap_that_is_told_is_no_hole,
        behind_a_gap_the_epoch_is_not_known,
        with_a_filter_the_place_moves_over_what_did_not_come,
        behind_the_state_receipts_follow_its_first_stamp,
        through_beyond_what_came_is_a_hole,
        it_comes_back_only_where_that_can_help,
        pauses_grow_to_a_bound_and_a_message_starts_them_over,
        it_does_not_come_back_sooner_than_asked,
    };

    return CHECK_RUN("tail", NULL, NULL, tests);
}
