/* Weights times activations.
 *
 * A pair of a row and a token has eight lanes of sums, which take the columns
 * in order and are added up at the end: the same for every tile, so a tile's
 * shape is only a question of speed. Tiles of one row and four tokens read a
 * weight once for four uses; tiles of four rows and one token keep four chains
 * of additions in flight where there are fewer tokens. The rows of a call are
 * few enough to stay in the cache between one group of tokens and the next.
 *
 * Integer products are exact: an unsigned times a signed byte, two of them
 * added into 16 bits without saturation (at most 128 * 127 * 2 for Q8_0, and
 * 8 * 3 * 127 * 2 over a whole ternary block), and then into 32. */
#include "engine/kernels_avx2.h"
#include "engine/quants.h"

#define TILE 4 /* pairs at most */

typedef void (*tile_cb)(size_t n_rows, size_t n_tokens,
    const unsigned char *rows, size_t row_bytes, const struct activations *x,
    size_t token, __m256 sums[TILE]);

AVX2_INLINE void matmul_tile(tile_cb tile, size_t n_rows, size_t n_tokens,
    const struct weight *weight, size_t row, size_t row_bytes,
    const struct activations *x, size_t token, float *out)
{
    const unsigned char *rows =
        (const unsigned char *)weight->data + row * row_bytes;
    __m256 sums[TILE];

    for (size_t i = 0; i < n_rows * n_tokens; i++)
        sums[i] = _mm256_setzero_ps();
    tile(n_rows, n_tokens, rows, row_bytes, x, token, sums);
    for (size_t r = 0; r < n_rows; r++)
        for (size_t t = 0; t < n_tokens; t++)
            out[(token + t) * weight->n_rows + row + r] =
                weight->scale * avx2_sum(sums[r * n_tokens + t]);
}

AVX2_INLINE void matmul(const struct weight *weight, size_t begin, size_t end,
    const struct activations *x, float *out, tile_cb tile, size_t row_bytes)
{
    size_t token = 0, row;

    for (; token + TILE <= x->n_rows; token += TILE)
        for (row = begin; row < end; row++)
            matmul_tile(tile, 1, TILE, weight, row, row_bytes, x, token, out);
    for (; token < x->n_rows; token++) {
        for (row = begin; row + TILE <= end; row += TILE)
            matmul_tile(tile, TILE, 1, weight, row, row_bytes, x, token, out);
        for (; row < end; row++)
            matmul_tile(tile, 1, 1, weight, row, row_bytes, x, token, out);
    }
}

AVX2_INLINE void tile_floats(size_t n_rows, size_t n_tokens,
    const unsigned char *rows, size_t row_bytes, const struct activations *x,
    size_t token, __m256 sums[TILE], avx2_load_cb load)
{
    const size_t n = x->n_cols;
    const float *values = x->values + token * n;

    for (size_t i = 0; i < n; i += 8)
        for (size_t r = 0; r < n_rows; r++) {
            const __m256 w = load(rows + r * row_bytes, i, n);

            for (size_t t = 0; t < n_tokens; t++) {
                __m256 *sum = &sums[r * n_tokens + t];

                *sum = _mm256_fmadd_ps(
                    w, avx2_load_f32(values + t * n, i, n), *sum);
            }
        }
}

AVX2_INLINE void tile_f32(size_t n_rows, size_t n_tokens,
    const unsigned char *rows, size_t row_bytes, const struct activations *x,
    size_t token, __m256 sums[TILE])
{
    tile_floats(
        n_rows, n_tokens, rows, row_bytes, x, token, sums, avx2_load_f32);
}

AVX2_INLINE void tile_f16(size_t n_rows, size_t n_tokens,
    const unsigned char *rows, size_t row_bytes, const struct activations *x,
    size_t token, __m256 sums[TILE])
{
    tile_floats(
        n_rows, n_tokens, rows, row_bytes, x, token, sums, avx2_load_f16);
}

/* A half float in eight lanes. */
AVX2_INLINE __m256 load_scale(const unsigned char *bytes)
{
    return _mm256_cvtph_ps(_mm_set1_epi16((short)quants_load_u16(bytes)));
}

/* Eight sums of four neighbours each, of 32 products of signed bytes. */
AVX2_INLINE __m256i dot_signed(__m256i w, __m256i w_abs, __m256i x)
{
    const __m256i pairs = _mm256_maddubs_epi16(w_abs, _mm256_sign_epi8(x, w));

    return _mm256_madd_epi16(pairs, _mm256_set1_epi16(1));
}

