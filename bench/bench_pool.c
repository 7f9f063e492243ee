/* What the pool's operations cost, through its public interface, with an
 * observer that hears every report.
 *
 *     bench_pool [repetitions [policy]]
 *
 * Prints a table of nanoseconds of processor time per operation, each the
 * median of the repetitions (5 unless given), with that eviction policy (lru).
 * What is called random or scattered pays for cache misses, as a server would;
 * the rows in brackets say what one costs, and how fast the core was: one that
 * is shared with a neighbour has two speeds, and a pair is compared with
 * another at the same. */
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>

#include "base/clock.h"
#include "base/heap.h"
#include "bench/measure.h"
#include "pool/pool.h"

#define BLOCK_TOKENS 16
#define N_OPERATIONS 20000
#define MAX_REPETITIONS 99
#define LINE_WORDS 16
#define N_LINES (UINT32_C(256) << 20 >> 6)

enum measure {
    CORE,
    PAIR,
    PAIR_UNTOLD,
    TOUCH_ONE,
    ACQUIRE,
    RELEASE,
    SCRUB,
    MISS,
    MISS_HUGE,
    TOUCH_RANDOM,
    FIND,
    FIND_TOUCH,
    COMMIT,
    EVICT,
    EVICT_QUOTA,
    CHOICE,
    STATS,
    N_MEASURES,
};

static const char *const measure_names[N_MEASURES] = {
    [CORE] = "(a thousand additions, four at a time)",
    [PAIR] = "acquire + release, one block",
    [PAIR_UNTOLD] = "the same, told nobody (receipts_allocations off)",
    [ACQUIRE] = "acquire, blocks scattered over the arena",
    [RELEASE] = "release, the same",
    [SCRUB] = "zeroing job taken and handed back",
    [MISS] = "(one field of a random session read: a miss)",
    [MISS_HUGE] = "(a random line of 256 MiB in huge pages read)",
    [TOUCH_RANDOM] = "touch (begin + end), random sessions",
    [FIND] = "found by its key, random sessions",
    [FIND_TOUCH] = "found by its key and touched, the same",
    [COMMIT] = "commit of a session's blocks, each",
    [TOUCH_ONE] = "touch (begin + end), the same session",
    [EVICT] = "evict: victim chosen, all its blocks given up",
    [EVICT_QUOTA] = "the same, for its tenant's quota",
    [CHOICE] = "next victim named",
    [STATS] = "statistics read",
};

struct name {
    char id[32];
    size_t n;
};

struct size {
    uint32_t n_blocks, n_sessions, blocks_per_session;
};

struct bench {
    struct size size;
    const char *policy;
    struct pool *pool;
    struct pool_session **sessions; /* in random order */
    struct pool_session *runner;
    struct pool_observer observer;
    int64_t now_ns;
    uint64_t random;
    uint64_t n_heard; /* reports */
    uint32_t *chain;  /* N_LINES lines in one random circle */
    struct name *names;
    struct pool_session *evicted[2 * N_OPERATIONS]; /* by a repetition */
    double ns[N_MEASURES][MAX_REPETITIONS];
};

static void fail(const char *what)
{
    fprintf(stderr, "bench_pool: %s\n", what);
    exit(1);
}

static void must(enum kv_status status, enum kv_status expected)
{
    if (status != expected)
        fail(kv_status_text(status));
}

static uint32_t draw(struct bench *bench, uint32_t n)
{
    bench->random = bench->random * UINT64_C(6364136223846793005) + 1;
    return (uint32_t)(((bench->random >> 32) * n) >> 32);
}

/* ---- an observer that reads what it is told */

static void on_evicted(void *ctx, const struct pool_eviction *eviction)
{
    ((struct bench *)ctx)->n_heard += eviction->after->evictions > 0;
}

static void on_batch(void *ctx, const struct pool_batch *batch)
{
    ((struct bench *)ctx)->n_heard += batch->n_sessions > 0;
}

static void on_allocated(void *ctx, const struct pool_allocation *allocation)
{
    ((struct bench *)ctx)->n_heard += allocation->after->used_bytes > 0;
}

static void on_released(void *ctx, const struct pool_release *release)
{
    ((struct bench *)ctx)->n_heard += release->before->used_bytes > 0;
}

