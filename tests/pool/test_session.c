#include <stdio.h>
#include <string.h>

#include "tests/pool/fixture.h"
#include "tests/support/check_main.h"
#include "tests/support/faulty_heap.h"

static struct pool_session_info info_of(const char *id)
{
    return pool_session_info(fixture.pool, fixture_find(id));
}

static enum kv_status get_named(
    const char *tenant, size_t tenant_bytes, const char *id, size_t id_bytes)
{
    const struct pool_key key = {tenant, tenant_bytes, id, id_bytes};
    struct pool_session *session;
    bool created;

    return pool_session_get(
        fixture.pool, &key, NULL, fixture.now_ns, &session, &created);
}

START_TEST(a_session_is_found_under_its_tenant_and_id_only)
{
    const struct pool_key other = {"u", 1, "a", 1}, shifted = {"", 0, "ta", 2};
    struct pool_session *session = fixture_get("a");

    ck_assert_ptr_eq(fixture_find("a"), session);
    ck_assert_ptr_eq(fixture_get("a"), session);
    ck_assert_ptr_null(fixture_find("b"));
    ck_assert_ptr_null(pool_session_find(fixture.pool, &other));
    ck_assert_ptr_null(pool_session_find(fixture.pool, &shifted));
}
END_TEST

START_TEST(names_that_are_not_allowed_are_refused)
{
    char longest[POOL_NAME_BYTES + 1];

    memset(longest, 'x', sizeof longest);
    ck_assert_int_eq(get_named("", 0, "", 0), KV_INVALID);
    ck_assert_int_eq(get_named(NULL, 0, NULL, 0), KV_INVALID);
    ck_assert_int_eq(get_named("", 0, longest, 129), KV_INVALID);
    ck_assert_int_eq(get_named(longest, 129, "a", 1), KV_INVALID);
    ck_assert_int_eq(get_named("", 0, "a\nb", 3), KV_INVALID);
    ck_assert_int_eq(get_named("", 0, "a\0b", 3), KV_INVALID);
    ck_assert_int_eq(get_named("", 0, "\xC3", 1), KV_INVALID);
    ck_assert_int_eq(get_named("\xFF", 1, "a", 1), KV_INVALID);
    ck_assert_uint_eq(pool_totals(fixture.pool).sessions_created, 0);
    ck_assert_ptr_null(pool_session_after(fixture.pool, NULL));
    ck_assert_int_eq(get_named(longest, 128, longest, 128), KV_OK);
    ck_assert_int_eq(get_named(NULL, 0, "a", 1), KV_OK);
}
END_TEST

START_TEST(a_session_of_any_length_of_name_is_told_by_it)
{
    char id[128];

    memset(id, 'n', sizeof id);
    for (size_t n = 1; n <= sizeof id; n++) {
        const struct pool_key key = {"t", 1, id, n};
        struct pool_session *session;
        struct pool_key told;

        ck_assert_int_eq(get_named("t", 1, id, n), KV_OK);
        session = pool_session_find(fixture.pool, &key);
        ck_assert_ptr_nonnull(session);
        told = pool_session_info(fixture.pool, session).key;
        ck_assert_uint_eq(told.id_bytes, n);
        ck_assert_mem_eq(told.id, id, n);
        fixture_check();
        pool_session_forget(fixture.pool, session, fixture.now_ns);
        ck_assert_ptr_null(pool_session_find(fixture.pool, &key));
    }
}
END_TEST

