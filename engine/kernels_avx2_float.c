/* Weights of floats times activations; sums are F32 whatever the weights are.
 *
 * A pair of a row and a token has eight lanes of sums, which take the columns
 * in order and are added up at the end: the same for every tile, so a tile's
 * shape is only a question of speed. Three rows and four tokens widen a weight
 * once for four uses; four rows and one token keep four chains of additions in
 * flight where there are fewer tokens.
 *
 * Several tokens meet the weights stretch by stretch, so that what a tile reads
 * again lies in the first cache; its lanes wait in memory meanwhile, and the
 * rows that come next are fetched early. One token reads nothing twice and has
 * its rows in one go. */
#include "engine/kernels_avx2.h"

#define LANES ACTIVATION_LANES
#define LINE 64 /* bytes, of a cache */
#define MAX_PAIRS 12
#define WIDE 4      /* rows or tokens of a tile */
#define ROWS 16     /* that meet a stretch together */
#define TOGETHER 16 /* tokens, the same */
#define STRETCH 256 /* columns */
#define AHEAD 1024  /* bytes of a row that is read in one go */

typedef float lanes_of_token[ROWS][LANES];

/* Some rows, and which of their columns are added. */
struct piece {
    const unsigned char *rows;
    const struct activations *x;
    size_t token; /* the first */
    size_t value_bytes, row_bytes;
    size_t begin, end;     /* columns */
    size_t ahead;          /* bytes, at which weights are fetched early */
    size_t turn;           /* column from which they are the next tile's */
    lanes_of_token *lanes; /* [n_tokens] */
};

/* Of a piece. */
struct tile {
    size_t row, n_rows, token, n_tokens;
    struct activation_floats floats;
};

/* Eight columns, or those that are left before n. */
AVX2_INLINE void add_columns(const struct piece *piece, struct tile tile,
    size_t i, size_t n, size_t ahead, __m256 sums[MAX_PAIRS], avx2_load_cb load)
{
    const unsigned char *row = piece->rows + tile.row * piece->row_bytes;
    const float *values = tile.floats.values + i / LANES * tile.floats.step;
    const bool is_line = i * piece->value_bytes % LINE == 0;
    __m256 w[WIDE];

    for (size_t r = 0; r < tile.n_rows; r++, row += piece->row_bytes) {
        w[r] = load(row, i, n);
        if (is_line)
            _mm_prefetch(row + i * piece->value_bytes + ahead, _MM_HINT_T0);
    }
    for (size_t t = 0; t < tile.n_tokens; t++) {
        const __m256 x = _mm256_load_ps(values + t * LANES);

        for (size_t r = 0; r < tile.n_rows; r++) {
            __m256 *sum = &sums[r * tile.n_tokens + t];

            *sum = _mm256_fmadd_ps(w[r], x, *sum);
        }
    }
}

AVX2_INLINE void add_tile(
    const struct piece *piece, struct tile tile, avx2_load_cb load)
{
    const size_t whole = piece->end / LANES * LANES;
    const size_t turn = piece->turn < whole ? piece->turn : whole;
    const size_t next = piece->ahead + (tile.n_rows - 1) * piece->row_bytes;
    __m256 sums[MAX_PAIRS];
    size_t i = piece->begin;

    tile.floats = activation_floats(piece->x, piece->token + tile.token);
    for (size_t r = 0; r < tile.n_rows; r++)
        for (size_t t = 0; t < tile.n_tokens; t++)
            sums[r * tile.n_tokens + t] =
                _mm256_load_ps(piece->lanes[tile.token + t][tile.row + r]);
    for (; i < turn; i += LANES)
        add_columns(piece, tile, i, i + LANES, piece->ahead, sums, load);
    for (; i < whole; i += LANES)
        add_columns(piece, tile, i, i + LANES, next, sums, load);
    if (whole < piece->end)
        add_columns(piece, tile, whole, piece->end, next, sums, load);
    for (size_t r = 0; r < tile.n_rows; r++)
        for (size_t t = 0; t < tile.n_tokens; t++)
            _mm256_store_ps(piece->lanes[tile.token + t][tile.row + r],
                sums[r * tile.n_tokens + t]);
}

