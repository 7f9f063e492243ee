/* One POST at a time to one target, by libcurl on a uv loop.
 *
 *   http_post_open ── http_post_start ──┬─> http_post_send ─> done ─┐
 *                                       └───────────────────────────┘
 *   http_post_close ─> closed            at any time, also while one is sent
 *
 * Redirects are not followed, certificates always verified, and the environment
 * (proxies) is not looked at. Names are resolved by a thread of curl's, which
 * is left behind where it does not answer in time, never waited for.
 *
 * Thread: the loop's, but for the headers, which are any one's. */
#ifndef SINKS_HTTP_POST_H
#define SINKS_HTTP_POST_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include <uv.h>

#include "base/status.h"

#define HTTP_ANSWER_TEXT_BYTES 80
#define HTTP_ERROR_BYTES 256

struct http_post;
struct curl_slist;

struct http_target {
    const char *url;
    const char *ca_file; /* "": the system's authorities */
    const char *proxy;   /* "": none */
    uint64_t connect_timeout_ms, timeout_ms;
};

struct http_answer {
    long code; /* 0: there was none, see error */
    uint64_t retry_after_s;
    char text[HTTP_ANSWER_TEXT_BYTES + 1]; /* its first words, one line */
    char error[HTTP_ERROR_BYTES];
};

/* A request ended; another may be sent, or this closed. Called once a send,
 * later than it. */
typedef void (*http_post_done_cb)(const struct http_answer *answer, void *ctx);

/* Texts are borrowed for the call. KV_NO_MEMORY. */
enum kv_status http_post_open(struct http_post **out,
    const struct http_target *target, http_post_done_cb done, void *ctx);

/* Once, before the first send; cannot fail. */
void http_post_start(struct http_post *post, uv_loop_t *loop);

/* Takes over the headers and empties them; the body is borrowed until done, or
 * closing. KV_NO_MEMORY: done will not be called. */
enum kv_status http_post_send(struct http_post *post,
    struct curl_slist **headers, const void *body, size_t n_bytes);

/* Gives up what is being sent, then calls back: at once where it was never
 * started, later otherwise. */
void http_post_close(
    struct http_post *post, void (*closed)(void *ctx), void *ctx);

/* Adds a line to a list that begins as NULL; KV_NO_MEMORY leaves it as it is.
 * Freeing wipes what was in it. */
enum kv_status http_headers_add(struct curl_slist **headers, const char *line);
void http_headers_free(struct curl_slist **headers);

#endif
