/* What an Evict call answers: laws over random pools and random requests. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/clock.h"
#include "server/evict_decision.h"
#include "tests/support/check_main.h"
#include "tests/support/faulty_heap.h"

#define N_SEEDS 400
#define N_NAMES 12 /* sessions with one, at most */
#define N_NAMELESS 4
#define MAX_TOLD 64
#define MAX_TARGETS 4
#define BLOCK_TOKENS 4
#define BLOCK_BYTES 64

/* Between two uses: calls go by the clock, and may take their time. */
#define STEP_NS (60 * KV_NS_PER_S)
#define N_STEPS 100 /* from the first use until the call, about */

static const char *const policies[] = {
    "lru", "lru_tail", "priority", "s3fifo", "cost"};
#define N_POLICIES (sizeof policies / sizeof *policies)

static const char *const tenants[] = {"", "b", "a-tenant-of-many-letters"};
#define N_TENANTS (sizeof tenants / sizeof *tenants)

static uint64_t dice;

static unsigned roll(unsigned n)
{
    dice = dice * UINT64_C(6364136223846793005) + UINT64_C(1442695040888963407);
    return (unsigned)(dice >> 33) % n;
}

/* ---- what the pool tells */

struct told {
    char tenant[POOL_NAME_BYTES + 1], id[POOL_NAME_BYTES + 1];
    uint64_t blocks_freed, shared_blocks_kept, tokens_kept;
    bool preempted;
};

static struct told told[MAX_TOLD];
static size_t n_told;

static void on_evicted(void *ctx, const struct pool_eviction *eviction)
{
    const struct pool_key *key = &eviction->key;
    struct told *next = &told[n_told++];

    (void)ctx;
    ck_assert_uint_le(n_told, MAX_TOLD);
    ck_assert_uint_eq(eviction->n_parts, 1);
    snprintf(next->tenant, sizeof next->tenant, "%.*s", (int)key->tenant_bytes,
        key->tenant);
    snprintf(next->id, sizeof next->id, "%.*s", (int)key->id_bytes, key->id);
    next->blocks_freed = eviction->blocks_freed;
    next->shared_blocks_kept = eviction->shared_blocks_kept;
    next->tokens_kept = eviction->tokens_kept;
    next->preempted = eviction->preempted;
}

/* ---- a pool */

static struct server server;
static struct pool *pool;
static int64_t now;
static const struct pool_observer observer = {.evicted = on_evicted};

static void open_pool(const char *policy, bool shares)
{
    const struct pool_config config = {
        .block_bytes = BLOCK_BYTES,
        .n_blocks = 1024,
        .block_tokens = BLOCK_TOKENS,
        .max_sessions = 100,
        .max_kept_tokens = 100000,
        .eviction_policy = policy,
        .share_prefixes = shares,
        .max_beginnings = N_NAMELESS,
        .high_blocks = 1,
        .secret = {1, 2},
        .observer = &observer,
    };
    struct kv_error error;

    now = kv_clock_mono_ns() - N_STEPS * STEP_NS;
    n_told = 0;
    ck_assert_int_eq(pool_open(&pool, &config, now, &error), KV_OK);
    server = (struct server){.pool = pool};
}

static void close_pool(void)
{
    struct kv_error error;
    struct pool_scrub job;

    while (pool_scrub_next(pool, &job))
        pool_scrub_done(pool, job.scrub_id, now);
    ck_assert_msg(pool_check(pool, &error), "%s", error.text);
    pool_close(pool);
}

/* Letters, so that neighbours in the order of names differ in length. */
static void name_of(unsigned n, char out[32])
{
    unsigned length = 1 + n * 7 % 11;

    for (unsigned i = 0; i < length; i++)
        out[i] = (char)('a' + (n * 5 + i) % 26);
    snprintf(out + length, 32 - length, "%u", n);
}

/* Runs on tokens that begin like those of others. */
static void run(struct pool_session *session)
{
    uint32_t tokens[8 * BLOCK_TOKENS];
    size_t n_tokens = 1 + roll(8 * BLOCK_TOKENS), n_common = roll(3);

    for (size_t i = 0; i < n_tokens; i++)
        tokens[i] = i < n_common * 2 * BLOCK_TOKENS ? 1 : 2 + roll(100000);
    ck_assert_int_eq(
        pool_session_append(pool, session, tokens, n_tokens), KV_OK);
    pool_session_tokens(session, &n_tokens);
    pool_session_adopt(pool, session, now);
    ck_assert_int_eq(
        pool_session_reserve(pool, session, n_tokens, NULL, now), KV_OK);
    pool_session_commit(pool, session, n_tokens);
}

