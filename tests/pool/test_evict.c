#include <stdio.h>
#include <string.h>

#include "tests/pool/fixture.h"
#include "tests/support/check_main.h"

START_TEST(evict_under_pressure_takes_the_least_recently_released)
{
    struct pool_session *a = fixture_run("a", 16), *b = fixture_run("b", 16);
    struct pool_session *c;

    /* a began first, and ends last. */
    fixture.now_ns += KV_NS_PER_S;
    pool_session_end(fixture.pool, b, fixture.now_ns);
    fixture.now_ns += KV_NS_PER_S;
    pool_session_end(fixture.pool, a, fixture.now_ns);
    fixture.now_ns += KV_NS_PER_S;
    c = fixture_run("c", 32);
    ck_assert_int_eq(fixture_extend(c, 4), KV_BUSY);
    ck_assert_str_eq(fixture.auditor.last_id, "b");
    ck_assert_str_eq(fixture.auditor.forced_by, "c");
    ck_assert_str_eq(fixture.auditor.last_policy, "lru");
    ck_assert_int_eq(fixture.auditor.last.idle_ns, 2 * KV_NS_PER_S);
    ck_assert_int_eq(fixture.auditor.last.age_ns, 3 * KV_NS_PER_S);
    ck_assert_uint_eq(fixture.auditor.last.tokens_kept, 16);
    ck_assert_uint_eq(fixture.auditor.last_batch_sessions, 1);
}
END_TEST

START_TEST(evict_takes_no_more_sessions_than_needed)
{
    struct pool_session *d;

    fixture_cache("a", 16);
    fixture_cache("b", 16);
    fixture_cache("c", 16);
    d = fixture_run("d", 16);
    ck_assert_int_eq(fixture_extend(d, 8), KV_BUSY);
    ck_assert_uint_eq(pool_stats(fixture.pool).evictions, 1);
    /* What is being zeroed counts as coming. */
    ck_assert_int_eq(fixture_extend(d, 8), KV_BUSY);
    ck_assert_uint_eq(pool_stats(fixture.pool).evictions, 1);
    ck_assert_int_eq(fixture_extend(d, 1), KV_BUSY);
    ck_assert_uint_eq(pool_stats(fixture.pool).evictions, 2);
    ck_assert_int_eq(fixture_scrub(), 2);
    ck_assert_int_eq(fixture_extend(d, 0), KV_OK);
    ck_assert_ptr_nonnull(fixture_find("c"));
    ck_assert_uint_eq(pool_blocks(fixture.pool).cached, 4);
}
END_TEST

START_TEST(evict_for_one_allocation_is_one_batch)
{
    struct pool_session *session;

    fixture_cache("a", 8);
    fixture_cache("b", 8);
    fixture_cache("c", 8);
    session = fixture_run("d", 16);
    ck_assert_int_eq(fixture_extend(session, 44), KV_BUSY);
    ck_assert_uint_eq(fixture.auditor.n_batches, 1);
    ck_assert_uint_eq(fixture.auditor.last_batch_sessions, 3);
}
END_TEST

START_TEST(evict_never_takes_a_pinned_block)
{
    struct pool_session *a = fixture_run("a", 32), *b = fixture_run("b", 32);

    ck_assert_int_eq(fixture_extend(b, 1), KV_POOL_FULL);
    ck_assert_uint_eq(pool_stats(fixture.pool).evictions, 0);
    ck_assert_uint_eq(pool_session_n_cached(a), 32);
    ck_assert_uint_eq(pool_session_n_cached(b), 32);
}
END_TEST

START_TEST(a_reserve_that_cannot_succeed_evicts_nobody)
{
    struct pool_session *b;

    fixture_cache("a", 16);
    fixture_run("pinned", 32);
    b = fixture_run("b", 12);
    ck_assert_int_eq(fixture_extend(b, 24), KV_POOL_FULL);
    ck_assert_uint_eq(pool_stats(fixture.pool).evictions, 0);
    ck_assert_uint_eq(pool_blocks(fixture.pool).cached, 4);
    ck_assert_uint_eq(pool_reclaimable_blocks(fixture.pool), 5);
}
END_TEST

