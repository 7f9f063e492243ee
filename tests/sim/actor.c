/* What each session has been told and should hold: the model of one. */
#include <string.h>

#include "base/clock.h"
#include "tests/sim/world.h"

static const char *const tenants[WORLD_TENANTS] = {"", "a", "b"};

const char *world_tenant_name(int tenant)
{
    return tenants[tenant];
}

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
    world_must(world, key->id_bytes == 2, "a session that nobody has named");
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

void actor_appear(struct world *world, size_t at)
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

void actor_say(struct world *world, size_t at, uint32_t token)
{
    struct actor *actor = &world->actors[at];
    size_t n = actor->n_tokens++;
    uint64_t before =
        n > 0 ? actor->words[n - 1] : (uint64_t)world_tenant(at) + 1;

    actor->tokens[n] = token;
    actor->words[n] = (before ^ token) * UINT64_C(0x9e3779b97f4a7c15) + 1;
}

size_t world_any_named(const struct op *op)
{
    return op->a % WORLD_NAMED;
}

size_t world_some_active(const struct world *world, const struct op *op)
{
    for (size_t i = 0; i < WORLD_ACTORS; i++) {
        size_t at = (op->a + i) % WORLD_ACTORS;

        if (world->actors[at].active)
            return at;
    }
    return WORLD_ACTORS;
}
