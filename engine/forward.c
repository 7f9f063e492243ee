/* The forward pass of a batch.
 *
 * A step is a sequence of rounds of the team: products of a matrix with all
 * tokens, split by rows; attention, split by tokens and heads; and what is done
 * to each token alone, split by tokens. No split is part of a result.
 *
 * Weights pass by once per step, whatever the batch. In the last layer only
 * tokens whose logits somebody wants go on once their keys and values are
 * stored: nobody reads the others. */
#include "engine/forward.h"

#include <assert.h>
#include <math.h>
#include <string.h>

#include "base/heap.h"
#include "engine/attention.h"
#include "engine/quants.h"

#define SCRATCH_ALIGNMENT 64
#define CHUNK_MACS 65536    /* multiplications that are worth a chunk */
#define CHUNK_ELEMENTS 4096 /* the same for what is done to a token alone */
#define MAX_PRODUCTS 3

struct forward_token {
    struct compute_slice *slice;
    uint32_t id, position;
    bool is_wanted; /* its logits are */
};

/* out [n_tokens][n_rows] = the input times the matrix */
struct product {
    const struct matrix *matrix;
    float *out;
    size_t group_begin, group_end; /* of the round's groups of rows */
};

struct forward {
    const struct model *model;
    const struct kernels *kernels;
    const struct matrices *matrices;
    struct team *team;
    struct kv_layout layout;
    uint32_t max_tokens, max_slices;
    size_t scratch_bytes;

    /* All of this lies in one allocation, tokens first. */
    struct forward_token *tokens;
    double *frequencies; /* [rope_dims / 2] */
    float *cosines;      /* [n_tokens][rope_dims / 2] */
    float *sines;
    float *x;                      /* [n_tokens][n_embd], the residual stream */
    float *delta;                  /* [n_tokens][n_embd], what is added to it */
    float *q;                      /* [n_tokens][n_heads * head_dim] */
    float *k, *v;                  /* [n_tokens][n_kv_heads * head_dim] */
    float *gate, *up;              /* [n_tokens][n_ff] */
    struct activations input;      /* of the next product */
    float *logits;                 /* [n_wanted][n_vocab] */
    struct sampler_entry *entries; /* [n_threads][n_vocab] */

    /* The step. */
    uint32_t n_tokens;
    uint32_t layer_index;
    const struct model_layer *layer;
    struct product products[MAX_PRODUCTS];
    size_t n_products;
};

/* Hands out pieces of an allocation; without one, only adds them up. */
struct carver {
    unsigned char *base;
    size_t used;
    bool overflows;
};

static void *carve(struct carver *carver, size_t n, size_t m, size_t bytes)
{
    const size_t at = carver->used;
    size_t size;

    if (__builtin_mul_overflow(n, m, &size) ||
        __builtin_mul_overflow(size, bytes, &size) ||
        __builtin_add_overflow(size, SCRATCH_ALIGNMENT - 1, &size) ||
        __builtin_add_overflow(
            at, size / SCRATCH_ALIGNMENT * SCRATCH_ALIGNMENT, &carver->used))
        carver->overflows = true;
    return carver->base == NULL ? NULL : carver->base + at;
}

static size_t larger(size_t a, size_t b)
{
    return a > b ? a : b;
}

static void carve_scratch(struct forward *f, struct carver *carver)
{
    const struct model_shape *shape = &f->model->shape;
    const size_t n = f->max_tokens, f32 = sizeof(float), i32 = sizeof(int32_t);
    const size_t n_q = (size_t)shape->n_heads * shape->head_dim;
    const size_t n_kv = (size_t)shape->n_kv_heads * shape->head_dim;
    const size_t widest = larger(larger(shape->n_embd, shape->n_ff), n_q);
    struct activations *input = &f->input;

    f->tokens = carve(carver, n, 1, sizeof *f->tokens);
    f->frequencies = carve(carver, shape->rope_dims, 1, sizeof(double));
    f->cosines = carve(carver, n, shape->rope_dims / 2, f32);
    f->sines = carve(carver, n, shape->rope_dims / 2, f32);
    f->x = carve(carver, n, shape->n_embd, f32);
    f->delta = carve(carver, n, shape->n_embd, f32);
    f->q = carve(carver, n, n_q, f32);
    f->k = carve(carver, n, n_kv, f32);
    f->v = carve(carver, n, n_kv, f32);
    f->gate = carve(carver, n, shape->n_ff, f32);
    f->up = carve(carver, n, shape->n_ff, f32);
    input->values = carve(carver, n, widest, f32);
    input->small.quants = carve(carver, n, widest, 1);
    input->small.scales = carve(carver, n, widest / QUANTS_SMALL, f32);
    input->small.sums = carve(carver, n, widest / QUANTS_SMALL, i32);
    input->large.quants = carve(carver, n, widest, 1);
    input->large.scales = carve(carver, n, widest / QUANTS_LARGE, f32);
    input->large.sums = carve(carver, n, widest / QUANTS_LARGE, i32);
    input->part_sums =
        carve(carver, n, widest / ACTIVATION_PART, sizeof(int16_t));
    f->logits = carve(carver, f->max_slices, shape->n_vocab, f32);
    f->entries = carve(
        carver, team_n_threads(f->team), shape->n_vocab, sizeof *f->entries);
}

