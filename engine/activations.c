#include "engine/activations.h"

#include <string.h>

#include "engine/kernels.h"
#include "engine/quants.h"

static void lay_floats(const struct activations *x, size_t token)
{
    const struct activation_floats floats = activation_floats(x, token);
    const float *values = x->values + token * x->n_cols;
    float *to = floats.values;

    for (size_t i = 0; i < x->n_cols; i += ACTIVATION_LANES) {
        const size_t left = x->n_cols - i;
        const size_t n = left < ACTIVATION_LANES ? left : ACTIVATION_LANES;
        float step[ACTIVATION_LANES] = {0};

        memcpy(step, values + i, n * sizeof *step);
        memcpy(to, step, sizeof step);
        to += floats.step;
    }
}

/* Columns `at` to at + n of a token. */
static void lay_quants(const struct activations *x,
    const struct activation_quants *to, size_t token, size_t at,
    const int8_t *quants, size_t n)
{
    const struct activation_tile tile = activation_tile(x, token);
    int8_t *step = to->quants + tile.first * x->n_cols + at * tile.size +
                   (token - tile.first) * ACTIVATION_STEP;

    for (size_t i = 0; i < n; i += ACTIVATION_STEP) {
        memcpy(step, quants + i, ACTIVATION_STEP);
        step += tile.size * ACTIVATION_STEP;
    }
}

static void round_values(const struct activations *x,
    const struct kernels *kernels, const struct activation_quants *to,
    size_t token, size_t block, bool sums_parts)
{
    const float *values = x->values + token * x->n_cols;
    const size_t n_blocks = x->n_cols / block;
    int8_t quants[QUANTS_LARGE];

    for (size_t at = 0, n; at < x->n_cols; at += n) {
        const size_t left = x->n_cols - at, b = token * n_blocks + at / block;

        n = left < QUANTS_LARGE ? left : QUANTS_LARGE;
        kernels->quantize(
            values + at, n, block, quants, to->scales + b, to->sums + b);
        lay_quants(x, to, token, at, quants, n);
        if (sums_parts)
            kernels->sum_parts(quants, n,
                x->part_sums + (token * x->n_cols + at) / ACTIVATION_PART);
    }
}

void activations_prepare(const struct activations *x,
    const struct kernels *kernels, size_t token, unsigned formats)
{
    if (formats & ACTIVATION_F32)
        lay_floats(x, token);
    if (formats & ACTIVATION_SMALL)
        round_values(x, kernels, &x->small, token, QUANTS_SMALL, false);
    if (formats & ACTIVATION_LARGE)
        round_values(x, kernels, &x->large, token, QUANTS_LARGE,
            formats & ACTIVATION_PARTS);
}
