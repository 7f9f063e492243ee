/* How many blocks of prompts each eviction policy finds again.
 *
 *     bench_policies [seed]
 *
 * Replays one generated trace of conversations through a pool of each policy,
 * for several sizes, and beside them through two caches of single blocks that
 * are simulated here: one that gives up the block used longest ago, the last
 * one of a conversation first, as vLLM does; and one that knows the future and
 * gives up the block that is needed last (Belady), which nobody can beat.
 *
 * The trace: conversations begin one after another, each with one of a few
 * system prompts; most end after a turn or two, some go on for long; between
 * turns their authors think, some for much longer than others. Turns do not
 * overlap. A hit is a full block of a prompt that need not be computed. */
#include <inttypes.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/clock.h"
#include "base/heap.h"
#include "pool/pool.h"

#define BLOCK_TOKENS 16
#define N_SESSIONS 3000
#define N_SYSTEMS 4
#define SYSTEM_BLOCKS 24
#define MAX_BLOCKS 256 /* of a conversation */
#define MAX_TURNS 24
#define N_IDS ((N_SYSTEMS + N_SESSIONS) * MAX_BLOCKS)
#define NEVER UINT32_MAX

/* A turn: the prompt is all that was said before and n_prompt blocks in all; at
 * its end the conversation has n_after. */
struct turn {
    int64_t time_ns;
    uint32_t session, n_prompt, n_after;
};

struct trace {
    struct turn turns[N_SESSIONS * MAX_TURNS];
    uint32_t n_turns;
    uint64_t n_prompt_blocks;
    uint64_t random;
};

static _Noreturn void fail(const char *what)
{
    fprintf(stderr, "bench_policies: %s\n", what);
    exit(EXIT_FAILURE);
}

static void *allocate(size_t n, size_t size)
{
    void *memory = kv_calloc(n, size);

    if (memory == NULL)
        fail("out of memory");
    return memory;
}

/* ---- the trace */

static double draw(struct trace *trace)
{
    trace->random ^= trace->random << 13;
    trace->random ^= trace->random >> 7;
    trace->random ^= trace->random << 17;
    return ((double)(trace->random >> 11) + 1) / 9007199254740993.0;
}

static double draw_exponential(struct trace *trace, double mean)
{
    return -mean * log(draw(trace));
}

static void add_session(struct trace *trace, uint32_t session, double begin_s)
{
    double time_s = begin_s, think_s = draw(trace) < 0.2 ? 600 : 45;
    uint32_t n = SYSTEM_BLOCKS;
    bool is_long = draw(trace) < 0.35;

    for (int i = 0; i < MAX_TURNS; i++) {
        struct turn *turn = &trace->turns[trace->n_turns];

        n += 1 + (uint32_t)draw_exponential(trace, 5);
        turn->n_prompt = n;
        n += 1 + (uint32_t)draw_exponential(trace, 8);
        if (n > MAX_BLOCKS)
            return;
        turn->n_after = n;
        turn->session = session;
        turn->time_ns = (int64_t)(time_s * 1e9);
        trace->n_turns++;
        trace->n_prompt_blocks += turn->n_prompt;
        if (draw(trace) > (is_long ? 0.88 : 0.35))
            return;
        time_s += 5 + draw_exponential(trace, think_s);
    }
}

static int by_time(const void *a, const void *b)
{
    int64_t x = ((const struct turn *)a)->time_ns;
    int64_t y = ((const struct turn *)b)->time_ns;

    return (x > y) - (x < y);
}

static void make_trace(struct trace *trace, uint64_t seed)
{
    double begin_s = 0;

    trace->random = seed * 2 + 1;
    for (uint32_t i = 0; i < N_SESSIONS; i++) {
        begin_s += draw_exponential(trace, 2);
        add_session(trace, i, begin_s);
    }
    qsort(trace->turns, trace->n_turns, sizeof *trace->turns, by_time);
}

/* What identifies block i of a conversation. */
static uint32_t id_of(uint32_t session, uint32_t i)
{
    return i < SYSTEM_BLOCKS ? session % N_SYSTEMS * MAX_BLOCKS + i
                             : (N_SYSTEMS + session) * MAX_BLOCKS + i;
}

/* ---- through the pool */

