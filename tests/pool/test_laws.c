/* Random operation sequences: whatever is done, in whatever order, the laws
 * hold, and the reports alone tell the same story as the pool.
 *
 * KVPOOL_SEED repeats one sequence; a failure prints the seed that it needs. */
#include <inttypes.h>
#include <stdio.h>
#include <string.h>
#include <time.h>

#include "tests/pool/fixture.h"
#include "tests/pool/quota_watch.h"
#include "tests/support/check_main.h"

#define N_NAMES 24
#define N_ANONYMOUS 4
#define N_STEPS 30000
#define CHECK_EVERY 96

static const char *const policies[] = {
    "lru", "lru_tail", "priority", "s3fifo", "cost"};

#define N_POLICIES (sizeof policies / sizeof *policies)

struct walk {
    uint64_t random;
    struct pool_session *anonymous[N_ANONYMOUS]; /* or NULL */
    struct pool_scrub out[POOL_SCRUBS_OUT];
    size_t n_out;
    uint64_t n_full, n_busy, n_reserved, n_preempted, n_expired, n_adopted,
        n_held, n_over, n_beginnings, n_swept;
};

static uint32_t draw(struct walk *walk, uint32_t n)
{
    walk->random ^= walk->random << 13;
    walk->random ^= walk->random >> 7;
    walk->random ^= walk->random << 17;
    return (uint32_t)((walk->random * UINT64_C(2685821657736338717)) >> 33) % n;
}

/* Half of the names are of one tenant. */
static const char *tenant_of(uint32_t number)
{
    static const char *const tenants[] = {"t", "t", "t", "u", "", "v"};

    return tenants[number % (sizeof tenants / sizeof *tenants)];
}

static struct pool_key draw_key(struct walk *walk)
{
    static char id[8];
    uint32_t number = draw(walk, N_NAMES);
    const char *tenant = tenant_of(number);

    snprintf(id, sizeof id, "s%" PRIu32, number);
    return (struct pool_key){
        .tenant = tenant,
        .tenant_bytes = strlen(tenant),
        .id = id,
        .id_bytes = strlen(id),
    };
}

/* Perhaps there is none of that name. */
static struct pool_session *draw_session(struct walk *walk)
{
    const struct pool_key key = draw_key(walk);

    return pool_session_find(fixture.pool, &key);
}

static bool is_active(const struct pool_session *session)
{
    enum pool_session_state state =
        pool_session_info(fixture.pool, session).state;

    return state == POOL_SESSION_RUNNING || state == POOL_SESSION_PREEMPTED;
}

static struct pool_session *draw_active(struct walk *walk)
{
    struct pool_session *session = walk->anonymous[draw(walk, N_ANONYMOUS)];

    if (session == NULL || draw(walk, 2) == 0)
        session = draw_session(walk);
    return session != NULL && is_active(session) ? session : NULL;
}

static void step_begin(struct walk *walk)
{
    const struct pool_key key = draw_key(walk);
    struct pool_session *session;
    bool created;

    quota_watch.n_asked = 0;
    if (pool_session_get(fixture.pool, &key, NULL, fixture.now_ns, &session,
            &created) != KV_OK)
        return;
    if (draw(walk, 4) == 0)
        pool_session_set_idle_ttl(
            fixture.pool, session, draw(walk, 3) * KV_NS_PER_S, fixture.now_ns);
    if (draw(walk, 8) > 0)
        pool_session_begin(fixture.pool, session);
}

static void step_retain(struct walk *walk)
{
    static const char *const readers[] = {"x", "y", "z"};
    struct pool_session *session = draw_session(walk);
    int64_t duration_ns = draw(walk, 4) * KV_NS_PER_S / 2;

    if (session == NULL)
        return;
    switch (draw(walk, 5)) {
    case 0:
        pool_session_set_priority(
            fixture.pool, session, draw(walk, POOL_MAX_PRIORITY + 1));
        break;
    case 1:
        pool_session_set_absolute_ttl(
            fixture.pool, session, 8 * duration_ns, fixture.now_ns);
        break;
    case 2:
        pool_session_pin(fixture.pool, session, duration_ns, fixture.now_ns);
        break;
    default:
        ck_assert_int_eq(
            pool_session_lease(fixture.pool, session, readers[draw(walk, 3)],
                duration_ns, fixture.now_ns),
            KV_OK);
    }
    walk->n_held +=
        pool_session_info(fixture.pool, session).state == POOL_SESSION_HELD;
}

static void step_begin_anonymous(struct walk *walk)
{
    struct pool_session **slot = &walk->anonymous[draw(walk, N_ANONYMOUS)];
    const char *tenant = tenant_of(draw(walk, N_NAMES));

    quota_watch.n_asked = 0;
    if (*slot == NULL &&
        pool_session_anonymous(fixture.pool, tenant, strlen(tenant), NULL,
            fixture.now_ns, slot) == KV_OK)
        pool_session_begin(fixture.pool, *slot);
}