static void retain(struct pool_session *session)
{
    pool_session_set_priority(pool, session, 40 + 10 * roll(3));
    if (roll(6) == 0)
        pool_session_pin(pool, session, 10 * N_STEPS * STEP_NS, now);
}

/* A session that has run, runs yet, or was evicted. */
static void use_named(unsigned n)
{
    const char *tenant = tenants[n % N_TENANTS];
    char id[32];
    const struct pool_key key = {
        .tenant = tenant, .tenant_bytes = strlen(tenant), .id = id};
    struct pool_key named = key;
    struct pool_session *session;
    const struct pool_cause cause = {.reason = POOL_REASON_MANUAL};
    bool created;

    name_of(n, id);
    named.id_bytes = strlen(id);
    ck_assert_int_eq(
        pool_session_get(pool, &named, NULL, now, &session, &created), KV_OK);
    if (pool_session_begin(pool, session) != KV_OK)
        return;
    run(session);
    if (roll(8) == 0)
        return;
    pool_session_end(pool, session, now);
    retain(session);
    if (roll(8) == 0)
        pool_evict_session(pool, session, &cause, false, now);
}

static void use_nameless(void)
{
    const char *tenant = tenants[roll(N_TENANTS)];
    struct pool_session *session;

    ck_assert_int_eq(pool_session_anonymous(
                         pool, tenant, strlen(tenant), NULL, now, &session),
        KV_OK);
    ck_assert_int_eq(pool_session_begin(pool, session), KV_OK);
    run(session);
    pool_session_end(pool, session, now);
}

static void fill(void)
{
    for (unsigned i = 0; i < 2 * N_NAMES; i++) {
        now += STEP_NS;
        use_named(roll(N_NAMES));
    }
    for (unsigned i = 0; i < roll(N_NAMELESS); i++) {
        now += STEP_NS;
        use_nameless();
    }
    n_told = 0;
}

/* ---- a request */

static Kvpool__V1__EvictRequest request;
static Kvpool__V1__EvictTarget targets[MAX_TARGETS], *list[MAX_TARGETS];
static Kvpool__V1__SessionKey keys[MAX_TARGETS];
static Kvpool__V1__EvictPrefix prefixes[MAX_TARGETS];
static Kvpool__V1__EvictIdle idles[MAX_TARGETS];
static Kvpool__V1__EvictBytes bytes[MAX_TARGETS];
static Kvpool__V1__EvictAll all;
static char ids[MAX_TARGETS][32];
static char *some_tenants[MAX_TARGETS][2];
static uint32_t ones[] = {1, 1, 1, 1};

static char *any_tenant(void)
{
    return (char *)tenants[roll(N_TENANTS)];
}

static void draw_target(size_t at)
{
    Kvpool__V1__EvictTarget *target = list[at] = &targets[at];
    unsigned n = roll(N_NAMES + 1); /* the last there never is */

    kvpool__v1__evict_target__init(target);
    kvpool__v1__session_key__init(&keys[at]);
    kvpool__v1__evict_prefix__init(&prefixes[at]);
    kvpool__v1__evict_idle__init(&idles[at]);
    kvpool__v1__evict_bytes__init(&bytes[at]);
    kvpool__v1__evict_all__init(&all);
    name_of(n, ids[at]);
    keys[at].tenant = (char *)tenants[n % N_TENANTS];
    keys[at].session_id = ids[at];
    prefixes[at].tenant = any_tenant();
    prefixes[at].token_ids = ones;
    prefixes[at].n_token_ids = 1 + roll(4);
    idles[at].longer_than_ns = (N_STEPS - roll(30)) * STEP_NS - STEP_NS / 2;
    some_tenants[at][0] = any_tenant();
    some_tenants[at][1] = any_tenant();
    idles[at].tenants = bytes[at].tenants = some_tenants[at];
    idles[at].n_tenants = roll(3);
    bytes[at].n_tenants = roll(3);
    bytes[at].at_least_bytes = (1 + roll(20)) * BLOCK_BYTES;
    target->target_case = (Kvpool__V1__EvictTarget__TargetCase)(1 + roll(6));
    switch (target->target_case) {
    case KVPOOL__V1__EVICT_TARGET__TARGET_SESSION:
        target->session = &keys[at];
        break;
    case KVPOOL__V1__EVICT_TARGET__TARGET_TENANT:
        target->tenant = any_tenant();
        break;
    case KVPOOL__V1__EVICT_TARGET__TARGET_PREFIX:
        target->prefix = &prefixes[at];
        break;
    case KVPOOL__V1__EVICT_TARGET__TARGET_IDLE:
        target->idle = &idles[at];
        break;
    case KVPOOL__V1__EVICT_TARGET__TARGET_BYTES:
        target->bytes = &bytes[at];
        break;
    default:
        target->all = &all;
    }
}

