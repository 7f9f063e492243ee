/* Makes a plan that fails smaller, as long as it fails. */
#ifndef TESTS_SIM_SHRINK_H
#define TESTS_SIM_SHRINK_H

#include "tests/sim/plan.h"

/* Whether the plan fails still; asked often. */
typedef bool (*shrink_fails_cb)(const struct plan *plan);

/* Delta debugging: parts of the operations are left out, in halves, quarters
 * and so on down to single ones, then their numbers made 0 or 1. What is left
 * fails, and no longer does without any one of its operations. */
void shrink_plan(struct plan *plan, shrink_fails_cb fails);

#endif
