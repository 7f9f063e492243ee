#include "engine/compute.h"

#include <assert.h>
#include <pthread.h>

#include "base/heap.h"
#include "engine/forward.h"
#include "engine/kernels.h"
#include "engine/team.h"

struct compute {
    const struct kernels *kernels;
    struct team *team;
    struct forward *forward;

    /* The step. */
    struct compute_slice *slices;
    size_t n_slices;
    void (*done)(void *ctx);
    void *done_ctx;
};

static enum kv_status check_config(
    const struct compute_config *config, struct kv_error *error)
{
    const size_t block_bytes = kv_block_bytes(
        &config->model->shape, config->kv_type, config->block_tokens);

    assert(config->n_threads > 0 && config->block_tokens > 0);
    assert(config->max_batch_tokens > 0 && config->max_slices > 0);
    if (block_bytes == 0)
        return kv_error_set(error, KV_INVALID,
            "a block of %u tokens of model %s exceeds the address space",
            config->block_tokens, config->model->name);
    assert(config->block_bytes == block_bytes);
    return KV_OK;
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
    status = team_open(&compute->team, config->n_threads, config->nice, error);
    if (status != KV_OK)
        goto free_compute;
    status =
        forward_open(&compute->forward, config, kernels, compute->team, error);
    if (status != KV_OK)
        goto close_team;
    *out = compute;
    return KV_OK;

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
    kv_free(compute);
}

/* Once done is called the next step may start: nothing is touched after it. */
static void run_step(void *ctx)
{
    struct compute *compute = ctx;

    forward_step(compute->forward, compute->slices, compute->n_slices);
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

struct waiter {
    pthread_mutex_t mutex;
    pthread_cond_t cond;
    bool is_done;
};

static void on_done(void *ctx)
{
    struct waiter *waiter = ctx;

    pthread_mutex_lock(&waiter->mutex);
    waiter->is_done = true;
    pthread_cond_signal(&waiter->cond);
    pthread_mutex_unlock(&waiter->mutex);
}

void compute_run(
    struct compute *compute, struct compute_slice *slices, size_t n_slices)
{
    struct waiter waiter = {
        .mutex = PTHREAD_MUTEX_INITIALIZER,
        .cond = PTHREAD_COND_INITIALIZER,
    };

    compute_start(compute, slices, n_slices, on_done, &waiter);
    pthread_mutex_lock(&waiter.mutex);
    while (!waiter.is_done)
        pthread_cond_wait(&waiter.cond, &waiter.mutex);
    pthread_mutex_unlock(&waiter.mutex);
    pthread_cond_destroy(&waiter.cond);
    pthread_mutex_destroy(&waiter.mutex);
}

const char *compute_kernels(const struct compute *compute)
{
    return compute->kernels->name;
}

size_t compute_scratch_bytes(const struct compute *compute)
{
    return forward_scratch_bytes(compute->forward);
}

/* No set of kernels repacks yet: all of them read weights in the mapping. */
size_t compute_repacked_bytes(const struct compute *compute)
{
    (void)compute;
    return 0;
}
