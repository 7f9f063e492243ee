/* What keeps a session: running > pin or lease > TTL > pressure. */
#include <string.h>

#include "tests/pool/fixture.h"
#include "tests/support/check_main.h"
#include "tests/support/faulty_heap.h"

static enum pool_session_state state_of(const char *id)
{
    return pool_session_info(fixture.pool, fixture_find(id)).state;
}

static void pin(const char *id, int64_t duration_ns)
{
    pool_session_pin(
        fixture.pool, fixture_find(id), duration_ns, fixture.now_ns);
}

static enum kv_status lease(
    const char *id, const char *name, int64_t duration_ns)
{
    return pool_session_lease(
        fixture.pool, fixture_find(id), name, duration_ns, fixture.now_ns);
}

static uint32_t n_leases(const char *id)
{
    struct pool_lease out;
    uint32_t n = 0;

    while (pool_session_lease_at(fixture_find(id), n, &out))
        n++;
    return n;
}

static void pass(int64_t ns)
{
    fixture.now_ns += ns;
    pool_expire(fixture.pool, fixture.now_ns, 100);
    fixture_check();
}

START_TEST(a_held_session_is_nobodys_victim)
{
    struct pool_session *b;

    fixture_cache("a", 32);
    pin("a", 10 * KV_NS_PER_S);
    ck_assert_int_eq(state_of("a"), POOL_SESSION_HELD);
    ck_assert_uint_eq(pool_blocks(fixture.pool).pinned, 8);
    ck_assert_uint_eq(pool_reclaimable_blocks(fixture.pool), 8);
    fixture_cache("c", 4);
    b = fixture_run("b", 4);
    ck_assert_int_eq(fixture_extend(b, 32), KV_POOL_FULL);
    ck_assert_int_eq(state_of("c"), POOL_SESSION_CACHED);
    pool_session_end(fixture.pool, b, fixture.now_ns);
    fixture_check();
}
END_TEST

START_TEST(evict_answers_pinned_and_takes_nothing)
{
    fixture_cache("a", 8);
    ck_assert_int_eq(lease("a", "r", KV_NS_PER_S), KV_OK);
    ck_assert_int_eq(fixture_evict("a", false).result, POOL_PINNED);
    ck_assert_int_eq(fixture_evict("a", true).result, POOL_PINNED);
    pool_session_begin(fixture.pool, fixture_find("a"));
    ck_assert_int_eq(fixture_evict("a", false).result, POOL_EVICT_BUSY);
    ck_assert_int_eq(fixture_evict("a", true).result, POOL_PINNED);
    pool_session_end(fixture.pool, fixture_find("a"), fixture.now_ns);
    ck_assert_int_eq(state_of("a"), POOL_SESSION_HELD);
    ck_assert_uint_eq(fixture.auditor.n_evictions, 0);
}
END_TEST

START_TEST(a_hold_ends_at_its_time_and_not_before)
{
    fixture_cache("a", 8);
    pin("a", KV_NS_PER_S);
    pass(KV_NS_PER_S - 1);
    ck_assert_int_eq(state_of("a"), POOL_SESSION_HELD);
    ck_assert_int_le(
        pool_next_deadline(fixture.pool), fixture.now_ns + 2 * KV_NS_PER_MS);
    pass(2 * KV_NS_PER_MS);
    ck_assert_int_eq(state_of("a"), POOL_SESSION_CACHED);
    ck_assert_int_eq(
        pool_session_info(fixture.pool, fixture_find("a")).pin_until_ns, 0);
    ck_assert_int_eq(fixture_evict("a", false).result, POOL_EVICTED);
}
END_TEST

START_TEST(blocks_stay_while_any_lease_runs)
{
    fixture_cache("a", 8);
    lease("a", "x", KV_NS_PER_S);
    lease("a", "y", 3 * KV_NS_PER_S);
    pin("a", 2 * KV_NS_PER_S);
    pass(KV_NS_PER_S + KV_NS_PER_S / 2);
    ck_assert_int_eq(state_of("a"), POOL_SESSION_HELD);
    lease("a", "y", 3 * KV_NS_PER_S); /* renewed */
    pass(2 * KV_NS_PER_S);
    ck_assert_int_eq(state_of("a"), POOL_SESSION_HELD);
    lease("a", "y", 0);
    ck_assert_int_eq(state_of("a"), POOL_SESSION_CACHED);
    ck_assert_uint_eq(n_leases("a"), 0);
    fixture_check();
}
END_TEST

START_TEST(accesses_do_not_extend_a_pin)
{
    fixture_cache("a", 8);
    pin("a", KV_NS_PER_S);
    fixture.now_ns += KV_NS_PER_S / 2;
    fixture_cache("a", 4);
    ck_assert_int_eq(state_of("a"), POOL_SESSION_HELD);
    pass(KV_NS_PER_S / 2 + 2 * KV_NS_PER_MS);
    ck_assert_int_eq(state_of("a"), POOL_SESSION_CACHED);
}
END_TEST

