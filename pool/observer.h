/* Whoever wants to know what the pool did. The pool calls it; it never calls
 * the pool. receipts/ implements it, so the pool knows of no receipts.
 *
 * Every hook runs on the owner's thread, in the turn in which the change
 * happened, and must not block. Arguments are borrowed for the call. */
#ifndef POOL_OBSERVER_H
#define POOL_OBSERVER_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "pool/stats.h"

/* Numbers as in EvictionReason of the contract. */
enum pool_reason {
    POOL_REASON_MANUAL = 1,
    POOL_REASON_LRU = 2,
    POOL_REASON_TTL = 3,
    POOL_REASON_QUOTA = 4,
    POOL_REASON_PRESSURE = 5,
    POOL_REASON_SHUTDOWN = 6,
    POOL_REASON_END, /* one more than the last */
};

/* The name of a session; the bytes are UTF-8 and not NUL-terminated. id_bytes
 * is 0 for a request without a session. */
struct pool_key {
    const char *tenant;
    size_t tenant_bytes;
    const char *id;
    size_t id_bytes;
};

/* A run of bytes in the arena; both are multiples of the block size. */
struct pool_extent {
    uint64_t offset, size;
};

/* Who wants something evicted. All borrowed; all but reason may be absent. */
struct pool_cause {
    enum pool_reason reason;
    const char *requested_by;         /* MANUAL: the principal */
    const struct pool_key *forced_by; /* LRU, QUOTA, PRESSURE: who needs it */
    const uint8_t *trace_id;          /* 16 bytes of the request, or NULL */
    bool
        forget; /* MANUAL: kept tokens go as well, so an idle session is gone */
};

/* Blocks left use. after->used_bytes is before->used_bytes less the extents,
 * always. An eviction with more than POOL_PART_EXTENTS runs comes as several
 * parts, each of which reconciles by itself; total_sessions and evictions
 * change with the last. */
#define POOL_PART_EXTENTS 2048

struct pool_eviction {
    struct pool_key key;
    const struct pool_cause *cause;
    const struct pool_extent *extents; /* ascending, not touching */
    size_t n_extents;                  /* 0: all its blocks live on */
    uint64_t bytes_freed;              /* sum of the extents */
    uint64_t blocks_freed;
    uint64_t tokens_freed; /* that lay in the freed blocks */
    uint64_t shared_blocks_kept;
    /* Which these are, in the order of the block table, of a session without a
     * name where somebody listens to releases; a report has either these or
     * extents. Of one with a name it is all that it has left. */
    const struct pool_extent *shared;
    size_t n_shared;
    uint64_t tokens_kept; /* for recomputation; 0 if they are gone too */
    int64_t age_ns;
    int64_t idle_ns; /* since its last run ended; 0 if preempted */
    uint64_t hits;
    bool preempted;         /* it was running and was set aside */
    uint32_t part, n_parts; /* 1 of 1 if whole */
    const struct pool_stats *before, *after;
    /* Names the zeroing of these blocks: scrubbed() follows with this number
     * once it is done; 0 if there is nothing to zero. Ascending. */
    uint64_t scrub_id;
    /* A number that the observer may leave here comes back when the session
     * computes again what it loses now. NULL but for the first part, and where
     * the session keeps no tokens, or there is no memory to keep the number. */
    uint64_t *note;
    int64_t mono_ns; /* when */
};

/* Members that were evicted in one turn for one reason, just told. */
struct pool_batch {
    enum pool_reason reason;
    const char *policy; /* that chose the members; "" if none was asked */
    uint64_t n_sessions;
    uint64_t bytes_freed;
    /* The first member's, the last member's. */
    const struct pool_stats *before, *after;
    int64_t duration_ns;     /* from first decision to last free */
    const uint8_t *trace_id; /* 16 bytes, or NULL */
    int64_t mono_ns;
};

/* A block that has become full, and its key among prefixes (pool/prefix.h). */
#define POOL_PART_SEALED 512
#define POOL_KEY_BYTES 32

struct pool_sealed {
    uint64_t offset;
    const uint8_t *key; /* POOL_KEY_BYTES */
};

/* A session came to hold blocks. Many at once come as several reports of at
 * most POOL_PART_EXTENTS runs, each of which reconciles by itself. */
struct pool_allocation {
    struct pool_key key;
    const struct pool_extent *extents; /* in the order of the block table */
    size_t n_extents;
    /* Blocks in use already that the session holds now too: in the order of the
     * block table, and behind the extents, of which there are none then. */
    const struct pool_extent *reused;
    size_t n_reused;
    /* The key of the session's block before the first of the extents; NULL: it
     * is the first, or that one is not full, or nothing is shared. */
    const uint8_t *parent_key;
    /* Blocks of earlier reports that have become full since, in the order of
     * the block table, at most POOL_PART_SEALED: more follow with the next. */
    const struct pool_sealed *sealed;
    size_t n_sealed;
    uint32_t part, n_parts; /* 1 of 1 if whole */
    const struct pool_stats *before, *after;
    int64_t mono_ns;
};

/* Blocks left use, or lost this holder, without an eviction; many runs come as
 * several reports too. */
struct pool_release {
    struct pool_key key;
    const struct pool_extent *extents; /* ascending, not touching */
    size_t n_extents;
    /* Blocks that others hold still, in the order of the block table; a report
     * has either these or extents. */
    const struct pool_extent *shared;
    size_t n_shared;
    uint32_t part, n_parts; /* 1 of 1 if whole */
    const struct pool_stats *before, *after;
    uint64_t scrub_id;
    int64_t mono_ns;
};

/* A session has computed again all that an eviction had taken from it and that
 * its conversation still has. One that is evicted anew before it got so far is
 * told of the later eviction only. */
struct pool_recomputation {
    struct pool_key key;
    uint64_t note;           /* left by the observer at that eviction, or 0 */
    enum pool_reason reason; /* of that eviction */
    int64_t gap_ns;          /* from it to the first step of the return */
    uint64_t tokens, blocks; /* computed again */
    int64_t duration_ns;     /* of the steps that did it, others' share too */
    const uint8_t *trace_id; /* 16 bytes of the request, or NULL */
    int64_t mono_ns;
};

/* Hooks may be NULL. */
struct pool_observer {
    void *ctx;

    /* Asked before somebody is chosen to be evicted for room, for a place, or
     * because its time is over; and by whoever would preempt or evict by hand
     * (pool_may_evict). false: what happens could not be recorded now. NULL is
     * always. */
    bool (*may_evict)(void *ctx);

    /* The same before a session is given blocks, or those of others. */
    bool (*may_allocate)(void *ctx);
    void (*evicted)(void *ctx, const struct pool_eviction *eviction);
    void (*batch)(void *ctx, const struct pool_batch *batch);
    void (*allocated)(void *ctx, const struct pool_allocation *allocation);
    void (*released)(void *ctx, const struct pool_release *release);
    void (*recomputed)(
        void *ctx, const struct pool_recomputation *recomputation);

    /* The blocks of that eviction or release have been zeroed, and are free. */
    void (*scrubbed)(void *ctx, uint64_t scrub_id);
};

#endif
