#include "sinks/sink_kind.h"

#include <errno.h>
#include <inttypes.h>
#include <pthread.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include <jansson.h>
#include <nats/nats.h>

#include "base/clock.h"
#include "base/heap.h"
#include "receipts/json.h"
#include "sinks/outbox.h"
#include "sinks/secret.h"

/* One message a receipt, published to a JetStream stream by a courier: a thread
 * of the sink's own, which alone speaks to the library.
 *
 *   owner                     courier
 *   offer ──> taken ────────> mine ──publish──> broker
 *   on_wake <── acknowledged, failure ──ack──────┘
 *
 * The library's calls block (names, connections, TLS), and so may the courier.
 * Messages are published without waiting, each with a reply subject that ends
 * in its number; their acknowledgements come back to one subscription, in any
 * order, and the position moves to the lowest that is still missing. Whatever
 * goes wrong, the way on is one: drop the connection, wait, connect, look at
 * the stream, publish again from the lowest missing. The stream knows those
 * that it has by their Nats-Msg-Id. The library is told not to reconnect: what
 * it would send again then it could not tell us.
 *
 * The courier is not waited for when the sink closes and it hangs somewhere in
 * the library: it has all it needs, and what it shares with the owner belongs
 * to the last of the two.
 *
 * The library's own threads stay until the process ends. nats_Close is not
 * called: it would take other sinks' connections with it. */

#define EVENT_PREFIX "kv_"
#define URLS_MAX 16
#define NAME_MAX_BYTES 200 /* of a stream and of the subject's prefix */
#define ACK_SLICE_MS 20    /* new receipts wait for an answer so long */
#define IDLE_SLICE_MS 1000 /* a lost connection is seen after so long */
#define PING_INTERVAL_MS 20000
#define ABANDON_MS 500 /* the courier has so long to end by itself */
#define REPLY_BYTES 256

struct nats_settings {
    const char *url, *stream, *subject, *payload;
    const char *user, *password_file, *token_file, *credentials_file, *ca_file;
    uint64_t duplicate_window_s;
    uint64_t max_pending, max_pending_bytes;
    uint64_t connect_timeout_ms, ack_timeout_ms;
    uint64_t retry_least_ms, retry_most_ms;
    uint64_t close_ms;
    bool create_stream;
};

/* A message that has no acknowledgement yet, by its number. */
struct pending {
    uint64_t sequence;
    bool is_acknowledged;
};

struct courier {
    struct nats_settings settings; /* their texts are ours */

    pthread_mutex_t mutex; /* of what follows */
    pthread_cond_t changed;
    unsigned n_refs;
    uv_async_t *wake; /* NULL once the owner is gone */
    struct outbox taken;
    uint32_t n_mine;   /* receipts in `mine` */
    size_t mine_bytes; /* of them */
    bool drains;       /* ends when nothing is left */
    bool stops;        /* ends now */
    bool has_ended;
    uint64_t acknowledged;
    uint32_t n_failures; /* that the owner has not been told */
    char failure[SINK_ERROR_BYTES];

    /* The thread's own. */
    struct outbox mine;
    struct outbox_place published; /* up to here */
    struct pending *pending;       /* a ring of max_pending, by number */
    uint64_t n_done, n_published;  /* numbers: [n_done, n_published) pend */
    int64_t progress_ns;
    uint32_t n_tries;
    char error[SINK_ERROR_BYTES];

    natsConnection *connection;
    natsSubscription *replies;
    natsInbox *inbox;
};

struct nats {
    struct sink sink;
    struct courier *courier;
    pthread_t thread;
    uv_async_t wake;
    uv_timer_t deadline;
    uint64_t close_ms;
    unsigned n_handles;
    sink_closed_cb closed;
    void *closed_ctx;
};

/* ---- failures */

__attribute__((format(printf, 2, 3))) static bool fail(
    struct courier *courier, const char *format, ...)
{
    va_list args;

    va_start(args, format);
    vsnprintf(courier->error, sizeof courier->error, format, args);
    va_end(args);
    return false;
}

/* The library's words, which are more than the status' where it has any. */
static bool fail_nats(
    struct courier *courier, const char *what, natsStatus status)
{
    natsStatus last = NATS_OK;
    const char *text = nats_GetLastError(&last);

    if (text == NULL || text[0] == '\0' || last != status)
        text = natsStatus_GetText(status);
    return fail(courier, "%s: %s", what, text);
}

/* ---- between courier and owner */

