#include "engine/quants.h"

#include <assert.h>
#include <stdbool.h>

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

/* Trit `digit` of a byte of base 3 digits, most significant first. */
static uint8_t trit(unsigned byte, unsigned digit)
{
    static const unsigned powers[5] = {1, 3, 9, 27, 81};

    return (uint8_t)((byte * powers[digit] & 0xffu) * 3u >> 8);
}

void quants_unpack_tq1_0(
    const struct block_tq1_0 *block, uint8_t out[QUANTS_LARGE])
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

void quants_unpack_tq2_0(
    const struct block_tq2_0 *block, uint8_t out[QUANTS_LARGE])
{
    for (unsigned half = 0; half < QUANTS_LARGE / 4; half += 32)
        for (unsigned shift = 0; shift < 8; shift += 2)
            for (unsigned i = 0; i < 32; i++)
                *out++ = block->quants[half + i] >> shift & 3;
}

static void dequantize_f16(const unsigned char *data, size_t n, float *out)
{
    for (size_t i = 0; i < n; i++)
        out[i] = quants_f16_to_f32(quants_load_u16(data + 2 * i));
}

static void dequantize_q8_0(const struct block_q8_0 *block, float *out)
{
    const float scale = quants_f16_to_f32(quants_load_u16(block->scale));

    for (unsigned i = 0; i < QUANTS_SMALL; i++)
        out[i] = scale * (float)block->quants[i];
}

static void dequantize_q4_0(const struct block_q4_0 *block, float *out)
{
    const float scale = quants_f16_to_f32(quants_load_u16(block->scale));

    for (unsigned i = 0; i < QUANTS_SMALL / 2; i++) {
        out[i] = scale * (float)((block->quants[i] & 15) - 8);
        out[i + QUANTS_SMALL / 2] =
            scale * (float)((block->quants[i] >> 4) - 8);
    }
}

static void dequantize_ternary(
    const uint8_t trits[QUANTS_LARGE], const unsigned char scale[2], float *out)
{
    const float d = quants_f16_to_f32(quants_load_u16(scale));

    for (unsigned i = 0; i < QUANTS_LARGE; i++)
        out[i] = d * (float)(trits[i] - 1);
}

void quants_dequantize(
    enum gguf_tensor_type type, const void *data, size_t n, float *out)
{
    const struct block_q8_0 *q8_0 = data;
    const struct block_q4_0 *q4_0 = data;
    const struct block_tq1_0 *tq1_0 = data;
    const struct block_tq2_0 *tq2_0 = data;
    uint8_t trits[QUANTS_LARGE];

    switch (type) {
    case GGUF_F32:
        memcpy(out, data, n * sizeof *out);
        return;
    case GGUF_F16:
        dequantize_f16(data, n, out);
        return;
    case GGUF_Q8_0:
        for (size_t i = 0; i < n; i += QUANTS_SMALL)
            dequantize_q8_0(q8_0++, out + i);
        return;
    case GGUF_Q4_0:
        for (size_t i = 0; i < n; i += QUANTS_SMALL)
            dequantize_q4_0(q4_0++, out + i);
        return;
    case GGUF_TQ1_0:
        for (size_t i = 0; i < n; i += QUANTS_LARGE, tq1_0++) {
            quants_unpack_tq1_0(tq1_0, trits);
            dequantize_ternary(trits, tq1_0->scale, out + i);
        }
        return;
    case GGUF_TQ2_0:
        for (size_t i = 0; i < n; i += QUANTS_LARGE, tq2_0++) {
            quants_unpack_tq2_0(tq2_0, trits);
            dequantize_ternary(trits, tq2_0->scale, out + i);
        }
        return;
    }
    assert(false && "a tensor type that gguf_open lets through");
}
