#include "receipts/performance.h"

#include <assert.h>

#include "base/clock.h"

void performance_init(struct performance *performance,
    const struct performance_settings *settings)
{
    assert(settings->window_ns > 0);
    *performance = (struct performance){.settings = *settings};
}

void performance_add(
    struct performance *performance, int64_t end_ns, int64_t latency_ns)
{
    uint64_t place = performance->n_samples++ % PERFORMANCE_SAMPLES;

    performance->samples[place].end_ns = end_ns;
    performance->samples[place].latency_ns = latency_ns;
}

/* More requests may have ended in the window than are kept. Then the report is
 * about the time since the oldest of those: shorter, but measured. */
bool performance_report(const struct performance *performance, int64_t now_ns,
    struct performance_report *out)
{
    uint64_t n_kept = performance->n_samples < PERFORMANCE_SAMPLES
                          ? performance->n_samples
                          : PERFORMANCE_SAMPLES;
    int64_t window_ns = performance->settings.window_ns;
    int64_t oldest_ns = now_ns;
    double latency_ns = 0;
    uint64_t n = 0;

    for (uint64_t i = 0; i < n_kept; i++) {
        int64_t end_ns = performance->samples[i].end_ns;

        if (now_ns - end_ns >= window_ns)
            continue;
        latency_ns += (double)performance->samples[i].latency_ns;
        oldest_ns = end_ns < oldest_ns ? end_ns : oldest_ns;
        n++;
    }
    if (n == 0)
        return false;
    if (n == PERFORMANCE_SAMPLES && performance->n_samples > n &&
        oldest_ns < now_ns)
        window_ns = now_ns - oldest_ns;
    out->requests_per_second =
        (double)n * (double)KV_NS_PER_S / (double)window_ns;
    out->latency_ms = latency_ns / (double)n / (double)KV_NS_PER_MS;
    out->n_samples = n;
    out->window_ns = window_ns;
    return true;
}
