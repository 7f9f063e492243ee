#include "sinks/sink_kind.h"

#include <stdio.h>
#include <string.h>

#include "base/heap.h"
#include "sinks/nats_courier.h"
#include "sinks/secret.h"

/* One message a receipt, to a JetStream stream, by a courier on a thread of its
 * own (nats_courier.h). Here is the owner's side: offers go to the courier,
 * its news wake the loop.
 *
 * The library's own threads stay until the process ends. nats_Close is not
 * called: it would take other sinks' connections with it. */

#define ABANDON_MS 500 /* the courier has so long to end by itself */

struct nats {
    struct sink sink;
    struct nats_courier *courier;
    uv_async_t wake;
    uv_timer_t deadline;
    uint64_t close_ms;
    unsigned n_handles; /* of uv, not closed yet */
    sink_closed_cb closed;
    void *closed_ctx;
};

static struct nats *nats_of(struct sink *sink)
{
    return (struct nats *)(void *)sink;
}

static enum kv_status nats_offer(
    struct sink *sink, const struct feed_run *run, uint32_t *n_taken)
{
    return nats_courier_offer(nats_of(sink)->courier, run, n_taken);
}

static void on_handle_closed(uv_handle_t *handle)
{
    struct nats *nats = handle->data;

    if (--nats->n_handles == 0)
        nats->closed(&nats->sink, nats->closed_ctx);
}

static void leave(struct nats *nats)
{
    nats_courier_leave(nats->courier);
    nats->courier = NULL;
    uv_close((uv_handle_t *)&nats->wake, on_handle_closed);
    uv_close((uv_handle_t *)&nats->deadline, on_handle_closed);
}

static void on_abandoned(uv_timer_t *deadline)
{
    leave(deadline->data);
}

static void on_deadline(uv_timer_t *deadline)
{
    struct nats *nats = deadline->data;

    nats_courier_stop(nats->courier);
    uv_timer_start(deadline, on_abandoned, ABANDON_MS, 0);
}

static void on_wake(uv_async_t *wake)
{
    struct nats *nats = wake->data;
    struct nats_news news = nats_courier_news(nats->courier);

    if (news.acknowledged > nats->sink.acknowledged_sequence)
        sink_acknowledge(&nats->sink, news.acknowledged);
    if (news.has_failed && news.has_given_up)
        sink_gives_up(&nats->sink, "%s", news.failure);
    else if (news.has_failed)
        sink_failed(&nats->sink, "%s", news.failure);
    if (news.has_ended && nats->closed != NULL)
        leave(nats);
    else if (nats->closed == NULL && nats->sink.waits)
        sink_ready(&nats->sink);
}

/* May be called where uv does not look at its timers: the async tells it. */
static void nats_close(struct sink *sink, sink_closed_cb closed, void *ctx)
{
    struct nats *nats = nats_of(sink);

    nats->closed = closed;
    nats->closed_ctx = ctx;
    uv_timer_start(&nats->deadline, on_deadline, nats->close_ms, 0);
    nats_courier_drain(nats->courier);
    uv_async_send(&nats->wake);
}

/* ---- opening */

static void on_failed_open_closed(uv_handle_t *handle)
{
    struct nats *nats = handle->data;

    if (--nats->n_handles == 0)
        kv_free(nats);
}

/* The handles come last: what uv has begun can only be closed later. On failure
 * everything is given back, the sink too. */
static enum kv_status start(
    struct nats *nats, uv_loop_t *loop, struct kv_error *error)
{
    int failed = uv_async_init(loop, &nats->wake, on_wake);

    if (failed != 0) {
        nats_courier_leave(nats->courier);
        kv_free(nats);
        return kv_error_set(
            error, KV_IO, "event loop: %s", uv_strerror(failed));
    }
    uv_timer_init(loop, &nats->deadline);
    nats->wake.data = nats->deadline.data = nats;
    nats->n_handles = 2;
    failed = nats_courier_start(nats->courier, &nats->wake);
    if (failed != 0) {
        nats_courier_leave(nats->courier);
        uv_close((uv_handle_t *)&nats->deadline, on_failed_open_closed);
        uv_close((uv_handle_t *)&nats->wake, on_failed_open_closed);
        return kv_error_set(
            error, KV_IO, "cannot start a thread: %s", strerror(failed));
    }
    return KV_OK;
}

