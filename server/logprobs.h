/* Log-probabilities of tokens that a Generate call has yet to send.
 *
 *   init ─> put, a token at a time ─> fill a message ─> drop what was sent
 *
 * Each token takes as many entries as alternatives were asked for, and one.
 * Thread: the owner's. */
#ifndef SERVER_LOGPROBS_H
#define SERVER_LOGPROBS_H

#include <stdbool.h>
#include <stddef.h>

#include "engine/sampler.h"
#include "engine/tokenizer.h"
#include "kvpool/v1/inference_service.pb-c.h"

struct logprobs {
    size_t n_each; /* entries of a token */
    struct sampler_entry *entries;
    size_t n_tokens, room; /* in tokens */
};

void logprobs_init(struct logprobs *logprobs, uint32_t n_top);
void logprobs_fini(struct logprobs *logprobs);

/* false: there is no memory, and nothing has changed. */
bool logprobs_put(struct logprobs *logprobs, uint32_t token,
    const struct sampler_logprobs *measured);

/* Those of the first n tokens, in *out of one allocation (kv_free(*out), after
 * the message was encoded); NULL: there is no memory. Pieces are borrowed. */
Kvpool__V1__TokenLogprob **logprobs_make(const struct logprobs *logprobs,
    size_t n, const struct tokenizer *tokenizer);

/* The first n tokens have been sent. */
void logprobs_drop(struct logprobs *logprobs, size_t n);

#endif
