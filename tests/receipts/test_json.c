#include "receipts/json.h"

#include <stdbool.h>
#include <stdio.h>
#include <string.h>

#include "tests/receipts/random_receipt.h"
#include "tests/support/check_main.h"
#include "tests/support/faulty_heap.h"

static uint8_t pool_id[16] = {0xA1, 0xB2};
static uint8_t digest[32] = {0xD1};

/* Through protobuf: the same bytes come out. */
static void check_protobuf(const Kvpool__V1__Receipt *receipt)
{
    static unsigned char first[1 << 17], second[1 << 17];
    size_t n = kvpool__v1__receipt__pack(receipt, first);
    Kvpool__V1__Receipt *again = kvpool__v1__receipt__unpack(NULL, n, first);

    ck_assert_ptr_nonnull(again);
    ck_assert_uint_eq(kvpool__v1__receipt__pack(again, second), n);
    ck_assert_mem_eq(first, second, n);
    kvpool__v1__receipt__free_unpacked(again, NULL);
}

/* Through JSON, as text: the same bytes come out. */
static void check_json(const Kvpool__V1__Receipt *receipt)
{
    static unsigned char first[1 << 17], second[1 << 17];
    size_t n = kvpool__v1__receipt__pack(receipt, first);
    json_t *json = receipt_to_json(receipt), *parsed;
    Kvpool__V1__Receipt *again = NULL;
    struct kv_error error = {0};
    char *text;

    ck_assert_ptr_nonnull(json);
    text = json_dumps(json, 0);
    ck_assert_ptr_nonnull(text);
    parsed = json_loads(text, JSON_REJECT_DUPLICATES, NULL);
    ck_assert_ptr_nonnull(parsed);
    ck_assert_msg(receipt_from_json(parsed, &again, &error) == KV_OK,
        "%s in %s", error.text, text);
    ck_assert_uint_eq(kvpool__v1__receipt__pack(again, second), n);
    ck_assert_mem_eq(first, second, n);
    kvpool__v1__receipt__free_unpacked(again, NULL);
    json_decref(parsed);
    json_decref(json);
    free(text);
}

static Kvpool__V1__Receipt envelope(void)
{
    Kvpool__V1__Receipt receipt = KVPOOL__V1__RECEIPT__INIT;

    receipt.sequence = 1041;
    receipt.epoch = 3;
    receipt.time_unix_ns = INT64_C(1763755000123456789);
    receipt.mono_ns = 77;
    receipt.pool_id = (ProtobufCBinaryData){sizeof pool_id, pool_id};
    return receipt;
}

static void fill_statistics(
    Kvpool__V1__PoolStatistics *stats, uint64_t freed_bytes)
{
    kvpool__v1__pool_statistics__init(stats);
    stats->total_sessions = 4;
    stats->used_memory_bytes = 1024 - freed_bytes;
    stats->allocated_bytes_total = 1024;
    stats->freed_bytes_total = freed_bytes;
    stats->total_memory_bytes = 4096;
    stats->cache_hits = 3;
    stats->cache_misses = 1;
    stats->session_tokens = 50;
    stats->free_runs = 4;
}

struct eviction_sample {
    Kvpool__V1__Receipt receipt;
    Kvpool__V1__EvictionReceipt eviction;
    Kvpool__V1__PoolStatistics before, after;
    Kvpool__V1__Extent extents[2];
    Kvpool__V1__Extent *extent_list[2];
    Kvpool__V1__SessionKey forced_by;
};

static void fill_eviction(struct eviction_sample *sample)
{
    Kvpool__V1__EvictionReceipt *eviction = &sample->eviction;

    sample->receipt = envelope();
    sample->receipt.kind_case = KVPOOL__V1__RECEIPT__KIND_EVICTION;
    sample->receipt.eviction = eviction;
    kvpool__v1__eviction_receipt__init(eviction);
    kvpool__v1__session_key__init(&sample->forced_by);
    eviction->session_id = "chat-7";
    eviction->reason = KVPOOL__V1__EVICTION_REASON__EVICTION_REASON_LRU;
    eviction->block_size_bytes = 256;
    for (int i = 0; i < 2; i++) {
        kvpool__v1__extent__init(&sample->extents[i]);
        sample->extents[i].offset = 512 * (uint64_t)i;
        sample->extents[i].size = 128;
        sample->extent_list[i] = &sample->extents[i];
    }
    eviction->extents = sample->extent_list;
    eviction->n_extents = 2;
    fill_statistics(&sample->before, 0);
    fill_statistics(&sample->after, 256);
    eviction->before = &sample->before;
    eviction->after = &sample->after;
    eviction->zeroed = 1;
    sample->forced_by.session_id = "other";
    eviction->forced_by = &sample->forced_by;
    eviction->cause_case = KVPOOL__V1__EVICTION_RECEIPT__CAUSE_FORCED_BY;
}

