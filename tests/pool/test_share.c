/* Sharing full blocks between sessions. Blocks are of 4 tokens here. */
#include <string.h>

#include "tests/pool/fixture.h"
#include "tests/support/check_main.h"
#include "tests/support/faulty_heap.h"

static void set_up(void)
{
    struct pool_config config = fixture_config();

    config.share_prefixes = true;
    faulty_heap_install();
    fixture_open(&config);
}

/* Runs on the first n of these tokens: adopts what is there, then computes the
 * rest. Returns how many were adopted; the session still runs. */
static size_t run(struct pool_session *session, const char *text, size_t n)
{
    uint32_t tokens[64];
    size_t n_had, n_adopted;

    for (size_t i = 0; i < n; i++)
        tokens[i] = (uint32_t)text[i];
    pool_session_tokens(session, &n_had);
    ck_assert_int_eq(
        pool_session_append(fixture.pool, session, tokens + n_had, n - n_had),
        KV_OK);
    n_adopted = pool_session_adopt(fixture.pool, session, fixture.now_ns);
    ck_assert_int_eq(
        pool_session_reserve(fixture.pool, session, n, NULL, fixture.now_ns),
        KV_OK);
    pool_session_commit(fixture.pool, session, n);
    return n_adopted;
}

static struct pool_session *begin(const char *id)
{
    struct pool_session *session = fixture_get(id);

    ck_assert_int_eq(pool_session_begin(fixture.pool, session), KV_OK);
    return session;
}

static size_t talk(const char *id, const char *text)
{
    struct pool_session *session = begin(id);
    size_t n_adopted = run(session, text, strlen(text));

    pool_session_end(fixture.pool, session, fixture.now_ns);
    return n_adopted;
}

static struct pool_session_info info_of(const char *id)
{
    return pool_session_info(fixture.pool, fixture_find(id));
}

START_TEST(two_sessions_with_one_beginning_hold_the_same_blocks)
{
    ck_assert_uint_eq(talk("a", "once upon a time"), 0);
    ck_assert_uint_eq(talk("b", "once upon a hill"), 12);
    ck_assert_uint_eq(pool_blocks(fixture.pool).cached, 5);
    ck_assert_uint_eq(pool_blocks(fixture.pool).shared, 3);
    ck_assert_uint_eq(info_of("a").n_shared_blocks, 3);
    ck_assert_uint_eq(info_of("b").n_cached_tokens, 16);
}
END_TEST

START_TEST(a_block_is_found_by_all_that_came_before_it)
{
    talk("a", "abcdABCD");
    ck_assert_uint_eq(talk("b", "ABCDabcd"), 0);
    ck_assert_uint_eq(talk("c", "xbcdABCD"), 0);
}
END_TEST

/* Each computes it, for none has it when they begin. */
static void compute_together(const char *const *ids, size_t n, const char *text)
{
    uint32_t tokens[64];
    size_t n_tokens = strlen(text);

    for (size_t i = 0; i < n_tokens; i++)
        tokens[i] = (uint32_t)text[i];
    for (size_t i = 0; i < n; i++) {
        struct pool_session *session = begin(ids[i]);

        pool_session_append(fixture.pool, session, tokens, n_tokens);
        ck_assert_int_eq(pool_session_reserve(fixture.pool, session, n_tokens,
                             NULL, fixture.now_ns),
            KV_OK);
    }
    for (size_t i = 0; i < n; i++)
        pool_session_commit(fixture.pool, fixture_find(ids[i]), n_tokens);
    for (size_t i = 0; i < n; i++)
        pool_session_end(fixture.pool, fixture_find(ids[i]), fixture.now_ns);
}

START_TEST(where_several_computed_one_beginning_the_next_is_found)
{
    const char *const ids[] = {"a", "b", "c", "d", "e"};

    compute_together(ids, 5, "abcdefgh");
    ck_assert_uint_eq(pool_blocks(fixture.pool).cached, 10);
    for (size_t i = 0; i < 4; i++) {
        fixture_check();
        ck_assert_uint_eq(talk("f", "abcdefghi"), 8);
        ck_assert_uint_eq(info_of(ids[i]).n_shared_blocks, 2);
        fixture_evict("f", false);
        fixture_evict(ids[i], false);
        fixture_scrub();
    }
    /* A fifth is one too many to be listed. */
    ck_assert_uint_eq(talk("f", "abcdefghi"), 0);
}
END_TEST

static enum pool_block_state state_of(const char *id, size_t index)
{
    size_t n_blocks;
    const pool_block_id *blocks =
        pool_session_blocks(fixture_find(id), &n_blocks);

    ck_assert_uint_lt(index, n_blocks);
    return pool_block_run(fixture.pool, blocks[index], 1).state;
}

