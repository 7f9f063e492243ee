#include "tests/cli/stand_in.h"

#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/heap.h"
#include "kvpool/v1/inference_service.pb-c.h"
#include "kvpool/v1/pool_service.pb-c.h"
#include "tests/support/check_main.h"

#define BLOCK_BYTES UINT64_C(1048576)
#define PER_MESSAGE 3
#define SESSIONS_PER_PAGE 5

static uint8_t pool_ids[2][16] = {"the first ledger", "another ledger.."};

static ProtobufCBinaryData pool_id_of(const struct stand_in *stand_in)
{
    return (ProtobufCBinaryData){16, pool_ids[stand_in->script.new_ledger]};
}

static unsigned char *pack(const ProtobufCMessage *message, size_t *n)
{
    unsigned char *bytes =
        kv_calloc(protobuf_c_message_get_packed_size(message) + 1, 1);

    *n = protobuf_c_message_pack(message, bytes);
    return bytes;
}

static void reply(struct rpc_call *call, const ProtobufCMessage *message)
{
    size_t n;
    unsigned char *bytes = pack(message, &n);

    rpc_call_reply(call, &(struct rpc_bytes){.data = bytes, .n = n});
    kv_free(bytes);
}

static void send_message(struct rpc_call *call, const ProtobufCMessage *message)
{
    size_t n;
    unsigned char *bytes = pack(message, &n);

    rpc_stream_send(call, &(struct rpc_bytes){.data = bytes, .n = n});
    kv_free(bytes);
}

/* ---- the pool */

static void on_snapshot(
    void *ctx, struct rpc_call *call, const unsigned char *request, size_t n)
{
    struct stand_in *stand_in = ctx;
    Kvpool__V1__SnapshotResponse answer = KVPOOL__V1__SNAPSHOT_RESPONSE__INIT;
    Kvpool__V1__PoolSnapshot snapshot = KVPOOL__V1__POOL_SNAPSHOT__INIT;
    Kvpool__V1__SnapshotStamp stamp = KVPOOL__V1__SNAPSHOT_STAMP__INIT;
    Kvpool__V1__PoolStatistics stats = KVPOOL__V1__POOL_STATISTICS__INIT;

    (void)request;
    (void)n;
    stats.used_memory_bytes = 64 * BLOCK_BYTES;
    stats.total_memory_bytes = 512 * BLOCK_BYTES;
    stamp.applied_sequence = stand_in->script.n_receipts;
    stamp.durable_sequence = stand_in->script.n_receipts;
    stamp.epoch = 1;
    stamp.pool_id = pool_id_of(stand_in);
    snapshot.stamp = &stamp;
    snapshot.statistics = &stats;
    snapshot.policy = (char *)"lru";
    answer.snapshot = &snapshot;
    reply(call, &answer.base);
}

static void on_get_model(
    void *ctx, struct rpc_call *call, const unsigned char *request, size_t n)
{
    Kvpool__V1__GetModelResponse answer = KVPOOL__V1__GET_MODEL_RESPONSE__INIT;
    Kvpool__V1__Model model = KVPOOL__V1__MODEL__INIT;

    (void)ctx;
    (void)request;
    (void)n;
    model.name = (char *)"demo";
    model.architecture = (char *)"bitnet";
    model.context_length = 2048;
    answer.model = &model;
    reply(call, &answer.base);
}

static void on_list_sessions(
    void *ctx, struct rpc_call *call, const unsigned char *request, size_t n)
{
    struct stand_in *stand_in = ctx;
    Kvpool__V1__ListSessionsRequest *asked =
        kvpool__v1__list_sessions_request__unpack(NULL, n, request);
    uint32_t first = (uint32_t)atoi(asked->page_token), count = 0;
    Kvpool__V1__ListSessionsResponse answer =
        KVPOOL__V1__LIST_SESSIONS_RESPONSE__INIT;
    Kvpool__V1__Session sessions[SESSIONS_PER_PAGE];
    Kvpool__V1__Session *list[SESSIONS_PER_PAGE];
    Kvpool__V1__SessionKey keys[SESSIONS_PER_PAGE];
    char ids[SESSIONS_PER_PAGE][16], token[16];

    for (; count < SESSIONS_PER_PAGE && count < asked->page_size &&
           first + count < stand_in->script.n_sessions;
         count++) {
        kvpool__v1__session__init(&sessions[count]);
        kvpool__v1__session_key__init(&keys[count]);
        snprintf(ids[count], sizeof ids[count], "chat-%" PRIu32, first + count);
        keys[count].session_id = ids[count];
        sessions[count].key = &keys[count];
        list[count] = &sessions[count];
    }
    snprintf(token, sizeof token, "%" PRIu32, first + count);
    if (first + count < stand_in->script.n_sessions)
        answer.next_page_token = token;
    answer.n_sessions = count;
    answer.sessions = list;
    reply(call, &answer.base);
    kvpool__v1__list_sessions_request__free_unpacked(asked, NULL);
}

