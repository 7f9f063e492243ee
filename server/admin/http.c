#include "server/admin/http.h"

#include <limits.h>
#include <string.h>
#include <sys/socket.h>

#include <microhttpd.h>

#include "base/heap.h"

struct http {
    struct MHD_Daemon *daemon;
    http_page_cb make_page;
    void *ctx;
};

/* ---- answers */

static enum MHD_Result answer(
    struct MHD_Connection *connection, const struct http_page *page)
{
    struct MHD_Response *response =
        MHD_create_response_from_buffer_with_free_callback(
            page->n_bytes, page->text, kv_free);
    enum MHD_Result result;

    if (response == NULL) {
        kv_free(page->text);
        return MHD_NO; /* the connection is closed */
    }
    if (page->content_type != NULL)
        MHD_add_response_header(
            response, MHD_HTTP_HEADER_CONTENT_TYPE, page->content_type);
    if (page->status == MHD_HTTP_METHOD_NOT_ALLOWED)
        MHD_add_response_header(response, MHD_HTTP_HEADER_ALLOW, "GET, HEAD");
    MHD_add_response_header(
        response, MHD_HTTP_HEADER_CACHE_CONTROL, "no-store");
    result = MHD_queue_response(connection, page->status, response);
    MHD_destroy_response(response);
    return result;
}

/* Called when the head of a request is there, with *seen NULL, and again when
 * all of it is. */
static enum MHD_Result on_request(void *ctx, struct MHD_Connection *connection,
    const char *path, const char *method, const char *version, const char *body,
    size_t *n_body, void **seen)
{
    struct http *http = ctx;
    struct http_page page = {.status = MHD_HTTP_METHOD_NOT_ALLOWED};

    (void)version;
    (void)body;
    if (*seen == NULL) {
        *seen = http;
        return MHD_YES;
    }
    if (*n_body > 0) { /* nobody wants it */
        *n_body = 0;
        return MHD_YES;
    }
    if (strcmp(method, MHD_HTTP_METHOD_GET) == 0 ||
        strcmp(method, MHD_HTTP_METHOD_HEAD) == 0)
        http->make_page(http->ctx, path, &page);
    return answer(connection, &page);
}

/* ---- its life */

enum kv_status http_open(
    struct http **out, const struct http_config *config, struct kv_error *error)
{
    struct http *http = kv_calloc(1, sizeof *http);

    if (http == NULL)
        return kv_error_set(error, KV_NO_MEMORY, "no memory for HTTP");
    http->make_page = config->make_page;
    http->ctx = config->ctx;
    http->daemon = MHD_start_daemon(MHD_USE_EPOLL | MHD_USE_NO_LISTEN_SOCKET, 0,
        NULL, NULL, on_request, http, MHD_OPTION_CONNECTION_LIMIT,
        (unsigned)config->max_connections, MHD_OPTION_CONNECTION_TIMEOUT,
        (unsigned)config->idle_s, MHD_OPTION_END);
    if (http->daemon == NULL) {
        kv_free(http);
        return kv_error_set(error, KV_IO, "HTTP cannot be started");
    }
    *out = http;
    return KV_OK;
}

void http_close(struct http *http)
{
    if (http == NULL)
        return;
    MHD_stop_daemon(http->daemon);
    kv_free(http);
}

/* It asks for an address and does nothing with it but show it. */
void http_take(struct http *http, int fd)
{
    struct sockaddr_storage peer = {.ss_family = AF_UNSPEC};
    socklen_t n = sizeof peer;

    getpeername(fd, (struct sockaddr *)&peer, &n);
    MHD_add_connection(http->daemon, fd, (struct sockaddr *)&peer, n);
}

int http_fd(const struct http *http)
{
    return MHD_get_daemon_info(http->daemon, MHD_DAEMON_INFO_EPOLL_FD)
        ->epoll_fd;
}

void http_run(struct http *http)
{
    MHD_run(http->daemon);
}

int64_t http_timeout_ms(const struct http *http)
{
    MHD_UNSIGNED_LONG_LONG ms;

    if (MHD_get_timeout(http->daemon, &ms) != MHD_YES)
        return -1;
    return ms < INT_MAX ? (int64_t)ms : INT_MAX;
}
