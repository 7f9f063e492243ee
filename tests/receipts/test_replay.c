#include "receipts/replay.h"

#include <stdio.h>
#include <string.h>

#include "receipts/recall.h"
#include "tests/support/check_main.h"
#include "tests/support/faulty_heap.h"

#define BLOCK 64

static const struct replay_holder anna = {"acme", "anna"};
static const struct replay_holder bert = {"acme", "bert"};
static const struct replay_holder other_anna = {"ac", "meanna"};
static const struct replay_holder request = {"acme", ""};

static struct replay *replay;

static void set_up(void)
{
    faulty_heap_install();
    ck_assert_int_eq(replay_open(&replay), KV_OK);
    replay_begin(replay, BLOCK);
}

static void tear_down(void)
{
    replay_close(replay);
    ck_assert_int_eq(faulty_heap_live(), 0);
}

static struct replay_extent blocks(uint64_t first, uint64_t n)
{
    return (struct replay_extent){first * BLOCK, n * BLOCK};
}

/* Each says in one call what a receipt says. */
static enum kv_status give(
    const struct replay_holder *to, uint64_t first, uint64_t n)
{
    const struct replay_extent extent = blocks(first, n);

    return replay_allocate(replay, to, &extent, NULL);
}

static enum kv_status share(
    const struct replay_holder *with, uint64_t first, uint64_t n)
{
    const struct replay_extent extent = blocks(first, n);

    return replay_share(replay, with, &extent, NULL);
}

static enum kv_status take(
    const struct replay_holder *from, uint64_t first, uint64_t n)
{
    const struct replay_extent extent = blocks(first, n);

    return replay_free(replay, from, &extent, NULL);
}

static enum kv_status drop(
    const struct replay_holder *from, uint64_t first, uint64_t n)
{
    const struct replay_extent extent = blocks(first, n);

    return replay_drop(replay, from, &extent, NULL);
}

START_TEST(a_block_is_used_until_its_last_holder_gives_it_up)
{
    ck_assert_int_eq(give(&anna, 0, 4), KV_OK);
    ck_assert_int_eq(share(&bert, 1, 2), KV_OK);
    ck_assert_uint_eq(replay_used_blocks(replay), 4);
    ck_assert_uint_eq(replay_held_blocks(replay, &bert), 2);
    ck_assert(replay_holds(replay, &bert, BLOCK));
    ck_assert(!replay_holds(replay, &bert, 0));

    ck_assert_int_eq(take(&anna, 0, 1), KV_OK);
    ck_assert_int_eq(take(&anna, 3, 1), KV_OK);
    ck_assert_int_eq(drop(&anna, 1, 2), KV_OK);
    ck_assert_uint_eq(replay_held_blocks(replay, &anna), 0);
    ck_assert_uint_eq(replay_used_blocks(replay), 2);
    ck_assert_int_eq(take(&bert, 1, 2), KV_OK);
    ck_assert_uint_eq(replay_used_blocks(replay), 0);
}
END_TEST

START_TEST(names_differ_by_tenant_and_by_where_it_ends)
{
    ck_assert_int_eq(give(&anna, 0, 1), KV_OK);
    ck_assert_int_eq(give(&other_anna, 1, 1), KV_OK);
    ck_assert_int_eq(give(&request, 2, 1), KV_OK);
    ck_assert_int_eq(take(&other_anna, 0, 1), KV_INVALID);
    ck_assert_uint_eq(replay_held_blocks(replay, &anna), 1);
    ck_assert_uint_eq(replay_held_blocks(replay, &other_anna), 1);
    ck_assert_uint_eq(replay_held_blocks(replay, &request), 1);
}
END_TEST

START_TEST(what_somebody_holds_is_given_to_nobody_else)
{
    ck_assert_int_eq(give(&anna, 0, 4), KV_OK);
    ck_assert_int_eq(give(&bert, 3, 1), KV_INVALID);
}
END_TEST

