/* What a set that has no faster way takes over from the reference, and what of
 * it has a file of its own. */
#ifndef ENGINE_KERNELS_SCALAR_H
#define ENGINE_KERNELS_SCALAR_H

#include "engine/kernels.h"

void scalar_quantize(const float *x, size_t n, size_t block, int8_t *quants,
    float *scales, int32_t *sums);
void scalar_sum_parts(const int8_t *quants, size_t n, int16_t *sums);
void scalar_rms_norm(
    float *out, const float *x, const float *weight, size_t n, float epsilon);
void scalar_add(float *x, const float *y, size_t n);
void scalar_silu_mul(float *out, const float *gate, const float *up, size_t n);
float scalar_exp_sum(float *x, size_t n, float offset);
void scalar_to_f16(uint16_t *out, const float *x, size_t n);
void scalar_matmul_super(const struct weight *weight, uint32_t begin,
    uint32_t end, const struct activations *x, float *out);

#endif