static void fill_frequencies(struct forward *f)
{
    const struct model_shape *shape = &f->model->shape;

    for (uint32_t i = 0; i < shape->rope_dims / 2; i++)
        f->frequencies[i] =
            pow(shape->rope_base, -2.0 * i / (double)shape->rope_dims);
}

enum kv_status forward_open(struct forward **out,
    const struct compute_config *config, const struct kernels *kernels,
    const struct matrices *matrices, struct team *team, struct kv_error *error)
{
    const struct model_shape *shape = &config->model->shape;
    struct carver carver = {0};
    struct forward *f,
        plan = {
            .model = config->model,
            .kernels = kernels,
            .matrices = matrices,
            .team = team,
            .layout =
                {
                    .arena = config->arena,
                    .block_bytes = config->block_bytes,
                    .row_bytes = kv_type_bytes(config->kv_type,
                        (size_t)shape->n_kv_heads * shape->head_dim),
                    .block_tokens = config->block_tokens,
                    .type = config->kv_type,
                },
            .max_tokens = config->max_batch_tokens,
            .max_slices = config->max_slices,
        };

    carve(&carver, 1, 1, sizeof *f);
    carve_scratch(&plan, &carver);
    if (carver.overflows || carver.used > SIZE_MAX - SCRATCH_ALIGNMENT)
        return kv_error_set(error, KV_INVALID,
            "scratch for %u tokens and %u sequences of model %s exceeds the "
            "address space",
            config->max_batch_tokens, config->max_slices, config->model->name);
    f = kv_calloc(1, carver.used + SCRATCH_ALIGNMENT);
    if (f == NULL)
        return kv_error_set(error, KV_NO_MEMORY,
            "no memory for %zu bytes of scratch for %u tokens and %u sequences",
            carver.used, config->max_batch_tokens, config->max_slices);

    plan.scratch_bytes = carver.used + SCRATCH_ALIGNMENT;
    *f = plan;
    carver = (struct carver){
        .base = (unsigned char *)f +
                (SCRATCH_ALIGNMENT - (uintptr_t)f % SCRATCH_ALIGNMENT) %
                    SCRATCH_ALIGNMENT,
    };
    carve(&carver, 1, 1, sizeof *f);
    carve_scratch(f, &carver);
    fill_frequencies(f);
    *out = f;
    return KV_OK;
}

void forward_close(struct forward *forward)
{
    kv_free(forward);
}

size_t forward_scratch_bytes(const struct forward *forward)
{
    return forward->scratch_bytes;
}

/* A round over the tokens, of which each costs about n_elements. */
static void each_token(struct forward *f, size_t n_elements, team_job_cb job)
{
    const size_t chunk = CHUNK_ELEMENTS / n_elements;

    team_each(f->team, f->n_tokens, chunk > 0 ? chunk : 1, job, f);
}

/* The rows of a round's products, in groups. */
static void multiply_groups(
    void *ctx, size_t begin, size_t end, uint32_t thread)
{
    struct forward *f = ctx;

    (void)thread;
    for (size_t i = 0; i < f->n_products; i++) {
        const struct product *product = &f->products[i];
        const size_t from = larger(begin, product->group_begin);
        const size_t to = end < product->group_end ? end : product->group_end;

        if (from < to)
            matrix_multiply(product->matrix, f->kernels,
                from - product->group_begin, to - product->group_begin,
                &f->input, product->out);
    }
}

