/* Where a reader of receipts is, so that it can come back after a cut: which
 * receipts are new, which it has had, and whether one is missing. Knows neither
 * network nor output.
 *
 *   tail_start ─> request ─> [tail_take each receipt, tail_follow each message]
 *                    ^                    │ the stream breaks
 *                    └──── tail_pause ────┘
 *
 * The caller's memory, plain data, one thread. */
#ifndef CLI_TAIL_H
#define CLI_TAIL_H

#include <stdbool.h>
#include <stdint.h>

#include "base/error.h"
#include "kvpool/v1/pool_service.pb-c.h"
#include "rpc/error.h"

struct tail {
    /* The caller's, after tail_start. */
    const Kvpool__V1__ReceiptFilter *filter; /* borrowed; NULL: everything */
    bool lossy; /* receipts may be left out, if that is told */

    bool known; /* whether the place is one; not before `latest` has begun, or
                   the last part of the state that `snapshot` begins with */
    uint64_t sequence;
    uint32_t epoch; /* 0: not known */
    uint8_t pool_id[16];
    bool has_pool_id;
    struct {
        uint32_t n_parts; /* that came */
        uint64_t sequence;
        uint32_t epoch;
    } state; /* which receipts follow, while it comes */
    uint64_t n_taken, n_duplicates;
    unsigned n_failures;    /* in a row: since the last message */
    int64_t retry_after_ns; /* as `closing` asked for; 0: nothing asked */
    Kvpool__V1__StreamReceiptsRequest__StartCase start;
};

/* "latest", "earliest", "snapshot", "after:N", or "N", which begins with that
 * receipt. KV_INVALID. */
enum kv_status tail_start(
    struct tail *tail, const char *from, struct kv_error *error);

/* Fills the start of a request: the place if it is known, else as tail_start
 * was told. The memory of parts is the caller's. */
struct tail_request {
    Kvpool__V1__StreamReceiptsRequest request;
    Kvpool__V1__StartEarliest earliest;
    Kvpool__V1__StartLatest latest;
    Kvpool__V1__StartSnapshot snapshot;
    Kvpool__V1__SnapshotSection section; /* of it */
    Kvpool__V1__LedgerPosition after;
};
void tail_request(
    const struct tail *tail, uint32_t max_batch, struct tail_request *out);

/* The next receipt of a message.
 *   KV_OK         it is new
 *   KV_BUSY       the reader has had it: to be dropped
 *   KV_DATA_LOSS  it does not follow: *error says how; nothing was moved
 * With a filter, numbers may be missing between. */
enum kv_status tail_take(struct tail *tail, const Kvpool__V1__Receipt *receipt,
    struct kv_error *error);

/* What else a message says, after its receipts were taken. KV_DATA_LOSS: it
 * passes over receipts that did not come, or the parts of the state are not
 * whole. */
enum kv_status tail_follow(struct tail *tail,
    const Kvpool__V1__StreamReceiptsResponse *message, struct kv_error *error);

/* Whether coming back with the same place can help after this end. */
bool tail_may_return(const struct rpc_error *error);

/* How long to wait before that, and one failure more: 100 ms, doubling to 10 s,
 * less up to a half by `chance`, and at least what the server asked for. */
int64_t tail_pause(struct tail *tail, uint32_t chance);

#endif
