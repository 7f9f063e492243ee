#include "server/stream_request.h"

#include <inttypes.h>
#include <stdio.h>
#include <string.h>

#include "server/check.h"

#define MAX_NAMES 64 /* sessions or tenants of a filter */

/* ---- what is allowed */

static void check_after(
    struct rpc_error *error, const Kvpool__V1__LedgerPosition *after)
{
    if (after->sequence == 0 && after->epoch != 0)
        rpc_error_add_violation(error, "after.epoch",
            "%" PRIu32 " was given; allowed is 0 where sequence is 0",
            after->epoch);
    if (after->pool_id.len != 0 && after->pool_id.len != 16)
        rpc_error_add_violation(error, "after.pool_id",
            "%zu bytes were given; allowed are 16, or none",
            after->pool_id.len);
    if (after->root.len != 0 && after->root.len != MERKLE_HASH_BYTES)
        rpc_error_add_violation(error, "after.root",
            "%zu bytes were given; allowed are %d, or none", after->root.len,
            MERKLE_HASH_BYTES);
}

static void check_sections(
    struct rpc_error *error, const Kvpool__V1__StartSnapshot *start)
{
    char path[48];

    for (size_t i = 0; i < start->n_sections &&
                       error->n_violations < RPC_ERROR_MAX_VIOLATIONS;
         i++) {
        snprintf(path, sizeof path, "snapshot.sections[%zu]", i);
        check_stream_section(error, path, start->sections[i]);
    }
}

/* Values of an enum from 1 to `last`. */
static void check_values(struct rpc_error *error, const char *field,
    const int *values, size_t n, int last, const char *type)
{
    char path[48];

    for (size_t i = 0; i < n && error->n_violations < RPC_ERROR_MAX_VIOLATIONS;
         i++) {
        if (values[i] > 0 && values[i] <= last)
            continue;
        snprintf(path, sizeof path, "%s[%zu]", field, i);
        rpc_error_add_violation(error, path,
            "%d was given; allowed are values of %s from 1 to %d", values[i],
            type, last);
    }
}

static bool check_number(struct rpc_error *error, const char *field, size_t n)
{
    if (n <= MAX_NAMES)
        return true;
    rpc_error_add_violation(
        error, field, "%zu were given; allowed are at most %d", n, MAX_NAMES);
    return false;
}

static void check_filter(
    struct rpc_error *error, const Kvpool__V1__ReceiptFilter *filter)
{
    char path[48];

    check_values(error, "filter.kinds", (const int *)filter->kinds,
        filter->n_kinds, KVPOOL__V1__RECEIPT_KIND__RECEIPT_KIND_RELEASE,
        "ReceiptKind");
    check_values(error, "filter.reasons", (const int *)filter->reasons,
        filter->n_reasons,
        KVPOOL__V1__EVICTION_REASON__EVICTION_REASON_SHUTDOWN,
        "EvictionReason");
    if (check_number(error, "filter.sessions", filter->n_sessions))
        for (size_t i = 0; i < filter->n_sessions; i++) {
            snprintf(path, sizeof path, "filter.sessions[%zu]", i);
            check_session_key(error, path, filter->sessions[i]);
        }
    if (check_number(error, "filter.tenants", filter->n_tenants))
        for (size_t i = 0; i < filter->n_tenants; i++) {
            snprintf(path, sizeof path, "filter.tenants[%zu]", i);
            check_tenant(error, path, filter->tenants[i]);
        }
}

void stream_request_check(
    struct rpc_error *error, const Kvpool__V1__StreamReceiptsRequest *request)
{
    if (request->start_case == KVPOOL__V1__STREAM_RECEIPTS_REQUEST__START_AFTER)
        check_after(error, request->after);
    if (request->start_case ==
        KVPOOL__V1__STREAM_RECEIPTS_REQUEST__START_SNAPSHOT)
        check_sections(error, request->snapshot);
    if (request->filter != NULL)
        check_filter(error, request->filter);
    if ((int)request->slow_reader_policy < 0 ||
        request->slow_reader_policy >
            KVPOOL__V1__SLOW_READER_POLICY__SLOW_READER_POLICY_LOSSY)
        rpc_error_add_violation(error, "slow_reader_policy",
            "%d was given; allowed are values of SlowReaderPolicy",
            (int)request->slow_reader_policy);
    check_count(error, "max_batch", request->max_batch, 1, STREAM_MAX_BATCH,
        STREAM_STANDARD_BATCH);
}

/* ---- where it begins */

