#include "sinks/sink_kind.h"

#include <inttypes.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>

#include <curl/curl.h>

#include "base/heap.h"
#include "sinks/cloudevents.h"
#include "sinks/http_post.h"
#include "sinks/http_settings.h"
#include "sinks/outbox.h"
#include "sinks/secret.h"

/* Batches of CloudEvents, POSTed one at a time.
 *
 *   offer ──> gathering ──full, or old enough──> batch
 *                                                  │
 *        ┌──────> PACKING (worker thread: JSON, gzip, the token's file)
 *        │           │
 *     WAITING     SENDING (http_post.h) ──2xx──> acknowledged
 *        ▲           │                           IDLE, the next batch
 *        └───────────┘ anything else: the same bytes again, later
 *
 * An offer may come within a hook of the pool, so it only takes and wakes; all
 * else happens in callbacks of the loop. What is held is one batch gathering,
 * one batch under way and its body; beyond that the offers wait. */

enum http_state { HTTP_IDLE, HTTP_PACKING, HTTP_SENDING, HTTP_WAITING };

struct http {
    struct sink sink;
    struct http_settings settings; /* their texts are ours */
    uv_loop_t *loop;
    uv_async_t wake;
    uv_timer_t timer;    /* lingering, waiting */
    uv_timer_t deadline; /* of closing */
    uv_work_t work;      /* PACKING */
    unsigned n_open;     /* handles of uv, and post */
    struct http_post *post;

    enum http_state state;
    struct outbox gathering, batch;
    uint64_t gathering_since_ms;
    struct cloudevents_body body; /* of the batch's front; kept for retries */
    struct secret token;          /* while it is PACKING only */
    struct curl_slist *headers;   /* of this try */
    enum kv_status pack_status;
    struct kv_error pack_error;
    uint32_t n_tries; /* that failed, of this body */
    uint64_t
        refused_since_ms; /* by answers that somebody has to act on; or 0 */

    bool flushing, closing, gives_up;
    sink_closed_cb closed;
    void *closed_ctx;
};

static void go_on(struct http *http);
static void give_up(struct http *http);

static struct http *http_of(struct sink *sink)
{
    return (struct http *)(void *)sink;
}

static uint64_t now_ms(void)
{
    return uv_hrtime() / 1000000;
}

/* ---- the batch's end */

static void drop_body(struct http *http)
{
    cloudevents_body_free(&http->body);
    http->n_tries = 0;
}

static void on_delivered(struct http *http)
{
    uint64_t last_sequence = http->body.last_sequence;

    outbox_drop(&http->batch, last_sequence);
    drop_body(http);
    http->refused_since_ms = 0;
    http->state = HTTP_IDLE;
    sink_acknowledge(&http->sink, last_sequence);
    go_on(http);
}

static void on_timer(uv_timer_t *timer)
{
    struct http *http = timer->data;

    if (http->state == HTTP_WAITING)
        http->state = HTTP_IDLE;
    go_on(http);
}

/* A delivery failed, as sink_failed has been told: again, but not before
 * at_least_ms. What a later try is unlikely to change is tried seldom. */
static void try_later(struct http *http, bool seldom, uint64_t at_least_ms)
{
    const struct http_settings *settings = &http->settings;
    uint64_t least_ms =
        seldom ? settings->retry_most_ms : settings->retry_least_ms;
    uint64_t wait_ms;

    http->n_tries++;
    wait_ms = sink_backoff_ms(http->n_tries, least_ms, settings->retry_most_ms);
    if (wait_ms < at_least_ms)
        wait_ms = at_least_ms;
    http->state = HTTP_WAITING;
    uv_timer_start(&http->timer, on_timer, wait_ms, 0);
}

/* ---- sending */

static uint64_t retry_after_ms(
    const struct http *http, const struct http_answer *answer)
{
    uint64_t most_ms = http->settings.retry_after_most_ms;

    if (answer->retry_after_s > most_ms / 1000)
        return most_ms;
    return answer->retry_after_s * 1000;
}

