/* Which prefix keys blocks have been told to have, by offset.
 *
 *   first told ──> known ──another holder tells──> settled ──one left──> known
 *                    └──told again, otherwise──> known
 *
 * A full block that several hold never changes, so all of them tell one key. A
 * single holder may go on from within it, and fill it with something else.
 *
 * Thread: any one at a time. */
#ifndef RECEIPTS_REPLAY_KEYS_H
#define RECEIPTS_REPLAY_KEYS_H

#include <stdbool.h>
#include <stdint.h>

#include "base/map.h"
#include "base/status.h"
#include "receipts/replay.h"

/* The caller's memory. */
struct replay_keys {
    struct kv_map by_offset;
};

/* KV_NO_MEMORY. */
enum kv_status replay_keys_init(
    struct replay_keys *keys, const uint64_t secret[2]);
void replay_keys_fini(struct replay_keys *keys);

/* KV_INVALID: others hold the block, and have told another key; KV_NO_MEMORY.
 */
enum kv_status replay_keys_tell(struct replay_keys *keys, uint64_t offset,
    const uint8_t *key, bool is_shared);

/* Whether that is what was told of it. */
bool replay_keys_has(
    const struct replay_keys *keys, uint64_t offset, const uint8_t *key);

/* One of its holders is left, or none. */
void replay_keys_unsettle(struct replay_keys *keys, uint64_t offset);
void replay_keys_forget(struct replay_keys *keys, uint64_t offset);

#endif
