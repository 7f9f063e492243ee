#include "sinks/http_post.h"

#include <assert.h>
#include <stdio.h>
#include <string.h>

#include <curl/curl.h>

#include "base/heap.h"

/* Curl says which sockets to watch, each by a uv_poll of its own, and when it
 * wants to be called again, which is the timer; we call it from there. */

#define ANSWER_MAX_BYTES 65536 /* read of an answer; its status has spoken */
#define HEAD_MAX_BYTES 65536   /* of its headers, which the library keeps */

_Static_assert(HTTP_ERROR_BYTES >= CURL_ERROR_SIZE, "curl writes into it");

struct http_post {
    uv_loop_t *loop; /* NULL until it is started */
    uv_timer_t timer;
    unsigned n_handles; /* of uv, not closed yet */
    CURLM *multi;
    CURL *easy;
    bool is_sending;
    struct curl_slist *headers;
    struct http_answer answer;
    size_t n_answer; /* bytes of its body that came */
    size_t n_head;   /* and of its headers */
    http_post_done_cb done;
    void *ctx;
    void (*closed)(void *ctx);
    void *closed_ctx;
};

struct http_socket {
    uv_poll_t poll;
    struct http_post *post;
    curl_socket_t fd;
};

/* ---- headers */

enum kv_status http_headers_add(struct curl_slist **headers, const char *line)
{
    struct curl_slist *longer = curl_slist_append(*headers, line);

    if (longer == NULL)
        return KV_NO_MEMORY;
    *headers = longer;
    return KV_OK;
}

void http_headers_free(struct curl_slist **headers)
{
    for (struct curl_slist *at = *headers; at != NULL; at = at->next)
        explicit_bzero(at->data, strlen(at->data));
    curl_slist_free_all(*headers);
    *headers = NULL;
}

/* ---- a request */

static void take_off(struct http_post *post)
{
    curl_multi_remove_handle(post->multi, post->easy);
    http_headers_free(&post->headers);
    post->is_sending = false;
}

static size_t on_answer(char *bytes, size_t size, size_t n, void *ctx)
{
    struct http_post *post = ctx;
    size_t n_bytes = size * n;

    for (size_t i = 0;
         i < n_bytes && post->n_answer + i < HTTP_ANSWER_TEXT_BYTES; i++) {
        bool is_visible = bytes[i] > ' ' && bytes[i] <= '~';

        post->answer.text[post->n_answer + i] = ' ';
        if (is_visible)
            post->answer.text[post->n_answer + i] = bytes[i];
    }
    post->n_answer += n_bytes;
    return post->n_answer > ANSWER_MAX_BYTES ? 0 : n_bytes;
}

/* Without an end of the headers there is no answer. */
static size_t on_header(char *bytes, size_t size, size_t n, void *ctx)
{
    struct http_post *post = ctx;

    (void)bytes;
    post->n_head += size * n;
    return post->n_head > HEAD_MAX_BYTES ? 0 : size * n;
}

/* An answer that we ourselves cut short is one all the same. */
static void read_result(struct http_post *post, CURLcode result)
{
    bool is_cut =
        result == CURLE_WRITE_ERROR && post->n_answer > ANSWER_MAX_BYTES;
    curl_off_t retry_after_s = 0;

    if (post->n_head > HEAD_MAX_BYTES) {
        snprintf(post->answer.error, sizeof post->answer.error,
            "the headers of the answer are longer than %d bytes",
            HEAD_MAX_BYTES);
        return;
    }
    if (result != CURLE_OK && !is_cut) {
        if (post->answer.error[0] == '\0')
            snprintf(post->answer.error, sizeof post->answer.error, "%s",
                curl_easy_strerror(result));
        return;
    }
    curl_easy_getinfo(post->easy, CURLINFO_RESPONSE_CODE, &post->answer.code);
    curl_easy_getinfo(post->easy, CURLINFO_RETRY_AFTER, &retry_after_s);
    if (retry_after_s > 0)
        post->answer.retry_after_s = (uint64_t)retry_after_s;
}

static void look_for_end(struct http_post *post)
{
    struct http_answer answer;
    CURLMsg *message;
    CURLcode result;
    int n_left;

    do {
        message = curl_multi_info_read(post->multi, &n_left);
        if (message == NULL)
            return;
    } while (message->msg != CURLMSG_DONE);
    result = message->data.result;
    read_result(post, result);
    take_off(post);
    answer = post->answer; /* done may close us, or send again */
    post->done(&answer, post->ctx);
}

