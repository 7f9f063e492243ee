#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "engine/sampler.h"
#include "tests/support/check_main.h"

#define MAX_VOCAB 300

static struct sampler_entry scratch[MAX_VOCAB];
static uint64_t random_state = 1;

static float random_logit(void)
{
    random_state = random_state * UINT64_C(6364136223846793005) +
                   UINT64_C(1442695040888963407);
    /* Coarse, so that there are ties. */
    return (float)(random_state >> 58) * 0.25f - 4;
}

static int by_logit(const void *a, const void *b)
{
    const struct sampler_entry *x = a, *y = b;

    if (x->logit != y->logit)
        return x->logit < y->logit ? 1 : -1;
    return x->token < y->token ? -1 : 1;
}

/* What may be chosen and how likely, by sorting everything. */
static void naive_distribution(const struct sampler_params *params,
    const float *logits, uint32_t n, double *probabilities)
{
    struct sampler_entry entries[MAX_VOCAB];
    double mass[MAX_VOCAB], total = 0, sum = 0;
    uint32_t n_left = n;

    for (uint32_t i = 0; i < n; i++) {
        entries[i] = (struct sampler_entry){logits[i], i};
        probabilities[i] = 0;
    }
    qsort(entries, n, sizeof *entries, by_logit);
    if (params->top_k > 0 && params->top_k < n)
        n_left = params->top_k;
    for (uint32_t i = 0; i < n_left; i++) {
        mass[i] = exp(((double)entries[i].logit - entries[0].logit) /
                      params->temperature);
        total += mass[i];
    }
    if (params->top_p > 0 && params->top_p < 1) {
        for (uint32_t i = 0; i < n_left; i++) {
            sum += mass[i];
            if (sum >= total * (double)params->top_p)
                n_left = i + 1;
        }
        total = sum;
    }
    for (uint32_t i = 0; i < n_left; i++)
        probabilities[entries[i].token] = mass[i] / total;
}

/* Pearson's statistic over the tokens that can be chosen at all. */
static void check_distribution(
    const struct sampler_params *params, const float *logits, uint32_t n)
{
    const uint32_t n_draws = 20000;
    uint32_t counts[MAX_VOCAB] = {0}, n_possible = 0;
    double probabilities[MAX_VOCAB], chi_squared = 0;

    naive_distribution(params, logits, n, probabilities);
    for (uint32_t draw = 0; draw < n_draws; draw++)
        counts[sampler_choose(params, logits, n, draw, scratch)]++;
    for (uint32_t i = 0; i < n; i++) {
        const double expected = probabilities[i] * n_draws;

        if (expected == 0) {
            ck_assert_uint_eq(counts[i], 0);
            continue;
        }
        n_possible++;
        chi_squared +=
            (counts[i] - expected) * (counts[i] - expected) / expected;
    }
    /* Mean n_possible - 1, deviation sqrt(2 of it); seeds are fixed. */
    ck_assert_double_le(
        chi_squared, n_possible + 5 * sqrt(2.0 * n_possible) + 5);
}

START_TEST(draws_are_distributed_as_the_naive_way_has_it)
{
    static const struct sampler_params params[] = {
        {.temperature = 1, .seed = 1},
        {.temperature = 0.7f, .top_k = 5, .seed = 2},
        {.temperature = 1.5f, .top_p = 0.8f, .seed = 3},
        {.temperature = 1, .top_k = 20, .top_p = 0.9f, .seed = 4},
        {.temperature = 1, .top_k = 1000, .top_p = 0.01f, .seed = 5},
        {.temperature = 0.05f, .top_k = 1, .top_p = 1, .seed = 6},
    };
    static const uint32_t sizes[] = {1, 2, 7, 40};
    float logits[MAX_VOCAB], before[MAX_VOCAB];

    for (size_t p = 0; p < sizeof params / sizeof *params; p++)
        for (size_t s = 0; s < sizeof sizes / sizeof *sizes; s++) {
            for (uint32_t i = 0; i < sizes[s]; i++)
                before[i] = logits[i] = random_logit() * 0.5f;
            check_distribution(&params[p], logits, sizes[s]);
            ck_assert_mem_eq(before, logits, sizes[s] * sizeof *logits);
        }
}
END_TEST

