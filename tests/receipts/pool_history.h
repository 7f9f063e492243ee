/* A real pool and a real ledger behind it, driven at random: conversations,
 * pressure, TTLs, Evict calls with and without victims, preemption, zeroing in
 * any order, snapshots. What comes out is what a server would have issued. */
#ifndef TESTS_RECEIPTS_POOL_HISTORY_H
#define TESTS_RECEIPTS_POOL_HISTORY_H

#include <stddef.h>

#include "kvpool/v1/receipts.pb-c.h"

struct pool_history {
    Kvpool__V1__Receipt **receipts;
    size_t n_receipts;
};

/* The same seed gives the same receipts. */
void pool_history_run(struct pool_history *history, unsigned seed, int n_steps);
void pool_history_free(struct pool_history *history);

#endif
