#include "tests/engine/typed_model.h"

#include <math.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include "tests/engine/tiny_model.h"
#include "tests/support/check_main.h"

const enum gguf_tensor_type typed_all[GGUF_N_TYPES] = {GGUF_F32, GGUF_F16,
    GGUF_BF16, GGUF_Q8_0, GGUF_Q4_0, GGUF_Q4_K, GGUF_Q5_K, GGUF_Q6_K,
    GGUF_TQ1_0, GGUF_TQ2_0, GGUF_I2_S};

/* ---- reading */

static double half_at(const unsigned char *at)
{
    const unsigned bits = at[0] | (unsigned)at[1] << 8;
    const int exponent = (int)(bits >> 10 & 31);
    const double sign = (bits & 0x8000) != 0 ? -1 : 1;

    return exponent == 0
               ? sign * ldexp((double)(bits & 0x3ff), -24)
               : sign * ldexp((double)(bits & 0x3ff) + 1024, exponent - 25);
}

static double float_at(const unsigned char *at)
{
    float value;

    memcpy(&value, at, sizeof value);
    return (double)value;
}

/* The upper half of an F32. */
static double brain_float_at(const unsigned char *at)
{
    const unsigned char wide[4] = {0, 0, at[0], at[1]};

    return float_at(wide);
}

/* Sixteen low nibbles, then the sixteen high ones; 8 is zero. */
static double q4_0_at(const unsigned char *block, size_t i)
{
    const int q = i < 16 ? block[2 + i] & 15 : block[2 + i - 16] >> 4;

    return half_at(block) * (q - 8);
}

/* Scale and minimum of the 32 elements of part p: six bits each in 12 bytes,
 * those of the last four in pieces. */
static void k_scale(
    const unsigned char *bytes, size_t p, unsigned *scale, unsigned *min)
{
    if (p < 4) {
        *scale = bytes[p] & 63;
        *min = bytes[p + 4] & 63;
    } else {
        *scale = (bytes[p + 4] & 15u) | (unsigned)(bytes[p - 4] >> 6) << 4;
        *min = (unsigned)(bytes[p + 4] >> 4) | (unsigned)(bytes[p] >> 6) << 4;
    }
}

/* Pairs of parts share 32 bytes: the first has the low nibbles. Q5_K has the
 * fifth bits of element j of all parts in byte j of 32 more. */
static double q45_k_at(const unsigned char *block, size_t i, int has_fifth)
{
    const unsigned char *low = block + (has_fifth ? 48 : 16);
    const size_t part = i / 32, j = i % 32;
    unsigned q = low[part / 2 * 32 + j] >> part % 2 * 4 & 15u, scale, min;

    if (has_fifth)
        q += 16 * (block[16 + j] >> part & 1u);
    k_scale(block + 4, part, &scale, &min);
    return half_at(block) * scale * q - half_at(block + 2) * min;
}

/* Each half of the block: 64 bytes of low nibbles, 32 of upper pairs of bits;
 * a scale for each 16 elements. */
static double q6_k_at(const unsigned char *block, size_t i)
{
    const size_t half = i / 128, quarter = i % 128 / 32, j = i % 32;
    const unsigned low =
        block[64 * half + quarter % 2 * 32 + j] >> quarter / 2 * 4 & 15u;
    const unsigned high = block[128 + 32 * half + j] >> 2 * quarter & 3u;

    return half_at(block + 208) * (int8_t)block[192 + i / 16] *
           ((int)(low | high << 4) - 32);
}

/* Five digits of base 3 in a byte, as a fraction of 256: the first of them
 * takes 32 bytes, 16 more have the next 80 elements, and four the last 16. */
static double tq1_0_at(const unsigned char *block, size_t i)
{
    size_t byte = i % 32, digit = i / 32;
    unsigned fraction;

    if (i >= 240) {
        byte = 48 + (i - 240) % 4;
        digit = (i - 240) / 4;
    } else if (i >= 160) {
        byte = 32 + (i - 160) % 16;
        digit = (i - 160) / 16;
    }
    for (fraction = block[byte]; digit > 0; digit--)
        fraction = fraction * 3 % 256;
    return half_at(block + 52) * ((int)(fraction * 3 / 256) - 1);
}

