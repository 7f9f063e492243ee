#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/heap.h"
#include "base/utf8.h"
#include "engine/tokenizer_internal.h"
#include "tests/engine/tiny_vocabulary.h"
#include "tests/engine/tokenizer_rig.h"
#include "tests/support/check_main.h"
#include "tests/support/faulty_heap.h"

#define G "\xC4\xA0" /* U+0120, as which a space is spelled */

static const char *const families[] = {"default", "gpt-2", "llama-bpe",
    "tekken", "qwen2", "smollm", "falcon", "deepseek-llm", "deepseek-coder"};
#define N_FAMILIES (sizeof families / sizeof *families)

static struct tiny_vocabulary tiny;
static struct tokenizer_rig rig;

static void set_up(void)
{
    tokenizer_rig_init(&rig);
    tiny_vocabulary_init(&tiny, "gpt-2");
}

static void tear_down(void)
{
    tokenizer_rig_fini(&rig);
}

static void open_gguf(void)
{
    size_t n;
    unsigned char *bytes = tiny_vocabulary_write(&tiny, &n);

    tokenizer_rig_open_file(&rig, bytes, n);
}

static void open_tokenizer(void)
{
    open_gguf();
    tokenizer_rig_open(&rig, tiny_vocabulary_size(&tiny));
}

static void open_family(const char *pre)
{
    tiny.pre = pre;
    tiny.bos_id = TINY_END;
    open_tokenizer();
}

static void expect_refusal(enum kv_status status, const char *words)
{
    open_gguf();
    tokenizer_rig_expect_refusal(
        &rig, tiny_vocabulary_size(&tiny), status, words);
}

/* Compares with pieces between bars: "lo|w". */
static void expect_pieces(const char *text, const char *wanted)
{
    char got[400] = "";
    size_t n_got = 0, n;
    uint32_t *ids;

    ck_assert_int_eq(
        tokenizer_encode(rig.tokenizer, text, strlen(text), 0, &ids, &n),
        KV_OK);
    for (size_t i = 0; i < n; i++) {
        struct gguf_string piece = tokenizer_piece(rig.tokenizer, ids[i]);

        if (i > 0)
            got[n_got++] = '|';
        memcpy(got + n_got, piece.data, piece.n);
        n_got += piece.n;
    }
    kv_free(ids);
    ck_assert_str_eq(got, wanted);
}

static void add_lower(void)
{
    static const char *const words[] = {
        "er", "lo", "low", "lower", G "l", G "lo"};
    static const char *const merges[] = {
        "e r", "l o", "lo w", "low er", G " l", G " lo"};

    for (size_t i = 0; i < 6; i++) {
        tiny_vocabulary_add_word(&tiny, words[i], 1);
        tiny_vocabulary_add_merge(&tiny, merges[i]);
    }
}

START_TEST(pairs_merge_in_the_order_of_the_file)
{
    add_lower();
    open_tokenizer();
    expect_pieces("lower", "lower");
    expect_pieces("lowe", "low|e");
    expect_pieces("wer", "w|er");
    expect_pieces(" lo", " lo");
    expect_pieces(" low", " |low");
    expect_pieces("", "");
}
END_TEST

START_TEST(of_the_same_merge_the_leftmost_goes_first)
{
    tiny_vocabulary_add_word(&tiny, "aa", 1);
    tiny_vocabulary_add_merge(&tiny, "a a");
    open_tokenizer();
    expect_pieces("aaa", "aa|a");
    expect_pieces("aaaaa", "aa|aa|a");
}
END_TEST

START_TEST(nothing_merges_across_words)
{
    tiny_vocabulary_add_word(&tiny, "a1", 1);
    tiny_vocabulary_add_merge(&tiny, "a 1");
    open_tokenizer();
    expect_pieces("a1", "a|1");
}
END_TEST

START_TEST(llama_bpe_takes_a_word_that_is_a_token_as_it_is)
{
    tiny_vocabulary_add_word(&tiny, G "whole", 1);
    open_family("llama-bpe");
    expect_pieces("x whole", "x| whole");
    open_family("qwen2");
    expect_pieces("x whole", "x| |w|h|o|l|e");
}
END_TEST

