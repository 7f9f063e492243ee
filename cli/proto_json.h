/* Any message of the contract as JSON, as receipts/json_message.h has it, with
 * an enum's value by its name without the prefix of its kind: "RUNNING",
 * "EVICTED"; a number where a newer contract has added one.
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
