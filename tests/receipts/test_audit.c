#include "receipts/audit.h"

#include <stdio.h>
#include <string.h>

#include "receipts/ledger.h"
#include "tests/receipts/events.h"
#include "tests/receipts/pool_history.h"
#include "tests/receipts/random_receipt.h"
#include "tests/support/check_main.h"
#include "tests/support/faulty_heap.h"

static struct pool_history history;

static enum kv_status audit_from(size_t begin, struct kv_error *error)
{
    enum kv_status status = KV_OK;
    struct audit audit;

    ck_assert_int_eq(audit_init(&audit), KV_OK);
    for (size_t i = begin; status == KV_OK && i < history.n_receipts; i++)
        status = audit_add(&audit, history.receipts[i], error);
    if (status == KV_OK)
        status = audit_end(&audit, error);
    audit_fini(&audit);
    return status;
}

START_TEST(an_audit_may_begin_anywhere)
{
    struct kv_error error = {0};

    pool_history_run(&history, 3, 300, false);
    for (size_t begin = 0; begin < history.n_receipts; begin++)
        ck_assert_msg(audit_from(begin, &error) == KV_OK, "from %zu: %s", begin,
            error.text);
    pool_history_free(&history);
}
END_TEST

/* The address of an unsigned 64-bit field by its path, NULL if absent. */
static uint64_t *find_number(ProtobufCMessage *message, const char *path)
{
    const char *dot = strchr(path, '.');
    char name[64];
    const ProtobufCFieldDescriptor *field;
    char *at;

    snprintf(name, sizeof name, "%.*s",
        dot != NULL ? (int)(dot - path) : (int)strlen(path), path);
    field = protobuf_c_message_descriptor_get_field_by_name(
        message->descriptor, name);
    ck_assert_msg(field != NULL, "%s", path);
    at = (char *)message + field->offset;
    if (dot == NULL)
        return (uint64_t *)(void *)at;
    message = *(ProtobufCMessage **)(void *)at;
    return message != NULL ? find_number(message, dot + 1) : NULL;
}

static void expect_caught(const char *what, uint64_t sequence)
{
    struct kv_error error = {0};

    ck_assert_msg(audit_from(0, &error) == KV_INVALID,
        "%s of receipt %d was changed unnoticed", what, (int)sequence);
    ck_assert_int_gt((int)strlen(error.text), 10);
}

static void tamper(Kvpool__V1__Receipt__KindCase kind, const char *path)
{
    size_t n_tampered = 0;

    for (size_t i = 0; i < history.n_receipts; i++) {
        Kvpool__V1__Receipt *receipt = history.receipts[i];
        uint64_t *number;

        if (receipt->kind_case != kind)
            continue;
        number = find_number(&receipt->eviction->base, path);
        if (number == NULL)
            continue;
        *number += 1;
        expect_caught(path, receipt->sequence);
        *number -= 1;
        n_tampered++;
    }
    ck_assert_msg(n_tampered > 0, "%s", path);
}

START_TEST(every_number_that_is_promised_to_add_up_is_missed_when_changed)
{
    static const char *const of_evictions[] = {"block_size_bytes",
        "blocks_freed", "before.used_memory_bytes",
        "before.allocated_bytes_total", "before.freed_bytes_total",
        "before.evictions", "before.cache_hits", "before.cache_misses",
        "before.total_memory_bytes", "before.total_sessions",
        "after.used_memory_bytes", "after.allocated_bytes_total",
        "after.freed_bytes_total", "after.evictions", "after.cache_hits",
        "after.cache_misses", "after.total_memory_bytes"};
    static const char *const of_batches[] = {"count", "total_bytes_freed",
        "pool_used_before", "pool_used_after", "first_sequence",
        "last_sequence"};
    static const char *const of_snapshots[] = {"pool_used", "pool_total",
        "total_evictions", "allocated_bytes_total", "freed_bytes_total"};

    pool_history_run(&history, 5, 200, false);
    for (size_t i = 0; i < sizeof of_evictions / sizeof *of_evictions; i++)
        tamper(KVPOOL__V1__RECEIPT__KIND_EVICTION, of_evictions[i]);
    for (size_t i = 0; i < sizeof of_batches / sizeof *of_batches; i++)
        tamper(KVPOOL__V1__RECEIPT__KIND_EVICTION_BATCH, of_batches[i]);
    for (size_t i = 0; i < sizeof of_snapshots / sizeof *of_snapshots; i++)
        tamper(KVPOOL__V1__RECEIPT__KIND_POOL_SNAPSHOT, of_snapshots[i]);
    pool_history_free(&history);
}
END_TEST

