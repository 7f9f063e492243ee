/* What the files of the AVX-512 set share. */
#ifndef ENGINE_KERNELS_AVX512_H
#define ENGINE_KERNELS_AVX512_H

#include "engine/kernels.h"

void avx512_matmul_packed_super(const struct packed *weight, uint32_t begin,
    uint32_t end, const struct activations *x, float *out);

#endif
