#include "engine/packed.h"

#include <string.h>

#include "engine/quants_super.h"

static uint32_t bits_of(enum gguf_tensor_type type)
{
    switch (type) {
    case GGUF_F32:
    case GGUF_F16:
    case GGUF_BF16:
        return 0;
    case GGUF_Q8_0:
        return 8;
    case GGUF_Q4_0:
    case GGUF_Q4_K:
    case GGUF_Q5_K:
    case GGUF_Q6_K:
        return 4;
    case GGUF_TQ1_0:
    case GGUF_TQ2_0:
    case GGUF_I2_S:
        return 2;
    }
    return 0;
}

bool packed_plan(struct packed *out, const struct weight *weight)
{
    const uint32_t n_bits = bits_of(weight->type);
    struct quants_super_form form = {0};
    size_t scales_bytes;

    if (n_bits == 0)
        return false;
    if (quants_super_has(weight->type))
        form = quants_super_form(weight->type);
    *out = (struct packed){
        .n_rows = weight->n_rows,
        .n_cols = weight->n_cols,
        .n_bits = n_bits,
        .n_high_bits = form.part == 0 ? 0 : form.n_bits - n_bits,
        .part = form.part,
        .has_mins = form.has_mins,
        .group = (uint32_t)gguf_type_block_elements(weight->type),
        .scale = weight->scale,
    };
    scales_bytes = weight->n_cols / out->group *
                   packed_scale_bytes(out->group, out->part, out->has_mins);
    out->scales_bytes =
        (scales_bytes + PACKED_LINE - 1) / PACKED_LINE * PACKED_LINE;
    out->panel_bytes = out->scales_bytes +
                       weight->n_cols / PACKED_BLOCK * packed_block_bytes(out);
    return true;
}

/* Fields of a row's block, four columns at a time, which stay side by side in
 * their bytes. */
static void fill_lines(const uint8_t fields[PACKED_BLOCK], uint32_t n_bits,
    uint32_t row, unsigned char *lines)
{
    const uint32_t n_fields = 8 / n_bits;

    for (uint32_t step = 0; step < PACKED_STEPS; step++) {
        unsigned char *to =
            lines + step / n_fields * PACKED_LINE + row * (size_t)PACKED_STEP;
        const uint32_t shift = step % n_fields * n_bits;

        for (uint32_t i = 0; i < PACKED_STEP; i++)
            to[i] = (unsigned char)(to[i] | fields[step * PACKED_STEP + i]
                                                << shift);
    }
}

static void fill_row_block(const struct packed *packed, const int8_t *integers,
    uint32_t row, unsigned char *lines)
{
    const int32_t zero = packed_zero(packed->n_bits);
    uint8_t fields[PACKED_BLOCK];

    for (uint32_t i = 0; i < PACKED_BLOCK; i++)
        fields[i] = (uint8_t)(integers[i] + zero);
    fill_lines(fields, packed->n_bits, row, lines);
}

/* Low bits, then high ones. */
static void fill_super_block(const struct packed *packed, const uint8_t *quants,
    uint32_t row, unsigned char *lines)
{
    const size_t low_bytes =
        (size_t)PACKED_ROWS * PACKED_BLOCK / 8 * packed->n_bits;
    uint8_t low[PACKED_BLOCK], high[PACKED_BLOCK];

    for (uint32_t i = 0; i < PACKED_BLOCK; i++) {
        low[i] = (uint8_t)(quants[i] & ((1u << packed->n_bits) - 1));
        high[i] = (uint8_t)(quants[i] >> packed->n_bits);
    }
    fill_lines(low, packed->n_bits, row, lines);
    if (packed->n_high_bits > 0)
        fill_lines(high, packed->n_high_bits, row, lines + low_bytes);
}

/* `scales` is the group's. */
static void fill_super_scales(const struct packed *packed,
    const struct quants_super *block, uint32_t row, unsigned char *scales)
{
    const uint32_t n_parts = packed->group / packed->part;
    const size_t half_bytes = PACKED_ROWS * sizeof(uint16_t);

    memcpy(scales + row * sizeof(uint16_t), block->scale, sizeof block->scale);
    scales += half_bytes;
    if (packed->has_mins) {
        memcpy(scales + row * sizeof(uint16_t), block->min, sizeof block->min);
        scales += half_bytes;
    }
    for (uint32_t p = 0; p < n_parts; p++)
        scales[p * PACKED_ROWS + row] = (unsigned char)block->scales[p];
    scales += (size_t)n_parts * PACKED_ROWS;
    for (uint32_t p = 0; packed->has_mins && p < n_parts; p++)
        scales[p * PACKED_ROWS + row] = block->mins[p];
}

static void fill_super_row(const struct packed *packed,
    const struct weight *weight, uint32_t row, unsigned char *panel)
{
    const size_t file_bytes = gguf_type_block_bytes(weight->type);
    const size_t n_groups = packed->n_cols / packed->group;
    const unsigned char *from =
        (const unsigned char *)weight->data + row * n_groups * file_bytes;
    unsigned char *lines = panel + packed->scales_bytes;
    struct quants_super block;

    for (size_t g = 0; g < n_groups; g++, from += file_bytes) {
        quants_super_unpack(weight->type, from, &block);
        fill_super_scales(packed, &block, row % PACKED_ROWS, panel);
        panel +=
            packed_scale_bytes(packed->group, packed->part, packed->has_mins);
        for (uint32_t at = 0; at < packed->group; at += PACKED_BLOCK) {
            fill_super_block(
                packed, block.quants + at, row % PACKED_ROWS, lines);
            lines += packed_block_bytes(packed);
        }
    }
}

static void fill_row(const struct packed *packed, const struct weight *weight,
    uint32_t row, unsigned char *panel)
{
    const size_t file_bytes = gguf_type_block_bytes(weight->type);
    const size_t n_groups = packed->n_cols / packed->group;
    const unsigned char *from =
        (const unsigned char *)weight->data + row * n_groups * file_bytes;
    unsigned char *scales = panel + row % PACKED_ROWS * sizeof(uint16_t);
    unsigned char *lines = panel + packed->scales_bytes;
    int8_t integers[QUANTS_LARGE];

    for (size_t g = 0; g < n_groups; g++, from += file_bytes) {
        memcpy(scales + g * PACKED_ROWS * sizeof(uint16_t),
            quants_integers(weight->type, from, integers), sizeof(uint16_t));
        for (uint32_t at = 0; at < packed->group; at += PACKED_BLOCK) {
            fill_row_block(packed, integers + at, row % PACKED_ROWS, lines);
            lines += packed_block_bytes(packed);
        }
    }
}

void packed_fill(const struct packed *packed, const struct weight *weight,
    uint32_t begin, uint32_t end)
{
    for (uint32_t p = begin; p < end; p++) {
        unsigned char *panel = packed->panels + p * packed->panel_bytes;

        for (uint32_t row = p * PACKED_ROWS;
             row < packed->n_rows && row / PACKED_ROWS == p; row++)
            if (packed->part > 0)
                fill_super_row(packed, weight, row, panel);
            else
                fill_row(packed, weight, row, panel);
    }
}
