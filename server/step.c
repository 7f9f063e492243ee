#include "server/step.h"

#include <pthread.h>

#include "base/clock.h"
#include "base/heap.h"
#include "server/scrubber.h"

/* Sessions whose time is over that one event looks at; the next ones follow in
 * an event of their own. */
#define EXPIRE_BUDGET 64

/* How long sessions wait whose time is over while nothing may be evicted. */
#define EXPIRE_RETRY_MS 100

struct step {
    struct step_config config;
    struct scrubber *scrubber;
    struct compute_slice *slices;
    size_t n_slices;
    struct kv_list errands;
    uv_timer_t expiry, fill;
    int64_t armed_ns; /* when expiry fires; INT64_MAX: not armed */
    bool settling, stopped;
    bool awake; /* stepped lately, so there is nothing to wait for */

    struct rpc_post computed;
    pthread_mutex_t mutex; /* guards computing */
    pthread_cond_t idle;
    bool computing;
};

/* ---- time to live */

static void on_expiry(uv_timer_t *timer)
{
    struct step *step = timer->data;

    step->armed_ns = INT64_MAX;
    pool_expire(step->config.pool, kv_clock_mono_ns(), EXPIRE_BUDGET);
    pool_sweep(
        step->config.pool, step->config.sweep_blocks, kv_clock_mono_ns());
    step_settle(step);
}

static uint64_t ms_until(int64_t deadline_ns)
{
    int64_t left = deadline_ns - kv_clock_mono_ns();

    return left <= 0 ? 0 : (uint64_t)((left + KV_NS_PER_MS - 1) / KV_NS_PER_MS);
}

/* A sweep has a slice in each turn of the loop. What a step may end, its commit
 * sees to. */
static int64_t next_deadline(const struct step *step)
{
    int64_t deadline = pool_next_deadline(step->config.pool), waits;

    if (pool_wants_sweep(step->config.pool))
        return 0;
    if (scheduler_in_step(step->config.scheduler))
        return deadline;
    waits = scheduler_next_deadline(step->config.scheduler);
    return waits < deadline ? waits : deadline;
}

static void arm_expiry(struct step *step)
{
    int64_t deadline = next_deadline(step);
    uint64_t delay_ms;

    if (deadline == step->armed_ns)
        return;
    step->armed_ns = deadline;
    if (deadline == INT64_MAX) {
        uv_timer_stop(&step->expiry);
        return;
    }
    delay_ms = ms_until(deadline);
    if (delay_ms < EXPIRE_RETRY_MS && !pool_may_evict(step->config.pool))
        delay_ms = EXPIRE_RETRY_MS;
    uv_update_time(step->expiry.loop);
    uv_timer_start(&step->expiry, on_expiry, delay_ms, 0);
    rpc_loop_touched(step->config.loop);
}

/* ---- plan, compute, commit */

static void run_errands(struct step *step)
{
    while (!kv_list_empty(&step->errands)) {
        struct step_errand *errand =
            KV_LIST_ENTRY(step->errands.next, struct step_errand, link);

        kv_list_remove(&errand->link);
        errand->run(errand);
    }
}

static void commit(struct step *step)
{
    const struct step_config *config = &step->config;
    const int64_t now = kv_clock_mono_ns();

    if (model_check_file(config->model, NULL) == KV_OK) {
        scheduler_commit(config->scheduler, step->slices, step->n_slices, now);
    } else {
        config->on_model_lost(config->ctx);
        scheduler_fail(config->scheduler, now);
    }
    run_errands(step);
}

static void on_computed(struct rpc_post *post)
{
    struct step *step =
        (struct step *)(void *)((char *)post - offsetof(struct step, computed));

    if (step->stopped) /* step_stop has committed it */
        return;
    commit(step);
    step_settle(step);
}

/* On a thread of the team. Once the owner has the post it may begin another
 * step, so `computing` is taken back before; and once step_stop sees it taken
 * back the loop may go, so the post comes before the mutex is free. */
static void on_compute_done(void *ctx)
{
    struct step *step = ctx;

    pthread_mutex_lock(&step->mutex);
    step->computing = false;
    rpc_loop_post(step->config.loop, &step->computed);
    pthread_cond_signal(&step->idle);
    pthread_mutex_unlock(&step->mutex);
}

