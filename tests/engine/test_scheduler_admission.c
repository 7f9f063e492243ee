/* Who goes in, and who has to wait. */
#include <stdio.h>
#include <string.h>

#include "tests/engine/scheduler_rig.h"
#include "tests/support/check_main.h"

START_TEST(what_does_not_fit_together_is_not_let_in_together)
{
    struct rig_client clients[RIG_CLIENTS] = {0};
    const struct rig_config config = {
        .n_blocks = 8,
        .block_tokens = 4,
        .max_running = RIG_MAX_RUNNING,
        .max_batch_tokens = 64,
        .max_waiting = 16,
    };

    rig_open(&config);
    rig_submit_all(clients, 1, "s", NULL);
    rig_run_all(clients, RIG_CLIENTS);
    ck_assert_uint_eq(scheduler_load(rig.scheduler).preemptions, 0);
    rig_close();
}
END_TEST

START_TEST(prompts_that_arrive_together_are_computed_once)
{
    struct rig_client plain[RIG_CLIENTS] = {0}, clients[RIG_CLIENTS] = {0};
    struct rig_config config = rig_plain_config;
    uint32_t n_cached = 0, n_prompt = 0;

    rig.prompts = rig_alike;
    config.share_prefixes = true;
    config.max_running = RIG_MAX_RUNNING;
    config.max_batch_tokens = 16;
    rig_run_plain(plain, 10, &rig_seeded);
    rig_open(&config);
    rig_submit_all(clients, 10, "s", &rig_seeded);
    rig_run_all(clients, RIG_CLIENTS);
    for (int i = 0; i < RIG_CLIENTS; i++) {
        rig_check_same(&plain[i], &clients[i]);
        n_prompt += clients[i].request.usage.prompt_tokens;
        n_cached += clients[i].request.usage.cached_tokens;
        if (i > 0 && i != 4)
            ck_assert_uint_ge(clients[i].request.usage.cached_tokens, 8);
    }
    ck_assert_uint_gt(n_cached, n_prompt / 3);
    rig_check_pool();
    rig_close();
}
END_TEST

/* One has eight requests there before another comes with its one. */
START_TEST(a_tenant_with_many_requests_does_not_hold_back_anothers)
{
    struct rig_client many[8] = {0}, one = {0};
    struct rig_config config = rig_plain_config;
    int n_ended = 0;

    config.max_running = 2;
    rig_open(&config);
    for (int i = 0; i < 8; i++)
        ck_assert_int_eq(rig_submit_for("many", &many[i], "",
                             rig.prompts[i % RIG_CLIENTS], 6),
            KV_OK);
    rig_step();
    ck_assert(many[0].started && many[1].started);
    ck_assert_int_eq(rig_submit_for("one", &one, "", rig.prompts[2], 6), KV_OK);
    while (!one.ended)
        rig_step();
    for (int i = 0; i < 8; i++)
        n_ended += many[i].ended;
    /* It waited for a place, and for nobody who came before it. */
    ck_assert_int_le(n_ended, 3);
    rig_run_all(many, 8);
    for (int i = 1; i < 8; i++) /* among themselves they go by age */
        ck_assert_int_ge(
            many[i].request.usage.queue_ns, many[i - 1].request.usage.queue_ns);
    rig_close();
}
END_TEST

START_TEST(a_conversation_beyond_a_hard_quota_is_refused_with_the_numbers)
{
    const struct pool_key key = {
        .tenant = "q", .tenant_bytes = 1, .id = "a", .id_bytes = 1};
    struct rig_client first = {0}, second = {0};

    rig_open(&rig_tight_config);
    rig_set_quota(0, 3);
    ck_assert_int_eq(
        rig_submit_for("q", &first, "a", rig.prompts[3], 4), KV_OVER_QUOTA);
    ck_assert_uint_eq(first.request.quota.used_blocks, 0);
    ck_assert_uint_gt(first.request.quota.needed_blocks, 3);
    ck_assert_uint_eq(first.request.quota.quota_blocks, 3);
    /* The session has no tokens and is gone; another tenant is not concerned.
     */
    ck_assert_ptr_null(pool_session_find(rig.pool, &key));
    second.request.ignores_end = true;
    ck_assert_int_eq(
        rig_submit_for("r", &second, "a", rig.prompts[3], 4), KV_OK);
    rig_run_all(&second, 1);
    ck_assert_int_eq(second.end, REQUEST_MAX_TOKENS);
    rig_check_pool();
    rig_close();
}
END_TEST

