#include "tests/sim/world.h"

#include <inttypes.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/clock.h"
#include "tests/sim/heap.h"

#define STEP_NS (100 * KV_NS_PER_MS) /* of times that operations name */
#define CHECK_EVERY 61

static const char *const tenants[WORLD_TENANTS] = {"", "a", "b"};
static const char *const readers[WORLD_READERS] = {"x", "y", "z"};

void world_fail(const struct world *world, const char *format, ...)
{
    va_list args;

    fflush(stdout);
    fprintf(stderr, "operation %zu", world->at + 1);
    if (world->at < world->plan->n_ops) {
        const struct op *op = &world->plan->ops[world->at];

        fprintf(stderr, " (%s %" PRIu32 " %" PRIu32 " %" PRIu32 ")",
            op_name(op->kind), op->a, op->b, op->c);
    }
    fprintf(stderr, ": ");
    va_start(args, format);
    vfprintf(stderr, format, args);
    va_end(args);
    fprintf(stderr, "\n");
    _exit(1);
}

static void must(const struct world *world, bool holds, const char *what)
{
    if (!holds)
        world_fail(world, "%s", what);
}

/* ---- actors */

int world_tenant(size_t actor)
{
    return (int)(actor < WORLD_NAMED ? actor / WORLD_IDS
                                     : (actor - WORLD_NAMED) % WORLD_TENANTS);
}

/* "s0" and so on: the same ids in each tenant. */
struct pool_key world_key(size_t actor)
{
    static const char ids[WORLD_IDS][3] = {
        "s0", "s1", "s2", "s3", "s4", "s5", "s6", "s7"};
    const char *tenant = tenants[world_tenant(actor)];

    return (struct pool_key){.tenant = tenant,
        .tenant_bytes = strlen(tenant),
        .id = ids[actor % WORLD_IDS],
        .id_bytes = actor < WORLD_NAMED ? 2 : 0};
}

size_t world_actor(const struct world *world, const struct pool_key *key)
{
    size_t tenant =
        key->tenant_bytes == 0 ? 0 : (size_t)key->tenant[0] - 'a' + 1;

    if (key->id_bytes == 0)
        return WORLD_NAMED;
    must(world, key->id_bytes == 2, "a session that nobody has named");
    return tenant * WORLD_IDS + (size_t)(key->id[1] - '0');
}

/* Whose session it is, with a name or without. */
size_t world_actor_of(
    const struct world *world, const struct pool_session *session)
{
    const struct pool_key key = pool_session_glance(session).key;

    if (key.id_bytes > 0)
        return world_actor(world, &key);
    for (size_t i = WORLD_NAMED; i < WORLD_ACTORS; i++)
        if (world_session(world, i) == session)
            return i;
    world_fail(world, "a request that nobody has made");
}

struct pool_session *world_session(const struct world *world, size_t actor)
{
    struct pool_key key = world_key(actor);

    if (actor >= WORLD_NAMED) {
        if (!world->actors[actor].exists)
            return NULL;
        key.id = world->actors[actor].place;
        key.id_bytes = world->actors[actor].place_bytes;
    }
    return pool_session_find(world->pool, &key);
}

bool world_has_quotas(const struct world *world)
{
    for (int i = 0; i < WORLD_TENANTS; i++)
        if (world->quotas[i].soft_blocks > 0 ||
            world->quotas[i].hard_blocks > 0)
            return true;
    return false;
}

bool world_ranks_priority(const struct world *world)
{
    return strcmp(pool_policy_name(world->pool), "priority") == 0;
}

int64_t actor_hold_until_ns(const struct actor *actor)
{
    int64_t until_ns = actor->pin_until_ns;

    for (int i = 0; i < WORLD_READERS; i++)
        if (actor->lease_until_ns[i] > until_ns)
            until_ns = actor->lease_until_ns[i];
    return until_ns;
}

int64_t actor_due_ns(const struct actor *actor)
{
    int64_t idle_ns = actor->idle_ttl_ns > 0
                          ? actor->released_ns + actor->idle_ttl_ns
                          : INT64_MAX;
    int64_t ttl_ns =
        actor->ttl_ns > 0 ? actor->created_ns + actor->ttl_ns : INT64_MAX;

    return idle_ns < ttl_ns ? idle_ns : ttl_ns;
}

static void appear(struct world *world, size_t at)
{
    world->actors[at] = (struct actor){
        .exists = true,
        .created_ns = world->now_ns,
        .released_ns = world->now_ns,
        .kept_ns = world->now_ns,
        .priority = 50,
        .idle_ttl_ns = world->plan->settings[PLAN_IDLE_TTL_MS] * KV_NS_PER_MS,
    };
}

