#include "engine/attention.h"

#include <math.h>
#include <string.h>

#define RUN 64         /* positions */
#define MAX_QUERIES 16 /* that go over the runs together */

/* A query on its way through the runs; its output is not divided by sum yet. */
struct query_state {
    float max, sum;
};

struct run {
    size_t n;
    const void *keys[RUN], *values[RUN];
};

static void find_run(
    const struct attention *attention, uint32_t begin, struct run *run)
{
    const struct kv_layout *layout = attention->layout;
    const size_t head_at =
        attention->kv_head * kv_type_bytes(layout->type, attention->head_dim);
    const uint32_t left = attention->n_keys - begin;

    run->n = left < RUN ? left : RUN;
    for (uint32_t i = 0; i < run->n; i++) {
        run->keys[i] = kv_layout_row(layout, attention->blocks,
                           attention->layer, KV_PART_KEYS, begin + i) +
                       head_at;
        run->values[i] = kv_layout_row(layout, attention->blocks,
                             attention->layer, KV_PART_VALUES, begin + i) +
                         head_at;
    }
}

static kernel_score_cb score_of(const struct attention *attention)
{
    switch (attention->layout->type) {
    case KV_TYPE_F32:
        return attention->kernels->score_f32;
    case KV_TYPE_F16:
        return attention->kernels->score_f16;
    case KV_TYPE_Q8_0:
        return attention->kernels->score_q8_0;
    }
    return NULL;
}

static kernel_mix_cb mix_of(const struct attention *attention)
{
    switch (attention->layout->type) {
    case KV_TYPE_F32:
        return attention->kernels->mix_f32;
    case KV_TYPE_F16:
        return attention->kernels->mix_f16;
    case KV_TYPE_Q8_0:
        return attention->kernels->mix_q8_0;
    }
    return NULL;
}

static void fold_run(const struct attention *attention, const struct run *run,
    const float *query, struct query_state *state, float *out)
{
    const struct kernels *kernels = attention->kernels;
    const size_t n = attention->head_dim;
    float scores[RUN], max = state->max, keep = state->max;

    score_of(attention)(
        scores, query, run->keys, run->n, n, 1 / sqrtf((float)n));
    for (size_t i = 0; i < run->n; i++)
        max = scores[i] > max ? scores[i] : max;
    kernels->exp_sum(&keep, 1, max);
    state->sum = state->sum * keep + kernels->exp_sum(scores, run->n, max);
    state->max = max;
    mix_of(attention)(out, keep, scores, run->values, run->n, n);
}

static void compute_some(const struct attention *attention,
    const float *queries, uint32_t n_queries, float *out)
{
    const size_t n = attention->head_dim;
    struct query_state states[MAX_QUERIES];
    struct run run;

    for (uint32_t q = 0; q < n_queries; q++)
        states[q] = (struct query_state){.max = -INFINITY};
    memset(out, 0, n_queries * n * sizeof *out);
    for (uint32_t begin = 0; begin < attention->n_keys; begin += RUN) {
        find_run(attention, begin, &run);
        for (uint32_t q = 0; q < n_queries; q++)
            fold_run(attention, &run, queries + q * n, &states[q], out + q * n);
    }
    for (uint32_t q = 0; q < n_queries; q++)
        for (size_t i = 0; i < n; i++)
            out[q * n + i] /= states[q].sum;
}

void attention_compute(const struct attention *attention, const float *queries,
    uint32_t n_queries, float *out)
{
    for (uint32_t q = 0; q < n_queries; q += MAX_QUERIES) {
        const uint32_t left = n_queries - q;
        const size_t at = (size_t)q * attention->head_dim;

        compute_some(attention, queries + at,
            left < MAX_QUERIES ? left : MAX_QUERIES, out + at);
    }
}
