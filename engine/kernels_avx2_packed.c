/* Packed integer weights times activations, for AVX2.
 *
 * A tile is a panel of 16 rows and up to four tokens. A line's step, two
 * registers of 8 rows by 4 columns, meets the four activations of a token in
 * all lanes; what it yields stays in its row's lanes until the end.
 *
 * Weights of 8 bits: their magnitude times the activations with their sign, two
 * products added into 16 bits (at most 2 * 128 * 127), then two of those into
 * 32. Smaller weights are unsigned and leave room in the 16 bits: 8 steps of
 * 4 bits (2 * 15 * 127 * 8 = 30480), 32 steps of 2 bits (2 * 3 * 127 * 32 =
 * 24384) before they go into 32; what the fields are too large by is taken off
 * with the sum of the activations.
 *
 * With few tokens a step is unpacked where it is used. With many, a stretch of
 * a panel is unpacked once into the first cache, for all of them. */
#include "engine/kernels_avx2.h"
#include "engine/quants.h"

#define TILE 4        /* tokens */
#define N_TOGETHER 32 /* tokens that share what is unpacked */
#define STRETCH 256   /* columns that are unpacked at a time */
#define HALVES 2      /* registers of a line */

/* The steps of a line of 8 bits, or of weights that were unpacked to it. */
AVX2_INLINE void load_8(
    const unsigned char *lines, size_t step, __m256i w[HALVES])
{
    w[0] = _mm256_load_si256((const void *)(lines + step * PACKED_LINE));
    w[1] = _mm256_load_si256((const void *)(lines + step * PACKED_LINE + 32));
}

AVX2_INLINE void load_fields(
    const unsigned char *lines, size_t step, size_t n_bits, __m256i w[HALVES])
{
    const size_t n_fields = 8 / n_bits;
    const int shift = (int)(step % n_fields * n_bits);
    const __m256i mask = _mm256_set1_epi8((char)((1 << n_bits) - 1));

    load_8(lines, step / n_fields, w);
    for (int half = 0; half < HALVES; half++)
        w[half] = _mm256_and_si256(_mm256_srli_epi16(w[half], shift), mask);
}

AVX2_INLINE void load_4(
    const unsigned char *lines, size_t step, __m256i w[HALVES])
{
    load_fields(lines, step, 4, w);
}

AVX2_INLINE void load_2(
    const unsigned char *lines, size_t step, __m256i w[HALVES])
{
    load_fields(lines, step, 2, w);
}

typedef void (*load_cb)(
    const unsigned char *lines, size_t step, __m256i w[HALVES]);

/* How the weights of a tile lie, all of it constants where it is used. */
struct form {
    uint32_t n_bits;
    uint32_t group;
    size_t block_bytes; /* as they are loaded */
    load_cb load;
};

/* What a tile is computed from: where it begins. */
struct tile_input {
    const unsigned char *scales, *lines;
    size_t n_groups;
    const int8_t *quants;  /* [n_tokens][n_cols] */
    const float *x_scales; /* [n_tokens][x_stride] */
    const int32_t *x_sums;
    size_t n_cols, x_stride;
};

AVX2_INLINE __m256i load_step(const int8_t *quants)
{
    int32_t four;

    memcpy(&four, quants, sizeof four);
    return _mm256_set1_epi32(four);
}

/* A block of signed bytes. */
AVX2_INLINE void add_bytes(const unsigned char *lines, const int8_t *quants,
    size_t n_cols, size_t n_tokens, __m256i dots[TILE][HALVES])
{
    const __m256i ones = _mm256_set1_epi16(1);

    for (size_t step = 0; step < PACKED_STEPS; step++) {
        __m256i w[HALVES], size[HALVES];

        load_8(lines, step, w);
        for (int half = 0; half < HALVES; half++)
            size[half] = _mm256_abs_epi8(w[half]);
        for (size_t t = 0; t < n_tokens; t++) {
            const __m256i q =
                load_step(quants + t * n_cols + step * PACKED_STEP);

            for (int half = 0; half < HALVES; half++) {
                const __m256i pairs = _mm256_maddubs_epi16(
                    size[half], _mm256_sign_epi8(q, w[half]));

                dots[t][half] = _mm256_add_epi32(
                    dots[t][half], _mm256_madd_epi16(pairs, ones));
            }
        }
    }
}