static void change_and_check(Kvpool__V1__Receipt *receipt)
{
    Kvpool__V1__EvictionReceipt *eviction = receipt->eviction;
    Kvpool__V1__EvictionReason reason = eviction->reason;

    eviction->zeroed = !eviction->zeroed;
    expect_caught("zeroed", receipt->sequence);
    eviction->zeroed = !eviction->zeroed;
    eviction->reason = 0;
    expect_caught("reason", receipt->sequence);
    eviction->reason = reason;
    if (eviction->n_extents == 0)
        return;
    eviction->extents[0]->offset += 1;
    expect_caught("an extent's offset", receipt->sequence);
    eviction->extents[0]->offset -= 1;
    eviction->extents[0]->size += 128;
    expect_caught("an extent's size", receipt->sequence);
    eviction->extents[0]->size -= 128;
    eviction->block_offset += 128;
    expect_caught("block_offset", receipt->sequence);
    eviction->block_offset -= 128;
}

START_TEST(what_is_no_number_is_missed_too)
{
    pool_history_run(&history, 6, 200, false);
    for (size_t i = 0; i < history.n_receipts; i++) {
        Kvpool__V1__Receipt *receipt = history.receipts[i];
        Kvpool__V1__EvictionBatchReceipt *batch = receipt->eviction_batch;

        if (receipt->kind_case == KVPOOL__V1__RECEIPT__KIND_EVICTION)
            change_and_check(receipt);
        if (receipt->kind_case == KVPOOL__V1__RECEIPT__KIND_EVICTION_BATCH &&
            batch->count > 0) {
            batch->fragmentation_after += 0.001;
            expect_caught("fragmentation_after", receipt->sequence);
            batch->fragmentation_after -= 0.001;
        }
        receipt->epoch++;
        expect_caught("epoch", receipt->sequence);
        receipt->epoch--;
        receipt->pool_id.data[3]++;
        expect_caught("pool_id", receipt->sequence);
        receipt->pool_id.data[3]--;
        receipt->pool_id.len--;
        expect_caught("length of pool_id", receipt->sequence);
        receipt->pool_id.len++;
    }
    pool_history_free(&history);
}
END_TEST

static void swap(size_t i, size_t j)
{
    Kvpool__V1__Receipt *kept = history.receipts[i];

    history.receipts[i] = history.receipts[j];
    history.receipts[j] = kept;
}

/* As a forger would: the neighbours' numbers are made dense again. */
static void renumber(void)
{
    for (size_t i = 0; i < history.n_receipts; i++)
        history.receipts[i]->sequence = i + 1;
}

START_TEST(an_eviction_left_out_or_moved_is_missed_even_when_renumbered)
{
    pool_history_run(&history, 8, 200, false);
    for (size_t i = 1; i + 1 < history.n_receipts; i++) {
        size_t n = history.n_receipts;

        if (history.receipts[i]->kind_case !=
            KVPOOL__V1__RECEIPT__KIND_EVICTION)
            continue;
        swap(i, i + 1);
        expect_caught("the place", i);
        renumber();
        expect_caught("the place", i);
        swap(i, i + 1);
        renumber();

        for (size_t j = i; j + 1 < n; j++)
            swap(j, j + 1);
        history.n_receipts--;
        expect_caught("the presence", i);
        renumber();
        expect_caught("the presence", i);
        history.n_receipts++;
        for (size_t j = n - 1; j > i; j--)
            swap(j, j - 1);
        renumber();
    }
    ck_assert_int_eq(audit_from(0, NULL), KV_OK);
    pool_history_free(&history);
}
END_TEST

/* ---- with receipts of allocations and releases */

START_TEST(blocks_are_audited_from_anywhere_as_far_as_they_are_known)
{
    struct kv_error error = {0};

    pool_history_run(&history, 4, 300, true);
    for (size_t begin = 0; begin < history.n_receipts; begin++)
        ck_assert_msg(audit_from(begin, &error) == KV_OK, "from %zu: %s", begin,
            error.text);
    pool_history_free(&history);
}
END_TEST

