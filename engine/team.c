#include "engine/team.h"

#include <assert.h>
#include <errno.h>
#include <pthread.h>
#include <sched.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <string.h>
#include <sys/resource.h>
#include <unistd.h>

#include "base/heap.h"

/* How a round is taken apart.
 *
 *     ticket:  | round | chunks not yet taken |
 *
 * Chunks are taken by counting the ticket down with a compare-and-swap: many
 * side by side while many are left, so that what they read is read in one go,
 * and one by one at the end, so that all threads are done at once. While
 * the count is above zero the round is not over, so the leader has not touched
 * the job's fields since the ticket was published: a thread that read them and
 * then wins the swap has read this round's. One that woke up too late finds the
 * count at zero or another round, loses the swap and looks again.
 *
 * Sleeping follows one pattern: who sleeps says so and looks again before it
 * does, under the mutex; who changes something looks for sleepers afterwards.
 * Both in sequentially consistent order, so one of them sees the other. */

#define SHARE 8    /* of what is left: a thread takes its part by so many */
#define SPINS 2000 /* of a few tens of nanoseconds each */

struct team_thread {
    struct team *team;
    uint32_t index;
    pthread_t id;
};

struct team {
    _Atomic uint64_t ticket;
    atomic_size_t n_unfinished; /* chunks of the round */
    _Atomic(team_job_cb) job;
    _Atomic(void *) job_ctx;
    atomic_size_t n_items, chunk, n_chunks;

    pthread_mutex_t mutex;
    pthread_cond_t round_began, round_over, lead_given;
    atomic_uint n_asleep; /* of round_began */
    atomic_bool leader_asleep;
    atomic_bool stopping, started;
    void (*lead)(void *ctx); /* under mutex, as lead_ctx */
    void *lead_ctx;

    int nice;
    unsigned n_spins; /* 0 where there are more threads than processors */
    uint32_t n_threads;
    struct team_thread threads[];
};

static void relax(void)
{
#ifdef __x86_64__
    __builtin_ia32_pause();
#else
    atomic_signal_fence(memory_order_seq_cst);
#endif
}

static uint32_t round_of(uint64_t ticket)
{
    return (uint32_t)(ticket >> 32);
}

static void finish_chunks(struct team *team, uint32_t n)
{
    if (atomic_fetch_sub(&team->n_unfinished, n) > n)
        return;
    if (!atomic_load(&team->leader_asleep))
        return;
    pthread_mutex_lock(&team->mutex);
    pthread_cond_signal(&team->round_over);
    pthread_mutex_unlock(&team->mutex);
}

/* To be taken at once. */
static uint32_t share_of(const struct team *team, uint32_t n_left)
{
    const uint32_t share = n_left / (SHARE * team->n_threads);

    return share > 0 ? share : 1;
}

static void take_chunks(struct team *team, uint32_t round, uint32_t thread)
{
    uint64_t ticket = atomic_load(&team->ticket);

    while (round_of(ticket) == round && (uint32_t)ticket > 0) {
        const team_job_cb job = atomic_load(&team->job);
        void *ctx = atomic_load(&team->job_ctx);
        const size_t n_items = atomic_load(&team->n_items);
        const size_t chunk = atomic_load(&team->chunk);
        const size_t n_chunks = atomic_load(&team->n_chunks);
        const uint32_t n = share_of(team, (uint32_t)ticket);

        if (atomic_compare_exchange_weak(&team->ticket, &ticket, ticket - n)) {
            const size_t begin = (n_chunks - (uint32_t)ticket) * chunk;
            const size_t left = n_items - begin;

            job(ctx, begin, begin + (left < n * chunk ? left : n * chunk),
                thread);
            finish_chunks(team, n);
            ticket = atomic_load(&team->ticket);
        }
    }
}

static void publish_round(struct team *team, uint32_t n_chunks)
{
    const uint32_t round = round_of(atomic_load(&team->ticket)) + 1;

    atomic_store(&team->ticket, (uint64_t)round << 32 | n_chunks);
    if (atomic_load(&team->n_asleep) == 0)
        return;
    pthread_mutex_lock(&team->mutex);
    pthread_cond_broadcast(&team->round_began);
    pthread_mutex_unlock(&team->mutex);
}

