#include <errno.h>
#include <inttypes.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/heap.h"
#include "engine/tokenizer_internal.h"

/* What a text of SPM may contain: normal, unused and user-defined tokens. The
 * others are not in the map, so nobody can write an end of text, or a byte by
 * its name, into a prompt, unless the tokenizer is told to parse such names. */

#define KEY "tokenizer.ggml."

static bool kind_is_text(enum token_kind kind)
{
    return kind == TOKEN_NORMAL || kind == TOKEN_USER_DEFINED ||
           kind == TOKEN_UNUSED || kind == TOKEN_UNDEFINED;
}

static bool token_is(const struct kv_map_node *node, const void *key_wanted)
{
    const struct gguf_string *key =
        &((const struct token *)(const void *)node)->key;
    const struct gguf_string *wanted = key_wanted;

    return key->n == wanted->n && memcmp(key->data, wanted->data, key->n) == 0;
}

static struct token *find_token(
    const struct tokenizer *tokenizer, const char *text, size_t n)
{
    struct gguf_string key = {text, n};

    if (n > tokenizer->max_text_bytes)
        return NULL;
    return (void *)kv_map_find(&tokenizer->by_text,
        kv_siphash(tokenizer->by_text.secret, text, n), &key);
}

uint32_t tokenizer_find(
    const struct tokenizer *tokenizer, const char *text, size_t n)
{
    const struct token *token = find_token(tokenizer, text, n);

    return token == NULL ? UINT32_MAX : (uint32_t)(token - tokenizer->tokens);
}

static enum kv_status check_kind(struct tokenizer *tokenizer,
    const struct gguf *gguf, struct kv_error *error)
{
    struct gguf_string kind;
    enum kv_status status = gguf_get_string(gguf, KEY "model", &kind, error);

    if (status == KV_NOT_FOUND)
        return kv_error_set(error, KV_INVALID,
            "%s: key " KEY "model is missing; it has no vocabulary",
            gguf_name(gguf));
    if (status != KV_OK)
        return status;
    if (kind.n == 4 && memcmp(kind.data, "gpt2", 4) == 0)
        return tokenizer_open_bpe(tokenizer, gguf, error);
    if (kind.n != 5 || memcmp(kind.data, "llama", 5) != 0)
        return kv_error_set(error, KV_UNSUPPORTED,
            "%s: tokenizer %s; supported are llama (SentencePiece BPE) and "
            "gpt2 (byte-level BPE)",
            gguf_name(gguf), gguf_printable(kind).text);
    tokenizer->info.kind = "spm";
    tokenizer->info.bos_id = tokenizer->info.n_vocab > 1 ? 1 : 0;
    tokenizer->info.adds_bos = true;
    tokenizer->adds_space = true;
    return KV_OK;
}

/* Absent: *out keeps what it has, which must be in the vocabulary too. */
static enum kv_status read_id(const struct gguf *gguf, const char *key,
    uint32_t n_vocab, uint32_t *out, struct kv_error *error)
{
    uint64_t id = *out;
    enum kv_status status = gguf_get_uint(gguf, key, &id, error);

    if (status != KV_OK && status != KV_NOT_FOUND)
        return status;
    if (id >= n_vocab)
        return kv_error_set(error, KV_INVALID,
            "%s: %s is %" PRIu64 "; below %" PRIu32
            ", the size of the vocabulary, is needed",
            gguf_name(gguf), key, id, n_vocab);
    *out = (uint32_t)id;
    return status;
}

static void add_end(struct tokenizer *tokenizer, uint32_t id)
{
    struct tokenizer_info *info = &tokenizer->info;

    if (tokenizer_is_end(tokenizer, id) ||
        info->n_end_ids == sizeof info->end_ids / sizeof *info->end_ids)
        return;
    info->end_ids[info->n_end_ids++] = id;
    tokenizer->tokens[id].kind = TOKEN_CONTROL;
}

