/* What our engine says of models that another engine (llama.cpp) has run:
 * greedy tokens of the demo model, always; of the shared models where
 * KVPOOL_MODELS says where they are. */
#include <jansson.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "tests/engine/engine_fixture.h"
#include "tests/support/check_main.h"

static const char *const kernel_names[] = {"avx2", "scalar"};

/* Of the cases of a model: all, but one with the reference, which is slow, and
 * one under AddressSanitizer, which finds nothing more in the others. */
static size_t count_cases(const json_t *cases, const char *kernels)
{
    const bool is_slow = ENGINE_IS_SANITIZED || strcmp(kernels, "scalar") == 0;

    ck_assert_uint_gt(json_array_size(cases), 0);
    return is_slow ? 1 : json_array_size(cases);
}

static json_t *load_json(const char *path)
{
    json_error_t error;
    json_t *json = json_load_file(path, 0, &error);

    ck_assert_msg(json != NULL, "%s: %s", path, error.text);
    return json;
}

static uint32_t load_ids(const json_t *array, uint32_t ids[ENGINE_MAX_TOKENS])
{
    const size_t n = json_array_size(array);

    ck_assert_uint_gt(n, 0);
    ck_assert_uint_lt(n, ENGINE_MAX_TOKENS);
    for (size_t i = 0; i < n; i++)
        ids[i] = (uint32_t)json_integer_value(json_array_get(array, i));
    return (uint32_t)n;
}

static uint32_t best_of(const float *logits, uint32_t n)
{
    uint32_t best = 0;

    for (uint32_t i = 1; i < n; i++)
        best = logits[i] > logits[best] ? i : best;
    return best;
}

static double nll_of(const float *logits, uint32_t n, uint32_t id)
{
    const float best = logits[best_of(logits, n)];
    double sum = 0;

    for (uint32_t i = 0; i < n; i++)
        sum += exp((double)logits[i] - best);
    return log(sum) - ((double)logits[id] - best);
}

/* How far we are from what is expected, over the cases of a model. */
struct distance {
    uint32_t n_ids, n_other; /* greedy ids, and how many of them differ */
    float gap;               /* largest by which another id was preferred */
    float logit;             /* largest error of first_top10 */
    float nll;               /* largest difference of mean_nll */
};

static void measure_logits(
    const json_t *entry, const float *logits, struct distance *distance)
{
    const json_t *top = json_object_get(entry, "first_top10");

    for (size_t i = 0; i < json_array_size(top); i++) {
        const json_t *pair = json_array_get(top, i);
        const size_t id = (size_t)json_integer_value(json_array_get(pair, 0));
        const float logit = (float)json_number_value(json_array_get(pair, 1));

        distance->logit = fmaxf(distance->logit, fabsf(logits[id] - logit));
    }
}

/* Of the ids of a case: all, but the first under AddressSanitizer, which has
 * then seen each kernel at work, and a block of keys and values full. */
static uint32_t count_ids(uint32_t n)
{
    return ENGINE_IS_SANITIZED && n > 24 ? 24 : n;
}

/* Feeds the expected ids, whatever we would have chosen. */
static void measure_case(
    struct engine *engine, const json_t *entry, struct distance *distance)
{
    uint32_t prompt[ENGINE_MAX_TOKENS], ids[ENGINE_MAX_TOKENS];
    const uint32_t n_prompt =
        load_ids(json_object_get(entry, "prompt_ids"), prompt);
    const uint32_t n_all = load_ids(json_object_get(entry, "ids"), ids);
    const uint32_t n = count_ids(n_all);
    float *logits = calloc(engine->n_vocab, sizeof *logits);
    double nll = 0;

    engine_feed(engine, 0, prompt, n_prompt, 0, ENGINE_MAX_BATCH, logits);
    measure_logits(entry, logits, distance);
    for (uint32_t i = 0; i < n; i++) {
        const uint32_t best = best_of(logits, engine->n_vocab);

        distance->n_ids++;
        distance->n_other += best != ids[i];
        distance->gap = fmaxf(distance->gap, logits[best] - logits[ids[i]]);
        nll += nll_of(logits, engine->n_vocab, ids[i]) / n;
        engine_feed(engine, 0, &ids[i], 1, n_prompt + i, 1, logits);
    }
    if (n == n_all) /* whose mean it is */
        distance->nll = fmaxf(distance->nll,
            (float)fabs(
                nll - json_number_value(json_object_get(entry, "mean_nll"))));
    free(logits);
}

struct parity_case {
    const char *model, *expected;
    enum kv_type kv_type;
    struct distance most;
};

