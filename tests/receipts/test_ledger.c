#include <stdio.h>
#include <string.h>

#include "receipts/audit.h"
#include "receipts/ledger.h"
#include "tests/receipts/events.h"
#include "tests/support/check_main.h"
#include "tests/support/faulty_heap.h"

static int64_t wall_ns(void)
{
    return INT64_C(1763755000123456789);
}

static const struct ledger_config tiny = {
    .ring_bytes = LEDGER_MIN_RING_BYTES,
    .pool_id = {0xA1, 0xA2},
    .epoch = 3,
    .config_digest = {7},
    .wall_ns = wall_ns,
};

static struct ledger *ledger;
static struct events *events;
static struct events events_memory;

static void set_up(void)
{
    faulty_heap_install();
    ck_assert_int_eq(ledger_open(&ledger, &tiny, NULL), KV_OK);
    events = &events_memory;
    events_init(events, ledger_observer(ledger));
}

static void tear_down(void)
{
    ledger_close(ledger);
    ck_assert_int_eq(faulty_heap_live(), 0);
}

static void scrubbed(uint64_t scrub_id)
{
    const struct pool_observer *observer = ledger_observer(ledger);

    observer->scrubbed(observer->ctx, scrub_id);
}

static uint64_t durable(void)
{
    return ledger_position(ledger).durable_sequence;
}

static uint64_t applied(void)
{
    return ledger_position(ledger).applied_sequence;
}

/* The receipt with this sequence; the caller frees it. */
static Kvpool__V1__Receipt *read_one(uint64_t sequence)
{
    struct feed_cursor cursor = {0};
    struct feed_run run;
    const unsigned char *at, *bytes;
    Kvpool__V1__Receipt *receipt;
    size_t n_bytes;

    ck_assert_int_eq(feed_seek(ledger, sequence - 1, &cursor), KV_OK);
    ck_assert_int_eq(feed_next(ledger, &cursor, 1, 0, &run), KV_OK);
    ck_assert_uint_eq(run.first_sequence, sequence);
    ck_assert_uint_eq(run.n_receipts, 1);
    at = run.bytes;
    ck_assert(feed_run_entry(&run, &at, &bytes, &n_bytes));
    receipt = kvpool__v1__receipt__unpack(NULL, n_bytes, bytes);
    ck_assert(!feed_run_entry(&run, &at, &bytes, &n_bytes));
    feed_run_release(run.chunk);
    ck_assert_ptr_nonnull(receipt);
    ck_assert_uint_eq(receipt->sequence, sequence);
    return receipt;
}

static void free_receipt(Kvpool__V1__Receipt *receipt)
{
    kvpool__v1__receipt__free_unpacked(receipt, NULL);
}

START_TEST(a_receipt_is_numbered_at_once_and_read_once_its_blocks_are_zeroed)
{
    struct feed_cursor cursor = {0};
    struct feed_run run;
    uint64_t scrub_id = events_evict(events, POOL_REASON_LRU, 3);

    ck_assert_uint_eq(applied(), 1);
    ck_assert_uint_eq(durable(), 0);
    ck_assert_uint_eq(ledger_position(ledger).oldest_sequence, 0);
    ck_assert_int_eq(feed_next(ledger, &cursor, 9, 9999, &run), KV_NOT_FOUND);
    scrubbed(scrub_id);
    ck_assert_uint_eq(durable(), 1);
    ck_assert_uint_eq(ledger_position(ledger).oldest_sequence, 1);
    ck_assert_int_eq(feed_next(ledger, &cursor, 9, 9999, &run), KV_OK);
    feed_run_release(run.chunk);
    ck_assert_uint_eq(cursor.sequence, 1);
}
END_TEST

