/* Steps and their team; what they yield is in test_invariance.c. */
#include <pthread.h>
#include <stdlib.h>
#include <string.h>

#include "base/heap.h"
#include "tests/engine/engine_fixture.h"
#include "tests/support/check_main.h"
#include "tests/support/faulty_heap.h"

static float *logits_new(const struct engine *engine)
{
    float *logits = calloc(engine->n_vocab, sizeof *logits);

    ck_assert_ptr_nonnull(logits);
    return logits;
}

/* Of a prompt that is long enough to be split among threads. */
static float *prompt_logits(uint32_t n_threads)
{
    const struct engine_config config = {
        ENGINE_DEMO, "auto", KV_TYPE_F16, n_threads, 16};
    uint32_t tokens[40];
    struct engine engine;
    float *logits;

    for (uint32_t i = 0; i < 40; i++)
        tokens[i] = 1 + i * 17;
    engine_open(&engine, &config);
    logits = logits_new(&engine);
    engine_feed(&engine, 0, tokens, 40, 0, 40, logits);
    engine_close(&engine);
    return logits;
}

#define DEMO_VOCAB 3072

START_TEST(three_threads_compute_what_one_does)
{
    float *one = prompt_logits(1), *three = prompt_logits(3);

    ck_assert_mem_eq(one, three, DEMO_VOCAB * sizeof *one);
    free(one);
    free(three);
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
        struct sampler_logprobs expected, measured = {0};
        struct compute_slice slice = {
            .tokens = tokens,
            .n_tokens = 3,
            .blocks = engine.blocks[0],
            .samples = true,
            .sampling = {.temperature = (float)draw,
                .top_k = 40,
                .presence_penalty = 1,
                .seed = 7},
            .draw = draw,
            .history = tokens,
            .n_history = 3,
            .logits = logits,
            .logprobs = &measured,
            .n_top_logprobs = 5,
        };
        const struct sampler_input input = {
            .logits = logits,
            .n_vocab = engine.n_vocab,
            .draw = draw,
            .history = tokens,
            .n_history = 3,
        };

        compute_run(engine.compute, &slice, 1);
        ck_assert_uint_eq(
            slice.next_token, sampler_choose(&slice.sampling, &input, scratch));
        sampler_measure(logits, engine.n_vocab, slice.next_token, 5, &expected);
        ck_assert_uint_eq(measured.n_top, 5);
        ck_assert_mem_eq(measured.top, expected.top, 5 * sizeof *expected.top);
        ck_assert_float_eq(measured.chosen, expected.chosen);
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
    slices[0].blocks = engine.blocks[0];
    slices[1].blocks = engine.blocks[1];
    compute_run(engine.compute, slices, 2);
    ck_assert_uint_eq(slices[0].next_token, 77);
    slices[1].samples = true;
    compute_run(engine.compute, slices, 2);
    ck_assert_uint_eq(slices[0].next_token, 77);
    ck_assert_uint_ne(slices[1].next_token, 77);
    engine_close(&engine);
}
END_TEST

/* Not even for what is drawn and measured; all that a step needs is there. */
START_TEST(a_step_asks_the_heap_for_nothing)
{
    static const uint32_t tokens[40] = {1, 318, 283};
    const struct engine_config config = {
        ENGINE_DEMO, "auto", KV_TYPE_F16, 3, 16};
    struct sampler_logprobs logprobs[2];
    struct compute_slice slices[2];
    struct engine engine;
    int n_calls;

    faulty_heap_install();
    faulty_heap_fail_at(-1);
    engine_open(&engine, &config);
    for (size_t i = 0; i < 2; i++)
        slices[i] = (struct compute_slice){
            .tokens = tokens,
            .n_tokens = i == 0 ? 30 : 3,
            .blocks = engine.blocks[i],
            .samples = true,
            .sampling = {.temperature = 1,
                .top_p = 0.9f,
                .repetition_penalty = 1.2f,
                .seed = 7},
            .history = tokens,
            .n_history = 3,
            .logprobs = &logprobs[i],
            .n_top_logprobs = SAMPLER_MAX_TOP,
        };
    n_calls = faulty_heap_calls();
    faulty_heap_fail_at(0);
    for (int i = 0; i < 4; i++)
        compute_run(engine.compute, slices, 2);
    faulty_heap_fail_at(-1);
    ck_assert_int_eq(faulty_heap_calls(), n_calls);
    engine_close(&engine);
    ck_assert_int_eq(faulty_heap_live(), 0);
}
END_TEST

