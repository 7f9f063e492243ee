/* What a step yields depends on tokens and positions, and on nothing else. */
#include <pthread.h>
#include <stdlib.h>
#include <string.h>

#include "base/heap.h"
#include "tests/engine/engine_fixture.h"
#include "tests/support/check_main.h"
#include "tests/support/faulty_heap.h"

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
                .blocks = engine_blocks(s),
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

/* The plain run: one thread, one sequence after the other, token by token. */
static float *plain_run(const char *path, const char *kernels)
{
    const struct engine_config config = {path, kernels, KV_TYPE_F16, 1, 16};
    struct engine engine;
    float *logits;

    engine_open(&engine, &config);
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

static void check_invariance(const char *path, const char *kernels)
{
    static const struct {
        uint32_t n_threads, block_tokens, slice_tokens;
    } runs[] = {{1, 16, 20}, {2, 16, 7}, {3, 5, 21}, {2, 1, 1}};
    float *plain, *logits;

    if (!engine_has_kernels(kernels))
        return;
    plain = plain_run(path, kernels);
    for (size_t i = 0; i < sizeof runs / sizeof *runs; i++) {
        struct engine engine;

        engine_open(&engine, &(struct engine_config){path, kernels, KV_TYPE_F16,
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
    check_invariance(ENGINE_DEMO, "avx2");
}
END_TEST

START_TEST(no_batch_no_slicing_no_team_changes_a_bit_of_the_reference)
{
    check_invariance(ENGINE_DEMO, "scalar");
}
END_TEST

START_TEST(no_batch_no_slicing_no_team_changes_a_bit_of_any_type)
{
    static const char *const models[] = {"stories260K-f32.gguf",
        "stories260K-f16.gguf", "stories260K-q8_0.gguf",
        "stories260K-q4_0.gguf", "bitllama-3M-q8_0.gguf",
        "bitllama-3M-tq1_0.gguf", "bitllama-3M-tq2_0.gguf"};
    char path[512];

    for (size_t i = 0; i < sizeof models / sizeof *models; i++) {
        if (engine_shared_path(models[i], path) == NULL)
            return;
        check_invariance(path, "avx2");
    }
}
END_TEST

/* The reference and the fast kernels round differently, but not by much. */
START_TEST(kernels_agree_on_the_demo_model)
{
    float *scalar, *avx2;
    struct engine engine;

    if (!engine_has_kernels("avx2"))
        return;
    scalar = plain_run(ENGINE_DEMO, "scalar");
    avx2 = plain_run(ENGINE_DEMO, "avx2");
    engine_open(&engine,
        &(struct engine_config){ENGINE_DEMO, "auto", KV_TYPE_F16, 1, 16});
    ck_assert_str_eq(compute_kernels(engine.compute), "avx2");
    for (size_t i = 0; i < N_SEQUENCES * engine.n_vocab; i++)
        ck_assert_float_le(
            scalar[i] - avx2[i] < 0 ? avx2[i] - scalar[i] : scalar[i] - avx2[i],
            0.5f);
    engine_close(&engine);
    free(scalar);
    free(avx2);
}
END_TEST

START_TEST(sampling_is_of_the_same_logits_that_are_handed_out)
{
    const struct engine_config config = {
        ENGINE_DEMO, "auto", KV_TYPE_F16, 2, 16};
    const uint32_t tokens[3] = {1, 318, 283};
    struct sampler_entry *scratch;
    struct engine engine;
    float *logits;

    engine_open(&engine, &config);
    logits = logits_new(&engine);
    scratch = calloc(engine.n_vocab, sizeof *scratch);
    for (uint64_t draw = 0; draw < 4; draw++) {
        struct compute_slice slice = {
            .tokens = tokens,
            .n_tokens = 3,
            .blocks = engine_blocks(0),
            .samples = true,
            .sampling = {.temperature = (float)draw, .top_k = 40, .seed = 7},
            .draw = draw,
            .logits = logits,
        };

        compute_run(engine.compute, &slice, 1);
        ck_assert_uint_eq(
            slice.next_token, sampler_choose(&slice.sampling, logits,
                                  engine.n_vocab, draw, scratch));
    }
    free(scratch);
    free(logits);
    engine_close(&engine);
}
END_TEST

/* A prompt that is computed ahead wants nothing but its keys and values. */
START_TEST(a_slice_that_wants_nothing_leaves_its_result_alone)
{
    const struct engine_config config = {
        ENGINE_DEMO, "auto", KV_TYPE_F16, 2, 16};
    const uint32_t tokens[2] = {1, 318};
    struct compute_slice slices[2] = {
        {.tokens = tokens, .n_tokens = 2, .next_token = 77},
        {.tokens = tokens, .n_tokens = 2, .next_token = 77},
    };
    struct engine engine;

    engine_open(&engine, &config);
    slices[0].blocks = engine_blocks(0);
    slices[1].blocks = engine_blocks(1);
    compute_run(engine.compute, slices, 2);
    ck_assert_uint_eq(slices[0].next_token, 77);
    slices[1].samples = true;
    compute_run(engine.compute, slices, 2);
    ck_assert_uint_eq(slices[0].next_token, 77);
    ck_assert_uint_ne(slices[1].next_token, 77);
    engine_close(&engine);
}
END_TEST

struct counter {
    pthread_mutex_t mutex;
    pthread_cond_t cond;
    struct compute *compute;
    struct compute_slice *slice;
    pthread_t starter;
    int n_left;
};

/* Starts the next step from the end of the last one. */
static void on_step_done(void *ctx)
{
    struct counter *counter = ctx;

    ck_assert(!pthread_equal(pthread_self(), counter->starter));
    if (counter->n_left > 1) {
        counter->n_left--;
        compute_start(counter->compute, counter->slice, 1, on_step_done, ctx);
        return;
    }
    pthread_mutex_lock(&counter->mutex);
    counter->n_left = 0;
    pthread_cond_signal(&counter->cond);
    pthread_mutex_unlock(&counter->mutex);
}

START_TEST(done_is_called_on_the_team_and_may_start_the_next_step)
{
    const struct engine_config config = {
        ENGINE_DEMO, "auto", KV_TYPE_F32, 2, 16};
    const uint32_t token = 1;
    struct compute_slice slice = {.tokens = &token, .n_tokens = 1};
    struct counter counter = {
        .mutex = PTHREAD_MUTEX_INITIALIZER,
        .cond = PTHREAD_COND_INITIALIZER,
        .slice = &slice,
        .starter = pthread_self(),
        .n_left = 10,
    };
    struct engine engine;

    engine_open(&engine, &config);
    slice.blocks = engine_blocks(0);
    counter.compute = engine.compute;
    compute_start(engine.compute, &slice, 1, on_step_done, &counter);
    pthread_mutex_lock(&counter.mutex);
    while (counter.n_left > 0)
        pthread_cond_wait(&counter.cond, &counter.mutex);
    pthread_mutex_unlock(&counter.mutex);
    engine_close(&engine);
}
END_TEST

START_TEST(open_fails_cleanly_wherever_memory_ends)
{
    struct model *model;
    struct compute *compute = NULL;
    struct kv_error error = {.text = ""};
    struct compute_config config = {
        .block_tokens = 16,
        .n_threads = 2,
        .max_batch_tokens = 8,
        .max_slices = 2,
        .kernels = "auto",
    };
    enum kv_status status = KV_NO_MEMORY;
    int fail_at = 0;

    faulty_heap_install();
    ck_assert_int_eq(model_open(&model, ENGINE_DEMO, &error), KV_OK);
    config.model = model;
    config.block_bytes = kv_block_bytes(&model->shape, KV_TYPE_F32, 16);
    for (; status == KV_NO_MEMORY; fail_at++) {
        const int live = faulty_heap_live();

        faulty_heap_fail_at(fail_at);
        error.text[0] = '\0';
        status = compute_open(&compute, &config, &error);
        faulty_heap_fail_at(-1);
        if (status == KV_NO_MEMORY) {
            ck_assert_int_eq(faulty_heap_live(), live);
            ck_assert_int_ne(error.text[0], '\0');
            ck_assert_ptr_null(compute);
        }
    }
    ck_assert_int_eq(status, KV_OK);
    ck_assert_int_ge(fail_at, 3);
    ck_assert_uint_gt(compute_scratch_bytes(compute), 0);
    compute_close(compute);
    model_close(model);
    ck_assert_int_eq(faulty_heap_live(), 0);
}
END_TEST

START_TEST(what_does_not_fit_or_is_not_known_is_refused)
{
    struct model model = {.shape = {.n_layers = 1,
                              .n_embd = 64,
                              .n_ff = 64,
                              .n_heads = 1,
                              .n_kv_heads = 1,
                              .head_dim = 64,
                              .n_vocab = UINT32_MAX,
                              .rope_dims = 64}};
    struct compute *compute = NULL;
    struct kv_error error = {.text = ""};
    struct compute_config config = {
        .model = &model,
        .block_tokens = 16,
        .n_threads = 1,
        .max_batch_tokens = UINT32_MAX,
        .max_slices = UINT32_MAX,
        .kernels = "neon",
    };

    config.block_bytes = kv_block_bytes(&model.shape, KV_TYPE_F32, 16);
    ck_assert_int_eq(compute_open(&compute, &config, &error), KV_UNSUPPORTED);
    ck_assert_ptr_nonnull(strstr(error.text, "neon"));
    config.kernels = "auto";
    ck_assert_int_eq(compute_open(&compute, &config, &error), KV_INVALID);
    model.shape.n_kv_heads = model.shape.head_dim = UINT32_MAX;
    ck_assert_uint_eq(kv_block_bytes(&model.shape, KV_TYPE_F32, 16), 0);
    ck_assert_int_eq(compute_open(&compute, &config, &error), KV_INVALID);
    ck_assert_ptr_null(compute);
}
END_TEST

START_TEST(kv_types_have_names_and_sizes)
{
    const struct model_shape shape = {
        .n_layers = 3, .n_kv_heads = 2, .head_dim = 10};
    enum kv_type type;

    ck_assert(kv_type_parse("f16", &type));
    ck_assert_int_eq(type, KV_TYPE_F16);
    ck_assert(kv_type_parse("f32", &type));
    ck_assert_str_eq(kv_type_name(type), "f32");
    ck_assert(!kv_type_parse("q8_0", &type));
    ck_assert_uint_eq(kv_bytes_per_token(&shape, KV_TYPE_F16), 240);
    ck_assert_uint_eq(kv_block_bytes(&shape, KV_TYPE_F16, 1), 256);
    ck_assert_uint_eq(kv_block_bytes(&shape, KV_TYPE_F32, 4), 1920);
}
END_TEST

int main(void)
{
    const TTest *tests[] = {
        no_batch_no_slicing_no_team_changes_a_bit,
        no_batch_no_slicing_no_team_changes_a_bit_of_the_reference,
        no_batch_no_slicing_no_team_changes_a_bit_of_any_type,
        kernels_agree_on_the_demo_model,
        sampling_is_of_the_same_logits_that_are_handed_out,
        a_slice_that_wants_nothing_leaves_its_result_alone,
        done_is_called_on_the_team_and_may_start_the_next_step,
        open_fails_cleanly_wherever_memory_ends,
        what_does_not_fit_or_is_not_known_is_refused,
        kv_types_have_names_and_sizes,
    };

    return CHECK_RUN("compute", NULL, NULL, tests);
}
