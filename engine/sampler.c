#include "engine/sampler.h"

#include <math.h>
#include <stdbool.h>

/* The candidates stand in a heap, the best on top, so that only as many are
 * sorted as top-k and top-p want. Taking the best moves it behind the heap's
 * end: the sorted ones grow from the back of the array to its front. */

static bool is_better(struct sampler_entry a, struct sampler_entry b)
{
    return a.logit > b.logit || (a.logit == b.logit && a.token < b.token);
}

static void sift_down(struct sampler_entry *heap, size_t n, size_t at)
{
    const struct sampler_entry entry = heap[at];

    for (size_t child; (child = 2 * at + 1) < n; at = child) {
        if (child + 1 < n && is_better(heap[child + 1], heap[child]))
            child++;
        if (!is_better(heap[child], entry))
            break;
        heap[at] = heap[child];
    }
    heap[at] = entry;
}

static void heap_build(struct sampler_entry *heap, size_t n)
{
    for (size_t at = n / 2; at-- > 0;)
        sift_down(heap, n, at);
}

/* The best of n, which then stands at n - 1. */
static struct sampler_entry heap_take(struct sampler_entry *heap, size_t n)
{
    const struct sampler_entry best = heap[0];

    heap[0] = heap[n - 1];
    sift_down(heap, n - 1, 0);
    heap[n - 1] = best;
    return best;
}

/* What is not a number is never chosen before something that is. */
static uint32_t choose_best(const float *logits, uint32_t n_vocab)
{
    uint32_t best = 0;

    for (uint32_t i = 1; i < n_vocab; i++)
        if (logits[i] > logits[best] || isnan(logits[best]))
            best = isnan(logits[i]) ? best : i;
    return best;
}

/* SplitMix64's finaliser. Steele, Lea, Flood: Fast splittable pseudorandom
 * number generators, 2014; https://prng.di.unimi.it/splitmix64.c */
static uint64_t mix(uint64_t z)
{
    z = (z ^ z >> 30) * UINT64_C(0xbf58476d1ce4e5b9);
    z = (z ^ z >> 27) * UINT64_C(0x94d049bb133111eb);
    return z ^ z >> 31;
}

/* In [0, 1): number `draw` of a SplitMix64 whose state starts at the mixed
 * seed, so that neighbouring seeds are not neighbouring streams. */
static double uniform(uint64_t seed, uint64_t draw)
{
    const uint64_t golden = UINT64_C(0x9e3779b97f4a7c15);
    const uint64_t state = mix(seed + golden) + (draw + 1) * golden;

    return (double)(mix(state) >> 11) * 0x1p-53;
}

/* Of an entry, the best having 1. */
static double mass(float logit, float best, float temperature)
{
    return exp(((double)logit - best) / temperature);
}

/* Candidates with a finite logit, and the sum of their masses. */
static size_t collect(struct sampler_entry *entries, const float *logits,
    uint32_t n_vocab, float best, float temperature, double *total)
{
    size_t n = 0;

    *total = 0;
    for (uint32_t i = 0; i < n_vocab; i++) {
        if (!isfinite(logits[i]))
            continue;
        entries[n++] = (struct sampler_entry){logits[i], i};
        *total += mass(logits[i], best, temperature);
    }
    return n;
}

/* Sorts the n_top best of n candidates to the back; returns their mass. */
static double sort_top_k(struct sampler_entry *entries, size_t n, size_t n_top,
    float best, float temperature)
{
    double sum = 0;

    heap_build(entries, n);
    for (size_t i = 0; i < n_top; i++)
        sum += mass(heap_take(entries, n - i).logit, best, temperature);
    return sum;
}

/* Takes the best of n candidates until their mass reaches `wanted`; the first
 * n_sorted stand at the back already. Returns how many, and their mass. */
static size_t take_top_p(struct sampler_entry *entries, size_t n,
    size_t n_sorted, double wanted, float best, float temperature, double *sum)
{
    size_t taken = 0;

    *sum = 0;
    for (; *sum < wanted && taken < n; taken++) {
        const struct sampler_entry entry = taken < n_sorted
                                               ? entries[n - 1 - taken]
                                               : heap_take(entries, n - taken);

        *sum += mass(entry.logit, best, temperature);
    }
    return taken;
}

/* How many of the candidates top-k and top-p leave, sorted to the back of the
 * array, the best last, and their mass. The nucleus is one of top-k's. */
static size_t limit(struct sampler_entry *entries, size_t n,
    const struct sampler_params *params, float best, double *total)
{
    const bool by_rank = params->top_k > 0 && params->top_k < n;
    const bool by_mass = params->top_p > 0 && params->top_p < 1;
    const size_t n_top = by_rank ? params->top_k : n;

    if (by_rank)
        *total = sort_top_k(entries, n, n_top, best, params->temperature);
    if (!by_mass)
        return n_top;
    if (!by_rank)
        heap_build(entries, n);
    return take_top_p(entries, n, by_rank ? n_top : 0,
        *total * (double)params->top_p, best, params->temperature, total);
}

uint32_t sampler_choose(const struct sampler_params *params,
    const float *logits, uint32_t n_vocab, uint64_t draw,
    struct sampler_entry *scratch)
{
    const uint32_t greedy = choose_best(logits, n_vocab);
    const float best = logits[greedy];
    double total, at;
    size_t n, n_left;

    if (!(params->temperature > 0) || !isfinite(best))
        return greedy;
    n = collect(scratch, logits, n_vocab, best, params->temperature, &total);
    n_left = limit(scratch, n, params, best, &total);
    at = uniform(params->seed, draw) * total;
    for (size_t i = n; i-- > n - n_left;) {
        at -= mass(scratch[i].logit, best, params->temperature);
        if (at < 0)
            return scratch[i].token;
    }
    return greedy; /* rounding took the last crumb */
}
