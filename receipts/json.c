#include "receipts/json.h"

#include <assert.h>
#include <inttypes.h>
#include <math.h>
#include <stdio.h>
#include <string.h>

#include "base/heap.h"
#include "base/utf8.h"
#include "receipts/json_rules.h"

/* The fields come from the contract's own descriptors, so a new kind needs no
 * line here; json_rules.c has the few exceptions. */

static json_t *message_to_json(const ProtobufCMessage *message);

/* Where protobuf-c keeps something of a message. */
static const void *member(const ProtobufCMessage *message, size_t offset)
{
    return (const char *)message + offset;
}

const char *eviction_reason_name(Kvpool__V1__EvictionReason reason)
{
    const char *name =
        json_enum_name(&kvpool__v1__eviction_reason__descriptor, (int)reason);

    return name != NULL ? name : "Unknown";
}

static json_t *unsigned_to_json(uint64_t value)
{
    char digits[24];

    if (value <= INT64_MAX)
        return json_integer((json_int_t)value);
    snprintf(digits, sizeof digits, "%" PRIu64, value);
    return json_string(digits);
}

static json_t *enum_to_json(const ProtobufCEnumDescriptor *type, int value)
{
    const char *name = json_enum_name(type, value);

    return name != NULL ? json_string(name) : json_integer(value);
}

static json_t *text_to_json(const char *text)
{
    size_t n = strlen(text), n_clean = 0;
    json_t *json = json_stringn(text, n);
    char *clean;

    if (json != NULL || kv_utf8_valid(text, n))
        return json;
    clean = kv_calloc(n, 3);
    if (clean == NULL)
        return NULL;
    for (size_t i = 0; i < n;) {
        int length = kv_utf8_length(text + i, n - i);
        size_t n_good = length > 0 ? (size_t)length : 3;

        memcpy(clean + n_clean, length > 0 ? text + i : "\xEF\xBF\xBD", n_good);
        n_clean += n_good;
        i += length > 0 ? (size_t)length : 1;
    }
    json = json_stringn(clean, n_clean);
    kv_free(clean);
    return json;
}

static json_t *bytes_to_json(const ProtobufCBinaryData *bytes)
{
    static const char digits[] = "0123456789abcdef";
    char *hex = kv_calloc(2 * bytes->len + 1, 1);
    json_t *json;

    if (hex == NULL)
        return NULL;
    for (size_t i = 0; i < bytes->len; i++) {
        hex[2 * i] = digits[bytes->data[i] >> 4];
        hex[2 * i + 1] = digits[bytes->data[i] & 15];
    }
    json = json_stringn(hex, 2 * bytes->len);
    kv_free(hex);
    return json;
}

static json_t *value_to_json(
    const ProtobufCFieldDescriptor *field, const void *at)
{
    switch (field->type) {
    case PROTOBUF_C_TYPE_UINT32:
        return json_integer(*(const uint32_t *)at);
    case PROTOBUF_C_TYPE_UINT64:
        return unsigned_to_json(*(const uint64_t *)at);
    case PROTOBUF_C_TYPE_INT64:
        return json_integer(*(const int64_t *)at);
    case PROTOBUF_C_TYPE_DOUBLE:
        return isfinite(*(const double *)at) ? json_real(*(const double *)at)
                                             : json_null();
    case PROTOBUF_C_TYPE_BOOL:
        return json_boolean(*(const protobuf_c_boolean *)at);
    case PROTOBUF_C_TYPE_ENUM:
        return enum_to_json(field->descriptor, *(const int *)at);
    case PROTOBUF_C_TYPE_STRING:
        return text_to_json(*(const char *const *)at);
    case PROTOBUF_C_TYPE_BYTES:
        return bytes_to_json(at);
    case PROTOBUF_C_TYPE_MESSAGE:
        return message_to_json(*(const ProtobufCMessage *const *)at);
    default:
        assert(!"a type that receipts do not use");
        return json_null();
    }
}

static size_t element_bytes(const ProtobufCFieldDescriptor *field)
{
    switch (field->type) {
    case PROTOBUF_C_TYPE_BYTES:
        return sizeof(ProtobufCBinaryData);
    case PROTOBUF_C_TYPE_STRING:
    case PROTOBUF_C_TYPE_MESSAGE:
        return sizeof(void *);
    default:
        assert(!"a repeated type that receipts do not use");
        return sizeof(void *);
    }
}