START_TEST(eviction_receipt_roundtrip)
{
    struct eviction_sample sample;

    fill_eviction(&sample);
    check_protobuf(&sample.receipt);
    check_json(&sample.receipt);
}
END_TEST

START_TEST(batch_receipt_roundtrip)
{
    Kvpool__V1__Receipt receipt = envelope();
    Kvpool__V1__EvictionBatchReceipt batch =
        KVPOOL__V1__EVICTION_BATCH_RECEIPT__INIT;
    Kvpool__V1__EvictCall call = KVPOOL__V1__EVICT_CALL__INIT;
    Kvpool__V1__EvictOutcome outcome = KVPOOL__V1__EVICT_OUTCOME__INIT;
    Kvpool__V1__EvictOutcome *outcomes[] = {&outcome};

    receipt.kind_case = KVPOOL__V1__RECEIPT__KIND_EVICTION_BATCH;
    receipt.eviction_batch = &batch;
    batch.count = 3;
    batch.total_bytes_freed = 768;
    batch.pool_used_before = 1024;
    batch.pool_used_after = 256;
    batch.fragmentation_before = 1.0 / 3;
    batch.fragmentation_after = 0.1;
    batch.duration_ns = 12345;
    batch.reason = KVPOOL__V1__EVICTION_REASON__EVICTION_REASON_MANUAL;
    batch.first_sequence = 1038;
    batch.last_sequence = 1040;
    batch.call = &call;
    call.request_id = "6e1c";
    call.request_digest = (ProtobufCBinaryData){sizeof digest, digest};
    call.requested_by = "anonymous";
    call.number = 1;
    call.final = 1;
    call.outcomes = outcomes;
    call.n_outcomes = 1;
    outcome.result = KVPOOL__V1__EVICT_RESULT__EVICT_RESULT_NOTHING_TO_FREE;
    check_protobuf(&receipt);
    check_json(&receipt);
}
END_TEST

START_TEST(snapshot_receipt_roundtrip)
{
    Kvpool__V1__Receipt receipt = envelope();
    Kvpool__V1__PoolSnapshotReceipt snapshot =
        KVPOOL__V1__POOL_SNAPSHOT_RECEIPT__INIT;
    Kvpool__V1__ReasonCount count = KVPOOL__V1__REASON_COUNT__INIT;
    Kvpool__V1__ReasonCount *counts[] = {&count};
    Kvpool__V1__TierUsage tier = KVPOOL__V1__TIER_USAGE__INIT;
    Kvpool__V1__TierUsage *tiers[] = {&tier};

    receipt.kind_case = KVPOOL__V1__RECEIPT__KIND_POOL_SNAPSHOT;
    receipt.pool_snapshot = &snapshot;
    snapshot.pool_used = 1024;
    snapshot.pool_total = UINT64_MAX;
    snapshot.utilization = 1e-300;
    snapshot.fragmentation = 0.75;
    snapshot.active_sessions = 4;
    snapshot.total_sessions_created = 9;
    snapshot.total_evictions = 5;
    snapshot.cache_hits = 3;
    snapshot.cache_misses = 1;
    snapshot.evictions_by_reason = counts;
    snapshot.n_evictions_by_reason = 1;
    count.reason = KVPOOL__V1__EVICTION_REASON__EVICTION_REASON_TTL;
    count.count = 5;
    snapshot.tiers = tiers;
    snapshot.n_tiers = 1;
    tier.tier = "memory";
    check_protobuf(&receipt);
    check_json(&receipt);
}
END_TEST

