#include "receipts/audit_check.h"

#include <inttypes.h>

/* An epoch either has a receipt for every allocation and release, or for none.
 * Which it is shows with the first bytes that came or went: with a receipt of
 * their own, or without. `follows_blocks` is true until the latter. */

void audit_unfollow(struct audit *audit)
{
    audit->follows_blocks = false;
    replay_clear(audit->replay);
}

enum kv_status audit_follow_boot(const struct check *check)
{
    struct audit *audit = check->audit;

    replay_begin(audit->replay, audit->block_bytes);
    recall_clear(audit->recall);
    audit->epoch_sequence = check->receipt->sequence;
    audit->follows_blocks = true;
    audit->records_blocks = false;
    return KV_OK;
}

/* What replay found wrong, with the sequence in front. */
static enum kv_status tell(const struct check *check, enum kv_status status,
    const struct kv_error *error)
{
    if (status == KV_NO_MEMORY)
        return kv_error_set(
            check->error, KV_NO_MEMORY, "no memory to follow the blocks");
    return status == KV_INVALID ? audit_wrong(check, "%s", error->text)
                                : status;
}

typedef enum kv_status (*extent_cb)(struct replay *replay,
    const struct replay_holder *holder, const struct replay_extent *extent,
    struct kv_error *error);

static enum kv_status follow(const struct check *check,
    const struct replay_holder *holder, Kvpool__V1__Extent *const *extents,
    size_t n_extents, extent_cb each)
{
    enum kv_status status = KV_OK;
    struct kv_error error;

    for (size_t i = 0; status == KV_OK && i < n_extents; i++) {
        const struct replay_extent extent = {
            extents[i]->offset, extents[i]->size};

        status = each(check->audit->replay, holder, &extent, &error);
    }
    return tell(check, status, &error);
}

static enum kv_status check_known(
    const struct check *check, const Kvpool__V1__PoolStatistics *after)
{
    struct kv_error error;
    enum kv_status status = replay_check_used(
        check->audit->replay, after->used_memory_bytes, &error);

    return tell(check, status, &error);
}

/* ---- evictions */

/* Requests without a session share a name, so what one of them had is not all
 * that the name has: the receipt lists what lives on. */
static enum kv_status follow_nameless(
    const struct check *check, const struct replay_holder *holder, bool is_last)
{
    const Kvpool__V1__EvictionReceipt *eviction = check->receipt->eviction;
    struct audit *audit = check->audit;
    uint64_t total = eviction->before->total_memory_bytes, shared;
    enum kv_status status = audit_check_extents(check, eviction->shared_extents,
        eviction->n_shared_extents, total, false, &shared);

    if (status == KV_OK)
        status = follow(check, holder, eviction->shared_extents,
            eviction->n_shared_extents, replay_drop);
    if (status != KV_OK || !audit->records_blocks || audit->block_bytes == 0)
        return status;
    audit->shared_told += shared;
    if (is_last &&
        audit->shared_told != audit->shared_kept * audit->block_bytes)
        return audit_wrong(check,
            "%" PRIu64 " blocks of a request without a session live on, and "
            "%" PRIu64 " bytes are told",
            audit->shared_kept, audit->shared_told);
    return KV_OK;
}

static enum kv_status follow_lost(
    const struct check *check, const struct replay_holder *holder)
{
    const Kvpool__V1__EvictionReceipt *eviction = check->receipt->eviction;
    struct audit *audit = check->audit;
    /* One that keeps its first blocks has given up only what was freed. */
    bool keeps_some =
        eviction->before->total_sessions == eviction->after->total_sessions &&
        audit->shared_kept == 0;
    bool is_last = audit_is_last_part(eviction->part);
    enum kv_status status;
    struct kv_error error;

    if (eviction->blocks_freed > 0)
        replay_set_block_bytes(
            audit->replay, eviction->block_size_bytes / eviction->blocks_freed);
    status = follow(
        check, holder, eviction->extents, eviction->n_extents, replay_free);
    if (status == KV_OK && holder->id[0] == '\0')
        status = follow_nameless(check, holder, is_last);
    else if (status == KV_OK && is_last &&
             !(keeps_some && replay_held_blocks(audit->replay, holder) > 0))
        status = tell(check,
            replay_drop_all(audit->replay, holder, audit->shared_kept, &error),
            &error);
    return status == KV_OK ? check_known(check, eviction->after) : status;
}

