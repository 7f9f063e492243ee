/* libFuzzer: where strangers want a stream of receipts to begin. Whatever the
 * bytes are, the request is refused with a reason, or the cursor is in the
 * ledger and the next receipts follow it. */
#include <stdint.h>
#include <string.h>

#include "pool/observer.h"
#include "server/message.h"
#include "server/stream_request.h"

#define N_RECEIPTS 5000

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t n);

static int64_t wall_ns(void)
{
    return 1;
}

/* A ring of 1 MiB that has dropped its oldest receipts. */
static struct ledger *make_ledger(void)
{
    const struct ledger_config config = {
        .ring_bytes = LEDGER_MIN_RING_BYTES,
        .pool_id = "0123456789abcdef",
        .epoch = 3,
        .wall_ns = wall_ns,
    };
    const struct ledger_pool_snapshot snapshot = {.sessions_created = 1};
    struct ledger *ledger;

    if (ledger_open(&ledger, &config, NULL) != KV_OK)
        __builtin_trap();
    while (ledger_position(ledger).oldest_sequence < N_RECEIPTS)
        ledger_issue_snapshot(ledger, &snapshot, 1);
    return ledger;
}

static void check_cursor(struct ledger *ledger, struct feed_cursor *cursor)
{
    struct ledger_position position = ledger_position(ledger);
    uint64_t begin = cursor->sequence;
    struct feed_run run;

    if (begin > position.applied_sequence ||
        begin + 1 < position.oldest_sequence)
        __builtin_trap();
    if (feed_next(ledger, cursor, 16, 4096, &run) == KV_OK) {
        if (run.first_sequence != begin + 1)
            __builtin_trap();
        feed_run_release(run.chunk);
    } else if (begin != position.durable_sequence) {
        __builtin_trap();
    }
    feed_leave(ledger, cursor);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t n)
{
    static struct ledger *ledger;
    struct feed_cursor cursor = {0};
    struct rpc_error error;
    Kvpool__V1__StreamReceiptsRequest *request =
        (Kvpool__V1__StreamReceiptsRequest *)message_parse(
            &kvpool__v1__stream_receipts_request__descriptor, data, n, &error);

    if (ledger == NULL)
        ledger = make_ledger();
    if (request != NULL)
        stream_request_check(&error, request);
    if (request != NULL && error.n_violations == 0) {
        stream_request_seek(request, ledger, &cursor, &error);
        if (error.code == RPC_OK)
            check_cursor(ledger, &cursor);
        else if (error.reason[0] == '\0' || cursor.sequence != 0)
            __builtin_trap();
    }
    kvpool__v1__stream_receipts_request__free_unpacked(request, NULL);
    return 0;
}
