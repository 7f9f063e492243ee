/* Blocks for those that run, where there are not enough for all: who gives way,
 * who waits, and who cannot go on. */
#include <stdio.h>
#include <string.h>

#include "base/clock.h"
#include "base/heap.h"
#include "tests/engine/scheduler_rig.h"
#include "tests/support/check_main.h"

/* The pool holds the longest of them and hardly more. */
static void check_short_of_blocks(void)
{
    struct rig_client plain[RIG_CLIENTS] = {0}, clients[RIG_CLIENTS] = {0};
    const struct rig_config config = {
        .n_blocks = 10,
        .block_tokens = 4,
        .max_running = RIG_MAX_RUNNING,
        .max_batch_tokens = 32,
        .max_waiting = 16,
    };

    rig_run_plain(plain, 16, &rig_seeded);
    rig_open(&config);
    rig_submit_all(clients, 16, "s", &rig_seeded);
    rig_run_all(clients, RIG_CLIENTS);
    for (int i = 0; i < RIG_CLIENTS; i++)
        rig_check_same(&plain[i], &clients[i]);
    /* The oldest is nobody's victim. */
    ck_assert_uint_eq(clients[0].request.usage.preemptions, 0);
    ck_assert_uint_gt(
        pool_totals(rig.pool).evictions_by_reason[POOL_REASON_PRESSURE] +
            pool_totals(rig.pool).evictions_by_reason[POOL_REASON_LRU],
        0);
    rig_check_pool();
    rig_close();
}

START_TEST(sequences_short_of_blocks_yield_what_plain_ones_do)
{
    rig_each_kv_type(check_short_of_blocks);
}
END_TEST

START_TEST(sequences_of_many_tenants_short_of_blocks_yield_what_plain_ones_do)
{
    static const char *const names[] = {"a", "b", "c"};
    struct rig_client plain[RIG_CLIENTS] = {0};

    rig_run_plain(plain, 16, &rig_seeded);
    for (uint32_t round = 0; round < 12; round++) {
        struct rig_client clients[RIG_CLIENTS] = {0};
        const struct rig_config config = {
            .n_blocks = 10 + round,
            .block_tokens = 4,
            .max_running = 1 + round % RIG_MAX_RUNNING,
            .max_batch_tokens = 6 + round,
            .max_waiting = 16,
        };

        rig_open(&config);
        rig.random += round;
        for (int i = 0; i < RIG_CLIENTS; i++) {
            char id[16];

            snprintf(id, sizeof id, "s%d", i);
            clients[i].request.sampling = rig_seeded;
            ck_assert_int_eq(
                rig_submit_for(names[rig_draw(3)], &clients[i],
                    rig_draw(2) == 0 ? "" : id, rig.prompts[i], 16),
                KV_OK);
        }
        rig_run_all(clients, RIG_CLIENTS);
        for (int i = 0; i < RIG_CLIENTS; i++)
            rig_check_same(&plain[i], &clients[i]);
        rig_check_pool();
        rig_close();
    }
}
END_TEST

/* Who was set aside for whom: the last byte of a session's id is a digit, and
 * stands for its priority. */
static void check_ranks(void *ctx, const struct pool_eviction *eviction)
{
    const struct pool_key *by = eviction->cause->forced_by;
    int *n_aside = ctx;

    if (eviction->cause->reason != POOL_REASON_PRESSURE)
        return;
    ck_assert_int_le(
        eviction->key.id[eviction->key.id_bytes - 1], by->id[by->id_bytes - 1]);
    (*n_aside)++;
}

