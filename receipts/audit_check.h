/* What the files of the audit share. Nobody else's.
 *
 *   audit.c           the envelope, counters, snapshots; who checks what
 *   audit_eviction.c  evictions, their parts, their batches
 *   audit_blocks.c    which blocks are used, who holds them, who came back
 *
 * Every check reads `if (it does not hold) return audit_wrong(...)`. The
 * receipts may come from anywhere: nothing in them is trusted, absent messages
 * included. */
#ifndef RECEIPTS_AUDIT_CHECK_H
#define RECEIPTS_AUDIT_CHECK_H

#include "receipts/audit.h"

struct check {
    struct audit *audit;
    const Kvpool__V1__Receipt *receipt;
    struct kv_error *error;
};

/* KV_INVALID, with the sequence in front. */
__attribute__((format(printf, 2, 3))) enum kv_status audit_wrong(
    const struct check *check, const char *format, ...);

/* What evictions, allocations and releases have in common. */
struct audit_change {
    const Kvpool__V1__PoolStatistics *before, *after;
    const Kvpool__V1__ReceiptPart *part;
    const char *session_id, *tenant;
    uint32_t reason; /* 0 for what has none */
};

/* That it is all there, follows from the last receipt, and is used = allocated
 * - freed before and after; and that it is the part that was to come. */
enum kv_status audit_check_change(
    const struct check *check, const struct audit_change *change);

/* It held: its after is where the next one begins. */
void audit_take_change(
    const struct check *check, const struct audit_change *change);

bool audit_is_last_part(const Kvpool__V1__ReceiptPart *part);

/* That all are whole blocks within `total` bytes, and if `ascending` neither
 * touching nor overlapping. *sum is their bytes. */
enum kv_status audit_check_extents(const struct check *check,
    Kvpool__V1__Extent *const *extents, size_t n_extents, uint64_t total,
    bool ascending, uint64_t *sum);

/* From the last receipt to this one. */
enum kv_status audit_check_between(
    const struct check *check, const struct audit_counters *now);

/* ---- audit_eviction.c */

enum kv_status audit_check_eviction(const struct check *check);
enum kv_status audit_check_batch(const struct check *check);

/* Whether evictions for this reason always have a batch receipt. */
bool audit_needs_batch(uint32_t reason);

/* Members that no batch will follow any more. */
enum kv_status audit_drop_members(const struct check *check);

/* ---- audit_blocks.c */

enum kv_status audit_check_allocation(const struct check *check);
enum kv_status audit_check_release(const struct check *check);
enum kv_status audit_check_recomputation(const struct check *check);

/* After all other checks of an eviction. */
enum kv_status audit_follow_eviction(const struct check *check);

/* A new epoch: the pool is empty. KV_NO_MEMORY. */
enum kv_status audit_follow_boot(const struct check *check);

/* Blocks came and went without a receipt. */
void audit_unfollow(struct audit *audit);

#endif
