/* What tenants may hold, and whose sessions go for it. The simulator
 * (tests/sim) checks the same laws over random sequences. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "tests/pool/fixture.h"
#include "tests/support/check_main.h"
#include "tests/support/faulty_heap.h"

static struct pool_key key_of(const char *tenant, const char *id)
{
    return (struct pool_key){
        .tenant = tenant,
        .tenant_bytes = strlen(tenant),
        .id = id,
        .id_bytes = strlen(id),
    };
}

static struct pool_session *find(const char *tenant, const char *id)
{
    const struct pool_key key = key_of(tenant, id);

    return pool_session_find(fixture.pool, &key);
}

static enum kv_status try_run(const char *tenant, const char *id, size_t n)
{
    const struct pool_key key = key_of(tenant, id);
    struct pool_session *session;
    enum kv_status status;
    bool created;

    fixture.now_ns++;
    status = pool_session_get(
        fixture.pool, &key, NULL, fixture.now_ns, &session, &created);
    if (status != KV_OK)
        return status;
    pool_session_begin(fixture.pool, session);
    return fixture_extend(session, n);
}

/* Blocks of 4 tokens; the session is idle afterwards. */
static void cache(const char *tenant, const char *id, size_t n_blocks)
{
    ck_assert_int_eq(try_run(tenant, id, 4 * n_blocks), KV_OK);
    pool_session_end(fixture.pool, find(tenant, id), ++fixture.now_ns);
}

static void end(const char *tenant, const char *id)
{
    pool_session_end(fixture.pool, find(tenant, id), ++fixture.now_ns);
}

static struct pool_tenant_info tenant(const char *name)
{
    struct pool_tenant_info info = {.tenant = NULL};

    while (
        pool_tenant_after(fixture.pool, info.tenant, info.tenant_bytes, &info))
        if (info.tenant_bytes == strlen(name) &&
            memcmp(info.tenant, name, info.tenant_bytes) == 0)
            return info;
    ck_abort_msg("no tenant %s", name);
    return info;
}

static bool is_known(const char *name)
{
    struct pool_tenant_info info = {.tenant = NULL};

    while (
        pool_tenant_after(fixture.pool, info.tenant, info.tenant_bytes, &info))
        if (info.tenant_bytes == strlen(name) &&
            memcmp(info.tenant, name, info.tenant_bytes) == 0)
            return true;
    return false;
}

static enum kv_status set_quota(
    const char *name, uint32_t soft_blocks, uint32_t hard_blocks)
{
    const struct pool_tenant_quota own = {
        name, strlen(name), {soft_blocks, hard_blocks}};
    const struct pool_quotas quotas = {.list = &own, .n = 1};

    return pool_set_quotas(fixture.pool, &quotas);
}

static bool has_blocks(const char *tenant_name, const char *id)
{
    const struct pool_session *session = find(tenant_name, id);

    return session != NULL && pool_session_glance(session).n_blocks > 0;
}

START_TEST(a_block_counts_for_its_tenant_once)
{
    struct pool_config config = fixture_config();

    fixture_tear_down();
    config.share_prefixes = true;
    fixture_open(&config);
    cache("t", "a", 3);
    ck_assert_int_eq(try_run("t", "b", 0), KV_OK);
    pool_session_append(fixture.pool, find("t", "b"),
        (const uint32_t[]){0, 1, 2, 3, 4, 5, 6, 7, 8}, 9);
    ck_assert_uint_eq(
        pool_session_adopt(fixture.pool, find("t", "b"), fixture.now_ns), 8);
    ck_assert_uint_eq(tenant("t").n_used_blocks, 3);
    ck_assert_uint_eq(tenant("t").n_pinned_blocks, 2);
    ck_assert_uint_eq(tenant("t").total_sessions, 2);
    cache("u", "a", 3); /* of another tenant, so shared with nobody */
    ck_assert_uint_eq(tenant("u").n_used_blocks, 3);
    end("t", "b");
    ck_assert_uint_eq(tenant("t").n_pinned_blocks, 0);
    fixture_check();
}
END_TEST

