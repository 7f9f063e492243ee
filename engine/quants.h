/* Numbers as GGUF stores them: half floats and blocks of small integers.
 * Format: https://github.com/ggml-org/ggml/blob/master/src/ggml-common.h
 *
 * Structs of bytes, so that a block may lie anywhere. Pure functions; any
 * thread. */
#ifndef ENGINE_QUANTS_H
#define ENGINE_QUANTS_H

#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include "engine/gguf.h"

#define QUANTS_SMALL 32  /* elements of a block of Q8_0, Q4_0 */
#define QUANTS_LARGE 256 /* of TQ1_0, TQ2_0, I2_S, and of super-blocks */

/* w[i] = scale * quants[i] */
struct block_q8_0 {
    unsigned char scale[2];
    int8_t quants[QUANTS_SMALL];
};

/* w[i] = scale * (low nibble of quants[i] - 8), w[i + 16]: the high one */
struct block_q4_0 {
    unsigned char scale[2];
    unsigned char quants[QUANTS_SMALL / 2];
};

/* Ternary, base 3: a byte holds five trits (`high`: four) as a binary fraction,
 * so that the next trit is the carry of a multiplication by 3. */
struct block_tq1_0 {
    unsigned char quants[48];
    unsigned char high[4];
    unsigned char scale[2];
};

/* Ternary, two bits each: w[128 j + 32 k + i] is in bits 2k of quants[32 j + i]
 */
struct block_tq2_0 {
    unsigned char quants[QUANTS_LARGE / 4];
    unsigned char scale[2];
};

/* Ternary, two bits each, but for the order as in TQ2_0: w[128 j + 32 k + i] is
 * in bits 6 - 2k of quants[32 j + i]. Its scale is the tensor's. This is the
 * order of files that were quantised on x86, as those that Microsoft publishes;
 * on ARM their quantiser mixes 64 and not 128, and no file says which. */
struct block_i2_s {
    unsigned char quants[QUANTS_LARGE / 4];
};

static inline uint16_t quants_load_u16(const unsigned char bytes[2])
{
    uint16_t value;

    memcpy(&value, bytes, sizeof value);
    return value;
}

/* IEEE 754 binary16; to it, rounding to nearest, ties to even. */
float quants_f16_to_f32(uint16_t half);
uint16_t quants_f32_to_f16(float value);

/* bfloat16: the upper half of a binary32. */
static inline float quants_bf16_to_f32(uint16_t half)
{
    const uint32_t bits = (uint32_t)half << 16;
    float value;

    memcpy(&value, &bits, sizeof value);
    return value;
}

/* The integers of a block, in the order of the columns, as many as the type's
 * block has; returns where its scale is, an F16 (1 in an I2_S). Of types with
 * blocks only that are not super-blocks. A ternary block holds -1, 0 and 1; 2
 * in one that no writer would write. */
const unsigned char *quants_integers(
    enum gguf_tensor_type type, const void *block, int8_t out[QUANTS_LARGE]);

/* n is a whole number of the type's blocks. I2_S: without the tensor's scale.
 */
void quants_dequantize(
    enum gguf_tensor_type type, const void *data, size_t n, float *out);

#endif
