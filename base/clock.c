#include "base/clock.h"

#include <time.h>

static int64_t read_ns(clockid_t id)
{
    struct timespec now;

    clock_gettime(id, &now);
    return now.tv_sec * KV_NS_PER_S + now.tv_nsec;
}

int64_t kv_clock_mono_ns(void)
{
    return read_ns(CLOCK_MONOTONIC);
}

int64_t kv_clock_wall_ns(void)
{
    return read_ns(CLOCK_REALTIME);
}
