/* The matrices of a model as the products of a set of kernels want them:
 * integers packed into memory of ours, floats as they lie in the file.
 *
 * Packing is done once, at open, by all threads of the team. Afterwards nothing
 * changes; any thread may read. */
#ifndef ENGINE_MATRICES_H
#define ENGINE_MATRICES_H

#include "engine/kernels.h"
#include "engine/progress.h"
#include "engine/team.h"

struct matrix {
    const struct weight *weight; /* the model's */
    struct packed packed;
    bool is_packed;
};

enum matrix_role {
    MATRIX_Q,
    MATRIX_K,
    MATRIX_V,
    MATRIX_ATTN_OUTPUT,
    MATRIX_GATE,
    MATRIX_UP,
    MATRIX_DOWN,
    N_MATRIX_ROLES, /* of a layer */
};

struct matrices;

/* Model, kernels and team are borrowed, the team until this returns, and so is
 * progress, which may be NULL. KV_INVALID if they exceed the address space;
 * KV_NO_MEMORY. */
enum kv_status matrices_open(struct matrices **out, const struct model *model,
    const struct kernels *kernels, struct team *team,
    const struct progress *progress, struct kv_error *error);
void matrices_close(struct matrices *matrices); /* NULL is fine */

const struct matrix *matrices_of_layer(
    const struct matrices *matrices, uint32_t layer, enum matrix_role role);
const struct matrix *matrices_output(const struct matrices *matrices);

/* All of them, in no order that matters. */
size_t matrices_count(const struct matrices *matrices);
const struct matrix *matrices_at(const struct matrices *matrices, size_t i);

/* What is packed, n bytes. */
const void *matrices_packed(const struct matrices *matrices, size_t *n);
size_t matrices_packed_bytes(const struct matrices *matrices);

/* out[token * n_rows + row] for all tokens and the rows of groups `begin` to
 * `end`, PACKED_ROWS each. */
void matrix_multiply(const struct matrix *matrix, const struct kernels *kernels,
    size_t begin, size_t end, const struct activations *x, float *out);

/* Groups of rows, the last of which may not be full. */
size_t matrix_n_groups(const struct matrix *matrix);

#endif
