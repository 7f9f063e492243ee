/* What requests without a session leave behind. */
#include <string.h>

#include "tests/pool/fixture.h"
#include "tests/support/check_main.h"

#define BLOCK FIXTURE_BLOCK_TOKENS

static void open_with(uint32_t max_beginnings, const char *policy)
{
    struct pool_config config = fixture_config();

    config.share_prefixes = true;
    config.max_beginnings = max_beginnings;
    config.eviction_policy = policy;
    fixture_open(&config);
}

static void set_up(void)
{
    open_with(4, "lru");
}

static struct pool_blocks blocks(void)
{
    return pool_blocks(fixture.pool);
}

static uint64_t beginnings(void)
{
    return pool_totals(fixture.pool).beginnings;
}

/* Goes on with these tokens, a letter each: computes what is not there. Returns
 * how many tokens were. */
static size_t compute(struct pool_session *session, const char *text)
{
    uint32_t tokens[64];
    size_t n = strlen(text), n_found;

    for (size_t i = 0; i < n; i++)
        tokens[i] = (uint32_t)text[i];
    ck_assert_int_eq(
        pool_session_append(fixture.pool, session, tokens, n), KV_OK);
    n_found = pool_session_adopt(fixture.pool, session, fixture.now_ns);
    while (pool_session_reserve(
               fixture.pool, session, n, NULL, fixture.now_ns) == KV_BUSY)
        fixture_scrub();
    pool_session_commit(fixture.pool, session, n);
    return n_found;
}

static struct pool_session *begin(const char *tenant)
{
    struct pool_session *session;

    ck_assert_int_eq(pool_session_anonymous(fixture.pool, tenant, 1, NULL,
                         fixture.now_ns, &session),
        KV_OK);
    ck_assert_int_eq(pool_session_begin(fixture.pool, session), KV_OK);
    return session;
}

static size_t request(const char *text)
{
    struct pool_session *session = begin("t");
    size_t n_found = compute(session, text);

    fixture.now_ns += KV_NS_PER_S;
    pool_session_end(fixture.pool, session, fixture.now_ns);
    fixture_check();
    return n_found;
}

static struct pool_outcome evict(struct pool_session *session)
{
    const struct pool_cause cause = {
        .reason = POOL_REASON_MANUAL, .requested_by = "anonymous"};
    struct pool_batch_scope scope =
        pool_batch_begin(fixture.pool, fixture.now_ns);
    struct pool_outcome outcome = pool_evict_session(
        fixture.pool, session, &cause, false, fixture.now_ns);

    pool_batch_end(fixture.pool, &scope, &cause, fixture.now_ns);
    return outcome;
}

START_TEST(a_request_without_a_session_leaves_its_full_blocks_to_the_next)
{
    ck_assert_uint_eq(request("aaaabbbbcc"), 0);
    ck_assert_uint_eq(blocks().cached, 2);
    ck_assert_uint_eq(blocks().pinned, 0);
    ck_assert_uint_eq(beginnings(), 1);
    ck_assert_uint_eq(request("aaaabbbbdd"), 2 * BLOCK);
}
END_TEST

START_TEST(a_beginning_is_a_session_that_nobody_can_ask_for)
{
    struct pool_session *session;
    struct pool_key place;

    fixture_cache("z", BLOCK);
    request("aaaab");
    ck_assert_uint_eq(pool_stats(fixture.pool).total_sessions, 2);
    session = pool_session_after(fixture.pool, NULL);
    ck_assert_ptr_eq(session, fixture_find("z"));
    session = pool_holder_after(fixture.pool, NULL);
    ck_assert_ptr_ne(session, fixture_find("z"));
    ck_assert_uint_eq(pool_session_info(fixture.pool, session).key.id_bytes, 0);
    ck_assert_int_eq((int)pool_session_info(fixture.pool, session).state,
        POOL_SESSION_CACHED);

    place = pool_session_place(session);
    ck_assert_ptr_eq(pool_session_find(fixture.pool, &place), session);
    ck_assert_ptr_eq(
        pool_holder_after(fixture.pool, &place), fixture_find("z"));
}
END_TEST