START_TEST(sessions_are_walked_in_order_of_tenant_then_id)
{
    static const char *const names[][2] = {{"b", "a"}, {"", "z"}, {"a", "b"},
        {"a", "ab"}, {"a", "a"}, {"aa", "a"}, {"b", "\xC3\xA4"}};
    static const char *const order[] = {
        "z", "a", "ab", "b", "a", "a", "\xC3\xA4"};
    struct pool_session *session;
    struct pool_key key;
    size_t n = 0;

    for (size_t i = 0; i < 7; i++)
        ck_assert_int_eq(get_named(names[i][0], strlen(names[i][0]),
                             names[i][1], strlen(names[i][1])),
            KV_OK);
    session = pool_session_after(fixture.pool, NULL);
    while (session != NULL) {
        key = pool_session_info(fixture.pool, session).key;
        ck_assert_uint_eq(key.id_bytes, strlen(order[n]));
        ck_assert_mem_eq(key.id, order[n], key.id_bytes);
        n++;
        session = pool_session_after(fixture.pool, &key);
    }
    ck_assert_uint_eq(n, 7);
    /* From a name that is not there, too. */
    key = (struct pool_key){"a", 1, "aaa", 3};
    session = pool_session_after(fixture.pool, &key);
    key = pool_session_info(fixture.pool, session).key;
    ck_assert_mem_eq(key.id, "ab", 2);
}
END_TEST

START_TEST(a_session_is_in_one_state_at_a_time)
{
    const struct pool_cause cause = {.reason = POOL_REASON_PRESSURE};
    struct pool_batch_scope scope;
    struct pool_session *session = fixture_get("a");

    ck_assert_int_eq(info_of("a").state, POOL_SESSION_EVICTED);
    fixture_run("a", 6);
    ck_assert_int_eq(info_of("a").state, POOL_SESSION_RUNNING);
    ck_assert_uint_eq(pool_blocks(fixture.pool).pinned, 2);
    ck_assert_uint_eq(pool_blocks(fixture.pool).cached, 0);
    ck_assert_int_eq(pool_session_begin(fixture.pool, session), KV_BUSY);

    scope = pool_batch_begin(fixture.pool, fixture.now_ns);
    pool_session_preempt(fixture.pool, session, &cause, fixture.now_ns);
    pool_batch_end(fixture.pool, &scope, &cause, fixture.now_ns);
    ck_assert_int_eq(info_of("a").state, POOL_SESSION_PREEMPTED);
    ck_assert_uint_eq(pool_session_n_cached(session), 0);
    ck_assert_uint_eq(info_of("a").n_tokens, 6);
    ck_assert_int_eq(pool_session_begin(fixture.pool, session), KV_BUSY);
    fixture_check();

    ck_assert_int_eq(fixture_extend(session, 0), KV_OK);
    ck_assert_int_eq(info_of("a").state, POOL_SESSION_RUNNING);
    pool_session_end(fixture.pool, session, fixture.now_ns);
    ck_assert_int_eq(info_of("a").state, POOL_SESSION_CACHED);
    ck_assert_uint_eq(pool_blocks(fixture.pool).pinned, 0);
    ck_assert_uint_eq(pool_blocks(fixture.pool).cached, 2);
    fixture_evict("a", false);
    ck_assert_int_eq(info_of("a").state, POOL_SESSION_EVICTED);
    ck_assert_uint_eq(info_of("a").evictions, 2);
}
END_TEST

START_TEST(a_conversation_goes_on_where_it_was_after_an_eviction)
{
    struct pool_session *session;
    const uint32_t *tokens;
    size_t n;

    fixture_cache("a", 7);
    fixture_evict("a", false);
    session = fixture_run("a", 3);
    tokens = pool_session_tokens(session, &n);
    ck_assert_uint_eq(n, 10);
    for (uint32_t i = 0; i < 10; i++)
        ck_assert_uint_eq(tokens[i], i < 7 ? i : i - 7);
    ck_assert_uint_eq(pool_session_n_cached(session), 10);
    pool_session_blocks(session, &n);
    ck_assert_uint_eq(n, 3);
}
END_TEST