/* sum += dot * w_scale * x_scale */
AVX2_INLINE void add_scaled(
    __m256 *sum, __m256i dot, __m256 w_scale, const float *x_scale)
{
    *sum = _mm256_fmadd_ps(_mm256_cvtepi32_ps(dot),
        _mm256_mul_ps(w_scale, _mm256_broadcast_ss(x_scale)), *sum);
}

typedef __m256i (*unpack_cb)(const unsigned char *quants);

AVX2_INLINE __m256i unpack_q8_0(const unsigned char *quants)
{
    return _mm256_loadu_si256((const void *)quants);
}

AVX2_INLINE __m256i unpack_q4_0(const unsigned char *quants)
{
    const __m128i both = _mm_loadu_si128((const void *)quants);
    const __m256i nibbles = _mm256_and_si256(
        _mm256_set_m128i(_mm_srli_epi16(both, 4), both), _mm256_set1_epi8(15));

    return _mm256_sub_epi8(nibbles, _mm256_set1_epi8(8));
}

/* Both types have the scale first. */
AVX2_INLINE void tile_small(size_t n_rows, size_t n_tokens,
    const unsigned char *rows, size_t row_bytes, const struct activations *x,
    size_t token, __m256 sums[TILE], unpack_cb unpack, size_t block_bytes)
{
    const size_t n = x->n_cols, n_blocks = n / QUANTS_SMALL;
    const int8_t *quants = x->small.quants + token * n;
    const float *scales = x->small.scales + token * n_blocks;

    for (size_t b = 0; b < n_blocks; b++)
        for (size_t r = 0; r < n_rows; r++) {
            const unsigned char *block = rows + r * row_bytes + b * block_bytes;
            const __m256 w_scale = load_scale(block);
            const __m256i w = unpack(block + 2);
            const __m256i w_abs = _mm256_abs_epi8(w);

            for (size_t t = 0; t < n_tokens; t++) {
                const __m256i q = _mm256_loadu_si256(
                    (const void *)(quants + t * n + b * QUANTS_SMALL));

                add_scaled(&sums[r * n_tokens + t], dot_signed(w, w_abs, q),
                    w_scale, &scales[t * n_blocks + b]);
            }
        }
}

AVX2_INLINE void tile_q8_0(size_t n_rows, size_t n_tokens,
    const unsigned char *rows, size_t row_bytes, const struct activations *x,
    size_t token, __m256 sums[TILE])
{
    tile_small(n_rows, n_tokens, rows, row_bytes, x, token, sums, unpack_q8_0,
        sizeof(struct block_q8_0));
}

AVX2_INLINE void tile_q4_0(size_t n_rows, size_t n_tokens,
    const unsigned char *rows, size_t row_bytes, const struct activations *x,
    size_t token, __m256 sums[TILE])
{
    tile_small(n_rows, n_tokens, rows, row_bytes, x, token, sums, unpack_q4_0,
        sizeof(struct block_q4_0));
}

#define N_PARTS (QUANTS_LARGE / 32)

typedef void (*unpack_trits_cb)(
    const unsigned char *block, __m256i parts[N_PARTS]);

AVX2_INLINE void unpack_tq2_0(
    const unsigned char *block, __m256i parts[N_PARTS])
{
    const __m256i two_bits = _mm256_set1_epi8(3);

    for (int half = 0; half < 2; half++) {
        const __m256i q = _mm256_loadu_si256((const void *)(block + 32 * half));

        for (int i = 0; i < 4; i++)
            parts[4 * half + i] =
                _mm256_and_si256(_mm256_srli_epi16(q, 2 * i), two_bits);
    }
}

/* The trit in front: (byte * 3) >> 8, which steps at 86 and 171. */
AVX2_INLINE __m256i first_trit(__m256i q)
{
    const __m256i one = _mm256_set1_epi8(86), two = _mm256_set1_epi8((char)171);
    const __m256i is_one = _mm256_cmpeq_epi8(_mm256_max_epu8(q, one), q);
    const __m256i is_two = _mm256_cmpeq_epi8(_mm256_max_epu8(q, two), q);

    return _mm256_abs_epi8(_mm256_add_epi8(is_one, is_two));
}

AVX2_INLINE __m256i times_3(__m256i q)
{
    return _mm256_add_epi8(q, _mm256_add_epi8(q, q));
}