static void draw_request(void)
{
    kvpool__v1__evict_request__init(&request);
    request.targets = list;
    request.n_targets = 1 + roll(MAX_TARGETS);
    for (size_t i = 0; i < request.n_targets; i++)
        draw_target(i);
    request.forget = roll(3) == 0;
    request.preempt = roll(3) == 0;
    request.max_sessions = roll(4) == 0 ? 1 + roll(4) : 0;
}

static bool asks_bytes(void)
{
    for (size_t i = 0; i < request.n_targets; i++)
        if (list[i]->target_case == KVPOOL__V1__EVICT_TARGET__TARGET_BYTES)
            return true;
    return false;
}

/* Decided to the end; the caller's to fini. */
static void decide(struct evict_decision *decision, bool dry_run)
{
    struct rpc_error error = {.n_violations = 0};

    memset(decision, 0, sizeof *decision);
    request.dry_run = dry_run;
    decision->server = &server;
    decision->request = &request;
    evict_check(&error, &request, &decision->limits);
    ck_assert_uint_eq(error.n_violations, 0);
    ck_assert(evict_decision_init(decision));
    while (!evict_decision_go_on(decision))
        continue;
    ck_assert(!decision->no_memory);
}

static void check_same_outcome(const Kvpool__V1__EvictOutcome *a,
    const Kvpool__V1__EvictOutcome *b, uint64_t seed)
{
    ck_assert_msg(a->target == b->target && a->result == b->result &&
                      a->bytes_freed == b->bytes_freed &&
                      a->blocks_freed == b->blocks_freed &&
                      a->shared_blocks_kept == b->shared_blocks_kept &&
                      a->tokens_kept == b->tokens_kept &&
                      a->preempted == b->preempted &&
                      (a->session == NULL) == (b->session == NULL),
        "seed %ju", (uintmax_t)seed);
    if (a->session == NULL)
        return;
    ck_assert_str_eq(a->session->tenant, b->session->tenant);
    ck_assert_str_eq(a->session->session_id, b->session->session_id);
}

static void check_same(const Kvpool__V1__EvictResponse *a,
    const Kvpool__V1__EvictResponse *b, uint64_t seed)
{
    ck_assert_msg(a->n_outcomes == b->n_outcomes &&
                      a->sessions_evicted == b->sessions_evicted &&
                      a->bytes_freed == b->bytes_freed && a->more == b->more &&
                      a->sessions_held == b->sessions_held &&
                      a->sessions_busy == b->sessions_busy &&
                      a->sessions_forgotten == b->sessions_forgotten,
        "seed %ju: %zu and %zu outcomes, %ju and %ju evicted", (uintmax_t)seed,
        a->n_outcomes, b->n_outcomes, (uintmax_t)a->sessions_evicted,
        (uintmax_t)b->sessions_evicted);
    for (size_t i = 0; i < a->n_outcomes; i++)
        check_same_outcome(a->outcomes[i], b->outcomes[i], seed);
}

static void begin_seed(uint64_t seed, bool shares)
{
    dice = seed * UINT64_C(0x9E3779B97F4A7C15);
    open_pool(policies[seed % N_POLICIES], shares);
    fill();
}