START_TEST(truncate_releases_the_blocks_beyond_and_only_those)
{
    struct pool_session *session = fixture_run("a", 16);
    struct pool_stats stats;
    size_t n;

    ck_assert_int_eq(
        pool_session_truncate(fixture.pool, session, 17, 0), KV_INVALID);
    ck_assert_int_eq(
        pool_session_truncate(fixture.pool, session, 5, fixture.now_ns), KV_OK);
    fixture_check();
    pool_session_blocks(session, &n);
    ck_assert_uint_eq(n, 2);
    ck_assert_uint_eq(pool_session_n_cached(session), 5);
    stats = pool_stats(fixture.pool);
    ck_assert_uint_eq(stats.session_tokens, 5);
    ck_assert_uint_eq(stats.evictions, 0);
    ck_assert_uint_eq(fixture.auditor.n_releases, 1);
    ck_assert(pool_unfilled(fixture.pool) == 3.0 / 8);

    ck_assert_int_eq(
        pool_session_truncate(fixture.pool, session, 4, fixture.now_ns), KV_OK);
    fixture_check();
    ck_assert_int_eq(
        pool_session_truncate(fixture.pool, session, 0, fixture.now_ns), KV_OK);
    ck_assert_uint_eq(pool_stats(fixture.pool).total_sessions, 0);
    ck_assert_int_eq(fixture_extend(session, 2), KV_OK);
    pool_session_end(fixture.pool, session, fixture.now_ns);
    ck_assert_int_eq(
        pool_session_truncate(fixture.pool, session, 1, 0), KV_INVALID);
    ck_assert_uint_eq(pool_totals(fixture.pool).sessions_created, 1);
}
END_TEST

START_TEST(an_anonymous_session_is_found_by_nobody_and_leaves_by_release)
{
    struct pool_session *session;
    const struct pool_key nameless = {"t", 1, "", 0};

    ck_assert_int_eq(pool_session_anonymous(
                         fixture.pool, "t", 1, NULL, fixture.now_ns, &session),
        KV_OK);
    fixture_check();
    ck_assert_int_eq(pool_session_begin(fixture.pool, session), KV_OK);
    ck_assert_int_eq(fixture_extend(session, 9), KV_OK);
    ck_assert_uint_eq(pool_stats(fixture.pool).total_sessions, 1);
    ck_assert_ptr_null(pool_session_after(fixture.pool, NULL));
    ck_assert_ptr_null(pool_session_find(fixture.pool, &nameless));
    fixture_check();
    pool_session_end(fixture.pool, session, fixture.now_ns);
    ck_assert_uint_eq(pool_blocks(fixture.pool).scrubbing, 3);
    ck_assert_uint_eq(fixture.auditor.n_releases, 1);
    ck_assert_uint_eq(pool_stats(fixture.pool).evictions, 0);
    ck_assert_uint_eq(pool_totals(fixture.pool).kept_tokens, 0);
    ck_assert_int_eq(pool_session_anonymous(
                         fixture.pool, "\n", 1, NULL, fixture.now_ns, &session),
        KV_INVALID);
}
END_TEST

START_TEST(an_anonymous_session_can_be_forgotten_before_it_begins)
{
    struct pool_session *session;

    pool_session_anonymous(fixture.pool, "", 0, NULL, fixture.now_ns, &session);
    pool_session_forget(fixture.pool, session, fixture.now_ns);
}
END_TEST

START_TEST(an_anonymous_session_can_be_set_aside)
{
    const struct pool_cause cause = {.reason = POOL_REASON_PRESSURE};
    struct pool_batch_scope scope;
    struct pool_session *session;

    pool_session_anonymous(
        fixture.pool, "t", 1, NULL, fixture.now_ns, &session);
    pool_session_begin(fixture.pool, session);
    fixture_extend(session, 5);
    scope = pool_batch_begin(fixture.pool, fixture.now_ns);
    pool_session_preempt(fixture.pool, session, &cause, fixture.now_ns);
    pool_batch_end(fixture.pool, &scope, &cause, fixture.now_ns);
    ck_assert_uint_eq(fixture.auditor.last.key.id_bytes, 0);
    ck_assert(fixture.auditor.last.preempted);
    fixture_check();
    ck_assert_int_eq(fixture_extend(session, 1), KV_OK);
    ck_assert_uint_eq(pool_session_n_cached(session), 6);
    pool_session_end(fixture.pool, session, fixture.now_ns);
}
END_TEST