static void say(struct world *world, size_t at, uint32_t token)
{
    struct actor *actor = &world->actors[at];
    size_t n = actor->n_tokens++;
    uint64_t before =
        n > 0 ? actor->words[n - 1] : (uint64_t)world_tenant(at) + 1;

    actor->tokens[n] = token;
    actor->words[n] = (before ^ token) * UINT64_C(0x9e3779b97f4a7c15) + 1;
}

/* Whom the number means: any, or one that runs if there is one. */
static size_t any_named(const struct op *op)
{
    return op->a % WORLD_NAMED;
}

static size_t some_active(const struct world *world, const struct op *op)
{
    for (size_t i = 0; i < WORLD_ACTORS; i++) {
        size_t at = (op->a + i) % WORLD_ACTORS;

        if (world->actors[at].active)
            return at;
    }
    return WORLD_ACTORS;
}

/* ---- what fails changes nothing */

struct moment {
    struct pool_stats stats;
    struct pool_blocks blocks;
    struct ledger_position position;
};

static struct moment take_moment(const struct world *world)
{
    return (struct moment){pool_stats(world->pool), pool_blocks(world->pool),
        ledger_position(world->ledger)};
}

static void must_be_as_before(
    const struct world *world, const struct moment *before)
{
    const struct moment now = take_moment(world);

    must(world,
        memcmp(&before->stats, &now.stats, sizeof now.stats) == 0 &&
            memcmp(&before->blocks, &now.blocks, sizeof now.blocks) == 0 &&
            before->position.applied_sequence == now.position.applied_sequence,
        "what failed has changed something");
}

/* Why something may fail at all. */
static void check_refusal(
    struct world *world, enum kv_status status, const struct moment *before)
{
    must_be_as_before(world, before);
    if (status == KV_NO_MEMORY) {
        must(world, world->starving > 0, "there was memory");
        return;
    }
    must(world, status == KV_IO && world->refuses, kv_status_text(status));
    world->tally->n_refused++;
}

/* ---- sessions */

/* Whether a tenant has an idle session with blocks. */
static bool has_idle(const struct world *world, int tenant)
{
    for (size_t i = 0; i < WORLD_ACTORS; i++)
        if (world_tenant(i) == tenant && world->actors[i].exists &&
            !world->actors[i].active &&
            world->actors[i].state == POOL_SESSION_CACHED)
            return true;
    return false;
}

/* For one more session of a tenant. Beyond its quota, it is one of its own that
 * goes; no session without blocks may be left then. */
static bool is_place(struct world *world, size_t at)
{
    int tenant = world_tenant(at);
    const struct pool_quota *quota = &world->quotas[tenant];
    uint64_t n_used = world_used_by(world, (size_t)tenant);
    bool is_over = (quota->soft_blocks > 0 && n_used > quota->soft_blocks) ||
                   (quota->hard_blocks > 0 && n_used > quota->hard_blocks);
    uint32_t n = 0, n_fixed = 0, n_kept = 0;

    for (size_t i = 0; i < WORLD_ACTORS; i++) {
        const struct actor *actor = &world->actors[i];

        n += actor->exists;
        n_fixed += actor->exists &&
                   (actor->active || actor->state == POOL_SESSION_HELD);
        n_kept += actor->exists && !actor->active &&
                  actor->state == POOL_SESSION_EVICTED;
    }
    if (is_over && n >= world->plan->settings[PLAN_SESSIONS] && n_kept == 0)
        return has_idle(world, tenant);
    return n < world->plan->settings[PLAN_SESSIONS] || n_fixed < n;
}

/* The session, or NULL where it could not be had. */
static struct pool_session *get(struct world *world, size_t at)
{
    const struct pool_key key = world_key(at);
    const struct moment before = take_moment(world);
    bool existed = world->actors[at].exists, created;
    struct pool_session *session;
    enum kv_status status = pool_session_get(
        world->pool, &key, NULL, world->now_ns, &session, &created);

    if (status == KV_LIMIT) {
        must_be_as_before(world, &before);
        must(world, !is_place(world, at), "there was a place for a session");
        return NULL;
    }
    if (status != KV_OK) {
        check_refusal(world, status, &before);
        return NULL;
    }
    must(world, created != existed, "a session was created that was there");
    if (created)
        appear(world, at);
    return session;
}