static void free_settings(struct nats_settings *settings)
{
    kv_free((char *)settings->url);
    kv_free((char *)settings->stream);
    kv_free((char *)settings->subject);
    kv_free((char *)settings->payload);
    kv_free((char *)settings->user);
    kv_free((char *)settings->password_file);
    kv_free((char *)settings->token_file);
    kv_free((char *)settings->credentials_file);
    kv_free((char *)settings->ca_file);
}

static void free_courier(struct courier *courier)
{
    outbox_clear(&courier->taken);
    outbox_clear(&courier->mine);
    kv_free(courier->pending);
    free_settings(&courier->settings);
    pthread_cond_destroy(&courier->changed);
    pthread_mutex_destroy(&courier->mutex);
    kv_free(courier);
}

static void release_courier(struct courier *courier)
{
    unsigned n_left;

    pthread_mutex_lock(&courier->mutex);
    n_left = --courier->n_refs;
    pthread_mutex_unlock(&courier->mutex);
    if (n_left == 0)
        free_courier(courier);
}

/* Under the mutex. */
static void wake_owner(struct courier *courier)
{
    if (courier->wake != NULL)
        uv_async_send(courier->wake);
}

/* Under the mutex: at once, or with nothing left to deliver. */
static bool is_over(const struct courier *courier)
{
    return courier->stops ||
           (courier->drains && courier->mine.n_receipts == 0 &&
               courier->taken.n_receipts == 0);
}

/* Under the mutex. */
static void wait_changed(struct courier *courier, uint64_t ms)
{
    int64_t end = kv_clock_mono_ns() + (int64_t)ms * KV_NS_PER_MS;
    const struct timespec at = {
        .tv_sec = (time_t)(end / KV_NS_PER_S), .tv_nsec = end % KV_NS_PER_S};

    pthread_cond_timedwait(&courier->changed, &courier->mutex, &at);
}

/* Takes over what was offered, waiting a while for it if there is nothing to
 * do. false: it is time to end. */
static bool fetch(struct courier *courier)
{
    bool goes_on;

    pthread_mutex_lock(&courier->mutex);
    if (courier->taken.n_receipts == 0 && courier->mine.n_receipts == 0 &&
        !courier->drains && !courier->stops)
        wait_changed(courier, IDLE_SLICE_MS);
    outbox_move(&courier->mine, &courier->taken);
    courier->n_mine = courier->mine.n_receipts;
    courier->mine_bytes = courier->mine.n_bytes;
    goes_on =
        !courier->stops && !(courier->drains && courier->mine.n_receipts == 0);
    pthread_mutex_unlock(&courier->mutex);
    return goes_on;
}

static void report_acknowledged(struct courier *courier, uint64_t sequence)
{
    pthread_mutex_lock(&courier->mutex);
    courier->n_mine = courier->mine.n_receipts;
    courier->mine_bytes = courier->mine.n_bytes;
    courier->acknowledged = sequence;
    wake_owner(courier);
    pthread_mutex_unlock(&courier->mutex);
}

/* Tells the owner what went wrong, and waits before the next try. false: there
 * is to be none. */
static bool report_failure(struct courier *courier)
{
    const struct nats_settings *settings = &courier->settings;
    int64_t end_ns;
    bool goes_on;
    uint64_t ms;

    courier->n_tries++;
    ms = sink_backoff_ms(
        courier->n_tries, settings->retry_least_ms, settings->retry_most_ms);
    end_ns = kv_clock_mono_ns() + (int64_t)ms * KV_NS_PER_MS;
    pthread_mutex_lock(&courier->mutex);
    memcpy(courier->failure, courier->error, sizeof courier->failure);
    courier->n_failures++;
    wake_owner(courier);
    while (!is_over(courier) && kv_clock_mono_ns() < end_ns)
        wait_changed(courier, ms);
    goes_on = !is_over(courier);
    pthread_mutex_unlock(&courier->mutex);
    return goes_on;
}

/* ---- connecting */

/* Quiet: what fails is met again by the courier, in order. */
static void on_error(natsConnection *connection, natsSubscription *subscription,
    natsStatus status, void *ctx)
{
    (void)connection;
    (void)subscription;
    (void)status;
    (void)ctx;
}

/* The URLs of a list parted by commas; *copy owns them. */
static int split_urls(char *copy, const char **urls)
{
    char *rest = copy, *url;
    int n = 0;

    while (n < URLS_MAX && (url = strsep(&rest, ",")) != NULL)
        urls[n++] = url;
    return n;
}

