/* What steps compute: whatever happens to a sequence, its tokens are those of a
 * quiet run. */
#include <string.h>

#include "base/clock.h"
#include "tests/engine/scheduler_rig.h"
#include "tests/support/check_main.h"

static void check_batched(void)
{
    static const uint32_t batch_tokens[] = {1, 2, 3, 7, 16, 128};
    struct rig_client plain[RIG_CLIENTS] = {0};

    rig_run_plain(plain, 10, &rig_seeded);
    for (size_t i = 0; i < sizeof batch_tokens / sizeof *batch_tokens; i++) {
        struct rig_client clients[RIG_CLIENTS] = {0};
        struct rig_config config = rig_plain_config;

        config.max_batch_tokens = batch_tokens[i];
        config.max_running = batch_tokens[i] < RIG_MAX_RUNNING
                                 ? batch_tokens[i]
                                 : RIG_MAX_RUNNING;
        rig_open(&config);
        rig_submit_all(clients, 10, "", &rig_seeded);
        rig_run_all(clients, RIG_CLIENTS);
        for (int j = 0; j < RIG_CLIENTS; j++)
            rig_check_same(&plain[j], &clients[j]);
        ck_assert_uint_eq(pool_stats(rig.pool).used_bytes, 0);
        rig_check_pool();
        rig_close();
    }
}

START_TEST(batched_and_chunked_sequences_yield_what_plain_ones_do)
{
    rig_each_kv_type(check_batched);
}
END_TEST

static void check_evicted(void)
{
    struct rig_client plain[RIG_CLIENTS] = {0}, clients[RIG_CLIENTS] = {0};
    struct rig_config config = rig_plain_config;
    uint64_t n_preempted = 0;

    config.max_running = RIG_MAX_RUNNING;
    config.max_batch_tokens = 24;
    rig_run_plain(plain, 16, &rig_seeded);
    rig_open(&config);
    rig_submit_all(clients, 16, "s", &rig_seeded);
    for (int i = 0; i < RIG_CLIENTS; i++)
        while (!clients[i].ended) {
            int victim = (int)rig_draw(RIG_CLIENTS);

            if (!clients[victim].ended && rig_draw(3) > 0)
                rig_evict(&clients[victim]);
            rig_step();
            rig_check_pool();
        }
    for (int i = 0; i < RIG_CLIENTS; i++) {
        rig_check_same(&plain[i], &clients[i]);
        n_preempted += clients[i].request.usage.preemptions;
    }
    ck_assert_uint_gt(n_preempted, 3);
    ck_assert_uint_gt(scheduler_load(rig.scheduler).recomputed_tokens, 0);
    ck_assert_uint_eq(scheduler_load(rig.scheduler).preemptions, n_preempted);
    rig_close();
}

START_TEST(sequences_evicted_at_random_yield_what_plain_ones_do)
{
    rig_each_kv_type(check_evicted);
}
END_TEST

START_TEST(sharing_sequences_evicted_at_random_yield_what_plain_ones_do)
{
    struct rig_client plain[RIG_CLIENTS] = {0};
    struct rig_config config = rig_plain_config;

    rig.prompts = rig_alike;
    config.share_prefixes = true;
    config.max_running = RIG_MAX_RUNNING;
    rig_run_plain(plain, 24, &rig_seeded);
    for (uint32_t n_blocks = 14; n_blocks <= 64; n_blocks += 5) {
        struct rig_client clients[RIG_CLIENTS] = {0};

        config.n_blocks = n_blocks;
        config.max_batch_tokens = 6 + (uint32_t)rig_draw(40);
        rig_open(&config);
        rig.random += n_blocks;
        rig_submit_all(clients, 24, rig_draw(2) == 0 ? "" : "s", &rig_seeded);
        for (int n_steps = 0; n_steps < 60; n_steps++) {
            struct rig_client *victim = &clients[rig_draw(RIG_CLIENTS)];

            if (!victim->ended && rig_draw(3) == 0)
                rig_evict(victim);
            rig_step();
            rig_check_pool();
        }
        rig_run_all(clients, RIG_CLIENTS);
        for (int i = 0; i < RIG_CLIENTS; i++)
            rig_check_same(&plain[i], &clients[i]);
        rig_close();
    }
}
END_TEST

