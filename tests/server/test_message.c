/* Requests from the wire: whatever the bytes are, a message or a violation that
 * names what is wrong, and never a string that its owner would misread. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/utf8.h"
#include "kvpool/v1/inference_service.pb-c.h"
#include "kvpool/v1/pool_service.pb-c.h"
#include "server/message.h"
#include "tests/support/check_main.h"

static const ProtobufCMessageDescriptor *const types[] = {
    &kvpool__v1__evict_request__descriptor,
    &kvpool__v1__snapshot_request__descriptor,
    &kvpool__v1__stream_receipts_request__descriptor,
    &kvpool__v1__list_sessions_request__descriptor,
    &kvpool__v1__set_retention_request__descriptor,
    &kvpool__v1__get_checkpoint_request__descriptor,
    &kvpool__v1__get_inclusion_proof_request__descriptor,
    &kvpool__v1__get_consistency_proof_request__descriptor,
    &kvpool__v1__generate_request__descriptor,
    &kvpool__v1__tokenize_request__descriptor,
    &kvpool__v1__detokenize_request__descriptor,
    &kvpool__v1__get_model_request__descriptor,
};

#define N_TYPES (sizeof types / sizeof *types)

#define PARSE(type, bytes, error)                                              \
    message_parse(                                                             \
        &type, (const unsigned char *)(bytes), sizeof(bytes) - 1, (error))

static void refused(const ProtobufCMessageDescriptor *type, const void *bytes,
    size_t n, const char *field, const char *what)
{
    struct rpc_error error;

    ck_assert_ptr_null(message_parse(type, bytes, n, &error));
    ck_assert_int_eq(error.code, RPC_INVALID_ARGUMENT);
    ck_assert_str_eq(error.reason, "INVALID_FIELD");
    ck_assert_uint_eq(error.n_violations, 1);
    ck_assert_str_eq(error.violations[0].field, field);
    ck_assert_msg(strstr(error.violations[0].description, what) != NULL, "%s",
        error.violations[0].description);
}

#define REFUSED(type, bytes, field, what)                                      \
    refused(&type, (bytes), sizeof(bytes) - 1, (field), (what))

START_TEST(a_string_that_is_no_text_is_named_by_its_path)
{
    REFUSED(kvpool__v1__tokenize_request__descriptor, "\x0a\x02\xc3\x28",
        "text", "UTF-8");
    REFUSED(kvpool__v1__tokenize_request__descriptor,
        "\x0a\x03"
        "a\0b",
        "text", "U+0000");
    /* stop[2]; targets[1].session.session_id; filter.tenants[1] */
    REFUSED(kvpool__v1__generate_request__descriptor,
        "\x3a\x01"
        "a\x3a\x01"
        "b\x3a\x01\xff",
        "stop[2]", "UTF-8");
    REFUSED(kvpool__v1__evict_request__descriptor,
        "\x0a\x00\x0a\x05\x0a\x03\x12\x01\x80", "targets[1].session.session_id",
        "UTF-8");
    REFUSED(kvpool__v1__list_sessions_request__descriptor,
        "\x1a\x05\x0a\x00\x0a\x01\xff", "filter.tenants[1]", "UTF-8");
}
END_TEST

START_TEST(what_is_no_encoding_is_refused_as_a_whole)
{
    /* cut in a tag, a length, a string; a group; a length beyond the end and
     * beyond 2^63; a varint of 11 bytes; a string where a number belongs */
    REFUSED(kvpool__v1__tokenize_request__descriptor, "\x8a", "",
        "not a kvpool.v1.TokenizeRequest");
    REFUSED(kvpool__v1__tokenize_request__descriptor, "\x0a", "", "1 bytes");
    REFUSED(kvpool__v1__tokenize_request__descriptor,
        "\x0a\x05"
        "abcd",
        "", "6 bytes");
    REFUSED(kvpool__v1__tokenize_request__descriptor, "\x0b\x0c", "", "not a");
    REFUSED(kvpool__v1__tokenize_request__descriptor,
        "\x0a\xff\xff\xff\xff\x0f", "", "not a");
    REFUSED(kvpool__v1__tokenize_request__descriptor,
        "\x0a\xff\xff\xff\xff\xff\xff\xff\xff\xff\x01", "", "not a");
    REFUSED(kvpool__v1__tokenize_request__descriptor,
        "\x10\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\x01", "", "not a");
    REFUSED(kvpool__v1__tokenize_request__descriptor,
        "\x12\x01"
        "a",
        "", "not a");
    REFUSED(kvpool__v1__tokenize_request__descriptor, "\x08\x01", "", "not a");
}
END_TEST

