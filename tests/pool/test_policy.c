/* Policies: who goes first, and for each a trace on which it does better than
 * lru and one on which it does worse. */
#include <stdio.h>
#include <string.h>

#include "tests/pool/fixture.h"
#include "tests/support/check_main.h"

/* 16 blocks of 4 tokens. */
static void open_with(const char *policy)
{
    struct pool_config config = fixture_config();

    config.eviction_policy = policy;
    config.max_sessions = 64;
    config.max_kept_tokens = 1 << 20;
    fixture_open(&config);
}

/* A turn of a conversation that grows to n_blocks full blocks. Returns how many
 * of its blocks had to be computed. */
static uint64_t turn(const char *id, uint32_t n_blocks)
{
    const uint32_t tokens[256] = {0};
    size_t n_wanted = (size_t)n_blocks * FIXTURE_BLOCK_TOKENS, n_has, n_cached;
    struct pool_session *session = fixture_get(id);
    enum kv_status status;

    fixture.now_ns += KV_NS_PER_MS;
    ck_assert_int_eq(pool_session_begin(fixture.pool, session), KV_OK);
    pool_session_tokens(session, &n_has);
    n_cached = pool_session_n_cached(session);
    if (n_wanted > n_has)
        ck_assert_int_eq(pool_session_append(
                             fixture.pool, session, tokens, n_wanted - n_has),
            KV_OK);
    do {
        status = pool_session_reserve(
            fixture.pool, session, n_wanted, NULL, fixture.now_ns);
        fixture_scrub();
    } while (status == KV_BUSY);
    ck_assert_int_eq(status, KV_OK);
    pool_session_commit(fixture.pool, session, n_wanted);
    pool_session_count_prompt(fixture.pool, session, n_cached > 0, 0);
    pool_session_end(fixture.pool, session, fixture.now_ns);
    fixture_check();
    return (n_wanted - n_cached) / FIXTURE_BLOCK_TOKENS;
}

static uint64_t turn_of(const char *prefix, int number, uint32_t n_blocks)
{
    char id[16];

    snprintf(id, sizeof id, "%s%d", prefix, number);
    return turn(id, n_blocks);
}

static void set_priority(const char *id, uint32_t priority)
{
    pool_session_set_priority(fixture.pool, fixture_get(id), priority);
}

static uint64_t n_blocks_of(const char *id)
{
    struct pool_session *session = fixture_find(id);

    return session == NULL ? 0
                           : pool_session_info(fixture.pool, session).n_blocks;
}

/* Blocks computed, or evictions, on a trace. */
typedef uint64_t trace(void);

static uint64_t cost_of(const char *policy, trace *run)
{
    uint64_t cost;

    open_with(policy);
    cost = run();
    fixture_tear_down();
    return cost;
}

/* ---- each on a trace of its liking, and on another */

/* Two conversations that do not fit together take turns. */
static uint64_t trace_of_two_in_turns(void)
{
    uint64_t n_computed = 0;

    for (int i = 0; i < 10; i++)
        n_computed += turn(i % 2 == 0 ? "a" : "b", 10);
    return n_computed;
}

/* One grows block by block at the expense of another. */
static uint64_t trace_of_one_that_grows(void)
{
    turn("old", 10);
    for (uint32_t n = 1; n <= 16; n++)
        turn("new", n);
    return pool_stats(fixture.pool).evictions;
}

/* One that matters comes back among many that do not. */
static uint64_t trace_of_one_that_matters(void)
{
    uint64_t n_computed = 0;

    set_priority("dear", 90);
    for (int i = 0; i < 8; i++) {
        n_computed += turn("dear", 8);
        for (int j = 0; j < 4; j++)
            n_computed += turn_of("s", 4 * i + j, 4);
    }
    return n_computed;
}

/* One was said to matter, and never comes back. */
static uint64_t trace_of_one_that_never_returns(void)
{
    uint64_t n_computed = 0;

    set_priority("dear", 90);
    n_computed += turn("dear", 8);
    for (int i = 0; i < 12; i++)
        n_computed += turn_of("s", i % 3, 4);
    return n_computed;
}

/* Two that come back, and many that come once. */
static uint64_t trace_of_a_scan(void)
{
    uint64_t n_computed = 0;

    for (int i = 0; i < 8; i++) {
        n_computed += turn("a", 4) + turn("b", 4);
        n_computed += turn("a", 4) + turn("b", 4);
        for (int j = 0; j < 4; j++)
            n_computed += turn_of("s", 4 * i + j, 3);
    }
    return n_computed;
}

/* Each comes twice, with two others between, after some that came often. */
static uint64_t trace_of_new_pairs(void)
{
    uint64_t n_computed = 0;

    for (int i = 0; i < 4; i++)
        n_computed += turn("a", 5) + turn("b", 5);
    for (int i = 0; i < 12; i++) {
        n_computed += turn_of("s", i, 4);
        n_computed += i >= 2 ? turn_of("s", i - 2, 4) : 0;
    }
    return n_computed;
}

/* One that is used often, and others that are not. */
static uint64_t trace_of_one_used_often(void)
{
    uint64_t n_computed = 0;

    for (int i = 0; i < 8; i++)
        n_computed += turn("often", 6);
    for (int i = 0; i < 6; i++) {
        for (int j = 0; j < 4; j++)
            n_computed += turn_of("s", 4 * i + j, 4);
        n_computed += turn("often", 6);
    }
    return n_computed;
}