/* Tokens that end a text are named by keys and, in many files, by their text
 * only. */
static enum kv_status find_ends(struct tokenizer *tokenizer,
    const struct gguf *gguf, struct kv_error *error)
{
    static const char *const keys[] = {
        KEY "eos_token_id", KEY "eot_token_id", KEY "eom_token_id"};
    static const char *const texts[] = {"</s>", "<|im_end|>", "<|end|>",
        "<|eot_id|>", "<|eom_id|>", "<|endoftext|>", "<|end_of_text|>"};
    uint32_t n_vocab = tokenizer->info.n_vocab;

    for (size_t i = 0; i < sizeof keys / sizeof *keys; i++) {
        uint32_t id = 0;
        enum kv_status status = read_id(gguf, keys[i], n_vocab, &id, error);

        if (status == KV_OK)
            add_end(tokenizer, id);
        else if (status != KV_NOT_FOUND)
            return status;
    }
    for (uint32_t id = 0; id < n_vocab; id++)
        for (size_t i = 0; i < sizeof texts / sizeof *texts; i++) {
            const struct gguf_string *text = &tokenizer->tokens[id].text;

            if (text->n == strlen(texts[i]) &&
                memcmp(text->data, texts[i], text->n) == 0)
                add_end(tokenizer, id);
        }
    return KV_OK;
}

static enum kv_status read_flag(
    const struct gguf *gguf, const char *key, bool *out, struct kv_error *error)
{
    enum kv_status status = gguf_get_bool(gguf, key, out, error);

    return status == KV_NOT_FOUND ? KV_OK : status;
}

static enum kv_status check_settings(const struct tokenizer *tokenizer,
    const struct gguf *gguf, bool has_bos, struct kv_error *error)
{
    if (tokenizer->splitter == NULL)
        return KV_OK;
    if (tokenizer->adds_space)
        return kv_error_set(error, KV_UNSUPPORTED,
            "%s: " KEY "add_space_prefix is true, which byte-level BPE is not "
            "supported with",
            gguf_name(gguf));
    if (tokenizer->info.adds_bos && !has_bos)
        return kv_error_set(error, KV_INVALID,
            "%s: " KEY "bos_token_id is missing, but texts are to begin with "
            "that token",
            gguf_name(gguf));
    return KV_OK;
}

/* What is absent is as it is for the kind of tokenizer. */
static enum kv_status read_settings(struct tokenizer *tokenizer,
    const struct gguf *gguf, struct kv_error *error)
{
    struct tokenizer_info *info = &tokenizer->info;
    bool adds_eos = false, has_bos = false;
    enum kv_status status = read_id(gguf, KEY "unknown_token_id", info->n_vocab,
        &tokenizer->unknown_id, error);

    if (status == KV_OK || status == KV_NOT_FOUND) {
        tokenizer->has_unknown = status == KV_OK;
        status = read_id(
            gguf, KEY "bos_token_id", info->n_vocab, &info->bos_id, error);
        has_bos = status == KV_OK;
    }
    if (status == KV_OK || status == KV_NOT_FOUND)
        status = read_flag(gguf, KEY "add_bos_token", &info->adds_bos, error);
    if (status == KV_OK)
        status = read_flag(
            gguf, KEY "add_space_prefix", &tokenizer->adds_space, error);
    if (status == KV_OK)
        status = read_flag(gguf, KEY "add_eos_token", &adds_eos, error);
    if (status == KV_OK && adds_eos)
        return kv_error_set(error, KV_UNSUPPORTED,
            "%s: " KEY "add_eos_token is true: a prompt that ends the text is "
            "not supported",
            gguf_name(gguf));
    return status == KV_OK ? check_settings(tokenizer, gguf, has_bos, error)
                           : status;
}

static enum kv_status get_vocab_array(const struct gguf *gguf, const char *key,
    enum gguf_array_kind kind, uint32_t n_vocab, struct gguf_array *out,
    struct kv_error *error)
{
    enum kv_status status = gguf_get_array(gguf, key, kind, out, error);