static void do_begin(struct world *world, const struct op *op)
{
    size_t at = any_named(op);
    struct pool_session *session = get(world, at);
    struct actor *actor = &world->actors[at];

    if (session == NULL || op->kind == OP_GET)
        return;
    must(world,
        pool_session_begin(world->pool, session) ==
            (actor->active ? KV_BUSY : KV_OK),
        "a run begins where none is");
    actor->active = true;
    laws_check_content(world, at);
}

static void do_anonymous(struct world *world, const struct op *op)
{
    size_t at = WORLD_NAMED + op->a % WORLD_ANONYMOUS;
    const struct pool_key key = world_key(at);
    const struct moment before = take_moment(world);
    struct pool_session *session;
    struct pool_key place;
    enum kv_status status;

    if (world->actors[at].exists)
        return;
    status = pool_session_anonymous(world->pool, key.tenant, key.tenant_bytes,
        NULL, world->now_ns, &session);
    if (status == KV_LIMIT) {
        must_be_as_before(world, &before);
        must(world, !is_place(world, at), "there was a place for a request");
        return;
    }
    if (status != KV_OK) {
        check_refusal(world, status, &before);
        return;
    }
    appear(world, at);
    place = pool_session_place(session);
    memcpy(world->actors[at].place, place.id, place.id_bytes);
    world->actors[at].place_bytes = place.id_bytes;
    world->actors[at].active = true;
    must(world, pool_session_begin(world->pool, session) == KV_OK,
        "a request without a session begins");
}

/* A request without a session may leave its full blocks behind. */
static void leave(struct world *world, size_t at)
{
    const struct pool_session *session = world_session(world, at);
    struct actor *actor = &world->actors[at];

    actor->exists = session != NULL;
    if (session == NULL)
        return;
    pool_session_tokens(session, &actor->n_tokens);
    must(world, world->plan->settings[PLAN_BEGINNINGS] > 0,
        "a request has left something");
    must(world,
        actor->n_tokens > 0 &&
            actor->n_tokens % world->plan->settings[PLAN_BLOCK_TOKENS] == 0,
        "what a request leaves is full blocks");
    laws_check_content(world, at);
    world->tally->n_beginnings++;
}

static void do_end(struct world *world, const struct op *op)
{
    size_t at = some_active(world, op);

    if (at == WORLD_ACTORS)
        return;
    pool_session_end(world->pool, world_session(world, at), world->now_ns);
    world->actors[at].active = false;
    world->actors[at].released_ns = world->actors[at].kept_ns = world->now_ns;
    if (at >= WORLD_NAMED)
        leave(world, at);
}

static void do_forget(struct world *world, const struct op *op)
{
    size_t at = any_named(op);

    if (!world->actors[at].exists || world->actors[at].active)
        return;
    pool_session_forget(world->pool, world_session(world, at), world->now_ns);
    world->actors[at].exists = false;
}

/* ---- a run */

static void do_append(struct world *world, const struct op *op)
{
    size_t at = some_active(world, op);
    uint32_t tokens[40], n = op->b % 40;
    const struct moment before = take_moment(world);
    enum kv_status status;

    if (at == WORLD_ACTORS || world->actors[at].n_tokens + n > WORLD_MAX_TOKENS)
        return;
    for (uint32_t i = 0; i < n; i++)
        tokens[i] =
            (op->c % 3 << 16) + (uint32_t)world->actors[at].n_tokens + i;
    status =
        pool_session_append(world->pool, world_session(world, at), tokens, n);
    if (status != KV_OK) {
        check_refusal(world, status, &before);
        return;
    }
    for (uint32_t i = 0; i < n; i++)
        say(world, at, tokens[i]);
}

/* ---- blocks with the same content
 *
 * Of these the pool lists one only, and when that one goes the others are not
 * found: such a block need not be adopted. */

static bool *twin(struct world *world, uint64_t word)
{
    return &world->twins[word % WORLD_TWINS];
}

static bool has_same_block(
    const struct world *world, size_t at, size_t other, size_t end)
{
    const struct actor *a = &world->actors[at], *b = &world->actors[other];

    return other != at && b->exists && b->n_cached >= end &&
           a->words[end - 1] == b->words[end - 1];
}

/* After the actor has filled these blocks, which others may have too. */
static void note_twins(struct world *world, size_t at, size_t from, size_t to)
{
    size_t block_tokens = world->plan->settings[PLAN_BLOCK_TOKENS];

    from += block_tokens - from % block_tokens;
    for (size_t end = from; end <= to; end += block_tokens)
        for (size_t other = 0; other < WORLD_ACTORS; other++)
            if (has_same_block(world, at, other, end))
                *twin(world, world->actors[at].words[end - 1]) = true;
}

