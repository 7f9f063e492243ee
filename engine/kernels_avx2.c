#include "engine/kernels_avx2.h"

#include <math.h>

/* exp to about one unit in the last place: x = n ln 2 + r, a polynomial in r,
 * and 2^n in two factors so that neither overflows before the product does.
 * Coefficients: Cephes, https://www.netlib.org/cephes (expf.c). */
AVX2_INLINE __m256 exp_lanes(__m256 x)
{
    __m256 n, r, p;
    __m256i half, rest;

    /* In this order a NaN stays one. */
    x = _mm256_max_ps(_mm256_set1_ps(-150), x);
    x = _mm256_min_ps(_mm256_set1_ps(130), x);
    n = _mm256_round_ps(_mm256_mul_ps(x, _mm256_set1_ps(1.44269504f)),
        _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC);
    r = _mm256_fnmadd_ps(n, _mm256_set1_ps(0.693359375f), x);
    r = _mm256_fnmadd_ps(n, _mm256_set1_ps(-2.12194440e-4f), r);

    p = _mm256_set1_ps(1.9875691500e-4f);
    p = _mm256_fmadd_ps(p, r, _mm256_set1_ps(1.3981999507e-3f));
    p = _mm256_fmadd_ps(p, r, _mm256_set1_ps(8.3334519073e-3f));
    p = _mm256_fmadd_ps(p, r, _mm256_set1_ps(4.1665795894e-2f));
    p = _mm256_fmadd_ps(p, r, _mm256_set1_ps(1.6666665459e-1f));
    p = _mm256_fmadd_ps(p, r, _mm256_set1_ps(5.0000001201e-1f));
    p = _mm256_fmadd_ps(p, _mm256_mul_ps(r, r), r);
    p = _mm256_add_ps(p, _mm256_set1_ps(1));

    rest = _mm256_cvtps_epi32(n);
    half = _mm256_srai_epi32(rest, 1);
    rest = _mm256_sub_epi32(rest, half);
    half =
        _mm256_slli_epi32(_mm256_add_epi32(half, _mm256_set1_epi32(127)), 23);
    rest =
        _mm256_slli_epi32(_mm256_add_epi32(rest, _mm256_set1_epi32(127)), 23);
    return _mm256_mul_ps(
        _mm256_mul_ps(p, _mm256_castsi256_ps(half)), _mm256_castsi256_ps(rest));
}

void avx2_silu_mul(float *out, const float *gate, const float *up, size_t n)
{
    const __m256 one = _mm256_set1_ps(1), zero = _mm256_setzero_ps();

    for (size_t i = 0; i < n; i += 8) {
        const __m256 g = avx2_load_f32(gate, i, n);
        const __m256 e = exp_lanes(_mm256_sub_ps(zero, g));
        const __m256 silu = _mm256_div_ps(g, _mm256_add_ps(one, e));

        avx2_store(out, i, n, _mm256_mul_ps(silu, avx2_load_f32(up, i, n)));
    }
}

float avx2_exp_sum(float *x, size_t n, float offset)
{
    const __m256 back = _mm256_set1_ps(offset);
    __m256 sum = _mm256_setzero_ps();
    size_t i = 0;

    for (; i + 8 <= n; i += 8) {
        const __m256 e = exp_lanes(_mm256_sub_ps(_mm256_loadu_ps(x + i), back));

        _mm256_storeu_ps(x + i, e);
        sum = _mm256_add_ps(sum, e);
    }
    if (i < n) {
        const __m256i mask = avx2_mask(n - i);
        const __m256 e = exp_lanes(_mm256_sub_ps(avx2_load_f32(x, i, n), back));

        avx2_store(x, i, n, e);
        sum = _mm256_add_ps(sum, _mm256_and_ps(e, _mm256_castsi256_ps(mask)));
    }
    return avx2_sum(sum);
}

#define WIDE 4 /* queries, keys or registers of a tile */
#define LANES 8
#define MAX_PAIRS 8

/* Some keys and queries that meet. */
struct score_tile {
    const void *keys[WIDE];
    const float *queries; /* [n_queries][n] */
    size_t n, n_keys, n_queries;
};