static void on_scrubbed(void *ctx, uint64_t scrub_id)
{
    ((struct bench *)ctx)->n_heard += scrub_id > 0;
}

/* ---- the pool */

static struct name name_of(uint32_t number)
{
    struct name name;

    name.n =
        (size_t)snprintf(name.id, sizeof name.id, "session-%" PRIu32, number);
    return name;
}

/* As a request does. */
static struct pool_session *find_session(
    struct bench *bench, const struct name *name)
{
    const struct pool_key key = {
        .tenant = "", .id = name->id, .id_bytes = name->n};
    struct pool_session *session;
    bool created;

    must(pool_session_get(
             bench->pool, &key, NULL, bench->now_ns, &session, &created),
        KV_OK);
    return session;
}

static struct pool_session *begin_session(struct bench *bench, uint32_t number)
{
    const struct name name = name_of(number);
    struct pool_session *session = find_session(bench, &name);

    must(pool_session_begin(bench->pool, session), KV_OK);
    return session;
}

static void grow(struct bench *bench, struct pool_session *session,
    uint32_t n_blocks, enum kv_status expected)
{
    /* Nobody else's, so that the index of prefixes has all of them. */
    const uint32_t tokens[BLOCK_TOKENS] = {draw(bench, UINT32_MAX)};

    for (uint32_t i = 0; i < n_blocks; i++)
        must(pool_session_append(bench->pool, session, tokens, BLOCK_TOKENS),
            KV_OK);
    must(pool_session_reserve(bench->pool, session,
             (size_t)n_blocks * BLOCK_TOKENS, NULL, bench->now_ns),
        expected);
}

static void fill_session(struct bench *bench, uint32_t number)
{
    struct pool_session *session = begin_session(bench, number);
    uint32_t n_blocks = bench->size.blocks_per_session;

    grow(bench, session, n_blocks, KV_OK);
    pool_session_commit(bench->pool, session, (size_t)n_blocks * BLOCK_TOKENS);
    pool_session_end(bench->pool, session, bench->now_ns);
    bench->sessions[number] = session;
}

static void touch(struct bench *bench, struct pool_session *session)
{
    bench->now_ns++;
    must(pool_session_begin(bench->pool, session), KV_OK);
    pool_session_end(bench->pool, session, bench->now_ns);
}

static void shuffle_sessions(struct bench *bench)
{
    for (uint32_t i = bench->size.n_sessions - 1; i > 0; i--) {
        uint32_t j = draw(bench, i + 1);
        struct pool_session *session = bench->sessions[i];

        bench->sessions[i] = bench->sessions[j];
        bench->sessions[j] = session;
    }
}

/* Sattolo's shuffle makes one circle of all lines. */
static void make_chain(struct bench *bench)
{
    uint32_t *chain = kv_calloc_table(N_LINES, LINE_WORDS * sizeof *chain);

    if (chain == NULL)
        fail("out of memory");
    for (size_t i = 0; i < N_LINES; i++)
        chain[i * LINE_WORDS] = (uint32_t)i;
    for (uint32_t i = N_LINES - 1; i > 0; i--) {
        size_t j = draw(bench, i);
        uint32_t next = chain[(size_t)i * LINE_WORDS];

        chain[(size_t)i * LINE_WORDS] = chain[j * LINE_WORDS];
        chain[j * LINE_WORDS] = next;
    }
    bench->chain = chain;
}

static void scrub_all(struct bench *bench)
{
    struct pool_scrub job;

    while (pool_scrub_next(bench->pool, &job))
        pool_scrub_done(bench->pool, job.scrub_id, bench->now_ns);
}

