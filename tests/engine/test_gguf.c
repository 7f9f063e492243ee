#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/utf8.h"
#include "engine/gguf.h"
#include "tests/engine/tiny_model.h"
#include "tests/support/check_main.h"
#include "tests/support/faulty_heap.h"

static struct tiny_model tiny;

static void set_up(void)
{
    faulty_heap_install();
    tiny_model_init(&tiny, "llama");
}

static void tear_down(void)
{
    ck_assert_int_eq(faulty_heap_live(), 0);
}

static void expect_refusal_of(
    const void *data, size_t n, enum kv_status status, const char *words)
{
    struct gguf *gguf = NULL;
    struct kv_error error = {KV_OK, ""};

    ck_assert_int_eq(gguf_open_memory(&gguf, data, n, "m", &error), status);
    ck_assert_ptr_null(gguf);
    ck_assert_int_eq(error.status, status);
    ck_assert_msg(
        strncmp(error.text, "m: ", 3) == 0 && strstr(error.text, words) != NULL,
        "\"%s\" does not say \"%s\"", error.text, words);
}

static void expect_refusal(enum kv_status status, const char *words)
{
    size_t n;
    unsigned char *bytes = tiny_model_write(&tiny, &n);

    expect_refusal_of(bytes, n, status, words);
    free(bytes);
}

static struct gguf *open_tiny(unsigned char **bytes)
{
    struct gguf *gguf = NULL;
    struct kv_error error = {KV_OK, ""};
    size_t n;

    *bytes = tiny_model_write(&tiny, &n);
    ck_assert_msg(gguf_open_memory(&gguf, *bytes, n, "m", &error) == KV_OK,
        "%s", error.text);
    return gguf;
}

START_TEST(a_tensor_is_found_by_name_with_its_shape_and_data)
{
    unsigned char *bytes;
    struct gguf *gguf;
    const struct gguf_tensor *tensor;

    tiny_model_tensor(&tiny, "blk.1.attn_k.weight")->fill = 2.5f;
    gguf = open_tiny(&bytes);
    tensor = gguf_tensor_find(gguf, "blk.1.attn_k.weight");
    ck_assert_ptr_nonnull(tensor);
    ck_assert_uint_eq(tensor->dims[0], 32);
    ck_assert_uint_eq(tensor->dims[1], 16);
    ck_assert_uint_eq(tensor->dims[3], 1);
    ck_assert_uint_eq(tensor->n_bytes, 32 * 16 * 4);
    ck_assert_float_eq(((const float *)tensor->data)[511], 2.5f);
    ck_assert_ptr_eq(gguf_tensor_at(gguf, tensor->index), tensor);
    ck_assert_ptr_null(gguf_tensor_find(gguf, "blk.1.attn_k"));
    gguf_close(gguf);
    free(bytes);
}
END_TEST

START_TEST(an_integer_of_any_width_is_read_and_a_negative_one_refused)
{
    static const struct {
        uint32_t type;
        uint64_t bits;
        enum kv_status status;
        uint64_t value;
    } cases[] = {
        {0, 0xFF, KV_OK, 0xFF},
        {1, 0x7F, KV_OK, 0x7F},
        {1, 0x80, KV_INVALID, 0},
        {2, 0xFFFF, KV_OK, 0xFFFF},
        {3, 0x8000, KV_INVALID, 0},
        {4, 0xFFFFFFFF, KV_OK, 0xFFFFFFFF},
        {5, 0xFFFFFFFF, KV_INVALID, 0},
        {6, 0, KV_INVALID, 0},
        {7, 1, KV_INVALID, 0},
        {10, UINT64_MAX, KV_OK, UINT64_MAX},
        {11, UINT64_MAX, KV_INVALID, 0},
        {12, 0, KV_INVALID, 0},
    };

    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        struct tiny_key *key = tiny_model_key(&tiny, "x");
        struct kv_error error;
        unsigned char *bytes;
        struct gguf *gguf;
        uint64_t value = 0;

        key->type = cases[i].type;
        key->bits = cases[i].bits;
        gguf = open_tiny(&bytes);
        ck_assert_int_eq(
            gguf_get_uint(gguf, "x", &value, &error), cases[i].status);
        ck_assert_uint_eq(value, cases[i].value);
        gguf_close(gguf);
        free(bytes);
    }
}
END_TEST

