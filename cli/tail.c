#include "cli/tail.h"

#include <inttypes.h>
#include <string.h>

#include "base/clock.h"
#include "cli/text.h"

#define FIRST_PAUSE_NS (100 * KV_NS_PER_MS)
#define LONGEST_PAUSE_NS (10 * KV_NS_PER_S)

enum kv_status tail_start(
    struct tail *tail, const char *from, struct kv_error *error)
{
    static const char after[] = "after:";
    size_t n_after = sizeof after - 1;
    uint64_t sequence = 0;
    struct tail fresh = {
        .start = KVPOOL__V1__STREAM_RECEIPTS_REQUEST__START_LATEST};

    if (strcmp(from, "earliest") == 0) {
        fresh.start = KVPOOL__V1__STREAM_RECEIPTS_REQUEST__START_EARLIEST;
    } else if (strcmp(from, "snapshot") == 0) {
        fresh.start = KVPOOL__V1__STREAM_RECEIPTS_REQUEST__START_SNAPSHOT;
    } else if (strncmp(from, after, n_after) == 0 &&
               text_parse_count(from + n_after, UINT64_MAX, &sequence)) {
        fresh.known = true;
        fresh.sequence = sequence;
    } else if (text_parse_count(from, UINT64_MAX, &sequence) && sequence > 0) {
        fresh.known = true;
        fresh.sequence = sequence - 1;
    } else if (strcmp(from, "latest") != 0) {
        return kv_error_set(error, KV_INVALID,
            "--from: \"%s\" given, latest, earliest, snapshot, a receipt's "
            "number or after:N allowed",
            text_name(from).s);
    }
    *tail = fresh;
    return KV_OK;
}

void tail_request(
    const struct tail *tail, uint32_t max_batch, struct tail_request *out)
{
    Kvpool__V1__StreamReceiptsRequest *request = &out->request;

    kvpool__v1__stream_receipts_request__init(request);
    kvpool__v1__start_earliest__init(&out->earliest);
    kvpool__v1__start_latest__init(&out->latest);
    kvpool__v1__start_snapshot__init(&out->snapshot);
    kvpool__v1__ledger_position__init(&out->after);
    request->max_batch = max_batch;
    request->filter = (Kvpool__V1__ReceiptFilter *)tail->filter;
    if (tail->lossy)
        request->slow_reader_policy =
            KVPOOL__V1__SLOW_READER_POLICY__SLOW_READER_POLICY_LOSSY;
    if (tail->known) {
        out->after.sequence = tail->sequence;
        out->after.epoch = tail->sequence != 0 ? tail->epoch : 0;
        if (tail->has_pool_id)
            out->after.pool_id = (ProtobufCBinaryData){
                sizeof tail->pool_id, (uint8_t *)tail->pool_id};
        request->start_case = KVPOOL__V1__STREAM_RECEIPTS_REQUEST__START_AFTER;
        request->after = &out->after;
        return;
    }
    request->start_case = tail->start;
    switch (tail->start) {
    case KVPOOL__V1__STREAM_RECEIPTS_REQUEST__START_EARLIEST:
        request->earliest = &out->earliest;
        break;
    case KVPOOL__V1__STREAM_RECEIPTS_REQUEST__START_SNAPSHOT:
        out->section = KVPOOL__V1__SNAPSHOT_SECTION__SNAPSHOT_SECTION_SESSIONS;
        out->snapshot.sections = &out->section;
        out->snapshot.n_sections = 1;
        request->snapshot = &out->snapshot;
        break;
    default:
        request->latest = &out->latest;
    }
}

static bool is_other_ledger(
    const struct tail *tail, const ProtobufCBinaryData *pool_id)
{
    return tail->has_pool_id && pool_id->len == sizeof tail->pool_id &&
           memcmp(tail->pool_id, pool_id->data, pool_id->len) != 0;
}

static void remember(struct tail *tail, uint64_t sequence, uint32_t epoch,
    const ProtobufCBinaryData *pool_id)
{
    if (epoch != 0 || sequence != tail->sequence)
        tail->epoch = epoch;
    tail->known = true;
    tail->sequence = sequence;
    if (pool_id != NULL && pool_id->len == sizeof tail->pool_id) {
        memcpy(tail->pool_id, pool_id->data, sizeof tail->pool_id);
        tail->has_pool_id = true;
    }
}

static bool begins_with_state(const struct tail *tail)
{
    return tail->start == KVPOOL__V1__STREAM_RECEIPTS_REQUEST__START_SNAPSHOT;
}

