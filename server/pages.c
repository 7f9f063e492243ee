#include "server/pages.h"

#include <string.h>

#include "base/heap.h"
#include "rpc/listener.h"
#include "server/admin/http.h"
#include "server/histograms.h"
#include "server/metrics.h"
#include "server/state.h"
#include "server/state_sections.h"
#include "server/subscriber_status.h"

#define TEXT_TYPE "text/plain; charset=utf-8"
#define METRICS_TYPE "text/plain; version=0.0.4; charset=utf-8"

struct pages {
    struct server *server;
    struct http *http;
    struct rpc_listener *listener;
    uv_poll_t poll;   /* of http */
    uv_timer_t timer; /* what http's connections wait for */
    int n_open_handles;
};

/* ---- the pages */

static void say(struct http_page *page, unsigned status, const char *text)
{
    page->status = status;
    page->content_type = TEXT_TYPE;
    page->text = kv_strdup(text);
    page->n_bytes = page->text != NULL ? strlen(text) : 0;
}

static enum kv_status print_snapshot(
    struct exposition *out, struct server *server)
{
    struct subscriber_status_list subscribers = {.n = 0};
    struct state_tenants tenants = {.n = 0};
    const uint32_t max_tenants = (uint32_t)server->options->metrics_max_tenants;
    struct histograms histograms;
    struct state_sinks sinks;
    struct state state;
    enum kv_status status = subscriber_status_fill(&subscribers, server);

    if (status == KV_OK && max_tenants > 0)
        status = state_tenants_fill(&tenants, server, max_tenants, NULL);
    if (status == KV_OK) {
        state_fill(&state, server);
        state_sinks_fill(&sinks, server);
        histograms_fill(&histograms, server);
        state.snapshot.histograms = &histograms.message;
        state.snapshot.sinks = sinks.list;
        state.snapshot.n_sinks = sinks.n;
        state.snapshot.subscribers = subscribers.list;
        state.snapshot.n_subscribers = subscribers.n;
        state.snapshot.tenants = tenants.list;
        state.snapshot.n_tenants = tenants.n;
        metrics_print(out, &state.snapshot);
        metrics_print_model(out, server->model_lost);
        metrics_print_stalls(out, server->loop_watch.n_stalls);
        status = exposition_status(out);
    }
    state_tenants_fini(&tenants);
    subscriber_status_fini(&subscribers);
    return status;
}

static void make_metrics(struct http_page *page, struct server *server)
{
    struct exposition out = {.text = NULL};

    if (print_snapshot(&out, server) != KV_OK) {
        exposition_fini(&out);
        say(page, 500, "no memory for metrics\n");
        return;
    }
    *page = (struct http_page){.status = 200,
        .content_type = METRICS_TYPE,
        .text = out.text,
        .n_bytes = out.n_bytes};
}

static void make_readiness(struct http_page *page, const struct server *server)
{
    struct kv_error error;

    if (server_check(server, &error) != KV_OK)
        say(page, 503, error.text);
    else if (server->draining)
        say(page, 503, "the server is stopping\n");
    else
        say(page, 200, "ok\n");
}

static void make_page(void *ctx, const char *path, struct http_page *page)
{
    struct pages *pages = ctx;

    if (strcmp(path, "/metrics") == 0)
        make_metrics(page, pages->server);
    else if (strcmp(path, "/livez") == 0)
        say(page, 200, "ok\n");
    else if (strcmp(path, "/readyz") == 0)
        make_readiness(page, pages->server);
    else
        say(page, 404, "there are /metrics, /livez and /readyz\n");
}

/* ---- HTTP on the loop */

static void run(struct pages *pages);

static void on_timer(uv_timer_t *timer)
{
    run(timer->data);
}

static void on_readable(uv_poll_t *poll, int status, int events)
{
    (void)status; /* http finds out */
    (void)events;
    run(poll->data);
}

static void run(struct pages *pages)
{
    int64_t timeout_ms;

    http_run(pages->http);
    timeout_ms = http_timeout_ms(pages->http);
    if (timeout_ms >= 0)
        uv_timer_start(&pages->timer, on_timer, (uint64_t)timeout_ms, 0);
    else
        uv_timer_stop(&pages->timer);
}

static void on_accept(void *ctx, int fd)
{
    struct pages *pages = ctx;

    http_take(pages->http, fd);
    run(pages);
}

/* ---- its life */

static enum kv_status open_http(struct pages *pages, struct kv_error *error)
{
    const struct options *options = pages->server->options;
    const struct http_config config = {
        .max_connections = (uint32_t)options->admin_max_connections,
        .idle_s = (uint32_t)options->admin_idle_s,
        .make_page = make_page,
        .ctx = pages,
    };

    return http_open(&pages->http, &config, error);
}

static enum kv_status watch(struct pages *pages, struct kv_error *error)
{
    uv_loop_t *loop = rpc_loop_uv(pages->server->loop);
    int failed = uv_poll_init(loop, &pages->poll, http_fd(pages->http));

    if (failed != 0)
        return kv_error_set(error, KV_IO, "HTTP: %s", uv_strerror(failed));
    uv_timer_init(loop, &pages->timer);
    pages->poll.data = pages->timer.data = pages;
    pages->n_open_handles = 2;
    uv_poll_start(&pages->poll, UV_READABLE, on_readable);
    return rpc_listener_start(pages->listener, loop, on_accept, pages, error);
}

enum kv_status pages_open(
    struct pages **out, struct server *server, struct kv_error *error)
{
    const char *address = server->options->admin_listen;
    struct pages *pages;
    enum kv_status status;

    *out = NULL;
    if (address[0] == '\0')
        return KV_OK;
    pages = kv_calloc(1, sizeof *pages);
    if (pages == NULL)
        return kv_error_set(error, KV_NO_MEMORY, "no memory for HTTP");
    pages->server = server;
    status = open_http(pages, error);
    if (status == KV_OK)
        status = rpc_listener_open(&pages->listener, address, error);
    if (status == KV_OK)
        status = watch(pages, error);
    if (status == KV_OK)
        *out = pages;
    else
        pages_close(pages);
    return status;
}

const char *pages_address(const struct pages *pages)
{
    return rpc_listener_address(pages->listener);
}

static void destroy(struct pages *pages)
{
    http_close(pages->http);
    kv_free(pages);
}

static void on_handle_closed(uv_handle_t *handle)
{
    struct pages *pages = handle->data;

    if (--pages->n_open_handles == 0)
        destroy(pages);
}

void pages_close(struct pages *pages)
{
    if (pages == NULL)
        return;
    if (pages->listener != NULL)
        rpc_listener_close(pages->listener);
    if (pages->n_open_handles == 0) {
        destroy(pages);
        return;
    }
    uv_close((uv_handle_t *)&pages->poll, on_handle_closed);
    uv_close((uv_handle_t *)&pages->timer, on_handle_closed);
}
