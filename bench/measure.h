/* What the benchmarks have in common: a clock, and the middle of many figures.
 */
#ifndef BENCH_MEASURE_H
#define BENCH_MEASURE_H

#include <stdint.h>
#include <stdlib.h>
#include <time.h>

#include "base/clock.h"

/* Of this thread: a busy neighbour takes the processor's time, not ours. */
static inline int64_t measure_cpu_ns(void)
{
    struct timespec now;

    clock_gettime(CLOCK_THREAD_CPUTIME_ID, &now);
    return now.tv_sec * KV_NS_PER_S + now.tv_nsec;
}

static inline int measure_compare(const void *a, const void *b)
{
    double x = *(const double *)a, y = *(const double *)b;

    return (x > y) - (x < y);
}

static inline void measure_sort(double *values, size_t n)
{
    qsort(values, n, sizeof *values, measure_compare);
}

/* Sorts them, too. n is at least 1. */
static inline double measure_median(double *values, size_t n)
{
    measure_sort(values, n);
    return values[n / 2];
}

#endif
