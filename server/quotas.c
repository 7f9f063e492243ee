#include "server/quotas.h"

#include <inttypes.h>
#include <string.h>

#include "base/heap.h"
#include "server/options_tenants.h"

static struct pool_quota pool_quota_of(uint64_t soft, uint64_t hard)
{
    return (struct pool_quota){(uint32_t)soft, (uint32_t)hard};
}

enum kv_status quotas_apply(const struct options *options, struct pool *pool)
{
    const struct option_tenants *tenants = &options->tenants;
    struct pool_tenant_quota *list = kv_calloc(tenants->n + 1, sizeof *list);
    const struct pool_quotas quotas = {
        .standard = pool_quota_of(
            options->tenant_soft_blocks, options->tenant_hard_blocks),
        .list = list,
        .n = tenants->n,
    };
    enum kv_status status;

    if (list == NULL)
        return KV_NO_MEMORY;
    for (size_t i = 0; i < tenants->n; i++)
        list[i] = (struct pool_tenant_quota){
            .tenant = tenants->list[i].name,
            .tenant_bytes = strlen(tenants->list[i].name),
            .quota = pool_quota_of(tenants->list[i].quota.soft_blocks,
                tenants->list[i].quota.hard_blocks),
        };
    status = pool_set_quotas(pool, &quotas);
    kv_free(list);
    return status;
}

void quotas_refuse(struct rpc_error *error, const char *tenant,
    const struct request_quota *quota)
{
    rpc_error_init(error, RPC_RESOURCE_EXHAUSTED, "QUOTA_EXCEEDED",
        "the tenant has %" PRIu64 " blocks and needs %" PRIu64
        " more; its quota is %" PRIu64,
        quota->used_blocks, quota->needed_blocks, quota->quota_blocks);
    rpc_error_add_metadata(error, "tenant", "%s", tenant);
    rpc_error_add_metadata(
        error, "used_blocks", "%" PRIu64, quota->used_blocks);
    rpc_error_add_metadata(
        error, "needed_blocks", "%" PRIu64, quota->needed_blocks);
    rpc_error_add_metadata(
        error, "quota_blocks", "%" PRIu64, quota->quota_blocks);
}
