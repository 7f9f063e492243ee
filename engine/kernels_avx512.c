/* AVX-512 with VNNI: products with packed weights. All else is bound by memory
 * or small beside them, and is AVX2's.
 *
 * A line's step is one register of 16 rows by 4 columns. It meets the four
 * activations of a token in one instruction, unsigned times signed, whose sums
 * of 32 bits are exact whatever comes; what the weights are too large by (128,
 * once a signed byte is made an unsigned one) is taken off with the sum of the
 * activations. */
#include "engine/kernels_avx512.h"

#include "engine/kernels_avx2.h"
#include "engine/kernels_packed.h"

#define TILE 8 /* tokens */

AVX2_INLINE __m512i load_step(
    const unsigned char *lines, size_t step, struct packed_form form)
{
    const unsigned shift = (unsigned)(step % form.n_fields * form.n_bits);
    const __m512i mask = _mm512_set1_epi8((char)((1 << form.n_bits) - 1));
    const __m512i line = _mm512_load_si512(
        (const void *)(lines + step / form.n_fields * PACKED_LINE));

    if (form.n_bits == 8)
        return _mm512_xor_si512(line, _mm512_set1_epi8((char)0x80));
    return _mm512_and_si512(_mm512_srli_epi16(line, shift), mask);
}

/* The exact sums of group g. */
AVX2_INLINE void dot_group(const struct packed_tile *tile, size_t g,
    size_t n_tokens, struct packed_form form, __m512i dots[TILE])
{
    const unsigned char *lines = tile->lines + g * packed_group_bytes(form);
    const int8_t *quants = packed_quants(tile, g, n_tokens, form);
    const unsigned shift = form.n_bits == 8 ? 7 : form.n_bits == 4 ? 3 : 0;

    for (size_t t = 0; t < n_tokens; t++)
        dots[t] = _mm512_setzero_si512();
    for (size_t at = 0; at < form.group; at += PACKED_BLOCK) {
        for (size_t step = 0; step < PACKED_STEPS; step++) {
            const __m512i w = load_step(lines, step, form);

            for (size_t t = 0; t < n_tokens; t++)
                dots[t] = _mm512_dpbusd_epi32(dots[t], w,
                    _mm512_set1_epi32(packed_four(
                        quants + (step * n_tokens + t) * PACKED_STEP)));
        }
        lines += PACKED_STEPS / form.n_fields * PACKED_LINE;
        quants += PACKED_BLOCK * n_tokens;
    }
    for (size_t t = 0; t < n_tokens; t++)
        dots[t] = _mm512_sub_epi32(dots[t],
            _mm512_slli_epi32(
                _mm512_set1_epi32(tile->x_sums[t * tile->x_stride + g]),
                shift));
}

AVX2_INLINE void add_tile(const struct packed_tile *tile, size_t n_tokens,
    struct packed_form form, float (*sums)[PACKED_ROWS])
{
    __m512 totals[TILE];

    for (size_t t = 0; t < n_tokens; t++)
        totals[t] = _mm512_load_ps(sums[t]);
    for (size_t g = 0; g < tile->n_groups; g++) {
        const __m512 w_scales = _mm512_cvtph_ps(_mm256_load_si256(
            (const void *)(tile->scales + g * PACKED_ROWS * sizeof(uint16_t))));
        __m512i dots[TILE];

        dot_group(tile, g, n_tokens, form, dots);
        for (size_t t = 0; t < n_tokens; t++)
            totals[t] = _mm512_fmadd_ps(_mm512_cvtepi32_ps(dots[t]),
                _mm512_mul_ps(w_scales,
                    _mm512_set1_ps(tile->x_scales[t * tile->x_stride + g])),
                totals[t]);
    }
    for (size_t t = 0; t < n_tokens; t++)
        _mm512_store_ps(sums[t], totals[t]);
}

static void matmul_packed(const struct packed *weight, uint32_t begin,
    uint32_t end, const struct activations *x, float *out)
{
    packed_multiply(weight, begin, end, x, out,
        (struct packed_ways){.add = add_tile, .max_tokens = TILE});
}

const struct kernels kernels_avx512 = {
    .name = "avx512",
    .n_abreast = TILE,
    .matmul_f32 = avx2_matmul_f32,
    .matmul_f16 = avx2_matmul_f16,
    .matmul_bf16 = avx2_matmul_bf16,
    .matmul_packed = matmul_packed,
    .matmul_packed_super = avx512_matmul_packed_super,
    .score_f32 = avx2_score_f32,
    .score_f16 = avx2_score_f16,
    .score_q8_0 = avx2_score_q8_0,
    .mix_f32 = avx2_mix_f32,
    .mix_f16 = avx2_mix_f16,
    .mix_q8_0 = avx2_mix_q8_0,
    .quantize = avx2_quantize,
    .sum_parts = avx2_sum_parts,
    .rms_norm = avx2_rms_norm,
    .add = avx2_add,
    .silu_mul = avx2_silu_mul,
    .exp_sum = avx2_exp_sum,
    .to_f16 = avx2_to_f16,
};
