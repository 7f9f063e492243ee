#include "rpc/listener.h"

#include <errno.h>
#include <netdb.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

#include "base/heap.h"
#include "base/log.h"
#include "rpc/address.h"

#define PAUSE_MS 100
#define MAX_ACCEPTS 32 /* in one callback, so that nobody else waits long */

struct rpc_listener {
    int fd;
    struct rpc_address address;
    char text[sizeof((struct rpc_address *)NULL)->host + 16];
    struct stat file; /* of a unix socket, to unlink no other's */

    bool started;
    uv_poll_t poll;
    uv_timer_t pause;
    int n_open_handles;
    rpc_accept_cb on_accept;
    void *ctx;
    uint64_t failures_total;
};

/* ---- binding */

static int open_socket(int family)
{
    const int on = 1;
    int fd = socket(family, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);

    if (fd < 0 || family == AF_UNIX)
        return fd;
    setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &on, sizeof on);
    if (family == AF_INET6)
        setsockopt(fd, IPPROTO_IPV6, IPV6_V6ONLY, &on, sizeof on);
    return fd;
}

/* A listening socket, or -1 and errno. */
static int bind_address(const struct sockaddr *address, socklen_t n)
{
    int fd = open_socket(address->sa_family), cause;

    if (fd < 0)
        return -1;
    if (bind(fd, address, n) == 0 && listen(fd, SOMAXCONN) == 0)
        return fd;
    cause = errno;
    close(fd);
    errno = cause;
    return -1;
}

static enum kv_status cannot_bind(
    const char *text, int cause, struct kv_error *error)
{
    return kv_error_set(error, KV_IO, "%s: %s", text,
        cause == EADDRINUSE ? "address already in use" : strerror(cause));
}

static uint16_t bound_port(int fd)
{
    struct sockaddr_storage address = {0};
    socklen_t n = sizeof address;

    getsockname(fd, (struct sockaddr *)&address, &n);
    if (address.ss_family == AF_INET6)
        return ntohs(((struct sockaddr_in6 *)&address)->sin6_port);
    return ntohs(((struct sockaddr_in *)&address)->sin_port);
}

static enum kv_status bind_host(
    struct rpc_listener *listener, const char *text, struct kv_error *error)
{
    const struct addrinfo hints = {
        .ai_socktype = SOCK_STREAM, .ai_flags = AI_PASSIVE | AI_NUMERICSERV};
    struct rpc_address *address = &listener->address;
    struct addrinfo *found;
    char port[8];
    int failed;

    snprintf(port, sizeof port, "%u", (unsigned)address->port);
    failed = getaddrinfo(address->host, port, &hints, &found);
    if (failed != 0)
        return kv_error_set(error, KV_IO, "%s: %s", text, gai_strerror(failed));
    for (struct addrinfo *each = found; each != NULL && listener->fd < 0;
         each = each->ai_next)
        listener->fd = bind_address(each->ai_addr, each->ai_addrlen);
    failed = errno;
    freeaddrinfo(found);
    if (listener->fd < 0)
        return cannot_bind(text, failed, error);
    address->port = bound_port(listener->fd);
    snprintf(listener->text, sizeof listener->text,
        strchr(address->host, ':') != NULL ? "[%s]:%u" : "%s:%u", address->host,
        (unsigned)address->port);
    return KV_OK;
}

/* A file of a server that ended without cleaning up refuses connections; one
 * that is in use accepts them, or has a full backlog. */
static bool is_stale(const struct sockaddr_un *address)
{
    struct stat file;
    bool refused;
    int fd;

    if (lstat(address->sun_path, &file) != 0 || !S_ISSOCK(file.st_mode))
        return false;
    fd = open_socket(AF_UNIX);
    if (fd < 0)
        return false;
    refused =
        connect(fd, (const struct sockaddr *)address, sizeof *address) != 0 &&
        errno == ECONNREFUSED;
    close(fd);
    return refused;
}

static enum kv_status bind_unix(
    struct rpc_listener *listener, const char *text, struct kv_error *error)
{
    struct sockaddr_un address = {.sun_family = AF_UNIX};
    const struct sockaddr *generic = (const struct sockaddr *)&address;

    memcpy(address.sun_path, listener->address.host,
        strlen(listener->address.host));
    listener->fd = bind_address(generic, sizeof address);
    if (listener->fd < 0 && errno == EADDRINUSE && is_stale(&address)) {
        unlink(address.sun_path);
        listener->fd = bind_address(generic, sizeof address);
    }
    if (listener->fd < 0)
        return cannot_bind(text, errno, error);
    lstat(address.sun_path, &listener->file);
    snprintf(listener->text, sizeof listener->text, "unix:%s",
        listener->address.host);
    return KV_OK;
}