static double tq2_0_at(const unsigned char *block, size_t i)
{
    const unsigned char byte = block[i / 128 * 32 + i % 32];

    return half_at(block + 64) * ((byte >> i % 128 / 32 * 2 & 3) - 1);
}

/* As quantize_i2_s of BitNet writes it on x86: q of element j of a group of 128
 * goes to byte j % 32, shifted by 6 - 2 * (j / 32); the scale is behind all. */
static double i2_s_at(const unsigned char *data, size_t n, size_t i)
{
    const unsigned char byte = data[i / 128 * 32 + i % 32];

    return float_at(data + n / 4) *
           ((byte >> (6 - 2 * (i % 128 / 32)) & 3) - 1);
}

double typed_element(enum gguf_tensor_type type, const unsigned char *data,
    size_t n_elements, size_t i)
{
    const size_t k = i / 256, r = i % 256;

    switch (type) {
    case GGUF_F32:
        return float_at(data + 4 * i);
    case GGUF_F16:
        return half_at(data + 2 * i);
    case GGUF_BF16:
        return brain_float_at(data + 2 * i);
    case GGUF_Q8_0:
        data += i / 32 * 34;
        return half_at(data) * (int8_t)data[2 + i % 32];
    case GGUF_Q4_0:
        return q4_0_at(data + i / 32 * 18, i % 32);
    case GGUF_Q4_K:
        return q45_k_at(data + k * 144, r, 0);
    case GGUF_Q5_K:
        return q45_k_at(data + k * 176, r, 1);
    case GGUF_Q6_K:
        return q6_k_at(data + k * 210, r);
    case GGUF_TQ1_0:
        return tq1_0_at(data + k * 54, r);
    case GGUF_TQ2_0:
        return tq2_0_at(data + k * 66, r);
    case GGUF_I2_S:
        return i2_s_at(data, n_elements, i);
    }
    return NAN;
}

/* ---- drawing */

static uint32_t draw(uint64_t *state)
{
    *state = *state * UINT64_C(6364136223846793005) + 1442695040888963407;
    return (uint32_t)(*state >> 32);
}

/* 2^exponent to twice that, of either sign. */
static void put_half(unsigned char *at, int exponent, uint32_t bits)
{
    at[0] = (unsigned char)bits;
    at[1] =
        (unsigned char)((bits >> 8 & 0x83) | (unsigned)(exponent + 15) << 2);
}

/* -1/8 to 1/8 */
static float small_float(uint64_t *state)
{
    return (float)draw(state) * 0x1p-34f - 0x1p-3f;
}

static void fill_floats(
    enum gguf_tensor_type type, unsigned char *data, size_t n, uint64_t *state)
{
    for (size_t i = 0; i < n; i++) {
        const float value = small_float(state);

        if (type == GGUF_F32)
            memcpy(data + 4 * i, &value, 4);
        else if (type == GGUF_BF16)
            memcpy(data + 2 * i, (const unsigned char *)&value + 2, 2);
        else
            put_half(data + 2 * i, -5 - (int)(draw(state) % 6), draw(state));
    }
}

/* Where a block's scales are, and their powers of two; 0: there is none. */
static const struct {
    size_t scale_at;
    int scale, min; /* the min is at 2 */
} blocks[] = {
    [GGUF_Q8_0] = {0, -11, 0},
    [GGUF_Q4_0] = {0, -7, 0},
    [GGUF_Q4_K] = {0, -13, -10},
    [GGUF_Q5_K] = {0, -14, -10},
    [GGUF_Q6_K] = {208, -15, 0},
    [GGUF_TQ1_0] = {52, -5, 0},
    [GGUF_TQ2_0] = {64, -5, 0},
};

/* A field of 3 is no weight. */
static unsigned char ternary_fields(unsigned char byte)
{
    return (unsigned char)(byte & ~((byte & byte >> 1 & 0x55) * 3u));
}