static natsStatus set_servers(natsOptions *options, const char *url)
{
    const char *urls[URLS_MAX];
    char *copy = kv_strdup(url);
    natsStatus status;

    if (copy == NULL)
        return NATS_NO_MEMORY;
    status = natsOptions_SetServers(options, urls, split_urls(copy, urls));
    kv_free(copy);
    return status;
}

static natsStatus set_tls(
    natsOptions *options, const struct nats_settings *settings)
{
    natsStatus status;

    if (strncmp(settings->url, "tls://", 6) != 0)
        return NATS_OK;
    status = natsOptions_SetSecure(options, true);
    if (status == NATS_OK && settings->ca_file[0] != '\0')
        status =
            natsOptions_LoadCATrustedCertificates(options, settings->ca_file);
    return status;
}

/* false: the secret cannot be read. */
static bool set_secret(struct courier *courier, natsOptions *options,
    const char *path, natsStatus *status)
{
    const char *user = courier->settings.user;
    struct secret secret;
    struct kv_error error;

    if (secret_read(&secret, path, &error) != KV_OK)
        return fail(courier, "%.180s", error.text);
    *status = user[0] != '\0'
                  ? natsOptions_SetUserInfo(options, user, secret.text)
                  : natsOptions_SetToken(options, secret.text);
    secret_wipe(&secret);
    return true;
}

static bool set_identity(
    struct courier *courier, natsOptions *options, natsStatus *status)
{
    const struct nats_settings *settings = &courier->settings;

    if (settings->password_file[0] != '\0')
        return set_secret(courier, options, settings->password_file, status);
    if (settings->token_file[0] != '\0')
        return set_secret(courier, options, settings->token_file, status);
    if (settings->credentials_file[0] != '\0')
        *status = natsOptions_SetUserCredentialsFromFiles(
            options, settings->credentials_file, NULL);
    return true;
}

static natsStatus set_plain_options(
    natsOptions *options, const struct nats_settings *settings)
{
    natsStatus status = set_servers(options, settings->url);

#define SET(call) status = status == NATS_OK ? (call) : status
    SET(natsOptions_SetName(options, "kvpoold"));
    SET(natsOptions_SetTimeout(options, (int64_t)settings->connect_timeout_ms));
    SET(natsOptions_SetWriteDeadline(
        options, (int64_t)settings->ack_timeout_ms));
    SET(natsOptions_SetAllowReconnect(options, false));
    SET(natsOptions_SetPingInterval(options, PING_INTERVAL_MS));
    SET(natsOptions_SetErrorHandler(options, on_error, NULL));
    SET(set_tls(options, settings));
#undef SET
    return status;
}

static bool open_connection(struct courier *courier)
{
    natsOptions *options = NULL;
    natsStatus status = natsOptions_Create(&options);
    bool is_read = true;

    if (status == NATS_OK)
        status = set_plain_options(options, &courier->settings);
    if (status == NATS_OK)
        is_read = set_identity(courier, options, &status);
    if (is_read && status == NATS_OK)
        status = natsConnection_Connect(&courier->connection, options);
    natsOptions_Destroy(options);
    if (!is_read)
        return false;
    return status == NATS_OK || fail_nats(courier, "connecting", status);
}

static bool open_replies(struct courier *courier)
{
    char subject[REPLY_BYTES];
    natsStatus status = natsInbox_Create(&courier->inbox);

    if (status == NATS_OK) {
        snprintf(subject, sizeof subject, "%s.*", courier->inbox);
        status = natsConnection_SubscribeSync(
            &courier->replies, courier->connection, subject);
    }
    if (status == NATS_OK)
        status = natsSubscription_SetPendingLimits(courier->replies, -1, -1);
    return status == NATS_OK ||
           fail_nats(courier, "listening for acknowledgements", status);
}

/* ---- the stream */

/* Whether the stream's subject takes every event of the prefix: its tokens are
 * those of the prefix, or `*`, and then there is one wildcard, or `>`. */
static bool covers(const char *filter, const char *prefix)
{
    for (;;) {
        size_t n_filter = strcspn(filter, "."), n = strcspn(prefix, ".");

        if (n_filter == 1 && filter[0] == '>')
            return true;
        if (n == 0)
            return strcmp(filter, "*") == 0;
        if (!(n_filter == 1 && filter[0] == '*') &&
            (n_filter != n || strncmp(filter, prefix, n) != 0))
            return false;
        if (filter[n_filter] == '\0')
            return false;
        filter += n_filter + 1;
        prefix += n + (prefix[n] == '.');
    }
}

