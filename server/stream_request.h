/* What a call of StreamReceipts asks for: whether that is allowed, and where in
 * the ledger it begins. Knows no server. */
#ifndef SERVER_STREAM_REQUEST_H
#define SERVER_STREAM_REQUEST_H

#include "kvpool/v1/pool_service.pb-c.h"
#include "receipts/ledger.h"
#include "rpc/error.h"

#define STREAM_MAX_BATCH 1024
#define STREAM_STANDARD_BATCH 256

/* Adds a violation to *error, which starts zeroed, for each field that is
 * wrong. */
void stream_request_check(
    struct rpc_error *error, const Kvpool__V1__StreamReceiptsRequest *request);

/* Puts the cursor where a request that was checked begins: behind what is
 * durable for `latest`, behind what is applied for `snapshot`. *error, which
 * starts zeroed, says why a position is refused; the cursor is then where it
 * was. */
void stream_request_seek(const Kvpool__V1__StreamReceiptsRequest *request,
    struct ledger *ledger, struct feed_cursor *cursor, struct rpc_error *error);

/* A reader's next receipt is gone: by retention, or from a ring in memory. */
void stream_request_refuse_lost(
    struct rpc_error *error, struct ledger *ledger, uint64_t sequence);

#endif