/* The next product of the round that multiply() will run. */
static void add_product(
    struct forward *f, const struct matrix *matrix, float *out)
{
    const size_t begin =
        f->n_products == 0 ? 0 : f->products[f->n_products - 1].group_end;

    assert(f->n_products < MAX_PRODUCTS);
    assert(matrix->weight->n_cols == f->input.n_cols);
    f->products[f->n_products++] = (struct product){
        .matrix = matrix,
        .out = out,
        .group_begin = begin,
        .group_end = begin + matrix_n_groups(matrix),
    };
}

/* The same for a matrix of this layer. */
static void add_layer_product(
    struct forward *f, enum matrix_role role, float *out)
{
    add_product(f, matrices_of_layer(f->matrices, f->layer_index, role), out);
}

static void multiply(struct forward *f)
{
    const size_t macs = (size_t)PACKED_ROWS * f->input.n_cols * f->n_tokens;
    const size_t chunk = CHUNK_MACS / macs;

    f->input.n_rows = f->n_tokens;
    team_each(f->team, f->products[f->n_products - 1].group_end,
        chunk > 0 ? chunk : 1, multiply_groups, f);
    f->n_products = 0;
}

static void round_row(struct forward *f, const struct activation_quants *to,
    size_t token, size_t block)
{
    const size_t n = f->input.n_cols, at = token * (n / block);

    f->kernels->quantize(f->input.values + token * n, n, block,
        to->quants + token * n, to->scales + at, to->sums + at);
}

/* Rounds row `token` of the input as the weights that it meets want it. */
static void round_input(struct forward *f, size_t token, unsigned formats)
{
    const struct activations *in = &f->input;

    if (formats & ACTIVATION_SMALL)
        round_row(f, &in->small, token, QUANTS_SMALL);
    if (formats & ACTIVATION_LARGE)
        round_row(f, &in->large, token, QUANTS_LARGE);
    if (formats & ACTIVATION_PARTS)
        f->kernels->sum_parts(in->large.quants + token * in->n_cols, in->n_cols,
            in->part_sums + token * (in->n_cols / ACTIVATION_PART));
}

/* The input becomes the norm of x, a row of the input's width. */
static void norm_input(struct forward *f, size_t token, const float *x,
    const float *norm, unsigned formats)
{
    f->kernels->rms_norm(f->input.values + token * f->input.n_cols, x, norm,
        f->input.n_cols, f->model->shape.norm_epsilon);
    round_input(f, token, formats);
}

/* A token's row of the residual stream, once what its part of the layer gave is
 * added to it. */
static const float *take_delta(struct forward *f, size_t token)
{
    const size_t n = f->model->shape.n_embd;

    f->kernels->add(f->x + token * n, f->delta + token * n, n);
    return f->x + token * n;
}

static void embed_token(struct forward *f, uint32_t id, float *x)
{
    const struct weight *embedding = &f->model->token_embedding;
    const size_t n = embedding->n_cols;
    const size_t row_bytes = n / gguf_type_block_elements(embedding->type) *
                             gguf_type_block_bytes(embedding->type);

    assert(id < embedding->n_rows);
    quants_dequantize(embedding->type,
        (const unsigned char *)embedding->data + id * row_bytes, n, x);
    for (size_t i = 0; i < n; i++)
        x[i] *= embedding->scale;
}

static void embed(void *ctx, size_t begin, size_t end, uint32_t thread)
{
    struct forward *f = ctx;
    const struct model_shape *shape = &f->model->shape;
    const size_t n_angles = shape->rope_dims / 2;

    (void)thread;
    for (size_t t = begin; t < end; t++) {
        embed_token(f, f->tokens[t].id, f->x + t * shape->n_embd);
        for (size_t i = 0; i < n_angles; i++) {
            const double angle = f->tokens[t].position * f->frequencies[i];

            f->cosines[t * n_angles + i] = (float)cos(angle);
            f->sines[t * n_angles + i] = (float)sin(angle);
        }
    }
}

static void norm_attention_input(
    void *ctx, size_t begin, size_t end, uint32_t thread)
{
    struct forward *f = ctx;
    const struct model_layer *layer = f->layer;
    const unsigned formats = kernels_format(layer->q.type) |
                             kernels_format(layer->k.type) |
                             kernels_format(layer->v.type);

    (void)thread;
    for (size_t t = begin; t < end; t++)
        norm_input(f, t,
            f->layer_index == 0 ? f->x + t * f->model->shape.n_embd
                                : take_delta(f, t),
            layer->attn_norm, formats);
}

