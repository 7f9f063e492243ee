/* What the files of the NEON set share. */
#ifndef ENGINE_KERNELS_NEON_H
#define ENGINE_KERNELS_NEON_H

#include "engine/kernels.h"

void neon_matmul_packed_super(const struct packed *weight, uint32_t begin,
    uint32_t end, const struct activations *x, float *out);

#endif
