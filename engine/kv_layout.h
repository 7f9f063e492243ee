/* Where keys and values lie: the one place that knows a block from inside.
 *
 *     block:  | layer 0: K K K ... V V V ... | layer 1: ... |   (padding)
 *
 * K and V are rows of [n_kv_heads][head_dim], block_tokens of each. Elements of
 * Q8_0 are those of a GGUF: a head is a whole number of blocks of 32. */
#ifndef ENGINE_KV_LAYOUT_H
#define ENGINE_KV_LAYOUT_H

#include <stddef.h>
#include <stdint.h>

#include "engine/compute.h"

enum kv_part { KV_PART_KEYS, KV_PART_VALUES };

struct kv_layout {
    unsigned char *arena; /* borrowed */
    size_t block_bytes, row_bytes;
    uint32_t block_tokens;
    enum kv_type type;
};

/* Bytes of n elements, a whole number of the type's blocks. */
size_t kv_type_bytes(enum kv_type type, size_t n);

/* The row of a position of the sequence whose blocks these are. */
static inline unsigned char *kv_layout_row(const struct kv_layout *layout,
    const uint32_t *blocks, uint32_t layer, enum kv_part part,
    uint32_t position)
{
    const uint32_t block = blocks[position / layout->block_tokens];
    const uint32_t token = position % layout->block_tokens;
    const size_t row =
        (2 * (size_t)layer + part) * layout->block_tokens + token;

    return layout->arena + block * layout->block_bytes +
           row * layout->row_bytes;
}

#endif
