/* Weights of integers as the fast products read them, whatever the type they
 * were stored as: 8, 4 or 2 bits each, sixteen rows side by side.
 *
 *     panel (16 rows):  | F16 scales: [group][row] | block | block | ...
 *     block (32 columns):  | line | line | ...
 *     line (64 bytes):  row 0: 4 columns | row 1: 4 columns | ... | row 15
 *
 * A line of 8 bits holds one step of four columns, as signed bytes. A line of 4
 * or 2 bits holds the next two or four steps, one in each field of its bytes
 * from the lowest on, as unsigned numbers that are too large by `zero`. So four
 * activations, repeated, meet four columns of all sixteen rows at once, and
 * what a row sums up to never has to be gathered from a register.
 *
 * A group is the columns that share a scale, as in the type's blocks. Rows
 * behind the last have a scale of zero.
 *
 * Pure functions; any thread, each its own panels. */
#ifndef ENGINE_PACKED_H
#define ENGINE_PACKED_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "engine/model.h"

#define PACKED_ROWS 16
#define PACKED_BLOCK 32 /* columns */
#define PACKED_STEP 4   /* columns */
#define PACKED_STEPS (PACKED_BLOCK / PACKED_STEP)
#define PACKED_LINE 64 /* bytes */

struct packed {
    uint32_t n_rows, n_cols;
    uint32_t n_bits;       /* 8, 4, 2 */
    uint32_t group;        /* columns: 32 or 256 */
    float scale;           /* of the weight */
    size_t scales_bytes;   /* of a panel, rounded up to whole lines */
    size_t panel_bytes;    /* with them */
    unsigned char *panels; /* aligned to 64 bytes */
};

/* How many a number is too large in a field. */
static inline int32_t packed_zero(uint32_t n_bits)
{
    return n_bits == 8 ? 0 : n_bits == 4 ? 8 : 1;
}

static inline size_t packed_block_bytes(const struct packed *packed)
{
    return PACKED_ROWS * PACKED_BLOCK / 8 * packed->n_bits;
}

static inline uint32_t packed_n_panels(const struct packed *packed)
{
    return packed->n_rows / PACKED_ROWS + (packed->n_rows % PACKED_ROWS != 0);
}

/* All of it but the panels. False for types that are not integers. */
bool packed_plan(struct packed *out, const struct weight *weight);

/* Panels `begin` to `end`, which hold zeros before. */
void packed_fill(const struct packed *packed, const struct weight *weight,
    uint32_t begin, uint32_t end);

#endif
