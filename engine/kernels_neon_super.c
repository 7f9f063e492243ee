/* Packed super-blocks times activations, for NEON.
 *
 * As in kernels_neon.c, but weights stay unsigned: a part's products are summed
 * in 16 bits, one column to a lane (8 * 31 * 127 = 31496, 4 * 63 * 127 =
 * 32004), then the four columns of a row in 32, where they meet the part's
 * scale. What the weights are too large by is a sum over the parts as well
 * (kernels_avx2_super.c). */
#include "engine/kernels_neon.h"

#include <arm_neon.h>

#include "engine/kernels_packed.h"

#define TILE 2  /* tokens at most */
#define QUADS 4 /* registers of a line, four rows each */

/* n_bits of every byte of a step, from the lowest on. */
PACKED_INLINE uint8x16_t load_fields(
    const unsigned char *lines, size_t step, size_t quad, size_t n_bits)
{
    const size_t n_fields = 8 / n_bits;
    const size_t shift = step % n_fields * n_bits;
    const uint8x16_t line =
        vld1q_u8(lines + step / n_fields * PACKED_LINE + 16 * quad);

    return vandq_u8(vshlq_u8(line, vdupq_n_s8((int8_t) - (int)shift)),
        vdupq_n_u8((uint8_t)((1u << n_bits) - 1)));
}

PACKED_INLINE int8x16_t load_quad(const unsigned char *block, size_t step,
    size_t quad, struct packed_form form)
{
    uint8x16_t w = load_fields(block, step, quad, form.n_bits);

    if (form.n_high_bits > 0)
        w = vorrq_u8(w, vshlq_n_u8(load_fields(block + packed_low_bytes(form),
                                       step, quad, form.n_high_bits),
                            4));
    return vreinterpretq_s8_u8(w);
}

/* Four rows' bytes. */
PACKED_INLINE int32x4_t load_rows(const unsigned char *bytes)
{
    return vmovl_s16(vget_low_s16(
        vmovl_s8(vreinterpret_s8_s32(vdup_n_s32(packed_four(bytes))))));
}

/* A part's products for four rows, times its scale. */
PACKED_INLINE void add_part(const unsigned char *block, const int8_t *quants,
    size_t n_tokens, size_t step, size_t quad, struct packed_form form,
    int32x4_t scales, int32x4_t dots[TILE][QUADS])
{
    for (size_t t = 0; t < n_tokens; t++) {
        int16x8_t low = vdupq_n_s16(0), high = vdupq_n_s16(0);

        for (size_t s = step; s < step + form.part / PACKED_STEP; s++) {
            const int8x16_t w = load_quad(block, s, quad, form);
            const int8x16_t q = vreinterpretq_s8_s32(vdupq_n_s32(
                packed_four(quants + (s * n_tokens + t) * PACKED_STEP)));

            low = vmlal_s8(low, vget_low_s8(w), vget_low_s8(q));
            high = vmlal_s8(high, vget_high_s8(w), vget_high_s8(q));
        }
        dots[t][quad] = vmlaq_s32(dots[t][quad],
            vpaddq_s32(vpaddlq_s16(low), vpaddlq_s16(high)), scales);
    }
}

/* The exact sums of a super-block whose weights are unsigned. */
PACKED_INLINE void dot_super(const unsigned char *scales,
    const unsigned char *lines, const int8_t *quants, size_t n_tokens,
    struct packed_form form, int32x4_t dots[TILE][QUADS])
{
    const size_t block_bytes =
        packed_group_bytes(form) / (QUANTS_LARGE / PACKED_BLOCK);

    for (size_t t = 0; t < n_tokens; t++)
        for (size_t i = 0; i < QUADS; i++)
            dots[t][i] = vdupq_n_s32(0);
    for (size_t b = 0; b < QUANTS_LARGE / PACKED_BLOCK; b++) {
        for (size_t at = 0; at < PACKED_BLOCK; at += form.part) {
            for (size_t i = 0; i < QUADS; i++)
                add_part(lines, quants, n_tokens, at / PACKED_STEP, i, form,
                    load_rows(scales + 4 * i), dots);
            scales += PACKED_ROWS;
        }
        lines += block_bytes;
        quants += PACKED_BLOCK * n_tokens;
    }
}

