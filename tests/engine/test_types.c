/* Every tensor type, with every set of kernels that the machine has, and every
 * type of keys and values: against what the layouts say, and against the same
 * weights as F32. */
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "engine/quants_super.h"
#include "tests/engine/engine_fixture.h"
#include "tests/engine/typed_model.h"
#include "tests/support/check_main.h"

#define N_ELEMENTS 2048
#define N_TOKENS 40

static const char *const sets[] = {ENGINE_KERNEL_SETS};
#define N_SETS (sizeof sets / sizeof *sets)

static const enum kv_type kv_types[] = {KV_TYPE_F32, KV_TYPE_F16, KV_TYPE_Q8_0};
#define N_KV_TYPES (sizeof kv_types / sizeof *kv_types)

static float scale_of(enum gguf_tensor_type type, const unsigned char *data)
{
    float scale = 1;

    if (type == GGUF_I2_S)
        memcpy(&scale, data + N_ELEMENTS / 4, sizeof scale);
    return scale;
}

/* To the last bit, but where a minimum is subtracted in another precision. */
START_TEST(every_element_is_what_the_published_layout_says)
{
    static unsigned char data[N_ELEMENTS * 4 + 32];
    static float values[N_ELEMENTS];

    for (unsigned seed = 0; seed < 20; seed++) {
        const enum gguf_tensor_type type = typed_all[_i];
        double largest = 0;

        typed_fill(type, data, N_ELEMENTS, seed);
        quants_dequantize(type, data, N_ELEMENTS, values);
        for (size_t i = 0; i < N_ELEMENTS; i++) {
            const double expected = typed_element(type, data, N_ELEMENTS, i);
            const double value =
                (double)values[i] * (double)scale_of(type, data);

            if (fabs(value - expected) > 1e-7)
                ck_abort_msg("%s, element %zu: %g, not %g",
                    gguf_type_name(type), i, value, expected);
            largest = fmax(largest, fabs(expected));
        }
        ck_assert_double_gt(largest, 0.03);
    }
}
END_TEST

static uint32_t token_at(uint32_t position)
{
    return (position * 37 + 11) % TYPED_N_VOCAB;
}

/* The logits after each of the tokens, [N_TOKENS][TYPED_N_VOCAB]. */
static void run(const unsigned char *bytes, size_t n, const char *kernels,
    enum kv_type kv_type, float *logits)
{
    const struct engine_config config = {NULL, kernels, kv_type, 1, 16};
    struct engine engine;

    engine_open_memory(&engine, &config, bytes, n);
    ck_assert_uint_eq(engine.n_vocab, TYPED_N_VOCAB);
    for (uint32_t i = 0; i < N_TOKENS; i++) {
        const uint32_t token = token_at(i);

        engine_feed(
            &engine, 0, &token, 1, i, 1, logits + (size_t)i * TYPED_N_VOCAB);
    }
    engine_close(&engine);
}

static uint32_t best_of(const float *logits)
{
    uint32_t best = 0;

    for (uint32_t i = 1; i < TYPED_N_VOCAB; i++)
        best = logits[i] > logits[best] ? i : best;
    return best;
}

/* How far logits are from those of the same weights as F32, on average and at
 * most; and how much more than our choice theirs was worth, at most. */
struct distance {
    double mean, most, gap;
};

static struct distance measure(const float *logits, const float *expected)
{
    struct distance distance = {0};

    for (size_t t = 0; t < N_TOKENS; t++) {
        const float *ours = logits + t * TYPED_N_VOCAB,
                    *theirs = expected + t * TYPED_N_VOCAB;

        for (size_t i = 0; i < TYPED_N_VOCAB; i++) {
            const double error = fabs((double)ours[i] - (double)theirs[i]);

            distance.mean += error / (N_TOKENS * TYPED_N_VOCAB);
            distance.most = fmax(distance.most, error);
        }
        distance.gap = fmax(distance.gap,
            (double)theirs[best_of(theirs)] - (double)theirs[best_of(ours)]);
    }
    return distance;
}