static void append(struct pool *pool, struct pool_session *session,
    uint32_t number, uint32_t n_blocks)
{
    uint32_t tokens[MAX_BLOCKS * BLOCK_TOKENS];
    size_t n_has;

    pool_session_tokens(session, &n_has);
    for (size_t i = n_has; i < (size_t)n_blocks * BLOCK_TOKENS; i++)
        tokens[i] = id_of(number, (uint32_t)(i / BLOCK_TOKENS)) * 7 +
                    (uint32_t)(i % BLOCK_TOKENS);
    if (pool_session_append(pool, session, tokens + n_has,
            (size_t)n_blocks * BLOCK_TOKENS - n_has) != KV_OK)
        fail("out of memory");
}

static void compute(struct pool *pool, struct pool_session *session,
    uint32_t n_blocks, int64_t now_ns)
{
    size_t n_tokens = (size_t)n_blocks * BLOCK_TOKENS;
    enum kv_status status;
    struct pool_scrub job;

    do {
        status = pool_session_reserve(pool, session, n_tokens, NULL, now_ns);
        while (pool_scrub_next(pool, &job))
            pool_scrub_done(pool, job.scrub_id, now_ns);
    } while (status == KV_BUSY);
    if (status != KV_OK)
        fail("the pool cannot hold one conversation");
    pool_session_commit(pool, session, n_tokens);
}

/* Returns how many blocks of the prompt were found. */
static uint64_t take_turn(struct pool *pool, const struct turn *turn)
{
    struct pool_session *session;
    char id[16];
    const struct pool_key key = {.tenant = "",
        .id = id,
        .id_bytes = (size_t)snprintf(id, sizeof id, "%" PRIu32, turn->session)};
    uint64_t n_found;
    bool created;

    if (pool_session_get(pool, &key, NULL, turn->time_ns, &session, &created) !=
            KV_OK ||
        pool_session_begin(pool, session) != KV_OK)
        fail("a session cannot be had");
    append(pool, session, turn->session, turn->n_prompt);
    n_found = pool_session_adopt(pool, session, turn->time_ns) / BLOCK_TOKENS;
    compute(pool, session, turn->n_prompt, turn->time_ns);
    pool_session_count_prompt(pool, session, n_found, turn->n_prompt - n_found);
    append(pool, session, turn->session, turn->n_after);
    compute(pool, session, turn->n_after, turn->time_ns);
    pool_session_end(pool, session, turn->time_ns);
    return n_found;
}

static double replay_pool(
    const struct trace *trace, const char *policy, uint32_t n_blocks)
{
    const struct pool_config config = {
        .block_bytes = 64,
        .n_blocks = n_blocks,
        .block_tokens = BLOCK_TOKENS,
        .max_sessions = N_SESSIONS,
        .max_kept_tokens = UINT64_MAX,
        .share_prefixes = true,
        .eviction_policy = policy,
        .secret = {1, 2},
    };
    uint64_t n_found = 0;
    struct kv_error error;
    struct pool *pool;

    if (pool_open(&pool, &config, 0, &error) != KV_OK)
        fail(error.text);
    for (uint32_t i = 0; i < trace->n_turns; i++)
        n_found += take_turn(pool, &trace->turns[i]);
    pool_close(pool);
    return (double)n_found / (double)trace->n_prompt_blocks;
}

/* ---- caches of single blocks: who is given up is the greatest, or the least,
 * of a rank that every use sets anew */

struct cache {
    uint64_t *ranks; /* by id; 0: not there */
    struct entry {
        uint64_t rank;
        uint32_t id;
    } * heap; /* the least rank first; stale ones are skipped */
    size_t n_heap, room;
    uint32_t n_cached, n_blocks;
};

static void push(struct cache *cache, struct entry entry)
{
    size_t at = cache->n_heap++;

    if (cache->n_heap > cache->room)
        fail("the trace is longer than thought");
    while (at > 0 && entry.rank < cache->heap[(at - 1) / 2].rank) {
        cache->heap[at] = cache->heap[(at - 1) / 2];
        at = (at - 1) / 2;
    }
    cache->heap[at] = entry;
}

static struct entry pop(struct cache *cache)
{
    struct entry least = cache->heap[0], last = cache->heap[--cache->n_heap];
    size_t at = 0;

    for (;;) {
        size_t child = 2 * at + 1;

        if (child + 1 < cache->n_heap &&
            cache->heap[child + 1].rank < cache->heap[child].rank)
            child++;
        if (child >= cache->n_heap || cache->heap[child].rank >= last.rank)
            break;
        cache->heap[at] = cache->heap[child];
        at = child;
    }
    cache->heap[at] = last;
    return least;
}

