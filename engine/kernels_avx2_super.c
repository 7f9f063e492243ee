/* Packed super-blocks times activations, for AVX2.
 *
 * As in kernels_avx2_packed.c, a line's step meets the four activations of a
 * token in all lanes. Pairs of products are added in 16 bits as long as they
 * find room: 8 steps of 4 bits (2 * 15 * 127 * 8 = 30480), 4 of 5 bits (31496),
 * 2 of 6 (32004). What brings them into 32 bits multiplies them by the scale of
 * their part, so the scales cost nothing, and a block's sum stays an integer;
 * with all 256 columns it is at most 256 * 63 * 127 * 128.
 *
 * What the weights are too large by is a sum over the parts as well, of a
 * minimum (of 6 bits: 32 times the scale) times the activations' sum. */
#include "engine/kernels_avx2.h"
#include "engine/kernels_packed.h"

#define TILE AVX2_ABREAST
#define HALVES 2 /* registers of a line */

/* The fifth bits and higher of a step, where they belong in a byte. */
AVX2_INLINE __m256i load_high(const unsigned char *lines, size_t step,
    struct packed_form form, size_t half)
{
    const size_t n_fields = 8 / form.n_high_bits;
    const int at = (int)(step % n_fields * form.n_high_bits);
    const __m256i mask =
        _mm256_set1_epi8((char)(((1 << form.n_high_bits) - 1) << 4));
    const __m256i line = _mm256_load_si256(
        (const void *)(lines + step / n_fields * PACKED_LINE + 32 * half));

    return _mm256_and_si256(at < 4 ? _mm256_slli_epi16(line, 4 - at)
                                   : _mm256_srli_epi16(line, at - 4),
        mask);
}

AVX2_INLINE __m256i load_half(const unsigned char *block, size_t step,
    struct packed_form form, size_t half)
{
    const int shift = (int)(step % form.n_fields * form.n_bits);
    const __m256i line = _mm256_load_si256(
        (const void *)(block + step / form.n_fields * PACKED_LINE + 32 * half));
    const __m256i low =
        _mm256_and_si256(_mm256_srli_epi16(line, shift), _mm256_set1_epi8(15));

    if (form.n_high_bits == 0)
        return low;
    return _mm256_or_si256(
        low, load_high(block + packed_low_bytes(form), step, form, half));
}

/* Bytes [row] of two parts (which may be the same) as signed pairs of 16 bits,
 * eight rows to a register. */
AVX2_INLINE void load_pairs(const unsigned char *first,
    const unsigned char *second, __m256i out[HALVES])
{
    const __m128i a = _mm_load_si128((const void *)first);
    const __m128i b = _mm_load_si128((const void *)second);

    out[0] = _mm256_cvtepi8_epi16(_mm_unpacklo_epi8(a, b));
    out[1] = _mm256_cvtepi8_epi16(_mm_unpackhi_epi8(a, b));
}

/* As many steps as 16 bits hold, times their part's scale, which waits until
 * registers are free. */
AVX2_INLINE void add_steps(const unsigned char *block, const int8_t *quants,
    size_t n_tokens, size_t step, size_t n_steps, struct packed_form form,
    const unsigned char *part_scales, __m256i dots[TILE][HALVES])
{
    __m256i pairs[TILE][HALVES], scales[HALVES];

    for (size_t t = 0; t < n_tokens; t++)
        for (size_t half = 0; half < HALVES; half++)
            pairs[t][half] = _mm256_setzero_si256();
    for (size_t s = step; s < step + n_steps; s++) {
        __m256i w[HALVES];

        for (size_t half = 0; half < HALVES; half++)
            w[half] = load_half(block, s, form, half);
        for (size_t t = 0; t < n_tokens; t++) {
            const __m256i q = _mm256_set1_epi32(
                packed_four(quants + (s * n_tokens + t) * PACKED_STEP));

            for (size_t half = 0; half < HALVES; half++)
                pairs[t][half] = _mm256_add_epi16(
                    pairs[t][half], _mm256_maddubs_epi16(w[half], q));
        }
    }
    load_pairs(part_scales, part_scales, scales);
    for (size_t t = 0; t < n_tokens; t++)
        for (size_t half = 0; half < HALVES; half++)
            dots[t][half] = _mm256_add_epi32(
                dots[t][half], _mm256_madd_epi16(pairs[t][half], scales[half]));
}

