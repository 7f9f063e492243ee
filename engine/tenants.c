#include "engine/tenants.h"

#include <assert.h>
#include <string.h>

#include "base/heap.h"

static struct tenant *tenant_of(struct kv_list *link)
{
    return KV_LIST_ENTRY(link, struct tenant, link);
}

static struct tenant *asking_of(struct kv_list *link)
{
    return KV_LIST_ENTRY(link, struct tenant, asking);
}

static struct tenant_turn *turn_of(struct kv_list *link)
{
    return KV_LIST_ENTRY(link, struct tenant_turn, link);
}

void tenants_init(struct tenants *tenants)
{
    kv_list_init(&tenants->all);
    kv_list_init(&tenants->asking);
}

static struct tenant *find(
    struct tenants *tenants, const char *name, size_t n_name)
{
    KV_LIST_EACH (link, &tenants->all) {
        struct tenant *tenant = tenant_of(link);

        if (tenant->n_name == n_name && memcmp(tenant->name, name, n_name) == 0)
            return tenant;
    }
    return NULL;
}

struct tenant *tenants_join(
    struct tenants *tenants, const char *name, size_t n_name)
{
    struct tenant *tenant = find(tenants, name, n_name);

    assert(n_name <= sizeof tenant->name);
    if (tenant == NULL) {
        tenant = kv_calloc(1, sizeof *tenant);
        if (tenant == NULL)
            return NULL;
        memcpy(tenant->name, name, n_name);
        tenant->n_name = n_name;
        kv_list_init(&tenant->asking);
        kv_list_init(&tenant->waiting);
        tenant->next = &tenant->waiting;
        kv_list_append(&tenants->all, &tenant->link);
    }
    tenant->n_requests++;
    return tenant;
}

void tenants_leave(struct tenant *tenant)
{
    assert(tenant->n_requests > 0);
    if (--tenant->n_requests > 0)
        return;
    assert(tenant->n_running == 0 && kv_list_empty(&tenant->waiting));
    kv_list_remove(&tenant->link);
    kv_list_remove(&tenant->asking);
    kv_free(tenant);
}

void tenants_wait(struct tenant *tenant, struct tenant_turn *turn)
{
    struct kv_list *after = tenant->waiting.prev;

    while (after != &tenant->waiting && tenants_outranks(turn, turn_of(after)))
        after = after->prev;
    kv_list_insert_before(after->next, &turn->link);
}

void tenants_begin_round(struct tenants *tenants)
{
    KV_LIST_EACH (link, &tenants->all)
        tenant_of(link)->next = tenant_of(link)->waiting.next;
}

bool tenants_outranks(const struct tenant_turn *a, const struct tenant_turn *b)
{
    return a->priority != b->priority ? a->priority > b->priority
                                      : a->age < b->age;
}

static bool goes_before(const struct tenant *a, const struct tenant *b)
{
    const struct tenant_turn *turn = turn_of(a->next),
                             *other = turn_of(b->next);

    if (turn->priority != other->priority)
        return turn->priority > other->priority;
    if (a->n_running != b->n_running)
        return a->n_running < b->n_running;
    return turn->age < other->age;
}

struct tenant_turn *tenants_next_turn(struct tenants *tenants)
{
    struct tenant *best = NULL;
    struct tenant_turn *turn;

    KV_LIST_EACH (link, &tenants->all) {
        struct tenant *tenant = tenant_of(link);

        if (tenant->next != &tenant->waiting &&
            (best == NULL || goes_before(tenant, best)))
            best = tenant;
    }
    if (best == NULL)
        return NULL;
    turn = turn_of(best->next);
    best->next = best->next->next;
    return turn;
}

void tenants_skip(struct tenant *tenant)
{
    tenant->next = &tenant->waiting;
}

void tenants_ask(struct tenants *tenants, struct tenant *tenant, size_t n)
{
    if (kv_list_empty(&tenant->asking)) {
        kv_list_append(&tenants->asking, &tenant->asking);
        tenant->n_wanted = tenant->n_share = 0;
    }
    tenant->n_wanted += n;
}

static size_t count_unsatisfied(const struct tenants *tenants)
{
    size_t n = 0;

    KV_LIST_EACH (link, &tenants->asking)
        n += asking_of(link)->n_share < asking_of(link)->n_wanted;
    return n;
}

/* An equal part of what is left for each, at least one token; whoever wants
 * less leaves some for the next time round. */
static size_t divide_once(
    struct tenants *tenants, size_t budget, size_t n_unsatisfied)
{
    const size_t part =
        budget > n_unsatisfied ? budget / n_unsatisfied : (size_t)1;

    KV_LIST_EACH (link, &tenants->asking) {
        struct tenant *tenant = asking_of(link);
        size_t n = tenant->n_wanted - tenant->n_share;

        n = n < part ? n : part;
        n = n < budget ? n : budget;
        tenant->n_share += n;
        budget -= n;
    }
    return budget;
}

void tenants_divide(struct tenants *tenants, size_t budget)
{
    size_t n;

    while (budget > 0 && (n = count_unsatisfied(tenants)) > 0)
        budget = divide_once(tenants, budget, n);
    KV_LIST_EACH (link, &tenants->asking)
        kv_list_remove(link);
}
