/* What the parts of opening a model share: model_keys.c reads keys,
 * model_shape.c and model_rope.c know which, model_tensors.c finds the tensors,
 * model.c opens and closes. */
#ifndef ENGINE_MODEL_INTERNAL_H
#define ENGINE_MODEL_INTERNAL_H

#include "engine/model.h"

/* In what the architectures differ. Biases of queries, keys and values are
 * taken wherever a file has them. */
struct architecture {
    const char *name; /* as in general.architecture */
    enum rope_style rope_style;
    enum model_activation activation; /* unless the file says otherwise */
    bool has_sub_norms;    /* before the output and the down projection */
    bool has_head_norms;   /* of queries and keys */
    bool needs_biases;     /* of queries, keys and values */
    bool has_rope_factors; /* if the file has rope_freqs.weight */
};

struct model_loader {
    const struct gguf *gguf;
    struct model *model;
    struct kv_error *error;
    const struct architecture *architecture;
    bool *is_used; /* [gguf_n_tensors] */
    float *floats; /* what is free of model->copies */
    bool has_biases, has_rope_factors;
};

/* Fill loader->model; *error says what is wrong with the file. */
enum kv_status model_read_architecture(struct model_loader *loader);
enum kv_status model_read_shape(struct model_loader *loader);
enum kv_status model_read_rope(struct model_loader *loader);
enum kv_status model_allocate(struct model_loader *loader);
enum kv_status model_load_tensors(struct model_loader *loader);

/* Keys are those of the architecture: `suffix` is what stands after "ARCH.".
 * One that is not there leaves *out alone, unless it is required. */
struct model_key {
    char text[96];
};
struct model_key model_key(
    const struct model_loader *loader, const char *suffix);

struct model_uint {
    const char *suffix;
    uint32_t *out;
    uint64_t min, max;
    bool is_required;
};
enum kv_status model_read_uints(
    struct model_loader *loader, const struct model_uint *keys, size_t n);

struct model_float {
    const char *suffix;
    float *out;
    float min, max;
    bool is_required;
};
enum kv_status model_read_floats(
    struct model_loader *loader, const struct model_float *keys, size_t n);

enum kv_status model_read_text(
    struct model_loader *loader, const char *suffix, struct gguf_string *out);
bool model_text_is(struct gguf_string text, const char *word);

/* KV_UNSUPPORTED: ARCH.suffix, `what` is not supported. */
enum kv_status model_refuse(
    struct model_loader *loader, const char *suffix, const char *what);

#endif
