/* The reference: each sum from the first element to the last, in the way that
 * is easiest to trust. Floating-point sums are F32, as in the fast sets. */
#include "engine/kernels_scalar.h"

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

static float load_bf16(const void *data, size_t i)
{
    return quants_bf16_to_f32(
        quants_load_u16((const unsigned char *)data + 2 * i));
}

static float load_q8_0(const void *data, size_t i)
{
    const struct block_q8_0 *block =
        (const struct block_q8_0 *)data + i / QUANTS_SMALL;

    return quants_f16_to_f32(quants_load_u16(block->scale)) *
           (float)block->quants[i % QUANTS_SMALL];
}

/* This set has one token abreast. */
static const float *floats_of(const struct activations *x, size_t token)
{
    return activation_floats(x, token).values;
}

static float dot_f32(
    const void *row, const struct activations *x, uint32_t token)
{
    const float *values = floats_of(x, token);
    float sum = 0;

    for (size_t i = 0; i < x->n_cols; i++)
        sum += load_f32(row, i) * values[i];
    return sum;
}

static float dot_f16(
    const void *row, const struct activations *x, uint32_t token)
{
    const float *values = floats_of(x, token);
    float sum = 0;

    for (size_t i = 0; i < x->n_cols; i++)
        sum += load_f16(row, i) * values[i];
    return sum;
}

static float dot_bf16(
    const void *row, const struct activations *x, uint32_t token)
{
    const float *values = floats_of(x, token);
    float sum = 0;

    for (size_t i = 0; i < x->n_cols; i++)
        sum += load_bf16(row, i) * values[i];
    return sum;
}

typedef float (*dot_cb)(
    const void *row, const struct activations *x, uint32_t token);

static void matmul(const struct weight *weight, uint32_t begin, uint32_t end,
    const struct activations *x, float *out, dot_cb dot)
{
    const size_t row_bytes =
        weight->n_cols * gguf_type_block_bytes(weight->type);

    for (uint32_t row = begin; row < end; row++) {
        const unsigned char *data =
            (const unsigned char *)weight->data + row * row_bytes;

        for (uint32_t token = 0; token < x->n_rows; token++)
            out[(size_t)token * weight->n_rows + row] =
                weight->scale * dot(data, x, token);
    }
}

static void matmul_f32(const struct weight *weight, uint32_t begin,
    uint32_t end, const struct activations *x, float *out)
{
    matmul(weight, begin, end, x, out, dot_f32);
}

static void matmul_f16(const struct weight *weight, uint32_t begin,
    uint32_t end, const struct activations *x, float *out)
{
    matmul(weight, begin, end, x, out, dot_f16);
}

static void matmul_bf16(const struct weight *weight, uint32_t begin,
    uint32_t end, const struct activations *x, float *out)
{
    matmul(weight, begin, end, x, out, dot_bf16);
}

/* A block of a row times that block of all the tokens, added to sums, which lie
 * n_rows apart. */
static void add_block(const int8_t *integers, float scale, size_t block,
    size_t b, const struct activations *x, float *sums, size_t n_rows)
{
    const struct activation_quants *in =
        block == QUANTS_SMALL ? &x->small : &x->large;
    const size_t n_blocks = x->n_cols / block;

    for (uint32_t token = 0; token < x->n_rows; token++, sums += n_rows) {
        const int8_t *quants =
            in->quants + (size_t)token * x->n_cols + b * block;
        int32_t dot = 0;

        for (size_t i = 0; i < block; i++)
            dot += integers[i] * quants[i];
        *sums =
            fmaf((float)dot, scale * in->scales[token * n_blocks + b], *sums);
    }
}

static void matmul_integers(const struct weight *weight, uint32_t begin,
    uint32_t end, const struct activations *x, float *out)
{
    const size_t block = gguf_type_block_elements(weight->type);
    const size_t block_bytes = gguf_type_block_bytes(weight->type);
    const size_t n_blocks = weight->n_cols / block, n_rows = weight->n_rows;
    int8_t integers[QUANTS_LARGE];

    for (size_t row = begin; row < end; row++) {
        const unsigned char *data =
            (const unsigned char *)weight->data + row * n_blocks * block_bytes;

        for (uint32_t token = 0; token < x->n_rows; token++)
            out[token * n_rows + row] = 0;
        for (size_t b = 0; b < n_blocks; b++, data += block_bytes) {
            const float scale = quants_f16_to_f32(
                quants_load_u16(quants_integers(weight->type, data, integers)));

            add_block(integers, scale, block, b, x, out + row, n_rows);
        }
        for (uint32_t token = 0; token < x->n_rows; token++)
            out[token * n_rows + row] *= weight->scale;
    }
}

