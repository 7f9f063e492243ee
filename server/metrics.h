/* A snapshot as metrics of Prometheus: kvpool_*, in base units. docs/metrics.md
 * names them all. */
#ifndef SERVER_METRICS_H
#define SERVER_METRICS_H

#include <stdbool.h>

#include "kvpool/v1/stats.pb-c.h"
#include "server/admin/exposition.h"

/* Parts of the snapshot that are not there are no metrics. */
void metrics_print(
    struct exposition *out, const Kvpool__V1__PoolSnapshot *snapshot);

/* What no snapshot has. */
void metrics_print_model(struct exposition *out, bool lost);
void metrics_print_stalls(struct exposition *out, uint64_t n_stalls);

#endif
