/* What people see, from fixed messages. */
#include <stdarg.h>
#include <string.h>

#include "cli/receipt_text.h"
#include "cli/view.h"
#include "tests/support/check_main.h"

#define MIB UINT64_C(1048576)

static char *shown;
static size_t n_shown;
static FILE *out;

static void set_up(void)
{
    out = open_memstream(&shown, &n_shown);
}

static void tear_down(void)
{
    fclose(out);
    free(shown);
}

static const char *text(void)
{
    fflush(out);
    return shown;
}

static Kvpool__V1__PoolStatistics statistics_of(
    uint64_t used_bytes, uint64_t n_sessions)
{
    Kvpool__V1__PoolStatistics statistics = KVPOOL__V1__POOL_STATISTICS__INIT;

    statistics.used_memory_bytes = used_bytes;
    statistics.total_memory_bytes = 512 * MIB;
    statistics.total_sessions = n_sessions;
    return statistics;
}

START_TEST(an_eviction_says_who_lost_what_why_and_to_what_effect)
{
    Kvpool__V1__Receipt receipt = KVPOOL__V1__RECEIPT__INIT;
    Kvpool__V1__EvictionReceipt eviction = KVPOOL__V1__EVICTION_RECEIPT__INIT;
    Kvpool__V1__PoolStatistics before = statistics_of(60 * MIB, 14);
    Kvpool__V1__PoolStatistics after = statistics_of(51 * MIB, 13);
    Kvpool__V1__Extent extent = KVPOOL__V1__EXTENT__INIT;
    Kvpool__V1__Extent *extents[] = {&extent, &extent};

    receipt.sequence = 1041;
    receipt.time_unix_ns = INT64_C(1795280400123000000);
    receipt.kind_case = KVPOOL__V1__RECEIPT__KIND_EVICTION;
    receipt.eviction = &eviction;
    eviction.session_id = (char *)"chat-7";
    eviction.tenant = (char *)"acme";
    eviction.reason = KVPOOL__V1__EVICTION_REASON__EVICTION_REASON_MANUAL;
    eviction.cause_case = KVPOOL__V1__EVICTION_RECEIPT__CAUSE_REQUESTED_BY;
    eviction.requested_by = (char *)"anonymous";
    eviction.block_offset = 128 * MIB;
    eviction.block_size_bytes = 9 * MIB;
    eviction.n_extents = 2;
    eviction.extents = extents;
    eviction.blocks_freed = 72;
    eviction.tokens_freed = 1152;
    eviction.idle_ns = INT64_C(12300000000);
    eviction.zeroed = 1;
    eviction.before = &before;
    eviction.after = &after;
    receipt_text_write(out, &receipt);
    ck_assert_str_eq(text(),
        "1041  2026-11-21T17:00:00.123Z  eviction: chat-7 of acme lost 9.0 MiB "
        "at 128.0 MiB and 1 place more (72 blocks, 1152 tokens), Manual, by "
        "anonymous, idle 12.3 s; pool 60.0 MiB -> 51.0 MiB of 512.0 MiB, 14 -> "
        "13 sessions");
}
END_TEST