    if (status == KV_OK && out->n != n_vocab)
        return kv_error_set(error, KV_INVALID,
            "%s: %s has %zu entries; the vocabulary has %" PRIu32,
            gguf_name(gguf), key, out->n, n_vocab);
    return status;
}

struct vocab_arrays {
    struct gguf_array texts, scores, kinds;
    bool has_scores, has_kinds;
};

static enum kv_status get_vocab_arrays(const struct tokenizer *tokenizer,
    const struct gguf *gguf, struct vocab_arrays *out, struct kv_error *error)
{
    uint32_t n_vocab = tokenizer->info.n_vocab;
    enum kv_status status = get_vocab_array(
        gguf, KEY "tokens", GGUF_STRINGS, n_vocab, &out->texts, error);

    out->has_scores = tokenizer->splitter == NULL;
    if (status == KV_OK && out->has_scores)
        status = get_vocab_array(
            gguf, KEY "scores", GGUF_FLOATS, n_vocab, &out->scores, error);
    if (status == KV_NOT_FOUND)
        return kv_error_set(error, KV_INVALID, "%s: " KEY "tokens%s is missing",
            gguf_name(gguf), out->has_scores ? " or " KEY "scores" : "");
    if (status != KV_OK)
        return status;
    status = get_vocab_array(
        gguf, KEY "token_type", GGUF_INTS, n_vocab, &out->kinds, error);
    out->has_kinds = status == KV_OK;
    return status == KV_NOT_FOUND ? KV_OK : status;
}

static enum kv_status read_token(const struct gguf *gguf,
    const struct vocab_arrays *arrays, uint32_t id, struct token *token,
    struct kv_error *error)
{
    int32_t kind = TOKEN_NORMAL;

    if (arrays->has_scores)
        token->score = gguf_array_float(&arrays->scores, id);
    if (isnan(token->score))
        return kv_error_set(error, KV_INVALID,
            "%s: " KEY "scores: token %" PRIu32 " has no number",
            gguf_name(gguf), id);
    if (arrays->has_kinds)
        kind = gguf_array_int(&arrays->kinds, id);
    if (kind < TOKEN_UNDEFINED || kind > TOKEN_BYTE)
        return kv_error_set(error, KV_INVALID,
            "%s: " KEY "token_type: token %" PRIu32 " has %" PRId32
            "; 0 to %d are allowed",
            gguf_name(gguf), id, kind, TOKEN_BYTE);
    token->kind = (enum token_kind)kind;
    return KV_OK;
}

static enum kv_status read_tokens(struct tokenizer *tokenizer,
    const struct gguf *gguf, struct kv_error *error)
{
    uint32_t n_vocab = tokenizer->info.n_vocab;
    struct vocab_arrays arrays;
    enum kv_status status = get_vocab_arrays(tokenizer, gguf, &arrays, error);
    const unsigned char *at;

    if (status != KV_OK)
        return status;
    tokenizer->tokens = kv_calloc(n_vocab, sizeof *tokenizer->tokens);
    if (tokenizer->tokens == NULL)
        return kv_error_set(error, KV_NO_MEMORY,
            "%s: no memory for %" PRIu32 " tokens", gguf_name(gguf), n_vocab);
    at = arrays.texts.data;
    for (uint32_t id = 0; id < n_vocab && status == KV_OK; id++) {
        tokenizer->tokens[id].text = gguf_array_next_string(&at);
        status = read_token(gguf, &arrays, id, &tokenizer->tokens[id], error);
    }
    return status;
}

/* <0x00> to <0xFF> */
static int parse_byte(struct gguf_string text)
{
    static const char digits[] = "0123456789ABCDEF";
    const char *high, *low;

    if (text.n != 6 || memcmp(text.data, "<0x", 3) != 0 || text.data[5] != '>')
        return -1;
    high = memchr(digits, text.data[3], 16);
    low = memchr(digits, text.data[4], 16);
    return high == NULL || low == NULL
               ? -1
               : (int)((high - digits) * 16 + (low - digits));
}

