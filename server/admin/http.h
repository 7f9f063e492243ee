/* The HTTP side: small pages that are made at once, for scrapers and probes.
 *
 *   open ─> { take a connection | run } ... ─> close
 *
 * GET and HEAD only; anything else is refused by name. libmicrohttpd does the
 * protocol, driven from outside: http_fd becomes readable when there is
 * something to do, and http_timeout_ms says when there is at the latest.
 *
 * Thread: one, the owner's. */
#ifndef SERVER_ADMIN_HTTP_H
#define SERVER_ADMIN_HTTP_H

#include <stddef.h>
#include <stdint.h>

#include "base/error.h"

struct http;

/* What a page is; the callee fills it in. */
struct http_page {
    unsigned status;          /* 200, 404, ... */
    const char *content_type; /* a constant */
    char *text;               /* kv_heap's, the server's from then on */
    size_t n_bytes;
};

/* path begins with '/', and is without its query. Lack of memory is a status
 * of 500 and no text. */
typedef void (*http_page_cb)(
    void *ctx, const char *path, struct http_page *page);

struct http_config {
    uint32_t max_connections; /* those beyond are closed at once */
    uint32_t idle_s; /* a connection that is silent so long is closed */
    http_page_cb make_page;
    void *ctx;
};

/* KV_IO, KV_NO_MEMORY. */
enum kv_status http_open(struct http **out, const struct http_config *config,
    struct kv_error *error);

/* NULL is fine. Connections are cut. */
void http_close(struct http *http);

/* fd is connected and non-blocking, and http's from now on. */
void http_take(struct http *http, int fd);

int http_fd(const struct http *http);

/* Does what is due. */
void http_run(struct http *http);

/* When http_run is due at the latest, from now; -1: nothing is. */
int64_t http_timeout_ms(const struct http *http);

#endif
