/* Quotas of tenants, from the options to the pool and to a refusal. */
#ifndef SERVER_QUOTAS_H
#define SERVER_QUOTAS_H

#include "engine/scheduler.h"
#include "pool/pool.h"
#include "rpc/error.h"
#include "server/options.h"

/* KV_NO_MEMORY changes nothing. */
enum kv_status quotas_apply(const struct options *options, struct pool *pool);

/* QUOTA_EXCEEDED, with the numbers. */
void quotas_refuse(struct rpc_error *error, const char *tenant,
    const struct request_quota *quota);

#endif