static void refuse_evict(struct rpc_call *call)
{
    struct rpc_error error = {0};

    rpc_error_add_violation(
        &error, "targets[0].session", "\"%s\" given, \x1b[31m1 to 128", "bad");
    rpc_error_add_violation(&error, "wait", "%d given, 0 to 2 allowed", 9);
    rpc_error_add_metadata(&error, "limit", "%d", 128);
    rpc_call_fail(call, &error);
}

/* "bad" is refused, "gone" is not there, all else is evicted. What has an id is
 * answered one target a page. */
static void on_evict(
    void *ctx, struct rpc_call *call, const unsigned char *request, size_t n)
{
    Kvpool__V1__EvictRequest *asked =
        kvpool__v1__evict_request__unpack(NULL, n, request);
    Kvpool__V1__EvictResponse answer = KVPOOL__V1__EVICT_RESPONSE__INIT;
    Kvpool__V1__EvictReceipts receipts = KVPOOL__V1__EVICT_RECEIPTS__INIT;
    Kvpool__V1__EvictOutcome outcome = KVPOOL__V1__EVICT_OUTCOME__INIT;
    Kvpool__V1__EvictOutcome *outcomes[] = {&outcome};
    size_t page = strtoul(asked->page_token, NULL, 10);
    const Kvpool__V1__EvictTarget *target = asked->targets[page];
    bool is_paged = asked->request_id[0] != '\0';
    char next_page[24];
    bool named =
        target->target_case == KVPOOL__V1__EVICT_TARGET__TARGET_SESSION;
    const char *id = named ? target->session->session_id : "";
    bool gone = strcmp(id, "gone") == 0;

    (void)ctx;
    if (strcmp(id, "bad") == 0 || (asked->max_sessions > 1000 && !is_paged)) {
        refuse_evict(call);
        kvpool__v1__evict_request__free_unpacked(asked, NULL);
        return;
    }
    outcome.session = named ? target->session : NULL;
    outcome.result = gone ? KVPOOL__V1__EVICT_RESULT__EVICT_RESULT_NOT_FOUND
                          : KVPOOL__V1__EVICT_RESULT__EVICT_RESULT_EVICTED;
    answer.n_outcomes = 1;
    answer.outcomes = outcomes;
    answer.sessions_evicted = !gone;
    snprintf(next_page, sizeof next_page, "%zu", page + 1);
    if (is_paged && page + 1 < asked->n_targets)
        answer.next_page_token = next_page;
    receipts.first_sequence = receipts.last_sequence = 41;
    receipts.epoch = 1;
    answer.issued_case = KVPOOL__V1__EVICT_RESPONSE__ISSUED_RECEIPTS;
    answer.receipts = &receipts;
    reply(call, &answer.base);
    kvpool__v1__evict_request__free_unpacked(asked, NULL);
}

/* "gone" is missing and "full" rejected, pins are clipped to a minute; what was
 * set is in force, and two leases besides. */
