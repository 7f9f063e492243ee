/* How a product with packed weights is taken apart, the same for every
 * instruction set: to be included by the file of each, which brings the tile.
 *
 * A tile is a stretch of a panel's columns and a few tokens, whose sums stay in
 * registers; fields are unpacked there, which costs less than to store what was
 * unpacked. A stretch and its tokens fit into the first cache together. However
 * it is cut, a row's groups are added to its sum in the order of the columns,
 * one by one. */
#ifndef ENGINE_KERNELS_PACKED_H
#define ENGINE_KERNELS_PACKED_H

#include <string.h>

#include "engine/kernels.h"
#include "engine/quants_super.h"

/* Everything below is written once, over constants that are known where it is
 * called, and must be inlined there. */
#define PACKED_INLINE static inline __attribute__((always_inline))

#define PACKED_TOGETHER 32  /* tokens */
#define PACKED_STRETCH 1024 /* columns */

/* How the weights of a tile lie. */
struct packed_form {
    uint32_t n_bits, group;
    uint32_t n_fields; /* of a line's byte */
    /* Of super-blocks. */
    uint32_t n_high_bits, part;
    bool has_mins;
};

/* Where a tile begins. */
struct packed_tile {
    const unsigned char *scales, *lines;
    size_t n_groups;
    const int8_t *quants;  /* of the tile's tokens, as activations.h has it */
    size_t column;         /* of the tile */
    const float *x_scales; /* [n_tokens][x_stride] */
    const int32_t *x_sums;
    const int16_t *x_parts; /* [n_tokens][n_cols / ACTIVATION_PART] */
    size_t n_cols, x_stride;
};

/* Where the quants of group g begin. */
PACKED_INLINE const int8_t *packed_quants(const struct packed_tile *tile,
    size_t g, size_t n_tokens, struct packed_form form)
{
    return tile->quants + (tile->column + g * form.group) * n_tokens;
}

/* Four bytes, as a register repeats them: of a token the quants of a step. */
PACKED_INLINE int32_t packed_four(const void *bytes)
{
    int32_t four;

    memcpy(&four, bytes, sizeof four);
    return four;
}

/* sums[token] += the tile's products. n_tokens is 1, 2, 4 or 8. */
typedef void (*packed_add_cb)(const struct packed_tile *tile, size_t n_tokens,
    struct packed_form form, float (*sums)[PACKED_ROWS]);

/* What a file brings: its tile, and the most tokens that it should have, which
 * are those that lie abreast. */
struct packed_ways {
    packed_add_cb add;
    size_t max_tokens;
};

/* Of a group's lines. */
PACKED_INLINE size_t packed_group_bytes(struct packed_form form)
{
    return (size_t)form.group * PACKED_ROWS / 8 *
           (form.n_bits + form.n_high_bits);
}

/* Of the lines that hold the lower bits of a block. */
PACKED_INLINE size_t packed_low_bytes(struct packed_form form)
{
    return (size_t)PACKED_STEPS / form.n_fields * PACKED_LINE;
}

/* Tiles of n tokens as long as so many are left; returns how many are not. */
PACKED_INLINE size_t packed_add_tiles(struct packed_tile *tile, size_t n_tokens,
    size_t n, struct packed_form form, struct packed_ways ways,
    float (*sums)[PACKED_ROWS])
{
    for (; n_tokens >= n; n_tokens -= n, sums += n) {
        ways.add(tile, n, form, sums);
        tile->quants += n * tile->n_cols;
        tile->x_scales += n * tile->x_stride;
        tile->x_sums += n * tile->x_stride;
        if (form.part > 0)
            tile->x_parts += n * tile->n_cols / ACTIVATION_PART;
    }
    return n_tokens;
}

PACKED_INLINE void packed_add_tokens(struct packed_tile tile, size_t n_tokens,
    struct packed_form form, struct packed_ways ways,
    float (*sums)[PACKED_ROWS])
{
    float(*end)[PACKED_ROWS] = sums + n_tokens;
    size_t left = n_tokens;

    if (ways.max_tokens >= 8)
        left = packed_add_tiles(&tile, left, 8, form, ways, end - left);
    if (ways.max_tokens >= 4)
        left = packed_add_tiles(&tile, left, 4, form, ways, end - left);
    left = packed_add_tiles(&tile, left, 2, form, ways, end - left);
    packed_add_tiles(&tile, left, 1, form, ways, end - left);
}

/* All columns of a panel, stretch by stretch. */
PACKED_INLINE void packed_add_stretches(struct packed_tile tile,
    size_t n_tokens, struct packed_form form, struct packed_ways ways,
    float (*sums)[PACKED_ROWS])
{
    const size_t n_at_once = PACKED_STRETCH / form.group;

    for (size_t left = tile.n_groups; left > 0; left -= tile.n_groups) {
        const size_t n = left < n_at_once ? left : n_at_once;

        tile.n_groups = n;
        packed_add_tokens(tile, n_tokens, form, ways, sums);
        tile.scales +=
            n * packed_scale_bytes(form.group, form.part, form.has_mins);
        tile.lines += n * packed_group_bytes(form);
        tile.column += n * form.group;
        tile.x_scales += n;
        tile.x_sums += n;
        if (form.part > 0)
            tile.x_parts += n * form.group / ACTIVATION_PART;
    }
}