/* One was used often, and is not any more; others take turns. */
static uint64_t trace_of_one_that_was_used_often(void)
{
    uint64_t n_computed = 0;

    for (int i = 0; i < 8; i++)
        n_computed += turn("often", 6);
    for (int i = 0; i < 9; i++)
        n_computed += turn_of("s", i % 3, 5);
    return n_computed;
}

struct contest {
    const char *policy;
    trace *wins, *loses;
};

START_TEST(each_policy_beats_lru_on_one_trace_and_loses_on_another)
{
    static const struct contest contests[] = {
        {"lru_tail", trace_of_two_in_turns, trace_of_one_that_grows},
        {"priority", trace_of_one_that_matters,
            trace_of_one_that_never_returns},
        {"s3fifo", trace_of_a_scan, trace_of_new_pairs},
        {"cost", trace_of_one_used_often, trace_of_one_that_was_used_often},
    };

    for (size_t i = 0; i < sizeof contests / sizeof *contests; i++) {
        const struct contest *contest = &contests[i];
        uint64_t won = cost_of(contest->policy, contest->wins);
        uint64_t lost = cost_of(contest->policy, contest->loses);

        printf("%s: %u and %u, lru: %u and %u\n", contest->policy,
            (unsigned)won, (unsigned)lost,
            (unsigned)cost_of("lru", contest->wins),
            (unsigned)cost_of("lru", contest->loses));

        if (won >= cost_of("lru", contest->wins))
            ck_abort_msg("%s does not beat lru", contest->policy);
        if (lost <= cost_of("lru", contest->loses))
            ck_abort_msg("%s does not lose", contest->policy);
    }
}
END_TEST

/* ---- what each takes */

START_TEST(lru_tail_takes_last_blocks_and_no_more_than_are_needed)
{
    open_with("lru_tail");
    turn("a", 10);
    turn("b", 6);
    turn("c", 3);
    ck_assert_uint_eq(n_blocks_of("a"), 7);
    ck_assert_uint_eq(n_blocks_of("b"), 6);
    ck_assert_int_eq(pool_session_info(fixture.pool, fixture_find("a")).state,
        POOL_SESSION_CACHED);
    ck_assert_uint_eq(fixture.auditor.last.blocks_freed, 3);
    ck_assert_uint_eq(fixture.auditor.last.tokens_freed, 12);
    ck_assert_uint_eq(fixture.auditor.last.tokens_kept, 40);
    ck_assert_uint_eq(fixture.auditor.last.shared_blocks_kept, 0);
    ck_assert_uint_eq(fixture.auditor.last.after->total_sessions,
        fixture.auditor.last.before->total_sessions);
    ck_assert_uint_eq(turn("a", 10), 3);
    /* One that is cut stays where it was in the order. */
    ck_assert_uint_eq(n_blocks_of("b"), 3);
    fixture_tear_down();
}
END_TEST

START_TEST(lru_tail_takes_a_whole_session_and_then_the_end_of_the_next)
{
    open_with("lru_tail");
    turn("a", 6);
    turn("b", 6);
    turn("c", 12);
    ck_assert_uint_eq(n_blocks_of("a"), 0);
    ck_assert_uint_eq(n_blocks_of("b"), 4);
    ck_assert_uint_eq(fixture.auditor.n_evictions, 2);
    fixture_tear_down();
}
END_TEST

START_TEST(priority_takes_the_lowest_first_and_among_equals_the_oldest)
{
    static const uint32_t priorities[] = {70, 0, 100, 50, 0, 64};
    static const char *const order[] = {"s1", "s4", "s3", "s5", "s0", "s2"};

    open_with("priority");
    for (int i = 0; i < 6; i++) {
        char id[16];

        snprintf(id, sizeof id, "s%d", i);
        set_priority(id, priorities[i]);
        turn(id, 2);
    }
    for (uint32_t i = 0; i < 6; i++) {
        turn("new", 6 + 2 * i);
        if (i < 5)
            ck_assert_str_eq(fixture.auditor.last_id, order[i]);
    }
    fixture_tear_down();
}
END_TEST

START_TEST(a_priority_set_on_a_cached_session_counts_at_once)
{
    open_with("priority");
    turn("a", 8);
    turn("b", 8);
    set_priority("b", 49);
    fixture_check();
    turn("c", 8);
    ck_assert_str_eq(fixture.auditor.last_id, "b");
    ck_assert_str_eq(fixture.auditor.last_policy, "priority");
    fixture_tear_down();
}
END_TEST

START_TEST(an_unknown_policy_is_refused_by_name)
{
    struct pool_config config = fixture_config();
    struct pool *pool = NULL;
    struct kv_error error;

    config.eviction_policy = "mru";
    ck_assert_int_eq(pool_open(&pool, &config, 0, &error), KV_INVALID);
    ck_assert_ptr_nonnull(strstr(error.text, "\"mru\""));
    ck_assert_ptr_null(pool);
}
END_TEST

int main(void)
{
    const TTest *tests[] = {
        each_policy_beats_lru_on_one_trace_and_loses_on_another,
        lru_tail_takes_last_blocks_and_no_more_than_are_needed,
        lru_tail_takes_a_whole_session_and_then_the_end_of_the_next,
        priority_takes_the_lowest_first_and_among_equals_the_oldest,
        a_priority_set_on_a_cached_session_counts_at_once,
        an_unknown_policy_is_refused_by_name};

    return CHECK_RUN("pool_policy", NULL, NULL, tests);
}
