#include "cli/interrupt.h"

#include <pthread.h>
#include <signal.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include "base/clock.h"
#include "base/heap.h"
#include "base/thread.h"
#include "cli/cli.h"

struct interrupt {
    pthread_t thread;
    pthread_mutex_t lock;
    pthread_cond_t changed; /* of seen; on the monotonic clock */
    struct rpc_client *client;
    bool in_order; /* somebody watches, or did */
    bool seen, closing;
    sigset_t signals, old_signals;
};

/* Nobody is in the middle of anything that would have to be ended in order. */
static void end_process(void)
{
    _exit(CLI_INTERRUPTED);
}

static bool on_signal(struct interrupt *interrupt)
{
    bool goes_on;

    pthread_mutex_lock(&interrupt->lock);
    goes_on = !interrupt->closing;
    if (goes_on && (!interrupt->in_order || interrupt->seen))
        end_process();
    interrupt->seen = true;
    if (interrupt->client != NULL)
        rpc_client_interrupt(interrupt->client);
    pthread_cond_broadcast(&interrupt->changed);
    pthread_mutex_unlock(&interrupt->lock);
    return goes_on;
}

static void *wait_for_signals(void *arg)
{
    struct interrupt *interrupt = arg;
    int number;

    do {
        sigwait(&interrupt->signals, &number);
    } while (on_signal(interrupt));
    return NULL;
}

enum kv_status interrupt_open(struct interrupt **out, struct kv_error *error)
{
    struct interrupt *interrupt = kv_calloc(1, sizeof *interrupt);
    int failure;

    if (interrupt == NULL)
        return kv_error_set(error, KV_NO_MEMORY, "out of memory");
    pthread_mutex_init(&interrupt->lock, NULL);
    failure = kv_condition_init(&interrupt->changed);
    if (failure != 0)
        goto destroy_lock;
    sigemptyset(&interrupt->signals);
    sigaddset(&interrupt->signals, SIGINT);
    sigaddset(&interrupt->signals, SIGTERM);
    pthread_sigmask(SIG_BLOCK, &interrupt->signals, &interrupt->old_signals);
    failure =
        pthread_create(&interrupt->thread, NULL, wait_for_signals, interrupt);
    if (failure != 0)
        goto restore_signals;
    *out = interrupt;
    return KV_OK;

restore_signals:
    pthread_sigmask(SIG_SETMASK, &interrupt->old_signals, NULL);
    pthread_cond_destroy(&interrupt->changed);
destroy_lock:
    pthread_mutex_destroy(&interrupt->lock);
    kv_free(interrupt);
    return kv_error_set(error, KV_NO_MEMORY,
        "a thread for signals cannot be started: %s", strerror(failure));
}

void interrupt_close(struct interrupt *interrupt)
{
    if (interrupt == NULL)
        return;
    pthread_mutex_lock(&interrupt->lock);
    interrupt->closing = true;
    pthread_mutex_unlock(&interrupt->lock);
    pthread_kill(interrupt->thread, SIGTERM);
    pthread_join(interrupt->thread, NULL);
    pthread_sigmask(SIG_SETMASK, &interrupt->old_signals, NULL);
    pthread_cond_destroy(&interrupt->changed);
    pthread_mutex_destroy(&interrupt->lock);
    kv_free(interrupt);
}

void interrupt_watch(struct interrupt *interrupt, struct rpc_client *client)
{
    if (interrupt == NULL)
        return;
    pthread_mutex_lock(&interrupt->lock);
    interrupt->client = client;
    interrupt->in_order = true;
    if (interrupt->seen) /* it came while nobody watched */
        rpc_client_interrupt(client);
    pthread_mutex_unlock(&interrupt->lock);
}

void interrupt_unwatch(struct interrupt *interrupt)
{
    if (interrupt == NULL)
        return;
    pthread_mutex_lock(&interrupt->lock);
    interrupt->client = NULL;
    pthread_mutex_unlock(&interrupt->lock);
}

bool interrupt_seen(struct interrupt *interrupt)
{
    bool seen;

    if (interrupt == NULL)
        return false;
    pthread_mutex_lock(&interrupt->lock);
    seen = interrupt->seen;
    pthread_mutex_unlock(&interrupt->lock);
    return seen;
}

static struct timespec timespec_of(int64_t ns)
{
    return (struct timespec){
        .tv_sec = (time_t)(ns / KV_NS_PER_S), .tv_nsec = ns % KV_NS_PER_S};
}

bool interrupt_sleep(struct interrupt *interrupt, int64_t duration_ns)
{
    struct timespec duration = timespec_of(duration_ns);
    struct timespec end;
    bool seen;

    if (interrupt == NULL) {
        nanosleep(&duration, NULL);
        return false;
    }
    end = timespec_of(kv_clock_mono_ns() + duration_ns);
    pthread_mutex_lock(&interrupt->lock);
    while (!interrupt->seen && pthread_cond_timedwait(&interrupt->changed,
                                   &interrupt->lock, &end) == 0)
        ;
    seen = interrupt->seen;
    pthread_mutex_unlock(&interrupt->lock);
    return seen;
}