START_TEST(every_number_of_an_allocation_or_release_is_missed_when_changed)
{
    static const char *const of_changes[] = {"before.used_memory_bytes",
        "before.allocated_bytes_total", "before.freed_bytes_total",
        "before.evictions", "before.cache_hits", "before.cache_misses",
        "before.total_memory_bytes", "after.used_memory_bytes",
        "after.allocated_bytes_total", "after.freed_bytes_total",
        "after.evictions", "after.cache_hits", "after.cache_misses",
        "after.total_memory_bytes"};

    pool_history_run(&history, 15, 60, true);
    for (size_t i = 0; i < sizeof of_changes / sizeof *of_changes; i++) {
        tamper(KVPOOL__V1__RECEIPT__KIND_ALLOCATION, of_changes[i]);
        tamper(KVPOOL__V1__RECEIPT__KIND_RELEASE, of_changes[i]);
        tamper(KVPOOL__V1__RECEIPT__KIND_EVICTION, of_changes[i]);
    }
    pool_history_free(&history);
}
END_TEST

static void misattribute(char **session_id, uint64_t sequence)
{
    char *kept = *session_id;

    *session_id = (char *)"nobody";
    expect_caught("the session", sequence);
    *session_id = kept;
}

/* Consistent in itself: an eviction's block_offset is moved along. */
static void misplace(
    Kvpool__V1__Extent **extents, size_t n, uint64_t *first, uint64_t sequence)
{
    for (size_t i = 0; i < n; i++) {
        uint64_t offset = extents[i]->offset;

        for (uint64_t at = 0; at < POOL_HISTORY_BLOCKS; at += 7) {
            if (at * POOL_HISTORY_BLOCK_BYTES == offset)
                continue;
            extents[i]->offset = at * POOL_HISTORY_BLOCK_BYTES;
            *first = extents[0]->offset;
            expect_caught("the place of an extent", sequence);
            extents[i]->offset = offset;
        }
        *first = extents[0]->offset;
    }
}

START_TEST(a_block_given_twice_or_taken_from_another_is_missed)
{
    pool_history_run(&history, 16, 60, true);
    for (size_t i = 0; i < history.n_receipts; i++) {
        Kvpool__V1__Receipt *receipt = history.receipts[i];
        Kvpool__V1__EvictionReceipt *eviction = receipt->eviction;
        Kvpool__V1__ReleaseReceipt *release = receipt->release;

        if (receipt->kind_case == KVPOOL__V1__RECEIPT__KIND_EVICTION) {
            misattribute(&eviction->session_id, i + 1);
            misattribute(&eviction->tenant, i + 1);
            misplace(eviction->extents, eviction->n_extents,
                &eviction->block_offset, i + 1);
            eviction->shared_blocks_kept++;
            expect_caught("shared_blocks_kept", i + 1);
            eviction->shared_blocks_kept--;
            if (eviction->n_shared_extents > 0) {
                eviction->n_shared_extents--;
                expect_caught("a shared extent left out", i + 1);
                eviction->n_shared_extents++;
            }
        }
        if (receipt->kind_case == KVPOOL__V1__RECEIPT__KIND_RELEASE) {
            uint64_t none;

            misattribute(&release->session_id, i + 1);
            misattribute(&release->tenant, i + 1);
            /* A session might have given back another of its blocks. */
            if (release->session_id[0] == '\0')
                misplace(release->extents, release->n_extents, &none, i + 1);
        }
    }
    pool_history_free(&history);
}
END_TEST

static void spoil(ProtobufCBinaryData *key, const char *what, uint64_t sequence)
{
    key->data[5] ^= 1;
    expect_caught(what, sequence);
    key->data[5] ^= 1;
    key->len--;
    expect_caught("the length of a key", sequence);
    key->len++;
}

START_TEST(a_key_that_others_or_the_session_itself_do_not_have_is_missed)
{
    size_t n_parents = 0;

    pool_history_run(&history, 18, 200, true);
    for (size_t i = 0; i < history.n_receipts; i++) {
        Kvpool__V1__Receipt *receipt = history.receipts[i];

        if (receipt->kind_case != KVPOOL__V1__RECEIPT__KIND_ALLOCATION ||
            receipt->allocation->parent_key.len == 0)
            continue;
        spoil(&receipt->allocation->parent_key, "a parent's key", i + 1);
        n_parents++;
    }
    ck_assert_uint_gt(n_parents, 0);
    pool_history_free(&history);
}
END_TEST

static bool is_change_of_blocks(const Kvpool__V1__Receipt *receipt)
{
    return receipt->kind_case == KVPOOL__V1__RECEIPT__KIND_ALLOCATION ||
           receipt->kind_case == KVPOOL__V1__RECEIPT__KIND_RELEASE;
}

