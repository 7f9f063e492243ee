/* Whom an Evict request names, however often the walk stops between. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "server/evict_walk.h"
#include "tests/support/check_main.h"
#include "tests/support/faulty_heap.h"

#define N_SESSIONS 300

static struct pool *pool;
static int64_t now;

static void set_up(void)
{
    const struct pool_config config = {
        .block_bytes = 64,
        .n_blocks = 2048,
        .block_tokens = 4,
        .max_sessions = 1000,
        .max_kept_tokens = 100000,
    };
    struct kv_error error;

    faulty_heap_install();
    faulty_heap_fail_at(-1);
    now = 1000;
    ck_assert_int_eq(pool_open(&pool, &config, now, &error), KV_OK);
}

static void tear_down(void)
{
    struct pool_scrub job;

    while (pool_scrub_next(pool, &job))
        pool_scrub_done(pool, job.scrub_id, now);
    pool_close(pool);
    ck_assert_int_eq(faulty_heap_live(), 0);
}

/* A session that has run on n_tokens, all the same but for the last. */
static void use(const char *tenant, const char *id, uint32_t n_tokens)
{
    const struct pool_key key = {.tenant = tenant,
        .tenant_bytes = strlen(tenant),
        .id = id,
        .id_bytes = strlen(id)};
    struct pool_session *session;
    bool created;

    now += 10;
    ck_assert_int_eq(
        pool_session_get(pool, &key, NULL, now, &session, &created), KV_OK);
    ck_assert_int_eq(pool_session_begin(pool, session), KV_OK);
    for (uint32_t i = 1; i <= n_tokens; i++) {
        const uint32_t token = i < n_tokens ? i : 1000 + n_tokens;

        ck_assert_int_eq(pool_session_append(pool, session, &token, 1), KV_OK);
    }
    ck_assert_int_eq(
        pool_session_reserve(pool, session, n_tokens, NULL, now), KV_OK);
    pool_session_commit(pool, session, n_tokens);
    pool_session_end(pool, session, now);
}

static void use_many(void)
{
    char id[16];

    for (int i = 0; i < N_SESSIONS; i++) {
        snprintf(id, sizeof id, "s%03d", i * 7 % N_SESSIONS);
        use(i % 3 == 0 ? "" : i % 3 == 1 ? "b" : "c", id, 3 + i % 4);
    }
}

static Kvpool__V1__EvictTarget targets[4], *list[4];
static Kvpool__V1__EvictRequest request;
static Kvpool__V1__EvictAll all;
static Kvpool__V1__EvictIdle idle;
static Kvpool__V1__EvictBytes bytes;
static Kvpool__V1__EvictPrefix prefix;

static void ask_nothing(void)
{
    kvpool__v1__evict_request__init(&request);
    kvpool__v1__evict_all__init(&all);
    kvpool__v1__evict_idle__init(&idle);
    kvpool__v1__evict_bytes__init(&bytes);
    kvpool__v1__evict_prefix__init(&prefix);
    request.targets = list;
}

static Kvpool__V1__EvictTarget *ask(Kvpool__V1__EvictTarget__TargetCase which)
{
    Kvpool__V1__EvictTarget *target = &targets[request.n_targets];

    kvpool__v1__evict_target__init(target);
    target->target_case = which;
    list[request.n_targets++] = target;
    return target;
}

static char seen[N_SESSIONS + 1][2 * POOL_NAME_BYTES];
static size_t n_seen, n_missing;

/* Evicts whoever comes, at most n_most; `between` runs before each step. */
static void walk(size_t n_most, void (*between)(size_t n_steps))
{
    const struct pool_cause cause = {.reason = POOL_REASON_MANUAL};
    struct evict_walk at;
    struct pool_session *session;
    size_t target, n_steps = 0;

    evict_walk_init(&at, pool, &request, NULL, now);
    n_seen = n_missing = 0;
    for (;;) {
        enum evict_walk_step step;

        ck_assert_uint_lt(n_steps, 100000);
        if (between != NULL)
            between(n_steps);
        n_steps++;
        step = evict_walk_next(&at, &target, &session);
        if (step == EVICT_WALK_END)
            return;
        n_missing += step == EVICT_WALK_MISSING;
        if (step != EVICT_WALK_SESSION)
            continue;
        if (n_seen == n_most) {
            evict_walk_skip(&at, target);
            continue;
        }
        struct pool_key key = pool_session_glance(session).key;

        snprintf(seen[n_seen++], sizeof seen[0], "%.*s/%.*s",
            (int)key.tenant_bytes, key.tenant, (int)key.id_bytes, key.id);
        evict_walk_decided(&at, target,
            pool_evict_session(pool, session, &cause, false, now).bytes_freed);
    }
}

START_TEST(all_is_everybody_once_in_the_order_of_names)
{
    use_many();
    ask_nothing();
    ask(KVPOOL__V1__EVICT_TARGET__TARGET_ALL)->all = &all;
    walk(N_SESSIONS, NULL);
    ck_assert_uint_eq(n_seen, N_SESSIONS);
    ck_assert_uint_eq(n_missing, 0);
    for (size_t i = 1; i < n_seen; i++)
        ck_assert_int_lt(strcmp(seen[i - 1], seen[i]), 0);
    ck_assert_uint_eq(pool_stats(pool).total_sessions, 0);
}
END_TEST

START_TEST(idle_walks_its_tenants_only_and_each_once)
{
    char *tenants[] = {(char *)"c", (char *)"b", (char *)"c"};

    use_many();
    ask_nothing();
    idle.longer_than_ns = 10 * N_SESSIONS / 2 - 1;
    idle.tenants = tenants;
    idle.n_tenants = 3;
    ask(KVPOOL__V1__EVICT_TARGET__TARGET_IDLE)->idle = &idle;
    walk(N_SESSIONS, NULL);
    ck_assert_uint_eq(n_seen, N_SESSIONS / 3);
    for (size_t i = 0; i < n_seen; i++)
        ck_assert_int_eq(seen[i][0], i < n_seen / 2 ? 'c' : 'b');
}
END_TEST

