#include "rpc/client.h"

#include <grpc/health/v1/health.pb-c.h>

#include "base/heap.h"
#include "rpc/proto.h"

#define CHECK_PATH "/grpc.health.v1.Health/Check"

static const char *status_name(int status)
{
    const ProtobufCEnumValue *value = protobuf_c_enum_descriptor_get_value(
        &grpc__health__v1__health_check_response__serving_status__descriptor,
        status);

    return value != NULL ? value->name : "UNKNOWN";
}

enum rpc_code rpc_client_check_health(struct rpc_client *client,
    const struct rpc_client_options *options, const char **status,
    struct rpc_error *error)
{
    unsigned char *bytes = NULL;
    size_t n_bytes = 0;
    Grpc__Health__V1__HealthCheckResponse *answer;
    enum rpc_code code = rpc_client_call(
        client, CHECK_PATH, "", 0, options, &bytes, &n_bytes, error);

    if (code != RPC_OK)
        return code;
    answer = grpc__health__v1__health_check_response__unpack(
        RPC_PROTO_ALLOCATOR, n_bytes, bytes);
    kv_free(bytes);
    if (answer == NULL) {
        rpc_error_init(
            error, RPC_INTERNAL, "", "the answer is no health check's");
        return RPC_INTERNAL;
    }
    *status = status_name(answer->status);
    grpc__health__v1__health_check_response__free_unpacked(
        answer, RPC_PROTO_ALLOCATOR);
    return RPC_OK;
}