static void on_set_retention(
    void *ctx, struct rpc_call *call, const unsigned char *request, size_t n)
{
    enum { MAX_CHANGES = 4 };
    Kvpool__V1__SetRetentionRequest *asked =
        kvpool__v1__set_retention_request__unpack(NULL, n, request);
    Kvpool__V1__SetRetentionResponse answer =
        KVPOOL__V1__SET_RETENTION_RESPONSE__INIT;
    Kvpool__V1__RetentionOutcome outcomes[MAX_CHANGES], *list[MAX_CHANGES];
    Kvpool__V1__Retention retention = KVPOOL__V1__RETENTION__INIT;
    Kvpool__V1__Lease leases[2] = {
        KVPOOL__V1__LEASE__INIT, KVPOOL__V1__LEASE__INIT};
    Kvpool__V1__Lease *lease_list[] = {&leases[0], &leases[1]};

    (void)ctx;
    ck_assert_uint_le(asked->n_changes, MAX_CHANGES);
    retention.leases = lease_list;
    retention.n_leases = 2;
    for (int i = 0; i < 2; i++) {
        leases[i].lease_id = (char *)(i == 0 ? "later\x1b" : "sooner");
        leases[i].expires_unix_ns = INT64_C(1700000060000000000) - i;
    }
    for (size_t i = 0; i < asked->n_changes; i++) {
        const Kvpool__V1__RetentionSettings *set = asked->changes[i]->settings;
        Kvpool__V1__RetentionOutcome *outcome = list[i] = &outcomes[i];
        const char *id = asked->changes[i]->session->session_id;

        kvpool__v1__retention_outcome__init(outcome);
        outcome->session = asked->changes[i]->session;
        outcome->result =
            KVPOOL__V1__RETENTION_RESULT__RETENTION_RESULT_MISSING;
        if (strcmp(id, "gone") == 0)
            continue;
        outcome->retention = &retention;
        outcome->result =
            KVPOOL__V1__RETENTION_RESULT__RETENTION_RESULT_REJECTED;
        outcome->detail = (char *)"lease: 16 others run";
        if (strcmp(id, "full") == 0)
            continue;
        outcome->result =
            set->pin != NULL
                ? KVPOOL__V1__RETENTION_RESULT__RETENTION_RESULT_CLIPPED
                : KVPOOL__V1__RETENTION_RESULT__RETENTION_RESULT_ACCEPTED;
        outcome->detail = (char *)(set->pin != NULL ? "pin: at most 60 s" : "");
        if (set->pin != NULL)
            retention.pin_expires_unix_ns = INT64_C(1700000000000000000);
        if (set->idle_ttl != NULL)
            retention.idle_ttl_ns = set->idle_ttl->duration_ns;
        if (set->absolute_ttl != NULL)
            retention.absolute_ttl_ns = set->absolute_ttl->duration_ns;
        retention.priority =
            set->priority != NULL ? set->priority->priority : 50;
        if (set->lease != NULL) {
            leases[0].lease_id = set->lease->lease_id;
            leases[1].expires_unix_ns = set->lease->duration_ns;
        }
    }
    answer.outcomes = list;
    answer.n_outcomes = asked->n_changes;
    reply(call, &answer.base);
    kvpool__v1__set_retention_request__free_unpacked(asked, NULL);
}

/* ---- receipts */

struct reader {
    struct stand_in *stand_in;
    uint64_t next; /* sequence */
    int n_messages;
};

/* The first is a boot, the others say that the pool is empty. */
struct receipt_parts {
    Kvpool__V1__Receipt receipt;
    Kvpool__V1__LifecycleReceipt lifecycle;
    Kvpool__V1__Boot boot;
    Kvpool__V1__PoolSnapshotReceipt snapshot;
};

static void receipt_init(struct receipt_parts *parts,
    const struct stand_in *stand_in, uint64_t sequence)
{
    kvpool__v1__receipt__init(&parts->receipt);
    kvpool__v1__lifecycle_receipt__init(&parts->lifecycle);
    kvpool__v1__boot__init(&parts->boot);
    kvpool__v1__pool_snapshot_receipt__init(&parts->snapshot);
    parts->receipt.sequence = sequence;
    parts->receipt.epoch = 1;
    parts->receipt.mono_ns = (int64_t)sequence;
    parts->receipt.pool_id = pool_id_of(stand_in);
    parts->boot.total_blocks = 512;
    parts->boot.block_bytes = BLOCK_BYTES;
    parts->boot.block_tokens = 16;
    parts->lifecycle.change_case = KVPOOL__V1__LIFECYCLE_RECEIPT__CHANGE_BOOT;
    parts->lifecycle.boot = &parts->boot;
    parts->snapshot.pool_total = 512 * BLOCK_BYTES;
    if (sequence == stand_in->script.wrong_at)
        parts->snapshot.pool_used = BLOCK_BYTES;
    parts->receipt.kind_case = sequence == 1
                                   ? KVPOOL__V1__RECEIPT__KIND_LIFECYCLE
                                   : KVPOOL__V1__RECEIPT__KIND_POOL_SNAPSHOT;
    if (sequence == 1)
        parts->receipt.lifecycle = &parts->lifecycle;
    else
        parts->receipt.pool_snapshot = &parts->snapshot;
}