START_TEST(an_eviction_receipt_says_all_that_the_pool_told)
{
    Kvpool__V1__EvictionReceipt *eviction;
    Kvpool__V1__Receipt *receipt;

    scrubbed(events_evict(events, POOL_REASON_LRU, 3));
    receipt = read_one(1);
    ck_assert_uint_eq(receipt->epoch, 3);
    ck_assert_int_eq(receipt->time_unix_ns, wall_ns());
    ck_assert_int_eq(receipt->mono_ns, 1);
    ck_assert_uint_eq(receipt->pool_id.len, 16);
    ck_assert_mem_eq(receipt->pool_id.data, tiny.pool_id, 16);
    ck_assert_uint_eq(receipt->trace_id.len, 16);
    ck_assert_uint_eq(receipt->trace_id.data[2], 3);
    ck_assert_int_eq(receipt->kind_case, KVPOOL__V1__RECEIPT__KIND_EVICTION);
    eviction = receipt->eviction;
    ck_assert_str_eq(eviction->session_id, "chat-7");
    ck_assert_str_eq(eviction->tenant, "acme");
    ck_assert_int_eq(eviction->reason, 2);
    ck_assert_uint_eq(eviction->block_offset, 0);
    ck_assert_uint_eq(eviction->block_size_bytes, 3 * EVENTS_BLOCK_BYTES);
    ck_assert_uint_eq(eviction->n_extents, 3);
    ck_assert_uint_eq(eviction->extents[2]->offset, 4 * EVENTS_BLOCK_BYTES);
    ck_assert_uint_eq(eviction->extents[2]->size, EVENTS_BLOCK_BYTES);
    ck_assert_uint_eq(eviction->blocks_freed, 3);
    ck_assert_uint_eq(eviction->tokens_freed, 48);
    ck_assert_uint_eq(eviction->tokens_kept, 48);
    ck_assert_int_eq(eviction->age_ns, 5000);
    ck_assert_int_eq(eviction->idle_ns, 3000);
    ck_assert_uint_eq(eviction->hits, 2);
    ck_assert(eviction->zeroed);
    ck_assert_int_eq(
        eviction->cause_case, KVPOOL__V1__EVICTION_RECEIPT__CAUSE_FORCED_BY);
    ck_assert_str_eq(eviction->forced_by->session_id, "other");
    ck_assert_str_eq(eviction->forced_by->tenant, "acme");
    ck_assert_ptr_null(eviction->part);
    ck_assert_uint_eq(eviction->before->total_sessions, 1);
    ck_assert_uint_eq(eviction->before->used_memory_bytes, 12288);
    ck_assert_uint_eq(eviction->after->total_sessions, 0);
    ck_assert_uint_eq(eviction->after->used_memory_bytes, 0);
    ck_assert_uint_eq(eviction->after->allocated_bytes_total, 12288);
    ck_assert_uint_eq(eviction->after->freed_bytes_total, 12288);
    ck_assert_uint_eq(eviction->after->evictions, 1);
    ck_assert_uint_eq(eviction->after->cache_misses, 3);
    ck_assert_uint_eq(
        eviction->after->total_memory_bytes, events->stats.total_bytes);
    ck_assert_uint_eq(eviction->after->free_runs, 4);
    free_receipt(receipt);
}
END_TEST

START_TEST(no_receipt_of_any_kind_overtakes_one_that_waits_for_zeroes)
{
    const struct ledger_pool_snapshot snapshot = {.stats = events->stats};
    uint64_t first = events_evict(events, POOL_REASON_LRU, 1);
    uint64_t second = events_evict(events, POOL_REASON_LRU, 1);

    events_evict(events, POOL_REASON_LRU, 0); /* nothing to zero */
    events_batch(events, POOL_REASON_LRU);
    ledger_issue_snapshot(ledger, &snapshot, 9);
    ledger_issue_drain(ledger, "SIGTERM", 10, 9);
    ck_assert_uint_eq(applied(), 6);
    scrubbed(second);
    ck_assert_uint_eq(durable(), 0);
    scrubbed(777); /* a release: nobody waits for it */
    ck_assert_uint_eq(durable(), 0);
    scrubbed(first);
    ck_assert_uint_eq(durable(), 6);
}
END_TEST

/* ---- receipts that are asked for */

static void record_allocations(void)
{
    struct ledger_config config = tiny;

    ledger_close(ledger);
    config.allocations = true;
    ck_assert_int_eq(ledger_open(&ledger, &config, NULL), KV_OK);
    events_init(events, ledger_observer(ledger));
}

static const struct pool_extent some_extents[] = {{8192, 4096}, {0, 4096}};

START_TEST(allocations_and_releases_are_not_listened_to_unless_asked_for)
{
    ck_assert(ledger_observer(ledger)->allocated == NULL);
    ck_assert(ledger_observer(ledger)->released == NULL);
    ck_assert(ledger_observer(ledger)->may_allocate == NULL);
    record_allocations();
    ck_assert(ledger_observer(ledger)->allocated != NULL);
    ck_assert(ledger_observer(ledger)->released != NULL);
    ck_assert(ledger_observer(ledger)->may_allocate(ledger));
}
END_TEST

