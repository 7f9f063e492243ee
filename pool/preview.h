/* What evictions would do that are not done: the pool as it would be if some
 * sessions had been evicted, as far as others would notice. That is which of
 * their blocks would have a holder less; of the others nobody asks again.
 *
 * It is of the instant at which the sessions were taken: where the pool goes on
 * meanwhile it is about right.
 *
 * Thread: the pool's owner's. */
#ifndef POOL_PREVIEW_H
#define POOL_PREVIEW_H

#include <stddef.h>
#include <stdint.h>

#include "base/status.h"
#include "pool/pool.h"

/* The caller's memory; zeroed: none has been taken. */
struct pool_preview {
    struct preview_slot {
        uint32_t block, n_dropped; /* 0: nobody's */
    } * slots;
    size_t n_slots; /* a power of two, or 0 */
    size_t n_blocks;
};

/* From now on as if the session had been evicted. KV_NO_MEMORY: it may be so in
 * part. */
enum kv_status pool_preview_take(struct pool_preview *preview,
    const struct pool *pool, const struct pool_session *session);

/* How many holders less the block would have; preview may be NULL. */
uint32_t pool_preview_dropped(
    const struct pool_preview *preview, pool_block_id id);

void pool_preview_fini(struct pool_preview *preview);

#endif