/* Priorities from 0 on, in the order of arrival or against it. */
static void run_by_priority(bool ascending)
{
    struct rig_client plain[RIG_CLIENTS] = {0}, clients[RIG_CLIENTS] = {0};
    int n_aside = 0;
    const struct pool_observer observer = {
        .ctx = &n_aside, .evicted = check_ranks};
    const struct rig_config config = {
        .n_blocks = 10,
        .block_tokens = 4,
        .max_running = RIG_MAX_RUNNING,
        .max_batch_tokens = 32,
        .max_waiting = 16,
        .observer = &observer,
    };

    rig_run_plain(plain, 16, NULL);
    rig_open(&config);
    for (int i = 0; i < RIG_CLIENTS; i++) {
        const int priority = ascending ? i : RIG_CLIENTS - 1 - i;
        char id[16];

        snprintf(id, sizeof id, "s%d", priority);
        clients[i].request.priority = (uint32_t)priority;
        ck_assert_int_eq(
            rig_submit(&clients[i], id, rig.prompts[i], 16), KV_OK);
        rig_step(); /* those before have blocks already */
    }
    rig_run_all(clients, RIG_CLIENTS);
    for (int i = 0; i < RIG_CLIENTS; i++)
        rig_check_same(&plain[i], &clients[i]);
    ck_assert_int_gt(n_aside, 0);
    ck_assert_uint_eq(
        clients[ascending ? RIG_CLIENTS - 1 : 0].request.usage.preemptions, 0);
    rig_check_pool();
    rig_close();
}

START_TEST(nobody_is_set_aside_for_a_lower_priority)
{
    run_by_priority(true);
    run_by_priority(false);
}
END_TEST

static size_t session_tokens(const char *prefix, int i)
{
    struct pool_session *session;
    char id[16];
    struct pool_key key = {.tenant = "", .id = id};

    key.id_bytes = (size_t)snprintf(id, sizeof id, "%s%d", prefix, i);
    session = pool_session_find(rig.pool, &key);
    return session == NULL ? 0 : pool_session_info(rig.pool, session).n_tokens;
}

static bool never(void *ctx)
{
    (void)ctx;
    return false;
}

/* Those that need what another holds, in the batch or idle, end; those that do
 * with free blocks go on, and yield what they would. */
START_TEST(while_nothing_may_be_evicted_requests_end_that_need_it)
{
    struct rig_client plain[RIG_CLIENTS] = {0}, clients[RIG_CLIENTS] = {0};
    const struct pool_observer observer = {.may_evict = never};
    const struct rig_config config = {
        .n_blocks = 12,
        .block_tokens = 4,
        .max_running = RIG_MAX_RUNNING,
        .max_batch_tokens = 32,
        .max_waiting = 16,
        .observer = &observer,
    };
    int n_refused = 0;

    rig_run_plain(plain, 16, NULL);
    rig_open(&config);
    rig_submit_all(clients, 16, "s", NULL);
    rig_run_all(clients, RIG_CLIENTS);
    for (int i = 0; i < RIG_CLIENTS; i++) {
        n_refused += clients[i].end == REQUEST_NO_EVICTION;
        if (clients[i].end != REQUEST_NO_EVICTION)
            rig_check_same(&plain[i], &clients[i]);
        else if (clients[i].n_tokens == 0)
            ck_assert_uint_eq(session_tokens("s", i), 0);
    }
    ck_assert_int_gt(n_refused, 0);
    ck_assert_int_lt(n_refused, RIG_CLIENTS);
    ck_assert_uint_eq(pool_stats(rig.pool).evictions, 0);
    rig_check_pool();
    rig_close();
}
END_TEST

/* ---- quotas */