/* Tiles of so many rows and tokens, and of one row where fewer are left. */
AVX2_INLINE void add_rows(const struct piece *piece, size_t n_rows,
    size_t tile_rows, size_t token, size_t tile_tokens, avx2_load_cb load)
{
    size_t r = 0;

    for (; r + tile_rows <= n_rows; r += tile_rows)
        add_tile(piece,
            (struct tile){.row = r,
                .n_rows = tile_rows,
                .token = token,
                .n_tokens = tile_tokens},
            load);
    for (; r < n_rows; r++)
        add_tile(piece,
            (struct tile){
                .row = r, .n_rows = 1, .token = token, .n_tokens = tile_tokens},
            load);
}

AVX2_INLINE void add_piece(const struct piece *piece, size_t n_rows,
    size_t n_tokens, avx2_load_cb load)
{
    size_t t = 0;

    for (; t + WIDE <= n_tokens; t += WIDE)
        add_rows(piece, n_rows, 3, t, WIDE, load);
    for (; t < n_tokens; t++)
        add_rows(piece, n_rows, WIDE, t, 1, load);
}

/* At most ROWS rows and TOGETHER tokens, all columns. */
AVX2_INLINE void multiply_piece(const struct weight *weight, size_t row,
    size_t n_rows, const struct activations *x, size_t token, size_t n_tokens,
    float *out, avx2_load_cb load)
{
    _Alignas(64) lanes_of_token lanes[TOGETHER];
    const size_t n = x->n_cols;
    const size_t value_bytes = gguf_type_block_bytes(weight->type);
    const size_t stretch = n_tokens == 1 ? n : STRETCH;
    const size_t n_fetched = AHEAD / value_bytes;
    struct piece piece = {
        .rows = (const unsigned char *)weight->data + row * n * value_bytes,
        .x = x,
        .token = token,
        .value_bytes = value_bytes,
        .row_bytes = n * value_bytes,
        .ahead = n_tokens == 1 ? AHEAD : ROWS * n * value_bytes,
        .turn = n_tokens > 1    ? n
                : n > n_fetched ? n - n_fetched
                                : 0,
        .lanes = lanes,
    };

    memset(lanes, 0, n_tokens * sizeof *lanes);
    for (; piece.begin < n; piece.begin = piece.end) {
        piece.end = n - piece.begin < stretch ? n : piece.begin + stretch;
        add_piece(&piece, n_rows, n_tokens, load);
    }
    for (size_t t = 0; t < n_tokens; t++)
        for (size_t r = 0; r < n_rows; r++)
            out[(token + t) * weight->n_rows + row + r] =
                weight->scale * avx2_sum(_mm256_load_ps(lanes[t][r]));
}

AVX2_INLINE void multiply(const struct weight *weight, size_t begin, size_t end,
    const struct activations *x, float *out, avx2_load_cb load)
{
    for (size_t row = begin; row < end; row += ROWS)
        for (size_t t = 0; t < x->n_rows; t += TOGETHER) {
            const size_t rows_left = end - row, left = x->n_rows - t;

            multiply_piece(weight, row, rows_left < ROWS ? rows_left : ROWS, x,
                t, left < TOGETHER ? left : TOGETHER, out, load);
        }
}

void avx2_matmul_f32(const struct weight *weight, uint32_t begin, uint32_t end,
    const struct activations *x, float *out)
{
    multiply(weight, begin, end, x, out, avx2_load_f32);
}

void avx2_matmul_f16(const struct weight *weight, uint32_t begin, uint32_t end,
    const struct activations *x, float *out)
{
    multiply(weight, begin, end, x, out, avx2_load_f16);
}

void avx2_matmul_bf16(const struct weight *weight, uint32_t begin, uint32_t end,
    const struct activations *x, float *out)
{
    multiply(weight, begin, end, x, out, avx2_load_bf16);
}
