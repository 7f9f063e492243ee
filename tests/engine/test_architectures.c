/* Each architecture and each way to stretch a context, on a tiny model whose
 * weights are drawn from a seed: against a plain reference in double, and
 * against a few logits of llama.cpp (ggml 0.21.0; weights, keys and values F32)
 * for the same file. */
#include <math.h>
#include <stdio.h>
#include <string.h>

#include "tests/engine/engine_fixture.h"
#include "tests/engine/tiny_reference.h"
#include "tests/support/check_main.h"

#define N_TOKENS 40
#define N_KNOWN 4

struct variant {
    const char *name, *architecture;
    void (*change)(struct tiny_model *);
    struct tiny_reference reference;
    /* llama.cpp's logits of the first tokens at the last position; all 0 where
     * it does not compute such a model. */
    float known[N_KNOWN];
};

static void add_scales(struct tiny_model *tiny)
{
    static const char *const matrices[] = {"attn_q", "attn_k", "attn_v",
        "attn_output", "ffn_gate", "ffn_up", "ffn_down"};
    char name[80];

    for (int layer = 0; layer < 2; layer++)
        for (size_t i = 0; i < sizeof matrices / sizeof *matrices; i++) {
            snprintf(name, sizeof name, "blk.%d.%s.scale", layer, matrices[i]);
            tiny_model_tensor(tiny, name);
        }
}

static void say_relu2(struct tiny_model *tiny)
{
    tiny_model_set_text(tiny, "bitnet.hidden_activation", "relu2");
}

static void add_biases(struct tiny_model *tiny)
{
    static const char *const names[] = {"blk.0.attn_q.bias",
        "blk.1.attn_q.bias", "blk.0.attn_k.bias", "blk.1.attn_k.bias",
        "blk.0.attn_v.bias", "blk.1.attn_v.bias"};

    for (size_t i = 0; i < sizeof names / sizeof *names; i++)
        tiny_model_tensor(tiny, names[i])->dims[0] = i < 2 ? 32 : 16;
}

static void stretch_linearly(struct tiny_model *tiny)
{
    tiny_model_set_text(tiny, "llama.rope.scaling.type", "linear");
    tiny_model_set_float(tiny, "llama.rope.scaling.factor", 4);
}

static void stretch_as_before(struct tiny_model *tiny)
{
    tiny_model_set_float(tiny, "llama.rope.scale_linear", 2);
}

static void stretch_by_yarn(struct tiny_model *tiny)
{
    tiny_model_set_float(tiny, "qwen2.rope.freq_base", 4);
    tiny_model_set_text(tiny, "qwen2.rope.scaling.type", "yarn");
    tiny_model_set_float(tiny, "qwen2.rope.scaling.factor", 4);
    tiny_model_set_float(tiny, "qwen2.rope.scaling.attn_factor", 0.9f);
    tiny_model_set_uint(tiny, "qwen2.rope.scaling.original_context_length", 48);
}

static void stretch_by_other_yarn(struct tiny_model *tiny)
{
    tiny_model_set_text(tiny, "llama.rope.scaling.type", "yarn");
    tiny_model_set_float(tiny, "llama.rope.scaling.factor", 8);
    tiny_model_set_float(tiny, "llama.rope.scaling.yarn_ext_factor", 0.5f);
    tiny_model_set_float(tiny, "llama.rope.scaling.yarn_beta_fast", 4);
    tiny_model_set_float(tiny, "llama.rope.scaling.yarn_beta_slow", 0.01f);
    tiny_model_set_float(tiny, "llama.rope.scaling.yarn_log_multiplier", 0.5f);
}

static void stretch_each_pair(struct tiny_model *tiny)
{
    tiny_model_tensor(tiny, "rope_freqs.weight")->dims[0] = 4;
}

static void rotate_half_of_a_head(struct tiny_model *tiny)
{
    tiny_model_set_uint(tiny, "qwen3.rope.dimension_count", 8);
}

/* For YaRN, stretch and magnitude are what its authors' code gives. */
static const struct variant variants[] = {
    {"llama", "llama", NULL, {.n_rope_dims = 8},
        {-0.02456f, 0.00059f, 0.12606f, 1.12085f}},
    {"llama with biases", "llama", add_biases, {.n_rope_dims = 8},
        {-0.98078f, -0.55798f, -0.07673f, 1.06099f}},
    {"linear", "llama", stretch_linearly,
        {.n_rope_dims = 8, .stretch = {0.25, 0.25, 0.25, 0.25}},
        {-1.81316f, 1.23770f, 0.03551f, 1.41696f}},
    {"linear by its old key", "llama", stretch_as_before,
        {.n_rope_dims = 8, .stretch = {0.5, 0.5, 0.5, 0.5}},
        {-1.32014f, 0.99686f, 0.09514f, 1.18399f}},
    {"factors of Llama 3", "llama", stretch_each_pair, {.n_rope_dims = 8},
        {0.01503f, -0.00283f, 0.13394f, 1.11115f}},
    {"yarn with all its keys", "llama", stretch_by_other_yarn,
        {.n_rope_dims = 8,
            .stretch = {0.5625, 0.453125, 0.34375, 0.234375},
            .magnitude = 1.094179988101349},
        {0}},
    {"qwen2", "qwen2", NULL, {.rotates_halves = true, .n_rope_dims = 8},
        {-1.61896f, 0.30634f, -0.23716f, 0.57581f}},
    {"qwen2 with yarn", "qwen2", stretch_by_yarn,
        {.rotates_halves = true,
            .n_rope_dims = 8,
            .rope_base = 4,
            .stretch = {1, 0.875, 0.75, 0.625},
            .magnitude = 1.0247664925007902},
        {-0.13484f, -0.04831f, -0.01562f, 0.76639f}},
    {"qwen3", "qwen3", NULL, {.rotates_halves = true, .n_rope_dims = 16},
        {-1.26024f, -0.39488f, -2.15465f, -0.19113f}},
    {"qwen3, half of a head rotated", "qwen3", rotate_half_of_a_head,
        {.rotates_halves = true, .n_rope_dims = 8}, {0}},
    {"bitnet", "bitnet", add_scales, {.rotates_halves = true, .n_rope_dims = 8},
        {-1.60916f, 1.37272f, -0.61745f, 1.75090f}},
    {"bitnet that says relu2", "bitnet", say_relu2,
        {.rotates_halves = true, .squares_relu = true, .n_rope_dims = 8}, {0}},
    {"bitnet-25", "bitnet-25", NULL,
        {.rotates_halves = true, .squares_relu = true, .n_rope_dims = 8}, {0}},
    {"bitnet-b1.58", "bitnet-b1.58", add_scales,
        {.rotates_halves = true, .squares_relu = true, .n_rope_dims = 8}, {0}},
};

