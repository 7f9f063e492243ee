#include "tests/receipts/random_receipt.h"

#include <stdlib.h>
#include <string.h>

#define MESSAGE_BYTES 65536

/* The wire format, as far as it is written. */
struct wire {
    unsigned char bytes[MESSAGE_BYTES];
    size_t n;
};

static uint64_t random_number(void)
{
    uint64_t bits =
        (uint64_t)rand() << 33 ^ (uint64_t)rand() << 11 ^ (uint64_t)rand();

    switch (rand() % 8) {
    case 0:
        return 0;
    case 1:
        return UINT64_MAX;
    case 2:
        return (uint64_t)INT64_MAX + (uint64_t)(rand() % 2);
    default:
        return bits >> rand() % 64;
    }
}

static void put_varint(struct wire *wire, uint64_t value)
{
    for (; value >= 0x80; value >>= 7)
        wire->bytes[wire->n++] = (unsigned char)(value | 0x80);
    wire->bytes[wire->n++] = (unsigned char)value;
}

static void put_bytes(struct wire *wire, const void *bytes, size_t n)
{
    put_varint(wire, n);
    memcpy(wire->bytes + wire->n, bytes, n);
    wire->n += n;
}

static void put_text(struct wire *wire)
{
    static const char *const texts[] = {"", "chat-7", "quote \" backslash \\",
        "\xC3\xA9t\xC3\xA9 \xF0\x9F\x90\x98", "line\nbreak\x01",
        "\xEF\xBF\xBD"};
    const char *text = texts[rand() % 6];

    put_bytes(wire, text, strlen(text));
}

static void put_data(struct wire *wire)
{
    unsigned char data[32];
    size_t n = (size_t)(rand() % 3) * 16;

    for (size_t i = 0; i < n; i++)
        data[i] = (unsigned char)rand();
    put_bytes(wire, data, n);
}

static void put_real(struct wire *wire)
{
    double value = rand() % 4 == 0
                       ? 0
                       : ((double)rand() - 1e9) / (1 + (double)(rand() % 999));

    memcpy(wire->bytes + wire->n, &value, sizeof value);
    wire->n += sizeof value;
}

static void put_message(
    struct wire *wire, const ProtobufCMessageDescriptor *type);

static void put_nested(
    struct wire *wire, const ProtobufCMessageDescriptor *type)
{
    struct wire *nested = calloc(1, sizeof *nested);

    put_message(nested, type);
    put_bytes(wire, nested->bytes, nested->n);
    free(nested);
}

static void put_field(struct wire *wire, const ProtobufCFieldDescriptor *field)
{
    unsigned type = field->type == PROTOBUF_C_TYPE_DOUBLE ? 1
                    : field->type == PROTOBUF_C_TYPE_STRING ||
                            field->type == PROTOBUF_C_TYPE_BYTES ||
                            field->type == PROTOBUF_C_TYPE_MESSAGE
                        ? 2
                        : 0;

    put_varint(wire, (uint64_t)field->id << 3 | type);
    if (field->type == PROTOBUF_C_TYPE_DOUBLE)
        put_real(wire);
    else if (field->type == PROTOBUF_C_TYPE_STRING)
        put_text(wire);
    else if (field->type == PROTOBUF_C_TYPE_BYTES)
        put_data(wire);
    else if (field->type == PROTOBUF_C_TYPE_MESSAGE)
        put_nested(wire, field->descriptor);
    else if (field->type == PROTOBUF_C_TYPE_BOOL)
        put_varint(wire, (uint64_t)(rand() % 2));
    else if (field->type == PROTOBUF_C_TYPE_ENUM)
        put_varint(wire, (uint64_t)(rand() % 9));
    else if (field->type == PROTOBUF_C_TYPE_UINT32)
        put_varint(wire, (uint32_t)random_number());
    else
        put_varint(wire, random_number());
}

static void put_message(
    struct wire *wire, const ProtobufCMessageDescriptor *type)
{
    unsigned chosen = (unsigned)rand() % type->n_fields;
    const ProtobufCFieldDescriptor *oneof = NULL;

    /* One of each oneof at most: the chosen one, or else the first met. */
    if ((type->fields[chosen].flags & PROTOBUF_C_FIELD_FLAG_ONEOF) != 0)
        oneof = &type->fields[chosen];
    for (unsigned i = 0; i < type->n_fields; i++) {
        const ProtobufCFieldDescriptor *field = &type->fields[i];
        int n = rand() % 4;

        if ((field->flags & PROTOBUF_C_FIELD_FLAG_ONEOF) != 0) {
            if (oneof == NULL && n == 0)
                oneof = field;
            n = oneof == field;
        } else if (field->label != PROTOBUF_C_LABEL_REPEATED) {
            n = n > 0;
        }
        while (n-- > 0)
            put_field(wire, field);
    }
}

Kvpool__V1__Receipt *random_receipt(void)
{
    struct wire *wire = calloc(1, sizeof *wire);
    Kvpool__V1__Receipt *receipt;

    put_message(wire, &kvpool__v1__receipt__descriptor);
    receipt = kvpool__v1__receipt__unpack(NULL, wire->n, wire->bytes);
    free(wire);
    return receipt;
}