enum kv_status tail_take(struct tail *tail, const Kvpool__V1__Receipt *receipt,
    struct kv_error *error)
{
    tail->n_failures = 0;
    if (is_other_ledger(tail, &receipt->pool_id))
        return kv_error_set(error, KV_DATA_LOSS,
            "receipt %" PRIu64 " is of ledger %s, and those before were of %s",
            receipt->sequence, text_hex(receipt->pool_id.data, 16).s,
            text_hex(tail->pool_id, 16).s);
    if (tail->known && receipt->sequence <= tail->sequence) {
        tail->n_duplicates++;
        return KV_BUSY;
    }
    if (!tail->known && begins_with_state(tail))
        return kv_error_set(error, KV_DATA_LOSS,
            "receipt %" PRIu64 " came before the last part of the state",
            receipt->sequence);
    if (tail->known && tail->filter == NULL &&
        receipt->sequence != tail->sequence + 1)
        return kv_error_set(error, KV_DATA_LOSS,
            "receipt %" PRIu64 " came after %" PRIu64
            ": those between are missing",
            receipt->sequence, tail->sequence);
    remember(tail, receipt->sequence, receipt->epoch, &receipt->pool_id);
    tail->n_taken++;
    return KV_OK;
}

/* A place that the server says the reader has reached. */
static enum kv_status follow_place(struct tail *tail, uint64_t sequence,
    uint32_t epoch, const ProtobufCBinaryData *pool_id, struct kv_error *error)
{
    if (tail->known && sequence > tail->sequence && tail->filter == NULL)
        return kv_error_set(error, KV_DATA_LOSS,
            "the server is at receipt %" PRIu64 ", and after %" PRIu64
            " none came: those between are missing",
            sequence, tail->sequence);
    if (pool_id != NULL && is_other_ledger(tail, pool_id))
        return kv_error_set(error, KV_DATA_LOSS,
            "the server is at ledger %s, and receipts before were of %s",
            text_hex(pool_id->data, 16).s, text_hex(tail->pool_id, 16).s);
    if (!tail->known || sequence >= tail->sequence)
        remember(tail, sequence, epoch, pool_id);
    return KV_OK;
}

/* Its first part says which receipts follow, behind its last. */
static enum kv_status follow_state(struct tail *tail,
    const Kvpool__V1__SnapshotChunk *part, struct kv_error *error)
{
    const Kvpool__V1__SnapshotStamp *stamp =
        part->snapshot != NULL ? part->snapshot->stamp : NULL;

    if (tail->known || !begins_with_state(tail) || stamp == NULL ||
        (part->index != 0 && part->index != tail->state.n_parts))
        return kv_error_set(error, KV_DATA_LOSS,
            "part %" PRIu32 " of the state does not belong here", part->index);
    if (part->index == 0) {
        tail->state.sequence = stamp->applied_sequence;
        tail->state.epoch = stamp->epoch;
    }
    tail->state.n_parts = part->index + 1;
    if (part->last)
        remember(
            tail, tail->state.sequence, tail->state.epoch, &stamp->pool_id);
    return KV_OK;
}

/* What lies between may be of several epochs. */
static enum kv_status follow_gap(
    struct tail *tail, const Kvpool__V1__Gap *gap, struct kv_error *error)
{
    if (!tail->lossy ||
        (tail->known && gap->first_sequence > tail->sequence + 1 &&
            tail->filter == NULL))
        return kv_error_set(error, KV_DATA_LOSS,
            "the server left out receipts %" PRIu64 " to %" PRIu64,
            gap->first_sequence, gap->last_sequence);
    if (gap->last_sequence > tail->sequence)
        remember(tail, gap->last_sequence, 0, NULL);
    return KV_OK;
}

enum kv_status tail_follow(struct tail *tail,
    const Kvpool__V1__StreamReceiptsResponse *message, struct kv_error *error)
{
    const Kvpool__V1__LedgerPosition *place = NULL;
    enum kv_status status = KV_OK;

    tail->n_failures = 0;
    if (message->snapshot != NULL)
        status = follow_state(tail, message->snapshot, error);
    if (message->gap != NULL)
        status = follow_gap(tail, message->gap, error);
    if (status == KV_OK && message->through_sequence != 0)
        status = follow_place(tail, message->through_sequence,
            message->through_epoch, NULL, error);
    if (message->bookmark != NULL)
        place = message->bookmark->position;
    if (message->closing != NULL) {
        place = message->closing->position;
        tail->retry_after_ns = message->closing->retry_after_ns;
    }
    if (status == KV_OK && place != NULL)
        status = follow_place(
            tail, place->sequence, place->epoch, &place->pool_id, error);
    return status;
}

bool tail_may_return(const struct rpc_error *error)
{
    switch (error->code) {
    case RPC_OK:
    case RPC_UNAVAILABLE:
        return true;
    case RPC_RESOURCE_EXHAUSTED: /* perhaps without details, see the contract */
        return error->reason[0] == '\0' ||
               strcmp(error->reason, "SUBSCRIBER_STALLED") == 0;
    default:
        return false;
    }
}

int64_t tail_pause(struct tail *tail, uint32_t chance)
{
    unsigned n_doublings = tail->n_failures < 10 ? tail->n_failures : 10;
    int64_t pause_ns = FIRST_PAUSE_NS << n_doublings;
    int64_t asked_ns = tail->retry_after_ns;

    if (pause_ns > LONGEST_PAUSE_NS)
        pause_ns = LONGEST_PAUSE_NS;
    pause_ns -= pause_ns / 2 * (chance % 1024) / 1024;
    tail->n_failures++;
    tail->retry_after_ns = 0;
    return pause_ns > asked_ns ? pause_ns : asked_ns;
}
