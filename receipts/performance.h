/* How the service did lately: a sliding window over completed requests, for the
 * reports in receipts (builds with KVPOOL_TUNING). Measured, never a guess:
 * with nothing measured there is no report.
 *
 * Thread: the owner's. */
#ifndef RECEIPTS_PERFORMANCE_H
#define RECEIPTS_PERFORMANCE_H

#include <stdbool.h>
#include <stdint.h>

#define PERFORMANCE_SAMPLES 1024

struct performance_settings {
    int64_t window_ns; /* samples older than this do not count */
    uint64_t kv_cache_size_mb;
    uint32_t max_batch_size;
    uint32_t batch_timeout_ms;
};

/* The caller's memory; the newest PERFORMANCE_SAMPLES requests are kept. */
struct performance {
    struct performance_settings settings;
    struct {
        int64_t end_ns, latency_ns;
    } samples[PERFORMANCE_SAMPLES];
    uint64_t n_samples; /* ever */
};

struct performance_report {
    double requests_per_second;
    double latency_ms;
    uint64_t n_samples; /* at least 1 */
    int64_t window_ns;
};

void performance_init(struct performance *performance,
    const struct performance_settings *settings);

/* A request ended at end_ns (monotonic), latency_ns after its acceptance. */
void performance_add(
    struct performance *performance, int64_t end_ns, int64_t latency_ns);

/* false if no request ended within the window. */
bool performance_report(const struct performance *performance, int64_t now_ns,
    struct performance_report *out);

#endif