static size_t unescape(char *out, struct gguf_string text)
{
    size_t n = 0;

    for (size_t i = 0; i < text.n; i++) {
        if (text.n - i >= 3 && memcmp(text.data + i, "\xE2\x96\x81", 3) == 0) {
            out[n++] = ' ';
            i += 2;
        } else {
            out[n++] = text.data[i];
        }
    }
    return n;
}

/* Writes the piece of a token, at most as long as its text. */
static enum kv_status write_piece(const struct tokenizer *tokenizer,
    const struct gguf *gguf, char *out, uint32_t id, struct kv_error *error)
{
    struct token *token = &tokenizer->tokens[id];
    int byte;

    token->piece.data = out;
    if (tokenizer->splitter != NULL && token->kind != TOKEN_BYTE) {
        tokenizer_write_bpe_piece(token, out);
    } else if (token->kind == TOKEN_NORMAL) {
        token->piece.n = unescape(out, token->text);
    } else if (token->kind == TOKEN_USER_DEFINED) {
        memcpy(out, token->text.data, token->text.n);
        token->piece.n = token->text.n;
    } else if (token->kind == TOKEN_BYTE) {
        byte = parse_byte(token->text);
        if (byte < 0)
            return kv_error_set(error, KV_INVALID,
                "%s: token %" PRIu32
                " stands for a byte, but is named %s; <0x00> to <0xFF> are "
                "allowed",
                gguf_name(gguf), id, gguf_printable(token->text).text);
        *out = (char)byte;
        token->piece.n = 1;
    }
    return KV_OK;
}

static enum kv_status write_pieces(struct tokenizer *tokenizer,
    const struct gguf *gguf, struct kv_error *error)
{
    enum kv_status status = KV_OK;
    size_t n_bytes = 0;

    for (uint32_t id = 0; id < tokenizer->info.n_vocab; id++)
        n_bytes += tokenizer->tokens[id].text.n;
    tokenizer->n_piece_bytes = n_bytes + 1;
    tokenizer->pieces = kv_calloc(tokenizer->n_piece_bytes, 1);
    if (tokenizer->pieces == NULL)
        return kv_error_set(error, KV_NO_MEMORY,
            "%s: no memory for %zu bytes of tokens", gguf_name(gguf), n_bytes);
    n_bytes = 0;
    for (uint32_t id = 0; id < tokenizer->info.n_vocab && status == KV_OK;
         id++) {
        status = write_piece(
            tokenizer, gguf, tokenizer->pieces + n_bytes, id, error);
        n_bytes += tokenizer->tokens[id].piece.n;
    }
    return status;
}

static void index_token(struct tokenizer *tokenizer, struct token *token)
{
    struct token *other;

    if (tokenizer->splitter == NULL && kind_is_text(token->kind))
        token->key = token->text;
    if (token->piece.n > tokenizer->max_text_bytes)
        tokenizer->max_text_bytes = token->piece.n;
    if (token->key.n == 0)
        return;
    if (token->key.n > tokenizer->max_text_bytes)
        tokenizer->max_text_bytes = token->key.n;
    other = find_token(tokenizer, token->key.data, token->key.n);
    if (other != NULL)
        kv_map_remove(&tokenizer->by_text, &other->node);
    kv_map_insert(&tokenizer->by_text, &token->node,
        kv_siphash(tokenizer->by_text.secret, token->key.data, token->key.n));
}

