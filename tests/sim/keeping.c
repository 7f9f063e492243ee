/* How long sessions are kept, and how much tenants may have. */
#include <string.h>

#include "base/clock.h"
#include "tests/sim/world.h"

#define STEP_NS (100 * KV_NS_PER_MS) /* of times that operations name */

static const char *const readers[WORLD_READERS] = {"x", "y", "z"};

static int64_t end_ns(const struct world *world, int64_t duration_ns)
{
    return duration_ns > 0 ? world->now_ns + duration_ns : 0;
}

static void lease(struct world *world, size_t at, const struct op *op,
    struct pool_session *session, int64_t duration_ns)
{
    const struct world_moment before = world_moment(world);
    enum kv_status status = pool_session_lease(world->pool, session,
        readers[op->c % WORLD_READERS], duration_ns, world->now_ns);

    if (status != KV_OK)
        world_check_refusal(world, status, &before);
    else
        world->actors[at].lease_until_ns[op->c % WORLD_READERS] =
            end_ns(world, duration_ns);
}

void world_retain(struct world *world, const struct op *op)
{
    size_t at = world_any_named(op);
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

/* ---- what is due */

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
            world_must(world, actor_hold_until_ns(actor) > over_ns,
                "a hold goes on after its end");
        if (info.state == POOL_SESSION_CACHED)
            world_must(world, actor_due_ns(actor) > over_ns,
                "a session stays after its time");
    }
}

void world_expire(struct world *world, const struct op *op)
{
    uint32_t budget = op->a % 2 == 0 ? op->a % 5 : 1000;

    world->tally->n_expired += pool_expire(world->pool, world->now_ns, budget);
    if (budget == 1000 && !world->refuses)
        check_expired(world);
}

void world_quotas(struct world *world, const struct op *op)
{
    uint32_t n_blocks = world->plan->settings[PLAN_BLOCKS];
    struct pool_tenant_quota list[WORLD_TENANTS];
    const struct pool_quotas quotas = {.list = list, .n = WORLD_TENANTS};
    const struct world_moment before = world_moment(world);
    struct pool_quota old = world->quotas[op->a % WORLD_TENANTS];
    enum kv_status status;

    if (world->plan->settings[PLAN_QUOTAS] == 0)
        return;
    world->quotas[op->a % WORLD_TENANTS] = (struct pool_quota){
        .soft_blocks = op->b % 5 * n_blocks / 8,
        .hard_blocks = op->c % 7 * n_blocks / 8,
    };
    for (int i = 0; i < WORLD_TENANTS; i++) {
        const char *name = world_tenant_name(i);

        list[i] =
            (struct pool_tenant_quota){name, strlen(name), world->quotas[i]};
    }
    status = pool_set_quotas(world->pool, &quotas);
    if (status == KV_OK)
        return;
    world_check_refusal(world, status, &before);
    world->quotas[op->a % WORLD_TENANTS] = old;
}

/* Down to the low watermark, or to what is pinned, however small the slices;
 * whom it takes is the tap's matter. */
void world_sweep(struct world *world, const struct op *op)
{
    uint64_t n_pinned = pool_blocks(world->pool).pinned;
    struct pool_blocks after;

    if (!pool_wants_sweep(world->pool) || world->refuses)
        return;
    world_must(world,
        pool_sweep(world->pool, 1 + op->a % 8, world->now_ns) > 0 ||
            pool_wants_sweep(world->pool) ||
            pool_blocks(world->pool).cached == 0,
        "a sweep ends without having found anybody");
    after = pool_blocks(world->pool);
    world->tally->n_swept++;
    world_must(
        world, after.pinned == n_pinned, "a sweep has touched what is pinned");
    world_must(world,
        pool_wants_sweep(world->pool) || after.cached == 0 ||
            after.pinned + after.cached <= pool_config(world->pool)->low_blocks,
        "a sweep ends above the low watermark");
}
