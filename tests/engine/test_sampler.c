#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "engine/sampler.h"
#include "tests/support/check_main.h"

#define MAX_VOCAB 300

static struct sampler_entry scratch[MAX_VOCAB];
static uint64_t random_state = 1;

static uint64_t random_below(uint64_t n)
{
    random_state = random_state * UINT64_C(6364136223846793005) +
                   UINT64_C(1442695040888963407);
    return (random_state >> 33) % n;
}

static float random_logit(void)
{
    /* Coarse, so that there are ties. */
    return (float)random_below(64) * 0.25f - 8;
}

struct naive_entry {
    double logit;
    uint32_t token;
};

static int by_logit(const void *a, const void *b)
{
    const struct naive_entry *x = a, *y = b;

    if (x->logit != y->logit)
        return x->logit < y->logit ? 1 : -1;
    return x->token < y->token ? -1 : 1;
}

/* Penalties and biases, token by token. */
static double naive_logit(const struct sampler_params *params,
    const struct sampler_input *input, uint32_t token)
{
    double logit = (double)input->logits[token];
    size_t window = params->penalty_window > 0 ? params->penalty_window : 64;
    size_t n_seen = 0;

    for (size_t i = 0; i < input->n_history; i++)
        n_seen += i + window >= input->n_history && input->history[i] == token;
    if (n_seen > 0 && params->repetition_penalty != 0)
        logit = logit > 0 ? logit / (double)params->repetition_penalty
                          : logit * (double)params->repetition_penalty;
    if (n_seen > 0)
        logit -= (double)n_seen * (double)params->frequency_penalty +
                 (double)params->presence_penalty;
    for (size_t i = 0; i < params->n_biases; i++)
        if (params->biases[i].token == token)
            logit += params->biases[i].bias == -100
                         ? -INFINITY
                         : (double)params->biases[i].bias;
    return logit;
}

/* What may be chosen and how likely, by sorting everything. */
static void naive_distribution(const struct sampler_params *params,
    const struct sampler_input *input, double *probabilities)
{
    struct naive_entry entries[MAX_VOCAB];
    double mass[MAX_VOCAB], total = 0, sum = 0;
    uint32_t n = input->n_vocab, n_left = n;

    for (uint32_t i = 0; i < n; i++) {
        entries[i] = (struct naive_entry){naive_logit(params, input, i), i};
        probabilities[i] = 0;
    }
    qsort(entries, n, sizeof *entries, by_logit);
    if (params->temperature == 0) {
        probabilities[entries[0].token] = 1;
        return;
    }
    if (params->top_k > 0 && params->top_k < n)
        n_left = params->top_k;
    for (uint32_t i = 0; i < n_left; i++) {
        mass[i] = exp((entries[i].logit - entries[0].logit) /
                      (double)params->temperature);
        total += mass[i];
    }
    if (params->top_p > 0 && params->top_p < 1)
        for (uint32_t i = 0; i < n_left; i++) {
            sum += mass[i];
            if (sum >= total * (double)params->top_p)
                n_left = i + 1;
        }
    while (n_left > 1 && mass[n_left - 1] < (double)params->min_p)
        n_left--;
    total = 0;
    for (uint32_t i = 0; i < n_left; i++)
        total += mass[i];
    for (uint32_t i = 0; i < n_left; i++)
        probabilities[entries[i].token] = mass[i] / total;
}