static void wait_for_last_chunk(struct team *team)
{
    for (unsigned i = 0; i < team->n_spins; i++, relax())
        if (atomic_load(&team->n_unfinished) == 0)
            return;
    pthread_mutex_lock(&team->mutex);
    atomic_store(&team->leader_asleep, true);
    while (atomic_load(&team->n_unfinished) > 0)
        pthread_cond_wait(&team->round_over, &team->mutex);
    atomic_store(&team->leader_asleep, false);
    pthread_mutex_unlock(&team->mutex);
}

void team_each(
    struct team *team, size_t n_items, size_t chunk, team_job_cb job, void *ctx)
{
    size_t n_chunks;

    assert(chunk > 0);
    n_chunks = n_items / chunk + (n_items % chunk != 0);
    assert(n_chunks <= UINT32_MAX);
    if (n_chunks <= 1 || team->n_threads == 1) {
        if (n_items > 0)
            job(ctx, 0, n_items, 0);
        return;
    }
    atomic_store(&team->job, job);
    atomic_store(&team->job_ctx, ctx);
    atomic_store(&team->n_items, n_items);
    atomic_store(&team->chunk, chunk);
    atomic_store(&team->n_chunks, n_chunks);
    atomic_store(&team->n_unfinished, n_chunks);
    publish_round(team, (uint32_t)n_chunks);
    take_chunks(team, round_of(atomic_load(&team->ticket)), 0);
    wait_for_last_chunk(team);
}

static bool round_began(struct team *team, uint32_t seen)
{
    return round_of(atomic_load(&team->ticket)) != seen ||
           atomic_load(&team->stopping);
}

static void wait_for_round(struct team *team, uint32_t seen)
{
    for (unsigned i = 0; i < team->n_spins; i++, relax())
        if (round_began(team, seen))
            return;
    pthread_mutex_lock(&team->mutex);
    atomic_fetch_add(&team->n_asleep, 1);
    while (!round_began(team, seen))
        pthread_cond_wait(&team->round_began, &team->mutex);
    atomic_fetch_sub(&team->n_asleep, 1);
    pthread_mutex_unlock(&team->mutex);
}

/* Lower priority than the loop's, whose answers must not wait for a step. */
static void set_nice(const struct team *team)
{
    if (team->nice > 0)
        (void)setpriority(PRIO_PROCESS, (id_t)gettid(), team->nice);
}

static void *run_member(void *arg)
{
    const struct team_thread *thread = arg;
    struct team *team = thread->team;
    uint32_t seen = 0;

    set_nice(team);
    for (;;) {
        wait_for_round(team, seen);
        if (atomic_load(&team->stopping))
            return NULL;
        seen = round_of(atomic_load(&team->ticket));
        take_chunks(team, seen, thread->index);
    }
}

static bool lead_given(struct team *team)
{
    return atomic_load(&team->started) || atomic_load(&team->stopping);
}

static void *run_leader(void *arg)
{
    const struct team_thread *thread = arg;
    struct team *team = thread->team;
    void (*lead)(void *ctx);
    void *ctx;

    set_nice(team);
    for (;;) {
        for (unsigned i = 0; i < team->n_spins && !lead_given(team); i++)
            relax();
        pthread_mutex_lock(&team->mutex);
        while (!lead_given(team))
            pthread_cond_wait(&team->lead_given, &team->mutex);
        lead = team->lead;
        ctx = team->lead_ctx;
        atomic_store(&team->started, false);
        pthread_mutex_unlock(&team->mutex);
        if (atomic_load(&team->stopping))
            return NULL;
        lead(ctx);
    }
}

void team_start(struct team *team, void (*lead)(void *ctx), void *ctx)
{
    pthread_mutex_lock(&team->mutex);
    assert(!atomic_load(&team->started));
    team->lead = lead;
    team->lead_ctx = ctx;
    atomic_store(&team->started, true);
    pthread_cond_signal(&team->lead_given);
    pthread_mutex_unlock(&team->mutex);
}

struct waiter {
    pthread_mutex_t mutex;
    pthread_cond_t cond;
    bool is_done;
    void (*lead)(void *ctx);
    void *ctx;
};

