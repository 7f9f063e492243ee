/* How requests come and how they end, each with what it may say of it. */
#include <string.h>

#include "tests/engine/scheduler_rig.h"
#include "tests/support/check_main.h"
#include "tests/support/faulty_heap.h"

START_TEST(a_full_context_and_a_full_queue_are_said)
{
    struct rig_client clients[4] = {0};
    const struct rig_config config = {
        .n_blocks = 3,
        .block_tokens = 8,
        .max_running = 1,
        .max_batch_tokens = 64,
        .max_waiting = 2,
    };

    rig_open(&config);
    ck_assert_uint_eq(scheduler_max_tokens(rig.scheduler), 24);
    ck_assert_int_eq(rig_submit(&clients[0], "a", rig.prompts[1], 60), KV_OK);
    rig_step();
    ck_assert_int_eq(rig_submit(&clients[1], "b", "b", 1), KV_OK);
    ck_assert_int_eq(rig_submit(&clients[2], "c", "c", 1), KV_OK);
    ck_assert_int_eq(rig_submit(&clients[3], "d", "d", 1), KV_LIMIT);
    ck_assert_int_eq(rig_submit(&clients[3], "b", "d", 1), KV_BUSY);
    rig_run_all(clients, 3);
    ck_assert_int_eq(clients[0].end, REQUEST_CONTEXT_FULL);
    ck_assert_uint_eq(clients[0].request.usage.prompt_tokens +
                          clients[0].request.usage.generated_tokens,
        24);
    rig_close();
}
END_TEST

START_TEST(who_is_set_aside_does_not_count_as_waiting)
{
    struct rig_client clients[3] = {0};
    struct rig_config config = rig_plain_config;

    config.max_running = 2;
    config.max_waiting = 1;
    rig_open(&config);
    ck_assert_int_eq(rig_submit(&clients[0], "a", rig.prompts[0], 8), KV_OK);
    rig_step();
    rig_evict(&clients[0]);
    ck_assert_int_eq(rig_submit(&clients[1], "b", rig.prompts[1], 8), KV_OK);
    rig_step();
    rig_evict(&clients[0]);
    rig_evict(&clients[1]);
    ck_assert_int_eq(rig_submit(&clients[2], "c", rig.prompts[2], 8), KV_OK);
    rig_run_all(clients, 3);
    rig_close();
}
END_TEST

START_TEST(a_cancelled_request_ends_at_once_or_with_its_step)
{
    struct rig_client waiting = {0}, running = {0};

    rig_open(&rig_plain_config);
    ck_assert_int_eq(rig_submit(&running, "a", rig.prompts[0], 8), KV_OK);
    ck_assert_int_eq(rig_submit(&waiting, "b", rig.prompts[1], 8), KV_OK);
    ck_assert_uint_eq(rig_plan(), 1);
    compute_run(rig.compute, rig.slices, rig.n_slices);
    scheduler_cancel(rig.scheduler, &waiting.request, rig.now_ns);
    ck_assert(waiting.ended && waiting.end == REQUEST_CANCELLED);
    scheduler_cancel(rig.scheduler, &running.request, rig.now_ns);
    scheduler_cancel(rig.scheduler, &running.request, rig.now_ns);
    ck_assert(!running.ended);
    rig_commit();
    ck_assert(running.ended && running.end == REQUEST_CANCELLED);
    ck_assert_uint_eq(running.n_tokens, 0);
    ck_assert_uint_eq(scheduler_load(rig.scheduler).running, 0);
    ck_assert_uint_eq(rig_plan(), 0);
    rig_close();
}
END_TEST

START_TEST(all_that_is_handed_back_ends_drained_within_the_step)
{
    struct rig_client clients[4] = {0};
    struct rig_config config = rig_plain_config;

    config.max_running = 3;
    config.max_batch_tokens = 16;
    rig_open(&config);
    ck_assert_int_eq(rig_submit(&clients[0], "a", rig.prompts[2], 32), KV_OK);
    rig_step();
    ck_assert_uint_eq(clients[0].n_tokens, 1);
    /* A prompt that needs several steps, one cancelled, one that waits. */
    ck_assert_int_eq(rig_submit(&clients[1], "b", rig.prompts[3], 32), KV_OK);
    ck_assert_int_eq(rig_submit(&clients[2], "c", rig.prompts[5], 32), KV_OK);
    ck_assert_int_eq(rig_submit(&clients[3], "d", rig.prompts[1], 32), KV_OK);
    ck_assert_uint_ge(rig_plan(), 2);
    compute_run(rig.compute, rig.slices, rig.n_slices);
    scheduler_cancel(rig.scheduler, &clients[2].request, rig.now_ns);
    scheduler_hand_back(rig.scheduler, rig.now_ns);
    ck_assert(clients[3].ended);
    rig_commit();
    ck_assert_uint_eq(clients[0].n_tokens, 2);
    for (int i = 0; i < 4; i++) {
        ck_assert(clients[i].ended);
        ck_assert_int_eq(
            clients[i].end, i == 2 ? REQUEST_CANCELLED : REQUEST_DRAINED);
    }
    ck_assert_uint_eq(rig_plan(), 0);
    rig_close();
}
END_TEST

