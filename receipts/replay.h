/* Who holds which blocks, as receipts tell it. It knows nothing but what it is
 * told: no code of the pool, none of its numbers.
 *
 * `complete` from a boot on: then every block in use is known. Before that, of
 * a ledger read from its middle, blocks that were never told of may be anyone's
 * and what is known of the others must still hold.
 *
 * Memory: about 64 bytes for each block and holder, and 72 for its key.
 * Functions that say KV_INVALID fill in *error; nothing is to be added then.
 *
 * Thread: any one at a time. */
#ifndef RECEIPTS_REPLAY_H
#define RECEIPTS_REPLAY_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/error.h"

struct replay;

/* Blocks that one receipt may tell of: what a few bytes claim takes memory. */
#define REPLAY_MAX_BLOCKS 65536

#define REPLAY_KEY_BYTES 32 /* of a block's prefix key */

/* An empty id is a request without a session: there may be several of a tenant.
 */
struct replay_holder {
    const char *tenant, *id;
};

struct replay_extent {
    uint64_t offset, size;
};

/* KV_NO_MEMORY. */
enum kv_status replay_open(struct replay **out);
void replay_close(struct replay *replay); /* NULL is fine */

/* The pool is empty, and all that follows will be told. */
void replay_begin(struct replay *replay, uint64_t block_bytes);

/* Nothing is known any more. */
void replay_clear(struct replay *replay);

/* Bytes of a block, where the ledger was not read from a boot on; until then
 * blocks are not followed. Told again it is ignored. */
void replay_set_block_bytes(struct replay *replay, uint64_t block_bytes);

/* These blocks came into use for the holder. KV_INVALID, KV_NO_MEMORY. */
enum kv_status replay_allocate(struct replay *replay,
    const struct replay_holder *holder, const struct replay_extent *extent,
    struct kv_error *error);

/* The holder came to hold blocks that others hold. KV_INVALID, KV_NO_MEMORY. */
enum kv_status replay_share(struct replay *replay,
    const struct replay_holder *holder, const struct replay_extent *extent,
    struct kv_error *error);

/* The holder, the only one, gave them up. KV_INVALID. */
enum kv_status replay_free(struct replay *replay,
    const struct replay_holder *holder, const struct replay_extent *extent,
    struct kv_error *error);

/* The holder gave them up, and others hold them still. KV_INVALID. */
enum kv_status replay_drop(struct replay *replay,
    const struct replay_holder *holder, const struct replay_extent *extent,
    struct kv_error *error);

/* The holder was evicted: what it holds yet must be n_shared blocks that others
 * hold too, and it holds them no longer. KV_INVALID. */
enum kv_status replay_drop_all(struct replay *replay,
    const struct replay_holder *holder, uint64_t n_shared,
    struct kv_error *error);

/* The holder says that a block, which it holds, is full and has this key of
 * REPLAY_KEY_BYTES: the same as for everybody who holds it too. KV_INVALID,
 * KV_NO_MEMORY. */
enum kv_status replay_tell_key(struct replay *replay,
    const struct replay_holder *holder, uint64_t offset, const uint8_t *key,
    struct kv_error *error);

/* What comes next for the holder follows a block with this key: it must be that
 * of one that it holds. KV_INVALID. */
enum kv_status replay_check_parent(const struct replay *replay,
    const struct replay_holder *holder, const uint8_t *key,
    struct kv_error *error);

/* Whether so many bytes may be in use. KV_INVALID. */
enum kv_status replay_check_used(
    const struct replay *replay, uint64_t used_bytes, struct kv_error *error);

/* ---- reading */

uint64_t replay_used_blocks(const struct replay *replay);
/* Whether the holder holds the block at this offset. */
bool replay_holds(const struct replay *replay,
    const struct replay_holder *holder, uint64_t offset);
uint64_t replay_held_blocks(
    const struct replay *replay, const struct replay_holder *holder);

#endif