START_TEST(what_is_held_already_or_by_nobody_is_not_shared)
{
    ck_assert_int_eq(give(&anna, 0, 4), KV_OK);
    ck_assert_int_eq(share(&anna, 0, 1), KV_INVALID);
    ck_assert_int_eq(share(&bert, 4, 1), KV_INVALID);
}
END_TEST

START_TEST(requests_without_a_session_hold_a_block_as_often_as_they_are)
{
    ck_assert_int_eq(give(&request, 0, 2), KV_OK);
    ck_assert_int_eq(share(&request, 0, 1), KV_OK);
    ck_assert_int_eq(take(&request, 0, 1), KV_INVALID);
    ck_assert_uint_eq(replay_used_blocks(replay), 2);
    ck_assert_int_eq(share(&request, 1, 1), KV_OK);
    ck_assert_int_eq(drop(&request, 1, 1), KV_OK);
    ck_assert_int_eq(drop(&request, 1, 1), KV_INVALID);
}
END_TEST

START_TEST(only_the_last_holder_frees_and_only_another_lets_live_on)
{
    ck_assert_int_eq(give(&anna, 0, 4), KV_OK);
    ck_assert_int_eq(take(&bert, 0, 1), KV_INVALID);
    ck_assert_int_eq(take(&anna, 4, 1), KV_INVALID);
    ck_assert_int_eq(drop(&anna, 0, 1), KV_INVALID);
    ck_assert_int_eq(share(&bert, 1, 1), KV_OK);
    ck_assert_int_eq(take(&anna, 1, 1), KV_INVALID);
}
END_TEST

START_TEST(an_evicted_session_leaves_behind_what_others_hold_and_no_more)
{
    ck_assert_int_eq(give(&anna, 0, 4), KV_OK);
    ck_assert_int_eq(share(&bert, 0, 2), KV_OK);
    ck_assert_int_eq(take(&anna, 2, 1), KV_OK);
    ck_assert_int_eq(replay_drop_all(replay, &anna, 2, NULL), KV_INVALID);
    ck_assert_int_eq(take(&anna, 3, 1), KV_OK);
    ck_assert_int_eq(replay_drop_all(replay, &anna, 1, NULL), KV_INVALID);
    ck_assert_int_eq(replay_drop_all(replay, &anna, 2, NULL), KV_OK);
    ck_assert_uint_eq(replay_held_blocks(replay, &anna), 0);
    ck_assert_uint_eq(replay_used_blocks(replay), 2);
    ck_assert_int_eq(replay_drop_all(replay, &anna, 0, NULL), KV_OK);
    ck_assert_int_eq(replay_drop_all(replay, &anna, 1, NULL), KV_INVALID);
}
END_TEST

static enum kv_status tell(
    const struct replay_holder *holder, uint64_t block, uint8_t first)
{
    const uint8_t key[REPLAY_KEY_BYTES] = {first};

    return replay_tell_key(replay, holder, block * BLOCK, key, NULL);
}

static enum kv_status go_on(const struct replay_holder *holder, uint8_t first)
{
    const uint8_t key[REPLAY_KEY_BYTES] = {first};

    return replay_check_parent(replay, holder, key, NULL);
}

START_TEST(all_who_hold_a_block_tell_one_key)
{
    give(&anna, 0, 2);
    ck_assert_int_eq(tell(&anna, 0, 1), KV_OK);
    ck_assert_int_eq(tell(&anna, 0, 2), KV_OK); /* filled anew */
    share(&bert, 0, 1);
    ck_assert_int_eq(tell(&bert, 0, 3), KV_OK); /* and anew before that */
    ck_assert_int_eq(tell(&anna, 0, 2), KV_INVALID);
    ck_assert_int_eq(tell(&anna, 0, 3), KV_OK);
    ck_assert_int_eq(tell(&bert, 1, 1), KV_INVALID); /* it is not his */
    ck_assert_int_eq(tell(&bert, 2, 1), KV_INVALID); /* nor anybody's */
    drop(&anna, 0, 1);
    ck_assert_int_eq(tell(&bert, 0, 4), KV_OK);
    take(&bert, 0, 1);
    give(&anna, 0, 1);
    ck_assert_int_eq(tell(&anna, 0, 5), KV_OK);
}
END_TEST

