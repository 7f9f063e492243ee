/* libFuzzer: what strangers want to have evicted. Whatever the bytes are, the
 * request is refused with the field that is wrong, or the walk over a pool ends
 * and gives nobody who holds nothing. */
#include <stdint.h>
#include <stdio.h>
#include <string.h>

#include "pool/pool.h"
#include "server/evict_check.h"
#include "server/evict_walk.h"
#include "server/message.h"

#define N_SESSIONS 24
#define MAX_STEPS 200000

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t n);

static void must(bool holds)
{
    if (!holds)
        __builtin_trap();
}

static void use(struct pool *pool, int i)
{
    static const char *const tenants[] = {"", "a", "b"};
    const uint32_t tokens[] = {1, 2, (uint32_t)i % 4, 4, (uint32_t)i};
    char id[8];
    struct pool_key key = {.tenant = tenants[i % 3],
        .tenant_bytes = i % 3 == 0 ? 0 : 1,
        .id = id,
        .id_bytes = (size_t)snprintf(id, sizeof id, "s%d", i)};
    struct pool_session *session;
    bool created;

    must(pool_session_get(pool, &key, NULL, i + 1, &session, &created) ==
             KV_OK &&
         pool_session_begin(pool, session) == KV_OK &&
         pool_session_append(pool, session, tokens, 5) == KV_OK &&
         pool_session_reserve(pool, session, 5, NULL, i + 1) == KV_OK);
    pool_session_commit(pool, session, 5);
    if (i % 7 != 6) /* the others go on running */
        pool_session_end(pool, session, i + 1);
}

static struct pool *make_pool(void)
{
    const struct pool_config config = {
        .block_bytes = 64,
        .n_blocks = 4 * N_SESSIONS,
        .block_tokens = 4,
        .max_sessions = 2 * N_SESSIONS,
        .max_kept_tokens = 1000,
        .share_prefixes = true,
    };
    struct pool *pool;

    must(pool_open(&pool, &config, 1, NULL) == KV_OK);
    for (int i = 0; i < N_SESSIONS; i++)
        use(pool, i);
    return pool;
}

/* Every second one that it gives is evicted. */
static void walk(struct pool *pool, const Kvpool__V1__EvictRequest *request)
{
    struct pool_cause cause = {
        .reason = POOL_REASON_MANUAL, .forget = request->forget};
    struct evict_walk at;
    struct pool_session *session;
    size_t target = 0, n_steps = 0;
    enum evict_walk_step step;

    evict_walk_init(&at, pool, request, NULL, 1000);
    while ((step = evict_walk_next(&at, &target, &session)) != EVICT_WALK_END) {
        must(n_steps++ < MAX_STEPS && target < request->n_targets);
        if (step != EVICT_WALK_SESSION)
            continue;
        must(pool_session_glance(session).n_blocks > 0 || request->forget ||
             request->targets[target]->target_case ==
                 KVPOOL__V1__EVICT_TARGET__TARGET_SESSION);
        if (n_steps % 2 == 0)
            evict_walk_decided(&at, target,
                pool_evict_session(
                    pool, session, &cause, request->preempt, 1000)
                    .bytes_freed);
    }
    must(pool_check(pool, NULL));
}

static void close_pool(struct pool *pool)
{
    struct pool_scrub job;

    while (pool_scrub_next(pool, &job))
        pool_scrub_done(pool, job.scrub_id, 1000);
    pool_close(pool);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t n)
{
    struct evict_limits limits;
    struct rpc_error error;
    Kvpool__V1__EvictRequest *request =
        (Kvpool__V1__EvictRequest *)message_parse(
            &kvpool__v1__evict_request__descriptor, data, n, &error);

    if (request != NULL)
        evict_check(&error, request, &limits);
    if (request != NULL && error.n_violations == 0) {
        struct pool *pool = make_pool();

        must(limits.max_sessions >= 1 && limits.page_size >= 1);
        walk(pool, request);
        close_pool(pool);
    }
    kvpool__v1__evict_request__free_unpacked(request, NULL);
    return 0;
}