START_TEST(a_value_of_another_type_is_refused_by_its_key)
{
    struct kv_error error;
    unsigned char *bytes;
    struct gguf *gguf = open_tiny(&bytes);
    struct gguf_string text;
    struct gguf_array array;
    float number;
    bool flag;

    ck_assert_int_eq(
        gguf_get_string(gguf, "llama.block_count", &text, &error), KV_INVALID);
    ck_assert_str_eq(error.text,
        "m: key llama.block_count is of type u32; a string is needed");
    ck_assert_int_eq(
        gguf_get_float(gguf, "general.name", &number, &error), KV_INVALID);
    ck_assert_int_eq(
        gguf_get_bool(gguf, "general.name", &flag, &error), KV_INVALID);
    ck_assert_int_eq(gguf_get_array(gguf, "tokenizer.ggml.tokens", GGUF_FLOATS,
                         &array, &error),
        KV_INVALID);
    ck_assert_str_eq(error.text, "m: key tokenizer.ggml.tokens is an array of "
                                 "string; an array of f32 is needed");
    ck_assert_int_eq(gguf_get_bool(gguf, "no", &flag, &error), KV_NOT_FOUND);
    gguf_close(gguf);
    free(bytes);
}
END_TEST

START_TEST(what_is_not_gguf_is_said_to_be_so)
{
    static _Alignas(8) const char text[] = "GGUX and more of the same";
    uint32_t version = 0x03000000;
    unsigned char *bytes;
    size_t n;

    expect_refusal_of(text, sizeof text, KV_INVALID, "not a GGUF file");
    expect_refusal_of(text, 3, KV_INVALID, "not a GGUF file");
    tiny.version = 1;
    expect_refusal(KV_UNSUPPORTED, "version 1; 2 and 3");
    tiny.version = 4;
    expect_refusal(KV_UNSUPPORTED, "version 4; 2 and 3");
    bytes = tiny_model_write(&tiny, &n);
    memcpy(bytes + 4, &version, sizeof version);
    expect_refusal_of(bytes, n, KV_UNSUPPORTED, "big-endian");
    free(bytes);
}
END_TEST

START_TEST(version_2_is_read_like_version_3)
{
    unsigned char *bytes;

    tiny.version = 2;
    gguf_close(open_tiny(&bytes));
    free(bytes);
}
END_TEST

START_TEST(counts_beyond_the_file_are_refused_before_anything_is_allocated)
{
    static const uint64_t counts[] = {UINT64_MAX, UINT64_C(1) << 40, 1u << 19};
    size_t n;
    unsigned char *bytes = tiny_model_write(&tiny, &n);

    for (size_t where = 8; where <= 16; where += 8)
        for (size_t i = 0; i < sizeof counts / sizeof *counts; i++) {
            uint64_t real;

            memcpy(&real, bytes + where, 8);
            memcpy(bytes + where, &counts[i], 8);
            expect_refusal_of(bytes, n, KV_INVALID, "they must fit");
            memcpy(bytes + where, &real, 8);
        }
    free(bytes);
}
END_TEST

START_TEST(a_name_that_is_there_twice_is_refused)
{
    tiny_model_set_uint(&tiny, "x", 1);
    tiny_model_set_uint(&tiny, "y", 1);
    memcpy(tiny_model_key(&tiny, "y")->name, "x", 2);
    expect_refusal(KV_INVALID, "key x is there twice");
    tiny_model_drop_key(&tiny, "x");
    memcpy(tiny_model_tensor(&tiny, "blk.0.attn_k.weight")->name,
        "blk.0.attn_v", 12);
    expect_refusal(KV_INVALID, "tensor blk.0.attn_v.weight is there twice");
}
END_TEST

START_TEST(an_unknown_value_type_and_an_array_of_arrays_are_refused)
{
    /* An array whose elements are arrays: type 9, then its u32 and u64. */
    tiny_model_key(&tiny, "odd")->type = 13;
    expect_refusal(KV_INVALID, "key odd has value type 13");
    tiny_model_drop_key(&tiny, "odd");
    tiny_model_set_text(&tiny, "odd", "123456789012");
    {
        size_t n;
        unsigned char *bytes = tiny_model_write(&tiny, &n);
        unsigned char *at = memmem(bytes, n, "odd", 3);

        ck_assert_ptr_nonnull(at);
        at[3] = 9;
        memset(at + 7, 0, 8);
        at[7] = 9;
        expect_refusal_of(
            bytes, n, KV_INVALID, "key odd is an array of type 9");
        free(bytes);
    }
}
END_TEST

