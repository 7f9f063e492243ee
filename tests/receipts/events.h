/* What a pool would tell its observer, made up but adding up: for tests of the
 * ledger that need an event exactly so. Tests of the whole use the real pool.
 */
#ifndef TESTS_RECEIPTS_EVENTS_H
#define TESTS_RECEIPTS_EVENTS_H

#include "pool/observer.h"

#define EVENTS_BLOCK_BYTES 4096
#define EVENTS_BLOCKS 65536

struct events {
    const struct pool_observer *observer;
    struct pool_stats stats;
    struct pool_stats batch_before;
    uint64_t n_members; /* since the last batch */
    uint64_t next_scrub_id;
    int64_t now_ns;
    struct pool_extent extents[POOL_PART_EXTENTS];
};

void events_init(struct events *events, const struct pool_observer *observer);

/* A session comes to hold blocks; nobody is told. */
void events_allocate(struct events *events, uint64_t n_blocks);

/* One session gives up `n_extents` single blocks, allocated for it just before
 * unless so many are in use. Returns the scrub_id, 0 if there are none. */
uint64_t events_evict(
    struct events *events, enum pool_reason reason, size_t n_extents);

/* The same in two parts, of n_extents each. */
void events_evict_in_parts(
    struct events *events, enum pool_reason reason, size_t n_extents);

void events_batch(struct events *events, enum pool_reason reason);

#endif
