/* Which bytes of a model are in memory, and stay there.
 *
 * A model is mapped: what nobody has touched yet is read from the disk in the
 * middle of a step, and what nobody has touched for long may be dropped where
 * memory is short. Both can be had earlier, or not at all, at a price: */
#ifndef ENGINE_RESIDENCY_H
#define ENGINE_RESIDENCY_H

#include "base/error.h"
#include "engine/matrices.h"
#include "engine/progress.h"

enum residency_prefetch {
    RESIDENCY_AS_TOUCHED,
    RESIDENCY_AHEAD, /* the system reads on while we go on */
    RESIDENCY_WAIT,  /* all of it is read before we go on */
};
bool residency_prefetch_parse(const char *name, enum residency_prefetch *out);

/* KV_IO: a page cannot be read; only where it is waited for. progress may be
 * NULL. On systems older than Linux 5.14 waiting is as reading ahead. */
enum kv_status residency_prefetch(const struct model *model,
    enum residency_prefetch how, const struct progress *progress,
    struct kv_error *error);

/* Locks in memory what a step reads of the weights: what is packed, and in the
 * mapping the rest, not what was packed. *n_bytes of them, in whole pages.
 * KV_NO_MEMORY names the limit that forbids it; nothing is locked then. */
enum kv_status residency_lock(const struct model *model,
    const struct matrices *matrices, size_t *n_bytes, struct kv_error *error);

/* Before the matrices are closed. */
void residency_unlock(
    const struct model *model, const struct matrices *matrices);

#endif