START_TEST(an_allocation_or_release_left_out_is_missed_even_when_renumbered)
{
    pool_history_run(&history, 17, 80, true);
    for (size_t i = 1; i + 2 < history.n_receipts; i++) {
        size_t n = history.n_receipts;

        if (!is_change_of_blocks(history.receipts[i]))
            continue;
        for (size_t j = i; j + 1 < n; j++)
            swap(j, j + 1);
        history.n_receipts--;
        renumber();
        expect_caught("the presence", i);
        history.n_receipts++;
        for (size_t j = n - 1; j > i; j--)
            swap(j, j - 1);
        renumber();
    }
    ck_assert_int_eq(audit_from(0, NULL), KV_OK);
    pool_history_free(&history);
}
END_TEST

START_TEST(who_came_back_names_the_eviction_it_was_evicted_by)
{
    static const char *const numbers[] = {
        "eviction_sequence", "gap_ns", "duration_ns"};
    size_t n_found = 0;

    pool_history_run(&history, 18, 300, false);
    for (size_t i = 0; i < history.n_receipts; i++) {
        Kvpool__V1__RecomputationReceipt *told =
            history.receipts[i]->recomputation;

        if (history.receipts[i]->kind_case !=
            KVPOOL__V1__RECEIPT__KIND_RECOMPUTATION)
            continue;
        n_found++;
        for (size_t k = 0; k < sizeof numbers / sizeof *numbers; k++) {
            uint64_t *number = find_number(&told->base, numbers[k]);
            uint64_t kept = *number;

            *number = k == 0 ? kept + 1 : INT64_MAX;
            expect_caught(numbers[k], i + 1);
            *number = k == 0 ? 0 : UINT64_MAX; /* -1 */
            expect_caught(numbers[k], i + 1);
            *number = kept;
        }
        misattribute(&told->session_id, i + 1);
        told->reason++;
        expect_caught("reason", i + 1);
        told->reason--;
    }
    ck_assert_uint_gt(n_found, 10);
    pool_history_free(&history);
}
END_TEST

/* ---- epochs */

/* The history, cut after `n` receipts, and a start after it. */
static void restart_after(size_t n, Kvpool__V1__Receipt *boot, bool clean)
{
    boot->sequence = n + 1;
    boot->epoch = 2;
    boot->lifecycle->boot->previous_sequence = n;
    boot->lifecycle->boot->clean = clean;
}

START_TEST(a_crash_may_cut_off_a_batch_and_an_end_in_order_may_not)
{
    Kvpool__V1__Receipt *boot;
    size_t n_all, n_cut = 0;

    pool_history_run(&history, 19, 100, true);
    n_all = history.n_receipts;
    boot = history.receipts[0];
    history.receipts[0] = NULL;
    for (size_t n = 2; n + 1 < n_all; n++) {
        struct kv_error error = {0};
        struct audit audit;
        bool is_member = history.receipts[n - 1]->kind_case ==
                             KVPOOL__V1__RECEIPT__KIND_EVICTION &&
                         (int)history.receipts[n - 1]->eviction->reason <
                             (int)POOL_REASON_PRESSURE;

        for (int clean = 0; clean < 2; clean++) {
            enum kv_status status = KV_OK;

            ck_assert_int_eq(audit_init(&audit), KV_OK);
            boot->sequence = boot->epoch = 1;
            boot->lifecycle->boot->previous_sequence = 0;
            ck_assert_int_eq(audit_add(&audit, boot, &error), KV_OK);
            for (size_t i = 1; status == KV_OK && i < n; i++)
                status = audit_add(&audit, history.receipts[i], &error);
            ck_assert_int_eq(status, KV_OK);
            restart_after(n, boot, clean != 0);
            status = audit_add(&audit, boot, &error);
            ck_assert_msg((status == KV_OK) == (!is_member || !clean),
                "after %zu, clean %d: %s", n, clean, error.text);
            if (status == KV_OK)
                ck_assert_uint_eq(replay_used_blocks(audit.replay), 0);
            audit_fini(&audit);
        }
        n_cut += is_member;
    }
    ck_assert_uint_gt(n_cut, 5);
    history.receipts[0] = boot;
    pool_history_free(&history);
}
END_TEST

START_TEST(an_audit_without_memory_says_so)
{
    faulty_heap_install();
    for (int nth = 0; nth < 8; nth++) {
        struct audit audit;
        enum kv_status status;

        faulty_heap_fail_at(nth);
        status = audit_init(&audit);
        faulty_heap_fail_at(-1);
        ck_assert_int_eq(status, nth < 5 ? KV_NO_MEMORY : KV_OK);
        audit_fini(&audit);
        ck_assert_int_eq(faulty_heap_live(), 0);
    }
}
END_TEST