/* Tokens of full blocks that the actor should take over from the other. */
static size_t in_common(struct world *world, size_t at, size_t other)
{
    const struct actor *a = &world->actors[at], *b = &world->actors[other];
    size_t block_tokens = world->plan->settings[PLAN_BLOCK_TOKENS], n = 0;

    if (!b->exists || other == at || world_tenant(other) != world_tenant(at) ||
        a->n_tokens == 0)
        return 0;
    while (n < a->n_tokens - 1 && n < b->n_cached &&
           a->tokens[n] == b->tokens[n] &&
           ((n + 1) % block_tokens > 0 || !*twin(world, a->words[n])))
        n++;
    return n - n % block_tokens;
}

static void do_adopt(struct world *world, const struct op *op)
{
    size_t at = some_active(world, op), n_common = 0, n;
    struct pool_session_info before, after;
    struct pool_session *session;

    if (at == WORLD_ACTORS)
        return;
    for (size_t i = 0; i < WORLD_ACTORS; i++)
        if (in_common(world, at, i) > n_common)
            n_common = in_common(world, at, i);
    session = world_session(world, at);
    before = pool_session_info(world->pool, session);
    n = pool_session_adopt(world->pool, session, world->now_ns);
    after = pool_session_info(world->pool, session);
    world->tally->n_adopted += after.n_cached_tokens > before.n_cached_tokens;
    must(world, n == after.n_cached_tokens, "adopted as many as it says");
    if (before.n_cached_tokens < before.n_tokens)
        must(world, n >= before.n_cached_tokens, "lost by adopting");
    must(world,
        after.n_shared_blocks <= (after.n_tokens > 0 ? after.n_tokens - 1 : 0) /
                                     world->plan->settings[PLAN_BLOCK_TOKENS],
        "what is computed next lies in a block of somebody else's");
    if (world->plan->settings[PLAN_SHARES] > 0 && !world->has_starved &&
        world->starving == 0 && !world->refuses)
        must(world, n >= n_common, "not all that could be adopted was");
    laws_check_content(world, at);
}

static enum kv_status expected_room(const struct world *world, size_t n_more)
{
    const struct pool_blocks blocks = pool_blocks(world->pool);

    if (n_more == 0)
        return KV_OK;
    if (world->refuses && n_more <= blocks.total)
        return KV_IO;
    if (n_more > blocks.free + blocks.scrubbing + blocks.cached)
        return KV_POOL_FULL;
    return n_more <= blocks.free ? KV_OK : KV_BUSY;
}

/* With quotas there is what they leave, and no tenant gets beyond its own. */
static bool is_expected(const struct world *world, size_t n_more,
    enum kv_status status, enum kv_status expected, uint64_t n_obtainable)
{
    if (!world_has_quotas(world) || expected == KV_IO ||
        expected == KV_POOL_FULL)
        return status == expected ||
               (status == KV_OVER_QUOTA && n_more > n_obtainable);
    if (n_more > n_obtainable)
        return status == KV_OVER_QUOTA;
    return status == expected || status == KV_BUSY;
}

static void check_hard_quota(const struct world *world, size_t at)
{
    const struct pool_tenant_info tenant =
        pool_session_tenant(world_session(world, at));

    if (tenant.quota.hard_blocks > 0 &&
        tenant.n_used_blocks > tenant.quota.hard_blocks)
        world_fail(
            world, "tenant %d has more than its quota", world_tenant(at));
}

/* Whether somebody had to go for a reservation of n_more blocks, when so many
 * were coming and the tenant used so many. */
static bool needs_victim(const struct world *world, size_t at, size_t n_more,
    uint64_t n_coming, uint64_t n_used)
{
    uint32_t hard = world->quotas[world_tenant(at)].hard_blocks;

    return n_coming < n_more || (hard > 0 && n_used + n_more > hard);
}

/* Nobody goes who need not: given up is what was lacking, or what was beyond a
 * hard quota, and less than that without the last victim. */
static void check_room(const struct world *world, size_t at,
    const struct moment *before, size_t n_more, enum kv_status status)
{
    const struct pool_blocks blocks = pool_blocks(world->pool);
    uint64_t n_evictions =
        pool_stats(world->pool).evictions - before->stats.evictions;
    size_t n_got = status == KV_OK ? n_more : 0;
    uint64_t n_coming = blocks.free + blocks.scrubbing + n_got;
    uint64_t n_used =
        pool_session_tenant(world_session(world, at)).n_used_blocks - n_got;
    uint64_t n_last = world->last_freed_blocks;

    if (status == KV_BUSY && n_coming < n_more)
        world_fail(world, "room was said to come, and does not");
    if (n_evictions > 0 &&
        !needs_victim(world, at, n_more, n_coming - n_last,
            n_used +
                (world->last_freed_tenant == world_tenant(at) ? n_last : 0)))
        world_fail(world,
            "%" PRIu64 " evictions: %" PRIu64 " blocks are coming, %" PRIu64
            " of the last one, and %zu were needed",
            n_evictions, n_coming, n_last, n_more);
}