static void check_parity(const struct parity_case *parity, const char *kernels)
{
    char path[512], expected_path[512];
    struct distance distance = {0};
    struct engine engine;
    const json_t *cases;
    size_t n_cases;
    json_t *json;

    if (engine_shared_path(parity->model, path) == NULL ||
        !engine_has_kernels(kernels))
        return;
    json = load_json(engine_shared_path(parity->expected, expected_path));
    engine_open(&engine,
        &(struct engine_config){path, kernels, parity->kv_type, 1, 16});
    cases = json_object_get(json, "cases");
    n_cases = count_cases(cases, kernels);
    for (size_t i = 0; i < n_cases; i++)
        measure_case(&engine, json_array_get(cases, i), &distance);
    ck_assert_uint_gt(distance.n_ids, 0);
    ck_assert_uint_le(distance.n_other, parity->most.n_other);
    ck_assert_float_le(distance.gap, parity->most.gap);
    ck_assert_float_le(distance.logit, parity->most.logit);
    ck_assert_float_le(distance.nll, parity->most.nll);
    engine_close(&engine);
    json_decref(json);
}

/* Bounds stand at about twice what was measured. Ids: with F32 weights all are
 * equal. Integer weights round activations to 8 bits, where a difference in the
 * last place of a sum becomes one of a whole step; the gap is how near a tie
 * must have been for another id to win.
 *
 * That is largest for stories260K-q8_0, and no operation is behind it: with
 * noise of 2e-7 on what is rounded the gap is 0.100 to 0.153; with llama.cpp's
 * own roundings put into ours (scales of activations to F16, inputs of F16
 * matrices too) 0.087 to 0.132, while the first logits get worse, 0.12 to 0.16
 * for 0.092. A later llama.cpp differs from these expected logits by 0.215,
 * measured from the best of them. */
#define EXACT                                                                  \
    {                                                                          \
        .n_other = 0, .gap = 0, .logit = 1e-4f, .nll = 1e-5f                   \
    }
#define HALVES                                                                 \
    {                                                                          \
        .n_other = 0, .gap = 0, .logit = 0.01f, .nll = 2e-4f                   \
    }

static const struct parity_case parity_cases[] = {
    {"stories260K-f32.gguf", "expected/stories260K-f32.kv-f32.json",
        KV_TYPE_F32, EXACT},
    {"stories260K-f32.gguf", "expected/stories260K-f32.kv-f16.json",
        KV_TYPE_F16, HALVES},
    {"stories260K-f16.gguf", "expected/stories260K-f16.kv-f32.json",
        KV_TYPE_F32, HALVES},
    {"stories260K-q8_0.gguf", "expected/stories260K-q8_0.kv-f32.json",
        KV_TYPE_F32, {0, 15, 0.2f, 0.2f, 0.003f}},
    {"stories260K-q4_0.gguf", "expected/stories260K-q4_0.kv-f32.json",
        KV_TYPE_F32, {0, 15, 0.15f, 0.25f, 0.005f}},
    {"bitllama-3M-f32.gguf", "expected/bitllama-3M-f32.kv-f32.json",
        KV_TYPE_F32, EXACT},
    {"bitllama-3M-f16.gguf", "expected/bitllama-3M-f16.kv-f32.json",
        KV_TYPE_F32, HALVES},
    {"bitllama-3M-q8_0.gguf", "expected/bitllama-3M-q8_0.kv-f32.json",
        KV_TYPE_F32, {0, 8, 0.05f, 0.1f, 0.002f}},
    {"bitllama-3M-tq1_0.gguf", "expected/bitllama-3M-tq1_0.kv-f32.json",
        KV_TYPE_F32, {0, 12, 0.08f, 0.03f, 0.003f}},
    {"bitllama-3M-tq2_0.gguf", "expected/bitllama-3M-tq2_0.kv-f32.json",
        KV_TYPE_F32, {0, 12, 0.08f, 0.03f, 0.003f}},
    {"bitllama-3M-tq2_0.gguf", "expected/bitllama-3M-tq2_0.kv-f16.json",
        KV_TYPE_F16, {0, 12, 0.1f, 0.15f, 0.005f}},
    {"bitllama-3M-tq2_0.gguf", "expected/bitllama-3M-tq2_0.kv-q8_0.json",
        KV_TYPE_Q8_0, {0, 12, 0.1f, 0.2f, 0.005f}},
};

#define N_PARITY_CASES (sizeof parity_cases / sizeof *parity_cases)