static void refuse_position(struct rpc_error *error, enum rpc_code code,
    const char *reason, const struct ledger_position *position,
    uint64_t sequence)
{
    rpc_error_init(error, code, reason,
        "receipt %" PRIu64 " is not where this ledger has it: it goes from "
        "%" PRIu64 " to %" PRIu64 ", epoch %" PRIu32,
        sequence, position->oldest_sequence, position->applied_sequence,
        position->epoch);
    rpc_error_add_metadata(error, "sequence", "%" PRIu64, sequence);
    rpc_error_add_metadata(
        error, "oldest_sequence", "%" PRIu64, position->oldest_sequence);
    rpc_error_add_metadata(
        error, "durable_sequence", "%" PRIu64, position->durable_sequence);
    rpc_error_add_metadata(error, "epoch", "%" PRIu32, position->epoch);
}

static void refuse_ledger(struct rpc_error *error,
    const struct ledger_position *position, bool in_memory)
{
    char hex[33];

    for (size_t i = 0; i < sizeof position->pool_id; i++)
        snprintf(hex + 2 * i, 3, "%02x", position->pool_id[i]);
    rpc_error_init(error, RPC_FAILED_PRECONDITION, "LEDGER_MISMATCH",
        "the position belongs to another ledger than %s%s", hex,
        in_memory ? "; a ledger in memory is a new one at every start" : "");
    rpc_error_add_metadata(error, "pool_id", "%s", hex);
    rpc_error_add_metadata(error, "epoch", "%" PRIu32, position->epoch);
}

void stream_request_refuse_lost(
    struct rpc_error *error, struct ledger *ledger, uint64_t sequence)
{
    struct ledger_position position = ledger_position(ledger);

    if (ledger_start(ledger) != NULL) {
        refuse_position(
            error, RPC_OUT_OF_RANGE, "SEQUENCE_EXPIRED", &position, sequence);
        return;
    }
    rpc_error_init(error, RPC_DATA_LOSS, "FELL_BEHIND",
        "the ledger in memory dropped receipt %" PRIu64
        " before this reader took it; the oldest is %" PRIu64,
        sequence + 1, position.oldest_sequence);
    rpc_error_add_metadata(error, "sequence", "%" PRIu64, sequence);
    rpc_error_add_metadata(
        error, "oldest_sequence", "%" PRIu64, position.oldest_sequence);
}

/* Whether this ledger issued that receipt under that epoch; one that is gone
 * is believed, as far as it can be. */
static bool has_epoch(const struct ledger *ledger,
    const struct ledger_position *position,
    const Kvpool__V1__LedgerPosition *after)
{
    uint32_t epoch = ledger_epoch_of(ledger, after->sequence);

    return after->epoch == 0 || (epoch != 0 ? epoch == after->epoch
                                            : after->epoch <= position->epoch);
}

/* Whether the root that was given, if one was, is that of this ledger. */
static bool has_root(
    struct ledger *ledger, const Kvpool__V1__LedgerPosition *after)
{
    struct merkle_hash root;

    return after->root.len == 0 ||
           (merkle_root(ledger_tree(ledger), after->sequence, &root) &&
               memcmp(root.bytes, after->root.data, sizeof root.bytes) == 0);
}

static void seek_after(const Kvpool__V1__LedgerPosition *after,
    struct ledger *ledger, struct feed_cursor *cursor, struct rpc_error *error)
{
    struct ledger_position position = ledger_position(ledger);

    if (after->pool_id.len > 0 &&
        memcmp(after->pool_id.data, position.pool_id, 16) != 0)
        refuse_ledger(error, &position, ledger_start(ledger) == NULL);
    else if (after->sequence > position.applied_sequence ||
             !has_epoch(ledger, &position, after) || !has_root(ledger, after))
        refuse_position(error, RPC_FAILED_PRECONDITION, "LEDGER_FORKED",
            &position, after->sequence);
    else if (feed_seek(ledger, after->sequence, cursor) != KV_OK)
        refuse_position(error, RPC_OUT_OF_RANGE, "SEQUENCE_EXPIRED", &position,
            after->sequence);
}

void stream_request_seek(const Kvpool__V1__StreamReceiptsRequest *request,
    struct ledger *ledger, struct feed_cursor *cursor, struct rpc_error *error)
{
    struct ledger_position position = ledger_position(ledger);

    switch (request->start_case) {
    case KVPOOL__V1__STREAM_RECEIPTS_REQUEST__START_EARLIEST:
        feed_seek(ledger,
            position.oldest_sequence > 0 ? position.oldest_sequence - 1
                                         : position.durable_sequence,
            cursor);
        break;
    case KVPOOL__V1__STREAM_RECEIPTS_REQUEST__START_AFTER:
        seek_after(request->after, ledger, cursor, error);
        break;
    case KVPOOL__V1__STREAM_RECEIPTS_REQUEST__START_SNAPSHOT:
        feed_seek(ledger, position.applied_sequence, cursor);
        break;
    default:
        feed_seek(ledger, position.durable_sequence, cursor);
    }
}
