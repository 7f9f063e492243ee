#include "tests/engine/tiny_reference.h"

#include <assert.h>
#include <complex.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { WIDTH = 32, FFN = 64, HEADS = 4, KV_HEADS = 2, LAYERS = 2, MAX = 64 };

struct pass {
    const struct tiny_reference *reference;
    int layer;
    size_t head_dim;
    float *drawn[TINY_MAX_TENSORS]; /* their elements, once they are used */
    double x[TINY_MAX_TOKENS][WIDTH];
    double q[TINY_MAX_TOKENS][MAX];
    double k[TINY_MAX_TOKENS][MAX], v[TINY_MAX_TOKENS][MAX];
};

/* A tensor of the layer, or NULL. */
static const struct tiny_tensor *find(
    const struct pass *pass, const char *what, const char *kind)
{
    char name[80];

    snprintf(name, sizeof name, "blk.%d.%s.%s", pass->layer, what, kind);
    return tiny_model_find(pass->reference->tiny, name);
}

static double element(
    struct pass *pass, const struct tiny_tensor *tensor, size_t i)
{
    const struct tiny_model *tiny = pass->reference->tiny;
    float **drawn;

    assert(tensor != NULL);
    drawn = &pass->drawn[tensor - tiny->tensors];
    if (*drawn == NULL) {
        const size_t n = (size_t)(tensor->dims[0] * tensor->dims[1]);

        *drawn = malloc(n * sizeof **drawn);
        assert(*drawn != NULL);
        for (size_t j = 0; j < n; j++)
            (*drawn)[j] = tiny_model_value(tiny, tensor, j);
    }
    return (*drawn)[i];
}

/* Scale and bias are taken where there are any. */
static void multiply(struct pass *pass, const char *what, const double *x,
    size_t n_in, double *out, size_t n_out)
{
    const struct tiny_tensor *weight = find(pass, what, "weight");
    const struct tiny_tensor *scale = find(pass, what, "scale");
    const struct tiny_tensor *bias = find(pass, what, "bias");

    for (size_t row = 0; row < n_out; row++) {
        out[row] = 0;
        for (size_t i = 0; i < n_in; i++)
            out[row] += element(pass, weight, row * n_in + i) * x[i];
        if (scale != NULL)
            out[row] *= element(pass, scale, 0);
        if (bias != NULL)
            out[row] += element(pass, bias, row);
    }
}

/* Nothing where there is no such tensor. */
static void norm(struct pass *pass, const struct tiny_tensor *weight,
    const double *x, size_t n, double *out)
{
    double squares = 0;

    for (size_t i = 0; i < n; i++)
        squares += x[i] * x[i];
    for (size_t i = 0; i < n; i++)
        out[i] = weight == NULL ? x[i]
                                : x[i] / sqrt(squares / (double)n + 1e-5) *
                                      element(pass, weight, i);
}

/* Pairs are complex numbers, which turn by multiplication. */
static void rotate(const struct pass *pass, size_t position, double *head)
{
    const struct tiny_reference *reference = pass->reference;
    const size_t n_pairs = reference->n_rope_dims / 2;

    for (size_t i = 0; i < n_pairs; i++) {
        const double frequency =
            reference->stretch[i] /
            pow(reference->rope_base, (double)i / (double)n_pairs);
        double *re = head + (reference->rotates_halves ? i : 2 * i);
        double *im = re + (reference->rotates_halves ? n_pairs : 1);
        const double complex turned = (*re + I * *im) * reference->magnitude *
                                      cexp(I * (double)position * frequency);

        *re = creal(turned);
        *im = cimag(turned);
    }
}

static void finish_heads(struct pass *pass, size_t position,
    const char *norm_name, double *heads, size_t n_heads)
{
    const struct tiny_tensor *weight = find(pass, norm_name, "weight");

    for (size_t h = 0; h < n_heads; h++) {
        double *head = heads + h * pass->head_dim;

        norm(pass, weight, head, pass->head_dim, head);
        rotate(pass, position, head);
    }
}