static void open_bench(struct bench *bench)
{
    const struct pool_config config = {
        .block_bytes = 64,
        .n_blocks = bench->size.n_blocks,
        .block_tokens = BLOCK_TOKENS,
        .max_sessions = bench->size.n_sessions + 1,
        .max_kept_tokens = UINT64_MAX,
        .default_idle_ttl_ns = 3600 * KV_NS_PER_S,
        .share_prefixes = true,
        .eviction_policy = bench->policy,
        .secret = {1, 2},
        .observer = &bench->observer,
    };
    struct kv_error error;

    bench->observer = (struct pool_observer){
        .ctx = bench,
        .evicted = on_evicted,
        .batch = on_batch,
        .allocated = on_allocated,
        .released = on_released,
        .scrubbed = on_scrubbed,
    };
    bench->now_ns = kv_clock_mono_ns();
    if (pool_open(&bench->pool, &config, bench->now_ns, &error) != KV_OK)
        fail(error.text);
    bench->sessions =
        kv_calloc(bench->size.n_sessions, sizeof(struct pool_session *));
    if (bench->sessions == NULL)
        fail("out of memory");
    for (uint32_t i = 0; i < bench->size.n_sessions; i++)
        fill_session(bench, i);
    shuffle_sessions(bench);
    /* Who goes next lies anywhere. */
    for (uint32_t i = 0; i < bench->size.n_sessions; i++)
        touch(bench, bench->sessions[i]);
    shuffle_sessions(bench);
}

/* ---- measures, each over N_OPERATIONS */

static double per_operation(int64_t since_ns)
{
    return (double)(measure_cpu_ns() - since_ns) / N_OPERATIONS;
}

static double measure_touch(struct bench *bench, bool always_the_same)
{
    int64_t since_ns = measure_cpu_ns();

    for (uint32_t i = 0; i < N_OPERATIONS; i++)
        touch(bench, bench->sessions[always_the_same ? 0 : i]);
    return per_operation(since_ns);
}

static double measure_find(struct bench *bench, bool touches)
{
    struct pool_session *session;
    int64_t since_ns;

    for (int i = 0; i < N_OPERATIONS; i++)
        bench->names[i] = name_of(draw(bench, bench->size.n_sessions));
    since_ns = measure_cpu_ns();
    for (int i = 0; i < N_OPERATIONS; i++) {
        session = find_session(bench, &bench->names[i]);
        if (touches)
            touch(bench, session);
    }
    return per_operation(since_ns);
}

/* With each step the runner asks for one session's worth of blocks more than
 * these, and one session goes. It gets nothing, since nothing is zeroed. */
static double measure_evict_beyond(struct bench *bench, size_t n_blocks)
{
    size_t n_per_step = (size_t)bench->size.blocks_per_session * BLOCK_TOKENS;
    uint64_t n_evicted = pool_stats(bench->pool).evictions;
    size_t n_tokens = n_blocks * BLOCK_TOKENS;
    int64_t since_ns = measure_cpu_ns();
    double ns;

    for (int i = 0; i < N_OPERATIONS; i++) {
        n_tokens += n_per_step;
        must(pool_session_reserve(
                 bench->pool, bench->runner, n_tokens, NULL, ++bench->now_ns),
            KV_BUSY);
    }
    ns = per_operation(since_ns);
    n_evicted = pool_stats(bench->pool).evictions - n_evicted;
    if (n_evicted != N_OPERATIONS)
        fail("an eviction did not take one session");
    return ns;
}

/* The pool is full. */
static double measure_evict(struct bench *bench)
{
    return measure_evict_beyond(bench, pool_blocks(bench->pool).free);
}

/* The tenant may have what it has, and more is on its way to be free. */
static double measure_evict_by_quota(struct bench *bench)
{
    const struct pool_blocks blocks = pool_blocks(bench->pool);
    struct pool_quotas quotas = {
        .standard.hard_blocks = (uint32_t)(blocks.pinned + blocks.cached)};
    double ns;

    must(pool_set_quotas(bench->pool, &quotas), KV_OK);
    ns = measure_evict_beyond(bench, 0);
    quotas.standard.hard_blocks = 0;
    must(pool_set_quotas(bench->pool, &quotas), KV_OK);
    return ns;
}

/* Each read waits for the one before. */
static double measure_miss(struct bench *bench)
{
    uint32_t at = 0;
    int64_t since_ns = measure_cpu_ns();

    for (int i = 0; i < N_OPERATIONS; i++) {
        size_t n_cached = pool_session_n_cached(bench->sessions[at]);

        at = (uint32_t)(at + 1 + (n_cached > UINT32_MAX));
    }
    return per_operation(since_ns);
}

/* The least that a look into a large table costs: each line says where the next
 * one is. */
static double measure_chain(struct bench *bench)
{
    uint32_t at = 0;
    int64_t since_ns = measure_cpu_ns();

    for (int i = 0; i < N_OPERATIONS; i++)
        at = bench->chain[(size_t)at * LINE_WORDS];
    bench->n_heard += at;
    return per_operation(since_ns);
}