START_TEST(what_a_newer_client_adds_is_passed_over)
{
    struct rpc_error error;
    Kvpool__V1__TokenizeRequest *request = (Kvpool__V1__TokenizeRequest *)PARSE(
        kvpool__v1__tokenize_request__descriptor,
        "\x0a\x01"
        "a\xa2\x06\x02\xff\x00\xa8\x06\x05\xb5\x06"
        "1234\xb9\x06"
        "12345678",
        &error);

    ck_assert_ptr_nonnull(request);
    ck_assert_str_eq(request->text, "a");
    ck_assert_int_eq(error.code, RPC_OK);
    ck_assert_uint_eq(error.n_violations, 0);
    kvpool__v1__tokenize_request__free_unpacked(request, NULL);
}
END_TEST

START_TEST(a_deep_path_is_cut_and_not_overrun)
{
    /* 40 targets before it, so that the index has two digits. */
    unsigned char bytes[512];
    size_t n = 0;

    for (int i = 0; i < 40; i++) {
        bytes[n++] = 0x0a;
        bytes[n++] = 0x00;
    }
    memcpy(bytes + n, "\x0a\x05\x0a\x03\x0a\x01\xff", 7);
    refused(&kvpool__v1__evict_request__descriptor, bytes, n + 7,
        "targets[40].session.tenant", "UTF-8");
}
END_TEST

/* Every string of a message that was let through, its parts included. */
static void check_strings(const ProtobufCMessage *message)
{
    for (unsigned i = 0; i < message->descriptor->n_fields; i++) {
        const ProtobufCFieldDescriptor *field = &message->descriptor->fields[i];
        const char *at = (const char *)message + field->offset;
        bool is_many = field->label == PROTOBUF_C_LABEL_REPEATED;
        size_t n = 1;

        if (field->type != PROTOBUF_C_TYPE_STRING &&
            field->type != PROTOBUF_C_TYPE_MESSAGE)
            continue;
        if (field->flags & PROTOBUF_C_FIELD_FLAG_ONEOF &&
            *(const uint32_t *)(const void *)((const char *)message +
                                              field->quantifier_offset) !=
                field->id)
            continue;
        if (is_many) {
            n = *(const size_t *)(const void *)((const char *)message +
                                                field->quantifier_offset);
            at = *(const char *const *)(const void *)at;
        }
        for (size_t j = 0; j < n; j++) {
            const void *value = ((const void *const *)(const void *)at)[j];

            if (value == NULL)
                continue;
            if (field->type == PROTOBUF_C_TYPE_MESSAGE)
                check_strings(value);
            else
                ck_assert(kv_utf8_valid(value, strlen(value)));
        }
    }
}

static uint64_t random_state = 88172645463325252u;

static uint64_t draw(uint64_t n)
{
    random_state ^= random_state << 13;
    random_state ^= random_state >> 7;
    random_state ^= random_state << 17;
    return random_state % n;
}

static void parse_any(const ProtobufCMessageDescriptor *type,
    const unsigned char *bytes, size_t n)
{
    struct rpc_error error;
    unsigned char *exact =
        malloc(n > 0 ? n : 1); /* so that ASan sees its end */
    ProtobufCMessage *message;

    memcpy(exact, bytes, n);
    message = message_parse(type, exact, n, &error);
    free(exact);
    if (message == NULL) {
        ck_assert_int_eq(error.code, RPC_INVALID_ARGUMENT);
        ck_assert_uint_gt(error.n_violations, 0);
        return;
    }
    ck_assert_uint_eq(error.n_violations, 0);
    check_strings(message);
    protobuf_c_message_free_unpacked(message, NULL);
}

/* Bytes that look like fields more often than chance would have it. */
static size_t make_noise(unsigned char *bytes, size_t most, int depth)
{
    size_t n = 0, n_inner;

    while (n + 12 < most && draw(5) > 0) {
        unsigned wire = (unsigned)draw(8);

        bytes[n++] =
            (unsigned char)((1 + draw(14)) << 3 | (wire < 6 ? 2 : wire));
        if (wire >= 6 || draw(8) == 0) {
            bytes[n++] = (unsigned char)draw(256);
            continue;
        }
        n_inner = depth < 3 && draw(2) == 0
                      ? make_noise(bytes + n + 1,
                            most - n - 1 < 100 ? most - n - 1 : 100, depth + 1)
                      : draw(6);
        if (n_inner < 6)
            for (size_t i = 0; i < n_inner; i++)
                bytes[n + 1 + i] = (unsigned char)draw(draw(2) ? 128 : 256);
        bytes[n] = (unsigned char)n_inner;
        n += 1 + n_inner;
    }
    return n;
}