START_TEST(who_goes_on_goes_on_behind_a_block_of_its_own)
{
    give(&anna, 0, 2);
    give(&bert, 2, 1);
    tell(&anna, 0, 1);
    tell(&anna, 1, 2);
    ck_assert_int_eq(go_on(&anna, 1), KV_OK);
    ck_assert_int_eq(go_on(&anna, 2), KV_OK);
    ck_assert_int_eq(go_on(&anna, 3), KV_INVALID);
    ck_assert_int_eq(go_on(&bert, 1), KV_INVALID);
    take(&anna, 1, 1);
    ck_assert_int_eq(go_on(&anna, 2), KV_INVALID);
    replay_clear(replay); /* from here on the beginning is not known */
    ck_assert_int_eq(go_on(&anna, 7), KV_OK);
    ck_assert_int_eq(tell(&anna, 0, 7), KV_OK);
}
END_TEST

START_TEST(used_is_what_is_held)
{
    ck_assert_int_eq(replay_check_used(replay, 0, NULL), KV_OK);
    ck_assert_int_eq(give(&anna, 0, 4), KV_OK);
    ck_assert_int_eq(replay_check_used(replay, 4 * BLOCK, NULL), KV_OK);
    ck_assert_int_eq(replay_check_used(replay, 5 * BLOCK, NULL), KV_INVALID);
    ck_assert_int_eq(replay_check_used(replay, 3 * BLOCK, NULL), KV_INVALID);
}
END_TEST

START_TEST(from_the_middle_what_is_known_must_hold_and_the_rest_may)
{
    replay_close(replay);
    ck_assert_int_eq(replay_open(&replay), KV_OK);
    ck_assert_int_eq(give(&anna, 0, 1), KV_OK); /* of unknown size: ignored */
    replay_set_block_bytes(replay, BLOCK);
    replay_set_block_bytes(replay, 2 * BLOCK);
    ck_assert_int_eq(take(&anna, 7, 2), KV_OK);
    ck_assert_int_eq(give(&anna, 1, 1), KV_OK);
    ck_assert_int_eq(share(&bert, 5, 1), KV_OK);
    ck_assert_uint_eq(replay_used_blocks(replay), 2);
    ck_assert_int_eq(replay_check_used(replay, 9 * BLOCK, NULL), KV_OK);
    ck_assert_int_eq(replay_check_used(replay, BLOCK, NULL), KV_INVALID);
    ck_assert_int_eq(drop(&bert, 5, 1), KV_OK);
    ck_assert_int_eq(replay_drop_all(replay, &bert, 3, NULL), KV_OK);
    ck_assert_int_eq(take(&bert, 1, 1), KV_INVALID);
}
END_TEST

START_TEST(what_is_no_run_of_blocks_is_refused)
{
    const struct replay_extent torn = {1, BLOCK}, cut = {0, BLOCK + 1};

    ck_assert_int_eq(replay_allocate(replay, &anna, &torn, NULL), KV_INVALID);
    ck_assert_int_eq(replay_allocate(replay, &anna, &cut, NULL), KV_INVALID);
    ck_assert_int_eq(give(&anna, 0, REPLAY_MAX_BLOCKS + 1), KV_INVALID);
    ck_assert_uint_eq(replay_used_blocks(replay), 0);
}
END_TEST

START_TEST(names_that_could_harm_a_terminal_are_not_repeated)
{
    static const char *const names[] = {"\033[2J", "\xC2\x9B[2J", "\xFF"};

    ck_assert_int_eq(give(&anna, 0, 1), KV_OK);
    for (size_t i = 0; i < 3; i++) {
        const struct replay_holder bad = {"acme", names[i]};
        const struct replay_extent extent = blocks(0, 1);
        struct kv_error error;

        ck_assert_int_eq(
            replay_free(replay, &bad, &extent, &error), KV_INVALID);
        ck_assert_ptr_null(strstr(error.text, names[i]));
        ck_assert_ptr_nonnull(strstr(error.text, "\"anna\" of \"acme\""));
    }
}
END_TEST

