#include <math.h>
#include <string.h>

#include "engine/model.h"
#include "tests/engine/tiny_model.h"
#include "tests/support/check_main.h"
#include "tests/support/faulty_heap.h"

static struct tiny_model tiny;
static unsigned char *bytes;

static void set_up(void)
{
    faulty_heap_install();
    tiny_model_init(&tiny, "llama");
    bytes = NULL;
}

static void tear_down(void)
{
    free(bytes);
    ck_assert_int_eq(faulty_heap_live(), 0);
}

static struct model *open_tiny(void)
{
    struct model *model = NULL;
    struct kv_error error = {KV_OK, ""};
    size_t n;

    free(bytes);
    bytes = tiny_model_write(&tiny, &n);
    ck_assert_msg(model_open_memory(&model, bytes, n, "m", &error) == KV_OK,
        "%s", error.text);
    return model;
}

static void expect_refusal(enum kv_status status, const char *words)
{
    struct model *model = NULL;
    struct kv_error error = {KV_OK, ""};
    size_t n;

    free(bytes);
    bytes = tiny_model_write(&tiny, &n);
    ck_assert_int_eq(model_open_memory(&model, bytes, n, "m", &error), status);
    ck_assert_ptr_null(model);
    ck_assert_int_eq(error.status, status);
    ck_assert_msg(strstr(error.text, words) != NULL,
        "\"%s\" does not say \"%s\"", error.text, words);
}

START_TEST(a_llama_has_the_shape_that_its_file_says)
{
    struct model *model = open_tiny();
    const struct model_shape *shape = &model->shape;

    ck_assert_uint_eq(shape->n_layers, 2);
    ck_assert_uint_eq(shape->n_embd, 32);
    ck_assert_uint_eq(shape->n_ff, 64);
    ck_assert_uint_eq(shape->n_heads, 4);
    ck_assert_uint_eq(shape->n_kv_heads, 2);
    ck_assert_uint_eq(shape->head_dim, 8);
    ck_assert_uint_eq(shape->n_vocab, TINY_N_FIXED);
    ck_assert_uint_eq(shape->n_context, 64);
    ck_assert_uint_eq(shape->rope.n_dims, 8);
    ck_assert_int_eq(shape->rope.style, ROPE_INTERLEAVED);
    ck_assert_float_eq(shape->rope.base, 10000.0f);
    ck_assert_float_eq(shape->norm_epsilon, 1e-5f);
    ck_assert_ptr_null(model->layers[0].attn_sub_norm);
    ck_assert_uint_eq(model->layers[1].down.n_rows, 32);
    ck_assert_uint_eq(model->layers[1].down.n_cols, 64);
    ck_assert_str_eq(model->name, "tiny");
    model_close(model);
}
END_TEST

START_TEST(a_bitnet_has_sub_norms_and_turns_like_neox)
{
    struct model *model;

    tiny_model_init(&tiny, "bitnet");
    tiny_model_tensor(&tiny, "blk.1.ffn_sub_norm.weight")->fill = 3.0f;
    model = open_tiny();
    ck_assert_int_eq(model->shape.rope.style, ROPE_NEOX);
    ck_assert_ptr_nonnull(model->layers[0].attn_sub_norm);
    ck_assert_float_eq(model->layers[1].ffn_sub_norm[63], 3.0f);
    model_close(model);
    tiny_model_drop_tensor(&tiny, "blk.0.attn_sub_norm.weight");
    expect_refusal(KV_INVALID, "tensor blk.0.attn_sub_norm.weight is missing");
}
END_TEST

START_TEST(an_output_of_its_own_is_used_and_else_the_embedding)
{
    struct model *model = open_tiny();
    uint64_t n_tied = model->n_parameters;
    struct tiny_tensor *output;

    ck_assert_ptr_eq(model->output.data, model->token_embedding.data);
    model_close(model);
    output = tiny_model_tensor(&tiny, "output.weight");
    output->dims[0] = 32;
    output->dims[1] = TINY_N_FIXED;
    output->n_dims = 2;
    model = open_tiny();
    ck_assert_ptr_ne(model->output.data, model->token_embedding.data);
    ck_assert_uint_eq(model->n_parameters, n_tied + 32 * TINY_N_FIXED);
    model_close(model);
}
END_TEST

