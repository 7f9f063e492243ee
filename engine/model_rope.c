#include <inttypes.h>
#include <string.h>

#include "engine/model_internal.h"

/* What YaRN's authors use where a file does not say otherwise. */
#define BETA_FAST 32
#define BETA_SLOW 1

/* Without a type, a factor means linear scaling. */
static enum kv_status read_scaling_type(struct model_loader *loader)
{
    static const struct {
        const char *name;
        enum rope_scaling scaling;
    } known[] = {
        {"none", ROPE_UNSCALED},
        {"linear", ROPE_LINEAR},
        {"yarn", ROPE_YARN},
    };
    struct rope *rope = &loader->model->shape.rope;
    struct gguf_string type = {"linear", strlen("linear")};
    enum kv_status status = model_read_text(loader, "rope.scaling.type", &type);

    if (status != KV_OK)
        return status;
    for (size_t i = 0; i < sizeof known / sizeof *known; i++)
        if (model_text_is(type, known[i].name)) {
            rope->scaling = known[i].scaling;
            return KV_OK;
        }
    return kv_error_set(loader->error, KV_UNSUPPORTED,
        "%s: key %s is %s; supported are none, linear, yarn, and tensor "
        "rope_freqs.weight",
        gguf_name(loader->gguf), model_key(loader, "rope.scaling.type").text,
        gguf_printable(type).text);
}

/* scale_linear is the older name; 0 is written for what is not scaled. */
static enum kv_status read_factor(struct model_loader *loader)
{
    struct rope *rope = &loader->model->shape.rope;
    const struct model_float keys[] = {
        {"rope.scale_linear", &rope->factor, 0, 1e6f, false},
        {"rope.scaling.factor", &rope->factor, 0, 1e6f, false},
        {"rope.scaling.attn_factor", &rope->magnitude, 1e-3f, 1e3f, false},
    };
    const enum kv_status status =
        model_read_floats(loader, keys, sizeof keys / sizeof *keys);

    if (status != KV_OK)
        return status;
    if (rope->factor == 0 || rope->scaling == ROPE_UNSCALED)
        rope->factor = 1;
    if (rope->factor < 1e-3f)
        return kv_error_set(loader->error, KV_INVALID,
            "%s: key %s is %g; 0, or 0.001 to 1e+06 are allowed",
            gguf_name(loader->gguf),
            model_key(loader, "rope.scaling.factor").text,
            (double)rope->factor);
    return KV_OK;
}

/* The converters write two things by the name of yarn_attn_factor: what
 * replaces YaRN's own magnitude, and what multiplies it. */
static enum kv_status read_yarn(struct model_loader *loader)
{
    const struct model_shape *shape = &loader->model->shape;
    struct rope *rope = &loader->model->shape.rope;
    float weight = 0, attn_factor = 1;
    const struct model_uint trained = {"rope.scaling.original_context_length",
        &rope->n_trained, 1, 1u << 30, false};
    const struct model_float keys[] = {
        {"rope.scaling.yarn_ext_factor", &rope->extrapolation, 0, 1, false},
        {"rope.scaling.yarn_beta_fast", &rope->beta_fast, 1e-3f, 1e6f, false},
        {"rope.scaling.yarn_beta_slow", &rope->beta_slow, 1e-3f, 1e6f, false},
        {"rope.scaling.yarn_log_multiplier", &weight, 0, 1e3f, false},
        {"rope.scaling.yarn_attn_factor", &attn_factor, 0, 1e3f, false},
    };
    enum kv_status status = model_read_uints(loader, &trained, 1);

    if (status == KV_OK)
        status = model_read_floats(loader, keys, sizeof keys / sizeof *keys);
    if (status != KV_OK)
        return status;
    if (attn_factor != 1)
        return model_refuse(loader, "rope.scaling.yarn_attn_factor",
            "anything but 1, on whose meaning engines disagree,");
    if (rope->n_trained == 0)
        rope->n_trained = shape->n_context;
    if (rope->extrapolation > 0)
        rope->magnitude *= (float)(rope_yarn_magnitude(rope->factor, 1) /
                                   rope_yarn_magnitude(rope->factor, weight));
    return KV_OK;
}

static enum kv_status read_scaling(struct model_loader *loader)
{
    float alpha = 0;
    const struct model_float other = {
        "rope.scaling.alpha", &alpha, -1e6f, 1e6f, false};
    enum kv_status status = model_read_floats(loader, &other, 1);

    if (status == KV_OK && alpha != 0)
        return model_refuse(
            loader, "rope.scaling.alpha", "a base that is scaled");
    if (status == KV_OK)
        status = read_scaling_type(loader);
    if (status == KV_OK)
        status = read_factor(loader);
    if (status != KV_OK || loader->model->shape.rope.scaling != ROPE_YARN)
        return status;
    return read_yarn(loader);
}

enum kv_status model_read_rope(struct model_loader *loader)
{
    struct model_shape *shape = &loader->model->shape;
    struct rope *rope = &shape->rope;
    const struct model_uint dims = {
        "rope.dimension_count", &rope->n_dims, 2, shape->head_dim, false};
    const struct model_float base = {
        "rope.freq_base", &rope->base, 1.001f, 1e12f, false};
    enum kv_status status;

    *rope = (struct rope){
        .style = loader->architecture->rope_style,
        .n_dims = shape->head_dim,
        .base = 10000,
        .factor = 1,
        .magnitude = 1,
        .beta_fast = BETA_FAST,
        .beta_slow = BETA_SLOW,
        .extrapolation = 1,
    };
    status = model_read_uints(loader, &dims, 1);
    if (status != KV_OK)
        return status;
    if (rope->n_dims % 2 != 0)
        return kv_error_set(loader->error, KV_INVALID,
            "%s: key %s is %" PRIu32 "; an even number is needed",
            gguf_name(loader->gguf),
            model_key(loader, "rope.dimension_count").text, rope->n_dims);
    status = model_read_floats(loader, &base, 1);
    return status == KV_OK ? read_scaling(loader) : status;
}