START_TEST(many_blocks_and_holders_are_found_again)
{
    for (uint64_t i = 0; i < 20000; i++) {
        char id[16];
        const struct replay_holder holder = {"", id};

        snprintf(id, sizeof id, "%d", (int)(i % 5000));
        ck_assert_int_eq(give(&holder, i, 1), KV_OK);
    }
    ck_assert_uint_eq(replay_used_blocks(replay), 20000);
    for (uint64_t i = 0; i < 20000; i++) {
        char id[16];
        const struct replay_holder holder = {"", id};

        snprintf(id, sizeof id, "%d", (int)(i % 5000));
        ck_assert_int_eq(take(&holder, i, 1), KV_OK);
    }
    ck_assert_uint_eq(replay_used_blocks(replay), 0);
}
END_TEST

START_TEST(each_failing_allocation_is_said)
{
    enum kv_status status = KV_NO_MEMORY;

    for (int nth = 0; status != KV_OK; nth++) {
        ck_assert_int_lt(nth, 4);
        faulty_heap_fail_at(nth);
        status = give(&anna, 0, 1);
        faulty_heap_fail_at(-1);
        ck_assert_int_eq(status, nth < 2 ? KV_NO_MEMORY : KV_OK);
    }
}
END_TEST

/* ---- recall */

static struct recall_eviction eviction(uint64_t sequence, const char *id)
{
    return (struct recall_eviction){.sequence = sequence,
        .mono_ns = (int64_t)sequence * 10,
        .reason = 2,
        .tenant = "acme",
        .session_id = id};
}

START_TEST(an_eviction_is_recalled_once_by_its_session_until_too_many_follow)
{
    struct recall *recall;
    struct recall_eviction asked;

    ck_assert_int_eq(recall_open(&recall), KV_OK);
    for (uint64_t i = 1; i <= RECALL_EVICTIONS + 10; i++) {
        const struct recall_eviction told = eviction(2 * i, "anna");

        recall_add(recall, &told);
    }
    asked = eviction(20, "anna");
    ck_assert_int_eq(recall_take(recall, &asked), KV_NOT_FOUND);
    asked = eviction(22, "bert");
    ck_assert_int_eq(recall_take(recall, &asked), KV_INVALID);
    asked = eviction(23, "anna");
    ck_assert_int_eq(recall_take(recall, &asked), KV_INVALID);
    asked = eviction(22, "anna");
    asked.mono_ns = asked.reason = 0;
    ck_assert_int_eq(recall_take(recall, &asked), KV_OK);
    ck_assert_int_eq(asked.mono_ns, 220);
    ck_assert_uint_eq(asked.reason, 2);
    ck_assert_int_eq(recall_take(recall, &asked), KV_BUSY);
    recall_clear(recall);
    asked = eviction(24, "anna");
    ck_assert_int_eq(recall_take(recall, &asked), KV_INVALID);
    recall_close(recall);
}
END_TEST

int main(void)
{
    const TTest *tests[] = {
        a_block_is_used_until_its_last_holder_gives_it_up,
        names_differ_by_tenant_and_by_where_it_ends,
        what_somebody_holds_is_given_to_nobody_else,
        what_is_held_already_or_by_nobody_is_not_shared,
        requests_without_a_session_hold_a_block_as_often_as_they_are,
        only_the_last_holder_frees_and_only_another_lets_live_on,
        an_evicted_session_leaves_behind_what_others_hold_and_no_more,
        all_who_hold_a_block_tell_one_key,
        who_goes_on_goes_on_behind_a_block_of_its_own,
        used_is_what_is_held,
        from_the_middle_what_is_known_must_hold_and_the_rest_may,
        what_is_no_run_of_blocks_is_refused,
        names_that_could_harm_a_terminal_are_not_repeated,
        many_blocks_and_holders_are_found_again,
        each_failing_allocation_is_said,
        an_eviction_is_recalled_once_by_its_session_until_too_many_follow,
    };

    return CHECK_RUN("replay", set_up, tear_down, tests);
}
