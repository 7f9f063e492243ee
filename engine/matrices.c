#include "engine/matrices.h"

#include <assert.h>
#include <stdatomic.h>
#include <sys/mman.h>
#include <unistd.h>

#include "base/heap.h"

#define CHUNK_PANELS 16 /* that a thread packs at a time */

struct matrices {
    const struct model *model;
    size_t n; /* of all */
    size_t packed_bytes;
    unsigned char *memory; /* of the panels; NULL if nothing is packed */
    struct matrix all[];   /* layer by layer, then the output */
};

static const struct weight *weight_of(
    const struct model_layer *layer, enum matrix_role role)
{
    switch (role) {
    case MATRIX_Q:
        return &layer->q;
    case MATRIX_K:
        return &layer->k;
    case MATRIX_V:
        return &layer->v;
    case MATRIX_ATTN_OUTPUT:
        return &layer->attn_output;
    case MATRIX_GATE:
        return &layer->gate;
    case MATRIX_UP:
        return &layer->up;
    case MATRIX_DOWN:
        return &layer->down;
    case N_MATRIX_ROLES:
        break;
    }
    assert(false && "a role");
    return NULL;
}

/* Plans every matrix and adds up what the panels need. */
static bool plan(struct matrices *matrices, bool packs)
{
    for (size_t i = 0; i < matrices->n; i++) {
        struct matrix *matrix = &matrices->all[i];
        size_t n_bytes;

        matrix->weight =
            i + 1 == matrices->n
                ? &matrices->model->output
                : weight_of(&matrices->model->layers[i / N_MATRIX_ROLES],
                      (enum matrix_role)(i % N_MATRIX_ROLES));
        matrix->is_packed =
            packs && packed_plan(&matrix->packed, matrix->weight);
        if (!matrix->is_packed)
            continue;
        if (__builtin_mul_overflow(packed_n_panels(&matrix->packed),
                matrix->packed.panel_bytes, &n_bytes) ||
            __builtin_add_overflow(
                matrices->packed_bytes, n_bytes, &matrices->packed_bytes))
            return false;
    }
    return matrices->packed_bytes <= SIZE_MAX - PACKED_LINE;
}

/* Large pages, where there are any, spare the walks to small ones. What the
 * system says to that is of no consequence. */
static void advise(unsigned char *memory, size_t n_bytes)
{
    const size_t page = (size_t)sysconf(_SC_PAGESIZE);
    const size_t skip = (page - (uintptr_t)memory % page) % page;

    if (n_bytes > skip)
        (void)madvise(memory + skip, n_bytes - skip, MADV_HUGEPAGE);
}

static void deal_memory(struct matrices *matrices)
{
    unsigned char *at =
        matrices->memory +
        (PACKED_LINE - (uintptr_t)matrices->memory % PACKED_LINE) % PACKED_LINE;

    for (size_t i = 0; i < matrices->n; i++) {
        struct packed *packed = &matrices->all[i].packed;

        if (!matrices->all[i].is_packed)
            continue;
        packed->panels = at;
        at += packed_n_panels(packed) * packed->panel_bytes;
    }
}

struct packing {
    struct matrices *matrices;
    struct team *team;
    const struct progress *progress;
    size_t n_panels;
    atomic_size_t n_filled;
};

/* The leader alone reports, on its way: one thread at a time. */
static void report(struct packing *packing, size_t n_filled)
{
    if (packing->progress != NULL)
        packing->progress->report(packing->progress->ctx, "packing weights",
            n_filled, packing->n_panels);
}

/* Panels of all matrices, one after the other. */
static void fill_panels(void *ctx, size_t begin, size_t end, uint32_t thread)
{
    struct packing *packing = ctx;
    struct matrices *matrices = packing->matrices;
    size_t first = 0, n_filled;

    for (size_t i = 0; i < matrices->n && first < end; i++) {
        const struct matrix *matrix = &matrices->all[i];
        const size_t n =
            matrix->is_packed ? packed_n_panels(&matrix->packed) : 0;

        if (first + n > begin)
            packed_fill(&matrix->packed, matrix->weight,
                (uint32_t)(begin > first ? begin - first : 0),
                (uint32_t)(end < first + n ? end - first : n));
        first += n;
    }
    n_filled = atomic_fetch_add_explicit(
                   &packing->n_filled, end - begin, memory_order_relaxed) +
               end - begin;
    if (thread == 0)
        report(packing, n_filled);
}