START_TEST(a_run_that_outgrows_its_quota_ends_with_what_it_has)
{
    struct rig_client idle = {0}, run = {0}, other = {0};
    const struct pool_key key = {
        .tenant = "q", .tenant_bytes = 1, .id = "run", .id_bytes = 3};

    rig_open(&rig_tight_config);
    rig_set_quota(0, 4);
    ck_assert_int_eq(
        rig_submit_for("r", &other, "other", rig.prompts[5], 4), KV_OK);
    rig_run_all(&other, 1);
    ck_assert_int_eq(
        rig_submit_for("q", &idle, "idle", rig.prompts[5], 4), KV_OK);
    rig_run_all(&idle, 1);
    ck_assert_int_eq(
        rig_submit_for("q", &run, "run", rig.prompts[5], 40), KV_OK);
    rig_run_all(&run, 1);
    ck_assert_int_eq(run.end, REQUEST_OVER_QUOTA);
    /* Its own idle session went first, nobody else's did. */
    ck_assert_uint_eq(
        pool_totals(rig.pool).evictions_by_reason[POOL_REASON_QUOTA], 1);
    ck_assert_uint_eq(pool_stats(rig.pool).evictions, 1);
    ck_assert_uint_eq(run.request.quota.used_blocks, 4);
    ck_assert_uint_eq(run.request.quota.needed_blocks, 1);
    ck_assert_uint_eq(run.request.quota.quota_blocks, 4);
    ck_assert_uint_eq(
        pool_session_glance(pool_session_find(rig.pool, &key)).n_cached_tokens,
        16);
    rig_check_pool();
    rig_close();
}
END_TEST

START_TEST(runs_of_a_tenant_beyond_its_quota_take_turns)
{
    struct rig_client plain[RIG_CLIENTS] = {0}, clients[RIG_CLIENTS] = {0};
    struct rig_config config = rig_tight_config;

    config.n_blocks = 64;
    rig_run_plain(plain, 16, NULL);
    rig_open(&config);
    rig_set_quota(2, 9);
    for (int i = 0; i < RIG_CLIENTS; i++)
        ck_assert_int_eq(
            rig_submit_for("q", &clients[i], "", rig.prompts[i], 16), KV_OK);
    rig_run_all(clients, RIG_CLIENTS);
    for (int i = 0; i < RIG_CLIENTS; i++)
        rig_check_same(&plain[i], &clients[i]);
    rig_check_pool();
    rig_close();
}
END_TEST

/* ---- what pins and leases hold */

/* A pool that is held but for less blocks than the longest prompt needs. */
static size_t open_held(int64_t hold_ns)
{
    struct rig_config config = rig_plain_config;
    struct rig_client holder = {0};
    struct pool_session *session;
    uint32_t *ids;
    size_t n_ids, n_held;

    rig_open(&config);
    ck_assert_int_eq(
        tokenizer_encode(rig.tokenizer, rig.prompts[3], strlen(rig.prompts[3]),
            TOKENIZER_ADD_BOS, &ids, &n_ids),
        KV_OK);
    kv_free(ids);
    rig_close();

    config.n_blocks = 2 * (uint32_t)((n_ids + 7) / 8) - 1;
    config.max_running = 2;
    config.max_hold_wait_ns = KV_NS_PER_S;
    rig_open(&config);
    ck_assert_int_eq(rig_submit(&holder, "held", rig.prompts[3], 1), KV_OK);
    rig_run_all(&holder, 1);
    session = pool_session_find(
        rig.pool, &(struct pool_key){.id = "held", .id_bytes = 4});
    ck_assert_ptr_nonnull(session);
    pool_session_pin(rig.pool, session, hold_ns, rig.now_ns);
    pool_session_blocks(session, &n_held);
    return n_held;
}

START_TEST(a_request_fails_where_holds_never_end_in_time)
{
    struct rig_client needy = {0}, small = {0};
    size_t n_held = open_held(KV_NS_PER_S * 1000);
    const struct request_shortage *shortage = &needy.request.shortage;

    ck_assert_int_eq(rig_submit(&needy, "needy", rig.prompts[3], 1), KV_OK);
    ck_assert_int_eq(rig_submit(&small, "", rig.prompts[5], 1), KV_OK);
    rig_run_all(&needy, 1);
    ck_assert_int_eq(needy.end, REQUEST_HELD_UP);
    ck_assert(!needy.started);
    ck_assert_uint_eq(shortage->held_blocks, n_held);
    ck_assert_uint_eq(shortage->holds.n_sessions, 1);
    ck_assert_int_gt(shortage->holds.first_end_ns, KV_NS_PER_S * 999);
    ck_assert_uint_gt(
        shortage->needed_blocks + n_held, pool_config(rig.pool)->n_blocks);
    ck_assert_uint_eq(pool_totals(rig.pool).evictions_by_reason[5], 0);
    rig_run_all(&small, 1);
    ck_assert_int_eq(small.end, REQUEST_MAX_TOKENS);
    rig_check_pool();
    rig_close();
}
END_TEST