static void use(struct cache *cache, uint32_t id, uint64_t rank)
{
    cache->n_cached += cache->ranks[id] == 0;
    cache->ranks[id] = rank;
    push(cache, (struct entry){rank, id});
    while (cache->n_cached > cache->n_blocks) {
        struct entry entry = pop(cache);

        if (cache->ranks[entry.id] != entry.rank)
            continue;
        cache->ranks[entry.id] = 0;
        cache->n_cached--;
    }
}

/* For each turn and block of it, the turn that uses the block next. */
static uint32_t *next_uses(const struct trace *trace, size_t n_uses)
{
    uint32_t *next = allocate(n_uses, sizeof *next);
    uint32_t *last = allocate(N_IDS, sizeof *last);

    memset(last, 0xff, N_IDS * sizeof *last);
    for (uint32_t t = trace->n_turns; t-- > 0;) {
        const struct turn *turn = &trace->turns[t];

        for (uint32_t i = turn->n_after; i-- > 0;) {
            uint32_t id = id_of(turn->session, i);

            next[--n_uses] = last[id];
            last[id] = t;
        }
    }
    kv_free(last);
    return next;
}

static size_t count_uses(const struct trace *trace)
{
    size_t n = 0;

    for (uint32_t t = 0; t < trace->n_turns; t++)
        n += trace->turns[t].n_after;
    return n;
}

/* Least recently used: later turns rank higher, and within one the beginning of
 * the conversation. Belady: the sooner it is used again the higher. */
static uint64_t rank_of(const uint32_t *next, size_t at, uint32_t t, uint32_t i)
{
    if (next == NULL)
        return (uint64_t)(t + 1) * MAX_BLOCKS + (MAX_BLOCKS - 1 - i);
    return 1 + (uint64_t)(NEVER - next[at]);
}

static double replay_blocks(const struct trace *trace, uint32_t n_blocks,
    const uint32_t *next, size_t n_uses)
{
    struct cache cache = {
        .ranks = allocate(N_IDS, sizeof(uint64_t)),
        .heap = allocate(n_uses, sizeof(struct entry)),
        .room = n_uses,
        .n_blocks = n_blocks,
    };
    uint64_t n_found = 0;
    size_t at = 0;

    for (uint32_t t = 0; t < trace->n_turns; t++) {
        const struct turn *turn = &trace->turns[t];
        bool goes_on = true;

        for (uint32_t i = 0; i < turn->n_prompt; i++) {
            bool is_there = cache.ranks[id_of(turn->session, i)] != 0;

            goes_on = goes_on && is_there;
            n_found += next == NULL ? goes_on : is_there;
        }
        for (uint32_t i = 0; i < turn->n_after; i++, at++)
            use(&cache, id_of(turn->session, i), rank_of(next, at, t, i));
    }
    kv_free(cache.heap);
    kv_free(cache.ranks);
    return (double)n_found / (double)trace->n_prompt_blocks;
}

/* ---- the table */

int main(int argc, char **argv)
{
    static const char *const policies[] = {
        "lru", "lru_tail", "priority", "s3fifo", "cost"};
    static const uint32_t sizes[] = {500, 1000, 2000, 4000, 8000};
    struct trace *trace = allocate(1, sizeof *trace);
    size_t n_uses;
    uint32_t *next;

    make_trace(trace, argc > 1 ? strtoull(argv[1], NULL, 10) : 1);
    n_uses = count_uses(trace);
    next = next_uses(trace, n_uses);
    printf("%d conversations, %" PRIu32 " turns, %" PRIu64
           " blocks of prompts\n\n| blocks |",
        N_SESSIONS, trace->n_turns, trace->n_prompt_blocks);
    for (size_t i = 0; i < sizeof policies / sizeof *policies; i++)
        printf(" %s |", policies[i]);
    printf(" block LRU | Belady |\n|---|---|---|---|---|---|---|---|\n");
    for (size_t s = 0; s < sizeof sizes / sizeof *sizes; s++) {
        printf("| %" PRIu32 " |", sizes[s]);
        for (size_t i = 0; i < sizeof policies / sizeof *policies; i++)
            printf(
                " %.1f%% |", 100 * replay_pool(trace, policies[i], sizes[s]));
        printf(" %.1f%% | %.1f%% |\n",
            100 * replay_blocks(trace, sizes[s], NULL, n_uses),
            100 * replay_blocks(trace, sizes[s], next, n_uses));
        fflush(stdout);
    }
    kv_free(next);
    kv_free(trace);
    return EXIT_SUCCESS;
}