static void send_receipts(struct rpc_call *call, struct reader *reader)
{
    const struct stand_in *stand_in = reader->stand_in;
    Kvpool__V1__StreamReceiptsResponse message =
        KVPOOL__V1__STREAM_RECEIPTS_RESPONSE__INIT;
    struct receipt_parts parts[PER_MESSAGE];
    Kvpool__V1__Receipt *list[PER_MESSAGE];
    size_t n = 0;

    while (n < PER_MESSAGE && reader->next <= stand_in->script.n_receipts) {
        if (reader->next + 1 == stand_in->script.hole_before)
            reader->next++;
        receipt_init(&parts[n], stand_in, reader->next++);
        list[n] = &parts[n].receipt;
        n++;
    }
    message.n_receipts = n;
    message.receipts = list;
    reader->n_messages++;
    send_message(call, &message.base);
}

static void send_closing(struct rpc_call *call, struct reader *reader)
{
    Kvpool__V1__StreamReceiptsResponse message =
        KVPOOL__V1__STREAM_RECEIPTS_RESPONSE__INIT;
    Kvpool__V1__Closing closing = KVPOOL__V1__CLOSING__INIT;
    Kvpool__V1__LedgerPosition place = KVPOOL__V1__LEDGER_POSITION__INIT;

    place.sequence = reader->next - 1;
    place.epoch = 1;
    place.pool_id = pool_id_of(reader->stand_in);
    closing.position = &place;
    message.closing = &closing;
    reader->n_messages++;
    send_message(call, &message.base);
}

static void refuse(
    struct rpc_call *call, enum rpc_code code, const char *reason)
{
    struct rpc_error error;

    rpc_error_init(&error, code, reason, "as the script wants");
    rpc_call_fail(call, &error);
}

static void cut(struct rpc_call *call, struct reader *reader)
{
    switch (reader->stand_in->script.end) {
    case STAND_IN_UNAVAILABLE:
        refuse(call, RPC_UNAVAILABLE, "");
        break;
    case STAND_IN_STALLED:
        refuse(call, RPC_RESOURCE_EXHAUSTED, "SUBSCRIBER_STALLED");
        break;
    case STAND_IN_CLOSING:
        if (reader->n_messages == 2)
            send_closing(call, reader);
        else
            rpc_stream_finish(call);
        break;
    case STAND_IN_STAYS:
        break;
    }
}

static void on_reader_ready(struct rpc_call *call)
{
    struct reader *reader = rpc_call_ctx(call);
    bool ends = reader->stand_in->script.end != STAND_IN_STAYS;

    if (ends && reader->n_messages >= 2)
        cut(call, reader);
    else if (reader->next <= reader->stand_in->script.n_receipts)
        send_receipts(call, reader);
}

static void on_cancel(struct rpc_call *call)
{
    struct reader *reader = rpc_call_ctx(call);

    reader->stand_in->n_cancelled++;
    rpc_stream_finish(call);
}

static void on_done(struct rpc_call *call)
{
    kv_free(rpc_call_ctx(call));
}

static uint64_t first_wanted(const struct stand_in *stand_in,
    const Kvpool__V1__StreamReceiptsRequest *asked)
{
    uint64_t repeated = stand_in->script.n_repeated;

    switch (asked->start_case) {
    case KVPOOL__V1__STREAM_RECEIPTS_REQUEST__START_EARLIEST:
        return 1;
    case KVPOOL__V1__STREAM_RECEIPTS_REQUEST__START_AFTER:
        return asked->after->sequence >= repeated
                   ? asked->after->sequence + 1 - repeated
                   : 1;
    default:
        return stand_in->script.n_receipts + 1;
    }
}

