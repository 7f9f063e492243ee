/* Super-blocks: 256 weights in parts, each of which has an integer scale, and
 * may have an integer minimum, of its own; what these are multiplied by is the
 * block's. A weight that has no minimum is too large by a constant.
 *
 *     w[i] = scale * scales[part] * quants[i] - min * mins[part]   Q4_K, Q5_K
 *     w[i] = scale * scales[part] * (quants[i] - 32)               Q6_K
 *
 * Format: https://github.com/ggml-org/ggml/blob/master/src/ggml-common.h
 *
 * Pure functions; any thread. */
#ifndef ENGINE_QUANTS_SUPER_H
#define ENGINE_QUANTS_SUPER_H

#include <stdbool.h>

#include "engine/quants.h"

#define QUANTS_SUPER_MAX_PARTS 16

/* Scales and mins of 6 bits: `packed` has those of parts 0 to 3 in the low 6
 * bits of bytes 0 to 3 and 4 to 7; of the others the low 4 bits in the nibbles
 * of bytes 8 to 11, and the high 2 above those of parts 0 to 3. */
struct block_q4_k {
    unsigned char scale[2], min[2];
    unsigned char packed[12];
    /* w[64 j + i] is the low nibble of quants[32 j + i], w[64 j + 32 + i] the
     * high one. */
    unsigned char quants[QUANTS_LARGE / 2];
};

/* As Q4_K, and a fifth bit of w[32 k + i] in bit k of high[i]. */
struct block_q5_k {
    unsigned char scale[2], min[2];
    unsigned char packed[12];
    unsigned char high[QUANTS_LARGE / 8];
    unsigned char quants[QUANTS_LARGE / 2];
};

/* Of either half j: w[128 j + 32 k + i] has its low 4 bits in a nibble of
 * low[64 j + 32 (k % 2) + i], the low one if k < 2, and the high 2 in bits 2k
 * of high[32 j + i]. */
struct block_q6_k {
    unsigned char low[QUANTS_LARGE / 2];
    unsigned char high[QUANTS_LARGE / 4];
    int8_t scales[QUANTS_LARGE / 16];
    unsigned char scale[2];
};

/* What a type's super-blocks are like. */
struct quants_super_form {
    uint32_t n_bits; /* of a weight: 4, 5, 6 */
    uint32_t part;   /* columns that share an integer scale: 32, 16 */
    bool has_mins;
    int32_t zero; /* what a weight is too large by: 0 where it has mins */
};

/* A super-block taken apart. */
struct quants_super {
    unsigned char scale[2], min[2]; /* F16 */
    int8_t scales[QUANTS_SUPER_MAX_PARTS];
    uint8_t mins[QUANTS_SUPER_MAX_PARTS];
    uint8_t quants[QUANTS_LARGE];
};

bool quants_super_has(enum gguf_tensor_type type); /* super-blocks */

/* Of such types only. */
struct quants_super_form quants_super_form(enum gguf_tensor_type type);
void quants_super_unpack(
    enum gguf_tensor_type type, const void *block, struct quants_super *out);
void quants_super_dequantize(
    enum gguf_tensor_type type, const void *data, size_t n, float *out);

#endif