enum kv_status audit_follow_eviction(const struct check *check)
{
    const Kvpool__V1__EvictionReceipt *eviction = check->receipt->eviction;
    const struct replay_holder holder = {
        eviction->tenant, eviction->session_id};
    struct audit *audit = check->audit;
    bool is_first = eviction->part == NULL || eviction->part->number == 1;
    const struct recall_eviction told = {
        .sequence = check->receipt->sequence,
        .mono_ns = check->receipt->mono_ns,
        .reason = (uint32_t)eviction->reason,
        .tenant = eviction->tenant,
        .session_id = eviction->session_id,
    };

    if (is_first) {
        recall_add(audit->recall, &told);
        audit->shared_kept = audit->shared_told = 0;
    }
    audit->shared_kept += eviction->shared_blocks_kept;
    return audit->follows_blocks ? follow_lost(check, &holder) : KV_OK;
}

/* ---- allocations and releases */

/* Fields that neither changes; sessions by one at most, which the caller says
 * in which direction. */
static bool leaves_the_rest(
    const struct audit_change *change, int64_t more_sessions)
{
    const Kvpool__V1__PoolStatistics *before = change->before;
    const Kvpool__V1__PoolStatistics *after = change->after;
    uint64_t sessions = before->total_sessions;

    return (after->total_sessions == sessions ||
               after->total_sessions == sessions + (uint64_t)more_sessions) &&
           after->evictions == before->evictions &&
           after->cache_hits == before->cache_hits &&
           after->cache_misses == before->cache_misses &&
           after->total_memory_bytes == before->total_memory_bytes;
}

static enum kv_status check_recorded(const struct check *check)
{
    if (!check->audit->follows_blocks)
        return audit_wrong(check,
            "blocks came or went without a receipt before in this epoch");
    check->audit->records_blocks = true;
    return KV_OK;
}

/* The counters of the epoch went on by just so much. */
static enum kv_status check_counters(const struct check *check,
    const struct audit_change *change, uint64_t allocated, uint64_t freed)
{
    const Kvpool__V1__PoolStatistics *before = change->before;
    const Kvpool__V1__PoolStatistics *after = change->after;

    if (after->allocated_bytes_total - before->allocated_bytes_total ==
            allocated &&
        after->freed_bytes_total - before->freed_bytes_total == freed)
        return KV_OK;
    return audit_wrong(check,
        "allocated went from %" PRIu64 " to %" PRIu64 " and freed from %" PRIu64
        " to %" PRIu64 ", and the extents add up to %" PRIu64,
        before->allocated_bytes_total, after->allocated_bytes_total,
        before->freed_bytes_total, after->freed_bytes_total, allocated + freed);
}

static enum kv_status check_gain(
    const struct check *check, const struct audit_change *change)
{
    const Kvpool__V1__AllocationReceipt *allocation =
        check->receipt->allocation;
    const Kvpool__V1__PoolStatistics *before = change->before;
    const Kvpool__V1__PoolStatistics *after = change->after;
    uint64_t total = before->total_memory_bytes, sum, reused;
    enum kv_status status = audit_check_extents(
        check, allocation->extents, allocation->n_extents, total, false, &sum);

    if (status == KV_OK)
        status = audit_check_extents(check, allocation->reused_extents,
            allocation->n_reused_extents, total, false, &reused);
    if (status == KV_OK)
        status = check_counters(check, change, sum, 0);
    if (status != KV_OK)
        return status;
    if (sum + reused == 0)
        return audit_wrong(check, "an allocation of nothing");
    if (!leaves_the_rest(change, 1) ||
        after->session_tokens < before->session_tokens)
        return audit_wrong(
            check, "something changed that no allocation changes");
    return KV_OK;
}