START_TEST(eviction_reason_roundtrip)
{
    static const char *const names[] = {
        "Manual", "Lru", "Ttl", "Quota", "Pressure", "Shutdown"};
    struct eviction_sample sample;

    for (int reason = 0; reason < 9; reason++) {
        bool is_known = reason >= 1 && reason <= 6;
        json_t *json;

        fill_eviction(&sample);
        sample.eviction.reason = (Kvpool__V1__EvictionReason)reason;
        check_protobuf(&sample.receipt);
        check_json(&sample.receipt);
        ck_assert_str_eq(eviction_reason_name(sample.eviction.reason),
            is_known ? names[reason - 1] : "Unknown");
        json = receipt_to_json(&sample.receipt);
        if (is_known)
            ck_assert_str_eq(json_string_value(json_object_get(json, "reason")),
                names[reason - 1]);
        else
            ck_assert_int_eq(
                json_integer_value(json_object_get(json, "reason")), reason);
        json_decref(json);
    }
}
END_TEST

START_TEST(an_eviction_reads_as_documented)
{
    struct eviction_sample sample;
    json_t *json;
    char *text;

    fill_eviction(&sample);
    json = receipt_to_json(&sample.receipt);
    text = json_dumps(json, JSON_COMPACT | JSON_REAL_PRECISION(6));
    ck_assert_str_eq(text,
        "{\"event\":\"kv_eviction\",\"sequence\":1041,\"epoch\":3,"
        "\"time_unix_ns\":1763755000123456789,"
        "\"time\":\"2025-11-21T19:56:40.123456789Z\",\"mono_ns\":77,"
        "\"pool_id\":\"a1b20000000000000000000000000000\",\"trace_id\":\"\","
        "\"session_id\":\"chat-7\",\"tenant\":\"\",\"reason\":\"Lru\","
        "\"block_offset\":0,\"block_size_bytes\":256,"
        "\"extents\":[{\"offset\":0,\"size\":128},"
        "{\"offset\":512,\"size\":128}],"
        "\"before\":{\"total_sessions\":4,\"used_memory_bytes\":1024,"
        "\"allocated_bytes_total\":1024,\"freed_bytes_total\":0,"
        "\"evictions\":0,\"cache_hits\":3,\"cache_misses\":1,"
        "\"session_tokens\":50,\"total_memory_bytes\":4096,\"free_runs\":4,"
        "\"memory_utilization\":0.25,\"hit_rate\":0.75,"
        "\"average_session_length\":12.5,\"memory_pool_efficiency\":0.25},"
        "\"after\":{\"total_sessions\":4,\"used_memory_bytes\":768,"
        "\"allocated_bytes_total\":1024,\"freed_bytes_total\":256,"
        "\"evictions\":0,\"cache_hits\":3,\"cache_misses\":1,"
        "\"session_tokens\":50,\"total_memory_bytes\":4096,\"free_runs\":4,"
        "\"memory_utilization\":0.1875,\"hit_rate\":0.75,"
        "\"average_session_length\":12.5,\"memory_pool_efficiency\":0.25},"
        "\"blocks_freed\":0,\"tokens_freed\":0,\"age_ns\":0,\"idle_ns\":0,"
        "\"hits\":0,\"zeroed\":true,\"shared_blocks_kept\":0,"
        "\"forced_by\":{\"tenant\":\"\",\"session_id\":\"other\"},"
        "\"preempted\":false,\"tokens_kept\":0,\"shared_extents\":[]}");
    free(text);
    json_decref(json);
}
END_TEST

START_TEST(random_receipts_of_every_kind_come_back_the_same)
{
    unsigned kinds = 0;

    srand(11);
    for (int i = 0; i < 3000; i++) {
        Kvpool__V1__Receipt *receipt = random_receipt();

        ck_assert_ptr_nonnull(receipt);
        kinds |= 1u << receipt->kind_case;
        check_json(receipt);
        kvpool__v1__receipt__free_unpacked(receipt, NULL);
    }
    ck_assert_uint_eq(kinds, 0x7F01); /* none, and 8 to 14 */
}
END_TEST

