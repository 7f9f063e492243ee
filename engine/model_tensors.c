#include "engine/model_internal.h"

#include <inttypes.h>
#include <math.h>
#include <stdio.h>
#include <string.h>

#include "base/heap.h"

/* Every tensor of the file must be one that we compute with; an unknown one (a
 * bias of a projection, an expert) is refused by name, since what it would have
 * changed in the output would go wrong in silence. */

#define NAME_BYTES 65 /* of a tensor, the NUL included */

/* The tensor of that name and shape, or NULL with *error: the file is then
 * KV_INVALID. */
static const struct gguf_tensor *find_tensor(struct model_loader *loader,
    const char *name, uint64_t n_cols, uint64_t n_rows)
{
    const struct gguf_tensor *tensor = gguf_tensor_find(loader->gguf, name);

    if (tensor == NULL) {
        kv_error_set(loader->error, KV_INVALID,
            "%s: tensor %s is missing; architecture %s needs it",
            gguf_name(loader->gguf), name, loader->model->architecture);
        return NULL;
    }
    if (tensor->dims[0] != n_cols || tensor->dims[1] != n_rows ||
        tensor->dims[2] != 1 || tensor->dims[3] != 1) {
        kv_error_set(loader->error, KV_INVALID,
            "%s: tensor %s is %" PRIu64 " x %" PRIu64 " x %" PRIu64
            " x %" PRIu64 "; %" PRIu64 " x %" PRIu64 " is needed",
            gguf_name(loader->gguf), name, tensor->dims[0], tensor->dims[1],
            tensor->dims[2], tensor->dims[3], n_cols, n_rows);
        return NULL;
    }
    loader->is_used[tensor->index] = true;
    return tensor;
}

/* Numbers 0, 1 and 2 are in the fields of an I2_S, and 3 is not. */
static bool is_ternary(const unsigned char *fields, size_t n)
{
    for (size_t i = 0; i < n; i++)
        if ((fields[i] & fields[i] >> 1 & 0x55) != 0)
            return false;
    return true;
}

/* An I2_S has its scale behind the last row. A look at the first row tells it
 * from what else may stand under its number. */
static enum kv_status load_own_scale(struct model_loader *loader,
    const char *name, const struct gguf_tensor *tensor, float *out)
{
    const unsigned char *data = tensor->data;
    const size_t n_rows_bytes =
        tensor->n_bytes - gguf_type_tail_bytes(tensor->type);

    memcpy(out, data + n_rows_bytes, sizeof *out);
    if (!is_ternary(data, n_rows_bytes / (size_t)tensor->dims[1]) ||
        !isfinite(*out))
        return kv_error_set(loader->error, KV_INVALID,
            "%s: tensor %s is not ternary weights with a finite scale, as type "
            "I2_S has them; ggml once had IQ4_NL_4_4 under the same number",
            gguf_name(loader->gguf), name);
    return KV_OK;
}

static enum kv_status load_matrix(struct model_loader *loader, const char *name,
    uint32_t n_rows, uint32_t n_cols, struct weight *out)
{
    const struct gguf_tensor *tensor =
        find_tensor(loader, name, n_cols, n_rows);

    if (tensor == NULL)
        return KV_INVALID;
    *out = (struct weight){
        .type = tensor->type,
        .n_rows = n_rows,
        .n_cols = n_cols,
        .data = tensor->data,
        .scale = 1.0f,
    };
    loader->model->n_parameters += (uint64_t)n_rows * n_cols;
    return tensor->type == GGUF_I2_S
               ? load_own_scale(loader, name, tensor, &out->scale)
               : KV_OK;
}

static enum kv_status load_scale(
    struct model_loader *loader, const char *name, float *out)
{
    const struct gguf_tensor *tensor;
    float scale;

