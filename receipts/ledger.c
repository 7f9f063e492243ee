#include "receipts/ledger_core.h"

#include <assert.h>
#include <stdio.h>
#include <string.h>

#include "base/heap.h"
#include "base/log.h"

/* How numbering and release work.
 *
 * A receipt is encoded into the ring in the turn in which the change happened:
 * encoding is the one copy of what the pool only lends. Readers see the ring up
 * to `durable`, so a receipt that waits for its blocks hides itself and all
 * that came later, of whatever kind; that is the whole of the ordering rule.
 *
 *      ring    ... 39 40 | 41 42 43 | 44 45 46 47
 *               durable ^          ^ released   ^ applied
 *      waits                          44    46    (45, 47 had nothing to zero)
 *
 * When 46 is zeroed before 44 it is marked only; when 44 is, 44 to 47 are
 * released at once. Without a journal what is released is durable; with one it
 * is handed over, and ledger_poll hears of it again. A receipt says `zeroed`
 * before that is so, which nobody can read until it is.
 *
 * Evictions are numbered only once there is a place among the waits and in the
 * ring, so there is no number without a receipt. */

#define FIRST_WAITS 1024

/* The greatest encodings: a varint of 64 bits is 10 bytes, one of 32 bits 5, a
 * small one 1, and a length below 16,384 takes 2; each behind a tag of 1. */
#define MAX_U64 11
#define MAX_U32 6
#define MAX_SMALL 2
#define MAX_TEXT(n) (3 + (n))
#define MAX_ENVELOPE (4 * MAX_U64 + 2 * MAX_TEXT(16) + 4) /* and the kind's */
#define MAX_STATS MAX_TEXT(10 * MAX_U64)
#define MAX_OUTCOME                                                            \
    MAX_TEXT(                                                                  \
        MAX_U32 + MAX_TEXT(2 * MAX_TEXT(128)) + 2 * MAX_SMALL + 5 * MAX_U64)
#define MAX_CALL                                                               \
    (4 + MAX_TEXT(64) + MAX_TEXT(32) + MAX_TEXT(LEDGER_MAX_PRINCIPAL_BYTES) +  \
        MAX_U32 + 2 * MAX_SMALL + 3 * MAX_U64 +                                \
        LEDGER_MAX_CALL_OUTCOMES * MAX_OUTCOME)

_Static_assert(MAX_ENVELOPE + 20 * MAX_U64 + 4 * MAX_TEXT(DRAFT_TEXT_BYTES) +
                       2 * MAX_STATS + 10 * MAX_U64 +
                       POOL_PART_EXTENTS * (2 + 2 * MAX_U64) <=
                   LEDGER_MAX_RECEIPT_BYTES,
    "a part of an eviction fits into a receipt");
_Static_assert(
    MAX_ENVELOPE + 12 * MAX_U64 + MAX_TEXT(DRAFT_TEXT_BYTES) + MAX_CALL <=
        LEDGER_MAX_RECEIPT_BYTES,
    "a batch with the outcomes of its call fits into a receipt");
_Static_assert(MAX_ENVELOPE + 2 * MAX_TEXT(32) + MAX_TEXT(DRAFT_TEXT_BYTES) +
                       LEDGER_MAX_CHANGES * MAX_TEXT(128) + 4 <=
                   LEDGER_MAX_RECEIPT_BYTES,
    "the names of what changed in a configuration fit into a receipt");
_Static_assert(LEDGER_MAX_RECEIPT_BYTES + RING_FRAME_BYTES <= RING_CHUNK_BYTES,
    "a receipt fits into a chunk");

/* ---- release */

void ledger_tell_watchers(struct ledger *ledger)
{
    struct ledger_watcher *watcher = ledger->watchers;

    assert(!ledger->telling);
    ledger->telling = true;
    for (; watcher != NULL; watcher = ledger->next_watcher) {
        ledger->next_watcher = watcher->next;
        watcher->on_durable(watcher);
    }
    ledger->telling = false;
}

static void release(struct ledger *ledger)
{
    uint64_t from = ledger->released, released = ledger->applied;

    while (ledger->waits_begin < ledger->waits_end &&
           ledger->waits[ledger->waits_begin].scrubbed)
        ledger->waits_begin++;
    if (ledger->waits_begin < ledger->waits_end)
        released = ledger->waits[ledger->waits_begin].sequence - 1;
    else
        ledger->waits_begin = ledger->waits_end = 0;
    if (released == from)
        return;
    ledger->released = released;
    if (ledger->journal != NULL) {
        ledger_hand_over(ledger, from);
        return;
    }
    ledger->durable = released;
    ring_trim(&ledger->ring, released);
    ledger_tell_watchers(ledger);
}