/* Blocks that the session lacks for n tokens more. */
static uint32_t blocks_missing(const struct pool_session *session, uint32_t n)
{
    const struct pool_session_info info = pool_session_glance(session);
    uint32_t block_tokens = pool_config(fixture.pool)->block_tokens;
    uint64_t n_needed = (info.n_tokens + n + block_tokens - 1) / block_tokens;

    return n_needed > info.n_blocks ? (uint32_t)(n_needed - info.n_blocks) : 0;
}

/* What the quotas leave is what can be had. */
static void check_obtained(
    enum kv_status status, uint64_t n_obtainable, uint64_t n_reclaimable)
{
    const uint32_t n = quota_watch.n_asked;

    if (status == KV_OVER_QUOTA)
        ck_assert_uint_gt(n, n_obtainable);
    if (status == KV_POOL_FULL)
        ck_assert_uint_gt(n, n_reclaimable);
    if (status == KV_OK || status == KV_BUSY)
        ck_assert_uint_le(n, n_obtainable);
}

static void step_extend(struct walk *walk)
{
    struct pool_session *session = draw_active(walk);
    const uint64_t evictions = pool_stats(fixture.pool).evictions;
    const uint64_t reclaimable = pool_reclaimable_blocks(fixture.pool);
    const uint32_t n = draw(walk, 40);
    struct pool_session_info info;
    uint64_t obtainable;
    enum kv_status status;

    if (session == NULL)
        return;
    obtainable = pool_obtainable_blocks(fixture.pool, session);
    quota_watch.n_asked = blocks_missing(session, n);
    status = fixture_extend(session, n);
    check_obtained(status, obtainable, reclaimable);
    walk->n_full += status == KV_POOL_FULL;
    walk->n_over += status == KV_OVER_QUOTA;
    walk->n_busy += status == KV_BUSY;
    walk->n_reserved += status == KV_OK;
    if ((status == KV_POOL_FULL || status == KV_OVER_QUOTA) &&
        pool_stats(fixture.pool).evictions != evictions)
        ck_abort_msg("an eviction that nobody needed");
    if (status == KV_OK && quota_watch.n_asked > 0)
        quota_watch_check_hard(session);
    info = pool_session_info(fixture.pool, session);
    /* A conversation that cannot go on is cut back to what it has. */
    if (status == KV_POOL_FULL || status == KV_OVER_QUOTA)
        ck_assert_int_eq(pool_session_truncate(fixture.pool, session,
                             info.n_cached_tokens, fixture.now_ns),
            KV_OK);
}

static void step_adopt(struct walk *walk)
{
    struct pool_session *session = draw_active(walk);
    struct pool_session_info before, info;

    if (session == NULL)
        return;
    before = pool_session_info(fixture.pool, session);
    if (before.n_tokens > 0 && before.n_cached_tokens < before.n_tokens)
        ck_assert_uint_ge(
            pool_session_adopt(fixture.pool, session, fixture.now_ns),
            before.n_cached_tokens);
    else
        pool_session_adopt(fixture.pool, session, fixture.now_ns);
    info = pool_session_info(fixture.pool, session);
    walk->n_adopted += info.n_cached_tokens > before.n_cached_tokens;
    /* What is computed next is written to no block of somebody else's. */
    ck_assert_uint_le(
        info.n_shared_blocks, (info.n_tokens > 0 ? info.n_tokens - 1 : 0) /
                                  pool_config(fixture.pool)->block_tokens);
}

static void step_truncate(struct walk *walk)
{
    struct pool_session *session = draw_active(walk);
    size_t n;

    if (session == NULL)
        return;
    pool_session_tokens(session, &n);
    ck_assert_int_eq(pool_session_truncate(fixture.pool, session,
                         draw(walk, (uint32_t)n + 1), fixture.now_ns),
        KV_OK);
}

static void step_end(struct walk *walk)
{
    struct pool_session *session = draw_active(walk);

    if (session == NULL)
        return;
    pool_session_end(fixture.pool, session, fixture.now_ns);
    walk->n_beginnings += pool_totals(fixture.pool).beginnings;
    for (int i = 0; i < N_ANONYMOUS; i++)
        if (walk->anonymous[i] == session)
            walk->anonymous[i] = NULL;
}

/* Anybody who holds blocks, with a name or without. */
static struct pool_session *draw_holder(struct walk *walk)
{
    struct pool_session *session = NULL;
    struct pool_key place;