    if (gguf_tensor_find(loader->gguf, name) == NULL)
        return KV_OK;
    tensor = find_tensor(loader, name, 1, 1);
    if (tensor == NULL)
        return KV_INVALID;
    if (tensor->type != GGUF_F32)
        return kv_error_set(loader->error, KV_UNSUPPORTED,
            "%s: tensor %s has type %s; F32 is supported",
            gguf_name(loader->gguf), name, gguf_type_name(tensor->type));
    memcpy(&scale, tensor->data, sizeof scale);
    if (!isfinite(scale))
        return kv_error_set(loader->error, KV_INVALID,
            "%s: tensor %s is %g; a finite number is needed",
            gguf_name(loader->gguf), name, (double)scale);
    *out *= scale;
    return KV_OK;
}

/* Exponent and fraction move to their places in binary32; subnormals are
 * multiples of 2^-24. */
static float float_of_f16(uint16_t bits)
{
    uint32_t exponent = (bits >> 10) & 0x1F, fraction = bits & 0x3FF, wide;
    float value;

    if (exponent == 0) {
        value = ldexpf((float)fraction, -24);
        return bits & 0x8000 ? -value : value;
    }
    exponent = exponent == 0x1F ? 0xFF : exponent + 112;
    wide = (uint32_t)(bits & 0x8000) << 16 | exponent << 23 | fraction << 13;
    memcpy(&value, &wide, sizeof value);
    return value;
}

static void copy_floats(float *out, const struct gguf_tensor *tensor, size_t n)
{
    const uint16_t *halves = tensor->data;

    if (tensor->type == GGUF_F32) {
        memcpy(out, tensor->data, n * sizeof *out);
        return;
    }
    for (size_t i = 0; i < n; i++)
        out[i] = float_of_f16(halves[i]);
}

static enum kv_status load_vector(struct model_loader *loader, const char *name,
    uint32_t n, const float **out)
{
    const struct gguf_tensor *tensor = find_tensor(loader, name, n, 1);

    if (tensor == NULL)
        return KV_INVALID;
    if (tensor->type != GGUF_F32 && tensor->type != GGUF_F16)
        return kv_error_set(loader->error, KV_UNSUPPORTED,
            "%s: tensor %s has type %s; F32, F16 are supported for it",
            gguf_name(loader->gguf), name, gguf_type_name(tensor->type));
    copy_floats(loader->floats, tensor, n);
    for (uint32_t i = 0; i < n; i++)
        if (!isfinite(loader->floats[i]))
            return kv_error_set(loader->error, KV_INVALID,
                "%s: element %" PRIu32
                " of tensor %s is %g; finite numbers are needed",
                gguf_name(loader->gguf), i, name, (double)loader->floats[i]);
    *out = loader->floats;
    loader->floats += n;
    loader->model->n_parameters += n;
    return KV_OK;
}

/* blk.N.WHAT.KIND */
struct tensor_name {
    char text[NAME_BYTES];
};

static struct tensor_name layer_tensor(
    uint32_t layer, const char *what, const char *kind)
{
    struct tensor_name name;

    snprintf(name.text, sizeof name.text, "blk.%" PRIu32 ".%s.%s", layer, what,
        kind);
    return name;
}

static enum kv_status load_layer_matrices(
    struct model_loader *loader, uint32_t i, struct model_layer *layer)
{
    const struct model_shape *shape = &loader->model->shape;
    uint32_t q_rows = shape->n_heads * shape->head_dim;
    uint32_t kv_rows = shape->n_kv_heads * shape->head_dim;
    const struct {
        const char *what;
        uint32_t n_rows, n_cols;
        struct weight *out;
    } matrices[] = {
        {"attn_q", q_rows, shape->n_embd, &layer->q},
        {"attn_k", kv_rows, shape->n_embd, &layer->k},
        {"attn_v", kv_rows, shape->n_embd, &layer->v},
        {"attn_output", shape->n_embd, q_rows, &layer->attn_output},
        {"ffn_gate", shape->n_ff, shape->n_embd, &layer->gate},
        {"ffn_up", shape->n_ff, shape->n_embd, &layer->up},
        {"ffn_down", shape->n_embd, shape->n_ff, &layer->down},
    };
    enum kv_status status = KV_OK;

