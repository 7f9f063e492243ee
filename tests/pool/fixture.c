#include "tests/pool/fixture.h"
#include "tests/support/check_main.h"

#include <string.h>

struct fixture fixture;

struct pool_config fixture_config(void)
{
    return (struct pool_config){
        .block_bytes = FIXTURE_BLOCK_BYTES,
        .n_blocks = FIXTURE_BLOCKS,
        .block_tokens = FIXTURE_BLOCK_TOKENS,
        .max_sessions = 8,
        .max_kept_tokens = 64,
        .secret = {1, 2},
    };
}

void fixture_open(const struct pool_config *config)
{
    struct pool_config audited = *config;
    struct kv_error error;

    auditor_init(&fixture.auditor, config->block_bytes, config->n_blocks);
    fixture.auditor.policy =
        config->eviction_policy != NULL ? config->eviction_policy : "lru";
    audited.observer = &fixture.auditor.observer;
    fixture.now_ns = KV_NS_PER_S;
    ck_assert_msg(
        pool_open(&fixture.pool, &audited, fixture.now_ns, &error) == KV_OK,
        "%s", error.text);
}

void fixture_set_up(void)
{
    const struct pool_config config = fixture_config();

    fixture_open(&config);
}

void fixture_check(void)
{
    const struct pool_stats stats = pool_stats(fixture.pool);
    struct kv_error error;

    ck_assert_msg(pool_check(fixture.pool, &error), "%s", error.text);
    auditor_settle(&fixture.auditor, &stats);
}

void fixture_tear_down(void)
{
    fixture_check();
    pool_close(fixture.pool);
    auditor_fini(&fixture.auditor);
}

struct pool_key fixture_key(const char *id)
{
    return (struct pool_key){
        .tenant = "t", .tenant_bytes = 1, .id = id, .id_bytes = strlen(id)};
}

struct pool_session *fixture_get(const char *id)
{
    const struct pool_key key = fixture_key(id);
    struct pool_session *session = NULL;
    bool created;

    ck_assert_int_eq(pool_session_get(fixture.pool, &key, NULL, fixture.now_ns,
                         &session, &created),
        KV_OK);
    return session;
}

struct pool_session *fixture_find(const char *id)
{
    const struct pool_key key = fixture_key(id);

    return pool_session_find(fixture.pool, &key);
}

enum kv_status fixture_extend(struct pool_session *session, size_t n_tokens)
{
    uint32_t tokens[256];
    enum kv_status status;
    size_t n_all;

    ck_assert_uint_le(n_tokens, 256);
    for (uint32_t i = 0; i < n_tokens; i++)
        tokens[i] = i;
    status = pool_session_append(fixture.pool, session, tokens, n_tokens);
    if (status != KV_OK)
        return status;
    pool_session_tokens(session, &n_all);
    status = pool_session_reserve(
        fixture.pool, session, n_all, NULL, fixture.now_ns);
    if (status == KV_OK)
        pool_session_commit(fixture.pool, session, n_all);
    return status;
}

struct pool_session *fixture_run(const char *id, size_t n_tokens)
{
    struct pool_session *session = fixture_get(id);

    ck_assert_int_eq(pool_session_begin(fixture.pool, session), KV_OK);
    ck_assert_int_eq(fixture_extend(session, n_tokens), KV_OK);
    return session;
}

void fixture_cache(const char *id, size_t n_tokens)
{
    pool_session_end(fixture.pool, fixture_run(id, n_tokens), fixture.now_ns);
}

struct pool_outcome fixture_evict(const char *id, bool preempt)
{
    const struct pool_cause cause = {
        .reason = POOL_REASON_MANUAL, .requested_by = "anonymous"};
    struct pool_batch_scope scope =
        pool_batch_begin(fixture.pool, fixture.now_ns);
    struct pool_session *session = fixture_find(id);
    struct pool_outcome outcome = {.result = POOL_NOT_FOUND};

    if (session != NULL)
        outcome = pool_evict_session(
            fixture.pool, session, &cause, preempt, fixture.now_ns);
    pool_batch_end(fixture.pool, &scope, &cause, fixture.now_ns);
    return outcome;
}

int fixture_scrub(void)
{
    struct pool_scrub job;
    int n = 0;

    while (pool_scrub_next(fixture.pool, &job)) {
        for (size_t i = 0; i < job.n_extents; i++)
            memset(pool_arena(fixture.pool) + job.extents[i].offset, 0,
                job.extents[i].size);
        pool_scrub_done(fixture.pool, job.scrub_id, fixture.now_ns);
        n++;
    }
    return n;
}
