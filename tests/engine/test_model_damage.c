/* Files that are cut short or changed at random: opening one answers with a
 * model or with an error in words, and never with a crash. */
#include <stdio.h>
#include <string.h>

#include "base/heap.h"
#include "base/utf8.h"
#include "engine/model.h"
#include "engine/tokenizer.h"
#include "tests/engine/tiny_model.h"
#include "tests/support/check_main.h"
#include "tests/support/faulty_heap.h"

static struct tiny_model tiny;
static unsigned char *sound, *damaged;
static size_t n_sound, n_header;

/* Where the data begins; what lies there is not looked at, except for norms. */
static size_t find_data(void)
{
    struct gguf *gguf;
    size_t at;

    ck_assert_int_eq(gguf_open_memory(&gguf, sound, n_sound, "m", NULL), KV_OK);
    at = (size_t)((const unsigned char *)gguf_tensor_at(gguf, 0)->data - sound);
    gguf_close(gguf);
    return at;
}

static void write_sound(void)
{
    tiny_model_add_word(&tiny, "hello", -1, 1);
    tiny_model_add_word(&tiny, "<x>", -1, 4);
    tiny_model_set_uint(&tiny, "tokenizer.ggml.eos_token_id", 2);
    free(sound);
    sound = tiny_model_write(&tiny, &n_sound);
    n_header = find_data();
}

static void set_up(void)
{
    faulty_heap_install();
    tiny_model_init(&tiny, "bitnet");
    tiny_model_set_uint(&tiny, "bitnet.rope.dimension_count", 8);
    sound = damaged = NULL;
    write_sound();
}

/* With all keys of rotation, and biases. */
static void make_qwen(void)
{
    tiny_model_init(&tiny, "qwen2");
    tiny_model_set_text(&tiny, "qwen2.rope.scaling.type", "yarn");
    tiny_model_set_float(&tiny, "qwen2.rope.freq_base", 1e6f);
    tiny_model_set_float(&tiny, "qwen2.rope.scaling.factor", 4);
    tiny_model_set_float(&tiny, "qwen2.rope.scaling.yarn_beta_fast", 32);
    tiny_model_set_float(&tiny, "qwen2.rope.scaling.yarn_log_multiplier", 1);
    tiny_model_set_uint(
        &tiny, "qwen2.rope.scaling.original_context_length", 32);
    write_sound();
}

static void tear_down(void)
{
    free(sound);
    free(damaged);
    ck_assert_int_eq(faulty_heap_live(), 0);
}

static bool error_is_words(const struct kv_error *error)
{
    size_t n = strlen(error->text);

    return (error->status == KV_INVALID || error->status == KV_UNSUPPORTED) &&
           strncmp(error->text, "m: ", 3) == 0 &&
           kv_utf8_valid(error->text, n) &&
           !kv_utf8_has_control(error->text, n);
}

static bool tokenizer_is_sound(const struct model *model)
{
    struct tokenizer *tokenizer;
    struct kv_error error = {KV_OK, ""};
    bool is_sound;
    uint32_t *ids = NULL;
    size_t n = 0;

    if (tokenizer_open(&tokenizer, model->gguf, model->shape.n_vocab, &error) !=
        KV_OK)
        return error_is_words(&error);
    is_sound = tokenizer_encode(tokenizer, "hello <x>", 9, TOKENIZER_ADD_BOS,
                   &ids, &n) == KV_OK;
    for (size_t i = 0; is_sound && i < n; i++)
        is_sound = ids[i] < model->shape.n_vocab;
    kv_free(ids);
    tokenizer_close(tokenizer);
    return is_sound;
}

/* Exactly n bytes in memory of their own, so that reading on is seen. One
 * assertion, because each is a system call. */
static enum kv_status open_damaged(size_t n)
{
    struct kv_error error = {KV_OK, ""};
    struct model *model = NULL;
    unsigned char *copy = malloc(n + (n == 0));
    enum kv_status status;
    bool is_sound;

    memcpy(copy, damaged, n);
    status = model_open_memory(&model, copy, n, "m", &error);
    is_sound =
        status == KV_OK ? tokenizer_is_sound(model) : error_is_words(&error);
    model_close(model);
    free(copy);
    ck_assert_msg(is_sound && error.status == status && faulty_heap_live() == 0,
        "status %d, error %d \"%s\"", status, error.status, error.text);
    return status;
}

static void restore(void)
{
    free(damaged);
    damaged = malloc(n_sound);
    ck_assert_ptr_nonnull(damaged);
    memcpy(damaged, sound, n_sound);
}

START_TEST(a_file_cut_short_anywhere_is_refused)
{
    restore();
    for (size_t n = 0; n < n_header; n++)
        ck_assert_int_ne(open_damaged(n), KV_OK);
    for (size_t n = n_header; n + 32 < n_sound; n += 997)
        ck_assert_int_ne(open_damaged(n), KV_OK);
    ck_assert_int_eq(open_damaged(n_sound), KV_OK);
}
END_TEST

START_TEST(every_byte_of_the_header_may_change)
{
    size_t n_refused = 0;

    restore();
    for (size_t at = 0; at < n_header; at++) {
        damaged[at] ^= (unsigned char)(at % 9 == 8 ? 0xFF : 1 << at % 9);
        n_refused += open_damaged(n_sound) != KV_OK;
        damaged[at] = sound[at];
    }
    ck_assert_uint_gt(n_refused, 500);
}
END_TEST

static uint64_t next_random(uint64_t *state)
{
    *state ^= *state << 13;
    *state ^= *state >> 7;
    *state ^= *state << 17;
    return *state;
}

/* Values that hurt: all ones, the sign bit, small counts, the file's size. */
static void damage_word(uint64_t *random)
{
    const uint64_t words[] = {UINT64_MAX, UINT64_C(1) << 63, UINT64_C(1) << 32,
        0, 1, n_sound, n_sound - n_header, UINT32_MAX, next_random(random)};
    size_t width = next_random(random) % 2 == 0 ? 4 : 8;
    size_t at = next_random(random) % (n_header - width);

    memcpy(damaged + at,
        &words[next_random(random) % (sizeof words / sizeof *words)], width);
}

static void damage_words(void)
{
    uint64_t random = 0x2545F4914F6CDD1Du;

    for (int round = 0; round < 2000; round++) {
        restore();
        for (uint64_t i = 0, n = 1 + next_random(&random) % 3; i < n; i++)
            damage_word(&random);
        open_damaged(n_sound);
    }
}

START_TEST(words_of_the_header_may_be_anything)
{
    damage_words();
    make_qwen();
    damage_words();
}
END_TEST

int main(void)
{
    const TTest *tests[] = {
        a_file_cut_short_anywhere_is_refused,
        every_byte_of_the_header_may_change,
        words_of_the_header_may_be_anything,
    };

    return CHECK_RUN("model_damage", set_up, tear_down, tests);
}