START_TEST(a_receipt_stays_one_line_whatever_it_holds)
{
    static const Kvpool__V1__Receipt__KindCase kinds[] = {
        KVPOOL__V1__RECEIPT__KIND__NOT_SET,
        KVPOOL__V1__RECEIPT__KIND_EVICTION,
        KVPOOL__V1__RECEIPT__KIND_EVICTION_BATCH,
        KVPOOL__V1__RECEIPT__KIND_POOL_SNAPSHOT,
        KVPOOL__V1__RECEIPT__KIND_ALLOCATION,
        KVPOOL__V1__RECEIPT__KIND_LIFECYCLE,
        KVPOOL__V1__RECEIPT__KIND_RECOMPUTATION,
        KVPOOL__V1__RECEIPT__KIND_RELEASE,
    };
    Kvpool__V1__EvictionReceipt eviction = KVPOOL__V1__EVICTION_RECEIPT__INIT;
    Kvpool__V1__EvictionBatchReceipt batch =
        KVPOOL__V1__EVICTION_BATCH_RECEIPT__INIT;
    Kvpool__V1__PoolSnapshotReceipt snapshot =
        KVPOOL__V1__POOL_SNAPSHOT_RECEIPT__INIT;
    Kvpool__V1__AllocationReceipt allocation =
        KVPOOL__V1__ALLOCATION_RECEIPT__INIT;
    Kvpool__V1__LifecycleReceipt lifecycle =
        KVPOOL__V1__LIFECYCLE_RECEIPT__INIT;
    Kvpool__V1__RecomputationReceipt recomputation =
        KVPOOL__V1__RECOMPUTATION_RECEIPT__INIT;
    Kvpool__V1__ReleaseReceipt release = KVPOOL__V1__RELEASE_RECEIPT__INIT;
    Kvpool__V1__SessionKey key = KVPOOL__V1__SESSION_KEY__INIT;
    void *const bodies[] = {NULL, &eviction, &batch, &snapshot, &allocation,
        &lifecycle, &recomputation, &release};
    char *const evil = (char *)"a\n\x1b[2Jb";

    eviction.session_id = eviction.tenant = key.session_id = evil;
    eviction.cause_case = KVPOOL__V1__EVICTION_RECEIPT__CAUSE_FORCED_BY;
    eviction.forced_by = &key;
    batch.policy = evil;
    allocation.session_id = recomputation.tenant = release.tenant = evil;
    for (size_t i = 0; i < sizeof kinds / sizeof *kinds; i++) {
        Kvpool__V1__Receipt receipt = KVPOOL__V1__RECEIPT__INIT;

        receipt.kind_case = kinds[i];
        receipt.eviction = bodies[i];
        receipt_text_write(out, &receipt);
        ck_assert_ptr_null(strpbrk(text(), "\n\x1b"));
    }
}
END_TEST

START_TEST(every_lifecycle_has_words)
{
    Kvpool__V1__Receipt receipt = KVPOOL__V1__RECEIPT__INIT;
    Kvpool__V1__LifecycleReceipt lifecycle =
        KVPOOL__V1__LIFECYCLE_RECEIPT__INIT;
    Kvpool__V1__Boot boot = KVPOOL__V1__BOOT__INIT;
    Kvpool__V1__Drain drain = KVPOOL__V1__DRAIN__INIT;

    receipt.kind_case = KVPOOL__V1__RECEIPT__KIND_LIFECYCLE;
    receipt.lifecycle = &lifecycle;
    lifecycle.change_case = KVPOOL__V1__LIFECYCLE_RECEIPT__CHANGE_BOOT;
    lifecycle.boot = &boot;
    boot.version = (char *)"0.1.0";
    boot.previous_sequence = 9;
    receipt_text_write(out, &receipt);
    ck_assert_ptr_nonnull(strstr(text(), "boot: version 0.1.0"));
    ck_assert_ptr_nonnull(strstr(text(), "ended in a crash at 9"));
    lifecycle.change_case = KVPOOL__V1__LIFECYCLE_RECEIPT__CHANGE_DRAIN;
    lifecycle.drain = &drain;
    drain.cause = (char *)"SIGTERM";
    drain.limit_ns = INT64_C(10000000000);
    receipt_text_write(out, &receipt);
    ck_assert_ptr_nonnull(strstr(text(), "drain: SIGTERM, within 10.0 s"));
}
END_TEST

START_TEST(sessions_are_a_table)
{
    Kvpool__V1__Session session = KVPOOL__V1__SESSION__INIT;
    Kvpool__V1__SessionKey key = KVPOOL__V1__SESSION_KEY__INIT;
    struct table table;

    key.session_id = (char *)"chat-7";
    session.key = &key;
    session.state = KVPOOL__V1__SESSION_STATE__SESSION_STATE_CACHED;
    session.blocks = 72;
    session.used_bytes = 9 * MIB;
    session.tokens = 1152;
    session.cached_tokens = 1150;
    session.idle_ns = INT64_C(12300000000);
    session.age_ns = INT64_C(185000000000);
    session.hits = 3;
    view_sessions_begin(&table);
    view_sessions_add(&table, &session);
    ck_assert_int_eq(table_flush(&table, out), KV_OK);
    table_fini(&table);
    ck_assert_str_eq(text(),
        "TENANT  SESSION  STATE   BLOCKS    BYTES  TOKENS  CACHED    IDLE      "
        "  AGE  HITS  EVICTIONS\n"
        "-       chat-7   CACHED      72  9.0 MiB    1152    1150  12.3 s  3 "
        "min 5 s     3          0\n");
}
END_TEST