struct counter {
    pthread_mutex_t mutex;
    pthread_cond_t cond;
    struct compute *compute;
    struct compute_slice *slice;
    pthread_t starter;
    int is_starter; /* who calls done */
    int n_left;
};

/* Starts the next step from the end of the last one. */
static void on_step_done(void *ctx)
{
    struct counter *counter = ctx;
    int n_left;

    pthread_mutex_lock(&counter->mutex);
    counter->is_starter |= pthread_equal(pthread_self(), counter->starter);
    n_left = --counter->n_left;
    if (n_left == 0)
        pthread_cond_signal(&counter->cond);
    pthread_mutex_unlock(&counter->mutex);
    if (n_left > 0)
        compute_start(counter->compute, counter->slice, 1, on_step_done, ctx);
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
    slice.blocks = engine.blocks[0];
    counter.compute = engine.compute;
    compute_start(engine.compute, &slice, 1, on_step_done, &counter);
    pthread_mutex_lock(&counter.mutex);
    while (counter.n_left > 0)
        pthread_cond_wait(&counter.cond, &counter.mutex);
    pthread_mutex_unlock(&counter.mutex);
    ck_assert_int_eq(counter.is_starter, 0);
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
    struct model_layer layer = {.q = {.type = GGUF_F32}};
    struct model model = {.layers = &layer,
        .shape = {.n_layers = 1,
            .n_embd = 64,
            .n_ff = 64,
            .n_heads = 1,
            .n_kv_heads = 1,
            .head_dim = 64,
            .n_vocab = UINT32_MAX,
            .rope = {.n_dims = 64}}};
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

START_TEST(heads_that_are_no_whole_number_of_blocks_are_refused)
{
    const struct model model = {.name = "odd",
        .shape = {.n_layers = 3, .n_kv_heads = 2, .head_dim = 48}};
    struct kv_error error = {.text = ""};

    ck_assert_int_eq(
        kv_check_block(&model, KV_TYPE_Q8_0, 16, &error), KV_INVALID);
    ck_assert_ptr_nonnull(strstr(error.text, "q8_0"));
    ck_assert_ptr_nonnull(strstr(error.text, "48"));
    ck_assert_uint_eq(kv_block_bytes(&model.shape, KV_TYPE_Q8_0, 16), 0);
    ck_assert_int_eq(kv_check_block(&model, KV_TYPE_F16, 16, &error), KV_OK);
}
END_TEST

START_TEST(kv_types_have_names_and_sizes)
{
    const struct model_shape shape = {
        .n_layers = 3, .n_kv_heads = 2, .head_dim = 10};
    const struct model_shape wide = {
        .n_layers = 3, .n_kv_heads = 2, .head_dim = 64};
    enum kv_type type;

    ck_assert(kv_type_parse("f16", &type));
    ck_assert_int_eq(type, KV_TYPE_F16);
    ck_assert(kv_type_parse("f32", &type));
    ck_assert_str_eq(kv_type_name(type), "f32");
    ck_assert(kv_type_parse("q8_0", &type));
    ck_assert_int_eq(type, KV_TYPE_Q8_0);
    ck_assert(!kv_type_parse("q4_0", &type));
    ck_assert_uint_eq(kv_bytes_per_token(&shape, KV_TYPE_F16), 240);
    ck_assert_uint_eq(kv_block_bytes(&shape, KV_TYPE_F16, 1), 256);
    ck_assert_uint_eq(kv_block_bytes(&shape, KV_TYPE_F32, 4), 1920);
    ck_assert_uint_eq(kv_bytes_per_token(&wide, KV_TYPE_Q8_0), 2 * 34 * 12);
    ck_assert_uint_eq(kv_bytes_per_token(&wide, KV_TYPE_F16), 2 * 64 * 12);
}
END_TEST

int main(void)
{
    const TTest *tests[] = {
        three_threads_compute_what_one_does,
        sampling_is_of_the_same_logits_that_are_handed_out,
        a_slice_that_wants_nothing_leaves_its_result_alone,
        a_step_asks_the_heap_for_nothing,
        done_is_called_on_the_team_and_may_start_the_next_step,
        open_fails_cleanly_wherever_memory_ends,
        what_does_not_fit_or_is_not_known_is_refused,
        heads_that_are_no_whole_number_of_blocks_are_refused,
        kv_types_have_names_and_sizes,
    };

    return CHECK_RUN("compute", NULL, NULL, tests);
}