START_TEST(tekken_begins_a_word_with_its_capitals)
{
    tiny_vocabulary_add_word(&tiny, "ab", 1);
    tiny_vocabulary_add_word(&tiny, "Ab", 1);
    tiny_vocabulary_add_word(&tiny, "ABa", 1);
    tiny_vocabulary_add_word(&tiny, "AB", 1);
    tiny_vocabulary_add_word(&tiny, "./", 1);
    open_family("tekken");
    expect_pieces("abAb", "ab|Ab");
    expect_pieces("abABaAB", "ab|ABa|AB");
    expect_pieces("AB12", "AB|1|2");
    expect_pieces("ab./", "ab|./");
    open_family("llama-bpe");
    expect_pieces("abAb", "a|b|A|b");
}
END_TEST

START_TEST(user_defined_tokens_are_cut_out_and_are_their_text)
{
    tiny_vocabulary_add_word(&tiny, "<x>", 4);
    tiny_vocabulary_add_word(&tiny, "\xC3\xB8", 4);
    open_tokenizer();
    expect_pieces("a<x>b", "a|<x>|b");
    expect_pieces("a\xC3\xB8", "a|\xC3\xB8");
}
END_TEST

START_TEST(a_text_cannot_name_a_control_token)
{
    uint32_t *ids;
    size_t n;

    tiny_vocabulary_add_word(&tiny, "abc", 3);
    open_family("llama-bpe");
    expect_pieces("abc", "a|b|c");
    ck_assert_int_eq(
        tokenizer_encode(rig.tokenizer, "<|endoftext|>", 13, 0, &ids, &n),
        KV_OK);
    for (size_t i = 0; i < n; i++)
        ck_assert_uint_lt(ids[i], 256);
    kv_free(ids);
    ck_assert(tokenizer_is_end(rig.tokenizer, TINY_END));
    ck_assert_uint_eq(tokenizer_piece(rig.tokenizer, TINY_END).n, 0);
}
END_TEST

START_TEST(names_of_control_tokens_are_parsed_if_asked_for)
{
    uint32_t *ids;
    size_t n;

    open_family("llama-bpe");
    ck_assert_int_eq(tokenizer_encode(rig.tokenizer, "a<|endoftext|>b", 15,
                         TOKENIZER_PARSE_SPECIAL, &ids, &n),
        KV_OK);
    ck_assert_uint_eq(n, 3);
    ck_assert_uint_eq(ids[0], 'a');
    ck_assert_uint_eq(ids[1], TINY_END);
    ck_assert_uint_eq(ids[2], 'b');
    kv_free(ids);
}
END_TEST

START_TEST(a_byte_without_a_token_is_unknown_or_left_out)
{
    tiny.missing_byte = 'b';
    tiny_vocabulary_add_word(&tiny, "?", 2);
    open_tokenizer();
    expect_pieces("abc", "a|c");
    tiny.unknown_id = TINY_FIRST_WORD;
    open_tokenizer();
    expect_pieces("abc", "a||c");
}
END_TEST

START_TEST(a_token_that_spells_no_bytes_is_its_text)
{
    struct gguf_string piece;

    tiny_vocabulary_add_word(&tiny, "a\xE2\x96\x81", 1);
    open_family("llama-bpe");
    piece = tokenizer_piece(rig.tokenizer, TINY_FIRST_WORD);
    ck_assert_uint_eq(piece.n, 4);
    ck_assert_mem_eq(piece.data, "a\xE2\x96\x81", 4);
}
END_TEST

START_TEST(every_byte_is_the_piece_of_its_token)
{
    open_tokenizer();
    for (uint32_t byte = 0; byte < 256; byte++) {
        struct gguf_string piece = tokenizer_piece(rig.tokenizer, byte);

        ck_assert_uint_eq(piece.n, 1);
        ck_assert_uint_eq((unsigned char)*piece.data, byte);
    }
}
END_TEST

