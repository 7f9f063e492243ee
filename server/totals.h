/* What a snapshot says in sum, all of one instant.
 *
 * The owner publishes a copy at the end of each of its turns, so that any
 * thread may read them, also while the owner is not to be had. Where it answers
 * from them itself it publishes before, so that they are of now. */
#ifndef SERVER_TOTALS_H
#define SERVER_TOTALS_H

#include <stdbool.h>
#include <stdint.h>

#include "base/published.h"
#include "engine/scheduler.h"
#include "pool/pool.h"
#include "receipts/ledger.h"

struct server;

struct totals {
    struct pool_stats stats;
    struct pool_totals pool;
    struct pool_blocks blocks;
    double unfilled; /* see pool_unfilled */
    struct scheduler_load load;
    struct ledger_position ledger; /* the sequence that all this includes */
    uint64_t has_ledger;           /* 0: receipts are off */
};

/* Thread: the owner's. Of now, and from here on everybody's. */
struct totals totals_publish(struct server *server);

/* Any thread: as of the end of the owner's last turn. Zero before the first. */
struct totals totals_read(const struct kv_published *published);

#endif