static void check_continued(void)
{
    struct rig_client whole = {0}, parts[4] = {0};
    uint32_t tokens[RIG_MAX_TOKENS];
    size_t n = 0;

    rig_open(&rig_plain_config);
    ck_assert_int_eq(rig_submit(&whole, "whole", rig.prompts[0], 8), KV_OK);
    rig_run_all(&whole, 1);
    ck_assert_uint_eq(whole.n_tokens, 8);
    for (int i = 0; i < 4; i++) {
        ck_assert_int_eq(
            rig_submit(&parts[i], "parts", i == 0 ? rig.prompts[0] : "", 2),
            KV_OK);
        if (i == 2) /* its cache goes, its tokens stay */
            rig_evict(&parts[i]);
        rig_run_all(&parts[i], 1);
        memcpy(tokens + n, parts[i].tokens, 2 * sizeof *tokens);
        n += parts[i].n_tokens;
    }
    ck_assert_mem_eq(tokens, whole.tokens, 8 * sizeof *tokens);
    ck_assert_uint_eq(parts[1].request.usage.recomputed_tokens, 0);
    ck_assert_uint_eq(parts[1].request.usage.prompt_tokens, 0);
    ck_assert_uint_gt(parts[1].request.usage.cached_tokens, 2);
    ck_assert_uint_eq(parts[2].request.usage.cached_tokens, 0);
    ck_assert_uint_gt(parts[2].request.usage.recomputed_tokens, 2);
    rig_close();
}

START_TEST(a_session_continued_yields_what_one_call_does)
{
    rig_each_kv_type(check_continued);
}
END_TEST

START_TEST(a_last_token_computed_again_for_its_logits_is_no_recomputation)
{
    struct rig_client first = {0}, second = {0};

    rig_open(&rig_plain_config);
    ck_assert_int_eq(rig_submit(&first, "a", rig.prompts[0], 4), KV_OK);
    ck_assert_uint_eq(rig_plan(), 1);
    compute_run(rig.compute, rig.slices, rig.n_slices);
    scheduler_cancel(rig.scheduler, &first.request, rig.now_ns);
    rig_commit();
    ck_assert_int_eq(first.end, REQUEST_CANCELLED);
    /* All of it lies in blocks now, and none of it says how to go on. */
    ck_assert_int_eq(rig_submit(&second, "a", "", 4), KV_OK);
    rig_run_all(&second, 1);
    ck_assert_uint_eq(second.n_tokens, 4);
    ck_assert_uint_eq(second.request.usage.recomputed_tokens, 0);
    rig_close();
}
END_TEST

/* Turns by turns with others, and chunk by chunk. */
START_TEST(a_prefill_ends_where_its_first_token_would_come)
{
    struct rig_client plain = {0}, ahead = {0}, other = {0}, after = {0};
    struct rig_config config = rig_plain_config;

    config.max_running = 2;
    config.max_batch_tokens = 3;
    rig_open(&config);
    ck_assert_int_eq(rig_submit(&plain, "plain", rig.prompts[3], 4), KV_OK);
    rig_run_all(&plain, 1);
    ahead.request.prefills_only = true;
    ck_assert_int_eq(rig_submit(&ahead, "ahead", rig.prompts[3], 4), KV_OK);
    ck_assert_int_eq(rig_submit(&other, "other", rig.prompts[0], 4), KV_OK);
    rig_run_all(&ahead, 1);
    ck_assert_int_eq(ahead.end, REQUEST_MAX_TOKENS);
    ck_assert_uint_eq(ahead.n_tokens, 0);
    ck_assert_uint_eq(ahead.request.usage.generated_tokens, 0);
    ck_assert_int_eq(ahead.request.usage.ttft_ns, 0);
    rig_run_all(&other, 1);
    ck_assert_uint_eq(other.n_tokens, 4);
    ck_assert_int_eq(rig_submit(&after, "ahead", "", 4), KV_OK);
    rig_run_all(&after, 1);
    ck_assert_uint_eq(after.request.usage.cached_tokens + 1,
        ahead.request.usage.prompt_tokens);
    rig_check_same(&plain, &after);
    rig_close();
}
END_TEST

/* A turn taken again from the middle of a block, which another session holds
 * too. */
START_TEST(an_end_that_is_replaced_yields_what_was_never_there)
{
    struct rig_client plain = {0}, first = {0}, twin = {0}, again = {0};
    struct rig_config config = rig_plain_config;
    size_t n;

    config.share_prefixes = true;
    rig_open(&config);
    ck_assert_int_eq(rig_submit(&plain, "plain", rig.prompts[3], 8), KV_OK);
    rig_run_all(&plain, 1);
    ck_assert_int_eq(rig_submit(&first, "first", rig.prompts[3], 8), KV_OK);
    ck_assert_int_eq(rig_submit(&twin, "twin", rig.prompts[3], 8), KV_OK);
    rig_run_all(&first, 1);
    rig_run_all(&twin, 1);
    again.request.n_dropped = (uint32_t)first.n_tokens;
    ck_assert_int_eq(rig_submit(&again, "first", "", 8), KV_OK);
    pool_session_tokens(again.request.session, &n);
    ck_assert_uint_eq(n, first.request.usage.prompt_tokens);
    rig_run_all(&again, 1);
    rig_check_same(&plain, &again);
    rig_check_pool();
    /* What the input repeats stays where it is. */
    again = (struct rig_client){
        .request.n_dropped =
            (uint32_t)first.n_tokens + first.request.usage.prompt_tokens};
    ck_assert_int_eq(rig_submit(&again, "first", rig.prompts[3], 8), KV_OK);
    rig_run_all(&again, 1);
    rig_check_same(&plain, &again);
    ck_assert_uint_eq(again.request.usage.cached_tokens + 1,
        first.request.usage.prompt_tokens);
    rig_close();
}
END_TEST