/* It refused for so long that it will not take them: another configuration
 * begins where the acknowledgements end. */
static void abandon(struct http *http)
{
    char why[SINK_ERROR_BYTES];

    memcpy(why, http->sink.last_error, sizeof why);
    sink_gives_up(&http->sink, "refused for %" PRIu64 " s: %.150s",
        http->settings.give_up_s, why);
    outbox_clear(&http->gathering);
    outbox_clear(&http->batch);
    drop_body(http);
    http->state = HTTP_IDLE;
    go_on(http);
}

static bool is_hopeless(struct http *http)
{
    uint64_t give_up_ms = http->settings.give_up_s * 1000;

    if (http->refused_since_ms == 0)
        http->refused_since_ms = now_ms();
    return give_up_ms > 0 && now_ms() - http->refused_since_ms >= give_up_ms;
}

/* 408, 429 and 5xx pass; another answer needs somebody to act, so it is told,
 * and tried seldom, and in the end no more. */
static void on_refused(struct http *http, const struct http_answer *answer)
{
    long code = answer->code;
    bool passes = code == 408 || code == 429 || code >= 500;

    sink_failed(&http->sink, "answered %ld%s%s%s", code,
        code >= 300 && code < 400 ? " (redirects are not followed)" : "",
        answer->text[0] != '\0' ? ": " : "", answer->text);
    if (passes)
        http->refused_since_ms = 0;
    if (!passes && is_hopeless(http))
        abandon(http);
    else
        try_later(http, !passes, retry_after_ms(http, answer));
}

static void on_sent(const struct http_answer *answer, void *ctx)
{
    struct http *http = ctx;

    if (answer->code == 0) {
        http->refused_since_ms = 0;
        sink_failed(&http->sink, "%s", answer->error);
        try_later(http, false, 0);
    } else if (answer->code >= 200 && answer->code < 300) {
        on_delivered(http);
    } else {
        on_refused(http, answer);
    }
}

static void send_body(struct http *http)
{
    http->state = HTTP_SENDING;
    if (http_post_send(http->post, &http->headers, http->body.bytes,
            http->body.n_bytes) == KV_OK)
        return;
    sink_failed(&http->sink, "%s", kv_status_text(KV_NO_MEMORY));
    try_later(http, false, 0);
}

/* ---- packing */

__attribute__((format(printf, 2, 3))) static bool add_header(
    struct http *http, const char *format, ...)
{
    char line[SECRET_BYTES + 64];
    enum kv_status status;
    va_list args;

    va_start(args, format);
    vsnprintf(line, sizeof line, format, args);
    va_end(args);
    status = http_headers_add(&http->headers, line);
    explicit_bzero(line, sizeof line);
    return status == KV_OK;
}

static enum kv_status make_headers(struct http *http)
{
    const struct cloudevents_body *body = &http->body;
    uint64_t first = body->first_sequence, last = body->last_sequence;
    bool done = add_header(http, "Content-Type: " CLOUDEVENTS_CONTENT_TYPE) &&
                add_header(http, "Expect:") && /* no 100-continue */
                add_header(http, "Idempotency-Key: %s-%" PRIu64,
                    body->first_key.s, last) &&
                add_header(http, "X-Kvpool-First-Sequence: %" PRIu64, first) &&
                add_header(http, "X-Kvpool-Last-Sequence: %" PRIu64, last);

    if (done && http->settings.gzip)
        done = add_header(http, "Content-Encoding: gzip");
    if (done && http->token.text[0] != '\0')
        done = add_header(http, "Authorization: Bearer %s", http->token.text);
    return done ? KV_OK : KV_NO_MEMORY;
}

