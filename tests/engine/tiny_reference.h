/* What a tiny model must compute: the forward pass as the papers have it, in
 * double, for one sequence and all of its positions. It shares no code with the
 * engine, and takes the weights from where they are drawn. */
#ifndef TESTS_ENGINE_TINY_REFERENCE_H
#define TESTS_ENGINE_TINY_REFERENCE_H

#include <stdbool.h>

#include "tests/engine/tiny_model.h"

#define TINY_MAX_TOKENS 64

struct tiny_reference {
    const struct tiny_model *tiny;
    bool rotates_halves;  /* else neighbours */
    bool squares_relu;    /* else SiLU */
    uint32_t n_rope_dims; /* of each head */
    double rope_base;
    double stretch[8]; /* each pair's frequency is multiplied by it; not 0 */
    double magnitude;  /* by which what is rotated gets longer */
};

/* logits [n_tokens][TINY_N_FIXED]; the output is tied. */
void tiny_reference_compute(const struct tiny_reference *reference,
    const uint32_t *tokens, size_t n_tokens, double *logits);

#endif