/* ---- numbering */

void ledger_fail(struct ledger *ledger, const char *why, size_t n_bytes)
{
    ledger->failed = true;
    ledger->failure = why;
    kv_log(KV_LOG_ERROR, "kvpool::receipts", "the ledger has failed",
        KV_LOG_TEXT("dir", ledger_dir(ledger)), KV_LOG_TEXT("reason", why),
        KV_LOG_UINT("receipt_bytes", n_bytes),
        KV_LOG_UINT("last_sequence", ledger->applied));
}

/* A place in the ring, and without a journal in the tree; NULL: no memory. */
static unsigned char *reserve(struct ledger *ledger, size_t n_bytes)
{
    if (ledger->journal == NULL && merkle_reserve(&ledger->tree) != KV_OK)
        return NULL;
    return ring_reserve(&ledger->ring, n_bytes, ledger->durable);
}

/* Numbers the draft and appends it; false, and nothing done, on failure. */
static bool append(struct ledger *ledger, int64_t mono_ns)
{
    Kvpool__V1__Receipt *receipt = &ledger->draft.receipt;
    unsigned char *at;
    size_t n_bytes;

    receipt->sequence = ledger->applied + 1;
    receipt->epoch = ledger->config.epoch;
    receipt->time_unix_ns = ledger->config.wall_ns();
    receipt->mono_ns = mono_ns;
    receipt->pool_id.data = ledger->config.pool_id;
    receipt->pool_id.len = sizeof ledger->config.pool_id;
    n_bytes = kvpool__v1__receipt__get_packed_size(receipt);
    if (n_bytes > LEDGER_MAX_RECEIPT_BYTES) {
        ledger_fail(ledger, "a receipt is larger than a record", n_bytes);
        return false;
    }
    at = reserve(ledger, n_bytes);
    if (at == NULL) {
        ledger_fail(ledger, "out of memory", n_bytes);
        return false;
    }
    kvpool__v1__receipt__pack(receipt, at);
    if (ledger->journal == NULL && !merkle_append(&ledger->tree, at, n_bytes)) {
        ledger_fail(ledger, "hashing failed", n_bytes);
        return false;
    }
    ring_commit(&ledger->ring, receipt->sequence, n_bytes);
    ledger->applied = receipt->sequence;
    return true;
}

/* For what is not an eviction. */
static void append_and_release(struct ledger *ledger, int64_t mono_ns)
{
    ledger->first_member = ledger->last_member = 0;
    if (append(ledger, mono_ns))
        release(ledger);
}

/* ---- waiting for zeroes */

static bool make_wait_room(struct ledger *ledger)
{
    size_t n_waits = ledger->waits_end - ledger->waits_begin;
    struct ledger_wait *larger;

    if (ledger->waits_end < ledger->waits_capacity)
        return true;
    if (n_waits > ledger->waits_capacity / 2) {
        larger = kv_realloc(
            ledger->waits, 2 * ledger->waits_capacity * sizeof *larger);
        if (larger != NULL) {
            ledger->waits = larger;
            ledger->waits_capacity *= 2;
            return true;
        }
    }
    memmove(ledger->waits, ledger->waits + ledger->waits_begin,
        n_waits * sizeof *ledger->waits);
    ledger->waits_begin = 0;
    ledger->waits_end = n_waits;
    return n_waits < ledger->waits_capacity;
}

static void push_wait(struct ledger *ledger, uint64_t scrub_id)
{
    assert(ledger->waits_begin == ledger->waits_end ||
           ledger->waits[ledger->waits_end - 1].scrub_id <= scrub_id);
    ledger->waits[ledger->waits_end++] =
        (struct ledger_wait){.sequence = ledger->applied, .scrub_id = scrub_id};
}

/* The first wait with at least this number. */
static size_t find_wait(const struct ledger *ledger, uint64_t scrub_id)
{
    size_t low = ledger->waits_begin, high = ledger->waits_end;

    while (low < high) {
        size_t middle = low + (high - low) / 2;

        if (ledger->waits[middle].scrub_id < scrub_id)
            low = middle + 1;
        else
            high = middle;
    }
    return low;
}

/* ---- the pool's hooks */

static void add_performance(struct ledger *ledger, int64_t mono_ns)
{
    struct performance_report report;
    const struct performance *performance = ledger->config.performance;

    if (KVPOOL_TUNING && performance != NULL &&
        performance_report(performance, mono_ns, &report))
        draft_add_performance(&ledger->draft, &report, &performance->settings);
}

static void count_member(struct ledger *ledger, enum pool_reason reason)
{
    if (ledger->first_member == 0 || ledger->members_reason != reason)
        ledger->first_member = ledger->applied;
    ledger->last_member = ledger->applied;
    ledger->members_reason = reason;
}

