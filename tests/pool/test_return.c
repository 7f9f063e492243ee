/* What an observer is told of sessions that come back, and what it is asked. */
#include "pool/pool.h"

#include <string.h>

#include "base/clock.h"
#include "tests/support/check_main.h"
#include "tests/support/faulty_heap.h"

#define BLOCK_TOKENS 4

static struct {
    struct pool *pool;
    uint64_t next_note;
    bool full, starves;
    int n_told;
    struct pool_recomputation told;
    int64_t batch_ns, watch_ns;
} rig;

static void on_evicted(void *ctx, const struct pool_eviction *eviction)
{
    (void)ctx;
    ck_assert((eviction->note == NULL) == rig.starves);
    if (eviction->note != NULL)
        *eviction->note = rig.next_note++;
}

static void on_batch(void *ctx, const struct pool_batch *batch)
{
    (void)ctx;
    rig.batch_ns = batch->duration_ns;
}

static void on_recomputed(
    void *ctx, const struct pool_recomputation *recomputation)
{
    (void)ctx;
    rig.told = *recomputation;
    rig.n_told++;
}

static bool may_allocate(void *ctx)
{
    (void)ctx;
    return !rig.full;
}

static int64_t stopwatch_ns(void)
{
    return rig.watch_ns += 40;
}

static const struct pool_observer observer = {
    .evicted = on_evicted,
    .batch = on_batch,
    .recomputed = on_recomputed,
    .may_allocate = may_allocate,
};

static void set_up(void)
{
    const struct pool_config config = {.block_bytes = 64,
        .n_blocks = 16,
        .block_tokens = BLOCK_TOKENS,
        .max_sessions = 8,
        .max_kept_tokens = 1000,
        .observer = &observer,
        .stopwatch_ns = stopwatch_ns};

    memset(&rig, 0, sizeof rig);
    rig.next_note = 7;
    ck_assert_int_eq(pool_open(&rig.pool, &config, 0, NULL), KV_OK);
}

static void tear_down(void)
{
    ck_assert(pool_check(rig.pool, NULL));
    pool_close(rig.pool);
}

static struct pool_session *begin(void)
{
    const struct pool_key key = {"t", 1, "s", 1};
    struct pool_session *session;
    bool created;

    ck_assert_int_eq(
        pool_session_get(rig.pool, &key, NULL, 0, &session, &created), KV_OK);
    ck_assert_int_eq(pool_session_begin(rig.pool, session), KV_OK);
    return session;
}

static void append(struct pool_session *session, size_t n)
{
    const uint32_t tokens[64] = {0};

    ck_assert_int_eq(pool_session_append(rig.pool, session, tokens, n), KV_OK);
}

/* Computes up to `end`, as the scheduler would, in a step of 5 ns. */
static void compute(struct pool_session *session, size_t end, int64_t began_ns)
{
    size_t n_cached = pool_session_n_cached(session);
    size_t n_computed = pool_session_n_computed(session);
    size_t again = end < n_computed ? end : n_computed;

    ck_assert_int_eq(
        pool_session_reserve(rig.pool, session, end, NULL, began_ns), KV_OK);
    if (again > n_cached)
        pool_session_count_recomputed(
            rig.pool, session, again - n_cached, NULL, began_ns, began_ns + 5);
    pool_session_commit(rig.pool, session, end);
}

static void evict(struct pool_session *session, int64_t now_ns)
{
    const struct pool_cause cause = {.reason = POOL_REASON_MANUAL};
    struct pool_batch_scope scope = pool_batch_begin(rig.pool, now_ns);
    struct pool_outcome would =
        pool_evict_preview(rig.pool, NULL, session, true, false);
    struct pool_outcome outcome =
        pool_evict_session(rig.pool, session, &cause, true, now_ns);

    ck_assert_int_eq(outcome.result, POOL_EVICTED);
    ck_assert_int_eq(would.result, outcome.result);
    ck_assert_uint_eq(would.bytes_freed, outcome.bytes_freed);
    ck_assert_uint_eq(would.tokens_kept, outcome.tokens_kept);
    ck_assert_int_eq(would.preempted, outcome.preempted);
    pool_batch_end(rig.pool, &scope, &cause, now_ns);
}

/* A session of 10 tokens, evicted at 100. */
static void make_evicted(void)
{
    struct pool_session *session = begin();

    append(session, 10);
    compute(session, 10, 0);
    pool_session_end(rig.pool, session, 50);
    evict(session, 100);
    ck_assert_int_eq(rig.n_told, 0);
}