/* A receipt has at most so many; where it has, there may be more to come. */
#define MAX_SEALED 512

static enum kv_status check_key(
    const struct check *check, const ProtobufCBinaryData *key)
{
    if (key->len == REPLAY_KEY_BYTES)
        return KV_OK;
    return audit_wrong(check, "a prefix key of %zu bytes, which have %d",
        key->len, REPLAY_KEY_BYTES);
}

static enum kv_status follow_sealed(const struct check *check,
    const struct replay_holder *holder, const Kvpool__V1__SealedBlock *sealed)
{
    struct replay *replay = check->audit->replay;
    enum kv_status status = check_key(check, &sealed->key);
    struct kv_error error;

    if (status != KV_OK)
        return status;
    return tell(check,
        replay_tell_key(
            replay, holder, sealed->offset, sealed->key.data, &error),
        &error);
}

/* What it says of prefixes: each block has one key, and what follows another
 * block follows one of the session's own. */
static enum kv_status follow_keys(const struct check *check,
    const struct replay_holder *holder,
    const Kvpool__V1__AllocationReceipt *allocation)
{
    const ProtobufCBinaryData *parent = &allocation->parent_key;
    enum kv_status status = KV_OK;
    struct kv_error error;

    for (size_t i = 0; status == KV_OK && i < allocation->n_sealed_blocks; i++)
        status = follow_sealed(check, holder, allocation->sealed_blocks[i]);
    if (status != KV_OK || parent->len == 0 ||
        allocation->n_sealed_blocks >= MAX_SEALED)
        return status;
    status = check_key(check, parent);
    if (status != KV_OK)
        return status;
    return tell(check,
        replay_check_parent(check->audit->replay, holder, parent->data, &error),
        &error);
}

enum kv_status audit_check_allocation(const struct check *check)
{
    const Kvpool__V1__AllocationReceipt *allocation =
        check->receipt->allocation;
    const struct replay_holder holder = {
        allocation->tenant, allocation->session_id};
    const struct audit_change change = {
        .before = allocation->before,
        .after = allocation->after,
        .part = allocation->part,
        .session_id = allocation->session_id,
        .tenant = allocation->tenant,
    };
    enum kv_status status = audit_check_change(check, &change);

    if (status == KV_OK)
        status = check_recorded(check);
    if (status == KV_OK)
        status = check_gain(check, &change);
    if (status == KV_OK)
        status = follow(check, &holder, allocation->extents,
            allocation->n_extents, replay_allocate);
    if (status == KV_OK)
        status = follow(check, &holder, allocation->reused_extents,
            allocation->n_reused_extents, replay_share);
    if (status == KV_OK)
        status = follow_keys(check, &holder, allocation);
    if (status == KV_OK)
        status = check_known(check, change.after);
    if (status != KV_OK)
        return status;
    audit_take_change(check, &change);
    check->audit->n_allocations++;
    return KV_OK;
}

static enum kv_status check_loss(
    const struct check *check, const struct audit_change *change)
{
    const Kvpool__V1__ReleaseReceipt *release = check->receipt->release;
    const Kvpool__V1__PoolStatistics *before = change->before;
    const Kvpool__V1__PoolStatistics *after = change->after;
    uint64_t total = before->total_memory_bytes, sum, shared;
    enum kv_status status = audit_check_extents(
        check, release->extents, release->n_extents, total, true, &sum);

    if (status == KV_OK)
        status = audit_check_extents(check, release->shared_extents,
            release->n_shared_extents, total, false, &shared);
    if (status == KV_OK)
        status = check_counters(check, change, 0, sum);
    if (status != KV_OK)
        return status;
    if (sum + shared == 0)
        return audit_wrong(check, "a release of nothing");
    if (!leaves_the_rest(change, -1) ||
        after->session_tokens > before->session_tokens)
        return audit_wrong(check, "something changed that no release changes");
    return KV_OK;
}

