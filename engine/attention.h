/* Attention of one token over the keys and values of its sequence, read where
 * they lie.
 *
 * The positions are taken in runs of a fixed length from 0 on, whatever the
 * size of a block; each run is folded into what the runs before it gave, with
 * the softmax's maximum and sum carried along (online softmax, Milakov and
 * Gimelshein, https://arxiv.org/abs/1805.02867). So the result depends on the
 * position and what lies there, on nothing else. */
#ifndef ENGINE_ATTENTION_H
#define ENGINE_ATTENTION_H

#include "engine/kernels.h"
#include "engine/kv_layout.h"

struct attention {
    const struct kernels *kernels;
    const struct kv_layout *layout;
    const uint32_t *blocks;
    uint32_t layer, kv_head, head_dim;
    uint32_t n_keys; /* position of the token plus one */
};

/* out [n_queries][head_dim] of the queries [n_queries][head_dim], which share
 * the head of keys and values. */
void attention_compute(const struct attention *attention, const float *queries,
    uint32_t n_queries, float *out);

#endif
