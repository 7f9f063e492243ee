#include <math.h>
#include <stdio.h>
#include <string.h>

#include "base/heap.h"
#include "engine/tokenizer.h"
#include "tests/engine/tiny_model.h"
#include "tests/engine/tokenizer_rig.h"
#include "tests/support/check_main.h"
#include "tests/support/faulty_heap.h"

#define SPACE "\xE2\x96\x81"

static struct tiny_model tiny;
static struct tokenizer_rig rig;

static void set_up(void)
{
    tokenizer_rig_init(&rig);
    tiny_model_init(&tiny, "llama");
}

static void tear_down(void)
{
    tokenizer_rig_fini(&rig);
}

static void open_gguf(void)
{
    size_t n;
    unsigned char *bytes = tiny_model_write(&tiny, &n);

    tokenizer_rig_open_file(&rig, bytes, n);
}

static uint32_t n_vocab(void)
{
    return TINY_N_FIXED + (uint32_t)tiny.n_words;
}

static void open_tokenizer(void)
{
    open_gguf();
    tokenizer_rig_open(&rig, n_vocab());
}

static void expect_refusal(enum kv_status status, const char *words)
{
    open_gguf();
    tokenizer_rig_expect_refusal(&rig, n_vocab(), status, words);
}

/* Compares with ids in words: "1 <0x41> hello". */
static void expect_ids(const char *text, unsigned flags, const char *wanted)
{
    char got[400] = "";
    uint32_t *ids;
    size_t n;

    ck_assert_int_eq(
        tokenizer_encode(rig.tokenizer, text, strlen(text), flags, &ids, &n),
        KV_OK);
    for (size_t i = 0; i < n; i++) {
        char one[40];

        if (ids[i] >= TINY_N_FIXED)
            snprintf(
                one, sizeof one, "%s ", tiny.words[ids[i] - TINY_N_FIXED].text);
        else if (ids[i] >= 3)
            snprintf(one, sizeof one, "<%02X> ", ids[i] - 3);
        else
            snprintf(one, sizeof one, "%u ", ids[i]);
        strcat(got, one);
    }
    kv_free(ids);
    ck_assert_str_eq(got, wanted);
}

static void add_hello(void)
{
    static const char *const words[] = {SPACE, "h", "e", "l", "o", "ll", "he",
        "hell", "hello", SPACE "hello", "lo"};

    for (size_t i = 0; i < sizeof words / sizeof *words; i++)
        tiny_model_add_word(&tiny, words[i], -(float)i, 1);
}

START_TEST(pairs_merge_by_score_and_spaces_become_u2581)
{
    add_hello();
    open_tokenizer();
    expect_ids("hello", TOKENIZER_ADD_BOS, "1 " SPACE "hello ");
    expect_ids("hello hello", 0, SPACE "hello " SPACE "hello ");
    expect_ids("hel", 0, SPACE " he l ");
    expect_ids("lo", 0, SPACE " lo ");
    expect_ids("llo", 0, SPACE " ll o ");
}
END_TEST

START_TEST(of_equal_scores_the_leftmost_pair_merges)
{
    tiny_model_set_uint(&tiny, "tokenizer.ggml.add_space_prefix", 0);
    tiny_model_key(&tiny, "tokenizer.ggml.add_space_prefix")->type = TINY_BOOL;
    tiny_model_add_word(&tiny, "a", 0, 1);
    tiny_model_add_word(&tiny, "aa", -1, 1);
    open_tokenizer();
    expect_ids("aaa", 0, "aa a ");
    expect_ids("aaaaa", 0, "aa aa a ");
}
END_TEST

START_TEST(what_is_in_no_token_falls_back_to_its_bytes)
{
    add_hello();
    open_tokenizer();
    expect_ids("\xC3\xBC", 0, SPACE " <C3> <BC> ");
    expect_ids("\n", 0, SPACE " <0A> ");
    ck_assert_uint_eq(tokenizer_piece(rig.tokenizer, 3 + 0xC3).n, 1);
    ck_assert_int_eq(
        *tokenizer_piece(rig.tokenizer, 3 + 0xC3).data, (char)0xC3);
}
END_TEST