START_TEST(forget_releases_what_an_idle_session_holds)
{
    fixture_cache("a", 5);
    pool_session_forget(fixture.pool, fixture_find("a"), fixture.now_ns);
    ck_assert_ptr_null(fixture_find("a"));
    ck_assert_uint_eq(pool_stats(fixture.pool).used_bytes, 0);
    ck_assert_uint_eq(fixture.auditor.n_releases, 1);
    ck_assert_uint_eq(pool_stats(fixture.pool).evictions, 0);
}
END_TEST

START_TEST(beyond_max_sessions_the_longest_evicted_is_forgotten)
{
    char id[16];

    for (int i = 0; i < 8; i++) {
        snprintf(id, sizeof id, "s%d", i);
        fixture_cache(id, 4);
    }
    fixture_evict("s5", false);
    fixture_evict("s2", false);
    ck_assert_int_eq(get_named("t", 1, "new", 3), KV_OK);
    ck_assert_ptr_null(fixture_find("s5"));
    ck_assert_ptr_nonnull(fixture_find("s2"));
}
END_TEST

START_TEST(beyond_max_sessions_with_blocks_the_least_recently_used_goes)
{
    struct pool_session *anonymous;
    char id[16];

    for (int i = 0; i < 8; i++) {
        snprintf(id, sizeof id, "s%d", i);
        fixture_cache(id, 4);
    }
    ck_assert_int_eq(get_named("t", 1, "new", 3), KV_OK);
    ck_assert_ptr_null(fixture_find("s0"));
    ck_assert_uint_eq(pool_stats(fixture.pool).evictions, 1);
    ck_assert_uint_eq(
        pool_totals(fixture.pool).evictions_by_reason[POOL_REASON_LRU], 1);
    ck_assert_uint_eq(fixture.auditor.last.tokens_kept, 0);
    fixture_check();
    /* The new one has no blocks, so it goes before any that has. */
    ck_assert_int_eq(pool_session_anonymous(fixture.pool, "t", 1, NULL,
                         fixture.now_ns, &anonymous),
        KV_OK);
    ck_assert_ptr_nonnull(fixture_find("s1"));
    pool_session_forget(fixture.pool, anonymous, fixture.now_ns);
    fixture_check();
}
END_TEST

START_TEST(beyond_max_sessions_that_all_run_a_new_one_is_refused)
{
    struct pool_session *anonymous;
    char id[16];

    for (int i = 0; i < 8; i++) {
        snprintf(id, sizeof id, "s%d", i);
        fixture_run(id, 4);
    }
    ck_assert_int_eq(get_named("t", 1, "new", 3), KV_LIMIT);
    ck_assert_int_eq(pool_session_anonymous(fixture.pool, "t", 1, NULL,
                         fixture.now_ns, &anonymous),
        KV_LIMIT);
    fixture_check();
}
END_TEST

START_TEST(kept_tokens_have_a_cap_and_the_longest_evicted_go_first)
{
    fixture_cache("a", 30);
    fixture_evict("a", false);
    ck_assert_uint_eq(fixture.auditor.last.tokens_kept, 30);
    fixture_cache("b", 30);
    fixture_evict("b", false);
    ck_assert_uint_eq(pool_totals(fixture.pool).kept_tokens, 60);
    fixture_scrub();
    fixture_cache("c", 10);
    fixture_evict("c", false);
    ck_assert_uint_eq(fixture.auditor.last.tokens_kept, 10);
    ck_assert_ptr_null(fixture_find("a"));
    ck_assert_ptr_nonnull(fixture_find("b"));
    ck_assert_uint_eq(pool_totals(fixture.pool).kept_tokens, 40);
}
END_TEST