START_TEST(what_was_lost_and_computed_again_is_told_once_it_is_all_there)
{
    struct pool_session *session;

    make_evicted();
    session = begin();
    append(session, 20);
    compute(session, 6, 1000);
    ck_assert_int_eq(rig.n_told, 0);
    compute(session, 16, 2000);
    ck_assert_int_eq(rig.n_told, 1);
    ck_assert_uint_eq(rig.told.note, 7);
    ck_assert_int_eq((int)rig.told.reason, POOL_REASON_MANUAL);
    ck_assert_int_eq(rig.told.gap_ns, 900);
    ck_assert_uint_eq(rig.told.tokens, 10);
    ck_assert_uint_eq(rig.told.blocks, 3);
    ck_assert_int_eq(rig.told.duration_ns, 10);
    ck_assert_int_eq(rig.told.mono_ns, 2005);
    compute(session, 30, 3000);
    ck_assert_int_eq(rig.n_told, 1);
    pool_session_end(rig.pool, session, 3000);
}
END_TEST

START_TEST(without_memory_to_remember_it_a_return_is_not_told)
{
    struct pool_session *session;

    tear_down();
    faulty_heap_install();
    set_up();
    make_evicted();
    session = begin();
    compute(session, 10, 200);
    ck_assert_int_eq(rig.n_told, 1);
    pool_session_end(rig.pool, session, 250);
    rig.starves = true;
    faulty_heap_fail_at(0);
    evict(session, 300);
    faulty_heap_fail_at(-1);
    session = begin();
    compute(session, 10, 400);
    ck_assert_uint_eq(pool_session_n_cached(session), 10);
    ck_assert_int_eq(rig.n_told, 1);
}
END_TEST

START_TEST(several_runs_may_share_the_work)
{
    struct pool_session *session;

    make_evicted();
    session = begin();
    compute(session, 6, 1000);
    pool_session_end(rig.pool, session, 1005);
    session = begin();
    compute(session, 10, 9000);
    ck_assert_int_eq(rig.n_told, 1);
    ck_assert_uint_eq(rig.told.tokens, 10);
    ck_assert_int_eq(rig.told.gap_ns, 900);
    ck_assert_int_eq(rig.told.duration_ns, 10);
    pool_session_end(rig.pool, session, 9005);
}
END_TEST

START_TEST(evicted_anew_before_that_the_later_eviction_is_told)
{
    struct pool_session *session;

    make_evicted();
    session = begin();
    compute(session, 6, 1000);
    evict(session, 2000);
    compute(session, 10, 3000);
    ck_assert_int_eq(rig.n_told, 1);
    ck_assert_uint_eq(rig.told.note, 8);
    ck_assert_int_eq(rig.told.gap_ns, 1000);
    ck_assert_uint_eq(rig.told.tokens, 10);
    pool_session_end(rig.pool, session, 3005);
}
END_TEST

START_TEST(what_the_conversation_no_longer_has_is_not_missed)
{
    struct pool_session *session;

    make_evicted();
    session = begin();
    ck_assert_int_eq(pool_session_truncate(rig.pool, session, 3, 900), KV_OK);
    compute(session, 3, 1000);
    ck_assert_int_eq(rig.n_told, 1);
    ck_assert_uint_eq(rig.told.tokens, 3);
    pool_session_end(rig.pool, session, 1005);
}
END_TEST

START_TEST(a_batch_is_measured_by_the_stopwatch)
{
    make_evicted();
    ck_assert_int_eq(rig.batch_ns, 40);
}
END_TEST

START_TEST(no_block_is_given_out_that_could_not_be_recorded)
{
    struct pool_session *session = begin();

    append(session, 10);
    rig.full = true;
    ck_assert_int_eq(
        pool_session_reserve(rig.pool, session, 10, NULL, 1), KV_IO);
    ck_assert_uint_eq(pool_blocks(rig.pool).free, 16);
    rig.full = false;
    ck_assert_int_eq(
        pool_session_reserve(rig.pool, session, 8, NULL, 1), KV_OK);
    rig.full = true; /* what it has is its own */
    ck_assert_int_eq(
        pool_session_reserve(rig.pool, session, 8, NULL, 1), KV_OK);
    pool_session_end(rig.pool, session, 2);
}
END_TEST

int main(void)
{
    const TTest *tests[] = {
        what_was_lost_and_computed_again_is_told_once_it_is_all_there,
        without_memory_to_remember_it_a_return_is_not_told,
        several_runs_may_share_the_work,
        evicted_anew_before_that_the_later_eviction_is_told,
        what_the_conversation_no_longer_has_is_not_missed,
        a_batch_is_measured_by_the_stopwatch,
        no_block_is_given_out_that_could_not_be_recorded,
    };

    return CHECK_RUN("return", set_up, tear_down, tests);
}
