/* What the AVX2 kernels share. To be included by files that are compiled for
 * AVX2, FMA and F16C, and by no other. */
#ifndef ENGINE_KERNELS_AVX2_H
#define ENGINE_KERNELS_AVX2_H

#include <immintrin.h>
#include <string.h>

#include "engine/kernels.h"
#include "engine/quants.h"

#define AVX2_ABREAST 4 /* tokens of a tile */

/* Loops below are written once, over sizes that are constants where they are
 * called, and must be unrolled there. */
#define AVX2_INLINE static inline __attribute__((always_inline))

/* The one order in which eight lanes are summed. */
AVX2_INLINE float avx2_sum(__m256 lanes)
{
    __m128 sum = _mm_add_ps(
        _mm256_castps256_ps128(lanes), _mm256_extractf128_ps(lanes, 1));

    sum = _mm_add_ps(sum, _mm_movehl_ps(sum, sum));
    sum = _mm_add_ss(sum, _mm_movehdup_ps(sum));
    return _mm_cvtss_f32(sum);
}

/* The same of eight at once: lane i of what is returned is the sum of lanes[i],
 * to the last bit. */
AVX2_INLINE __m256 avx2_sum_8(const __m256 lanes[8])
{
    __m256 halves[4], pairs[2];

    for (int i = 0; i < 4; i++)
        halves[i] =
            _mm256_add_ps(_mm256_permute2f128_ps(lanes[i], lanes[i + 4], 0x20),
                _mm256_permute2f128_ps(lanes[i], lanes[i + 4], 0x31));
    for (int i = 0; i < 2; i++)
        pairs[i] = _mm256_add_ps(
            _mm256_shuffle_ps(halves[2 * i], halves[2 * i + 1], 0x44),
            _mm256_shuffle_ps(halves[2 * i], halves[2 * i + 1], 0xee));
    return _mm256_add_ps(_mm256_shuffle_ps(pairs[0], pairs[1], 0x88),
        _mm256_shuffle_ps(pairs[0], pairs[1], 0xdd));
}

/* All bits of the first n lanes, n being 0 to 8. */
AVX2_INLINE __m256i avx2_mask(size_t n)
{
    const __m256i lane = _mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7);

    return _mm256_cmpgt_epi32(_mm256_set1_epi32((int)n), lane);
}

/* Eight numbers from data[i] on, of the n that there are; zeros behind. */
typedef __m256 (*avx2_load_cb)(const void *data, size_t i, size_t n);

AVX2_INLINE __m256 avx2_load_f32(const void *data, size_t i, size_t n)
{
    const float *at = (const float *)data + i;

    if (n - i >= 8)
        return _mm256_loadu_ps(at);
    return _mm256_maskload_ps(at, avx2_mask(n - i));
}

AVX2_INLINE __m256 avx2_load_f16(const void *data, size_t i, size_t n)
{
    const unsigned char *at = (const unsigned char *)data + 2 * i;
    uint16_t rest[8] = {0};

    if (n - i >= 8)
        return _mm256_cvtph_ps(_mm_loadu_si128((const void *)at));
    memcpy(rest, at, 2 * (n - i));
    return _mm256_cvtph_ps(_mm_loadu_si128((const void *)rest));
}

AVX2_INLINE __m256 avx2_load_bf16(const void *data, size_t i, size_t n)
{
    const unsigned char *at = (const unsigned char *)data + 2 * i;
    uint16_t rest[8] = {0};
    __m128i halves;

    if (n - i >= 8) {
        halves = _mm_loadu_si128((const void *)at);
    } else {
        memcpy(rest, at, 2 * (n - i));
        halves = _mm_loadu_si128((const void *)rest);
    }
    return _mm256_castsi256_ps(
        _mm256_slli_epi32(_mm256_cvtepu16_epi32(halves), 16));
}

/* n is a whole number of blocks. */
AVX2_INLINE __m256 avx2_load_q8_0(const void *data, size_t i, size_t n)
{
    const struct block_q8_0 *block =
        (const struct block_q8_0 *)data + i / QUANTS_SMALL;
    const __m256 scale =
        _mm256_cvtph_ps(_mm_set1_epi16((short)quants_load_u16(block->scale)));
    const __m256i eight = _mm256_cvtepi8_epi32(
        _mm_loadl_epi64((const void *)(block->quants + i % QUANTS_SMALL)));

    (void)n;
    return _mm256_mul_ps(scale, _mm256_cvtepi32_ps(eight));
}

AVX2_INLINE void avx2_store(float *out, size_t i, size_t n, __m256 x)
{
    if (n - i >= 8)
        _mm256_storeu_ps(out + i, x);
    else
        _mm256_maskstore_ps(out + i, avx2_mask(n - i), x);
}

/* What another set may take over. */
void avx2_matmul_f32(const struct weight *weight, uint32_t begin, uint32_t end,
    const struct activations *x, float *out);
void avx2_matmul_f16(const struct weight *weight, uint32_t begin, uint32_t end,
    const struct activations *x, float *out);
void avx2_matmul_bf16(const struct weight *weight, uint32_t begin, uint32_t end,
    const struct activations *x, float *out);
void avx2_matmul_packed(const struct packed *weight, uint32_t begin,
    uint32_t end, const struct activations *x, float *out);
void avx2_matmul_packed_super(const struct packed *weight, uint32_t begin,
    uint32_t end, const struct activations *x, float *out);
void avx2_sum_parts(const int8_t *quants, size_t n, int16_t *sums);
void avx2_score_f32(float *scores, const float *queries,
    const struct kernel_run *keys, float scale);
void avx2_score_f16(float *scores, const float *queries,
    const struct kernel_run *keys, float scale);
void avx2_score_q8_0(float *scores, const float *queries,
    const struct kernel_run *keys, float scale);
void avx2_mix_f32(float *out, const float *keep, const float *weights,
    const struct kernel_run *values);
void avx2_mix_f16(float *out, const float *keep, const float *weights,
    const struct kernel_run *values);
void avx2_mix_q8_0(float *out, const float *keep, const float *weights,
    const struct kernel_run *values);
void avx2_quantize(const float *x, size_t n, size_t block, int8_t *quants,
    float *scales, int32_t *sums);
void avx2_rms_norm(
    float *out, const float *x, const float *weight, size_t n, float epsilon);
void avx2_add(float *x, const float *y, size_t n);
void avx2_silu_mul(float *out, const float *gate, const float *up, size_t n);
float avx2_exp_sum(float *x, size_t n, float offset);
void avx2_to_f16(uint16_t *out, const float *x, size_t n);

#endif
