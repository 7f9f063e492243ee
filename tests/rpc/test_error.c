#include <string.h>

#include "base/heap.h"
#include "base/utf8.h"
#include "rpc/error.h"
#include "tests/support/check_main.h"

static struct rpc_error error, decoded;
static unsigned char *bytes;

static size_t encode_and_decode(void)
{
    size_t n = rpc_error_encode(&error, &bytes);

    rpc_error_decode(&decoded, error.code, error.message, bytes, n);
    return n;
}

static void tear_down(void)
{
    kv_free(bytes);
}

START_TEST(details_come_back_as_they_were_sent)
{
    rpc_error_init(&error, RPC_OUT_OF_RANGE, "SEQUENCE_EXPIRED", "%s", "gone");
    rpc_error_add_metadata(&error, "sequence", "%d", 7);
    rpc_error_add_metadata(&error, "epoch", "%d", 2);
    encode_and_decode();
    ck_assert_mem_eq(&error, &decoded, sizeof error);
}
END_TEST

START_TEST(the_bytes_are_those_of_google_rpc)
{
    /* google.rpc.Status(5, "m", [Any(ErrorInfo("R", "kvpool", {"k": "v=w"}))])
     */
    static const unsigned char expected[] =
        "\x08\x05\x12\x01m\x1a\x41\x0a\x28"
        "type.googleapis.com/google.rpc.ErrorInfo"
        "\x12\x15\x0a\x01R\x12\x06kvpool\x1a\x08\x0a\x01k\x12\x03"
        "v=w";
    size_t n;

    rpc_error_init(&error, RPC_NOT_FOUND, "R", "m");
    rpc_error_add_metadata(&error, "k", "v=w");
    n = rpc_error_encode(&error, &bytes);
    ck_assert_uint_eq(n, sizeof expected - 1);
    ck_assert_mem_eq(bytes, expected, n);
}
END_TEST

START_TEST(the_first_violation_speaks_for_all)
{
    memset(&error, 0, sizeof error);
    rpc_error_add_violation(&error, "max_tokens", "%d given, 1 to 9", 10);
    rpc_error_add_violation(&error, "seed", "negative");
    ck_assert_int_eq(error.code, RPC_INVALID_ARGUMENT);
    ck_assert_str_eq(error.reason, "INVALID_FIELD");
    ck_assert_str_eq(error.message, "max_tokens: 10 given, 1 to 9");
    encode_and_decode();
    ck_assert_mem_eq(&error, &decoded, sizeof error);
}
END_TEST

START_TEST(violations_beyond_the_maximum_are_counted)
{
    memset(&error, 0, sizeof error);
    for (int i = 0; i < RPC_ERROR_MAX_VIOLATIONS + 3; i++)
        rpc_error_add_violation(&error, "f", "bad");
    ck_assert_uint_eq(error.n_violations, RPC_ERROR_MAX_VIOLATIONS);
    ck_assert_str_eq(error.message, "f: bad (and 3 more that are not listed)");
}
END_TEST

START_TEST(an_unsupported_field_has_its_own_reason)
{
    memset(&error, 0, sizeof error);
    rpc_error_add_unsupported(&error, "filter", "a filter");
    ck_assert_str_eq(error.reason, "FIELD_NOT_SUPPORTED");
    ck_assert_int_eq(error.code, RPC_INVALID_ARGUMENT);
    ck_assert_ptr_nonnull(strstr(error.message, "filter: a filter"));
}
END_TEST

START_TEST(a_reason_that_was_set_stays)
{
    memset(&error, 0, sizeof error);
    strcpy(error.reason, "PROMPT_TOO_LONG");
    rpc_error_add_violation(&error, "prompt", "long");
    ck_assert_str_eq(error.reason, "PROMPT_TOO_LONG");
}
END_TEST

