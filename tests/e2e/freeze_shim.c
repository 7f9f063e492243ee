/* A disk that does not answer, and a thread that is held up: preloaded into a
 * program, it holds every sync up for as long as the file that FREEZE_SHIM
 * names is there, and the first thread's waiting for events for as long as that
 * of FREEZE_SHIM_LOOP is. */
#include <dlfcn.h>
#include <pthread.h>
#include <stdlib.h>
#include <sys/epoll.h>
#include <time.h>
#include <unistd.h>

static int (*real_fsync)(int fd), (*real_fdatasync)(int fd);
static int (*real_epoll_wait)(
    int fd, struct epoll_event *events, int n, int timeout_ms);
static const char *of_syncs, *of_loop;
static pthread_once_t once = PTHREAD_ONCE_INIT;

static void find(void)
{
    of_syncs = getenv("FREEZE_SHIM");
    of_loop = getenv("FREEZE_SHIM_LOOP");
    *(void **)&real_fsync = dlsym(RTLD_NEXT, "fsync");
    *(void **)&real_fdatasync = dlsym(RTLD_NEXT, "fdatasync");
    *(void **)&real_epoll_wait = dlsym(RTLD_NEXT, "epoll_wait");
}

static void wait_for_thaw(const char *path)
{
    const struct timespec a_while = {.tv_nsec = 5000000};

    while (path != NULL && access(path, F_OK) == 0)
        nanosleep(&a_while, NULL);
}

int fsync(int fd)
{
    pthread_once(&once, find);
    wait_for_thaw(of_syncs);
    return real_fsync(fd);
}

int fdatasync(int fd)
{
    pthread_once(&once, find);
    wait_for_thaw(of_syncs);
    return real_fdatasync(fd);
}

int epoll_wait(int fd, struct epoll_event *events, int n, int timeout_ms)
{
    int n_events;

    pthread_once(&once, find);
    n_events = real_epoll_wait(fd, events, n, timeout_ms);
    if (gettid() == getpid())
        wait_for_thaw(of_loop);
    return n_events;
}
