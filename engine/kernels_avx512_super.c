/* Packed super-blocks times activations, for AVX-512 with VNNI.
 *
 * A line's step is one register of 16 rows by 4 columns. A part's products are
 * summed in 32 bits, exactly, and meet the part's scale there; what the weights
 * are too large by is a sum over the parts as well (kernels_avx2_super.c). */
#include "engine/kernels_avx512.h"

#include "engine/kernels_avx2.h"
#include "engine/kernels_packed.h"

#define TILE 8 /* tokens at most */

/* The fifth bits and higher of a step, where they belong in a byte. */
AVX2_INLINE __m512i load_high(
    const unsigned char *lines, size_t step, struct packed_form form)
{
    const size_t n_fields = 8 / form.n_high_bits;
    const unsigned at = (unsigned)(step % n_fields * form.n_high_bits);
    const __m512i mask =
        _mm512_set1_epi8((char)(((1 << form.n_high_bits) - 1) << 4));
    const __m512i line = _mm512_load_si512(
        (const void *)(lines + step / n_fields * PACKED_LINE));

    return _mm512_and_si512(at < 4 ? _mm512_slli_epi16(line, 4 - at)
                                   : _mm512_srli_epi16(line, at - 4),
        mask);
}

AVX2_INLINE __m512i load_step(
    const unsigned char *block, size_t step, struct packed_form form)
{
    const unsigned shift = (unsigned)(step % form.n_fields * form.n_bits);
    const __m512i line = _mm512_load_si512(
        (const void *)(block + step / form.n_fields * PACKED_LINE));
    const __m512i low =
        _mm512_and_si512(_mm512_srli_epi16(line, shift), _mm512_set1_epi8(15));

    if (form.n_high_bits == 0)
        return low;
    return _mm512_or_si512(
        low, load_high(block + packed_low_bytes(form), step, form));
}

/* A part's products with all its tokens, times its scale. */
AVX2_INLINE void add_part(const unsigned char *block, const int8_t *quants,
    size_t n_tokens, size_t step, struct packed_form form, __m512i scales,
    __m512i dots[TILE])
{
    __m512i sums[TILE];

    for (size_t t = 0; t < n_tokens; t++)
        sums[t] = _mm512_setzero_si512();
    for (size_t s = step; s < step + form.part / PACKED_STEP; s++) {
        const __m512i w = load_step(block, s, form);

        for (size_t t = 0; t < n_tokens; t++)
            sums[t] = _mm512_dpbusd_epi32(sums[t], w,
                _mm512_set1_epi32(
                    packed_four(quants + (s * n_tokens + t) * PACKED_STEP)));
    }
    for (size_t t = 0; t < n_tokens; t++)
        dots[t] =
            _mm512_add_epi32(dots[t], _mm512_mullo_epi32(sums[t], scales));
}

/* The exact sums of a super-block whose weights are unsigned. */
AVX2_INLINE void dot_super(const unsigned char *scales,
    const unsigned char *lines, const int8_t *quants, size_t n_tokens,
    struct packed_form form, __m512i dots[TILE])
{
    const size_t block_bytes =
        packed_group_bytes(form) / (QUANTS_LARGE / PACKED_BLOCK);

    for (size_t t = 0; t < n_tokens; t++)
        dots[t] = _mm512_setzero_si512();
    for (size_t b = 0; b < QUANTS_LARGE / PACKED_BLOCK; b++) {
        for (size_t at = 0; at < PACKED_BLOCK; at += form.part) {
            add_part(lines, quants, n_tokens, at / PACKED_STEP, form,
                _mm512_cvtepi8_epi32(_mm_load_si128((const void *)scales)),
                dots);
            scales += PACKED_ROWS;
        }
        lines += block_bytes;
        quants += PACKED_BLOCK * n_tokens;
    }
}