/* Eight columns, or those that are left before end. */
AVX2_INLINE void score_columns(const struct score_tile *tile, size_t i,
    size_t end, __m256 sums[MAX_PAIRS], avx2_load_cb load)
{
    __m256 k[WIDE];

    for (size_t r = 0; r < tile->n_keys; r++)
        k[r] = load(tile->keys[r], i, end);
    for (size_t q = 0; q < tile->n_queries; q++) {
        const __m256 x = avx2_load_f32(tile->queries + q * tile->n, i, end);

        for (size_t r = 0; r < tile->n_keys; r++) {
            __m256 *sum = &sums[q * tile->n_keys + r];

            *sum = _mm256_fmadd_ps(x, k[r], *sum);
        }
    }
}

/* Each pair of a query and a key has its own eight lanes, so a tile's shape is
 * no part of the result. */
AVX2_INLINE void score_tile(float *scores, const float *queries,
    const struct kernel_run *keys, size_t key, size_t n_keys, size_t n_queries,
    float scale, avx2_load_cb load)
{
    const size_t n = keys->n, whole = n / LANES * LANES;
    struct score_tile tile = {
        .queries = queries, .n = n, .n_keys = n_keys, .n_queries = n_queries};
    _Alignas(32) float totals[MAX_PAIRS];
    __m256 sums[MAX_PAIRS];

    for (size_t r = 0; r < n_keys; r++)
        tile.keys[r] = keys->rows[key + r];
    for (size_t i = 0; i < n_keys * n_queries; i++)
        sums[i] = _mm256_setzero_ps();
    for (size_t i = 0; i < whole; i += LANES)
        score_columns(&tile, i, i + LANES, sums, load);
    if (whole < n)
        score_columns(&tile, whole, n, sums, load);
    if (n_keys * n_queries == MAX_PAIRS) {
        _mm256_store_ps(totals, avx2_sum_8(sums));
    } else {
        for (size_t i = 0; i < n_keys * n_queries; i++)
            totals[i] = avx2_sum(sums[i]);
    }
    for (size_t q = 0; q < n_queries; q++)
        for (size_t r = 0; r < n_keys; r++)
            scores[q * keys->stride + key + r] = totals[q * n_keys + r] * scale;
}

/* Tiles of so many keys, and of one where fewer are left. */
AVX2_INLINE void score_keys(float *scores, const float *queries,
    const struct kernel_run *keys, size_t tile_keys, size_t n_queries,
    float scale, avx2_load_cb load)
{
    size_t k = 0;

    for (; k + tile_keys <= keys->n_rows; k += tile_keys)
        score_tile(scores, queries, keys, k, tile_keys, n_queries, scale, load);
    for (; k < keys->n_rows; k++)
        score_tile(scores, queries, keys, k, 1, n_queries, scale, load);
}

/* Queries that share their keys widen them once for four. */
AVX2_INLINE void score(float *scores, const float *queries,
    const struct kernel_run *keys, float scale, avx2_load_cb load)
{
    size_t q = 0;

    for (; q + WIDE <= keys->n_queries; q += WIDE)
        score_keys(scores + q * keys->stride, queries + q * keys->n, keys, 2,
            WIDE, scale, load);
    for (; q < keys->n_queries; q++)
        score_keys(scores + q * keys->stride, queries + q * keys->n, keys, WIDE,
            1, scale, load);
}

void avx2_score_f32(float *scores, const float *queries,
    const struct kernel_run *keys, float scale)
{
    score(scores, queries, keys, scale, avx2_load_f32);
}

void avx2_score_f16(float *scores, const float *queries,
    const struct kernel_run *keys, float scale)
{
    score(scores, queries, keys, scale, avx2_load_f16);
}

void avx2_score_q8_0(float *scores, const float *queries,
    const struct kernel_run *keys, float scale)
{
    score(scores, queries, keys, scale, avx2_load_q8_0);
}