/* As many blocks of fields as 16 bits hold. */
AVX2_INLINE void add_fields(const unsigned char *lines, const int8_t *quants,
    size_t n_cols, size_t n_tokens, size_t n_blocks, const struct form *form,
    __m256i dots[TILE][HALVES])
{
    const __m256i ones = _mm256_set1_epi16(1);
    __m256i pairs[TILE][HALVES];

    for (size_t t = 0; t < n_tokens; t++)
        for (int half = 0; half < HALVES; half++)
            pairs[t][half] = _mm256_setzero_si256();
    for (size_t b = 0; b < n_blocks; b++, lines += form->block_bytes) {
        for (size_t step = 0; step < PACKED_STEPS; step++) {
            __m256i w[HALVES];

            form->load(lines, step, w);
            for (size_t t = 0; t < n_tokens; t++) {
                const __m256i q =
                    load_step(quants + t * n_cols + b * PACKED_BLOCK +
                              step * PACKED_STEP);

                for (int half = 0; half < HALVES; half++)
                    pairs[t][half] = _mm256_add_epi16(
                        pairs[t][half], _mm256_maddubs_epi16(w[half], q));
            }
        }
    }
    for (size_t t = 0; t < n_tokens; t++)
        for (int half = 0; half < HALVES; half++)
            dots[t][half] = _mm256_add_epi32(
                dots[t][half], _mm256_madd_epi16(pairs[t][half], ones));
}

/* The exact sums of group g. */
AVX2_INLINE void dot_group(const struct tile_input *in, size_t g,
    size_t n_tokens, const struct form *form, __m256i dots[TILE][HALVES])
{
    const size_t n_blocks = form->group / PACKED_BLOCK;
    const size_t n_at_once = n_blocks < 4 ? n_blocks : 4;
    const unsigned char *lines = in->lines + g * n_blocks * form->block_bytes;
    const int8_t *quants = in->quants + g * form->group;

    for (size_t t = 0; t < n_tokens; t++)
        for (int half = 0; half < HALVES; half++)
            dots[t][half] = _mm256_setzero_si256();
    if (form->n_bits == 8) {
        add_bytes(lines, quants, in->n_cols, n_tokens, dots);
        return;
    }
    for (size_t b = 0; b < n_blocks; b += n_at_once)
        add_fields(lines + b * form->block_bytes, quants + b * PACKED_BLOCK,
            in->n_cols, n_tokens, n_at_once, form, dots);
    for (size_t t = 0; t < n_tokens; t++) {
        const __m256i excess = _mm256_slli_epi32(
            _mm256_set1_epi32(in->x_sums[t * in->x_stride + g]),
            form->n_bits == 4 ? 3 : 0);

        for (int half = 0; half < HALVES; half++)
            dots[t][half] = _mm256_sub_epi32(dots[t][half], excess);
    }
}

/* sums [n_tokens][16] += the tile's products. */
AVX2_INLINE void add_tile(const struct tile_input *in, size_t n_tokens,
    const struct form *form, float (*sums)[PACKED_ROWS])
{
    __m256 totals[TILE][HALVES];

    for (size_t t = 0; t < n_tokens; t++)
        for (int half = 0; half < HALVES; half++)
            totals[t][half] = _mm256_load_ps(sums[t] + 8 * half);
    for (size_t g = 0; g < in->n_groups; g++) {
        const __m128i *scales =
            (const void *)(in->scales + g * PACKED_ROWS * sizeof(uint16_t));
        __m256i dots[TILE][HALVES];
        __m256 w_scales[HALVES];

        dot_group(in, g, n_tokens, form, dots);
        for (int half = 0; half < HALVES; half++)
            w_scales[half] = _mm256_cvtph_ps(_mm_load_si128(scales + half));
        for (size_t t = 0; t < n_tokens; t++) {
            const __m256 x_scale =
                _mm256_broadcast_ss(in->x_scales + t * in->x_stride + g);

            for (int half = 0; half < HALVES; half++)
                totals[t][half] = _mm256_fmadd_ps(
                    _mm256_cvtepi32_ps(dots[t][half]),
                    _mm256_mul_ps(w_scales[half], x_scale), totals[t][half]);
        }
    }
    for (size_t t = 0; t < n_tokens; t++)
        for (int half = 0; half < HALVES; half++)
            _mm256_store_ps(sums[t] + 8 * half, totals[t][half]);
}

/* The same for any number of tokens. */
AVX2_INLINE void add_tiles(struct tile_input in, size_t n_tokens,
    const struct form *form, float (*sums)[PACKED_ROWS])
{
    size_t t = 0;

    for (; t + TILE <= n_tokens; t += TILE) {
        add_tile(&in, TILE, form, sums + t);
        in.quants += TILE * in.n_cols;
        in.x_scales += TILE * in.x_stride;
        in.x_sums += TILE * in.x_stride;
    }
    if (n_tokens - t == 3)
        add_tile(&in, 3, form, sums + t);
    else if (n_tokens - t == 2)
        add_tile(&in, 2, form, sums + t);
    else if (n_tokens - t == 1)
        add_tile(&in, 1, form, sums + t);
}