START_TEST(a_scale_beside_a_matrix_multiplies_it)
{
    struct model *model;
    struct tiny_tensor *scale = tiny_model_tensor(&tiny, "blk.1.ffn_up.scale");

    scale->fill = 0.125f;
    model = open_tiny();
    ck_assert_float_eq(model->layers[1].up.scale, 0.125f);
    ck_assert_float_eq(model->layers[0].up.scale, 1.0f);
    model_close(model);
    scale->fill = INFINITY;
    expect_refusal(KV_INVALID, "tensor blk.1.ffn_up.scale is inf");
    scale->fill = 1.0f;
    scale->dims[0] = 2;
    expect_refusal(KV_INVALID, "blk.1.ffn_up.scale is 2 x 1");
    scale->dims[0] = 1;
    scale->type = GGUF_F16;
    expect_refusal(KV_UNSUPPORTED, "blk.1.ffn_up.scale has type F16");
}
END_TEST

static enum kv_status reopen(
    struct model **model, size_t n, struct kv_error *error)
{
    *model = NULL;
    *error = (struct kv_error){KV_OK, ""};
    return model_open_memory(model, bytes, n, "m", error);
}

START_TEST(an_i2_s_has_its_scale_behind_its_rows)
{
    const float scale = 0.375f, odd = NAN;
    const size_t rows_bytes = 256 * 256 / 4;
    struct kv_error error;
    struct model *model;
    unsigned char *data;
    size_t n;

    tiny_model_widen(&tiny);
    tiny_model_tensor(&tiny, "blk.1.attn_q.weight")->type = GGUF_I2_S;
    tiny_model_tensor(&tiny, "blk.1.attn_q.scale")->fill = 2;
    model = open_tiny();
    ck_assert_float_eq(model->layers[1].q.scale, 0);
    n = model->mapped_bytes;
    data = bytes + ((const unsigned char *)model->layers[1].q.data - bytes);
    model_close(model);

    memcpy(data + rows_bytes, &scale, sizeof scale);
    memset(data, 0xaa, rows_bytes);
    ck_assert_int_eq(reopen(&model, n, &error), KV_OK);
    ck_assert_float_eq(model->layers[1].q.scale, 2 * scale);
    model_close(model);

    data[63] = 0x03; /* the last byte of the first row */
    ck_assert_int_eq(reopen(&model, n, &error), KV_INVALID);
    ck_assert_ptr_nonnull(strstr(error.text,
        "tensor blk.1.attn_q.weight is not ternary weights with a finite "
        "scale, as type I2_S has them"));
    data[63] = 0;
    memcpy(data + rows_bytes, &odd, sizeof odd);
    ck_assert_int_eq(reopen(&model, n, &error), KV_INVALID);
    ck_assert_ptr_nonnull(strstr(error.text, "blk.1.attn_q.weight"));
}
END_TEST

START_TEST(a_norm_is_finite_and_f32_or_f16)
{
    struct tiny_tensor *norm = tiny_model_tensor(&tiny, "output_norm.weight");
    uint16_t halves[] = {0x3C00, 0xC000, 0x0001, 0x7C00};
    struct model *model;
    struct kv_error error;

    norm->fill = NAN;
    expect_refusal(KV_INVALID, "tensor output_norm.weight is");
    norm->type = GGUF_Q8_0;
    expect_refusal(KV_UNSUPPORTED, "F32, F16 are supported for it");
    norm->type = GGUF_F16;
    model = open_tiny();
    {
        size_t n = gguf_file_bytes(model->gguf);
        const struct gguf_tensor *tensor =
            gguf_tensor_find(model->gguf, "output_norm.weight");
        ptrdiff_t at = (const unsigned char *)tensor->data - bytes;

        model_close(model);
        memcpy(bytes + at, halves, 6);
        ck_assert_int_eq(
            model_open_memory(&model, bytes, n, "m", &error), KV_OK);
        ck_assert_float_eq(model->output_norm[0], 1.0f);
        ck_assert_float_eq(model->output_norm[1], -2.0f);
        ck_assert_float_eq(model->output_norm[2], 0x1p-24f);
        model_close(model);
        memcpy(bytes + at, halves, 8);
        ck_assert_int_eq(
            model_open_memory(&model, bytes, n, "m", &error), KV_INVALID);
        ck_assert_ptr_nonnull(
            strstr(error.text, "element 3 of tensor output_norm.weight"));
    }
}
END_TEST