/* As many instructions as a pair has, with no memory and nothing to wait for.
 */
static double measure_core(void)
{
    uint64_t a = 1, b = 2, c = 3, d = 4;
    int64_t since_ns = measure_cpu_ns();

    for (int i = 0; i < N_OPERATIONS * 1000 / 4; i++) {
        a++, b++, c++, d++;
        /* The compiler must believe that somebody looks. */
        __asm__ volatile("" : "+r"(a), "+r"(b), "+r"(c), "+r"(d));
    }
    return per_operation(since_ns);
}

/* One block taken and given back, with the tokens that it is for. */
static double measure_pair(struct bench *bench)
{
    static const uint32_t tokens[BLOCK_TOKENS];
    int64_t since_ns = measure_cpu_ns();
    double ns;

    for (size_t i = 0; i < N_OPERATIONS; i++) {
        pool_session_append(bench->pool, bench->runner, tokens, BLOCK_TOKENS);
        must(pool_session_reserve(
                 bench->pool, bench->runner, BLOCK_TOKENS, NULL, bench->now_ns),
            KV_OK);
        pool_session_truncate(bench->pool, bench->runner, 0, bench->now_ns);
    }
    ns = per_operation(since_ns);
    scrub_all(bench);
    return ns;
}

/* What the server does unless it is asked for receipts of allocations. */
static double measure_pair_untold(struct bench *bench)
{
    const struct pool_observer observer = bench->observer;
    double ns;

    bench->observer.allocated = NULL;
    bench->observer.released = NULL;
    ns = measure_pair(bench);
    bench->observer = observer;
    return ns;
}

static double measure_acquire(struct bench *bench)
{
    int64_t since_ns = measure_cpu_ns();

    for (size_t n = 1; n <= N_OPERATIONS; n++)
        must(pool_session_reserve(bench->pool, bench->runner, n * BLOCK_TOKENS,
                 NULL, bench->now_ns),
            KV_OK);
    return per_operation(since_ns);
}

static double measure_release(struct bench *bench)
{
    int64_t since_ns = measure_cpu_ns();

    for (size_t n = N_OPERATIONS; n-- > 0;)
        must(pool_session_truncate(
                 bench->pool, bench->runner, n * BLOCK_TOKENS, bench->now_ns),
            KV_OK);
    return per_operation(since_ns);
}

static double measure_scrub(struct bench *bench)
{
    int64_t since_ns = measure_cpu_ns();

    scrub_all(bench);
    return per_operation(since_ns);
}

static double measure_stats(struct bench *bench)
{
    int64_t since_ns = measure_cpu_ns();

    for (int i = 0; i < N_OPERATIONS; i++) {
        struct pool_stats stats = pool_stats(bench->pool);

        /* The compiler must believe that somebody looks. */
        __asm__ volatile("" : : "g"(&stats) : "memory");
    }
    return per_operation(since_ns);
}

/* Who is next changes each time. */
static double measure_choice(struct bench *bench)
{
    struct pool_session *session = NULL;
    int64_t since_ns = measure_cpu_ns();

    for (int i = 0; i < N_OPERATIONS; i++) {
        session = pool_victim_after(bench->pool, session);
        if (session == NULL)
            fail("there are too few victims");
    }
    return per_operation(since_ns);
}

/* Evicted sessions come back, so that each repetition finds a full pool. What
 * is measured is their commits, by block. */
static double refill(struct bench *bench)
{
    size_t n_tokens = (size_t)bench->size.blocks_per_session * BLOCK_TOKENS;
    int64_t since_ns;
    size_t n = 0;

    for (uint32_t i = 0; i < bench->size.n_sessions; i++) {
        struct pool_session *session = bench->sessions[i];

        if (pool_session_n_cached(session) == n_tokens) {
            touch(bench, session);
            continue;
        }
        must(pool_session_begin(bench->pool, session), KV_OK);
        must(pool_session_reserve(
                 bench->pool, session, n_tokens, NULL, bench->now_ns),
            KV_OK);
        bench->evicted[n++] = session;
    }
    since_ns = measure_cpu_ns();
    for (size_t i = 0; i < n; i++)
        pool_session_commit(bench->pool, bench->evicted[i], n_tokens);
    since_ns = measure_cpu_ns() - since_ns;
    for (size_t i = 0; i < n; i++)
        pool_session_end(bench->pool, bench->evicted[i], bench->now_ns);
    return (double)since_ns / (double)(n * bench->size.blocks_per_session);
}