    for (size_t m = 0;
         m < sizeof matrices / sizeof *matrices && status == KV_OK; m++) {
        const char *what = matrices[m].what;

        status = load_matrix(loader, layer_tensor(i, what, "weight").text,
            matrices[m].n_rows, matrices[m].n_cols, matrices[m].out);
        if (status == KV_OK)
            status = load_scale(loader, layer_tensor(i, what, "scale").text,
                &matrices[m].out->scale);
    }
    return status;
}

static enum kv_status load_layer_vectors(
    struct model_loader *loader, uint32_t i, struct model_layer *layer)
{
    const struct model_shape *shape = &loader->model->shape;
    const struct architecture *architecture = loader->architecture;
    const bool has_sub_norms = architecture->has_sub_norms;
    const bool has_head_norms = architecture->has_head_norms;
    const uint32_t n_q = shape->n_heads * shape->head_dim;
    const uint32_t n_kv = shape->n_kv_heads * shape->head_dim;
    const struct {
        const char *what, *kind;
        bool is_used;
        uint32_t n;
        const float **out;
    } vectors[] = {
        {"attn_norm", "weight", true, shape->n_embd, &layer->attn_norm},
        {"attn_q", "bias", loader->has_biases, n_q, &layer->q_bias},
        {"attn_k", "bias", loader->has_biases, n_kv, &layer->k_bias},
        {"attn_v", "bias", loader->has_biases, n_kv, &layer->v_bias},
        {"attn_q_norm", "weight", has_head_norms, shape->head_dim,
            &layer->q_norm},
        {"attn_k_norm", "weight", has_head_norms, shape->head_dim,
            &layer->k_norm},
        {"attn_sub_norm", "weight", has_sub_norms, n_q, &layer->attn_sub_norm},
        {"ffn_norm", "weight", true, shape->n_embd, &layer->ffn_norm},
        {"ffn_sub_norm", "weight", has_sub_norms, shape->n_ff,
            &layer->ffn_sub_norm},
    };
    enum kv_status status = KV_OK;

    for (size_t v = 0; v < sizeof vectors / sizeof *vectors && status == KV_OK;
         v++)
        if (vectors[v].is_used)
            status = load_vector(loader,
                layer_tensor(i, vectors[v].what, vectors[v].kind).text,
                vectors[v].n, vectors[v].out);
    return status;
}

static enum kv_status load_ends(struct model_loader *loader)
{
    struct model *model = loader->model;
    const struct model_shape *shape = &model->shape;
    enum kv_status status = load_matrix(loader, "token_embd.weight",
        shape->n_vocab, shape->n_embd, &model->token_embedding);

    if (status != KV_OK)
        return status;
    model->output = model->token_embedding;
    if (gguf_tensor_find(loader->gguf, "output.weight") != NULL)
        status = load_matrix(loader, "output.weight", shape->n_vocab,
            shape->n_embd, &model->output);
    if (status != KV_OK)
        return status;
    return load_vector(
        loader, "output_norm.weight", shape->n_embd, &model->output_norm);
}

#define ROPE_FACTORS "rope_freqs.weight"

static enum kv_status load_rope(struct model_loader *loader)
{
    struct model *model = loader->model;
    const struct rope *rope = &model->shape.rope;
    const float *factors = NULL;
    enum kv_status status = KV_OK;

    if (loader->has_rope_factors)
        status = load_vector(loader, ROPE_FACTORS, rope->n_dims / 2, &factors);
    if (status != KV_OK)
        return status;
    for (uint32_t i = 0; factors != NULL && i < rope->n_dims / 2; i++)
        if (!(factors[i] > 0))
            return kv_error_set(loader->error, KV_INVALID,
                "%s: element %" PRIu32
                " of tensor %s is %g; more than 0 is needed",
                gguf_name(loader->gguf), i, ROPE_FACTORS, (double)factors[i]);
    rope_frequencies(rope, factors, model->rope_frequencies);
    return KV_OK;
}

static enum kv_status refuse_unused(struct model_loader *loader)
{
    for (size_t i = 0; i < gguf_n_tensors(loader->gguf); i++)
        if (!loader->is_used[i])
            return kv_error_set(loader->error, KV_UNSUPPORTED,
                "%s: tensor %s is not one that architecture %s is computed "
                "with here; without it the output would be wrong",
                gguf_name(loader->gguf),
                gguf_printable(gguf_tensor_at(loader->gguf, i)->name).text,
                loader->model->architecture);
    return KV_OK;
}

