/* From products to what attention yields. */
#include <string.h>

#include "engine/attention.h"
#include "engine/forward_internal.h"
#include "engine/quants.h"

/* Bias, norm of each head, rotation. */
static void finish_heads(struct forward *f, size_t token, float *heads,
    uint32_t n_heads, const float *bias, const float *norm)
{
    const struct model_shape *shape = &f->model->shape;
    const size_t n = shape->head_dim, n_pairs = shape->rope.n_dims / 2;

    if (bias != NULL)
        f->kernels->add(heads, bias, n_heads * n);
    if (norm != NULL)
        for (uint32_t h = 0; h < n_heads; h++)
            f->kernels->rms_norm(
                heads + h * n, heads + h * n, norm, n, shape->norm_epsilon);
    rope_rotate(&shape->rope, f->cosines + token * n_pairs,
        f->sines + token * n_pairs, heads, n_heads, n);
}

static void store_q8_0(
    struct forward *f, unsigned char *to, const float *row, size_t n)
{
    for (size_t i = 0; i < n; i += QUANTS_SMALL) {
        struct block_q8_0 block;
        float scale;
        int32_t sum;
        uint16_t half;

        f->kernels->quantize(
            row + i, QUANTS_SMALL, QUANTS_SMALL, block.quants, &scale, &sum);
        half = quants_f32_to_f16(scale);
        memcpy(block.scale, &half, sizeof half);
        memcpy(to, &block, sizeof block);
        to += sizeof block;
    }
}

static void store_row(struct forward *f, const struct forward_token *token,
    enum kv_part part, const float *row, size_t n)
{
    unsigned char *to = kv_layout_row(&f->layout, token->slice->blocks,
        f->layer_index, part, token->position);

    if (f->layout.type == KV_TYPE_F32)
        memcpy(to, row, n * sizeof *row);
    else if (f->layout.type == KV_TYPE_Q8_0)
        store_q8_0(f, to, row, n);
    else
        f->kernels->to_f16((void *)to, row, n);
}

void forward_store_heads(void *ctx, size_t begin, size_t end, uint32_t thread)
{
    struct forward *f = ctx;
    const struct model_shape *shape = &f->model->shape;
    const size_t n_q = (size_t)shape->n_heads * shape->head_dim;
    const size_t n_kv = (size_t)shape->n_kv_heads * shape->head_dim;
    const struct model_layer *layer = f->layer;

    (void)thread;
    for (size_t t = begin; t < end; t++) {
        finish_heads(
            f, t, f->q + t * n_q, shape->n_heads, layer->q_bias, layer->q_norm);
        finish_heads(f, t, f->k + t * n_kv, shape->n_kv_heads, layer->k_bias,
            layer->k_norm);
        if (layer->v_bias != NULL)
            f->kernels->add(f->v + t * n_kv, layer->v_bias, n_kv);
        store_row(f, &f->tokens[t], KV_PART_KEYS, f->k + t * n_kv, n_kv);
        store_row(f, &f->tokens[t], KV_PART_VALUES, f->v + t * n_kv, n_kv);
    }
}

/* Items are heads of keys by tokens: neighbours read the same keys. */
static void attend_items(void *ctx, size_t begin, size_t end, uint32_t thread)
{
    struct forward *f = ctx;
    const struct model_shape *shape = &f->model->shape;
    const uint32_t n_queries = shape->n_heads / shape->n_kv_heads;
    const size_t n_q = (size_t)shape->n_heads * shape->head_dim;

    (void)thread;
    for (size_t item = begin; item < end; item++) {
        const size_t t = item % f->n_tokens;
        const struct attention attention = {
            .kernels = f->kernels,
            .layout = &f->layout,
            .blocks = f->tokens[t].slice->blocks,
            .layer = f->layer_index,
            .kv_head = (uint32_t)(item / f->n_tokens),
            .head_dim = shape->head_dim,
            .n_keys = f->tokens[t].position + 1,
        };
        const size_t at =
            t * n_q + (size_t)attention.kv_head * n_queries * shape->head_dim;

        attention_compute(
            &attention, f->q + at, n_queries, f->input.values + at);
    }
}

void forward_attend(struct forward *f)
{
    const struct model_shape *shape = &f->model->shape;
    const size_t n_items = (size_t)f->n_tokens * shape->n_kv_heads;
    size_t n_keys = 0, item_macs, chunk;

    for (uint32_t t = 0; t < f->n_tokens; t++)
        n_keys += (size_t)f->tokens[t].position + 1;
    item_macs = 2 * n_keys / f->n_tokens * shape->head_dim *
                (shape->n_heads / shape->n_kv_heads);
    chunk = FORWARD_CHUNK_MACS / item_macs;
    team_each(f->team, n_items, chunk > 0 ? chunk : 1, attend_items, f);
}