START_TEST(a_number_out_of_its_range_is_refused_by_key_and_range)
{
    static const struct {
        const char *key;
        uint32_t value;
        const char *words;
    } cases[] = {
        {"llama.block_count", 0, "block_count is 0; 1 to 4096"},
        {"llama.block_count", 4097, "block_count is 4097; 1 to 4096"},
        {"llama.block_count", 4096, "are more than its 20 tensors"},
        {"llama.block_count", 3, "tensor blk.2.attn_q.weight is missing"},
        {"llama.embedding_length", 0, "embedding_length is 0; 1 to"},
        {"llama.embedding_length", 1u << 21, "embedding_length is 2097152"},
        {"llama.embedding_length", 1u << 20, "4 heads of 262144 elements"},
        {"llama.embedding_length", 64,
            "tensor token_embd.weight is 32 x 259 x 1 x 1; 64 x 259"},
        {"llama.embedding_length", 33, "not a multiple of 4 heads"},
        {"llama.feed_forward_length", 65,
            "blk.0.ffn_gate.weight is 32 x 64 x 1 x 1; 32 x 65 is needed"},
        {"llama.attention.head_count", 0, "head_count is 0; 1 to"},
        {"llama.attention.head_count", 32, "32 heads of 1 elements; an even"},
        {"llama.attention.head_count_kv", 5, "head_count_kv is 5; 1 to 4"},
        {"llama.attention.head_count_kv", 3, "4 heads for 3 KV heads"},
        {"llama.attention.key_length", 7, "4 heads of 7 elements; an even"},
        {"llama.attention.key_length", 16, "blk.0.attn_q.weight is 32 x 32"},
        {"llama.attention.key_length", 8192, "key_length is 8192; 2 to 4096"},
        {"llama.context_length", 0, "context_length is 0; 1 to"},
        {"llama.vocab_size", 260, "token_embd.weight is 32 x 259"},
        {"llama.vocab_size", (1u << 24) + 1, "vocab_size is 16777217; 1 to"},
        {"llama.rope.dimension_count", 3, "dimension_count is 3; an even"},
        {"llama.rope.dimension_count", 10, "dimension_count is 10; 2 to 8"},
    };

    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        tiny_model_init(&tiny, "llama");
        tiny_model_set_uint(&tiny, cases[i].key, cases[i].value);
        expect_refusal(KV_INVALID, cases[i].words);
    }
}
END_TEST

START_TEST(an_epsilon_and_a_base_must_be_sane)
{
    static const float bad[] = {0, -1, 1, NAN, INFINITY};
    const char *epsilon = "llama.attention.layer_norm_rms_epsilon";

    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) {
        tiny_model_set_float(&tiny, epsilon, bad[i]);
        expect_refusal(KV_INVALID, "layer_norm_rms_epsilon is");
    }
    tiny_model_set_float(&tiny, epsilon, 1e-6f);
    tiny_model_set_float(&tiny, "llama.rope.freq_base", -10000);
    expect_refusal(KV_INVALID, "rope.freq_base is -10000");
}
END_TEST

START_TEST(a_key_that_is_missing_is_named)
{
    static const char *const keys[] = {"general.architecture",
        "llama.block_count", "llama.embedding_length",
        "llama.feed_forward_length", "llama.attention.head_count",
        "llama.context_length", "llama.attention.layer_norm_rms_epsilon"};

    for (size_t i = 0; i < sizeof keys / sizeof *keys; i++) {
        tiny_model_init(&tiny, "llama");
        tiny_model_drop_key(&tiny, keys[i]);
        expect_refusal(KV_INVALID, keys[i]);
    }
}
END_TEST

