/* libFuzzer: how strangers want sessions to be kept. Whatever the bytes are,
 * the request is refused with the field that is wrong, or what it sets is
 * within what the options allow, the pool's laws hold, and when all holds and
 * times are over nobody stays for it. */
#include <stdint.h>
#include <stdio.h>
#include <string.h>

#include "base/clock.h"
#include "pool/pool.h"
#include "server/check.h"
#include "server/message.h"
#include "server/retention.h"

#define N_SESSIONS 6
#define MAX_S 3600 /* of everything */
#define BEGIN_NS KV_NS_PER_S

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t n);

static void must(bool holds)
{
    if (!holds)
        __builtin_trap();
}

/* Sessions "0" and so on: two that run, two that are cached, two that have no
 * blocks. */
static void use(struct pool *pool, int i)
{
    const uint32_t tokens[] = {1, 2, 3, 4, (uint32_t)i};
    const char id[2] = {(char)('0' + i), '\0'};
    const struct pool_key key = check_pool_key("", id);
    struct pool_session *session;
    bool created;

    must(pool_session_get(pool, &key, NULL, BEGIN_NS, &session, &created) ==
         KV_OK);
    if (i % 3 == 2)
        return;
    must(pool_session_begin(pool, session) == KV_OK &&
         pool_session_append(pool, session, tokens, 5) == KV_OK &&
         pool_session_reserve(pool, session, 5, NULL, BEGIN_NS) == KV_OK);
    pool_session_commit(pool, session, 5);
    if (i % 3 == 1)
        pool_session_end(pool, session, BEGIN_NS);
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
        .eviction_policy = "priority",
    };
    struct pool *pool;

    must(pool_open(&pool, &config, BEGIN_NS, NULL) == KV_OK);
    for (int i = 0; i < N_SESSIONS; i++)
        use(pool, i);
    return pool;
}

static struct pool_session *find(
    struct pool *pool, const Kvpool__V1__SessionKey *key)
{
    const struct pool_key name = check_pool_key(key->tenant, key->session_id);

    return pool_session_find(pool, &name);
}

/* Nothing is kept for longer than is allowed. */
static void check_limits(
    const struct pool *pool, const struct pool_session *session, int64_t now_ns)
{
    const struct pool_session_info info = pool_session_info(pool, session);
    int64_t most_ns = MAX_S * KV_NS_PER_S;
    struct pool_lease lease;

    must(info.idle_ttl_ns >= 0 && info.idle_ttl_ns <= most_ns);
    must(info.absolute_ttl_ns >= 0 && info.absolute_ttl_ns <= most_ns);
    must(info.priority <= POOL_MAX_PRIORITY);
    must(info.pin_until_ns <= now_ns + most_ns);
    for (uint32_t i = 0; pool_session_lease_at(session, i, &lease); i++)
        must(i < POOL_MAX_LEASES && lease.until_ns <= now_ns + most_ns);
}

static void change_all(
    struct pool *pool, const Kvpool__V1__SetRetentionRequest *request)
{
    const struct options options = {.retention_max_ttl_s = MAX_S,
        .retention_max_pin_s = MAX_S,
        .retention_max_lease_s = MAX_S};
    int64_t now_ns = BEGIN_NS;

    for (size_t i = 0; i < request->n_changes; i++) {
        const Kvpool__V1__RetentionChange *change = request->changes[i];
        struct pool_session *session = find(pool, change->session);
        struct retention_message message;

        if (session == NULL ||
            retention_prepare(pool, session, change->settings, now_ns) != KV_OK)
            continue;
        retention_set(pool, session, change->settings, &options, now_ns);
        retention_fill(&message, pool, session, now_ns, now_ns);
        check_limits(pool, session, now_ns);
        now_ns += KV_NS_PER_MS;
    }
    must(pool_check(pool, NULL));
}

/* Everybody may be evicted once the last hold is over. */
static void outlast(struct pool *pool)
{
    int64_t late_ns = BEGIN_NS + 2 * MAX_S * KV_NS_PER_S;
    const struct pool_cause cause = {.reason = POOL_REASON_MANUAL};
    struct pool_session *session;
    struct pool_scrub job;

    for (int i = 0; i < N_SESSIONS; i += 3) {
        const char id[2] = {(char)('0' + i), '\0'};
        const struct pool_key key = check_pool_key("", id);

        pool_session_end(pool, pool_session_find(pool, &key), late_ns);
    }
    pool_expire(pool, late_ns, 1000);
    while ((session = pool_victim_after(pool, NULL)) != NULL)
        must(pool_evict_session(pool, session, &cause, false, late_ns).result ==
             POOL_EVICTED);
    must(pool_check(pool, NULL) && pool_stats(pool).used_bytes == 0);
    while (pool_scrub_next(pool, &job))
        pool_scrub_done(pool, job.scrub_id, late_ns);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t n)
{
    struct rpc_error error;
    Kvpool__V1__SetRetentionRequest *request =
        (Kvpool__V1__SetRetentionRequest *)message_parse(
            &kvpool__v1__set_retention_request__descriptor, data, n, &error);

    if (request != NULL)
        retention_check_request(&error, request);
    if (request != NULL && error.n_violations == 0) {
        struct pool *pool = make_pool();

        change_all(pool, request);
        outlast(pool);
        pool_close(pool);
    }
    kvpool__v1__set_retention_request__free_unpacked(request, NULL);
    return 0;
}
