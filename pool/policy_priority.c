/* Whole sessions of the lowest priority first, and of these the one that was
 * released longest ago. A list for each priority, and a bit for each list that
 * is not empty. */
#include "pool/state.h"

static enum kv_status init(struct pool *pool)
{
    for (int i = 0; i < POLICY_PRIORITIES; i++)
        kv_list_init(&pool->policy.levels[i]);
    return KV_OK;
}

static void add(struct pool *pool, struct pool_session *session)
{
    unsigned level = session->priority;

    kv_list_append(&pool->policy.levels[level], &session->place.link);
    pool->policy.occupied[level / 64] |= UINT64_C(1) << level % 64;
}

static void take(struct pool *pool, struct pool_session *session)
{
    unsigned level = session->priority;

    kv_list_remove(&session->place.link);
    if (kv_list_empty(&pool->policy.levels[level]))
        pool->policy.occupied[level / 64] &= ~(UINT64_C(1) << level % 64);
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

static struct pool_session *next(
    const struct pool *pool, const struct pool_session *after)
{
    const struct policy *policy = &pool->policy;
    unsigned level = 0;

    if (after != NULL) {
        level = after->priority;
        if (after->place.link.next != &policy->levels[level])
            return KV_LIST_ENTRY(
                after->place.link.next, struct pool_session, place.link);
        level++;
    }
    level = level_from(policy, level);
    return level == POLICY_PRIORITIES
               ? NULL
               : KV_LIST_ENTRY(policy->levels[level].next, struct pool_session,
                     place.link);
}

static bool goes_before(
    const struct pool_session *a, const struct pool_session *b)
{
    return a->priority < b->priority;
}

const struct policy_class policy_priority = {
    .name = "priority",
    .looks_at_priority = true,
    .goes_before = goes_before,
    .init = init,
    .add = add,
    .remove = take,
    .next = next,
};
