/* Whole sessions, the one that was released longest ago first: a list to whose
 * end go those that become idle. */
#include "pool/state.h"

static enum kv_status init(struct pool *pool)
{
    kv_list_init(&pool->policy.released);
    return KV_OK;
}

static void init_order(struct policy_order *order)
{
    kv_list_init(&order->list);
}

static void add(struct pool *pool, struct pool_session *session)
{
    kv_list_append(&pool->policy.released, &session->place.link);
    kv_list_append(&session->tenant->turns.list, &session->link);
}

static void take(struct pool *pool, struct pool_session *session)
{
    (void)pool;
    kv_list_remove(&session->place.link);
    kv_list_remove(&session->link);
}

static struct pool_session *next(const struct pool *pool,
    const struct pool_tenant *tenant, const struct pool_session *after)
{
    const struct kv_list *order =
        tenant != NULL ? &tenant->turns.list : &pool->policy.released;
    const struct kv_list *link =
        after == NULL ? order->next : policy_link(after, tenant)->next;

    return link == order ? NULL : policy_session(link, tenant);
}

const struct policy_class policy_lru = {
    .name = "lru",
    .init = init,
    .init_order = init_order,
    .add = add,
    .remove = take,
    .next = next,
};