/* What s3fifo evicts changes whose turn it is, which a dry run cannot see. */
START_TEST(a_dry_run_says_what_the_call_does_and_does_nothing)
{
    for (uint64_t seed = 0; seed < N_SEEDS * N_POLICIES; seed++) {
        struct evict_decision dry, real;
        struct pool_stats before, after;

        begin_seed(seed, true);
        draw_request();
        before = pool_stats(pool);
        decide(&dry, true);
        after = pool_stats(pool);
        ck_assert_mem_eq(&before, &after, sizeof before);
        ck_assert_uint_eq(n_told, 0);
        decide(&real, false);
        if (strcmp(pool_policy_name(pool), "s3fifo") != 0 || !asks_bytes())
            check_same(&dry.response, &real.response, seed);
        evict_decision_fini(&dry);
        evict_decision_fini(&real);
        close_pool();
    }
}
END_TEST

static void check_told(
    const struct told *is, const Kvpool__V1__EvictOutcome *said)
{
    ck_assert_str_eq(said->session->tenant, is->tenant);
    ck_assert_str_eq(said->session->session_id, is->id);
    ck_assert_uint_eq(said->blocks_freed, is->blocks_freed);
    ck_assert_uint_eq(said->bytes_freed, is->blocks_freed * BLOCK_BYTES);
    ck_assert_uint_eq(said->shared_blocks_kept, is->shared_blocks_kept);
    ck_assert_uint_eq(said->tokens_kept, is->tokens_kept);
    ck_assert(said->preempted == is->preempted);
}

START_TEST(outcomes_are_the_evictions_that_were_told_by_name_and_in_order)
{
    for (uint64_t seed = 0; seed < N_SEEDS * N_POLICIES; seed++) {
        struct evict_decision decision;
        struct pool_stats before;
        size_t n = 0;

        begin_seed(seed, true);
        draw_request();
        before = pool_stats(pool);
        decide(&decision, false);
        for (size_t i = 0; i < decision.response.n_outcomes; i++) {
            const Kvpool__V1__EvictOutcome *said =
                decision.response.outcomes[i];

            if (said->result == KVPOOL__V1__EVICT_RESULT__EVICT_RESULT_EVICTED)
                check_told(&told[n++], said);
        }
        ck_assert_uint_eq(n, n_told);
        ck_assert_uint_eq(decision.response.sessions_evicted, n_told);
        ck_assert_uint_eq(decision.response.bytes_freed,
            before.used_bytes - pool_stats(pool).used_bytes);
        evict_decision_fini(&decision);
        close_pool();
    }
}
END_TEST

/* ---- bytes, in the order of the policy */

static void evict_bytes_of(char *tenant, uint64_t at_least_bytes)
{
    struct evict_decision decision;

    kvpool__v1__evict_request__init(&request);
    kvpool__v1__evict_target__init(&targets[0]);
    kvpool__v1__evict_bytes__init(&bytes[0]);
    list[0] = &targets[0];
    request.targets = list;
    request.n_targets = 1;
    targets[0].target_case = KVPOOL__V1__EVICT_TARGET__TARGET_BYTES;
    targets[0].bytes = &bytes[0];
    bytes[0].at_least_bytes = at_least_bytes;
    some_tenants[0][0] = tenant;
    bytes[0].tenants = some_tenants[0];
    bytes[0].n_tenants = tenant != NULL;
    decide(&decision, false);
    evict_decision_fini(&decision);
}

static struct told others[MAX_TOLD];

static void keep_told(void)
{
    memcpy(others, told, sizeof told);
    n_told = 0;
}

static bool same_name(const struct told *a, const struct told *b)
{
    return strcmp(a->tenant, b->tenant) == 0 && strcmp(a->id, b->id) == 0;
}

/* s3fifo moves sessions on when it is asked under pressure. */
START_TEST(bytes_take_first_whom_pressure_would)
{
    for (uint64_t seed = 0; seed < N_SEEDS * N_POLICIES; seed++) {
        if (strcmp(policies[seed % N_POLICIES], "s3fifo") == 0)
            continue;
        begin_seed(seed, false);
        evict_bytes_of(NULL, 1);
        ck_assert_uint_le(n_told, 1);
        close_pool();
        keep_told();
        begin_seed(seed, false);
        pool_sweep(pool, 1, now);
        if (n_told > 0)
            ck_assert_msg(same_name(&told[0], &others[0]), "seed %ju: %s, %s",
                (uintmax_t)seed, told[0].id, others[0].id);
        close_pool();
    }
}
END_TEST