START_TEST(the_file_and_the_pre_tokenizer_say_whether_a_text_has_a_beginning)
{
    struct tokenizer_info info;
    uint32_t *ids;
    size_t n;

    open_tokenizer();
    info = tokenizer_info(rig.tokenizer);
    ck_assert(!info.adds_bos);
    ck_assert_str_eq(info.kind, "bpe/gpt-2");
    ck_assert(!tokenizer_strips_space(rig.tokenizer));
    open_family("llama-bpe");
    ck_assert_str_eq(tokenizer_info(rig.tokenizer).kind, "bpe/llama-bpe");
    ck_assert_int_eq(
        tokenizer_encode(rig.tokenizer, "a", 1, TOKENIZER_ADD_BOS, &ids, &n),
        KV_OK);
    ck_assert_uint_eq(n, 2);
    ck_assert_uint_eq(ids[0], TINY_END);
    kv_free(ids);
    tiny.adds_bos = 0;
    open_family("llama-bpe");
    ck_assert(!tokenizer_info(rig.tokenizer).adds_bos);
    tiny.adds_bos = 1;
    open_family("gpt-2");
    ck_assert(tokenizer_info(rig.tokenizer).adds_bos);
}
END_TEST

START_TEST(settings_that_cannot_be_are_refused)
{
    tiny.pre = NULL;
    expect_refusal(KV_INVALID, "tokenizer.ggml.pre is missing");
    tiny.pre = "klingon";
    expect_refusal(KV_UNSUPPORTED, "pre: pre-tokenizer klingon; supported are");
    tiny.pre = "gpt-2";
    tiny.adds_space_prefix = 1;
    expect_refusal(KV_UNSUPPORTED, "add_space_prefix is true");
    tiny.adds_space_prefix = 0;
    tiny.adds_bos = 1;
    expect_refusal(KV_INVALID, "bos_token_id is missing");
    tiny.adds_bos = -1;
    tiny.no_merges_key = 1;
    expect_refusal(KV_INVALID, "tokenizer.ggml.merges is missing");
}
END_TEST

START_TEST(what_a_file_does_not_say_may_be_given)
{
    struct kv_error error = {KV_OK, ""};
    const uint32_t n = tiny_vocabulary_size(&tiny);

    tiny.pre = NULL;
    open_gguf();
    ck_assert_int_eq(
        tokenizer_open_as(&rig.tokenizer, rig.gguf, n, "qwen2", &error), KV_OK);
    ck_assert_str_eq(tokenizer_info(rig.tokenizer).kind, "bpe/qwen2");
    tokenizer_close(rig.tokenizer);
    rig.tokenizer = NULL;
    ck_assert_int_eq(
        tokenizer_open_as(&rig.tokenizer, rig.gguf, n, "klingon", &error),
        KV_UNSUPPORTED);
    tiny.pre = "gpt-2";
    open_gguf();
    ck_assert_int_eq(
        tokenizer_open_as(&rig.tokenizer, rig.gguf, n, "qwen2", &error),
        KV_INVALID);
    ck_assert_ptr_nonnull(strstr(error.text, "pre: gpt-2, where qwen2 was"));
    ck_assert_ptr_null(rig.tokenizer);
    ck_assert_int_eq(
        tokenizer_open_as(&rig.tokenizer, rig.gguf, n, "gpt-2", &error), KV_OK);
}
END_TEST

START_TEST(a_merge_that_cannot_be_is_refused_by_its_entry)
{
    static const struct {
        const char *entry, *words;
    } cases[] = {
        {"", "entry 1 () is not two tokens"},
        {" ", "entry 1 ( ) is not two tokens"},
        {"ab", "entry 1 (ab) is not two tokens"},
        {" b", "entry 1 ( b) is not two tokens"},
        {"a ", "entry 1 (a ) is not two tokens"},
        {"a b c", "entry 1 (a b c) is not two tokens"},
        {"a  b", "is not two tokens"},
        {"a zz", "entry 1 (a zz) has a half, or makes a whole, that is no"},
        {"zz a", "has a half"},
        {"a c", "makes a whole"},
        {"a \xE2\x96\x81", "has a half"},
        {"a \xC4", "has a half"},
        {"a <|endoftext|>", "has a half"},
        {"a b", "entry 1 (a b) was there before"},
    };

    tiny_vocabulary_add_word(&tiny, "ab", 1);
    tiny_vocabulary_add_merge(&tiny, "a b");
    tiny_vocabulary_add_merge(&tiny, "");
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        tiny.merges[1] = cases[i].entry;
        expect_refusal(KV_INVALID, cases[i].words);
    }
}
END_TEST

