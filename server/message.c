#include "server/message.h"

#include <stdio.h>
#include <string.h>

#include "base/heap.h"
#include "base/utf8.h"

#define PATH_BYTES 96

/* A place in the encoding, and the path of the message that it is in. */
struct walk {
    const unsigned char *at, *end;
    const struct walk *outer;
    const char *name;
    size_t index;
    bool repeated;
};

static bool take_varint(struct walk *walk, uint64_t *out)
{
    uint64_t value = 0;

    for (int shift = 0; shift < 64 && walk->at < walk->end; shift += 7) {
        unsigned char byte = *walk->at++;

        value |= (uint64_t)(byte & 0x7F) << shift;
        if (byte < 0x80) {
            *out = value;
            return true;
        }
    }
    return false;
}

static bool skip(struct walk *walk, uint64_t n)
{
    if (n > (uint64_t)(walk->end - walk->at))
        return false;
    walk->at += n;
    return true;
}

/* Writes "a.b[2].c" for the field `name` of the message that walk is in. */
static size_t put_path(const struct walk *walk, char *path, size_t n)
{
    if (walk->outer == NULL)
        return n;
    n = put_path(walk->outer, path, n);
    if (n < PATH_BYTES)
        n += (size_t)snprintf(path + n, PATH_BYTES - n, "%s", walk->name);
    if (walk->repeated && n < PATH_BYTES)
        n += (size_t)snprintf(path + n, PATH_BYTES - n, "[%zu]", walk->index);
    if (n < PATH_BYTES)
        n += (size_t)snprintf(path + n, PATH_BYTES - n, ".");
    return n;
}

static void refuse_string(const struct walk *walk,
    const ProtobufCFieldDescriptor *field, size_t index, const char *what,
    struct rpc_error *error)
{
    char path[PATH_BYTES];
    size_t n = put_path(walk, path, 0);

    if (n < sizeof path)
        n += (size_t)snprintf(path + n, sizeof path - n, "%s", field->name);
    if (field->label == PROTOBUF_C_LABEL_REPEATED && n < sizeof path)
        snprintf(path + n, sizeof path - n, "[%zu]", index);
    rpc_error_add_violation(
        error, path, "%s; allowed is UTF-8 without U+0000", what);
}

static bool check_message(struct walk *walk,
    const ProtobufCMessageDescriptor *type, struct rpc_error *error);

static bool check_string(const struct walk *walk, const char *text, size_t n,
    const ProtobufCFieldDescriptor *field, size_t index,
    struct rpc_error *error)
{
    if (!kv_utf8_valid(text, n))
        refuse_string(walk, field, index, "not valid UTF-8", error);
    else if (memchr(text, '\0', n) != NULL)
        refuse_string(walk, field, index, "contains U+0000", error);
    else
        return true;
    return false;
}

static bool check_delimited(struct walk *walk,
    const ProtobufCFieldDescriptor *field, size_t index,
    struct rpc_error *error)
{
    const unsigned char *start;
    uint64_t n;

    if (!take_varint(walk, &n))
        return false;
    start = walk->at;
    if (!skip(walk, n))
        return false;
    if (field != NULL && field->type == PROTOBUF_C_TYPE_STRING)
        return check_string(
            walk, (const char *)start, (size_t)n, field, index, error);
    if (field != NULL && field->type == PROTOBUF_C_TYPE_MESSAGE) {
        struct walk inner = {
            .at = start,
            .end = start + n,
            .outer = walk,
            .name = field->name,
            .index = index,
            .repeated = field->label == PROTOBUF_C_LABEL_REPEATED,
        };

        return check_message(&inner, field->descriptor, error);
    }
    return true;
}

/* Whether a field may come in this wire type, alone or packed; protobuf-c looks
 * at it for most types, and takes any for a bool. */
static bool fits(const ProtobufCFieldDescriptor *field, unsigned wire_type)
{
    bool is_packable = field->label == PROTOBUF_C_LABEL_REPEATED;

    switch (field->type) {
    case PROTOBUF_C_TYPE_STRING:
    case PROTOBUF_C_TYPE_BYTES:
    case PROTOBUF_C_TYPE_MESSAGE:
        return wire_type == 2;
    case PROTOBUF_C_TYPE_SFIXED64:
    case PROTOBUF_C_TYPE_FIXED64:
    case PROTOBUF_C_TYPE_DOUBLE:
        return wire_type == 1 || (is_packable && wire_type == 2);
    case PROTOBUF_C_TYPE_SFIXED32:
    case PROTOBUF_C_TYPE_FIXED32:
    case PROTOBUF_C_TYPE_FLOAT:
        return wire_type == 5 || (is_packable && wire_type == 2);
    default:
        return wire_type == 0 || (is_packable && wire_type == 2);
    }
}

/* No message type of ours is recursive, so neither is the walk without end. */
static bool check_message(struct walk *walk,
    const ProtobufCMessageDescriptor *type, struct rpc_error *error)
{
    const ProtobufCFieldDescriptor *field;
    size_t index = 0;
    uint64_t tag, value, last = 0;

    while (walk->at < walk->end) {
        if (!take_varint(walk, &tag))
            return false;
        index = tag == last ? index + 1 : 0;
        last = tag;
        field =
            protobuf_c_message_descriptor_get_field(type, (unsigned)(tag >> 3));
        if (field != NULL && !fits(field, tag & 7))
            return false;
        switch (tag & 7) {
        case 0:
            if (!take_varint(walk, &value))
                return false;
            break;
        case 1:
            if (!skip(walk, 8))
                return false;
            break;
        case 2:
            if (!check_delimited(walk, field, index, error))
                return false;
            break;
        case 5:
            if (!skip(walk, 4))
                return false;
            break;
        default:
            return false;
        }
    }
    return true;
}

ProtobufCMessage *message_parse(const ProtobufCMessageDescriptor *type,
    const unsigned char *bytes, size_t n_bytes, struct rpc_error *error)
{
    struct walk walk = {.at = bytes, .end = bytes + n_bytes};
    ProtobufCMessage *message = NULL;

    memset(error, 0, sizeof *error);
    if (check_message(&walk, type, error))
        message = protobuf_c_message_unpack(type, NULL, n_bytes, bytes);
    if (message == NULL && error->n_violations == 0)
        rpc_error_add_violation(error, "",
            "the %zu bytes of the request are not a %s", n_bytes, type->name);
    return message;
}

bool message_encode(const ProtobufCMessage *message, struct rpc_bytes *out)
{
    size_t n = protobuf_c_message_get_packed_size(message);
    unsigned char *data = kv_calloc(1, n + 1);

    if (data == NULL)
        return false;
    protobuf_c_message_pack(message, data);
    *out = (struct rpc_bytes){
        .data = data, .n = n, .release = kv_free, .ctx = data};
    return true;
}

void message_reply(struct rpc_call *call, const ProtobufCMessage *message)
{
    struct rpc_bytes bytes;

    if (message_encode(message, &bytes))
        rpc_call_reply(call, &bytes);
    else
        message_fail_no_memory(call);
}

void message_fail_no_memory(struct rpc_call *call)
{
    struct rpc_error error;

    rpc_error_init(&error, RPC_RESOURCE_EXHAUSTED, "NO_MEMORY",
        "the server has no memory for this request");
    rpc_call_fail(call, &error);
}