START_TEST(a_session_with_more_tokens_than_may_be_kept_is_gone_when_evicted)
{
    struct pool_config config = fixture_config();
    struct pool_outcome outcome;

    fixture_tear_down();
    config.max_kept_tokens = 8;
    fixture_open(&config);
    fixture_cache("small", 8);
    fixture_cache("large", 9);
    fixture_evict("small", false);
    outcome = fixture_evict("large", false);
    ck_assert_int_eq(outcome.result, POOL_EVICTED);
    ck_assert_uint_eq(outcome.tokens_kept, 0);
    ck_assert_uint_eq(fixture.auditor.last.tokens_kept, 0);
    ck_assert_ptr_null(fixture_find("large"));
    ck_assert_ptr_nonnull(fixture_find("small"));
}
END_TEST

START_TEST(a_preempted_session_keeps_its_tokens_whatever_the_cap)
{
    struct pool_config config = fixture_config();
    struct pool_session *session;

    fixture_tear_down();
    config.max_kept_tokens = 4;
    fixture_open(&config);
    session = fixture_run("a", 9);
    ck_assert_uint_eq(fixture_evict("a", true).tokens_kept, 9);
    ck_assert_uint_eq(fixture.auditor.last.tokens_kept, 9);
    ck_assert_ptr_eq(fixture_find("a"), session);
    fixture_check();
    /* Once it ends without having come back, the cap counts. */
    pool_session_end(fixture.pool, session, fixture.now_ns);
    ck_assert_ptr_null(fixture_find("a"));
}
END_TEST

static struct pool_outcome forget(const char *id, bool preempt)
{
    const struct pool_cause cause = {
        .reason = POOL_REASON_MANUAL, .forget = true};
    struct pool_batch_scope scope =
        pool_batch_begin(fixture.pool, fixture.now_ns);
    struct pool_outcome would =
        pool_evict_preview(fixture.pool, NULL, fixture_find(id), preempt, true);
    struct pool_outcome outcome = pool_evict_session(
        fixture.pool, fixture_find(id), &cause, preempt, fixture.now_ns);

    pool_batch_end(fixture.pool, &scope, &cause, fixture.now_ns);
    ck_assert_int_eq(would.result, outcome.result);
    ck_assert_uint_eq(would.tokens_kept, outcome.tokens_kept);
    ck_assert_int_eq(would.forgotten, outcome.forgotten);
    return outcome;
}

START_TEST(forgetting_takes_the_tokens_of_idle_sessions_that_nobody_holds)
{
    struct pool_outcome outcome;

    fixture_cache("idle", 8);
    outcome = forget("idle", false);
    ck_assert_int_eq(outcome.result, POOL_EVICTED);
    ck_assert_uint_eq(outcome.tokens_kept, 0);
    ck_assert(!outcome.forgotten); /* it had blocks, which says more */
    ck_assert_uint_eq(fixture.auditor.last.tokens_kept, 0);
    ck_assert_ptr_null(fixture_find("idle"));

    fixture_cache("kept", 8);
    fixture_evict("kept", false);
    ck_assert_uint_eq(pool_totals(fixture.pool).kept_tokens, 8);
    outcome = forget("kept", false);
    ck_assert_int_eq(outcome.result, POOL_NOTHING_TO_FREE);
    ck_assert_uint_eq(outcome.tokens_kept, 0);
    ck_assert(outcome.forgotten);
    ck_assert_ptr_null(fixture_find("kept"));
    ck_assert_uint_eq(pool_totals(fixture.pool).kept_tokens, 0);
}
END_TEST