START_TEST(an_allocation_receipt_says_all_that_the_pool_told)
{
    const struct pool_stats before = {.used_bytes = 4096};
    const struct pool_stats after = {.used_bytes = 12288, .total_sessions = 1};
    struct pool_allocation told = {.key = {"acme", 4, "chat-7", 6},
        .extents = some_extents,
        .n_extents = 2,
        .part = 1,
        .n_parts = 1,
        .before = &before,
        .after = &after,
        .mono_ns = 77};
    Kvpool__V1__AllocationReceipt *allocation;
    Kvpool__V1__Receipt *receipt;

    record_allocations();
    ledger_observer(ledger)->allocated(ledger, &told);
    receipt = read_one(1);
    allocation = receipt->allocation;
    ck_assert_int_eq(receipt->kind_case, KVPOOL__V1__RECEIPT__KIND_ALLOCATION);
    ck_assert_int_eq(receipt->mono_ns, 77);
    ck_assert_str_eq(allocation->session_id, "chat-7");
    ck_assert_str_eq(allocation->tenant, "acme");
    ck_assert_uint_eq(allocation->n_extents, 2);
    ck_assert_uint_eq(allocation->extents[0]->offset, 8192);
    ck_assert_uint_eq(allocation->extents[1]->size, 4096);
    ck_assert_uint_eq(allocation->n_reused_extents, 0);
    ck_assert_uint_eq(allocation->before->used_memory_bytes, 4096);
    ck_assert_uint_eq(allocation->after->used_memory_bytes, 12288);
    ck_assert_ptr_null(allocation->part);
    free_receipt(receipt);

    told.reused = some_extents;
    told.n_reused = 2;
    told.n_extents = 0;
    told.part = 2;
    told.n_parts = 3;
    ledger_observer(ledger)->allocated(ledger, &told);
    receipt = read_one(2);
    allocation = receipt->allocation;
    ck_assert_uint_eq(allocation->n_extents, 0);
    ck_assert_uint_eq(allocation->n_reused_extents, 2);
    ck_assert_uint_eq(allocation->reused_extents[0]->offset, 8192);
    ck_assert_uint_eq(allocation->part->number, 2);
    ck_assert_uint_eq(allocation->part->count, 3);
    free_receipt(receipt);
}
END_TEST

START_TEST(a_release_waits_for_its_zeroes_as_an_eviction_does)
{
    const struct pool_stats stats = {.used_bytes = 4096};
    struct pool_release told = {.key = {"acme", 4, "", 0},
        .extents = some_extents,
        .n_extents = 1,
        .part = 1,
        .n_parts = 1,
        .before = &stats,
        .after = &stats,
        .scrub_id = 1};
    Kvpool__V1__Receipt *receipt;

    record_allocations();
    ledger_observer(ledger)->released(ledger, &told);
    told.extents = NULL;
    told.n_extents = told.scrub_id = 0;
    told.shared = some_extents;
    told.n_shared = 2;
    ledger_observer(ledger)->released(ledger, &told);
    ck_assert_uint_eq(applied(), 2);
    ck_assert_uint_eq(durable(), 0);
    scrubbed(1);
    ck_assert_uint_eq(durable(), 2);
    receipt = read_one(1);
    ck_assert_int_eq(receipt->kind_case, KVPOOL__V1__RECEIPT__KIND_RELEASE);
    ck_assert_str_eq(receipt->release->session_id, "");
    ck_assert_str_eq(receipt->release->tenant, "acme");
    ck_assert_uint_eq(receipt->release->n_extents, 1);
    ck_assert_uint_eq(receipt->release->n_shared_extents, 0);
    free_receipt(receipt);
    receipt = read_one(2);
    ck_assert_uint_eq(receipt->release->n_extents, 0);
    ck_assert_uint_eq(receipt->release->n_shared_extents, 2);
    free_receipt(receipt);
}
END_TEST