/* Bounds, for logits whose largest are from 1.5 to 9: about twice what was
 * measured. Products of floats round in their last bits, others round their
 * inputs to 8 bits; keys and values are rounded to 11 bits, or to 8. A field
 * that is read wrong makes logits other ones altogether. */
static struct distance bound_of(enum gguf_tensor_type type, enum kv_type kv)
{
    static const struct distance last_bits = {3e-6, 2e-5, 1e-5},
                                 of_inputs = {0.025, 0.2, 0.05};
    static const struct distance of_kv[] = {
        [KV_TYPE_F32] = {0, 0, 0},
        [KV_TYPE_F16] = {0.001, 0.005, 0.005},
        [KV_TYPE_Q8_0] = {0.02, 0.1, 0.05},
    };
    struct distance bound =
        gguf_type_block_elements(type) == 1 ? last_bits : of_inputs;

    bound.mean += of_kv[kv].mean;
    bound.most += of_kv[kv].most;
    bound.gap += of_kv[kv].gap;
    return bound;
}

/* All, but in turn under AddressSanitizer: what it may find is a kernel's, or
 * that of keys and values. */
static bool has_turn(size_t set, size_t kv, size_t type)
{
    return engine_has_kernels(sets[set]) &&
           (!ENGINE_IS_SANITIZED || kv == (type + set) % N_KV_TYPES);
}

START_TEST(every_type_says_what_the_same_weights_say_as_f32)
{
    static float expected[N_TOKENS * TYPED_N_VOCAB],
        logits[N_TOKENS * TYPED_N_VOCAB];
    const enum gguf_tensor_type type = typed_all[_i];
    size_t n, n_wide;
    unsigned char *bytes = typed_model_write_all(type, &n);
    unsigned char *wide = typed_model_widen(bytes, n, &n_wide);

    run(wide, n_wide, "scalar", KV_TYPE_F32, expected);
    for (size_t s = 0; s < N_SETS; s++)
        for (size_t k = 0; k < N_KV_TYPES; k++) {
            const struct distance bound = bound_of(type, kv_types[k]);
            struct distance distance;

            if (!has_turn(s, k, (size_t)_i))
                continue;
            run(bytes, n, sets[s], kv_types[k], logits);
            distance = measure(logits, expected);
            ck_assert_msg(distance.mean <= bound.mean &&
                              distance.most <= bound.most &&
                              distance.gap <= bound.gap,
                "%s, %s, keys and values %s: off by %g on average, %g at most; "
                "another token by %g",
                gguf_type_name(type), sets[s], kv_type_name(kv_types[k]),
                distance.mean, distance.most, distance.gap);
        }
    free(wide);
    free(bytes);
}
END_TEST

/* They have the same loops but for products of integers, which are exact. */
START_TEST(avx512_says_what_avx2_says_to_the_last_bit)
{
    static float avx2[N_TOKENS * TYPED_N_VOCAB],
        avx512[N_TOKENS * TYPED_N_VOCAB];
    size_t n;
    unsigned char *bytes = typed_model_write_all(typed_all[_i], &n);

    if (engine_has_kernels("avx512")) {
        run(bytes, n, "avx2", KV_TYPE_F16, avx2);
        run(bytes, n, "avx512", KV_TYPE_F16, avx512);
        ck_assert_mem_eq(avx2, avx512, sizeof avx2);
    }
    free(bytes);
}
END_TEST

int main(void)
{
    TCase *tcase = tcase_create("laws");
    Suite *suite = suite_create("types");
    SRunner *runner = srunner_create(suite);
    int failed;

    tcase_set_timeout(tcase, 120);
    tcase_add_loop_test(tcase, every_element_is_what_the_published_layout_says,
        0, GGUF_N_TYPES);
    tcase_add_loop_test(tcase, every_type_says_what_the_same_weights_say_as_f32,
        0, GGUF_N_TYPES);
    tcase_add_loop_test(
        tcase, avx512_says_what_avx2_says_to_the_last_bit, 0, GGUF_N_TYPES);
    suite_add_tcase(suite, tcase);
    srunner_run_all(runner, CK_ENV);
    failed = srunner_ntests_failed(runner);
    srunner_free(runner);
    return failed == 0 ? EXIT_SUCCESS : EXIT_FAILURE;
}