    for (uint32_t n = draw(walk, 2 * N_NAMES); n > 0; n--) {
        session =
            pool_holder_after(fixture.pool, session != NULL ? &place : NULL);
        if (session == NULL)
            break;
        place = pool_session_place(session);
        ck_assert_ptr_eq(pool_session_find(fixture.pool, &place), session);
    }
    return session;
}

static void step_evict(struct walk *walk)
{
    const struct pool_cause cause = {.reason = POOL_REASON_MANUAL};
    struct pool_batch_scope scope =
        pool_batch_begin(fixture.pool, fixture.now_ns);
    uint32_t n = draw(walk, 4);

    while (n-- > 0) {
        struct pool_session *session = draw_holder(walk);

        if (session != NULL)
            walk->n_preempted += pool_evict_session(fixture.pool, session,
                &cause, draw(walk, 2) == 0, fixture.now_ns)
                                     .preempted;
    }
    pool_batch_end(fixture.pool, &scope, &cause, fixture.now_ns);
}

static void step_forget(struct walk *walk)
{
    struct pool_session *session = draw_session(walk);

    if (session != NULL && !is_active(session))
        pool_session_forget(fixture.pool, session, fixture.now_ns);
}

static void step_time(struct walk *walk)
{
    fixture.now_ns += draw(walk, 200) * KV_NS_PER_MS;
    walk->n_expired += pool_expire(fixture.pool, fixture.now_ns, draw(walk, 4));
}

/* Down to the low watermark, or to what is pinned: whatever the slices. */
static void step_sweep(struct walk *walk)
{
    const struct pool_config *config = pool_config(fixture.pool);
    struct pool_blocks before = pool_blocks(fixture.pool), after;

    while (pool_wants_sweep(fixture.pool)) {
        pool_sweep(fixture.pool, 1 + draw(walk, 8), fixture.now_ns);
        walk->n_swept++;
        after = pool_blocks(fixture.pool);
        ck_assert_uint_eq(after.pinned, before.pinned);
        if (draw(walk, 4) == 0)
            return;
        ck_assert(pool_wants_sweep(fixture.pool) ||
                  after.pinned + after.cached <= config->low_blocks ||
                  after.cached == 0);
    }
}

static struct pool_quota draw_quota(struct walk *walk)
{
    const uint32_t n_blocks = pool_config(fixture.pool)->n_blocks;

    return (struct pool_quota){
        .soft_blocks = draw(walk, 3) * n_blocks / 4,
        .hard_blocks = draw(walk, 3) * n_blocks / 2,
    };
}

static void step_quotas(struct walk *walk)
{
    struct pool_tenant_quota own = {.tenant = tenant_of(draw(walk, N_NAMES))};
    struct pool_quotas quotas = {.list = &own, .n = draw(walk, 2)};

    if (draw(walk, 50) > 0)
        return;
    own.tenant_bytes = strlen(own.tenant);
    own.quota = draw_quota(walk);
    if (draw(walk, 2) > 0)
        quotas.standard = draw_quota(walk);
    ck_assert_int_eq(pool_set_quotas(fixture.pool, &quotas), KV_OK);
}

static void step_take_scrub(struct walk *walk)
{
    if (pool_scrub_next(fixture.pool, &walk->out[walk->n_out]))
        walk->n_out++;
}

static void step_scrub_done(struct walk *walk)
{
    uint32_t i;

    if (walk->n_out == 0)
        return;
    i = draw(walk, (uint32_t)walk->n_out);
    pool_scrub_done(fixture.pool, walk->out[i].scrub_id, fixture.now_ns);
    walk->out[i] = walk->out[--walk->n_out];
}

static void step(struct walk *walk)
{
    static void (*const steps[])(struct walk *) = {step_begin, step_begin,
        step_begin, step_begin_anonymous, step_extend, step_extend, step_extend,
        step_extend, step_extend, step_adopt, step_adopt, step_truncate,
        step_quotas, step_retain, step_end, step_end, step_end, step_evict,
        step_forget, step_time, step_sweep, step_take_scrub, step_take_scrub,
        step_take_scrub, step_scrub_done, step_scrub_done, step_scrub_done};

    steps[draw(walk, sizeof steps / sizeof *steps)](walk);
}

static void finish(struct walk *walk)
{
    while (walk->n_out > 0)
        step_scrub_done(walk);
    fixture_tear_down();
}

static uint64_t choose_seed(void)
{
    const char *given = getenv("KVPOOL_SEED");
    uint64_t seed = given != NULL ? strtoull(given, NULL, 10)
                                  : (uint64_t)time(NULL) * 2654435761u;

    printf("KVPOOL_SEED=%" PRIu64 "\n", seed);
    fflush(stdout);
    return seed | 1;
}

