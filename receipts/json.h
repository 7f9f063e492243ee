/* Receipts as JSON: one flat object, the envelope's members and those of the
 * kind, under the contract's names and in its order.
 *
 *   {"event": "kv_eviction", "sequence": 1041, "epoch": 3,
 *    "time_unix_ns": 1763755000123456789, "time": "2025-11-21T...Z", ...,
 *    "session_id": "chat-7", "reason": "Lru", "before": {...}, ...}
 *
 * Beside what is stored:
 *   event        "kv_" and the name of the kind: kv_eviction,
 *                kv_eviction_batch, kv_pool_snapshot, kv_allocation,
 *                kv_lifecycle, kv_recomputation, kv_release; kv_unknown for a
 *                kind of a newer contract
 *   time         time_unix_ns as RFC 3339, in UTC
 *   in statistics, the derived figures by the original's names:
 *                memory_utilization hit_rate average_session_length
 *                memory_pool_efficiency
 *
 * Numbers are numbers, 64-bit ones too: a reader in JavaScript must not take
 * them for doubles. An unsigned one above 2^63 - 1 is a string of its decimal
 * digits. Bytes are lower-case hexadecimal. Reasons are "Manual", "Lru", "Ttl",
 * "Quota", "Pressure", "Shutdown", results of a call "evicted", "not_found",
 * "pinned", "busy", "nothing_to_free"; a value of a newer contract is its
 * number. Members with default values are there; absent messages and the
 * unset members of a oneof are not. Text that is not UTF-8 has U+FFFD where it
 * is not, and a number that is not finite is null: neither comes from our
 * ledger. Fields of a newer contract are left out: the bytes of a receipt, not
 * its JSON, are its identity. */
#ifndef RECEIPTS_JSON_H
#define RECEIPTS_JSON_H

#include <jansson.h>

#include "base/error.h"
#include "kvpool/v1/receipts.pb-c.h"
#include "kvpool/v1/stats.pb-c.h"

/* A new reference, or NULL when there is no memory. */
json_t *receipt_to_json(const Kvpool__V1__Receipt *receipt);
json_t *pool_statistics_to_json(const Kvpool__V1__PoolStatistics *stats);

/* The reverse, strict: an unknown member, a wrong type, a number out of range,
 * two members of one oneof, and a derived figure that does not follow from what
 * is stored are KV_INVALID, and *error names the member. `event` must be there;
 * another member that is missing has its default value. KV_NO_MEMORY. Free with
 * kvpool__v1__receipt__free_unpacked(receipt, NULL). */
enum kv_status receipt_from_json(
    const json_t *json, Kvpool__V1__Receipt **out, struct kv_error *error);

/* "Manual" ...; "Unknown" for numbers of a newer contract. */
const char *eviction_reason_name(Kvpool__V1__EvictionReason reason);

#endif
