#include "server/pool_exhausted.h"

#include <inttypes.h>
#include <stdio.h>

#include "base/clock.h"

static void add_blocks(
    const struct server *server, uint64_t n_needed, struct rpc_error *error)
{
    struct pool_blocks blocks = pool_blocks(server->pool);

    rpc_error_add_metadata(error, "needed_blocks", "%" PRIu64, n_needed);
    rpc_error_add_metadata(error, "total_blocks", "%" PRIu64, blocks.total);
    rpc_error_add_metadata(error, "pinned_blocks", "%" PRIu64, blocks.pinned);
}

void pool_exhausted_sessions(
    const struct server *server, size_t n_tokens, struct rpc_error *error)
{
    uint32_t block_tokens = pool_config(server->pool)->block_tokens;

    rpc_error_init(error, RPC_RESOURCE_EXHAUSTED, "POOL_EXHAUSTED",
        "%" PRIu64 " sessions run, and no more than that may be known "
        "(max_sessions)",
        server->options->max_sessions);
    add_blocks(server, (n_tokens + block_tokens - 1) / block_tokens, error);
}

void pool_exhausted_held(const struct server *server,
    const struct request_shortage *shortage, struct rpc_error *error)
{
    int64_t first_end_ns = shortage->holds.first_end_ns;
    int64_t left_ns = first_end_ns - kv_clock_mono_ns();
    char end[64] = "never by itself";

    left_ns = left_ns > 0 ? left_ns : 0;
    if (first_end_ns < INT64_MAX)
        snprintf(end, sizeof end, "in %" PRId64 " s",
            (left_ns + KV_NS_PER_S - 1) / KV_NS_PER_S);
    rpc_error_init(error, RPC_RESOURCE_EXHAUSTED, "POOL_EXHAUSTED",
        "the request needs %" PRIu64 " blocks of %" PRIu64 ", and %" PRIu64
        " sessions under pins and leases hold %" PRIu64
        "; the first of them is free again %s",
        shortage->needed_blocks, pool_blocks(server->pool).total,
        shortage->holds.n_sessions, shortage->held_blocks, end);
    add_blocks(server, shortage->needed_blocks, error);
    rpc_error_add_metadata(
        error, "held_blocks", "%" PRIu64, shortage->held_blocks);
    rpc_error_add_metadata(
        error, "held_sessions", "%" PRIu64, shortage->holds.n_sessions);
    if (first_end_ns < INT64_MAX)
        rpc_error_add_metadata(error, "held_until_unix_ns", "%" PRId64,
            kv_clock_wall_ns() + left_ns);
}