START_TEST(a_request_waits_for_a_hold_that_ends_in_time_and_others_go_first)
{
    struct rig_client needy = {0}, small = {0};

    open_held(KV_NS_PER_S / 2);
    ck_assert_int_eq(rig_submit(&needy, "needy", rig.prompts[3], 1), KV_OK);
    rig_step();
    ck_assert(!needy.ended);
    ck_assert_int_lt(scheduler_next_deadline(rig.scheduler), 2 * KV_NS_PER_S);
    ck_assert_int_eq(rig_submit(&small, "", rig.prompts[5], 1), KV_OK);
    rig_run_all(&small, 1);
    ck_assert_int_eq(small.end, REQUEST_MAX_TOKENS);
    ck_assert(!needy.ended);

    rig.now_ns += KV_NS_PER_S / 2;
    pool_expire(rig.pool, rig.now_ns, 8);
    rig_run_all(&needy, 1);
    ck_assert_int_eq(needy.end, REQUEST_MAX_TOKENS);
    ck_assert_int_eq(scheduler_next_deadline(rig.scheduler), INT64_MAX);
    rig_check_pool();
    rig_close();
}
END_TEST

/* What ends is held anew before anybody can have it. */
START_TEST(a_request_waits_for_no_longer_than_it_may)
{
    struct rig_client needy = {0};
    struct pool_session *session;

    open_held(KV_NS_PER_S / 2);
    ck_assert_int_eq(rig_submit(&needy, "needy", rig.prompts[3], 1), KV_OK);
    rig_step();
    session = pool_session_find(
        rig.pool, &(struct pool_key){.id = "held", .id_bytes = 4});
    pool_session_pin(rig.pool, session, 100 * KV_NS_PER_S, rig.now_ns);
    rig_step();
    ck_assert(!needy.ended);
    rig.now_ns = scheduler_next_deadline(rig.scheduler);
    rig_step();
    ck_assert_int_eq(needy.end, REQUEST_HELD_UP);
    rig_close();
}
END_TEST

/* ---- where somebody is turned away */

/* For a prompt and a token. */
static size_t count_blocks(const char *prompt, uint32_t block_tokens)
{
    uint32_t *ids;
    size_t n_ids;

    rig_open(&rig_plain_config);
    ck_assert_int_eq(tokenizer_encode(rig.tokenizer, prompt, strlen(prompt),
                         TOKENIZER_ADD_BOS, &ids, &n_ids),
        KV_OK);
    kv_free(ids);
    rig_close();
    return n_ids / block_tokens + 1;
}

/* A pool that is held for good but for n_free blocks. */
static void open_held_but(uint32_t n_free)
{
    struct rig_config config = rig_plain_config;
    struct rig_client holder = {0};
    size_t n_held = count_blocks(rig.prompts[3], config.block_tokens);

    config.n_blocks = (uint32_t)n_held + n_free;
    config.max_running = 2;
    rig_open(&config);
    holder.request.prefills_only = true;
    ck_assert_int_eq(rig_submit(&holder, "held", rig.prompts[3], 1), KV_OK);
    rig_run_all(&holder, 1);
    pool_session_pin(rig.pool,
        pool_session_find(
            rig.pool, &(struct pool_key){.id = "held", .id_bytes = 4}),
        1000 * KV_NS_PER_S, rig.now_ns);
}

