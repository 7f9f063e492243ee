#include "cli/proto_json.h"

#include <string.h>

#include "base/heap.h"
#include "receipts/json_message.h"

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

/* NULL: it has none. */
static const char *enum_name(const ProtobufCEnumDescriptor *kind, int value)
{
    const ProtobufCEnumValue *found =
        protobuf_c_enum_descriptor_get_value(kind, value);

    return found != NULL ? found->name + prefix_length(kind) : NULL;
}

const char *proto_enum_name(const ProtobufCEnumDescriptor *kind, int value)
{
    const char *name = enum_name(kind, value);

    return name != NULL ? name : "?";
}

json_t *proto_to_json(const ProtobufCMessage *message)
{
    static const struct json_style style = {.enum_name = enum_name};

    return json_message(message, &style);
}
