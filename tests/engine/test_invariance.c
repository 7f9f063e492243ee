/* What a step yields depends on tokens and positions, and on nothing else. */
#include <math.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "engine/quants.h"
#include "tests/engine/engine_fixture.h"
#include "tests/engine/tiny_model.h"
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

/* The plain run: one thread, one sequence after the other, token by token. */
static float *plain_run(
    const char *path, const char *kernels, enum kv_type kv_type)
{
    const struct engine_config config = {path, kernels, kv_type, 1, 16};
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

#define N_RUNS 4

/* The first n_runs of the ways to cut the same work. */
static void check_invariance(
    const char *path, const char *kernels, enum kv_type kv_type, size_t n_runs)
{
    static const struct {
        uint32_t n_threads, block_tokens, slice_tokens;
    } runs[N_RUNS] = {{3, 5, 21}, {2, 16, 7}, {1, 16, 20}, {2, 1, 1}};
    float *plain, *logits;

    if (!engine_has_kernels(kernels))
        return;
    plain = plain_run(path, kernels, kv_type);
    for (size_t i = 0; i < n_runs; i++) {
        struct engine engine;

        engine_open(&engine, &(struct engine_config){path, kernels, kv_type,
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
    static const enum kv_type kv_types[] = {
        KV_TYPE_F32, KV_TYPE_F16, KV_TYPE_Q8_0};

    for (size_t i = 0; i < sizeof kv_types / sizeof *kv_types; i++)
        check_invariance(ENGINE_DEMO, "auto", kv_types[i], N_RUNS);
}
END_TEST

START_TEST(no_batch_no_slicing_no_team_changes_a_bit_of_the_reference)
{
    check_invariance(ENGINE_DEMO, "scalar", KV_TYPE_F16, 1); /* it is slow */
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
        check_invariance(path, "auto", KV_TYPE_F16, N_RUNS);
    }
}
END_TEST

/* Types by tensor, as a mixture of super-blocks has them; floats for norms. */
static enum gguf_tensor_type type_in_mixture(const struct tiny_tensor *tensor)
{
    static const struct {
        const char *what;
        enum gguf_tensor_type type;
    } types[] = {
        {"_norm", GGUF_F32},
        {"token_embd", GGUF_Q6_K}, /* and the output */
        {"attn_v", GGUF_Q6_K},
        {"ffn_down", GGUF_Q6_K},
        {"attn_k", GGUF_Q5_K},
        {"ffn_gate", GGUF_I2_S},
        {"attn_output", GGUF_Q8_0},
    };

    for (size_t i = 0; i < sizeof types / sizeof *types; i++)
        if (strstr(tensor->name, types[i].what) != NULL)
            return types[i].type;
    return GGUF_Q4_K;
}

/* Any bytes are weights; what multiplies them is such that sums stay small. */
static void fill_blocks(unsigned char *data, const struct gguf_tensor *tensor)
{
    const size_t block_bytes = gguf_type_block_bytes(tensor->type);
    const size_t n_bytes = tensor->n_bytes - gguf_type_tail_bytes(tensor->type);
    const uint16_t scale =
        quants_f32_to_f16(tensor->type == GGUF_Q8_0 ? 0x1p-10f : 0x1p-14f);
    const uint16_t min = quants_f32_to_f16(0x1p-11f);
    const float tail = 0.0625f;

    for (size_t i = 0; i < n_bytes; i++)
        data[i] = (unsigned char)((i + tensor->index) * 2654435761u >> 13);
    if (tensor->type == GGUF_I2_S) {
        for (size_t i = 0; i < n_bytes; i++)
            data[i] &= 0xaa; /* -1 and 1 */
        memcpy(data + n_bytes, &tail, sizeof tail);
        return;
    }
    for (size_t i = 0; i < n_bytes; i += block_bytes) {
        memcpy(data + i + (tensor->type == GGUF_Q6_K ? block_bytes - 2 : 0),
            &scale, sizeof scale);
        if (tensor->type == GGUF_Q4_K || tensor->type == GGUF_Q5_K)
            memcpy(data + i + 2, &min, sizeof min);
    }
}

static void write_mixture(char path[])
{
    struct tiny_model tiny;
    struct gguf *gguf = NULL;
    unsigned char *bytes;
    size_t n;
    const int fd = mkstemp(path);

    ck_assert_int_ge(fd, 0);
    tiny_model_init(&tiny, "llama");
    tiny_model_widen(&tiny);
    tiny_model_set_uint(&tiny, "llama.context_length", 128);
    for (size_t i = 0; i < tiny.n_tensors; i++) {
        tiny.tensors[i].type = type_in_mixture(&tiny.tensors[i]);
        tiny.tensors[i].fill = 1;
    }
    bytes = tiny_model_write(&tiny, &n);
    ck_assert_int_eq(gguf_open_memory(&gguf, bytes, n, "m", NULL), KV_OK);
    for (size_t i = 0; i < gguf_n_tensors(gguf); i++) {
        const struct gguf_tensor *tensor = gguf_tensor_at(gguf, i);

        if (tensor->type != GGUF_F32)
            fill_blocks(
                bytes + ((const unsigned char *)tensor->data - bytes), tensor);
    }
    gguf_close(gguf);
    ck_assert_int_eq(write(fd, bytes, n), (ssize_t)n);
    close(fd);
    free(bytes);
}

/* What the reference and the fast kernels say of the mixture differs by what
 * norms and attention round, as with other types. */
START_TEST(no_batch_no_slicing_no_team_changes_a_bit_of_a_mixture)
{
    char path[] = "/tmp/kvpool_mixture_XXXXXX";
    float *scalar, *fast, distance = 0, largest = 0;

    write_mixture(path);
    check_invariance(path, "auto", KV_TYPE_F16, N_RUNS);
    check_invariance(path, "scalar", KV_TYPE_F16, 1);
    scalar = plain_run(path, "scalar", KV_TYPE_F32);
    fast = plain_run(path, "auto", KV_TYPE_F32);
    for (size_t i = 0; i < N_SEQUENCES * TINY_N_FIXED; i++) {
        largest = fmaxf(largest, fabsf(scalar[i]));
        distance = fmaxf(distance, fabsf(scalar[i] - fast[i]));
    }
    ck_assert_float_gt(largest, 0.1f);
    ck_assert_float_le(distance, 0.02f * largest);
    free(scalar);
    free(fast);
    ck_assert_int_eq(unlink(path), 0);
}
END_TEST

/* The reference and the fast kernels round differently, but not by much. */
START_TEST(kernels_agree_on_the_demo_model)
{
    float *scalar, *avx2, distance = 0;
    struct engine engine;

    if (!engine_has_kernels("avx2"))
        return;
    scalar = plain_run(ENGINE_DEMO, "scalar", KV_TYPE_F16);
    avx2 = plain_run(ENGINE_DEMO, "avx2", KV_TYPE_F16);
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
    const TTest *tests[] = {
        no_batch_no_slicing_no_team_changes_a_bit,
        no_batch_no_slicing_no_team_changes_a_bit_of_the_reference,
        no_batch_no_slicing_no_team_changes_a_bit_of_any_type,
        no_batch_no_slicing_no_team_changes_a_bit_of_a_mixture,
        kernels_agree_on_the_demo_model,
    };

    return CHECK_RUN("invariance", NULL, NULL, tests);
}