static bool is_other_ledger(const struct stand_in *stand_in,
    const Kvpool__V1__StreamReceiptsRequest *asked)
{
    ProtobufCBinaryData ours = pool_id_of(stand_in);

    return asked->start_case ==
               KVPOOL__V1__STREAM_RECEIPTS_REQUEST__START_AFTER &&
           asked->after->pool_id.len == 16 &&
           memcmp(asked->after->pool_id.data, ours.data, 16) != 0;
}

static void on_stream_receipts(
    void *ctx, struct rpc_call *call, const unsigned char *request, size_t n)
{
    static const struct rpc_stream_ops ops = {
        on_reader_ready, on_cancel, on_done};
    struct stand_in *stand_in = ctx;
    Kvpool__V1__StreamReceiptsRequest *asked =
        kvpool__v1__stream_receipts_request__unpack(NULL, n, request);
    struct reader *reader = kv_calloc(1, sizeof *reader);

    stand_in->n_streams++;
    reader->stand_in = stand_in;
    reader->next = first_wanted(stand_in, asked);
    rpc_call_set_ctx(call, reader);
    rpc_stream_start(call, &ops);
    if (is_other_ledger(stand_in, asked))
        refuse(call, RPC_FAILED_PRECONDITION, "LEDGER_MISMATCH");
    kvpool__v1__stream_receipts_request__free_unpacked(asked, NULL);
}

/* ---- inference */

struct writer {
    struct reader base; /* what on_cancel and on_done know */
    int step;
    bool forever;
};

static void on_writer_ready(struct rpc_call *call)
{
    static const char *const texts[] = {"one ", "\x1b[31mtwo", "\n\tthree\n"};
    struct writer *writer = rpc_call_ctx(call);
    Kvpool__V1__GenerateResponse message = KVPOOL__V1__GENERATE_RESPONSE__INIT;
    Kvpool__V1__GenerateStarted started = KVPOOL__V1__GENERATE_STARTED__INIT;
    Kvpool__V1__GenerateFinished finished = KVPOOL__V1__GENERATE_FINISHED__INIT;
    Kvpool__V1__Usage usage = KVPOOL__V1__USAGE__INIT;
    uint32_t id = (uint32_t)writer->step;
    int step = writer->step++;

    if (step == 4)
        rpc_stream_finish(call);
    if (step >= 4 || (writer->forever && step > 1))
        return;
    if (step < 3) {
        message.text = (char *)texts[step];
        message.n_token_ids = 1;
        message.token_ids = &id;
    }
    if (step == 0)
        message.started = &started;
    started.seed = UINT64_MAX;
    usage.generated_tokens = 3;
    finished.reason = KVPOOL__V1__FINISH_REASON__FINISH_REASON_END_OF_TEXT;
    finished.usage = &usage;
    if (step == 3)
        message.finished = &finished;
    send_message(call, &message.base);
}

static void on_generate(
    void *ctx, struct rpc_call *call, const unsigned char *request, size_t n)
{
    static const struct rpc_stream_ops ops = {
        on_writer_ready, on_cancel, on_done};
    Kvpool__V1__GenerateRequest *asked =
        kvpool__v1__generate_request__unpack(NULL, n, request);
    struct writer *writer = kv_calloc(1, sizeof *writer);

    writer->base.stand_in = ctx;
    writer->forever =
        asked->input_case == KVPOOL__V1__GENERATE_REQUEST__INPUT_TEXT &&
        strcmp(asked->text, "forever") == 0;
    rpc_call_set_ctx(call, writer);
    rpc_stream_start(call, &ops);
    kvpool__v1__generate_request__free_unpacked(asked, NULL);
}

/* A byte is a token. */
static void on_tokenize(
    void *ctx, struct rpc_call *call, const unsigned char *request, size_t n)
{
    Kvpool__V1__TokenizeRequest *asked =
        kvpool__v1__tokenize_request__unpack(NULL, n, request);
    Kvpool__V1__TokenizeResponse answer = KVPOOL__V1__TOKENIZE_RESPONSE__INIT;
    uint32_t ids[64];

    (void)ctx;
    for (const char *at = asked->text; *at != '\0' && answer.n_token_ids < 64;)
        ids[answer.n_token_ids++] = (unsigned char)*at++;
    answer.token_ids = ids;
    reply(call, &answer.base);
    kvpool__v1__tokenize_request__free_unpacked(asked, NULL);
}

