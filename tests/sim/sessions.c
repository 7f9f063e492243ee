/* Sessions, and requests without one, that begin and end. */
#include <string.h>

#include "tests/sim/world.h"

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
    const struct world_moment before = world_moment(world);
    bool existed = world->actors[at].exists, created;
    struct pool_session *session;
    enum kv_status status = pool_session_get(
        world->pool, &key, NULL, world->now_ns, &session, &created);

    if (status == KV_LIMIT) {
        world_must_be_as_before(world, &before);
        world_must(
            world, !is_place(world, at), "there was a place for a session");
        return NULL;
    }
    if (status != KV_OK) {
        world_check_refusal(world, status, &before);
        return NULL;
    }
    world_must(
        world, created != existed, "a session was created that was there");
    if (created)
        actor_appear(world, at);
    return session;
}

void world_begin(struct world *world, const struct op *op)
{
    size_t at = world_any_named(op);
    struct pool_session *session = get(world, at);
    struct actor *actor = &world->actors[at];

    if (session == NULL || op->kind == OP_GET)
        return;
    world_must(world,
        pool_session_begin(world->pool, session) ==
            (actor->active ? KV_BUSY : KV_OK),
        "a run begins where none is");
    actor->active = true;
    laws_check_content(world, at);
}

void world_anonymous(struct world *world, const struct op *op)
{
    size_t at = WORLD_NAMED + op->a % WORLD_ANONYMOUS;
    const struct pool_key key = world_key(at);
    const struct world_moment before = world_moment(world);
    struct pool_session *session;
    struct pool_key place;
    enum kv_status status;

    if (world->actors[at].exists)
        return;
    status = pool_session_anonymous(world->pool, key.tenant, key.tenant_bytes,
        NULL, world->now_ns, &session);
    if (status == KV_LIMIT) {
        world_must_be_as_before(world, &before);
        world_must(
            world, !is_place(world, at), "there was a place for a request");
        return;
    }
    if (status != KV_OK) {
        world_check_refusal(world, status, &before);
        return;
    }
    actor_appear(world, at);
    place = pool_session_place(session);
    memcpy(world->actors[at].place, place.id, place.id_bytes);
    world->actors[at].place_bytes = place.id_bytes;
    world->actors[at].active = true;
    world_must(world, pool_session_begin(world->pool, session) == KV_OK,
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
    world_must(world, world->plan->settings[PLAN_BEGINNINGS] > 0,
        "a request has left something");
    world_must(world,
        actor->n_tokens > 0 &&
            actor->n_tokens % world->plan->settings[PLAN_BLOCK_TOKENS] == 0,
        "what a request leaves is full blocks");
    laws_check_content(world, at);
    world->tally->n_beginnings++;
}

void world_end(struct world *world, const struct op *op)
{
    size_t at = world_some_active(world, op);

    if (at == WORLD_ACTORS)
        return;
    pool_session_end(world->pool, world_session(world, at), world->now_ns);
    world->actors[at].active = false;
    world->actors[at].released_ns = world->actors[at].kept_ns = world->now_ns;
    if (at >= WORLD_NAMED)
        leave(world, at);
}

void world_forget(struct world *world, const struct op *op)
{
    size_t at = world_any_named(op);

    if (!world->actors[at].exists || world->actors[at].active)
        return;
    pool_session_forget(world->pool, world_session(world, at), world->now_ns);
    world->actors[at].exists = false;
}