/* One that has generated, one with a long prompt, and some that wait. What
 * blocks had before the step stays good. */
START_TEST(a_failed_step_counts_for_nothing_and_ends_all)
{
    struct rig_client clients[4] = {0}, again = {0};
    struct rig_config config = rig_plain_config;
    size_t n_before, n_cached;

    config.max_running = 3;
    config.max_batch_tokens = 16;
    rig_open(&config);
    ck_assert_int_eq(rig_submit(&clients[0], "a", rig.prompts[2], 32), KV_OK);
    rig_step();
    pool_session_tokens(clients[0].request.session, &n_before);
    n_cached = pool_session_n_cached(clients[0].request.session);
    ck_assert_int_eq(rig_submit(&clients[1], "b", rig.prompts[3], 32), KV_OK);
    ck_assert_int_eq(rig_submit(&clients[2], "c", rig.prompts[5], 32), KV_OK);
    ck_assert_int_eq(rig_submit(&clients[3], "d", rig.prompts[1], 32), KV_OK);
    ck_assert_uint_ge(rig_plan(), 2);
    compute_run(rig.compute, rig.slices, rig.n_slices);
    scheduler_fail(rig.scheduler, rig.now_ns);
    for (int i = 0; i < 4; i++) {
        ck_assert(clients[i].ended);
        ck_assert_int_eq(clients[i].end, REQUEST_MODEL_LOST);
        ck_assert_uint_eq(clients[i].n_tokens, i == 0);
    }
    ck_assert(!scheduler_in_step(rig.scheduler));
    ck_assert_uint_eq(rig_plan(), 0);
    rig_check_pool();
    scheduler_fail(rig.scheduler, rig.now_ns); /* nobody is there */
    ck_assert_int_eq(rig_submit(&again, "a", "", 1), KV_OK);
    ck_assert_uint_eq(n_cached, pool_session_n_cached(again.request.session));
    pool_session_tokens(again.request.session, &n_cached);
    ck_assert_uint_eq(n_cached, n_before);
    rig_run_all(&again, 1);
    rig_close();
}
END_TEST

/* A stop string ends the text before it, wherever it falls among the tokens. */
START_TEST(a_stop_string_is_no_part_of_the_text)
{
    struct rig_client plain = {0};

    rig_open(&rig_plain_config);
    ck_assert_int_eq(rig_submit(&plain, "", rig.prompts[0], 24), KV_OK);
    rig_run_all(&plain, 1);
    ck_assert_uint_gt(plain.n_text, 12);
    for (size_t at = 1; at + 4 < plain.n_text; at += 3) {
        char stop[5] = "";
        const char *stops[] = {"\x01never", stop};
        struct rig_client client = {0};
        size_t first;

        memcpy(stop, plain.text + at, 4);
        first = (size_t)(strstr(plain.text, stop) - plain.text);
        client.request.stops = stops;
        client.request.n_stops = 2;
        ck_assert_int_eq(rig_submit(&client, "", rig.prompts[0], 24), KV_OK);
        rig_run_all(&client, 1);
        ck_assert_int_eq(client.end, REQUEST_STOP_STRING);
        ck_assert_int_eq(client.request.text.stopped_by, 1);
        ck_assert_uint_eq(client.n_text, first);
        ck_assert_mem_eq(client.text, plain.text, first);
    }
    rig_close();
}
END_TEST

START_TEST(an_end_of_text_that_is_ignored_is_a_token_like_others)
{
    struct rig_client plain = {0}, longer = {0};

    rig_open(&rig_plain_config);
    ck_assert_int_eq(
        rig_submit(&plain, "", rig.prompts[1], RIG_MAX_TOKENS), KV_OK);
    rig_run_all(&plain, 1);
    ck_assert_int_eq(plain.end, REQUEST_END_OF_TEXT);
    longer.request.ignores_end = true;
    ck_assert_int_eq(
        rig_submit(&longer, "", rig.prompts[1], RIG_MAX_TOKENS), KV_OK);
    rig_run_all(&longer, 1);
    ck_assert_int_eq(longer.end, REQUEST_MAX_TOKENS);
    ck_assert_uint_eq(longer.n_tokens, RIG_MAX_TOKENS);
    ck_assert_mem_eq(
        plain.tokens, longer.tokens, plain.n_tokens * sizeof *plain.tokens);
    rig_close();
}
END_TEST

/* ---- memory */

START_TEST(opening_survives_each_failing_allocation)
{
    struct scheduler_config config;
    struct scheduler *scheduler = NULL;
    struct kv_error error;
    int nth = 0;

    rig_open(&rig_plain_config);
    config = (struct scheduler_config){
        .pool = rig.pool,
        .tokenizer = rig.tokenizer,
        .n_context = 64,
        .max_running = 2,
        .max_waiting = 2,
        .max_batch_tokens = 8,
    };
    for (;; nth++) {
        int n_live = faulty_heap_live();

        faulty_heap_fail_at(nth);
        if (scheduler_open(&scheduler, &config, &error) == KV_OK)
            break;
        ck_assert_ptr_null(scheduler);
        ck_assert_int_eq(faulty_heap_live(), n_live);
    }
    faulty_heap_fail_at(-1);
    ck_assert_int_gt(nth, 1);
    scheduler_close(scheduler);
    rig_close();
}
END_TEST