START_TEST(a_recomputation_names_the_eviction_that_left_its_number)
{
    const uint8_t trace_id[16] = {9};
    struct pool_recomputation told = {.key = {"acme", 4, "chat-7", 6},
        .reason = POOL_REASON_TTL,
        .gap_ns = 11,
        .tokens = 40,
        .blocks = 3,
        .duration_ns = 12,
        .trace_id = trace_id,
        .mono_ns = 99};
    Kvpool__V1__RecomputationReceipt *recomputation;
    Kvpool__V1__Receipt *receipt;

    ledger_observer(ledger)->recomputed(ledger, &told);
    ck_assert_uint_eq(applied(), 0); /* there is no receipt to name */
    told.note = 5;
    ledger_observer(ledger)->recomputed(ledger, &told);
    receipt = read_one(1);
    recomputation = receipt->recomputation;
    ck_assert_int_eq(
        receipt->kind_case, KVPOOL__V1__RECEIPT__KIND_RECOMPUTATION);
    ck_assert_mem_eq(receipt->trace_id.data, trace_id, 16);
    ck_assert_str_eq(recomputation->session_id, "chat-7");
    ck_assert_str_eq(recomputation->tenant, "acme");
    ck_assert_uint_eq(recomputation->eviction_sequence, 5);
    ck_assert_int_eq((int)recomputation->reason, POOL_REASON_TTL);
    ck_assert_int_eq(recomputation->gap_ns, 11);
    ck_assert_uint_eq(recomputation->tokens_recomputed, 40);
    ck_assert_uint_eq(recomputation->blocks_recomputed, 3);
    ck_assert_int_eq(recomputation->duration_ns, 12);
    free_receipt(receipt);
}
END_TEST

START_TEST(a_batch_names_its_members_and_their_sums)
{
    Kvpool__V1__Receipt *receipt;

    for (int i = 0; i < 3; i++)
        scrubbed(events_evict(events, POOL_REASON_TTL, 2));
    events_batch(events, POOL_REASON_TTL);
    scrubbed(events_evict(events, POOL_REASON_LRU, 2));
    events_batch(events, POOL_REASON_LRU);

    receipt = read_one(4);
    ck_assert_uint_eq(receipt->eviction_batch->count, 3);
    ck_assert_uint_eq(receipt->eviction_batch->first_sequence, 1);
    ck_assert_uint_eq(receipt->eviction_batch->last_sequence, 3);
    ck_assert_int_eq(receipt->eviction_batch->reason, 3);
    ck_assert_str_eq(receipt->eviction_batch->policy, "");
    ck_assert_int_eq(receipt->eviction_batch->duration_ns, 700);
    ck_assert_double_eq_tol(
        receipt->eviction_batch->fragmentation_after, 6.0 / 7, 1e-12);
    ck_assert_double_eq(receipt->eviction_batch->fragmentation_before, 0);
    free_receipt(receipt);
    receipt = read_one(6);
    ck_assert_uint_eq(receipt->eviction_batch->first_sequence, 5);
    ck_assert_uint_eq(receipt->eviction_batch->last_sequence, 5);
    ck_assert_uint_eq(receipt->eviction_batch->total_bytes_freed, 8192);
    ck_assert_uint_eq(receipt->eviction_batch->pool_used_before -
                          receipt->eviction_batch->pool_used_after,
        8192);
    ck_assert_str_eq(receipt->eviction_batch->policy, "lru");
    ck_assert_ptr_null(receipt->eviction_batch->call);
    free_receipt(receipt);
}
END_TEST

START_TEST(parts_are_numbered_and_belong_to_one_batch)
{
    Kvpool__V1__Receipt *receipt;

    events_evict_in_parts(events, POOL_REASON_MANUAL, POOL_PART_EXTENTS);
    events_batch(events, POOL_REASON_MANUAL);
    scrubbed(2);
    scrubbed(1);
    ck_assert_uint_eq(durable(), 3);
    receipt = read_one(2);
    ck_assert_uint_eq(receipt->eviction->part->number, 2);
    ck_assert_uint_eq(receipt->eviction->part->count, 2);
    ck_assert_uint_eq(receipt->eviction->n_extents, POOL_PART_EXTENTS);
    ck_assert_str_eq(receipt->eviction->requested_by, "anonymous");
    free_receipt(receipt);
    receipt = read_one(3);
    ck_assert_uint_eq(receipt->eviction_batch->count, 1);
    ck_assert_uint_eq(receipt->eviction_batch->first_sequence, 1);
    ck_assert_uint_eq(receipt->eviction_batch->last_sequence, 2);
    free_receipt(receipt);
}
END_TEST

/* The largest call: names of 128 bytes and numbers of 64 bits. */
static Kvpool__V1__EvictOutcome *largest_outcome(void)
{
    static char name[129], principal[LEDGER_MAX_PRINCIPAL_BYTES + 1];
    static Kvpool__V1__SessionKey key = KVPOOL__V1__SESSION_KEY__INIT;
    static Kvpool__V1__EvictOutcome outcome = KVPOOL__V1__EVICT_OUTCOME__INIT;

    memset(name, 'n', 128);
    memset(principal, 'p', sizeof principal - 1);
    key.tenant = key.session_id = name;
    outcome.target = UINT32_MAX;
    outcome.session = &key;
    outcome.result = KVPOOL__V1__EVICT_RESULT__EVICT_RESULT_EVICTED;
    outcome.bytes_freed = outcome.blocks_freed = UINT64_MAX;
    outcome.shared_blocks_kept = outcome.tokens_kept = UINT64_MAX;
    outcome.sequence = UINT64_MAX;
    outcome.preempted = 1;
    return &outcome;
}

