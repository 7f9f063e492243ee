/* Room made ahead of need, between two watermarks. */
#include <string.h>

#include "tests/pool/fixture.h"
#include "tests/support/check_main.h"

#define BLOCK FIXTURE_BLOCK_TOKENS
#define HIGH 12
#define LOW 6

static void open_with(const char *policy)
{
    struct pool_config config = fixture_config();

    config.high_blocks = HIGH;
    config.low_blocks = LOW;
    config.share_prefixes = true;
    config.eviction_policy = policy;
    fixture_open(&config);
}

static void set_up(void)
{
    open_with("lru");
}

static uint64_t used(void)
{
    struct pool_blocks blocks = pool_blocks(fixture.pool);

    return blocks.pinned + blocks.cached;
}

/* A conversation like no other, so that nothing is shared. */
static struct pool_session *run(const char *id, size_t n_blocks)
{
    struct pool_session *session = fixture_get(id);
    const uint32_t first = (uint32_t)id[0] * 1000;

    ck_assert_int_eq(pool_session_begin(fixture.pool, session), KV_OK);
    ck_assert_int_eq(
        pool_session_append(fixture.pool, session, &first, 1), KV_OK);
    ck_assert_int_eq(fixture_extend(session, n_blocks * BLOCK - 1), KV_OK);
    return session;
}

static void cache(const char *id, size_t n_blocks)
{
    struct pool_session *session = run(id, n_blocks);

    fixture.now_ns += KV_NS_PER_MS;
    pool_session_end(fixture.pool, session, fixture.now_ns);
}

static int sweep_all(uint32_t n_most)
{
    int n = 0;

    while (pool_wants_sweep(fixture.pool)) {
        ck_assert_uint_gt(pool_sweep(fixture.pool, n_most, fixture.now_ns), 0);
        fixture_check();
        n++;
    }
    return n;
}

START_TEST(a_sweep_begins_above_the_high_watermark_only)
{
    cache("a", 6);
    cache("b", 6);
    ck_assert_uint_eq(used(), HIGH);
    ck_assert(!pool_wants_sweep(fixture.pool));
    ck_assert_uint_eq(pool_sweep(fixture.pool, 100, fixture.now_ns), 0);
    cache("c", 1);
    ck_assert(pool_wants_sweep(fixture.pool));
}
END_TEST

START_TEST(after_a_sweep_no_more_than_the_low_watermark_are_used)
{
    cache("a", 5);
    cache("b", 2);
    cache("c", 4);
    cache("d", 2);
    sweep_all(100);
    ck_assert_uint_le(used(), LOW);
    ck_assert_uint_eq(used(), 6); /* c and d, the younger */
    ck_assert_int_eq(
        (int)pool_session_info(fixture.pool, fixture_find("a")).state,
        POOL_SESSION_EVICTED);
    ck_assert_int_eq(
        (int)pool_session_info(fixture.pool, fixture_find("c")).state,
        POOL_SESSION_CACHED);
}
END_TEST

START_TEST(it_begins_anew_only_above_the_high_watermark)
{
    cache("a", 7);
    cache("b", 6);
    sweep_all(100);
    ck_assert_uint_eq(used(), 6);
    fixture_scrub();
    cache("c", 4);
    ck_assert_uint_gt(used(), LOW);
    ck_assert(!pool_wants_sweep(fixture.pool));
}
END_TEST

START_TEST(each_slice_is_a_batch_for_lru_that_nobody_forced)
{
    cache("a", 4);
    cache("b", 4);
    cache("c", 3);
    cache("d", 2);
    ck_assert_int_eq(sweep_all(1), 2);
    ck_assert_uint_eq(fixture.auditor.n_batches, 2);
    ck_assert_uint_eq(fixture.auditor.last_batch_sessions, 1);
    ck_assert_int_eq((int)fixture.auditor.member_reason, POOL_REASON_LRU);
    ck_assert_str_eq(fixture.auditor.forced_by, "");
    ck_assert_str_eq(fixture.auditor.last_policy, "lru");
}
END_TEST

/* A slice ends with the session that makes it full; with tails, at once. */
START_TEST(a_slice_takes_no_more_than_it_may_and_the_rest_of_one_session)
{
    cache("a", 2);
    cache("b", 5);
    cache("c", 6);
    ck_assert_uint_eq(pool_sweep(fixture.pool, 3, fixture.now_ns), 2 + 5);
    ck_assert(!pool_wants_sweep(fixture.pool));
}
END_TEST

START_TEST(with_tails_a_slice_takes_just_what_it_may)
{
    open_with("lru_tail");
    cache("a", 7);
    cache("b", 6);
    ck_assert_uint_eq(pool_sweep(fixture.pool, 3, fixture.now_ns), 3);
    ck_assert_uint_eq(pool_sweep(fixture.pool, 3, fixture.now_ns), 3);
    ck_assert_uint_eq(pool_sweep(fixture.pool, 3, fixture.now_ns), 1);
    ck_assert_uint_eq(used(), LOW);
    ck_assert(!pool_wants_sweep(fixture.pool));
    fixture_tear_down();
}
END_TEST