START_TEST(more_tokens_than_the_pool_has_slots_are_refused)
{
    struct pool_session *a = fixture_run("a", 64);

    ck_assert_int_eq(fixture_extend(a, 1), KV_POOL_FULL);
    ck_assert_int_eq(
        pool_session_truncate(fixture.pool, a, 64, fixture.now_ns), KV_OK);
}
END_TEST

START_TEST(a_manual_eviction_tells_before_and_after)
{
    struct pool_outcome outcome;
    const struct pool_eviction *last = &fixture.auditor.last;

    fixture_cache("a", 10);
    outcome = fixture_evict("a", false);
    ck_assert_int_eq(outcome.result, POOL_EVICTED);
    ck_assert_uint_eq(outcome.blocks_freed, 3);
    ck_assert_uint_eq(outcome.bytes_freed, 3 * FIXTURE_BLOCK_BYTES);
    ck_assert_uint_eq(outcome.shared_blocks_kept, 0);
    ck_assert_uint_eq(outcome.tokens_kept, 10);
    ck_assert(!outcome.preempted);
    ck_assert_uint_eq(last->before->used_bytes - last->after->used_bytes,
        outcome.bytes_freed);
    ck_assert_uint_eq(last->tokens_freed, 10);
    ck_assert_uint_eq(last->before->total_sessions, 1);
    ck_assert_uint_eq(last->after->total_sessions, 0);
    ck_assert_uint_eq(
        pool_totals(fixture.pool).evictions_by_reason[POOL_REASON_MANUAL], 1);
    ck_assert_str_eq(fixture.auditor.last_policy, "");
}
END_TEST

START_TEST(a_running_session_is_busy_unless_preempted)
{
    struct pool_session *a = fixture_run("a", 10);

    ck_assert_int_eq(fixture_evict("a", false).result, POOL_EVICT_BUSY);
    ck_assert_uint_eq(pool_session_n_cached(a), 10);
    ck_assert_int_eq(fixture_evict("a", true).result, POOL_EVICTED);
    ck_assert(fixture.auditor.last.preempted);
    ck_assert_int_eq(fixture.auditor.last.idle_ns, 0);
    ck_assert_uint_eq(pool_session_n_cached(a), 0);
    ck_assert_int_eq(fixture_evict("a", true).result, POOL_NOTHING_TO_FREE);
}
END_TEST

START_TEST(a_call_without_a_victim_still_ends_in_a_batch)
{
    fixture_get("idle");
    ck_assert_int_eq(fixture_evict("none", false).result, POOL_NOT_FOUND);
    ck_assert_uint_eq(fixture.auditor.n_batches, 1);
    ck_assert_int_eq(fixture_evict("idle", false).result, POOL_NOTHING_TO_FREE);
    ck_assert_uint_eq(fixture.auditor.n_batches, 2);
    ck_assert_uint_eq(fixture.auditor.last_batch_sessions, 0);
}
END_TEST

static void set_ttl(const char *id, int64_t ttl_ns)
{
    pool_session_set_idle_ttl(
        fixture.pool, fixture_find(id), ttl_ns, fixture.now_ns);
}

START_TEST(a_ttl_counts_from_the_end_of_the_last_run)
{
    fixture_cache("a", 5);
    set_ttl("a", 2 * KV_NS_PER_S);
    fixture.now_ns += KV_NS_PER_S;
    fixture_cache("a", 1);
    fixture.now_ns += KV_NS_PER_S + KV_NS_PER_S / 2;
    ck_assert_uint_eq(pool_expire(fixture.pool, fixture.now_ns, 1), 0);
    fixture.now_ns += KV_NS_PER_S;
    ck_assert_int_le(pool_next_deadline(fixture.pool), fixture.now_ns);
    ck_assert_uint_eq(pool_expire(fixture.pool, fixture.now_ns, 1), 1);
    ck_assert_int_eq((int)fixture.auditor.member_reason, POOL_REASON_TTL);
    ck_assert_str_eq(fixture.auditor.last_policy, "");
    ck_assert_uint_eq(fixture.auditor.last.tokens_kept, 6);
    ck_assert_uint_eq(pool_blocks(fixture.pool).cached, 0);
}
END_TEST

