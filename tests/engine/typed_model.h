/* A wide tiny llama whose matrices are of any types, filled with blocks that
 * are drawn; and a plain reading of such blocks, one element at a time, by the
 * layouts that ggml and microsoft/BitNet publish. The reading shares no code
 * with the engine. */
#ifndef TESTS_ENGINE_TYPED_MODEL_H
#define TESTS_ENGINE_TYPED_MODEL_H

#include <stddef.h>

#include "engine/gguf.h"

#define TYPED_N_VOCAB 259
#define TYPED_CONTEXT 128

/* All that there are. */
extern const enum gguf_tensor_type typed_all[GGUF_N_TYPES];

/* The file, in memory of malloc. type_of says what a matrix is; it is not asked
 * for norms, which are F32. */
unsigned char *typed_model_write(
    enum gguf_tensor_type (*type_of)(const char *name), size_t *n);
unsigned char *typed_model_write_all(enum gguf_tensor_type type, size_t *n);

/* The same model with every weight read plainly and written as F32. */
unsigned char *typed_model_widen(
    const unsigned char *bytes, size_t n, size_t *n_wide);

/* Blocks whose values are of a size that suits rows of 256 columns. */
void typed_fill(enum gguf_tensor_type type, unsigned char *data,
    size_t n_elements, unsigned seed);

/* Element i of a tensor of n_elements. */
double typed_element(enum gguf_tensor_type type, const unsigned char *data,
    size_t n_elements, size_t i);

#endif
