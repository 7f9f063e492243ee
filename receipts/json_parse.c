#include "receipts/json.h"

#include <assert.h>
#include <inttypes.h>
#include <math.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/heap.h"
#include "receipts/json_rules.h"

/* JSON is turned into the wire format, which protobuf-c then unpacks: so the
 * message is built, and freed, by one hand. A nested message is written in its
 * place, and its length pushed in before it. */

struct parser {
    unsigned char *wire;
    size_t n_wire, capacity;
    char path[160]; /* of the member being read, such as "before.free_runs" */
    struct kv_error *error;
};

__attribute__((format(printf, 2, 3))) static enum kv_status refuse(
    struct parser *parser, const char *format, ...)
{
    char what[256];
    va_list args;

    va_start(args, format);
    vsnprintf(what, sizeof what, format, args);
    va_end(args);
    return kv_error_set(
        parser->error, KV_INVALID, "receipt: %s: %s", parser->path, what);
}

/* Appends to the path; the return value restores it. */
static size_t enter(struct parser *parser, const char *name, size_t index)
{
    size_t n = strlen(parser->path), room = sizeof parser->path - n;

    if (name != NULL)
        snprintf(parser->path + n, room, "%s%.60s", n > 0 ? "." : "", name);
    else
        snprintf(parser->path + n, room, "[%zu]", index);
    return n;
}

static void leave(struct parser *parser, size_t n_path)
{
    parser->path[n_path] = '\0';
}

/* ---- writing the wire format */

static enum kv_status reserve(struct parser *parser, size_t n)
{
    size_t capacity = parser->capacity;
    unsigned char *larger;

    if (n <= capacity - parser->n_wire)
        return KV_OK;
    while (n > capacity - parser->n_wire)
        capacity = capacity > 0 ? 2 * capacity : 1024;
    larger = kv_realloc(parser->wire, capacity);
    if (larger == NULL)
        return kv_error_set(
            parser->error, KV_NO_MEMORY, "no memory for a receipt");
    parser->wire = larger;
    parser->capacity = capacity;
    return KV_OK;
}

static enum kv_status write_bytes(
    struct parser *parser, const void *bytes, size_t n)
{
    enum kv_status status = reserve(parser, n);

    if (status != KV_OK || n == 0)
        return status;
    memcpy(parser->wire + parser->n_wire, bytes, n);
    parser->n_wire += n;
    return KV_OK;
}

static size_t format_varint(unsigned char out[10], uint64_t value)
{
    size_t n = 0;

    for (; value >= 0x80; value >>= 7)
        out[n++] = (unsigned char)(value | 0x80);
    out[n++] = (unsigned char)value;
    return n;
}

static enum kv_status write_varint(struct parser *parser, uint64_t value)
{
    unsigned char bytes[10];

    return write_bytes(parser, bytes, format_varint(bytes, value));
}

enum wire_type { WIRE_VARINT = 0, WIRE_FIXED64 = 1, WIRE_LENGTH = 2 };

static enum kv_status write_tag(struct parser *parser,
    const ProtobufCFieldDescriptor *field, enum wire_type type)
{
    return write_varint(parser, (uint64_t)field->id << 3 | type);
}

static enum kv_status write_number(struct parser *parser,
    const ProtobufCFieldDescriptor *field, uint64_t value)
{
    enum kv_status status = write_tag(parser, field, WIRE_VARINT);

    return status == KV_OK ? write_varint(parser, value) : status;
}

/* What was written since `start` becomes the field's value. */
static enum kv_status wrap(
    struct parser *parser, const ProtobufCFieldDescriptor *field, size_t start)
{
    unsigned char head[20];
    size_t n_value = parser->n_wire - start;
    size_t n = format_varint(head, (uint64_t)field->id << 3 | WIRE_LENGTH);
    enum kv_status status;

    n += format_varint(head + n, n_value);
    status = reserve(parser, n);
    if (status != KV_OK)
        return status;
    memmove(parser->wire + start + n, parser->wire + start, n_value);
    memcpy(parser->wire + start, head, n);
    parser->n_wire += n;
    return KV_OK;
}

/* ---- reading values */

static enum kv_status parse_message(struct parser *parser, const json_t *json,
    const ProtobufCMessageDescriptor *type);

/* Above INT64_MAX a number is a string of digits, and only there. */
static bool read_unsigned(const json_t *json, uint64_t *out)
{
    const char *digits = json_string_value(json);
    char again[24];

    if (json_is_integer(json)) {
        *out = (uint64_t)json_integer_value(json);
        return json_integer_value(json) >= 0;
    }
    if (digits == NULL)
        return false;
    *out = strtoull(digits, NULL, 10);
    snprintf(again, sizeof again, "%" PRIu64, *out);
    return *out > INT64_MAX && strcmp(digits, again) == 0;
}