START_TEST(a_conversation_that_comes_without_a_session_is_one_beginning)
{
    const uint64_t created = pool_totals(fixture.pool).sessions_created;
    struct pool_session *session;
    struct pool_session_info info;

    request("aaaab");
    request("aaaabbbbc");
    request("aaaabbbbccccd");
    ck_assert_uint_eq(beginnings(), 1);
    ck_assert_uint_eq(blocks().cached, 3);
    ck_assert_uint_eq(blocks().shared, 0);
    ck_assert_uint_eq(pool_totals(fixture.pool).sessions_created - created, 3);

    /* It is as old as the first of its requests. */
    session = pool_holder_after(fixture.pool, NULL);
    info = pool_session_info(fixture.pool, session);
    ck_assert_int_eq(info.created_ns, KV_NS_PER_S);
    ck_assert_int_eq(info.released_ns, fixture.now_ns);
}
END_TEST

START_TEST(requests_that_end_alike_leave_one_beginning)
{
    for (int i = 0; i < 100; i++)
        request("aaaabbbbcc");
    ck_assert_uint_eq(beginnings(), 1);
    ck_assert_uint_eq(blocks().cached, 2);
    ck_assert_uint_eq(pool_stats(fixture.pool).total_sessions, 1);
    ck_assert_uint_eq(pool_stats(fixture.pool).evictions, 0);
}
END_TEST

/* A prompt whose last block is full computes it anew: its last token always
 * is. */
START_TEST(what_was_computed_twice_stays_once)
{
    request("aaaabbbb");
    request("aaaabbbb");
    ck_assert_uint_eq(blocks().cached, 2);
    ck_assert_uint_eq(beginnings(), 2); /* of one block, and of two */
    request("aaaabbbb");
    ck_assert_uint_eq(blocks().cached, 2);
    ck_assert_uint_eq(beginnings(), 2);
}
END_TEST

START_TEST(the_common_beginning_stays_as_long_as_one_that_holds_it)
{
    struct pool_session *first;

    request("aaaabbbbx");
    request("aaaaccccx");
    ck_assert_uint_eq(blocks().shared, 1);
    first = pool_holder_after(fixture.pool, NULL);
    ck_assert_uint_eq(evict(first).shared_blocks_kept, 1);
    ck_assert_uint_eq(request("aaaaddddx"), BLOCK);
    ck_assert_uint_eq(request("aaaabbbbx"), BLOCK);
    ck_assert_uint_eq(request("aaaaccccx"), 2 * BLOCK);
}
END_TEST

START_TEST(a_beginning_is_evicted_by_hand_and_then_gone)
{
    struct pool_outcome outcome;

    request("aaaabbbbx");
    outcome = evict(pool_holder_after(fixture.pool, NULL));
    ck_assert_int_eq((int)outcome.result, POOL_EVICTED);
    ck_assert_uint_eq(outcome.blocks_freed, 2);
    ck_assert_uint_eq(outcome.tokens_kept, 0);
    ck_assert_str_eq(fixture.auditor.last_id, "");
    ck_assert_ptr_null(pool_holder_after(fixture.pool, NULL));
    ck_assert_uint_eq(blocks().cached, 0);
    ck_assert_uint_eq(beginnings(), 0);
    ck_assert_uint_eq(request("aaaabbbbx"), 0);
}
END_TEST

START_TEST(a_beginning_is_evicted_by_its_ttl)
{
    struct pool_config config = fixture_config();

    config.share_prefixes = true;
    config.max_beginnings = 4;
    config.default_idle_ttl_ns = 10 * KV_NS_PER_S;
    fixture_tear_down();
    fixture_open(&config);
    request("aaaab");
    fixture.now_ns += 11 * KV_NS_PER_S;
    ck_assert_uint_eq(pool_expire(fixture.pool, fixture.now_ns, 8), 1);
    ck_assert_int_eq((int)fixture.auditor.member_reason, POOL_REASON_TTL);
    ck_assert_uint_eq(blocks().cached, 0);
    ck_assert_uint_eq(beginnings(), 0);
}
END_TEST