START_TEST(what_is_not_computed_is_refused_by_name)
{
    static const struct {
        const char *key;
        const char *text; /* NULL: value is meant */
        uint32_t value;
    } keys[] = {
        {"llama.rope.scaling.type", "longrope", 0},
        {"llama.rope.scaling.type", "llama3", 0},
        {"llama.hidden_activation", "gelu", 0},
        {"llama.expert_count", NULL, 8},
        {"llama.attention.sliding_window", NULL, 63},
        {"llama.attention.value_length", NULL, 4},
    };
    static const char *const tensors[] = {"rope_factors_long.weight",
        "blk.1.attn_q.bias", "blk.0.ffn_up.bias", "blk.1.attn_output.bias",
        "output.bias", "blk.1.ffn_gate_exps.weight", "blk.0.attn_q_norm.weight",
        "blk.0.attn_sub_norm.weight", "blk.00.attn_q.weight",
        "blk.2.attn_q.weight"};

    for (size_t i = 0; i < sizeof keys / sizeof *keys; i++) {
        tiny_model_init(&tiny, "llama");
        if (keys[i].text != NULL)
            tiny_model_set_text(&tiny, keys[i].key, keys[i].text);
        else
            tiny_model_set_uint(&tiny, keys[i].key, keys[i].value);
        expect_refusal(KV_UNSUPPORTED, "support");
    }
    for (size_t i = 0; i < sizeof tensors / sizeof *tensors; i++) {
        tiny_model_init(&tiny, "llama");
        tiny_model_tensor(&tiny, tensors[i]);
        expect_refusal(KV_UNSUPPORTED, tensors[i]);
    }
    tiny_model_init(&tiny, "llama");
    tiny_model_set_uint(&tiny, "llama.block_count", 1);
    expect_refusal(KV_UNSUPPORTED, "tensor blk.1.attn_norm.weight is not one");
    tiny_model_init(&tiny, "gemma");
    expect_refusal(KV_UNSUPPORTED,
        "architecture gemma; supported are bitnet, bitnet-25, "
        "bitnet-b1.58, llama, qwen2, qwen3");
}
END_TEST

START_TEST(scaling_that_changes_nothing_is_taken)
{
    tiny_model_set_text(&tiny, "llama.rope.scaling.type", "none");
    tiny_model_set_uint(&tiny, "llama.attention.sliding_window", 64);
    tiny_model_set_uint(&tiny, "llama.expert_count", 0);
    model_close(open_tiny());
    tiny_model_init(&tiny, "llama");
    tiny_model_set_float(&tiny, "llama.rope.scaling.factor", 1.0f);
    model_close(open_tiny());
    tiny_model_set_float(&tiny, "llama.rope.scaling.factor", 0.0f);
    model_close(open_tiny());
    tiny_model_set_float(&tiny, "llama.logit_scale", 1.0f);
    tiny_model_set_float(&tiny, "llama.attention.scale", 0.0f);
    tiny_model_set_text(&tiny, "llama.hidden_activation", "silu");
    model_close(open_tiny());
}
END_TEST

START_TEST(what_multiplies_or_bounds_is_refused_by_name)
{
    static const char *const keys[] = {"llama.attention.clamp_kqv",
        "llama.attention.scale", "llama.attn_logit_softcapping",
        "llama.embedding_scale", "llama.final_logit_softcapping",
        "llama.logit_scale", "llama.residual_scale",
        "llama.rope.scaling.alpha"};

    for (size_t i = 0; i < sizeof keys / sizeof *keys; i++) {
        tiny_model_init(&tiny, "llama");
        tiny_model_set_float(&tiny, keys[i], 0.5f);
        expect_refusal(KV_UNSUPPORTED, keys[i]);
    }
    tiny_model_init(&tiny, "llama");
    *tiny_model_key(&tiny, "llama.attention.causal") =
        (struct tiny_key){"llama.attention.causal", TINY_BOOL, 0, NULL};
    expect_refusal(KV_UNSUPPORTED, "llama.attention.causal");
}
END_TEST

