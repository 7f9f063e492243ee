#include <inttypes.h>
#include <math.h>
#include <stdio.h>
#include <string.h>

#include "engine/model_internal.h"

#define MAX_DIM (1u << 20)
#define MAX_VOCAB (1u << 24)

/* How a number that must be in the file, or may be, is allowed to be. */
struct uint_key {
    const char *suffix; /* after "ARCH." */
    uint32_t *out;
    uint64_t min, max;
    bool is_required; /* otherwise *out keeps what it has */
};

/* ARCH.suffix as it is in the file. */
struct key_name {
    char text[96];
};

static struct key_name arch_key(
    const struct model_loader *loader, const char *suffix)
{
    struct key_name key;

    snprintf(key.text, sizeof key.text, "%s.%s", loader->model->architecture,
        suffix);
    return key;
}

enum kv_status model_read_architecture(struct model_loader *loader)
{
    static const char *const known[] = {"bitnet", "llama"};
    struct gguf_string name;
    enum kv_status status = gguf_get_string(
        loader->gguf, "general.architecture", &name, loader->error);

    if (status == KV_NOT_FOUND)
        return kv_error_set(loader->error, KV_INVALID,
            "%s: key general.architecture is missing; it is not a model",
            gguf_name(loader->gguf));
    if (status != KV_OK)
        return status;
    for (size_t i = 0; i < sizeof known / sizeof *known; i++)
        if (name.n == strlen(known[i]) &&
            memcmp(name.data, known[i], name.n) == 0) {
            memcpy(loader->model->architecture, known[i], name.n + 1);
            loader->is_bitnet = i == 0;
            return KV_OK;
        }
    return kv_error_set(loader->error, KV_UNSUPPORTED,
        "%s: architecture %s; supported are bitnet, llama",
        gguf_name(loader->gguf), gguf_printable(name).text);
}

static enum kv_status read_uint(
    struct model_loader *loader, const struct uint_key *want)
{
    struct key_name key = arch_key(loader, want->suffix);
    uint64_t value;
    enum kv_status status =
        gguf_get_uint(loader->gguf, key.text, &value, loader->error);

    if (status == KV_NOT_FOUND) {
        if (!want->is_required)
            return KV_OK;
        return kv_error_set(loader->error, KV_INVALID,
            "%s: key %s is missing; an integer from %" PRIu64 " to %" PRIu64
            " is needed",
            gguf_name(loader->gguf), key.text, want->min, want->max);
    }
    if (status != KV_OK)
        return status;
    if (value < want->min || value > want->max)
        return kv_error_set(loader->error, KV_INVALID,
            "%s: key %s is %" PRIu64 "; %" PRIu64 " to %" PRIu64 " are allowed",
            gguf_name(loader->gguf), key.text, value, want->min, want->max);
    *want->out = (uint32_t)value;
    return KV_OK;
}

static enum kv_status read_uints(
    struct model_loader *loader, const struct uint_key *keys, size_t n)
{
    enum kv_status status = KV_OK;

    for (size_t i = 0; i < n && status == KV_OK; i++)
        status = read_uint(loader, &keys[i]);
    return status;
}

/* Absent: *out keeps what it has. */
static enum kv_status read_float(struct model_loader *loader,
    const char *suffix, float *out, float min, float max, bool is_required)
{
    struct key_name key = arch_key(loader, suffix);
    float value;
    enum kv_status status =
        gguf_get_float(loader->gguf, key.text, &value, loader->error);

    if (status == KV_NOT_FOUND) {
        if (!is_required)
            return KV_OK;
        return kv_error_set(loader->error, KV_INVALID,
            "%s: key %s is missing; a number from %g to %g is needed",
            gguf_name(loader->gguf), key.text, (double)min, (double)max);
    }
    if (status != KV_OK)
        return status;
    if (!(value >= min && value <= max))
        return kv_error_set(loader->error, KV_INVALID,
            "%s: key %s is %g; %g to %g are allowed", gguf_name(loader->gguf),
            key.text, (double)value, (double)min, (double)max);
    *out = value;
    return KV_OK;
}

/* Older files have no vocab_size; the vocabulary tells it. */
static enum kv_status read_vocab_size(struct model_loader *loader)
{
    struct model_shape *shape = &loader->model->shape;
    const struct uint_key key = {
        "vocab_size", &shape->n_vocab, 1, MAX_VOCAB, false};
    struct gguf_array tokens;
    enum kv_status status = read_uint(loader, &key);