START_TEST(a_call_is_told_with_its_next_batch_however_large_its_outcomes)
{
    static uint8_t digest[32];
    static Kvpool__V1__EvictOutcome *outcomes[LEDGER_MAX_CALL_OUTCOMES];
    static char principal[LEDGER_MAX_PRINCIPAL_BYTES + 1];
    Kvpool__V1__EvictCall call = KVPOOL__V1__EVICT_CALL__INIT;
    Kvpool__V1__Receipt *receipt;

    memset(principal, 'p', sizeof principal - 1);
    for (size_t i = 0; i < LEDGER_MAX_CALL_OUTCOMES; i++)
        outcomes[i] = largest_outcome();
    call.request_id =
        "0123456789012345678901234567890123456789012345678901234567890123";
    call.request_digest = (ProtobufCBinaryData){32, digest};
    call.requested_by = principal;
    call.number = UINT32_MAX;
    call.final = 1;
    call.outcomes = outcomes;
    call.n_outcomes = LEDGER_MAX_CALL_OUTCOMES;
    ledger_set_call(ledger, &call);
    events_evict(events, POOL_REASON_TTL, 0); /* of which it knows nothing */
    events_batch(events, POOL_REASON_TTL);
    events_batch(events, POOL_REASON_MANUAL);
    events_batch(events, POOL_REASON_MANUAL);
    ck_assert(!ledger_failed(ledger));

    receipt = read_one(2);
    ck_assert_ptr_null(receipt->eviction_batch->call);
    free_receipt(receipt);
    receipt = read_one(3);
    ck_assert_uint_eq(
        receipt->eviction_batch->call->n_outcomes, LEDGER_MAX_CALL_OUTCOMES);
    ck_assert_uint_eq(receipt->eviction_batch->count, 0);
    ck_assert_uint_eq(receipt->eviction_batch->first_sequence, 0);
    ck_assert_uint_le(kvpool__v1__receipt__get_packed_size(receipt),
        LEDGER_MAX_RECEIPT_BYTES);
    free_receipt(receipt);
    receipt = read_one(4);
    ck_assert_ptr_null(receipt->eviction_batch->call);
    free_receipt(receipt);
}
END_TEST

START_TEST(a_receipt_too_large_for_a_record_fails_the_ledger_and_writes_nothing)
{
    static char name[70000];
    Kvpool__V1__EvictCall call = KVPOOL__V1__EVICT_CALL__INIT;
    uint64_t scrub_id = events_evict(events, POOL_REASON_MANUAL, 1);

    memset(name, 'x', sizeof name - 1);
    call.requested_by = name;
    ledger_set_call(ledger, &call);
    events_batch(events, POOL_REASON_MANUAL);
    ck_assert(ledger_failed(ledger));
    ck_assert_uint_eq(applied(), 1);
    events_evict(events, POOL_REASON_MANUAL, 1);
    ledger_issue_drain(ledger, "SIGTERM", 1, 1);
    ck_assert_uint_eq(applied(), 1);
    scrubbed(scrub_id); /* what was numbered is still released */
    ck_assert_uint_eq(durable(), 1);
    free_receipt(read_one(1));
}
END_TEST

