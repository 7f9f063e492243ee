/* The last evictions of a ledger, for those who come back to them.
 *
 * The latest RECALL_EVICTIONS are remembered, by a hash of the session's name;
 * of an older one nothing can be said.
 *
 * Thread: any one at a time. */
#ifndef RECEIPTS_RECALL_H
#define RECEIPTS_RECALL_H

#include <stdint.h>

#include "base/status.h"

#define RECALL_EVICTIONS 8192

struct recall;

struct recall_eviction {
    uint64_t sequence;
    int64_t mono_ns;
    uint32_t reason;
    const char *tenant, *session_id; /* borrowed for the call */
};

/* KV_NO_MEMORY. */
enum kv_status recall_open(struct recall **out);
void recall_close(struct recall *recall); /* NULL is fine */

/* Another epoch has begun. */
void recall_clear(struct recall *recall);

/* Sequences ascend. */
void recall_add(struct recall *recall, const struct recall_eviction *eviction);

/* The session came back to the eviction of this sequence, whose time and reason
 * are filled in; each is taken once.
 *   KV_NOT_FOUND  it was too long ago
 *   KV_INVALID    it was another session's, or there was none
 *   KV_BUSY       it was taken before */
enum kv_status recall_take(
    struct recall *recall, struct recall_eviction *eviction);

#endif