static json_t *array_to_json(
    const ProtobufCMessage *message, const ProtobufCFieldDescriptor *field)
{
    size_t n = *(const size_t *)member(message, field->quantifier_offset);
    const char *elements = *(const char *const *)member(message, field->offset);
    json_t *array = json_array();

    for (size_t i = 0; array != NULL && i < n; i++) {
        json_t *value =
            value_to_json(field, elements + i * element_bytes(field));

        if (value == NULL || json_array_append_new(array, value) != 0) {
            json_decref(array);
            return NULL;
        }
    }
    return array;
}

static bool is_present(
    const ProtobufCMessage *message, const ProtobufCFieldDescriptor *field)
{
    if ((field->flags & PROTOBUF_C_FIELD_FLAG_ONEOF) != 0 &&
        *(const uint32_t *)member(message, field->quantifier_offset) !=
            field->id)
        return false;
    return field->label == PROTOBUF_C_LABEL_REPEATED ||
           field->type != PROTOBUF_C_TYPE_MESSAGE ||
           *(const void *const *)member(message, field->offset) != NULL;
}

/* Takes value; false if it is NULL or there is no memory. */
static bool put(json_t *object, const char *name, json_t *value)
{
    return value != NULL && json_object_set_new(object, name, value) == 0;
}

static bool put_field(json_t *object, const ProtobufCMessage *message,
    const ProtobufCFieldDescriptor *field)
{
    if (!is_present(message, field))
        return true;
    if (field->label == PROTOBUF_C_LABEL_REPEATED)
        return put(object, field->name, array_to_json(message, field));
    return put(object, field->name,
        value_to_json(field, member(message, field->offset)));
}

static bool put_derived(json_t *object, const Kvpool__V1__PoolStatistics *stats)
{
    double value;
    const char *name;

    for (size_t i = 0; (name = json_derived(stats, i, &value)) != NULL; i++)
        if (!put(object, name, json_real(value)))
            return false;
    return true;
}

static bool put_message(json_t *object, const ProtobufCMessage *message)
{
    const ProtobufCMessageDescriptor *type = message->descriptor;

    for (unsigned i = 0; i < type->n_fields; i++)
        if (!put_field(object, message, &type->fields[i]))
            return false;
    return type != &kvpool__v1__pool_statistics__descriptor ||
           put_derived(object, (const Kvpool__V1__PoolStatistics *)message);
}

static json_t *message_to_json(const ProtobufCMessage *message)
{
    json_t *object = json_object();

    if (object != NULL && !put_message(object, message)) {
        json_decref(object);
        return NULL;
    }
    return object;
}

json_t *pool_statistics_to_json(const Kvpool__V1__PoolStatistics *stats)
{
    return message_to_json(&stats->base);
}

static const ProtobufCFieldDescriptor *find_kind(
    const Kvpool__V1__Receipt *receipt)
{
    const ProtobufCMessageDescriptor *type = receipt->base.descriptor;

    for (unsigned i = 0; i < type->n_fields; i++)
        if (json_is_kind(&type->fields[i]) &&
            is_present(&receipt->base, &type->fields[i]))
            return &type->fields[i];
    return NULL;
}

static bool put_event(json_t *object, const ProtobufCFieldDescriptor *kind)
{
    char event[64];

    if (kind == NULL)
        return put(object, "event", json_string(JSON_EVENT_UNKNOWN));
    snprintf(event, sizeof event, JSON_EVENT_PREFIX "%s", kind->name);
    return put(object, "event", json_string(event));
}

static bool put_time(json_t *object, int64_t unix_ns)
{
    char time[JSON_TIME_BYTES];

    json_format_time(time, unix_ns);
    return put(object, "time", json_string(time));
}

static bool put_envelope(json_t *object, const Kvpool__V1__Receipt *receipt)
{
    const ProtobufCMessageDescriptor *type = receipt->base.descriptor;

    for (unsigned i = 0; i < type->n_fields; i++) {
        const ProtobufCFieldDescriptor *field = &type->fields[i];
        bool is_time =
            field->offset == offsetof(Kvpool__V1__Receipt, time_unix_ns);

        if (json_is_kind(field))
            continue;
        if (!put_field(object, &receipt->base, field) ||
            (is_time && !put_time(object, receipt->time_unix_ns)))
            return false;
    }
    return true;
}

json_t *receipt_to_json(const Kvpool__V1__Receipt *receipt)
{
    const ProtobufCFieldDescriptor *kind = find_kind(receipt);
    json_t *object = json_object();

    if (object == NULL)
        return NULL;
    if (!put_event(object, kind) || !put_envelope(object, receipt))
        goto free_object;
    if (kind != NULL &&
        !put_message(object, *(const ProtobufCMessage *const *)(const void
                                     *)((const char *)receipt + kind->offset)))
        goto free_object;
    return object;

free_object:
    json_decref(object);
    return NULL;
}
