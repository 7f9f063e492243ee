#include "engine/quants_super.h"

#include <assert.h>

bool quants_super_has(enum gguf_tensor_type type)
{
    return type == GGUF_Q4_K || type == GGUF_Q5_K || type == GGUF_Q6_K;
}

struct quants_super_form quants_super_form(enum gguf_tensor_type type)
{
    assert(quants_super_has(type));
    if (type == GGUF_Q6_K)
        return (struct quants_super_form){.n_bits = 6, .part = 16, .zero = 32};
    return (struct quants_super_form){
        .n_bits = type == GGUF_Q4_K ? 4 : 5, .part = 32, .has_mins = true};
}

static void unpack_scales(
    const unsigned char packed[12], int8_t scales[8], uint8_t mins[8])
{
    for (unsigned i = 0; i < 4; i++) {
        scales[i] = (int8_t)(packed[i] & 63);
        mins[i] = packed[i + 4] & 63;
        scales[i + 4] = (int8_t)((packed[i + 8] & 15) | packed[i] >> 6 << 4);
        mins[i + 4] = (uint8_t)(packed[i + 8] >> 4 | packed[i + 4] >> 6 << 4);
    }
}

static void unpack_nibbles(
    const unsigned char quants[QUANTS_LARGE / 2], uint8_t *out)
{
    for (unsigned i = 0; i < QUANTS_LARGE / 2; i++) {
        uint8_t *low = out + i / 32 * 64 + i % 32;

        low[0] = quants[i] & 15;
        low[32] = quants[i] >> 4;
    }
}

static void unpack_q4_k(
    const struct block_q4_k *block, struct quants_super *out)
{
    memcpy(out->scale, block->scale, sizeof out->scale);
    memcpy(out->min, block->min, sizeof out->min);
    unpack_scales(block->packed, out->scales, out->mins);
    unpack_nibbles(block->quants, out->quants);
}

static void unpack_q5_k(
    const struct block_q5_k *block, struct quants_super *out)
{
    memcpy(out->scale, block->scale, sizeof out->scale);
    memcpy(out->min, block->min, sizeof out->min);
    unpack_scales(block->packed, out->scales, out->mins);
    unpack_nibbles(block->quants, out->quants);
    for (unsigned i = 0; i < QUANTS_LARGE; i++)
        out->quants[i] = (uint8_t)(out->quants[i] |
                                   (block->high[i % 32] >> i / 32 & 1) << 4);
}

static void unpack_q6_k(
    const struct block_q6_k *block, struct quants_super *out)
{
    memcpy(out->scale, block->scale, sizeof out->scale);
    memcpy(out->scales, block->scales, sizeof out->scales);
    for (unsigned i = 0; i < QUANTS_LARGE; i++) {
        const unsigned half = i / 128, k = i / 32 % 4, at = i % 32;
        const unsigned low =
            block->low[64 * half + 32 * (k % 2) + at] >> k / 2 * 4 & 15;
        const unsigned high = block->high[32 * half + at] >> 2 * k & 3;

        out->quants[i] = (uint8_t)(low | high << 4);
    }
}

void quants_super_unpack(
    enum gguf_tensor_type type, const void *block, struct quants_super *out)
{
    assert(quants_super_has(type));
    if (type == GGUF_Q4_K)
        unpack_q4_k(block, out);
    else if (type == GGUF_Q5_K)
        unpack_q5_k(block, out);
    else
        unpack_q6_k(block, out);
}

static void dequantize_part(const struct quants_super *block, uint32_t first,
    struct quants_super_form form, float *out)
{
    const uint32_t part = first / form.part;
    const float scale = quants_f16_to_f32(quants_load_u16(block->scale)) *
                        (float)block->scales[part];
    const float min = !form.has_mins
                          ? 0
                          : quants_f16_to_f32(quants_load_u16(block->min)) *
                                (float)block->mins[part];

    for (uint32_t i = first; i < first + form.part; i++)
        out[i] = scale * (float)(block->quants[i] - form.zero) - min;
}

void quants_super_dequantize(
    enum gguf_tensor_type type, const void *data, size_t n, float *out)
{
    const struct quants_super_form form = quants_super_form(type);
    const unsigned char *from = data;
    struct quants_super block;

    for (size_t at = 0; at < n; at += QUANTS_LARGE) {
        quants_super_unpack(type, from, &block);
        for (uint32_t i = 0; i < QUANTS_LARGE; i += form.part)
            dequantize_part(&block, i, form, out + at);
        from += gguf_type_block_bytes(type);
    }
}
