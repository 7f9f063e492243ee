/* What a step yields depends on tokens and positions, and on nothing else. */
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "tests/engine/engine_fixture.h"
#include "tests/engine/typed_model.h"
#include "tests/support/check_main.h"

#define N_SEQUENCES 3

/* Long enough for two runs of attention and for blocks that are not full. */
static const uint32_t lengths[N_SEQUENCES] = {70, 9, 4};

static uint32_t token_of(
    const struct engine *engine, uint32_t which, uint32_t position)
{
    return (which * 7919 + position * 104729 + 3) % engine->n_vocab;
}

/* All sequences at the same time, in slices of at most slice_tokens. The last
 * token of each is computed in the company of whatever is left. */
static void feed_together(
    struct engine *engine, uint32_t slice_tokens, float *logits)
{
    uint32_t tokens[N_SEQUENCES][ENGINE_MAX_TOKENS], done[N_SEQUENCES] = {0};

    for (uint32_t s = 0; s < N_SEQUENCES; s++)
        for (uint32_t i = 0; i < lengths[s]; i++)
            tokens[s][i] = token_of(engine, s, i);
    for (size_t n = 1; n > 0;) {
        struct compute_slice slices[N_SEQUENCES];

        n = 0;
        for (uint32_t s = 0; s < N_SEQUENCES; s++) {
            const uint32_t left = lengths[s] - done[s];
            const uint32_t now = left < slice_tokens ? left : slice_tokens;

            if (left == 0)
                continue;
            slices[n++] = (struct compute_slice){
                .tokens = tokens[s] + done[s],
                .n_tokens = now,
                .position = done[s],
                .blocks = engine->blocks[s],
                .logits = now == left ? logits + s * engine->n_vocab : NULL,
            };
            done[s] += now;
        }
        if (n > 0)
            compute_run(engine->compute, slices, n);
    }
}

static float *logits_new(const struct engine *engine)
{
    float *logits = calloc(N_SEQUENCES, engine->n_vocab * sizeof *logits);

    ck_assert_ptr_nonnull(logits);
    return logits;
}

static void check_equal(
    const struct engine *engine, const float *a, const float *b)
{
    ck_assert_mem_eq(a, b, N_SEQUENCES * engine->n_vocab * sizeof *a);
}

/* A model in a file, or in memory. */
struct source {
    const char *path;
    unsigned char *bytes;
    size_t n;
};

static void open_source(struct engine *engine, const struct source *source,
    const struct engine_config *config)
{
    if (source->bytes != NULL)
        engine_open_memory(engine, config, source->bytes, source->n);
    else
        engine_open(engine, config);
}

/* The plain run: one thread, one sequence after the other, token by token. */
static float *plain_run(
    const struct source *source, const char *kernels, enum kv_type kv_type)
{
    const struct engine_config config = {source->path, kernels, kv_type, 1, 16};
    struct engine engine;
    float *logits;

    open_source(&engine, source, &config);
    logits = logits_new(&engine);
    for (uint32_t s = 0; s < N_SEQUENCES; s++)
        for (uint32_t i = 0; i < lengths[s]; i++) {
            const uint32_t token = token_of(&engine, s, i);

            engine_feed(
                &engine, s, &token, 1, i, 1, logits + s * engine.n_vocab);
        }
    engine_close(&engine);
    return logits;
}

#define N_RUNS 4

static const struct source demo = {.path = ENGINE_DEMO};
static const enum kv_type kv_types[] = {KV_TYPE_F32, KV_TYPE_F16, KV_TYPE_Q8_0};
#define N_KV_TYPES (sizeof kv_types / sizeof *kv_types)

/* The ways to cut the same work, from `first` to `end`. */
static void check_invariance(const struct source *source, const char *kernels,
    enum kv_type kv_type, size_t first, size_t end)
{
    static const struct {
        uint32_t n_threads, block_tokens, slice_tokens;
    } runs[N_RUNS] = {{3, 5, 21}, {2, 16, 7}, {1, 16, 20}, {2, 1, 1}};
    float *plain, *logits;

    if (!engine_has_kernels(kernels))
        return;
    plain = plain_run(source, kernels, kv_type);
    for (size_t i = first; i < end; i++) {
        struct engine engine;

        open_source(&engine, source,
            &(struct engine_config){source->path, kernels, kv_type,
                runs[i].n_threads, runs[i].block_tokens});
        logits = logits_new(&engine);
        feed_together(&engine, runs[i].slice_tokens, logits);
        check_equal(&engine, plain, logits);
        free(logits);
        engine_close(&engine);
    }
    free(plain);
}

START_TEST(no_batch_no_slicing_no_team_changes_a_bit)
{
    for (size_t i = 0; i < N_KV_TYPES; i++)
        check_invariance(&demo, "auto", kv_types[i], 0, N_RUNS);
}
END_TEST

START_TEST(no_batch_no_slicing_no_team_changes_a_bit_of_the_reference)
{
    check_invariance(&demo, "scalar", KV_TYPE_F16, 0, 1); /* it is slow */
}
END_TEST

