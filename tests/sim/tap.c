/* Between the pool and the ledger: hears what the ledger hears, at once, and
 * keeps its own books of the blocks. */
#include <inttypes.h>
#include <string.h>

#include "tests/sim/heap.h"
#include "tests/sim/world.h"

/* ---- books */

static void move(struct world *world, const struct pool_extent *extents,
    size_t n_extents, enum books_state from, enum books_state to,
    uint64_t scrub_id)
{
    struct books *books = &world->books;
    uint32_t n_blocks = world->plan->settings[PLAN_BLOCKS];

    for (size_t i = 0; i < n_extents; i++) {
        uint64_t first = extents[i].offset / WORLD_BLOCK_BYTES;
        uint64_t n = extents[i].size / WORLD_BLOCK_BYTES;

        if (extents[i].offset % WORLD_BLOCK_BYTES != 0 ||
            extents[i].size % WORLD_BLOCK_BYTES != 0 || n == 0 ||
            first + n > n_blocks)
            world_fail(world, "an extent is not blocks of the arena");
        for (uint64_t id = first; id < first + n; id++) {
            if (books->states[id] != from)
                world_fail(world, "block %" PRIu64 " is %d, should be %d", id,
                    books->states[id], (int)from);
            books->states[id] = (uint8_t)to;
            books->scrub_ids[id] = scrub_id;
        }
    }
}

static void leave_use(struct world *world, const struct pool_extent *extents,
    size_t n_extents, uint64_t scrub_id)
{
    if (n_extents > 0 && scrub_id != ++world->books.last_scrub_id)
        world_fail(world, "scrub job %" PRIu64 " is not the next", scrub_id);
    move(world, extents, n_extents, BOOKS_USED, BOOKS_SCRUBBING, scrub_id);
}

/* ---- who may be a victim, and whose turn it is */

static bool chooses_by_age(const struct world *world)
{
    return world->plan->settings[PLAN_POLICY] <= 1;
}

/* Whether the other one should have gone before. Who has lost blocks in this
 * operation has had its turn. */
static bool goes_before(const struct world *world, const struct actor *other,
    const struct actor *victim)
{
    if (!other->exists || other->state != POOL_SESSION_CACHED ||
        !other->frees_something || other->lost_now)
        return false;
    if (world_ranks_priority(world) && other->priority != victim->priority)
        return other->priority < victim->priority;
    return (world_ranks_priority(world) || chooses_by_age(world)) &&
           other->rank < victim->rank;
}

/* Among all, or for a quota among those of its tenant. */
static void check_turn(
    const struct world *world, size_t victim, enum pool_reason reason)
{
    for (size_t i = 0; i < WORLD_NAMED; i++) {
        bool is_among = reason == POOL_REASON_LRU ||
                        world_tenant(i) == world_tenant(victim);

        if (i != victim && is_among &&
            goes_before(world, &world->actors[i], &world->actors[victim]))
            world_fail(world, "session %zu went before %zu", victim, i);
    }
}

static void check_victim(
    const struct world *world, size_t at, const struct pool_eviction *eviction)
{
    const struct actor *actor = &world->actors[at];

    if (actor->active != eviction->preempted)
        world_fail(world, "session %zu: active %d, preempted %d", at,
            actor->active, eviction->preempted);
    if (eviction->preempted && eviction->cause->reason != POOL_REASON_MANUAL &&
        eviction->cause->reason != POOL_REASON_PRESSURE)
        world_fail(world, "session %zu was evicted while it ran", at);
    if (eviction->cause->reason != POOL_REASON_PRESSURE &&
        actor_hold_until_ns(actor) > world->now_ns)
        world_fail(world, "session %zu was evicted while it was held", at);
    if (eviction->cause->reason == POOL_REASON_TTL &&
        actor_due_ns(actor) > world->now_ns)
        world_fail(world, "session %zu was evicted before its time", at);
    if (eviction->cause->reason == POOL_REASON_LRU ||
        eviction->cause->reason == POOL_REASON_QUOTA)
        check_turn(world, at, eviction->cause->reason);
}

static bool same_tenant(const struct pool_key *a, const struct pool_key *b)
{
    return a->tenant_bytes == b->tenant_bytes &&
           memcmp(a->tenant, b->tenant, a->tenant_bytes) == 0;
}

static int tenant_of(const struct pool_key *key)
{
    return key->tenant_bytes == 0 ? 0 : key->tenant[0] - 'a' + 1;
}

uint64_t world_used_by(const struct world *world, size_t tenant)
{
    const struct pool_key key = world_key(tenant * WORLD_IDS);
    struct pool_tenant_info info = {.tenant = NULL};

    while (
        pool_tenant_after(world->pool, info.tenant, info.tenant_bytes, &info))
        if (same_tenant(&key, &(struct pool_key){.tenant = info.tenant,
                                  .tenant_bytes = info.tenant_bytes}))
            return info.n_used_blocks;
    return 0;
}

static bool has_cached(const struct world *world, size_t tenant)
{
    for (size_t i = 0; i < WORLD_NAMED; i++)
        if ((size_t)world_tenant(i) == tenant && world->actors[i].exists &&
            world->actors[i].state == POOL_SESSION_CACHED &&
            !world->actors[i].lost_now)
            return true;
    return false;
}

