#include "engine/rope.h"

#include <math.h>

double rope_yarn_magnitude(double factor, double weight)
{
    return factor > 1 ? 0.1 * weight * log(factor) + 1 : 1;
}

/* The pair, not a whole one, that turns n times over the trained positions:
 * n = n_trained * base^(-2i / n_dims) / 2 pi, solved for i. */
static double pair_of_turns(const struct rope *rope, double n)
{
    return rope->n_dims * log(rope->n_trained / (n * 2 * M_PI)) /
           (2 * log((double)rope->base));
}

/* How much of pair i is left as it was: 1 up to the last fast pair, 0 from the
 * first slow one on. Where both are the same there is no ramp, but a step. */
static double extrapolated_share(const struct rope *rope, uint32_t i)
{
    const double fast = fmax(floor(pair_of_turns(rope, rope->beta_fast)), 0);
    const double slow =
        fmin(ceil(pair_of_turns(rope, rope->beta_slow)), rope->n_dims - 1.0);
    const double along = (i - fast) / fmax(slow - fast, 0.001);

    return (1 - fmin(fmax(along, 0), 1)) * rope->extrapolation;
}

void rope_frequencies(
    const struct rope *rope, const float *factors, double *frequencies)
{
    for (uint32_t i = 0; i < rope->n_dims / 2; i++) {
        const double plain = pow(rope->base, -2.0 * i / rope->n_dims) /
                             (factors != NULL ? factors[i] : 1);
        const double share =
            rope->scaling == ROPE_YARN ? extrapolated_share(rope, i) : 0;

        frequencies[i] = plain / rope->factor * (1 - share) + plain * share;
    }
}

void rope_angles(const struct rope *rope, const double *frequencies,
    uint32_t position, float *cosines, float *sines)
{
    for (uint32_t i = 0; i < rope->n_dims / 2; i++) {
        const double angle = position * frequencies[i];

        cosines[i] = (float)(cos(angle) * rope->magnitude);
        sines[i] = (float)(sin(angle) * rope->magnitude);
    }
}

void rope_rotate(const struct rope *rope, const float *cosines,
    const float *sines, float *heads, size_t n_heads, size_t head_dim)
{
    const size_t n_pairs = rope->n_dims / 2;
    const size_t stride = rope->style == ROPE_NEOX ? 1 : 2;
    const size_t distance = rope->style == ROPE_NEOX ? n_pairs : 1;

    for (size_t h = 0; h < n_heads; h++, heads += head_dim)
        for (size_t i = 0; i < n_pairs; i++) {
            float *a = heads + i * stride, *b = a + distance;
            const float old_a = *a, old_b = *b;

            *a = old_a * cosines[i] - old_b * sines[i];
            *b = old_a * sines[i] + old_b * cosines[i];
        }
}