static void do_reserve(struct world *world, const struct op *op)
{
    size_t at = some_active(world, op), n_tokens, n_needed, n_more;
    size_t block_tokens = world->plan->settings[PLAN_BLOCK_TOKENS];
    struct moment before = take_moment(world);
    enum kv_status status, expected;
    struct pool_session_info info;
    struct pool_session *session;
    uint64_t n_obtainable;

    if (at == WORLD_ACTORS)
        return;
    session = world_session(world, at);
    info = pool_session_info(world->pool, session);
    n_tokens = op->c % 2 == 0 ? info.n_tokens : op->b % (info.n_tokens + 1);
    n_needed = (n_tokens + block_tokens - 1) / block_tokens;
    n_more = n_needed > info.n_blocks ? n_needed - info.n_blocks : 0;
    expected = n_needed > world->plan->settings[PLAN_BLOCKS]
                   ? KV_POOL_FULL
                   : expected_room(world, n_more);
    n_obtainable = pool_obtainable_blocks(world->pool, session);
    world->n_asked = n_more;
    status = pool_session_reserve(
        world->pool, session, n_tokens, NULL, world->now_ns);
    world->n_asked = 0;
    if (status == KV_NO_MEMORY) {
        check_refusal(world, status, &before);
        return;
    }
    must(world, is_expected(world, n_more, status, expected, n_obtainable),
        kv_status_text(status));
    if (status == KV_OK && n_more > 0)
        check_hard_quota(world, at);
    check_room(world, at, &before, n_more, status);
    world->tally->n_reserved += status == KV_OK && n_more > 0;
    world->tally->n_busy += status == KV_BUSY;
    world->tally->n_full += status == KV_POOL_FULL;
    world->tally->n_over += status == KV_OVER_QUOTA;
    if (status == KV_POOL_FULL || status == KV_OVER_QUOTA || status == KV_IO)
        must_be_as_before(world, &before);
}

/* The words of these tokens, into blocks that nobody else holds. */
static void compute(
    const struct world *world, size_t at, size_t begin, size_t end)
{
    uint32_t block_tokens = world->plan->settings[PLAN_BLOCK_TOKENS];
    struct pool_session *session = world_session(world, at);
    const pool_block_id *blocks;
    size_t n_blocks;

    blocks = pool_session_blocks(session, &n_blocks);
    for (size_t i = begin; i < end; i++) {
        pool_block_id id = blocks[i / block_tokens];

        if (pool_block_run(world->pool, id, 1).n_holders != 1)
            world_fail(world, "computed into block %" PRIu32 " of others", id);
        memcpy(pool_arena(world->pool) + (size_t)id * WORLD_BLOCK_BYTES +
                   i % block_tokens * sizeof(uint64_t),
            &world->actors[at].words[i], sizeof(uint64_t));
    }
}

static void do_commit(struct world *world, const struct op *op)
{
    size_t at = some_active(world, op), room, end, n_computed;
    struct pool_session_info info;
    struct pool_session *session;

    if (at == WORLD_ACTORS)
        return;
    session = world_session(world, at);
    info = pool_session_info(world->pool, session);
    room = info.n_blocks * world->plan->settings[PLAN_BLOCK_TOKENS];
    end = room < info.n_tokens ? room : info.n_tokens;
    if (end < info.n_cached_tokens)
        end = info.n_cached_tokens;
    if (op->b % 2 != 0)
        end = info.n_cached_tokens + (end - info.n_cached_tokens) / 2;
    compute(world, at, info.n_cached_tokens, end);
    n_computed = pool_session_n_computed(session);
    if (n_computed > end)
        n_computed = end;
    if (n_computed > info.n_cached_tokens)
        pool_session_count_recomputed(world->pool, session,
            n_computed - info.n_cached_tokens, NULL, world->now_ns,
            world->now_ns);
    pool_session_commit(world->pool, session, end);
    note_twins(world, at, info.n_cached_tokens, end);
}

