/* For each block one of the sessions that hold it, for whoever draws the arena,
 * and to find the tokens of a block that is found (see share.c).
 *
 * The first that holds a block is its owner. When it gives the block up and
 * others have it still, nobody is known until the next that takes it. Sessions
 * have small numbers for this, which takes four bytes a block. */
#ifndef POOL_OWNERS_H
#define POOL_OWNERS_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/status.h"

struct pool_session;

struct owners {
    uint32_t *by_block; /* number of a session; 0: not known */
    union owner_slot {
        struct pool_session *session;
        uintptr_t next_free;
    } * slots; /* by number; that of 0 heads the list of free ones */
};

/* KV_NO_MEMORY. */
enum kv_status owners_init(
    struct owners *owners, uint32_t n_blocks, uint32_t max_sessions);
void owners_fini(struct owners *owners);

/* A number for a session, of which there are at most max_sessions. */
uint32_t owners_enter(struct owners *owners, struct pool_session *session);
/* It holds no block any more. */
void owners_leave(struct owners *owners, uint32_t number);

static inline void owners_hold(
    struct owners *owners, uint32_t block, uint32_t number)
{
    if (owners->by_block[block] == 0)
        owners->by_block[block] = number;
}

static inline bool owners_is(
    const struct owners *owners, uint32_t block, uint32_t number)
{
    return owners->by_block[block] == number;
}

static inline void owners_release(
    struct owners *owners, uint32_t block, uint32_t number)
{
    if (owners_is(owners, block, number))
        owners->by_block[block] = 0;
}

/* NULL: not known. */
static inline struct pool_session *owners_find(
    const struct owners *owners, uint32_t block)
{
    uint32_t number = owners->by_block[block];

    return number != 0 ? owners->slots[number].session : NULL;
}

uint64_t owners_metadata_bytes(uint32_t n_blocks, uint32_t max_sessions);

#endif