START_TEST(who_is_beyond_the_soft_quota_gives_first)
{
    cache("old", "a", 4); /* released longest ago */
    cache("q", "a", 4);
    cache("q", "b", 4);
    ck_assert_int_eq(set_quota("q", 4, 0), KV_OK);
    ck_assert_int_eq(try_run("new", "a", 4 * 6), KV_BUSY);
    ck_assert(has_blocks("old", "a") && !has_blocks("q", "a"));
    ck_assert(has_blocks("q", "b")); /* within its quota again */
    ck_assert(fixture.auditor.member_reason == POOL_REASON_QUOTA);
    fixture_scrub();
    /* From here on it is the policy's turn. */
    cache("new", "b", 2);
    ck_assert_int_eq(try_run("new", "c", 4 * 7), KV_BUSY);
    ck_assert(!has_blocks("old", "a") && has_blocks("q", "b"));
}
END_TEST

START_TEST(nobody_gives_for_a_tenant_beyond_its_soft_quota)
{
    cache("other", "a", 8);
    ck_assert_int_eq(set_quota("q", 3, 0), KV_OK);
    cache("q", "a", 4); /* free blocks may be taken */
    cache("q", "b", 4);
    ck_assert_int_eq(try_run("q", "c", 4 * 8), KV_BUSY);
    ck_assert(has_blocks("other", "a"));
    ck_assert(!has_blocks("q", "a") && !has_blocks("q", "b"));
    fixture_scrub();
    ck_assert_int_eq(fixture_extend(find("q", "c"), 0), KV_OK);
    /* Nothing of its own is left to go, though others are idle. */
    ck_assert_uint_eq(pool_obtainable_blocks(fixture.pool, find("q", "c")), 0);
    ck_assert_int_eq(fixture_extend(find("q", "c"), 4), KV_OVER_QUOTA);
    ck_assert(has_blocks("other", "a"));
}
END_TEST

START_TEST(beyond_the_hard_quota_own_sessions_go_and_then_nothing_is_had)
{
    ck_assert_int_eq(set_quota("q", 0, 5), KV_OK);
    cache("q", "a", 2);
    cache("q", "b", 2);
    ck_assert_int_eq(try_run("q", "c", 4 * 2), KV_OK);
    ck_assert(!has_blocks("q", "a") && has_blocks("q", "b"));
    ck_assert_uint_eq(tenant("q").evictions, 1);
    ck_assert_int_eq(fixture_extend(find("q", "c"), 4 * 4), KV_OVER_QUOTA);
    ck_assert(has_blocks("q", "b")); /* it would not have helped */
    ck_assert_uint_eq(tenant("q").n_used_blocks, 4);
    ck_assert_uint_gt(pool_blocks(fixture.pool).free, 8);
}
END_TEST

START_TEST(a_quota_that_shrinks_evicts_nobody_by_itself)
{
    cache("q", "a", 4);
    ck_assert_int_eq(set_quota("q", 0, 2), KV_OK);
    ck_assert(has_blocks("q", "a"));
    ck_assert_int_eq(try_run("q", "a", 4), KV_OVER_QUOTA);
    ck_assert_int_eq(set_quota("other", 1, 1), KV_OK);
    ck_assert_int_eq(tenant("q").quota.hard_blocks, 0);
    ck_assert_int_eq(fixture_extend(find("q", "a"), 0), KV_OK);
    end("q", "a");
}
END_TEST

START_TEST(a_place_is_taken_from_the_tenant_that_is_beyond_its_quota)
{
    struct pool_config config = fixture_config();

    fixture_tear_down();
    config.max_sessions = 3;
    fixture_open(&config);
    ck_assert_int_eq(set_quota("q", 1, 0), KV_OK);
    cache("other", "a", 1);
    cache("q", "a", 2);
    cache("other", "b", 1);
    ck_assert_int_eq(try_run("new", "a", 4), KV_OK);
    ck_assert(has_blocks("other", "a") && find("q", "a") == NULL);
    ck_assert_int_eq(try_run("q", "b", 8), KV_OK);
    ck_assert_ptr_null(find("other", "a"));
    /* Beyond its quota it has no idle session, so it gets no place. */
    ck_assert_int_eq(try_run("q", "c", 4), KV_LIMIT);
    ck_assert(has_blocks("other", "b"));
}
END_TEST