/* Minimums [part][row], or scales, times the sums of the activations. */
PACKED_INLINE void dot_sums(const unsigned char *mins, const int16_t *sums,
    size_t stride, size_t n_tokens, struct packed_form form,
    int32x4_t out[TILE][QUADS])
{
    for (size_t t = 0; t < n_tokens; t++)
        for (size_t i = 0; i < QUADS; i++)
            out[t][i] = vdupq_n_s32(0);
    for (size_t part = 0; part < QUANTS_LARGE / ACTIVATION_PART; part++)
        for (size_t i = 0; i < QUADS; i++) {
            const int32x4_t rows = load_rows(
                mins + part * ACTIVATION_PART / form.part * PACKED_ROWS +
                4 * i);

            for (size_t t = 0; t < n_tokens; t++)
                out[t][i] =
                    vmlaq_n_s32(out[t][i], rows, sums[t * stride + part]);
        }
}

/* sums -= or += sums of integers * the weights' scales * the activations'. */
PACKED_INLINE void add_scaled(const unsigned char *scales, float x_scale,
    bool subtracts, const int32x4_t integers[QUADS], float sums[PACKED_ROWS])
{
    for (size_t i = 0; i < QUADS; i++) {
        const float32x4_t w_scales =
            vcvt_f32_f16(vreinterpret_f16_u8(vld1_u8(scales + 8 * i)));
        const float32x4_t scale = vmulq_n_f32(w_scales, x_scale);
        const float32x4_t sum = vld1q_f32(sums + 4 * i);
        const float32x4_t dot = vcvtq_f32_s32(integers[i]);

        vst1q_f32(sums + 4 * i, subtracts ? vfmsq_f32(sum, dot, scale)
                                          : vfmaq_f32(sum, dot, scale));
    }
}

PACKED_INLINE void add_group(const struct packed_tile *tile, size_t g,
    size_t n_tokens, struct packed_form form, float (*sums)[PACKED_ROWS])
{
    const size_t n_parts = form.group / form.part;
    const size_t floats_bytes = PACKED_ROWS * sizeof(uint16_t);
    const unsigned char *scales =
        tile->scales +
        g * packed_scale_bytes(form.group, form.part, form.has_mins);
    const unsigned char *integers =
        scales + (form.has_mins ? 2 : 1) * floats_bytes;
    int32x4_t dots[TILE][QUADS], excess[TILE][QUADS];

    dot_super(integers, tile->lines + g * packed_group_bytes(form),
        packed_quants(tile, g, n_tokens, form), n_tokens, form, dots);
    dot_sums(form.has_mins ? integers + n_parts * PACKED_ROWS : integers,
        tile->x_parts + g * (form.group / ACTIVATION_PART),
        tile->n_cols / ACTIVATION_PART, n_tokens, form, excess);
    for (size_t t = 0; t < n_tokens; t++) {
        const float x_scale = tile->x_scales[t * tile->x_stride + g];

        for (size_t i = 0; i < QUADS && !form.has_mins; i++)
            dots[t][i] = vsubq_s32(dots[t][i], vshlq_n_s32(excess[t][i], 5));
        add_scaled(scales, x_scale, false, dots[t], sums[t]);
        if (form.has_mins)
            add_scaled(
                scales + floats_bytes, x_scale, true, excess[t], sums[t]);
    }
}

PACKED_INLINE void add_tile(const struct packed_tile *tile, size_t n_tokens,
    struct packed_form form, float (*sums)[PACKED_ROWS])
{
    for (size_t g = 0; g < tile->n_groups; g++)
        add_group(tile, g, n_tokens, form, sums);
}

void neon_matmul_packed_super(const struct packed *weight, uint32_t begin,
    uint32_t end, const struct activations *x, float *out)
{
    packed_multiply_super(weight, begin, end, x, out,
        (struct packed_ways){.add = add_tile, .max_tokens = TILE});
}
