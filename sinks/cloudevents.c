#include "sinks/cloudevents.h"

#include <inttypes.h>
#include <stdio.h>
#include <string.h>

#include <jansson.h>
#include <zlib.h>

#include "base/heap.h"
#include "receipts/json.h"

#define GZIP_WINDOW_BITS (15 + 16) /* + 16: gzip's frame, not zlib's */
#define GZIP_MEMORY_LEVEL 8
#define GZIP_LEVEL 6

/* ---- text that grows */

struct text {
    char *bytes;
    size_t n_bytes, capacity;
};

static int add_text(const char *bytes, size_t n_bytes, void *ctx)
{
    struct text *text = ctx;

    if (n_bytes > text->capacity - text->n_bytes) {
        size_t capacity = 2 * text->capacity + n_bytes + 4096;
        char *grown = kv_realloc(text->bytes, capacity);

        if (grown == NULL)
            return -1;
        text->bytes = grown;
        text->capacity = capacity;
    }
    memcpy(text->bytes + text->n_bytes, bytes, n_bytes);
    text->n_bytes += n_bytes;
    return 0;
}

/* ---- one event */

struct urn {
    char s[sizeof "urn:uuid:" + 36];
};

static struct urn pool_urn(const uint8_t id[16])
{
    struct urn urn = {"urn:uuid:"};
    char *at = urn.s + strlen(urn.s);

    for (int i = 0; i < 16; i++) {
        bool has_dash = i == 4 || i == 6 || i == 8 || i == 10;

        at += sprintf(at, has_dash ? "-%02x" : "%02x", id[i]);
    }
    return urn;
}

/* The receipt's own members are what attributes are made of, so that a new kind
 * needs no line here. */
static json_t *event_of(const Kvpool__V1__Receipt *receipt, const char *source,
    const struct sink_key *key, json_t *data)
{
    const char *event = json_string_value(json_object_get(data, "event"));
    const char *session =
        json_string_value(json_object_get(data, "session_id"));
    bool has_session = session != NULL && session[0] != '\0';
    char sequence[24];

    snprintf(sequence, sizeof sequence, "%020" PRIu64, receipt->sequence);
    return json_pack("{s:s, s:s, s:s, s:s+, s:O, s:s*, s:s, s:s, s:O}",
        "specversion", "1.0", "id", key->s, "source", source, "type",
        "kvpool.v1.", event, "time", json_object_get(data, "time"), "subject",
        has_session ? session : NULL, "sequence", sequence, "datacontenttype",
        "application/json", "data", data);
}

/* The event's text behind what is there; the receipt's key and sequence. */
static enum kv_status add_event(struct text *text, const char *source,
    const unsigned char *bytes, size_t n_bytes, struct sink_key *key)
{
    Kvpool__V1__Receipt *receipt =
        kvpool__v1__receipt__unpack(NULL, n_bytes, bytes);
    uint8_t pool_id[16] = {0};
    json_t *data, *event = NULL;
    struct urn urn;
    int failed = -1;

    if (receipt == NULL)
        return KV_NO_MEMORY;
    if (receipt->pool_id.len == sizeof pool_id)
        memcpy(pool_id, receipt->pool_id.data, sizeof pool_id);
    *key = sink_receipt_key(pool_id, receipt->epoch, receipt->sequence);
    urn = pool_urn(pool_id);
    data = receipt_to_json(receipt);
    if (data != NULL)
        event =
            event_of(receipt, source[0] != '\0' ? source : urn.s, key, data);
    if (event != NULL)
        failed = json_dump_callback(event, add_text, text, JSON_COMPACT);
    json_decref(event);
    json_decref(data);
    kvpool__v1__receipt__free_unpacked(receipt, NULL);
    return failed == 0 ? KV_OK : KV_NO_MEMORY;
}

/* ---- the batch */

static enum kv_status add_events(struct text *text, const struct outbox *box,
    const char *source, size_t max_bytes, struct cloudevents_body *out)
{
    struct outbox_place place = {0};
    const unsigned char *bytes;
    enum kv_status status;
    struct sink_key key;
    size_t n_bytes;

    while (outbox_next(box, &place, &bytes, &n_bytes)) {
        size_t n_before = text->n_bytes;

        if (add_text(n_before == 0 ? "[" : ",", 1, text) != 0)
            return KV_NO_MEMORY;
        status = add_event(text, source, bytes, n_bytes, &key);
        if (status != KV_OK)
            return status;
        if (n_before > 0 && text->n_bytes + 1 > max_bytes) {
            text->n_bytes = n_before; /* it begins the next batch */
            break;
        }
        if (n_before == 0) {
            out->first_sequence = place.sequence;
            out->first_key = key;
        }
        out->last_sequence = place.sequence;
    }
    return add_text("]", 1, text) == 0 ? KV_OK : KV_NO_MEMORY;
}

static void *allocate(void *ctx, unsigned n, unsigned size)
{
    (void)ctx;
    return kv_calloc(n, size);
}

static void give_back(void *ctx, void *ptr)
{
    (void)ctx;
    kv_free(ptr);
}

static enum kv_status compress_text(struct text *text)
{
    z_stream stream = {.zalloc = allocate, .zfree = give_back};
    size_t capacity;
    char *packed;
    int result;

    if (deflateInit2(&stream, GZIP_LEVEL, Z_DEFLATED, GZIP_WINDOW_BITS,
            GZIP_MEMORY_LEVEL, Z_DEFAULT_STRATEGY) != Z_OK)
        return KV_NO_MEMORY;
    capacity = deflateBound(&stream, text->n_bytes);
    packed = kv_calloc(capacity, 1);
    if (packed == NULL) {
        deflateEnd(&stream);
        return KV_NO_MEMORY;
    }
    stream.next_in = (unsigned char *)text->bytes;
    stream.avail_in = (unsigned)text->n_bytes;
    stream.next_out = (unsigned char *)packed;
    stream.avail_out = (unsigned)capacity;
    result = deflate(&stream, Z_FINISH);
    kv_free(text->bytes);
    *text = (struct text){packed, stream.total_out, capacity};
    deflateEnd(&stream);
    return result == Z_STREAM_END ? KV_OK : KV_NO_MEMORY;
}

enum kv_status cloudevents_pack(struct cloudevents_body *out,
    const struct outbox *box, const char *source, size_t max_bytes, bool gzip)
{
    struct cloudevents_body body = {0};
    struct text text = {0};
    enum kv_status status;

    status = add_events(&text, box, source, max_bytes, &body);
    if (status == KV_OK && gzip)
        status = compress_text(&text);
    if (status != KV_OK) {
        kv_free(text.bytes);
        return status;
    }
    body.bytes = (unsigned char *)text.bytes;
    body.n_bytes = text.n_bytes;
    *out = body;
    return KV_OK;
}

void cloudevents_body_free(struct cloudevents_body *body)
{
    kv_free(body->bytes);
    *body = (struct cloudevents_body){0};
}
