/* The reference: each sum from the first element to the last, in the way that
 * is easiest to trust. Floating-point sums are F32, as in the fast sets. */
#include "engine/kernels.h"

#include <math.h>
#include <string.h>

#include "engine/quants.h"

static float load_f32(const void *data, size_t i)
{
    float value;

    memcpy(
        &value, (const unsigned char *)data + i * sizeof value, sizeof value);
    return value;
}

static float load_f16(const void *data, size_t i)
{
    return quants_f16_to_f32(
        quants_load_u16((const unsigned char *)data + 2 * i));
}

static float scale_of(const unsigned char bytes[2])
{
    return quants_f16_to_f32(quants_load_u16(bytes));
}

static float dot_f32(
    const void *row, const struct activations *x, uint32_t token)
{
    const float *values = x->values + (size_t)token * x->n_cols;
    float sum = 0;

    for (size_t i = 0; i < x->n_cols; i++)
        sum += load_f32(row, i) * values[i];
    return sum;
}

static float dot_f16(
    const void *row, const struct activations *x, uint32_t token)
{
    const float *values = x->values + (size_t)token * x->n_cols;
    float sum = 0;

    for (size_t i = 0; i < x->n_cols; i++)
        sum += load_f16(row, i) * values[i];
    return sum;
}

static float dot_q8_0(
    const void *row, const struct activations *x, uint32_t token)
{
    const size_t n_blocks = x->n_cols / QUANTS_SMALL;
    const struct block_q8_0 *block = row;
    const int8_t *quants = x->small.quants + (size_t)token * x->n_cols;
    const float *scales = x->small.scales + token * n_blocks;
    float sum = 0;

    for (size_t b = 0; b < n_blocks; b++, block++, quants += QUANTS_SMALL) {
        int32_t dot = 0;

        for (unsigned i = 0; i < QUANTS_SMALL; i++)
            dot += block->quants[i] * quants[i];
        sum += scale_of(block->scale) * scales[b] * (float)dot;
    }
    return sum;
}

static float dot_q4_0(
    const void *row, const struct activations *x, uint32_t token)
{
    const size_t n_blocks = x->n_cols / QUANTS_SMALL;
    const struct block_q4_0 *block = row;
    const int8_t *quants = x->small.quants + (size_t)token * x->n_cols;
    const float *scales = x->small.scales + token * n_blocks;
    float sum = 0;

    for (size_t b = 0; b < n_blocks; b++, block++, quants += QUANTS_SMALL) {
        int32_t dot = 0;

        for (unsigned i = 0; i < QUANTS_SMALL / 2; i++) {
            dot += ((block->quants[i] & 15) - 8) * quants[i];
            dot += ((block->quants[i] >> 4) - 8) * quants[i + QUANTS_SMALL / 2];
        }
        sum += scale_of(block->scale) * scales[b] * (float)dot;
    }
    return sum;
}

/* One block of trits, which are one too large. */
static float dot_trits(const uint8_t trits[QUANTS_LARGE], float scale,
    const struct activations *x, uint32_t token, size_t b)
{
    const int8_t *quants =
        x->large.quants + (size_t)token * x->n_cols + b * QUANTS_LARGE;
    const float *scales =
        x->large.scales + (size_t)token * (x->n_cols / QUANTS_LARGE);
    int32_t dot = 0;

    for (unsigned i = 0; i < QUANTS_LARGE; i++)
        dot += (trits[i] - 1) * quants[i];
    return scale * scales[b] * (float)dot;
}

static float dot_tq1_0(
    const void *row, const struct activations *x, uint32_t token)
{
    const struct block_tq1_0 *block = row;
    uint8_t trits[QUANTS_LARGE];
    float sum = 0;

    for (size_t b = 0; b < x->n_cols / QUANTS_LARGE; b++, block++) {
        quants_unpack_tq1_0(block, trits);
        sum += dot_trits(trits, scale_of(block->scale), x, token, b);
    }
    return sum;
}

static float dot_tq2_0(
    const void *row, const struct activations *x, uint32_t token)
{
    const struct block_tq2_0 *block = row;
    uint8_t trits[QUANTS_LARGE];
    float sum = 0;

    for (size_t b = 0; b < x->n_cols / QUANTS_LARGE; b++, block++) {
        quants_unpack_tq2_0(block, trits);
        sum += dot_trits(trits, scale_of(block->scale), x, token, b);
    }
    return sum;
}

typedef float (*dot_cb)(
    const void *row, const struct activations *x, uint32_t token);

static void matmul(const struct weight *weight, uint32_t begin, uint32_t end,
    const struct activations *x, float *out, dot_cb dot)
{
    const size_t row_bytes = weight->n_cols /
                             gguf_type_block_elements(weight->type) *
                             gguf_type_block_bytes(weight->type);

    for (uint32_t row = begin; row < end; row++) {
        const unsigned char *data =
            (const unsigned char *)weight->data + row * row_bytes;

        for (uint32_t token = 0; token < x->n_rows; token++)
            out[(size_t)token * weight->n_rows + row] =
                weight->scale * dot(data, x, token);
    }
}

