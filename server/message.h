/* Requests and answers as protobuf messages.
 *
 * protobuf-c cuts a string at a NUL byte and takes any bytes for UTF-8, so the
 * raw request is checked first, against the descriptor of its type. */
#ifndef SERVER_MESSAGE_H
#define SERVER_MESSAGE_H

#include <stdbool.h>

#include <protobuf-c/protobuf-c.h>

#include "rpc/error.h"
#include "rpc/server.h"

/* The request unpacked, or NULL with *error filled: a string field that is not
 * UTF-8 or has a NUL is named by its path ("targets[0].session.session_id").
 * Free with protobuf_c_message_free_unpacked(request, NULL). */
ProtobufCMessage *message_parse(const ProtobufCMessageDescriptor *type,
    const unsigned char *bytes, size_t n_bytes, struct rpc_error *error);

/* Encodes for sending: *out owns its memory. false: no memory. */
bool message_encode(const ProtobufCMessage *message, struct rpc_bytes *out);

/* Ends a unary call with the message, or with an error if there is no memory.
 */
void message_reply(struct rpc_call *call, const ProtobufCMessage *message);

/* Ends a call for which there is no memory. */
void message_fail_no_memory(struct rpc_call *call);

#endif