START_TEST(lifecycle_and_snapshot_receipts_say_what_was_given)
{
    const uint8_t digest[32] = {9};
    char model[1000];
    const struct ledger_boot boot = {.version = "0.1.0",
        .policy = "lru",
        .model = model,
        .total_blocks = 10,
        .block_bytes = 64,
        .block_tokens = 16,
        .model_digest = digest};
    struct ledger_pool_snapshot snapshot = {.stats = events->stats,
        .sessions_created = 4,
        .evictions_by_reason = {0, 5, 0, 2}};
    Kvpool__V1__Receipt *receipt;

    memset(model, 'm', sizeof model - 1);
    memcpy(model + 255, "\xC3\xA9", 2); /* lies across the cut */
    model[sizeof model - 1] = '\0';
    snapshot.stats.used_bytes = snapshot.stats.total_bytes / 4;
    ledger_issue_boot(ledger, &boot, 11);
    ledger_issue_snapshot(ledger, &snapshot, 12);
    ledger_issue_drain(ledger, "SIGTERM", 10, 13);
    receipt = read_one(1);
    ck_assert_str_eq(receipt->lifecycle->boot->version, "0.1.0");
    ck_assert_str_eq(receipt->lifecycle->boot->policy, "lru");
    ck_assert_uint_eq(strlen(receipt->lifecycle->boot->model), 255);
    ck_assert_uint_eq(receipt->lifecycle->boot->total_blocks, 10);
    ck_assert_uint_eq(receipt->lifecycle->boot->block_bytes, 64);
    ck_assert_uint_eq(receipt->lifecycle->boot->block_tokens, 16);
    ck_assert_mem_eq(receipt->lifecycle->boot->model_digest.data, digest, 32);
    ck_assert_mem_eq(
        receipt->lifecycle->config_digest.data, tiny.config_digest, 32);
    free_receipt(receipt);
    receipt = read_one(2);
    ck_assert_double_eq(receipt->pool_snapshot->utilization, 0.25);
    ck_assert_uint_eq(receipt->pool_snapshot->total_sessions_created, 4);
    ck_assert_uint_eq(receipt->pool_snapshot->n_evictions_by_reason, 2);
    ck_assert_int_eq(receipt->pool_snapshot->evictions_by_reason[1]->reason, 3);
    ck_assert_uint_eq(receipt->pool_snapshot->evictions_by_reason[1]->count, 2);
    ck_assert_str_eq(receipt->pool_snapshot->tiers[0]->tier, "memory");
    free_receipt(receipt);
    receipt = read_one(3);
    ck_assert_str_eq(receipt->lifecycle->drain->cause, "SIGTERM");
    ck_assert_int_eq(receipt->lifecycle->drain->limit_ns, 10);
    ck_assert_int_eq(receipt->mono_ns, 13);
    free_receipt(receipt);
}
END_TEST

START_TEST(performance_is_in_receipts_of_tuning_builds_and_only_if_measured)
{
    static struct performance performance;
    struct ledger_config config = tiny;
    Kvpool__V1__Receipt *receipt;

    performance_init(
        &performance, &(struct performance_settings){.window_ns = 1000,
                          .kv_cache_size_mb = 5,
                          .max_batch_size = 6,
                          .batch_timeout_ms = 7});
    ledger_close(ledger);
    config.performance = &performance;
    ck_assert_int_eq(ledger_open(&ledger, &config, NULL), KV_OK);
    events_init(events, ledger_observer(ledger));
    scrubbed(events_evict(events, POOL_REASON_TTL, 1));
    performance_add(&performance, 1, 2000000);
    scrubbed(events_evict(events, POOL_REASON_TTL, 1));

    receipt = read_one(1);
    ck_assert_ptr_null(receipt->eviction->performance);
    free_receipt(receipt);
    receipt = read_one(2);
    ck_assert_int_eq(receipt->eviction->performance != NULL, KVPOOL_TUNING);
    if (KVPOOL_TUNING) {
        const Kvpool__V1__PerformanceReport *report =
            receipt->eviction->performance;

        ck_assert_uint_eq(report->sample_count, 1);
        ck_assert_double_eq(report->average_latency_ms, 2);
        ck_assert_int_eq(report->window_ns, 1000);
        ck_assert_uint_eq(report->kv_cache_size_mb, 5);
        ck_assert_uint_eq(report->max_batch_size, 6);
        ck_assert_uint_eq(report->batch_timeout_ms, 7);
    }
    free_receipt(receipt);
}
END_TEST

struct counting_watcher {
    struct ledger_watcher watcher;
    struct ledger_watcher *victim; /* unwatched when called */
    int n_calls;
};

static void on_durable(struct ledger_watcher *watcher)
{
    struct counting_watcher *self = (struct counting_watcher *)(void *)watcher;

    self->n_calls++;
    if (self->victim != NULL)
        ledger_unwatch(ledger, self->victim);
    self->victim = NULL;
}