enum kv_status http_post_send(struct http_post *post,
    struct curl_slist **headers, const void *body, size_t n_bytes)
{
    assert(post->loop != NULL && !post->is_sending);
    post->headers = *headers;
    *headers = NULL;
    post->answer = (struct http_answer){0};
    post->n_answer = post->n_head = 0;
    curl_easy_setopt(post->easy, CURLOPT_HTTPHEADER, post->headers);
    curl_easy_setopt(post->easy, CURLOPT_POSTFIELDS, body);
    curl_easy_setopt(
        post->easy, CURLOPT_POSTFIELDSIZE_LARGE, (curl_off_t)n_bytes);
    if (curl_multi_add_handle(post->multi, post->easy) != CURLM_OK) {
        http_headers_free(&post->headers);
        return KV_NO_MEMORY;
    }
    post->is_sending = true;
    return KV_OK;
}

/* ---- curl on the loop */

static void on_timer(uv_timer_t *timer)
{
    struct http_post *post = timer->data;
    int n_running;

    curl_multi_socket_action(post->multi, CURL_SOCKET_TIMEOUT, 0, &n_running);
    look_for_end(post);
}

static int on_timer_wanted(CURLM *multi, long timeout_ms, void *ctx)
{
    struct http_post *post = ctx;

    (void)multi;
    if (timeout_ms < 0)
        uv_timer_stop(&post->timer);
    else
        uv_timer_start(&post->timer, on_timer, (uint64_t)timeout_ms, 0);
    return 0;
}

static void on_socket(uv_poll_t *poll, int failed, int events)
{
    struct http_socket *socket = poll->data;
    struct http_post *post = socket->post;
    int flags = 0, n_running;

    if (failed != 0) /* reading and writing tell curl what it is */
        events = UV_READABLE | UV_WRITABLE;
    flags |= (events & UV_READABLE) != 0 ? CURL_CSELECT_IN : 0;
    flags |= (events & UV_WRITABLE) != 0 ? CURL_CSELECT_OUT : 0;
    curl_multi_socket_action(post->multi, socket->fd, flags, &n_running);
    look_for_end(post);
}

static void free_post(struct http_post *post)
{
    void (*closed)(void *ctx) = post->closed;
    void *ctx = post->closed_ctx;

    kv_free(post);
    closed(ctx);
}

static void on_handle_closed(struct http_post *post)
{
    if (--post->n_handles == 0)
        free_post(post);
}

static void on_socket_closed(uv_handle_t *handle)
{
    struct http_socket *socket = handle->data;
    struct http_post *post = socket->post;

    kv_free(socket);
    on_handle_closed(post);
}

static struct http_socket *watch_socket(
    struct http_post *post, curl_socket_t fd)
{
    struct http_socket *socket = kv_calloc(1, sizeof *socket);

    if (socket == NULL)
        return NULL;
    if (uv_poll_init_socket(post->loop, &socket->poll, fd) != 0) {
        kv_free(socket);
        return NULL;
    }
    socket->poll.data = socket;
    socket->post = post;
    socket->fd = fd;
    post->n_handles++;
    curl_multi_assign(post->multi, fd, socket);
    return socket;
}

/* A socket that cannot be watched for want of memory stays silent, until the
 * request is over time: an error here would spoil curl for good. */
static int on_socket_wanted(
    CURL *easy, curl_socket_t fd, int what, void *ctx, void *socket_ctx)
{
    struct http_socket *socket = socket_ctx;
    int events = 0;

    (void)easy;
    if (what == CURL_POLL_REMOVE) {
        if (socket != NULL) {
            uv_poll_stop(&socket->poll);
            uv_close((uv_handle_t *)&socket->poll, on_socket_closed);
        }
        return 0;
    }
    if (socket == NULL)
        socket = watch_socket(ctx, fd);
    if (socket == NULL)
        return 0;
    events |= what != CURL_POLL_OUT ? UV_READABLE : 0;
    events |= what != CURL_POLL_IN ? UV_WRITABLE : 0;
    uv_poll_start(&socket->poll, events, on_socket);
    return 0;
}

/* ---- life */

