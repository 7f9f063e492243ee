#include "sinks/nats_courier.h"

#include <errno.h>
#include <inttypes.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <jansson.h>

#include "base/clock.h"
#include "base/heap.h"
#include "base/thread.h"
#include "receipts/json.h"
#include "sinks/outbox.h"

/* Messages are published without waiting, each with a reply subject that ends
 * in its number; their acknowledgements come back to one subscription, in any
 * order, and the position moves to the lowest that is still missing. Whatever
 * goes wrong, the way on is one: drop the line, wait, open it again, publish
 * again from the lowest missing. The stream knows those that it has by their
 * Nats-Msg-Id. The library is told not to reconnect: what it would send again
 * then it could not tell us. */

#define EVENT_PREFIX "kv_"
#define ACK_SLICE_MS 20    /* new receipts wait for an answer so long */
#define IDLE_SLICE_MS 1000 /* a lost connection is seen after so long */
#define REPLY_BYTES 256

/* A message that has no acknowledgement yet, by its number. */
struct pending {
    uint64_t sequence;
    bool is_acknowledged;
};

struct nats_courier {
    struct nats_settings settings; /* their texts are ours */
    pthread_t thread;
    bool is_started;

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
    bool has_failed; /* and the owner has not been told */
    bool has_given_up;
    char failure[SINK_ERROR_BYTES];

    /* The thread's own. */
    struct outbox mine;
    struct outbox_place published; /* up to here */
    struct pending *pending;       /* a ring of max_pending, by number */
    uint64_t n_done, n_published;  /* numbers: [n_done, n_published) pend */
    int64_t progress_ns;
    uint32_t n_tries;
    struct nats_line line;
};

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

static void free_courier(struct nats_courier *courier)
{
    outbox_clear(&courier->taken);
    outbox_clear(&courier->mine);
    kv_free(courier->pending);
    free_settings(&courier->settings);
    pthread_cond_destroy(&courier->changed);
    pthread_mutex_destroy(&courier->mutex);
    kv_free(courier);
}

static void release_courier(struct nats_courier *courier)
{
    unsigned n_left;

    pthread_mutex_lock(&courier->mutex);
    n_left = --courier->n_refs;
    pthread_mutex_unlock(&courier->mutex);
    if (n_left == 0)
        free_courier(courier);
}

/* Under the mutex. */
static void wake_owner(struct nats_courier *courier)
{
    if (courier->wake != NULL)
        uv_async_send(courier->wake);
}

/* Under the mutex: at once, or with nothing left to deliver. */
static bool is_over(const struct nats_courier *courier)
{
    return courier->stops || courier->has_given_up ||
           (courier->drains && courier->mine.n_receipts == 0 &&
               courier->taken.n_receipts == 0);
}

/* Under the mutex. */
static void wait_changed(struct nats_courier *courier, uint64_t ms)
{
    kv_condition_wait_until(&courier->changed, &courier->mutex,
        kv_clock_mono_ns() + (int64_t)ms * KV_NS_PER_MS);
}

/* Takes over what was offered, waiting a while for it if there is nothing to
 * do. false: it is time to end. */
static bool fetch(struct nats_courier *courier)
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

static void report_acknowledged(struct nats_courier *courier, uint64_t sequence)
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
static bool report_failure(struct nats_courier *courier)
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
    memcpy(courier->failure, courier->line.error, sizeof courier->failure);
    courier->has_failed = true;
    courier->has_given_up = courier->line.is_hopeless;
    wake_owner(courier);
    while (!is_over(courier) && kv_clock_mono_ns() < end_ns)
        wait_changed(courier, ms);
    goes_on = !is_over(courier);
    pthread_mutex_unlock(&courier->mutex);
    return goes_on;
}

/* ---- publishing */

static struct pending *pending_at(struct nats_courier *courier, uint64_t number)
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

static natsStatus publish_bytes(struct nats_courier *courier,
    const Kvpool__V1__Receipt *receipt, const char *bytes, size_t n_bytes,
    const char *content_type)
{
    const struct nats_settings *settings = &courier->settings;
    char subject[NATS_NAME_BYTES + 64], reply[REPLY_BYTES];
    struct sink_key key = key_of(receipt);
    natsMsg *message = NULL;
    natsStatus status;

    name_subject(subject, sizeof subject, settings->subject, receipt);
    snprintf(reply, sizeof reply, "%s.%" PRIu64, courier->line.inbox,
        courier->n_published);
    status = natsMsg_Create(&message, subject, reply, bytes, (int)n_bytes);
    if (status == NATS_OK)
        status = add_headers(message, key.s, settings->stream, content_type);
    if (status == NATS_OK)
        status = natsConnection_PublishMsg(courier->line.connection, message);
    natsMsg_Destroy(message);
    return status;
}

static natsStatus publish_json(
    struct nats_courier *courier, const Kvpool__V1__Receipt *receipt)
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
    struct nats_courier *courier, const unsigned char *bytes, size_t n_bytes)
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

static bool publish_rest(struct nats_courier *courier)
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
            return nats_line_fail_status(&courier->line, "publishing", status);
        *pending_at(courier, courier->n_published) =
            (struct pending){courier->published.sequence, false};
        courier->n_published++;
    }
    return true;
}

/* ---- acknowledgements */

/* Moves on to the lowest that is missing. */
static void advance(struct nats_courier *courier)
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
static bool read_number(const struct nats_courier *courier,
    const natsMsg *message, uint64_t *number)
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

