/* StreamReceipts and the proofs in a build without receipts. */
#include <string.h>

#include "server/server.h"
#include "server/subscriber_status.h"

static void on_call(void *ctx, struct rpc_call *call,
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

#define PATH "/kvpool.v1.KvPoolService/"

enum kv_status service_receipts_add(struct server *server)
{
    const struct rpc_method method = {
        PATH "StreamReceipts", RPC_SERVER_STREAM, on_call, server};

    return rpc_server_add_method(server->rpc, &method);
}

enum kv_status service_proof_add(struct server *server)
{
    const struct rpc_method methods[] = {
        {PATH "GetCheckpoint", RPC_UNARY, on_call, server},
        {PATH "GetInclusionProof", RPC_UNARY, on_call, server},
        {PATH "GetConsistencyProof", RPC_UNARY, on_call, server},
    };
    enum kv_status status = KV_OK;

    for (size_t i = 0; i < sizeof methods / sizeof *methods; i++)
        if (status == KV_OK)
            status = rpc_server_add_method(server->rpc, &methods[i]);
    return status;
}

void service_receipts_start(struct server *server)
{
    (void)server;
}

void service_receipts_drain(struct server *server)
{
    (void)server;
}

void service_proof_start(struct server *server)
{
    (void)server;
}

enum kv_status subscriber_status_fill(
    struct subscriber_status_list *out, struct server *server)
{
    (void)server;
    memset(out, 0, sizeof *out);
    return KV_OK;
}

void subscriber_status_fini(struct subscriber_status_list *list)
{
    (void)list;
}