START_TEST(an_empty_text_has_no_tokens_but_bos)
{
    open_tokenizer();
    expect_ids("", 0, "");
    expect_ids("", TOKENIZER_ADD_BOS, "1 ");
}
END_TEST

START_TEST(a_text_cannot_name_a_control_token)
{
    add_hello();
    tiny_model_add_word(&tiny, "s", 0, 1);
    tiny_model_add_word(&tiny, ">", 0, 1);
    tiny_model_add_word(&tiny, "s>", 0, 1);
    tiny_model_add_word(&tiny, "<", 0, 1);
    open_tokenizer();
    expect_ids("<s>", 0, SPACE " < s> ");
    expect_ids("<0x00>", 0, SPACE " < <30> <78> <30> <30> > ");
}
END_TEST

START_TEST(names_of_special_tokens_are_parsed_if_asked_for)
{
    add_hello();
    tiny_model_add_word(&tiny, "<s><s>", 0, 4);
    open_tokenizer();
    expect_ids("<s>hello</s>", TOKENIZER_PARSE_SPECIAL, "1 " SPACE "hello 2 ");
    expect_ids("<unk>", TOKENIZER_PARSE_SPECIAL, "0 ");
    expect_ids("<s>", TOKENIZER_PARSE_SPECIAL | TOKENIZER_ADD_BOS, "1 1 ");
    expect_ids("<s><s><s>", TOKENIZER_PARSE_SPECIAL, "<s><s> 1 ");
    expect_ids("<s", TOKENIZER_PARSE_SPECIAL, SPACE " <3C> <73> ");
    expect_ids("<0x41>", TOKENIZER_PARSE_SPECIAL,
        SPACE " <3C> <30> <78> <34> <31> <3E> ");
}
END_TEST

START_TEST(only_special_tokens_have_a_special_name)
{
    static const char *const names[] = {"<unk>", "<s>", "</s>"};
    struct gguf_string name;

    add_hello();
    tiny_model_add_word(&tiny, "<x>", 0, 4);
    open_tokenizer();
    for (uint32_t id = 0; id < TINY_N_FIXED + 12; id++) {
        name = tokenizer_special_name(rig.tokenizer, id);
        if (id < 3)
            ck_assert_mem_eq(name.data, names[id], strlen(names[id]));
        ck_assert_uint_eq(name.n, id < 3 ? strlen(names[id]) : 0);
    }
}
END_TEST

START_TEST(user_defined_tokens_are_cut_out_the_longest_first)
{
    add_hello();
    tiny_model_add_word(&tiny, "<x>", 0, 4);
    tiny_model_add_word(&tiny, "<x><x>", 0, 4);
    tiny_model_add_word(&tiny, "x>h", 0, 4);
    open_tokenizer();
    expect_ids("<x>", 0, "<x> ");
    expect_ids("hello<x>hello", 0, SPACE "hello <x> " SPACE "hello ");
    expect_ids("<x><x><x>", 0, "<x><x> <x> ");
    expect_ids("x>h<x>", 0, "x>h <x> ");
    ck_assert_uint_eq(tokenizer_piece(rig.tokenizer, TINY_N_FIXED + 11).n, 3);
}
END_TEST

START_TEST(a_piece_has_its_spaces_back_and_a_control_token_none)
{
    struct gguf_string piece;

    add_hello();
    open_tokenizer();
    piece = tokenizer_piece(rig.tokenizer, TINY_N_FIXED + 9);
    ck_assert_uint_eq(piece.n, 6);
    ck_assert_mem_eq(piece.data, " hello", 6);
    for (uint32_t id = 0; id < 3; id++)
        ck_assert_uint_eq(tokenizer_piece(rig.tokenizer, id).n, 0);
    ck_assert(tokenizer_strips_space(rig.tokenizer));
}
END_TEST