static bool read_answer(struct nats_courier *courier, const json_t *answer)
{
    const json_t *error = json_object_get(answer, "error");
    const char *text = json_string_value(json_object_get(error, "description"));

    if (error != NULL)
        return nats_line_fail(&courier->line, "the stream refuses: %.140s",
            text != NULL ? text : "it does not say why");
    if (!json_is_integer(json_object_get(answer, "seq")))
        return nats_line_fail(
            &courier->line, "an acknowledgement that is none");
    return true;
}

static bool take_answer(struct nats_courier *courier, natsMsg *message)
{
    uint64_t number;
    json_t *answer;
    bool taken;

    if (!read_number(courier, message, &number))
        return true;
    if (natsMsg_IsNoResponders(message))
        return nats_line_fail(&courier->line,
            "nobody takes messages for %.140s", courier->settings.subject);
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

static bool is_overdue(const struct nats_courier *courier)
{
    return kv_clock_mono_ns() - courier->progress_ns >
           (int64_t)courier->settings.ack_timeout_ms * KV_NS_PER_MS;
}

static bool await_answer(struct nats_courier *courier)
{
    natsMsg *message = NULL;
    natsStatus status =
        natsSubscription_NextMsg(&message, courier->line.replies, ACK_SLICE_MS);
    bool well = true;

    if (status == NATS_OK)
        well = take_answer(courier, message);
    else if (status != NATS_TIMEOUT)
        well = nats_line_fail_status(
            &courier->line, "waiting for acknowledgements", status);
    else if (is_overdue(courier))
        well = nats_line_fail(&courier->line,
            "no acknowledgement within %" PRIu64 " ms",
            courier->settings.ack_timeout_ms);
    natsMsg_Destroy(message);
    return well;
}

/* ---- the thread */

static bool open_line(struct nats_courier *courier)
{
    courier->published = (struct outbox_place){0};
    courier->n_published = courier->n_done;
    return nats_line_open(&courier->line);
}

/* Until it is to end (true) or something fails. */
static bool deliver(struct nats_courier *courier)
{
    bool well = true;

    while (well && fetch(courier)) {
        well = publish_rest(courier);
        if (well && courier->n_published > courier->n_done)
            well = await_answer(courier);
        else if (well && natsConnection_IsClosed(courier->line.connection))
            well = nats_line_fail(&courier->line, "the connection is lost");
    }
    return well;
}

static void *run_courier(void *arg)
{
    struct nats_courier *courier = arg;
    bool goes_on = true;

    while (goes_on) {
        goes_on = !(open_line(courier) && deliver(courier));
        nats_line_close(&courier->line);
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

static void init_shared(struct nats_courier *courier)
{
    pthread_mutex_init(&courier->mutex, NULL);
    kv_condition_init(&courier->changed);
    courier->n_refs = 1;
}

enum kv_status nats_courier_open(
    struct nats_courier **out, const struct nats_settings *given)
{
    struct nats_courier *courier = kv_calloc(1, sizeof *courier);

    if (courier == NULL)
        return KV_NO_MEMORY;
    if (own_settings(&courier->settings, given) != KV_OK)
        goto free_struct;
    courier->pending =
        kv_calloc((size_t)given->max_pending, sizeof *courier->pending);
    if (courier->pending == NULL)
        goto free_texts;
    courier->line.settings = &courier->settings;
    init_shared(courier);
    *out = courier;
    return KV_OK;

free_texts:
    free_settings(&courier->settings);
free_struct:
    kv_free(courier);
    return KV_NO_MEMORY;
}

/* The library's threads are born of this one, and take no signals either. */
int nats_courier_start(struct nats_courier *courier, uv_async_t *wake)
{
    int failed;

    courier->wake = wake;
    courier->n_refs++;
    failed = kv_thread_start(&courier->thread, run_courier, courier);
    courier->is_started = failed == 0;
    if (failed != 0)
        courier->n_refs--;
    return failed;
}

enum kv_status nats_courier_offer(
    struct nats_courier *courier, const struct feed_run *run, uint32_t *n_taken)
{
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

struct nats_news nats_courier_news(struct nats_courier *courier)
{
    struct nats_news news;

    pthread_mutex_lock(&courier->mutex);
    news = (struct nats_news){.acknowledged = courier->acknowledged,
        .has_failed = courier->has_failed,
        .has_given_up = courier->has_given_up,
        .has_ended = courier->has_ended};
    memcpy(news.failure, courier->failure, sizeof news.failure);
    courier->has_failed = false;
    pthread_mutex_unlock(&courier->mutex);
    return news;
}

void nats_courier_drain(struct nats_courier *courier)
{
    pthread_mutex_lock(&courier->mutex);
    courier->drains = true;
    pthread_cond_signal(&courier->changed);
    pthread_mutex_unlock(&courier->mutex);
}

void nats_courier_stop(struct nats_courier *courier)
{
    pthread_mutex_lock(&courier->mutex);
    courier->stops = true;
    pthread_cond_signal(&courier->changed);
    pthread_mutex_unlock(&courier->mutex);
}

void nats_courier_leave(struct nats_courier *courier)
{
    pthread_t thread = courier->thread;
    bool has_ended;

    nats_courier_stop(courier);
    pthread_mutex_lock(&courier->mutex);
    courier->wake = NULL;
    has_ended = courier->has_ended;
    pthread_mutex_unlock(&courier->mutex);
    if (courier->is_started && has_ended)
        pthread_join(thread, NULL);
    else if (courier->is_started)
        pthread_detach(thread);
    release_courier(courier);
}
