/* Accepts connections, on a uv loop, and hands their descriptors on.
 *
 *   open ─> start ─> [on_accept] ─> close
 *
 * Running out of descriptors or buffers is a pause of 100 ms, not the end: the
 * callers wait in the backlog meanwhile.
 *
 * Thread: the loop's. */
#ifndef RPC_LISTENER_H
#define RPC_LISTENER_H

#include <stdint.h>

#include <uv.h>

#include "base/error.h"

struct rpc_listener;

/* fd is connected, non-blocking, and the callback's from now on. */
typedef void (*rpc_accept_cb)(void *ctx, int fd);

/* Binds and listens; nothing is accepted yet. A name that has several addresses
 * takes the first that can be bound; an IPv6 address takes IPv6 only. A unix
 * socket's file that nobody listens on any more is replaced.
 *   KV_INVALID  not an address
 *   KV_IO       cannot be bound: *error says which and why */
enum kv_status rpc_listener_open(
    struct rpc_listener **out, const char *address, struct kv_error *error);

enum kv_status rpc_listener_start(struct rpc_listener *listener, uv_loop_t *uv,
    rpc_accept_cb on_accept, void *ctx, struct kv_error *error);

/* Refuses whoever comes from now on. If it was started, the loop must run uv
 * once more, which frees it. */
void rpc_listener_close(struct rpc_listener *listener);

/* As given, with the real port. Borrowed. */
const char *rpc_listener_address(const struct rpc_listener *listener);

/* Times that accepting had to pause. */
uint64_t rpc_listener_failures_total(const struct rpc_listener *listener);

#endif
