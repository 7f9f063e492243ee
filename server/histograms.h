/* Section HISTOGRAMS of a snapshot: what the inference loop has measured, and
 * what became of sessions in the pool, since the epoch began. Thread: the
 * owner's. */
#ifndef SERVER_HISTOGRAMS_H
#define SERVER_HISTOGRAMS_H

#include "base/histogram.h"
#include "kvpool/v1/stats.pb-c.h"
#include "server/server.h"

#define HISTOGRAMS_KEPT 7

/* The message and its parts; lives until it is sent. */
struct histograms {
    Kvpool__V1__Histograms message;
    Kvpool__V1__DurationHistogram kept[HISTOGRAMS_KEPT];
    int64_t bounds_ns[KV_HISTOGRAM_BOUNDS]; /* the same for all */
};

void histograms_fill(struct histograms *out, const struct server *server);

#endif
