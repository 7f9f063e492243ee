#include <string.h>

#include "base/heap.h"
#include "engine/tokenizer_internal.h"

/* Files spell the bytes of byte-level BPE as GPT-2 does, so that each is a
 * character that can be seen: those that can be seen in Latin-1 are themselves,
 * and the others, in order, are U+0100 and following. */

#define KEY "tokenizer.ggml."

/* The byte that a character stands for, or -1. */
static int spelled_byte(unsigned code)
{
    if ((code >= 0x21 && code <= 0x7E) || (code >= 0xA1 && code <= 0xAC) ||
        (code >= 0xAE && code <= 0xFF))
        return (int)code;
    if (code >= 0x100 && code <= 0x120)
        return (int)code - 0x100;
    if (code == 0x121)
        return 0x7F;
    if (code >= 0x122 && code <= 0x142)
        return (int)code - 0x122 + 0x80;
    return code == 0x143 ? 0xAD : -1;
}

/* The bytes that a text spells, at most as many as it has. False if it has
 * another character. */
static bool unspell(char *out, const char *text, size_t n, size_t *n_out)
{
    size_t at = 0;

    *n_out = 0;
    while (at < n) {
        unsigned char first = (unsigned char)text[at++];
        unsigned code = first;
        int byte;

        if (first >= 0x80) {
            if (first < 0xC2 || first > 0xC5 || at == n ||
                ((unsigned char)text[at] & 0xC0) != 0x80)
                return false;
            code = (first & 0x1Fu) << 6 | ((unsigned char)text[at++] & 0x3Fu);
        }
        byte = spelled_byte(code);
        if (byte < 0)
            return false;
        out[(*n_out)++] = (char)byte;
    }
    return true;
}

/* A normal token that is not spelled so is its text if it is generated, and no
 * text contains it. User-defined tokens are their text, and where that is
 * spelled as it is, merges may make them too. */
void tokenizer_write_bpe_piece(struct token *token, char *out)
{
    const struct gguf_string *text = &token->text;
    bool is_spelled;
    size_t n;

    if (token->kind != TOKEN_NORMAL && token->kind != TOKEN_USER_DEFINED)
        return;
    is_spelled = unspell(out, text->data, text->n, &n);
    if (token->kind == TOKEN_USER_DEFINED)
        is_spelled = is_spelled && n == text->n;
    if (!is_spelled) {
        memcpy(out, text->data, text->n);
        n = text->n;
    }
    token->piece.n = n;
    if (is_spelled)
        token->key = token->piece;
}

/* What the file names, and what was given where it names nothing. */
static enum kv_status name_pre_tokenizer(const char *given,
    const struct gguf *gguf, struct gguf_string *name, struct kv_error *error)
{
    const enum kv_status status = gguf_get_string(gguf, KEY "pre", name, error);

    if (status == KV_NOT_FOUND && given != NULL) {
        *name = (struct gguf_string){given, strlen(given)};
        return KV_OK;
    }
    if (status == KV_NOT_FOUND)
        return kv_error_set(error, KV_INVALID,
            "%s: key " KEY "pre is missing: how to cut a text into words is "
            "not known; one of these is needed: " PRE_TOKENIZERS_TEXT,
            gguf_name(gguf));
    if (status == KV_OK && given != NULL &&
        (name->n != strlen(given) || memcmp(name->data, given, name->n) != 0))
        return kv_error_set(error, KV_INVALID,
            "%s: " KEY "pre: %s, where %s was given for a file that has none",
            gguf_name(gguf), gguf_printable(*name).text, given);
    return status;
}

static enum kv_status find_pre_tokenizer(const char *given,
    const struct gguf *gguf, const struct pre_tokenizer **out,
    struct kv_error *error)
{
    struct gguf_string name;
    enum kv_status status = name_pre_tokenizer(given, gguf, &name, error);

    if (status != KV_OK)
        return status;
    *out = pre_tokenizer_find(name);
    if (*out == NULL)
        return kv_error_set(error, KV_UNSUPPORTED,
            "%s: " KEY
            "pre: pre-tokenizer %s; supported are " PRE_TOKENIZERS_TEXT,
            gguf_name(gguf), gguf_printable(name).text);
    return KV_OK;
}

enum kv_status tokenizer_open_bpe(struct tokenizer *tokenizer,
    const struct gguf *gguf, struct kv_error *error)
{
    const struct pre_tokenizer *pre_tokenizer = NULL;
    enum kv_status status =
        find_pre_tokenizer(tokenizer->given_pre, gguf, &pre_tokenizer, error);

    if (status != KV_OK)
        return status;
    tokenizer->info.kind = pre_tokenizer->kind;
    tokenizer->info.adds_bos = pre_tokenizer->adds_bos;
    tokenizer->takes_whole_words = pre_tokenizer->takes_whole_words;
    return splitter_open(&tokenizer->splitter, pre_tokenizer, error);
}

/* Some vocabularies lack control characters. As the engines that these were
 * made for do, we leave such a byte out of a text, if no token is for what is
 * unknown. */
static void index_bytes(struct tokenizer *tokenizer)
{
    for (int byte = 0; byte < 256; byte++) {
        char text = (char)byte;
        uint32_t id = tokenizer_find(tokenizer, &text, 1);

        if (id == UINT32_MAX && tokenizer->has_unknown)
            id = tokenizer->unknown_id;
        tokenizer->byte_ids[byte] = id;
    }
}