static enum kv_status index_tokens(struct tokenizer *tokenizer,
    const struct gguf *gguf, struct kv_error *error)
{
    uint64_t secret[2];

    if (getentropy(secret, sizeof secret) != 0)
        return kv_error_set(
            error, KV_IO, "no random numbers: %s", strerrordesc_np(errno));
    if (kv_map_init(&tokenizer->by_text, tokenizer->info.n_vocab, secret,
            token_is) != KV_OK)
        return kv_error_set(error, KV_NO_MEMORY,
            "%s: no memory to index %" PRIu32 " tokens", gguf_name(gguf),
            tokenizer->info.n_vocab);
    for (uint32_t id = 0; id < tokenizer->info.n_vocab; id++)
        index_token(tokenizer, &tokenizer->tokens[id]);
    return KV_OK;
}

/* A byte without a token of its own may be a token by itself; or else it is
 * unknown. */
static void index_bytes(struct tokenizer *tokenizer)
{
    for (int byte = 0; byte < 256; byte++) {
        char text = (char)byte;
        uint32_t id = tokenizer_find(tokenizer, &text, 1);

        tokenizer->byte_ids[byte] =
            id == UINT32_MAX ? tokenizer->unknown_id : id;
    }
    for (uint32_t id = 0; id < tokenizer->info.n_vocab; id++)
        if (tokenizer->tokens[id].kind == TOKEN_BYTE) {
            int byte = parse_byte(tokenizer->tokens[id].text);

            tokenizer->byte_ids[byte] = id;
        }
}

static int compare_named_tokens(const void *a, const void *b)
{
    const struct named_token *left = a, *right = b;

    if (left->n != right->n)
        return left->n < right->n ? 1 : -1;
    return left->id < right->id ? -1 : left->id > right->id;
}

static bool is_named(const struct token *token)
{
    return token->text.n > 0 && (token->kind == TOKEN_USER_DEFINED ||
                                    tokenizer_is_special(token->kind));
}

static enum kv_status list_named_tokens(struct tokenizer *tokenizer,
    const struct gguf *gguf, struct kv_error *error)
{
    size_t n = 0;

    for (uint32_t id = 0; id < tokenizer->info.n_vocab; id++)
        n += is_named(&tokenizer->tokens[id]);
    tokenizer->named_tokens = kv_calloc(n + 1, sizeof *tokenizer->named_tokens);
    if (tokenizer->named_tokens == NULL)
        return kv_error_set(error, KV_NO_MEMORY,
            "%s: no memory for %zu named tokens", gguf_name(gguf), n);
    for (uint32_t id = 0; id < tokenizer->info.n_vocab; id++) {
        const struct token *token = &tokenizer->tokens[id];

        if (is_named(token))
            tokenizer->named_tokens[tokenizer->n_named_tokens++] =
                (struct named_token){
                    token->text.n, id, tokenizer_is_special(token->kind)};
    }
    qsort(tokenizer->named_tokens, tokenizer->n_named_tokens,
        sizeof *tokenizer->named_tokens, compare_named_tokens);
    return KV_OK;
}

enum kv_status tokenizer_load(struct tokenizer *tokenizer,
    const struct gguf *gguf, struct kv_error *error)
{
    enum kv_status status = check_kind(tokenizer, gguf, error);

    if (status == KV_OK && tokenizer->splitter == NULL &&
        tokenizer->given_pre != NULL)
        return kv_error_set(error, KV_INVALID,
            "%s: its tokenizer is SPM, which has no pre-tokenizer; %s was "
            "given",
            gguf_name(gguf), tokenizer->given_pre);
    if (status == KV_OK)
        status = read_settings(tokenizer, gguf, error);
    if (status == KV_OK)
        status = read_tokens(tokenizer, gguf, error);
    if (status == KV_OK)
        status = find_ends(tokenizer, gguf, error);
    if (status == KV_OK)
        status = write_pieces(tokenizer, gguf, error);
    if (status == KV_OK)
        status = index_tokens(tokenizer, gguf, error);
    if (status == KV_OK)
        status = list_named_tokens(tokenizer, gguf, error);
    if (status != KV_OK)
        return status;
    if (tokenizer->splitter != NULL)
        return tokenizer_load_bpe(tokenizer, gguf, error);
    index_bytes(tokenizer);
    return KV_OK;
}