START_TEST(a_type_without_kernels_is_refused_by_its_name)
{
    struct tiny_tensor *tensor =
        tiny_model_tensor(&tiny, "blk.0.attn_q.weight");

    tensor->type = 11;
    expect_refusal(KV_UNSUPPORTED,
        "tensor blk.0.attn_q.weight has type Q3_K; supported are F32, F16, "
        "BF16, Q4_0, Q8_0, Q4_K, Q5_K, Q6_K, TQ1_0, TQ2_0, I2_S");
    tensor->type = 39;
    expect_refusal(KV_UNSUPPORTED, "has type MXFP4 (or TL2)");
    tensor->type = 4;
    expect_refusal(
        KV_UNSUPPORTED, "blk.0.attn_q.weight has the unknown type 4");
    tensor->type = UINT32_MAX;
    expect_refusal(KV_UNSUPPORTED, "the unknown type 4294967295");
}
END_TEST

START_TEST(dims_that_cannot_be_are_refused)
{
    struct tiny_tensor *tensor =
        tiny_model_tensor(&tiny, "blk.0.attn_q.weight");
    const struct tiny_tensor sound = *tensor;
    static const enum gguf_tensor_type large[] = {
        GGUF_TQ1_0, GGUF_TQ2_0, GGUF_I2_S, GGUF_Q4_K, GGUF_Q5_K, GGUF_Q6_K};

    tensor->n_dims = 0;
    expect_refusal(KV_INVALID, "has 0 dimensions; 1 to 4");
    tensor->n_dims = 5;
    expect_refusal(KV_INVALID, "has 5 dimensions; 1 to 4");
    *tensor = sound;
    tensor->dims[1] = 0;
    expect_refusal(KV_INVALID, "has a dimension of 0");
    tensor->dims[1] = UINT64_C(1) << 60;
    expect_refusal(KV_INVALID, "is larger than the file");
    tensor->dims[0] = tensor->dims[1] = UINT64_C(1) << 32;
    expect_refusal(KV_INVALID, "is larger than the file");
    *tensor = sound;
    for (size_t i = 0; i < sizeof large / sizeof *large; i++) {
        char words[128];

        tensor->type = large[i];
        snprintf(words, sizeof words,
            "tensor blk.0.attn_q.weight has rows of 32 elements; for type %s "
            "a multiple of 256 is needed",
            gguf_type_name(large[i]));
        expect_refusal(KV_INVALID, words);
    }
}
END_TEST

START_TEST(a_tensor_outside_of_the_file_is_named)
{
    struct tiny_tensor *tensor =
        tiny_model_tensor(&tiny, "blk.0.attn_q.weight");

    tensor->offset_skew = 1;
    expect_refusal(KV_INVALID, "a multiple of the alignment 32");
    tensor->offset_skew = 1u << 30;
    expect_refusal(KV_INVALID, "tensor blk.0.attn_q.weight (4096 bytes");
    tensor->offset_skew = 0;
    tensor = tiny_model_tensor(&tiny, "token_embd.weight");
    tensor->offset_skew = UINT64_MAX - 31;
    expect_refusal(KV_INVALID, "tensor token_embd.weight");
}
END_TEST

START_TEST(an_alignment_that_is_no_power_of_two_is_refused)
{
    static const uint64_t bad[] = {0, 1, 4, 3, 48, 1u << 21};

    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) {
        tiny.alignment = bad[i];
        expect_refusal(KV_INVALID, "general.alignment");
    }
    for (uint64_t good = 8; good <= 4096; good *= 2) {
        unsigned char *bytes;

        tiny.alignment = good;
        gguf_close(open_tiny(&bytes));
        free(bytes);
    }
}
END_TEST

START_TEST(an_error_is_printable_whatever_the_file_holds)
{
    struct gguf_string hostile = {
        "\x1B[31m\xFF\xE2\x82\0gr\xC3\xBC\xC3\x9F", 15};
    struct gguf_printable printable = gguf_printable(hostile);

    ck_assert_str_eq(printable.text, "?[31m????gr\xC3\xBC\xC3\x9F");
    tiny_model_tensor(&tiny, "blk.0.attn_q.weight")->type = 99;
    memcpy(
        tiny_model_tensor(&tiny, "blk.0.attn_q.weight")->name, "\x07\xFF", 2);
    expect_refusal(KV_UNSUPPORTED, "tensor ??k.0.attn_q.weight");
}
END_TEST