/* More than the conversation has room for, in place of its last tokens. */
static void submit_without_memory(uint32_t n_dropped)
{
    struct rig_client client = {0};
    enum kv_status status = KV_NO_MEMORY;
    const uint32_t input[40] = {5};
    uint32_t before[RIG_MAX_TOKENS];
    size_t n_before, n;

    rig_open(&rig_plain_config);
    ck_assert_int_eq(rig_submit(&client, "kept", rig.prompts[0], 1), KV_OK);
    rig_run_all(&client, 1);
    memcpy(before, pool_session_tokens(client.request.session, &n_before),
        sizeof *before *
            pool_session_info(rig.pool, client.request.session).n_tokens);
    for (int nth = 0; status == KV_NO_MEMORY; nth++) {
        client = (struct rig_client){.request = client.request};
        client.request.n_dropped = n_dropped;
        faulty_heap_fail_at(nth);
        status = scheduler_submit(
            rig.scheduler, &client.request, input, 40, rig.now_ns);
        faulty_heap_fail_at(-1);
        ck_assert_int_lt(nth, 20);
        ck_assert_mem_eq(pool_session_tokens(client.request.session, &n),
            before, (n_before - n_dropped) * sizeof *before);
        if (status != KV_NO_MEMORY)
            break;
        ck_assert_uint_eq(n, n_before);
        ck_assert_mem_eq(pool_session_tokens(client.request.session, &n),
            before, n_before * sizeof *before);
    }
    ck_assert_int_eq(status, KV_OK);
    ck_assert_uint_eq(n, n_before - n_dropped + 40);
    scheduler_hand_back(rig.scheduler, rig.now_ns);
    rig_close();
}

START_TEST(a_submit_without_memory_leaves_the_conversation_as_it_was)
{
    submit_without_memory(0);
    submit_without_memory(3);
}
END_TEST

START_TEST(a_step_allocates_nothing_but_what_sessions_need)
{
    struct rig_client clients[RIG_CLIENTS] = {0};
    struct rig_config config = rig_plain_config;
    int n_calls;

    config.max_running = RIG_MAX_RUNNING;
    rig_open(&config);
    rig_submit_all(clients, 48, "s", NULL);
    rig_step();
    n_calls = faulty_heap_calls();
    for (int i = 0; i < 5; i++)
        rig_step();
    /* Blocks and tokens of a session grow by more than they need. */
    ck_assert_int_le(faulty_heap_calls() - n_calls, 2 * RIG_CLIENTS);
    scheduler_hand_back(rig.scheduler, rig.now_ns);
    rig_close();
}
END_TEST

START_TEST(a_failing_heap_ends_requests_and_nothing_else)
{
    for (int nth = 0; nth < 40; nth += 3) {
        struct rig_client clients[RIG_CLIENTS] = {0}, after = {0};
        struct rig_config config = rig_plain_config;

        config.max_running = RIG_MAX_RUNNING;
        config.block_tokens = 2;
        config.n_blocks = 200;
        rig_open(&config);
        rig_submit_all(clients, 24, "s", NULL);
        faulty_heap_fail_at(nth);
        rig_run_all(clients, RIG_CLIENTS);
        faulty_heap_fail_at(-1);
        rig_check_pool();
        for (int i = 0; i < RIG_CLIENTS; i++)
            ck_assert(clients[i].end == REQUEST_NO_MEMORY ||
                      clients[i].end == REQUEST_MAX_TOKENS ||
                      clients[i].end == REQUEST_END_OF_TEXT);
        ck_assert_int_eq(rig_submit(&after, "new", rig.prompts[0], 3), KV_OK);
        rig_run_all(&after, 1);
        ck_assert_uint_eq(after.n_tokens, 3);
        rig_close();
    }
}
END_TEST

int main(void)
{
    const TTest *tests[] = {
        a_full_context_and_a_full_queue_are_said,
        who_is_set_aside_does_not_count_as_waiting,
        a_cancelled_request_ends_at_once_or_with_its_step,
        all_that_is_handed_back_ends_drained_within_the_step,
        a_failed_step_counts_for_nothing_and_ends_all,
        a_stop_string_is_no_part_of_the_text,
        an_end_of_text_that_is_ignored_is_a_token_like_others,
        opening_survives_each_failing_allocation,
        a_submit_without_memory_leaves_the_conversation_as_it_was,
        a_step_allocates_nothing_but_what_sessions_need,
        a_failing_heap_ends_requests_and_nothing_else,
    };

    return CHECK_RUN("scheduler", rig_set_up, rig_tear_down, tests);
}