START_TEST(tokens_that_end_a_text_are_named_by_key_or_by_text)
{
    struct tokenizer_info info;

    tiny_model_add_word(&tiny, "<|im_end|>", 0, 4);
    tiny_model_add_word(&tiny, "x", 0, 1);
    tiny_model_set_uint(&tiny, "tokenizer.ggml.eos_token_id", 2);
    tiny_model_set_uint(&tiny, "tokenizer.ggml.eot_token_id", 260);
    open_tokenizer();
    info = tokenizer_info(rig.tokenizer);
    ck_assert_str_eq(info.kind, "spm");
    ck_assert_uint_eq(info.bos_id, 1);
    ck_assert(info.adds_bos);
    ck_assert_uint_eq(info.n_end_ids, 3);
    ck_assert(tokenizer_is_end(rig.tokenizer, 2));
    ck_assert(tokenizer_is_end(rig.tokenizer, 259));
    ck_assert(tokenizer_is_end(rig.tokenizer, 260));
    ck_assert(!tokenizer_is_end(rig.tokenizer, 1));
    ck_assert_uint_eq(tokenizer_piece(rig.tokenizer, 259).n, 0);
}
END_TEST

START_TEST(a_text_that_is_not_utf8_is_refused)
{
    uint32_t *ids = NULL;
    size_t n = 7;

    open_tokenizer();
    ck_assert_int_eq(tokenizer_encode(rig.tokenizer, "a\xFF", 2,
                         TOKENIZER_ADD_BOS, &ids, &n),
        KV_INVALID);
    ck_assert_ptr_null(ids);
    ck_assert_uint_eq(n, 7);
}
END_TEST

START_TEST(a_vocabulary_that_cannot_be_is_refused)
{
    static const char *const ids[] = {"tokenizer.ggml.bos_token_id",
        "tokenizer.ggml.eos_token_id", "tokenizer.ggml.unknown_token_id"};

    tiny_model_set_text(&tiny, "tokenizer.ggml.model", "t5");
    expect_refusal(KV_UNSUPPORTED, "tokenizer t5; supported are llama");
    tiny_model_drop_key(&tiny, "tokenizer.ggml.model");
    expect_refusal(KV_INVALID, "tokenizer.ggml.model is missing");
    for (size_t i = 0; i < sizeof ids / sizeof *ids; i++) {
        tiny_model_init(&tiny, "llama");
        tiny_model_set_uint(&tiny, ids[i], TINY_N_FIXED);
        expect_refusal(KV_INVALID, ids[i]);
    }
    tiny_model_init(&tiny, "llama");
    tiny_model_add_word(&tiny, "x", NAN, 1);
    expect_refusal(KV_INVALID, "scores: token 259 has no number");
    tiny.words[0] = (struct tiny_word){"x", 0, 7};
    expect_refusal(KV_INVALID, "token_type: token 259 has 7; 0 to 6");
    tiny.words[0] = (struct tiny_word){"<0xG0>", 0, 6};
    expect_refusal(KV_INVALID, "is named <0xG0>; <0x00> to <0xFF>");
    tiny.words[0] = (struct tiny_word){"x", 0, 1};
    tiny_model_set_uint(&tiny, "tokenizer.ggml.add_eos_token", 1);
    expect_refusal(KV_INVALID, "add_eos_token is of type u32; a boolean");
    tiny_model_key(&tiny, "tokenizer.ggml.add_eos_token")->type = TINY_BOOL;
    expect_refusal(KV_UNSUPPORTED, "add_eos_token is true");
}
END_TEST

START_TEST(a_pre_tokenizer_is_not_for_spm)
{
    struct kv_error error;

    open_gguf();
    ck_assert_int_eq(
        tokenizer_open_as(&rig.tokenizer, rig.gguf, n_vocab(), "gpt-2", &error),
        KV_INVALID);
    ck_assert_str_eq(error.text,
        "m: its tokenizer is SPM, which has no pre-tokenizer; gpt-2 was given");
    ck_assert_ptr_null(rig.tokenizer);
}
END_TEST