/* The exact sums of a super-block whose weights are unsigned. */
AVX2_INLINE void dot_super(const unsigned char *scales,
    const unsigned char *lines, const int8_t *quants, size_t n_tokens,
    struct packed_form form, __m256i dots[TILE][HALVES])
{
    const size_t n_steps = form.n_high_bits == 0   ? 8
                           : form.n_high_bits == 1 ? 4
                                                   : 2;
    const size_t block_bytes = packed_group_bytes(form) / 8;

    for (size_t t = 0; t < n_tokens; t++)
        for (size_t half = 0; half < HALVES; half++)
            dots[t][half] = _mm256_setzero_si256();
    for (size_t b = 0; b < QUANTS_LARGE / PACKED_BLOCK; b++) {
        for (size_t step = 0; step < PACKED_STEPS; step += n_steps) {
            const size_t part =
                (b * PACKED_BLOCK + step * PACKED_STEP) / form.part;

            add_steps(lines, quants, n_tokens, step, n_steps, form,
                scales + part * PACKED_ROWS, dots);
        }
        lines += block_bytes;
        quants += PACKED_BLOCK * n_tokens;
    }
}

/* Minimums [part][row], or scales, times the sums of the activations. */
AVX2_INLINE void dot_sums(const unsigned char *mins, const int16_t *sums,
    size_t stride, size_t n_tokens, struct packed_form form,
    __m256i out[TILE][HALVES])
{
    for (size_t t = 0; t < n_tokens; t++)
        for (size_t half = 0; half < HALVES; half++)
            out[t][half] = _mm256_setzero_si256();
    for (size_t i = 0; i < QUANTS_LARGE / ACTIVATION_PART; i += 2) {
        const size_t first = i * ACTIVATION_PART / form.part;
        const size_t second = (i + 1) * ACTIVATION_PART / form.part;
        __m256i pairs[HALVES];

        load_pairs(
            mins + first * PACKED_ROWS, mins + second * PACKED_ROWS, pairs);
        for (size_t t = 0; t < n_tokens; t++) {
            const __m256i sum =
                _mm256_set1_epi32(packed_four(sums + t * stride + i));

            for (size_t half = 0; half < HALVES; half++)
                out[t][half] = _mm256_add_epi32(
                    out[t][half], _mm256_madd_epi16(pairs[half], sum));
        }
    }
}

AVX2_INLINE void load_halves(const unsigned char *scales, __m256 out[HALVES])
{
    const __m128i *halves = (const void *)scales;

    for (size_t half = 0; half < HALVES; half++)
        out[half] = _mm256_cvtph_ps(_mm_load_si128(halves + half));
}

/* totals += sums * the weights' scales * the activations'. */
AVX2_INLINE void add_scaled(const struct packed_tile *tile, size_t g,
    size_t n_tokens, const unsigned char *scales, bool subtracts,
    __m256i sums[TILE][HALVES], __m256 totals[TILE][HALVES])
{
    __m256 w_scales[HALVES];

    load_halves(scales, w_scales);
    for (size_t t = 0; t < n_tokens; t++) {
        const __m256 x_scale =
            _mm256_broadcast_ss(tile->x_scales + t * tile->x_stride + g);

        for (size_t half = 0; half < HALVES; half++) {
            const __m256 scale = _mm256_mul_ps(w_scales[half], x_scale);
            const __m256 sum = _mm256_cvtepi32_ps(sums[t][half]);

            totals[t][half] =
                subtracts ? _mm256_fnmadd_ps(sum, scale, totals[t][half])
                          : _mm256_fmadd_ps(sum, scale, totals[t][half]);
        }
    }
}

