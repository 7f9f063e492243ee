/* What an evicted session had in the arena is found nowhere in it. */
#include <string.h>

#include "base/clock.h"
#include "server/scrubber.h"
#include "tests/support/check_main.h"

#define BLOCK_TOKENS 4
#define N_BLOCKS 128
#define SESSION_BLOCKS 16
#define FEW_BYTES ((uint64_t)4096) /* in a block; few sessions at once */
#define MANY_BYTES ((uint64_t)131072)

static const char names[] = "abcdefgh";
#define N_SESSIONS (sizeof names - 1)

static struct rpc_loop *loop;
static struct pool *pool;
static struct scrubber *scrubber;
static uint64_t block_bytes, last_scrub_id;

static void on_scrubbed(void *ctx)
{
    (void)ctx;
    if (pool_blocks(pool).scrubbing == 0)
        rpc_loop_stop(loop);
}

static void on_zero(void *ctx, uint64_t scrub_id)
{
    (void)ctx;
    ck_assert_uint_eq(scrub_id, last_scrub_id + 1);
    last_scrub_id = scrub_id;
}

static const struct pool_observer observer = {.scrubbed = on_zero};

static void open_with(uint64_t n_bytes)
{
    const struct pool_config config = {
        .block_bytes = n_bytes,
        .n_blocks = N_BLOCKS,
        .block_tokens = BLOCK_TOKENS,
        .max_sessions = 16,
        .max_kept_tokens = 1024,
        .observer = &observer,
    };
    struct kv_error error;

    block_bytes = n_bytes;
    last_scrub_id = 0;
    ck_assert_int_eq(rpc_loop_open(&loop, &error), KV_OK);
    ck_assert_int_eq(
        pool_open(&pool, &config, kv_clock_mono_ns(), &error), KV_OK);
    ck_assert_int_eq(
        scrubber_open(&scrubber, loop, pool, on_scrubbed, NULL, &error), KV_OK);
}

static void close_all(void)
{
    scrubber_stop(scrubber);
    scrubber_close(scrubber);
    pool_close(pool);
    rpc_loop_close(loop);
}

static struct pool_session *find(char name)
{
    const struct pool_key key = {.id = &name, .id_bytes = 1};

    return pool_session_find(pool, &key);
}

/* A session whose blocks are full of its name; the last is not of tokens. */
static void cache(char name, uint32_t n_wanted)
{
    const struct pool_key key = {.id = &name, .id_bytes = 1};
    uint32_t tokens[SESSION_BLOCKS * BLOCK_TOKENS];
    uint32_t n_tokens = n_wanted * BLOCK_TOKENS - 1;
    struct pool_session *session;
    const pool_block_id *blocks;
    size_t n_blocks;
    bool created;

    for (uint32_t i = 0; i < n_tokens; i++)
        tokens[i] = (uint32_t)name * 1000 + i;
    ck_assert_int_eq(pool_session_get(pool, &key, NULL, kv_clock_mono_ns(),
                         &session, &created),
        KV_OK);
    ck_assert_int_eq(pool_session_begin(pool, session), KV_OK);
    ck_assert_int_eq(
        pool_session_append(pool, session, tokens, n_tokens), KV_OK);
    ck_assert_int_eq(
        pool_session_reserve(pool, session, n_tokens, NULL, kv_clock_mono_ns()),
        KV_OK);
    blocks = pool_session_blocks(session, &n_blocks);
    ck_assert_uint_eq(n_blocks, n_wanted);
    for (size_t i = 0; i < n_blocks; i++)
        memset(pool_arena(pool) + blocks[i] * block_bytes, name, block_bytes);
    pool_session_commit(pool, session, n_tokens);
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

    for (size_t i = 0; i < N_BLOCKS * block_bytes; i++)
        n += arena[i] == (unsigned char)name;
    return n;
}

static void expect_evicted_gone(void)
{
    for (size_t i = 0; i < N_SESSIONS; i++)
        ck_assert_uint_eq(count_in_arena(names[i]),
            i % 2 == 0 ? 0 : SESSION_BLOCKS * block_bytes);
    ck_assert_uint_eq(pool_blocks(pool).scrubbing, 0);
    ck_assert_uint_eq(pool_blocks(pool).free, N_BLOCKS - 4 * SESSION_BLOCKS);
}

/* Every other one. */
static void cache_and_evict(void)
{
    struct pool_batch_scope scope;
    const struct pool_cause cause = {
        .reason = POOL_REASON_MANUAL, .requested_by = "anonymous"};

    for (size_t i = 0; i < N_SESSIONS; i++)
        cache(names[i], SESSION_BLOCKS);
    scope = pool_batch_begin(pool, kv_clock_mono_ns());
    for (size_t i = 0; i < N_SESSIONS; i += 2)
        evict(names[i]);
    pool_batch_end(pool, &scope, &cause, kv_clock_mono_ns());
    ck_assert_uint_eq(count_in_arena('a'), SESSION_BLOCKS * block_bytes);
}

START_TEST(bytes_of_evicted_sessions_are_found_nowhere_and_others_are_untouched)
{
    open_with(MANY_BYTES);
    cache_and_evict();
    ck_assert(!scrubber_pump(scrubber));
    rpc_loop_run(loop);
    expect_evicted_gone();
    close_all();
}
END_TEST

START_TEST(little_is_zero_when_the_pump_returns)
{
    open_with(FEW_BYTES);
    cache_and_evict();
    ck_assert(scrubber_pump(scrubber));
    expect_evicted_gone();
    ck_assert(!scrubber_pump(scrubber));
    close_all();
}
END_TEST

/* Three that fit together, one that does not, and one that would again. */
START_TEST(nothing_overtakes_what_the_thread_has)
{
    const uint32_t n_blocks[] = {2, 2, 2, SESSION_BLOCKS, 1};

    open_with(MANY_BYTES);
    for (size_t i = 0; i < 5; i++)
        cache(names[i], n_blocks[i]);
    for (size_t i = 0; i < 5; i++)
        evict(names[i]);
    ck_assert(scrubber_pump(scrubber));
    ck_assert_uint_eq(last_scrub_id, 3);
    rpc_loop_run(loop);
    ck_assert_uint_eq(last_scrub_id, 5);
    for (size_t i = 0; i < 5; i++)
        ck_assert_uint_eq(count_in_arena(names[i]), 0);
    close_all();
}
END_TEST

START_TEST(a_stop_zeroes_what_was_not_handed_out_yet)
{
    open_with(MANY_BYTES);
    cache_and_evict();
    scrubber_stop(scrubber);
    expect_evicted_gone();
    scrubber_close(scrubber);
    pool_close(pool);
    rpc_loop_close(loop);
}
END_TEST

int main(void)
{
    const TTest *tests[] = {
        bytes_of_evicted_sessions_are_found_nowhere_and_others_are_untouched,
        little_is_zero_when_the_pump_returns,
        nothing_overtakes_what_the_thread_has,
        a_stop_zeroes_what_was_not_handed_out_yet,
    };

    return CHECK_RUN("scrubber", NULL, NULL, tests);
}