START_TEST(a_block_is_pinned_while_any_of_its_holders_is)
{
    struct pool_session *a = begin("a"), *b;

    run(a, "abcdefghABCD", 12);
    b = begin("b");
    ck_assert_uint_eq(run(b, "abcdefghWXYZ", 12), 8);
    ck_assert_uint_eq(pool_blocks(fixture.pool).pinned, 4);
    pool_session_end(fixture.pool, a, fixture.now_ns);
    ck_assert_int_eq(state_of("a", 1), POOL_BLOCK_PINNED); /* by b */
    ck_assert_int_eq(state_of("a", 2), POOL_BLOCK_CACHED);
    ck_assert_int_eq(state_of("b", 2), POOL_BLOCK_PINNED);
    fixture_check();
    fixture_evict("a", false);
    ck_assert_uint_eq(pool_blocks(fixture.pool).pinned, 3);
    pool_session_end(fixture.pool, b, fixture.now_ns);
    ck_assert_uint_eq(pool_blocks(fixture.pool).pinned, 0);
    /* Alone with them it pins them once more, and all of them. */
    pool_session_begin(fixture.pool, fixture_find("b"));
    ck_assert_uint_eq(pool_blocks(fixture.pool).pinned, 3);
    fixture_check();
}
END_TEST

START_TEST(tenants_share_nothing)
{
    const struct pool_key key = {"other", 5, "a", 1};
    struct pool_session *session;
    bool created;

    talk("a", "once upon a time");
    ck_assert_int_eq(pool_session_get(fixture.pool, &key, NULL, fixture.now_ns,
                         &session, &created),
        KV_OK);
    ck_assert_int_eq(pool_session_begin(fixture.pool, session), KV_OK);
    ck_assert_uint_eq(run(session, "once upon a time", 16), 0);
    ck_assert_uint_eq(pool_blocks(fixture.pool).shared, 0);
    pool_session_end(fixture.pool, session, fixture.now_ns);
}
END_TEST

START_TEST(the_last_token_is_computed_into_a_block_of_ones_own)
{
    struct pool_session *session;

    talk("a", "abcdefgh");
    ck_assert_uint_eq(talk("b", "abcdefgh"), 4);
    /* Nothing new was said: its last block is another's too by now. */
    ck_assert_uint_eq(talk("c", "abcdefghi"), 8);
    session = begin("a");
    ck_assert_uint_eq(
        pool_session_adopt(fixture.pool, session, fixture.now_ns), 4);
    pool_session_end(fixture.pool, session, fixture.now_ns);
}
END_TEST

START_TEST(a_shared_block_survives_the_eviction_of_one_holder)
{
    struct pool_outcome outcome;

    talk("a", "once upon a time");
    talk("b", "once upon a hill");
    outcome = fixture_evict("a", false);
    ck_assert_uint_eq(outcome.blocks_freed, 1);
    ck_assert_uint_eq(outcome.shared_blocks_kept, 3);
    ck_assert_uint_eq(talk("c", "once upon a rock"), 12);
    outcome = fixture_evict("b", false);
    ck_assert_uint_eq(outcome.shared_blocks_kept, 3);
    outcome = fixture_evict("c", false);
    ck_assert_uint_eq(outcome.blocks_freed, 4);
    ck_assert_uint_eq(pool_blocks(fixture.pool).cached, 0);
}
END_TEST

START_TEST(a_block_is_found_after_the_session_that_filled_it_is_gone)
{
    talk("a", "once upon a time");
    talk("b", "once upon a hill");
    fixture_evict("a", false);
    pool_session_forget(fixture.pool, fixture_find("a"), fixture.now_ns);
    ck_assert_uint_eq(talk("c", "once upon a rock"), 12);
}
END_TEST

START_TEST(a_block_is_found_however_often_it_changes_hands)
{
    talk("a", "once upon a time");
    talk("b", "once upon a hill");
    fixture_evict("a", false);
    ck_assert_uint_eq(talk("c", "once upon a rock"), 12);
    fixture_evict("c", false);
    fixture_check();
    ck_assert_uint_eq(talk("d", "once upon a road"), 12);
    fixture_evict("b", false);
    fixture_check();
    ck_assert_uint_eq(talk("e", "once upon a wall"), 12);
}
END_TEST

START_TEST(without_memory_for_its_tokens_a_block_is_found_no_longer)
{
    talk("a", "once upon a time");
    talk("b", "once upon a hill");
    faulty_heap_fail_at(0);
    fixture_evict("a", false);
    faulty_heap_fail_at(-1);
    ck_assert_uint_eq(talk("c", "once upon a rock"), 0);
}
END_TEST

START_TEST(tokens_may_move_while_others_compare_them)
{
    struct pool_session *session = begin("a");
    char text[60];

    memset(text, 'x', sizeof text);
    for (size_t n = 1; n <= 36; n++)
        run(session, text, n);
    pool_session_end(fixture.pool, session, fixture.now_ns);
    text[33] = 'y';
    text[34] = '\0';
    ck_assert_uint_eq(talk("b", text), 32);
}
END_TEST