static void lead_and_tell(void *ctx)
{
    struct waiter *waiter = ctx;

    waiter->lead(waiter->ctx);
    pthread_mutex_lock(&waiter->mutex);
    waiter->is_done = true;
    pthread_cond_signal(&waiter->cond);
    pthread_mutex_unlock(&waiter->mutex);
}

void team_run(struct team *team, void (*lead)(void *ctx), void *ctx)
{
    struct waiter waiter = {
        .mutex = PTHREAD_MUTEX_INITIALIZER,
        .cond = PTHREAD_COND_INITIALIZER,
        .lead = lead,
        .ctx = ctx,
    };

    team_start(team, lead_and_tell, &waiter);
    pthread_mutex_lock(&waiter.mutex);
    while (!waiter.is_done)
        pthread_cond_wait(&waiter.cond, &waiter.mutex);
    pthread_mutex_unlock(&waiter.mutex);
    pthread_cond_destroy(&waiter.cond);
    pthread_mutex_destroy(&waiter.mutex);
}

uint32_t team_n_threads(const struct team *team)
{
    return team->n_threads;
}

static void stop_threads(struct team *team, uint32_t n_threads)
{
    pthread_mutex_lock(&team->mutex);
    atomic_store(&team->stopping, true);
    pthread_cond_broadcast(&team->round_began);
    pthread_cond_broadcast(&team->lead_given);
    pthread_mutex_unlock(&team->mutex);
    for (uint32_t i = 0; i < n_threads; i++)
        pthread_join(team->threads[i].id, NULL);
}

/* Signals are for the threads that expect them. */
static enum kv_status start_threads(struct team *team, struct kv_error *error)
{
    sigset_t all, ours;
    uint32_t i;
    int failure = 0;

    sigfillset(&all);
    sigdelset(&all, SIGBUS); /* see engine/mapping.h */
    pthread_sigmask(SIG_SETMASK, &all, &ours);
    for (i = 0; i < team->n_threads && failure == 0; i++) {
        struct team_thread *thread = &team->threads[i];

        *thread = (struct team_thread){.team = team, .index = i};
        failure = pthread_create(
            &thread->id, NULL, i == 0 ? run_leader : run_member, thread);
    }
    pthread_sigmask(SIG_SETMASK, &ours, NULL);
    if (failure == 0)
        return KV_OK;
    stop_threads(team, i - 1);
    return kv_error_set(error, KV_NO_MEMORY,
        "thread %u of %u for computing cannot be started: %s", i,
        team->n_threads, strerror(failure));
}

static bool has_processor_each(uint32_t n_threads)
{
    cpu_set_t set;

    return sched_getaffinity(0, sizeof set, &set) != 0 ||
           n_threads <= (uint32_t)CPU_COUNT(&set);
}

static void free_team(struct team *team)
{
    pthread_cond_destroy(&team->lead_given);
    pthread_cond_destroy(&team->round_over);
    pthread_cond_destroy(&team->round_began);
    pthread_mutex_destroy(&team->mutex);
    kv_free(team);
}

enum kv_status team_open(
    struct team **out, uint32_t n_threads, int nice, struct kv_error *error)
{
    enum kv_status status;
    struct team *team;

    assert(n_threads > 0);
    team =
        kv_calloc(1, sizeof *team + (size_t)n_threads * sizeof *team->threads);
    if (team == NULL)
        return kv_error_set(error, KV_NO_MEMORY,
            "no memory for a team of %u threads", n_threads);
    pthread_mutex_init(&team->mutex, NULL);
    pthread_cond_init(&team->round_began, NULL);
    pthread_cond_init(&team->round_over, NULL);
    pthread_cond_init(&team->lead_given, NULL);
    team->n_threads = n_threads;
    team->nice = nice;
    team->n_spins = has_processor_each(n_threads) ? SPINS : 0;
    status = start_threads(team, error);
    if (status != KV_OK) {
        free_team(team);
        return status;
    }
    *out = team;
    return KV_OK;
}

void team_close(struct team *team)
{
    if (team == NULL)
        return;
    stop_threads(team, team->n_threads);
    free_team(team);
}
