/* Text to tokens and back, by the vocabulary in a GGUF file: SPM (SentencePiece
 * BPE: scores, byte fallback, U+2581 for space) or byte-level BPE as GPT-2 has
 * it, with the pre-tokenizer that tokenizer.ggml.pre names. Another kind, or an
 * unknown or missing pre-tokenizer, is refused by name: a wrong guess would
 * make every answer a little worse, and nobody would know why.
 *
 * Any thread may read. */
#ifndef ENGINE_TOKENIZER_H
#define ENGINE_TOKENIZER_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/error.h"
#include "engine/gguf.h"

struct tokenizer;

/* The vocabulary must have n_vocab entries. gguf must outlive the tokenizer. */
enum kv_status tokenizer_open(struct tokenizer **out, const struct gguf *gguf,
    uint32_t n_vocab, struct kv_error *error);

/* The same for a file of byte-level BPE that does not say how it cuts a text:
 * pre does. KV_INVALID: it is no such file, or it says otherwise. */
enum kv_status tokenizer_open_as(struct tokenizer **out,
    const struct gguf *gguf, uint32_t n_vocab, const char *pre,
    struct kv_error *error);

void tokenizer_close(struct tokenizer *tokenizer); /* NULL is fine */

/* How a text is taken. */
enum tokenizer_flag {
    TOKENIZER_ADD_BOS = 1, /* the beginning-of-text token first, where the model
                              wants one */
    TOKENIZER_PARSE_SPECIAL = 2, /* names of control tokens, and that of what is
                                    unknown, are those tokens */
};

/* Tokens of n bytes of UTF-8, in *ids (kv_free; NULL if none); flags of
 * tokenizer_flag. User-defined tokens, and special ones if they are parsed, are
 * cut out first, the longest first; else the name of a special token is
 * ordinary text. O(n log n) for each stretch between them (SPM) or each
 * word (BPE). A byte for which a BPE vocabulary has no token, nor one for what
 * is unknown, is left out. KV_INVALID: not UTF-8; KV_LIMIT: a GiB or more, or a
 * word that takes too many steps to find; KV_NO_MEMORY. */
enum kv_status tokenizer_encode(const struct tokenizer *tokenizer,
    const char *text, size_t n, unsigned flags, uint32_t **ids, size_t *n_ids);

/* The bytes of a token, borrowed; empty for control tokens. Not always UTF-8 by
 * itself. id < n_vocab. The space that SPM puts before a text belongs to the
 * first token: tokenizer_strips_space says that it is to be left out there. */
struct gguf_string tokenizer_piece(
    const struct tokenizer *tokenizer, uint32_t id);

/* What TOKENIZER_PARSE_SPECIAL takes for the token, borrowed; empty where it is
 * not special. */
struct gguf_string tokenizer_special_name(
    const struct tokenizer *tokenizer, uint32_t id);

bool tokenizer_strips_space(const struct tokenizer *tokenizer);

/* Bytes of the longest piece: n bytes of text are at least n / that tokens. */
size_t tokenizer_longest_piece(const struct tokenizer *tokenizer);

bool tokenizer_is_end(const struct tokenizer *tokenizer, uint32_t id);

struct tokenizer_info {
    const char *kind; /* "spm", or "bpe/" and its pre-tokenizer */
    uint32_t n_vocab, bos_id;
    bool adds_bos;
    uint32_t end_ids[8]; /* that end a text */
    size_t n_end_ids;
};
struct tokenizer_info tokenizer_info(const struct tokenizer *tokenizer);

/* Memory that its tables take, whatever the file has of them mapped. */
size_t tokenizer_bytes(const struct tokenizer *tokenizer);

#endif