/* Columns i to end, at most 8 n_parts, in registers over all the values. */
AVX2_INLINE void mix_tile(float *out, const float *keep, const float *weights,
    const struct kernel_run *values, size_t i, size_t end, size_t n_parts,
    size_t n_queries, avx2_load_cb load)
{
    const size_t n = values->n;
    __m256 sums[MAX_PAIRS], v[WIDE];

    for (size_t q = 0; q < n_queries; q++)
        for (size_t p = 0; p < n_parts; p++)
            sums[q * n_parts + p] = _mm256_mul_ps(_mm256_set1_ps(keep[q]),
                avx2_load_f32(out + q * n, i + LANES * p, end));
    for (size_t r = 0; r < values->n_rows; r++) {
        for (size_t p = 0; p < n_parts; p++)
            v[p] = load(values->rows[r], i + LANES * p, end);
        for (size_t q = 0; q < n_queries; q++) {
            const __m256 w =
                _mm256_broadcast_ss(weights + q * values->stride + r);

            for (size_t p = 0; p < n_parts; p++)
                sums[q * n_parts + p] =
                    _mm256_fmadd_ps(w, v[p], sums[q * n_parts + p]);
        }
    }
    for (size_t q = 0; q < n_queries; q++)
        for (size_t p = 0; p < n_parts; p++)
            avx2_store(out + q * n, i + LANES * p, end, sums[q * n_parts + p]);
}

/* Tiles of so many registers, and of one where fewer are left. */
AVX2_INLINE void mix_columns(float *out, const float *keep,
    const float *weights, const struct kernel_run *values, size_t n_parts,
    size_t n_queries, avx2_load_cb load)
{
    const size_t wide = LANES * n_parts, n = values->n;
    size_t i = 0;

    for (; i + wide <= n; i += wide)
        mix_tile(
            out, keep, weights, values, i, i + wide, n_parts, n_queries, load);
    for (; i < n; i += LANES)
        mix_tile(out, keep, weights, values, i, n, 1, n_queries, load);
}

AVX2_INLINE void mix(float *out, const float *keep, const float *weights,
    const struct kernel_run *values, avx2_load_cb load)
{
    size_t q = 0;

    for (; q + WIDE <= values->n_queries; q += WIDE)
        mix_columns(out + q * values->n, keep + q, weights + q * values->stride,
            values, 2, WIDE, load);
    for (; q < values->n_queries; q++)
        mix_columns(out + q * values->n, keep + q, weights + q * values->stride,
            values, WIDE, 1, load);
}

void avx2_mix_f32(float *out, const float *keep, const float *weights,
    const struct kernel_run *values)
{
    mix(out, keep, weights, values, avx2_load_f32);
}

void avx2_mix_f16(float *out, const float *keep, const float *weights,
    const struct kernel_run *values)
{
    mix(out, keep, weights, values, avx2_load_f16);
}

void avx2_mix_q8_0(float *out, const float *keep, const float *weights,
    const struct kernel_run *values)
{
    mix(out, keep, weights, values, avx2_load_q8_0);
}

AVX2_INLINE float largest_magnitude(const float *x, size_t n)
{
    const __m256 sign = _mm256_set1_ps(-0.0f);
    __m256 largest = _mm256_setzero_ps();
    __m128 four;

    for (size_t i = 0; i < n; i += 8)
        largest = _mm256_max_ps(
            largest, _mm256_andnot_ps(sign, _mm256_loadu_ps(x + i)));
    four = _mm_max_ps(
        _mm256_castps256_ps128(largest), _mm256_extractf128_ps(largest, 1));
    four = _mm_max_ps(four, _mm_movehl_ps(four, four));
    return _mm_cvtss_f32(_mm_max_ss(four, _mm_movehdup_ps(four)));
}

/* Eight numbers as integers from -127 to 127, whatever they are. */
AVX2_INLINE __m256i round_to_int8(const float *x, __m256 inverse)
{
    const __m256 limit = _mm256_set1_ps(127), low = _mm256_set1_ps(-127);
    __m256 scaled = _mm256_mul_ps(_mm256_loadu_ps(x), inverse);

    scaled = _mm256_min_ps(_mm256_max_ps(scaled, low), limit);
    return _mm256_cvtps_epi32(scaled);
}

