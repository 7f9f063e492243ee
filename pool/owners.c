#include "pool/owners.h"

#include "base/heap.h"

enum kv_status owners_init(
    struct owners *owners, uint32_t n_blocks, const struct session_table *table)
{
    *owners = (struct owners){
        .by_block = kv_calloc_table(n_blocks, sizeof *owners->by_block),
        .places = table->places,
    };
    return owners->by_block != NULL ? KV_OK : KV_NO_MEMORY;
}

void owners_fini(struct owners *owners)
{
    kv_free(owners->by_block);
}

uint64_t owners_metadata_bytes(uint32_t n_blocks)
{
    return n_blocks * sizeof(uint32_t);
}