/* On a worker's thread; nobody else touches the batch meanwhile. */
static void on_pack(uv_work_t *work)
{
    struct http *http = work->data;
    const struct http_settings *settings = &http->settings;
    enum kv_status status = KV_OK;

    kv_error_set(
        &http->pack_error, KV_NO_MEMORY, "%s", kv_status_text(KV_NO_MEMORY));
    if (http->body.bytes == NULL)
        status = cloudevents_pack(&http->body, &http->batch, settings->source,
            settings->batch_bytes, settings->gzip);
    if (status == KV_OK && settings->token_file[0] != '\0')
        status =
            secret_read(&http->token, settings->token_file, &http->pack_error);
    if (status == KV_OK)
        status = make_headers(http);
    secret_wipe(&http->token);
    http->pack_status = status;
}

static void on_packed(uv_work_t *work, int failed)
{
    struct http *http = work->data;

    if (http->gives_up) {
        http_headers_free(&http->headers);
        http->state = HTTP_IDLE;
        give_up(http);
        return;
    }
    if (failed == 0 && http->pack_status == KV_OK) {
        send_body(http);
        return;
    }
    http_headers_free(&http->headers);
    sink_failed(&http->sink, "%s",
        failed == 0 ? http->pack_error.text : uv_strerror(failed));
    try_later(http, false, 0);
}

static void pack(struct http *http)
{
    int failed;

    http->state = HTTP_PACKING;
    failed = uv_queue_work(http->loop, &http->work, on_pack, on_packed);
    if (failed != 0)
        on_packed(&http->work, failed);
}

/* ---- gathering */

static bool is_due(const struct http *http)
{
    const struct http_settings *settings = &http->settings;

    return http->flushing || http->sink.waits ||
           http->gathering.n_receipts >= settings->batch_receipts ||
           http->gathering.n_bytes >= settings->batch_bytes ||
           now_ms() - http->gathering_since_ms >= settings->linger_ms;
}

static void linger(struct http *http)
{
    uint64_t age_ms = now_ms() - http->gathering_since_ms;
    uint64_t left_ms = http->settings.linger_ms > age_ms
                           ? http->settings.linger_ms - age_ms
                           : 0;

    uv_timer_start(&http->timer, on_timer, left_ms, 0);
}

/* Whatever is next, from IDLE. */
static void go_on(struct http *http)
{
    if (http->state != HTTP_IDLE)
        return;
    if (http->batch.n_receipts == 0 && http->gathering.n_receipts > 0) {
        if (!is_due(http)) {
            linger(http);
            return;
        }
        outbox_move(&http->batch, &http->gathering);
        if (http->sink.waits && !http->closing)
            sink_ready(&http->sink);
    }
    if (http->batch.n_receipts > 0)
        pack(http);
    else if (http->closing)
        give_up(http); /* nothing is left to give up */
}

static void on_wake(uv_async_t *wake)
{
    go_on(wake->data);
}

static enum kv_status http_offer(
    struct sink *sink, const struct feed_run *run, uint32_t *n_taken)
{
    struct http *http = http_of(sink);
    enum kv_status status;

    if (http->gathering.n_receipts == 0)
        http->gathering_since_ms = now_ms();
    status = outbox_take(&http->gathering, run,
        (uint32_t)http->settings.batch_receipts, http->settings.batch_bytes,
        n_taken);
    uv_async_send(&http->wake);
    return status;
}

static void http_flush(struct sink *sink)
{
    struct http *http = http_of(sink);

    http->flushing = true;
    uv_async_send(&http->wake);
}

/* ---- closing */

static void on_part_closed(struct http *http)
{
    if (--http->n_open == 0)
        http->closed(&http->sink, http->closed_ctx);
}

static void on_closed(uv_handle_t *handle)
{
    on_part_closed(handle->data);
}

static void on_post_closed(void *ctx)
{
    on_part_closed(ctx);
}

/* Closes, with all that is not acknowledged by now left to the next start. A
 * worker that is PACKING is waited for: it is short. */
