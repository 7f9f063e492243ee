/* How the next token is chosen. In this order:
 *
 *   1. penalties on tokens seen lately, prompt and generated ones alike. With l
 *      the logit and c how often the token stands in the window:
 *        repetition  l / p if l > 0, l * p if not, where c > 0. Keskar et al.:
 *                    CTRL, 2019, arXiv:1909.05858, 4.1; the multiplication is
 *                    what everybody added, or p would reward negative logits.
 *        frequency, presence   l - c * frequency - (c > 0) * presence, as the
 *                    API reference of OpenAI has it.
 *   2. biases: l + bias; SAMPLER_NEVER leaves the token out, unless nothing
 *      would remain.
 *   3. temperature: exp(l / t). From here on greedy is done: the best token.
 *   4. top-k: the k best. Fan et al., 2018, arXiv:1805.04833.
 *   5. top-p: the best until their probability reaches p, of what top-k left.
 *      Holtzman et al., 2019, arXiv:1904.09751.
 *   6. min-p: those at least p times as likely as the best. Nguyen et al.,
 *      2024, arXiv:2407.01082.
 *   7. the draw.
 *
 * Equal logits count in the order of their tokens. A draw depends on the seed
 * and the position in the request alone, so the same seed gives the same tokens
 * whatever else is in the batch, and after a sequence was set aside.
 *
 * Nothing is allocated. Thread: whichever computes; one call at a time per
 * scratch. */
#ifndef ENGINE_SAMPLER_H
#define ENGINE_SAMPLER_H

#include <stddef.h>
#include <stdint.h>

#define SAMPLER_STANDARD_WINDOW 64
#define SAMPLER_NEVER (-100.0f)
#define SAMPLER_MAX_TOP 20

struct sampler_bias {
    uint32_t token; /* below n_vocab, each once */
    float bias;
};

struct sampler_params {
    float temperature; /* 0 is greedy, ties to the lower token */
    uint32_t top_k;    /* 0: no limit */
    float top_p;       /* 0 or 1: no limit */
    float min_p;       /* 0: no limit */
    uint64_t seed;

    float repetition_penalty;                  /* 0 or 1: none */
    float frequency_penalty, presence_penalty; /* 0: none */
    uint32_t penalty_window;           /* tokens; 0: SAMPLER_STANDARD_WINDOW */
    const struct sampler_bias *biases; /* borrowed */
    size_t n_biases;
};

/* What the choice is made of; all borrowed. */
struct sampler_input {
    const float *logits; /* [n_vocab], left as they are */
    uint32_t n_vocab;
    uint64_t draw;           /* tokens that the request generated before */
    const uint32_t *history; /* all tokens before, each below n_vocab */
    size_t n_history;
};

struct sampler_entry {
    float logit;
    uint32_t token;
};

/* scratch has n_vocab entries. Logits that are no finite number are chosen
 * last. */
uint32_t sampler_choose(const struct sampler_params *params,
    const struct sampler_input *input, struct sampler_entry *scratch);

/* Natural logarithms of probabilities as the model puts them out, before
 * anything above: at most 0. */
struct sampler_logprobs {
    float chosen;
    uint32_t n_top;
    struct sampler_entry top[SAMPLER_MAX_TOP]; /* the best first; `logit` is
                                                  the logarithm */
};

/* Of `token`, and of the n_top most likely: at most SAMPLER_MAX_TOP, and fewer
 * where fewer logits are finite. */
void sampler_measure(const float *logits, uint32_t n_vocab, uint32_t token,
    uint32_t n_top, struct sampler_logprobs *out);

#endif