START_TEST(an_eviction_answer_shows_outcomes_and_receipts)
{
    Kvpool__V1__EvictResponse answer = KVPOOL__V1__EVICT_RESPONSE__INIT;
    Kvpool__V1__EvictReceipts receipts = KVPOOL__V1__EVICT_RECEIPTS__INIT;
    Kvpool__V1__EvictOutcome outcome = KVPOOL__V1__EVICT_OUTCOME__INIT;
    Kvpool__V1__EvictOutcome *outcomes[] = {&outcome};

    outcome.result = KVPOOL__V1__EVICT_RESULT__EVICT_RESULT_EVICTED;
    outcome.preempted = 1;
    answer.n_outcomes = 1;
    answer.outcomes = outcomes;
    answer.sessions_evicted = 1;
    answer.bytes_freed = 9 * MIB;
    answer.sessions_busy = 2;
    answer.sessions_held = 3;
    answer.sessions_forgotten = 4;
    answer.more = 1;
    receipts.first_sequence = 1041;
    receipts.last_sequence = 1042;
    receipts.epoch = 3;
    receipts.durable = 1;
    answer.issued_case = KVPOOL__V1__EVICT_RESPONSE__ISSUED_RECEIPTS;
    answer.receipts = &receipts;
    ck_assert_int_eq(view_evicted(out, &answer), KV_OK);
    ck_assert_ptr_nonnull(strstr(text(), "EVICTED (was running)"));
    ck_assert_ptr_nonnull(strstr(text(),
        "1 session evicted, 9.0 MiB freed, 2 running (see --preempt), 3 "
        "held, 4 without blocks forgotten; more match: ask again\n"
        "receipts 1041 to 1042 of epoch 3, on disk\n"));
}
END_TEST

START_TEST(an_empty_answer_is_no_crash)
{
    Kvpool__V1__Model model = KVPOOL__V1__MODEL__INIT;
    Kvpool__V1__PoolSnapshot snapshot = KVPOOL__V1__POOL_SNAPSHOT__INIT;
    Kvpool__V1__EvictResponse answer = KVPOOL__V1__EVICT_RESPONSE__INIT;
    Kvpool__V1__GenerateFinished finished = KVPOOL__V1__GENERATE_FINISHED__INIT;
    Kvpool__V1__Session session = KVPOOL__V1__SESSION__INIT;
    struct table table;

    view_model(out, &model);
    view_snapshot(out, &snapshot);
    view_finished(out, &finished);
    ck_assert_int_eq(view_evicted(out, &answer), KV_OK);
    view_sessions_begin(&table);
    view_sessions_add(&table, &session);
    ck_assert_int_eq(table_flush(&table, out), KV_OK);
    table_fini(&table);
    ck_assert_ptr_nonnull(strstr(text(), "0 sessions evicted, 0 B freed\n"));
}
END_TEST

START_TEST(totals_are_in_units_and_ratios_in_percent)
{
    Kvpool__V1__PoolSnapshot snapshot = KVPOOL__V1__POOL_SNAPSHOT__INIT;
    Kvpool__V1__PoolStatistics statistics = statistics_of(64 * MIB, 14);
    Kvpool__V1__PoolRatios ratios = KVPOOL__V1__POOL_RATIOS__INIT;
    Kvpool__V1__ReasonCount count = KVPOOL__V1__REASON_COUNT__INIT;
    Kvpool__V1__ReasonCount *counts[] = {&count};

    ratios.utilization = 0.125;
    count.reason = KVPOOL__V1__EVICTION_REASON__EVICTION_REASON_TTL;
    count.count = 5;
    snapshot.statistics = &statistics;
    snapshot.ratios = &ratios;
    snapshot.n_evictions_by_reason = 1;
    snapshot.evictions_by_reason = counts;
    view_snapshot(out, &snapshot);
    ck_assert_ptr_nonnull(strstr(text(), "64.0 MiB of 512.0 MiB\n"));
    ck_assert_ptr_nonnull(strstr(text(), "  utilization   12.5%\n"));
    ck_assert_ptr_nonnull(strstr(text(), "  evictions     Ttl 5\n"));
}
END_TEST

int main(void)
{
    const TTest *tests[] = {
        an_eviction_says_who_lost_what_why_and_to_what_effect,
        a_receipt_stays_one_line_whatever_it_holds,
        every_lifecycle_has_words,
        sessions_are_a_table,
        an_eviction_answer_shows_outcomes_and_receipts,
        an_empty_answer_is_no_crash,
        totals_are_in_units_and_ratios_in_percent,
    };

    return CHECK_RUN("view", set_up, tear_down, tests);
}