START_TEST(beginnings_and_sessions_go_in_one_order_under_pressure)
{
    struct pool_session *needy;

    request("aaaab"); /* 1 block */
    fixture.now_ns += KV_NS_PER_S;
    fixture_cache("s", 3 * BLOCK);
    fixture.now_ns += KV_NS_PER_S;
    request("ccccd"); /* 1 block, the youngest; 11 are free */
    needy = fixture_get("n");
    pool_session_begin(fixture.pool, needy);
    ck_assert_int_eq(fixture_extend(needy, 12 * BLOCK), KV_BUSY);
    ck_assert_str_eq(fixture.auditor.last_id, "");
    ck_assert_uint_eq(fixture.auditor.last.blocks_freed, 1);
    ck_assert_uint_eq(beginnings(), 1);
    fixture_scrub();
    ck_assert_int_eq(fixture_extend(needy, BLOCK), KV_BUSY);
    ck_assert_str_eq(fixture.auditor.last_id, "s");
    ck_assert_uint_eq(beginnings(), 1);
}
END_TEST

/* What it held stays with the session. */
START_TEST(a_beginning_that_frees_nothing_is_not_passed_over)
{
    struct pool_session *session, *needy;

    request("aaaax");
    session = fixture_get("s");
    pool_session_begin(fixture.pool, session);
    compute(session, "aaaabbbb");
    pool_session_end(fixture.pool, session, fixture.now_ns);
    ck_assert_uint_eq(blocks().shared, 1);
    fixture_cache("z", 2 * BLOCK);
    needy = fixture_get("n");
    pool_session_begin(fixture.pool, needy);
    ck_assert_int_eq(fixture_extend(needy, 14 * BLOCK), KV_BUSY);
    ck_assert_uint_eq(pool_stats(fixture.pool).evictions, 2);
    ck_assert_str_eq(fixture.auditor.last_id, "s");
    ck_assert_uint_eq(beginnings(), 0);
}
END_TEST

START_TEST(one_more_than_may_be_takes_the_place_of_the_oldest)
{
    request("aaaax");
    request("bbbbx");
    request("ccccx");
    request("ddddx");
    request("bbbbx"); /* used again */
    ck_assert_uint_eq(pool_stats(fixture.pool).evictions, 0);
    request("eeeex");
    ck_assert_uint_eq(beginnings(), 4);
    ck_assert_uint_eq(pool_stats(fixture.pool).evictions, 1);
    ck_assert_int_eq((int)fixture.auditor.member_reason, POOL_REASON_LRU);
    ck_assert_uint_eq(request("bbbbx"), BLOCK);
    ck_assert_uint_eq(request("aaaax"), 0); /* for which ccccx goes */
    ck_assert_uint_eq(request("ddddx"), BLOCK);
}
END_TEST

static bool nothing(void *ctx)
{
    (void)ctx;
    return false;
}

START_TEST(where_no_eviction_can_be_recorded_the_oldest_stays)
{
    open_with(1, "lru");
    request("aaaax");
    fixture.auditor.observer.may_evict = nothing;
    request("bbbbx");
    ck_assert_uint_eq(beginnings(), 1);
    ck_assert_uint_eq(blocks().cached, 1);
    ck_assert_uint_eq(request("aaaax"), BLOCK);
    fixture_tear_down();
}
END_TEST

START_TEST(with_no_beginnings_allowed_everything_is_released)
{
    open_with(0, "lru");
    request("aaaabbbbx");
    ck_assert_uint_eq(blocks().cached, 0);
    ck_assert_ptr_null(pool_holder_after(fixture.pool, NULL));
    fixture_tear_down();
}
END_TEST

START_TEST(a_tail_cut_off_leaves_no_two_beginnings_with_one_end)
{
    struct pool_session *needy;

    open_with(4, "lru_tail");
    request("aaaabbbb");
    request("aaaabbbb"); /* the first block alone */
    needy = fixture_get("n");
    pool_session_begin(fixture.pool, needy);
    ck_assert_int_eq(fixture_extend(needy, 15 * BLOCK), KV_BUSY);
    fixture_check();
    ck_assert_uint_eq(beginnings(), 1);
    ck_assert_uint_eq(blocks().cached, 1);
    pool_session_end(fixture.pool, needy, fixture.now_ns);
    ck_assert_uint_eq(request("aaaax"), BLOCK);
    fixture_tear_down();
}
END_TEST