static enum kv_status parse_unsigned(struct parser *parser, const json_t *json,
    const ProtobufCFieldDescriptor *field)
{
    bool is_narrow = field->type == PROTOBUF_C_TYPE_UINT32;
    uint64_t value;

    if (!read_unsigned(json, &value) || (is_narrow && value > UINT32_MAX))
        return refuse(parser, "a whole number from 0 to 2^%d - 1 is allowed",
            is_narrow ? 32 : 64);
    return write_number(parser, field, value);
}

static enum kv_status parse_signed(struct parser *parser, const json_t *json,
    const ProtobufCFieldDescriptor *field)
{
    if (!json_is_integer(json))
        return refuse(parser, "a whole number is allowed");
    return write_number(parser, field, (uint64_t)json_integer_value(json));
}

static enum kv_status parse_real(struct parser *parser, const json_t *json,
    const ProtobufCFieldDescriptor *field)
{
    double value = json_number_value(json);
    enum kv_status status;
    unsigned char bytes[8];
    uint64_t bits;

    if (!json_is_number(json))
        return refuse(parser, "a number is allowed");
    memcpy(&bits, &value, sizeof bits);
    for (int i = 0; i < 8; i++)
        bytes[i] = (unsigned char)(bits >> (8 * i));
    status = write_tag(parser, field, WIRE_FIXED64);
    return status == KV_OK ? write_bytes(parser, bytes, sizeof bytes) : status;
}

static enum kv_status parse_boolean(struct parser *parser, const json_t *json,
    const ProtobufCFieldDescriptor *field)
{
    if (!json_is_boolean(json))
        return refuse(parser, "true or false is allowed");
    return write_number(parser, field, json_is_true(json));
}

/* A value that has a name goes by its name. */
static enum kv_status parse_enum(struct parser *parser, const json_t *json,
    const ProtobufCFieldDescriptor *field)
{
    json_int_t number = json_integer_value(json);
    int value;

    if (json_is_string(json)) {
        if (!json_enum_value(
                field->descriptor, json_string_value(json), &value))
            return refuse(parser, "\"%.40s\" is none of its values",
                json_string_value(json));
        return write_number(parser, field, (uint64_t)value);
    }
    if (!json_is_integer(json) || number < INT32_MIN || number > INT32_MAX ||
        json_enum_name(field->descriptor, (int)number) != NULL)
        return refuse(parser, "a name is allowed, or a number without one");
    return write_number(parser, field, (uint64_t)number);
}

static enum kv_status parse_text(struct parser *parser, const json_t *json,
    const ProtobufCFieldDescriptor *field)
{
    const char *text = json_string_value(json);
    size_t n = json_string_length(json), start = parser->n_wire;
    enum kv_status status;

    if (text == NULL || strlen(text) != n)
        return refuse(parser, "a string without U+0000 is allowed");
    status = write_bytes(parser, text, n);
    return status == KV_OK ? wrap(parser, field, start) : status;
}

static int hex_digit(char c)
{
    if (c >= '0' && c <= '9')
        return c - '0';
    return c >= 'a' && c <= 'f' ? c - 'a' + 10 : -1;
}

static enum kv_status parse_bytes(struct parser *parser, const json_t *json,
    const ProtobufCFieldDescriptor *field)
{
    const char *hex = json_string_value(json);
    size_t n = json_string_length(json), start = parser->n_wire;
    enum kv_status status = KV_OK;

    if (hex == NULL || n % 2 != 0)
        return refuse(parser, "lower-case hexadecimal bytes are allowed");
    for (size_t i = 0; status == KV_OK && i < n; i += 2) {
        int high = hex_digit(hex[i]), low = hex_digit(hex[i + 1]);
        unsigned char byte = (unsigned char)(high * 16 + low);

        if (high < 0 || low < 0)
            return refuse(parser, "lower-case hexadecimal bytes are allowed");
        status = write_bytes(parser, &byte, 1);
    }
    return status == KV_OK ? wrap(parser, field, start) : status;
}

static enum kv_status parse_nested(struct parser *parser, const json_t *json,
    const ProtobufCFieldDescriptor *field)
{
    size_t start = parser->n_wire;
    enum kv_status status = parse_message(parser, json, field->descriptor);

    return status == KV_OK ? wrap(parser, field, start) : status;
}