/* The rows that there are of a panel's sums. */
PACKED_INLINE void packed_store(const struct packed *weight, uint32_t panel,
    uint32_t n_tokens, float (*sums)[PACKED_ROWS], float *out)
{
    const size_t row = (size_t)panel * PACKED_ROWS;
    const size_t left = weight->n_rows - row;
    const size_t n = left < PACKED_ROWS ? left : PACKED_ROWS;
    const float scale = weight->scale;

    out += row;
    for (size_t t = 0; t < n_tokens; t++, out += weight->n_rows)
        for (size_t i = 0; i < n; i++)
            out[i] = scale * sums[t][i];
}

PACKED_INLINE void packed_multiply_panel(const struct packed *weight,
    uint32_t panel, const struct activations *x, uint32_t token,
    uint32_t n_tokens, struct packed_form form, struct packed_ways ways,
    float *out)
{
    _Alignas(PACKED_LINE) float sums[PACKED_TOGETHER][PACKED_ROWS];
    const unsigned char *data =
        weight->panels + (size_t)panel * weight->panel_bytes;
    const struct activation_quants *quants =
        form.group == QUANTS_SMALL ? &x->small : &x->large;
    const size_t n_groups = x->n_cols / form.group;
    const struct packed_tile tile = {
        .scales = data,
        .lines = data + weight->scales_bytes,
        .n_groups = n_groups,
        .quants = quants->quants + (size_t)token * x->n_cols,
        .x_scales = quants->scales + token * n_groups,
        .x_sums = quants->sums + token * n_groups,
        .x_parts = form.part == 0
                       ? NULL
                       : x->part_sums + token * (x->n_cols / ACTIVATION_PART),
        .n_cols = x->n_cols,
        .x_stride = n_groups,
    };

    memset(sums, 0, n_tokens * sizeof *sums);
    if (n_tokens == 1)
        ways.add(&tile, 1, form, sums);
    else
        packed_add_stretches(tile, n_tokens, form, ways, sums);
    packed_store(
        weight, panel, n_tokens, sums, out + (size_t)token * weight->n_rows);
}

PACKED_INLINE void packed_multiply_panels(const struct packed *weight,
    uint32_t begin, uint32_t end, const struct activations *x, float *out,
    struct packed_form form, struct packed_ways ways)
{
    for (uint32_t token = 0; token < x->n_rows; token += PACKED_TOGETHER) {
        const uint32_t left = x->n_rows - token;
        const uint32_t n = left < PACKED_TOGETHER ? left : PACKED_TOGETHER;

        for (uint32_t panel = begin; panel < end; panel++)
            packed_multiply_panel(weight, panel, x, token, n, form, ways, out);
    }
}

PACKED_INLINE void packed_multiply(const struct packed *weight, uint32_t begin,
    uint32_t end, const struct activations *x, float *out,
    struct packed_ways ways)
{
    const struct packed_form bytes = {
        .n_bits = 8, .group = QUANTS_SMALL, .n_fields = 1};
    const struct packed_form nibbles = {
        .n_bits = 4, .group = QUANTS_SMALL, .n_fields = 2};
    const struct packed_form trits = {
        .n_bits = 2, .group = QUANTS_LARGE, .n_fields = 4};

    if (weight->n_bits == 8)
        packed_multiply_panels(weight, begin, end, x, out, bytes, ways);
    else if (weight->n_bits == 4)
        packed_multiply_panels(weight, begin, end, x, out, nibbles, ways);
    else
        packed_multiply_panels(weight, begin, end, x, out, trits, ways);
}

/* The same for what were super-blocks of 4, 5 or 6 bits. */
PACKED_INLINE void packed_multiply_super(const struct packed *weight,
    uint32_t begin, uint32_t end, const struct activations *x, float *out,
    struct packed_ways ways)
{
    const struct packed_form four = {.n_bits = 4,
        .group = QUANTS_LARGE,
        .n_fields = 2,
        .part = 32,
        .has_mins = true};
    const struct packed_form five = {.n_bits = 4,
        .group = QUANTS_LARGE,
        .n_fields = 2,
        .n_high_bits = 1,
        .part = 32,
        .has_mins = true};
    const struct packed_form six = {.n_bits = 4,
        .group = QUANTS_LARGE,
        .n_fields = 2,
        .n_high_bits = 2,
        .part = 16};

    if (weight->n_high_bits == 0)
        packed_multiply_panels(weight, begin, end, x, out, four, ways);
    else if (weight->n_high_bits == 1)
        packed_multiply_panels(weight, begin, end, x, out, five, ways);
    else
        packed_multiply_panels(weight, begin, end, x, out, six, ways);
}

#endif
