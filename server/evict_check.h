/* Whether an Evict request can be asked at all: its targets, its limits. */
#ifndef SERVER_EVICT_CHECK_H
#define SERVER_EVICT_CHECK_H

#include <stdbool.h>
#include <stdint.h>

#include "kvpool/v1/pool_service.pb-c.h"
#include "rpc/error.h"

#define EVICT_MAX_TARGETS 256
#define EVICT_MAX_SESSIONS 10000
#define EVICT_MAX_PAGE 1000
#define EVICT_MAX_TENANTS 64 /* of one target */

/* What is in force where the request leaves it open. */
struct evict_limits {
    uint32_t max_sessions, page_size;
};

/* Adds a violation for each thing that is not allowed to *error, which starts
 * zeroed; *limits holds if there is none. */
void evict_check(struct rpc_error *error,
    const Kvpool__V1__EvictRequest *request, struct evict_limits *limits);

/* Whether the request is to be remembered under its id. */
bool evict_is_named(const Kvpool__V1__EvictRequest *request);

#endif
