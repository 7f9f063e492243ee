/* Where packed weights lie; what is computed with them is in test_kernels.c. */
#include <stdlib.h>
#include <string.h>

#include "engine/matrices.h"
#include "engine/quants_super.h"
#include "tests/engine/engine_fixture.h"
#include "tests/support/check_main.h"

#define N_ROWS 21
#define N_COLS 512

static unsigned char data[N_ROWS * N_COLS * 2];
static _Alignas(
    PACKED_LINE) unsigned char panels[2 * PACKED_ROWS *
                                      (N_COLS + 2 * N_COLS / QUANTS_SMALL)];

/* Any bytes but 3 in a field of TQ2_0 are weights; that one is kept too. */
static struct packed pack(enum gguf_tensor_type type, struct weight *weight)
{
    struct packed packed;

    for (size_t i = 0; i < sizeof data; i++)
        data[i] = (unsigned char)(i * 2654435761u >> 11);
    *weight = (struct weight){type, N_ROWS, N_COLS, data, 1};
    ck_assert(packed_plan(&packed, weight));
    ck_assert_uint_eq(packed_n_panels(&packed), 2);
    ck_assert_uint_le(2 * packed.panel_bytes, sizeof panels);
    ck_assert_uint_eq(packed.panel_bytes % PACKED_LINE, 0);
    memset(panels, 0, sizeof panels);
    packed.panels = panels;
    packed_fill(&packed, weight, 0, 2);
    return packed;
}

/* By the drawing in packed.h, one integer at a time. */
static int32_t integer_at(
    const struct packed *packed, uint32_t row, uint32_t col)
{
    const uint32_t n_fields = 8 / packed->n_bits;
    const uint32_t step = col / PACKED_STEP;
    const unsigned char *line =
        packed->panels + row / PACKED_ROWS * packed->panel_bytes +
        packed->scales_bytes + (size_t)step / n_fields * PACKED_LINE;
    const unsigned char byte =
        line[row % PACKED_ROWS * PACKED_STEP + col % PACKED_STEP];

    if (packed->n_bits == 8)
        return (int8_t)byte;
    return (byte >> step % n_fields * packed->n_bits &
               ((1 << packed->n_bits) - 1)) -
           packed_zero(packed->n_bits);
}

static void check_row(
    const struct packed *packed, const struct weight *weight, uint32_t row)
{
    const size_t block_bytes = gguf_type_block_bytes(weight->type);
    const uint32_t n_groups = N_COLS / packed->group;
    const unsigned char *block = data + row * n_groups * block_bytes;
    int8_t integers[QUANTS_LARGE];

    for (uint32_t g = 0; g < n_groups; g++, block += block_bytes) {
        const unsigned char *scale =
            quants_integers(weight->type, block, integers);
        const size_t at = ((size_t)g * PACKED_ROWS + row % PACKED_ROWS) * 2;

        ck_assert_mem_eq(scale,
            packed->panels + row / PACKED_ROWS * packed->panel_bytes + at, 2);
        for (uint32_t i = 0; i < packed->group; i++)
            if (integer_at(packed, row, g * packed->group + i) != integers[i])
                ck_abort_msg("row %u, column %u", row, g * packed->group + i);
    }
}

static const enum gguf_tensor_type types[] = {
    GGUF_Q8_0, GGUF_Q4_0, GGUF_TQ1_0, GGUF_TQ2_0, GGUF_I2_S};
static const enum gguf_tensor_type super_types[] = {
    GGUF_Q4_K, GGUF_Q5_K, GGUF_Q6_K};

START_TEST(every_integer_and_scale_lies_where_the_drawing_says)
{
    for (size_t i = 0; i < sizeof types / sizeof *types; i++) {
        struct weight weight;
        const struct packed packed = pack(types[i], &weight);

        for (uint32_t row = 0; row < N_ROWS; row++)
            check_row(&packed, &weight, row);
    }
}
END_TEST

/* A field of n_bits of a block's lines. */
static uint32_t field_at(
    const unsigned char *lines, uint32_t n_bits, uint32_t row, uint32_t col)
{
    const uint32_t n_fields = 8 / n_bits, step = col / PACKED_STEP;
    const unsigned char byte = lines[step / n_fields * PACKED_LINE +
                                     row * PACKED_STEP + col % PACKED_STEP];

    return byte >> step % n_fields * n_bits & ((1u << n_bits) - 1);
}

static uint32_t super_quant_at(
    const struct packed *packed, uint32_t row, uint32_t col)
{
    const unsigned char *lines =
        packed->panels + row / PACKED_ROWS * packed->panel_bytes +
        packed->scales_bytes + col / PACKED_BLOCK * packed_block_bytes(packed);
    const uint32_t at = row % PACKED_ROWS, i = col % PACKED_BLOCK;

    return field_at(lines, 4, at, i) |
           (packed->n_high_bits == 0 ? 0
                                     : field_at(lines + (size_t)4 * PACKED_LINE,
                                           packed->n_high_bits, at, i)
                                           << 4);
}

