/* Addresses as they are written: "host:port", "[v6]:port", "unix:/path". */
#ifndef RPC_ADDRESS_H
#define RPC_ADDRESS_H

#include <stdbool.h>
#include <stdint.h>

#include "base/error.h"

struct rpc_address {
    bool is_unix;
    char host[256]; /* or the path; without brackets */
    uint16_t port;
};

/* KV_INVALID and *error, which names the text and what is allowed. */
enum kv_status rpc_address_parse(
    struct rpc_address *out, const char *text, struct kv_error *error);

#endif