START_TEST(no_batch_no_slicing_no_team_changes_a_bit_of_a_trained_model)
{
    static const char *const models[] = {"stories260K-f32.gguf",
        "stories260K-f16.gguf", "stories260K-q8_0.gguf",
        "stories260K-q4_0.gguf", "bitllama-3M-q8_0.gguf",
        "bitllama-3M-tq1_0.gguf", "bitllama-3M-tq2_0.gguf"};
    char path[512];

    for (size_t i = 0; i < sizeof models / sizeof *models; i++) {
        const struct source source = {.path = path};

        if (engine_shared_path(models[i], path) == NULL)
            return;
        check_invariance(&source, "auto", KV_TYPE_F16, 0, N_RUNS);
    }
}
END_TEST

/* With each set of kernels and each type of keys and values; the ways to cut
 * take turns. Under AddressSanitizer so do the types of keys and values: what
 * it may find is a kernel's, or theirs. */
START_TEST(no_batch_no_slicing_no_team_changes_a_bit_of_any_type)
{
    static const char *const sets[] = {ENGINE_KERNEL_SETS};
    struct source source = {.path = NULL};
    size_t way = 0;

    source.bytes = typed_model_write_all(typed_all[_i], &source.n);
    for (size_t s = 0; s < sizeof sets / sizeof *sets; s++)
        for (size_t k = 0; k < N_KV_TYPES; k++, way++)
            if (!ENGINE_IS_SANITIZED || k == ((size_t)_i + s) % N_KV_TYPES)
                check_invariance(&source, sets[s], kv_types[k], way % N_RUNS,
                    way % N_RUNS + 1);
    free(source.bytes);
}
END_TEST

/* Types by tensor, as a mixture of super-blocks has them. */
static enum gguf_tensor_type type_in_mixture(const char *name)
{
    static const struct {
        const char *what;
        enum gguf_tensor_type type;
    } types[] = {
        {"token_embd", GGUF_Q6_K}, /* and the output */
        {"attn_v", GGUF_Q6_K},
        {"ffn_down", GGUF_Q6_K},
        {"attn_k", GGUF_Q5_K},
        {"ffn_gate", GGUF_I2_S},
        {"attn_output", GGUF_Q8_0},
    };

    for (size_t i = 0; i < sizeof types / sizeof *types; i++)
        if (strstr(name, types[i].what) != NULL)
            return types[i].type;
    return GGUF_Q4_K;
}

/* What the reference and the fast kernels say of the mixture differs by what
 * norms and attention round, as with other types. */
START_TEST(no_batch_no_slicing_no_team_changes_a_bit_of_a_mixture)
{
    float *scalar, *fast, distance = 0, largest = 0;
    struct source source = {.path = NULL};

    source.bytes = typed_model_write(type_in_mixture, &source.n);
    check_invariance(&source, "auto", KV_TYPE_F16, 0, N_RUNS);
    check_invariance(&source, "scalar", KV_TYPE_F16, 0, 1);
    scalar = plain_run(&source, "scalar", KV_TYPE_F32);
    fast = plain_run(&source, "auto", KV_TYPE_F32);
    for (size_t i = 0; i < N_SEQUENCES * TYPED_N_VOCAB; i++) {
        largest = fmaxf(largest, fabsf(scalar[i]));
        distance = fmaxf(distance, fabsf(scalar[i] - fast[i]));
    }
    ck_assert_float_gt(largest, 0.1f);
    ck_assert_float_le(distance, 0.02f * largest);
    free(scalar);
    free(fast);
    free(source.bytes);
}
END_TEST

/* The reference and the fast kernels round differently, but not by much. */
START_TEST(kernels_agree_on_the_demo_model)
{
    float *scalar, *avx2, distance = 0;
    struct engine engine;

    if (!engine_has_kernels("avx2"))
        return;
    scalar = plain_run(&demo, "scalar", KV_TYPE_F16);
    avx2 = plain_run(&demo, "avx2", KV_TYPE_F16);
    engine_open(&engine,
        &(struct engine_config){ENGINE_DEMO, "avx2", KV_TYPE_F16, 1, 16});
    ck_assert_str_eq(compute_kernels(engine.compute), "avx2");
    ck_assert_uint_gt(compute_repacked_bytes(engine.compute), 0);
    for (size_t i = 0; i < N_SEQUENCES * engine.n_vocab; i++)
        distance = fmaxf(distance, fabsf(scalar[i] - avx2[i]));
    ck_assert_float_gt(distance, 0);
    ck_assert_float_le(distance, 0.5f);
    engine_close(&engine);
    free(scalar);
    free(avx2);
}
END_TEST

int main(void)
{
    TCase *tcase = tcase_create("laws");
    Suite *suite = suite_create("invariance");
    SRunner *runner = srunner_create(suite);
    int failed;

    tcase_set_timeout(tcase, 240);
    tcase_add_test(tcase, no_batch_no_slicing_no_team_changes_a_bit);
    tcase_add_test(
        tcase, no_batch_no_slicing_no_team_changes_a_bit_of_the_reference);
    tcase_add_test(
        tcase, no_batch_no_slicing_no_team_changes_a_bit_of_a_trained_model);
    tcase_add_loop_test(tcase,
        no_batch_no_slicing_no_team_changes_a_bit_of_any_type, 0, GGUF_N_TYPES);
    tcase_add_test(
        tcase, no_batch_no_slicing_no_team_changes_a_bit_of_a_mixture);
    tcase_add_test(tcase, kernels_agree_on_the_demo_model);
    suite_add_tcase(suite, tcase);
    srunner_run_all(runner, CK_ENV);
    failed = srunner_ntests_failed(runner);
    srunner_free(runner);
    return failed == 0 ? EXIT_SUCCESS : EXIT_FAILURE;
}
