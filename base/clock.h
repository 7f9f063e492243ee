/* The two clocks. Only who starts a motion reads them; everybody else is told.
 */
#ifndef BASE_CLOCK_H
#define BASE_CLOCK_H

#include <stdint.h>

#define KV_NS_PER_MS INT64_C(1000000)
#define KV_NS_PER_S INT64_C(1000000000)

/* Nanoseconds of CLOCK_MONOTONIC: for durations and deadlines. */
int64_t kv_clock_mono_ns(void);

/* Nanoseconds since 1970-01-01 UTC: for people. May step. */
int64_t kv_clock_wall_ns(void);

#endif
