/* Whose turn it is: those whose requests the scheduler has, by tenant.
 *
 *   join, a request each ─> leave
 *
 * Requests that wait take turns, those of a higher priority first. Of equal
 * ones the next is of the tenant with the fewest requests running, and of
 * tenants with equally many that which has waited longest; a tenant's own
 * requests go by age. So many requests of one do not hold back another's, and
 * where nothing runs the first in rank of all is next.
 *
 * Tokens are shared likewise: tenants ask for what their prompts need, and a
 * budget is divided so that nobody gets more while another with less still
 * wants some. What does not divide goes to whoever asked first.
 *
 * Thread: the owner's. A tenant is an allocation of its own. */
#ifndef ENGINE_TENANTS_H
#define ENGINE_TENANTS_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/list.h"
#include "pool/pool.h"

struct tenants {
    struct kv_list all;
    struct kv_list asking; /* in the order in which they asked */
};

struct tenant {
    struct kv_list link, asking;
    struct kv_list waiting; /* turns, the first in rank first */
    struct kv_list *next;   /* among them, of the present round */
    uint32_t n_requests, n_running;
    size_t n_wanted, n_share; /* tokens */
    size_t n_name;
    char name[POOL_NAME_BYTES];
};

/* Embedded in what waits. */
struct tenant_turn {
    struct kv_list link;
    uint32_t priority; /* the highest goes first, */
    uint64_t age;      /* and of equal ones the oldest, which is smaller */
};

/* Whether a comes before b in rank. */
bool tenants_outranks(const struct tenant_turn *a, const struct tenant_turn *b);

void tenants_init(struct tenants *tenants);

/* One request more; NULL: no memory. */
struct tenant *tenants_join(
    struct tenants *tenants, const char *name, size_t n_name);

/* One less; with the last the tenant is gone. */
void tenants_leave(struct tenant *tenant);

/* The turn is withdrawn by removing its link. */
void tenants_wait(struct tenant *tenant, struct tenant_turn *turn);

/* A round over all turns: each is next once. The caller counts n_running, and
 * may withdraw the turn that it was given, no other. NULL: that was all. */
void tenants_begin_round(struct tenants *tenants);
struct tenant_turn *tenants_next_turn(struct tenants *tenants);

/* The tenant's other turns wait for another round. */
void tenants_skip(struct tenant *tenant);

/* n_share of each that asked since the last division, at most n_wanted. */
void tenants_ask(struct tenants *tenants, struct tenant *tenant, size_t n);
void tenants_divide(struct tenants *tenants, size_t budget);

#endif