static bool check_config(struct courier *courier, const jsStreamConfig *config)
{
    const struct nats_settings *settings = &courier->settings;

    if (config->NoAck)
        return fail(courier, "stream %.60s gives no acknowledgements (no_ack)",
            settings->stream);
    for (int i = 0; i < config->SubjectsLen; i++) {
        if (covers(config->Subjects[i], settings->subject))
            return true;
    }
    return fail(courier, "stream %.60s does not have the subject %.90s.>",
        settings->stream, settings->subject);
}

static bool create_stream(struct courier *courier, jsCtx *js)
{
    const struct nats_settings *settings = &courier->settings;
    char subject[NAME_MAX_BYTES + 3];
    const char *subjects[] = {subject};
    jsStreamConfig config;
    jsErrCode code = 0;
    natsStatus status;

    if (!settings->create_stream)
        return fail(courier,
            "there is no stream %.60s, and create_stream is false",
            settings->stream);
    snprintf(subject, sizeof subject, "%s.>", settings->subject);
    jsStreamConfig_Init(&config);
    config.Name = settings->stream;
    config.Subjects = subjects;
    config.SubjectsLen = 1;
    config.Duplicates = (int64_t)settings->duplicate_window_s * KV_NS_PER_S;
    status = js_AddStream(NULL, js, &config, NULL, &code);
    return status == NATS_OK ||
           fail_nats(courier, "creating the stream", status);
}

static bool check_stream(struct courier *courier)
{
    jsOptions options;
    jsStreamInfo *info = NULL;
    jsErrCode code = 0;
    natsStatus status;
    jsCtx *js = NULL;
    bool fits;

    jsOptions_Init(&options);
    options.Wait = (int64_t)courier->settings.ack_timeout_ms;
    status = natsConnection_JetStream(&js, courier->connection, &options);
    if (status != NATS_OK)
        return fail_nats(courier, "JetStream", status);
    status = js_GetStreamInfo(&info, js, courier->settings.stream, NULL, &code);
    if (status == NATS_OK)
        fits = check_config(courier, info->Config);
    else if (code == JSStreamNotFoundErr)
        fits = create_stream(courier, js);
    else if (status == NATS_NO_RESPONDERS)
        fits = fail(courier, "the server has no JetStream");
    else
        fits = fail_nats(courier, "looking for the stream", status);
    jsStreamInfo_Destroy(info);
    jsCtx_Destroy(js);
    return fits;
}

static bool open_line(struct courier *courier)
{
    courier->published = (struct outbox_place){0};
    courier->n_published = courier->n_done;
    return open_connection(courier) && open_replies(courier) &&
           check_stream(courier);
}

static void close_line(struct courier *courier)
{
    natsSubscription_Destroy(courier->replies);
    natsInbox_Destroy(courier->inbox);
    natsConnection_Destroy(courier->connection); /* closes it */
    courier->replies = NULL;
    courier->inbox = NULL;
    courier->connection = NULL;
}

/* ---- publishing */

static struct pending *pending_at(struct courier *courier, uint64_t number)
{
    return &courier->pending[number % courier->settings.max_pending];
}

/* The kind's name in the contract. */
static void name_subject(char *out, size_t size, const char *prefix,
    const Kvpool__V1__Receipt *receipt)
{
    const ProtobufCFieldDescriptor *field =
        protobuf_c_message_descriptor_get_field(
            &kvpool__v1__receipt__descriptor, (unsigned)receipt->kind_case);

    snprintf(out, size, "%s." EVENT_PREFIX "%s", prefix,
        field != NULL ? field->name : "unknown");
}

static struct sink_key key_of(const Kvpool__V1__Receipt *receipt)
{
    uint8_t pool_id[16] = {0};

    if (receipt->pool_id.len == sizeof pool_id)
        memcpy(pool_id, receipt->pool_id.data, sizeof pool_id);
    return sink_receipt_key(pool_id, receipt->epoch, receipt->sequence);
}

static natsStatus add_headers(natsMsg *message, const char *key,
    const char *stream, const char *content_type)
{
    natsStatus status = natsMsgHeader_Set(message, "Nats-Msg-Id", key);

    if (status == NATS_OK)
        status = natsMsgHeader_Set(message, "Nats-Expected-Stream", stream);
    if (status == NATS_OK)
        status = natsMsgHeader_Set(message, "Content-Type", content_type);
    return status;
}

