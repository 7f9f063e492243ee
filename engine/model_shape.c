#include <inttypes.h>
#include <math.h>
#include <string.h>

#include "engine/model_internal.h"

#define MAX_DIM (1u << 20)
#define MAX_VOCAB (1u << 24)

static const struct architecture architectures[] = {
    /* BitNet b1.58 as reproduced by 1bitLLM, and what llama.cpp makes of it. */
    {.name = "bitnet",
        .rope_style = ROPE_NEOX,
        .activation = MODEL_SILU,
        .has_sub_norms = true},
    /* Microsoft's own, 2B-4T: microsoft/BitNet has both names for it. */
    {.name = "bitnet-25",
        .rope_style = ROPE_NEOX,
        .activation = MODEL_RELU_SQUARED,
        .has_sub_norms = true},
    {.name = "bitnet-b1.58",
        .rope_style = ROPE_NEOX,
        .activation = MODEL_RELU_SQUARED,
        .has_sub_norms = true},
    {.name = "llama",
        .rope_style = ROPE_INTERLEAVED,
        .activation = MODEL_SILU,
        .has_rope_factors = true},
    {.name = "qwen2",
        .rope_style = ROPE_NEOX,
        .activation = MODEL_SILU,
        .needs_biases = true},
    {.name = "qwen3",
        .rope_style = ROPE_NEOX,
        .activation = MODEL_SILU,
        .has_head_norms = true},
};

#define ARCHITECTURES_TEXT                                                     \
    "bitnet, bitnet-25, bitnet-b1.58, llama, qwen2, qwen3"

enum kv_status model_read_architecture(struct model_loader *loader)
{
    struct gguf_string name;
    enum kv_status status = gguf_get_string(
        loader->gguf, "general.architecture", &name, loader->error);

    if (status == KV_NOT_FOUND)
        return kv_error_set(loader->error, KV_INVALID,
            "%s: key general.architecture is missing; it is not a model",
            gguf_name(loader->gguf));
    if (status != KV_OK)
        return status;
    for (size_t i = 0; i < sizeof architectures / sizeof *architectures; i++)
        if (model_text_is(name, architectures[i].name)) {
            loader->architecture = &architectures[i];
            loader->model->architecture = architectures[i].name;
            return KV_OK;
        }
    return kv_error_set(loader->error, KV_UNSUPPORTED,
        "%s: architecture %s; supported are " ARCHITECTURES_TEXT,
        gguf_name(loader->gguf), gguf_printable(name).text);
}

/* Older files have no vocab_size; the vocabulary tells it. */
static enum kv_status read_vocab_size(struct model_loader *loader)
{
    struct model_shape *shape = &loader->model->shape;
    const struct model_uint key = {
        "vocab_size", &shape->n_vocab, 1, MAX_VOCAB, false};
    struct gguf_array tokens;
    enum kv_status status = model_read_uints(loader, &key, 1);

    if (status != KV_OK || shape->n_vocab > 0)
        return status;
    status = gguf_get_array(loader->gguf, "tokenizer.ggml.tokens", GGUF_STRINGS,
        &tokens, loader->error);
    if (status == KV_NOT_FOUND)
        return kv_error_set(loader->error, KV_INVALID,
            "%s: neither key %s nor key tokenizer.ggml.tokens is there",
            gguf_name(loader->gguf), model_key(loader, "vocab_size").text);
    if (status != KV_OK)
        return status;
    if (tokens.n < 1 || tokens.n > MAX_VOCAB)
        return kv_error_set(loader->error, KV_INVALID,
            "%s: tokenizer.ggml.tokens has %zu tokens; 1 to %u are allowed",
            gguf_name(loader->gguf), tokens.n, MAX_VOCAB);
    shape->n_vocab = (uint32_t)tokens.n;
    return KV_OK;
}

static enum kv_status read_sizes(struct model_loader *loader)
{
    struct model_shape *shape = &loader->model->shape;
    const struct model_uint keys[] = {
        {"block_count", &shape->n_layers, 1, 4096, true},
        {"embedding_length", &shape->n_embd, 1, MAX_DIM, true},
        {"feed_forward_length", &shape->n_ff, 1, MAX_DIM, true},
        {"attention.head_count", &shape->n_heads, 1, 65536, true},
        {"context_length", &shape->n_context, 1, 1u << 30, true},
    };
    enum kv_status status =
        model_read_uints(loader, keys, sizeof keys / sizeof *keys);

    return status == KV_OK ? read_vocab_size(loader) : status;
}

static enum kv_status read_heads(struct model_loader *loader)
{
    struct model_shape *shape = &loader->model->shape;
    uint32_t value_dim;
    const struct model_uint keys[] = {
        {"attention.head_count_kv", &shape->n_kv_heads, 1, shape->n_heads,
            false},
        {"attention.key_length", &shape->head_dim, 2, 4096, false},
        {"attention.value_length", &value_dim, 2, 4096, false},
    };
    enum kv_status status;

