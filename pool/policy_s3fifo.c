/* S3-FIFO (Yang and others, 2023) with sessions for objects: two queues, so
 * that sessions that come once never push out those that come back.
 *
 *   new ──> [ small ] ──used again──> [ main ] ──not used since──> evicted
 *               │                       ^  └──used: once more round─┐
 *               └─not used──> evicted   └───────────────────────────┘
 *                                └─ comes back, while its tokens are kept ─>
 * main
 *
 * The small queue gives up first while it holds more than a tenth of the
 * blocks. A session that runs is on neither, and returns to the end of its
 * queue; that it ran counts as a use, of which three are remembered, each worth
 * a round in main. Its ghosts are the evicted sessions that the pool knows.
 *
 * A session is on the same queue of its tenant's; whose turn it is there
 * follows from the tenant's own blocks. Whoever moves on moves on in both. */
#include "pool/state.h"

#define MAX_USES 3
#define SMALL_SHARE 10 /* one part in so many */

enum { LIST_NONE, LIST_SMALL, LIST_MAIN };

static void init_queues(struct policy_queues *queues)
{
    kv_list_init(&queues->small);
    kv_list_init(&queues->main);
    queues->small_blocks = queues->main_blocks = 0;
}

static enum kv_status init(struct pool *pool)
{
    init_queues(&pool->policy.queues);
    return KV_OK;
}

static void init_order(struct policy_order *order)
{
    init_queues(&order->queues);
}

/* ---- both queues, of all and of the tenant's */

static void enter(struct policy_queues *queues, struct kv_list *link,
    const struct policy_place *place)
{
    if (place->list == LIST_SMALL) {
        queues->small_blocks += place->n_blocks;
        kv_list_append(&queues->small, link);
    } else {
        queues->main_blocks += place->n_blocks;
        kv_list_append(&queues->main, link);
    }
}

static void leave(struct policy_queues *queues, struct kv_list *link,
    const struct policy_place *place)
{
    kv_list_remove(link);
    if (place->list == LIST_SMALL)
        queues->small_blocks -= place->n_blocks;
    else
        queues->main_blocks -= place->n_blocks;
}

static void append(
    struct pool *pool, struct pool_session *session, uint8_t list)
{
    struct policy_place *place = &session->place;

    place->list = list;
    place->n_blocks = session->n_blocks;
    enter(&pool->policy.queues, &place->link, place);
    enter(&session->tenant->turns.queues, &session->link, place);
}

static void take(struct pool *pool, struct pool_session *session)
{
    struct policy_place *place = &session->place;

    leave(&pool->policy.queues, &place->link, place);
    leave(&session->tenant->turns.queues, &session->link, place);
}

static void add(struct pool *pool, struct pool_session *session)
{
    if (session->place.list == LIST_NONE) {
        append(pool, session, LIST_SMALL);
        return;
    }
    if (session->place.uses < MAX_USES)
        session->place.uses++;
    append(pool, session, session->place.list);
}

/* ---- whose turn it is */

static const struct policy_queues *queues_of(
    const struct pool *pool, const struct pool_tenant *tenant)
{
    return tenant != NULL ? &tenant->turns.queues : &pool->policy.queues;
}

static const struct kv_list *list_of_turn(const struct policy_queues *queues)
{
    uint64_t n_all = queues->small_blocks + queues->main_blocks;

    if (kv_list_empty(&queues->main))
        return &queues->small;
    if (kv_list_empty(&queues->small))
        return &queues->main;
    return queues->small_blocks > n_all / SMALL_SHARE ? &queues->small
                                                      : &queues->main;
}

/* Moves on whoever was used, until the turn is that of one who was not: each
 * move pays for a use, so it costs a run no more than MAX_USES + 1 moves. */
static void settle(struct pool *pool, struct pool_tenant *tenant)
{
    const struct policy_queues *queues = queues_of(pool, tenant);

    for (;;) {
        const struct kv_list *list = list_of_turn(queues);
        struct pool_session *session = policy_session(list->next, tenant);

        if (kv_list_empty(list) || session->place.uses == 0)
            return;
        take(pool, session);
        if (list == &queues->small)
            session->place.uses = 0;
        else
            session->place.uses--;
        append(pool, session, LIST_MAIN);
    }
}

static bool spares(const struct pool_session *session)
{
    return session->place.uses > 0;
}

/* If it comes back it has been wanted twice. */
static void chosen(struct pool *pool, struct pool_session *session)
{
    take(pool, session);
    append(pool, session, LIST_MAIN);
    session->place.uses = 0;
}

static struct pool_session *next(const struct pool *pool,
    const struct pool_tenant *tenant, const struct pool_session *after)
{
    const struct policy_queues *queues = queues_of(pool, tenant);
    const struct kv_list *turn = list_of_turn(queues);
    const struct kv_list *other =
        turn == &queues->small ? &queues->main : &queues->small;
    const struct kv_list *link =
        after == NULL ? turn->next : policy_link(after, tenant)->next;

    if (link == turn)
        link = other->next;
    return link == other ? NULL : policy_session(link, tenant);
}

const struct policy_class policy_s3fifo = {
    .name = "s3fifo",
    .init = init,
    .init_order = init_order,
    .add = add,
    .remove = take,
    .settle = settle,
    .spares = spares,
    .chosen = chosen,
    .next = next,
};
