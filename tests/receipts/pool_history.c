#include "tests/receipts/pool_history.h"

#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/clock.h"
#include "pool/pool.h"
#include "receipts/ledger.h"
#include "tests/support/check_main.h"

#define BLOCK_BYTES POOL_HISTORY_BLOCK_BYTES
#define N_BLOCKS POOL_HISTORY_BLOCKS
#define N_IDS POOL_HISTORY_IDS
#define MAX_JOBS 64

struct history {
    struct ledger *ledger;
    struct pool *pool;
    int64_t now_ns;
    uint64_t jobs[MAX_JOBS];
    size_t n_jobs;
    struct pool_session *running;  /* across steps, or NULL */
    struct pool_session *nameless; /* the same, of no session */
};

static int64_t wall_ns(void)
{
    return 1;
}

static void take_jobs(struct history *h)
{
    struct pool_scrub job;

    while (h->n_jobs < MAX_JOBS && pool_scrub_next(h->pool, &job)) {
        for (size_t i = 0; i < job.n_extents; i++)
            memset(pool_arena(h->pool) + job.extents[i].offset, 0,
                job.extents[i].size);
        h->jobs[h->n_jobs++] = job.scrub_id;
    }
}

static void end_job(struct history *h)
{
    size_t i = (size_t)rand() % h->n_jobs;
    uint64_t scrub_id = h->jobs[i];

    h->jobs[i] = h->jobs[--h->n_jobs];
    pool_scrub_done(h->pool, scrub_id, h->now_ns);
}

static void end_all_jobs(struct history *h)
{
    for (take_jobs(h); h->n_jobs > 0; take_jobs(h))
        end_job(h);
}

static struct pool_session *some_session(struct history *h, bool create)
{
    char id[16];
    int n = snprintf(id, sizeof id, "chat-%d", rand() % N_IDS);
    const struct pool_key key = {POOL_HISTORY_TENANT, 4, id, (size_t)n};
    struct pool_session *session = NULL;
    bool created;

    if (!create)
        return pool_session_find(h->pool, &key);
    ck_assert_int_eq(
        pool_session_get(h->pool, &key, NULL, h->now_ns, &session, &created),
        KV_OK);
    return session;
}

/* What was there before and is not now is computed again, perhaps in two steps
 * and perhaps not to the end. */
static void commit(
    struct history *h, struct pool_session *session, size_t n_tokens)
{
    for (int i = 1 + rand() % 2; i >= 0; i--) {
        size_t n_cached = pool_session_n_cached(session);
        size_t n_computed = pool_session_n_computed(session);
        size_t end = i == 0 && rand() % 8 > 0
                         ? n_tokens
                         : n_cached + (n_tokens - n_cached) / 2;
        size_t again = end < n_computed ? end : n_computed;

        if (again > n_cached)
            pool_session_count_recomputed(h->pool, session, again - n_cached,
                NULL, h->now_ns, h->now_ns + 5);
        h->now_ns += 5;
        pool_session_commit(h->pool, session, end);
    }
}

/* Grows a session that runs by a few tokens, if there is room at all. */
static void grow(struct history *h, struct pool_session *session)
{
    const uint32_t tokens[200] = {1};
    enum kv_status status;
    size_t n_tokens;

    ck_assert_int_eq(
        pool_session_append(h->pool, session, tokens, 1 + (size_t)rand() % 200),
        KV_OK);
    pool_session_adopt(h->pool, session, h->now_ns);
    pool_session_tokens(session, &n_tokens);
    status = pool_session_reserve(h->pool, session, n_tokens, NULL, h->now_ns);
    while (status == KV_BUSY) {
        end_all_jobs(h);
        status =
            pool_session_reserve(h->pool, session, n_tokens, NULL, h->now_ns);
    }
    if (status == KV_OK) {
        pool_session_count_prompt(h->pool, session, (uint64_t)rand() % 3, 2);
        commit(h, session, n_tokens);
    } else {
        ck_assert_int_eq(status, KV_POOL_FULL);
        pool_session_truncate(h->pool, session, 0, h->now_ns);
    }
}

static void take_back(struct history *h, struct pool_session *session)
{
    size_t n_tokens;

    pool_session_tokens(session, &n_tokens);
    if (n_tokens > 0)
        pool_session_truncate(
            h->pool, session, (size_t)rand() % n_tokens, h->now_ns);
}

static void serve_nameless(struct history *h)
{
    if (h->nameless != NULL) {
        pool_session_end(h->pool, h->nameless, h->now_ns);
        h->nameless = NULL;
        return;
    }
    ck_assert_int_eq(pool_session_anonymous(h->pool, POOL_HISTORY_TENANT, 4,
                         NULL, h->now_ns, &h->nameless),
        KV_OK);
    ck_assert_int_eq(pool_session_begin(h->pool, h->nameless), KV_OK);
    grow(h, h->nameless);
}

static void converse(struct history *h)
{
    struct pool_session *session = some_session(h, true);

    if (pool_session_begin(h->pool, session) != KV_OK)
        return;
    if (rand() % 4 == 0)
        pool_session_set_idle_ttl(
            h->pool, session, (1 + rand() % 800) * KV_NS_PER_MS, h->now_ns);
    if (rand() % 4 == 0)
        take_back(h, session);
    grow(h, session);
    if (h->running == NULL && rand() % 4 == 0)
        h->running = session;
    else
        pool_session_end(h->pool, session, h->now_ns);
}

static void end_running(struct history *h)
{
    if (h->running != NULL)
        pool_session_end(h->pool, h->running, h->now_ns);
    h->running = NULL;
}