static void do_truncate(struct world *world, const struct op *op)
{
    size_t at = some_active(world, op), n;

    if (at == WORLD_ACTORS)
        return;
    n = op->b % (world->actors[at].n_tokens + 1);
    must(world,
        pool_session_truncate(
            world->pool, world_session(world, at), n, world->now_ns) == KV_OK,
        "a conversation is taken back");
    world->actors[at].n_tokens = n;
    laws_check_content(world, at);
}

static void do_prompt(struct world *world, const struct op *op)
{
    size_t at = some_active(world, op);

    if (at < WORLD_ACTORS)
        pool_session_count_prompt(
            world->pool, world_session(world, at), op->b % 4, op->c % 4);
}

static void do_set_aside(struct world *world, const struct op *op)
{
    const struct pool_cause cause = {.reason = POOL_REASON_PRESSURE};
    size_t at = some_active(world, op);
    struct pool_batch_scope scope;

    if (at == WORLD_ACTORS || world->actors[at].n_blocks == 0 ||
        !pool_may_evict(world->pool))
        return;
    scope = pool_batch_begin(world->pool, world->now_ns);
    pool_session_preempt(
        world->pool, world_session(world, at), &cause, world->now_ns);
    pool_batch_end(world->pool, &scope, &cause, world->now_ns);
}

/* ---- retention */

static int64_t end_ns(const struct world *world, int64_t duration_ns)
{
    return duration_ns > 0 ? world->now_ns + duration_ns : 0;
}

static void lease(struct world *world, size_t at, const struct op *op,
    struct pool_session *session, int64_t duration_ns)
{
    const struct moment before = take_moment(world);
    enum kv_status status = pool_session_lease(world->pool, session,
        readers[op->c % WORLD_READERS], duration_ns, world->now_ns);

    if (status != KV_OK)
        check_refusal(world, status, &before);
    else
        world->actors[at].lease_until_ns[op->c % WORLD_READERS] =
            end_ns(world, duration_ns);
}

static void do_retain(struct world *world, const struct op *op)
{
    size_t at = any_named(op);
    struct actor *actor = &world->actors[at];
    struct pool_session *session = world_session(world, at);
    int64_t duration_ns = op->b % 32 * STEP_NS;
    uint32_t priority = op->b % (POOL_MAX_PRIORITY + 1);

    if (!actor->exists)
        return;
    switch (op->kind) {
    case OP_IDLE_TTL:
        pool_session_set_idle_ttl(
            world->pool, session, duration_ns, world->now_ns);
        actor->idle_ttl_ns = duration_ns;
        break;
    case OP_TTL:
        pool_session_set_absolute_ttl(
            world->pool, session, 4 * duration_ns, world->now_ns);
        actor->ttl_ns = 4 * duration_ns;
        break;
    case OP_PIN:
        pool_session_pin(world->pool, session, duration_ns / 2, world->now_ns);
        actor->pin_until_ns = end_ns(world, duration_ns / 2);
        break;
    case OP_LEASE:
        lease(world, at, op, session, duration_ns / 2);
        break;
    default:
        if (priority != actor->priority && world_ranks_priority(world))
            actor->rank = world->at; /* it goes to another queue, last */
        pool_session_set_priority(world->pool, session, priority);
        actor->priority = priority;
    }
}

/* ---- time, and zeroing */

/* Whose time is over by more than a moment has gone, and the pool would have
 * been asked in time. */
static void check_expired(const struct world *world)
{
    int64_t over_ns = world->now_ns - WORLD_TTL_LATE_NS;

    for (size_t i = 0; i < WORLD_NAMED; i++) {
        const struct actor *actor = &world->actors[i];
        struct pool_session *session = world_session(world, i);
        struct pool_session_info info;

        if (session == NULL)
            continue;
        info = pool_session_glance(session);
        if (info.state == POOL_SESSION_HELD)
            must(world, actor_hold_until_ns(actor) > over_ns,
                "a hold goes on after its end");
        if (info.state == POOL_SESSION_CACHED)
            must(world, actor_due_ns(actor) > over_ns,
                "a session stays after its time");
    }
}

static void do_expire(struct world *world, const struct op *op)
{
    uint32_t budget = op->a % 2 == 0 ? op->a % 5 : 1000;

    world->tally->n_expired += pool_expire(world->pool, world->now_ns, budget);
    if (budget == 1000 && !world->refuses)
        check_expired(world);
}