START_TEST(what_was_to_be_dropped_stays_if_a_quota_refuses_the_rest)
{
    struct rig_client client = {0};
    const uint32_t input[40] = {5};
    uint32_t before[RIG_MAX_TOKENS];
    size_t n_before, n;

    rig_open(&rig_tight_config);
    ck_assert_int_eq(
        rig_submit_for("q", &client, "a", rig.prompts[0], 2), KV_OK);
    rig_run_all(&client, 1);
    n_before = pool_session_info(rig.pool, client.request.session).n_tokens;
    memcpy(before, pool_session_tokens(client.request.session, &n),
        n_before * sizeof *before);
    rig_set_quota(0, 3);
    client = (struct rig_client){.request = client.request};
    client.request.n_dropped = (uint32_t)n_before - 1;
    ck_assert_int_eq(
        scheduler_submit(rig.scheduler, &client.request, input, 40, rig.now_ns),
        KV_OVER_QUOTA);
    ck_assert_mem_eq(pool_session_tokens(client.request.session, &n), before,
        n_before * sizeof *before);
    ck_assert_uint_eq(n, n_before);
    rig_check_pool();
    rig_close();
}
END_TEST

/* ---- priorities */

/* Runs that fill the pool, and do not end by themselves soon. */
static void fill_pool(struct rig_client *clients, int n, uint32_t priority)
{
    for (int i = 0; i < n; i++) {
        char id[16];

        snprintf(id, sizeof id, "low%d", i);
        clients[i].request.priority = priority;
        clients[i].request.ignores_end = true;
        ck_assert_int_eq(
            rig_submit(&clients[i], id, rig.prompts[0], 24), KV_OK);
    }
    for (int i = 0; pool_blocks(rig.pool).free > 0; i++) {
        ck_assert_int_lt(i, 100);
        rig_step();
    }
}

START_TEST(a_higher_priority_does_not_wait_for_what_a_lower_one_holds)
{
    struct rig_client low[2] = {0}, equal = {0}, high = {0};

    rig_open(&rig_tight_config);
    fill_pool(low, 2, 10);
    equal.request.priority = 10;
    ck_assert_int_eq(rig_submit(&equal, "equal", rig.prompts[4], 4), KV_OK);
    rig_step();
    ck_assert(!equal.started);
    high.request.priority = 11;
    ck_assert_int_eq(rig_submit(&high, "high", rig.prompts[4], 4), KV_OK);
    rig_step(); /* blocks of the youngest low one are zeroed, */
    rig_step(); /* and taken */
    ck_assert(high.started && high.n_tokens == 1);
    ck_assert(!low[1].ended && low[1].request.set_aside);
    ck_assert(!low[0].request.set_aside);
    rig_run_all(&high, 1);
    ck_assert_uint_eq(high.request.usage.preemptions, 0);
    ck_assert(!low[0].ended);
    rig_run_all(low, 2);
    rig_run_all(&equal, 1);
    rig_check_pool();
    rig_close();
}
END_TEST

START_TEST(a_full_batch_gives_a_place_to_a_higher_priority)
{
    struct rig_client low[2] = {0}, high = {0};
    struct rig_config config = rig_plain_config;
    size_t n_blocks;

    config.max_running = 2;
    rig_open(&config);
    for (int i = 0; i < 2; i++)
        ck_assert_int_eq(
            rig_submit(&low[i], i == 0 ? "a" : "b", rig.prompts[i], 12), KV_OK);
    rig_step();
    rig_step();
    high.request.priority = 1;
    ck_assert_int_eq(rig_submit(&high, "high", rig.prompts[2], 3), KV_OK);
    rig_step();
    ck_assert_uint_eq(high.n_tokens, 1);
    ck_assert(low[1].request.set_aside && !low[0].request.set_aside);
    /* Nobody needs its blocks, so nothing is computed again. */
    pool_session_blocks(low[1].request.session, &n_blocks);
    ck_assert_uint_gt(n_blocks, 0);
    rig_run_all(&high, 1);
    rig_run_all(low, 2);
    ck_assert_uint_eq(low[1].request.usage.preemptions, 1);
    ck_assert_uint_eq(low[1].request.usage.recomputed_tokens, 0);
    rig_close();
}
END_TEST

int main(void)
{
    const TTest *tests[] = {
        what_does_not_fit_together_is_not_let_in_together,
        prompts_that_arrive_together_are_computed_once,
        a_tenant_with_many_requests_does_not_hold_back_anothers,
        a_conversation_beyond_a_hard_quota_is_refused_with_the_numbers,
        what_was_to_be_dropped_stays_if_a_quota_refuses_the_rest,
        a_higher_priority_does_not_wait_for_what_a_lower_one_holds,
        a_full_batch_gives_a_place_to_a_higher_priority,
    };

    return CHECK_RUN("scheduler_admission", rig_set_up, rig_tear_down, tests);
}