static enum kv_status parse_value(struct parser *parser, const json_t *json,
    const ProtobufCFieldDescriptor *field)
{
    switch (field->type) {
    case PROTOBUF_C_TYPE_UINT32:
    case PROTOBUF_C_TYPE_UINT64:
        return parse_unsigned(parser, json, field);
    case PROTOBUF_C_TYPE_INT64:
        return parse_signed(parser, json, field);
    case PROTOBUF_C_TYPE_DOUBLE:
        return parse_real(parser, json, field);
    case PROTOBUF_C_TYPE_BOOL:
        return parse_boolean(parser, json, field);
    case PROTOBUF_C_TYPE_ENUM:
        return parse_enum(parser, json, field);
    case PROTOBUF_C_TYPE_STRING:
        return parse_text(parser, json, field);
    case PROTOBUF_C_TYPE_BYTES:
        return parse_bytes(parser, json, field);
    case PROTOBUF_C_TYPE_MESSAGE:
        return parse_nested(parser, json, field);
    default:
        assert(!"a type that receipts do not use");
        return KV_UNSUPPORTED;
    }
}

static enum kv_status parse_array(struct parser *parser, const json_t *json,
    const ProtobufCFieldDescriptor *field)
{
    enum kv_status status = KV_OK;

    if (!json_is_array(json))
        return refuse(parser, "an array is allowed");
    for (size_t i = 0; status == KV_OK && i < json_array_size(json); i++) {
        size_t n_path = enter(parser, NULL, i);

        status = parse_value(parser, json_array_get(json, i), field);
        leave(parser, n_path);
    }
    return status;
}

/* ---- reading messages */

static bool follows(const json_t *json, double value)
{
    return json_is_number(json) &&
           fabs(json_number_value(json) - value) <= 1e-9 * fmax(1, fabs(value));
}

/* The derived members of statistics, whose fields were written from `start`. */
static enum kv_status check_derived(
    struct parser *parser, const json_t *json, size_t start)
{
    Kvpool__V1__PoolStatistics *stats = kvpool__v1__pool_statistics__unpack(
        NULL, parser->n_wire - start, parser->wire + start);
    enum kv_status status = KV_OK;
    const char *name;
    double value;

    if (stats == NULL)
        return kv_error_set(
            parser->error, KV_NO_MEMORY, "no memory for a receipt");
    for (size_t i = 0; (name = json_derived(stats, i, &value)) != NULL; i++) {
        const json_t *given = json_object_get(json, name);
        size_t n_path = enter(parser, name, 0);

        if (status == KV_OK && given != NULL && !follows(given, value))
            status =
                refuse(parser, "%.9g follows from the other members", value);
        leave(parser, n_path);
    }
    kvpool__v1__pool_statistics__free_unpacked(stats, NULL);
    return status;
}

static bool is_derived(
    const ProtobufCMessageDescriptor *type, const char *member)
{
    const Kvpool__V1__PoolStatistics none = KVPOOL__V1__POOL_STATISTICS__INIT;
    const char *name;
    double value;

    if (type == &kvpool__v1__receipt__descriptor)
        return strcmp(member, "event") == 0 || strcmp(member, "time") == 0;
    if (type != &kvpool__v1__pool_statistics__descriptor)
        return false;
    for (size_t i = 0; (name = json_derived(&none, i, &value)) != NULL; i++)
        if (strcmp(member, name) == 0)
            return true;
    return false;
}

static const ProtobufCFieldDescriptor *find_field(
    const ProtobufCMessageDescriptor *type, const char *name)
{
    const ProtobufCFieldDescriptor *field =
        protobuf_c_message_descriptor_get_field_by_name(type, name);

    /* The members of the kind lie in the receipt's own object. */
    if (field != NULL && type == &kvpool__v1__receipt__descriptor &&
        json_is_kind(field))
        return NULL;
    return field;
}

/* One member of an object; *oneof is the field of a oneof that was set. */
static enum kv_status parse_member(struct parser *parser, const json_t *json,
    const ProtobufCFieldDescriptor *field,
    const ProtobufCFieldDescriptor **oneof)
{
    if ((field->flags & PROTOBUF_C_FIELD_FLAG_ONEOF) != 0) {
        if (*oneof != NULL)
            return refuse(
                parser, "only one of it and %s is allowed", (*oneof)->name);
        *oneof = field;
    }
    if (field->label == PROTOBUF_C_LABEL_REPEATED)
        return parse_array(parser, json, field);
    return parse_value(parser, json, field);
}

/* The members of the object that are fields of `type`; any other must be a
 * field of `also`, where that is given. */
