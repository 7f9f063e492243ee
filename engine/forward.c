/* The forward pass of a batch.
 *
 * A step is a sequence of rounds of the team: products of a matrix with all
 * tokens, split by rows; attention, split by tokens and heads; and what is done
 * to each token alone, split by tokens. No split is part of a result.
 *
 * Weights pass by once per step, whatever the batch. In the last layer only
 * tokens whose logits somebody wants go on once their keys and values are
 * stored: nobody reads the others. */
#include "engine/forward_internal.h"

#include <assert.h>
#include <string.h>

#include "engine/quants.h"

#define CHUNK_ELEMENTS 4096 /* of tokens, that are worth a chunk of them */

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
        const size_t from =
            begin > product->group_begin ? begin : product->group_begin;
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

    assert(f->n_products < FORWARD_MAX_PRODUCTS);
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
    const size_t chunk = FORWARD_CHUNK_MACS / macs;

    team_each(f->team, f->products[f->n_products - 1].group_end,
        chunk > 0 ? chunk : 1, multiply_groups, f);
    f->n_products = 0;
}

/* The input becomes the norm of x, a row of the input's width. */
static void norm_input(struct forward *f, size_t token, const float *x,
    const float *norm, unsigned formats)
{
    f->kernels->rms_norm(f->input.values + token * f->input.n_cols, x, norm,
        f->input.n_cols, f->model->shape.norm_epsilon);
    activations_prepare(&f->input, f->kernels, token, formats);
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
    const size_t n_pairs = shape->rope.n_dims / 2;

    (void)thread;
    for (size_t t = begin; t < end; t++) {
        embed_token(f, f->tokens[t].id, f->x + t * shape->n_embd);
        rope_angles(&shape->rope, f->model->rope_frequencies,
            f->tokens[t].position, f->cosines + t * n_pairs,
            f->sines + t * n_pairs);
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
            activations_prepare(&f->input, f->kernels, t, formats);
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

/* out = max(gate, 0)^2 * up. Products alone: the same in every set of kernels.
 */
static void relu_squared_mul(
    float *out, const float *gate, const float *up, size_t n)
{
    for (size_t i = 0; i < n; i++) {
        const float positive = gate[i] > 0 ? gate[i] : 0;

        out[i] = positive * positive * up[i];
    }
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

        if (f->model->shape.activation == MODEL_SILU)
            f->kernels->silu_mul(values, f->gate + t * n, f->up + t * n, n);
        else
            relu_squared_mul(values, f->gate + t * n, f->up + t * n, n);
        if (layer->ffn_sub_norm != NULL)
            norm_input(f, t, values, layer->ffn_sub_norm, formats);
        else
            activations_prepare(&f->input, f->kernels, t, formats);
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
    f->input.n_rows = f->n_tokens;
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
    f->n_tokens = f->input.n_rows = n;
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
        each_token(f, n_q, forward_store_heads);
        if (l + 1 == shape->n_layers)
            keep_wanted_tokens(f);
        if (f->n_tokens == 0)
            return;

        f->input.n_cols = n_q;
        forward_attend(f);
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