/* Whose turn it is whatever their tenant goes after those beyond quotas. */
static void check_nobody_goes_first(
    const struct world *world, const struct pool_eviction *eviction)
{
    for (size_t tenant = 0; tenant < WORLD_TENANTS; tenant++) {
        const struct pool_key key = world_key(tenant * WORLD_IDS);
        uint32_t soft_blocks = world->quotas[tenant].soft_blocks;

        if (soft_blocks > 0 && world_used_by(world, tenant) > soft_blocks &&
            has_cached(world, tenant) && !same_tenant(&key, &eviction->key))
            world_fail(world,
                "tenant %zu is beyond its quota, and another gives up blocks",
                tenant);
    }
}

/* Nobody loses anything for a tenant beyond its own quota. */
static void check_tenants(
    const struct world *world, const struct pool_eviction *eviction)
{
    const struct pool_key *forced_by = eviction->cause->forced_by;
    const struct pool_quota *quota;
    size_t tenant;

    if (eviction->cause->reason == POOL_REASON_LRU && eviction->part == 1)
        check_nobody_goes_first(world, eviction);
    if (forced_by == NULL || eviction->cause->reason == POOL_REASON_PRESSURE ||
        world->n_asked == 0)
        return;
    tenant = (size_t)tenant_of(forced_by);
    quota = &world->quotas[tenant];
    if (same_tenant(&eviction->key, forced_by))
        return;
    if (quota->soft_blocks > 0 &&
        world_used_by(world, tenant) + world->n_asked > quota->soft_blocks)
        world_fail(world, "another tenant gives up blocks for one beyond its "
                          "quota");
}

/* ---- hooks; memory runs out in the pool only */

static bool may_evict(void *ctx)
{
    const struct world *world = ctx;

    return !world->refuses && world->recorder->may_evict(world->recorder->ctx);
}

static bool may_allocate(void *ctx)
{
    const struct world *world = ctx;

    return !world->refuses &&
           (world->recorder->may_allocate == NULL ||
               world->recorder->may_allocate(world->recorder->ctx));
}

static void on_evicted(void *ctx, const struct pool_eviction *eviction)
{
    struct world *world = ctx;
    size_t at = world_actor(world, &eviction->key);

    if (world->refuses)
        world_fail(world, "an eviction that could not be recorded");
    if (at < WORLD_NAMED) {
        check_victim(world, at, eviction);
        world->actors[at].lost_now = true;
    } else if (!eviction->preempted &&
               world->plan->settings[PLAN_BEGINNINGS] == 0) {
        world_fail(world, "a request without a session was evicted");
    }
    check_tenants(world, eviction);
    leave_use(
        world, eviction->extents, eviction->n_extents, eviction->scrub_id);
    if (eviction->part == 1)
        world->last_freed_blocks = 0;
    world->last_freed_blocks += eviction->blocks_freed;
    world->last_freed_tenant = tenant_of(&eviction->key);
    world->tally->n_evictions[eviction->cause->reason]++;
    world->tally->n_preempted += eviction->preempted;
    heap_pause();
    world->recorder->evicted(world->recorder->ctx, eviction);
    heap_go_on();
}

static void on_batch(void *ctx, const struct pool_batch *batch)
{
    struct world *world = ctx;

    heap_pause();
    world->recorder->batch(world->recorder->ctx, batch);
    heap_go_on();
}

static void on_allocated(void *ctx, const struct pool_allocation *allocation)
{
    struct world *world = ctx;

    if (world->refuses)
        world_fail(world, "an allocation that could not be recorded");
    move(world, allocation->extents, allocation->n_extents, BOOKS_FREE,
        BOOKS_USED, 0);
    move(world, allocation->reused, allocation->n_reused, BOOKS_USED,
        BOOKS_USED, 0);
    for (size_t i = 0; i < allocation->n_extents; i++)
        for (uint64_t at = 0; at < allocation->extents[i].size;
             at += WORLD_BLOCK_BYTES)
            laws_check_zero(
                world, (pool_block_id)((allocation->extents[i].offset + at) /
                                       WORLD_BLOCK_BYTES));
    heap_pause();
    if (world->recorder->allocated != NULL)
        world->recorder->allocated(world->recorder->ctx, allocation);
    heap_go_on();
}

static void on_released(void *ctx, const struct pool_release *release)
{
    struct world *world = ctx;

    leave_use(world, release->extents, release->n_extents, release->scrub_id);
    heap_pause();
    if (world->recorder->released != NULL)
        world->recorder->released(world->recorder->ctx, release);
    heap_go_on();
}

static void on_recomputed(
    void *ctx, const struct pool_recomputation *recomputation)
{
    struct world *world = ctx;

    heap_pause();
    world->recorder->recomputed(world->recorder->ctx, recomputation);
    heap_go_on();
}

static void on_scrubbed(void *ctx, uint64_t scrub_id)
{
    struct world *world = ctx;
    struct books *books = &world->books;
    uint32_t n = 0;

    for (uint32_t id = 0; id < WORLD_MAX_BLOCKS; id++) {
        if (books->states[id] != BOOKS_SCRUBBING ||
            books->scrub_ids[id] != scrub_id)
            continue;
        books->states[id] = BOOKS_FREE;
        n++;
    }
    if (n == 0)
        world_fail(world, "scrub job %" PRIu64 " had no blocks", scrub_id);
    heap_pause();
    world->recorder->scrubbed(world->recorder->ctx, scrub_id);
    heap_go_on();
}

void tap_open(struct world *world)
{
    world->recorder = ledger_observer(world->ledger);
    world->observer = (struct pool_observer){
        .ctx = world,
        .may_evict = may_evict,
        .may_allocate = may_allocate,
        .evicted = on_evicted,
        .batch = on_batch,
        .allocated = on_allocated,
        .released = on_released,
        .recomputed = on_recomputed,
        .scrubbed = on_scrubbed,
    };
}
