/* Weights of integers as the fast products read them, whatever the type they
 * were stored as: 2 to 8 bits each, sixteen rows side by side.
 *
 *     panel (16 rows):  | scales of group 0 | of group 1 | ... | block | ...
 *     block (32 columns):  | line | line | ...
 *     line (64 bytes):  row 0: 4 columns | row 1: 4 columns | ... | row 15
 *
 * A line of 8 bits holds one step of four columns, as signed bytes. A line of 4
 * or 2 bits holds the next two or four steps, one in each field of its bytes
 * from the lowest on, as unsigned numbers that are too large by `zero`. So four
 * activations, repeated, meet four columns of all sixteen rows at once, and
 * what a row sums up to never has to be gathered from a register. Weights of 5
 * or 6 bits have four in such lines and the others behind them, in lines of 1
 * or 2 bits, which hold eight or four steps.
 *
 * A group is the columns that share a scale, as in the type's blocks. Of a
 * super-block (engine/quants_super.h) the integer scales of its parts are kept
 * as they are, and so are the minimums where there are any:
 *
 *     scales of a group:  F16 [row]
 *     of a super-block:   F16 [row] | F16 mins [row] | scales [part][row] |
 *                         mins [part][row], integers of a byte each
 *
 * Rows behind the last have scales, and mins, of zero.
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
    uint32_t n_bits;      /* 8, 4, 2: of the lines that come first */
    uint32_t n_high_bits; /* 0; 1, 2: of those behind them */
    uint32_t group;       /* columns: 32 or 256 */
    uint32_t part;        /* of a super-block: 32 or 16 columns; else 0 */
    bool has_mins;
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
    return PACKED_ROWS * PACKED_BLOCK / 8 *
           (size_t)(packed->n_bits + packed->n_high_bits);
}

/* Of a group's scales. */
static inline size_t packed_scale_bytes(
    uint32_t group, uint32_t part, bool has_mins)
{
    const size_t n_parts = part == 0 ? 0 : group / part;

    return (has_mins ? 2 : 1) * PACKED_ROWS * (sizeof(uint16_t) + n_parts);
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
