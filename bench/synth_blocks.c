#include "bench/synth_blocks.h"

#include <math.h>
#include <string.h>

#include "engine/quants_super.h"

/* xorshift64* */
static uint64_t next_random(struct synth_blocks *blocks)
{
    uint64_t x = blocks->random;

    x ^= x >> 12;
    x ^= x << 25;
    x ^= x >> 27;
    blocks->random = x;
    return x * UINT64_C(0x2545F4914F6CDD1D);
}

static void fill_random(
    struct synth_blocks *blocks, unsigned char *out, size_t n)
{
    for (size_t i = 0; i < n; i += 8) {
        uint64_t word = next_random(blocks);

        memcpy(out + i, &word, n - i < 8 ? n - i : 8);
    }
}

static uint16_t half_of(float value)
{
    uint16_t sign = value < 0 ? 0x8000 : 0;
    int exponent;
    float fraction = frexpf(fabsf(value), &exponent);

    if (exponent < -13)
        return sign | (uint16_t)lrintf(ldexpf(fabsf(value), 24));
    return sign |
           (uint16_t)(((exponent + 13) << 10) + lrintf(ldexpf(fraction, 11)));
}

/* Trits of 5 (or 4, times 3) to a byte are fractions of 256, rounded up. */
static unsigned char pack_trits(unsigned value)
{
    return (unsigned char)((value * 256 + 242) / 243);
}

static void make_trits(struct synth_trits *trits)
{
    for (unsigned i = 0; i < 256; i++) {
        unsigned n = i * 81 / 256;

        trits->five[i] = pack_trits(i * 243 / 256);
        trits->four[i] = pack_trits(n * 3);
        trits->pairs[i] = (unsigned char)(n % 3 | n / 3 % 3 << 2 |
                                          n / 9 % 3 << 4 | n / 27 << 6);
    }
}

/* Trits vary by 2/3, not 1/3. */
static float ternary_scale(float half_range)
{
    return half_range / sqrtf(2.0f);
}

/* What scales of the blocks make weights of the deviation: random integers,
 * less random minimums, have the ones given here. A minimum is worth as much as
 * the average weight, so that the weights of a block are about as often
 * negative. */
static void shape_super_blocks(unsigned char *blocks, size_t n_blocks,
    enum gguf_tensor_type type, float deviation)
{
    const size_t block_bytes = gguf_type_block_bytes(type);
    const float scale = deviation / (type == GGUF_Q4_K      ? 258.0f
                                        : type == GGUF_Q5_K ? 527.0f
                                                            : 1365.0f);
    const uint16_t half = half_of(scale);
    const uint16_t min = half_of(scale * (type == GGUF_Q4_K ? 7.5f : 15.5f));

    for (size_t b = 0; b < n_blocks; b++, blocks += block_bytes)
        if (type == GGUF_Q6_K) {
            memcpy(blocks + block_bytes - sizeof half, &half, sizeof half);
        } else {
            memcpy(blocks, &half, sizeof half);
            memcpy(blocks + sizeof half, &min, sizeof min);
        }
}

/* Random bytes become blocks. half_range is where the uniform weights end. */
static void shape_blocks(unsigned char *blocks, size_t n_blocks,
    enum gguf_tensor_type type, float half_range,
    const struct synth_trits *trits)
{
    size_t block_bytes = gguf_type_block_bytes(type);
    uint16_t scale = half_of(type == GGUF_Q8_0   ? half_range / 127
                             : type == GGUF_Q4_0 ? half_range / 8
                                                 : ternary_scale(half_range));

    for (size_t b = 0; b < n_blocks; b++) {
        unsigned char *block = blocks + b * block_bytes;
        size_t n_quants = block_bytes - sizeof scale;

        if (type == GGUF_Q8_0 || type == GGUF_Q4_0) {
            memcpy(block, &scale, sizeof scale);
            for (size_t i = 2; type == GGUF_Q8_0 && i < block_bytes; i++)
                if (block[i] == 0x80) /* -128, which quantising never gives */
                    block[i] = 0x81;
            continue;
        }
        memcpy(block + n_quants, &scale, sizeof scale);
        for (size_t i = 0; i < n_quants; i++)
            block[i] = type == GGUF_TQ2_0 ? trits->pairs[block[i]]
                       : i < 48           ? trits->five[block[i]]
                                          : trits->four[block[i]];
    }
}

/* The scale is behind them. */
static void shape_i2_s(
    unsigned char *bytes, size_t n, const struct synth_trits *trits)
{
    for (size_t i = 0; i < n; i++)
        bytes[i] = trits->pairs[bytes[i]];
}

static void shape_floats(unsigned char *out, size_t n, float half_range)
{
    for (size_t i = 0; i < n; i++) {
        int32_t random;
        float value;

        memcpy(&random, out + 4 * i, sizeof random);
        value = (float)random * 0x1p-31f * half_range;
        memcpy(out + 4 * i, &value, sizeof value);
    }
}

/* 4096 values are enough to choose from. */
static void shape_halves(
    unsigned char *out, size_t n, enum gguf_tensor_type type, float half_range)
{
    uint16_t values[4096], random;

    for (int i = 0; i < 4096; i++) {
        const float value = ((float)i - 2047.5f) / 2048.0f * half_range;
        uint32_t bits;

        memcpy(&bits, &value, sizeof bits);
        values[i] = type == GGUF_BF16 ? (uint16_t)(bits >> 16) : half_of(value);
    }
    for (size_t i = 0; i < n; i++) {
        memcpy(&random, out + 2 * i, sizeof random);
        memcpy(out + 2 * i, &values[random % 4096], sizeof random);
    }
}

void synth_blocks_init(struct synth_blocks *blocks, uint64_t seed)
{
    blocks->random = seed * UINT64_C(0x9E3779B97F4A7C15) | 1;
    make_trits(&blocks->trits);
}

/* Where uniform weights of a variance of 1 / columns end. */
static float half_range_of(uint64_t n_cols)
{
    return sqrtf(3.0f / (float)n_cols);
}

void synth_blocks_fill(struct synth_blocks *blocks, unsigned char *out,
    size_t n_blocks, enum gguf_tensor_type type, uint64_t n_cols)
{
    const size_t n_bytes = n_blocks * gguf_type_block_bytes(type);
    const float half_range = half_range_of(n_cols);

    fill_random(blocks, out, n_bytes);
    if (type == GGUF_F32)
        shape_floats(out, n_blocks, half_range);
    else if (type == GGUF_F16 || type == GGUF_BF16)
        shape_halves(out, n_blocks, type, half_range);
    else if (type == GGUF_I2_S)
        shape_i2_s(out, n_bytes, &blocks->trits);
    else if (quants_super_has(type))
        shape_super_blocks(out, n_blocks, type, half_range / sqrtf(3.0f));
    else
        shape_blocks(out, n_blocks, type, half_range, &blocks->trits);
}

float synth_blocks_tail_scale(uint64_t n_cols)
{
    return ternary_scale(half_range_of(n_cols));
}