/* The whole panel, stretch by stretch, each unpacked before it is used. */
AVX2_INLINE void add_unpacked(struct tile_input in, size_t n_tokens,
    const struct form *form, float (*sums)[PACKED_ROWS])
{
    _Alignas(PACKED_LINE) unsigned char lines[PACKED_ROWS * STRETCH];
    const struct form unpacked = {
        form->n_bits, form->group, PACKED_ROWS * PACKED_BLOCK, load_8};
    const size_t n_groups = in.n_groups, at_once = STRETCH / form->group;
    const unsigned char *packed = in.lines;

    in.lines = lines;
    for (size_t g = 0; g < n_groups; g += at_once) {
        in.n_groups = n_groups - g < at_once ? n_groups - g : at_once;
        for (size_t b = 0; b < in.n_groups * form->group / PACKED_BLOCK; b++) {
            for (size_t step = 0; step < PACKED_STEPS; step++) {
                __m256i w[HALVES],
                    *to = (void *)(lines +
                                   (b * PACKED_STEPS + step) * PACKED_LINE);

                form->load(packed, step, w);
                _mm256_store_si256(to, w[0]);
                _mm256_store_si256(to + 1, w[1]);
            }
            packed += form->block_bytes;
        }
        add_tiles(in, n_tokens, &unpacked, sums);
        in.scales += in.n_groups * PACKED_ROWS * sizeof(uint16_t);
        in.quants += in.n_groups * form->group;
        in.x_scales += in.n_groups;
        in.x_sums += in.n_groups;
    }
}

/* Rows of a panel that there are, of tokens from `token` on. */
static void store_panel(const struct packed *weight, uint32_t panel,
    uint32_t token, uint32_t n_tokens, float (*sums)[PACKED_ROWS], float *out)
{
    const size_t row = (size_t)panel * PACKED_ROWS;
    const size_t left = weight->n_rows - row;
    const size_t n = left < PACKED_ROWS ? left : PACKED_ROWS;
    const __m256 scale = _mm256_set1_ps(weight->scale);

    for (size_t t = 0; t < n_tokens; t++)
        for (size_t i = 0; i < n; i += 8)
            avx2_store(out + (token + t) * weight->n_rows + row, i, n,
                _mm256_mul_ps(scale, _mm256_load_ps(sums[t] + i)));
}

AVX2_INLINE void multiply_panel(const struct packed *weight, uint32_t panel,
    const struct activations *x, uint32_t token, uint32_t n_tokens,
    const struct form *form, float *out)
{
    _Alignas(32) float sums[N_TOGETHER][PACKED_ROWS];
    const unsigned char *data =
        weight->panels + (size_t)panel * weight->panel_bytes;
    const struct activation_quants *quants =
        form->group == QUANTS_SMALL ? &x->small : &x->large;
    const size_t n_groups = x->n_cols / form->group;
    const struct tile_input in = {
        .scales = data,
        .lines = data + weight->scales_bytes,
        .n_groups = n_groups,
        .quants = quants->quants + (size_t)token * x->n_cols,
        .x_scales = quants->scales + token * n_groups,
        .x_sums = quants->sums + token * n_groups,
        .n_cols = x->n_cols,
        .x_stride = n_groups,
    };

    memset(sums, 0, n_tokens * sizeof *sums);
    if (form->n_bits == 8)
        add_tiles(in, n_tokens, form, sums);
    else if (n_tokens == 1)
        add_tile(&in, 1, form, sums);
    else if (n_tokens == 2)
        add_tile(&in, 2, form, sums);
    else
        add_unpacked(in, n_tokens, form, sums);
    store_panel(weight, panel, token, n_tokens, sums, out);
}

AVX2_INLINE void multiply(const struct packed *weight, uint32_t begin,
    uint32_t end, const struct activations *x, const struct form *form,
    float *out)
{
    for (uint32_t token = 0; token < x->n_rows; token += N_TOGETHER) {
        const uint32_t left = x->n_rows - token;
        const uint32_t n = left < N_TOGETHER ? left : N_TOGETHER;

        for (uint32_t panel = begin; panel < end; panel++)
            multiply_panel(weight, panel, x, token, n, form, out);
    }
}

static void multiply_8(const struct packed *weight, uint32_t begin,
    uint32_t end, const struct activations *x, float *out)
{
    const struct form form = {8, QUANTS_SMALL, 512, load_8};

    multiply(weight, begin, end, x, &form, out);
}

static void multiply_4(const struct packed *weight, uint32_t begin,
    uint32_t end, const struct activations *x, float *out)
{
    const struct form form = {4, QUANTS_SMALL, 256, load_4};

    multiply(weight, begin, end, x, &form, out);
}

static void multiply_2(const struct packed *weight, uint32_t begin,
    uint32_t end, const struct activations *x, float *out)
{
    const struct form form = {2, QUANTS_LARGE, 128, load_2};

    multiply(weight, begin, end, x, &form, out);
}

void avx2_matmul_packed(const struct packed *weight, uint32_t begin,
    uint32_t end, const struct activations *x, float *out)
{
    if (weight->n_bits == 8)
        multiply_8(weight, begin, end, x, out);
    else if (weight->n_bits == 4)
        multiply_4(weight, begin, end, x, out);
    else
        multiply_2(weight, begin, end, x, out);
}