START_TEST(bytes_of_a_tenant_go_in_the_order_in_which_all_would)
{
    for (uint64_t seed = 0; seed < N_SEEDS * N_POLICIES; seed++) {
        char *tenant = (char *)tenants[seed / N_POLICIES % N_TENANTS];
        size_t n_all, n = 0;

        begin_seed(seed, false);
        evict_bytes_of(NULL, UINT64_MAX);
        n_all = n_told;
        close_pool();
        keep_told();
        begin_seed(seed, false);
        evict_bytes_of(tenant, UINT64_MAX);
        for (size_t i = 0; i < n_all; i++) {
            if (strcmp(others[i].tenant, tenant) != 0)
                continue;
            ck_assert_msg(n < n_told && same_name(&told[n], &others[i]),
                "seed %ju", (uintmax_t)seed);
            n++;
        }
        ck_assert_uint_eq(n, n_told);
        close_pool();
    }
}
END_TEST

static size_t note_spared(struct told spared[MAX_TOLD])
{
    struct pool_session *session = NULL;
    size_t n = 0;

    while ((session = pool_victim_after(pool, session)) != NULL) {
        const struct pool_key key = pool_session_glance(session).key;

        if (!pool_spares(pool, session))
            continue;
        snprintf(spared[n].tenant, sizeof spared[n].tenant, "%.*s",
            (int)key.tenant_bytes, key.tenant);
        snprintf(spared[n].id, sizeof spared[n].id, "%.*s", (int)key.id_bytes,
            key.id);
        n++;
    }
    return n;
}

START_TEST(bytes_take_last_whom_s3fifo_spares_and_nobody_else_spares_any)
{
    size_t n_spared_in_all = 0;

    for (uint64_t seed = 0; seed < N_SEEDS * N_POLICIES; seed++) {
        size_t n_spared;

        begin_seed(seed, false);
        n_spared = note_spared(others);
        n_spared_in_all += n_spared;
        ck_assert(
            strcmp(pool_policy_name(pool), "s3fifo") == 0 || n_spared == 0);
        evict_bytes_of(NULL, UINT64_MAX);
        for (size_t i = 0; i < n_told; i++) {
            bool is_spared = false;

            for (size_t k = 0; k < n_spared; k++)
                is_spared = is_spared || same_name(&told[i], &others[k]);
            ck_assert_msg(is_spared == (i >= n_told - n_spared), "seed %ju",
                (uintmax_t)seed);
        }
        close_pool();
    }
    ck_assert_uint_gt(n_spared_in_all, 0);
}
END_TEST

START_TEST(a_dry_run_without_memory_says_so_and_changes_nothing)
{
    struct evict_decision decision;
    struct pool_stats before;

    faulty_heap_install();
    faulty_heap_fail_at(-1);
    begin_seed(0, true);
    before = pool_stats(pool);
    kvpool__v1__evict_request__init(&request);
    kvpool__v1__evict_target__init(&targets[0]);
    list[0] = &targets[0];
    request.targets = list;
    request.n_targets = 1;
    targets[0].target_case = KVPOOL__V1__EVICT_TARGET__TARGET_ALL;
    targets[0].all = &all;
    memset(&decision, 0, sizeof decision);
    request.dry_run = true;
    decision.server = &server;
    decision.request = &request;
    decision.limits.max_sessions = 100;
    ck_assert(evict_decision_init(&decision));
    faulty_heap_fail_at(0);
    ck_assert(evict_decision_go_on(&decision));
    ck_assert(decision.no_memory);
    faulty_heap_fail_at(-1);
    ck_assert_uint_eq(pool_stats(pool).used_bytes, before.used_bytes);
    evict_decision_fini(&decision);
    close_pool();
    ck_assert_int_eq(faulty_heap_live(), 0);
}
END_TEST

int main(void)
{
    const TTest *tests[] = {
        a_dry_run_says_what_the_call_does_and_does_nothing,
        outcomes_are_the_evictions_that_were_told_by_name_and_in_order,
        bytes_take_first_whom_pressure_would,
        bytes_of_a_tenant_go_in_the_order_in_which_all_would,
        bytes_take_last_whom_s3fifo_spares_and_nobody_else_spares_any,
        a_dry_run_without_memory_says_so_and_changes_nothing,
    };

    return CHECK_RUN("evict_decision", NULL, NULL, tests);
}
