/* What holds after each operation: counted from the tables of all sessions,
 * and compared with everything that says the same in another way. */
#include <inttypes.h>
#include <string.h>

#include "tests/sim/world.h"

/* What the tables of all sessions add up to. */
struct truth {
    uint32_t n_refs[WORLD_MAX_BLOCKS], n_pins[WORLD_MAX_BLOCKS];
    int tenants[WORLD_MAX_BLOCKS];
    uint64_t sum, n_holding, n_tokens;
};

static void equal(
    const struct world *world, const char *law, uint64_t is, uint64_t should)
{
    if (is != should)
        world_fail(
            world, "%s: is %" PRIu64 ", should be %" PRIu64, law, is, should);
}

/* ---- what lies in the blocks */

static const unsigned char *bytes_of(
    const struct world *world, pool_block_id id)
{
    return pool_arena(world->pool) + (size_t)id * WORLD_BLOCK_BYTES;
}

void laws_check_zero(const struct world *world, pool_block_id id)
{
    static const unsigned char zeros[WORLD_BLOCK_BYTES];

    if (memcmp(bytes_of(world, id), zeros, sizeof zeros) != 0)
        world_fail(world,
            "block %" PRIu32 " is free, and has what somebody wrote", id);
}

static bool has_said(
    const struct pool_session *session, const struct actor *actor)
{
    size_t n_tokens;
    const uint32_t *tokens = pool_session_tokens(session, &n_tokens);

    return n_tokens == actor->n_tokens &&
           (n_tokens == 0 ||
               memcmp(tokens, actor->tokens, n_tokens * sizeof *tokens) == 0);
}

void laws_check_content(const struct world *world, size_t at)
{
    uint32_t block_tokens = world->plan->settings[PLAN_BLOCK_TOKENS];
    const struct pool_session *session = world_session(world, at);
    const struct actor *actor = &world->actors[at];
    const pool_block_id *blocks;
    size_t n_blocks;

    if (!has_said(session, actor))
        world_fail(world, "session %zu has said something else", at);
    blocks = pool_session_blocks(session, &n_blocks);
    for (size_t i = 0; i < pool_session_n_cached(session); i++) {
        const unsigned char *slot = bytes_of(world, blocks[i / block_tokens]) +
                                    i % block_tokens * sizeof *actor->words;

        if (memcmp(slot, &actor->words[i], sizeof *actor->words) != 0)
            world_fail(world,
                "token %zu of session %zu is not what was computed for it", i,
                at);
    }
}

/* ---- sessions */

/* An evicted session without blocks that is not there any more was one that
 * need not be kept: for its length, its time, for others, or since it has no
 * tokens. */
static void check_gone(const struct world *world, size_t at)
{
    const struct actor *actor = &world->actors[at];
    const uint32_t *settings = world->plan->settings;
    uint64_t kept_tokens = 0;
    uint32_t n = 0;

    if (actor->active)
        world_fail(world, "session %zu is gone in mid-run", at);
    for (size_t i = 0; i < WORLD_ACTORS; i++) {
        const struct actor *other = &world->actors[i];

        n += other->exists;
        if (i < WORLD_NAMED && other->exists && !other->active)
            kept_tokens += other->n_tokens;
    }
    if (actor->n_tokens > 0 && actor->n_tokens <= settings[PLAN_KEPT_TOKENS] &&
        kept_tokens <= settings[PLAN_KEPT_TOKENS] &&
        n <= settings[PLAN_SESSIONS] &&
        (settings[PLAN_KEPT_TTL_MS] == 0 ||
            world->now_ns <
                actor->kept_ns + settings[PLAN_KEPT_TTL_MS] * KV_NS_PER_MS))
        world_fail(world, "session %zu is gone without need", at);
}