START_TEST(a_vocabulary_of_another_size_than_the_model_is_refused)
{
    struct kv_error error;

    open_gguf();
    ck_assert_int_eq(
        tokenizer_open(&rig.tokenizer, rig.gguf, TINY_N_FIXED + 1, &error),
        KV_INVALID);
    ck_assert_str_eq(error.text,
        "m: tokenizer.ggml.tokens has 259 entries; the vocabulary has 260");
}
END_TEST

/* Quadratic time would be minutes. */
START_TEST(a_long_text_of_one_letter_is_merged_in_good_time)
{
    enum { N = 1 << 18 };
    char *text = malloc(N);
    uint32_t *ids;
    size_t n;

    ck_assert_ptr_nonnull(text);
    memset(text, 'l', N);
    add_hello();
    open_tokenizer();
    ck_assert_int_eq(
        tokenizer_encode(rig.tokenizer, text, N, 0, &ids, &n), KV_OK);
    ck_assert_uint_eq(n, 1 + N / 2);
    kv_free(ids);
    free(text);
}
END_TEST

START_TEST(an_allocation_that_fails_is_no_memory_and_leaves_nothing)
{
    enum kv_status status = KV_NO_MEMORY;
    struct kv_error error;
    int live, nth;

    tiny_model_add_word(&tiny, "<x>", 0, 4);
    open_gguf();
    live = faulty_heap_live();
    for (nth = 0; status != KV_OK; nth++) {
        faulty_heap_fail_at(nth);
        status = tokenizer_open(&rig.tokenizer, rig.gguf, n_vocab(), &error);
        faulty_heap_fail_at(-1);
        ck_assert(status == KV_OK || status == KV_NO_MEMORY);
        ck_assert(status == KV_OK || faulty_heap_live() == live);
    }
    ck_assert_int_ge(nth, 5);
    live = faulty_heap_live();
    status = KV_NO_MEMORY;
    for (nth = 0; status != KV_OK; nth++) {
        uint32_t *ids = NULL;
        size_t n;

        faulty_heap_fail_at(nth);
        status = tokenizer_encode(
            rig.tokenizer, "a<x>b", 5, TOKENIZER_ADD_BOS, &ids, &n);
        faulty_heap_fail_at(-1);
        ck_assert(status == KV_OK || status == KV_NO_MEMORY);
        kv_free(ids);
        ck_assert_int_eq(faulty_heap_live(), live);
    }
    ck_assert_int_ge(nth, 8);
}
END_TEST

/* malloc rounds each table up. */
START_TEST(its_bytes_are_those_that_it_has_allocated)
{
    size_t before, allocated;

    open_gguf();
    before = faulty_heap_bytes();
    tokenizer_rig_open(&rig, n_vocab());
    allocated = faulty_heap_bytes() - before;
    ck_assert_uint_gt(allocated, 10000);
    ck_assert_uint_le(tokenizer_bytes(rig.tokenizer), allocated);
    ck_assert_uint_le(allocated, tokenizer_bytes(rig.tokenizer) + 200);
}
END_TEST

int main(void)
{
    const TTest *tests[] = {
        pairs_merge_by_score_and_spaces_become_u2581,
        of_equal_scores_the_leftmost_pair_merges,
        what_is_in_no_token_falls_back_to_its_bytes,
        an_empty_text_has_no_tokens_but_bos,
        a_text_cannot_name_a_control_token,
        names_of_special_tokens_are_parsed_if_asked_for,
        only_special_tokens_have_a_special_name,
        user_defined_tokens_are_cut_out_the_longest_first,
        a_piece_has_its_spaces_back_and_a_control_token_none,
        tokens_that_end_a_text_are_named_by_key_or_by_text,
        a_text_that_is_not_utf8_is_refused,
        a_vocabulary_that_cannot_be_is_refused,
        a_pre_tokenizer_is_not_for_spm,
        a_vocabulary_of_another_size_than_the_model_is_refused,
        a_long_text_of_one_letter_is_merged_in_good_time,
        its_bytes_are_those_that_it_has_allocated,
        an_allocation_that_fails_is_no_memory_and_leaves_nothing,
    };

    return CHECK_RUN("tokenizer", set_up, tear_down, tests);
}
