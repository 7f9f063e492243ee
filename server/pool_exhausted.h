/* Refusals for want of blocks: RESOURCE_EXHAUSTED, POOL_EXHAUSTED. */
#ifndef SERVER_POOL_EXHAUSTED_H
#define SERVER_POOL_EXHAUSTED_H

#include "rpc/error.h"
#include "server/server.h"

/* As many sessions run as may be known; the request has n_tokens. */
void pool_exhausted_sessions(
    const struct server *server, size_t n_tokens, struct rpc_error *error);

/* Pins and leases hold what the request needs. */
void pool_exhausted_held(const struct server *server,
    const struct request_shortage *shortage, struct rpc_error *error);

#endif