static void add_tables(struct world *world, struct truth *truth, size_t at,
    const struct pool_session *session)
{
    struct actor *actor = &world->actors[at];
    int holder = (int)(at < WORLD_NAMED ? at : WORLD_NAMED) +
                 (at < WORLD_NAMED ? 0 : world_tenant(at));
    const pool_block_id *blocks;

    blocks = pool_session_blocks(session, &actor->n_blocks);
    for (size_t i = 0; i < actor->n_blocks; i++) {
        pool_block_id id = blocks[i];

        if (id >= world->plan->settings[PLAN_BLOCKS])
            world_fail(world, "session %zu holds no block of the arena", at);
        if (truth->n_refs[id]++ == 0)
            truth->tenants[id] = world_tenant(at);
        equal(world, "tenants of a block", (uint64_t)truth->tenants[id],
            (uint64_t)world_tenant(at));
        truth->n_pins[id] += actor->state == POOL_SESSION_RUNNING ||
                             actor->state == POOL_SESSION_HELD;
        truth->sum += view_holding(id, holder);
    }
    truth->n_holding += actor->n_blocks > 0;
    truth->n_tokens += actor->n_cached = pool_session_n_cached(session);
}

static void look_at(struct world *world, struct truth *truth, size_t at)
{
    const struct pool_session *session = world_session(world, at);
    struct actor *actor = &world->actors[at];
    struct pool_session_info info;

    if (session == NULL) {
        actor->exists = false;
        return;
    }
    info = pool_session_glance(session);
    if (info.state == POOL_SESSION_CACHED &&
        actor->state != POOL_SESSION_CACHED)
        actor->rank = world->at;
    if (info.state == POOL_SESSION_EVICTED &&
        actor->state != POOL_SESSION_EVICTED)
        actor->kept_ns = world->now_ns;
    world->tally->n_held += info.state == POOL_SESSION_HELD;
    actor->state = info.state;
    equal(world, "a session that runs",
        info.state == POOL_SESSION_RUNNING ||
            info.state == POOL_SESSION_PREEMPTED,
        actor->active);
    equal(world, "tokens of a conversation", info.n_tokens, actor->n_tokens);
    add_tables(world, truth, at, session);
}

/* A pin is held; one that is over may look so until somebody looks closer. */
static void check_hold(const struct world *world, size_t at)
{
    const struct actor *actor = &world->actors[at];

    if (!actor->exists || actor->active || actor->n_blocks == 0)
        return;
    if (actor_hold_until_ns(actor) > world->now_ns)
        equal(world, "the state of a session under a pin or lease",
            actor->state, POOL_SESSION_HELD);
    if (actor_hold_until_ns(actor) == 0)
        equal(world, "the state of a session without one", actor->state,
            POOL_SESSION_CACHED);
}

static void look_at_all(struct world *world, struct truth *truth)
{
    for (size_t i = 0; i < WORLD_NAMED; i++)
        if (world->actors[i].exists && world_session(world, i) == NULL)
            check_gone(world, i);
        else if (!world->actors[i].exists && world_session(world, i) != NULL)
            world_fail(world, "session %zu is there, and was forgotten", i);
    for (size_t i = WORLD_NAMED; i < WORLD_ACTORS; i++)
        if (world->actors[i].active && world_session(world, i) == NULL)
            world_fail(world, "request %zu is gone in mid-run", i);
    for (size_t i = 0; i < WORLD_ACTORS; i++)
        if (world->actors[i].exists)
            look_at(world, truth, i);
    for (size_t i = 0; i < WORLD_NAMED; i++)
        check_hold(world, i);
}

static void note_shared(struct world *world, const struct truth *truth)
{
    for (size_t i = 0; i < WORLD_NAMED; i++) {
        struct actor *actor = &world->actors[i];
        const struct pool_session *session;
        const pool_block_id *blocks;
        size_t n;

        actor->frees_something = actor->lost_now = false;
        if (!actor->exists || actor->n_blocks == 0)
            continue;
        session = world_session(world, i);
        blocks = pool_session_blocks(session, &n);
        while (n-- > 0 && !actor->frees_something)
            actor->frees_something = truth->n_refs[blocks[n]] == 1;
    }
}

/* ---- blocks, and their sums */