START_TEST(no_receipt_however_strange_does_harm)
{
    srand(21);
    for (int i = 0; i < 5000; i++) {
        struct audit audit;

        ck_assert_int_eq(audit_init(&audit), KV_OK);
        for (int k = 0; k < 3; k++) {
            Kvpool__V1__Receipt *receipt = random_receipt();

            receipt->sequence = (uint64_t)k + 1;
            receipt->epoch = 1;
            audit_add(&audit, receipt, NULL);
            kvpool__v1__receipt__free_unpacked(receipt, NULL);
        }
        audit_fini(&audit);
    }
}
END_TEST

/* ---- parts, which take more runs than the small pool has */

static int64_t wall_ns(void)
{
    return 1;
}

static void run_parts(void)
{
    static struct events events;
    const struct ledger_config config = {
        .ring_bytes = LEDGER_MIN_RING_BYTES, .epoch = 1, .wall_ns = wall_ns};
    const struct ledger_boot boot = {
        .total_blocks = EVENTS_BLOCKS, .block_bytes = EVENTS_BLOCK_BYTES};
    const struct pool_observer *observer;
    struct feed_cursor cursor = {0};
    struct ledger *ledger;
    struct feed_run run;

    ck_assert_int_eq(ledger_open(&ledger, &config, NULL), KV_OK);
    observer = ledger_observer(ledger);
    events_init(&events, observer);
    ledger_issue_boot(ledger, &boot, 0);
    for (int i = 0; i < 3; i++)
        events_allocate(&events, 100);
    events_evict(&events, POOL_REASON_TTL, 3);
    events_evict_in_parts(&events, POOL_REASON_TTL, 50);
    events_evict(&events, POOL_REASON_TTL, 0);
    events_batch(&events, POOL_REASON_TTL);
    for (uint64_t id = 1; id < events.next_scrub_id; id++)
        observer->scrubbed(observer->ctx, id);
    history.receipts = calloc(6, sizeof(Kvpool__V1__Receipt *));
    for (history.n_receipts = 0; history.n_receipts < 6;) {
        const unsigned char *at, *bytes;
        size_t n_bytes;

        ck_assert_int_eq(feed_next(ledger, &cursor, 1, 0, &run), KV_OK);
        at = run.bytes;
        ck_assert(feed_run_entry(&run, &at, &bytes, &n_bytes));
        history.receipts[history.n_receipts++] =
            kvpool__v1__receipt__unpack(NULL, n_bytes, bytes);
        feed_run_release(run.chunk);
    }
    ledger_close(ledger);
}

START_TEST(parts_reconcile_each_and_follow_one_another)
{
    struct kv_error error = {0};

    run_parts();
    ck_assert_msg(audit_from(0, &error) == KV_OK, "%s", error.text);
    history.receipts[3]->eviction->before->session_tokens++;
    history.receipts[3]->eviction->after->session_tokens++;
    expect_caught("before of a part", 4);
    history.receipts[3]->eviction->before->session_tokens--;
    history.receipts[3]->eviction->after->session_tokens--;
    history.receipts[3]->eviction->part->number = 1;
    expect_caught("part", 4);
    history.receipts[3]->eviction->part->number = 2;
    history.n_receipts = 3;
    expect_caught("the end", 3);
    history.n_receipts = 4;
    expect_caught("the batch", 4);
    history.n_receipts = 6;
    pool_history_free(&history);
}
END_TEST

int main(void)
{
    const TTest *tests[] = {
        an_audit_may_begin_anywhere,
        every_number_that_is_promised_to_add_up_is_missed_when_changed,
        what_is_no_number_is_missed_too,
        an_eviction_left_out_or_moved_is_missed_even_when_renumbered,
        blocks_are_audited_from_anywhere_as_far_as_they_are_known,
        every_number_of_an_allocation_or_release_is_missed_when_changed,
        a_block_given_twice_or_taken_from_another_is_missed,
        a_key_that_others_or_the_session_itself_do_not_have_is_missed,
        an_allocation_or_release_left_out_is_missed_even_when_renumbered,
        who_came_back_names_the_eviction_it_was_evicted_by,
        a_crash_may_cut_off_a_batch_and_an_end_in_order_may_not,
        an_audit_without_memory_says_so,
        no_receipt_however_strange_does_harm,
        parts_reconcile_each_and_follow_one_another,
    };

    return CHECK_RUN("audit", NULL, NULL, tests);
}