#define N_VARIANTS (sizeof variants / sizeof *variants)

static uint32_t token_at(uint32_t position)
{
    return (position * 37 + 11) % TINY_N_FIXED;
}

static void make(const struct variant *variant, struct tiny_model *tiny)
{
    tiny_model_init(tiny, variant->architecture);
    tiny->seed = 20260722;
    if (variant->change != NULL)
        variant->change(tiny);
}

/* logits [N_TOKENS][TINY_N_FIXED] */
static void expect(const struct variant *variant, const struct tiny_model *tiny,
    double *logits)
{
    struct tiny_reference reference = variant->reference;
    const struct tiny_tensor *factors =
        tiny_model_find(tiny, "rope_freqs.weight");
    uint32_t tokens[N_TOKENS];

    reference.tiny = tiny;
    if (reference.rope_base == 0)
        reference.rope_base = 10000;
    if (reference.magnitude == 0)
        reference.magnitude = 1;
    for (size_t i = 0; i < reference.n_rope_dims / 2; i++)
        if (reference.stretch[i] == 0)
            reference.stretch[i] =
                factors == NULL
                    ? 1
                    : 1 / (double)tiny_model_value(tiny, factors, i);
    for (uint32_t i = 0; i < N_TOKENS; i++)
        tokens[i] = token_at(i);
    tiny_reference_compute(&reference, tokens, N_TOKENS, logits);
}

static double largest_gap(const float *logits, const double *expected)
{
    double gap = 0;

    for (size_t i = 0; i < TINY_N_FIXED; i++)
        gap = fmax(gap, fabs(logits[i] - expected[i]));
    return gap;
}

static void compare(const struct variant *variant, const char *kernels)
{
    static double expected[N_TOKENS * TINY_N_FIXED];
    struct tiny_model tiny;
    const struct engine_config config = {
        .kernels = kernels,
        .kv_type = KV_TYPE_F32,
        .n_threads = 1,
        .block_tokens = 16,
    };
    struct engine engine;
    unsigned char *bytes;
    size_t n_bytes;
    float logits[TINY_N_FIXED];

    make(variant, &tiny);
    expect(variant, &tiny, expected);
    bytes = tiny_model_write(&tiny, &n_bytes);
    engine_open_memory(&engine, &config, bytes, n_bytes);
    for (uint32_t i = 0; i < N_TOKENS; i++) {
        const uint32_t token = token_at(i);
        double gap;

        engine_feed(&engine, 0, &token, 1, i, 1, logits);
        gap = largest_gap(logits, &expected[i * TINY_N_FIXED]);
        ck_assert_msg(gap < 2e-5, "%s, %s, position %u: a logit is off by %g",
            variant->name, kernels, i, gap);
    }
    for (size_t i = 0; i < N_KNOWN && variant->known[0] != 0; i++)
        ck_assert_msg(fabsf(logits[i] - variant->known[i]) < 1e-4f,
            "%s, %s: logit %zu is %.6f, llama.cpp's %.6f", variant->name,
            kernels, i, (double)logits[i], (double)variant->known[i]);
    engine_close(&engine);
    free(bytes);
}

START_TEST(every_architecture_computes_what_its_papers_say)
{
    static const char *const kernels[] = {ENGINE_KERNEL_SETS};

    for (size_t k = 0; k < sizeof kernels / sizeof *kernels; k++)
        for (size_t i = 0; i < N_VARIANTS && engine_has_kernels(kernels[k]);
             i++)
            compare(&variants[i], kernels[k]);
}
END_TEST

/* The differences are large enough that none could be left out unnoticed.
 * BitNet is there by several names. */
START_TEST(no_variant_computes_what_another_does)
{
    static double logits[N_VARIANTS][N_TOKENS * TINY_N_FIXED];
    struct tiny_model tiny;

    for (size_t i = 0; i < N_VARIANTS; i++) {
        make(&variants[i], &tiny);
        expect(&variants[i], &tiny, logits[i]);
        for (size_t j = 0; j < i; j++)
            ck_assert_msg(
                fabs(logits[i][(N_TOKENS - 1) * TINY_N_FIXED] -
                     logits[j][(N_TOKENS - 1) * TINY_N_FIXED]) > 1e-3 ||
                    strncmp(variants[i].architecture, "bitnet", 6) == 0,
                "%s and %s are the same", variants[i].name, variants[j].name);
    }
}
END_TEST

int main(void)
{
    const TTest *tests[] = {
        every_architecture_computes_what_its_papers_say,
        no_variant_computes_what_another_does,
    };

    return CHECK_RUN("architectures", NULL, NULL, tests);
}
