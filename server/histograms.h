/* Section HISTOGRAMS of a snapshot: what the inference loop has measured, and
 * what became of sessions in the pool, since the epoch began. Thread: the
 * owner's. */
#ifndef SERVER_HISTOGRAMS_H
#define SERVER_HISTOGRAMS_H

#include "base/histogram.h"
#include "kvpool/v1/stats.pb-c.h"
#include "server/census.h"
#include "server/server.h"

#define HISTOGRAMS_OF_REQUESTS 3
#define HISTOGRAMS_OF_SESSIONS 4

/* The message and its parts; lives until it is sent. */
struct histograms {
    Kvpool__V1__Histograms message;
    Kvpool__V1__DurationHistogram requests[HISTOGRAMS_OF_REQUESTS];
    Kvpool__V1__DurationHistogram sessions[HISTOGRAMS_OF_SESSIONS];
    int64_t request_bounds_ns[KV_HISTOGRAM_BOUNDS];
    int64_t session_bounds_ns[CENSUS_BOUNDS];
};

void histograms_fill(struct histograms *out, const struct server *server);

#endif
