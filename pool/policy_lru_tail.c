/* Blocks of the session that was released longest ago, its last ones first, and
 * no more than are needed: a return computes the lost end only. Sessions that
 * begin alike keep the common beginning longest. */
#include "pool/state.h"

static enum kv_status init(struct pool *pool)
{
    return policy_lru.init(pool);
}

static void init_order(struct policy_order *order)
{
    policy_lru.init_order(order);
}

static void add(struct pool *pool, struct pool_session *session)
{
    policy_lru.add(pool, session);
}

static void take(struct pool *pool, struct pool_session *session)
{
    policy_lru.remove(pool, session);
}

static struct pool_session *next(const struct pool *pool,
    const struct pool_tenant *tenant, const struct pool_session *after)
{
    return policy_lru.next(pool, tenant, after);
}

const struct policy_class policy_lru_tail = {
    .name = "lru_tail",
    .takes_tails = true,
    .init = init,
    .init_order = init_order,
    .add = add,
    .remove = take,
    .next = next,
};
