#include "engine/tokenizer.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/heap.h"
#include "base/utf8.h"
#include "engine/tokenizer_internal.h"

#define MAX_TEXT_BYTES (UINT32_MAX / 4)

bool token_list_reserve(struct token_list *list, size_t n)
{
    size_t n_max = list->n_max;
    uint32_t *ids;

    if (n <= n_max - list->n)
        return true;
    n_max = list->n + n > 2 * n_max ? list->n + n : 2 * n_max;
    ids = kv_realloc(list->ids, n_max * sizeof *ids);
    if (ids == NULL)
        return false;
    list->ids = ids;
    list->n_max = n_max;
    return true;
}

static enum kv_status open_with(struct tokenizer **out, const struct gguf *gguf,
    uint32_t n_vocab, const char *pre, struct kv_error *error)
{
    struct tokenizer *tokenizer = kv_calloc(1, sizeof *tokenizer);
    enum kv_status status;

    if (tokenizer == NULL)
        return kv_error_set(
            error, KV_NO_MEMORY, "no memory to open a tokenizer");
    tokenizer->info.n_vocab = n_vocab;
    tokenizer->given_pre = pre;
    status = tokenizer_load(tokenizer, gguf, error);
    if (status != KV_OK) {
        tokenizer_close(tokenizer);
        return status;
    }
    tokenizer->given_pre = NULL;
    *out = tokenizer;
    return KV_OK;
}

enum kv_status tokenizer_open(struct tokenizer **out, const struct gguf *gguf,
    uint32_t n_vocab, struct kv_error *error)
{
    return open_with(out, gguf, n_vocab, NULL, error);
}

enum kv_status tokenizer_open_as(struct tokenizer **out,
    const struct gguf *gguf, uint32_t n_vocab, const char *pre,
    struct kv_error *error)
{
    return open_with(out, gguf, n_vocab, pre, error);
}

void tokenizer_close(struct tokenizer *tokenizer)
{
    if (tokenizer == NULL)
        return;
    splitter_close(tokenizer->splitter);
    kv_map_fini(&tokenizer->merges_by_pair);
    kv_free(tokenizer->merges);
    kv_free(tokenizer->named_tokens);
    kv_map_fini(&tokenizer->by_text);
    kv_free(tokenizer->pieces);
    kv_free(tokenizer->tokens);
    kv_free(tokenizer);
}

static size_t map_bytes(const struct kv_map *map)
{
    return map->n_buckets * sizeof *map->buckets;
}

size_t tokenizer_bytes(const struct tokenizer *tokenizer)
{
    size_t n = sizeof *tokenizer;

    n += tokenizer->info.n_vocab * sizeof *tokenizer->tokens;
    n += map_bytes(&tokenizer->by_text) + tokenizer->n_piece_bytes;
    n += (tokenizer->n_named_tokens + 1) * sizeof *tokenizer->named_tokens;
    if (tokenizer->splitter == NULL)
        return n;
    n += (tokenizer->merges_by_pair.n_entries + 1) * sizeof *tokenizer->merges;
    return n + map_bytes(&tokenizer->merges_by_pair) +
           splitter_bytes(tokenizer->splitter);
}

/* A part of the text in which the named tokens before the kth are not. */
struct part {
    size_t begin, n, k;
    uint32_t id; /* of a named token; UINT32_MAX: a text still */
};

struct part_stack {
    struct part *parts;
    size_t n, n_max;
    bool parses_special;
};

static bool push_part(struct part_stack *stack, struct part part)
{
    struct part *parts;

    if (part.n == 0)
        return true;
    if (stack->n == stack->n_max) {
        parts =
            kv_realloc(stack->parts, (2 * stack->n_max + 8) * sizeof *parts);
        if (parts == NULL)
            return false;
        stack->parts = parts;
        stack->n_max = 2 * stack->n_max + 8;
    }
    stack->parts[stack->n++] = part;
    return true;
}

/* The first named token from the kth on that the part has makes three of it, of
 * which the last goes to the stack first. Sets *is_split. */