START_TEST(a_ttl_never_falls_due_while_the_session_runs)
{
    struct pool_session *a = fixture_run("a", 5);

    set_ttl("a", KV_NS_PER_S);
    fixture.now_ns += 5 * KV_NS_PER_S;
    ck_assert_uint_eq(pool_expire(fixture.pool, fixture.now_ns, 1), 0);
    ck_assert_uint_eq(pool_blocks(fixture.pool).pinned, 2);
    pool_session_end(fixture.pool, a, fixture.now_ns);
    ck_assert_uint_eq(pool_blocks(fixture.pool).cached, 2);
    fixture.now_ns += KV_NS_PER_S + 2 * KV_NS_PER_MS;
    ck_assert_uint_eq(pool_expire(fixture.pool, fixture.now_ns, 8), 1);
    ck_assert_int_ge(fixture.auditor.last.idle_ns, KV_NS_PER_S);
}
END_TEST

START_TEST(a_ttl_of_zero_is_none_and_a_huge_one_is_never)
{
    fixture_cache("a", 5);
    set_ttl("a", 1);
    set_ttl("a", 0);
    fixture_cache("b", 5);
    set_ttl("b", INT64_MAX);
    ck_assert_int_eq(pool_next_deadline(fixture.pool), INT64_MAX);
    ck_assert_uint_eq(pool_expire(fixture.pool, INT64_MAX / 2, 9), 0);
}
END_TEST

START_TEST(new_sessions_take_the_default_ttl)
{
    struct pool_config config = fixture_config();

    fixture_tear_down();
    config.default_idle_ttl_ns = KV_NS_PER_S;
    fixture_open(&config);
    fixture_cache("a", 5);
    fixture.now_ns += 2 * KV_NS_PER_S;
    ck_assert_uint_eq(pool_expire(fixture.pool, fixture.now_ns, 9), 1);
}
END_TEST

START_TEST(expire_keeps_to_its_budget_and_comes_back_for_the_rest)
{
    char id[16];

    for (int i = 0; i < 5; i++) {
        snprintf(id, sizeof id, "s%d", i);
        fixture_cache(id, 4);
        set_ttl(id, KV_NS_PER_S);
    }
    fixture.now_ns += 2 * KV_NS_PER_S;
    ck_assert_uint_eq(pool_expire(fixture.pool, fixture.now_ns, 3), 3);
    ck_assert_uint_eq(fixture.auditor.last_batch_sessions, 3);
    fixture_check();
    ck_assert_int_le(pool_next_deadline(fixture.pool), fixture.now_ns);
    ck_assert_uint_eq(pool_expire(fixture.pool, fixture.now_ns, 3), 2);
    ck_assert_uint_eq(fixture.auditor.n_batches, 2);
    ck_assert_uint_eq(pool_expire(fixture.pool, fixture.now_ns, 3), 0);
    ck_assert_uint_eq(fixture.auditor.n_batches, 2);
}
END_TEST

START_TEST(a_session_used_after_its_ttl_but_before_the_sweep_stays)
{
    fixture_cache("a", 4);
    fixture_cache("b", 4);
    set_ttl("a", KV_NS_PER_S);
    set_ttl("b", KV_NS_PER_S);
    fixture.now_ns += 2 * KV_NS_PER_S;
    ck_assert_uint_eq(pool_expire(fixture.pool, fixture.now_ns, 1), 1);
    ck_assert_str_eq(fixture.auditor.last_id, "a");
    fixture_cache("b", 1);
    ck_assert_uint_eq(pool_expire(fixture.pool, fixture.now_ns, 1), 0);
    ck_assert_uint_gt(pool_blocks(fixture.pool).cached, 0);
}
END_TEST