static void give_up(struct http *http)
{
    http->gives_up = true;
    if (http->state == HTTP_PACKING)
        return;
    http->state = HTTP_IDLE;
    http_post_close(http->post, on_post_closed, http); /* body and all */
    outbox_clear(&http->gathering);
    outbox_clear(&http->batch);
    drop_body(http);
    http_settings_free(&http->settings);
    uv_close((uv_handle_t *)&http->wake, on_closed);
    uv_close((uv_handle_t *)&http->timer, on_closed);
    uv_close((uv_handle_t *)&http->deadline, on_closed);
}

static void on_deadline(uv_timer_t *deadline)
{
    give_up(deadline->data);
}

static void http_close(struct sink *sink, sink_closed_cb closed, void *ctx)
{
    struct http *http = http_of(sink);

    http->closed = closed;
    http->closed_ctx = ctx;
    http->closing = true;
    http->flushing = true;
    uv_timer_start(&http->deadline, on_deadline, http->settings.close_ms, 0);
    uv_async_send(&http->wake);
}

/* ---- opening */

static enum kv_status open_post(struct http *http)
{
    const struct http_target target = {.url = http->settings.url,
        .ca_file = http->settings.ca_file,
        .proxy = http->settings.proxy,
        .connect_timeout_ms = http->settings.connect_timeout_ms,
        .timeout_ms = http->settings.timeout_ms};

    return http_post_open(&http->post, &target, on_sent, http);
}

static void on_failed_open_closed(void *ctx)
{
    (void)ctx; /* it was never started: this is within http_post_close */
}

/* The loop's part comes last: what uv has begun can only be closed later. */
static enum kv_status open_handles(struct http *http, struct kv_error *error)
{
    int failed = uv_async_init(http->loop, &http->wake, on_wake);

    if (failed != 0)
        return kv_error_set(
            error, KV_IO, "event loop: %s", uv_strerror(failed));
    uv_timer_init(http->loop, &http->timer);
    uv_timer_init(http->loop, &http->deadline);
    http_post_start(http->post, http->loop);
    http->wake.data = http->timer.data = http;
    http->deadline.data = http->work.data = http;
    http->n_open = 4;
    return KV_OK;
}

static enum kv_status http_open(struct sink **out, const char *name,
    const void *settings, uv_loop_t *loop, struct kv_error *error)
{
    static const struct sink_ops ops = {.kind = "http",
        .guaranteed = true,
        .offer = http_offer,
        .flush = http_flush,
        .close = http_close};
    const struct http_settings *given = settings;
    enum kv_status status;
    struct http *http;

    status = secret_check_file("token_file", given->token_file, error);
    if (status == KV_OK)
        status = secret_check_file("ca_file", given->ca_file, error);
    if (status != KV_OK)
        return status;
    http = kv_calloc(1, sizeof *http);
    if (http == NULL)
        return kv_error_set(error, KV_NO_MEMORY, "out of memory");
    http->sink.ops = &ops;
    snprintf(http->sink.name, sizeof http->sink.name, "%s", name);
    http->loop = loop;
    status = http_settings_copy(&http->settings, given);
    if (status != KV_OK)
        goto free_http;
    status = open_post(http);
    if (status != KV_OK)
        goto free_texts;
    status = open_handles(http, error);
    if (status != KV_OK)
        goto close_post;
    *out = &http->sink;
    return KV_OK;

close_post:
    http_post_close(http->post, on_failed_open_closed, NULL);
free_texts:
    http_settings_free(&http->settings);
free_http:
    kv_free(http);
    if (status == KV_NO_MEMORY)
        kv_error_set(error, status, "out of memory");
    return status;
}

const struct sink_kind sink_http_kind = {
    .name = "http",
    .settings = http_settings_table,
    .n_settings = HTTP_N_SETTINGS,
    .settings_bytes = sizeof(struct http_settings),
    .check = http_settings_check,
    .open = http_open,
};
