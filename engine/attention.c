#include "engine/attention.h"

#include <math.h>
#include <string.h>

#define RUN 64         /* positions */
#define MAX_QUERIES 16 /* that go over the runs together */

/* Queries on their way through the runs; what comes out is not divided by the
 * sums yet. */
struct states {
    size_t n;
    float max[MAX_QUERIES], sum[MAX_QUERIES];
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

/* Scores become weights; keep is what the runs before are to be scaled by. */
static void weigh(const struct attention *attention, struct states *states,
    const struct run *run, float scores[][RUN], float keep[])
{
    const struct kernels *kernels = attention->kernels;

    for (size_t q = 0; q < states->n; q++) {
        float max = states->max[q];

        for (size_t i = 0; i < run->n; i++)
            max = scores[q][i] > max ? scores[q][i] : max;
        keep[q] = states->max[q];
        kernels->exp_sum(&keep[q], 1, max);
        states->sum[q] =
            states->sum[q] * keep[q] + kernels->exp_sum(scores[q], run->n, max);
        states->max[q] = max;
    }
}

static void fold_run(const struct attention *attention, const struct run *run,
    const float *queries, struct states *states, float *out)
{
    float scores[MAX_QUERIES][RUN], keep[MAX_QUERIES];
    struct kernel_run rows = {
        .rows = run->keys,
        .n_rows = run->n,
        .n = attention->head_dim,
        .n_queries = states->n,
        .stride = RUN,
    };

    score_of(attention)(
        scores[0], queries, &rows, 1 / sqrtf((float)attention->head_dim));
    weigh(attention, states, run, scores, keep);
    rows.rows = run->values;
    mix_of(attention)(out, keep, scores[0], &rows);
}

static void compute_some(const struct attention *attention,
    const float *queries, uint32_t n_queries, float *out)
{
    const size_t n = attention->head_dim;
    struct states states = {.n = n_queries};
    struct run run;

    for (uint32_t q = 0; q < n_queries; q++)
        states.max[q] = -INFINITY;
    memset(out, 0, n_queries * n * sizeof *out);
    for (uint32_t begin = 0; begin < attention->n_keys; begin += RUN) {
        find_run(attention, begin, &run);
        fold_run(attention, &run, queries, &states, out);
    }
    for (uint32_t q = 0; q < n_queries; q++)
        for (size_t i = 0; i < n; i++)
            out[q * n + i] /= states.sum[q];
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