static natsStatus publish_bytes(struct courier *courier,
    const Kvpool__V1__Receipt *receipt, const char *bytes, size_t n_bytes,
    const char *content_type)
{
    const struct nats_settings *settings = &courier->settings;
    char subject[NAME_MAX_BYTES + 64], reply[REPLY_BYTES];
    struct sink_key key = key_of(receipt);
    natsMsg *message = NULL;
    natsStatus status;

    name_subject(subject, sizeof subject, settings->subject, receipt);
    snprintf(reply, sizeof reply, "%s.%" PRIu64, courier->inbox,
        courier->n_published);
    status = natsMsg_Create(&message, subject, reply, bytes, (int)n_bytes);
    if (status == NATS_OK)
        status = add_headers(message, key.s, settings->stream, content_type);
    if (status == NATS_OK)
        status = natsConnection_PublishMsg(courier->connection, message);
    natsMsg_Destroy(message);
    return status;
}

static natsStatus publish_json(
    struct courier *courier, const Kvpool__V1__Receipt *receipt)
{
    json_t *json = receipt_to_json(receipt);
    char *text = json != NULL ? json_dumps(json, JSON_COMPACT) : NULL;
    natsStatus status = NATS_NO_MEMORY;

    if (text != NULL)
        status = publish_bytes(
            courier, receipt, text, strlen(text), "application/json");
    free(text);
    json_decref(json);
    return status;
}

static natsStatus publish_one(
    struct courier *courier, const unsigned char *bytes, size_t n_bytes)
{
    Kvpool__V1__Receipt *receipt =
        kvpool__v1__receipt__unpack(NULL, n_bytes, bytes);
    natsStatus status;

    if (receipt == NULL)
        return NATS_NO_MEMORY;
    if (strcmp(courier->settings.payload, "json") == 0)
        status = publish_json(courier, receipt);
    else
        status = publish_bytes(courier, receipt, (const char *)bytes, n_bytes,
            "application/protobuf");
    kvpool__v1__receipt__free_unpacked(receipt, NULL);
    return status;
}

static bool publish_rest(struct courier *courier)
{
    const unsigned char *bytes;
    natsStatus status;
    size_t n_bytes;

    if (courier->n_published == courier->n_done)
        courier->progress_ns = kv_clock_mono_ns();
    while (courier->n_published - courier->n_done <
               courier->settings.max_pending &&
           outbox_next(&courier->mine, &courier->published, &bytes, &n_bytes)) {
        status = publish_one(courier, bytes, n_bytes);
        if (status != NATS_OK)
            return fail_nats(courier, "publishing", status);
        *pending_at(courier, courier->n_published) =
            (struct pending){courier->published.sequence, false};
        courier->n_published++;
    }
    return true;
}

/* ---- acknowledgements */

/* Moves on to the lowest that is missing. */
static void advance(struct courier *courier)
{
    uint64_t before = courier->n_done, sequence = 0;

    while (courier->n_done < courier->n_published &&
           pending_at(courier, courier->n_done)->is_acknowledged)
        sequence = pending_at(courier, courier->n_done++)->sequence;
    if (courier->n_done == before)
        return;
    if (courier->n_done == courier->n_published)
        courier->published = (struct outbox_place){0}; /* its run goes */
    outbox_drop(&courier->mine, sequence);
    courier->n_tries = 0;
    courier->progress_ns = kv_clock_mono_ns();
    report_acknowledged(courier, sequence);
}

/* The number that the reply subject ends in; false for somebody else's. */
static bool read_number(
    const struct courier *courier, const natsMsg *message, uint64_t *number)
{
    const char *tail = strrchr(natsMsg_GetSubject(message), '.');
    char *end;

    if (tail == NULL || tail[1] < '0' || tail[1] > '9')
        return false;
    errno = 0;
    *number = strtoull(tail + 1, &end, 10);
    return errno == 0 && *end == '\0' && *number >= courier->n_done &&
           *number < courier->n_published;
}

static bool read_answer(struct courier *courier, const json_t *answer)
{
    const json_t *error = json_object_get(answer, "error");
    const char *text = json_string_value(json_object_get(error, "description"));

    if (error != NULL)
        return fail(courier, "the stream refuses: %.140s",
            text != NULL ? text : "it does not say why");
    if (!json_is_integer(json_object_get(answer, "seq")))
        return fail(courier, "an acknowledgement that is none");
    return true;
}