static uint64_t random_state;

static uint32_t draw(uint32_t n)
{
    random_state = random_state * 6364136223846793005u + 1442695040888963407u;
    return (uint32_t)((random_state >> 33) % n);
}

static void expect_round_trip(const char *text, size_t n)
{
    uint32_t *ids;
    size_t n_ids, at = 0;

    ck_assert_int_eq(
        tokenizer_encode(rig.tokenizer, text, n, 0, &ids, &n_ids), KV_OK);
    for (size_t i = 0; i < n_ids; i++) {
        struct gguf_string piece = tokenizer_piece(rig.tokenizer, ids[i]);

        if (n - at < piece.n || memcmp(text + at, piece.data, piece.n) != 0)
            break;
        at += piece.n;
    }
    ck_assert_uint_eq(at, n);
    ck_assert_uint_ge(n_ids * tokenizer_longest_piece(rig.tokenizer), n);
    kv_free(ids);
}

/* Bytes as they come, or characters that patterns care about. */
static size_t random_text(char *text, size_t n_max)
{
    static const char *const parts[] = {" ", "\n", "\r\n", "\t", "'s", "'LL",
        "low", "er", "0", "12345", "\xC3\xA9", "\xE3\x80\x80", "\xC2\x85",
        "\xE1\xA0\x8E", "\xF0\x9F\x98\x80", "\xE4\xB8\xAD", "...", "$", "_"};
    bool is_raw = draw(4) == 0;
    size_t n = 0, n_wanted = draw((uint32_t)n_max - 8);

    while (n < n_wanted) {
        const char *part = parts[draw(sizeof parts / sizeof *parts)];

        if (is_raw) {
            text[n++] = (char)draw(draw(2) == 0 ? 128 : 256);
            continue;
        }
        memcpy(text + n, part, strlen(part));
        n += strlen(part);
    }
    return n;
}

START_TEST(the_pieces_of_any_text_joined_are_the_text)
{
    char text[100];
    size_t n_valid = 0;

    add_lower();
    random_state = 1;
    for (size_t i = 0; i < N_FAMILIES; i++) {
        open_family(families[i]);
        for (int round = 0; round < 500; round++) {
            size_t n = random_text(text, sizeof text), n_ids;
            uint32_t *ids = NULL;

            if (kv_utf8_valid(text, n)) {
                expect_round_trip(text, n);
                n_valid++;
                continue;
            }
            ck_assert_int_eq(
                tokenizer_encode(rig.tokenizer, text, n, 0, &ids, &n_ids),
                KV_INVALID);
            ck_assert_ptr_null(ids);
        }
    }
    ck_assert_uint_ge(n_valid, 2000);
}
END_TEST

/* A million letters are one word: what is considered grows with the text, and
 * not with its square. */
START_TEST(a_long_word_costs_three_candidates_a_byte)
{
    enum { N = 1 << 20 };
    char *text = malloc(N);
    struct token_list list = {.ids = NULL};

    ck_assert_ptr_nonnull(text);
    memset(text, 'a', N);
    tiny_vocabulary_add_word(&tiny, "aa", 1);
    tiny_vocabulary_add_word(&tiny, "aaaa", 1);
    tiny_vocabulary_add_merge(&tiny, "a a");
    tiny_vocabulary_add_merge(&tiny, "aa aa");
    open_tokenizer();
    ck_assert_int_eq(
        tokenizer_encode_bpe(rig.tokenizer, text, N, &list), KV_OK);
    ck_assert_uint_eq(list.n, N / 4);
    ck_assert_uint_ge(list.n_candidates, N);
    ck_assert_uint_le(list.n_candidates, 3 * N);
    kv_free(list.ids);
    free(text);
}
END_TEST

/* What makes a careless pattern look at a run again from each of its places.
 * A match that took more than a fixed number of steps a byte would be refused.
 */
