/* What the rooms of the forward pass share: forward.c leads a step and holds
 * the products, forward_heads.c is what happens to queries, keys and values,
 * forward_scratch.c the memory. */
#ifndef ENGINE_FORWARD_INTERNAL_H
#define ENGINE_FORWARD_INTERNAL_H

#include "engine/forward.h"
#include "engine/kv_layout.h"

#define FORWARD_CHUNK_MACS 131072 /* multiplications that are worth a chunk */
#define FORWARD_MAX_PRODUCTS 3

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
    float *cosines; /* [n_tokens][rope.n_dims / 2] */
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
    struct product products[FORWARD_MAX_PRODUCTS];
    size_t n_products;
};

/* A job of the team over a step's tokens, ctx being the forward: finishes their
 * queries and keys, and stores keys and values in their blocks. */
void forward_store_heads(void *ctx, size_t begin, size_t end, uint32_t thread);

/* A round: input = attention(q), over the keys and values in the blocks. */
void forward_attend(struct forward *f);

#endif
