#include "engine/packed.h"

#include <string.h>

#include "engine/quants.h"

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
        return 4;
    case GGUF_TQ1_0:
    case GGUF_TQ2_0:
        return 2;
    }
    return 0;
}

bool packed_plan(struct packed *out, const struct weight *weight)
{
    const uint32_t n_bits = bits_of(weight->type);
    size_t n_groups, scales_bytes;

    if (n_bits == 0)
        return false;
    *out = (struct packed){
        .n_rows = weight->n_rows,
        .n_cols = weight->n_cols,
        .n_bits = n_bits,
        .group = (uint32_t)gguf_type_block_elements(weight->type),
        .scale = weight->scale,
    };
    n_groups = weight->n_cols / out->group;
    scales_bytes = n_groups * PACKED_ROWS * sizeof(uint16_t);
    out->scales_bytes =
        (scales_bytes + PACKED_LINE - 1) / PACKED_LINE * PACKED_LINE;
    out->panel_bytes = out->scales_bytes +
                       weight->n_cols / PACKED_BLOCK * packed_block_bytes(out);
    return true;
}

/* Four columns at a time, which stay side by side in their bytes. */
static void fill_row_block(const struct packed *packed, const int8_t *integers,
    uint32_t row, unsigned char *lines)
{
    const uint32_t n_fields = 8 / packed->n_bits;
    const int32_t zero = packed_zero(packed->n_bits);

    for (uint32_t step = 0; step < PACKED_STEPS; step++) {
        unsigned char *to =
            lines + step / n_fields * PACKED_LINE + row * (size_t)PACKED_STEP;
        const uint32_t shift = step % n_fields * packed->n_bits;
        uint8_t fields[PACKED_STEP];

        for (uint32_t i = 0; i < PACKED_STEP; i++)
            fields[i] = (uint8_t)(integers[step * PACKED_STEP + i] + zero);
        for (uint32_t i = 0; i < PACKED_STEP; i++)
            to[i] = (unsigned char)(to[i] | fields[i] << shift);
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

        for (uint32_t r = 0; r < PACKED_ROWS; r++)
            if (p * PACKED_ROWS + r < packed->n_rows)
                fill_row(packed, weight, p * PACKED_ROWS + r, panel);
    }
}