enum kv_status rpc_listener_open(
    struct rpc_listener **out, const char *address, struct kv_error *error)
{
    struct rpc_listener *listener = kv_calloc(1, sizeof *listener);
    enum kv_status status;

    if (listener == NULL)
        return kv_error_set(
            error, KV_NO_MEMORY, "%.200s: out of memory", address);
    listener->fd = -1;
    status = rpc_address_parse(&listener->address, address, error);
    if (status == KV_OK)
        status = listener->address.is_unix
                     ? bind_unix(listener, address, error)
                     : bind_host(listener, address, error);
    if (status != KV_OK) {
        kv_free(listener);
        return status;
    }
    *out = listener;
    return KV_OK;
}

/* ---- accepting */

static void on_readable(uv_poll_t *poll, int status, int events);

static void resume(struct rpc_listener *listener)
{
    uv_poll_start(&listener->poll, UV_READABLE, on_readable);
}

static void on_pause_over(uv_timer_t *timer)
{
    resume(timer->data);
}

static void pause_accepting(struct rpc_listener *listener, int cause)
{
    listener->failures_total++;
    if (kv_log_is_due(listener->failures_total))
        kv_log(KV_LOG_WARN, "kvpool::rpc", "accepting pauses",
            KV_LOG_TEXT("address", listener->text),
            KV_LOG_TEXT("cause", strerror(cause)),
            KV_LOG_UINT("times", listener->failures_total));
    uv_poll_stop(&listener->poll);
    uv_timer_start(&listener->pause, on_pause_over, PAUSE_MS, 0);
}

/* Failures of the one connection, which is gone already. */
static bool is_passing(int cause)
{
    switch (cause) {
    case EINTR:
    case ECONNABORTED:
    case EPROTO:
    case EPERM: /* a firewall's rule */
    case ENETDOWN:
    case ENOPROTOOPT:
    case EHOSTDOWN:
    case ENONET:
    case EHOSTUNREACH:
    case EOPNOTSUPP:
    case ENETUNREACH:
        return true;
    default:
        return false;
    }
}

static void hand_on(struct rpc_listener *listener, int fd)
{
    const int on = 1;

    if (!listener->address.is_unix)
        setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &on, sizeof on);
    listener->on_accept(listener->ctx, fd);
}

static void on_readable(uv_poll_t *poll, int status, int events)
{
    struct rpc_listener *listener = poll->data;
    int fd;

    (void)status; /* accept4 tells better */
    (void)events;
    for (int i = 0; i < MAX_ACCEPTS; i++) {
        fd = accept4(listener->fd, NULL, NULL, SOCK_NONBLOCK | SOCK_CLOEXEC);
        if (fd >= 0) {
            hand_on(listener, fd);
        } else if (errno == EAGAIN) {
            return;
        } else if (!is_passing(errno)) {
            pause_accepting(listener, errno);
            return;
        }
    }
}

enum kv_status rpc_listener_start(struct rpc_listener *listener, uv_loop_t *uv,
    rpc_accept_cb on_accept, void *ctx, struct kv_error *error)
{
    int failed = uv_poll_init(uv, &listener->poll, listener->fd);

    if (failed != 0)
        return kv_error_set(
            error, KV_IO, "%s: %s", listener->text, uv_strerror(failed));
    uv_timer_init(uv, &listener->pause);
    listener->poll.data = listener->pause.data = listener;
    listener->n_open_handles = 2;
    listener->started = true;
    listener->on_accept = on_accept;
    listener->ctx = ctx;
    resume(listener);
    return KV_OK;
}

/* ---- closing */

static void on_handle_closed(uv_handle_t *handle)
{
    struct rpc_listener *listener = handle->data;

    if (--listener->n_open_handles == 0)
        kv_free(listener);
}

static void unlink_own_file(const struct rpc_listener *listener)
{
    const char *path = listener->address.host;
    struct stat file;

    if (lstat(path, &file) == 0 && file.st_dev == listener->file.st_dev &&
        file.st_ino == listener->file.st_ino)
        unlink(path);
}

void rpc_listener_close(struct rpc_listener *listener)
{
    if (listener->address.is_unix)
        unlink_own_file(listener);
    if (listener->started) {
        uv_close((uv_handle_t *)&listener->poll, on_handle_closed);
        uv_close((uv_handle_t *)&listener->pause, on_handle_closed);
    }
    close(listener->fd);
    if (!listener->started)
        kv_free(listener);
}

const char *rpc_listener_address(const struct rpc_listener *listener)
{
    return listener->text;
}

uint64_t rpc_listener_failures_total(const struct rpc_listener *listener)
{
    return listener->failures_total;
}
