/* A disk that does not answer: preloaded into a program, it holds every sync up
 * for as long as the file that FREEZE_SHIM names is there. */
#include <dlfcn.h>
#include <pthread.h>
#include <stdlib.h>
#include <time.h>
#include <unistd.h>

static int (*real_fsync)(int fd), (*real_fdatasync)(int fd);
static const char *path;
static pthread_once_t once = PTHREAD_ONCE_INIT;

static void find(void)
{
    path = getenv("FREEZE_SHIM");
    *(void **)&real_fsync = dlsym(RTLD_NEXT, "fsync");
    *(void **)&real_fdatasync = dlsym(RTLD_NEXT, "fdatasync");
}

static void wait_for_thaw(void)
{
    const struct timespec a_while = {.tv_nsec = 5000000};

    pthread_once(&once, find);
    while (path != NULL && access(path, F_OK) == 0)
        nanosleep(&a_while, NULL);
}

int fsync(int fd)
{
    wait_for_thaw();
    return real_fsync(fd);
}

int fdatasync(int fd)
{
    wait_for_thaw();
    return real_fdatasync(fd);
}
