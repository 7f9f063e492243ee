#include "engine/attention.h"

#include <math.h>
#include <string.h>

#define RUN 64  /* positions */
#define PART 16 /* of a run, which meets all queries in the first cache */
#define LINE 64 /* bytes, of a cache */
#define LANES 8
#define MAX_QUERIES 16 /* that go over the runs together */

/* Queries on their way through the runs; what comes out is not divided by the
 * sums yet. */
struct states {
    size_t n;
    float max[MAX_QUERIES], sum[MAX_QUERIES];
};

static const float keep_all[MAX_QUERIES] = {
    1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1};

struct run {
    size_t n;
    const void *keys[RUN], *values[RUN];
};

static void find_run(
    const struct attention *attention, uint32_t begin, struct run *run)
{
    const struct kv_layout *layout = attention->layout;
    const uint32_t left =
        begin < attention->n_keys ? attention->n_keys - begin : 0;
    uint32_t i = 0;

    run->n = left < RUN ? left : RUN;
    while (i < run->n) {
        const uint32_t position = begin + i;
        const unsigned char *keys = kv_layout_row(layout, attention->blocks,
            attention->layer, KV_PART_KEYS, position);
        const unsigned char *values = kv_layout_row(layout, attention->blocks,
            attention->layer, KV_PART_VALUES, position);
        size_t at = attention->kv_head *
                    kv_type_bytes(layout->type, attention->head_dim);

        for (uint32_t t = position % layout->block_tokens;
             t < layout->block_tokens && i < run->n;
             t++, i++, at += layout->row_bytes) {
            run->keys[i] = keys + at;
            run->values[i] = values + at;
        }
    }
}

/* The part of n rows that begins at `begin` is on its way to the first cache
 * from then on. */
static void fetch_part(const struct attention *attention,
    const void *const *rows, size_t n, size_t begin)
{
    const size_t n_bytes =
        kv_type_bytes(attention->layout->type, attention->head_dim);

    for (size_t i = begin; i < n && i < begin + PART; i++)
        for (size_t at = 0; at < n_bytes; at += LINE)
            __builtin_prefetch((const unsigned char *)rows[i] + at);
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

/* Of max and the scores, a NaN being none; lanes let it be done in parallel. */
static float largest(const float *scores, size_t n, float max)
{
    float lanes[LANES];
    size_t i = 0;

    for (size_t l = 0; l < LANES; l++)
        lanes[l] = max;
    for (; i + LANES <= n; i += LANES)
        for (size_t l = 0; l < LANES; l++)
            lanes[l] = scores[i + l] > lanes[l] ? scores[i + l] : lanes[l];
    for (; i < n; i++)
        max = scores[i] > max ? scores[i] : max;
    for (size_t l = 0; l < LANES; l++)
        max = lanes[l] > max ? lanes[l] : max;
    return max;
}

/* Scores become weights; keep is what the runs before are to be scaled by. */
static void weigh(const struct attention *attention, struct states *states,
    const struct run *run, float scores[][RUN], float keep[])
{
    const struct kernels *kernels = attention->kernels;

    for (size_t q = 0; q < states->n; q++) {
        const float max = largest(scores[q], run->n, states->max[q]);

        keep[q] = states->max[q] - max;
        states->max[q] = max;
    }
    kernels->exp_sum(keep, states->n, 0);
    for (size_t q = 0; q < states->n; q++)
        states->sum[q] = states->sum[q] * keep[q] +
                         kernels->exp_sum(scores[q], run->n, states->max[q]);
}

static void score_run(const struct attention *attention, const struct run *run,
    const float *queries, size_t n_queries, float scores[][RUN])
{
    const kernel_score_cb score = score_of(attention);
    const float scale = 1 / sqrtf((float)attention->head_dim);

    for (size_t i = 0; i < run->n; i += PART) {
        const struct kernel_run keys = {
            .rows = run->keys + i,
            .n_rows = run->n - i < PART ? run->n - i : PART,
            .n = attention->head_dim,
            .n_queries = n_queries,
            .stride = RUN,
        };

        if (i + PART < run->n)
            fetch_part(attention, run->keys, run->n, i + PART);
        else
            fetch_part(attention, run->values, run->n, 0);
        score(scores[0] + i, queries, &keys, scale);
    }
}

static void mix_run(const struct attention *attention, const struct run *run,
    const struct run *next, size_t n_queries, const float keep[],
    float scores[][RUN], float *out)
{
    const kernel_mix_cb mix = mix_of(attention);

    for (size_t i = 0; i < run->n; i += PART) {
        const struct kernel_run values = {
            .rows = run->values + i,
            .n_rows = run->n - i < PART ? run->n - i : PART,
            .n = attention->head_dim,
            .n_queries = n_queries,
            .stride = RUN,
        };

        if (i + PART < run->n)
            fetch_part(attention, run->values, run->n, i + PART);
        else
            fetch_part(attention, next->keys, next->n, 0);
        mix(out, i == 0 ? keep : keep_all, scores[0] + i, &values);
    }
}

static void compute_some(const struct attention *attention,
    const float *queries, uint32_t n_queries, float *out)
{
    const size_t n = attention->head_dim;
    struct states states = {.n = n_queries};
    struct run runs[2]; /* the one that is folded, and the next */

    for (uint32_t q = 0; q < n_queries; q++)
        states.max[q] = -INFINITY;
    memset(out, 0, n_queries * n * sizeof *out);
    find_run(attention, 0, &runs[0]);
    for (uint32_t begin = 0; begin < attention->n_keys; begin += RUN) {
        const struct run *run = &runs[begin / RUN % 2];
        struct run *next = &runs[(begin / RUN + 1) % 2];
        float scores[MAX_QUERIES][RUN], keep[MAX_QUERIES];

        find_run(attention, begin + RUN, next);
        score_run(attention, run, queries, n_queries, scores);
        weigh(attention, &states, run, scores, keep);
        mix_run(attention, run, next, n_queries, keep, scores, out);
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
