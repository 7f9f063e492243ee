/* A real pool and a real ledger behind it, driven at random: conversations,
 * pressure, TTLs, Evict calls with and without victims, preemption, requests
 * without a session, conversations taken back and come back to, zeroing in any
 * order, snapshots. What comes out is what a server would have issued, for
 * tests that change it afterwards; that it adds up is what tests/sim shows. */
#ifndef TESTS_RECEIPTS_POOL_HISTORY_H
#define TESTS_RECEIPTS_POOL_HISTORY_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "kvpool/v1/receipts.pb-c.h"

#define POOL_HISTORY_BLOCKS 96
#define POOL_HISTORY_BLOCK_BYTES 128
#define POOL_HISTORY_TENANT "acme"

#define POOL_HISTORY_IDS 12 /* chat-0 to chat-11, and one without a name */

struct pool_history {
    Kvpool__V1__Receipt **receipts;
    size_t n_receipts;
};

/* The same seed gives the same receipts; `allocations` says whether those of
 * allocations and releases are among them. Even seeds share prefixes. */
void pool_history_run(
    struct pool_history *history, unsigned seed, int n_steps, bool allocations);
void pool_history_free(struct pool_history *history);

#endif
