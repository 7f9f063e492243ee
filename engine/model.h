/* A model's shape and weights, checked and ready to compute with.
 *
 * Architectures, by the name in the file:
 *
 *     llama                     rotates neighbours; the rest rotate halves
 *     qwen2                     biases of queries, keys and values
 *     qwen3                     norms of each head's queries and keys
 *     bitnet                    norms before the output and down projections
 *     bitnet-b1.58, bitnet-25   the same, with ReLU squared for SiLU
 *
 * Everything else is refused by name: sliding windows, experts, and any tensor
 * that is not one of the below, so that none can be overlooked.
 *
 * Matrices stay in the mapping; norms and other small tensors are copies. Any
 * thread may read. */
#ifndef ENGINE_MODEL_H
#define ENGINE_MODEL_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/error.h"
#include "engine/gguf.h"
#include "engine/rope.h"

/* y[row] = scale * sum over col of w[row][col] x[col]. Rows are contiguous; a
 * row of n_cols is a whole number of the type's blocks. */
struct weight {
    enum gguf_tensor_type type;
    uint32_t n_rows, n_cols;
    const void *data;
    float scale; /* 1 unless there is a `.scale` tensor, or it is I2_S */
};

size_t weight_bytes(const struct weight *weight); /* of data */

struct model_layer {
    const float *attn_norm;       /* [n_embd] */
    const float *attn_sub_norm;   /* [n_heads * head_dim], or NULL */
    const float *ffn_norm;        /* [n_embd] */
    const float *ffn_sub_norm;    /* [n_ff], or NULL */
    const float *q_norm, *k_norm; /* [head_dim], of each head; or NULL */
    const float *q_bias;          /* [n_heads * head_dim], or NULL */
    const float *k_bias, *v_bias; /* [n_kv_heads * head_dim], or NULL */
    struct weight q;              /* [n_heads * head_dim][n_embd] */
    struct weight k, v;           /* [n_kv_heads * head_dim][n_embd] */
    struct weight attn_output;    /* [n_embd][n_heads * head_dim] */
    struct weight gate, up;       /* [n_ff][n_embd] */
    struct weight down;           /* [n_embd][n_ff] */
};

/* What is multiplied with the up projection. */
enum model_activation {
    MODEL_SILU,         /* gate / (1 + exp(-gate)) */
    MODEL_RELU_SQUARED, /* max(gate, 0)^2 */
};

struct model_shape {
    uint32_t n_layers, n_embd, n_ff, n_heads, n_kv_heads, head_dim;
    uint32_t n_vocab, n_context;
    struct rope rope;
    enum model_activation activation;
    float norm_epsilon;
};

struct model {
    struct model_shape shape;
    struct weight token_embedding; /* [n_vocab][n_embd] */
    struct weight output;          /* the same again where it is tied */
    const float *output_norm;      /* [n_embd] */
    struct model_layer *layers;    /* [n_layers] */
    double *rope_frequencies;      /* [rope.n_dims / 2] */

    char name[128]; /* general.name, or the file's; valid UTF-8 */
    const char *architecture;
    uint64_t n_parameters;
    size_t mapped_bytes, copied_bytes;
    float *copies;     /* what the norms point into */
    struct gguf *gguf; /* NULL: made by hand */
};

/* Opens a model file; *out is the caller's to close. KV_UNSUPPORTED and
 * KV_INVALID name the tensor or the key and what is allowed; KV_IO: it cannot
 * be read, or not to its end. */
enum kv_status model_open(
    struct model **out, const char *path, struct kv_error *error);

/* The same from memory aligned to 8 bytes, which must outlive the model. */
enum kv_status model_open_memory(struct model **out, const void *data, size_t n,
    const char *name, struct kv_error *error);

void model_close(struct model *model); /* NULL is fine */

/* Whether its file was cut short, could not be read any more, or was written to
 * in the midst of reading: all that was computed since is worth nothing. Any
 * thread; KV_IO with the same in words. */
enum kv_status model_check_file(
    const struct model *model, struct kv_error *error);

/* Finds out whether the file was written to, which model_check_file then knows.
 * Any thread that may wait for a file system. */
void model_look_at_file(const struct model *model);

/* SHA-256 of the file is not computed here: it would read all of it. */

struct model_type_usage {
    enum gguf_tensor_type type;
    uint32_t n_tensors;
    uint64_t n_bytes;
};
#define MODEL_MAX_TYPES GGUF_N_TYPES

/* Weights by type, most bytes first; returns how many types. */
size_t model_type_usage(
    const struct model *model, struct model_type_usage usage[MODEL_MAX_TYPES]);

#endif