static bool take_answer(struct courier *courier, natsMsg *message)
{
    uint64_t number;
    json_t *answer;
    bool taken;

    if (!read_number(courier, message, &number))
        return true;
    if (natsMsg_IsNoResponders(message))
        return fail(courier, "nobody takes messages for %.140s",
            courier->settings.subject);
    answer = json_loadb(natsMsg_GetData(message),
        (size_t)natsMsg_GetDataLength(message), 0, NULL);
    taken = read_answer(courier, answer);
    json_decref(answer);
    if (!taken)
        return false;
    pending_at(courier, number)->is_acknowledged = true;
    advance(courier);
    return true;
}

static bool is_overdue(const struct courier *courier)
{
    return kv_clock_mono_ns() - courier->progress_ns >
           (int64_t)courier->settings.ack_timeout_ms * KV_NS_PER_MS;
}

static bool await_answer(struct courier *courier)
{
    natsMsg *message = NULL;
    natsStatus status =
        natsSubscription_NextMsg(&message, courier->replies, ACK_SLICE_MS);
    bool well = true;

    if (status == NATS_OK)
        well = take_answer(courier, message);
    else if (status != NATS_TIMEOUT)
        well = fail_nats(courier, "waiting for acknowledgements", status);
    else if (is_overdue(courier))
        well = fail(courier, "no acknowledgement within %" PRIu64 " ms",
            courier->settings.ack_timeout_ms);
    natsMsg_Destroy(message);
    return well;
}

/* ---- the courier */

/* Until it is to end (true) or something fails. */
static bool deliver(struct courier *courier)
{
    bool well = true;

    while (well && fetch(courier)) {
        well = publish_rest(courier);
        if (well && courier->n_published > courier->n_done)
            well = await_answer(courier);
        else if (well && natsConnection_IsClosed(courier->connection))
            well = fail(courier, "the connection is lost");
    }
    return well;
}

static void *run_courier(void *arg)
{
    struct courier *courier = arg;
    bool goes_on = true;

    while (goes_on) {
        goes_on = !(open_line(courier) && deliver(courier));
        close_line(courier);
        if (goes_on)
            goes_on = report_failure(courier);
    }
    nats_ReleaseThreadMemory();
    pthread_mutex_lock(&courier->mutex);
    courier->has_ended = true;
    wake_owner(courier);
    pthread_mutex_unlock(&courier->mutex);
    release_courier(courier);
    return NULL;
}

/* ---- the owner */

static struct nats *nats_of(struct sink *sink)
{
    return (struct nats *)(void *)sink;
}

static enum kv_status nats_offer(
    struct sink *sink, const struct feed_run *run, uint32_t *n_taken)
{
    struct courier *courier = nats_of(sink)->courier;
    const struct nats_settings *settings = &courier->settings;
    enum kv_status status = KV_BUSY;

    *n_taken = 0;
    pthread_mutex_lock(&courier->mutex);
    if (courier->n_mine < settings->max_pending &&
        courier->mine_bytes < settings->max_pending_bytes)
        status = outbox_take(&courier->taken, run,
            (uint32_t)settings->max_pending - courier->n_mine,
            settings->max_pending_bytes - courier->mine_bytes, n_taken);
    pthread_cond_signal(&courier->changed);
    pthread_mutex_unlock(&courier->mutex);
    return status;
}

static void on_handle_closed(uv_handle_t *handle)
{
    struct nats *nats = handle->data;

    if (--nats->n_handles == 0)
        nats->closed(&nats->sink, nats->closed_ctx);
}

/* The owner's half of the end; the courier has its own. */
static void leave_courier(struct nats *nats)
{
    struct courier *courier = nats->courier;
    bool has_ended;

    pthread_mutex_lock(&courier->mutex);
    courier->wake = NULL;
    courier->stops = true;
    pthread_cond_signal(&courier->changed);
    has_ended = courier->has_ended;
    pthread_mutex_unlock(&courier->mutex);
    if (has_ended)
        pthread_join(nats->thread, NULL);
    else
        pthread_detach(nats->thread);
    release_courier(courier);
    nats->courier = NULL;
    uv_close((uv_handle_t *)&nats->wake, on_handle_closed);
    uv_close((uv_handle_t *)&nats->deadline, on_handle_closed);
}

