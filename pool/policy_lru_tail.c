/* Blocks of the session that was released longest ago, its last ones first, and
 * no more than are needed: a return computes the lost end only. Sessions that
 * begin alike keep the common beginning longest. */
#include "pool/state.h"

static struct pool_session *next(
    const struct pool *pool, const struct pool_session *after)
{
    return policy_lru.next(pool, after);
}

const struct policy_class policy_lru_tail = {
    .name = "lru_tail", .takes_tails = true, .next = next};