static void open_policy(const char *policy)
{
    struct pool_config config = fixture_config();

    fixture_tear_down();
    config.eviction_policy = policy;
    fixture_open(&config);
}

START_TEST(within_a_tenant_the_policy_has_its_say)
{
    open_policy("priority");
    ck_assert_int_eq(set_quota("q", 2, 4), KV_OK);
    cache("q", "dear", 2);
    cache("q", "cheap", 2);
    pool_session_set_priority(fixture.pool, find("q", "dear"), 90);
    ck_assert_int_eq(try_run("q", "c", 4), KV_OK);
    ck_assert(has_blocks("q", "dear") && !has_blocks("q", "cheap"));
}
END_TEST

/* ---- as in a pool of its own */

#define MANY 400
#define MANY_TURNS 3000
#define MANY_BLOCKS 500 /* of sessions of 1 to 4 blocks: some 200 idle ones */

/* A turn of "q": one of its many sessions, the first ones more often, begins or
 * goes on, and is given a priority at times. */
static void take_turn(uint32_t *random)
{
    uint32_t number, draw = *random = *random * 1664525 + 1013904223;
    struct pool_session *session;
    size_t n_tokens;
    char id[12];

    number = (draw >> 8) % (draw >> 30 == 0 ? MANY : MANY / 4);
    snprintf(id, sizeof id, "%u", number);
    n_tokens = 4 * (1 + number % 4);
    session = find("q", id);
    if (session != NULL)
        pool_session_tokens(session, &n_tokens);
    while (try_run("q", id, session != NULL ? 0 : n_tokens) == KV_BUSY) {
        fixture_scrub();
        session = find("q", id);
    }
    session = find("q", id);
    ck_assert_uint_eq(pool_session_glance(session).n_cached_tokens, n_tokens);
    end("q", id);
    if (draw >> 16 & 1)
        pool_session_set_priority(
            fixture.pool, session, 30 + 20 * (draw >> 17 & 3));
}

/* Which of its sessions went last, after each turn of "q"; with a neighbour it
 * has a part of a larger pool. */
static void play(const char *policy, bool has_neighbour, uint64_t *lost)
{
    struct pool_config config = fixture_config();
    uint32_t random = 1;

    fixture_tear_down();
    config.eviction_policy = policy;
    config.max_sessions = 2 * MANY;
    config.max_kept_tokens = 1 << 20;
    config.n_blocks = has_neighbour ? 2 * MANY_BLOCKS : MANY_BLOCKS;
    fixture_open(&config);
    if (has_neighbour)
        ck_assert_int_eq(set_quota("q", 0, MANY_BLOCKS), KV_OK);
    for (int i = 0; i < MANY_TURNS; i++) {
        char id[12];

        fixture.now_ns = (i + 2) * KV_NS_PER_S;
        take_turn(&random);
        lost[i] = fixture.auditor.n_evictions * MANY +
                  strtoul(fixture.auditor.last_id, NULL, 10);
        snprintf(id, sizeof id, "%d", i % 100);
        if (!has_neighbour)
            continue;
        cache("neighbour", id, i < 100);
        pool_session_set_priority(fixture.pool, find("neighbour", id), 0);
    }
    fixture_check();
    ck_assert_uint_gt(tenant("q").total_sessions, 128);
    ck_assert_uint_gt(tenant("q").evictions, MANY_TURNS / 10);
}

START_TEST(a_tenant_loses_what_it_would_in_a_pool_of_its_own)
{
    static const char *const policies[] = {
        "lru", "lru_tail", "priority", "s3fifo", "cost"};
    static uint64_t alone[MANY_TURNS], beside[MANY_TURNS];

    for (size_t p = 0; p < sizeof policies / sizeof *policies; p++) {
        play(policies[p], false, alone);
        play(policies[p], true, beside);
        for (int i = 0; i < MANY_TURNS; i++)
            if (alone[i] != beside[i])
                ck_abort_msg(
                    "%s: turn %d took another session", policies[p], i);
    }
}
END_TEST

