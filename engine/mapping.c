#include "engine/mapping.h"

#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

/* The handler reads it, so all of it is atomic: an address of 0 says that the
 * slot is free, and is written last. */
struct mapping_slot {
    atomic_uintptr_t begin;
    atomic_size_t n_bytes; /* whole pages */
    atomic_int state;      /* enum mapping_state */
};

static struct mapping_slot slots[MAPPING_MAX];
static pthread_mutex_t slots_mutex = PTHREAD_MUTEX_INITIALIZER;
static struct sigaction action_before;
static bool is_installed;

_Static_assert(ATOMIC_POINTER_LOCK_FREE == 2 && ATOMIC_INT_LOCK_FREE == 2,
    "a signal's handler takes no locks");

static void set_state(struct mapping_slot *slot, enum mapping_state state)
{
    int sound = MAPPING_SOUND;

    atomic_compare_exchange_strong(&slot->state, &sound, (int)state);
}

/* ---- the signal */

/* Somebody else's, who may also have left it to the system, which ends us. */
static void pass_on(int number, siginfo_t *info, void *context)
{
    if ((action_before.sa_flags & SA_SIGINFO) != 0) {
        action_before.sa_sigaction(number, info, context);
    } else if (action_before.sa_handler != SIG_DFL &&
               action_before.sa_handler != SIG_IGN) {
        action_before.sa_handler(number);
    } else {
        signal(number, SIG_DFL);
        raise(number); /* once this returns */
    }
}

/* One call of the system puts zeros in the place of all of it, so that no other
 * page of it faults later, nor one piece at a time. */
static bool put_zeros(uintptr_t begin, size_t n_bytes)
{
    const void *zeros = mmap((void *)begin, n_bytes, PROT_READ,
        MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE | MAP_FIXED, -1, 0);

    /* cppcheck-suppress memleak ; mapping_fini unmaps it */
    return zeros != MAP_FAILED;
}

static void on_bus_error(int number, siginfo_t *info, void *context)
{
    const uintptr_t address = (uintptr_t)info->si_addr;
    const int error = errno;
    bool is_ours = false;

    for (size_t i = 0; i < MAPPING_MAX && !is_ours; i++) {
        const uintptr_t begin = atomic_load(&slots[i].begin);
        const size_t n_bytes = atomic_load(&slots[i].n_bytes);

        if (begin == 0 || address - begin >= n_bytes)
            continue;
        set_state(&slots[i], MAPPING_CUT);
        is_ours = put_zeros(begin, n_bytes);
    }
    if (!is_ours)
        pass_on(number, info, context);
    errno = error;
}

static void install_handler(void)
{
    struct sigaction action = {
        .sa_sigaction = on_bus_error,
        .sa_flags = SA_SIGINFO | SA_ONSTACK | SA_RESTART,
    };

    if (is_installed)
        return;
    sigemptyset(&action.sa_mask);
    is_installed = sigaction(SIGBUS, &action, &action_before) == 0;
}

/* ---- the table */

static struct mapping_slot *take_slot(uintptr_t begin, size_t n_bytes)
{
    const size_t page = (size_t)sysconf(_SC_PAGESIZE);
    struct mapping_slot *slot = slots;

    pthread_mutex_lock(&slots_mutex);
    install_handler();
    while (slot < slots + MAPPING_MAX && atomic_load(&slot->begin) != 0)
        slot++;
    if (slot == slots + MAPPING_MAX) {
        slot = NULL;
    } else {
        atomic_store(&slot->state, MAPPING_SOUND);
        atomic_store(&slot->n_bytes, (n_bytes + page - 1) / page * page);
        atomic_store(&slot->begin, begin);
    }
    pthread_mutex_unlock(&slots_mutex);
    return slot;
}

int mapping_init(struct mapping *mapping, int fd, size_t n_bytes)
{
    struct stat stat;
    const int own = fcntl(fd, F_DUPFD_CLOEXEC, 0);
    void *data = MAP_FAILED;
    int error = 0;

    if (own >= 0 && fstat(own, &stat) == 0)
        data = mmap(NULL, n_bytes, PROT_READ, MAP_PRIVATE, own, 0);
    if (data == MAP_FAILED) {
        error = errno;
        goto close_own;
    }
    mapping->slot = take_slot((uintptr_t)data, n_bytes);
    if (mapping->slot == NULL) {
        error = EMFILE;
        goto unmap;
    }
    mapping->data = data;
    mapping->n_bytes = n_bytes;
    mapping->fd = own;
    mapping->modified = stat.st_mtim;
    return 0;

unmap:
    munmap(data, n_bytes);
close_own:
    if (own >= 0)
        close(own);
    return error;
}

void mapping_fini(struct mapping *mapping)
{
    atomic_store(&mapping->slot->begin, 0);
    munmap((void *)(uintptr_t)mapping->data, mapping->n_bytes);
    close(mapping->fd);
    *mapping = (struct mapping){.data = NULL};
}

enum mapping_state mapping_state(const struct mapping *mapping)
{
    return (enum mapping_state)atomic_load(&mapping->slot->state);
}

void mapping_look(const struct mapping *mapping)
{
    struct stat stat;

    if (fstat(mapping->fd, &stat) != 0)
        return; /* a page that cannot be read says more */
    if ((size_t)stat.st_size < mapping->n_bytes)
        set_state(mapping->slot, MAPPING_CUT);
    else if (stat.st_mtim.tv_sec != mapping->modified.tv_sec ||
             stat.st_mtim.tv_nsec != mapping->modified.tv_nsec)
        set_state(mapping->slot, MAPPING_WRITTEN);
}