static bool set_options(
    struct http_post *post, const struct http_target *target)
{
    CURLcode bad = CURLE_OK;

#define SET(option, value)                                                     \
    bad = bad != CURLE_OK ? bad : curl_easy_setopt(post->easy, option, value)
    SET(CURLOPT_URL, target->url);
    SET(CURLOPT_PROTOCOLS_STR, "http,https");
    SET(CURLOPT_HTTP_VERSION, (long)CURL_HTTP_VERSION_1_1);
    SET(CURLOPT_POST, 1L);
    SET(CURLOPT_FOLLOWLOCATION, 0L);
    SET(CURLOPT_USERAGENT, "kvpoold");
    SET(CURLOPT_NOSIGNAL, 1L);
    SET(CURLOPT_QUICK_EXIT, 1L); /* no wait for a name that hangs */
    SET(CURLOPT_CONNECTTIMEOUT_MS, (long)target->connect_timeout_ms);
    SET(CURLOPT_TIMEOUT_MS, (long)target->timeout_ms);
    SET(CURLOPT_ERRORBUFFER, post->answer.error);
    SET(CURLOPT_WRITEFUNCTION, on_answer);
    SET(CURLOPT_WRITEDATA, post);
    SET(CURLOPT_HEADERFUNCTION, on_header);
    SET(CURLOPT_HEADERDATA, post);
    SET(CURLOPT_PROXY, target->proxy); /* "": none, whatever the */
    SET(CURLOPT_NOPROXY, "");          /* environment has */
    SET(CURLOPT_SSL_VERIFYPEER, 1L);
    SET(CURLOPT_SSL_VERIFYHOST, 2L);
    SET(CURLOPT_SSLVERSION, (long)CURL_SSLVERSION_TLSv1_2);
    if (target->ca_file[0] != '\0') {
        SET(CURLOPT_CAINFO, target->ca_file);
        SET(CURLOPT_CAPATH, NULL); /* it alone is trusted */
    }
#undef SET
    return bad == CURLE_OK;
}

/* curl_global_init counts, and may be called by any thread. */
static enum kv_status open_curl(
    struct http_post *post, const struct http_target *target)
{
    if (curl_global_init(CURL_GLOBAL_DEFAULT) != CURLE_OK)
        return KV_NO_MEMORY;
    post->multi = curl_multi_init();
    if (post->multi == NULL)
        goto clean_global;
    post->easy = curl_easy_init();
    if (post->easy == NULL)
        goto clean_multi;
    if (!set_options(post, target))
        goto clean_easy;
    curl_multi_setopt(post->multi, CURLMOPT_SOCKETFUNCTION, on_socket_wanted);
    curl_multi_setopt(post->multi, CURLMOPT_SOCKETDATA, post);
    curl_multi_setopt(post->multi, CURLMOPT_TIMERFUNCTION, on_timer_wanted);
    curl_multi_setopt(post->multi, CURLMOPT_TIMERDATA, post);
    return KV_OK;

clean_easy:
    curl_easy_cleanup(post->easy);
clean_multi:
    curl_multi_cleanup(post->multi);
clean_global:
    curl_global_cleanup();
    return KV_NO_MEMORY;
}

enum kv_status http_post_open(struct http_post **out,
    const struct http_target *target, http_post_done_cb done, void *ctx)
{
    struct http_post *post = kv_calloc(1, sizeof *post);

    if (post == NULL)
        return KV_NO_MEMORY;
    if (open_curl(post, target) != KV_OK) {
        kv_free(post);
        return KV_NO_MEMORY;
    }
    post->done = done;
    post->ctx = ctx;
    *out = post;
    return KV_OK;
}

void http_post_start(struct http_post *post, uv_loop_t *loop)
{
    post->loop = loop;
    uv_timer_init(loop, &post->timer);
    post->timer.data = post;
    post->n_handles = 1;
}

static void on_timer_closed(uv_handle_t *handle)
{
    on_handle_closed(handle->data);
}

/* Curl comes first: it closes sockets that uv watches. */
void http_post_close(
    struct http_post *post, void (*closed)(void *ctx), void *ctx)
{
    post->closed = closed;
    post->closed_ctx = ctx;
    if (post->is_sending)
        take_off(post);
    curl_easy_cleanup(post->easy);
    curl_multi_cleanup(post->multi);
    curl_global_cleanup();
    if (post->loop == NULL)
        free_post(post);
    else
        uv_close((uv_handle_t *)&post->timer, on_timer_closed);
}