static bool split_part(const struct tokenizer *tokenizer, const char *text,
    struct part part, struct part_stack *stack, bool *is_split)
{
    const char *begin = text + part.begin, *found = NULL;
    struct named_token named = {.n = 0};
    size_t before;

    *is_split = false;
    for (; found == NULL && part.k < tokenizer->n_named_tokens; part.k++) {
        named = tokenizer->named_tokens[part.k];
        if (stack->parses_special || !named.is_special)
            found = memmem(
                begin, part.n, tokenizer->tokens[named.id].text.data, named.n);
    }
    if (found == NULL)
        return true;
    *is_split = true;
    before = (size_t)(found - begin);
    return push_part(
               stack, (struct part){part.begin + before + named.n,
                          part.n - before - named.n, part.k - 1, UINT32_MAX}) &&
           push_part(stack,
               (struct part){part.begin + before, named.n, part.k, named.id}) &&
           push_part(
               stack, (struct part){part.begin, before, part.k, UINT32_MAX});
}

static enum kv_status encode_part(const struct tokenizer *tokenizer,
    const char *text, struct part part, struct part_stack *stack,
    struct token_list *list)
{
    bool is_split;

    if (part.id != UINT32_MAX) {
        if (!token_list_reserve(list, 1))
            return KV_NO_MEMORY;
        list->ids[list->n++] = part.id;
        return KV_OK;
    }
    if (!split_part(tokenizer, text, part, stack, &is_split))
        return KV_NO_MEMORY;
    if (is_split)
        return KV_OK;
    text += part.begin;
    return tokenizer->splitter != NULL
               ? tokenizer_encode_bpe(tokenizer, text, part.n, list)
               : tokenizer_encode_spm(tokenizer, text, part.n, list);
}

enum kv_status tokenizer_encode(const struct tokenizer *tokenizer,
    const char *text, size_t n, unsigned flags, uint32_t **ids, size_t *n_ids)
{
    struct part_stack stack = {
        .parses_special = (flags & TOKENIZER_PARSE_SPECIAL) != 0};
    struct token_list list = {.ids = NULL};
    enum kv_status status = KV_OK;

    if (n > MAX_TEXT_BYTES)
        return KV_LIMIT;
    if (!kv_utf8_valid(text, n))
        return KV_INVALID;
    if ((flags & TOKENIZER_ADD_BOS) != 0 && tokenizer->info.adds_bos) {
        if (!token_list_reserve(&list, 1))
            return KV_NO_MEMORY;
        list.ids[list.n++] = tokenizer->info.bos_id;
    }
    if (!push_part(&stack, (struct part){0, n, 0, UINT32_MAX}))
        status = KV_NO_MEMORY;
    while (status == KV_OK && stack.n > 0)
        status =
            encode_part(tokenizer, text, stack.parts[--stack.n], &stack, &list);
    kv_free(stack.parts);
    if (status != KV_OK) {
        kv_free(list.ids);
        return status;
    }
    *ids = list.ids;
    *n_ids = list.n;
    return KV_OK;
}

struct gguf_string tokenizer_piece(
    const struct tokenizer *tokenizer, uint32_t id)
{
    return tokenizer->tokens[id].piece;
}

struct gguf_string tokenizer_special_name(
    const struct tokenizer *tokenizer, uint32_t id)
{
    const struct token *token = &tokenizer->tokens[id];

    return tokenizer_is_special(token->kind) ? token->text
                                             : (struct gguf_string){NULL, 0};
}

bool tokenizer_strips_space(const struct tokenizer *tokenizer)
{
    return tokenizer->adds_space;
}

size_t tokenizer_longest_piece(const struct tokenizer *tokenizer)
{
    /* A character that is in no token is one token of at most 4 bytes. */
    return tokenizer->max_text_bytes > 4 ? tokenizer->max_text_bytes : 4;
}

bool tokenizer_is_end(const struct tokenizer *tokenizer, uint32_t id)
{
    for (size_t i = 0; i < tokenizer->info.n_end_ids; i++)
        if (tokenizer->info.end_ids[i] == id)
            return true;
    return false;
}

struct tokenizer_info tokenizer_info(const struct tokenizer *tokenizer)
{
    return tokenizer->info;
}
