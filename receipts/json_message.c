#include "receipts/json_message.h"

#include <inttypes.h>
#include <math.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>

#include "base/heap.h"
#include "base/utf8.h"

/* ---- scalars */

static json_t *unsigned_to_json(uint64_t value)
{
    char digits[24];

    if (value <= INT64_MAX)
        return json_integer((json_int_t)value);
    snprintf(digits, sizeof digits, "%" PRIu64, value);
    return json_string(digits);
}

static json_t *real_to_json(double value)
{
    return isfinite(value) ? json_real(value) : json_null();
}

static json_t *enum_to_json(const ProtobufCEnumDescriptor *type, int value,
    const struct json_style *style)
{
    const char *name = style->enum_name(type, value);

    return name != NULL ? json_string(name) : json_integer(value);
}

static json_t *mend_to_json(const char *text, size_t n)
{
    static const char replacement[] = "\xEF\xBF\xBD";
    char *mended = kv_calloc(n, 3);
    size_t n_mended = 0;
    json_t *json;

    if (mended == NULL)
        return NULL;
    for (size_t i = 0; i < n;) {
        int length = kv_utf8_length(text + i, n - i);
        size_t n_good = length > 0 ? (size_t)length : 3;

        memcpy(mended + n_mended, length > 0 ? text + i : replacement, n_good);
        n_mended += n_good;
        i += length > 0 ? (size_t)length : 1;
    }
    json = json_stringn(mended, n_mended);
    kv_free(mended);
    return json;
}

static json_t *text_to_json(const char *text)
{
    size_t n = text != NULL ? strlen(text) : 0;

    if (n == 0)
        return json_string("");
    return kv_utf8_valid(text, n) ? json_stringn(text, n)
                                  : mend_to_json(text, n);
}

static json_t *bytes_to_json(const ProtobufCBinaryData *bytes)
{
    static const char digits[] = "0123456789abcdef";
    char *hex;
    json_t *json;

    if (bytes->len == 0)
        return json_string("");
    hex = kv_calloc(bytes->len, 2);
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

static json_t *value_to_json(const ProtobufCFieldDescriptor *field,
    const void *value, const struct json_style *style)
{
    switch (field->type) {
    case PROTOBUF_C_TYPE_INT32:
    case PROTOBUF_C_TYPE_SINT32:
    case PROTOBUF_C_TYPE_SFIXED32:
        return json_integer(*(const int32_t *)value);
    case PROTOBUF_C_TYPE_INT64:
    case PROTOBUF_C_TYPE_SINT64:
    case PROTOBUF_C_TYPE_SFIXED64:
        return json_integer(*(const int64_t *)value);
    case PROTOBUF_C_TYPE_UINT32:
    case PROTOBUF_C_TYPE_FIXED32:
        return json_integer(*(const uint32_t *)value);
    case PROTOBUF_C_TYPE_UINT64:
    case PROTOBUF_C_TYPE_FIXED64:
        return unsigned_to_json(*(const uint64_t *)value);
    case PROTOBUF_C_TYPE_FLOAT:
        return real_to_json(*(const float *)value);
    case PROTOBUF_C_TYPE_DOUBLE:
        return real_to_json(*(const double *)value);
    case PROTOBUF_C_TYPE_BOOL:
        return json_boolean(*(const protobuf_c_boolean *)value);
    case PROTOBUF_C_TYPE_ENUM:
        return enum_to_json(field->descriptor, *(const int *)value, style);
    case PROTOBUF_C_TYPE_STRING:
        return text_to_json(*(const char *const *)value);
    case PROTOBUF_C_TYPE_BYTES:
        return bytes_to_json(value);
    case PROTOBUF_C_TYPE_MESSAGE:
        return json_message(*(const ProtobufCMessage *const *)value, style);
    }
    return json_null();
}

/* ---- fields */

/* Of one element where protobuf-c keeps several. */
static size_t element_bytes(ProtobufCType type)
{
    switch (type) {
    case PROTOBUF_C_TYPE_INT64:
    case PROTOBUF_C_TYPE_SINT64:
    case PROTOBUF_C_TYPE_SFIXED64:
    case PROTOBUF_C_TYPE_UINT64:
    case PROTOBUF_C_TYPE_FIXED64:
    case PROTOBUF_C_TYPE_DOUBLE:
        return 8;
    case PROTOBUF_C_TYPE_STRING:
    case PROTOBUF_C_TYPE_MESSAGE:
        return sizeof(void *);
    case PROTOBUF_C_TYPE_BYTES:
        return sizeof(ProtobufCBinaryData);
    default:
        return 4;
    }
}

/* Where protobuf-c keeps something of a message. */
static const void *member(const ProtobufCMessage *message, size_t offset)
{
    return (const char *)message + offset;
}

static json_t *array_to_json(const ProtobufCMessage *message,
    const ProtobufCFieldDescriptor *field, const struct json_style *style)
{
    size_t n = *(const size_t *)member(message, field->quantifier_offset);
    const char *elements = *(const char *const *)member(message, field->offset);
    json_t *array = json_array();

    for (size_t i = 0; array != NULL && i < n; i++) {
        json_t *value = value_to_json(
            field, elements + i * element_bytes(field->type), style);

        if (value == NULL || json_array_append_new(array, value) != 0) {
            json_decref(array);
            return NULL;
        }
    }
    return array;
}

bool json_is_present(
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

bool json_put(json_t *object, const char *name, json_t *value)
{
    return value != NULL && json_object_set_new(object, name, value) == 0;
}

bool json_put_field(json_t *object, const ProtobufCMessage *message,
    const ProtobufCFieldDescriptor *field, const struct json_style *style)
{
    if (!json_is_present(message, field))
        return true;
    return json_put(object, field->name,
        field->label == PROTOBUF_C_LABEL_REPEATED
            ? array_to_json(message, field, style)
            : value_to_json(field, member(message, field->offset), style));
}

/* ---- messages */

bool json_put_message(json_t *object, const ProtobufCMessage *message,
    const struct json_style *style)
{
    const ProtobufCMessageDescriptor *type = message->descriptor;

    for (unsigned i = 0; i < type->n_fields; i++)
        if (!json_put_field(object, message, &type->fields[i], style))
            return false;
    return style->derive == NULL || style->derive(object, message);
}

json_t *json_message(
    const ProtobufCMessage *message, const struct json_style *style)
{
    json_t *object = json_object();

    if (object != NULL && !json_put_message(object, message, style)) {
        json_decref(object);
        return NULL;
    }
    return object;
}