static void on_evicted(void *ctx, const struct pool_eviction *eviction)
{
    struct ledger *ledger = ctx;

    if (ledger->failed)
        return;
    if (!make_wait_room(ledger)) {
        ledger_fail(ledger, "out of memory", 0);
        return;
    }
    draft_eviction(&ledger->draft, eviction);
    add_performance(ledger, eviction->mono_ns);
    if (!append(ledger, eviction->mono_ns))
        return;
    count_member(ledger, eviction->cause->reason);
    if (eviction->note != NULL)
        *eviction->note = ledger->applied;
    if (eviction->scrub_id != 0)
        push_wait(ledger, eviction->scrub_id);
    release(ledger);
}

static void on_batch(void *ctx, const struct pool_batch *batch)
{
    struct ledger *ledger = ctx;
    const Kvpool__V1__EvictCall *call = NULL;
    bool has_members =
        batch->n_sessions > 0 && ledger->members_reason == batch->reason;

    if (batch->reason == POOL_REASON_MANUAL) {
        call = ledger->call;
        ledger->call = NULL;
    }
    if (ledger->failed)
        return;
    draft_batch(&ledger->draft, batch, has_members ? ledger->first_member : 0,
        has_members ? ledger->last_member : 0, call);
    append_and_release(ledger, batch->mono_ns);
}

static void on_allocated(void *ctx, const struct pool_allocation *allocation)
{
    struct ledger *ledger = ctx;

    if (ledger->failed)
        return;
    draft_allocation(&ledger->draft, allocation);
    append_and_release(ledger, allocation->mono_ns);
}

static void on_released(void *ctx, const struct pool_release *released)
{
    struct ledger *ledger = ctx;

    if (ledger->failed)
        return;
    if (!make_wait_room(ledger)) {
        ledger_fail(ledger, "out of memory", 0);
        return;
    }
    ledger->first_member = ledger->last_member = 0;
    draft_release(&ledger->draft, released);
    if (!append(ledger, released->mono_ns))
        return;
    if (released->scrub_id != 0)
        push_wait(ledger, released->scrub_id);
    release(ledger);
}

/* Without a note the eviction has no receipt that could be named. */
static void on_recomputed(
    void *ctx, const struct pool_recomputation *recomputation)
{
    struct ledger *ledger = ctx;

    if (ledger->failed || recomputation->note == 0)
        return;
    draft_recomputation(&ledger->draft, recomputation);
    append_and_release(ledger, recomputation->mono_ns);
}

/* Releases may be without a receipt: then there is nothing to find. */
static void on_scrubbed(void *ctx, uint64_t scrub_id)
{
    struct ledger *ledger = ctx;
    size_t i = find_wait(ledger, scrub_id);

    for (; i < ledger->waits_end && ledger->waits[i].scrub_id == scrub_id; i++)
        ledger->waits[i].scrubbed = true;
    release(ledger);
}

/* ---- life */

static enum kv_status check_config(
    const struct ledger_config *config, struct kv_error *error)
{
    assert(config->wall_ns != NULL);
    if (config->ring_bytes < LEDGER_MIN_RING_BYTES)
        return kv_error_set(error, KV_INVALID,
            "the ring of receipts is %zu bytes; at least %zu are allowed",
            config->ring_bytes, LEDGER_MIN_RING_BYTES);
    if (config->journal == NULL && config->epoch == 0)
        return kv_error_set(
            error, KV_INVALID, "the ledger's epoch is 0; it counts from 1");
    if (config->journal != NULL && config->max_ahead == 0)
        return kv_error_set(error, KV_INVALID,
            "0 receipts may wait for the disk; at least 1 is needed");
    return KV_OK;
}

/* What the receipts lie in: the journal, or the tree beside the ring. */
static enum kv_status open_store(struct ledger *ledger, struct kv_error *error)
{
    if (ledger->config.journal != NULL)
        return ledger_open_journal(ledger, ledger->config.journal, error);
    if (merkle_init(&ledger->tree) == KV_OK)
        return KV_OK;
    return kv_error_set(
        error, KV_NO_MEMORY, "no memory for the ledger of receipts");
}

static bool may_record(void *ctx)
{
    const char *error;

    return ledger_state(ctx, &error) == LEDGER_OK;
}