enum kv_status audit_check_release(const struct check *check)
{
    const Kvpool__V1__ReleaseReceipt *release = check->receipt->release;
    const struct replay_holder holder = {release->tenant, release->session_id};
    const struct audit_change change = {
        .before = release->before,
        .after = release->after,
        .part = release->part,
        .session_id = release->session_id,
        .tenant = release->tenant,
    };
    enum kv_status status = audit_check_change(check, &change);

    if (status == KV_OK)
        status = check_recorded(check);
    if (status == KV_OK)
        status = check_loss(check, &change);
    if (status == KV_OK)
        status = follow(
            check, &holder, release->extents, release->n_extents, replay_free);
    if (status == KV_OK)
        status = follow(check, &holder, release->shared_extents,
            release->n_shared_extents, replay_drop);
    if (status == KV_OK)
        status = check_known(check, change.after);
    if (status != KV_OK)
        return status;
    audit_take_change(check, &change);
    check->audit->n_releases++;
    return KV_OK;
}

/* ---- who came back */

/* Whether the times fit between the two receipts. */
static bool has_time(const struct check *check,
    const Kvpool__V1__RecomputationReceipt *told, int64_t evicted_ns)
{
    int64_t since_ns;

    return !__builtin_sub_overflow(
               check->receipt->mono_ns, evicted_ns, &since_ns) &&
           told->gap_ns <= since_ns &&
           told->duration_ns <= since_ns - told->gap_ns;
}

/* Against the eviction itself, if it is remembered. */
static enum kv_status check_return(
    const struct check *check, const Kvpool__V1__RecomputationReceipt *told)
{
    struct audit *audit = check->audit;
    uint64_t sequence = told->eviction_sequence;
    struct recall_eviction eviction = {
        .sequence = sequence,
        .tenant = told->tenant,
        .session_id = told->session_id,
    };

    if (audit->n_receipts == 0 || sequence < audit->begin_sequence)
        return KV_OK;
    switch (recall_take(audit->recall, &eviction)) {
    case KV_OK:
        break;
    case KV_NOT_FOUND:
        return KV_OK;
    case KV_BUSY:
        return audit_wrong(check,
            "the cost of eviction %" PRIu64 " has been told before", sequence);
    default:
        return audit_wrong(check,
            "receipt %" PRIu64 " is no eviction of this session", sequence);
    }
    if (eviction.reason != (uint32_t)told->reason)
        return audit_wrong(
            check, "eviction %" PRIu64 " was for another reason", sequence);
    if (!has_time(check, told, eviction.mono_ns))
        return audit_wrong(check,
            "a gap of %" PRId64 " ns and %" PRId64 " ns of computing do not "
            "fit between eviction %" PRIu64 " and this",
            told->gap_ns, told->duration_ns, sequence);
    return KV_OK;
}

enum kv_status audit_check_recomputation(const struct check *check)
{
    const Kvpool__V1__RecomputationReceipt *told =
        check->receipt->recomputation;
    struct audit *audit = check->audit;
    enum kv_status status;

    if (told->tokens_recomputed == 0 || told->blocks_recomputed == 0 ||
        told->blocks_recomputed > told->tokens_recomputed)
        return audit_wrong(check,
            "%" PRIu64 " tokens of %" PRIu64 " blocks computed again",
            told->tokens_recomputed, told->blocks_recomputed);
    if (told->gap_ns < 0 || told->duration_ns < 0)
        return audit_wrong(check, "a time below 0");
    if (told->eviction_sequence <= audit->epoch_sequence ||
        told->eviction_sequence >= check->receipt->sequence)
        return audit_wrong(check,
            "eviction %" PRIu64 " is none of this epoch before",
            told->eviction_sequence);
    status = check_return(check, told);
    if (status == KV_OK)
        audit->n_recomputations++;
    return status;
}
