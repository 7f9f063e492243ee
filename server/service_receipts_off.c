/* StreamReceipts in a build without receipts. */
#include "server/server.h"

static void on_stream(void *ctx, struct rpc_call *call,
    const unsigned char *bytes, size_t n_bytes)
{
    struct rpc_error error;

    (void)ctx;
    (void)bytes;
    (void)n_bytes;
    rpc_error_init(&error, RPC_UNIMPLEMENTED, "RECEIPTS_NOT_BUILT",
        "this server was built without receipts");
    rpc_error_add_metadata(&error, "option", "KVPOOL_RECEIPTS");
    rpc_call_fail(call, &error);
}

enum kv_status service_receipts_add(struct server *server)
{
    const struct rpc_method method = {"/kvpool.v1.KvPoolService/StreamReceipts",
        RPC_SERVER_STREAM, on_stream, server};

    return rpc_server_add_method(server->rpc, &method);
}

void service_receipts_start(struct server *server)
{
    (void)server;
}

void service_receipts_drain(struct server *server)
{
    (void)server;
}