START_TEST(who_stays_is_given_once_though_its_tenant_is_listed_twice)
{
    char *tenants[] = {(char *)"c", (char *)"b", (char *)"c", (char *)"c"};
    const struct pool_key key = {
        .tenant = "c", .tenant_bytes = 1, .id = "held", .id_bytes = 4};

    use("c", "held", 3);
    pool_session_pin(pool, pool_session_find(pool, &key), 1000, now);
    ask_nothing();
    idle.longer_than_ns = -1;
    idle.tenants = tenants;
    idle.n_tenants = 4;
    ask(KVPOOL__V1__EVICT_TARGET__TARGET_IDLE)->idle = &idle;
    walk(N_SESSIONS, NULL);
    ck_assert_uint_eq(n_seen, 1);
    ck_assert_uint_eq(pool_stats(pool).total_sessions, 1);
}
END_TEST

START_TEST(a_prefix_is_compared_token_by_token)
{
    uint32_t ids[] = {1, 2, 3, 4, 1005};

    use("", "four", 4);
    use("", "five", 5);
    use("", "six", 6);
    use("b", "five", 5);
    ask_nothing();
    prefix.token_ids = ids;
    prefix.n_token_ids = 5;
    ask(KVPOOL__V1__EVICT_TARGET__TARGET_PREFIX)->prefix = &prefix;
    walk(N_SESSIONS, NULL);
    ck_assert_uint_eq(n_seen, 1);
    ck_assert_str_eq(seen[0], "/five");
    prefix.n_token_ids = 4;
    walk(N_SESSIONS, NULL);
    ck_assert_uint_eq(n_seen, 1);
    ck_assert_str_eq(seen[0], "/six");
    prefix.n_token_ids = 3;
    walk(N_SESSIONS, NULL);
    ck_assert_uint_eq(n_seen, 1);
    ck_assert_str_eq(seen[0], "/four");
}
END_TEST

START_TEST(bytes_stop_when_there_is_enough)
{
    use_many();
    ask_nothing();
    bytes.at_least_bytes = 10 * 64;
    ask(KVPOOL__V1__EVICT_TARGET__TARGET_BYTES)->bytes = &bytes;
    walk(N_SESSIONS, NULL);
    ck_assert_str_eq(seen[0], "/s000");
    ck_assert_str_eq(seen[1], "b/s007");
    ck_assert_uint_ge(pool_stats(pool).freed_bytes_total, 10 * 64);
    ck_assert_uint_lt(pool_stats(pool).freed_bytes_total, 12 * 64);
}
END_TEST

/* Somebody comes back, somebody is new, in the middle of the walk. */
static void come_back(size_t n_steps)
{
    char id[16];

    if (n_steps % 5 != 4 || n_steps > 400)
        return;
    snprintf(id, sizeof id, "s%03d", (int)(n_steps / 5 * 11 % N_SESSIONS));
    use("z", id, 4);
    if (n_steps % 15 == 4)
        use("c", "s002", 5);
}

START_TEST(who_stays_while_bytes_are_taken_is_found)
{
    char *tenants[] = {(char *)"b"};

    use_many();
    ask_nothing();
    bytes.at_least_bytes = UINT64_MAX;
    bytes.tenants = tenants;
    bytes.n_tenants = 1;
    ask(KVPOOL__V1__EVICT_TARGET__TARGET_BYTES)->bytes = &bytes;
    walk(N_SESSIONS, come_back);
    ck_assert_uint_eq(n_seen, N_SESSIONS / 3);
    for (size_t i = 0; i < n_seen; i++)
        ck_assert_int_eq(seen[i][0], 'b');
}
END_TEST

START_TEST(who_stays_is_found_by_name_whoever_comes_and_goes)
{
    use_many();
    ask_nothing();
    ask(KVPOOL__V1__EVICT_TARGET__TARGET_TENANT)->tenant = (char *)"b";
    walk(N_SESSIONS, come_back);
    ck_assert_uint_eq(n_seen, N_SESSIONS / 3);
}
END_TEST

START_TEST(a_target_that_an_earlier_one_covers_takes_no_second_walk)
{
    use_many();
    ask_nothing();
    ask(KVPOOL__V1__EVICT_TARGET__TARGET_ALL)->all = &all;
    ask(KVPOOL__V1__EVICT_TARGET__TARGET_TENANT)->tenant = (char *)"b";
    ask(KVPOOL__V1__EVICT_TARGET__TARGET_TENANT)->tenant = (char *)"nobody";
    bytes.at_least_bytes = 1;
    ask(KVPOOL__V1__EVICT_TARGET__TARGET_BYTES)->bytes = &bytes;
    walk(10, NULL);
    ck_assert_uint_eq(n_seen, 10);
    ck_assert_uint_eq(n_missing, 2); /* nobody, and bytes */
}
END_TEST

int main(void)
{
    const TTest *tests[] = {
        all_is_everybody_once_in_the_order_of_names,
        idle_walks_its_tenants_only_and_each_once,
        who_stays_is_given_once_though_its_tenant_is_listed_twice,
        a_prefix_is_compared_token_by_token,
        bytes_stop_when_there_is_enough,
        who_stays_while_bytes_are_taken_is_found,
        who_stays_is_found_by_name_whoever_comes_and_goes,
        a_target_that_an_earlier_one_covers_takes_no_second_walk,
    };

    return CHECK_RUN("evict_walk", set_up, tear_down, tests);
}
