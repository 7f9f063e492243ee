#include "base/heap.h"
#include "engine/forward_internal.h"
#include "engine/quants.h"

#define SCRATCH_ALIGNMENT 64

/* Hands out pieces of an allocation; without one, only adds them up. */
struct carver {
    unsigned char *base;
    size_t used;
    bool overflows;
};

static void *carve(struct carver *carver, size_t n, size_t m, size_t bytes)
{
    const size_t at = carver->used;
    size_t size;

    if (__builtin_mul_overflow(n, m, &size) ||
        __builtin_mul_overflow(size, bytes, &size) ||
        __builtin_add_overflow(size, SCRATCH_ALIGNMENT - 1, &size) ||
        __builtin_add_overflow(
            at, size / SCRATCH_ALIGNMENT * SCRATCH_ALIGNMENT, &carver->used))
        carver->overflows = true;
    return carver->base == NULL ? NULL : carver->base + at;
}

static size_t larger(size_t a, size_t b)
{
    return a > b ? a : b;
}

/* That a product with floats reads. */
static size_t widest_floats(const struct matrices *matrices)
{
    size_t widest = 0;

    for (size_t i = 0; i < matrices_count(matrices); i++) {
        const struct weight *weight = matrices_at(matrices, i)->weight;

        if (kernels_format(weight->type) & ACTIVATION_F32)
            widest = larger(widest, activation_n_floats(weight->n_cols));
    }
    return widest;
}

static void carve_scratch(struct forward *f, struct carver *carver)
{
    const struct model_shape *shape = &f->model->shape;
    const size_t n = f->max_tokens, f32 = sizeof(float), i32 = sizeof(int32_t);
    const size_t n_q = (size_t)shape->n_heads * shape->head_dim;
    const size_t n_kv = (size_t)shape->n_kv_heads * shape->head_dim;
    const size_t widest = larger(larger(shape->n_embd, shape->n_ff), n_q);
    struct activations *input = &f->input;

    f->tokens = carve(carver, n, 1, sizeof *f->tokens);
    f->cosines = carve(carver, n, shape->rope.n_dims / 2, f32);
    f->sines = carve(carver, n, shape->rope.n_dims / 2, f32);
    f->x = carve(carver, n, shape->n_embd, f32);
    f->delta = carve(carver, n, shape->n_embd, f32);
    f->q = carve(carver, n, n_q, f32);
    f->k = carve(carver, n, n_kv, f32);
    f->v = carve(carver, n, n_kv, f32);
    f->gate = carve(carver, n, shape->n_ff, f32);
    f->up = carve(carver, n, shape->n_ff, f32);
    input->n_abreast = f->kernels->n_abreast;
    input->values = carve(carver, n, widest, f32);
    input->floats = carve(carver, n, widest_floats(f->matrices), f32);
    input->small.quants = carve(carver, n, widest, 1);
    input->small.scales = carve(carver, n, widest / QUANTS_SMALL, f32);
    input->small.sums = carve(carver, n, widest / QUANTS_SMALL, i32);
    input->large.quants = carve(carver, n, widest, 1);
    input->large.scales = carve(carver, n, widest / QUANTS_LARGE, f32);
    input->large.sums = carve(carver, n, widest / QUANTS_LARGE, i32);
    input->part_sums =
        carve(carver, n, widest / ACTIVATION_PART, sizeof(int16_t));
    f->logits = carve(carver, f->max_slices, shape->n_vocab, f32);
    f->entries = carve(
        carver, team_n_threads(f->team), shape->n_vocab, sizeof *f->entries);
}

enum kv_status forward_open(struct forward **out,
    const struct compute_config *config, const struct kernels *kernels,
    const struct matrices *matrices, struct team *team, struct kv_error *error)
{
    const struct model_shape *shape = &config->model->shape;
    struct carver carver = {0};
    struct forward *f,
        plan = {
            .model = config->model,
            .kernels = kernels,
            .matrices = matrices,
            .team = team,
            .layout =
                {
                    .arena = config->arena,
                    .block_bytes = config->block_bytes,
                    .row_bytes = kv_type_bytes(config->kv_type,
                        (size_t)shape->n_kv_heads * shape->head_dim),
                    .block_tokens = config->block_tokens,
                    .type = config->kv_type,
                },
            .max_tokens = config->max_batch_tokens,
            .max_slices = config->max_slices,
        };

    carve(&carver, 1, 1, sizeof *f);
    carve_scratch(&plan, &carver);
    if (carver.overflows || carver.used > SIZE_MAX - SCRATCH_ALIGNMENT)
        return kv_error_set(error, KV_INVALID,
            "scratch for %u tokens and %u sequences of model %s exceeds the "
            "address space",
            config->max_batch_tokens, config->max_slices, config->model->name);
    f = kv_calloc(1, carver.used + SCRATCH_ALIGNMENT);
    if (f == NULL)
        return kv_error_set(error, KV_NO_MEMORY,
            "no memory for %zu bytes of scratch for %u tokens and %u sequences",
            carver.used, config->max_batch_tokens, config->max_slices);

    plan.scratch_bytes = carver.used + SCRATCH_ALIGNMENT;
    *f = plan;
    carver = (struct carver){
        .base = (unsigned char *)f +
                (SCRATCH_ALIGNMENT - (uintptr_t)f % SCRATCH_ALIGNMENT) %
                    SCRATCH_ALIGNMENT,
    };
    carve(&carver, 1, 1, sizeof *f);
    carve_scratch(f, &carver);
    *out = f;
    return KV_OK;
}

void forward_close(struct forward *forward)
{
    kv_free(forward);
}

size_t forward_scratch_bytes(const struct forward *forward)
{
    return forward->scratch_bytes;
}