    if (status != KV_OK || shape->n_vocab > 0)
        return status;
    status = gguf_get_array(loader->gguf, "tokenizer.ggml.tokens", GGUF_STRINGS,
        &tokens, loader->error);
    if (status == KV_NOT_FOUND)
        return kv_error_set(loader->error, KV_INVALID,
            "%s: neither key %s nor key tokenizer.ggml.tokens is there",
            gguf_name(loader->gguf), arch_key(loader, "vocab_size").text);
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
    const struct uint_key keys[] = {
        {"block_count", &shape->n_layers, 1, 4096, true},
        {"embedding_length", &shape->n_embd, 1, MAX_DIM, true},
        {"feed_forward_length", &shape->n_ff, 1, MAX_DIM, true},
        {"attention.head_count", &shape->n_heads, 1, 65536, true},
        {"context_length", &shape->n_context, 1, 1u << 30, true},
    };
    enum kv_status status =
        read_uints(loader, keys, sizeof keys / sizeof *keys);

    return status == KV_OK ? read_vocab_size(loader) : status;
}

static enum kv_status read_heads(struct model_loader *loader)
{
    struct model_shape *shape = &loader->model->shape;
    uint32_t value_dim;
    const struct uint_key keys[] = {
        {"attention.head_count_kv", &shape->n_kv_heads, 1, shape->n_heads,
            false},
        {"attention.key_length", &shape->head_dim, 2, 4096, false},
        {"attention.value_length", &value_dim, 2, 4096, false},
    };
    enum kv_status status;

    shape->n_kv_heads = shape->n_heads;
    shape->head_dim = 0;
    value_dim = 0;
    status = read_uints(loader, keys, sizeof keys / sizeof *keys);
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

static enum kv_status read_rope(struct model_loader *loader)
{
    struct model_shape *shape = &loader->model->shape;
    const struct uint_key key = {
        "rope.dimension_count", &shape->rope_dims, 2, shape->head_dim, false};
    enum kv_status status;

    shape->rope_style = loader->is_bitnet ? ROPE_NEOX : ROPE_INTERLEAVED;
    shape->rope_dims = shape->head_dim;
    shape->rope_base = 10000.0f;
    status = read_uint(loader, &key);
    if (status != KV_OK)
        return status;
    if (shape->rope_dims % 2 != 0)
        return kv_error_set(loader->error, KV_INVALID,
            "%s: key %s is %" PRIu32 "; an even number is needed",
            gguf_name(loader->gguf),
            arch_key(loader, "rope.dimension_count").text, shape->rope_dims);
    return read_float(
        loader, "rope.freq_base", &shape->rope_base, 1.0f, 1e12f, false);
}

static enum kv_status refuse(
    struct model_loader *loader, const char *suffix, const char *what)
{
    return kv_error_set(loader->error, KV_UNSUPPORTED,
        "%s: key %s: %s is not supported", gguf_name(loader->gguf),
        arch_key(loader, suffix).text, what);
}

/* Without a type, a factor means linear scaling. */
static enum kv_status refuse_rope_scaling(struct model_loader *loader)
{
    static const char *const factors[] = {
        "rope.scaling.factor", "rope.scale_linear"};
    struct gguf_string type;
    enum kv_status status = gguf_get_string(loader->gguf,
        arch_key(loader, "rope.scaling.type").text, &type, loader->error);

    if (status == KV_OK)
        return type.n == 4 && memcmp(type.data, "none", 4) == 0
                   ? KV_OK
                   : refuse(loader, "rope.scaling.type",
                         gguf_printable(type).text);
    if (status != KV_NOT_FOUND)
        return status;
    for (size_t i = 0; i < sizeof factors / sizeof *factors; i++) {
        float factor = 1.0f;

        status =
            read_float(loader, factors[i], &factor, -INFINITY, INFINITY, false);
        if (status != KV_OK)
            return status;
        if (factor != 1.0f && factor != 0.0f)
            return refuse(loader, factors[i], "rotary scaling");
    }
    return KV_OK;
}

/* What would change the output and that we do not compute. A window as long as
 * the context changes nothing. */
static enum kv_status refuse_other_kinds(struct model_loader *loader)
{
    uint32_t n_experts = 0, window = 0;
    const struct uint_key keys[] = {
        {"expert_count", &n_experts, 0, UINT32_MAX, false},
        {"attention.sliding_window", &window, 0, UINT32_MAX, false},
    };
    enum kv_status status =
        read_uints(loader, keys, sizeof keys / sizeof *keys);

    if (status != KV_OK)
        return status;
    if (n_experts > 0)
        return refuse(loader, "expert_count", "a mixture of experts");
    if (window > 0 && window < loader->model->shape.n_context)
        return refuse(loader, "attention.sliding_window", "a sliding window");
    return refuse_rope_scaling(loader);
}

enum kv_status model_read_shape(struct model_loader *loader)
{
    enum kv_status status = read_sizes(loader);

    if (status == KV_OK)
        status = read_heads(loader);
    if (status == KV_OK)
        status = read_rope(loader);
    if (status == KV_OK)
        status = read_float(loader, "attention.layer_norm_rms_epsilon",
            &loader->model->shape.norm_epsilon, 1e-12f, 0.1f, true);
    return status == KV_OK ? refuse_other_kinds(loader) : status;
}