AVX2_INLINE void unpack_tq1_0(
    const unsigned char *bytes, __m256i parts[N_PARTS])
{
    const struct block_tq1_0 *block = (const void *)bytes;
    const __m128i rest = _mm_loadu_si128((const void *)(block->quants + 32));
    __m256i q = _mm256_loadu_si256((const void *)block->quants);
    uint32_t digits;
    unsigned char high[16];

    for (int i = 0; i < 5; i++, q = times_3(q))
        parts[i] = first_trit(q);

    /* Sixteen bytes of five digits each, two digits side by side; beside the
     * last one, the four bytes of four digits. */
    q = _mm256_set_m128i(
        _mm256_castsi256_si128(times_3(_mm256_castsi128_si256(rest))), rest);
    for (int i = 5; i < 7; i++, q = times_3(times_3(q)))
        parts[i] = first_trit(q);
    memcpy(&digits, block->high, sizeof digits);
    for (int i = 0; i < 4; i++) {
        memcpy(high + 4 * i, &digits, sizeof digits);
        digits = ((digits & 0x00ff00ffu) * 3 & 0x00ff00ffu) |
                 (((digits >> 8 & 0x00ff00ffu) * 3 & 0x00ff00ffu) << 8);
    }
    parts[7] = first_trit(
        _mm256_inserti128_si256(q, _mm_loadu_si128((const void *)high), 1));
}

/* Trits are one too large, so the activations' sums are taken off again: not
 * lane by lane what was added, but the same in total. */
AVX2_INLINE __m256i dot_trits(
    const __m256i parts[N_PARTS], const int8_t *quants, const int16_t *sums)
{
    __m256i pairs = _mm256_maddubs_epi16(
        parts[0], _mm256_loadu_si256((const void *)quants));

    for (int i = 1; i < N_PARTS; i++)
        pairs = _mm256_add_epi16(
            pairs, _mm256_maddubs_epi16(parts[i],
                       _mm256_loadu_si256((const void *)(quants + 32 * i))));
    pairs = _mm256_sub_epi16(pairs, _mm256_loadu_si256((const void *)sums));
    return _mm256_madd_epi16(pairs, _mm256_set1_epi16(1));
}

AVX2_INLINE void tile_large(size_t n_rows, size_t n_tokens,
    const unsigned char *rows, size_t row_bytes, const struct activations *x,
    size_t token, __m256 sums[TILE], unpack_trits_cb unpack, size_t block_bytes,
    size_t scale_at)
{
    const size_t n = x->n_cols, n_blocks = n / QUANTS_LARGE;
    const int8_t *quants = x->large.quants + token * n;
    const int16_t *q_sums = x->large.sums + token * (n / 16);
    const float *scales = x->large.scales + token * n_blocks;
    __m256i parts[N_PARTS];

    for (size_t b = 0; b < n_blocks; b++)
        for (size_t r = 0; r < n_rows; r++) {
            const unsigned char *block = rows + r * row_bytes + b * block_bytes;
            const __m256 w_scale = load_scale(block + scale_at);

            unpack(block, parts);
            for (size_t t = 0; t < n_tokens; t++) {
                const __m256i dot =
                    dot_trits(parts, quants + t * n + b * QUANTS_LARGE,
                        q_sums + t * (n / 16) + b * (QUANTS_LARGE / 16));

                add_scaled(&sums[r * n_tokens + t], dot, w_scale,
                    &scales[t * n_blocks + b]);
            }
        }
}

AVX2_INLINE void tile_tq1_0(size_t n_rows, size_t n_tokens,
    const unsigned char *rows, size_t row_bytes, const struct activations *x,
    size_t token, __m256 sums[TILE])
{
    tile_large(n_rows, n_tokens, rows, row_bytes, x, token, sums, unpack_tq1_0,
        sizeof(struct block_tq1_0), offsetof(struct block_tq1_0, scale));
}

AVX2_INLINE void tile_tq2_0(size_t n_rows, size_t n_tokens,
    const unsigned char *rows, size_t row_bytes, const struct activations *x,
    size_t token, __m256 sums[TILE])
{
    tile_large(n_rows, n_tokens, rows, row_bytes, x, token, sums, unpack_tq2_0,
        sizeof(struct block_tq2_0), offsetof(struct block_tq2_0, scale));
}

#define MATMUL(type, block_elements, block_bytes)                              \
    void avx2_matmul_##type(const struct weight *weight, uint32_t begin,       \
        uint32_t end, const struct activations *x, float *out)                 \
    {                                                                          \
        matmul(weight, begin, end, x, out, tile_##type,                        \
            weight->n_cols / (block_elements) * (block_bytes));                \
    }
MATMUL(f32, 1, sizeof(float))
MATMUL(f16, 1, sizeof(uint16_t))
MATMUL(q8_0, QUANTS_SMALL, sizeof(struct block_q8_0))
MATMUL(q4_0, QUANTS_SMALL, sizeof(struct block_q4_0))
MATMUL(tq1_0, QUANTS_LARGE, sizeof(struct block_tq1_0))
MATMUL(tq2_0, QUANTS_LARGE, sizeof(struct block_tq2_0))