START_TEST(going_on_from_within_a_shared_block_leaves_it_to_the_others)
{
    struct pool_session *session;

    talk("a", "once upon a time");
    talk("b", "once upon a hill");
    session = begin("b");
    ck_assert_int_eq(
        pool_session_truncate(fixture.pool, session, 6, fixture.now_ns), KV_OK);
    ck_assert_uint_eq(pool_session_n_cached(session), 4);
    ck_assert_uint_eq(run(session, "once u and i", 12), 4);
    pool_session_end(fixture.pool, session, fixture.now_ns);
    ck_assert_uint_eq(info_of("a").n_cached_tokens, 16);
    ck_assert_uint_eq(info_of("a").n_shared_blocks, 1);
}
END_TEST

START_TEST(a_block_that_is_cut_open_is_found_no_longer)
{
    struct pool_session *session;

    talk("a", "abcdefgh!");
    session = begin("a");
    ck_assert_int_eq(
        pool_session_truncate(fixture.pool, session, 6, fixture.now_ns), KV_OK);
    pool_session_end(fixture.pool, session, fixture.now_ns);
    ck_assert_uint_eq(talk("b", "abcdefgh!"), 4);
}
END_TEST

/* 16 blocks: a and b share 3 of their 4, c takes 8 and d wants 4 more. */
START_TEST(a_session_that_would_free_nothing_is_passed_over)
{
    struct pool_session *session;

    talk("a", "once upon a t");
    talk("b", "once upon a h");
    session = begin("a");
    pool_session_truncate(fixture.pool, session, 12, fixture.now_ns);
    pool_session_end(fixture.pool, session, fixture.now_ns);
    fixture.now_ns++;
    talk("b", "once upon a hi");
    fixture.now_ns++;
    talk("c", "12345678123456781234567812345678");
    session = begin("d");
    ck_assert_int_eq(fixture_extend(session, 20), KV_BUSY);
    ck_assert_uint_eq(info_of("a").n_blocks, 3);
    ck_assert_uint_eq(info_of("b").n_blocks, 0);
    fixture_scrub();
    pool_session_end(fixture.pool, session, fixture.now_ns);
}
END_TEST

START_TEST(sessions_that_only_together_free_something_go_together)
{
    struct pool_session *session;

    talk("a", "once upon a t");
    session = begin("a");
    pool_session_truncate(fixture.pool, session, 12, fixture.now_ns);
    pool_session_end(fixture.pool, session, fixture.now_ns);
    talk("b", "once upon a h");
    session = begin("b");
    pool_session_truncate(fixture.pool, session, 12, fixture.now_ns);
    pool_session_end(fixture.pool, session, fixture.now_ns);
    fixture_scrub();
    session = begin("d");
    ck_assert_int_eq(fixture_extend(session, 60), KV_BUSY);
    ck_assert_uint_eq(pool_blocks(fixture.pool).scrubbing, 3);
    fixture_scrub();
    pool_session_end(fixture.pool, session, fixture.now_ns);
}
END_TEST

START_TEST(a_block_of_a_running_and_an_idle_session_is_pinned)
{
    struct pool_session *session;

    talk("a", "once upon a time");
    session = begin("b");
    run(session, "once upon a hill", 16);
    ck_assert_uint_eq(pool_blocks(fixture.pool).pinned, 4);
    ck_assert_uint_eq(pool_blocks(fixture.pool).cached, 1);
    ck_assert_uint_eq(fixture_evict("a", false).blocks_freed, 1);
    ck_assert_uint_eq(pool_blocks(fixture.pool).pinned, 4);
    pool_session_end(fixture.pool, session, fixture.now_ns);
}
END_TEST

START_TEST(where_it_is_off_nothing_is_shared)
{
    fixture_tear_down();
    fixture_set_up();
    talk("a", "once upon a time");
    ck_assert_uint_eq(talk("b", "once upon a time"), 0);
    ck_assert_uint_eq(pool_blocks(fixture.pool).shared, 0);
}
END_TEST

int main(void)
{
    const TTest *tests[] = {
        two_sessions_with_one_beginning_hold_the_same_blocks,
        a_block_is_found_by_all_that_came_before_it,
        where_several_computed_one_beginning_the_next_is_found,
        a_block_is_pinned_while_any_of_its_holders_is,
        tenants_share_nothing,
        the_last_token_is_computed_into_a_block_of_ones_own,
        a_shared_block_survives_the_eviction_of_one_holder,
        a_block_is_found_after_the_session_that_filled_it_is_gone,
        a_block_is_found_however_often_it_changes_hands,
        without_memory_for_its_tokens_a_block_is_found_no_longer,
        tokens_may_move_while_others_compare_them,
        going_on_from_within_a_shared_block_leaves_it_to_the_others,
        a_block_that_is_cut_open_is_found_no_longer,
        a_session_that_would_free_nothing_is_passed_over,
        sessions_that_only_together_free_something_go_together,
        a_block_of_a_running_and_an_idle_session_is_pinned,
        where_it_is_off_nothing_is_shared,
    };

    return CHECK_RUN("pool_share", set_up, fixture_tear_down, tests);
}