static void on_detokenize(
    void *ctx, struct rpc_call *call, const unsigned char *request, size_t n)
{
    Kvpool__V1__DetokenizeRequest *asked =
        kvpool__v1__detokenize_request__unpack(NULL, n, request);
    Kvpool__V1__DetokenizeResponse answer =
        KVPOOL__V1__DETOKENIZE_RESPONSE__INIT;
    uint8_t raw[64];

    (void)ctx;
    for (size_t i = 0; i < asked->n_token_ids && i < sizeof raw; i++)
        raw[answer.raw.len++] = (uint8_t)asked->token_ids[i];
    answer.raw.data = raw;
    reply(call, &answer.base);
    kvpool__v1__detokenize_request__free_unpacked(asked, NULL);
}

/* ---- life */

static void add_methods(struct stand_in *stand_in)
{
    static const struct {
        const char *path;
        enum rpc_kind kind;
        rpc_handler_cb handler;
    } methods[] = {
        {"/kvpool.v1.KvPoolService/Snapshot", RPC_UNARY, on_snapshot},
        {"/kvpool.v1.KvPoolService/ListSessions", RPC_UNARY, on_list_sessions},
        {"/kvpool.v1.KvPoolService/Evict", RPC_UNARY, on_evict},
        {"/kvpool.v1.KvPoolService/SetRetention", RPC_UNARY, on_set_retention},
        {"/kvpool.v1.KvPoolService/StreamReceipts", RPC_SERVER_STREAM,
            on_stream_receipts},
        {"/kvpool.v1.InferenceService/GetModel", RPC_UNARY, on_get_model},
        {"/kvpool.v1.InferenceService/Generate", RPC_SERVER_STREAM,
            on_generate},
        {"/kvpool.v1.InferenceService/Tokenize", RPC_UNARY, on_tokenize},
        {"/kvpool.v1.InferenceService/Detokenize", RPC_UNARY, on_detokenize},
    };

    for (size_t i = 0; i < sizeof methods / sizeof *methods; i++) {
        const struct rpc_method method = {
            methods[i].path, methods[i].kind, methods[i].handler, stand_in};

        ck_assert_int_eq(
            rpc_server_add_method(stand_in->server, &method), KV_OK);
    }
}

static void *run(void *arg)
{
    struct stand_in *stand_in = arg;

    rpc_loop_run(stand_in->loop);
    return NULL;
}

void stand_in_open(struct stand_in *stand_in,
    const struct stand_in_script *script, const char *address)
{
    struct kv_error error = {0};
    struct rpc_server_config config = {.max_request_bytes = 4 << 20,
        .max_calls = 100,
        .max_connections = 100,
        .max_streams_per_connection = 100};

    memset(stand_in, 0, sizeof *stand_in);
    stand_in->script = *script;
    ck_assert_int_eq(rpc_loop_open(&stand_in->loop, &error), KV_OK);
    config.loop = stand_in->loop;
    ck_assert_int_eq(
        rpc_server_open(&stand_in->server, &config, &error), KV_OK);
    add_methods(stand_in);
    ck_assert_msg(rpc_server_listen(stand_in->server, address, &error) == KV_OK,
        "%s", error.text);
    snprintf(stand_in->address, sizeof stand_in->address, "%s",
        rpc_server_address(stand_in->server, 0));
    rpc_server_set_serving(stand_in->server, "", !script->not_serving);
    ck_assert_int_eq(rpc_server_start(stand_in->server, &error), KV_OK);
    ck_assert_int_eq(pthread_create(&stand_in->thread, NULL, run, stand_in), 0);
}

static void on_drained(void *ctx)
{
    struct stand_in *stand_in = ctx;

    rpc_server_close(stand_in->server);
    rpc_loop_stop(stand_in->loop);
}

static void on_stop(struct rpc_post *post)
{
    struct stand_in *stand_in =
        (struct stand_in *)(void *)((char *)post -
                                    offsetof(struct stand_in, stop_post));

    rpc_server_drain(stand_in->server, 0, on_drained, stand_in);
}

void stand_in_close(struct stand_in *stand_in)
{
    stand_in->stop_post.run = on_stop;
    rpc_loop_post(stand_in->loop, &stand_in->stop_post);
    pthread_join(stand_in->thread, NULL);
    rpc_loop_close(stand_in->loop);
}
