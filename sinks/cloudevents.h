/* Receipts as a CloudEvents 1.0 batch in JSON, the body of one request.
 *
 *   [{"specversion": "1.0",
 *     "id": "5f0c...e1/3/1041",                 pool_id/epoch/sequence
 *     "source": "urn:uuid:5f0c...-...e1",       the ledger, or as configured
 *     "type": "kvpool.v1.kv_eviction",
 *     "time": "2025-11-21T...Z",
 *     "subject": "chat-7",                      the session, if there is one
 *     "sequence": "00000000000000001041",       as CloudEvents' extension
 *     "datacontenttype": "application/json",
 *     "data": {...}}, ...]                      as receipts/json.h has it
 *
 * Thread: any. */
#ifndef SINKS_CLOUDEVENTS_H
#define SINKS_CLOUDEVENTS_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/error.h"
#include "sinks/outbox.h"
#include "sinks/sink.h"

#define CLOUDEVENTS_CONTENT_TYPE                                               \
    "application/cloudevents-batch+json; charset=UTF-8"

/* The caller's; zeroed, there is none. */
struct cloudevents_body {
    unsigned char *bytes;
    size_t n_bytes;
    uint64_t first_sequence, last_sequence;
    struct sink_key first_key;
};

/* As many receipts of the outbox from its front as make at most max_bytes of
 * JSON, at least one; the outbox is not empty and stays as it is. An empty
 * source stands for the ledger's URN. KV_NO_MEMORY. */
enum kv_status cloudevents_pack(struct cloudevents_body *out,
    const struct outbox *box, const char *source, size_t max_bytes, bool gzip);

void cloudevents_body_free(struct cloudevents_body *body);

#endif