static void on_wake(uv_async_t *wake)
{
    struct nats *nats = wake->data;
    struct courier *courier = nats->courier;
    struct sink *sink = &nats->sink;
    char failure[SINK_ERROR_BYTES];
    uint64_t acknowledged;
    uint32_t n_failures;
    bool has_ended;

    pthread_mutex_lock(&courier->mutex);
    acknowledged = courier->acknowledged;
    n_failures = courier->n_failures;
    memcpy(failure, courier->failure, sizeof failure);
    courier->n_failures = 0;
    has_ended = courier->has_ended;
    pthread_mutex_unlock(&courier->mutex);

    if (acknowledged > sink->acknowledged_sequence)
        sink_acknowledge(sink, acknowledged);
    if (n_failures > 0)
        sink_failed(sink, "%s", failure);
    if (has_ended)
        leave_courier(nats);
    else if (sink->waits)
        sink_ready(sink);
}

static void on_abandoned(uv_timer_t *deadline)
{
    leave_courier(deadline->data);
}

static void on_deadline(uv_timer_t *deadline)
{
    struct nats *nats = deadline->data;
    struct courier *courier = nats->courier;

    pthread_mutex_lock(&courier->mutex);
    courier->stops = true;
    pthread_cond_signal(&courier->changed);
    pthread_mutex_unlock(&courier->mutex);
    uv_timer_start(deadline, on_abandoned, ABANDON_MS, 0);
}

static void nats_close(struct sink *sink, sink_closed_cb closed, void *ctx)
{
    struct nats *nats = nats_of(sink);
    struct courier *courier = nats->courier;

    nats->closed = closed;
    nats->closed_ctx = ctx;
    pthread_mutex_lock(&courier->mutex);
    courier->drains = true;
    pthread_cond_signal(&courier->changed);
    wake_owner(courier); /* the loop learns of the timer */
    pthread_mutex_unlock(&courier->mutex);
    uv_timer_start(&nats->deadline, on_deadline, nats->close_ms, 0);
}

/* ---- opening */

static enum kv_status own_settings(
    struct nats_settings *out, const struct nats_settings *given)
{
    const char **texts[] = {&out->url, &out->stream, &out->subject,
        &out->payload, &out->user, &out->password_file, &out->token_file,
        &out->credentials_file, &out->ca_file};
    bool owned = true;

    *out = *given;
    for (size_t i = 0; i < sizeof texts / sizeof *texts; i++) {
        *texts[i] = kv_strdup(*texts[i]);
        owned = owned && *texts[i] != NULL;
    }
    if (owned)
        return KV_OK;
    free_settings(out);
    return KV_NO_MEMORY;
}

static void init_shared(struct courier *courier)
{
    pthread_condattr_t attributes;

    pthread_mutex_init(&courier->mutex, NULL);
    pthread_condattr_init(&attributes);
    pthread_condattr_setclock(&attributes, CLOCK_MONOTONIC);
    pthread_cond_init(&courier->changed, &attributes);
    pthread_condattr_destroy(&attributes);
    courier->n_refs = 1;
}

static enum kv_status open_courier(
    struct courier **out, const struct nats_settings *given)
{
    struct courier *courier = kv_calloc(1, sizeof *courier);

    if (courier == NULL)
        return KV_NO_MEMORY;
    if (own_settings(&courier->settings, given) != KV_OK)
        goto free_struct;
    courier->pending =
        kv_calloc((size_t)given->max_pending, sizeof *courier->pending);
    if (courier->pending == NULL)
        goto free_texts;
    init_shared(courier);
    *out = courier;
    return KV_OK;

free_texts:
    free_settings(&courier->settings);
free_struct:
    kv_free(courier);
    return KV_NO_MEMORY;
}

/* Signals are for the owner; the library's threads are born of this one. */
static int start_thread(struct nats *nats)
{
    sigset_t all, before;
    int failed;

    nats->courier->n_refs++;
    nats->courier->wake = &nats->wake;
    sigfillset(&all);
    pthread_sigmask(SIG_SETMASK, &all, &before);
    failed = pthread_create(&nats->thread, NULL, run_courier, nats->courier);
    pthread_sigmask(SIG_SETMASK, &before, NULL);
    return failed;
}

static void free_failed_open(uv_handle_t *handle)
{
    kv_free(handle->data);
}

/* The handles come last: what uv has begun can only be closed later. On failure
 * everything is given back, the sink too. */
static enum kv_status start(
    struct nats *nats, uv_loop_t *loop, struct kv_error *error)
{
    int failed = uv_async_init(loop, &nats->wake, on_wake);

