#include "server/scrubber.h"

#include <pthread.h>
#include <string.h>

#include "base/clock.h"
#include "base/heap.h"
#include "base/zero.h"

/* A job travels dirty -> clean, in two rings that the owner fills and empties.
 * The pool has no more jobs out than fit in one. */
#define MAX_JOBS POOL_SCRUBS_OUT

/* So many bytes at most are zeroed by the owner in one pump, where the thread
 * has nothing to do: that takes some 30 us, and less than handing them over and
 * hearing that they are zero, which an eviction's receipt would wait for. */
#define AT_ONCE_BYTES ((uint64_t)1 << 20)

struct ring {
    struct pool_scrub jobs[MAX_JOBS];
    size_t first, n;
};

struct scrubber {
    struct rpc_loop *loop;
    struct pool *pool;
    void (*scrubbed)(void *ctx);
    void *ctx;
    pthread_t thread;
    struct rpc_post post;

    pthread_mutex_t mutex; /* guards what follows */
    pthread_cond_t work;
    struct ring dirty, clean;
    bool posted, stop;

    /* The owner's. */
    size_t n_handed; /* jobs that the thread has, or has done */
    bool stopped;    /* the pool is not ours any more */
};

static void ring_put(struct ring *ring, const struct pool_scrub *job)
{
    ring->jobs[(ring->first + ring->n++) % MAX_JOBS] = *job;
}

static struct pool_scrub ring_take(struct ring *ring)
{
    struct pool_scrub job = ring->jobs[ring->first];

    ring->first = (ring->first + 1) % MAX_JOBS;
    ring->n--;
    return job;
}

static void zero(unsigned char *arena, const struct pool_scrub *job)
{
    for (size_t i = 0; i < job->n_extents; i++)
        kv_zero_cold(arena + job->extents[i].offset, job->extents[i].size);
}

static void *run(void *arg)
{
    struct scrubber *scrubber = arg;
    struct pool_scrub job;

    pthread_mutex_lock(&scrubber->mutex);
    for (;;) {
        while (scrubber->dirty.n == 0 && !scrubber->stop)
            pthread_cond_wait(&scrubber->work, &scrubber->mutex);
        if (scrubber->stop)
            break;
        job = ring_take(&scrubber->dirty);
        pthread_mutex_unlock(&scrubber->mutex);
        zero(pool_arena(scrubber->pool), &job);
        pthread_mutex_lock(&scrubber->mutex);
        ring_put(&scrubber->clean, &job);
        if (!scrubber->posted)
            scrubber->posted = rpc_loop_post(scrubber->loop, &scrubber->post);
    }
    pthread_mutex_unlock(&scrubber->mutex);
    return NULL;
}

/* On the owner's thread: takes back what is done. */
static void collect(struct scrubber *scrubber)
{
    struct pool_scrub jobs[MAX_JOBS];
    size_t n_jobs = 0;

    pthread_mutex_lock(&scrubber->mutex);
    while (scrubber->clean.n > 0)
        jobs[n_jobs++] = ring_take(&scrubber->clean);
    scrubber->posted = false;
    pthread_mutex_unlock(&scrubber->mutex);
    scrubber->n_handed -= n_jobs;
    for (size_t i = 0; i < n_jobs; i++)
        pool_scrub_done(scrubber->pool, jobs[i].scrub_id, kv_clock_mono_ns());
}

static void on_post(struct rpc_post *post)
{
    struct scrubber *scrubber =
        (struct scrubber *)(void *)((char *)post -
                                    offsetof(struct scrubber, post));

    if (scrubber->stopped) /* scrubber_stop has collected it */
        return;
    collect(scrubber);
    scrubber_pump(scrubber);
    scrubber->scrubbed(scrubber->ctx);
}

static uint64_t count_bytes(const struct pool_scrub *job)
{
    uint64_t n = 0;

    for (size_t i = 0; i < job->n_extents; i++)
        n += job->extents[i].size;
    return n;
}

static void zero_here(struct scrubber *scrubber, const struct pool_scrub *job)
{
    zero(pool_arena(scrubber->pool), job);
    pool_scrub_done(scrubber->pool, job->scrub_id, kv_clock_mono_ns());
}

static void hand_over(struct scrubber *scrubber, const struct pool_scrub *job)
{
    scrubber->n_handed++;
    pthread_mutex_lock(&scrubber->mutex);
    ring_put(&scrubber->dirty, job);
    pthread_cond_signal(&scrubber->work);
    pthread_mutex_unlock(&scrubber->mutex);
}

bool scrubber_pump(struct scrubber *scrubber)
{
    uint64_t n_left = AT_ONCE_BYTES, n_bytes;
    struct pool_scrub job;

    while (pool_scrub_next(scrubber->pool, &job)) {
        n_bytes = count_bytes(&job);
        if (scrubber->n_handed > 0 || n_bytes > n_left) {
            hand_over(scrubber, &job);
            continue;
        }
        zero_here(scrubber, &job);
        n_left -= n_bytes;
    }
    return n_left < AT_ONCE_BYTES;
}

enum kv_status scrubber_open(struct scrubber **out, struct rpc_loop *loop,
    struct pool *pool, void (*scrubbed)(void *ctx), void *ctx,
    struct kv_error *error)
{
    struct scrubber *scrubber = kv_calloc(1, sizeof *scrubber);
    int failed;

    if (scrubber == NULL)
        return kv_error_set(error, KV_NO_MEMORY, "no memory for the scrubber");
    scrubber->loop = loop;
    scrubber->pool = pool;
    scrubber->scrubbed = scrubbed;
    scrubber->ctx = ctx;
    scrubber->post.run = on_post;
    pthread_mutex_init(&scrubber->mutex, NULL);
    pthread_cond_init(&scrubber->work, NULL);
    failed = pthread_create(&scrubber->thread, NULL, run, scrubber);
    if (failed != 0)
        goto free_scrubber;
    *out = scrubber;
    return KV_OK;

free_scrubber:
    pthread_cond_destroy(&scrubber->work);
    pthread_mutex_destroy(&scrubber->mutex);
    kv_free(scrubber);
    return kv_error_set(
        error, KV_LIMIT, "no thread for the scrubber: %s", strerror(failed));
}

void scrubber_stop(struct scrubber *scrubber)
{
    struct pool_scrub job;

    pthread_mutex_lock(&scrubber->mutex);
    scrubber->stop = true;
    pthread_cond_signal(&scrubber->work);
    pthread_mutex_unlock(&scrubber->mutex);
    pthread_join(scrubber->thread, NULL);

    collect(scrubber);
    while (scrubber->dirty.n > 0 || pool_scrub_next(scrubber->pool, &job)) {
        if (scrubber->dirty.n > 0)
            job = ring_take(&scrubber->dirty);
        zero_here(scrubber, &job);
    }
    scrubber->stopped = true;
}

void scrubber_close(struct scrubber *scrubber)
{
    pthread_cond_destroy(&scrubber->work);
    pthread_mutex_destroy(&scrubber->mutex);
    kv_free(scrubber);
}