static enum kv_status parse_fields(struct parser *parser, const json_t *json,
    const ProtobufCMessageDescriptor *type,
    const ProtobufCMessageDescriptor *also)
{
    const ProtobufCFieldDescriptor *oneof = NULL;
    enum kv_status status = KV_OK;
    const char *name;
    json_t *value;

    json_object_foreach((json_t *)json, name, value)
    {
        const ProtobufCFieldDescriptor *field = find_field(type, name);
        size_t n_path = enter(parser, name, 0);

        if (field != NULL)
            status = parse_member(parser, value, field, &oneof);
        else if (!is_derived(type, name) &&
                 (also == NULL || (find_field(also, name) == NULL &&
                                      !is_derived(also, name))))
            status = refuse(parser, "no such member");
        leave(parser, n_path);
        if (status != KV_OK)
            break;
    }
    return status;
}

static enum kv_status parse_message(struct parser *parser, const json_t *json,
    const ProtobufCMessageDescriptor *type)
{
    size_t start = parser->n_wire;
    enum kv_status status;

    if (!json_is_object(json))
        return refuse(parser, "an object is allowed");
    status = parse_fields(parser, json, type, NULL);
    if (status == KV_OK && type == &kvpool__v1__pool_statistics__descriptor)
        status = check_derived(parser, json, start);
    return status;
}

/* *kind is NULL, and stays so for a kind of a newer contract. */
static enum kv_status find_kind(struct parser *parser, const json_t *json,
    const ProtobufCFieldDescriptor **kind)
{
    const ProtobufCMessageDescriptor *type = &kvpool__v1__receipt__descriptor;
    const char *event = json_string_value(json_object_get(json, "event"));
    const size_t n = strlen(JSON_EVENT_PREFIX);

    snprintf(parser->path, sizeof parser->path, "event");
    if (event == NULL)
        return refuse(parser, "a string such as \"kv_eviction\" must be there");
    if (strncmp(event, JSON_EVENT_PREFIX, n) == 0)
        *kind =
            protobuf_c_message_descriptor_get_field_by_name(type, event + n);
    if (strcmp(event, JSON_EVENT_UNKNOWN) != 0 &&
        (*kind == NULL || !json_is_kind(*kind)))
        return refuse(parser, "\"%.40s\" is no kind of receipt", event);
    parser->path[0] = '\0';
    return KV_OK;
}

static enum kv_status parse_receipt(struct parser *parser, const json_t *json)
{
    const ProtobufCMessageDescriptor *type = &kvpool__v1__receipt__descriptor;
    const ProtobufCFieldDescriptor *kind = NULL;
    enum kv_status status;
    size_t start;

    if (!json_is_object(json))
        return kv_error_set(
            parser->error, KV_INVALID, "receipt: an object is allowed");
    status = reserve(parser, 1); /* so that an empty message has an address */
    if (status == KV_OK)
        status = find_kind(parser, json, &kind);
    if (status != KV_OK)
        return status;
    status = parse_fields(
        parser, json, type, kind != NULL ? kind->descriptor : NULL);
    if (status != KV_OK || kind == NULL)
        return status;
    start = parser->n_wire;
    status = parse_fields(parser, json, kind->descriptor, type);
    return status == KV_OK ? wrap(parser, kind, start) : status;
}

static enum kv_status check_time(struct parser *parser, const json_t *json,
    const Kvpool__V1__Receipt *receipt)
{
    const json_t *given = json_object_get(json, "time");
    char time[JSON_TIME_BYTES];

    json_format_time(time, receipt->time_unix_ns);
    if (given == NULL ||
        (json_is_string(given) && strcmp(json_string_value(given), time) == 0))
        return KV_OK;
    enter(parser, "time", 0);
    return refuse(parser, "%s follows from time_unix_ns", time);
}

enum kv_status receipt_from_json(
    const json_t *json, Kvpool__V1__Receipt **out, struct kv_error *error)
{
    struct parser parser = {.error = error};
    Kvpool__V1__Receipt *receipt = NULL;
    enum kv_status status = parse_receipt(&parser, json);

    if (status == KV_OK) {
        receipt = kvpool__v1__receipt__unpack(NULL, parser.n_wire, parser.wire);
        if (receipt == NULL)
            status =
                kv_error_set(error, KV_NO_MEMORY, "no memory for a receipt");
        else
            status = check_time(&parser, json, receipt);
    }
    kv_free(parser.wire);
    if (status != KV_OK) {
        if (receipt != NULL)
            kvpool__v1__receipt__free_unpacked(receipt, NULL);
        return status;
    }
    *out = receipt;
    return KV_OK;
}