START_TEST(scaling_must_be_sane)
{
    static const struct {
        const char *key;
        float value;
    } bad[] = {
        {"llama.rope.scaling.factor", -1},
        {"llama.rope.scaling.factor", 1e-6f},
        {"llama.rope.scaling.factor", NAN},
        {"llama.rope.scaling.attn_factor", 0},
        {"llama.rope.scaling.yarn_ext_factor", 2},
        {"llama.rope.scaling.yarn_beta_fast", 0},
        {"llama.rope.scaling.yarn_beta_slow", INFINITY},
        {"llama.rope.scaling.yarn_log_multiplier", -1},
    };

    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) {
        tiny_model_init(&tiny, "llama");
        tiny_model_set_text(&tiny, "llama.rope.scaling.type", "yarn");
        tiny_model_set_float(&tiny, bad[i].key, bad[i].value);
        expect_refusal(KV_INVALID, bad[i].key);
    }
    tiny_model_init(&tiny, "llama");
    tiny_model_set_text(&tiny, "llama.rope.scaling.type", "yarn");
    tiny_model_set_float(&tiny, "llama.rope.scaling.yarn_attn_factor", 0.5f);
    expect_refusal(KV_UNSUPPORTED, "yarn_attn_factor");
}
END_TEST

START_TEST(factors_of_pairs_are_positive_and_as_many_as_pairs)
{
    struct tiny_tensor *factors;
    struct model *model;

    factors = tiny_model_tensor(&tiny, "rope_freqs.weight");
    factors->dims[0] = 4;
    expect_refusal(KV_INVALID, "element 0 of tensor rope_freqs.weight is 0");
    factors->fill = 8;
    model = open_tiny();
    ck_assert_double_eq(model->rope_frequencies[0], 0.125);
    model_close(model);
    factors->dims[0] = 3;
    expect_refusal(KV_INVALID, "tensor rope_freqs.weight is 3");
    tiny_model_init(&tiny, "qwen2");
    tiny_model_tensor(&tiny, "rope_freqs.weight")->dims[0] = 4;
    expect_refusal(KV_UNSUPPORTED, "rope_freqs.weight");
}
END_TEST

START_TEST(a_qwen_has_biases_or_norms_of_heads)
{
    struct model *model;

    tiny_model_init(&tiny, "qwen2");
    tiny_model_tensor(&tiny, "blk.1.attn_v.bias")->fill = 2;
    model = open_tiny();
    ck_assert_int_eq(model->shape.rope.style, ROPE_NEOX);
    ck_assert_float_eq(model->layers[1].v_bias[15], 2);
    ck_assert_ptr_null(model->layers[0].q_norm);
    model_close(model);
    tiny_model_drop_tensor(&tiny, "blk.0.attn_k.bias");
    expect_refusal(KV_INVALID, "tensor blk.0.attn_k.bias is missing");
    tiny_model_init(&tiny, "qwen3");
    tiny_model_tensor(&tiny, "blk.0.attn_k_norm.weight")->fill = 3;
    model = open_tiny();
    ck_assert_uint_eq(model->shape.head_dim, 16);
    ck_assert_float_eq(model->layers[0].k_norm[15], 3);
    ck_assert_ptr_null(model->layers[0].q_bias);
    model_close(model);
    tiny_model_drop_tensor(&tiny, "blk.1.attn_q_norm.weight");
    expect_refusal(KV_INVALID, "tensor blk.1.attn_q_norm.weight is missing");
}
END_TEST

START_TEST(a_part_of_a_model_is_refused)
{
    tiny_model_set_uint(&tiny, "split.count", 1);
    model_close(open_tiny());
    tiny_model_set_uint(&tiny, "split.count", 3);
    expect_refusal(KV_UNSUPPORTED, "split.count is 3");
}
END_TEST

START_TEST(a_vocabulary_without_tensors_is_not_a_model)
{
    tiny.n_tensors = 0;
    expect_refusal(KV_INVALID, "it has no tensors");
}
END_TEST

