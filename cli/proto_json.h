/* Any message of the contract as JSON, by its descriptor.
 *
 *   names      as in the contract, snake_case
 *   scalars    always present, defaults too, so that a script finds its keys
 *   messages   absent where they are absent; of a oneof, the one that is set
 *   enums      the value's name without the prefix of its kind: "RUNNING",
 *              "EVICTED"; a number where a newer contract has added one
 *   integers   exact numbers; what is above 2^63 - 1 a string of digits
 *   bytes      lower-case hexadecimal
 *   strings    what is not UTF-8 appears as U+FFFD
 *
 * Any thread. */
#ifndef CLI_PROTO_JSON_H
#define CLI_PROTO_JSON_H

#include <jansson.h>
#include <protobuf-c/protobuf-c.h>

/* A new reference, or NULL when there is no memory. */
json_t *proto_to_json(const ProtobufCMessage *message);

/* The name of an enum's value without its prefix; "?" if it has none. */
const char *proto_enum_name(const ProtobufCEnumDescriptor *kind, int value);

/* Memory of decoded messages, through base/heap.h. */
extern const ProtobufCAllocator proto_heap;

#endif
