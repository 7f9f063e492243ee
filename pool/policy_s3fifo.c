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
 * a round in main. Its ghosts are the evicted sessions that the pool knows. */
#include "pool/state.h"

#define MAX_USES 3
#define SMALL_SHARE 10 /* one part in so many */

enum { LIST_NONE, LIST_SMALL, LIST_MAIN };

static enum kv_status init(struct pool *pool)
{
    kv_list_init(&pool->policy.small);
    kv_list_init(&pool->policy.main);
    return KV_OK;
}

static void append(
    struct pool *pool, struct pool_session *session, uint8_t list)
{
    struct policy *policy = &pool->policy;

    session->place.list = list;
    session->place.n_blocks = session->n_blocks;
    if (list == LIST_SMALL)
        policy->small_blocks += session->n_blocks;
    else
        policy->main_blocks += session->n_blocks;
    kv_list_append(list == LIST_SMALL ? &policy->small : &policy->main,
        &session->place.link);
}

static void take(struct pool *pool, struct pool_session *session)
{
    struct policy *policy = &pool->policy;

    kv_list_remove(&session->place.link);
    if (session->place.list == LIST_SMALL)
        policy->small_blocks -= session->place.n_blocks;
    else
        policy->main_blocks -= session->place.n_blocks;
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

static struct pool_session *first_of(const struct kv_list *list)
{
    return KV_LIST_ENTRY(list->next, struct pool_session, place.link);
}

static const struct kv_list *list_of_turn(const struct policy *policy)
{
    uint64_t n_all = policy->small_blocks + policy->main_blocks;

    if (kv_list_empty(&policy->main))
        return &policy->small;
    if (kv_list_empty(&policy->small))
        return &policy->main;
    return policy->small_blocks > n_all / SMALL_SHARE ? &policy->small
                                                      : &policy->main;
}

/* Moves on whoever was used, until the turn is that of one who was not: each
 * move pays for a use, so it costs a run no more than MAX_USES + 1 moves. */
static void settle(struct pool *pool)
{
    for (;;) {
        const struct kv_list *list = list_of_turn(&pool->policy);
        struct pool_session *session = first_of(list);

        if (kv_list_empty(list) || session->place.uses == 0)
            return;
        take(pool, session);
        if (list == &pool->policy.small)
            session->place.uses = 0;
        else
            session->place.uses--;
        append(pool, session, LIST_MAIN);
    }
}

/* If it comes back it has been wanted twice. */
static void chosen(struct pool *pool, struct pool_session *session)
{
    take(pool, session);
    append(pool, session, LIST_MAIN);
    session->place.uses = 0;
}

static struct pool_session *next(
    const struct pool *pool, const struct pool_session *after)
{
    const struct policy *policy = &pool->policy;
    const struct kv_list *turn = list_of_turn(policy);
    const struct kv_list *other =
        turn == &policy->small ? &policy->main : &policy->small;
    const struct kv_list *link =
        after == NULL ? turn->next : after->place.link.next;

    if (link == turn)
        link = other->next;
    return link == other ? NULL
                         : KV_LIST_ENTRY(link, struct pool_session, place.link);
}

static bool goes_before(
    const struct pool_session *a, const struct pool_session *b)
{
    return a->place.uses < b->place.uses;
}

const struct policy_class policy_s3fifo = {
    .name = "s3fifo",
    .goes_before = goes_before,
    .init = init,
    .add = add,
    .remove = take,
    .settle = settle,
    .chosen = chosen,
    .next = next,
};
