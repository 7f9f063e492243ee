/* The pool's statistics in the contract's terms, for receipts and snapshots. */
#ifndef RECEIPTS_STATISTICS_H
#define RECEIPTS_STATISTICS_H

#include "kvpool/v1/stats.pb-c.h"
#include "pool/stats.h"

void statistics_fill(
    Kvpool__V1__PoolStatistics *out, const struct pool_stats *stats);

#endif
