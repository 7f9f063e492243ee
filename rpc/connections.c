#include "rpc/connections.h"

#include <sys/socket.h>

#include "base/clock.h"
#include "base/heap.h"

#define LOOK_NS (100 * KV_NS_PER_MS)

struct rpc_connection {
    uint64_t cookie; /* 0: it had none, so it counts as gone */
    int fd;
};

enum kv_status rpc_connections_init(
    struct rpc_connections *connections, size_t n_max)
{
    *connections = (struct rpc_connections){.n_max = n_max};
    connections->at = kv_calloc(n_max, sizeof *connections->at);
    return connections->at != NULL ? KV_OK : KV_NO_MEMORY;
}

void rpc_connections_fini(struct rpc_connections *connections)
{
    kv_free(connections->at);
}

/* 0: it is no socket. */
static uint64_t read_cookie(int fd)
{
    uint64_t cookie = 0;
    socklen_t n = sizeof cookie;

    if (getsockopt(fd, SOL_SOCKET, SO_COOKIE, &cookie, &n) != 0)
        return 0;
    return cookie;
}

static void drop_those_that_are_gone(struct rpc_connections *connections)
{
    size_t n_left = 0;

    for (size_t i = 0; i < connections->n; i++) {
        struct rpc_connection *each = &connections->at[i];

        if (each->cookie != 0 && read_cookie(each->fd) == each->cookie)
            connections->at[n_left++] = *each;
    }
    connections->n = n_left;
}

static bool is_time_to_look(
    const struct rpc_connections *connections, int64_t now_ns)
{
    return connections->looked_ns == 0 ||
           now_ns - connections->looked_ns >= LOOK_NS;
}

bool rpc_connections_add(
    struct rpc_connections *connections, int fd, int64_t now_ns)
{
    if (connections->n == connections->n_max &&
        is_time_to_look(connections, now_ns)) {
        connections->looked_ns = now_ns;
        drop_those_that_are_gone(connections);
    }
    if (connections->n == connections->n_max) {
        connections->refused_total++;
        return false;
    }
    connections->at[connections->n++] =
        (struct rpc_connection){.cookie = read_cookie(fd), .fd = fd};
    return true;
}

void rpc_connections_end(struct rpc_connections *connections)
{
    drop_those_that_are_gone(connections);
    for (size_t i = 0; i < connections->n; i++)
        shutdown(connections->at[i].fd, SHUT_RDWR);
}

bool rpc_connections_any(struct rpc_connections *connections)
{
    drop_those_that_are_gone(connections);
    return connections->n > 0;
}