START_TEST(a_models_name_is_text_whatever_the_file_holds)
{
    struct model *model;
    char longest[400];

    tiny_model_set_text(&tiny, "general.name", "a\xFF\nb");
    model = open_tiny();
    ck_assert_str_eq(model->name, "a??b");
    model_close(model);
    memset(longest, 'n', sizeof longest - 1);
    longest[sizeof longest - 1] = '\0';
    tiny_model_set_text(&tiny, "general.name", longest);
    model = open_tiny();
    ck_assert_uint_eq(strlen(model->name), 95);
    model_close(model);
    tiny_model_drop_key(&tiny, "general.name");
    model = open_tiny();
    ck_assert_str_eq(model->name, "m");
    model_close(model);
}
END_TEST

START_TEST(the_demo_model_opens_and_adds_up)
{
    struct model_type_usage usage[MODEL_MAX_TYPES];
    struct model *model = NULL;
    struct kv_error error = {KV_OK, ""};
    uint64_t n_bytes = 0;
    size_t n;

    ck_assert_msg(model_open(&model, DEMO_DIR "/demo.gguf", &error) == KV_OK,
        "%s", error.text);
    ck_assert_str_eq(model->architecture, "bitnet");
    ck_assert_uint_eq(model->shape.n_layers, 6);
    ck_assert_uint_eq(model->shape.n_vocab, 3072);
    ck_assert_float_gt(model->layers[5].down.scale, 0.0f);
    ck_assert_float_ne(model->layers[5].down.scale, 1.0f);
    ck_assert_uint_eq(model->n_parameters,
        3072 * 256 + 6 * (256 * (2 * 256 + 2 * 128 + 3 * 512) + 3 * 256 + 512) +
            256);
    n = model_type_usage(model, usage);
    ck_assert_uint_eq(n, 3);
    ck_assert_int_eq(usage[0].type, GGUF_TQ2_0);
    ck_assert_uint_eq(usage[0].n_tensors, 42);
    for (size_t i = 0; i < n; i++)
        n_bytes += usage[i].n_bytes;
    ck_assert_uint_le(n_bytes, model->mapped_bytes);
    model_close(model);
}
END_TEST

START_TEST(an_allocation_that_fails_is_no_memory_and_leaves_nothing)
{
    enum kv_status status = KV_NO_MEMORY;
    size_t n;
    int nth;

    bytes = tiny_model_write(&tiny, &n);
    for (nth = 0; status != KV_OK; nth++) {
        struct model *model = NULL;
        struct kv_error error = {KV_OK, ""};

        faulty_heap_fail_at(nth);
        status = model_open_memory(&model, bytes, n, "m", &error);
        faulty_heap_fail_at(-1);
        ck_assert(status == KV_OK || status == KV_NO_MEMORY);
        ck_assert(status == KV_OK || faulty_heap_live() == 0);
        ck_assert(status == KV_OK || strstr(error.text, "no memory") != NULL);
        model_close(model);
    }
    ck_assert_int_ge(nth, 9);
}
END_TEST

int main(void)
{
    const TTest *tests[] = {
        a_llama_has_the_shape_that_its_file_says,
        a_bitnet_has_sub_norms_and_turns_like_neox,
        an_output_of_its_own_is_used_and_else_the_embedding,
        a_scale_beside_a_matrix_multiplies_it,
        an_i2_s_has_its_scale_behind_its_rows,
        a_norm_is_finite_and_f32_or_f16,
        a_number_out_of_its_range_is_refused_by_key_and_range,
        an_epsilon_and_a_base_must_be_sane,
        a_key_that_is_missing_is_named,
        what_is_not_computed_is_refused_by_name,
        scaling_that_changes_nothing_is_taken,
        what_multiplies_or_bounds_is_refused_by_name,
        scaling_must_be_sane,
        factors_of_pairs_are_positive_and_as_many_as_pairs,
        a_qwen_has_biases_or_norms_of_heads,
        a_part_of_a_model_is_refused,
        a_vocabulary_without_tensors_is_not_a_model,
        a_models_name_is_text_whatever_the_file_holds,
        the_demo_model_opens_and_adds_up,
        an_allocation_that_fails_is_no_memory_and_leaves_nothing,
    };

    return CHECK_RUN("model", set_up, tear_down, tests);
}
