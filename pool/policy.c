#include "pool/policy.h"

#include <string.h>

#include "pool/state.h"

static const struct policy_class *const classes[] = {&policy_lru,
    &policy_lru_tail, &policy_priority, &policy_s3fifo, &policy_cost};

const struct policy_class *policy_find(const char *name)
{
    if (name == NULL)
        return &policy_lru;
    for (size_t i = 0; i < sizeof classes / sizeof *classes; i++)
        if (strcmp(classes[i]->name, name) == 0)
            return classes[i];
    return NULL;
}

enum kv_status policy_init(struct pool *pool, const struct policy_class *class)
{
    pool->policy.class = class;
    return class->init(pool);
}

void policy_fini(struct pool *pool)
{
    if (pool->policy.class->fini != NULL)
        pool->policy.class->fini(pool);
}

void policy_add(struct pool *pool, struct pool_session *session)
{
    pool->policy.class->add(pool, session);
}

void policy_remove(struct pool *pool, struct pool_session *session)
{
    pool->policy.class->remove(pool, session);
}

void policy_settle(struct pool *pool, struct pool_tenant *tenant)
{
    if (pool->policy.class->settle != NULL)
        pool->policy.class->settle(pool, tenant);
}

bool policy_spares(const struct pool *pool, const struct pool_session *session)
{
    return pool->policy.class->spares != NULL &&
           pool->policy.class->spares(session);
}

void policy_chosen(struct pool *pool, struct pool_session *session)
{
    if (pool->policy.class->chosen != NULL)
        pool->policy.class->chosen(pool, session);
}

struct pool_session *policy_next(const struct pool *pool,
    const struct pool_tenant *tenant, const struct pool_session *after)
{
    return pool->policy.class->next(pool, tenant, after);
}
