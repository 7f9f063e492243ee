/* How many connections there are, at most.
 *
 * Core closes the descriptors that it was given, and tells nobody. So what is
 * kept of each is its number and the kernel's cookie, which no other socket
 * ever has: where the number's cookie is another, or none, the connection is
 * gone. While connections come that is looked up only once the table is full,
 * and not more often than ten times a second, however many knock.
 *
 * Private to rpc/. Thread: the loop's. */
#ifndef RPC_CONNECTIONS_H
#define RPC_CONNECTIONS_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/error.h"

struct rpc_connection;

/* In the caller's memory. */
struct rpc_connections {
    struct rpc_connection *at;
    size_t n, n_max;
    int64_t looked_ns; /* when it was last full, monotonic */
    uint64_t refused_total;
};

/* KV_NO_MEMORY. */
enum kv_status rpc_connections_init(
    struct rpc_connections *connections, size_t n_max);
void rpc_connections_fini(struct rpc_connections *connections);

/* A connected socket that somebody else will close. false: there are n_max
 * already, it is still the caller's. */
bool rpc_connections_add(
    struct rpc_connections *connections, int fd, int64_t now_ns);

/* Shuts those that are left down, both ways: what was sent to us can still be
 * read, what is written afterwards fails here and there. Core reads the end
 * and closes the descriptor. */
void rpc_connections_end(struct rpc_connections *connections);

bool rpc_connections_any(struct rpc_connections *connections);

#endif