static void fill_block(
    enum gguf_tensor_type type, unsigned char *block, uint64_t *state)
{
    for (size_t i = 0; i < gguf_type_block_bytes(type); i++) {
        block[i] = (unsigned char)draw(state);
        if (type == GGUF_I2_S || type == GGUF_TQ2_0)
            block[i] = ternary_fields(block[i]);
    }
    if (type == GGUF_I2_S)
        return;
    for (size_t i = 192; type == GGUF_Q6_K && i < 208; i++)
        block[i] = (unsigned char)((int8_t)block[i] / 4); /* scales of parts */
    put_half(block + blocks[type].scale_at, blocks[type].scale, draw(state));
    if (blocks[type].min != 0)
        put_half(block + 2, blocks[type].min, draw(state));
}

void typed_fill(enum gguf_tensor_type type, unsigned char *data,
    size_t n_elements, unsigned seed)
{
    const size_t block = gguf_type_block_elements(type);
    const float scale = 0.046875f;
    uint64_t state = seed;

    if (block == 1) {
        fill_floats(type, data, n_elements, &state);
        return;
    }
    for (size_t i = 0; i < n_elements / block; i++)
        fill_block(type, data + i * gguf_type_block_bytes(type), &state);
    if (type == GGUF_I2_S)
        memcpy(data + n_elements / 4, &scale, sizeof scale);
}

/* ---- models */

static unsigned char *write_empty(
    enum gguf_tensor_type (*type_of)(const char *name),
    enum gguf_tensor_type type, size_t *n)
{
    struct tiny_model tiny;

    tiny_model_init(&tiny, "llama");
    tiny_model_widen(&tiny);
    tiny_model_set_uint(&tiny, "llama.context_length", TYPED_CONTEXT);
    for (size_t i = 0; i < tiny.n_tensors; i++) {
        struct tiny_tensor *tensor = &tiny.tensors[i];

        /* Keys that are nearly equal would make ties of attention. */
        tensor->fill = strstr(tensor->name, "attn_norm") != NULL ? 0.25f : 1;
        if (tensor->n_dims == 2)
            tensor->type = type_of != NULL ? type_of(tensor->name) : type;
    }
    return tiny_model_write(&tiny, n);
}

/* The same memory, to be written. */
static unsigned char *data_in(
    unsigned char *bytes, const struct gguf_tensor *tensor)
{
    return bytes + ((const unsigned char *)tensor->data - bytes);
}

static struct gguf *parse(const unsigned char *bytes, size_t n)
{
    struct gguf *gguf = NULL;

    ck_assert_int_eq(gguf_open_memory(&gguf, bytes, n, "typed", NULL), KV_OK);
    return gguf;
}

static unsigned char *fill_all(unsigned char *bytes, size_t n)
{
    struct gguf *gguf = parse(bytes, n);

    for (size_t i = 0; i < gguf_n_tensors(gguf); i++) {
        const struct gguf_tensor *tensor = gguf_tensor_at(gguf, i);

        if (tensor->n_dims == 2)
            typed_fill(tensor->type, data_in(bytes, tensor),
                (size_t)(tensor->dims[0] * tensor->dims[1]), (unsigned)i);
    }
    gguf_close(gguf);
    return bytes;
}

unsigned char *typed_model_write(
    enum gguf_tensor_type (*type_of)(const char *name), size_t *n)
{
    unsigned char *bytes = write_empty(type_of, GGUF_F32, n);

    return fill_all(bytes, *n);
}

unsigned char *typed_model_write_all(enum gguf_tensor_type type, size_t *n)
{
    unsigned char *bytes = write_empty(NULL, type, n);

    return fill_all(bytes, *n);
}

unsigned char *typed_model_widen(
    const unsigned char *bytes, size_t n, size_t *n_wide)
{
    unsigned char *wide = write_empty(NULL, GGUF_F32, n_wide);
    struct gguf *from = parse(bytes, n), *to = parse(wide, *n_wide);

    for (size_t i = 0; i < gguf_n_tensors(from); i++) {
        const struct gguf_tensor *tensor = gguf_tensor_at(from, i);
        const size_t n_elements = (size_t)(tensor->dims[0] * tensor->dims[1]);
        unsigned char *out = data_in(wide, gguf_tensor_at(to, i));

        for (size_t j = 0; j < n_elements; j++) {
            const float value =
                (float)typed_element(tensor->type, tensor->data, n_elements, j);

            memcpy(out + 4 * j, &value, sizeof value);
        }
    }
    gguf_close(from);
    gguf_close(to);
    return wide;
}