START_TEST(a_sweep_takes_no_pinned_block)
{
    struct pool_session *running, *held;

    running = run("r", 5);
    cache("h", 4);
    held = fixture_find("h");
    pool_session_pin(fixture.pool, held, KV_NS_PER_S, fixture.now_ns);
    cache("a", 4);
    sweep_all(100);
    ck_assert_uint_eq(used(), 9);
    ck_assert_uint_eq(pool_blocks(fixture.pool).pinned, 9);
    ck_assert(!pool_wants_sweep(fixture.pool));

    /* Above the high watermark too there is nothing to do. */
    ck_assert_int_eq(fixture_extend(running, 4 * BLOCK), KV_BUSY);
    fixture_scrub();
    pool_session_reserve(
        fixture.pool, running, 9 * BLOCK, NULL, fixture.now_ns);
    ck_assert_uint_gt(used(), HIGH);
    ck_assert(!pool_wants_sweep(fixture.pool));
    pool_session_end(fixture.pool, running, fixture.now_ns);
    ck_assert(pool_wants_sweep(fixture.pool));
}
END_TEST

/* Who needs blocks in the middle of a sweep gets what is free at once, and
 * evicts what it needs beyond, however much the sweep has yet to do. */
START_TEST(allocations_wait_for_no_slice_of_a_sweep)
{
    struct pool_session *needy = fixture_get("n");
    uint64_t evictions;

    cache("a", 1);
    cache("b", 6);
    cache("c", 6);
    ck_assert_uint_eq(pool_sweep(fixture.pool, 1, fixture.now_ns), 1);
    ck_assert(!pool_wants_sweep(fixture.pool) || used() > LOW);
    evictions = pool_stats(fixture.pool).evictions;
    pool_session_begin(fixture.pool, needy);
    ck_assert_int_eq(fixture_extend(needy, 3 * BLOCK), KV_OK);
    ck_assert_uint_eq(pool_stats(fixture.pool).evictions, evictions);
    ck_assert_int_eq(fixture_extend(needy, 2 * BLOCK), KV_BUSY);
    ck_assert_uint_eq(pool_stats(fixture.pool).evictions, evictions + 1);
    fixture_check();
    fixture_scrub();
    ck_assert_int_eq(pool_session_reserve(
                         fixture.pool, needy, 5 * BLOCK, NULL, fixture.now_ns),
        KV_OK);
}
END_TEST

static bool nothing(void *ctx)
{
    (void)ctx;
    return false;
}

START_TEST(no_sweep_while_no_eviction_can_be_recorded)
{
    cache("a", 7);
    cache("b", 6);
    fixture.auditor.observer.may_evict = nothing;
    ck_assert_uint_eq(pool_sweep(fixture.pool, 100, fixture.now_ns), 0);
    fixture.auditor.observer.may_evict = NULL;
    ck_assert_int_eq(sweep_all(100), 1);
}
END_TEST

/* Holders of the same blocks free nothing but the last. */
START_TEST(a_slice_is_bounded_though_its_sessions_free_nothing)
{
    struct pool_session *session;

    for (char id[] = "1"; id[0] <= '5'; id[0]++) {
        session = fixture_get(id);
        pool_session_begin(fixture.pool, session);
        pool_session_append(fixture.pool, session,
            (const uint32_t[]){1, 2, 3, 4, 5, 6, 7, 8, 9}, 9);
        pool_session_adopt(fixture.pool, session, fixture.now_ns);
        ck_assert_int_eq(pool_session_reserve(
                             fixture.pool, session, 8, NULL, fixture.now_ns),
            KV_OK);
        pool_session_commit(fixture.pool, session, 8);
        pool_session_end(fixture.pool, session, fixture.now_ns);
    }
    cache("a", 11);
    ck_assert_uint_eq(used(), 13);
    ck_assert_uint_eq(pool_sweep(fixture.pool, 3, fixture.now_ns), 11);
    fixture_scrub();
    ck_assert_uint_eq(used(), 2);
}
END_TEST

START_TEST(a_low_watermark_above_the_high_one_is_refused)
{
    struct pool_config config = fixture_config();
    struct pool *pool = NULL;
    struct kv_error error;

    config.high_blocks = 5;
    config.low_blocks = 6;
    ck_assert_int_eq(pool_open(&pool, &config, 0, &error), KV_INVALID);
    ck_assert_ptr_nonnull(strstr(error.text, "watermark"));
}
END_TEST

int main(void)
{
    const TTest *tests[] = {a_sweep_begins_above_the_high_watermark_only,
        after_a_sweep_no_more_than_the_low_watermark_are_used,
        it_begins_anew_only_above_the_high_watermark,
        each_slice_is_a_batch_for_lru_that_nobody_forced,
        a_slice_takes_no_more_than_it_may_and_the_rest_of_one_session,
        a_sweep_takes_no_pinned_block, allocations_wait_for_no_slice_of_a_sweep,
        no_sweep_while_no_eviction_can_be_recorded,
        a_slice_is_bounded_though_its_sessions_free_nothing};
    const TTest *own[] = {with_tails_a_slice_takes_just_what_it_may,
        a_low_watermark_above_the_high_one_is_refused};

    return CHECK_RUN("pool_sweep", set_up, fixture_tear_down, tests) |
           CHECK_RUN("pool_sweep_own", NULL, NULL, own);
}