static void do_quotas(struct world *world, const struct op *op)
{
    uint32_t n_blocks = world->plan->settings[PLAN_BLOCKS];
    struct pool_tenant_quota list[WORLD_TENANTS];
    const struct pool_quotas quotas = {.list = list, .n = WORLD_TENANTS};
    const struct moment before = take_moment(world);
    struct pool_quota old = world->quotas[op->a % WORLD_TENANTS];
    enum kv_status status;

    if (world->plan->settings[PLAN_QUOTAS] == 0)
        return;
    world->quotas[op->a % WORLD_TENANTS] = (struct pool_quota){
        .soft_blocks = op->b % 5 * n_blocks / 8,
        .hard_blocks = op->c % 7 * n_blocks / 8,
    };
    for (int i = 0; i < WORLD_TENANTS; i++)
        list[i] = (struct pool_tenant_quota){
            tenants[i], strlen(tenants[i]), world->quotas[i]};
    status = pool_set_quotas(world->pool, &quotas);
    if (status == KV_OK)
        return;
    check_refusal(world, status, &before);
    world->quotas[op->a % WORLD_TENANTS] = old;
}

/* Down to the low watermark, or to what is pinned, however small the slices;
 * whom it takes is the tap's matter. */
static void do_sweep(struct world *world, const struct op *op)
{
    uint64_t n_pinned = pool_blocks(world->pool).pinned;
    struct pool_blocks after;

    if (!pool_wants_sweep(world->pool) || world->refuses)
        return;
    must(world,
        pool_sweep(world->pool, 1 + op->a % 8, world->now_ns) > 0 ||
            pool_wants_sweep(world->pool) ||
            pool_blocks(world->pool).cached == 0,
        "a sweep ends without having found anybody");
    after = pool_blocks(world->pool);
    world->tally->n_swept++;
    must(world, after.pinned == n_pinned, "a sweep has touched what is pinned");
    must(world,
        pool_wants_sweep(world->pool) || after.cached == 0 ||
            after.pinned + after.cached <= pool_config(world->pool)->low_blocks,
        "a sweep ends above the low watermark");
}

static void take_scrub(struct world *world)
{
    if (pool_scrub_next(world->pool, &world->out[world->n_out]))
        world->n_out++;
}

static void end_scrub(struct world *world, size_t at)
{
    const struct pool_scrub job = world->out[at];

    for (size_t i = 0; i < job.n_extents; i++)
        memset(pool_arena(world->pool) + job.extents[i].offset, 0,
            job.extents[i].size);
    world->out[at] = world->out[--world->n_out];
    pool_scrub_done(world->pool, job.scrub_id, world->now_ns);
}

static void issue_snapshot(struct world *world)
{
    struct pool_totals totals = pool_totals(world->pool);
    struct ledger_pool_snapshot snapshot = {.stats = pool_stats(world->pool),
        .sessions_created = totals.sessions_created};

    memcpy(snapshot.evictions_by_reason, totals.evictions_by_reason,
        sizeof totals.evictions_by_reason);
    ledger_issue_snapshot(world->ledger, &snapshot, world->now_ns);
}

/* ---- all of them */

static void do_op(struct world *world, const struct op *op)
{
    switch (op->kind) {
    case OP_GET:
    case OP_BEGIN:
        do_begin(world, op);
        break;
    case OP_ANONYMOUS:
        do_anonymous(world, op);
        break;
    case OP_APPEND:
        do_append(world, op);
        break;
    case OP_ADOPT:
        do_adopt(world, op);
        break;
    case OP_RESERVE:
        do_reserve(world, op);
        break;
    case OP_COMMIT:
        do_commit(world, op);
        break;
    case OP_TRUNCATE:
        do_truncate(world, op);
        break;
    case OP_PROMPT:
        do_prompt(world, op);
        break;
    case OP_END:
        do_end(world, op);
        break;
    case OP_SET_ASIDE:
        do_set_aside(world, op);
        break;
    case OP_IDLE_TTL:
    case OP_TTL:
    case OP_PIN:
    case OP_LEASE:
    case OP_PRIORITY:
        do_retain(world, op);
        break;
    case OP_EVICT:
        world_evict(world, op);
        break;
    case OP_FORGET:
        do_forget(world, op);
        break;
    case OP_TIME:
        world->now_ns += op->a % 300 * KV_NS_PER_MS;
        break;
    case OP_EXPIRE:
        do_expire(world, op);
        break;
    case OP_QUOTAS:
        do_quotas(world, op);
        break;
    case OP_SWEEP:
        do_sweep(world, op);
        break;
    case OP_SCRUB_TAKE:
        take_scrub(world);
        break;
    case OP_SCRUB_DONE:
        if (world->n_out > 0)
            end_scrub(world, op->a % world->n_out);
        break;
    case OP_REFUSE:
        world->refuses = op->a % 4 == 0;
        break;
    case OP_SNAPSHOT:
        issue_snapshot(world);
        break;
    case OP_STARVE: /* the next operation's matter */
    case OP_N_KINDS:
        break;
    }
}