#define MATMUL(type)                                                           \
    static void matmul_##type(const struct weight *weight, uint32_t begin,     \
        uint32_t end, const struct activations *x, float *out)                 \
    {                                                                          \
        matmul(weight, begin, end, x, out, dot_##type);                        \
    }
MATMUL(f32)
MATMUL(f16)
MATMUL(q8_0)
MATMUL(q4_0)
MATMUL(tq1_0)
MATMUL(tq2_0)

static void score_f32(float *scores, const float *query,
    const void *const *keys, size_t n_keys, size_t n, float scale)
{
    for (size_t k = 0; k < n_keys; k++) {
        float sum = 0;

        for (size_t i = 0; i < n; i++)
            sum += query[i] * load_f32(keys[k], i);
        scores[k] = sum * scale;
    }
}

static void score_f16(float *scores, const float *query,
    const void *const *keys, size_t n_keys, size_t n, float scale)
{
    for (size_t k = 0; k < n_keys; k++) {
        float sum = 0;

        for (size_t i = 0; i < n; i++)
            sum += query[i] * load_f16(keys[k], i);
        scores[k] = sum * scale;
    }
}

static void mix_f32(float *out, float keep, const float *weights,
    const void *const *values, size_t n_values, size_t n)
{
    for (size_t i = 0; i < n; i++) {
        float sum = keep * out[i];

        for (size_t v = 0; v < n_values; v++)
            sum += weights[v] * load_f32(values[v], i);
        out[i] = sum;
    }
}

static void mix_f16(float *out, float keep, const float *weights,
    const void *const *values, size_t n_values, size_t n)
{
    for (size_t i = 0; i < n; i++) {
        float sum = keep * out[i];

        for (size_t v = 0; v < n_values; v++)
            sum += weights[v] * load_f16(values[v], i);
        out[i] = sum;
    }
}

/* To the nearest, ties to even; what is not a number or does not fit becomes
 * something that does. */
static int8_t round_to_int8(float x)
{
    if (!(x > -127))
        return -127;
    return x < 127 ? (int8_t)lrintf(x) : 127;
}

static void quantize(const float *x, size_t n, size_t block, int8_t *quants,
    float *scales, int16_t *sums)
{
    for (size_t at = 0; at < n; at += block) {
        float largest = 0, inverse;

        for (size_t i = at; i < at + block; i++)
            largest = fmaxf(largest, fabsf(x[i]));
        inverse = largest == 0 ? 0 : 127 / largest;
        for (size_t i = at; i < at + block; i++)
            quants[i] = round_to_int8(x[i] * inverse);
        scales[at / block] = largest / 127;
    }
    if (sums == NULL)
        return;
    for (size_t i = 0; i < n; i += 16) {
        int sum = 0;

        for (size_t j = i; j < i + 16; j++)
            sum += quants[j];
        sums[i / 16] = (int16_t)sum;
    }
}

static void rms_norm(
    float *out, const float *x, const float *weight, size_t n, float epsilon)
{
    double sum = 0;
    float scale;

    for (size_t i = 0; i < n; i++)
        sum += (double)x[i] * x[i];
    scale = 1 / sqrtf((float)(sum / (double)n) + epsilon);
    for (size_t i = 0; i < n; i++)
        out[i] = x[i] * scale * weight[i];
}

static void add(float *x, const float *y, size_t n)
{
    for (size_t i = 0; i < n; i++)
        x[i] += y[i];
}

static void silu_mul(float *out, const float *gate, const float *up, size_t n)
{
    for (size_t i = 0; i < n; i++)
        out[i] = gate[i] / (1 + expf(-gate[i])) * up[i];
}

static float exp_sum(float *x, size_t n, float offset)
{
    float sum = 0;

    for (size_t i = 0; i < n; i++) {
        x[i] = expf(x[i] - offset);
        sum += x[i];
    }
    return sum;
}

static void to_f16(uint16_t *out, const float *x, size_t n)
{
    for (size_t i = 0; i < n; i++)
        out[i] = quants_f32_to_f16(x[i]);
}

const struct kernels kernels_scalar = {
    .name = "scalar",
    .matmul_f32 = matmul_f32,
    .matmul_f16 = matmul_f16,
    .matmul_q8_0 = matmul_q8_0,
    .matmul_q4_0 = matmul_q4_0,
    .matmul_tq1_0 = matmul_tq1_0,
    .matmul_tq2_0 = matmul_tq2_0,
    .score_f32 = score_f32,
    .score_f16 = score_f16,
    .mix_f32 = mix_f32,
    .mix_f16 = mix_f16,
    .quantize = quantize,
    .rms_norm = rms_norm,
    .add = add,
    .silu_mul = silu_mul,
    .exp_sum = exp_sum,
    .to_f16 = to_f16,
};