START_TEST(who_waits_goes_in_when_the_last_that_ran_is_turned_away)
{
    struct rig_client grows = {0}, waits = {0};
    const uint32_t n_blocks =
        (uint32_t)count_blocks(rig.prompts[0], rig_plain_config.block_tokens);

    open_held_but(n_blocks);
    ck_assert_int_eq(
        rig_submit(&grows, "grows", rig.prompts[5], RIG_MAX_TOKENS), KV_OK);
    grows.request.ignores_end = true;
    rig_step();
    ck_assert_int_eq(rig_submit(&waits, "waits", rig.prompts[0], 1), KV_OK);
    rig_step();
    ck_assert(!waits.started);
    rig_run_all(&grows, 1);
    ck_assert_int_eq(grows.end, REQUEST_HELD_UP);
    ck_assert_uint_gt(grows.n_tokens, 0);
    ck_assert(waits.started);
    rig_run_all(&waits, 1);
    ck_assert_int_eq(waits.end, REQUEST_MAX_TOKENS);
    rig_check_pool();
    rig_close();
}
END_TEST

START_TEST(what_was_dropped_comes_back_where_the_request_is_turned_away)
{
    const struct pool_cause cause = {.reason = POOL_REASON_MANUAL};
    const struct pool_key key = {.id = "old", .id_bytes = 3};
    struct rig_client first = {0}, second = {0};
    struct pool_session *session;
    uint32_t before[256];
    const uint32_t *after;
    size_t n_before, n_after;

    open_held_but(2);
    ck_assert_int_eq(rig_submit(&first, "old", rig.prompts[5], 4), KV_OK);
    rig_run_all(&first, 1);
    session = pool_session_find(rig.pool, &key);
    after = pool_session_tokens(session, &n_before);
    ck_assert_uint_gt(n_before, 6);
    ck_assert_uint_le(n_before, sizeof before / sizeof *before);
    memcpy(before, after, n_before * sizeof *before);
    pool_evict_session(rig.pool, session, &cause, false, rig.now_ns);
    rig_scrub();

    second.request.n_dropped = (uint32_t)n_before - 2;
    ck_assert_int_eq(rig_submit(&second, "old", rig.prompts[3], 4), KV_OK);
    rig_run_all(&second, 1);
    ck_assert_int_eq(second.end, REQUEST_HELD_UP);
    ck_assert(!second.started);
    after = pool_session_tokens(session, &n_after);
    ck_assert_uint_eq(n_after, n_before);
    ck_assert_mem_eq(after, before, n_before * sizeof *before);
    rig_close();
}
END_TEST

START_TEST(a_session_is_not_left_by_a_request_that_is_turned_away)
{
    const struct pool_key key = {.id = "new", .id_bytes = 3};
    struct rig_client client = {0};

    open_held_but(2);
    ck_assert_int_eq(rig_submit(&client, "new", rig.prompts[3], 4), KV_OK);
    rig_run_all(&client, 1);
    ck_assert_int_eq(client.end, REQUEST_HELD_UP);
    ck_assert_ptr_null(pool_session_find(rig.pool, &key));
    rig_check_pool();
    rig_close();
}
END_TEST

int main(void)
{
    const TTest *tests[] = {
        sequences_short_of_blocks_yield_what_plain_ones_do,
        sequences_of_many_tenants_short_of_blocks_yield_what_plain_ones_do,
        nobody_is_set_aside_for_a_lower_priority,
        while_nothing_may_be_evicted_requests_end_that_need_it,
        a_run_that_outgrows_its_quota_ends_with_what_it_has,
        runs_of_a_tenant_beyond_its_quota_take_turns,
        a_request_fails_where_holds_never_end_in_time,
        a_request_waits_for_a_hold_that_ends_in_time_and_others_go_first,
        a_request_waits_for_no_longer_than_it_may,
        who_waits_goes_in_when_the_last_that_ran_is_turned_away,
        what_was_dropped_comes_back_where_the_request_is_turned_away,
        a_session_is_not_left_by_a_request_that_is_turned_away,
    };

    return CHECK_RUN("scheduler_room", rig_set_up, rig_tear_down, tests);
}
