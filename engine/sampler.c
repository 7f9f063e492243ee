#include "engine/sampler.h"

#include <float.h>
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

static uint32_t choose_best_entry(
    const struct sampler_entry *entries, uint32_t n_vocab)
{
    uint32_t best = 0;

    for (uint32_t i = 1; i < n_vocab; i++)
        if (entries[i].logit > entries[best].logit ||
            isnan(entries[best].logit))
            best = isnan(entries[i].logit) ? best : i;
    return best;
}

/* ---- penalties and biases: entry i is token i yet */

static bool is_penalty(const struct sampler_params *params)
{
    return (params->repetition_penalty > 0 &&
               params->repetition_penalty != 1) ||
           params->frequency_penalty != 0 || params->presence_penalty != 0;
}

static float penalise(
    const struct sampler_params *params, float logit, uint32_t n_seen)
{
    const double repetition =
        params->repetition_penalty > 0 ? params->repetition_penalty : 1;

    return (float)((logit > 0 ? logit / repetition : logit * repetition) -
                   (double)params->frequency_penalty * n_seen -
                   (double)params->presence_penalty);
}

/* Counts the tokens of the window in the entries themselves, then takes each
 * count as it is used, so that no token is penalised twice. */
static void penalise_seen(struct sampler_entry *entries,
    const struct sampler_params *params, const struct sampler_input *input)
{
    const size_t window = params->penalty_window > 0
                              ? params->penalty_window
                              : (size_t)SAMPLER_STANDARD_WINDOW;
    const size_t n = input->n_history < window ? input->n_history : window;
    const uint32_t *seen = input->history + (input->n_history - n);

    for (size_t i = 0; i < n; i++)
        entries[seen[i]].token++;
    for (size_t i = 0; i < n; i++) {
        struct sampler_entry *entry = &entries[seen[i]];

        if (entry->token > 0)
            entry->logit = penalise(params, entry->logit, entry->token);
        entry->token = 0;
    }
}

static void add_biases(
    struct sampler_entry *entries, const struct sampler_params *params)
{
    for (size_t i = 0; i < params->n_biases; i++) {
        float *logit = &entries[params->biases[i].token].logit;

        *logit = params->biases[i].bias <= SAMPLER_NEVER
                     ? -INFINITY
                     : *logit + params->biases[i].bias;
    }
}

static void fill_entries(struct sampler_entry *entries,
    const struct sampler_params *params, const struct sampler_input *input)
{
    for (uint32_t i = 0; i < input->n_vocab; i++)
        entries[i] = (struct sampler_entry){.logit = input->logits[i]};
    if (is_penalty(params) && input->n_history > 0)
        penalise_seen(entries, params, input);
    add_biases(entries, params);
}

/* ---- limits and the draw */

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

/* Candidates with a finite logit, moved to the front with their tokens, and the
 * sum of their masses. */
