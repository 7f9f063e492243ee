/* What the parts of the tokenizer share. tokenizer.c cuts named tokens out
 * of a text, tokenizer_vocab.c reads what both kinds have, tokenizer_spm.c
 * and tokenizer_bpe.c merge (merge_list.h), tokenizer_merges.c reads what only
 * BPE has. */
#ifndef ENGINE_TOKENIZER_INTERNAL_H
#define ENGINE_TOKENIZER_INTERNAL_H

#include "base/map.h"
#include "engine/tokenizer.h"
#include "engine/tokenizer_split.h"

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
    struct kv_map_node node; /* by key, if a text may contain it */
    struct gguf_string text; /* as in the file: U+2581 for space, or spelled */
    struct gguf_string piece;
    struct gguf_string key; /* text (SPM) or piece (BPE); or n is 0 */
    float score;
    enum token_kind kind;
};

/* A token that is cut out of a text before anything is merged. */
struct named_token {
    size_t n; /* bytes of its text */
    uint32_t id;
    bool is_special; /* if it was asked for: see tokenizer_is_special */
};

/* The pair becomes a token; merges that come first in the file go first. */
struct merge {
    struct kv_map_node node; /* by left and right */
    uint32_t left, right, id;
};

struct tokenizer {
    struct tokenizer_info info;
    uint32_t unknown_id;
    bool has_unknown;
    bool adds_space;
    struct token *tokens;  /* [n_vocab] */
    struct kv_map by_text; /* last of those with the same key */
    char *pieces;          /* what token.piece points into */
    size_t n_piece_bytes;
    size_t max_text_bytes;
    uint32_t byte_ids[256]; /* what stands for a byte that is in no other
                               token; UINT32_MAX: nothing (BPE) */
    struct named_token *named_tokens; /* longest first */
    size_t n_named_tokens;

    const char *given_pre;     /* while it opens: tokenizer_open_as's */
    struct splitter *splitter; /* of BPE; NULL: SPM */
    bool takes_whole_words;
    struct merge *merges; /* by rank */
    struct kv_map merges_by_pair;
};

enum kv_status tokenizer_load(struct tokenizer *tokenizer,
    const struct gguf *gguf, struct kv_error *error);

/* The first thing of BPE: its pre-tokenizer, and its settings while the file
 * does not say otherwise. */
enum kv_status tokenizer_open_bpe(struct tokenizer *tokenizer,
    const struct gguf *gguf, struct kv_error *error);

/* The last: what stands for bytes, and the merges. */
enum kv_status tokenizer_load_bpe(struct tokenizer *tokenizer,
    const struct gguf *gguf, struct kv_error *error);

/* Sets piece and key; out has room for the token's text. */
void tokenizer_write_bpe_piece(struct token *token, char *out);

/* Or NULL. */
const struct merge *tokenizer_find_merge(
    const struct tokenizer *tokenizer, uint32_t left, uint32_t right);

/* Whether it is no text, but for those who ask for it by its name. */
static inline bool tokenizer_is_special(enum token_kind kind)
{
    return kind == TOKEN_CONTROL || kind == TOKEN_UNKNOWN;
}

/* The token of that key, or UINT32_MAX. */
uint32_t tokenizer_find(
    const struct tokenizer *tokenizer, const char *text, size_t n);

struct token_list {
    uint32_t *ids;
    size_t n, n_max;
    size_t n_candidates; /* that BPE ever considered, to see what it costs */
};

/* Room for n more. */
bool token_list_reserve(struct token_list *list, size_t n);

/* Appends the tokens of n bytes, at least 1, of valid UTF-8 that nothing is cut
 * out of any more. */
enum kv_status tokenizer_encode_spm(const struct tokenizer *tokenizer,
    const char *text, size_t n, struct token_list *list);
enum kv_status tokenizer_encode_bpe(const struct tokenizer *tokenizer,
    const char *text, size_t n, struct token_list *list);

#endif