START_TEST(blocks_are_free_when_their_own_job_is_done_whatever_the_order)
{
    struct pool_scrub first, second, none;

    fixture_cache("a", 8);
    fixture_cache("b", 4);
    fixture_evict("a", false);
    fixture_evict("b", false);
    ck_assert(pool_scrub_next(fixture.pool, &first));
    ck_assert(pool_scrub_next(fixture.pool, &second));
    ck_assert(!pool_scrub_next(fixture.pool, &none));
    ck_assert_uint_lt(first.scrub_id, second.scrub_id);
    fixture_check();
    pool_scrub_done(fixture.pool, second.scrub_id, fixture.now_ns);
    ck_assert_uint_eq(pool_blocks(fixture.pool).scrubbing, 2);
    fixture_check();
    pool_scrub_done(fixture.pool, first.scrub_id, fixture.now_ns);
    ck_assert_uint_eq(pool_blocks(fixture.pool).free, FIXTURE_BLOCKS);
}
END_TEST

START_TEST(fragmentation_follows_the_runs_of_unused_blocks)
{
    struct pool_stats stats;

    fixture_cache("a", 4);
    fixture_cache("b", 4);
    fixture_cache("c", 4);
    fixture_cache("d", 4);
    fixture_evict("a", false);
    fixture_evict("c", false);
    stats = pool_stats(fixture.pool);
    ck_assert_uint_eq(stats.free_runs, 3);
    ck_assert(pool_stats_fragmentation(&stats) == 2.0 / 3);
    fixture_evict("b", false);
    stats = pool_stats(fixture.pool);
    ck_assert_uint_eq(stats.free_runs, 2);
    ck_assert(pool_stats_efficiency(&stats) == 0.5);
}
END_TEST

START_TEST(uses_move_a_deadline_though_they_leave_its_timer_alone)
{
    fixture_cache("a", 4);
    set_ttl("a", 10 * KV_NS_PER_S);
    for (int i = 0; i < 9; i++) {
        fixture.now_ns += 3 * KV_NS_PER_S;
        fixture_cache("a", 1);
        ck_assert_uint_eq(pool_expire(fixture.pool, fixture.now_ns, 9), 0);
    }
    fixture.now_ns += 10 * KV_NS_PER_S + KV_NS_PER_MS;
    while (pool_next_deadline(fixture.pool) <= fixture.now_ns &&
           fixture.auditor.n_batches == 0)
        pool_expire(fixture.pool, fixture.now_ns, 1);
    ck_assert_int_eq(
        fixture.auditor.last.idle_ns, 10 * KV_NS_PER_S + KV_NS_PER_MS);
}
END_TEST

/* Two sessions that grow in turn hold every second block each. */
static void open_combed(uint32_t n_blocks)
{
    struct pool_config config = fixture_config();
    struct pool_session *a, *b;

    fixture_tear_down();
    config.n_blocks = n_blocks;
    config.max_kept_tokens = UINT64_MAX;
    fixture_open(&config);
    a = fixture_run("a", 4);
    b = fixture_run("b", 4);
    for (uint32_t i = 2; i < n_blocks; i += 2) {
        ck_assert_int_eq(fixture_extend(a, 4), KV_OK);
        ck_assert_int_eq(fixture_extend(b, 4), KV_OK);
    }
    pool_session_end(fixture.pool, a, fixture.now_ns);
    pool_session_end(fixture.pool, b, fixture.now_ns);
}

START_TEST(an_eviction_of_many_runs_comes_in_parts_that_each_reconcile)
{
    struct pool_outcome outcome;

    open_combed(2 * (2 * POOL_PART_EXTENTS + 7));
    outcome = fixture_evict("a", false);
    ck_assert_uint_eq(outcome.blocks_freed, 2 * POOL_PART_EXTENTS + 7);
    ck_assert_uint_eq(fixture.auditor.n_parts, 3);
    ck_assert_uint_eq(fixture.auditor.last.n_parts, 3);
    ck_assert_uint_eq(fixture.auditor.last.n_extents, 7);
    ck_assert_uint_eq(pool_stats(fixture.pool).evictions, 1);
    ck_assert_uint_eq(fixture.auditor.last_batch_sessions, 1);
    fixture_check();
    ck_assert_int_eq(fixture_scrub(), 3);
    /* Room between the teeth: more runs than one allocation report takes. */
    fixture_run("c", 4);
    for (int i = 0; i < 32; i++)
        ck_assert_int_eq(fixture_extend(fixture_find("c"), 256), KV_OK);
}
END_TEST