static size_t collect(struct sampler_entry *entries, uint32_t n_vocab,
    float best, float temperature, double *total)
{
    size_t n = 0;

    *total = 0;
    for (uint32_t i = 0; i < n_vocab; i++) {
        if (!isfinite(entries[i].logit))
            continue;
        entries[n++] = (struct sampler_entry){entries[i].logit, i};
        *total += mass(entries[n - 1].logit, best, temperature);
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

/* Takes the best of n candidates while their mass is at least min_p, that of
 * the best being 1: at most n_most, the first n_sorted of which stand at the
 * back already. Returns how many, and their mass. */
static size_t take_min_p(struct sampler_entry *entries, size_t n, size_t n_most,
    size_t n_sorted, const struct sampler_params *params, float best,
    double *sum)
{
    size_t taken = 0;

    *sum = 0;
    for (; taken < n_most; taken++) {
        const bool is_sorted = taken < n_sorted;
        const float logit = entries[is_sorted ? n - 1 - taken : 0].logit;
        const double m = mass(logit, best, params->temperature);

        if (taken > 0 && m < (double)params->min_p)
            break;
        if (!is_sorted)
            heap_take(entries, n - taken);
        *sum += m;
    }
    return taken;
}

/* How many of the candidates the limits leave, sorted to the back of the array,
 * the best last, and their mass. The nucleus is one of top-k's. */
static size_t limit(struct sampler_entry *entries, size_t n,
    const struct sampler_params *params, float best, double *total)
{
    const bool by_rank = params->top_k > 0 && params->top_k < n;
    const bool by_mass = params->top_p > 0 && params->top_p < 1;
    const bool by_ratio = params->min_p > 0;
    const float temperature = params->temperature;
    size_t n_left = by_rank ? params->top_k : n;
    size_t n_sorted = by_rank ? n_left : 0;

    if (by_rank)
        *total = sort_top_k(entries, n, n_left, best, temperature);
    else if (by_mass || by_ratio)
        heap_build(entries, n);
    if (by_mass)
        n_left = n_sorted = take_top_p(entries, n, n_sorted,
            *total * (double)params->top_p, best, temperature, total);
    if (by_ratio)
        n_left = take_min_p(entries, n, n_left, n_sorted, params, best, total);
    return n_left;
}

/* One of the n_left candidates at the back of n. */
static uint32_t draw_one(const struct sampler_entry *entries, size_t n,
    size_t n_left, double at, const struct sampler_params *params, float best,
    uint32_t otherwise)
{
    for (size_t i = n; i-- > n - n_left;) {
        at -= mass(entries[i].logit, best, params->temperature);
        if (at < 0)
            return entries[i].token;
    }
    return otherwise; /* rounding took the last crumb */
}

uint32_t sampler_choose(const struct sampler_params *params,
    const struct sampler_input *input, struct sampler_entry *scratch)
{
    const bool is_greedy = !(params->temperature > 0);
    uint32_t greedy;
    size_t n, n_left;
    double total;
    float best;

    if (is_greedy && !is_penalty(params) && params->n_biases == 0)
        return choose_best(input->logits, input->n_vocab);
    fill_entries(scratch, params, input);
    greedy = choose_best_entry(scratch, input->n_vocab);
    best = scratch[greedy].logit;
    if (isnan(best) || best == -INFINITY)
        return choose_best(input->logits, input->n_vocab);
    if (is_greedy || !isfinite(best))
        return greedy;
    n = collect(scratch, input->n_vocab, best, params->temperature, &total);
    n_left = limit(scratch, n, params, best, &total);
    return draw_one(scratch, n, n_left,
        uniform(params->seed, input->draw) * total, params, best, greedy);
}

/* ---- log-probabilities */

/* Puts an entry where it belongs among the best so far. */
static void insert_top(
    struct sampler_logprobs *out, uint32_t n_top, struct sampler_entry entry)
{
    uint32_t at = out->n_top;

    if (at == n_top) {
        if (n_top == 0 || !is_better(entry, out->top[n_top - 1]))
            return;
        at--;
    } else {
        out->n_top++;
    }
    for (; at > 0 && is_better(entry, out->top[at - 1]); at--)
        out->top[at] = out->top[at - 1];
    out->top[at] = entry;
}

static float logprob(float logit, float best, double log_sum)
{
    const double value = (double)logit - best - log_sum;

    return value > -(double)FLT_MAX && value <= 0 ? (float)value : -FLT_MAX;
}

void sampler_measure(const float *logits, uint32_t n_vocab, uint32_t token,
    uint32_t n_top, struct sampler_logprobs *out)
{
    float best = -FLT_MAX;
    double sum = 0;

    out->n_top = 0;
    for (uint32_t i = 0; i < n_vocab; i++) {
        if (!isfinite(logits[i]))
            continue;
        insert_top(out, n_top < SAMPLER_MAX_TOP ? n_top : SAMPLER_MAX_TOP,
            (struct sampler_entry){logits[i], i});
        best = logits[i] > best ? logits[i] : best;
    }
    for (uint32_t i = 0; i < n_vocab; i++)
        if (isfinite(logits[i]))
            sum += exp((double)logits[i] - best);
    for (uint32_t i = 0; i < out->n_top; i++)
        out->top[i].logit = logprob(out->top[i].logit, best, log(sum));
    out->chosen = logprob(logits[token], best, log(sum));
}