START_TEST(watchers_hear_of_every_release_and_may_remove_each_other)
{
    struct counting_watcher watchers[4] = {{{0}, NULL, 0}};
    uint64_t scrub_id;

    for (int i = 0; i < 4; i++) {
        watchers[i].watcher.on_durable = on_durable;
        ledger_watch(ledger, &watchers[i].watcher);
    }
    watchers[3].victim = &watchers[2].watcher; /* called first, removes next */
    watchers[1].victim = &watchers[1].watcher; /* removes itself */
    scrub_id = events_evict(events, POOL_REASON_LRU, 1);
    events_batch(events, POOL_REASON_LRU);
    ck_assert_int_eq(watchers[0].n_calls, 0);
    scrubbed(scrub_id);
    ck_assert_int_eq(watchers[0].n_calls, 1);
    ck_assert_int_eq(watchers[1].n_calls, 1);
    ck_assert_int_eq(watchers[2].n_calls, 0);
    ck_assert_int_eq(watchers[3].n_calls, 1);
    events_evict(events, POOL_REASON_LRU, 0);
    ck_assert_int_eq(watchers[0].n_calls, 2);
    ck_assert_int_eq(watchers[1].n_calls, 1);
    ck_assert_int_eq(watchers[3].n_calls, 2);
    ledger_unwatch(ledger, &watchers[0].watcher);
    ledger_unwatch(ledger, &watchers[3].watcher);
}
END_TEST

START_TEST(
    a_ring_too_small_and_an_epoch_of_zero_are_refused_with_what_is_allowed)
{
    struct ledger_config config = tiny;
    struct ledger *other = NULL;
    struct kv_error error;

    config.ring_bytes = 1000;
    ck_assert_int_eq(ledger_open(&other, &config, &error), KV_INVALID);
    ck_assert_ptr_nonnull(strstr(error.text, "1000"));
    ck_assert_ptr_nonnull(strstr(error.text, "1048576"));
    config = tiny;
    config.epoch = 0;
    ck_assert_int_eq(ledger_open(&other, &config, &error), KV_INVALID);
    ck_assert_ptr_nonnull(strstr(error.text, "epoch"));
    ck_assert_ptr_null(other);
}
END_TEST

START_TEST(open_gives_everything_back_when_memory_runs_out)
{
    struct ledger *other = NULL;
    int before = faulty_heap_live();
    int nth = 0;

    faulty_heap_fail_at(nth);
    while (ledger_open(&other, &tiny, NULL) == KV_NO_MEMORY) {
        ck_assert_ptr_null(other);
        ck_assert_int_eq(faulty_heap_live(), before);
        faulty_heap_fail_at(++nth);
    }
    ck_assert_int_gt(nth, 2);
    faulty_heap_fail_at(-1);
    ledger_close(other);
}
END_TEST

START_TEST(without_memory_the_ring_shrinks_and_no_number_is_lost)
{
    struct feed_cursor cursor = {0};
    struct feed_run run;
    uint64_t sequence = 0;

    for (int i = 0; i < 100; i++)
        scrubbed(events_evict(events, POOL_REASON_TTL, 100));
    faulty_heap_fail_at(0);
    for (int i = 0; i < 900; i++) /* the tree's first piece holds 1,024 */
        scrubbed(events_evict(events, POOL_REASON_TTL, 100));
    ck_assert(!ledger_failed(ledger));
    ck_assert_uint_eq(durable(), 1000);
    ck_assert_int_eq(feed_next(ledger, &cursor, 1, 1, &run), KV_DATA_LOSS);
    sequence = ledger_position(ledger).oldest_sequence;
    ck_assert_uint_gt(sequence, 1);
    cursor.sequence = sequence - 1;
    while (feed_next(ledger, &cursor, 7, 4000, &run) == KV_OK) {
        ck_assert_uint_eq(run.first_sequence, sequence);
        sequence += run.n_receipts;
        feed_run_release(run.chunk);
    }
    ck_assert_uint_eq(sequence, 1001);
    faulty_heap_fail_at(-1);
}
END_TEST

START_TEST(where_the_tree_cannot_grow_the_ledger_fails_and_stays_readable)
{
    uint64_t n = 1;

    scrubbed(events_evict(events, POOL_REASON_TTL, 100));
    faulty_heap_fail_at(0);
    for (; !ledger_failed(ledger); n++) {
        scrubbed(events_evict(events, POOL_REASON_TTL, 100));
        ck_assert_uint_lt(n, 2000);
    }
    faulty_heap_fail_at(-1);
    ck_assert_uint_eq(applied(), n - 1);
    ck_assert_uint_eq(durable(), n - 1);
    ck_assert_uint_eq(merkle_size(ledger_tree(ledger)), n - 1);
    free_receipt(read_one(ledger_position(ledger).oldest_sequence));
    free_receipt(read_one(n - 1));
}
END_TEST