START_TEST(a_tail_cut_off_a_beginning_leaves_its_first_blocks)
{
    struct pool_session *needy;

    open_with(4, "lru_tail");
    request("aaaabbbbccccx");
    needy = fixture_get("n");
    pool_session_begin(fixture.pool, needy);
    ck_assert_int_eq(fixture_extend(needy, 14 * BLOCK), KV_BUSY);
    fixture_check();
    ck_assert_uint_eq(fixture.auditor.last.tokens_kept, 0);
    pool_session_end(fixture.pool, needy, fixture.now_ns);
    fixture_scrub();
    ck_assert_uint_eq(request("aaaabbbbccccx"), 2 * BLOCK);
    fixture_tear_down();
}
END_TEST

START_TEST(a_session_shares_with_a_beginning)
{
    struct pool_session *session = fixture_run("s", 3 * BLOCK);
    uint32_t tokens[64];
    size_t n;

    memcpy(tokens, pool_session_tokens(session, &n), 3 * BLOCK * 4);
    pool_session_end(fixture.pool, session, fixture.now_ns);
    session = begin("t");
    ck_assert_int_eq(
        pool_session_append(fixture.pool, session, tokens, 3 * BLOCK), KV_OK);
    ck_assert_uint_eq(
        pool_session_adopt(fixture.pool, session, fixture.now_ns), 2 * BLOCK);
    pool_session_end(fixture.pool, session, fixture.now_ns);
    fixture_check();
    ck_assert_uint_eq(blocks().shared, 2);
    fixture_evict("s", false);
    ck_assert_uint_eq(blocks().cached, 2);
}
END_TEST

/* Tenants share nothing, so neither do their requests. */
START_TEST(a_beginning_is_found_by_its_own_tenant_only)
{
    struct pool_session *session;

    request("aaaax");
    session = begin("u");
    ck_assert_uint_eq(compute(session, "aaaax"), 0);
    pool_session_end(fixture.pool, session, fixture.now_ns);
}
END_TEST

START_TEST(a_request_set_aside_leaves_nothing)
{
    const struct pool_cause cause = {.reason = POOL_REASON_PRESSURE};
    struct pool_batch_scope scope =
        pool_batch_begin(fixture.pool, fixture.now_ns);
    struct pool_session *session = begin("t");

    compute(session, "aaaabbbb");
    scope = pool_batch_begin(fixture.pool, fixture.now_ns);
    pool_session_preempt(fixture.pool, session, &cause, fixture.now_ns);
    pool_batch_end(fixture.pool, &scope, &cause, fixture.now_ns);
    pool_session_end(fixture.pool, session, fixture.now_ns);
    ck_assert_ptr_null(pool_holder_after(fixture.pool, NULL));
}
END_TEST

int main(void)
{
    const TTest *tests[] = {
        a_request_without_a_session_leaves_its_full_blocks_to_the_next,
        a_beginning_is_a_session_that_nobody_can_ask_for,
        a_conversation_that_comes_without_a_session_is_one_beginning,
        requests_that_end_alike_leave_one_beginning,
        what_was_computed_twice_stays_once,
        the_common_beginning_stays_as_long_as_one_that_holds_it,
        a_beginning_is_evicted_by_hand_and_then_gone,
        beginnings_and_sessions_go_in_one_order_under_pressure,
        a_beginning_that_frees_nothing_is_not_passed_over,
        one_more_than_may_be_takes_the_place_of_the_oldest,
        a_session_shares_with_a_beginning,
        a_beginning_is_found_by_its_own_tenant_only,
        a_request_set_aside_leaves_nothing, a_beginning_is_evicted_by_its_ttl};
    const TTest *own[] = {where_no_eviction_can_be_recorded_the_oldest_stays,
        with_no_beginnings_allowed_everything_is_released,
        a_tail_cut_off_leaves_no_two_beginnings_with_one_end,
        a_tail_cut_off_a_beginning_leaves_its_first_blocks};

    return CHECK_RUN("pool_beginning", set_up, fixture_tear_down, tests) |
           CHECK_RUN("pool_beginning_own", NULL, NULL, own);
}