AVX2_INLINE void add_group(const struct packed_tile *tile, size_t g,
    size_t n_tokens, struct packed_form form, __m256 totals[TILE][HALVES])
{
    const size_t n_parts = form.group / form.part;
    const size_t floats_bytes = PACKED_ROWS * sizeof(uint16_t);
    const unsigned char *scales =
        tile->scales +
        g * packed_scale_bytes(form.group, form.part, form.has_mins);
    const unsigned char *integers =
        scales + (form.has_mins ? 2 : 1) * floats_bytes;
    __m256i dots[TILE][HALVES], excess[TILE][HALVES];

    dot_super(integers, tile->lines + g * packed_group_bytes(form),
        packed_quants(tile, g, n_tokens, form), n_tokens, form, dots);
    dot_sums(form.has_mins ? integers + n_parts * PACKED_ROWS : integers,
        tile->x_parts + g * (form.group / ACTIVATION_PART),
        tile->n_cols / ACTIVATION_PART, n_tokens, form, excess);
    for (size_t t = 0; t < n_tokens && !form.has_mins; t++)
        for (size_t half = 0; half < HALVES; half++)
            dots[t][half] = _mm256_sub_epi32(
                dots[t][half], _mm256_slli_epi32(excess[t][half], 5));
    add_scaled(tile, g, n_tokens, scales, false, dots, totals);
    if (form.has_mins)
        add_scaled(
            tile, g, n_tokens, scales + floats_bytes, true, excess, totals);
}

AVX2_INLINE void add_tile(const struct packed_tile *tile, size_t n_tokens,
    struct packed_form form, float (*sums)[PACKED_ROWS])
{
    __m256 totals[TILE][HALVES];

    for (size_t t = 0; t < n_tokens; t++)
        for (size_t half = 0; half < HALVES; half++)
            totals[t][half] = _mm256_load_ps(sums[t] + 8 * half);
    for (size_t g = 0; g < tile->n_groups; g++)
        add_group(tile, g, n_tokens, form, totals);
    for (size_t t = 0; t < n_tokens; t++)
        for (size_t half = 0; half < HALVES; half++)
            _mm256_store_ps(sums[t] + 8 * half, totals[t][half]);
}

void avx2_matmul_packed_super(const struct packed *weight, uint32_t begin,
    uint32_t end, const struct activations *x, float *out)
{
    packed_multiply_super(weight, begin, end, x, out,
        (struct packed_ways){.add = add_tile, .max_tokens = TILE});
}

/* Two parts of 16, their sums in the two lanes of the result. */
AVX2_INLINE __m256i sum_fours(const int8_t *quants)
{
    const __m256i q = _mm256_loadu_si256((const void *)quants);
    const __m256i pairs = _mm256_maddubs_epi16(_mm256_set1_epi8(1), q);

    return _mm256_madd_epi16(pairs, _mm256_set1_epi16(1));
}

void avx2_sum_parts(const int8_t *quants, size_t n, int16_t *sums)
{
    for (size_t i = 0; i < n; i += 128, sums += 8) {
        const __m256i first = _mm256_hadd_epi32(
            sum_fours(quants + i), sum_fours(quants + i + 32));
        const __m256i last = _mm256_hadd_epi32(
            sum_fours(quants + i + 64), sum_fours(quants + i + 96));
        const __m256i all = _mm256_hadd_epi32(first, last);
        /* Parts 0, 2, 4, 6 are in the lower lane, the others above. */
        const __m128i even = _mm256_castsi256_si128(all);
        const __m128i odd = _mm256_extracti128_si256(all, 1);
        const __m128i mixed =
            _mm_blend_epi16(even, _mm_slli_epi32(odd, 16), 0xaa);

        _mm_storeu_si128((void *)sums, mixed);
    }
}
