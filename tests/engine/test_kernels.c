/* The fast kernels against the reference, and each against itself cut up. */
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "engine/kernels.h"
#include "engine/matrices.h"
#include "engine/quants_super.h"
#include "tests/support/check_main.h"

/* For loops: ck_assert writes to a file each time. */
#define HOLDS(condition)                                                       \
    do {                                                                       \
        if (!(condition))                                                      \
            ck_abort_msg("%s", #condition);                                    \
    } while (0)

static uint64_t random_state;

static uint32_t random_u32(void)
{
    random_state = random_state * UINT64_C(6364136223846793005) +
                   UINT64_C(1442695040888963407);
    return (uint32_t)(random_state >> 32);
}

static float random_float(void)
{
    return (float)random_u32() * 0x1p-31f - 1;
}

/* As large as any test needs. */
#define MAX_ROWS 21
#define MAX_COLS 512
#define MAX_TOKENS 37 /* more than what any set takes together */

struct product {
    struct weight weight;
    struct activations x;
    unsigned char data[MAX_ROWS * MAX_COLS * 4];
    float values[MAX_TOKENS * MAX_COLS];
    _Alignas(32) float floats[MAX_TOKENS * MAX_COLS];
    int8_t quants[MAX_TOKENS * MAX_COLS];
    float scales[MAX_TOKENS * MAX_COLS / QUANTS_SMALL];
    int32_t sums[MAX_TOKENS * MAX_COLS / QUANTS_SMALL];
    int16_t part_sums[MAX_TOKENS * MAX_COLS / ACTIVATION_PART];
    struct packed packed;
    _Alignas(PACKED_LINE) unsigned char panels[3 * PACKED_ROWS * MAX_COLS * 2];
};

static struct product product;
#define MAX_SETS 4

static const struct kernels *sets[MAX_SETS];
static int n_sets;

static void set_up(void)
{
    static const char *const names[MAX_SETS] = {
        "scalar", "neon", "avx2", "avx512"}; /* fastest last */

    random_state = 42;
    n_sets = 0;
    for (size_t i = 0; i < sizeof names / sizeof *names; i++)
        if (kernels_choose(&sets[n_sets], names[i], NULL) == KV_OK)
            n_sets++;
}

static const enum gguf_tensor_type types[] = {GGUF_F32, GGUF_F16, GGUF_BF16,
    GGUF_Q8_0, GGUF_Q4_0, GGUF_TQ1_0, GGUF_TQ2_0, GGUF_I2_S, GGUF_Q4_K,
    GGUF_Q5_K, GGUF_Q6_K};
#define N_TYPES ((int)(sizeof types / sizeof *types))

/* The F16s of a block, of the types that have any. */
static void put_scales(
    enum gguf_tensor_type type, unsigned char *block, uint16_t half)
{
    const size_t block_bytes = gguf_type_block_bytes(type);

    if (type == GGUF_TQ1_0 || type == GGUF_TQ2_0 || type == GGUF_Q6_K)
        memcpy(block + block_bytes - 2, &half, sizeof half);
    else if (type != GGUF_I2_S)
        memcpy(block, &half, sizeof half);
    if (type == GGUF_Q4_K || type == GGUF_Q5_K)
        memcpy(block + 2, &half, sizeof half);
}

/* Any bytes are integers; scales and floats are of ordinary size. */
static void fill_weights(enum gguf_tensor_type type)
{
    const size_t block_bytes = gguf_type_block_bytes(type);
    const size_t n = product.weight.n_rows * product.weight.n_cols /
                     gguf_type_block_elements(type);

    for (size_t i = 0; i < n * block_bytes; i++)
        product.data[i] = (unsigned char)random_u32();
    for (size_t i = 0; i < n; i++) {
        unsigned char *block = product.data + i * block_bytes;
        const float value = random_float();
        const uint16_t half = quants_f32_to_f16(value);

        if (type == GGUF_F32)
            memcpy(block, &value, sizeof value);
        else if (type == GGUF_BF16)
            memcpy(block, (const unsigned char *)&value + 2, 2);
        else
            put_scales(type, block, half);
    }
}

static void pack_weights(void)
{
    struct packed *packed = &product.packed;

    if (!packed_plan(packed, &product.weight))
        return;
    HOLDS(
        packed_n_panels(packed) * packed->panel_bytes <= sizeof product.panels);
    packed->panels = product.panels;
    memset(product.panels, 0, sizeof product.panels);
    packed_fill(packed, &product.weight, 0, packed_n_panels(packed));
}

static void fill_product(enum gguf_tensor_type type, uint32_t n_rows,
    uint32_t n_cols, uint32_t n_tokens)
{
    const struct activation_quants quants = {
        product.quants, product.scales, product.sums};

    product.weight = (struct weight){
        .type = type,
        .n_rows = n_rows,
        .n_cols = n_cols,
        .data = product.data,
        .scale = 0.75f,
    };
    product.x = (struct activations){
        .n_rows = n_tokens,
        .n_cols = n_cols,
        .values = product.values,
        .floats = product.floats,
        .small = quants,
        .large = quants,
        .part_sums = product.part_sums,
    };
    fill_weights(type);
    pack_weights();
    for (size_t i = 0; i < (size_t)n_tokens * n_cols; i++)
        product.values[i] = random_float() * 3;
}

static void prepare(const struct kernels *kernels)
{
    product.x.n_abreast = kernels->n_abreast;
    for (uint32_t t = 0; t < product.x.n_rows; t++)
        activations_prepare(
            &product.x, kernels, t, kernels_format(product.weight.type));
}

/* The sum of magnitudes, to judge an error by. */
static float magnitude(uint32_t row, uint32_t token)
{
    const size_t n = product.x.n_cols;
    const size_t row_bytes = n / gguf_type_block_elements(product.weight.type) *
                             gguf_type_block_bytes(product.weight.type);
    float weights[MAX_COLS], sum = 0;

    quants_dequantize(
        product.weight.type, product.data + row * row_bytes, n, weights);
    for (size_t i = 0; i < n; i++)
        sum += fabsf(weights[i] * product.values[token * n + i]);
    return sum;
}

/* Groups of PACKED_ROWS rows. */
static void multiply_groups(
    const struct kernels *kernels, uint32_t begin, uint32_t end, float *out)
{
    const struct matrix matrix = {
        .weight = &product.weight,
        .packed = product.packed,
        .is_packed = kernels->matmul_packed != NULL &&
                     gguf_type_block_elements(product.weight.type) > 1,
    };

    matrix_multiply(&matrix, kernels, begin, end, &product.x, out);
}

static void multiply(const struct kernels *kernels, float *out)
{
    multiply_groups(kernels, 0,
        (product.weight.n_rows + PACKED_ROWS - 1) / PACKED_ROWS, out);
}

/* The error of a product against dequantised weights and exact inputs. */
static void check_against_definition(uint32_t row, uint32_t token, float result)
{
    const size_t n = product.x.n_cols;
    const size_t block = gguf_type_block_elements(product.weight.type);
    const size_t row_bytes =
        n / block * gguf_type_block_bytes(product.weight.type);
    float weights[MAX_COLS];
    double sum = 0;

    quants_dequantize(
        product.weight.type, product.data + row * row_bytes, n, weights);
    for (size_t i = 0; i < n; i++)
        sum += (double)weights[i] * product.values[token * n + i];
    HOLDS(fabsf(result - (float)sum * product.weight.scale) <=
          (block == 1 ? 1e-6f : 0.01f) * magnitude(row, token));
}

static void check_product(enum gguf_tensor_type type, uint32_t n_rows,
    uint32_t n_cols, uint32_t n_tokens)
{
    static float out[MAX_SETS][MAX_ROWS * MAX_TOKENS];
    const bool is_float = gguf_type_block_elements(type) == 1;

    fill_product(type, n_rows, n_cols, n_tokens);
    for (int i = 0; i < n_sets; i++) {
        prepare(sets[i]);
        multiply(sets[i], out[i]);
    }
    for (uint32_t row = 0; row < n_rows; row++)
        for (uint32_t t = 0; t < n_tokens; t++) {
            const size_t at = t * n_rows + row;

            check_against_definition(row, t, out[0][at]);
            for (int i = 1; i < n_sets && is_float; i++)
                HOLDS(fabsf(out[0][at] - out[i][at]) <=
                      1e-6f * magnitude(row, t));
            for (int i = 1; i < n_sets && !is_float; i++)
                HOLDS(out[0][at] == out[i][at]);
        }
}

START_TEST(products_are_those_of_the_reference)
{
    const enum gguf_tensor_type type = types[_i];
    const uint32_t block = (uint32_t)gguf_type_block_elements(type);
    static const uint32_t odd[] = {1, 4, 8, 11, 64, 172, 512};

    for (uint32_t n_tokens = 1; n_tokens <= MAX_TOKENS;
         n_tokens += n_tokens < 9 ? 1 : 7) {
        for (uint32_t n_rows = 1; n_rows <= MAX_ROWS; n_rows += 4)
            check_product(type, n_rows, block == 1 ? 172 : 512, n_tokens);
        for (size_t i = 0; block == 1 && i < sizeof odd / sizeof *odd; i++)
            check_product(type, 5, odd[i], n_tokens);
        for (uint32_t n = block; block > 1 && n <= MAX_COLS; n += block)
            check_product(type, 5, n, n_tokens);
    }
}
END_TEST

/* One group of rows and one token at a time against all at once. */
START_TEST(a_product_is_the_same_however_it_is_cut)
{
    const enum gguf_tensor_type type = types[_i];

    for (int i = 0; i < n_sets; i++) {
        static float whole[MAX_ROWS * MAX_TOKENS], part[MAX_ROWS];
        const uint32_t block = (uint32_t)gguf_type_block_elements(type);
        const uint32_t n_cols = block == 1 ? 172 : MAX_COLS;

        fill_product(type, MAX_ROWS, n_cols, MAX_TOKENS);
        prepare(sets[i]);
        multiply(sets[i], whole);
        product.x.n_rows = 1;
        for (uint32_t t = 0; t < MAX_TOKENS; t++) {
            product.x.values = product.values + t * n_cols;
            prepare(sets[i]);
            for (uint32_t g = 0; g * PACKED_ROWS < MAX_ROWS; g++)
                multiply_groups(sets[i], g, g + 1, part);
            ck_assert_mem_eq(part, whole + t * MAX_ROWS, sizeof part);
        }
    }
}
END_TEST

/* The largest integers there are, with one sign throughout: 16-bit sums that
 * saturated would show. */
START_TEST(extreme_integers_do_not_saturate)
{
    static const unsigned char extremes[] = {0x00, 0x7f, 0x80, 0xff};

    for (int type = 3; type < N_TYPES; type++) /* of integers */
        for (size_t e = 0; e < sizeof extremes; e++)
            for (int sign = -1; sign <= 1; sign += 2) {
                float out[MAX_SETS] = {0};
                const uint16_t one = quants_f32_to_f16(1);
                const size_t block = gguf_type_block_elements(types[type]);
                const size_t block_bytes = gguf_type_block_bytes(types[type]);

                fill_product(types[type], 1, MAX_COLS, 1);
                for (size_t i = 0; i < MAX_COLS; i++)
                    product.values[i] = (float)sign * 127;
                memset(product.data, extremes[e], sizeof product.data);
                for (size_t i = 0; i < MAX_COLS / block; i++)
                    put_scales(
                        types[type], product.data + i * block_bytes, one);
                pack_weights();
                for (int i = 0; i < n_sets; i++) {
                    prepare(sets[i]);
                    multiply(sets[i], &out[i]);
                    ck_assert_float_eq(out[i], out[0]);
                    check_against_definition(0, 0, out[i]);
                }
            }
}
END_TEST

START_TEST(half_weights_and_full_ones_of_equal_value_agree_to_the_last_bit)
{
    for (int i = 0; i < n_sets; i++) {
        float half[MAX_ROWS * MAX_TOKENS], full[MAX_ROWS * MAX_TOKENS];
        static float widened[MAX_ROWS * 172];

        fill_product(GGUF_F16, MAX_ROWS, 172, MAX_TOKENS);
        for (size_t j = 0; j < MAX_ROWS * 172; j++) {
            const uint16_t value = quants_f32_to_f16(random_float());

            memcpy(product.data + 2 * j, &value, sizeof value);
        }
        prepare(sets[i]);
        multiply(sets[i], half);
        quants_dequantize(GGUF_F16, product.data, MAX_ROWS * 172, widened);
        product.weight.type = GGUF_F32;
        product.weight.data = widened;
        multiply(sets[i], full);
        ck_assert_mem_eq(half, full, sizeof half);
    }
}
END_TEST

START_TEST(rounding_is_that_of_the_reference)
{
    static int8_t quants[MAX_SETS][MAX_COLS];
    static float x[MAX_COLS], scales[MAX_SETS][MAX_COLS / QUANTS_SMALL];
    static int32_t sums[MAX_SETS][MAX_COLS / QUANTS_SMALL];

    for (int round = 0; round < 50; round++) {
        const size_t block = round % 2 == 0 ? QUANTS_SMALL : QUANTS_LARGE;

        for (size_t i = 0; i < MAX_COLS; i++)
            x[i] = ldexpf(random_float(), (int)(random_u32() % 12));
        memset(x, 0, QUANTS_SMALL * sizeof *x);
        x[300] = -127; /* exact steps and ties */
        x[301] = 63.5f;
        for (int i = 0; i < n_sets; i++)
            sets[i]->quantize(
                x, MAX_COLS, block, quants[i], scales[i], sums[i]);
        for (size_t i = 0; i < MAX_COLS; i++)
            HOLDS(fabsf(x[i] - scales[0][i / block] * quants[0][i]) <=
                  scales[0][i / block] * 0.5001f);
        for (int i = 1; i < n_sets; i++) {
            ck_assert_mem_eq(quants[0], quants[i], sizeof quants[0]);
            ck_assert_mem_eq(
                scales[0], scales[i], MAX_COLS / block * sizeof(float));
            ck_assert_mem_eq(
                sums[0], sums[i], MAX_COLS / block * sizeof(int32_t));
        }
    }
}
END_TEST

START_TEST(sums_of_parts_are_those_of_the_reference)
{
    int8_t quants[MAX_COLS];
    int16_t sums[MAX_SETS][MAX_COLS / ACTIVATION_PART];

    for (int round = 0; round < 50; round++) {
        for (size_t i = 0; i < MAX_COLS; i++)
            quants[i] = round == 0   ? 127
                        : round == 1 ? -127
                                     : (int8_t)(random_u32() % 255 - 127);
        for (int i = 0; i < n_sets; i++)
            sets[i]->sum_parts(quants, MAX_COLS, sums[i]);
        for (size_t p = 0; p < MAX_COLS / ACTIVATION_PART; p++) {
            int sum = 0;

            for (size_t i = 0; i < ACTIVATION_PART; i++)
                sum += quants[p * ACTIVATION_PART + i];
            for (int i = 0; i < n_sets; i++)
                HOLDS(sums[i][p] == sum);
        }
    }
}
END_TEST

/* Infinities and NaNs come out of damaged weights. */
START_TEST(rounding_what_is_not_a_number_stays_in_range)
{
    static const float odd[] = {NAN, INFINITY, -INFINITY, 1e-40f, 3e38f};
    float x[QUANTS_LARGE], scales[1];
    int8_t quants[QUANTS_LARGE];
    int32_t sums[1];

    for (int i = 0; i < n_sets; i++)
        for (size_t o = 0; o < sizeof odd / sizeof *odd; o++) {
            for (size_t j = 0; j < QUANTS_LARGE; j++)
                x[j] = j % 3 == 0 ? odd[o] : 1e-39f;
            sets[i]->quantize(
                x, QUANTS_LARGE, QUANTS_LARGE, quants, scales, sums);
            for (size_t j = 0; j < QUANTS_LARGE; j++)
                HOLDS(quants[j] >= -127);
        }
}
END_TEST

static void check_close(
    const float *a, const float *b, size_t n, float tolerance)
{
    for (size_t i = 0; i < n; i++)
        HOLDS(fabsf(a[i] - b[i]) <= tolerance * fmaxf(1, fabsf(a[i])));
}

START_TEST(what_is_done_to_a_row_is_done_as_by_the_reference)
{
    float x[MAX_COLS], y[MAX_COLS], out[2][MAX_COLS], sum[2];

    for (int i = 1; i < n_sets; i++)
        for (size_t n = 1; n <= 70; n++) {
            const struct kernels *pair[2] = {sets[0], sets[i]};

            for (size_t j = 0; j < n; j++) {
                x[j] = random_float() * 10;
                y[j] = random_float();
            }
            for (int k = 0; k < 2; k++)
                pair[k]->rms_norm(out[k], x, y, n, 1e-5f);
            check_close(out[0], out[1], n, 1e-6f);
            for (int k = 0; k < 2; k++)
                pair[k]->silu_mul(out[k], x, y, n);
            check_close(out[0], out[1], n, 1e-6f);
            for (int k = 0; k < 2; k++) {
                memcpy(out[k], x, n * sizeof *x);
                pair[k]->add(out[k], y, n);
            }
            ck_assert_mem_eq(out[0], out[1], n * sizeof *x);
            for (int k = 0; k < 2; k++) {
                memcpy(out[k], x, n * sizeof *x);
                sum[k] = pair[k]->exp_sum(out[k], n, 10);
            }
            check_close(out[0], out[1], n, 1e-6f);
            check_close(&sum[0], &sum[1], 1, 1e-5f);
        }
}
END_TEST

START_TEST(exp_is_right_from_end_to_end)
{
    for (int i = 0; i < n_sets; i++) {
        for (float x = -110; x < 88.7f; x += 0.0371f) {
            float result = x;
            const double expected = exp((double)x);

            sets[i]->exp_sum(&result, 1, 0);
            HOLDS(fabs((double)result - expected) <= expected * 2e-7 + 1.5e-45);
        }
        for (int sign = -1; sign <= 1; sign += 2) {
            float result = (float)sign * INFINITY;

            sets[i]->exp_sum(&result, 1, 0);
            ck_assert_float_eq(result, sign < 0 ? 0 : INFINITY);
        }
    }
}
END_TEST

START_TEST(every_half_survives_the_way_there_and_back)
{
    for (uint32_t half = 0; half < 0x10000; half++) {
        const float value = quants_f16_to_f32((uint16_t)half);

        for (int i = 0; i < n_sets; i++) {
            uint16_t back;

            sets[i]->to_f16(&back, &value, 1);
            if (isnan(value)) /* a quiet one of the same sign */
                HOLDS(back == (half | 0x200));
            else
                HOLDS(back == half);
        }
    }
}
END_TEST

START_TEST(halves_round_to_nearest_ties_to_even)
{
    uint16_t out[MAX_SETS][8];
    float x[8];

    ck_assert_uint_eq(quants_f32_to_f16(65519), 0x7bff);
    ck_assert_uint_eq(quants_f32_to_f16(65520), 0x7c00);
    ck_assert_uint_eq(quants_f32_to_f16(2049), 0x6800);
    ck_assert_uint_eq(quants_f32_to_f16(2051), 0x6802);
    ck_assert_uint_eq(quants_f32_to_f16(0x1p-25f), 0);
    ck_assert_uint_eq(quants_f32_to_f16(0x1.8p-24f), 2);
    for (int round = 0; round < 20000; round++) {
        for (int i = 0; i < 8; i++) {
            const uint32_t bits = (random_u32() & 0x8fffffffu) | 0x30000000u;

            memcpy(&x[i], &bits, sizeof bits);
        }
        for (int i = 0; i < n_sets; i++)
            sets[i]->to_f16(out[i], x, 8);
        for (int i = 1; i < n_sets; i++)
            HOLDS(memcmp(out[0], out[i], sizeof out[0]) == 0);
    }
}
END_TEST

/* How a set reads keys and values of a type. */
struct reading {
    kernel_score_cb score;
    kernel_mix_cb mix;
};

static struct reading reading_of(
    const struct kernels *set, enum gguf_tensor_type type)
{
    if (type == GGUF_F32)
        return (struct reading){set->score_f32, set->mix_f32};
    if (type == GGUF_F16)
        return (struct reading){set->score_f16, set->mix_f16};
    return (struct reading){set->score_q8_0, set->mix_q8_0};
}

/* Numbers from -1 to 1, or blocks of any bytes with such a scale. */
static void fill_rows(unsigned char *rows, size_t n, enum gguf_tensor_type type)
{
    const size_t block_bytes = gguf_type_block_bytes(type);

    for (size_t i = 0; i < n / gguf_type_block_elements(type); i++) {
        const float value = random_float();
        const uint16_t half = quants_f32_to_f16(value / 127);

        for (size_t j = 0; j < block_bytes; j++)
            rows[i * block_bytes + j] = (unsigned char)random_u32();
        if (type == GGUF_F32)
            memcpy(rows + i * block_bytes, &value, sizeof value);
        else
            memcpy(rows + i * block_bytes, &half, sizeof half);
    }
}

#define MAX_QUERIES 9
#define MAX_KEYS 16
#define MAX_HEAD 136

/* Scores and mixtures of queries over n_keys rows of n; those of a query and a
 * key, and of a query, are the same where they are alone. */
static void check_attention(
    size_t n_queries, size_t n_keys, size_t n, enum gguf_tensor_type type)
{
    static unsigned char rows[MAX_KEYS * MAX_HEAD * 4];
    static float queries[MAX_QUERIES * MAX_HEAD],
        before[MAX_QUERIES * MAX_HEAD];
    static float scores[MAX_SETS][MAX_QUERIES * MAX_KEYS];
    static float out[MAX_SETS][MAX_QUERIES * MAX_HEAD];
    const size_t row_bytes =
        n / gguf_type_block_elements(type) * gguf_type_block_bytes(type);
    const void *pointers[MAX_KEYS];
    float keep[MAX_QUERIES];
    const struct kernel_run run = {pointers, n_keys, n, n_queries, MAX_KEYS};

    fill_rows(rows, n_keys * n, type);
    for (size_t i = 0; i < n_queries * n; i++) {
        queries[i] = random_float();
        before[i] = random_float();
    }
    for (size_t q = 0; q < n_queries; q++)
        keep[q] = random_float();
    for (size_t k = 0; k < n_keys; k++)
        pointers[k] = rows + k * row_bytes;
    for (int i = 0; i < n_sets; i++) {
        const struct reading reading = reading_of(sets[i], type);
        float alone[MAX_HEAD];

        reading.score(scores[i], queries, &run, 0.5f);
        memcpy(out[i], before, sizeof before);
        reading.mix(out[i], keep, scores[0], &run);
        for (size_t q = 0; q < n_queries; q++) {
            const struct kernel_run one = {pointers, n_keys, n, 1, MAX_KEYS};

            for (size_t k = 0; k < n_keys; k++) {
                const struct kernel_run pair = {pointers + k, 1, n, 1, 1};

                reading.score(alone, queries + q * n, &pair, 0.5f);
                HOLDS(alone[0] == scores[i][q * MAX_KEYS + k]);
            }
            memcpy(alone, before + q * n, n * sizeof *alone);
            reading.mix(alone, keep + q, scores[0] + q * MAX_KEYS, &one);
            HOLDS(memcmp(alone, out[i] + q * n, n * sizeof *alone) == 0);
        }
    }
    for (int i = 1; i < n_sets; i++) {
        for (size_t q = 0; q < n_queries; q++)
            check_close(scores[0] + q * MAX_KEYS, scores[i] + q * MAX_KEYS,
                n_keys, 1e-5f);
        check_close(out[0], out[i], n_queries * n, 1e-5f);
    }
}

START_TEST(attention_is_that_of_the_reference)
{
    static const size_t sizes[] = {2, 8, 12, 32, 48, 64, 80, 128, 136};

    for (size_t n_keys = 1; n_keys <= MAX_KEYS; n_keys++)
        for (size_t i = 0; i < sizeof sizes / sizeof *sizes; i++) {
            const size_t n_queries = 1 + (n_keys + i) % MAX_QUERIES;

            check_attention(n_queries, n_keys, sizes[i], GGUF_F32);
            check_attention(n_queries, n_keys, sizes[i], GGUF_F16);
            if (sizes[i] % QUANTS_SMALL == 0)
                check_attention(n_queries, n_keys, sizes[i], GGUF_Q8_0);
        }
}
END_TEST

START_TEST(unknown_kernels_are_refused_by_name)
{
    const struct kernels *kernels = NULL;
    struct kv_error error = {.text = ""};

    ck_assert_int_eq(kernels_choose(&kernels, "avx3", &error), KV_UNSUPPORTED);
    ck_assert_ptr_nonnull(strstr(error.text, "avx3"));
    ck_assert_ptr_null(kernels);
    ck_assert_int_eq(kernels_choose(&kernels, "auto", &error), KV_OK);
    ck_assert_ptr_eq(kernels, sets[n_sets - 1]);
#ifdef ENGINE_KERNEL_SETS /* the one that is emulated */
    ck_assert_str_eq(kernels->name, ENGINE_KERNEL_SETS);
#endif
    ck_assert_int_eq(kernels_choose(&kernels, "scalar", &error), KV_OK);
    ck_assert_str_eq(kernels->name, "scalar");
}
END_TEST

int main(void)
{
    TCase *tcase = tcase_create("laws");
    Suite *suite = suite_create("kernels");
    SRunner *runner = srunner_create(suite);
    int failed;

    tcase_set_timeout(tcase, 240);
    tcase_add_checked_fixture(tcase, set_up, NULL);
    tcase_add_loop_test(tcase, products_are_those_of_the_reference, 0, N_TYPES);
    tcase_add_loop_test(
        tcase, a_product_is_the_same_however_it_is_cut, 0, N_TYPES);
    tcase_add_test(tcase, extreme_integers_do_not_saturate);
    tcase_add_test(
        tcase, half_weights_and_full_ones_of_equal_value_agree_to_the_last_bit);
    tcase_add_test(tcase, rounding_is_that_of_the_reference);
    tcase_add_test(tcase, sums_of_parts_are_those_of_the_reference);
    tcase_add_test(tcase, rounding_what_is_not_a_number_stays_in_range);
    tcase_add_test(tcase, what_is_done_to_a_row_is_done_as_by_the_reference);
    tcase_add_test(tcase, exp_is_right_from_end_to_end);
    tcase_add_test(tcase, every_half_survives_the_way_there_and_back);
    tcase_add_test(tcase, halves_round_to_nearest_ties_to_even);
    tcase_add_test(tcase, attention_is_that_of_the_reference);
    tcase_add_test(tcase, unknown_kernels_are_refused_by_name);
    suite_add_tcase(suite, tcase);
    srunner_run_all(runner, CK_ENV);
    failed = srunner_ntests_failed(runner);
    srunner_free(runner);
    return failed == 0 ? EXIT_SUCCESS : EXIT_FAILURE;
}
