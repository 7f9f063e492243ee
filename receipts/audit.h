/* Checks a ledger from its receipts alone, sharing no code with the pool's
 * statistics: sequences are dense, every difference is what the receipt says,
 * counters go on where the last receipt left them, batch sums are the sums of
 * their members.
 *
 * The caller's memory; any thread. */
#ifndef RECEIPTS_AUDIT_H
#define RECEIPTS_AUDIT_H

#include <stdint.h>

#include "base/error.h"
#include "kvpool/v1/receipts.pb-c.h"

struct audit {
    uint64_t last_sequence;
    uint32_t epoch;
    /* Counters of the epoch, as the receipts so far tell them. */
    uint64_t used_bytes, freed_bytes, allocated_bytes, evictions;
    uint64_t block_bytes; /* of the boot receipt; 0 before one */
    /* Members since the last batch receipt. */
    uint64_t n_members, member_bytes, first_member, last_member;
    uint64_t n_receipts, n_evictions, n_batches, n_snapshots;
};

void audit_init(struct audit *audit);

/* The next receipt. KV_INVALID names the sequence and what does not add up. */
enum kv_status audit_add(struct audit *audit,
    const Kvpool__V1__Receipt *receipt, struct kv_error *error);

#endif