START_TEST(any_bytes_are_a_message_or_a_violation)
{
    unsigned char bytes[400];

    for (int round = 0; round < 20000; round++) {
        size_t n = make_noise(bytes, sizeof bytes, 0);

        for (size_t i = draw(4); i > 0 && n > 0; i--)
            bytes[draw(n)] ^= (unsigned char)(1u << draw(8));
        parse_any(types[draw(N_TYPES)], bytes, n > 0 ? n - draw(2) : 0);
    }
}
END_TEST

START_TEST(every_beginning_and_every_flipped_bit_of_a_request_is_handled)
{
    static const unsigned char whole[] =
        "\x0a\x01s\x12\x01t\x1a\x04text\x28\x10\x32\x0f\x0d\x00\x00\x00\x3f\x10"
        "\x05\x1d\x00\x00\x00\x3f\x28\x07\x3a\x02st\x3a\x01p\x4a\x06\x0a\x04"
        "\x08"
        "\xe8\x07\x10";
    unsigned char bytes[sizeof whole];

    for (size_t n = 0; n < sizeof whole; n++)
        parse_any(&kvpool__v1__generate_request__descriptor, whole, n);
    for (size_t i = 0; i < 8 * (sizeof whole - 1); i++) {
        memcpy(bytes, whole, sizeof whole);
        bytes[i / 8] ^= (unsigned char)(1u << i % 8);
        for (size_t t = 0; t < N_TYPES; t++)
            parse_any(types[t], bytes, sizeof whole - 1);
    }
}
END_TEST

START_TEST(what_is_encoded_parses_to_the_same)
{
    Kvpool__V1__GetModelRequest request = KVPOOL__V1__GET_MODEL_REQUEST__INIT;
    Kvpool__V1__GetModelRequest *back;
    struct rpc_bytes bytes;
    struct rpc_error error;

    request.name = (char *)"a name";
    ck_assert(message_encode(&request.base, &bytes));
    back = (Kvpool__V1__GetModelRequest *)message_parse(
        &kvpool__v1__get_model_request__descriptor, bytes.data, bytes.n,
        &error);
    ck_assert_str_eq(back->name, "a name");
    kvpool__v1__get_model_request__free_unpacked(back, NULL);
    bytes.release(bytes.ctx);
}
END_TEST

/* The types from a request down to `type`, innermost first. */
struct descent {
    const ProtobufCMessageDescriptor *type;
    const struct descent *outer;
};

static size_t count_types(const struct descent *at)
{
    size_t n = 1;

    for (const struct descent *up = at->outer; up != NULL; up = up->outer)
        ck_assert_msg(
            up->type != at->type, "%s contains itself", at->type->name);
    for (unsigned i = 0; i < at->type->n_fields; i++) {
        const ProtobufCFieldDescriptor *field = &at->type->fields[i];
        struct descent inner = {field->descriptor, at};

        if (field->type == PROTOBUF_C_TYPE_MESSAGE)
            n += count_types(&inner);
    }
    return n;
}

/* protobuf-c unpacks without a limit of depth, so depth must have an end. */
START_TEST(no_type_of_a_request_contains_itself)
{
    for (size_t i = 0; i < N_TYPES; i++)
        ck_assert_uint_ge(count_types(&(struct descent){types[i], NULL}), 1);
}
END_TEST

int main(void)
{
    const TTest *tests[] = {
        no_type_of_a_request_contains_itself,
        a_string_that_is_no_text_is_named_by_its_path,
        what_is_no_encoding_is_refused_as_a_whole,
        what_a_newer_client_adds_is_passed_over,
        a_deep_path_is_cut_and_not_overrun,
        any_bytes_are_a_message_or_a_violation,
        every_beginning_and_every_flipped_bit_of_a_request_is_handled,
        what_is_encoded_parses_to_the_same,
    };

    return CHECK_RUN("message", NULL, NULL, tests);
}