    shape->n_kv_heads = shape->n_heads;
    shape->head_dim = 0;
    value_dim = 0;
    status = model_read_uints(loader, keys, sizeof keys / sizeof *keys);
    if (status != KV_OK)
        return status;
    if (shape->n_heads % shape->n_kv_heads != 0)
        return kv_error_set(loader->error, KV_INVALID,
            "%s: %" PRIu32 " heads for %" PRIu32
            " KV heads; a multiple is needed",
            gguf_name(loader->gguf), shape->n_heads, shape->n_kv_heads);
    if (shape->head_dim == 0 && shape->n_embd % shape->n_heads != 0)
        return kv_error_set(loader->error, KV_INVALID,
            "%s: embedding_length %" PRIu32 " is not a multiple of %" PRIu32
            " heads, and there is no attention.key_length",
            gguf_name(loader->gguf), shape->n_embd, shape->n_heads);
    if (shape->head_dim == 0)
        shape->head_dim = shape->n_embd / shape->n_heads;
    if (shape->head_dim % 2 != 0 || shape->head_dim > 4096 ||
        (uint64_t)shape->n_heads * shape->head_dim > MAX_DIM)
        return kv_error_set(loader->error, KV_INVALID,
            "%s: %" PRIu32 " heads of %" PRIu32
            " elements; an even number up to 4096, and %u in all, are allowed",
            gguf_name(loader->gguf), shape->n_heads, shape->head_dim, MAX_DIM);
    if (value_dim != 0 && value_dim != shape->head_dim)
        return kv_error_set(loader->error, KV_UNSUPPORTED,
            "%s: values of %" PRIu32 " elements beside keys of %" PRIu32
            "; the same length is supported",
            gguf_name(loader->gguf), value_dim, shape->head_dim);
    return KV_OK;
}

/* What the FFN does to its gate. */
static enum kv_status read_activation(struct model_loader *loader)
{
    static const struct {
        const char *name;
        enum model_activation activation;
    } known[] = {{"silu", MODEL_SILU}, {"relu2", MODEL_RELU_SQUARED}};
    struct gguf_string name = {NULL, 0};
    enum kv_status status = model_read_text(loader, "hidden_activation", &name);

    loader->model->shape.activation = loader->architecture->activation;
    if (status != KV_OK || name.n == 0)
        return status;
    for (size_t i = 0; i < sizeof known / sizeof *known; i++)
        if (model_text_is(name, known[i].name)) {
            loader->model->shape.activation = known[i].activation;
            return KV_OK;
        }
    return kv_error_set(loader->error, KV_UNSUPPORTED,
        "%s: key %s is %s; supported are silu, relu2", gguf_name(loader->gguf),
        model_key(loader, "hidden_activation").text, gguf_printable(name).text);
}

/* Numbers by which related architectures multiply or bound what is computed;
 * those that we compute have none. */
static enum kv_status refuse_multipliers(struct model_loader *loader)
{
    static const struct {
        const char *suffix;
        float neutral; /* beside 0 */
    } multipliers[] = {
        {"attention.clamp_kqv", 0},
        {"attention.max_alibi_bias", 0},
        {"attention.scale", 0},
        {"attn_logit_softcapping", 0},
        {"embedding_scale", 1},
        {"final_logit_softcapping", 0},
        {"logit_scale", 1},
        {"residual_scale", 1},
    };

    for (size_t i = 0; i < sizeof multipliers / sizeof *multipliers; i++) {
        float value = 0;
        const struct model_float key = {
            multipliers[i].suffix, &value, -INFINITY, INFINITY, false};
        const enum kv_status status = model_read_floats(loader, &key, 1);

        if (status != KV_OK)
            return status;
        if (value != 0 && value != multipliers[i].neutral)
            return model_refuse(loader, key.suffix, "such a factor or bound");
    }
    return KV_OK;
}

/* What would change the output and that we do not compute. A window as long as
 * the context changes nothing. */
static enum kv_status refuse_other_kinds(struct model_loader *loader)
{
    uint32_t n_experts = 0, window = 0;
    bool is_causal = true;
    const struct model_uint keys[] = {
        {"expert_count", &n_experts, 0, UINT32_MAX, false},
        {"attention.sliding_window", &window, 0, UINT32_MAX, false},
    };
    enum kv_status status =
        model_read_uints(loader, keys, sizeof keys / sizeof *keys);

    if (status == KV_OK)
        status = gguf_get_bool(loader->gguf,
            model_key(loader, "attention.causal").text, &is_causal,
            loader->error);
    if (status != KV_OK && status != KV_NOT_FOUND)
        return status;
    if (n_experts > 0)
        return model_refuse(loader, "expert_count", "a mixture of experts");
    if (window > 0 && window < loader->model->shape.n_context)
        return model_refuse(
            loader, "attention.sliding_window", "a sliding window");
    if (!is_causal)
        return model_refuse(
            loader, "attention.causal", "attention to later tokens");
    return refuse_multipliers(loader);
}

enum kv_status model_read_shape(struct model_loader *loader)
{
    const struct model_float epsilon = {"attention.layer_norm_rms_epsilon",
        &loader->model->shape.norm_epsilon, 1e-12f, 0.1f, true};
    enum kv_status status = read_sizes(loader);

    if (status == KV_OK)
        status = read_heads(loader);
    if (status == KV_OK)
        status = model_read_rope(loader);
    if (status == KV_OK)
        status = model_read_floats(loader, &epsilon, 1);
    if (status == KV_OK)
        status = read_activation(loader);
    return status == KV_OK ? refuse_other_kinds(loader) : status;
}