START_TEST(only_what_the_naive_way_allows_is_ever_chosen)
{
    double probabilities[MAX_VOCAB];
    float logits[MAX_VOCAB];

    for (uint32_t round = 0; round < 2000; round++) {
        const uint32_t n = 1 + round % MAX_VOCAB;
        const struct sampler_params params = {
            .temperature = 0.3f + (float)(round % 7),
            .top_k = round % 11,
            .top_p = (float)(round % 13) / 12,
            .seed = round,
        };

        for (uint32_t i = 0; i < n; i++)
            logits[i] = random_logit();
        naive_distribution(&params, logits, n, probabilities);
        ck_assert_double_gt(
            probabilities[sampler_choose(&params, logits, n, round, scratch)],
            0);
    }
}
END_TEST

START_TEST(greedy_takes_the_best_and_the_lower_of_equals)
{
    const float logits[5] = {1, 3, 2, 3, -1};
    const struct sampler_params greedy = {.temperature = 0, .top_k = 3};

    ck_assert_uint_eq(sampler_choose(&greedy, logits, 5, 0, scratch), 1);
    ck_assert_uint_eq(sampler_choose(&greedy, logits + 2, 3, 9, scratch), 1);
}
END_TEST

START_TEST(a_draw_depends_on_seed_and_number_alone)
{
    const struct sampler_params a = {.temperature = 1, .seed = 11};
    const struct sampler_params b = {.temperature = 1, .seed = 12};
    float logits[MAX_VOCAB] = {0};
    uint32_t n_same_seed = 0, n_same_draw = 0;

    for (uint64_t draw = 0; draw < 300; draw++) {
        const uint32_t token =
            sampler_choose(&a, logits, MAX_VOCAB, draw, scratch);

        memset(scratch, 0xff, sizeof scratch);
        ck_assert_uint_eq(
            token, sampler_choose(&a, logits, MAX_VOCAB, draw, scratch));
        n_same_draw +=
            token == sampler_choose(&b, logits, MAX_VOCAB, draw, scratch);
        n_same_seed +=
            token == sampler_choose(&a, logits, MAX_VOCAB, draw + 1, scratch);
    }
    ck_assert_uint_lt(n_same_draw, 10);
    ck_assert_uint_lt(n_same_seed, 10);
}
END_TEST

START_TEST(what_is_not_a_number_is_not_chosen)
{
    float logits[4] = {NAN, -INFINITY, 2, NAN};
    struct sampler_params params = {.temperature = 1, .top_k = 3};

    for (uint64_t draw = 0; draw < 50; draw++)
        ck_assert_uint_eq(sampler_choose(&params, logits, 4, draw, scratch), 2);
    params.temperature = 0;
    ck_assert_uint_eq(sampler_choose(&params, logits, 4, 0, scratch), 2);
    logits[3] = INFINITY;
    params.temperature = 1;
    ck_assert_uint_eq(sampler_choose(&params, logits, 4, 0, scratch), 3);
    logits[2] = logits[3] = NAN;
    ck_assert_uint_lt(sampler_choose(&params, logits, 4, 0, scratch), 4);
    logits[1] = NAN;
    ck_assert_uint_lt(sampler_choose(&params, logits, 4, 0, scratch), 4);
}
END_TEST

START_TEST(odd_parameters_are_no_limit)
{
    static const float odd[] = {NAN, INFINITY, -1, 1e-45f, 3e38f};
    const float logits[3] = {0, 1, 2};

    for (size_t i = 0; i < sizeof odd / sizeof *odd; i++)
        for (size_t j = 0; j < sizeof odd / sizeof *odd; j++) {
            const struct sampler_params params = {
                .temperature = odd[i], .top_p = odd[j]};

            ck_assert_uint_lt(
                sampler_choose(&params, logits, 3, i, scratch), 3);
        }
}
END_TEST

int main(void)
{
    const TTest *tests[] = {
        draws_are_distributed_as_the_naive_way_has_it,
        only_what_the_naive_way_allows_is_ever_chosen,
        greedy_takes_the_best_and_the_lower_of_equals,
        a_draw_depends_on_seed_and_number_alone,
        what_is_not_a_number_is_not_chosen,
        odd_parameters_are_no_limit,
    };

    return CHECK_RUN("sampler", NULL, NULL, tests);
}
