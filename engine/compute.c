#include "engine/compute.h"

#include <assert.h>

#include "base/heap.h"
#include "engine/forward.h"
#include "engine/kernels.h"
#include "engine/matrices.h"
#include "engine/residency.h"
#include "engine/team.h"

struct compute {
    const struct kernels *kernels;
    struct team *team;
    struct matrices *matrices;
    struct forward *forward;
    const struct model *model;
    size_t locked_bytes; /* of weights */

    /* The step. */
    struct compute_slice *slices;
    size_t n_slices;
    void (*done)(void *ctx);
    void *done_ctx;
};

static enum kv_status check_config(
    const struct compute_config *config, struct kv_error *error)
{
    const enum kv_status status = kv_check_block(
        config->model, config->kv_type, config->block_tokens, error);

    assert(config->n_threads > 0 && config->block_tokens > 0);
    assert(config->max_batch_tokens > 0 && config->max_slices > 0);
    assert(status != KV_OK ||
           config->block_bytes == kv_block_bytes(&config->model->shape,
                                      config->kv_type, config->block_tokens));
    return status;
}

static void unlock_weights(struct compute *compute)
{
    if (compute->locked_bytes > 0)
        residency_unlock(compute->model, compute->matrices);
}

enum kv_status compute_open(struct compute **out,
    const struct compute_config *config, struct kv_error *error)
{
    struct compute *compute;
    const struct kernels *kernels;
    enum kv_status status = check_config(config, error);

    if (status != KV_OK)
        return status;
    status = kernels_choose(&kernels, config->kernels, error);
    if (status != KV_OK)
        return status;
    compute = kv_calloc(1, sizeof *compute);
    if (compute == NULL)
        return kv_error_set(error, KV_NO_MEMORY, "no memory to compute with");
    compute->kernels = kernels;
    compute->model = config->model;
    status = team_open(&compute->team, config->n_threads, config->nice, error);
    if (status != KV_OK)
        goto free_compute;
    status = matrices_open(&compute->matrices, config->model, kernels,
        compute->team, config->progress, error);
    if (status != KV_OK)
        goto close_team;
    model_look_at_file(config->model);
    status = model_check_file(config->model, error);
    if (status == KV_OK && config->locks_weights)
        status = residency_lock(
            config->model, compute->matrices, &compute->locked_bytes, error);
    if (status != KV_OK)
        goto close_matrices;
    status = forward_open(&compute->forward, config, kernels, compute->matrices,
        compute->team, error);
    if (status != KV_OK)
        goto unlock;
    *out = compute;
    return KV_OK;

unlock:
    unlock_weights(compute);
close_matrices:
    matrices_close(compute->matrices);
close_team:
    team_close(compute->team);
free_compute:
    kv_free(compute);
    return status;
}

void compute_close(struct compute *compute)
{
    if (compute == NULL)
        return;
    team_close(compute->team);
    forward_close(compute->forward);
    unlock_weights(compute);
    matrices_close(compute->matrices);
    kv_free(compute);
}

static void lead_step(void *ctx)
{
    struct compute *compute = ctx;

    forward_step(compute->forward, compute->slices, compute->n_slices);
    model_look_at_file(compute->model); /* what it read, it has read by now */
}

/* Once done is called the next step may start: nothing is touched after it. */
static void run_step(void *ctx)
{
    struct compute *compute = ctx;

    lead_step(compute);
    compute->done(compute->done_ctx);
}

void compute_start(struct compute *compute, struct compute_slice *slices,
    size_t n_slices, void (*done)(void *ctx), void *ctx)
{
    compute->slices = slices;
    compute->n_slices = n_slices;
    compute->done = done;
    compute->done_ctx = ctx;
    team_start(compute->team, run_step, compute);
}

void compute_run(
    struct compute *compute, struct compute_slice *slices, size_t n_slices)
{
    compute->slices = slices;
    compute->n_slices = n_slices;
    team_run(compute->team, lead_step, compute);
}

const char *compute_kernels(const struct compute *compute)
{
    return compute->kernels->name;
}

size_t compute_scratch_bytes(const struct compute *compute)
{
    return forward_scratch_bytes(compute->forward);
}

size_t compute_repacked_bytes(const struct compute *compute)
{
    return matrices_packed_bytes(compute->matrices);
}

size_t compute_locked_bytes(const struct compute *compute)
{
    return compute->locked_bytes;
}
