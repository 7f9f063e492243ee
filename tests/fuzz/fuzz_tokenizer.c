/* libFuzzer: a text through a tiny vocabulary of each kind. The first byte
 * chooses the vocabulary; what is valid UTF-8 must come back from its tokens.
 */
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include "base/heap.h"
#include "base/utf8.h"
#include "engine/tokenizer.h"
#include "tests/engine/tiny_model.h"
#include "tests/engine/tiny_vocabulary.h"

#define SPACE "\xE2\x96\x81" /* U+2581, which SPM has for a space */

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t n);

static const char *const pre_tokenizers[] = {"default", "gpt-2", "llama-bpe",
    "qwen2", "smollm", "falcon", "deepseek-llm", "deepseek-coder"};
#define N_PRE (sizeof pre_tokenizers / sizeof *pre_tokenizers)

static const char *const words[] = {
    "he", "ll", "hell", "hello", "aa", "aaaa", "11", "<x>"};
static const char *const merges[] = {
    "h e", "l l", "he ll", "hell o", "a a", "aa aa", "1 1"};

static unsigned char *write_bpe(const char *pre, size_t *n, uint32_t *n_vocab)
{
    struct tiny_vocabulary tiny;

    tiny_vocabulary_init(&tiny, pre);
    tiny.bos_id = TINY_END;
    for (size_t i = 0; i < sizeof words / sizeof *words; i++)
        tiny_vocabulary_add_word(&tiny, words[i], *words[i] == '<' ? 4 : 1);
    for (size_t i = 0; i < sizeof merges / sizeof *merges; i++)
        tiny_vocabulary_add_merge(&tiny, merges[i]);
    *n_vocab = tiny_vocabulary_size(&tiny);
    return tiny_vocabulary_write(&tiny, n);
}

static unsigned char *write_spm(size_t *n, uint32_t *n_vocab)
{
    struct tiny_model tiny;

    tiny_model_init(&tiny, "llama");
    tiny_model_add_word(&tiny, SPACE, 0, 1);
    for (size_t i = 0; i < sizeof words / sizeof *words; i++)
        tiny_model_add_word(
            &tiny, words[i], -(float)i, *words[i] == '<' ? 4 : 1);
    *n_vocab = TINY_N_FIXED + (uint32_t)tiny.n_words;
    return tiny_model_write(&tiny, n);
}

/* Opened once; both live as long as the fuzzer does. */
static const struct tokenizer *open_tokenizer(size_t kind)
{
    static struct tokenizer *tokenizers[N_PRE + 1];
    static struct gguf *ggufs[N_PRE + 1];
    struct kv_error error;
    unsigned char *file;
    uint32_t n_vocab;
    size_t n;

    if (tokenizers[kind] != NULL)
        return tokenizers[kind];
    file = kind < N_PRE ? write_bpe(pre_tokenizers[kind], &n, &n_vocab)
                        : write_spm(&n, &n_vocab);
    if (gguf_open_memory(&ggufs[kind], file, n, "fuzz", &error) != KV_OK ||
        tokenizer_open(&tokenizers[kind], ggufs[kind], n_vocab, &error) !=
            KV_OK)
        abort();
    return tokenizers[kind];
}

/* SPM puts a space before each stretch between named tokens, so only bytes that
 * are not spaces are the same there. */
static void check_pieces(const struct tokenizer *tokenizer, const char *text,
    size_t n, const uint32_t *ids, size_t n_ids)
{
    bool skips_spaces = tokenizer_strips_space(tokenizer);
    size_t at = 0;

    for (size_t i = 0; i < n_ids; i++) {
        struct gguf_string piece = tokenizer_piece(tokenizer, ids[i]);

        if (piece.n == 0)
            piece = tokenizer_special_name(tokenizer, ids[i]);
        for (size_t j = 0; j < piece.n; j++) {
            if (skips_spaces && piece.data[j] == ' ')
                continue;
            while (skips_spaces && at < n && text[at] == ' ')
                at++;
            if (at == n || text[at] != piece.data[j])
                abort();
            at++;
        }
    }
    while (skips_spaces && at < n && text[at] == ' ')
        at++;
    if (at != n)
        abort();
}

static void encode(const struct tokenizer *tokenizer, const char *text,
    size_t n, unsigned flags)
{
    uint32_t *ids;
    size_t n_ids;
    enum kv_status status =
        tokenizer_encode(tokenizer, text, n, flags, &ids, &n_ids);

    if ((status == KV_OK) != kv_utf8_valid(text, n))
        abort();
    if (status != KV_OK)
        return;
    if (memmem(text, n, SPACE, sizeof SPACE - 1) == NULL)
        check_pieces(tokenizer, text, n, ids, n_ids);
    kv_free(ids);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t n)
{
    const struct tokenizer *tokenizer;
    const char *text = (const char *)data + 1;

    if (n == 0)
        return 0;
    tokenizer = open_tokenizer(*data % (N_PRE + 1));
    encode(tokenizer, text, n - 1, 0);
    encode(tokenizer, text, n - 1, TOKENIZER_PARSE_SPECIAL);
    return 0;
}