START_TEST(tails_go_down_to_the_quota_and_no_further)
{
    open_policy("lru_tail");
    ck_assert_int_eq(set_quota("q", 6, 0), KV_OK);
    cache("other", "a", 6);
    cache("q", "a", 8);
    cache("other", "b", 2);
    ck_assert_int_eq(try_run("new", "a", 4 * 4), KV_BUSY);
    ck_assert_uint_eq(tenant("q").n_used_blocks, 6);
    ck_assert_uint_eq(tenant("other").n_used_blocks, 6);
    ck_assert_uint_eq(
        pool_totals(fixture.pool).evictions_by_reason[POOL_REASON_QUOTA], 1);
    ck_assert_uint_eq(
        pool_totals(fixture.pool).evictions_by_reason[POOL_REASON_LRU], 1);
    ck_assert_uint_eq(fixture.auditor.n_batches, 2);
}
END_TEST

START_TEST(tenants_without_sessions_are_known_while_there_is_room)
{
    char name[8] = "t0";

    ck_assert_int_eq(set_quota("named", 1, 1), KV_OK);
    for (int c = '0'; c <= '9'; c++) {
        name[1] = (char)c;
        cache(name, "a", 1);
        fixture_scrub();
        pool_session_count_prompt(fixture.pool, find(name, "a"), 0, 1);
        pool_session_forget(fixture.pool, find(name, "a"), fixture.now_ns);
        fixture_scrub();
        fixture_check();
    }
    ck_assert(is_known("named") && is_known("t9") && is_known("t2"));
    ck_assert(!is_known("t0") && !is_known("t1")); /* 8 sessions are allowed */
    cache("silent", "a", 1); /* there is nothing to tell of it */
    pool_session_forget(fixture.pool, find("silent", "a"), fixture.now_ns);
    ck_assert(!is_known("silent") && is_known("t9"));
    ck_assert_int_eq(set_quota("t9", 2, 2), KV_OK);
    ck_assert_uint_eq(tenant("t9").quota.soft_blocks, 2);
    ck_assert_uint_eq(tenant("named").quota.soft_blocks, 0);
}
END_TEST

START_TEST(quotas_without_memory_leave_those_in_force)
{
    const struct pool_tenant_quota list[] = {
        {"a", 1, {5, 5}}, {"b", 1, {5, 5}}, {"q", 1, {5, 5}}};
    const struct pool_quotas quotas = {
        .standard = {7, 7}, .list = list, .n = 3};
    int n_failed = 0;

    fixture_tear_down();
    faulty_heap_install();
    fixture_set_up();
    ck_assert_int_eq(set_quota("q", 1, 2), KV_OK);
    cache("t", "a", 1);
    for (;; n_failed++) {
        enum kv_status status;

        faulty_heap_fail_at(n_failed);
        status = pool_set_quotas(fixture.pool, &quotas);
        faulty_heap_fail_at(-1);
        if (status == KV_OK)
            break;
        ck_assert_int_eq(status, KV_NO_MEMORY);
        ck_assert_uint_eq(tenant("q").quota.hard_blocks, 2);
        ck_assert_uint_eq(tenant("t").quota.hard_blocks, 0);
        fixture_check();
        ck_assert_int_lt(n_failed, 10);
    }
    ck_assert_int_gt(n_failed, 0);
    ck_assert_uint_eq(tenant("q").quota.hard_blocks, 5);
    ck_assert_uint_eq(tenant("t").quota.hard_blocks, 7);
}
END_TEST

int main(void)
{
    const TTest *tests[] = {a_block_counts_for_its_tenant_once,
        who_is_beyond_the_soft_quota_gives_first,
        nobody_gives_for_a_tenant_beyond_its_soft_quota,
        beyond_the_hard_quota_own_sessions_go_and_then_nothing_is_had,
        a_quota_that_shrinks_evicts_nobody_by_itself,
        a_place_is_taken_from_the_tenant_that_is_beyond_its_quota,
        within_a_tenant_the_policy_has_its_say,
        a_tenant_loses_what_it_would_in_a_pool_of_its_own,
        tails_go_down_to_the_quota_and_no_further,
        tenants_without_sessions_are_known_while_there_is_room,
        quotas_without_memory_leave_those_in_force};

    return CHECK_RUN("pool_quota", fixture_set_up, fixture_tear_down, tests);
}
