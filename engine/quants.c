#include "engine/quants.h"

#include <assert.h>
#include <stdbool.h>

#include "engine/quants_super.h"

static uint32_t bits_of(float value)
{
    uint32_t bits;

    memcpy(&bits, &value, sizeof bits);
    return bits;
}

static float float_of(uint32_t bits)
{
    float value;

    memcpy(&value, &bits, sizeof value);
    return value;
}

float quants_f16_to_f32(uint16_t half)
{
    const uint32_t sign = (uint32_t)(half & 0x8000) << 16;
    const uint32_t rest = half & 0x7fffu;

    if (rest >= 0x7c00) /* infinity, or a NaN, which becomes a quiet one */
        return float_of(sign | 0x7f800000u | (rest & 0x3ffu) << 13 |
                        (rest > 0x7c00 ? 0x400000u : 0));
    if (rest >= 0x0400) /* the exponent's bias goes from 15 to 127 */
        return float_of(sign | ((rest << 13) + ((127u - 15u) << 23)));
    return float_of(sign | bits_of((float)rest * 0x1p-24f));
}

uint16_t quants_f32_to_f16(float value)
{
    const uint32_t bits = bits_of(value);
    const uint32_t sign = bits >> 16 & 0x8000u;
    const uint32_t rest = bits & 0x7fffffffu;

    if (rest > 0x7f800000u) /* a NaN keeps what fits and is quiet */
        return (uint16_t)(sign | 0x7e00u | (rest >> 13 & 0x3ffu));
    if (rest >= 0x477ff000u) /* 65520 and more round to infinity */
        return (uint16_t)(sign | 0x7c00u);
    if (rest < 0x38800000u) /* subnormal: adding 0.5 rounds at 2^-24 */
        return (
            uint16_t)(sign | (bits_of(float_of(rest) + 0.5f) - bits_of(0.5f)));
    return (uint16_t)(sign | (rest - ((127u - 15u) << 23) + 0xfffu +
                                 (rest >> 13 & 1u)) >>
                                 13);
}

static void unpack_q4_0(const struct block_q4_0 *block, int8_t *out)
{
    for (unsigned i = 0; i < QUANTS_SMALL / 2; i++) {
        out[i] = (int8_t)((block->quants[i] & 15) - 8);
        out[i + QUANTS_SMALL / 2] = (int8_t)((block->quants[i] >> 4) - 8);
    }
}

/* Trit `digit` of a byte of base 3 digits, most significant first. */
static int8_t trit(unsigned byte, unsigned digit)
{
    static const unsigned powers[5] = {1, 3, 9, 27, 81};

    return (int8_t)((int)((byte * powers[digit] & 0xffu) * 3u >> 8) - 1);
}

static void unpack_tq1_0(const struct block_tq1_0 *block, int8_t *out)
{
    for (unsigned digit = 0; digit < 5; digit++)
        for (unsigned i = 0; i < 32; i++)
            *out++ = trit(block->quants[i], digit);
    for (unsigned digit = 0; digit < 5; digit++)
        for (unsigned i = 32; i < 48; i++)
            *out++ = trit(block->quants[i], digit);
    for (unsigned digit = 0; digit < 4; digit++)
        for (unsigned i = 0; i < 4; i++)
            *out++ = trit(block->high[i], digit);
}

static void unpack_tq2_0(const struct block_tq2_0 *block, int8_t *out)
{
    for (unsigned half = 0; half < QUANTS_LARGE / 4; half += 32)
        for (unsigned shift = 0; shift < 8; shift += 2)
            for (unsigned i = 0; i < 32; i++)
                *out++ = (int8_t)((block->quants[half + i] >> shift & 3) - 1);
}

static void unpack_i2_s(const struct block_i2_s *block, int8_t *out)
{
    for (unsigned half = 0; half < QUANTS_LARGE / 4; half += 32)
        for (unsigned shift = 8; shift > 0; shift -= 2)
            for (unsigned i = 0; i < 32; i++)
                *out++ =
                    (int8_t)((block->quants[half + i] >> (shift - 2) & 3) - 1);
}

const unsigned char *quants_integers(
    enum gguf_tensor_type type, const void *block, int8_t out[QUANTS_LARGE])
{
    static const unsigned char one[2] = {0x00, 0x3c};
    const struct block_q8_0 *q8_0 = block;
    const struct block_q4_0 *q4_0 = block;
    const struct block_tq1_0 *tq1_0 = block;
    const struct block_tq2_0 *tq2_0 = block;

    switch (type) {
    case GGUF_Q8_0:
        memcpy(out, q8_0->quants, QUANTS_SMALL);
        return q8_0->scale;
    case GGUF_Q4_0:
        unpack_q4_0(q4_0, out);
        return q4_0->scale;
    case GGUF_TQ1_0:
        unpack_tq1_0(tq1_0, out);
        return tq1_0->scale;
    case GGUF_TQ2_0:
        unpack_tq2_0(tq2_0, out);
        return tq2_0->scale;
    case GGUF_I2_S:
        unpack_i2_s(block, out);
        return one;
    case GGUF_F32:
    case GGUF_F16:
    case GGUF_BF16:
    case GGUF_Q4_K:
    case GGUF_Q5_K:
    case GGUF_Q6_K:
        break;
    }
    assert(false && "a type with blocks");
    return NULL;
}

static void dequantize_f16(const unsigned char *data, size_t n, float *out)
{
    for (size_t i = 0; i < n; i++)
        out[i] = quants_f16_to_f32(quants_load_u16(data + 2 * i));
}

static void dequantize_bf16(const unsigned char *data, size_t n, float *out)
{
    for (size_t i = 0; i < n; i++)
        out[i] = quants_bf16_to_f32(quants_load_u16(data + 2 * i));
}

static void dequantize_blocks(
    enum gguf_tensor_type type, const unsigned char *data, size_t n, float *out)
{
    const size_t block = gguf_type_block_elements(type);
    int8_t integers[QUANTS_LARGE];

    for (size_t at = 0; at < n; at += block) {
        const float scale = quants_f16_to_f32(
            quants_load_u16(quants_integers(type, data, integers)));

        for (size_t i = 0; i < block; i++)
            out[at + i] = scale * (float)integers[i];
        data += gguf_type_block_bytes(type);
    }
}

void quants_dequantize(
    enum gguf_tensor_type type, const void *data, size_t n, float *out)
{
    if (type == GGUF_F32)
        memcpy(out, data, n * sizeof *out);
    else if (type == GGUF_F16)
        dequantize_f16(data, n, out);
    else if (type == GGUF_BF16)
        dequantize_bf16(data, n, out);
    else if (quants_super_has(type))
        quants_super_dequantize(type, data, n, out);
    else
        dequantize_blocks(type, data, n, out);
}
