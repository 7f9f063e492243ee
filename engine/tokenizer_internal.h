/* What the halves of the tokenizer share: tokenizer.c has the vocabulary,
 * tokenizer_spm.c the merging. */
#ifndef ENGINE_TOKENIZER_INTERNAL_H
#define ENGINE_TOKENIZER_INTERNAL_H

#include "base/map.h"
#include "engine/tokenizer.h"

/* As in the files. */
enum token_kind {
    TOKEN_UNDEFINED,
    TOKEN_NORMAL,
    TOKEN_UNKNOWN,
    TOKEN_CONTROL,
    TOKEN_USER_DEFINED,
    TOKEN_UNUSED,
    TOKEN_BYTE,
};

struct token {
    struct kv_map_node node; /* by text, if a text may contain it */
    struct gguf_string text; /* with U+2581 for space */
    struct gguf_string piece;
    float score;
    enum token_kind kind;
};

/* A token that is cut out of a text before anything is merged. */
struct user_token {
    size_t n; /* bytes of its text */
    uint32_t id;
};

struct tokenizer {
    struct tokenizer_info info;
    uint32_t unknown_id;
    bool adds_space;
    struct token *tokens;  /* [n_vocab] */
    struct kv_map by_text; /* last of those with the same text */
    char *pieces;          /* what token.piece points into */
    size_t max_text_bytes;
    uint32_t byte_ids[256]; /* what stands for a byte that is in no token */
    struct user_token *user_tokens; /* longest first */
    size_t n_user_tokens;
};

/* The token of that text, or UINT32_MAX. */
uint32_t tokenizer_find(
    const struct tokenizer *tokenizer, const char *text, size_t n);

struct token_list {
    uint32_t *ids;
    size_t n, n_max;
};

/* Room for n more. */
bool token_list_reserve(struct token_list *list, size_t n);

/* Appends the tokens of n bytes, at least 1, of valid UTF-8 that hold no user
 * token. */
enum kv_status tokenizer_encode_spm(const struct tokenizer *tokenizer,
    const char *text, size_t n, struct token_list *list);

#endif