static void preempt_running(struct history *h)
{
    const struct pool_cause cause = {.reason = POOL_REASON_PRESSURE};

    if (h->running == NULL)
        return;
    if (pool_session_info(h->pool, h->running).state == POOL_SESSION_RUNNING)
        pool_session_preempt(h->pool, h->running, &cause, h->now_ns);
    end_running(h);
}

static uint64_t applied(const struct history *h)
{
    return ledger_position(h->ledger).applied_sequence;
}

static void call_evict(struct history *h)
{
    const struct pool_cause cause = {
        .reason = POOL_REASON_MANUAL, .requested_by = "anonymous"};
    struct pool_batch_scope scope = pool_batch_begin(h->pool, h->now_ns);
    Kvpool__V1__EvictCall call = KVPOOL__V1__EVICT_CALL__INIT;
    Kvpool__V1__EvictOutcome outcomes[4], *list[4];

    call.outcomes = list;
    ledger_set_call(h->ledger, &call);
    for (int n = rand() % 5; call.n_outcomes < (size_t)n; call.n_outcomes++) {
        Kvpool__V1__EvictOutcome *outcome = &outcomes[call.n_outcomes];
        struct pool_session *session = some_session(h, false);
        struct pool_outcome result = {.result = POOL_NOT_FOUND};
        uint64_t next = applied(h) + 1;

        if (session != NULL)
            result = pool_evict_session(
                h->pool, session, &cause, rand() % 2, h->now_ns);
        kvpool__v1__evict_outcome__init(outcome);
        outcome->result = (Kvpool__V1__EvictResult)result.result;
        outcome->bytes_freed = result.bytes_freed;
        outcome->sequence = result.result == POOL_EVICTED ? next : 0;
        list[call.n_outcomes] = outcome;
    }
    pool_batch_end(h->pool, &scope, &cause, h->now_ns);
}

static void issue_snapshot(struct history *h)
{
    struct pool_totals totals = pool_totals(h->pool);
    struct ledger_pool_snapshot snapshot = {.stats = pool_stats(h->pool),
        .sessions_created = totals.sessions_created};

    memcpy(snapshot.evictions_by_reason, totals.evictions_by_reason,
        sizeof totals.evictions_by_reason);
    ledger_issue_snapshot(h->ledger, &snapshot, h->now_ns);
}

static void step(struct history *h)
{
    int what = rand() % 32;

    h->now_ns += (1 + rand() % 100) * KV_NS_PER_MS;
    if (what < 15)
        converse(h);
    else if (what < 18)
        serve_nameless(h);
    else if (what < 20)
        end_running(h);
    else if (what < 21)
        preempt_running(h);
    else if (what < 24)
        call_evict(h);
    else if (what < 26)
        issue_snapshot(h);
    else
        pool_expire(h->pool, h->now_ns, 4);
    take_jobs(h);
    while (h->n_jobs > 0 && rand() % 3 > 0)
        end_job(h);
}

static void open_all(struct history *h, bool allocations, bool share)
{
    const struct ledger_config ledger_config = {.ring_bytes = 64 << 20,
        .epoch = 1,
        .allocations = allocations,
        .wall_ns = wall_ns};
    const struct ledger_boot boot = {
        .total_blocks = N_BLOCKS, .block_bytes = BLOCK_BYTES};
    struct pool_config pool_config = {
        .eviction_policy = share ? "lru_tail" : "lru",
        .block_bytes = BLOCK_BYTES,
        .n_blocks = N_BLOCKS,
        .block_tokens = 16,
        .max_sessions = 64,
        .max_kept_tokens = 1000,
        .kept_ttl_ns = 5000 * KV_NS_PER_MS,
        .share_prefixes = share,
        .max_beginnings = 6,
    };

    ck_assert_int_eq(ledger_open(&h->ledger, &ledger_config, NULL), KV_OK);
    pool_config.observer = ledger_observer(h->ledger);
    ck_assert_int_eq(pool_open(&h->pool, &pool_config, 0, NULL), KV_OK);
    ledger_issue_boot(h->ledger, &boot, 0);
}

static void read_all(struct history *h, struct pool_history *out)
{
    struct feed_cursor cursor = {0};
    struct feed_run run;
    size_t n_bytes;

    out->n_receipts = 0;
    out->receipts = calloc(applied(h), sizeof(Kvpool__V1__Receipt *));
    while (feed_next(h->ledger, &cursor, 100, 1 << 20, &run) == KV_OK) {
        const unsigned char *at = run.bytes, *bytes;

        while (feed_run_entry(&run, &at, &bytes, &n_bytes))
            out->receipts[out->n_receipts++] =
                kvpool__v1__receipt__unpack(NULL, n_bytes, bytes);
        feed_run_release(run.chunk);
    }
    ck_assert_uint_eq(out->n_receipts, applied(h));
}

void pool_history_run(
    struct pool_history *history, unsigned seed, int n_steps, bool allocations)
{
    struct history h = {.now_ns = 0};

    srand(seed);
    open_all(&h, allocations, seed % 2 == 0);
    while (n_steps-- > 0)
        step(&h);
    end_running(&h);
    if (h.nameless != NULL)
        serve_nameless(&h);
    end_all_jobs(&h);
    issue_snapshot(&h);
    ledger_issue_drain(h.ledger, "SIGTERM", 1, h.now_ns);
    read_all(&h, history);
    pool_close(h.pool);
    ledger_close(h.ledger);
}

void pool_history_free(struct pool_history *history)
{
    for (size_t i = 0; i < history->n_receipts; i++)
        kvpool__v1__receipt__free_unpacked(history->receipts[i], NULL);
    free(history->receipts);
    *history = (struct pool_history){.receipts = NULL};
}