START_TEST(forgetting_spares_who_runs_and_who_is_held)
{
    struct pool_outcome outcome;
    struct pool_session *session;

    fixture_run("busy", 8);
    outcome = forget("busy", false);
    ck_assert_int_eq(outcome.result, POOL_EVICT_BUSY);
    ck_assert_uint_eq(outcome.tokens_kept, 8);
    outcome = forget("busy", true);
    ck_assert(outcome.preempted);
    ck_assert_uint_eq(outcome.tokens_kept, 8);
    outcome = forget("busy", true); /* set aside, and without blocks */
    ck_assert_int_eq(outcome.result, POOL_NOTHING_TO_FREE);
    ck_assert_uint_eq(outcome.tokens_kept, 8);
    ck_assert(!outcome.forgotten);
    pool_session_end(fixture.pool, fixture_find("busy"), fixture.now_ns);

    fixture_cache("held", 8);
    session = fixture_find("held");
    pool_session_pin(fixture.pool, session, KV_NS_PER_S, fixture.now_ns);
    outcome = forget("held", false);
    ck_assert_int_eq(outcome.result, POOL_PINNED);
    ck_assert_uint_eq(outcome.tokens_kept, 8);
    pool_session_pin(fixture.pool, session, 0, fixture.now_ns);
    fixture_evict("held", false);
    pool_session_pin(fixture.pool, session, KV_NS_PER_S, fixture.now_ns);
    outcome = forget("held", false); /* nothing but tokens, and a pin */
    ck_assert_int_eq(outcome.result, POOL_PINNED);
    ck_assert_uint_eq(outcome.tokens_kept, 8);
    ck_assert(!outcome.forgotten);
    ck_assert_ptr_nonnull(fixture_find("held"));
}
END_TEST

START_TEST(kept_tokens_expire)
{
    struct pool_config config = fixture_config();

    fixture_tear_down();
    config.kept_ttl_ns = 10 * KV_NS_PER_S;
    fixture_open(&config);
    fixture_cache("a", 5);
    fixture_evict("a", false);
    fixture.now_ns += 9 * KV_NS_PER_S;
    ck_assert_uint_eq(pool_expire(fixture.pool, fixture.now_ns, 10), 0);
    fixture.now_ns += KV_NS_PER_S + KV_NS_PER_S / 100;
    ck_assert_int_le(pool_next_deadline(fixture.pool), fixture.now_ns);
    ck_assert_uint_eq(pool_expire(fixture.pool, fixture.now_ns, 10), 1);
    ck_assert_ptr_null(fixture_find("a"));
    ck_assert_int_eq(pool_next_deadline(fixture.pool), INT64_MAX);
}
END_TEST

START_TEST(prompt_blocks_are_counted_as_told)
{
    struct pool_session *session = fixture_run("a", 8);
    struct pool_stats stats;

    pool_session_count_prompt(fixture.pool, session, 0, 2);
    ck_assert_uint_eq(info_of("a").hits, 0);
    pool_session_count_prompt(fixture.pool, session, 6, 0);
    ck_assert_uint_eq(info_of("a").hits, 1);
    stats = pool_stats(fixture.pool);
    ck_assert(pool_stats_hit_rate(&stats) == 0.75);
}
END_TEST

START_TEST(room_for_growing_is_given_back_at_the_end_of_a_run)
{
    struct pool_session *session = fixture_get("a");
    const uint32_t tokens[20] = {0};
    uint64_t bytes = pool_totals(fixture.pool).metadata_bytes;

    ck_assert_int_eq(pool_session_begin(fixture.pool, session), KV_OK);
    ck_assert_int_eq(
        pool_session_append(fixture.pool, session, tokens, 20), KV_OK);
    ck_assert_uint_gt(
        pool_totals(fixture.pool).metadata_bytes - bytes, sizeof tokens);
    pool_session_end(fixture.pool, session, fixture.now_ns);
    ck_assert_uint_eq(
        pool_totals(fixture.pool).metadata_bytes - bytes, sizeof tokens);
}
END_TEST

/* The call must fail with KV_NO_MEMORY once per allocation it makes, and leave
 * the laws and the numbers as they were each time. */
