/* Checks a ledger from its receipts alone, sharing no code with the pool's
 * statistics. The rules:
 *
 *   envelope    sequences are dense; pool_id is 16 bytes and stays; mono_ns
 *               never falls within an epoch; an epoch is at least 1, greater
 *               than the last, and begins with a boot receipt, where all
 *               counters are 0. An audit may begin in the
 *               middle of an epoch: the counters are then what the first
 *               receipt says, and a batch that began before is believed.
 *   statistics  used = allocated - freed <= total; total stays within an epoch
 *               and is the boot receipt's blocks; used is whole blocks.
 *   eviction    extents are whole blocks inside the arena, ascending, neither
 *               touching nor overlapping; their sum is block_size_bytes, which
 *               is before.used - after.used and after.freed - before.freed;
 *               nothing else changes but evictions (one more), total_sessions
 *               (at most one less), session_tokens (less) and free_runs. It is
 *               zeroed exactly if it freed something.
 *   parts       follow one another, of one session and for one reason; each
 *               part's before is the after of the one before it; evictions and
 *               total_sessions change with the last.
 *   between     from one receipt's after to the next one's before, evictions is
 *               the same exactly: no eviction is without a receipt. Nor do
 *               allocated and freed change in an epoch whose allocations have
 *               receipts; otherwise they may grow, as hits and misses may.
 *   batch       count, bytes and sequences are those of the evictions that
 *               precede it immediately and that it is about; used before and
 *               after are the first's and the last's, fragmentation is what
 *               follows from their free_runs; before - after = the sum. Without
 *               members all of it is 0, and its reason is Manual.
 *               Evictions for Manual, Lru, Ttl and Quota always have a batch.
 *               Of a call, the outcomes that say evicted are its members.
 *   snapshot    used = allocated - freed; evictions, in all and by reason, are
 *               what the receipts so far add up to; counters never fall;
 *               utilization is used / total.
 *   allocation  before, after, extents and parts as those of evictions; the
 * blocks release     come into use, or leave it, and nothing else changes.
 *   blocks      where allocations have receipts, who holds which block is known
 * at every sequence: a block given is held by nobody, one that is shared by
 * somebody else; one taken is held by that session; an evicted session keeps
 * none, and what lives on is held by others; of a request without a session,
 * whose name others have too, the receipt lists it; used is what is held; all
 * who hold a block tell one prefix key of it, and parent_key is that of a block
 * of the session. Of a ledger read from its middle this is checked as far as it
 * is known.
 *   recomputation  names an eviction of this epoch, of that session and for
 * that reason, once (the last 8,192 of them are remembered); it lies before,
 * by the gap and the duration at least. A start after a crash (boot.clean is
 * false) ends what the crash cut off.
 *
 * Memory: what replay.h says, and 400 KiB. Any thread. */
#ifndef RECEIPTS_AUDIT_H
#define RECEIPTS_AUDIT_H

#include <stdbool.h>
#include <stdint.h>

#include "base/error.h"
#include "kvpool/v1/receipts.pb-c.h"
#include "receipts/recall.h"
#include "receipts/replay.h"

#define AUDIT_REASONS 16 /* told apart; more than there are */

/* The epoch's counters, as the receipts so far tell them. */
struct audit_counters {
    uint64_t allocated_bytes, freed_bytes, total_bytes;
    uint64_t evictions, cache_hits, cache_misses;
};

struct audit {
    uint64_t begin_sequence; /* of the first receipt */
    uint64_t last_sequence;  /* 0 before it */
    uint32_t epoch;
    int64_t mono_ns;
    uint8_t pool_id[16];
    bool has_counters;
    struct audit_counters counters;
    uint64_t block_bytes; /* of the boot receipt; 0 before one */
    uint64_t evictions_by_reason[AUDIT_REASONS]; /* since the boot receipt */

    /* Evictions since the last receipt of another kind or reason. */
    uint64_t n_members, member_bytes, first_member, last_member;
    uint64_t used_before, used_after, free_runs_before, free_runs_after;
    uint32_t members_reason;

    /* The part to come of a change in parts, 0 if there is none. */
    uint32_t next_part, n_parts;
    Kvpool__V1__Receipt__KindCase part_kind;
    uint32_t part_reason;
    uint64_t part_numbers[10]; /* its before must be */
    char part_session[129], part_tenant[129];

    struct replay *replay;
    struct recall *recall;
    uint64_t epoch_sequence; /* of the boot receipt; 0 before one */
    bool follows_blocks;     /* as far as can be known, replay knows */
    bool records_blocks;     /* the epoch has had such a receipt */
    /* Of the parts so far of an eviction: blocks that live on, and bytes of
     * those of a request without a session. */
    uint64_t shared_kept, shared_told;

    uint64_t n_receipts, n_evictions, n_batches, n_snapshots;
    uint64_t n_allocations, n_releases, n_recomputations;
};

/* KV_NO_MEMORY; to be finished all the same. */
enum kv_status audit_init(struct audit *audit);
void audit_fini(struct audit *audit);

/* The next receipt. KV_INVALID names the sequence and what does not add up, and
 * the audit is over; so it is with KV_NO_MEMORY. */
enum kv_status audit_add(struct audit *audit,
    const Kvpool__V1__Receipt *receipt, struct kv_error *error);

/* After the last receipt of a ledger that has stopped: whether something was
 * begun and not ended, parts of a change or members without their batch. */
enum kv_status audit_end(const struct audit *audit, struct kv_error *error);

#endif