START_TEST(a_pin_that_ends_while_it_runs_holds_nothing_afterwards)
{
    struct pool_session *a = fixture_run("a", 8);

    pin("a", KV_NS_PER_S);
    fixture.now_ns += 2 * KV_NS_PER_S;
    pool_session_end(fixture.pool, a, fixture.now_ns);
    ck_assert_int_eq(state_of("a"), POOL_SESSION_CACHED);
}
END_TEST

START_TEST(a_ttl_that_falls_due_while_held_fires_when_the_hold_ends)
{
    fixture_cache("a", 8);
    pool_session_set_idle_ttl(
        fixture.pool, fixture_find("a"), KV_NS_PER_S, fixture.now_ns);
    pin("a", 3 * KV_NS_PER_S);
    pass(2 * KV_NS_PER_S);
    ck_assert_int_eq(state_of("a"), POOL_SESSION_HELD);
    pass(KV_NS_PER_S + 2 * KV_NS_PER_MS);
    ck_assert_int_eq(state_of("a"), POOL_SESSION_EVICTED);
    ck_assert_int_eq((int)fixture.auditor.member_reason, POOL_REASON_TTL);
}
END_TEST

START_TEST(an_absolute_ttl_counts_from_creation_used_or_not)
{
    fixture_cache("a", 8);
    pool_session_set_absolute_ttl(
        fixture.pool, fixture_find("a"), 2 * KV_NS_PER_S, fixture.now_ns);
    fixture.now_ns += KV_NS_PER_S;
    fixture_cache("a", 4);
    pass(KV_NS_PER_S / 2);
    ck_assert_int_eq(state_of("a"), POOL_SESSION_CACHED);
    pass(KV_NS_PER_S / 2 + 2 * KV_NS_PER_MS);
    ck_assert_int_eq(state_of("a"), POOL_SESSION_EVICTED);
}
END_TEST

START_TEST(the_earlier_of_two_ttls_counts)
{
    fixture_cache("a", 8);
    pool_session_set_absolute_ttl(
        fixture.pool, fixture_find("a"), 9 * KV_NS_PER_S, fixture.now_ns);
    pool_session_set_idle_ttl(
        fixture.pool, fixture_find("a"), KV_NS_PER_S, fixture.now_ns);
    pass(KV_NS_PER_S + 2 * KV_NS_PER_MS);
    ck_assert_int_eq(state_of("a"), POOL_SESSION_EVICTED);
}
END_TEST

START_TEST(a_session_has_sixteen_leases_and_no_more)
{
    char name[8] = "l?";

    fixture_cache("a", 8);
    for (int i = 0; i < POOL_MAX_LEASES; i++) {
        name[1] = (char)('a' + i);
        ck_assert_int_eq(lease("a", name, KV_NS_PER_S), KV_OK);
    }
    ck_assert_int_eq(lease("a", "one more", KV_NS_PER_S), KV_LIMIT);
    ck_assert_int_eq(lease("a", "la", 5 * KV_NS_PER_S), KV_OK);
    ck_assert_int_eq(lease("a", "none such", 0), KV_OK);
    ck_assert_uint_eq(n_leases("a"), POOL_MAX_LEASES);
    fixture.now_ns += 2 * KV_NS_PER_S; /* those that are over make room */
    ck_assert_int_eq(lease("a", "one more", KV_NS_PER_S), KV_OK);
    ck_assert_uint_eq(n_leases("a"), 2);
}
END_TEST

START_TEST(a_lease_without_memory_changes_nothing)
{
    fixture_cache("a", 8);
    faulty_heap_install();
    faulty_heap_fail_at(0);
    ck_assert_int_eq(lease("a", "r", KV_NS_PER_S), KV_NO_MEMORY);
    faulty_heap_fail_at(-1);
    ck_assert_int_eq(state_of("a"), POOL_SESSION_CACHED);
    ck_assert_uint_eq(n_leases("a"), 0);
    fixture_check();
}
END_TEST

START_TEST(what_is_set_outlives_an_eviction)
{
    fixture_cache("a", 8);
    ck_assert_int_eq(fixture_evict("a", false).result, POOL_EVICTED);
    pin("a", 10 * KV_NS_PER_S);
    ck_assert_int_eq(state_of("a"), POOL_SESSION_EVICTED);
    fixture_check();
    fixture_scrub();
    fixture_cache("a", 4);
    ck_assert_int_eq(state_of("a"), POOL_SESSION_HELD);
}
END_TEST

int main(void)
{
    const TTest *tests[] = {a_held_session_is_nobodys_victim,
        evict_answers_pinned_and_takes_nothing,
        a_hold_ends_at_its_time_and_not_before,
        blocks_stay_while_any_lease_runs, accesses_do_not_extend_a_pin,
        a_pin_that_ends_while_it_runs_holds_nothing_afterwards,
        a_ttl_that_falls_due_while_held_fires_when_the_hold_ends,
        an_absolute_ttl_counts_from_creation_used_or_not,
        the_earlier_of_two_ttls_counts,
        a_session_has_sixteen_leases_and_no_more,
        a_lease_without_memory_changes_nothing,
        what_is_set_outlives_an_eviction};

    return CHECK_RUN(
        "pool_retention", fixture_set_up, fixture_tear_down, tests);
}
