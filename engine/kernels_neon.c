/* NEON, as every aarch64 has it: products and attention. What is done to a row
 * alone is the reference's, which compilers turn into NEON well enough.
 *
 * Packed weights: a line's step is four registers of 4 rows by 4 columns.
 * Signed bytes times signed bytes into 16 bits, one column to a lane, where the
 * products of two steps of 8 bits (2 * 128 * 127 = 32512) or of many of fewer
 * bits find room; then pairs of lanes into 32. */
#include "engine/kernels_neon.h"

#include <arm_neon.h>

#include "engine/kernels_packed.h"
#include "engine/kernels_scalar.h"

#define TILE 2  /* tokens at most */
#define QUADS 4 /* registers of a line, four rows each */

/* Rows 4 i to 4 i + 3 of a step, as signed numbers. */
PACKED_INLINE int8x16_t load_quad(
    const unsigned char *lines, size_t step, size_t i, struct packed_form form)
{
    const size_t shift = step % form.n_fields * form.n_bits;
    uint8x16_t w =
        vld1q_u8(lines + step / form.n_fields * PACKED_LINE + 16 * i);

    if (form.n_bits == 8)
        return vreinterpretq_s8_u8(w);
    w = vandq_u8(vshlq_u8(w, vdupq_n_s8((int8_t) - (int)shift)),
        vdupq_n_u8((uint8_t)((1u << form.n_bits) - 1)));
    return vsubq_s8(
        vreinterpretq_s8_u8(w), vdupq_n_s8((int8_t)packed_zero(form.n_bits)));
}

/* A row's four columns are spread over two lanes of two. */
struct dots {
    int32x4_t low[QUADS], high[QUADS];
};

/* n_steps of one block, from `step` on. */
PACKED_INLINE void add_steps(const unsigned char *lines, const int8_t *quants,
    size_t n_tokens, size_t step, size_t n_steps, struct packed_form form,
    struct dots dots[TILE])
{
    for (size_t i = 0; i < QUADS; i++)
        for (size_t t = 0; t < n_tokens; t++) {
            int16x8_t low = vdupq_n_s16(0), high = vdupq_n_s16(0);

            for (size_t s = step; s < step + n_steps; s++) {
                const int8x16_t w = load_quad(lines, s, i, form);
                const int8x16_t q = vreinterpretq_s8_s32(vdupq_n_s32(
                    packed_four(quants + (s * n_tokens + t) * PACKED_STEP)));

                low = vmlal_s8(low, vget_low_s8(w), vget_low_s8(q));
                high = vmlal_s8(high, vget_high_s8(w), vget_high_s8(q));
            }
            dots[t].low[i] = vpadalq_s16(dots[t].low[i], low);
            dots[t].high[i] = vpadalq_s16(dots[t].high[i], high);
        }
}

PACKED_INLINE void dot_group(const struct packed_tile *tile, size_t g,
    size_t n_tokens, struct packed_form form, struct dots dots[TILE])
{
    const unsigned char *lines = tile->lines + g * packed_group_bytes(form);
    const int8_t *quants = packed_quants(tile, g, n_tokens, form);
    const size_t n_steps = form.n_bits == 8 ? 2 : PACKED_STEPS;

    for (size_t t = 0; t < n_tokens; t++)
        for (size_t i = 0; i < QUADS; i++)
            dots[t].low[i] = dots[t].high[i] = vdupq_n_s32(0);
    for (size_t at = 0; at < form.group; at += PACKED_BLOCK) {
        for (size_t step = 0; step < PACKED_STEPS; step += n_steps)
            add_steps(lines, quants, n_tokens, step, n_steps, form, dots);
        lines += PACKED_STEPS / form.n_fields * PACKED_LINE;
        quants += PACKED_BLOCK * n_tokens;
    }
}

PACKED_INLINE void add_tile(const struct packed_tile *tile, size_t n_tokens,
    struct packed_form form, float (*sums)[PACKED_ROWS])
{
    for (size_t g = 0; g < tile->n_groups; g++) {
        struct dots dots[TILE];

        dot_group(tile, g, n_tokens, form, dots);
        for (size_t i = 0; i < QUADS; i++) {
            const float32x4_t w_scales = vcvt_f32_f16(vreinterpret_f16_u8(
                vld1_u8(tile->scales +
                        (g * PACKED_ROWS + 4 * i) * sizeof(uint16_t))));

            for (size_t t = 0; t < n_tokens; t++) {
                const int32x4_t dot =
                    vpaddq_s32(dots[t].low[i], dots[t].high[i]);
                const float32x4_t scales = vmulq_n_f32(
                    w_scales, tile->x_scales[t * tile->x_stride + g]);

                vst1q_f32(sums[t] + 4 * i, vfmaq_f32(vld1q_f32(sums[t] + 4 * i),
                                               vcvtq_f32_s32(dot), scales));
            }
        }
    }
}

static void matmul_packed(const struct packed *weight, uint32_t begin,
    uint32_t end, const struct activations *x, float *out)
{
    packed_multiply(weight, begin, end, x, out,
        (struct packed_ways){.add = add_tile, .max_tokens = TILE});
}

/* Four numbers from data[i] on, of the n that there are; zeros behind. */
typedef float32x4_t (*load_cb)(const void *data, size_t i, size_t n);

