#include "cli/proto_json.h"

#include <math.h>
#include <string.h>

#include "base/heap.h"
#include "base/utf8.h"

static void *heap_alloc(void *ctx, size_t size)
{
    (void)ctx;
    return kv_calloc(size, 1);
}

static void heap_free(void *ctx, void *ptr)
{
    (void)ctx;
    kv_free(ptr);
}

const ProtobufCAllocator proto_heap = {heap_alloc, heap_free, NULL};

/* The first value of an enum is PREFIX_UNSPECIFIED; one that has none (health
 * checks') has no prefix either. */
static size_t prefix_length(const ProtobufCEnumDescriptor *kind)
{
    static const char suffix[] = "_UNSPECIFIED";
    const char *first = kind->values[0].name;
    size_t n = strlen(first), n_suffix = sizeof suffix - 1;

    if (n < n_suffix || strcmp(first + n - n_suffix, suffix) != 0)
        return 0;
    return n - n_suffix + 1;
}

static const ProtobufCEnumValue *find_value(
    const ProtobufCEnumDescriptor *kind, int value)
{
    return protobuf_c_enum_descriptor_get_value(kind, value);
}

const char *proto_enum_name(const ProtobufCEnumDescriptor *kind, int value)
{
    const ProtobufCEnumValue *found = find_value(kind, value);

    return found != NULL ? found->name + prefix_length(kind) : "?";
}

static json_t *enum_to_json(const ProtobufCEnumDescriptor *kind, int value)
{
    if (find_value(kind, value) == NULL)
        return json_integer(value);
    return json_string(proto_enum_name(kind, value));
}

static json_t *unsigned_to_json(uint64_t value)
{
    char digits[24];
    size_t at = sizeof digits;

    if (value <= INT64_MAX)
        return json_integer((json_int_t)value);
    for (; value != 0; value /= 10)
        digits[--at] = (char)('0' + value % 10);
    return json_stringn(digits + at, sizeof digits - at);
}

/* JSON has no infinities. */
static json_t *real_to_json(double value)
{
    return isfinite(value) ? json_real(value) : json_null();
}

static json_t *mend_to_json(const char *text, size_t n)
{
    static const char replacement[] = "\xEF\xBF\xBD";
    char *mended = kv_calloc(n, 3);
    size_t at = 0;
    json_t *json;

    if (mended == NULL)
        return NULL;
    for (size_t i = 0; i < n;) {
        int length = kv_utf8_length(text + i, n - i);
        const char *from = length > 0 ? text + i : replacement;
        size_t n_from = length > 0 ? (size_t)length : 3;

        memcpy(mended + at, from, n_from);
        at += n_from;
        i += length > 0 ? (size_t)length : 1;
    }
    json = json_stringn(mended, at);
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

static json_t *value_to_json(
    const ProtobufCFieldDescriptor *field, const void *value)
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
        return enum_to_json(field->descriptor, *(const int *)value);
    case PROTOBUF_C_TYPE_STRING:
        return text_to_json(*(const char *const *)value);
    case PROTOBUF_C_TYPE_BYTES:
        return bytes_to_json(value);
    case PROTOBUF_C_TYPE_MESSAGE:
        return proto_to_json(*(const ProtobufCMessage *const *)value);
    }
    return json_null();
}

static size_t value_size(ProtobufCType type)
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

static json_t *repeated_to_json(
    const ProtobufCFieldDescriptor *field, const char *base)
{
    size_t n = *(const size_t *)(const void *)(base + field->quantifier_offset);
    const char *values = *(char *const *)(const void *)(base + field->offset);
    json_t *array = json_array();

    for (size_t i = 0; array != NULL && i < n; i++) {
        json_t *item =
            value_to_json(field, values + i * value_size(field->type));

        if (item == NULL || json_array_append_new(array, item) != 0) {
            json_decref(array);
            return NULL;
        }
    }
    return array;
}

static bool is_present(const ProtobufCFieldDescriptor *field, const char *base)
{
    const void *quantifier = base + field->quantifier_offset;
    const void *value = base + field->offset;

    if (field->label == PROTOBUF_C_LABEL_REPEATED)
        return true;
    if (field->flags & PROTOBUF_C_FIELD_FLAG_ONEOF)
        return *(const uint32_t *)quantifier == field->id;
    return field->type != PROTOBUF_C_TYPE_MESSAGE ||
           *(const void *const *)value != NULL;
}

json_t *proto_to_json(const ProtobufCMessage *message)
{
    const ProtobufCMessageDescriptor *kind = message->descriptor;
    const char *base = (const char *)message;
    json_t *object = json_object();

    for (unsigned i = 0; object != NULL && i < kind->n_fields; i++) {
        const ProtobufCFieldDescriptor *field = &kind->fields[i];
        json_t *value;

        if (!is_present(field, base))
            continue;
        value = field->label == PROTOBUF_C_LABEL_REPEATED
                    ? repeated_to_json(field, base)
                    : value_to_json(field, base + field->offset);
        if (value == NULL ||
            json_object_set_new(object, field->name, value) != 0) {
            json_decref(object);
            return NULL;
        }
    }
    return object;
}
