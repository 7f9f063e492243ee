/* The reference for super-blocks: a block's products are summed as integers,
 * exactly, those of its parts times their scales; what the minimums take off is
 * summed likewise; each then meets a scale of the block and of the activations
 * once. */
#include "engine/kernels_scalar.h"

#include <math.h>

#include "engine/quants_super.h"

/* The exact sums of a block and a token. */
struct super_sums {
    int32_t dot;  /* of scales * (quants - zero) * activations */
    int32_t mins; /* of mins * activations */
};

static struct super_sums sum_block(const struct quants_super *block,
    struct quants_super_form form, const int8_t *quants)
{
    struct super_sums sums = {0};

    for (uint32_t part = 0; part < QUANTS_LARGE / form.part; part++) {
        int32_t dot = 0, sum = 0;

        for (uint32_t i = part * form.part; i < (part + 1) * form.part; i++) {
            dot += (block->quants[i] - form.zero) * quants[i];
            sum += quants[i];
        }
        sums.dot += block->scales[part] * dot;
        sums.mins += form.has_mins ? block->mins[part] * sum : 0;
    }
    return sums;
}

/* A block of a row times that block of all the tokens, added to sums, which lie
 * n_rows apart. */
static void add_block(const struct quants_super *block,
    struct quants_super_form form, size_t b, const struct activations *x,
    float *sums, size_t n_rows)
{
    const float scale = quants_f16_to_f32(quants_load_u16(block->scale));
    const float min = quants_f16_to_f32(quants_load_u16(block->min));
    const size_t n_blocks = x->n_cols / QUANTS_LARGE;

    for (uint32_t token = 0; token < x->n_rows; token++, sums += n_rows) {
        const float x_scale = x->large.scales[token * n_blocks + b];
        const struct super_sums block_sums = sum_block(block, form,
            x->large.quants + (size_t)token * x->n_cols + b * QUANTS_LARGE);

        *sums = fmaf((float)block_sums.dot, scale * x_scale, *sums);
        if (form.has_mins)
            *sums = fmaf(-(float)block_sums.mins, min * x_scale, *sums);
    }
}

void scalar_matmul_super(const struct weight *weight, uint32_t begin,
    uint32_t end, const struct activations *x, float *out)
{
    const struct quants_super_form form = quants_super_form(weight->type);
    const size_t block_bytes = gguf_type_block_bytes(weight->type);
    const size_t n_blocks = weight->n_cols / QUANTS_LARGE;
    const size_t n_rows = weight->n_rows;
    struct quants_super block = {0};

    for (size_t row = begin; row < end; row++) {
        const unsigned char *data =
            (const unsigned char *)weight->data + row * n_blocks * block_bytes;

        for (uint32_t token = 0; token < x->n_rows; token++)
            out[token * n_rows + row] = 0;
        for (size_t b = 0; b < n_blocks; b++, data += block_bytes) {
            quants_super_unpack(weight->type, data, &block);
            add_block(&block, form, b, x, out + row, n_rows);
        }
        for (uint32_t token = 0; token < x->n_rows; token++)
            out[token * n_rows + row] *= weight->scale;
    }
}

void scalar_sum_parts(const int8_t *quants, size_t n, int16_t *sums)
{
    for (size_t i = 0; i < n / ACTIVATION_PART; i++) {
        int sum = 0;

        for (size_t j = 0; j < ACTIVATION_PART; j++)
            sum += quants[i * ACTIVATION_PART + j];
        sums[i] = (int16_t)sum;
    }
}