/* Element i of a row. */
typedef float (*load_cb)(const void *row, size_t i);

static void score(float *scores, const float *queries,
    const struct kernel_run *keys, float scale, load_cb load)
{
    for (size_t q = 0; q < keys->n_queries; q++, queries += keys->n)
        for (size_t k = 0; k < keys->n_rows; k++) {
            float sum = 0;

            for (size_t i = 0; i < keys->n; i++)
                sum += queries[i] * load(keys->rows[k], i);
            scores[q * keys->stride + k] = sum * scale;
        }
}

static void score_f32(float *scores, const float *queries,
    const struct kernel_run *keys, float scale)
{
    score(scores, queries, keys, scale, load_f32);
}

static void score_f16(float *scores, const float *queries,
    const struct kernel_run *keys, float scale)
{
    score(scores, queries, keys, scale, load_f16);
}

static void score_q8_0(float *scores, const float *queries,
    const struct kernel_run *keys, float scale)
{
    score(scores, queries, keys, scale, load_q8_0);
}

static void mix(float *out, const float *keep, const float *weights,
    const struct kernel_run *values, load_cb load)
{
    for (size_t q = 0; q < values->n_queries; q++, out += values->n)
        for (size_t i = 0; i < values->n; i++) {
            float sum = keep[q] * out[i];

            for (size_t v = 0; v < values->n_rows; v++)
                sum +=
                    weights[q * values->stride + v] * load(values->rows[v], i);
            out[i] = sum;
        }
}

static void mix_f32(float *out, const float *keep, const float *weights,
    const struct kernel_run *values)
{
    mix(out, keep, weights, values, load_f32);
}

static void mix_f16(float *out, const float *keep, const float *weights,
    const struct kernel_run *values)
{
    mix(out, keep, weights, values, load_f16);
}

static void mix_q8_0(float *out, const float *keep, const float *weights,
    const struct kernel_run *values)
{
    mix(out, keep, weights, values, load_q8_0);
}

/* To the nearest, ties to even; what is not a number or does not fit becomes
 * something that does. */
static int8_t round_to_int8(float x)
{
    if (!(x > -127))
        return -127;
    return x < 127 ? (int8_t)lrintf(x) : 127;
}

void scalar_quantize(const float *x, size_t n, size_t block, int8_t *quants,
    float *scales, int32_t *sums)
{
    for (size_t b = 0; b < n / block; b++, x += block, quants += block) {
        float largest = 0, inverse;

        for (size_t i = 0; i < block; i++)
            largest = fmaxf(largest, fabsf(x[i]));
        inverse = largest == 0 ? 0 : 127 / largest;
        scales[b] = largest / 127;
        sums[b] = 0;
        for (size_t i = 0; i < block; i++) {
            quants[i] = round_to_int8(x[i] * inverse);
            sums[b] += quants[i];
        }
    }
}

void scalar_rms_norm(
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

void scalar_add(float *x, const float *y, size_t n)
{
    for (size_t i = 0; i < n; i++)
        x[i] += y[i];
}

void scalar_silu_mul(float *out, const float *gate, const float *up, size_t n)
{
    for (size_t i = 0; i < n; i++)
        out[i] = gate[i] / (1 + expf(-gate[i])) * up[i];
}

float scalar_exp_sum(float *x, size_t n, float offset)
{
    float sum = 0;

    for (size_t i = 0; i < n; i++) {
        x[i] = expf(x[i] - offset);
        sum += x[i];
    }
    return sum;
}

void scalar_to_f16(uint16_t *out, const float *x, size_t n)
{
    for (size_t i = 0; i < n; i++)
        out[i] = quants_f32_to_f16(x[i]);
}

const struct kernels kernels_scalar = {
    .name = "scalar",
    .n_abreast = 1,
    .matmul_f32 = matmul_f32,
    .matmul_f16 = matmul_f16,
    .matmul_bf16 = matmul_bf16,
    .matmul_integers = matmul_integers,
    .matmul_super = scalar_matmul_super,
    .score_f32 = score_f32,
    .score_f16 = score_f16,
    .score_q8_0 = score_q8_0,
    .mix_f32 = mix_f32,
    .mix_f16 = mix_f16,
    .mix_q8_0 = mix_q8_0,
    .quantize = scalar_quantize,
    .sum_parts = scalar_sum_parts,
    .rms_norm = scalar_rms_norm,
    .add = scalar_add,
    .silu_mul = scalar_silu_mul,
    .exp_sum = scalar_exp_sum,
    .to_f16 = scalar_to_f16,
};
