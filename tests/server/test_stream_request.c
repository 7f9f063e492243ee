/* What a stream of receipts may ask for, and where it begins. */
#include <string.h>

#include "server/stream_request.h"
#include "tests/support/check_main.h"
#include "tests/support/faulty_heap.h"

static struct ledger *ledger;
static uint8_t pool_id[16] = "fifteen letters";

static Kvpool__V1__StreamReceiptsRequest request;
static Kvpool__V1__LedgerPosition after;
static Kvpool__V1__ReceiptFilter filter;
static struct rpc_error error;
static struct feed_cursor cursor;

static int64_t wall_ns(void)
{
    return 1;
}

static void set_up(void)
{
    struct ledger_config config = {
        .ring_bytes = LEDGER_MIN_RING_BYTES, .epoch = 3, .wall_ns = wall_ns};

    faulty_heap_install();
    faulty_heap_fail_at(-1);
    memcpy(config.pool_id, pool_id, sizeof pool_id);
    ck_assert_int_eq(ledger_open(&ledger, &config, NULL), KV_OK);
    kvpool__v1__stream_receipts_request__init(&request);
    kvpool__v1__ledger_position__init(&after);
    kvpool__v1__receipt_filter__init(&filter);
    memset(&error, 0, sizeof error);
    memset(&cursor, 0, sizeof cursor);
}

static void tear_down(void)
{
    ledger_close(ledger);
    ck_assert_int_eq(faulty_heap_live(), 0);
}

static void issue(uint64_t n_receipts)
{
    const struct ledger_pool_snapshot snapshot = {.sessions_created = 1};

    for (uint64_t i = 0; i < n_receipts; i++)
        ledger_issue_snapshot(ledger, &snapshot, 1);
}

static const char *refused_field(void)
{
    memset(&error, 0, sizeof error);
    stream_request_check(&error, &request);
    if (error.n_violations == 0)
        return "";
    ck_assert_int_eq(error.code, RPC_INVALID_ARGUMENT);
    return error.violations[0].field;
}

/* The reason for which `after` is refused; "" if it is not. */
static const char *refused_place(void)
{
    memset(&error, 0, sizeof error);
    request.start_case = KVPOOL__V1__STREAM_RECEIPTS_REQUEST__START_AFTER;
    request.after = &after;
    stream_request_check(&error, &request);
    ck_assert_uint_eq(error.n_violations, 0);
    stream_request_seek(&request, ledger, &cursor, &error);
    return error.code == RPC_OK ? "" : error.reason;
}

START_TEST(each_condition_that_is_none_is_named)
{
    Kvpool__V1__ReceiptKind kinds[] = {1, 7, 8};
    Kvpool__V1__EvictionReason reasons[] = {1, 6, 0};
    char *tenants[65];

    ck_assert_str_eq(refused_field(), "");
    request.filter = &filter;
    filter.kinds = kinds;
    filter.n_kinds = 2;
    filter.reasons = reasons;
    filter.n_reasons = 2;
    filter.tenants = tenants;
    filter.n_tenants = 64;
    for (size_t i = 0; i < 65; i++)
        tenants[i] = (char *)"";
    ck_assert_str_eq(refused_field(), "");
    filter.n_kinds = 3;
    ck_assert_str_eq(refused_field(), "filter.kinds[2]");
    filter.n_kinds = 0;
    filter.n_reasons = 3;
    ck_assert_str_eq(refused_field(), "filter.reasons[2]");
    filter.n_reasons = 0;
    filter.n_tenants = 65;
    ck_assert_str_eq(refused_field(), "filter.tenants");
    filter.n_tenants = 64;
    tenants[63] = (char *)"a\nb";
    ck_assert_str_eq(refused_field(), "filter.tenants[63]");
}
END_TEST

START_TEST(more_wrong_values_than_an_error_holds_are_no_harm)
{
    static Kvpool__V1__ReceiptKind kinds[1000];
    static Kvpool__V1__SnapshotSection sections[1000];
    Kvpool__V1__StartSnapshot start = KVPOOL__V1__START_SNAPSHOT__INIT;

    request.filter = &filter;
    filter.kinds = kinds;
    filter.n_kinds = 1000;
    request.start_case = KVPOOL__V1__STREAM_RECEIPTS_REQUEST__START_SNAPSHOT;
    request.snapshot = &start;
    start.sections = sections;
    start.n_sections = 1000;
    ck_assert_str_eq(refused_field(), "snapshot.sections[0]");
    ck_assert_uint_eq(error.n_violations, RPC_ERROR_MAX_VIOLATIONS);
}
END_TEST

