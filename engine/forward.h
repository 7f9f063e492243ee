/* One step through the model, by a team of threads; see compute.h for what is
 * computed and promised. */
#ifndef ENGINE_FORWARD_H
#define ENGINE_FORWARD_H

#include "engine/compute.h"
#include "engine/kernels.h"
#include "engine/matrices.h"
#include "engine/team.h"

struct forward;

/* Allocates all that a step needs. Kernels, matrices, team and what config
 * points to are borrowed. KV_INVALID if the scratch exceeds the address space;
 * KV_NO_MEMORY. */
enum kv_status forward_open(struct forward **out,
    const struct compute_config *config, const struct kernels *kernels,
    const struct matrices *matrices, struct team *team, struct kv_error *error);
void forward_close(struct forward *forward); /* NULL is fine */

/* Called by the team's lead. */
void forward_step(
    struct forward *forward, struct compute_slice *slices, size_t n_slices);

size_t forward_scratch_bytes(const struct forward *forward);

#endif
