/* grpc.health.v1.Health: Check and Watch.
 *
 * Private to rpc/. Thread: the loop's. */
#ifndef RPC_HEALTH_H
#define RPC_HEALTH_H

#include <stdbool.h>

#include "rpc/server.h"

struct rpc_health;

/* Adds its methods to server. KV_NO_MEMORY. */
enum kv_status rpc_health_open(
    struct rpc_health **out, struct rpc_server *server);

/* A service becomes known with the first call. Watchers hear of changes; one
 * that reads slowly hears of the last only. */
void rpc_health_set(
    struct rpc_health *health, const char *service, bool serving);

/* Nothing is served any more, and watchers' streams end after they heard it. */
void rpc_health_end(struct rpc_health *health);

/* Without watchers. NULL is fine. */
void rpc_health_close(struct rpc_health *health);

#endif
