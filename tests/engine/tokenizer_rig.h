/* A vocabulary in memory and its tokenizer, for the tests of either kind.
 *
 *     tokenizer_rig_open_file  takes the file, of malloc
 *       └─ tokenizer_rig_open, or tokenizer_rig_expect_refusal
 *            └─ tokenizer_rig_close  at any time, and as often as one likes
 */
#ifndef TESTS_ENGINE_TOKENIZER_RIG_H
#define TESTS_ENGINE_TOKENIZER_RIG_H

#include "engine/tokenizer.h"

struct tokenizer_rig {
    unsigned char *bytes;
    struct gguf *gguf;
    struct tokenizer *tokenizer;
};

/* With a heap that counts; what was open before is forgotten. */
void tokenizer_rig_init(struct tokenizer_rig *rig);
/* Everything was given back. */
void tokenizer_rig_fini(struct tokenizer_rig *rig);

/* Closes what is open. */
void tokenizer_rig_open_file(
    struct tokenizer_rig *rig, unsigned char *bytes, size_t n);
void tokenizer_rig_open(struct tokenizer_rig *rig, uint32_t n_vocab);
/* The status, and what its words say among others. */
void tokenizer_rig_expect_refusal(struct tokenizer_rig *rig, uint32_t n_vocab,
    enum kv_status status, const char *words);
void tokenizer_rig_close(struct tokenizer_rig *rig);

#endif
