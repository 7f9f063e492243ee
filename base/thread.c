#include "base/thread.h"

#include <signal.h>
#include <time.h>

#include "base/clock.h"

int kv_thread_start(pthread_t *thread, void *(*run)(void *arg), void *arg)
{
    sigset_t all, before;
    int failure;

    sigfillset(&all);
    pthread_sigmask(SIG_SETMASK, &all, &before);
    failure = pthread_create(thread, NULL, run, arg);
    pthread_sigmask(SIG_SETMASK, &before, NULL);
    return failure;
}

int kv_condition_init(pthread_cond_t *condition)
{
    pthread_condattr_t attributes;
    int failure = pthread_condattr_init(&attributes);

    if (failure != 0)
        return failure;
    failure = pthread_condattr_setclock(&attributes, CLOCK_MONOTONIC);
    if (failure == 0)
        failure = pthread_cond_init(condition, &attributes);
    pthread_condattr_destroy(&attributes);
    return failure;
}

void kv_condition_wait_until(
    pthread_cond_t *condition, pthread_mutex_t *mutex, int64_t mono_ns)
{
    const struct timespec until = {
        .tv_sec = mono_ns / KV_NS_PER_S, .tv_nsec = mono_ns % KV_NS_PER_S};

    if (mono_ns == INT64_MAX)
        pthread_cond_wait(condition, mutex);
    else
        pthread_cond_timedwait(condition, mutex, &until);
}