enum kv_status ledger_open(struct ledger **out,
    const struct ledger_config *config, struct kv_error *error)
{
    enum kv_status status = check_config(config, error);
    struct ledger *ledger;

    if (status != KV_OK)
        return status;
    status = kv_error_set(
        error, KV_NO_MEMORY, "no memory for the ledger of receipts");
    ledger = kv_calloc(1, sizeof *ledger);
    if (ledger == NULL)
        return status;
    ledger->waits_capacity = FIRST_WAITS;
    ledger->waits = kv_calloc(FIRST_WAITS, sizeof *ledger->waits);
    if (ledger->waits == NULL)
        goto free_ledger;
    if (ring_init(&ledger->ring, config->ring_bytes) != KV_OK)
        goto free_waits;
    ledger->config = *config;
    status = open_store(ledger, error);
    if (status != KV_OK)
        goto free_ring;
    ledger->config.journal = NULL; /* was borrowed */
    ledger->observer = (struct pool_observer){
        .ctx = ledger,
        .may_evict = may_record,
        .may_allocate = config->allocations ? may_record : NULL,
        .evicted = on_evicted,
        .batch = on_batch,
        .allocated = config->allocations ? on_allocated : NULL,
        .released = config->allocations ? on_released : NULL,
        .recomputed = on_recomputed,
        .scrubbed = on_scrubbed,
    };
    *out = ledger;
    return KV_OK;

free_ring:
    ring_fini(&ledger->ring);
free_waits:
    kv_free(ledger->waits);
free_ledger:
    kv_free(ledger);
    return status;
}

void ledger_close(struct ledger *ledger)
{
    if (ledger == NULL)
        return;
    assert(ledger->watchers == NULL);
    if (ledger->journal != NULL)
        ledger_close_journal(ledger);
    else
        merkle_fini(&ledger->tree);
    ring_fini(&ledger->ring);
    kv_free(ledger->waits);
    kv_free(ledger);
}

const struct pool_observer *ledger_observer(struct ledger *ledger)
{
    return &ledger->observer;
}

/* ---- receipts that do not come from the pool's hooks */

void ledger_issue_boot(
    struct ledger *ledger, const struct ledger_boot *boot, int64_t mono_ns)
{
    if (ledger->failed)
        return;
    draft_boot(&ledger->draft, boot, ledger_start(ledger),
        ledger->config.config_digest);
    append_and_release(ledger, mono_ns);
    if (ledger->failed || !ledger->start.loss_accepted)
        return;
    draft_loss_accepted(
        &ledger->draft, &ledger->start, ledger->config.config_digest);
    append_and_release(ledger, mono_ns);
}

void ledger_issue_drain(
    struct ledger *ledger, const char *cause, int64_t limit_ns, int64_t mono_ns)
{
    if (ledger->failed)
        return;
    draft_drain(&ledger->draft, cause, limit_ns, ledger->config.config_digest);
    append_and_release(ledger, mono_ns);
}

void ledger_issue_sink_gap(struct ledger *ledger, const char *sink,
    uint64_t first_sequence, uint64_t last_sequence, int64_t mono_ns)
{
    if (ledger->failed)
        return;
    draft_sink_gap(&ledger->draft, sink, first_sequence, last_sequence,
        ledger->config.config_digest);
    append_and_release(ledger, mono_ns);
}

void ledger_issue_configuration_change(struct ledger *ledger,
    const struct ledger_configuration_change *change, int64_t mono_ns)
{
    assert(change->n_names <= LEDGER_MAX_CHANGES);
    memcpy(ledger->config.config_digest, change->config_digest,
        sizeof ledger->config.config_digest);
    if (ledger->failed)
        return;
    draft_configuration_change(&ledger->draft, change);
    append_and_release(ledger, mono_ns);
}

void ledger_issue_snapshot(struct ledger *ledger,
    const struct ledger_pool_snapshot *snapshot, int64_t mono_ns)
{
    if (ledger->failed || ledger->disk.state == JOURNAL_FULL)
        return;
    draft_snapshot(&ledger->draft, snapshot);
    append_and_release(ledger, mono_ns);
}

void ledger_set_call(struct ledger *ledger, const Kvpool__V1__EvictCall *call)
{
    ledger->call = call;
}

/* ---- who is told */

void ledger_watch(struct ledger *ledger, struct ledger_watcher *watcher)
{
    watcher->prev = NULL;
    watcher->next = ledger->watchers;
    if (watcher->next != NULL)
        watcher->next->prev = watcher;
    ledger->watchers = watcher;
}

void ledger_unwatch(struct ledger *ledger, struct ledger_watcher *watcher)
{
    if (ledger->next_watcher == watcher)
        ledger->next_watcher = watcher->next;
    if (watcher->prev != NULL)
        watcher->prev->next = watcher->next;
    else
        ledger->watchers = watcher->next;
    if (watcher->next != NULL)
        watcher->next->prev = watcher->prev;
    watcher->prev = watcher->next = NULL;
}
