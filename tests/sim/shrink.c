#include "tests/sim/shrink.h"

#include <stdlib.h>
#include <string.h>

/* Without operations [begin, end); true if it fails all the same, and then it
 * stays so. */
static bool leave_out(struct plan *plan, size_t begin, size_t end,
    struct op *spare, shrink_fails_cb fails)
{
    struct plan less = *plan;

    less.ops = spare;
    less.n_ops = plan->n_ops - (end - begin);
    memcpy(spare, plan->ops, begin * sizeof *spare);
    memcpy(spare + begin, plan->ops + end, (plan->n_ops - end) * sizeof *spare);
    if (!fails(&less))
        return false;
    memcpy(plan->ops, spare, less.n_ops * sizeof *spare);
    plan->n_ops = less.n_ops;
    return true;
}

/* From the end, for what comes late depends on more. */
static bool leave_out_parts(
    struct plan *plan, size_t n_each, struct op *spare, shrink_fails_cb fails)
{
    bool any = false;
    size_t end = plan->n_ops;

    while (end > 0) {
        size_t begin = end > n_each ? end - n_each : 0;

        if (leave_out(plan, begin, end, spare, fails))
            any = true;
        end = begin < plan->n_ops ? begin : plan->n_ops;
    }
    return any;
}

static void simplify(
    const struct plan *plan, uint32_t *number, shrink_fails_cb fails)
{
    uint32_t kept = *number;

    for (uint32_t simpler = 0; simpler < 2 && simpler < kept; simpler++) {
        *number = simpler;
        if (fails(plan))
            return;
    }
    *number = kept;
}

void shrink_plan(struct plan *plan, shrink_fails_cb fails)
{
    struct op *spare = calloc(plan->n_ops + 1, sizeof *spare);
    size_t n_each = plan->n_ops / 2;

    if (spare == NULL)
        return;
    while (n_each > 0)
        if (!leave_out_parts(plan, n_each, spare, fails) || n_each > 1)
            n_each /= 2;
    for (size_t i = 0; i < plan->n_ops; i++) {
        simplify(plan, &plan->ops[i].a, fails);
        simplify(plan, &plan->ops[i].b, fails);
        simplify(plan, &plan->ops[i].c, fails);
    }
    free(spare);
}