/* The scales of group g, in the order of the drawing. */
static void check_super_scales(const struct packed *packed,
    const struct quants_super *block, uint32_t row, uint32_t g)
{
    const uint32_t n_parts = packed->group / packed->part;
    const unsigned char *at =
        packed->panels + row / PACKED_ROWS * packed->panel_bytes +
        g * packed_scale_bytes(packed->group, packed->part, packed->has_mins);

    row %= PACKED_ROWS;
    ck_assert_mem_eq(at + row * (size_t)2, block->scale, 2);
    at += (size_t)2 * PACKED_ROWS;
    if (packed->has_mins) {
        ck_assert_mem_eq(at + row * (size_t)2, block->min, 2);
        at += (size_t)2 * PACKED_ROWS;
    }
    for (uint32_t p = 0; p < n_parts; p++, at += PACKED_ROWS)
        ck_assert_int_eq((int8_t)at[row], block->scales[p]);
    for (uint32_t p = 0; packed->has_mins && p < n_parts;
         p++, at += PACKED_ROWS)
        ck_assert_int_eq(at[row], block->mins[p]);
}

START_TEST(every_part_of_a_super_block_lies_where_the_drawing_says)
{
    for (size_t i = 0; i < sizeof super_types / sizeof *super_types; i++) {
        const size_t block_bytes = gguf_type_block_bytes(super_types[i]);
        struct weight weight;
        const struct packed packed = pack(super_types[i], &weight);

        ck_assert_uint_eq(packed.part, quants_super_form(super_types[i]).part);
        for (uint32_t row = 0; row < N_ROWS; row++)
            for (uint32_t g = 0; g < N_COLS / QUANTS_LARGE; g++) {
                struct quants_super block;

                quants_super_unpack(super_types[i],
                    data + (row * (N_COLS / QUANTS_LARGE) + g) * block_bytes,
                    &block);
                check_super_scales(&packed, &block, row, g);
                for (uint32_t c = 0; c < QUANTS_LARGE; c++)
                    if (super_quant_at(&packed, row, g * QUANTS_LARGE + c) !=
                        block.quants[c])
                        ck_abort_msg("row %u, column %u", row, c);
            }
    }
}
END_TEST

/* 4.5, 5.5 and 6.5625 bits in the file. */
START_TEST(super_blocks_take_hardly_more_memory_than_in_the_file)
{
    static const double bits[] = {4.625, 5.625, 6.5625};

    for (size_t i = 0; i < sizeof super_types / sizeof *super_types; i++) {
        const struct weight weight = {super_types[i], 16, 2048, data, 1};
        struct packed packed;

        ck_assert(packed_plan(&packed, &weight));
        ck_assert_double_eq(
            8 * (double)packed.panel_bytes / (16 * 2048), bits[i]);
    }
}
END_TEST

/* So whatever their fields are, they add nothing. */
START_TEST(rows_that_are_not_there_have_a_scale_of_zero)
{
    static const unsigned char zero[2];

    for (size_t i = 0; i < sizeof types / sizeof *types; i++) {
        struct weight weight;
        const struct packed packed = pack(types[i], &weight);

        for (uint32_t g = 0; g < N_COLS / packed.group; g++)
            for (uint32_t r = N_ROWS % PACKED_ROWS; r < PACKED_ROWS; r++)
                ck_assert_mem_eq(zero,
                    packed.panels + packed.panel_bytes +
                        ((size_t)g * PACKED_ROWS + r) * 2,
                    2);
    }
}
END_TEST

START_TEST(floats_are_not_packed)
{
    static const enum gguf_tensor_type floats[] = {
        GGUF_F32, GGUF_F16, GGUF_BF16};

    for (size_t i = 0; i < sizeof floats / sizeof *floats; i++) {
        const struct weight weight = {floats[i], N_ROWS, N_COLS, data, 1};
        struct packed packed;

        ck_assert(!packed_plan(&packed, &weight));
    }
}
END_TEST

/* The reference computes on the file; the others say what they keep. */
START_TEST(packed_bytes_are_those_of_the_panels)
{
    struct engine engine;
    size_t n_bytes = 0;

    engine_open(&engine,
        &(struct engine_config){ENGINE_DEMO, "scalar", KV_TYPE_F16, 2, 16});
    ck_assert_uint_eq(compute_repacked_bytes(engine.compute), 0);
    for (uint32_t l = 0; l < engine.model->shape.n_layers; l++) {
        const struct model_layer *layer = &engine.model->layers[l];
        const struct weight *weights[] = {&layer->q, &layer->k, &layer->v,
            &layer->attn_output, &layer->gate, &layer->up, &layer->down};

        for (size_t i = 0; i < N_MATRIX_ROLES; i++) {
            struct packed packed;

            if (packed_plan(&packed, weights[i]))
                n_bytes += packed_n_panels(&packed) * packed.panel_bytes;
        }
    }
    engine_close(&engine);
    ck_assert_uint_gt(n_bytes, 0);
    engine_open(&engine,
        &(struct engine_config){ENGINE_DEMO, "auto", KV_TYPE_F16, 2, 16});
    if (strcmp(compute_kernels(engine.compute), "scalar") != 0)
        ck_assert_uint_ge(compute_repacked_bytes(engine.compute), n_bytes);
    engine_close(&engine);
}
END_TEST

int main(void)
{
    const TTest *tests[] = {
        every_integer_and_scale_lies_where_the_drawing_says,
        every_part_of_a_super_block_lies_where_the_drawing_says,
        super_blocks_take_hardly_more_memory_than_in_the_file,
        rows_that_are_not_there_have_a_scale_of_zero,
        floats_are_not_packed,
        packed_bytes_are_those_of_the_panels,
    };

    return CHECK_RUN("packed", NULL, NULL, tests);
}