START_TEST(the_place_before_the_first_receipt_has_no_epoch)
{
    after.epoch = 3;
    request.start_case = KVPOOL__V1__STREAM_RECEIPTS_REQUEST__START_AFTER;
    request.after = &after;
    ck_assert_str_eq(refused_field(), "after.epoch");
    after.epoch = 0;
    ck_assert_str_eq(refused_place(), "");
    ck_assert_uint_eq(cursor.sequence, 0);
}
END_TEST

START_TEST(a_place_is_taken_where_all_that_is_known_of_it_is_true)
{
    struct merkle_hash root;

    issue(10);
    ck_assert(merkle_root(ledger_tree(ledger), 7, &root));
    after.sequence = 7;
    ck_assert_str_eq(refused_place(), "");
    after.epoch = 3;
    after.pool_id = (ProtobufCBinaryData){16, pool_id};
    after.root = (ProtobufCBinaryData){sizeof root.bytes, root.bytes};
    ck_assert_str_eq(refused_place(), "");
    ck_assert_uint_eq(cursor.sequence, 7);
    after.sequence = 6;
    ck_assert_str_eq(refused_place(), "LEDGER_FORKED");
    after.sequence = 7;
    after.epoch = 2;
    ck_assert_str_eq(refused_place(), "LEDGER_FORKED");
    after.epoch = 4;
    ck_assert_str_eq(refused_place(), "LEDGER_FORKED");
    after.epoch = 3;
    root.bytes[31] ^= 1;
    ck_assert_str_eq(refused_place(), "LEDGER_FORKED");
    root.bytes[31] ^= 1;
    pool_id[15] ^= 1;
    ck_assert_str_eq(refused_place(), "LEDGER_MISMATCH");
    pool_id[15] ^= 1;
    ck_assert_str_eq(refused_place(), "");
    ck_assert_uint_eq(cursor.sequence, 7);
}
END_TEST

START_TEST(a_place_beyond_the_ledger_is_another_history)
{
    static const uint64_t beyond[] = {
        11, 12, UINT32_MAX, INT64_MAX, UINT64_MAX - 1, UINT64_MAX};

    issue(10);
    after.sequence = 10;
    ck_assert_str_eq(refused_place(), "");
    for (size_t i = 0; i < sizeof beyond / sizeof *beyond; i++) {
        after.sequence = beyond[i];
        ck_assert_str_eq(refused_place(), "LEDGER_FORKED");
        ck_assert_uint_eq(cursor.sequence, 10);
    }
}
END_TEST

START_TEST(what_the_ring_has_dropped_has_expired)
{
    struct ledger_position position;

    do
        issue(100);
    while (ledger_position(ledger).oldest_sequence < 1000);
    position = ledger_position(ledger);
    after.sequence = position.oldest_sequence - 2;
    ck_assert_str_eq(refused_place(), "SEQUENCE_EXPIRED");
    ck_assert_int_eq(error.code, RPC_OUT_OF_RANGE);
    after.sequence = position.oldest_sequence - 1;
    after.epoch = 3;
    ck_assert_str_eq(refused_place(), "");
    stream_request_refuse_lost(&error, ledger, 5);
    ck_assert_str_eq(error.reason, "FELL_BEHIND");
    ck_assert_int_eq(error.code, RPC_DATA_LOSS);
}
END_TEST

START_TEST(each_start_is_where_the_contract_has_it)
{
    struct ledger_position position;

    do
        issue(100);
    while (ledger_position(ledger).oldest_sequence < 1000);
    position = ledger_position(ledger);
    request.start_case = KVPOOL__V1__STREAM_RECEIPTS_REQUEST__START_EARLIEST;
    stream_request_seek(&request, ledger, &cursor, &error);
    ck_assert_uint_eq(cursor.sequence, position.oldest_sequence - 1);
    request.start_case = KVPOOL__V1__STREAM_RECEIPTS_REQUEST__START_SNAPSHOT;
    stream_request_seek(&request, ledger, &cursor, &error);
    ck_assert_uint_eq(cursor.sequence, position.applied_sequence);
    cursor.sequence = 0;
    request.start_case = KVPOOL__V1__STREAM_RECEIPTS_REQUEST__START__NOT_SET;
    stream_request_seek(&request, ledger, &cursor, &error);
    ck_assert_uint_eq(cursor.sequence, position.durable_sequence);
    ck_assert_int_eq(error.code, RPC_OK);
}
END_TEST

int main(void)
{
    const TTest *tests[] = {
        each_condition_that_is_none_is_named,
        more_wrong_values_than_an_error_holds_are_no_harm,
        the_place_before_the_first_receipt_has_no_epoch,
        a_place_is_taken_where_all_that_is_known_of_it_is_true,
        a_place_beyond_the_ledger_is_another_history,
        what_the_ring_has_dropped_has_expired,
        each_start_is_where_the_contract_has_it,
    };

    return CHECK_RUN("stream request", set_up, tear_down, tests);
}
