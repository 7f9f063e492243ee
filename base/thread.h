/* Threads and conditions as everybody here wants them. */
#ifndef BASE_THREAD_H
#define BASE_THREAD_H

#include <pthread.h>
#include <stdint.h>

/* Starts a thread that takes no signals, nor do those that it starts: they are
 * for the thread that expects them. 0, or an error number. */
int kv_thread_start(pthread_t *thread, void *(*run)(void *arg), void *arg);

/* A condition that is waited for on the clock of kv_clock_mono_ns. 0, or an
 * error number. */
int kv_condition_init(pthread_cond_t *condition);

/* Until it is signalled, or then, or for no reason; INT64_MAX is never. */
void kv_condition_wait_until(
    pthread_cond_t *condition, pthread_mutex_t *mutex, int64_t mono_ns);

#endif