static void begin(struct step *step)
{
    step->n_slices = scheduler_plan(
        step->config.scheduler, step->slices, kv_clock_mono_ns());
    step->awake = step->n_slices > 0;
    if (step->n_slices == 0)
        return;
    step->computing = true; /* nobody computes, so nobody else looks */
    compute_start(step->config.compute, step->slices, step->n_slices,
        on_compute_done, step);
}

static void on_fill(uv_timer_t *timer)
{
    struct step *step = timer->data;

    step->awake = true;
    step_settle(step);
}

/* Whether to wait for company before the first step after a pause. */
static bool waits_for_more(struct step *step)
{
    struct scheduler_load load = scheduler_load(step->config.scheduler);

    if (step->awake || step->config.fill_wait_ns == 0 || load.running > 0 ||
        load.waiting == 0 || load.waiting >= step->config.max_slices)
        return false;
    if (!uv_is_active((uv_handle_t *)&step->fill)) {
        uv_update_time(step->fill.loop);
        uv_timer_start(&step->fill, on_fill,
            (uint64_t)(step->config.fill_wait_ns / KV_NS_PER_MS), 0);
        rpc_loop_touched(step->config.loop);
    }
    return true;
}

void step_settle(struct step *step)
{
    /* What planning tells requests may come back here. */
    if (step->stopped || step->settling)
        return;
    step->settling = true;
    scrubber_pump(step->scrubber);
    do { /* planning evicts, and may go on with what is zero already */
        if (!scheduler_in_step(step->config.scheduler) && !waits_for_more(step))
            begin(step);
    } while (scrubber_pump(step->scrubber));
    arm_expiry(step);
    step->settling = false;
}

static void on_scrubbed(void *ctx)
{
    step_settle(ctx);
}

void step_between(struct step *step, struct step_errand *errand)
{
    if (scheduler_in_step(step->config.scheduler))
        kv_list_append(&step->errands, &errand->link);
    else
        errand->run(errand);
}

/* ---- life */

enum kv_status step_open(
    struct step **out, const struct step_config *config, struct kv_error *error)
{
    struct step *step = kv_calloc(1, sizeof *step);
    enum kv_status status = KV_NO_MEMORY;

    if (step == NULL)
        goto fail;
    step->slices = kv_calloc(config->max_slices, sizeof *step->slices);
    if (step->slices == NULL)
        goto free_step;
    step->config = *config;
    step->armed_ns = INT64_MAX;
    status = scrubber_open(
        &step->scrubber, config->loop, config->pool, on_scrubbed, step, error);
    if (status != KV_OK)
        goto free_slices;

    kv_list_init(&step->errands);
    step->computed.run = on_computed;
    pthread_mutex_init(&step->mutex, NULL);
    pthread_cond_init(&step->idle, NULL);
    uv_timer_init(rpc_loop_uv(config->loop), &step->expiry);
    uv_timer_init(rpc_loop_uv(config->loop), &step->fill);
    step->expiry.data = step->fill.data = step;
    *out = step;
    return KV_OK;

free_slices:
    kv_free(step->slices);
free_step:
    kv_free(step);
fail:
    if (status == KV_NO_MEMORY)
        kv_error_set(error, KV_NO_MEMORY, "no memory for the inference loop");
    return status;
}

void step_stop(struct step *step)
{
    pthread_mutex_lock(&step->mutex);
    while (step->computing)
        pthread_cond_wait(&step->idle, &step->mutex);
    pthread_mutex_unlock(&step->mutex);
    step->stopped = true;
    if (scheduler_in_step(step->config.scheduler))
        commit(step);
    scrubber_stop(step->scrubber);
    uv_close((uv_handle_t *)&step->expiry, NULL);
    uv_close((uv_handle_t *)&step->fill, NULL);
    rpc_loop_touched(step->config.loop);
}

void step_close(struct step *step)
{
    if (step == NULL)
        return;
    scrubber_close(step->scrubber);
    pthread_cond_destroy(&step->idle);
    pthread_mutex_destroy(&step->mutex);
    kv_free(step->slices);
    kv_free(step);
}