/* Elements of all vectors that are copied; what the file has of those that not
 * every file has is noted on the way. */
static uint64_t count_floats(struct model_loader *loader)
{
    const struct model_shape *shape = &loader->model->shape;
    const struct architecture *architecture = loader->architecture;
    const uint64_t n_q = (uint64_t)shape->n_heads * shape->head_dim;
    const uint64_t n_kv = (uint64_t)shape->n_kv_heads * shape->head_dim;
    uint64_t n_layer = 2 * (uint64_t)shape->n_embd;

    loader->has_biases =
        architecture->needs_biases ||
        gguf_tensor_find(loader->gguf, "blk.0.attn_q.bias") != NULL;
    loader->has_rope_factors =
        architecture->has_rope_factors &&
        gguf_tensor_find(loader->gguf, ROPE_FACTORS) != NULL;
    if (architecture->has_sub_norms)
        n_layer += n_q + shape->n_ff;
    if (architecture->has_head_norms)
        n_layer += 2 * (uint64_t)shape->head_dim;
    if (loader->has_biases)
        n_layer += n_q + 2 * n_kv;
    return n_layer * shape->n_layers + shape->n_embd +
           (loader->has_rope_factors ? shape->rope.n_dims / 2 : 0);
}

/* A shape that needs more than the file can hold is not worth an allocation:
 * an element of a vector takes two bytes at least. */
enum kv_status model_allocate(struct model_loader *loader)
{
    struct model *model = loader->model;
    const struct model_shape *shape = &model->shape;
    const uint64_t n_floats = count_floats(loader);
    const size_t n_frequencies = shape->rope.n_dims / 2;

    if (gguf_n_tensors(loader->gguf) == 0)
        return kv_error_set(loader->error, KV_INVALID,
            "%s: it has no tensors: a vocabulary without a model",
            gguf_name(loader->gguf));
    if (n_floats > gguf_file_bytes(loader->gguf) / 2 ||
        shape->n_layers > gguf_n_tensors(loader->gguf))
        return kv_error_set(loader->error, KV_INVALID,
            "%s: %" PRIu32 " layers of width %" PRIu32
            " are more than its %zu tensors in %zu bytes can be",
            gguf_name(loader->gguf), shape->n_layers, shape->n_embd,
            gguf_n_tensors(loader->gguf), gguf_file_bytes(loader->gguf));
    model->layers = kv_calloc(shape->n_layers, sizeof *model->layers);
    model->copies = kv_calloc((size_t)n_floats, sizeof *model->copies);
    model->rope_frequencies =
        kv_calloc(n_frequencies, sizeof *model->rope_frequencies);
    loader->is_used = kv_calloc(gguf_n_tensors(loader->gguf), sizeof(bool));
    loader->floats = model->copies;
    if (model->layers == NULL || model->copies == NULL ||
        model->rope_frequencies == NULL || loader->is_used == NULL)
        return kv_error_set(loader->error, KV_NO_MEMORY,
            "%s: no memory for %" PRIu32 " layers and %" PRIu64
            " elements of norms and biases",
            gguf_name(loader->gguf), shape->n_layers, n_floats);
    model->copied_bytes = shape->n_layers * sizeof *model->layers +
                          (size_t)n_floats * sizeof *model->copies +
                          n_frequencies * sizeof *model->rope_frequencies;
    return KV_OK;
}

enum kv_status model_load_tensors(struct model_loader *loader)
{
    struct model *model = loader->model;
    enum kv_status status = load_ends(loader);

    for (uint32_t i = 0; i < model->shape.n_layers && status == KV_OK; i++) {
        status = load_layer_matrices(loader, i, &model->layers[i]);
        if (status == KV_OK)
            status = load_layer_vectors(loader, i, &model->layers[i]);
    }
    if (status == KV_OK)
        status = load_rope(loader);
    return status == KV_OK ? refuse_unused(loader) : status;
}
