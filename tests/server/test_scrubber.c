/* What an evicted session had in the arena is found nowhere in it. */
#include <string.h>

#include "base/clock.h"
#include "server/scrubber.h"
#include "tests/support/check_main.h"

#define BLOCK_BYTES ((uint64_t)4096)
#define BLOCK_TOKENS 4
#define N_BLOCKS 256
#define SESSION_TOKENS 63 /* 16 blocks, the last not full */

static const char names[] = "abcdefgh";
#define N_SESSIONS (sizeof names - 1)

static struct rpc_loop *loop;
static struct pool *pool;
static struct scrubber *scrubber;

static void on_scrubbed(void *ctx)
{
    (void)ctx;
    if (pool_blocks(pool).scrubbing == 0)
        rpc_loop_stop(loop);
}

static void set_up(void)
{
    const struct pool_config config = {
        .block_bytes = BLOCK_BYTES,
        .n_blocks = N_BLOCKS,
        .block_tokens = BLOCK_TOKENS,
        .max_sessions = 16,
        .max_kept_tokens = 1024,
    };
    struct kv_error error;

    ck_assert_int_eq(rpc_loop_open(&loop, &error), KV_OK);
    ck_assert_int_eq(
        pool_open(&pool, &config, kv_clock_mono_ns(), &error), KV_OK);
    ck_assert_int_eq(
        scrubber_open(&scrubber, loop, pool, on_scrubbed, NULL, &error), KV_OK);
}

static void tear_down(void)
{
    scrubber_close(scrubber);
    pool_close(pool);
    rpc_loop_close(loop);
}

static struct pool_session *find(char name)
{
    const struct pool_key key = {.id = &name, .id_bytes = 1};

    return pool_session_find(pool, &key);
}

/* A session whose blocks are full of its name. */
static void cache(char name)
{
    const struct pool_key key = {.id = &name, .id_bytes = 1};
    uint32_t tokens[SESSION_TOKENS];
    struct pool_session *session;
    const pool_block_id *blocks;
    size_t n_blocks;
    bool created;

    for (uint32_t i = 0; i < SESSION_TOKENS; i++)
        tokens[i] = (uint32_t)name * 1000 + i;
    ck_assert_int_eq(pool_session_get(pool, &key, NULL, kv_clock_mono_ns(),
                         &session, &created),
        KV_OK);
    ck_assert_int_eq(pool_session_begin(pool, session), KV_OK);
    ck_assert_int_eq(
        pool_session_append(pool, session, tokens, SESSION_TOKENS), KV_OK);
    ck_assert_int_eq(pool_session_reserve(pool, session, SESSION_TOKENS, NULL,
                         kv_clock_mono_ns()),
        KV_OK);
    blocks = pool_session_blocks(session, &n_blocks);
    ck_assert_uint_eq(n_blocks, 16);
    for (size_t i = 0; i < n_blocks; i++)
        memset(pool_arena(pool) + blocks[i] * BLOCK_BYTES, name, BLOCK_BYTES);
    pool_session_commit(pool, session, SESSION_TOKENS);
    pool_session_end(pool, session, kv_clock_mono_ns());
}

static void evict(char name)
{
    const struct pool_cause cause = {
        .reason = POOL_REASON_MANUAL, .requested_by = "anonymous"};

    ck_assert_int_eq(
        pool_evict_session(pool, find(name), &cause, false, kv_clock_mono_ns())
            .result,
        POOL_EVICTED);
}

static size_t count_in_arena(char name)
{
    const unsigned char *arena = pool_arena(pool);
    size_t n = 0;

    for (size_t i = 0; i < N_BLOCKS * BLOCK_BYTES; i++)
        n += arena[i] == (unsigned char)name;
    return n;
}

static void expect_evicted_gone(void)
{
    for (size_t i = 0; i < N_SESSIONS; i++)
        ck_assert_uint_eq(
            count_in_arena(names[i]), i % 2 == 0 ? 0 : 16 * BLOCK_BYTES);
    ck_assert_uint_eq(pool_blocks(pool).scrubbing, 0);
    ck_assert_uint_eq(pool_blocks(pool).free, N_BLOCKS - 4 * 16);
}

/* Every other one. */
static void cache_and_evict(void)
{
    struct pool_batch_scope scope;
    const struct pool_cause cause = {
        .reason = POOL_REASON_MANUAL, .requested_by = "anonymous"};

    for (size_t i = 0; i < N_SESSIONS; i++)
        cache(names[i]);
    scope = pool_batch_begin(pool, kv_clock_mono_ns());
    for (size_t i = 0; i < N_SESSIONS; i += 2)
        evict(names[i]);
    pool_batch_end(pool, &scope, &cause, kv_clock_mono_ns());
    ck_assert_uint_eq(count_in_arena('a'), 16 * BLOCK_BYTES);
}

START_TEST(bytes_of_evicted_sessions_are_found_nowhere_and_others_are_untouched)
{
    cache_and_evict();
    scrubber_pump(scrubber);
    rpc_loop_run(loop);
    expect_evicted_gone();
    scrubber_stop(scrubber);
}
END_TEST

START_TEST(a_stop_zeroes_what_was_not_handed_out_yet)
{
    cache_and_evict();
    scrubber_stop(scrubber);
    expect_evicted_gone();
}
END_TEST

int main(void)
{
    const TTest *tests[] = {
        bytes_of_evicted_sessions_are_found_nowhere_and_others_are_untouched,
        a_stop_zeroes_what_was_not_handed_out_yet,
    };

    return CHECK_RUN("scrubber", set_up, tear_down, tests);
}
