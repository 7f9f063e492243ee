/* An observer that believes nothing: it rebuilds the pool's state from the
 * reports alone, and fails the test at the first one that does not reconcile.
 * It shares no code with the pool's statistics. */
#ifndef TESTS_POOL_AUDITOR_H
#define TESTS_POOL_AUDITOR_H

#include <stdbool.h>
#include <stdint.h>

#include "pool/observer.h"

enum auditor_block { AUDITOR_FREE, AUDITOR_USED, AUDITOR_SCRUBBING };

struct auditor {
    struct pool_observer observer; /* give this to pool_open */
    const char *policy;            /* that batches for room should name */
    uint64_t block_bytes;
    uint32_t n_blocks;
    uint8_t *states;      /* enum auditor_block, by block */
    uint32_t *scrub_jobs; /* by block: which job has it */

    /* From the reports. */
    uint64_t used_bytes, allocated_bytes, freed_bytes, n_evictions;
    uint64_t last_scrub_id;
    uint64_t n_allocations, n_releases, n_batches, n_parts, n_scrubbed;

    /* Members since the last batch. */
    uint64_t n_members, member_bytes;
    struct pool_stats first_before;
    enum pool_reason member_reason;
    uint32_t parts_open; /* still to come of the eviction being told */

    /* The last eviction, for tests to look at; of its pointers those to
     * statistics are kept. */
    struct pool_eviction last;
    struct pool_stats last_before, last_after;
    char last_id[129], forced_by[129];
    uint64_t last_batch_sessions;
    char last_policy[16];
};

void auditor_init(
    struct auditor *auditor, uint64_t block_bytes, uint32_t n_blocks);
void auditor_fini(struct auditor *auditor);

/* Every eviction has been followed by its batch, and the books agree. */
void auditor_settle(
    const struct auditor *auditor, const struct pool_stats *stats);

#endif
