/* Weights of floats times activations.
 *
 * A pair of a row and a token has eight lanes of sums, which take the columns
 * in order and are added up at the end: the same for every tile, so a tile's
 * shape is only a question of speed. Tiles of one row and four tokens read a
 * weight once for four uses; tiles of four rows and one token keep four chains
 * of additions in flight where there are fewer tokens. The rows of a call are
 * few enough to stay in the cache between one group of tokens and the next. */
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

#define MATMUL(type, block_elements, block_bytes)                              \
    void avx2_matmul_##type(const struct weight *weight, uint32_t begin,       \
        uint32_t end, const struct activations *x, float *out)                 \
    {                                                                          \
        matmul(weight, begin, end, x, out, tile_##type,                        \
            weight->n_cols / (block_elements) * (block_bytes));                \
    }
MATMUL(f32, 1, sizeof(float))
MATMUL(f16, 1, sizeof(uint16_t))