static void starve(struct world *world, const struct op *op)
{
    world->starving = op->kind == OP_STARVE ? 1 + op->a % 3 : 0;
    if (world->starving > 0)
        heap_starve(world->starving);
}

static void feed(struct world *world)
{
    if (!heap_feed())
        return;
    world->has_starved = true;
    world->tally->n_starved++;
}

/* Everybody goes, and everything is zeroed. */
static void end_all(struct world *world)
{
    world->refuses = false;
    for (uint32_t i = 0; i < WORLD_ACTORS; i++)
        do_end(world, &(struct op){.kind = OP_END});
    laws_check(world, true);
    for (size_t i = 0; i < WORLD_ACTORS; i++) {
        if (world->actors[i].exists)
            pool_session_forget(
                world->pool, world_session(world, i), world->now_ns);
        world->actors[i].exists = false;
    }
    do {
        while (world->n_out > 0)
            end_scrub(world, 0);
        take_scrub(world);
    } while (world->n_out > 0);
    laws_check(world, true);
    must(world, pool_blocks(world->pool).free == pool_blocks(world->pool).total,
        "a block is left over");
}

static int64_t wall_ns(void)
{
    return 1;
}

static void open_world(struct world *world)
{
    const uint32_t *settings = world->plan->settings;
    const struct ledger_config ledger_config = {
        .ring_bytes = LEDGER_MIN_RING_BYTES,
        .epoch = 1,
        .allocations = settings[PLAN_ALLOCATIONS] > 0,
        .wall_ns = wall_ns};
    const struct ledger_boot boot = {.total_blocks = settings[PLAN_BLOCKS],
        .block_bytes = WORLD_BLOCK_BYTES};
    struct pool_config config = {
        .block_bytes = WORLD_BLOCK_BYTES,
        .n_blocks = settings[PLAN_BLOCKS],
        .block_tokens = settings[PLAN_BLOCK_TOKENS],
        .max_sessions = settings[PLAN_SESSIONS],
        .max_kept_tokens = settings[PLAN_KEPT_TOKENS],
        .kept_ttl_ns = settings[PLAN_KEPT_TTL_MS] * KV_NS_PER_MS,
        .default_idle_ttl_ns = settings[PLAN_IDLE_TTL_MS] * KV_NS_PER_MS,
        .eviction_policy = plan_policies[settings[PLAN_POLICY]],
        .share_prefixes = settings[PLAN_SHARES] > 0,
        .high_blocks = settings[PLAN_BLOCKS] * settings[PLAN_HIGH] / 8,
        .max_beginnings = settings[PLAN_BEGINNINGS],
        .low_blocks = settings[PLAN_BLOCKS] * settings[PLAN_HIGH] / 12,
        .secret = {1, 2},
    };
    struct kv_error error;

    world->now_ns = KV_NS_PER_S;
    must(world, ledger_open(&world->ledger, &ledger_config, NULL) == KV_OK,
        "a ledger opens");
    tap_open(world);
    config.observer = &world->observer;
    if (pool_open(&world->pool, &config, world->now_ns, &error) != KV_OK)
        world_fail(world, "%s", error.text);
    ledger_issue_boot(world->ledger, &boot, world->now_ns);
    view_open(world);
}

static void close_world(struct world *world)
{
    struct ledger_position position;
    struct merkle_hash root;

    end_all(world);
    issue_snapshot(world);
    ledger_issue_drain(world->ledger, "SIGTERM", 1, world->now_ns);
    view_close(world);
    position = ledger_position(world->ledger);
    must(world,
        merkle_root(
            ledger_tree(world->ledger), position.applied_sequence, &root),
        "a ledger has a root");
    memcpy(world->tally->root, &root, sizeof world->tally->root);
    pool_close(world->pool);
    ledger_close(world->ledger);
}

void world_run(const struct plan *plan, struct tally *tally)
{
    struct world *world = calloc(1, sizeof *world);

    if (world == NULL)
        _exit(2);
    world->plan = plan;
    world->tally = tally;
    open_world(world);
    for (; world->at < plan->n_ops; world->at++) {
        do_op(world, &plan->ops[world->at]);
        feed(world);
        laws_check(world, world->at % CHECK_EVERY == 0);
        starve(world, &plan->ops[world->at]);
        tally->n_ops++;
    }
    heap_feed();
    close_world(world);
    free(world);
}
