/* Weights of floats times activations; sums are F32 whatever the weights are.
 *
 * A pair of a row and a token has eight lanes of sums, which take the columns
 * in order and are added up at the end: the same for every tile, so a tile's
 * shape is only a question of speed. Two rows and four tokens widen a weight
 * once for four uses; four rows and one token keep four chains of additions in
 * flight where there are fewer tokens. The rows of a call are few enough to
 * stay in the cache between one group of tokens and the next. */
#include "engine/kernels_avx2.h"

#define MAX_PAIRS 8
#define WIDE 4 /* rows or tokens */

AVX2_INLINE void multiply_tile(const struct weight *weight, size_t row,
    size_t n_rows, const struct activations *x, size_t token, size_t n_tokens,
    float *out, avx2_load_cb load)
{
    const size_t n = x->n_cols;
    const size_t row_bytes = n * gguf_type_block_bytes(weight->type);
    const unsigned char *rows =
        (const unsigned char *)weight->data + row * row_bytes;
    const float *values = x->values + token * n;
    __m256 sums[MAX_PAIRS];

    for (size_t i = 0; i < n_rows * n_tokens; i++)
        sums[i] = _mm256_setzero_ps();
    for (size_t i = 0; i < n; i += 8)
        for (size_t r = 0; r < n_rows; r++) {
            const __m256 w = load(rows + r * row_bytes, i, n);

            for (size_t t = 0; t < n_tokens; t++) {
                __m256 *sum = &sums[r * n_tokens + t];

                *sum = _mm256_fmadd_ps(
                    w, avx2_load_f32(values + t * n, i, n), *sum);
            }
        }
    for (size_t r = 0; r < n_rows; r++)
        for (size_t t = 0; t < n_tokens; t++)
            out[(token + t) * weight->n_rows + row + r] =
                weight->scale * avx2_sum(sums[r * n_tokens + t]);
}

AVX2_INLINE void multiply(const struct weight *weight, size_t begin, size_t end,
    const struct activations *x, float *out, avx2_load_cb load)
{
    size_t t = 0, row;

    for (; t + WIDE <= x->n_rows; t += WIDE) {
        for (row = begin; row + 2 <= end; row += 2)
            multiply_tile(weight, row, 2, x, t, WIDE, out, load);
        for (; row < end; row++)
            multiply_tile(weight, row, 1, x, t, WIDE, out, load);
    }
    for (; t < x->n_rows; t++) {
        for (row = begin; row + WIDE <= end; row += WIDE)
            multiply_tile(weight, row, WIDE, x, t, 1, out, load);
        for (; row < end; row++)
            multiply_tile(weight, row, 1, x, t, 1, out, load);
    }
}

void avx2_matmul_f32(const struct weight *weight, uint32_t begin, uint32_t end,
    const struct activations *x, float *out)
{
    multiply(weight, begin, end, x, out, avx2_load_f32);
}

void avx2_matmul_f16(const struct weight *weight, uint32_t begin, uint32_t end,
    const struct activations *x, float *out)
{
    multiply(weight, begin, end, x, out, avx2_load_f16);
}

void avx2_matmul_bf16(const struct weight *weight, uint32_t begin, uint32_t end,
    const struct activations *x, float *out)
{
    multiply(weight, begin, end, x, out, avx2_load_bf16);
}