static void check_blocks(const struct world *world, const struct truth *truth)
{
    uint32_t n_blocks = world->plan->settings[PLAN_BLOCKS];
    const struct pool_blocks blocks = pool_blocks(world->pool);
    const struct pool_stats stats = pool_stats(world->pool);
    uint64_t n_pinned = 0, n_used = 0, n_scrubbing = 0, n_shared = 0, runs = 0;

    for (uint32_t id = 0; id < n_blocks; id++) {
        bool is_used = truth->n_refs[id] > 0;

        equal(world, "a block that somebody holds is used, and no other",
            world->books.states[id] == BOOKS_USED, is_used);
        n_used += is_used;
        n_pinned += truth->n_pins[id] > 0;
        n_shared += truth->n_refs[id] > 1;
        n_scrubbing += world->books.states[id] == BOOKS_SCRUBBING;
        runs += !is_used && (id == 0 || truth->n_refs[id - 1] > 0);
    }
    world->tally->n_shared += n_shared;
    equal(world, "blocks in all", blocks.total, n_blocks);
    equal(world, "pinned blocks", blocks.pinned, n_pinned);
    equal(world, "cached blocks", blocks.cached, n_used - n_pinned);
    equal(world, "scrubbing blocks", blocks.scrubbing, n_scrubbing);
    equal(world, "free blocks", blocks.free, n_blocks - n_used - n_scrubbing);
    equal(world, "shared blocks", blocks.shared, n_shared);
    equal(world, "used bytes", stats.used_bytes, n_used * WORLD_BLOCK_BYTES);
    equal(world, "allocated less freed bytes",
        stats.allocated_bytes_total - stats.freed_bytes_total,
        stats.used_bytes);
    equal(world, "free runs", stats.free_runs, runs);
    equal(world, "total_sessions", stats.total_sessions, truth->n_holding);
    equal(world, "session_tokens", stats.session_tokens, truth->n_tokens);
}

static enum pool_block_state state_of(
    const struct world *world, const struct truth *truth, uint32_t id)
{
    if (world->books.states[id] == BOOKS_FREE)
        return POOL_BLOCK_FREE;
    if (world->books.states[id] == BOOKS_SCRUBBING)
        return POOL_BLOCK_SCRUBBING;
    return truth->n_pins[id] > 0 ? POOL_BLOCK_PINNED : POOL_BLOCK_CACHED;
}

/* The map that a picture is made of, block by block. */
static void check_map(const struct world *world, const struct truth *truth)
{
    uint32_t n_blocks = world->plan->settings[PLAN_BLOCKS], id = 0;

    while (id < n_blocks) {
        struct pool_block_run run =
            pool_block_run(world->pool, id, n_blocks - id);
        uint32_t n_holders = 0;

        for (uint32_t end = id + run.n_blocks; id < end; id++) {
            equal(world, "the state of a block", run.state,
                state_of(world, truth, id));
            if (truth->n_refs[id] > n_holders)
                n_holders = truth->n_refs[id];
        }
        equal(world, "holders of a run of blocks", run.n_holders, n_holders);
    }
}

static void check_thoroughly(
    const struct world *world, const struct truth *truth)
{
    struct kv_error error;

    if (!pool_check(world->pool, &error))
        world_fail(world, "%s", error.text);
    check_map(world, truth);
    for (size_t i = 0; i < WORLD_ACTORS; i++)
        if (world->actors[i].exists)
            laws_check_content(world, i);
    for (uint32_t id = 0; id < world->plan->settings[PLAN_BLOCKS]; id++)
        if (world->books.states[id] == BOOKS_FREE)
            laws_check_zero(world, id);
}

/* The pool wants to be called when somebody's time is over, or before. */
static void check_deadline(const struct world *world)
{
    int64_t next_ns = pool_next_deadline(world->pool);

    for (size_t i = 0; i < WORLD_NAMED; i++) {
        const struct actor *actor = &world->actors[i];

        if (actor->exists && actor->state == POOL_SESSION_CACHED &&
            actor_due_ns(actor) < INT64_MAX && next_ns > world->now_ns &&
            next_ns > actor_due_ns(actor) + WORLD_TTL_LATE_NS)
            world_fail(world, "the time of session %zu would be missed", i);
    }
}

void laws_check(struct world *world, bool thoroughly)
{
    struct truth truth = {.sum = 0};

    look_at_all(world, &truth);
    note_shared(world, &truth);
    check_blocks(world, &truth);
    check_deadline(world);
    if (thoroughly)
        check_thoroughly(world, &truth);
    view_expect(world, truth.sum);
    view_advance(world);
}
