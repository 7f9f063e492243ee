/* What the two halves of opening a model share: model_shape.c reads the keys,
 * model.c the tensors. */
#ifndef ENGINE_MODEL_INTERNAL_H
#define ENGINE_MODEL_INTERNAL_H

#include "engine/model.h"

struct model_loader {
    const struct gguf *gguf;
    struct model *model;
    struct kv_error *error;
    bool *is_used; /* [gguf_n_tensors] */
    float *floats; /* what is free of model->copies */
    bool is_bitnet;
};

/* Fill loader->model; *error says what is wrong with the file. */
enum kv_status model_read_architecture(struct model_loader *loader);
enum kv_status model_read_shape(struct model_loader *loader);

#endif