/* Rotates the first rope_dims of each head by the token's angles. */
static void rotate(
    const struct forward *f, size_t token, float *heads, uint32_t n_heads)
{
    const struct model_shape *shape = &f->model->shape;
    const size_t n_angles = shape->rope_dims / 2;
    const bool is_neox = shape->rope_style == ROPE_NEOX;
    const size_t stride = is_neox ? 1 : 2, distance = is_neox ? n_angles : 1;
    const float *cosines = f->cosines + token * n_angles;
    const float *sines = f->sines + token * n_angles;

    for (uint32_t h = 0; h < n_heads; h++, heads += shape->head_dim)
        for (size_t i = 0; i < n_angles; i++) {
            float *a = heads + i * stride, *b = a + distance;
            const float old_a = *a, old_b = *b;

            *a = old_a * cosines[i] - old_b * sines[i];
            *b = old_a * sines[i] + old_b * cosines[i];
        }
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

static void rotate_and_store(
    void *ctx, size_t begin, size_t end, uint32_t thread)
{
    struct forward *f = ctx;
    const struct model_shape *shape = &f->model->shape;
    const size_t n_q = (size_t)shape->n_heads * shape->head_dim;
    const size_t n_kv = (size_t)shape->n_kv_heads * shape->head_dim;

    (void)thread;
    for (size_t t = begin; t < end; t++) {
        rotate(f, t, f->q + t * n_q, shape->n_heads);
        rotate(f, t, f->k + t * n_kv, shape->n_kv_heads);
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

static void attend(struct forward *f)
{
    const struct model_shape *shape = &f->model->shape;
    const size_t n_items = (size_t)f->n_tokens * shape->n_kv_heads;
    size_t n_keys = 0, item_macs, chunk;

    for (uint32_t t = 0; t < f->n_tokens; t++)
        n_keys += (size_t)f->tokens[t].position + 1;
    item_macs = 2 * n_keys / f->n_tokens * shape->head_dim *
                (shape->n_heads / shape->n_kv_heads);
    chunk = CHUNK_MACS / item_macs;
    team_each(f->team, n_items, chunk > 0 ? chunk : 1, attend_items, f);
}

static void norm_attention_output(
    void *ctx, size_t begin, size_t end, uint32_t thread)
{
    struct forward *f = ctx;
    const struct model_layer *layer = f->layer;
    const unsigned formats = kernels_format(layer->attn_output.type);

    (void)thread;
    for (size_t t = begin; t < end; t++)
        if (layer->attn_sub_norm != NULL)
            norm_input(f, t, f->input.values + t * f->input.n_cols,
                layer->attn_sub_norm, formats);
        else
            round_input(f, t, formats);
}

static void norm_ffn_input(void *ctx, size_t begin, size_t end, uint32_t thread)
{
    struct forward *f = ctx;
    const struct model_layer *layer = f->layer;
    const unsigned formats =
        kernels_format(layer->gate.type) | kernels_format(layer->up.type);

    (void)thread;
    for (size_t t = begin; t < end; t++)
        norm_input(f, t, take_delta(f, t), layer->ffn_norm, formats);
}

static void activate(void *ctx, size_t begin, size_t end, uint32_t thread)
{
    struct forward *f = ctx;
    const struct model_layer *layer = f->layer;
    const unsigned formats = kernels_format(layer->down.type);
    const size_t n = f->model->shape.n_ff;

    (void)thread;
    for (size_t t = begin; t < end; t++) {
        float *values = f->input.values + t * n;

        f->kernels->silu_mul(values, f->gate + t * n, f->up + t * n, n);
        if (layer->ffn_sub_norm != NULL)
            norm_input(f, t, values, layer->ffn_sub_norm, formats);
        else
            round_input(f, t, formats);
    }
}

static void norm_output(void *ctx, size_t begin, size_t end, uint32_t thread)
{
    struct forward *f = ctx;

    (void)thread;
    for (size_t t = begin; t < end; t++)
        norm_input(f, t, take_delta(f, t), f->model->output_norm,
            kernels_format(f->model->output.type));
}

static void choose_token(struct compute_slice *slice, const float *logits,
    uint32_t n_vocab, struct sampler_entry *scratch)
{
    const struct sampler_input input = {
        .logits = logits,
        .n_vocab = n_vocab,
        .draw = slice->draw,
        .history = slice->history,
        .n_history = slice->n_history,
    };

    slice->next_token = sampler_choose(&slice->sampling, &input, scratch);
    if (slice->logprobs != NULL)
        sampler_measure(logits, n_vocab, slice->next_token,
            slice->n_top_logprobs, slice->logprobs);
}

static void choose(void *ctx, size_t begin, size_t end, uint32_t thread)
{
    struct forward *f = ctx;
    const uint32_t n_vocab = f->model->shape.n_vocab;

    for (size_t t = begin; t < end; t++) {
        const float *logits = f->logits + t * n_vocab;
        struct compute_slice *slice = f->tokens[t].slice;

        if (slice->logits != NULL)
            memcpy(slice->logits, logits, n_vocab * sizeof *logits);
        if (slice->samples)
            choose_token(
                slice, logits, n_vocab, f->entries + (size_t)thread * n_vocab);
    }
}

static void lay_out_tokens(
    struct forward *f, struct compute_slice *slices, size_t n_slices)
{
    f->n_tokens = 0;
    assert(n_slices <= f->max_slices);
    for (size_t s = 0; s < n_slices; s++) {
        struct compute_slice *slice = &slices[s];
        const bool is_wanted = slice->samples || slice->logits != NULL;

        assert(slice->n_tokens > 0);
        assert(slice->n_tokens <= f->max_tokens - f->n_tokens);
        for (uint32_t i = 0; i < slice->n_tokens; i++)
            f->tokens[f->n_tokens++] = (struct forward_token){
                .slice = slice,
                .id = slice->tokens[i],
                .position = slice->position + i,
                .is_wanted = is_wanted && i + 1 == slice->n_tokens,
            };
    }
}

/* The tokens that nobody wants logits of are left out from here on. */
static void keep_wanted_tokens(struct forward *f)
{
    const struct model_shape *shape = &f->model->shape;
    const size_t n_q = (size_t)shape->n_heads * shape->head_dim;
    const size_t n_embd = shape->n_embd;
    uint32_t n = 0;

    for (uint32_t t = 0; t < f->n_tokens; t++) {
        if (!f->tokens[t].is_wanted)
            continue;
        f->tokens[n] = f->tokens[t];
        memmove(f->x + n * n_embd, f->x + t * n_embd, n_embd * sizeof *f->x);
        memmove(f->q + n * n_q, f->q + t * n_q, n_q * sizeof *f->q);
        n++;
    }
    f->n_tokens = n;
}

void forward_step(
    struct forward *f, struct compute_slice *slices, size_t n_slices)
{
    const struct model_shape *shape = &f->model->shape;
    const uint32_t n_q = shape->n_heads * shape->head_dim;
    const uint32_t n_embd = shape->n_embd, n_ff = shape->n_ff;

    lay_out_tokens(f, slices, n_slices);
    each_token(f, n_embd, embed);

    for (uint32_t l = 0; l < shape->n_layers; l++) {
        f->layer = &f->model->layers[l];
        f->layer_index = l;
        f->input.n_cols = n_embd;
        each_token(f, n_embd, norm_attention_input);
        add_layer_product(f, MATRIX_Q, f->q);
        add_layer_product(f, MATRIX_K, f->k);
        add_layer_product(f, MATRIX_V, f->v);
        multiply(f);
        each_token(f, n_q, rotate_and_store);
        if (l + 1 == shape->n_layers)
            keep_wanted_tokens(f);
        if (f->n_tokens == 0)
            return;

        f->input.n_cols = n_q;
        attend(f);
        each_token(f, n_q, norm_attention_output);
        add_layer_product(f, MATRIX_ATTN_OUTPUT, f->delta);
        multiply(f);

        f->input.n_cols = n_embd;
        each_token(f, n_embd, norm_ffn_input);
        add_layer_product(f, MATRIX_GATE, f->gate);
        add_layer_product(f, MATRIX_UP, f->up);
        multiply(f);

        f->input.n_cols = n_ff;
        each_token(f, n_ff, activate);
        add_layer_product(f, MATRIX_DOWN, f->delta);
        multiply(f);
    }

    f->input.n_cols = n_embd;
    each_token(f, n_embd, norm_output);
    add_product(f, matrices_output(f->matrices), f->logits);
    multiply(f);
    team_each(f->team, f->n_tokens, 1, choose, f);
}