/* Pearson's statistic over the tokens that can be chosen at all. */
static void check_distribution(
    const struct sampler_params *params, const struct sampler_input *given)
{
    const uint32_t n_draws = 20000, n = given->n_vocab;
    struct sampler_input input = *given;
    uint32_t counts[MAX_VOCAB] = {0}, n_possible = 0;
    double probabilities[MAX_VOCAB], chi_squared = 0;

    naive_distribution(params, given, probabilities);
    for (input.draw = 0; input.draw < n_draws; input.draw++)
        counts[sampler_choose(params, &input, scratch)]++;
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

/* Without a history. */
static uint32_t choose(const struct sampler_params *params, const float *logits,
    uint32_t n_vocab, uint64_t draw)
{
    const struct sampler_input input = {
        .logits = logits, .n_vocab = n_vocab, .draw = draw};

    return sampler_choose(params, &input, scratch);
}

START_TEST(draws_are_distributed_as_the_naive_way_has_it)
{
    static const struct sampler_bias biases[] = {{1, 1.5f}, {0, -0.75f}};
    static const struct sampler_params params[] = {
        {.temperature = 1, .seed = 1},
        {.temperature = 0.7f, .top_k = 5, .seed = 2},
        {.temperature = 1.5f, .top_p = 0.8f, .seed = 3},
        {.temperature = 1, .top_k = 20, .top_p = 0.9f, .seed = 4},
        {.temperature = 1, .top_k = 1000, .top_p = 0.01f, .seed = 5},
        {.temperature = 0.05f, .top_k = 1, .top_p = 1, .seed = 6},
        {.temperature = 1, .min_p = 0.3f, .seed = 7},
        {.temperature = 2, .min_p = 0.1f, .top_k = 9, .seed = 8},
        {.temperature = 1, .min_p = 0.05f, .top_p = 0.7f, .seed = 9},
        {.temperature = 1, .repetition_penalty = 1.5f, .seed = 10},
        {.temperature = 1, .repetition_penalty = 0.5f, .seed = 11},
        {.temperature = 1,
            .frequency_penalty = 0.25f,
            .presence_penalty = -0.5f,
            .penalty_window = 20,
            .seed = 12},
        {.temperature = 0.8f, .biases = biases, .n_biases = 2, .seed = 13},
    };
    static const uint32_t sizes[] = {2, 7, 40};
    uint32_t history[100];
    float logits[MAX_VOCAB], before[MAX_VOCAB];

    for (size_t p = 0; p < sizeof params / sizeof *params; p++)
        for (size_t s = 0; s < sizeof sizes / sizeof *sizes; s++) {
            for (uint32_t i = 0; i < sizes[s]; i++)
                before[i] = logits[i] = random_logit() * 0.5f;
            for (size_t i = 0; i < 100; i++)
                history[i] = (uint32_t)random_below(sizes[s]);
            check_distribution(
                &params[p], &(struct sampler_input){.logits = logits,
                                .n_vocab = sizes[s],
                                .history = history,
                                .n_history = 100});
            ck_assert_mem_eq(before, logits, sizes[s] * sizeof *logits);
        }
}
END_TEST

/* All stages at once; numbers such that every logit is exact. */
START_TEST(only_what_the_naive_way_allows_is_ever_chosen)
{
    static const float repetitions[] = {0, 1, 2, 0.5f, 0.25f};
    double probabilities[MAX_VOCAB];
    float logits[MAX_VOCAB];
    uint32_t history[90];

    for (uint32_t round = 0; round < 6000; round++) {
        const uint32_t n = 1 + round % MAX_VOCAB;
        struct sampler_bias biases[5];
        const struct sampler_params params = {
            .temperature = round % 5 == 0 ? 0 : 0.3f + (float)(round % 7),
            .top_k = round % 11,
            .top_p = (float)(round % 13) / 12,
            .min_p = (float)(round % 17) / 16,
            .seed = round,
            .repetition_penalty = repetitions[random_below(5)],
            .frequency_penalty = (float)random_below(17) * 0.25f - 2,
            .presence_penalty = (float)random_below(17) * 0.25f - 2,
            .penalty_window = (uint32_t)random_below(100),
            .biases = biases,
            .n_biases = n < 6 ? 0 : random_below(6),
        };
        const struct sampler_input input = {
            .logits = logits,
            .n_vocab = n,
            .draw = round,
            .history = history,
            .n_history = random_below(91),
        };

        for (uint32_t i = 0; i < n; i++)
            logits[i] = random_logit();
        for (size_t i = 0; i < 90; i++)
            history[i] = (uint32_t)(random_below(2) * random_below(n));
        for (uint32_t i = 0; i < 5; i++)
            biases[i] = (struct sampler_bias){
                n - 1 - i, (float)random_below(9) * 25 - 100};
        naive_distribution(&params, &input, probabilities);
        ck_assert_double_gt(
            probabilities[sampler_choose(&params, &input, scratch)], 0);
    }
}
END_TEST

START_TEST(a_penalty_looks_back_on_its_window_and_not_beyond)
{
    static const float logits[4] = {3, 2, 1, 1.5f};
    static const uint32_t history[] = {0, 1, 1, 2};
    struct sampler_params params = {.presence_penalty = 2};
    struct sampler_input input = {
        .logits = logits, .n_vocab = 4, .history = history, .n_history = 4};

    params.penalty_window = 3; /* 0 is free: 3, 0, -1, 1.5 */
    ck_assert_uint_eq(sampler_choose(&params, &input, scratch), 0);
    params.penalty_window = 4; /* 1, 0, -1, 1.5 */
    ck_assert_uint_eq(sampler_choose(&params, &input, scratch), 3);
    params.presence_penalty = 0;
    params.frequency_penalty = -2; /* 3 + 2, 2 + 4, 1 + 2 */
    ck_assert_uint_eq(sampler_choose(&params, &input, scratch), 1);
    input.n_history = 0;
    ck_assert_uint_eq(sampler_choose(&params, &input, scratch), 0);
}
END_TEST

START_TEST(a_standard_window_is_64_tokens)
{
    static const float logits[3] = {1, 0, -1};
    const struct sampler_params params = {.presence_penalty = 2};
    uint32_t history[65] = {0};
    struct sampler_input input = {
        .logits = logits, .n_vocab = 3, .history = history, .n_history = 65};

    for (size_t i = 1; i < 65; i++)
        history[i] = 2;
    ck_assert_uint_eq(sampler_choose(&params, &input, scratch), 0);
    input.n_history = 64;
    ck_assert_uint_eq(sampler_choose(&params, &input, scratch), 1);
}
END_TEST

START_TEST(a_repetition_penalty_never_rewards)
{
    static const uint32_t history[] = {0};
    const struct sampler_params params = {.repetition_penalty = 2};

    for (int sign = -1; sign <= 1; sign += 2) {
        const float logits[2] = {(float)sign, (float)sign * 0.9f - 0.02f};
        const struct sampler_input input = {
            .logits = logits, .n_vocab = 2, .history = history, .n_history = 1};

        /* -1 against -0.92 turns nothing around, 1 against 0.88 does. */
        ck_assert_uint_eq(sampler_choose(&params, &input, scratch), 1);
    }
}
END_TEST

START_TEST(a_bias_of_100_wins_and_one_of_minus_100_never)
{
    static const float logits[3] = {500, 0, -1};
    const struct sampler_bias wins[] = {{2, 100}, {0, -100}};
    const struct sampler_bias never[] = {{0, -100}, {1, -100}, {2, -100}};
    struct sampler_params params = {.biases = wins, .n_biases = 2};

    for (int hot = 0; hot < 2; hot++) {
        params.temperature = hot ? 2 : 0;
        params.biases = wins;
        for (uint64_t draw = 0; draw < 200; draw++)
            ck_assert_uint_eq(choose(&params, logits, 3, draw), 2);
        /* Where nothing would remain, they count as not given. */
        params.biases = never;
        params.n_biases = 3;
        ck_assert_uint_eq(choose(&params, logits, 3, 0), 0);
        params.n_biases = 2;
    }
}
END_TEST

START_TEST(all_stages_take_logits_that_are_no_number)
{
    static const float odd[] = {NAN, INFINITY, -INFINITY, 3e38f, -3e38f, 0};
    static const uint32_t history[] = {0, 1, 2, 3, 4, 5, 1, 1};
    const struct sampler_bias biases[] = {{0, 100}, {1, -99}, {3, 100}};
    struct sampler_params params = {.biases = biases, .n_biases = 3};
    struct sampler_logprobs measured;
    float logits[6];

    for (uint32_t round = 0; round < 20000; round++) {
        const struct sampler_input input = {
            .logits = logits, .n_vocab = 6, .history = history, .n_history = 8};
        uint32_t token;

        for (size_t i = 0; i < 6; i++)
            logits[i] = odd[random_below(6)];
        params.temperature = (float)random_below(3);
        params.min_p = (float)random_below(3) / 2;
        params.repetition_penalty = (float)random_below(5) / 2;
        params.frequency_penalty = (float)random_below(3) - 1;
        token = sampler_choose(&params, &input, scratch);
        ck_assert_uint_lt(token, 6);
        for (size_t i = 0; i < 6; i++)
            if (isfinite(logits[i]))
                ck_assert(!isnan(logits[token]));
        sampler_measure(logits, 6, token, 20, &measured);
        ck_assert(measured.chosen <= 0);
        for (uint32_t i = 0; i < measured.n_top; i++)
            ck_assert(isfinite(measured.top[i].logit));
    }
}
END_TEST

START_TEST(the_only_finite_logit_is_chosen_whatever_is_asked)
{
    float logits[40];
    uint32_t history[64];
    struct sampler_logprobs measured;

    for (uint32_t round = 0; round < 200; round++) {
        const uint32_t only = (uint32_t)random_below(40);
        const struct sampler_params params = {
            .temperature = (float)(round % 3),
            .top_k = round % 5,
            .top_p = 0.5f,
            .min_p = 1,
            .repetition_penalty = 2,
            .frequency_penalty = 2,
            .presence_penalty = 2,
        };
        const struct sampler_input input = {.logits = logits,
            .n_vocab = 40,
            .history = history,
            .n_history = 64};

        for (uint32_t i = 0; i < 40; i++)
            logits[i] = i == only ? random_logit() : -INFINITY;
        for (size_t i = 0; i < 64; i++)
            history[i] = i % 2 ? only : (uint32_t)random_below(40);
        ck_assert_uint_eq(sampler_choose(&params, &input, scratch), only);
        sampler_measure(logits, 40, only, 20, &measured);
        ck_assert_uint_eq(measured.n_top, 1);
        ck_assert_float_eq(measured.chosen, 0);
    }
}
END_TEST

START_TEST(log_probabilities_are_those_of_the_softmax)
{
    static const uint32_t n_tops[] = {0, 1, 5, 20, 1000};
    struct naive_entry sorted[MAX_VOCAB];
    struct sampler_logprobs measured;
    float logits[MAX_VOCAB];

    for (uint32_t round = 0; round < 500; round++) {
        const uint32_t n = 1 + (uint32_t)random_below(MAX_VOCAB);
        const uint32_t n_top = n_tops[round % 5];
        const uint32_t token = (uint32_t)random_below(n);
        uint32_t expected = n_top < 20 ? n_top : 20;
        double sum = 0;

        expected = expected < n ? expected : n;
        for (uint32_t i = 0; i < n; i++) {
            logits[i] = random_logit() * (round % 2 == 0 ? 1 : 40);
            sorted[i] = (struct naive_entry){(double)logits[i], i};
        }
        qsort(sorted, n, sizeof *sorted, by_logit);
        for (uint32_t i = 0; i < n; i++)
            sum += exp((double)logits[i] - sorted[0].logit);
        sampler_measure(logits, n, token, n_top, &measured);
        ck_assert_uint_eq(measured.n_top, expected);
        ck_assert_double_eq_tol((double)measured.chosen,
            (double)logits[token] - sorted[0].logit - log(sum), 1e-4);
        for (uint32_t i = 0; i < expected; i++) {
            ck_assert_uint_eq(measured.top[i].token, sorted[i].token);
            ck_assert_double_eq_tol((double)measured.top[i].logit,
                sorted[i].logit - sorted[0].logit - log(sum), 1e-4);
            ck_assert(measured.top[i].logit <= 0);
        }
    }
}
END_TEST

START_TEST(greedy_takes_the_best_and_the_lower_of_equals)
{
    const float logits[5] = {1, 3, 2, 3, -1};
    const struct sampler_params greedy = {.temperature = 0, .top_k = 3};

    ck_assert_uint_eq(choose(&greedy, logits, 5, 0), 1);
    ck_assert_uint_eq(choose(&greedy, logits + 2, 3, 9), 1);
}
END_TEST

START_TEST(a_draw_depends_on_seed_and_number_alone)
{
    const struct sampler_params a = {.temperature = 1, .seed = 11};
    const struct sampler_params b = {.temperature = 1, .seed = 12};
    float logits[MAX_VOCAB] = {0};
    uint32_t n_same_seed = 0, n_same_draw = 0;

    for (uint64_t draw = 0; draw < 300; draw++) {
        const uint32_t token = choose(&a, logits, MAX_VOCAB, draw);

        memset(scratch, 0xff, sizeof scratch);
        ck_assert_uint_eq(token, choose(&a, logits, MAX_VOCAB, draw));
        n_same_draw += token == choose(&b, logits, MAX_VOCAB, draw);
        n_same_seed += token == choose(&a, logits, MAX_VOCAB, draw + 1);
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
        ck_assert_uint_eq(choose(&params, logits, 4, draw), 2);
    params.temperature = 0;
    ck_assert_uint_eq(choose(&params, logits, 4, 0), 2);
    logits[3] = INFINITY;
    params.temperature = 1;
    ck_assert_uint_eq(choose(&params, logits, 4, 0), 3);
    logits[2] = logits[3] = NAN;
    ck_assert_uint_lt(choose(&params, logits, 4, 0), 4);
    logits[1] = NAN;
    ck_assert_uint_lt(choose(&params, logits, 4, 0), 4);
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

            ck_assert_uint_lt(choose(&params, logits, 3, i), 3);
        }
}
END_TEST

int main(void)
{
    const TTest *tests[] = {
        draws_are_distributed_as_the_naive_way_has_it,
        only_what_the_naive_way_allows_is_ever_chosen,
        a_penalty_looks_back_on_its_window_and_not_beyond,
        a_standard_window_is_64_tokens,
        a_repetition_penalty_never_rewards,
        a_bias_of_100_wins_and_one_of_minus_100_never,
        all_stages_take_logits_that_are_no_number,
        the_only_finite_logit_is_chosen_whatever_is_asked,
        log_probabilities_are_those_of_the_softmax,
        greedy_takes_the_best_and_the_lower_of_equals,
        a_draw_depends_on_seed_and_number_alone,
        what_is_not_a_number_is_not_chosen,
        odd_parameters_are_no_limit,
    };

    return CHECK_RUN("sampler", NULL, NULL, tests);
}
