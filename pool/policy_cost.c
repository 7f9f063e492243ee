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
 * There is a tree of all sessions by rank, with room for every one taken when
 * the pool is opened, and one of each tenant's, which takes no room of its own.
 */
#include "pool/state.h"

#include "base/heap.h"

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
    order->by_rank =
        (struct treap){.compare = compare_node, .rank = chance, .hang = hang};
}

/* ---- of all */

static const struct policy_ranked *ranked_at(const struct treap_node *node)
{
    return KV_LIST_ENTRY(node, struct policy_ranked, node);
}

/* Its session is not looked at, which would be a miss, unless it has to be. */
static int compare_ranked(const struct treap_node *node, const void *key)
{
    const struct policy_ranked *ranked = ranked_at(node);
    const struct pool_session *session = key;

    if (ranked->rank != session->place.rank)
        return ranked->rank < session->place.rank ? -1 : 1;
    return compare(ranked->session, session);
}

static uint64_t chance_of_ranked(const struct treap_node *node)
{
    return ranked_at(node)->chance;
}

static void hang_ranked(struct treap_node *node, struct treap_node *above)
{
    KV_LIST_ENTRY(node, struct policy_ranked, node)->above = above;
}

static enum kv_status init(struct pool *pool)
{
    struct policy *policy = &pool->policy;

    policy->by_rank = (struct treap){.compare = compare_ranked,
        .rank = chance_of_ranked,
        .hang = hang_ranked};
    policy->ranked =
        kv_calloc_table(pool->table.n_places, sizeof *policy->ranked);
    return policy->ranked != NULL ? KV_OK : KV_NO_MEMORY;
}

static void fini(struct pool *pool)
{
    kv_free(pool->policy.ranked);
}

static struct policy_ranked *ranked_of(
    const struct pool *pool, const struct pool_session *session)
{
    return &pool->policy.ranked[session - pool->table.places];
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
    struct policy *policy = &pool->policy;
    struct policy_ranked *ranked = ranked_of(pool, session);

    if (session->place.uses < MAX_USES)
        session->place.uses++;
    session->place.rank =
        policy->floor + session->place.uses * worth(pool, session);
    ranked->session = session;
    ranked->rank = session->place.rank;
    ranked->chance = chance(&session->of_tenant);
    treap_insert(&policy->by_rank, &ranked->node, session);
    treap_insert(&session->tenant->turns.by_rank, &session->of_tenant, session);
}

static void take(struct pool *pool, struct pool_session *session)
{
    struct policy_ranked *ranked = ranked_of(pool, session);

    treap_remove_below(&pool->policy.by_rank, &ranked->node, ranked->above);
    treap_remove_below(
        &session->tenant->turns.by_rank, &session->of_tenant, above(session));
    kv_list_init(&session->link);
}

static void chosen(struct pool *pool, struct pool_session *session)
{
    if (session->place.rank > pool->policy.floor)
        pool->policy.floor = session->place.rank;
    session->place.uses = 0;
}

static struct pool_session *next(const struct pool *pool,
    const struct pool_tenant *tenant, const struct pool_session *after)
{
    const struct treap_node *node;

    if (tenant != NULL)
        return session_at(treap_after(&tenant->turns.by_rank, after));
    node = treap_after(&pool->policy.by_rank, after);
    return node != NULL ? ranked_at(node)->session : NULL;
}

const struct policy_class policy_cost = {
    .name = "cost",
    .init = init,
    .fini = fini,
    .init_order = init_order,
    .add = add,
    .remove = take,
    .chosen = chosen,
    .next = next,
};