static enum kv_status check_files(
    const struct nats_settings *settings, struct kv_error *error)
{
    enum kv_status status =
        secret_check_file("password_file", settings->password_file, error);

    if (status == KV_OK)
        status = secret_check_file("token_file", settings->token_file, error);
    if (status == KV_OK)
        status = secret_check_file(
            "credentials_file", settings->credentials_file, error);
    if (status == KV_OK)
        status = secret_check_file("ca_file", settings->ca_file, error);
    return status;
}

static enum kv_status nats_open(struct sink **out, const char *name,
    const void *settings, uv_loop_t *loop, struct kv_error *error)
{
    static const struct sink_ops ops = {.kind = "nats",
        .guaranteed = true,
        .offer = nats_offer,
        .close = nats_close};
    const struct nats_settings *given = settings;
    enum kv_status status = check_files(given, error);
    struct nats *nats;

    if (status != KV_OK)
        return status;
    nats = kv_calloc(1, sizeof *nats);
    if (nats == NULL)
        return kv_error_set(error, KV_NO_MEMORY, "out of memory");
    nats->sink.ops = &ops;
    snprintf(nats->sink.name, sizeof nats->sink.name, "%s", name);
    nats->close_ms = given->close_ms;
    if (nats_courier_open(&nats->courier, given) != KV_OK) {
        kv_free(nats);
        return kv_error_set(error, KV_NO_MEMORY, "out of memory");
    }
    status = start(nats, loop, error);
    if (status == KV_OK)
        *out = &nats->sink;
    return status;
}

/* ---- what can be set */

static bool is_server(const char *url, const char *scheme)
{
    size_t n = strlen(scheme);

    return strncmp(url, scheme, n) == 0 && url[n] != '\0' &&
           strpbrk(url, "@ \t") == NULL;
}

/* All of one scheme: a list must not fall back to plain text. */
static bool are_servers(const char *list, const char *scheme)
{
    const char *urls[NATS_MAX_URLS];
    char *copy = kv_strdup(list);
    bool well = copy != NULL;
    size_t n_commas = 0;
    int n;

    for (const char *at = list; (at = strchr(at, ',')) != NULL; at++)
        n_commas++;
    n = well && n_commas < NATS_MAX_URLS ? nats_line_split_urls(copy, urls) : 0;
    for (int i = 0; i < n; i++)
        well = well && is_server(urls[i], scheme);
    kv_free(copy);
    return well && n > 0;
}

static bool is_subject(const char *subject)
{
    size_t n = strlen(subject);

    if (n == 0 || n > NATS_NAME_BYTES || subject[0] == '.' ||
        subject[n - 1] == '.' || strstr(subject, "..") != NULL)
        return false;
    for (size_t i = 0; i < n; i++) {
        if (subject[i] <= ' ' || subject[i] > '~' || subject[i] == '*' ||
            subject[i] == '>')
            return false;
    }
    return true;
}

static bool is_stream(const char *stream)
{
    return is_subject(stream) && strpbrk(stream, "./\\") == NULL;
}

static const char *identity_fault(
    const struct nats_settings *settings, const char **field)
{
    int n = (settings->user[0] != '\0') + (settings->token_file[0] != '\0') +
            (settings->credentials_file[0] != '\0');

    *field = "user";
    if (n > 1)
        return "one of user, token_file and credentials_file is allowed";
    *field = "password_file";
    if ((settings->user[0] != '\0') != (settings->password_file[0] != '\0'))
        return "user and password_file are given together";
    return NULL;
}