static bool merge_is(const struct kv_map_node *node, const void *pair)
{
    const struct merge *merge = (const void *)node;
    const uint32_t *wanted = pair;

    return merge->left == wanted[0] && merge->right == wanted[1];
}

const struct merge *tokenizer_find_merge(
    const struct tokenizer *tokenizer, uint32_t left, uint32_t right)
{
    const uint32_t pair[] = {left, right};
    const struct kv_map *map = &tokenizer->merges_by_pair;

    return (const void *)kv_map_find(
        map, kv_siphash(map->secret, pair, sizeof pair), pair);
}

struct merge_reader {
    struct tokenizer *tokenizer;
    const struct gguf *gguf;
    struct gguf_array entries;
    char *bytes; /* room for the longest entry */
};

static enum kv_status refuse(const struct merge_reader *reader, size_t i,
    struct gguf_string entry, const char *why, struct kv_error *error)
{
    return kv_error_set(error, KV_INVALID,
        "%s: " KEY "merges: entry %zu (%s) %s", gguf_name(reader->gguf), i,
        gguf_printable(entry).text, why);
}

/* The tokens of both halves, and of the whole. */
static bool find_parts(const struct merge_reader *reader,
    struct gguf_string entry, size_t n_left, struct merge *merge)
{
    const struct tokenizer *tokenizer = reader->tokenizer;
    const char *right_text = entry.data + n_left + 1;
    size_t n, n_right;

    if (!unspell(reader->bytes, entry.data, n_left, &n) ||
        !unspell(reader->bytes + n, right_text, entry.n - n_left - 1, &n_right))
        return false;
    merge->left = tokenizer_find(tokenizer, reader->bytes, n);
    merge->right = tokenizer_find(tokenizer, reader->bytes + n, n_right);
    merge->id = tokenizer_find(tokenizer, reader->bytes, n + n_right);
    return merge->left != UINT32_MAX && merge->right != UINT32_MAX &&
           merge->id != UINT32_MAX;
}

static enum kv_status read_merge(struct merge_reader *reader, size_t i,
    struct gguf_string entry, struct kv_error *error)
{
    struct tokenizer *tokenizer = reader->tokenizer;
    struct merge *merge = &tokenizer->merges[i];
    struct kv_map *map = &tokenizer->merges_by_pair;
    const char *space = memchr(entry.data, ' ', entry.n);
    size_t n_left = space == NULL ? entry.n : (size_t)(space - entry.data);
    uint32_t pair[2];

    if (n_left == 0 || n_left + 1 >= entry.n ||
        memchr(space + 1, ' ', entry.n - n_left - 1) != NULL)
        return refuse(reader, i, entry,
            "is not two tokens with a space between them", error);
    if (!find_parts(reader, entry, n_left, merge))
        return refuse(reader, i, entry,
            "has a half, or makes a whole, that is no token", error);
    pair[0] = merge->left;
    pair[1] = merge->right;
    if (tokenizer_find_merge(tokenizer, pair[0], pair[1]) != NULL)
        return refuse(reader, i, entry, "was there before", error);
    kv_map_insert(
        map, &merge->node, kv_siphash(map->secret, pair, sizeof pair));
    return KV_OK;
}

static size_t longest_entry(const struct gguf_array *entries)
{
    const unsigned char *at = entries->data;
    size_t longest = 0;

    for (size_t i = 0; i < entries->n; i++) {
        size_t n = gguf_array_next_string(&at).n;

        longest = n > longest ? n : longest;
    }
    return longest;
}

static enum kv_status read_merges(
    struct merge_reader *reader, struct kv_error *error)
{
    struct tokenizer *tokenizer = reader->tokenizer;
    const unsigned char *at = reader->entries.data;
    size_t n = reader->entries.n;
    enum kv_status status = KV_OK;

    reader->bytes = kv_calloc(longest_entry(&reader->entries) + 1, 1);
    tokenizer->merges = kv_calloc(n + 1, sizeof *tokenizer->merges);
    if (reader->bytes == NULL || tokenizer->merges == NULL ||
        kv_map_init(&tokenizer->merges_by_pair, n, tokenizer->by_text.secret,
            merge_is) != KV_OK)
        return kv_error_set(error, KV_NO_MEMORY, "%s: no memory for %zu merges",
            gguf_name(reader->gguf), n);
    for (size_t i = 0; i < n && status == KV_OK; i++)
        status = read_merge(reader, i, gguf_array_next_string(&at), error);
    return status;
}

enum kv_status tokenizer_load_bpe(struct tokenizer *tokenizer,
    const struct gguf *gguf, struct kv_error *error)
{
    struct merge_reader reader = {.tokenizer = tokenizer, .gguf = gguf};
    enum kv_status status = gguf_get_array(
        gguf, KEY "merges", GGUF_STRINGS, &reader.entries, error);

    if (status == KV_NOT_FOUND)
        return kv_error_set(error, KV_INVALID,
            "%s: key " KEY "merges is missing", gguf_name(gguf));
    if (status != KV_OK)
        return status;
    index_bytes(tokenizer);
    status = read_merges(&reader, error);
    kv_free(reader.bytes);
    return status;
}
