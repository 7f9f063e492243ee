/* A wall clock that jumps: preloaded into a program, it adds the nanoseconds
 * that the file CLOCK_SHIM has as its first eight bytes, at any moment. The
 * monotonic clock is left as it is, as the kernel's is. */
#include <dlfcn.h>
#include <fcntl.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdint.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <time.h>
#include <unistd.h>

#define NS_PER_S INT64_C(1000000000)

static int (*real_gettime)(clockid_t id, struct timespec *out);
static const _Atomic int64_t *offset_ns;
static pthread_once_t once = PTHREAD_ONCE_INIT;

static void find(void)
{
    const char *path = getenv("CLOCK_SHIM");
    int fd = path != NULL ? open(path, O_RDONLY | O_CLOEXEC) : -1;
    void *at = fd >= 0
                   ? mmap(NULL, sizeof *offset_ns, PROT_READ, MAP_SHARED, fd, 0)
                   : MAP_FAILED;

    if (fd >= 0)
        close(fd);
    if (at != MAP_FAILED)
        offset_ns = at;
    *(void **)&real_gettime = dlsym(RTLD_NEXT, "clock_gettime");
}

int clock_gettime(clockid_t id, struct timespec *out)
{
    int result;
    int64_t ns;

    pthread_once(&once, find);
    result = real_gettime(id, out);
    if (result != 0 || id != CLOCK_REALTIME || offset_ns == NULL)
        return result;
    ns = out->tv_sec * NS_PER_S + out->tv_nsec + atomic_load(offset_ns);
    out->tv_sec = ns / NS_PER_S;
    out->tv_nsec = ns % NS_PER_S;
    return 0;
}