START_TEST(an_eviction_of_exactly_one_part_is_whole)
{
    open_combed(2 * POOL_PART_EXTENTS);
    fixture_evict("b", false);
    ck_assert_uint_eq(fixture.auditor.n_parts, 1);
    ck_assert_uint_eq(fixture.auditor.last.n_extents, POOL_PART_EXTENTS);
}
END_TEST

START_TEST(a_release_of_many_runs_comes_as_several)
{
    open_combed(2 * (POOL_PART_EXTENTS + 1));
    pool_session_forget(fixture.pool, fixture_find("a"), fixture.now_ns);
    ck_assert_uint_eq(fixture.auditor.n_releases, 2);
}
END_TEST

START_TEST(a_large_reserve_comes_as_several_allocations)
{
    struct pool_config config = fixture_config();
    static const uint32_t tokens[4 * (POOL_PART_EXTENTS + 1)];
    struct pool_session *a;

    fixture_tear_down();
    config.n_blocks = POOL_PART_EXTENTS + 1;
    fixture_open(&config);
    a = fixture_get("a");
    pool_session_begin(fixture.pool, a);
    pool_session_append(
        fixture.pool, a, tokens, sizeof tokens / sizeof *tokens);
    ck_assert_int_eq(pool_session_reserve(fixture.pool, a,
                         sizeof tokens / sizeof *tokens, NULL, fixture.now_ns),
        KV_OK);
    ck_assert_uint_eq(fixture.auditor.n_allocations, 2);
    ck_assert_uint_eq(pool_blocks(fixture.pool).free, 0);
    /* Reserved, and nothing in it yet. */
    ck_assert(pool_unfilled(fixture.pool) == 1);
    fixture_check();
    fixture_evict("a", true);
    ck_assert_uint_eq(fixture.auditor.last.tokens_freed, 0);
}
END_TEST

/* ---- while nothing may be evicted */

/* Says yes so many times. */
static int n_allowed;

static bool may_evict(void *ctx)
{
    (void)ctx;
    return n_allowed > 0 && n_allowed-- > 0;
}

static void allow(int n)
{
    n_allowed = n;
    fixture.auditor.observer.may_evict = may_evict;
}

START_TEST(nobody_is_evicted_for_room_while_it_cannot_be_recorded)
{
    struct pool_session *d;

    fixture_cache("a", 16);
    fixture_cache("b", 16);
    d = fixture_run("d", 16);
    allow(0);
    ck_assert_int_eq(fixture_extend(d, 16), KV_OK); /* on free blocks */
    ck_assert_int_eq(fixture_extend(d, 1), KV_IO);
    ck_assert_uint_eq(fixture.auditor.n_batches, 0);
    ck_assert_uint_eq(pool_session_n_cached(d), 32);
    ck_assert(!pool_may_evict(fixture.pool));
    fixture_check();
    allow(9);
    ck_assert_int_eq(fixture_extend(d, 0), KV_BUSY);
    ck_assert_uint_eq(pool_stats(fixture.pool).evictions, 1);
}
END_TEST

START_TEST(a_sweep_ends_where_no_more_may_go_and_is_told)
{
    struct pool_session *d;

    fixture_cache("a", 8);
    fixture_cache("b", 8);
    fixture_cache("c", 8);
    d = fixture_run("d", 40);
    allow(2);
    ck_assert_int_eq(fixture_extend(d, 24), KV_IO);
    ck_assert_uint_eq(fixture.auditor.n_batches, 1);
    ck_assert_uint_eq(fixture.auditor.last_batch_sessions, 2);
    fixture_scrub();
    allow(1); /* what has gone need not go again */
    ck_assert_int_eq(fixture_extend(d, 0), KV_BUSY);
    fixture_scrub();
    ck_assert_int_eq(fixture_extend(d, 0), KV_OK);
}
END_TEST

START_TEST(sessions_whose_time_is_over_wait_while_nothing_may_be_evicted)
{
    struct pool_session *a;

    fixture_cache("a", 8);
    a = fixture_find("a");
    pool_session_set_idle_ttl(fixture.pool, a, KV_NS_PER_S, fixture.now_ns);
    fixture.now_ns += 2 * KV_NS_PER_S;
    allow(0);
    ck_assert_uint_eq(pool_expire(fixture.pool, fixture.now_ns, 9), 0);
    ck_assert_int_le(pool_next_deadline(fixture.pool), fixture.now_ns);
    ck_assert_uint_eq(pool_blocks(fixture.pool).cached, 2);
    allow(9);
    ck_assert_uint_eq(pool_expire(fixture.pool, fixture.now_ns, 9), 1);
    ck_assert_uint_eq(pool_stats(fixture.pool).evictions, 1);
}
END_TEST

