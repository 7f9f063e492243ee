/* Packed integer weights times activations, for AVX2.
 *
 * A line's step, two registers of 8 rows by 4 columns, meets the four
 * activations of a token in all lanes; what it yields stays in its row's lane.
 *
 * Weights of 8 bits: their magnitude times the activations with their sign, two
 * products added into 16 bits (at most 2 * 128 * 127), then two of those into
 * 32. Smaller weights are unsigned and leave room in the 16 bits: 8 steps of
 * 4 bits (2 * 15 * 127 * 8 = 30480), 32 steps of 2 bits (2 * 3 * 127 * 32 =
 * 24384) before they go into 32; what the fields are too large by is taken off
 * with the sum of the activations. */
#include <stdatomic.h>

#include "engine/kernels_avx2.h"
#include "engine/kernels_packed.h"

#define TILE AVX2_ABREAST
#define HALVES 2 /* registers of a line */

/* Bytes. What the processor fetches by itself is two thirds of what memory
 * gives to one thread. */
#define AHEAD 1024

AVX2_INLINE void load_step(const unsigned char *lines, size_t step,
    struct packed_form form, __m256i w[HALVES])
{
    const int shift = (int)(step % form.n_fields * form.n_bits);
    const __m256i mask = _mm256_set1_epi8((char)((1 << form.n_bits) - 1));

    const unsigned char *line = lines + step / form.n_fields * PACKED_LINE;

    if (step % form.n_fields == 0)
        _mm_prefetch(line + AHEAD, _MM_HINT_T0);
    for (int half = 0; half < HALVES; half++)
        w[half] = _mm256_and_si256(
            _mm256_srli_epi16(
                _mm256_load_si256((const void *)(line + 32 * half)), shift),
            mask);
}

/* A block of signed bytes; a half at a time, or registers would not do. */
AVX2_INLINE void add_bytes(const unsigned char *lines, const int8_t *quants,
    size_t n_tokens, __m256i dots[TILE][HALVES])
{
    const __m256i ones = _mm256_set1_epi16(1);

    for (size_t step = 0; step < PACKED_STEPS; step++) {
        _mm_prefetch(lines + step * PACKED_LINE + AHEAD, _MM_HINT_T0);
        for (int half = 0; half < HALVES; half++) {
            const __m256i w = _mm256_load_si256(
                (const void *)(lines + step * PACKED_LINE + 32 * half));
            const __m256i size = _mm256_abs_epi8(w);

            for (size_t t = 0; t < n_tokens; t++) {
                const __m256i q = _mm256_set1_epi32(
                    packed_four(quants + (step * n_tokens + t) * PACKED_STEP));
                const __m256i pairs =
                    _mm256_maddubs_epi16(size, _mm256_sign_epi8(q, w));

                dots[t][half] = _mm256_add_epi32(
                    dots[t][half], _mm256_madd_epi16(pairs, ones));
            }
        }
    }
}

/* As many blocks of fields as 16 bits hold. */
AVX2_INLINE void add_fields(const unsigned char *lines, const int8_t *quants,
    size_t n_tokens, size_t n_blocks, struct packed_form form,
    __m256i dots[TILE][HALVES])
{
    const __m256i ones = _mm256_set1_epi16(1);
    __m256i pairs[TILE][HALVES];

    for (size_t t = 0; t < n_tokens; t++)
        for (int half = 0; half < HALVES; half++)
            pairs[t][half] = _mm256_setzero_si256();
    for (size_t b = 0; b < n_blocks; b++, quants += PACKED_BLOCK * n_tokens) {
        for (size_t step = 0; step < PACKED_STEPS; step++) {
            __m256i w[HALVES];

            load_step(lines, step, form, w);
            for (size_t t = 0; t < n_tokens; t++) {
                const __m256i q = _mm256_set1_epi32(
                    packed_four(quants + (step * n_tokens + t) * PACKED_STEP));

                for (int half = 0; half < HALVES; half++)
                    pairs[t][half] = _mm256_add_epi16(
                        pairs[t][half], _mm256_maddubs_epi16(w[half], q));
            }
        }
        lines += PACKED_STEPS / form.n_fields * PACKED_LINE;
    }
    for (size_t t = 0; t < n_tokens; t++)
        for (int half = 0; half < HALVES; half++)
            dots[t][half] = _mm256_add_epi32(
                dots[t][half], _mm256_madd_epi16(pairs[t][half], ones));
}

/* The exact sums of group g. */
AVX2_INLINE void dot_group(const struct packed_tile *tile, size_t g,
    size_t n_tokens, struct packed_form form, __m256i dots[TILE][HALVES])
{
    const size_t n_at_once = form.n_bits == 4 ? PACKED_BLOCK : 4 * PACKED_BLOCK;
    const size_t group_bytes = packed_group_bytes(form);
    const unsigned char *lines = tile->lines + g * group_bytes;
    const int8_t *quants = packed_quants(tile, g, n_tokens, form);

    for (size_t t = 0; t < n_tokens; t++)
        for (int half = 0; half < HALVES; half++)
            dots[t][half] = _mm256_setzero_si256();
    if (form.n_bits == 8) {
        add_bytes(lines, quants, n_tokens, dots);
        return;
    }
    for (size_t at = 0; at < form.group; at += n_at_once)
        add_fields(lines + at * group_bytes / form.group,
            quants + at * n_tokens, n_tokens, n_at_once / PACKED_BLOCK, form,
            dots);
    for (size_t t = 0; t < n_tokens; t++) {
        const __m256i sum =
            _mm256_set1_epi32(tile->x_sums[t * tile->x_stride + g]);
        const __m256i excess = _mm256_slli_epi32(sum, form.n_bits == 4 ? 3 : 0);

        for (int half = 0; half < HALVES; half++)
            dots[t][half] = _mm256_sub_epi32(dots[t][half], excess);
    }
}

/* The weights' scales of group g. */
AVX2_INLINE void load_scales(
    const struct packed_tile *tile, size_t g, __m256 scales[HALVES])
{
    const __m128i *halves =
        (const void *)(tile->scales + g * PACKED_ROWS * sizeof(uint16_t));

    for (int half = 0; half < HALVES; half++)
        scales[half] = _mm256_cvtph_ps(_mm_load_si128(halves + half));
}

/* The sums stay in memory from group to group, which a compiler has to be told:
 * it would keep them in registers, and what is added up all the time not. */
AVX2_INLINE void add_tile(const struct packed_tile *tile, size_t n_tokens,
    struct packed_form form, float (*sums)[PACKED_ROWS])
{
    for (size_t g = 0; g < tile->n_groups; g++) {
        __m256i dots[TILE][HALVES];
        __m256 w_scales[HALVES];

        atomic_signal_fence(memory_order_seq_cst);
        dot_group(tile, g, n_tokens, form, dots);
        load_scales(tile, g, w_scales);
        for (size_t t = 0; t < n_tokens; t++) {
            const __m256 x_scale =
                _mm256_broadcast_ss(tile->x_scales + t * tile->x_stride + g);

            for (int half = 0; half < HALVES; half++) {
                float *sum = sums[t] + 8 * half;

                _mm256_store_ps(
                    sum, _mm256_fmadd_ps(_mm256_cvtepi32_ps(dots[t][half]),
                             _mm256_mul_ps(w_scales[half], x_scale),
                             _mm256_load_ps(sum)));
            }
        }
    }
}

void avx2_matmul_packed(const struct packed *weight, uint32_t begin,
    uint32_t end, const struct activations *x, float *out)
{
    packed_multiply(weight, begin, end, x, out,
        (struct packed_ways){.add = add_tile, .max_tokens = TILE});
}
