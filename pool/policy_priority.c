/* Whole sessions of the lowest priority first, and of these the one that came
 * to it longest ago, by its release or by a change of its priority. Of all
 * there is a list for each priority, and a bit for each list that is not empty.
 *
 * A tenant has one list, by priority, and no room for more: there may be as
 * many tenants as sessions. The last session of each priority knows that of the
 * next lower one, so a place is found in as many steps as the tenant has
 * higher priorities in use.
 *
 *   20 20 20 50 50 90        below: 90 -> last 50 -> last 20 */
#include "pool/state.h"

static enum kv_status init(struct pool *pool)
{
    for (int i = 0; i < POLICY_PRIORITIES; i++)
        kv_list_init(&pool->policy.levels[i]);
    return KV_OK;
}

/* ---- a tenant's */

static void init_order(struct policy_order *order)
{
    kv_list_init(&order->list);
}

/* The last of the highest priority; NULL: there is nobody. */
static struct pool_session *highest(const struct pool_tenant *tenant)
{
    const struct kv_list *list = &tenant->turns.list;

    return kv_list_empty(list) ? NULL : policy_session(list->prev, tenant);
}

/* What leads to the last session of the highest priority that is at most this
 * one: `below` of the one above, whom *above names; NULL: it is the highest. */
static struct pool_session *find_below(const struct pool_tenant *tenant,
    unsigned priority, struct pool_session **above)
{
    struct pool_session *at = highest(tenant);

    *above = NULL;
    while (at != NULL && at->priority > priority) {
        *above = at;
        at = at->place.below;
    }
    return at;
}

static void add_to_tenant(struct pool_session *session)
{
    struct kv_list *list = &session->tenant->turns.list;
    struct pool_session *above;
    struct pool_session *last =
        find_below(session->tenant, session->priority, &above);
    bool is_first = last == NULL || last->priority < session->priority;

    session->place.below = is_first ? last : last->place.below;
    if (above != NULL)
        above->place.below = session;
    kv_list_prepend(last != NULL ? &last->link : list, &session->link);
}

static void take_from_tenant(struct pool_session *session)
{
    struct pool_tenant *tenant = session->tenant;
    struct pool_session *above, *before = NULL;
    struct pool_session *last = find_below(tenant, session->priority, &above);

    if (last == session) {
        if (session->link.prev != &tenant->turns.list)
            before = policy_session(session->link.prev, tenant);
        if (before != NULL && before->priority == session->priority)
            before->place.below = session->place.below;
        if (above != NULL)
            above->place.below = before;
    }
    kv_list_remove(&session->link);
}

/* ---- of all */

static void add(struct pool *pool, struct pool_session *session)
{
    unsigned level = session->priority;

    kv_list_append(&pool->policy.levels[level], &session->place.link);
    pool->policy.occupied[level / 64] |= UINT64_C(1) << level % 64;
    add_to_tenant(session);
}

static void take(struct pool *pool, struct pool_session *session)
{
    unsigned level = session->priority;

    kv_list_remove(&session->place.link);
    if (kv_list_empty(&pool->policy.levels[level]))
        pool->policy.occupied[level / 64] &= ~(UINT64_C(1) << level % 64);
    take_from_tenant(session);
}

/* The first level that is not empty, from this one on, or POLICY_PRIORITIES. */
static unsigned level_from(const struct policy *policy, unsigned level)
{
    uint64_t word = level < 64 ? policy->occupied[0] >> level << level : 0;

    if (word != 0)
        return (unsigned)__builtin_ctzll(word);
    if (level >= POLICY_PRIORITIES)
        return POLICY_PRIORITIES;
    word = policy->occupied[1];
    if (level > 64)
        word = word >> (level - 64) << (level - 64);
    return word == 0 ? POLICY_PRIORITIES : 64 + (unsigned)__builtin_ctzll(word);
}

static struct pool_session *next_of_tenant(
    const struct pool_tenant *tenant, const struct pool_session *after)
{
    const struct kv_list *list = &tenant->turns.list;
    const struct kv_list *link = after == NULL ? list->next : after->link.next;

    return link == list ? NULL : policy_session(link, tenant);
}

static struct pool_session *next_of_all(
    const struct policy *policy, const struct pool_session *after)
{
    unsigned level = 0;

    if (after != NULL) {
        level = after->priority;
        if (after->place.link.next != &policy->levels[level])
            return policy_session(after->place.link.next, NULL);
        level++;
    }
    level = level_from(policy, level);
    return level == POLICY_PRIORITIES
               ? NULL
               : policy_session(policy->levels[level].next, NULL);
}

static struct pool_session *next(const struct pool *pool,
    const struct pool_tenant *tenant, const struct pool_session *after)
{
    return tenant != NULL ? next_of_tenant(tenant, after)
                          : next_of_all(&pool->policy, after);
}

const struct policy_class policy_priority = {
    .name = "priority",
    .looks_at_priority = true,
    .init = init,
    .init_order = init_order,
    .add = add,
    .remove = take,
    .next = next,
};
