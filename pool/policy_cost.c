/* Whole sessions, those first whose return would cost least for what they free:
 * GreedyDual-Size with frequency (Cherkasova, 1998).
 *
 *   rank = floor + uses * cost of computing its own blocks again / their number
 *
 * The floor is the rank of the last victim, so who is not used sinks, however
 * dear it was. The cost of a token is that of the weights, and that of
 * attention, which grows with its position. Among equals the one released
 * longest ago goes first.
 *
 * Each tenant has a tree of its sessions by rank. There is none of all sessions
 * but one of tenants, by the first of each: the least of them is the first of
 * all, and whoever follows a session in its tenant's tree, or is the first of a
 * tenant behind it, is behind it among all. */
#include "pool/state.h"

/* The position at which attention costs as much as the weights do; of the order
 * of three times the width of a model, here that of a small one. */
#define ATTENTION_POSITION 8192.0
#define MAX_USES 8

/* ---- the order */

static int compare(const struct pool_session *a, const struct pool_session *b)
{
    if (a->place.rank != b->place.rank)
        return a->place.rank < b->place.rank ? -1 : 1;
    if (a->released_ns != b->released_ns)
        return a->released_ns < b->released_ns ? -1 : 1;
    return (a > b) - (a < b); /* as they lie in their table */
}

static struct pool_session *session_at(const struct treap_node *node)
{
    return node == NULL ? NULL
                        : KV_LIST_ENTRY(node, struct pool_session, of_tenant);
}

static int compare_node(const struct treap_node *node, const void *key)
{
    return compare(session_at(node), key);
}

/* As random as a keyed hash is. */
static uint64_t chance(const struct treap_node *node)
{
    return session_at(node)->node.hash;
}

static void hang(struct treap_node *node, struct treap_node *above)
{
    struct pool_session *session = session_at(node);

    session->place.above =
        above == NULL ? 0 : (int32_t)(session_at(above) - session);
}

static struct treap_node *above(struct pool_session *session)
{
    return session->place.above == 0 ? NULL
                                     : &session[session->place.above].of_tenant;
}

static void init_order(struct policy_order *order)
{
    order->ranks.by_rank =
        (struct treap){.compare = compare_node, .rank = chance, .hang = hang};
    order->ranks.first = NULL;
}

/* ---- of tenants */

static struct pool_tenant *tenant_at(const struct treap_node *node)
{
    return node == NULL
               ? NULL
               : KV_LIST_ENTRY(node, struct pool_tenant, turns.ranks.of_all);
}

static int compare_first(const struct treap_node *node, const void *key)
{
    return compare(tenant_at(node)->turns.ranks.first, key);
}

static uint64_t chance_of_tenant(const struct treap_node *node)
{
    return tenant_at(node)->rank;
}

static void init(struct pool *pool)
{
    pool->policy.firsts =
        (struct treap){.compare = compare_first, .rank = chance_of_tenant};
}

/* NULL: the tenant has no session any more. */
static void set_first(
    struct pool *pool, struct pool_tenant *tenant, struct pool_session *first)
{
    struct policy_ranks *ranks = &tenant->turns.ranks;

    if (ranks->first != NULL)
        treap_remove(&pool->policy.firsts, &ranks->of_all, ranks->first);
    ranks->first = first;
    if (first != NULL)
        treap_insert(&pool->policy.firsts, &ranks->of_all, first);
}

/* ---- what a session is worth */

/* Of a token, on average over a block that begins at this token. */
static double cost_of_block(const struct pool *pool, uint32_t index)
{
    return pool->config.block_tokens *
           (1 + (double)index * pool->config.block_tokens / ATTENTION_POSITION);
}

/* What computing its own blocks costs, for each of them. */
static double worth(const struct pool *pool, const struct pool_session *session)
{
    double cost = 0, n_own = 0;

    for (uint32_t i = 0; i < session->n_blocks; i++) {
        if (share_is_shared(pool, session->blocks[i]))
            continue;
        cost += cost_of_block(pool, i);
        n_own++;
    }
    return n_own > 0 ? cost / n_own / pool->config.block_tokens : 0;
}

static void add(struct pool *pool, struct pool_session *session)
{
    struct pool_tenant *tenant = session->tenant;
    struct policy_ranks *ranks = &tenant->turns.ranks;

    if (session->place.uses < MAX_USES)
        session->place.uses++;
    session->place.rank =
        pool->policy.floor + session->place.uses * worth(pool, session);
    treap_insert(&ranks->by_rank, &session->of_tenant, session);
    if (ranks->first == NULL || compare(session, ranks->first) < 0)
        set_first(pool, tenant, session);
}

static void take(struct pool *pool, struct pool_session *session)
{
    struct policy_ranks *ranks = &session->tenant->turns.ranks;

    treap_remove_below(&ranks->by_rank, &session->of_tenant, above(session));
    if (ranks->first == session)
        set_first(pool, session->tenant,
            session_at(treap_after(&ranks->by_rank, NULL)));
    kv_list_init(&session->link);
}

static void chosen(struct pool *pool, struct pool_session *session)
{
    if (session->place.rank > pool->policy.floor)
        pool->policy.floor = session->place.rank;
    session->place.uses = 0;
}

static struct pool_session *first_behind(
    const struct pool *pool, const struct pool_session *after)
{
    const struct pool_tenant *tenant =
        tenant_at(treap_after(&pool->policy.firsts, after));

    return tenant != NULL ? tenant->turns.ranks.first : NULL;
}

/* Tenants all of whose sessions are behind it are found at once; of the others,
 * who have been gone past, each is asked. */
static struct pool_session *next_of_all(
    const struct pool *pool, const struct pool_session *after)
{
    struct pool_session *best = first_behind(pool, after);
    struct pool_session *first = first_behind(pool, NULL);

    while (first != NULL && compare(first, after) <= 0) {
        struct pool_session *session =
            session_at(treap_after(&first->tenant->turns.ranks.by_rank, after));

        if (session != NULL && (best == NULL || compare(session, best) < 0))
            best = session;
        first = first_behind(pool, first);
    }
    return best;
}

static struct pool_session *next(const struct pool *pool,
    const struct pool_tenant *tenant, const struct pool_session *after)
{
    if (tenant != NULL)
        return session_at(treap_after(&tenant->turns.ranks.by_rank, after));
    return after != NULL ? next_of_all(pool, after) : first_behind(pool, NULL);
}

const struct policy_class policy_cost = {
    .name = "cost",
    .init = init,
    .init_order = init_order,
    .add = add,
    .remove = take,
    .chosen = chosen,
    .next = next,
};
