/* Random weights of any tensor type, as they lie in a file.
 *
 * Weights are uniform with a variance of 1 / columns, so that activations keep
 * their size from layer to layer. Quantised blocks are drawn as they are: any
 * block of random quants with a good scale is what some weights would have been
 * quantised to. */
#ifndef BENCH_SYNTH_BLOCKS_H
#define BENCH_SYNTH_BLOCKS_H

#include <stddef.h>
#include <stdint.h>

#include "engine/gguf.h"

#define SYNTH_BLOCKS_MAX_BYTES 210 /* of one block */

/* What a random byte becomes in a ternary block. */
struct synth_trits {
    unsigned char five[256], four[256], pairs[256];
};

struct synth_blocks {
    uint64_t random;
    struct synth_trits trits;
};

/* The same weights for the same seed. */
void synth_blocks_init(struct synth_blocks *blocks, uint64_t seed);

/* The next blocks of a matrix of so many columns. */
void synth_blocks_fill(struct synth_blocks *blocks, unsigned char *out,
    size_t n_blocks, enum gguf_tensor_type type, uint64_t n_cols);

/* The scale of a matrix that has one for all, behind its blocks. */
float synth_blocks_tail_scale(uint64_t n_cols);

#endif
