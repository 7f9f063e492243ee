#include "pool/preview.h"

#include "base/heap.h"
#include "pool/state.h"

#define FIRST_SLOTS 256

/* The block's slot, or the one that would be. Fibonacci hashing: ids of blocks
 * are the pool's, so nobody can choose collisions. */
static struct preview_slot *find(
    const struct pool_preview *preview, pool_block_id id)
{
    size_t at =
        (size_t)(id * UINT64_C(0x9E3779B97F4A7C15) >> 32) % preview->n_slots;

    while (preview->slots[at].n_dropped > 0 && preview->slots[at].block != id)
        at = (at + 1) % preview->n_slots;
    return &preview->slots[at];
}

/* So that at least half of the slots are nobody's with one block more. */
static enum kv_status grow(struct pool_preview *preview)
{
    const struct pool_preview before = *preview;

    if (2 * (preview->n_blocks + 1) <= preview->n_slots)
        return KV_OK;
    preview->n_slots = before.n_slots > 0 ? 2 * before.n_slots : FIRST_SLOTS;
    preview->slots = kv_calloc(preview->n_slots, sizeof *preview->slots);
    if (preview->slots == NULL) {
        *preview = before;
        return KV_NO_MEMORY;
    }
    for (size_t i = 0; i < before.n_slots; i++)
        if (before.slots[i].n_dropped > 0)
            *find(preview, before.slots[i].block) = before.slots[i];
    kv_free(before.slots);
    return KV_OK;
}

static enum kv_status drop(struct pool_preview *preview, pool_block_id id)
{
    struct preview_slot *slot;

    if (grow(preview) != KV_OK)
        return KV_NO_MEMORY;
    slot = find(preview, id);
    preview->n_blocks += slot->n_dropped == 0;
    slot->block = id;
    slot->n_dropped++;
    return KV_OK;
}

enum kv_status pool_preview_take(struct pool_preview *preview,
    const struct pool *pool, const struct pool_session *session)
{
    enum kv_status status = KV_OK;

    for (uint32_t i = 0; i < session->n_blocks && status == KV_OK; i++)
        if (share_is_shared(pool, session->blocks[i]))
            status = drop(preview, session->blocks[i]);
    return status;
}

uint32_t pool_preview_dropped(
    const struct pool_preview *preview, pool_block_id id)
{
    return preview != NULL && preview->n_blocks > 0
               ? find(preview, id)->n_dropped
               : 0;
}

void pool_preview_fini(struct pool_preview *preview)
{
    kv_free(preview->slots);
}