/* Bytes [row] of two parts (which may be the same) as pairs of 16 bits. */
AVX2_INLINE __m512i load_pairs(
    const unsigned char *first, const unsigned char *second)
{
    const __m128i a = _mm_load_si128((const void *)first);
    const __m128i b = _mm_load_si128((const void *)second);

    return _mm512_cvtepi8_epi16(
        _mm256_set_m128i(_mm_unpackhi_epi8(a, b), _mm_unpacklo_epi8(a, b)));
}

/* Minimums [part][row], or scales, times the sums of the activations. */
AVX2_INLINE void dot_sums(const unsigned char *mins, const int16_t *sums,
    size_t stride, size_t n_tokens, struct packed_form form, __m512i out[TILE])
{
    for (size_t t = 0; t < n_tokens; t++)
        out[t] = _mm512_setzero_si512();
    for (size_t i = 0; i < QUANTS_LARGE / ACTIVATION_PART; i += 2) {
        const size_t first = i * ACTIVATION_PART / form.part;
        const size_t second = (i + 1) * ACTIVATION_PART / form.part;
        const __m512i pairs =
            load_pairs(mins + first * PACKED_ROWS, mins + second * PACKED_ROWS);

        for (size_t t = 0; t < n_tokens; t++)
            out[t] = _mm512_dpwssd_epi32(out[t], pairs,
                _mm512_set1_epi32(packed_four(sums + t * stride + i)));
    }
}

AVX2_INLINE __m512 load_halves(const unsigned char *scales)
{
    return _mm512_cvtph_ps(_mm256_load_si256((const void *)scales));
}

AVX2_INLINE void add_group(const struct packed_tile *tile, size_t g,
    size_t n_tokens, struct packed_form form, __m512 totals[TILE])
{
    const size_t n_parts = form.group / form.part;
    const size_t floats_bytes = PACKED_ROWS * sizeof(uint16_t);
    const unsigned char *scales =
        tile->scales +
        g * packed_scale_bytes(form.group, form.part, form.has_mins);
    const unsigned char *integers =
        scales + (form.has_mins ? 2 : 1) * floats_bytes;
    const __m512 w_scales = load_halves(scales);
    __m512i dots[TILE], excess[TILE];

    dot_super(integers, tile->lines + g * packed_group_bytes(form),
        packed_quants(tile, g, n_tokens, form), n_tokens, form, dots);
    dot_sums(form.has_mins ? integers + n_parts * PACKED_ROWS : integers,
        tile->x_parts + g * (form.group / ACTIVATION_PART),
        tile->n_cols / ACTIVATION_PART, n_tokens, form, excess);
    for (size_t t = 0; t < n_tokens; t++) {
        const __m512 x_scale =
            _mm512_set1_ps(tile->x_scales[t * tile->x_stride + g]);

        if (!form.has_mins)
            dots[t] =
                _mm512_sub_epi32(dots[t], _mm512_slli_epi32(excess[t], 5));
        totals[t] = _mm512_fmadd_ps(_mm512_cvtepi32_ps(dots[t]),
            _mm512_mul_ps(w_scales, x_scale), totals[t]);
        if (form.has_mins)
            totals[t] = _mm512_fnmadd_ps(_mm512_cvtepi32_ps(excess[t]),
                _mm512_mul_ps(load_halves(scales + floats_bytes), x_scale),
                totals[t]);
    }
}

AVX2_INLINE void add_tile(const struct packed_tile *tile, size_t n_tokens,
    struct packed_form form, float (*sums)[PACKED_ROWS])
{
    __m512 totals[TILE];

    for (size_t t = 0; t < n_tokens; t++)
        totals[t] = _mm512_load_ps(sums[t]);
    for (size_t g = 0; g < tile->n_groups; g++)
        add_group(tile, g, n_tokens, form, totals);
    for (size_t t = 0; t < n_tokens; t++)
        _mm512_store_ps(sums[t], totals[t]);
}

void avx512_matmul_packed_super(const struct packed *weight, uint32_t begin,
    uint32_t end, const struct activations *x, float *out)
{
    packed_multiply_super(weight, begin, end, x, out,
        (struct packed_ways){.add = add_tile, .max_tokens = TILE});
}