static void attend(
    const struct pass *pass, size_t position, size_t head, double *out)
{
    const size_t n = pass->head_dim, kv = head / (HEADS / KV_HEADS) * n;
    double weights[TINY_MAX_TOKENS], sum = 0;

    for (size_t t = 0; t <= position; t++) {
        double score = 0;

        for (size_t i = 0; i < n; i++)
            score += pass->q[position][head * n + i] * pass->k[t][kv + i];
        weights[t] = exp(score / sqrt((double)n));
        sum += weights[t];
    }
    memset(out, 0, n * sizeof *out);
    for (size_t t = 0; t <= position; t++)
        for (size_t i = 0; i < n; i++)
            out[i] += weights[t] / sum * pass->v[t][kv + i];
}

static void add_attention(struct pass *pass, size_t position)
{
    double heads[MAX], out[WIDTH];

    for (size_t h = 0; h < HEADS; h++)
        attend(pass, position, h, heads + h * pass->head_dim);
    norm(pass, find(pass, "attn_sub_norm", "weight"), heads,
        HEADS * pass->head_dim, heads);
    multiply(pass, "attn_output", heads, HEADS * pass->head_dim, out, WIDTH);
    for (size_t i = 0; i < WIDTH; i++)
        pass->x[position][i] += out[i];
}

static void add_ffn(struct pass *pass, size_t position)
{
    double in[WIDTH], gate[FFN], up[FFN], out[WIDTH];

    norm(pass, find(pass, "ffn_norm", "weight"), pass->x[position], WIDTH, in);
    multiply(pass, "ffn_gate", in, WIDTH, gate, FFN);
    multiply(pass, "ffn_up", in, WIDTH, up, FFN);
    for (size_t i = 0; i < FFN; i++)
        up[i] *= pass->reference->squares_relu ? pow(fmax(gate[i], 0), 2)
                                               : gate[i] / (1 + exp(-gate[i]));
    norm(pass, find(pass, "ffn_sub_norm", "weight"), up, FFN, up);
    multiply(pass, "ffn_down", up, FFN, out, WIDTH);
    for (size_t i = 0; i < WIDTH; i++)
        pass->x[position][i] += out[i];
}

static void compute_layer(struct pass *pass, size_t n_tokens)
{
    const size_t n_q = HEADS * pass->head_dim, n_kv = KV_HEADS * pass->head_dim;
    double in[WIDTH];

    for (size_t t = 0; t < n_tokens; t++) {
        norm(pass, find(pass, "attn_norm", "weight"), pass->x[t], WIDTH, in);
        multiply(pass, "attn_q", in, WIDTH, pass->q[t], n_q);
        multiply(pass, "attn_k", in, WIDTH, pass->k[t], n_kv);
        multiply(pass, "attn_v", in, WIDTH, pass->v[t], n_kv);
        finish_heads(pass, t, "attn_q_norm", pass->q[t], HEADS);
        finish_heads(pass, t, "attn_k_norm", pass->k[t], KV_HEADS);
    }
    for (size_t t = 0; t < n_tokens; t++) {
        add_attention(pass, t);
        add_ffn(pass, t);
    }
}

void tiny_reference_compute(const struct tiny_reference *reference,
    const uint32_t *tokens, size_t n_tokens, double *logits)
{
    const struct tiny_model *tiny = reference->tiny;
    const struct tiny_tensor *embedding =
        tiny_model_find(tiny, "token_embd.weight");
    struct pass pass = {.reference = reference};

    assert(n_tokens <= TINY_MAX_TOKENS);
    pass.head_dim =
        tiny_model_find(tiny, "blk.0.attn_q.weight")->dims[1] / HEADS;
    for (size_t t = 0; t < n_tokens; t++)
        for (size_t i = 0; i < WIDTH; i++)
            pass.x[t][i] = element(&pass, embedding, tokens[t] * WIDTH + i);
    for (; pass.layer < LAYERS; pass.layer++)
        compute_layer(&pass, n_tokens);
    for (size_t t = 0; t < n_tokens; t++) {
        double out[WIDTH];

        norm(&pass, tiny_model_find(tiny, "output_norm.weight"), pass.x[t],
            WIDTH, out);
        for (size_t id = 0; id < TINY_N_FIXED; id++) {
            logits[t * TINY_N_FIXED + id] = 0;
            for (size_t i = 0; i < WIDTH; i++)
                logits[t * TINY_N_FIXED + id] +=
                    element(&pass, embedding, id * WIDTH + i) * out[i];
        }
    }
    for (size_t i = 0; i < TINY_MAX_TENSORS; i++)
        free(pass.drawn[i]);
}