    if (failed != 0) {
        free_courier(nats->courier);
        kv_free(nats);
        return kv_error_set(
            error, KV_IO, "event loop: %s", uv_strerror(failed));
    }
    nats->wake.data = nats;
    failed = start_thread(nats);
    if (failed != 0) {
        free_courier(nats->courier);
        uv_close((uv_handle_t *)&nats->wake, free_failed_open);
        return kv_error_set(
            error, KV_IO, "cannot start a thread: %s", strerror(failed));
    }
    uv_timer_init(loop, &nats->deadline);
    nats->deadline.data = nats;
    nats->n_handles = 2;
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
    if (open_courier(&nats->courier, given) != KV_OK) {
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
    const char *urls[URLS_MAX];
    char *copy = kv_strdup(list);
    bool well = copy != NULL;
    size_t n_commas = 0;
    int n;

    for (const char *at = list; (at = strchr(at, ',')) != NULL; at++)
        n_commas++;
    n = well && n_commas < URLS_MAX ? split_urls(copy, urls) : 0;
    for (int i = 0; i < n; i++)
        well = well && is_server(urls[i], scheme);
    kv_free(copy);
    return well && n > 0;
}

static bool is_subject(const char *subject)
{
    size_t n = strlen(subject);

    if (n == 0 || n > NAME_MAX_BYTES || subject[0] == '.' ||
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

#define TEXT(field, standard_, help_)                                          \
    {                                                                          \
        .name = #field, .kind = SINK_TEXT,                                     \
        .offset = offsetof(struct nats_settings, field),                       \
        .standard = (standard_), .help = (help_)                               \
    }
#define UINT(field, standard_, least_, most_, unit_, help_)                    \
    {                                                                          \
        .name = #field, .kind = SINK_UINT,                                     \
        .offset = offsetof(struct nats_settings, field),                       \
        .standard = (standard_), .least = (least_), .most = (most_),           \
        .value = (unit_), .help = (help_)                                      \
    }

static const struct sink_setting nats_table[] = {
    TEXT(url, NULL,
        "The server, nats://host:port or tls://host:port; several of one "
        "cluster are parted by commas"),
    TEXT(stream, "KVPOOL", "The JetStream stream that keeps the receipts"),
    TEXT(subject, "kvpool.receipts",
        "A receipt is published on this and its event: "
        "kvpool.receipts.kv_eviction"),
    {.name = "create_stream",
        .kind = SINK_BOOL,
        .offset = offsetof(struct nats_settings, create_stream),
        .standard = "true",
        .help = "Create the stream, on disk and without limits, if it is not "
                "there"},
    UINT(duplicate_window_s, "120", 1, 604800, "s",
        "A stream that we create drops what it was sent twice within"),
    {.name = "payload",
        .kind = SINK_CHOICE,
        .offset = offsetof(struct nats_settings, payload),
        .standard = "json",
        .value = "json|protobuf",
        .help = "A message is the receipt as JSON, or its bytes as proven by "
                "the ledger"},
    TEXT(user, "", "User to connect as, with password_file; \"\": none"),
    TEXT(password_file, "",
        "File with the user's password, read at every connect"),
    TEXT(token_file, "",
        "File with a token to connect with, read at every connect; \"\": "
        "none"),
    TEXT(credentials_file, "",
        "Credentials file (.creds: a JWT and its key) to connect with; \"\": "
        "none"),
    TEXT(ca_file, "",
        "File of PEM certificates that may vouch for a tls:// server, beside "
        "those of the system"),
    UINT(max_pending, "1024", 1, 65536, "messages",
        "So many may be without an acknowledgement"),
    UINT(max_pending_bytes, "4194304", 65536, 268435456, "bytes",
        "and so many bytes of them, as the ledger has them"),
    UINT(connect_timeout_ms, "2000", 1, 600000, "ms",
        "A connection must stand within"),
    UINT(ack_timeout_ms, "5000", 1, 600000, "ms",
        "Without an acknowledgement for so long, the connection is given up"),
    UINT(retry_least_ms, "200", 1, 3600000, "ms",
        "The first retry comes after so long, each further one after twice as "
        "long, less a random part of up to a half"),
    UINT(retry_most_ms, "30000", 1, 3600000, "ms", "but at most after so long"),
    UINT(close_ms, "5000", 0, 600000, "ms",
        "At the end, what is not acknowledged within is left to the next "
        "start"),
};

const struct sink_kind sink_nats_kind = {
    .name = "nats",
    .settings = nats_table,
    .n_settings = sizeof nats_table / sizeof *nats_table,
    .settings_bytes = sizeof(struct nats_settings),
    .check = nats_check,
    .open = nats_open,
};
