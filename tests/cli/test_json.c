#include <math.h>
#include <string.h>

#include "base/heap.h"
#include "cli/proto_json.h"
#include "kvpool/v1/inference_service.pb-c.h"
#include "kvpool/v1/pool_service.pb-c.h"
#include "tests/support/check_main.h"
#include "tests/support/faulty_heap.h"

static char *dump(const ProtobufCMessage *message)
{
    json_t *json = proto_to_json(message);
    char *text;

    ck_assert_ptr_nonnull(json);
    text = json_dumps(json, JSON_COMPACT);
    json_decref(json);
    ck_assert_ptr_nonnull(text);
    return text;
}

static void assert_json(const ProtobufCMessage *message, const char *wanted)
{
    char *text = dump(message);

    ck_assert_str_eq(text, wanted);
    free(text);
}

START_TEST(scalars_are_there_even_when_they_are_zero)
{
    Kvpool__V1__LedgerStatus status = KVPOOL__V1__LEDGER_STATUS__INIT;

    assert_json(&status.base,
        "{\"mode\":\"UNSPECIFIED\",\"oldest_sequence\":0,\"stored_bytes\":0,"
        "\"limit_bytes\":0,\"checkpoint_tree_size\":0,\"error\":\"\"}");
}
END_TEST

START_TEST(absent_messages_are_absent_and_lists_are_not)
{
    Kvpool__V1__ListSessionsResponse list =
        KVPOOL__V1__LIST_SESSIONS_RESPONSE__INIT;

    assert_json(&list.base, "{\"sessions\":[],\"next_page_token\":\"\"}");
}
END_TEST

START_TEST(of_a_oneof_the_one_that_is_set_appears)
{
    Kvpool__V1__EvictTarget target = KVPOOL__V1__EVICT_TARGET__INIT;

    assert_json(&target.base, "{}");
    target.target_case = KVPOOL__V1__EVICT_TARGET__TARGET_TENANT;
    target.tenant = (char *)"";
    assert_json(&target.base, "{\"tenant\":\"\"}");
}
END_TEST

START_TEST(an_enum_loses_its_prefix_and_a_new_value_is_a_number)
{
    Kvpool__V1__EvictOutcome outcome = KVPOOL__V1__EVICT_OUTCOME__INIT;
    char *text;

    outcome.result = KVPOOL__V1__EVICT_RESULT__EVICT_RESULT_NOTHING_TO_FREE;
    text = dump(&outcome.base);
    ck_assert_ptr_nonnull(strstr(text, "\"result\":\"NOTHING_TO_FREE\""));
    free(text);
    outcome.result = (Kvpool__V1__EvictResult)77;
    text = dump(&outcome.base);
    ck_assert_ptr_nonnull(strstr(text, "\"result\":77"));
    free(text);
}
END_TEST

START_TEST(integers_are_exact_to_the_last)
{
    Kvpool__V1__Extent extent = KVPOOL__V1__EXTENT__INIT;

    extent.offset = INT64_MAX;
    extent.size = UINT64_MAX;
    assert_json(&extent.base,
        "{\"offset\":9223372036854775807,\"size\":\"18446744073709551615\"}");
}
END_TEST

START_TEST(bytes_are_hexadecimal)
{
    Kvpool__V1__LedgerPosition position = KVPOOL__V1__LEDGER_POSITION__INIT;
    uint8_t bytes[] = {0x00, 0xAB, 0xFF};

    position.pool_id = (ProtobufCBinaryData){sizeof bytes, bytes};
    assert_json(&position.base,
        "{\"sequence\":0,\"epoch\":0,\"pool_id\":\"00abff\",\"root\":\"\"}");
}
END_TEST

START_TEST(what_json_cannot_say_does_not_break_it)
{
    Kvpool__V1__SinkGap gap = KVPOOL__V1__SINK_GAP__INIT;
    Kvpool__V1__PoolRatios ratios = KVPOOL__V1__POOL_RATIOS__INIT;
    char *text;

    gap.sink = (char *)"a\xFFz";
    text = dump(&gap.base);
    ck_assert_ptr_nonnull(strstr(text, "\"sink\":\"a\xEF\xBF\xBDz\""));
    free(text);
    ratios.utilization = (double)INFINITY;
    ratios.hit_rate = (double)NAN;
    text = dump(&ratios.base);
    ck_assert_ptr_nonnull(
        strstr(text, "\"utilization\":null,\"hit_rate\":null"));
    free(text);
}
END_TEST

START_TEST(nested_and_repeated_messages_are_walked)
{
    Kvpool__V1__TokenizeResponse tokens = KVPOOL__V1__TOKENIZE_RESPONSE__INIT;
    uint32_t ids[] = {1, UINT32_MAX};
    ProtobufCBinaryData pieces[] = {{1, (uint8_t *)"a"}, {0, NULL}};

    tokens.n_token_ids = 2;
    tokens.token_ids = ids;
    tokens.n_pieces = 2;
    tokens.pieces = pieces;
    assert_json(&tokens.base,
        "{\"token_ids\":[1,4294967295],\"pieces\":[\"61\",\"\"]}");
}
END_TEST

static void *counted_malloc(size_t n)
{
    return kv_calloc(n, 1);
}

START_TEST(without_memory_there_is_no_json_and_nothing_leaks)
{
    Kvpool__V1__EvictOutcome outcome = KVPOOL__V1__EVICT_OUTCOME__INIT;
    Kvpool__V1__EvictOutcome *outcomes[] = {&outcome, &outcome};
    Kvpool__V1__EvictResponse answer = KVPOOL__V1__EVICT_RESPONSE__INIT;
    Kvpool__V1__SessionKey key = KVPOOL__V1__SESSION_KEY__INIT;
    json_t *json = NULL;
    int nth;

    key.session_id = (char *)"a\xFF";
    outcome.session = &key;
    answer.n_outcomes = 2;
    answer.outcomes = outcomes;
    json_set_alloc_funcs(counted_malloc, kv_free);
    for (nth = 0; json == NULL; nth++) {
        faulty_heap_install();
        faulty_heap_fail_at(nth);
        json = proto_to_json(&answer.base);
        if (json == NULL)
            ck_assert_int_eq(faulty_heap_live(), 0);
        ck_assert_int_lt(nth, 1000);
    }
    json_decref(json);
    ck_assert_int_eq(faulty_heap_live(), 0);
    ck_assert_int_gt(nth, 10);
}
END_TEST

int main(void)
{
    const TTest *tests[] = {
        scalars_are_there_even_when_they_are_zero,
        absent_messages_are_absent_and_lists_are_not,
        of_a_oneof_the_one_that_is_set_appears,
        an_enum_loses_its_prefix_and_a_new_value_is_a_number,
        integers_are_exact_to_the_last,
        bytes_are_hexadecimal,
        what_json_cannot_say_does_not_break_it,
        nested_and_repeated_messages_are_walked,
        without_memory_there_is_no_json_and_nothing_leaks,
    };

    return CHECK_RUN("proto_json", NULL, NULL, tests);
}