START_TEST(text_and_numbers_that_json_cannot_say_are_written_all_the_same)
{
    struct eviction_sample sample;
    Kvpool__V1__PerformanceReport report = KVPOOL__V1__PERFORMANCE_REPORT__INIT;
    json_t *json;

    fill_eviction(&sample);
    sample.eviction.session_id = "a\xFF\xE2\x82z";
    sample.eviction.performance = &report;
    report.average_latency_ms = 1.0 / 0.0;
    json = receipt_to_json(&sample.receipt);
    ck_assert_ptr_nonnull(json);
    ck_assert_str_eq(json_string_value(json_object_get(json, "session_id")),
        "a\xEF\xBF\xBD\xEF\xBF\xBD\xEF\xBF\xBDz");
    ck_assert(json_is_null(json_object_get(
        json_object_get(json, "performance"), "average_latency_ms")));
    json_decref(json);
}
END_TEST

static const struct refusal {
    const char *text, *names;
} refusals[] = {
    {"[]", "object"},
    {"{}", "event"},
    {"{\"event\":7}", "event"},
    {"{\"event\":\"eviction\"}", "event"},
    {"{\"event\":\"kv_sequence\"}", "event"},
    {"{\"event\":\"kv_eviction\",\"eviction\":{}}", "eviction"},
    {"{\"event\":\"kv_eviction\",\"count\":1}", "count"},
    {"{\"event\":\"kv_unknown\",\"session_id\":\"a\"}", "session_id"},
    {"{\"event\":\"kv_eviction\",\"sequence\":-1}", "sequence"},
    {"{\"event\":\"kv_eviction\",\"sequence\":1.5}", "sequence"},
    {"{\"event\":\"kv_eviction\",\"sequence\":\"5\"}", "sequence"},
    {"{\"event\":\"kv_eviction\",\"sequence\":\"18446744073709551616\"}",
        "sequence"},
    {"{\"event\":\"kv_eviction\",\"sequence\":\" 18446744073709551615\"}",
        "sequence"},
    {"{\"event\":\"kv_eviction\",\"epoch\":4294967296}", "epoch"},
    {"{\"event\":\"kv_eviction\",\"mono_ns\":true}", "mono_ns"},
    {"{\"event\":\"kv_eviction\",\"pool_id\":\"A1\"}", "pool_id"},
    {"{\"event\":\"kv_eviction\",\"pool_id\":\"a\"}", "pool_id"},
    {"{\"event\":\"kv_eviction\",\"time\":\"yesterday\"}", "time"},
    {"{\"event\":\"kv_eviction\",\"session_id\":5}", "session_id"},
    {"{\"event\":\"kv_eviction\",\"session_id\":\"a\\u0000b\"}", "session_id"},
    {"{\"event\":\"kv_eviction\",\"reason\":\"LRU\"}", "reason"},
    {"{\"event\":\"kv_eviction\",\"reason\":2}", "reason"},
    {"{\"event\":\"kv_eviction\",\"reason\":4294967296}", "reason"},
    {"{\"event\":\"kv_eviction\",\"zeroed\":1}", "zeroed"},
    {"{\"event\":\"kv_eviction\",\"extents\":{}}", "extents"},
    {"{\"event\":\"kv_eviction\",\"extents\":[{\"offset\":1},{\"size\":-1}]}",
        "extents[1].size"},
    {"{\"event\":\"kv_eviction\",\"before\":null}", "before"},
    {"{\"event\":\"kv_eviction\",\"before\":{\"hit_rate\":0.5}}",
        "before.hit_rate"},
    {"{\"event\":\"kv_eviction\",\"before\":{\"event\":\"a\"}}",
        "before.event"},
    {"{\"event\":\"kv_eviction\",\"requested_by\":\"a\",\"forced_by\":{}}",
        "forced_by"},
    {"{\"event\":\"kv_eviction_batch\",\"fragmentation_before\":\"0\"}",
        "fragmentation_before"},
};

START_TEST(what_is_not_a_receipt_is_refused_by_the_name_of_the_member)
{
    for (size_t i = 0; i < sizeof refusals / sizeof *refusals; i++) {
        json_t *json = json_loads(refusals[i].text, JSON_ALLOW_NUL, NULL);
        Kvpool__V1__Receipt *receipt = NULL;
        struct kv_error error = {0};

        ck_assert_msg(json != NULL, "%s", refusals[i].text);
        ck_assert_msg(receipt_from_json(json, &receipt, &error) == KV_INVALID,
            "accepted: %s", refusals[i].text);
        ck_assert_msg(strstr(error.text, refusals[i].names) != NULL, "%s: %s",
            refusals[i].text, error.text);
        ck_assert_ptr_null(receipt);
        json_decref(json);
    }
}
END_TEST

