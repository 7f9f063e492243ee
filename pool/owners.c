#include "pool/owners.h"

#include <assert.h>

#include "base/heap.h"

enum kv_status owners_init(
    struct owners *owners, uint32_t n_blocks, uint32_t max_sessions)
{
    *owners = (struct owners){
        .by_block = kv_calloc_table(n_blocks, sizeof *owners->by_block),
        .slots =
            kv_calloc_table(max_sessions + (size_t)1, sizeof *owners->slots),
    };
    if (owners->by_block == NULL || owners->slots == NULL) {
        owners_fini(owners);
        return KV_NO_MEMORY;
    }
    /* From the end, so that the lowest number is the first. */
    for (uint32_t number = max_sessions; number > 0; number--)
        owners_leave(owners, number);
    return KV_OK;
}

void owners_fini(struct owners *owners)
{
    kv_free(owners->by_block);
    kv_free(owners->slots);
    *owners = (struct owners){0};
}

uint32_t owners_enter(struct owners *owners, struct pool_session *session)
{
    uintptr_t number = owners->slots[0].next_free;

    assert(number != 0);
    owners->slots[0].next_free = owners->slots[number].next_free;
    owners->slots[number].session = session;
    return (uint32_t)number;
}

void owners_leave(struct owners *owners, uint32_t number)
{
    owners->slots[number].next_free = owners->slots[0].next_free;
    owners->slots[0].next_free = number;
}

uint64_t owners_metadata_bytes(uint32_t n_blocks, uint32_t max_sessions)
{
    return n_blocks * sizeof(uint32_t) +
           (max_sessions + UINT64_C(1)) * sizeof(union owner_slot);
}
