#include <stdint.h>
#include <string.h>

#include "tests/pool/fixture.h"
#include "tests/support/check_main.h"
#include "tests/support/faulty_heap.h"

static void expect_refusal(
    const struct pool_config *config, enum kv_status status, const char *words)
{
    struct pool *untouched = (struct pool *)(void *)&fixture;
    struct pool *pool = untouched;
    struct kv_error error;

    ck_assert_int_eq(pool_open(&pool, config, 0, &error), status);
    ck_assert_int_eq(error.status, status);
    ck_assert_msg(
        strstr(error.text, words) != NULL, "'%s' in: %s", words, error.text);
    ck_assert_ptr_eq(pool, untouched);
    ck_assert_int_eq(pool_open(&pool, config, 0, NULL), status);
}

START_TEST(open_refuses_a_pool_without_blocks)
{
    struct pool_config config = fixture_config();

    config.n_blocks = 0;
    expect_refusal(&config, KV_INVALID, "0 blocks");
    config.n_blocks = UINT32_MAX;
    expect_refusal(&config, KV_INVALID, "4294967295 blocks");
}
END_TEST

START_TEST(open_refuses_blocks_that_are_not_whole_cache_lines)
{
    struct pool_config config = fixture_config();

    config.block_bytes = 0;
    expect_refusal(&config, KV_INVALID, "0 bytes: a multiple of 64");
    config.block_bytes = 65;
    expect_refusal(&config, KV_INVALID, "65 bytes: a multiple of 64");
}
END_TEST

START_TEST(open_refuses_a_product_that_overflows)
{
    struct pool_config config = fixture_config();

    config.block_bytes = SIZE_MAX / 64 * 64;
    expect_refusal(&config, KV_INVALID, "larger than the address space");
    config.block_bytes = (SIZE_MAX / 2 / FIXTURE_BLOCKS + 64) / 64 * 64;
    expect_refusal(&config, KV_INVALID, "16 blocks of");
}
END_TEST

START_TEST(open_names_the_sizes_of_an_arena_that_cannot_be_mapped)
{
    struct pool_config config = fixture_config();

    config.block_bytes = (size_t)1 << 58;
    expect_refusal(&config, KV_NO_MEMORY, "4611686018427387904 bytes (16 ");
}
END_TEST

START_TEST(open_refuses_what_has_no_meaning)
{
    struct pool_config config = fixture_config();

    config.block_tokens = 0;
    expect_refusal(&config, KV_INVALID, "0 tokens");
    config.block_tokens = 16384;
    expect_refusal(&config, KV_INVALID, "16384 tokens: at most 16383");
    config = fixture_config();
    config.max_sessions = 0;
    expect_refusal(&config, KV_INVALID, "0 sessions");
    config.max_sessions = 33554432;
    expect_refusal(&config, KV_INVALID, "33554432 sessions: at most 33554431");
    config = fixture_config();
    config.kept_ttl_ns = -1;
    expect_refusal(&config, KV_INVALID, "-1 ns");
    config = fixture_config();
    config.default_idle_ttl_ns = -5;
    expect_refusal(&config, KV_INVALID, "-5 ns");
}
END_TEST

START_TEST(open_survives_every_failed_allocation)
{
    struct pool_config config = fixture_config();
    int n_failed = 0;

    config.share_prefixes = true;
    config.eviction_policy = "cost"; /* takes memory of its own */
    faulty_heap_install();
    for (;;) {
        struct pool *pool = NULL;
        struct kv_error error;
        enum kv_status status;

        faulty_heap_fail_at(n_failed);
        status = pool_open(&pool, &config, 0, &error);
        faulty_heap_fail_at(-1);
        if (status == KV_OK) {
            pool_close(pool);
            break;
        }
        ck_assert_int_eq(status, KV_NO_MEMORY);
        ck_assert_ptr_nonnull(strstr(error.text, "no memory"));
        ck_assert_ptr_null(pool);
        ck_assert_int_eq(faulty_heap_live(), 0);
        n_failed++;
    }
    ck_assert_int_ge(n_failed, 10);
    ck_assert_int_eq(faulty_heap_live(), 0);
}
END_TEST

START_TEST(close_of_nothing_does_nothing)
{
    pool_close(NULL);
}
END_TEST

START_TEST(close_frees_sessions_in_every_state)
{
    faulty_heap_install();
    fixture_set_up();
    fixture_run("running", 5);
    fixture_cache("cached", 5);
    fixture_cache("evicted", 5);
    ck_assert_int_eq(fixture_evict("evicted", false).result, POOL_EVICTED);
    fixture_tear_down();
    ck_assert_int_eq(faulty_heap_live(), 0);
}
END_TEST

START_TEST(a_new_pool_is_free_zero_and_in_one_run)
{
    struct pool_stats stats;
    struct pool_blocks blocks;

    fixture_set_up();
    stats = pool_stats(fixture.pool);
    blocks = pool_blocks(fixture.pool);
    ck_assert_uint_eq(blocks.free, FIXTURE_BLOCKS);
    ck_assert_uint_eq(blocks.total, FIXTURE_BLOCKS);
    ck_assert_uint_eq(stats.free_runs, 1);
    ck_assert(pool_stats_efficiency(&stats) == 1);
    ck_assert(pool_stats_fragmentation(&stats) == 0);
    ck_assert(pool_stats_utilization(&stats) == 0);
    ck_assert(pool_stats_hit_rate(&stats) == 0);
    ck_assert(pool_stats_average_session_length(&stats) == 0);
    ck_assert(pool_unfilled(fixture.pool) == 0);
    ck_assert_int_eq(pool_next_deadline(fixture.pool), INT64_MAX);
    for (size_t i = 0; i < FIXTURE_BLOCKS * FIXTURE_BLOCK_BYTES; i++)
        ck_assert_uint_eq(pool_arena(fixture.pool)[i], 0);
    fixture_tear_down();
}
END_TEST

START_TEST(a_large_pool_opens_at_once_and_knows_little_of_each_block)
{
    struct pool_config config = fixture_config();

    config.n_blocks = 10 * 1000 * 1000;
    config.max_sessions = 1000 * 1000;
    config.block_tokens = 16;
    fixture_open(&config);
    ck_assert_uint_le(
        pool_totals(fixture.pool).metadata_bytes / config.n_blocks, 20);
    fixture_run("a", 100);
    pool_close(fixture.pool);
    auditor_fini(&fixture.auditor);
}
END_TEST

int main(void)
{
    const TTest *tests[] = {open_refuses_a_pool_without_blocks,
        open_refuses_blocks_that_are_not_whole_cache_lines,
        open_refuses_a_product_that_overflows,
        open_names_the_sizes_of_an_arena_that_cannot_be_mapped,
        open_refuses_what_has_no_meaning, open_survives_every_failed_allocation,
        close_of_nothing_does_nothing, close_frees_sessions_in_every_state,
        a_new_pool_is_free_zero_and_in_one_run,
        a_large_pool_opens_at_once_and_knows_little_of_each_block};

    return CHECK_RUN("pool_open", NULL, NULL, tests);
}