START_TEST(shared_models_say_what_another_engine_says)
{
    check_parity(&parity_cases[_i / 2], kernel_names[_i % 2]);
}
END_TEST

/* Greedily, as many ids as agree by the rules of expected.json: all where the
 * case is strict, else up to the first step that was nearly a tie. */
static void check_demo_case(struct engine *engine, const json_t *entry)
{
    uint32_t prompt[ENGINE_MAX_TOKENS], ids[ENGINE_MAX_TOKENS], id;
    const uint32_t n_prompt =
        load_ids(json_object_get(entry, "prompt_ids"), prompt);
    const uint32_t n = load_ids(json_object_get(entry, "ids"), ids);
    const json_t *margins = json_object_get(entry, "margins");
    const bool strict = json_is_true(json_object_get(entry, "strict"));
    float *logits = calloc(engine->n_vocab, sizeof *logits);

    engine_feed(engine, 0, prompt, n_prompt, 0, ENGINE_MAX_BATCH, logits);
    for (uint32_t i = 0; i < n; i++) {
        if (!strict && json_number_value(json_array_get(margins, i)) < 0.1)
            break;
        id = best_of(logits, engine->n_vocab);
        ck_assert_msg(id == ids[i], "%s: id %u is %u, not %u",
            json_string_value(json_object_get(entry, "prompt")), i, id, ids[i]);
        engine_feed(engine, 0, &id, 1, n_prompt + i, 1, logits);
    }
    free(logits);
}

static void check_demo(const char *path, size_t model, const char *kernels)
{
    json_t *json = load_json(DEMO_DIR "/expected.json");
    const json_t *models = json_object_get(json, "models");
    const json_t *cases =
        json_object_get(json_array_get(models, model), "cases");
    const size_t n_cases = count_cases(cases, kernels);
    struct engine engine;

    engine_open(
        &engine, &(struct engine_config){path, kernels, KV_TYPE_F32, 1, 16});
    for (size_t i = 0; i < n_cases; i++)
        check_demo_case(&engine, json_array_get(cases, i));
    engine_close(&engine);
    json_decref(json);
}

START_TEST(the_demo_model_says_what_another_engine_says)
{
    char path[512];

    if (!engine_has_kernels(kernel_names[_i]))
        return;
    check_demo(ENGINE_DEMO, 0, kernel_names[_i]);
    /* The reference would take long over ten times the bytes. */
    if (strcmp(kernel_names[_i], "scalar") != 0 &&
        engine_shared_path("demo/demo-f32.gguf", path) != NULL)
        check_demo(path, 1, kernel_names[_i]);
}
END_TEST

/* Both name the same ternary weights. */
START_TEST(ternary_types_agree_to_the_last_bit)
{
    struct engine engines[2];
    uint32_t tokens[2] = {1, 1};
    char path[512];

    if (!engine_has_kernels(kernel_names[_i]))
        return;
    for (int i = 0; i < 2; i++) {
        if (engine_shared_path(
                i == 0 ? "bitllama-3M-tq1_0.gguf" : "bitllama-3M-tq2_0.gguf",
                path) == NULL)
            return;
        engine_open(&engines[i], &(struct engine_config){path, kernel_names[_i],
                                     KV_TYPE_F16, 1, 16});
    }
    for (uint32_t position = 0; position < 64; position++) {
        float logits[2][512];

        for (int i = 0; i < 2; i++) {
            ck_assert_uint_eq(engines[i].n_vocab, 512);
            engine_feed(&engines[i], 0, &tokens[i], 1, position, 1, logits[i]);
            tokens[i] = best_of(logits[i], 512);
        }
        ck_assert_mem_eq(logits[0], logits[1], sizeof logits[0]);
    }
    for (int i = 0; i < 2; i++)
        engine_close(&engines[i]);
}
END_TEST

int main(void)
{
    TCase *tcase = tcase_create("laws");
    Suite *suite = suite_create("parity");
    SRunner *runner = srunner_create(suite);
    int failed;

    tcase_set_timeout(tcase, 240);
    tcase_add_loop_test(tcase, shared_models_say_what_another_engine_says, 0,
        2 * N_PARITY_CASES);
    tcase_add_loop_test(
        tcase, the_demo_model_says_what_another_engine_says, 0, 2);
    tcase_add_loop_test(tcase, ternary_types_agree_to_the_last_bit, 0, 2);
    suite_add_tcase(suite, tcase);
    srunner_run_all(runner, CK_ENV);
    failed = srunner_ntests_failed(runner);
    srunner_free(runner);
    return failed == 0 ? EXIT_SUCCESS : EXIT_FAILURE;
}