PACKED_INLINE float32x4_t load_f32(const void *data, size_t i, size_t n)
{
    const float *at = (const float *)data + i;
    float rest[4] = {0};

    if (n - i >= 4)
        return vld1q_f32(at);
    memcpy(rest, at, (n - i) * sizeof *at);
    return vld1q_f32(rest);
}

PACKED_INLINE float32x4_t load_f16(const void *data, size_t i, size_t n)
{
    const unsigned char *at = (const unsigned char *)data + 2 * i;
    unsigned char rest[8] = {0};

    if (n - i >= 4)
        return vcvt_f32_f16(vreinterpret_f16_u8(vld1_u8(at)));
    memcpy(rest, at, 2 * (n - i));
    return vcvt_f32_f16(vreinterpret_f16_u8(vld1_u8(rest)));
}

PACKED_INLINE float32x4_t load_bf16(const void *data, size_t i, size_t n)
{
    const unsigned char *at = (const unsigned char *)data + 2 * i;
    unsigned char rest[8] = {0};

    if (n - i < 4) {
        memcpy(rest, at, 2 * (n - i));
        at = rest;
    }
    return vreinterpretq_f32_u32(
        vshll_n_u16(vreinterpret_u16_u8(vld1_u8(at)), 16));
}

/* n is a whole number of blocks. */
PACKED_INLINE float32x4_t load_q8_0(const void *data, size_t i, size_t n)
{
    const struct block_q8_0 *block =
        (const struct block_q8_0 *)data + i / QUANTS_SMALL;
    const float scale = quants_f16_to_f32(quants_load_u16(block->scale));
    float four[4];

    (void)n;
    for (size_t j = 0; j < 4; j++)
        four[j] = (float)block->quants[i % QUANTS_SMALL + j];
    return vmulq_n_f32(vld1q_f32(four), scale);
}

/* Steps of b lie b_step numbers apart. */
PACKED_INLINE float dot(
    const void *a, const float *b, size_t b_step, size_t n, load_cb load)
{
    float32x4_t even = vdupq_n_f32(0), odd = vdupq_n_f32(0);

    for (size_t i = 0; i < n; i += ACTIVATION_LANES, b += b_step) {
        even = vfmaq_f32(even, load(a, i, n), load_f32(b, 0, n - i));
        if (i + 4 < n)
            odd = vfmaq_f32(odd, load(a, i + 4, n), load_f32(b, 4, n - i));
    }
    return vaddvq_f32(vaddq_f32(even, odd));
}

PACKED_INLINE void matmul(const struct weight *weight, size_t begin, size_t end,
    const struct activations *x, float *out, load_cb load)
{
    const size_t row_bytes =
        weight->n_cols * gguf_type_block_bytes(weight->type);

    for (size_t row = begin; row < end; row++) {
        const unsigned char *data =
            (const unsigned char *)weight->data + row * row_bytes;

        for (size_t t = 0; t < x->n_rows; t++) {
            const struct activation_floats floats = activation_floats(x, t);

            out[t * weight->n_rows + row] =
                weight->scale *
                dot(data, floats.values, floats.step, x->n_cols, load);
        }
    }
}

static void matmul_f32(const struct weight *weight, uint32_t begin,
    uint32_t end, const struct activations *x, float *out)
{
    matmul(weight, begin, end, x, out, load_f32);
}

static void matmul_f16(const struct weight *weight, uint32_t begin,
    uint32_t end, const struct activations *x, float *out)
{
    matmul(weight, begin, end, x, out, load_f16);
}

static void matmul_bf16(const struct weight *weight, uint32_t begin,
    uint32_t end, const struct activations *x, float *out)
{
    matmul(weight, begin, end, x, out, load_bf16);
}

PACKED_INLINE void score(float *scores, const float *queries,
    const struct kernel_run *keys, float scale, load_cb load)
{
    for (size_t q = 0; q < keys->n_queries; q++, queries += keys->n)
        for (size_t k = 0; k < keys->n_rows; k++)
            scores[q * keys->stride + k] =
                dot(keys->rows[k], queries, ACTIVATION_LANES, keys->n, load) *
                scale;
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

PACKED_INLINE void mix_query(float *out, float keep, const float *weights,
    const struct kernel_run *values, load_cb load)
{
    const size_t n = values->n;

    for (size_t i = 0; i < n; i += 4) {
        float32x4_t sum = vmulq_n_f32(load_f32(out, i, n), keep);
        float four[4];

        for (size_t v = 0; v < values->n_rows; v++)
            sum = vfmaq_n_f32(sum, load(values->rows[v], i, n), weights[v]);
        vst1q_f32(four, sum);
        memcpy(out + i, four, (n - i < 4 ? n - i : 4) * sizeof *out);
    }
}

PACKED_INLINE void mix(float *out, const float *keep, const float *weights,
    const struct kernel_run *values, load_cb load)
{
    for (size_t q = 0; q < values->n_queries; q++)
        mix_query(out + q * values->n, keep[q], weights + q * values->stride,
            values, load);
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

const struct kernels kernels_neon = {
    .name = "neon",
    .n_abreast = TILE,
    .matmul_f32 = matmul_f32,
    .matmul_f16 = matmul_f16,
    .matmul_bf16 = matmul_bf16,
    .matmul_packed = matmul_packed,
    .matmul_packed_super = neon_matmul_packed_super,
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
