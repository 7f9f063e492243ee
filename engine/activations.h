/* The inputs of a product, a row for each token, as the weights want them.
 *
 * Tokens meet the weights in tiles, and what a tile reads lies side by side:
 *
 *     | step 0: token 0 | token 1 | ... | step 1: token 0 | token 1 | ... | ...
 *
 * Read from rows of their own, a power of two apart as these often are, the
 * tokens of a tile would keep throwing each other out of what the first cache
 * looks addresses up in: a third to two thirds of the speed of a product.
 *
 * A tile has n_abreast tokens, a power of two; of those that are left over the
 * next one has half as many if there are, and so on down to one. Whoever takes
 * tokens in this order, from the first on, meets whole tiles. */
#ifndef ENGINE_ACTIVATIONS_H
#define ENGINE_ACTIVATIONS_H

#include <stddef.h>
#include <stdint.h>

/* Integer weights meet activations that are rounded to 8 bits in blocks of the
 * weights' groups. */
enum activation_format {
    ACTIVATION_F32 = 1,   /* floats, for F32, F16, BF16 */
    ACTIVATION_SMALL = 2, /* blocks of 32, for Q8_0, Q4_0 */
    ACTIVATION_LARGE = 4, /* blocks of 256, for TQ1_0, TQ2_0, I2_S */
    ACTIVATION_PARTS = 8, /* sums of their parts as well, for super-blocks */
};

/* Columns. */
#define ACTIVATION_PART 16
#define ACTIVATION_STEP 4  /* of quants */
#define ACTIVATION_LANES 8 /* a step of floats */

struct activation_quants {
    int8_t *quants; /* tiles; -127 to 127 */
    float *scales;  /* [n_rows][n_cols / block] */
    int32_t *sums;  /* [n_rows][n_cols / block] of quants */
};

struct activations {
    uint32_t n_rows; /* tokens */
    uint32_t n_cols;
    uint32_t n_abreast;
    float *values; /* [n_rows][n_cols], what the rest is made of */
    float *floats; /* tiles; zeros behind the last column, to a whole step */
    struct activation_quants small, large;
    int16_t *part_sums; /* [n_rows][n_cols / ACTIVATION_PART] of large.quants */
};

struct activation_tile {
    size_t first, size; /* tokens */
};

/* The one that a token is in. */
static inline struct activation_tile activation_tile(
    const struct activations *x, size_t token)
{
    size_t size = x->n_abreast;
    size_t first = token / size * size;

    for (;; size /= 2) {
        if (x->n_rows - first < size)
            continue;
        if (token - first < size)
            return (struct activation_tile){first, size};
        first += size;
    }
}

/* Columns of floats, with the zeros. */
static inline size_t activation_n_floats(size_t n_cols)
{
    return (n_cols + ACTIVATION_LANES - 1) / ACTIVATION_LANES *
           ACTIVATION_LANES;
}

/* What a token has of the floats: ACTIVATION_LANES from values on, as many
 * from values + step on, and so on. */
struct activation_floats {
    float *values;
    size_t step;
};

static inline struct activation_floats activation_floats(
    const struct activations *x, size_t token)
{
    const struct activation_tile tile = activation_tile(x, token);

    return (struct activation_floats){
        .values = x->floats + tile.first * activation_n_floats(x->n_cols) +
                  (token - tile.first) * ACTIVATION_LANES,
        .step = tile.size * ACTIVATION_LANES,
    };
}

struct kernels;

/* Brings the values of a token into `formats`, of which n_cols is a whole
 * number of blocks. Any thread, each its own tokens. */
void activations_prepare(const struct activations *x,
    const struct kernels *kernels, size_t token, unsigned formats);

#endif