START_TEST(no_text_makes_a_pre_tokenizer_look_twice)
{
    enum { N = 1 << 15 };
    static const char *const parts[] = {" ", "\n ", "\r", "a", "1", "!", " \t",
        "' ", "'", "\xE3\x80\x80", "\xE4\xB8\xAD", "a1", "\xC2\x85", "a "};
    char *text = calloc(1, N + 8);

    ck_assert_ptr_nonnull(text);
    for (size_t i = 0; i < N_FAMILIES; i++) {
        open_family(families[i]);
        for (size_t j = 0; j < sizeof parts / sizeof *parts; j++) {
            size_t n_part = strlen(parts[j]), n = 0;

            for (; n + n_part <= N; n += n_part)
                memcpy(text + n, parts[j], n_part);
            text[n++] = 'x';
            expect_round_trip(text, n);
        }
    }
    free(text);
}
END_TEST

START_TEST(an_allocation_that_fails_is_no_memory_and_leaves_nothing)
{
    enum kv_status status;
    struct kv_error error;
    int live, n_failed = 0;

    add_lower();
    open_gguf();
    live = faulty_heap_live();
    /* Without memory for its JIT, PCRE2 goes on without it. */
    for (int nth = 0; nth < 60; nth++) {
        faulty_heap_fail_at(nth);
        status = tokenizer_open(
            &rig.tokenizer, rig.gguf, tiny_vocabulary_size(&tiny), &error);
        faulty_heap_fail_at(-1);
        ck_assert(status == KV_OK || status == KV_NO_MEMORY);
        n_failed += status == KV_NO_MEMORY;
        if (status == KV_OK)
            tokenizer_close(rig.tokenizer);
        rig.tokenizer = NULL;
        ck_assert_int_eq(faulty_heap_live(), live);
    }
    ck_assert_int_ge(n_failed, 8);
    open_tokenizer();
    live = faulty_heap_live();
    status = KV_NO_MEMORY;
    for (n_failed = 0; status != KV_OK; n_failed++) {
        uint32_t *ids = NULL;
        size_t n;

        faulty_heap_fail_at(n_failed);
        status = tokenizer_encode(rig.tokenizer, "lower x", 7, 0, &ids, &n);
        faulty_heap_fail_at(-1);
        ck_assert(status == KV_OK || status == KV_NO_MEMORY);
        kv_free(ids);
        ck_assert_int_eq(faulty_heap_live(), live);
    }
    ck_assert_int_ge(n_failed, 5);
}
END_TEST

/* But for what PCRE2 compiles to, which lies elsewhere. */
START_TEST(its_bytes_are_those_that_it_has_allocated)
{
    size_t before, allocated, bytes;

    open_gguf();
    before = faulty_heap_bytes();
    tokenizer_rig_open(&rig, tiny_vocabulary_size(&tiny));
    allocated = faulty_heap_bytes() - before;
    bytes = tokenizer_bytes(rig.tokenizer);
    ck_assert_uint_gt(
        allocated, splitter_bytes(rig.tokenizer->splitter) / 2 + 10000);
    ck_assert_uint_le(allocated, bytes + 1000);
    ck_assert_uint_le(
        bytes, allocated + splitter_bytes(rig.tokenizer->splitter));
}
END_TEST

int main(void)
{
    const TTest *tests[] = {
        pairs_merge_in_the_order_of_the_file,
        its_bytes_are_those_that_it_has_allocated,
        of_the_same_merge_the_leftmost_goes_first,
        nothing_merges_across_words,
        llama_bpe_takes_a_word_that_is_a_token_as_it_is,
        tekken_begins_a_word_with_its_capitals,
        user_defined_tokens_are_cut_out_and_are_their_text,
        a_text_cannot_name_a_control_token,
        names_of_control_tokens_are_parsed_if_asked_for,
        a_byte_without_a_token_is_unknown_or_left_out,
        a_token_that_spells_no_bytes_is_its_text,
        every_byte_is_the_piece_of_its_token,
        the_file_and_the_pre_tokenizer_say_whether_a_text_has_a_beginning,
        settings_that_cannot_be_are_refused,
        what_a_file_does_not_say_may_be_given,
        a_merge_that_cannot_be_is_refused_by_its_entry,
        the_pieces_of_any_text_joined_are_the_text,
        a_long_word_costs_three_candidates_a_byte,
        no_text_makes_a_pre_tokenizer_look_twice,
        an_allocation_that_fails_is_no_memory_and_leaves_nothing,
    };

    return CHECK_RUN("tokenizer_bpe", set_up, tear_down, tests);
}