static void pack(void *ctx)
{
    struct packing *packing = ctx;
    struct matrices *matrices = packing->matrices;

    for (size_t i = 0; i < matrices->n; i++)
        if (matrices->all[i].is_packed)
            packing->n_panels += packed_n_panels(&matrices->all[i].packed);
    report(packing, 0);
    team_each(
        packing->team, packing->n_panels, CHUNK_PANELS, fill_panels, packing);
    report(packing, packing->n_panels);
}

static enum kv_status allocate(
    struct matrices *matrices, bool packs, struct kv_error *error)
{
    if (!plan(matrices, packs))
        return kv_error_set(error, KV_INVALID,
            "the weights of model %s, packed, exceed the address space",
            matrices->model->name);
    if (matrices->packed_bytes == 0)
        return KV_OK;
    matrices->memory = kv_calloc(1, matrices->packed_bytes + PACKED_LINE);
    if (matrices->memory == NULL)
        return kv_error_set(error, KV_NO_MEMORY,
            "no memory for %zu bytes of packed weights of model %s",
            matrices->packed_bytes, matrices->model->name);
    advise(matrices->memory, matrices->packed_bytes + PACKED_LINE);
    deal_memory(matrices);
    return KV_OK;
}

enum kv_status matrices_open(struct matrices **out, const struct model *model,
    const struct kernels *kernels, struct team *team,
    const struct progress *progress, struct kv_error *error)
{
    const size_t n = (size_t)model->shape.n_layers * N_MATRIX_ROLES + 1;
    struct matrices *matrices =
        kv_calloc(1, sizeof *matrices + n * sizeof *matrices->all);
    struct packing packing = {
        .matrices = matrices, .team = team, .progress = progress};
    enum kv_status status;

    if (matrices == NULL)
        return kv_error_set(error, KV_NO_MEMORY,
            "no memory for %zu matrices of model %s", n, model->name);
    matrices->model = model;
    matrices->n = n;
    status = allocate(matrices, kernels->matmul_packed != NULL, error);
    if (status != KV_OK) {
        kv_free(matrices);
        return status;
    }
    if (matrices->memory != NULL)
        team_run(team, pack, &packing);
    *out = matrices;
    return KV_OK;
}

void matrices_close(struct matrices *matrices)
{
    if (matrices == NULL)
        return;
    kv_free(matrices->memory);
    kv_free(matrices);
}

const struct matrix *matrices_of_layer(
    const struct matrices *matrices, uint32_t layer, enum matrix_role role)
{
    return &matrices->all[(size_t)layer * N_MATRIX_ROLES + role];
}

const struct matrix *matrices_output(const struct matrices *matrices)
{
    return &matrices->all[matrices->n - 1];
}

size_t matrices_count(const struct matrices *matrices)
{
    return matrices->n;
}

const struct matrix *matrices_at(const struct matrices *matrices, size_t i)
{
    return &matrices->all[i];
}

const void *matrices_packed(const struct matrices *matrices, size_t *n)
{
    *n = matrices->memory == NULL ? 0 : matrices->packed_bytes + PACKED_LINE;
    return matrices->memory;
}

size_t matrices_packed_bytes(const struct matrices *matrices)
{
    return matrices->packed_bytes;
}

size_t matrix_n_groups(const struct matrix *matrix)
{
    const uint32_t n_rows = matrix->weight->n_rows;

    return n_rows / PACKED_ROWS + (n_rows % PACKED_ROWS != 0);
}

void matrix_multiply(const struct matrix *matrix, const struct kernels *kernels,
    size_t begin, size_t end, const struct activations *x, float *out)
{
    const struct weight *weight = matrix->weight;
    const size_t row_end = end * PACKED_ROWS;

    if (matrix->is_packed) {
        const kernel_matmul_packed_cb multiply =
            matrix->packed.part == 0 ? kernels->matmul_packed
                                     : kernels->matmul_packed_super;

        multiply(&matrix->packed, (uint32_t)begin, (uint32_t)end, x, out);
        return;
    }
    kernels_matmul(kernels, weight->type)(weight,
        (uint32_t)(begin * PACKED_ROWS),
        row_end < weight->n_rows ? (uint32_t)row_end : weight->n_rows, x, out);
}
