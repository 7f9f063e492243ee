/* Whole sessions, the one that was released longest ago first: a list to whose
 * end go those that become idle. */
#include "pool/state.h"

static enum kv_status init(struct pool *pool)
{
    kv_list_init(&pool->policy.released);
    return KV_OK;
}

static void add(struct pool *pool, struct pool_session *session)
{
    kv_list_append(&pool->policy.released, &session->place.link);
}

static void take(struct pool *pool, struct pool_session *session)
{
    (void)pool;
    kv_list_remove(&session->place.link);
}

static struct pool_session *next(
    const struct pool *pool, const struct pool_session *after)
{
    const struct kv_list *order = &pool->policy.released;
    const struct kv_list *link =
        after == NULL ? order->next : after->place.link.next;

    return link == order ? NULL
                         : KV_LIST_ENTRY(link, struct pool_session, place.link);
}

const struct policy_class policy_lru = {
    .name = "lru",
    .init = init,
    .add = add,
    .remove = take,
    .next = next,
};
