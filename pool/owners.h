/* For each block one of the sessions that hold it, for whoever draws the arena,
 * and to find the tokens of a block that is found (see share.c).
 *
 * The first that holds a block is its owner. When it gives the block up and
 * others have it still, nobody is known until the next that takes it. Sessions
 * go by their places in the table of all, which takes four bytes a block. */
#ifndef POOL_OWNERS_H
#define POOL_OWNERS_H

#include <stdbool.h>
#include <stdint.h>

#include "base/status.h"
#include "pool/session.h"

struct owners {
    uint32_t *by_block;          /* place of a session; 0: not known */
    struct pool_session *places; /* of the table of sessions; borrowed */
};

/* KV_NO_MEMORY. */
enum kv_status owners_init(struct owners *owners, uint32_t n_blocks,
    const struct session_table *table);
void owners_fini(struct owners *owners);

static inline uint32_t owners_number(
    const struct owners *owners, const struct pool_session *session)
{
    return (uint32_t)(session - owners->places);
}

static inline void owners_hold(
    struct owners *owners, uint32_t block, const struct pool_session *session)
{
    if (owners->by_block[block] == 0)
        owners->by_block[block] = owners_number(owners, session);
}

static inline bool owners_is(const struct owners *owners, uint32_t block,
    const struct pool_session *session)
{
    return owners->by_block[block] == owners_number(owners, session);
}

/* Whether it was the owner. */
static inline bool owners_release(
    struct owners *owners, uint32_t block, const struct pool_session *session)
{
    bool was_owner = owners_is(owners, block, session);

    if (was_owner)
        owners->by_block[block] = 0;
    return was_owner;
}

/* NULL: not known. */
static inline struct pool_session *owners_find(
    const struct owners *owners, uint32_t block)
{
    uint32_t number = owners->by_block[block];

    return number != 0 ? &owners->places[number] : NULL;
}

uint64_t owners_metadata_bytes(uint32_t n_blocks);

#endif
