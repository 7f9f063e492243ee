#include "server/histograms.h"

/* The counts are borrowed: the owner sends before it measures again. */
static Kvpool__V1__DurationHistogram *fill(
    struct histograms *out, size_t nth, const struct kv_histogram *histogram)
{
    Kvpool__V1__DurationHistogram *message = &out->kept[nth];

    kvpool__v1__duration_histogram__init(message);
    message->bounds_ns = out->bounds_ns;
    message->n_bounds_ns = KV_HISTOGRAM_BOUNDS;
    message->counts = (uint64_t *)histogram->counts;
    message->n_counts = KV_HISTOGRAM_BOUNDS + 1;
    message->count = histogram->count;
    message->sum_ns = histogram->sum_ns;
    return message;
}

void histograms_fill(struct histograms *out, const struct server *server)
{
    const struct scheduler_latencies *latencies =
        scheduler_latencies(server->scheduler);
    const struct census *census = &server->census;
    Kvpool__V1__Histograms *message = &out->message;

    for (size_t i = 0; i < KV_HISTOGRAM_BOUNDS; i++)
        out->bounds_ns[i] = kv_histogram_bound_ns(i);
    kvpool__v1__histograms__init(message);
    message->queue_wait = fill(out, 0, &latencies->queue_wait);
    message->time_to_first_token = fill(out, 1, &latencies->first_token);
    message->time_per_output_token = fill(out, 2, &latencies->next_token);
    message->age_at_eviction = fill(out, 3, &census->age_at_eviction);
    message->idle_at_eviction = fill(out, 4, &census->idle_at_eviction);
    message->reuse_gap = fill(out, 5, &census->reuse_gap);
    message->return_gap = fill(out, 6, &census->return_gap);
}
