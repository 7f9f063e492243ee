/* The matrices of a model as the products of a set of kernels want them:
 * integers packed into memory of ours, floats as they lie in the file.
 *
 * Packing is done once, at open, by all threads of the team. Afterwards nothing
 * changes; any thread may read. */
#ifndef ENGINE_MATRICES_H
#define ENGINE_MATRICES_H

#include "engine/kernels.h"
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

/* Model, kernels and team are borrowed, the team until this returns. KV_INVALID
 * if they exceed the address space; KV_NO_MEMORY. */
enum kv_status matrices_open(struct matrices **out, const struct model *model,
    const struct kernels *kernels, struct team *team, struct kv_error *error);
void matrices_close(struct matrices *matrices); /* NULL is fine */

const struct matrix *matrices_of_layer(
    const struct matrices *matrices, uint32_t layer, enum matrix_role role);
const struct matrix *matrices_output(const struct matrices *matrices);

size_t matrices_packed_bytes(const struct matrices *matrices);

/* out[token * n_rows + row] for all tokens and the rows of groups `begin` to
 * `end`, PACKED_ROWS each. */
void matrix_multiply(const struct matrix *matrix, const struct kernels *kernels,
    size_t begin, size_t end, const struct activations *x, float *out);

/* Groups of rows, the last of which may not be full. */
size_t matrix_n_groups(const struct matrix *matrix);

#endif
