/* Rotary position embedding (Su et al., arXiv 2104.09864): each pair of a
 * head's elements turns with the token's position, by
 *
 *     frequency[i] = base^(-2i / n_dims) / factors[i]     a position
 *
 * factors being of the file's tensor rope_freqs.weight, which is how Llama 3.1
 * and later stretch their context, or else 1. Scaling changes it to
 *
 *     linear   frequency / factor                (Chen et al., arXiv
 * 2306.15595) yarn     the same where a pair turns slowly, unchanged where it
 * turns fast, and a ramp over i between; what turned is then longer by a
 * magnitude                       (Peng et al., arXiv 2309.00071)
 *
 * The ramp's ends and YaRN's magnitude are those of the authors' code
 * (https://github.com/jquesnelle/yarn), as llama.cpp and transformers have
 * them. Frequencies and angles are computed in double.
 *
 * Any thread; nothing is allocated. */
#ifndef ENGINE_ROPE_H
#define ENGINE_ROPE_H

#include <stddef.h>
#include <stdint.h>

enum rope_style {
    ROPE_INTERLEAVED, /* rotates (x[2i], x[2i+1]) */
    ROPE_NEOX,        /* rotates (x[i], x[i + n_dims/2]) */
};

enum rope_scaling { ROPE_UNSCALED, ROPE_LINEAR, ROPE_YARN };

struct rope {
    enum rope_style style;
    uint32_t n_dims; /* of each head, the first of them; even */
    float base;      /* more than 1 */

    enum rope_scaling scaling;
    float factor;    /* positions are closer by it; 1 if unscaled */
    float magnitude; /* what is rotated gets longer by it */
    /* YaRN: the positions that were trained on, the turns over them from which
     * on a pair is fast, to which it is slow, and how much the fast ones are
     * left alone, 0 to 1. */
    uint32_t n_trained;
    float beta_fast, beta_slow, extrapolation;
};

/* 0.1 ln(factor) + 1: how YaRN makes up for attention that spreads over more
 * positions; `weight` scales the first term. */
double rope_yarn_magnitude(double factor, double weight);

/* frequencies [n_dims / 2]; factors [n_dims / 2] or NULL. */
void rope_frequencies(
    const struct rope *rope, const float *factors, double *frequencies);

/* Cosines and sines [n_dims / 2] of a position, times the magnitude. */
void rope_angles(const struct rope *rope, const double *frequencies,
    uint32_t position, float *cosines, float *sines);

/* Rotates n_heads heads of head_dim elements, one after the other. */
void rope_rotate(const struct rope *rope, const float *cosines,
    const float *sines, float *heads, size_t n_heads, size_t head_dim);

#endif