/* Enough tokens for measure_evict and measure_acquire. */
static void append_runner(struct bench *bench)
{
    static const uint32_t tokens[BLOCK_TOKENS];
    size_t n_blocks = pool_blocks(bench->pool).free +
                      (size_t)N_OPERATIONS * bench->size.blocks_per_session;

    for (size_t i = 0; i < n_blocks; i++)
        must(pool_session_append(
                 bench->pool, bench->runner, tokens, BLOCK_TOKENS),
            KV_OK);
}

static void repeat(struct bench *bench, int repetition)
{
    double(*ns)[MAX_REPETITIONS] = bench->ns;

    ns[MISS][repetition] = measure_miss(bench);
    ns[MISS_HUGE][repetition] = measure_chain(bench);
    shuffle_sessions(bench);
    ns[TOUCH_RANDOM][repetition] = measure_touch(bench, false);
    ns[FIND][repetition] = measure_find(bench, false);
    ns[FIND_TOUCH][repetition] = measure_find(bench, true);
    ns[TOUCH_ONE][repetition] = measure_touch(bench, true);
    ns[STATS][repetition] = measure_stats(bench);
    ns[CHOICE][repetition] = measure_choice(bench);
    append_runner(bench);
    ns[EVICT][repetition] = measure_evict(bench);
    ns[EVICT_QUOTA][repetition] = measure_evict_by_quota(bench);
    scrub_all(bench);
    ns[ACQUIRE][repetition] = measure_acquire(bench);
    ns[RELEASE][repetition] = measure_release(bench);
    ns[SCRUB][repetition] = measure_scrub(bench);
    ns[CORE][repetition] = measure_core();
    ns[PAIR][repetition] = measure_pair(bench);
    ns[PAIR_UNTOLD][repetition] = measure_pair_untold(bench);
    ns[COMMIT][repetition] = refill(bench);
    shuffle_sessions(bench);
}

static void run(const struct size *size, const char *policy, int n_repetitions)
{
    static struct bench bench;
    uint64_t metadata_bytes;

    bench = (struct bench){.size = *size, .policy = policy, .random = 1};
    make_chain(&bench);
    bench.names = kv_calloc(N_OPERATIONS, sizeof *bench.names);
    if (bench.names == NULL)
        fail("out of memory");
    open_bench(&bench);
    metadata_bytes = pool_totals(bench.pool).metadata_bytes;
    bench.runner = begin_session(&bench, size->n_sessions);
    for (int i = 0; i < n_repetitions; i++)
        repeat(&bench, i);

    printf("\n%" PRIu32 " blocks, %" PRIu32 " sessions of %" PRIu32
           " blocks, full\n",
        size->n_blocks, size->n_sessions, size->blocks_per_session);
    for (int i = 0; i < N_MEASURES; i++) {
        printf("  %-48s %8.1f ns\n", measure_names[i],
            measure_median(bench.ns[i], (size_t)n_repetitions));
    }
    printf("  %-48s %8.1f B\n",
        "metadata a block, tokens and sessions included",
        (double)metadata_bytes / size->n_blocks);
    pool_close(bench.pool);
    kv_free(bench.sessions);
    kv_free(bench.chain);
    kv_free(bench.names);
}

int main(int argc, char **argv)
{
    static const struct size sizes[] = {
        {1000000, 1000000, 1},
        {1000000, 100000, 10},
        {10000000, 1000000, 10},
        {10000000, 100000, 100},
    };
    int n_repetitions = argc > 1 ? atoi(argv[1]) : 5;

    if (argc > 3 || n_repetitions < 1 || n_repetitions > MAX_REPETITIONS)
        fail("usage: bench_pool [repetitions, 1 to 99 [policy]]");
    printf("ns of processor time per operation, median of %d\n", n_repetitions);
    for (size_t i = 0; i < sizeof sizes / sizeof *sizes; i++)
        run(&sizes[i], argc > 2 ? argv[2] : NULL, n_repetitions);
    return 0;
}