static struct pool_config draw_config(struct walk *walk)
{
    struct pool_config config = fixture_config();

    config.n_blocks = 1 + draw(walk, 96);
    config.block_tokens = 1 + draw(walk, 8);
    config.max_sessions = 1 + draw(walk, N_NAMES + N_ANONYMOUS);
    config.max_kept_tokens = draw(walk, 300);
    config.share_prefixes = draw(walk, 4) > 0;
    config.max_beginnings = draw(walk, 4) * draw(walk, 4);
    config.high_blocks = draw(walk, config.n_blocks);
    config.low_blocks = draw(walk, config.high_blocks + 1);
    config.eviction_policy = policies[draw(walk, N_POLICIES)];
    config.kept_ttl_ns = draw(walk, 2) * KV_NS_PER_S;
    config.default_idle_ttl_ns = draw(walk, 2) * 2 * KV_NS_PER_S;
    return config;
}

START_TEST(every_law_holds_after_any_sequence_of_operations)
{
    struct walk walk = {.random = choose_seed()};

    for (int round = 0; round < 8; round++) {
        struct pool_config config = draw_config(&walk);

        fixture_open(&config);
        quota_watch_begin();
        for (int i = 0; i < N_STEPS; i++) {
            step(&walk);
            if (i % CHECK_EVERY == 0)
                fixture_check();
        }
        memset(walk.anonymous, 0, sizeof walk.anonymous);
        finish(&walk);
    }
    printf("reserved %" PRIu64 ", full %" PRIu64 ", busy %" PRIu64
           ", preempted %" PRIu64 ", expired %" PRIu64 ", adopted %" PRIu64
           "\n",
        walk.n_reserved, walk.n_full, walk.n_busy, walk.n_preempted,
        walk.n_expired, walk.n_adopted);
    /* The walk has been everywhere. */
    ck_assert_uint_gt(walk.n_reserved, 1000);
    ck_assert_uint_gt(walk.n_full, 0);
    ck_assert_uint_gt(walk.n_busy, 0);
    ck_assert_uint_gt(walk.n_preempted, 0);
    ck_assert_uint_gt(walk.n_expired, 0);
    ck_assert_uint_gt(walk.n_adopted, 0);
    ck_assert_uint_gt(walk.n_held, 0);
    ck_assert_uint_gt(walk.n_beginnings, 0);
    ck_assert_uint_gt(walk.n_swept, 0);
    ck_assert_uint_gt(walk.n_over, 0);
    ck_assert_uint_gt(quota_watch.n_own, 0);
    ck_assert_uint_gt(quota_watch.n_others, 0);
    ck_assert_uint_gt(quota_watch.n_free, 0);
}
END_TEST

/* Every report of a walk, boiled down to one number. */
static uint64_t digest;

static void mix(uint64_t value)
{
    digest = (digest ^ value) * UINT64_C(1099511628211);
}

static void digest_evicted(void *ctx, const struct pool_eviction *eviction)
{
    (void)ctx;
    for (size_t i = 0; i < eviction->key.id_bytes; i++)
        mix((uint64_t)eviction->key.id[i]);
    for (size_t i = 0; i < eviction->n_extents; i++)
        mix(eviction->extents[i].offset ^ eviction->extents[i].size << 32);
    mix(eviction->tokens_kept);
    mix((uint64_t)eviction->idle_ns);
    mix(eviction->before.session_tokens);
    mix(eviction->scrub_id);
}

static uint64_t walk_digest(uint64_t seed)
{
    static const struct pool_observer observer = {.evicted = digest_evicted};
    struct walk walk = {.random = seed};
    struct pool_config config = fixture_config();

    digest = 1;
    config.default_idle_ttl_ns = KV_NS_PER_S;
    config.observer = &observer;
    fixture.now_ns = KV_NS_PER_S;
    ck_assert_int_eq(
        pool_open(&fixture.pool, &config, fixture.now_ns, NULL), KV_OK);
    for (int i = 0; i < 20000; i++)
        step(&walk);
    ck_assert_uint_gt(pool_stats(fixture.pool).evictions, 100);
    while (walk.n_out > 0)
        step_scrub_done(&walk);
    pool_close(fixture.pool);
    return digest;
}

START_TEST(the_same_calls_give_the_same_victims_and_the_same_reports)
{
    uint64_t first = walk_digest(12345);

    ck_assert_uint_eq(walk_digest(12345), first);
    ck_assert_uint_ne(walk_digest(54321), first);
}
END_TEST

int main(void)
{
    const TTest *tests[] = {every_law_holds_after_any_sequence_of_operations,
        the_same_calls_give_the_same_victims_and_the_same_reports};

    return CHECK_RUN("pool_laws", NULL, NULL, tests);
}
