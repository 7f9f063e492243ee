/* Whole sessions, the one that was released longest ago first. The pool's list
 * of cached sessions is in this order already. */
#include "pool/state.h"

static struct pool_session *next(
    const struct pool *pool, const struct pool_session *after)
{
    const struct kv_list *link =
        after == NULL ? pool->cached.next : after->link.next;

    return link == &pool->cached
               ? NULL
               : KV_LIST_ENTRY(link, struct pool_session, link);
}

const struct policy_class policy_lru = {.name = "lru", .next = next};