AVX2_INLINE void quantize_32(const float *x, __m256 inverse, int8_t *quants)
{
    const __m256i order = _mm256_setr_epi32(0, 4, 1, 5, 2, 6, 3, 7);
    const __m256i low = _mm256_packs_epi32(
        round_to_int8(x, inverse), round_to_int8(x + 8, inverse));
    const __m256i high = _mm256_packs_epi32(
        round_to_int8(x + 16, inverse), round_to_int8(x + 24, inverse));
    const __m256i bytes = _mm256_packs_epi16(low, high);

    _mm256_storeu_si256(
        (void *)quants, _mm256_permutevar8x32_epi32(bytes, order));
}

AVX2_INLINE int32_t sum_32(const int8_t *quants)
{
    const __m256i q = _mm256_loadu_si256((const void *)quants);
    const __m256i pairs = _mm256_maddubs_epi16(_mm256_set1_epi8(1), q);
    const __m256i fours = _mm256_madd_epi16(pairs, _mm256_set1_epi16(1));
    __m128i sum = _mm_add_epi32(
        _mm256_castsi256_si128(fours), _mm256_extracti128_si256(fours, 1));

    sum = _mm_add_epi32(sum, _mm_shuffle_epi32(sum, 0x4e));
    sum = _mm_add_epi32(sum, _mm_shuffle_epi32(sum, 0xb1));
    return _mm_cvtsi128_si32(sum);
}

void avx2_quantize(const float *x, size_t n, size_t block, int8_t *quants,
    float *scales, int32_t *sums)
{
    for (size_t b = 0; b < n / block; b++, x += block, quants += block) {
        const float largest = largest_magnitude(x, block);
        const __m256 inverse = _mm256_set1_ps(largest == 0 ? 0 : 127 / largest);

        scales[b] = largest / 127;
        sums[b] = 0;
        for (size_t i = 0; i < block; i += 32) {
            quantize_32(x + i, inverse, quants + i);
            sums[b] += sum_32(quants + i);
        }
    }
}

/* Squares are summed in F64: the reference does, and so does llama.cpp. */
void avx2_rms_norm(
    float *out, const float *x, const float *weight, size_t n, float epsilon)
{
    __m256d low = _mm256_setzero_pd(), high = _mm256_setzero_pd();
    double lanes[4];
    __m256 scale;

    for (size_t i = 0; i < n; i += 8) {
        const __m256 v = avx2_load_f32(x, i, n);
        const __m256d a = _mm256_cvtps_pd(_mm256_castps256_ps128(v));
        const __m256d b = _mm256_cvtps_pd(_mm256_extractf128_ps(v, 1));

        low = _mm256_fmadd_pd(a, a, low);
        high = _mm256_fmadd_pd(b, b, high);
    }
    _mm256_storeu_pd(lanes, _mm256_add_pd(low, high));
    lanes[0] += lanes[1] + (lanes[2] + lanes[3]);
    scale = _mm256_set1_ps(1 / sqrtf((float)(lanes[0] / (double)n) + epsilon));
    for (size_t i = 0; i < n; i += 8) {
        const __m256 v = _mm256_mul_ps(avx2_load_f32(x, i, n), scale);

        avx2_store(out, i, n, _mm256_mul_ps(v, avx2_load_f32(weight, i, n)));
    }
}

void avx2_add(float *x, const float *y, size_t n)
{
    for (size_t i = 0; i < n; i += 8)
        avx2_store(x, i, n,
            _mm256_add_ps(avx2_load_f32(x, i, n), avx2_load_f32(y, i, n)));
}

void avx2_to_f16(uint16_t *out, const float *x, size_t n)
{
    for (size_t i = 0; i < n; i += 8) {
        const __m128i halves = _mm256_cvtps_ph(avx2_load_f32(x, i, n),
            _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC);

        memcpy(out + i, &halves, 2 * (n - i < 8 ? n - i : 8));
    }
}

const struct kernels kernels_avx2 = {
    .name = "avx2",
    .n_abreast = AVX2_ABREAST,
    .matmul_f32 = avx2_matmul_f32,
    .matmul_f16 = avx2_matmul_f16,
    .matmul_bf16 = avx2_matmul_bf16,
    .matmul_packed = avx2_matmul_packed,
    .matmul_packed_super = avx2_matmul_packed_super,
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
