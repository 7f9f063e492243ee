/* Any message of the contract as JSON, by its descriptor: what receipts and the
 * client's answers have in common.
 *
 *   names      as in the contract, snake_case
 *   scalars    always present, defaults too, so that a script finds its keys
 *   messages   absent where they are absent; of a oneof, the one that is set
 *   integers   exact numbers; what is above 2^63 - 1 a string of its digits
 *   reals      null where they are not finite: JSON has no infinities
 *   bytes      lower-case hexadecimal
 *   strings    what is not UTF-8 appears as U+FFFD
 *   enums      as the style has them; a number where it has no name
 *
 * Any thread. */
#ifndef RECEIPTS_JSON_MESSAGE_H
#define RECEIPTS_JSON_MESSAGE_H

#include <stdbool.h>

#include <jansson.h>
#include <protobuf-c/protobuf-c.h>

struct json_style {
    /* NULL for a value that has no name. */
    const char *(*enum_name)(const ProtobufCEnumDescriptor *type, int value);

    /* Adds to an object what is derived from the message; false: no memory.
     * May be NULL. */
    bool (*derive)(json_t *object, const ProtobufCMessage *message);
};

/* A new reference, or NULL when there is no memory. */
json_t *json_message(
    const ProtobufCMessage *message, const struct json_style *style);

/* Takes the value; false if it is NULL or there is no memory. */
bool json_put(json_t *object, const char *name, json_t *value);

/* One field, if it is present, and all of them with what is derived. false: no
 * memory. */
bool json_put_field(json_t *object, const ProtobufCMessage *message,
    const ProtobufCFieldDescriptor *field, const struct json_style *style);
bool json_put_message(json_t *object, const ProtobufCMessage *message,
    const struct json_style *style);

/* Whether the field has something to say: it is not an absent message, nor an
 * alternative that was not taken. */
bool json_is_present(
    const ProtobufCMessage *message, const ProtobufCFieldDescriptor *field);

#endif