/* Every receipt's bytes, as a reader gets them. */
START_TEST(the_tree_is_over_the_bytes_that_readers_get)
{
    struct merkle_frontier frontier = {.n_leaves = 0};
    struct merkle_hasher hasher;
    struct merkle_hash leaf, root, expected;
    struct feed_cursor cursor = {0};
    struct feed_run run;

    ck_assert_int_eq(merkle_hasher_init(&hasher), KV_OK);
    for (size_t i = 0; i < 300; i++)
        scrubbed(events_evict(events, POOL_REASON_TTL, i % 40 + 1));
    while (feed_next(ledger, &cursor, 100, 65536, &run) == KV_OK) {
        const unsigned char *at = run.bytes, *receipt;
        size_t n_bytes;

        while (feed_run_entry(&run, &at, &receipt, &n_bytes)) {
            ck_assert(merkle_hash_leaf(&hasher, receipt, n_bytes, &leaf));
            ck_assert(merkle_frontier_append(&hasher, &frontier, &leaf));
        }
        feed_run_release(run.chunk);
        ck_assert(merkle_frontier_root(&hasher, &frontier, &root));
        ck_assert(merkle_root(ledger_tree(ledger), cursor.sequence, &expected));
        ck_assert_mem_eq(root.bytes, expected.bytes, 32);
    }
    ck_assert_uint_eq(frontier.n_leaves, 300);
    merkle_hasher_fini(&hasher);
}
END_TEST

START_TEST(
    when_every_chunk_waits_and_memory_is_out_the_ledger_fails_and_says_so)
{
    uint64_t n = 1;

    events_evict(events, POOL_REASON_TTL, 100);
    faulty_heap_fail_at(0);
    while (!ledger_failed(ledger)) {
        events_evict(events, POOL_REASON_TTL, 100);
        n++;
        ck_assert_uint_lt(n, 100000);
    }
    ck_assert_uint_eq(applied(), n - 1);
    ck_assert_uint_eq(durable(), 0);
    faulty_heap_fail_at(-1);
    for (uint64_t scrub_id = 1; scrub_id <= n; scrub_id++)
        scrubbed(scrub_id);
    ck_assert_uint_eq(durable(), n - 1);
    free_receipt(read_one(1));
    free_receipt(read_one(n - 1));
}
END_TEST

START_TEST(waiting_receipts_may_take_the_ring_beyond_its_limit_but_only_they)
{
    struct ledger_position position;

    for (int i = 0; i < 2000; i++)
        events_evict(events, POOL_REASON_TTL, 200);
    position = ledger_position(ledger);
    ck_assert_uint_gt(position.stored_bytes, position.limit_bytes);
    ck_assert_uint_eq(position.oldest_sequence, 0);
    for (uint64_t scrub_id = 2000; scrub_id >= 1; scrub_id--)
        scrubbed(scrub_id);
    position = ledger_position(ledger);
    ck_assert_uint_eq(position.durable_sequence, 2000);
    ck_assert_uint_le(position.stored_bytes, position.limit_bytes);
    ck_assert_uint_gt(position.oldest_sequence, 1);
}
END_TEST

int main(void)
{
    const TTest *tests[] = {
        a_receipt_is_numbered_at_once_and_read_once_its_blocks_are_zeroed,
        an_eviction_receipt_says_all_that_the_pool_told,
        no_receipt_of_any_kind_overtakes_one_that_waits_for_zeroes,
        allocations_and_releases_are_not_listened_to_unless_asked_for,
        an_allocation_receipt_says_all_that_the_pool_told,
        a_release_waits_for_its_zeroes_as_an_eviction_does,
        a_recomputation_names_the_eviction_that_left_its_number,
        a_batch_names_its_members_and_their_sums,
        parts_are_numbered_and_belong_to_one_batch,
        a_call_is_told_with_its_next_batch_however_large_its_outcomes,
        a_receipt_too_large_for_a_record_fails_the_ledger_and_writes_nothing,
        lifecycle_and_snapshot_receipts_say_what_was_given,
        performance_is_in_receipts_of_tuning_builds_and_only_if_measured,
        watchers_hear_of_every_release_and_may_remove_each_other,
        a_ring_too_small_and_an_epoch_of_zero_are_refused_with_what_is_allowed,
        open_gives_everything_back_when_memory_runs_out,
        without_memory_the_ring_shrinks_and_no_number_is_lost,
        where_the_tree_cannot_grow_the_ledger_fails_and_stays_readable,
        the_tree_is_over_the_bytes_that_readers_get,
        when_every_chunk_waits_and_memory_is_out_the_ledger_fails_and_says_so,
        waiting_receipts_may_take_the_ring_beyond_its_limit_but_only_they,
    };

    return CHECK_RUN("ledger", set_up, tear_down, tests);
}
