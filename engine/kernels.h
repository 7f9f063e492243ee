/* The inner loops, one table of them per instruction set.
 *
 * Within a set the order of summation is fixed: what a kernel yields for a row
 * of weights and a token, or for a query and a run of keys, is the same to the
 * last bit however many rows, tokens or queries it is given at once. Between
 * sets results differ by rounding, but for products with integer weights, which
 * are the same in all of them: sums of integers are exact, and each is added to
 * the row's sum, group by group, by one fused multiplication and addition.
 * "scalar" is the reference.
 *
 * Any thread; nothing is allocated, nothing is kept. */
#ifndef ENGINE_KERNELS_H
#define ENGINE_KERNELS_H

#include <stddef.h>
#include <stdint.h>

#include "engine/activations.h"
#include "engine/model.h"
#include "engine/packed.h"

/* out[token * n_rows + row] for the rows begin to end and all the tokens, where
 * n_rows is the weight's. */
typedef void (*kernel_matmul_cb)(const struct weight *weight, uint32_t begin,
    uint32_t end, const struct activations *x, float *out);

/* The same for integer weights that are packed, and panels of them. */
typedef void (*kernel_matmul_packed_cb)(const struct packed *weight,
    uint32_t begin, uint32_t end, const struct activations *x, float *out);

/* Keys or values, rows of n each, and the queries that meet them. */
struct kernel_run {
    const void *const *rows;
    size_t n_rows, n;
    size_t n_queries;
    size_t stride; /* from one query's scores to those of the next */
};

/* scores[query][row] of the queries [n_queries][n] over the keys, times scale.
 */
typedef void (*kernel_score_cb)(float *scores, const float *queries,
    const struct kernel_run *keys, float scale);

/* out [n_queries][n] = keep[query] * out + sum of weights[query][row] * the
 * values in that row. */
typedef void (*kernel_mix_cb)(float *out, const float *keep,
    const float *weights, const struct kernel_run *values);

struct kernels {
    const char *name;
    uint32_t n_abreast; /* tokens that its products want side by side */
    kernel_matmul_cb matmul_f32, matmul_f16, matmul_bf16;
    /* Integers as they lie in the file: the reference only, else NULL. */
    kernel_matmul_cb matmul_integers, matmul_super;
    /* Packed ones, and such that were super-blocks: NULL in the reference. */
    kernel_matmul_packed_cb matmul_packed, matmul_packed_super;
    kernel_score_cb score_f32, score_f16, score_q8_0;
    kernel_mix_cb mix_f32, mix_f16, mix_q8_0;

    /* Rounds x in blocks, of which n is a whole number. */
    void (*quantize)(const float *x, size_t n, size_t block, int8_t *quants,
        float *scales, int32_t *sums);

    /* sums[i] is that of part i; n is a whole number of blocks of 256. */
    void (*sum_parts)(const int8_t *quants, size_t n, int16_t *sums);

    /* out = x / sqrt(mean of squares + epsilon) * weight; out may be x. */
    void (*rms_norm)(float *out, const float *x, const float *weight, size_t n,
        float epsilon);

    void (*add)(float *x, const float *y, size_t n); /* x += y */

    /* out = gate / (1 + exp(-gate)) * up */
    void (*silu_mul)(float *out, const float *gate, const float *up, size_t n);

    /* x = exp(x - offset); returns their sum. */
    float (*exp_sum)(float *x, size_t n, float offset);

    void (*to_f16)(uint16_t *out, const float *x, size_t n);
};

extern const struct kernels kernels_scalar;
/* Of x86-64 and aarch64; to be run where kernels_choose finds them to. */
extern const struct kernels kernels_avx2, kernels_avx512, kernels_neon;

/* By name, "auto" being the fastest that runs here. KV_UNSUPPORTED. */
enum kv_status kernels_choose(
    const struct kernels **out, const char *name, struct kv_error *error);

/* The product with weights as they lie in the file; NULL for integers where
 * they must be packed. */
kernel_matmul_cb kernels_matmul(
    const struct kernels *kernels, enum gguf_tensor_type type);

/* The activation_formats that a product with such weights reads. */
unsigned kernels_format(enum gguf_tensor_type type);

#endif