/* ---- budgets and times */

START_TEST(tenants_share_what_prompts_may_take_of_a_step)
{
    struct rig_client a[3] = {0}, b = {0};
    struct rig_config config = rig_plain_config;

    config.max_running = RIG_MAX_RUNNING;
    config.max_batch_tokens = 12;
    rig_open(&config);
    for (int i = 0; i < 3; i++)
        ck_assert_int_eq(
            rig_submit_for("a", &a[i], "", rig_alike[i], 4), KV_OK);
    ck_assert_int_eq(rig_submit_for("b", &b, "", rig_alike[3], 4), KV_OK);
    ck_assert_uint_eq(rig_plan(), 2);
    ck_assert_uint_eq(a[0].request.n_slice, 6);
    ck_assert_uint_eq(b.request.n_slice, 6);
    compute_run(rig.compute, rig.slices, rig.n_slices);
    rig_commit();
    rig_run_all(a, 3);
    rig_run_all(&b, 1);
    rig_close();
}
END_TEST

/* Time stands still, runs, jumps: the steps go on, and prompts in big pieces
 * again after a pause that had nothing to do with them. */
START_TEST(one_slow_step_does_not_cut_prompts_short_for_ever)
{
    struct rig_client slow = {0}, clients[8] = {0};
    size_t longest = 0;

    rig_open(&rig_plain_config);
    ck_assert_int_eq(rig_submit(&slow, "", rig.prompts[3], 2), KV_OK);
    rig_plan();
    compute_run(rig.compute, rig.slices, rig.n_slices);
    rig.now_ns += 3600 * KV_NS_PER_S;
    rig_commit();
    rig_run_all(&slow, 1);
    for (int i = 0; i < 8; i++) {
        ck_assert_int_eq(rig_submit(&clients[i], "", rig.prompts[3], 8), KV_OK);
        while (!clients[i].ended) {
            rig_plan();
            for (size_t j = 0; i == 7 && j < rig.n_slices; j++)
                if (rig.slices[j].n_tokens > longest)
                    longest = rig.slices[j].n_tokens;
            compute_run(rig.compute, rig.slices, rig.n_slices);
            rig_commit();
            rig_scrub();
        }
    }
    ck_assert_uint_gt(longest, 4);
    rig_close();
}
END_TEST

START_TEST(latencies_are_of_first_steps_and_tokens)
{
    const struct scheduler_latencies *latencies;
    struct rig_client clients[2] = {0};

    rig_open(&rig_plain_config);
    latencies = scheduler_latencies(rig.scheduler);
    ck_assert_int_eq(rig_submit(&clients[0], "a", rig.prompts[0], 6), KV_OK);
    ck_assert_int_eq(rig_submit(&clients[1], "b", rig.prompts[1], 4), KV_OK);
    scheduler_cancel(rig.scheduler, &clients[1].request, rig.now_ns);
    rig_run_all(clients, 1);
    ck_assert_uint_eq(latencies->queue_wait.count, 1);
    ck_assert_uint_eq(latencies->first_token.count, 1);
    ck_assert_int_eq(
        latencies->first_token.sum_ns, clients[0].request.usage.ttft_ns);
    ck_assert_uint_eq(latencies->next_token.count, 5);
    ck_assert_int_eq(
        latencies->next_token.sum_ns, clients[0].request.usage.decode_ns);
    /* The clock of this test goes a millisecond for each motion. */
    ck_assert_uint_eq(latencies->next_token.counts[4], 5);
    ck_assert_int_eq(latencies->queue_wait.sum_ns, KV_NS_PER_MS);
    rig_close();
}
END_TEST

int main(void)
{
    const TTest *tests[] = {
        batched_and_chunked_sequences_yield_what_plain_ones_do,
        sequences_evicted_at_random_yield_what_plain_ones_do,
        sharing_sequences_evicted_at_random_yield_what_plain_ones_do,
        a_session_continued_yields_what_one_call_does,
        a_last_token_computed_again_for_its_logits_is_no_recomputation,
        a_prefill_ends_where_its_first_token_would_come,
        an_end_that_is_replaced_yields_what_was_never_there,
        tenants_share_what_prompts_may_take_of_a_step,
        one_slow_step_does_not_cut_prompts_short_for_ever,
        latencies_are_of_first_steps_and_tokens,
    };

    return CHECK_RUN("scheduler_step", rig_set_up, rig_tear_down, tests);
}