START_TEST(the_longest_error_fits_4_kib)
{
    char text[2000];
    size_t n;

    memset(text, 'x', sizeof text - 1);
    text[sizeof text - 1] = '\0';
    rpc_error_init(&error, RPC_INVALID_ARGUMENT, text, "%s", text);
    for (int i = 0; i < 20; i++)
        rpc_error_add_metadata(&error, text, "%s", text);
    for (int i = 0; i < 20; i++)
        rpc_error_add_violation(&error, text, "%s", text);
    n = encode_and_decode();
    ck_assert_uint_gt(n, 0);
    ck_assert_uint_le(n, 4096);
    ck_assert_str_eq(decoded.reason, error.reason);
    ck_assert_uint_eq(decoded.n_metadata, RPC_ERROR_MAX_METADATA);
    ck_assert_uint_gt(decoded.n_violations, 0);
}
END_TEST

START_TEST(no_text_is_sent_that_is_not_utf8)
{
    char text[700];

    rpc_error_init(&error, RPC_NOT_FOUND, "R", "a\xff\xc3.b%s", "\xe2\x82");
    ck_assert_str_eq(error.message, "a??.b??");
    memset(text, 'x', sizeof text);
    for (size_t i = 1; i + 2 < sizeof text; i += 2)
        memcpy(text + i, "\xc3\xa9", 2);
    text[sizeof text - 1] = '\0';
    rpc_error_init(&error, RPC_NOT_FOUND, "R", "%s", text);
    ck_assert_uint_le(strlen(error.message), sizeof error.message - 1);
    ck_assert(kv_utf8_valid(error.message, strlen(error.message)));
}
END_TEST

START_TEST(damaged_details_leave_code_and_message)
{
    size_t n;

    rpc_error_init(&error, RPC_NOT_FOUND, "REASON", "words");
    rpc_error_add_violation(&error, "f", "bad");
    n = rpc_error_encode(&error, &bytes);
    for (size_t i = 0; i < n; i++) {
        for (int bit = 0; bit < 8; bit++) {
            bytes[i] ^= (unsigned char)(1 << bit);
            rpc_error_decode(&decoded, RPC_NOT_FOUND, "words", bytes, n);
            bytes[i] ^= (unsigned char)(1 << bit);
            ck_assert_int_eq(decoded.code, RPC_NOT_FOUND);
            ck_assert_str_eq(decoded.message, "words");
        }
        rpc_error_decode(&decoded, RPC_NOT_FOUND, "words", bytes, i);
        ck_assert_str_eq(decoded.message, "words");
    }
}
END_TEST

START_TEST(an_error_without_details_has_none)
{
    rpc_error_init(&error, RPC_NOT_FOUND, "", "words");
    ck_assert_uint_eq(rpc_error_encode(&error, &bytes), 0);
    rpc_error_decode(&decoded, RPC_NOT_FOUND, "words", NULL, 0);
    ck_assert_mem_eq(&error, &decoded, sizeof error);
}
END_TEST

START_TEST(every_code_has_googles_name)
{
    ck_assert_str_eq(rpc_code_name(RPC_OK), "OK");
    ck_assert_str_eq(
        rpc_code_name(RPC_RESOURCE_EXHAUSTED), "RESOURCE_EXHAUSTED");
    ck_assert_str_eq(rpc_code_name(RPC_UNAUTHENTICATED), "UNAUTHENTICATED");
    ck_assert_str_eq(rpc_code_name((enum rpc_code)77), "UNKNOWN");
}
END_TEST

int main(void)
{
    const TTest *tests[] = {
        details_come_back_as_they_were_sent,
        the_bytes_are_those_of_google_rpc,
        the_first_violation_speaks_for_all,
        violations_beyond_the_maximum_are_counted,
        an_unsupported_field_has_its_own_reason,
        a_reason_that_was_set_stays,
        the_longest_error_fits_4_kib,
        no_text_is_sent_that_is_not_utf8,
        damaged_details_leave_code_and_message,
        an_error_without_details_has_none,
        every_code_has_googles_name,
    };

    return CHECK_RUN("rpc error", NULL, tear_down, tests);
}