START_TEST(members_may_be_missing_and_then_have_their_defaults)
{
    json_t *json = json_loads("{\"event\":\"kv_eviction\",\"before\":{},"
                              "\"sequence\":\"18446744073709551615\"}",
        0, NULL);
    Kvpool__V1__Receipt *receipt = NULL;

    ck_assert_int_eq(receipt_from_json(json, &receipt, NULL), KV_OK);
    ck_assert_uint_eq(receipt->sequence, UINT64_MAX);
    ck_assert_ptr_nonnull(receipt->eviction->before);
    ck_assert_ptr_null(receipt->eviction->after);
    kvpool__v1__receipt__free_unpacked(receipt, NULL);
    json_decref(json);
}
END_TEST

START_TEST(times_before_1970_and_at_the_ends_are_dates)
{
    static const struct {
        int64_t ns;
        const char *text;
    } times[] = {
        {0, "1970-01-01T00:00:00.000000000Z"},
        {-1, "1969-12-31T23:59:59.999999999Z"},
        {INT64_MIN, "1677-09-21T00:12:43.145224192Z"},
        {INT64_MAX, "2262-04-11T23:47:16.854775807Z"},
    };

    for (size_t i = 0; i < sizeof times / sizeof *times; i++) {
        Kvpool__V1__Receipt receipt = envelope();
        json_t *json;

        receipt.time_unix_ns = times[i].ns;
        json = receipt_to_json(&receipt);
        ck_assert_str_eq(
            json_string_value(json_object_get(json, "time")), times[i].text);
        json_decref(json);
    }
}
END_TEST

START_TEST(to_json_gives_everything_back_when_memory_runs_out)
{
    struct eviction_sample sample;
    json_t *json = NULL;
    int nth;

    fill_eviction(&sample);
    sample.eviction.session_id = "a\xFF";
    faulty_heap_install();
    for (nth = 0; json == NULL; nth++) {
        faulty_heap_fail_at(nth);
        json = receipt_to_json(&sample.receipt);
        ck_assert_int_eq(faulty_heap_live(), 0);
    }
    ck_assert_int_gt(nth, 2);
    json_decref(json);
}
END_TEST

START_TEST(from_json_gives_everything_back_when_memory_runs_out)
{
    struct eviction_sample sample;
    Kvpool__V1__Receipt *receipt = NULL;
    int nth = 0;
    json_t *json;

    fill_eviction(&sample);
    json = receipt_to_json(&sample.receipt);
    faulty_heap_install();
    faulty_heap_fail_at(nth);
    while (receipt_from_json(json, &receipt, NULL) == KV_NO_MEMORY) {
        ck_assert_ptr_null(receipt);
        ck_assert_int_eq(faulty_heap_live(), 0);
        faulty_heap_fail_at(++nth);
    }
    ck_assert_int_gt(nth, 0);
    ck_assert_ptr_nonnull(receipt);
    ck_assert_int_eq(faulty_heap_live(), 0);
    kvpool__v1__receipt__free_unpacked(receipt, NULL);
    json_decref(json);
}
END_TEST

int main(void)
{
    const TTest *tests[] = {
        eviction_receipt_roundtrip,
        batch_receipt_roundtrip,
        snapshot_receipt_roundtrip,
        eviction_reason_roundtrip,
        an_eviction_reads_as_documented,
        random_receipts_of_every_kind_come_back_the_same,
        text_and_numbers_that_json_cannot_say_are_written_all_the_same,
        what_is_not_a_receipt_is_refused_by_the_name_of_the_member,
        members_may_be_missing_and_then_have_their_defaults,
        times_before_1970_and_at_the_ends_are_dates,
        to_json_gives_everything_back_when_memory_runs_out,
        from_json_gives_everything_back_when_memory_runs_out,
    };

    return CHECK_RUN("json", NULL, NULL, tests);
}