/* Sets *field to what there is a complaint about; NULL if there is none. */
static const char *fault_of(
    const struct nats_settings *settings, const char **field)
{
    bool is_plain = are_servers(settings->url, "nats://");

    *field = "url";
    if (!is_plain && !are_servers(settings->url, "tls://"))
        return "it must be nats://host:port or tls://host:port, or up to 16 "
               "of one of them parted by commas, without a user in it";
    *field = "stream";
    if (!is_stream(settings->stream))
        return "a stream's name is 1 to 200 visible ASCII characters without "
               "any of . * > / \\";
    *field = "subject";
    if (!is_subject(settings->subject))
        return "it must be words of visible ASCII characters parted by dots, "
               "200 at most, without * and >";
    *field = "ca_file";
    if (is_plain && settings->ca_file[0] != '\0')
        return "a nats:// server has no certificate to verify: use tls://";
    *field = "retry_least_ms";
    if (settings->retry_least_ms > settings->retry_most_ms)
        return "it is more than retry_most_ms";
    return identity_fault(settings, field);
}

static enum kv_status nats_check(
    const void *given, const char **field, struct kv_error *error)
{
    const char *name = NULL;
    const char *fault = fault_of(given, &name);

    if (fault == NULL)
        return KV_OK;
    *field = name;
    return kv_error_set(error, KV_INVALID, "%s", fault);
}

#define AT(field) offsetof(struct nats_settings, field)

static const struct sink_setting nats_table[] = {
    {"url", SINK_TEXT, AT(url), NULL, 0, 0, "URLS",
        "nats://host:port or tls://host:port; several of one cluster with "
        "commas between"},
    {"stream", SINK_TEXT, AT(stream), "KVPOOL", 0, 0, "NAME",
        "the JetStream stream that keeps the receipts"},
    {"subject", SINK_TEXT, AT(subject), "kvpool.receipts", 0, 0, "SUBJECT",
        "a receipt's subject is this, a dot and its event"},
    {"create_stream", SINK_BOOL, AT(create_stream), "true", 0, 0, "",
        "make the stream if it is not there: on disk, without limits"},
    {"duplicate_window_s", SINK_UINT, AT(duplicate_window_s), "120", 1, 604800,
        "s", "a stream that was made drops what it gets twice within"},
    {"payload", SINK_CHOICE, AT(payload), "json", 0, 0, "json|protobuf",
        "the receipt as JSON, or its bytes as the ledger proves them"},
    {"user", SINK_TEXT, AT(user), "", 0, 0, "NAME",
        "user to connect as, with password_file; empty is none"},
    {"password_file", SINK_TEXT, AT(password_file), "", 0, 0, "FILE",
        "the user's password, read for every connection"},
    {"token_file", SINK_TEXT, AT(token_file), "", 0, 0, "FILE",
        "a token to connect with, read for every connection; empty is none"},
    {"credentials_file", SINK_TEXT, AT(credentials_file), "", 0, 0, "FILE",
        "credentials (.creds: a JWT and its key) to connect with; empty is "
        "none"},
    {"ca_file", SINK_TEXT, AT(ca_file), "", 0, 0, "FILE",
        "certificates (PEM) of authorities to trust beside the system's"},
    {"max_pending", SINK_UINT, AT(max_pending), "1024", 1, 65536, "",
        "receipts without an acknowledgement, at most"},
    {"max_pending_bytes", SINK_UINT, AT(max_pending_bytes), "4194304", 65536,
        268435456, "bytes", "and their bytes, as the ledger has them"},
    {"connect_timeout_ms", SINK_UINT, AT(connect_timeout_ms), "2000", 1, 600000,
        "ms", "limit for a connection and its TLS"},
    {"ack_timeout_ms", SINK_UINT, AT(ack_timeout_ms), "5000", 1, 600000, "ms",
        "without an acknowledgement for so long the connection is given up"},
    {"retry_least_ms", SINK_UINT, AT(retry_least_ms), "200", 1, 3600000, "ms",
        "pause before the first retry; each further one is twice as long, less "
        "a random part of up to a half"},
    {"retry_most_ms", SINK_UINT, AT(retry_most_ms), "30000", 1, 3600000, "ms",
        "pause at most"},
    {"close_ms", SINK_UINT, AT(close_ms), "5000", 0, 600000, "ms",
        "what is not acknowledged so long after the end is left to the next "
        "start"},
};

const struct sink_kind sink_nats_kind = {
    .name = "nats",
    .settings = nats_table,
    .n_settings = sizeof nats_table / sizeof *nats_table,
    .settings_bytes = sizeof(struct nats_settings),
    .check = nats_check,
    .open = nats_open,
};
