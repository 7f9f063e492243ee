/* Receipts as JSON: snake_case fields of the contract, 64-bit numbers as
 * numbers, bytes as lower-case hexadecimal, and beside the stored fields
 *   event                "kv_eviction", "kv_eviction_batch",
 * "kv_pool_snapshot", ... reason               "Manual", "Lru", "Ttl", "Quota",
 * "Pressure", "Shutdown" time                 RFC 3339 of time_unix_ns and in
 * statistics the derived figures by the original's names: memory_utilization
 * hit_rate average_session_length memory_pool_efficiency */
#ifndef RECEIPTS_JSON_H
#define RECEIPTS_JSON_H

#include <jansson.h>

#include "base/error.h"
#include "kvpool/v1/receipts.pb-c.h"
#include "kvpool/v1/stats.pb-c.h"

/* A new reference, or NULL when there is no memory. */
json_t *receipt_to_json(const Kvpool__V1__Receipt *receipt);
json_t *pool_statistics_to_json(const Kvpool__V1__PoolStatistics *stats);

/* The reverse; what is derived is checked against what it derives from. Free
 * with kvpool__v1__receipt__free_unpacked. KV_INVALID names the member. */
enum kv_status receipt_from_json(
    const json_t *json, Kvpool__V1__Receipt **out, struct kv_error *error);

/* "Manual" ...; "Unknown" for numbers of a newer contract. */
const char *eviction_reason_name(Kvpool__V1__EvictionReason reason);

#endif