#define CHECK_FAILS_CLEANLY(call)                                              \
    do {                                                                       \
        const struct pool_stats before = pool_stats(fixture.pool);             \
        const uint64_t bytes = pool_totals(fixture.pool).metadata_bytes;       \
        enum kv_status status;                                                 \
        int n_failed = -1;                                                     \
                                                                               \
        do {                                                                   \
            const struct pool_stats now = pool_stats(fixture.pool);            \
                                                                               \
            ck_assert_mem_eq(&now, &before, sizeof now);                       \
            ck_assert_uint_eq(                                                 \
                pool_totals(fixture.pool).metadata_bytes, bytes);              \
            fixture_check();                                                   \
            faulty_heap_fail_at(++n_failed);                                   \
            status = (call);                                                   \
            faulty_heap_fail_at(-1);                                           \
        } while (status == KV_NO_MEMORY);                                      \
        ck_assert_int_eq(status, KV_OK);                                       \
        ck_assert_int_ge(n_failed, 1);                                         \
    } while (0)

START_TEST(every_failed_allocation_leaves_the_state_as_it_was)
{
    static const char long_id[] = "12345678-1234-1234-1234-123456789012";
    const uint32_t tokens[32] = {0};
    struct pool_session *session;

    faulty_heap_install();
    fixture_cache("victim", 48);
    CHECK_FAILS_CLEANLY(get_named("a new tenant", 12, "a", 1));
    CHECK_FAILS_CLEANLY(get_named("t", 1, long_id, sizeof long_id - 1));
    session = fixture_find(long_id);
    ck_assert_int_eq(pool_session_begin(fixture.pool, session), KV_OK);
    CHECK_FAILS_CLEANLY(pool_session_append(fixture.pool, session, tokens, 32));
    /* Two blocks too few: nobody is evicted for a run that cannot go on. */
    faulty_heap_fail_at(0);
    ck_assert_int_eq(
        pool_session_reserve(fixture.pool, session, 32, NULL, fixture.now_ns),
        KV_NO_MEMORY);
    faulty_heap_fail_at(-1);
    ck_assert_uint_eq(pool_stats(fixture.pool).evictions, 0);
    CHECK_FAILS_CLEANLY(
        pool_session_reserve(fixture.pool, session, 16, NULL, fixture.now_ns));
    CHECK_FAILS_CLEANLY(pool_session_anonymous(
        fixture.pool, "t", 1, NULL, fixture.now_ns, &session));
}
END_TEST

int main(void)
{
    const TTest *tests[] = {a_session_is_found_under_its_tenant_and_id_only,
        names_that_are_not_allowed_are_refused,
        a_session_of_any_length_of_name_is_told_by_it,
        sessions_are_walked_in_order_of_tenant_then_id,
        a_session_is_in_one_state_at_a_time,
        a_conversation_goes_on_where_it_was_after_an_eviction,
        truncate_releases_the_blocks_beyond_and_only_those,
        an_anonymous_session_is_found_by_nobody_and_leaves_by_release,
        an_anonymous_session_can_be_forgotten_before_it_begins,
        an_anonymous_session_can_be_set_aside,
        forget_releases_what_an_idle_session_holds,
        beyond_max_sessions_the_longest_evicted_is_forgotten,
        beyond_max_sessions_with_blocks_the_least_recently_used_goes,
        beyond_max_sessions_that_all_run_a_new_one_is_refused,
        kept_tokens_have_a_cap_and_the_longest_evicted_go_first,
        a_session_with_more_tokens_than_may_be_kept_is_gone_when_evicted,
        a_preempted_session_keeps_its_tokens_whatever_the_cap,
        forgetting_takes_the_tokens_of_idle_sessions_that_nobody_holds,
        forgetting_spares_who_runs_and_who_is_held, kept_tokens_expire,
        prompt_blocks_are_counted_as_told,
        room_for_growing_is_given_back_at_the_end_of_a_run,
        every_failed_allocation_leaves_the_state_as_it_was};

    return CHECK_RUN("pool_session", fixture_set_up, fixture_tear_down, tests);
}