START_TEST(a_printable_name_is_cut_between_characters)
{
    char text[200];
    struct gguf_printable printable;

    for (size_t i = 0; i + 2 <= sizeof text; i += 2)
        memcpy(text + i, "\xC3\xBC", 2);
    printable = gguf_printable((struct gguf_string){text, sizeof text});
    ck_assert_uint_eq(strlen(printable.text), 94);
    ck_assert(kv_utf8_valid(printable.text, 94));
}
END_TEST

static void expect_io_error(const char *path, const char *words)
{
    struct gguf *gguf = NULL;
    struct kv_error error = {KV_OK, ""};

    ck_assert_int_eq(gguf_open(&gguf, path, &error), KV_IO);
    ck_assert_ptr_null(gguf);
    ck_assert_ptr_nonnull(strstr(error.text, path));
    ck_assert_msg(strstr(error.text, words) != NULL, "%s", error.text);
}

START_TEST(a_file_that_cannot_be_read_is_named_with_the_reason)
{
    char folder[] = "test_gguf.XXXXXX", path[64];

    ck_assert_ptr_nonnull(mkdtemp(folder));
    snprintf(path, sizeof path, "%s/model", folder);
    expect_io_error(path, "No such file");
    expect_io_error(folder, "Is a directory");
    ck_assert_int_eq(mkfifo(path, 0600), 0);
    expect_io_error(path, "not a regular file");
    ck_assert_int_eq(unlink(path), 0);
    fclose(fopen(path, "w"));
    expect_io_error(path, "empty");
    ck_assert_int_eq(unlink(path), 0);
    ck_assert_int_eq(rmdir(folder), 0);
}
END_TEST

START_TEST(a_file_reads_the_same_as_memory)
{
    char path[] = "test_gguf.XXXXXX";
    struct kv_error error;
    struct gguf *gguf;
    size_t n;
    unsigned char *bytes = tiny_model_write(&tiny, &n);
    int fd = mkstemp(path);

    ck_assert_int_ge(fd, 0);
    ck_assert_int_eq(write(fd, bytes, n), (ssize_t)n);
    close(fd);
    ck_assert_int_eq(gguf_open(&gguf, path, &error), KV_OK);
    unlink(path);
    ck_assert_uint_eq(gguf_file_bytes(gguf), n);
    ck_assert_mem_eq(gguf_file_data(gguf), bytes, n);
    ck_assert_str_eq(gguf_name(gguf), path);
    ck_assert_uint_eq(gguf_n_tensors(gguf), 20);
    gguf_close(gguf);
    free(bytes);
}
END_TEST

START_TEST(an_allocation_that_fails_is_no_memory_and_leaves_nothing)
{
    size_t n;
    unsigned char *bytes = tiny_model_write(&tiny, &n);
    enum kv_status status = KV_NO_MEMORY;
    int nth;

    for (nth = 0; status != KV_OK; nth++) {
        struct gguf *gguf = NULL;
        struct kv_error error;

        faulty_heap_fail_at(nth);
        status = gguf_open_memory(&gguf, bytes, n, "m", &error);
        faulty_heap_fail_at(-1);
        ck_assert(status == KV_OK || status == KV_NO_MEMORY);
        ck_assert(status == KV_OK || faulty_heap_live() == 0);
        gguf_close(gguf);
    }
    ck_assert_int_ge(nth, 5);
    free(bytes);
}
END_TEST

int main(void)
{
    const TTest *tests[] = {
        a_tensor_is_found_by_name_with_its_shape_and_data,
        an_integer_of_any_width_is_read_and_a_negative_one_refused,
        a_value_of_another_type_is_refused_by_its_key,
        what_is_not_gguf_is_said_to_be_so,
        version_2_is_read_like_version_3,
        counts_beyond_the_file_are_refused_before_anything_is_allocated,
        a_name_that_is_there_twice_is_refused,
        an_unknown_value_type_and_an_array_of_arrays_are_refused,
        a_type_without_kernels_is_refused_by_its_name,
        dims_that_cannot_be_are_refused,
        a_tensor_outside_of_the_file_is_named,
        an_alignment_that_is_no_power_of_two_is_refused,
        an_error_is_printable_whatever_the_file_holds,
        a_printable_name_is_cut_between_characters,
        a_file_that_cannot_be_read_is_named_with_the_reason,
        a_file_reads_the_same_as_memory,
        an_allocation_that_fails_is_no_memory_and_leaves_nothing,
    };

    return CHECK_RUN("gguf", set_up, tear_down, tests);
}