START_TEST(a_place_is_not_taken_from_somebody_while_nothing_may_be_evicted)
{
    const struct pool_key key = fixture_key("z");
    struct pool_session *session;
    char id[2] = "a";
    bool created;

    for (; id[0] < 'a' + 8; id[0]++)
        fixture_cache(id, 4);
    allow(0);
    ck_assert_int_eq(pool_session_get(fixture.pool, &key, NULL, fixture.now_ns,
                         &session, &created),
        KV_IO);
    ck_assert_int_eq(pool_session_anonymous(
                         fixture.pool, "t", 1, NULL, fixture.now_ns, &session),
        KV_IO);
    ck_assert_ptr_null(fixture_find("z"));
    fixture_check();
    fixture_evict("c", false); /* one that is only remembered goes untold */
    ck_assert_int_eq(pool_session_get(fixture.pool, &key, NULL, fixture.now_ns,
                         &session, &created),
        KV_OK);
}
END_TEST

START_TEST(a_pool_works_without_an_observer)
{
    const struct pool_config config = fixture_config();
    const struct pool_key key = fixture_key("a");
    struct pool_session *session;
    struct pool *pool;
    bool created;

    ck_assert_int_eq(pool_open(&pool, &config, 0, NULL), KV_OK);
    pool_session_get(pool, &key, NULL, 0, &session, &created);
    pool_session_begin(pool, session);
    pool_session_append(pool, session, (uint32_t[5]){0}, 5);
    ck_assert_int_eq(pool_session_reserve(pool, session, 5, NULL, 0), KV_OK);
    pool_session_end(pool, session, 0);
    ck_assert_int_eq(
        pool_evict_session(pool, session,
            &(struct pool_cause){.reason = POOL_REASON_MANUAL}, false, 0)
            .result,
        POOL_EVICTED);
    ck_assert(pool_check(pool, NULL));
    pool_close(pool);
}
END_TEST

int main(void)
{
    const TTest *tests[] = {
        evict_under_pressure_takes_the_least_recently_released,
        evict_takes_no_more_sessions_than_needed,
        evict_for_one_allocation_is_one_batch, evict_never_takes_a_pinned_block,
        a_reserve_that_cannot_succeed_evicts_nobody,
        more_tokens_than_the_pool_has_slots_are_refused,
        a_manual_eviction_tells_before_and_after,
        a_running_session_is_busy_unless_preempted,
        a_call_without_a_victim_still_ends_in_a_batch,
        a_ttl_counts_from_the_end_of_the_last_run,
        a_ttl_never_falls_due_while_the_session_runs,
        a_ttl_of_zero_is_none_and_a_huge_one_is_never,
        new_sessions_take_the_default_ttl,
        expire_keeps_to_its_budget_and_comes_back_for_the_rest,
        a_session_used_after_its_ttl_but_before_the_sweep_stays,
        blocks_are_free_when_their_own_job_is_done_whatever_the_order,
        fragmentation_follows_the_runs_of_unused_blocks,
        uses_move_a_deadline_though_they_leave_its_timer_alone,
        an_eviction_of_many_runs_comes_in_parts_that_each_reconcile,
        an_eviction_of_exactly_one_part_is_whole,
        a_release_of_many_runs_comes_as_several,
        a_large_reserve_comes_as_several_allocations,
        nobody_is_evicted_for_room_while_it_cannot_be_recorded,
        a_sweep_ends_where_no_more_may_go_and_is_told,
        sessions_whose_time_is_over_wait_while_nothing_may_be_evicted,
        a_place_is_not_taken_from_somebody_while_nothing_may_be_evicted,
        a_pool_works_without_an_observer};

    return CHECK_RUN("pool_evict", fixture_set_up, fixture_tear_down, tests);
}
