/* The motions of the inference loop: plan, compute, commit; and beside them
 * what moves blocks on: zeroing, and time to live.
 *
 *   step_settle ─> plan ─> compute (other threads) ─> commit ─┐
 *        ^                                                    │
 *        └────────────────────────────────────────────────────┘
 *
 * Thread: the owner's. */
#ifndef SERVER_STEP_H
#define SERVER_STEP_H

#include "base/error.h"
#include "base/list.h"
#include "engine/compute.h"
#include "engine/scheduler.h"
#include "pool/pool.h"
#include "rpc/loop.h"

struct step;

struct step_config {
    struct rpc_loop *loop; /* all borrowed */
    struct pool *pool;
    struct compute *compute;
    struct scheduler *scheduler;
    const struct model *model;
    uint32_t max_slices;
    uint32_t sweep_blocks; /* of a slice of a sweep */
    int64_t fill_wait_ns;  /* an idle loop waits this long for more requests */
    void (*on_model_lost)(void *ctx); /* see model_check_file; the step in
                                         which it happened counts for nothing */
    void *ctx;
};

enum kv_status step_open(struct step **out, const struct step_config *config,
    struct kv_error *error);

/* Whoever changed the pool or submitted a request says so here, when it is done
 * with it: hands out what is to be zeroed, arms the clock, starts a step. */
void step_settle(struct step *step);

/* Something that may not happen while workers touch the blocks of a step: runs
 * at once, or when the present step has been committed. The caller's memory
 * until then. The one who runs need not settle. */
struct step_errand {
    void (*run)(struct step_errand *errand);
    struct kv_list link;
};
void step_between(struct step *step, struct step_errand *errand);

/* Stops computing: waits for the present step, which is then committed. Closes
 * the timers; after this only step_close may be called. */
void step_stop(struct step *step);

/* After the loop has run its last. NULL is fine. */
void step_close(struct step *step);

#endif
