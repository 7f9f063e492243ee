/* The pre-tokenizers of byte-level BPE: a text is cut into words by regular
 * expressions, and nothing is merged across words. A level of expressions is
 * applied to each piece that the one before it left.
 *
 *     "Hello 42!"  ->  "Hello", " 42", "!"
 *
 * What is here is const once it is open; any thread may split. */
#ifndef ENGINE_TOKENIZER_SPLIT_H
#define ENGINE_TOKENIZER_SPLIT_H

#include <stdbool.h>
#include <stddef.h>

#include "base/error.h"
#include "engine/gguf.h"

#define SPLITTER_MAX_LEVELS 6

struct pre_tokenizer {
    const char *name;            /* in tokenizer.ggml.pre */
    const char *kind;            /* "bpe/" and the name */
    const char *const *patterns; /* of each level; NULL ends them */
    bool takes_whole_words;      /* a word that is a token is not merged */
    bool adds_bos;               /* unless the file says otherwise */
};

/* The families, for errors. */
#define PRE_TOKENIZERS_TEXT                                                    \
    "gpt-2, llama-bpe, tekken, qwen2, smollm, falcon, deepseek-llm, "          \
    "deepseek-coder, "                                                         \
    "default"

/* NULL if there is none of that name. */
const struct pre_tokenizer *pre_tokenizer_find(struct gguf_string name);

struct splitter;

/* KV_NO_MEMORY; KV_UNSUPPORTED if the PCRE2 that is installed is without
 * Unicode. */
enum kv_status splitter_open(struct splitter **out,
    const struct pre_tokenizer *pre_tokenizer, struct kv_error *error);
void splitter_close(struct splitter *splitter); /* NULL is fine */

/* Memory that it takes, code of PCRE2's compiler included. */
size_t splitter_bytes(const struct splitter *splitter);

/* A word of at least one byte; anything but KV_OK ends the splitting. */
typedef enum kv_status (*splitter_word_cb)(
    void *context, const char *word, size_t n);

/* Calls on_word for each word of n bytes of valid UTF-8, in order; together
 * they are the text. Linear in n. KV_NO_MEMORY; KV_LIMIT if a match took more
 * steps than the text may cost; or what on_word said. */
enum kv_status splitter_split(const struct splitter *splitter, const char *text,
    size_t n, splitter_word_cb on_word, void *context);

#endif
