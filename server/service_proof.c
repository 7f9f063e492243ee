/* KvPoolService: GetCheckpoint, GetInclusionProof, GetConsistencyProof.
 *
 * Proofs are made on demand from the ledger's tree, a few microseconds each.
 * Nobody is shown what is not durable. A checkpoint that covers a receipt may
 * be waited for; the next one is at most a tick away once that is durable. */
#include <inttypes.h>

#include "base/clock.h"
#include "base/heap.h"
#include "base/log.h"
#include "kvpool/v1/pool_service.pb-c.h"
#include "receipts/notary.h"
#include "server/message.h"
#include "server/server.h"

#define PATH "/kvpool.v1.KvPoolService/"
#define CHECKPOINT_MS 1000

/* ---- refusing */

static void refuse_off(struct rpc_call *call)
{
    struct rpc_error error;

    rpc_error_init(&error, RPC_FAILED_PRECONDITION, "RECEIPTS_OFF",
        "receipts are off: start the server with enable_receipts");
    rpc_error_add_metadata(&error, "option", "enable_receipts");
    rpc_call_fail(call, &error);
}

static void fail_no_memory(struct rpc_call *call)
{
    struct rpc_error error;

    rpc_error_init(&error, RPC_RESOURCE_EXHAUSTED, "",
        "the server has no memory for this request");
    rpc_call_fail(call, &error);
}

/* The tree has given no root, or no proof. */
static void fail_tree(struct rpc_call *call, struct merkle *tree)
{
    enum kv_status damage = merkle_damage(tree);
    struct rpc_error error;

    if (damage == KV_OK) {
        fail_no_memory(call);
        return;
    }
    rpc_error_init(&error, damage == KV_IO ? RPC_UNAVAILABLE : RPC_DATA_LOSS,
        "",
        "the tree of hashes beside the journal %s; receipts themselves can "
        "still be read",
        damage == KV_IO ? "cannot be read" : "is damaged");
    rpc_call_fail(call, &error);
}

static void refuse_ahead(struct rpc_call *call, const char *what,
    uint64_t sequence, const struct ledger_position *position)
{
    struct rpc_error error;

    rpc_error_init(&error, RPC_OUT_OF_RANGE, "SEQUENCE_AHEAD",
        "%s %" PRIu64 " is not there yet; the last durable receipt is "
        "%" PRIu64,
        what, sequence, position->durable_sequence);
    rpc_error_add_metadata(&error, "sequence", "%" PRIu64, sequence);
    rpc_error_add_metadata(
        &error, "durable_sequence", "%" PRIu64, position->durable_sequence);
    rpc_call_fail(call, &error);
}

static void refuse_expired(struct rpc_call *call, uint64_t sequence,
    const struct ledger_position *position)
{
    struct rpc_error error;

    rpc_error_init(&error, RPC_OUT_OF_RANGE, "SEQUENCE_EXPIRED",
        "the ledger has dropped receipt %" PRIu64 "; the oldest is %" PRIu64,
        sequence, position->oldest_sequence);
    rpc_error_add_metadata(&error, "sequence", "%" PRIu64, sequence);
    rpc_error_add_metadata(
        &error, "oldest_sequence", "%" PRIu64, position->oldest_sequence);
    rpc_error_add_metadata(
        &error, "durable_sequence", "%" PRIu64, position->durable_sequence);
    rpc_error_add_metadata(&error, "epoch", "%" PRIu32, position->epoch);
    rpc_call_fail(call, &error);
}

/* ---- messages; they borrow, and are encoded in the same turn */

struct checkpoint_message {
    Kvpool__V1__Checkpoint message;
    struct checkpoint_key_text key;
};

static void fill_checkpoint(
    struct checkpoint_message *checkpoint, const struct notary *notary)
{
    const struct notary_checkpoint *newest = notary_newest(notary);
    Kvpool__V1__Checkpoint *out = &checkpoint->message;

    checkpoint->key = checkpoint_key_format(notary_key(notary));
    kvpool__v1__checkpoint__init(out);
    out->signed_note.data = (uint8_t *)newest->note.bytes;
    out->signed_note.len = newest->note.n_bytes;
    out->tree_size = newest->checkpoint.tree_size;
    out->root.data = (uint8_t *)newest->checkpoint.root.bytes;
    out->root.len = sizeof newest->checkpoint.root.bytes;
    out->origin = (char *)newest->checkpoint.origin;
    out->time_unix_ns = newest->time_unix_ns;
    out->key = checkpoint->key.s;
}

/* NULL: there is none of at least this size. */
static Kvpool__V1__Checkpoint *checkpoint_of(const struct server *server,
    uint64_t tree_size, struct checkpoint_message *out)
{
    const struct notary *notary = recorder_notary(server->recorder);
    const struct notary_checkpoint *newest = notary_newest(notary);

    if (newest->time_unix_ns == 0 || newest->checkpoint.tree_size < tree_size)
        return NULL;
    fill_checkpoint(out, notary);
    return &out->message;
}

static void fill_hash(ProtobufCBinaryData *out, const struct merkle_hash *hash)
{
    out->data = (uint8_t *)hash->bytes;
    out->len = sizeof hash->bytes;
}

static void fill_path(
    ProtobufCBinaryData out[MERKLE_MAX_PATH], const struct merkle_path *path)
{
    for (size_t i = 0; i < path->n; i++)
        fill_hash(&out[i], &path->hashes[i]);
}

/* The size that a request means by 0. */
static uint64_t size_in_force(const struct server *server, uint64_t tree_size)
{
    return tree_size > 0 ? tree_size
                         : recorder_checkpoint_size(server->recorder);
}

/* ---- GetCheckpoint */

struct waiter {
    struct kv_list link;
    struct rpc_call *call;
    uint64_t covering_sequence;
};

static void reply_checkpoint(const struct server *server, struct rpc_call *call)
{
    Kvpool__V1__GetCheckpointResponse response =
        KVPOOL__V1__GET_CHECKPOINT_RESPONSE__INIT;
    struct checkpoint_message checkpoint;

    response.checkpoint = checkpoint_of(server, 0, &checkpoint);
    message_reply(call, &response.base);
}

static void on_signed(void *ctx)
{
    struct server *server = ctx;
    uint64_t tree_size = recorder_checkpoint_size(server->recorder);

    KV_LIST_EACH (link, &server->checkpoint_calls) {
        struct waiter *waiter = KV_LIST_ENTRY(link, struct waiter, link);

        if (waiter->covering_sequence > tree_size)
            continue;
        kv_list_remove(&waiter->link);
        reply_checkpoint(server, waiter->call);
        kv_free(waiter);
    }
}

static void on_cancelled(void *ctx, struct rpc_call *call)
{
    struct waiter *waiter = ctx;
    struct rpc_error error;

    kv_list_remove(&waiter->link);
    kv_free(waiter);
    rpc_error_init(&error, RPC_CANCELLED, "", "the caller went away");
    rpc_call_fail(call, &error);
}

static void wait_for_checkpoint(
    struct server *server, struct rpc_call *call, uint64_t covering_sequence)
{
    struct waiter *waiter = kv_calloc(1, sizeof *waiter);

    if (waiter == NULL) {
        fail_no_memory(call);
        return;
    }
    waiter->call = call;
    waiter->covering_sequence = covering_sequence;
    kv_list_append(&server->checkpoint_calls, &waiter->link);
    rpc_call_set_ctx(call, waiter);
    rpc_call_on_cancel(call, on_cancelled);
}

static void answer_checkpoint(
    struct server *server, struct rpc_call *call, uint64_t covering_sequence)
{
    struct ledger_position position;

    recorder_position(server->recorder, &position);
    if (covering_sequence > position.applied_sequence)
        refuse_ahead(call, "receipt", covering_sequence, &position);
    else if (covering_sequence > recorder_checkpoint_size(server->recorder))
        wait_for_checkpoint(server, call, covering_sequence);
    else
        reply_checkpoint(server, call);
}

static void on_get_checkpoint(void *ctx, struct rpc_call *call,
    const unsigned char *bytes, size_t n_bytes)
{
    struct server *server = ctx;
    struct rpc_error error;
    Kvpool__V1__GetCheckpointRequest *request =
        (Kvpool__V1__GetCheckpointRequest *)message_parse(
            &kvpool__v1__get_checkpoint_request__descriptor, bytes, n_bytes,
            &error);

    if (request == NULL)
        rpc_call_fail(call, &error);
    else if (server->recorder == NULL)
        refuse_off(call);
    else
        answer_checkpoint(server, call, request->covering_sequence);
    kvpool__v1__get_checkpoint_request__free_unpacked(request, NULL);
}

/* ---- GetInclusionProof */

/* A call whose receipt is being looked for. */
struct inclusion {
    struct server *server;
    struct rpc_call *call;
    uint64_t sequence, tree_size;
    struct feed_cursor cursor;
};

static void free_inclusion(struct inclusion *inclusion)
{
    feed_leave(
        recorder_ledger(inclusion->server->recorder), &inclusion->cursor);
    kv_free(inclusion);
}

static void reply_inclusion(
    const struct inclusion *inclusion, const struct feed_run *run)
{
    struct server *server = inclusion->server;
    struct merkle *tree = ledger_tree(recorder_ledger(server->recorder));
    Kvpool__V1__GetInclusionProofResponse response =
        KVPOOL__V1__GET_INCLUSION_PROOF_RESPONSE__INIT;
    struct checkpoint_message checkpoint;
    ProtobufCBinaryData hashes[MERKLE_MAX_PATH];
    const unsigned char *at = run->bytes, *leaf;
    struct merkle_path path;
    struct merkle_hash root;

    if (!merkle_root(tree, inclusion->tree_size, &root) ||
        !merkle_prove_inclusion(
            tree, inclusion->sequence - 1, inclusion->tree_size, &path)) {
        fail_tree(inclusion->call, tree);
        return;
    }
    feed_run_entry(run, &at, &leaf, &response.leaf.len);
    response.leaf.data = (uint8_t *)leaf;
    response.leaf_index = inclusion->sequence - 1;
    response.tree_size = inclusion->tree_size;
    fill_path(hashes, &path);
    response.hashes = hashes;
    response.n_hashes = path.n;
    fill_hash(&response.root, &root);
    response.checkpoint =
        checkpoint_of(server, inclusion->tree_size, &checkpoint);
    message_reply(inclusion->call, &response.base);
}

static void fail_unreadable(struct rpc_call *call, uint64_t sequence)
{
    struct rpc_error error;

    rpc_error_init(&error, RPC_UNAVAILABLE, "JOURNAL_FAILED",
        "receipt %" PRIu64 " cannot be read from disk", sequence);
    rpc_call_fail(call, &error);
}

/* Answers, or does nothing as long as the receipt is read from disk. */
static bool answer_found(struct inclusion *inclusion)
{
    struct ledger *ledger = recorder_ledger(inclusion->server->recorder);
    struct ledger_position position = ledger_position(ledger);
    struct feed_run run;

    switch (feed_next(ledger, &inclusion->cursor, 1, 0, &run)) {
    case KV_BUSY:
        return false;
    case KV_OK:
        reply_inclusion(inclusion, &run);
        feed_run_release(run.chunk);
        break;
    case KV_DATA_LOSS:
        refuse_expired(inclusion->call, inclusion->sequence, &position);
        break;
    default:
        fail_unreadable(inclusion->call, inclusion->sequence);
    }
    free_inclusion(inclusion);
    return true;
}

static void on_leaf_ready(struct feed_cursor *cursor)
{
    answer_found(KV_LIST_ENTRY(cursor, struct inclusion, cursor));
}

static void on_inclusion_cancelled(void *ctx, struct rpc_call *call)
{
    struct rpc_error error;

    free_inclusion(ctx);
    rpc_error_init(&error, RPC_CANCELLED, "", "the caller went away");
    rpc_call_fail(call, &error);
}

static void find_leaf(struct server *server, struct rpc_call *call,
    uint64_t sequence, uint64_t tree_size)
{
    struct inclusion *inclusion = kv_calloc(1, sizeof *inclusion);

    if (inclusion == NULL) {
        fail_no_memory(call);
        return;
    }
    inclusion->server = server;
    inclusion->call = call;
    inclusion->sequence = sequence;
    inclusion->tree_size = tree_size;
    inclusion->cursor.sequence = sequence - 1;
    inclusion->cursor.on_ready = on_leaf_ready;
    if (answer_found(inclusion))
        return;
    rpc_call_set_ctx(call, inclusion);
    rpc_call_on_cancel(call, on_inclusion_cancelled);
}

static void answer_inclusion(struct server *server, struct rpc_call *call,
    const Kvpool__V1__GetInclusionProofRequest *request)
{
    uint64_t tree_size = size_in_force(server, request->tree_size);
    struct ledger_position position;

    recorder_position(server->recorder, &position);
    if (request->sequence > position.durable_sequence)
        refuse_ahead(call, "receipt", request->sequence, &position);
    else if (tree_size > position.durable_sequence)
        refuse_ahead(call, "a tree of size", tree_size, &position);
    else if (request->sequence > tree_size) /* of the newest checkpoint */
        refuse_ahead(call, "a checkpoint that covers receipt",
            request->sequence, &position);
    else
        find_leaf(server, call, request->sequence, tree_size);
}

static void check_inclusion(struct rpc_error *error,
    const Kvpool__V1__GetInclusionProofRequest *request)
{
    if (request->sequence == 0)
        rpc_error_add_violation(
            error, "sequence", "0 was given; receipts count from 1");
    if (request->tree_size > 0 && request->tree_size < request->sequence)
        rpc_error_add_violation(error, "tree_size",
            "%" PRIu64 " was given; allowed are 0 and at least the sequence, "
            "which is %" PRIu64,
            request->tree_size, request->sequence);
}

static void on_get_inclusion_proof(void *ctx, struct rpc_call *call,
    const unsigned char *bytes, size_t n_bytes)
{
    struct server *server = ctx;
    struct rpc_error error;
    Kvpool__V1__GetInclusionProofRequest *request =
        (Kvpool__V1__GetInclusionProofRequest *)message_parse(
            &kvpool__v1__get_inclusion_proof_request__descriptor, bytes,
            n_bytes, &error);

    if (request != NULL)
        check_inclusion(&error, request);
    if (error.code != RPC_OK)
        rpc_call_fail(call, &error);
    else if (server->recorder == NULL)
        refuse_off(call);
    else
        answer_inclusion(server, call, request);
    kvpool__v1__get_inclusion_proof_request__free_unpacked(request, NULL);
}

/* ---- GetConsistencyProof */

static void reply_consistency(struct server *server, struct rpc_call *call,
    uint64_t first, uint64_t second)
{
    struct merkle *tree = ledger_tree(recorder_ledger(server->recorder));
    Kvpool__V1__GetConsistencyProofResponse response =
        KVPOOL__V1__GET_CONSISTENCY_PROOF_RESPONSE__INIT;
    struct checkpoint_message checkpoint;
    ProtobufCBinaryData hashes[MERKLE_MAX_PATH];
    struct merkle_hash first_root, second_root;
    struct merkle_path path;

    if (!merkle_root(tree, first, &first_root) ||
        !merkle_root(tree, second, &second_root) ||
        !merkle_prove_consistency(tree, first, second, &path)) {
        fail_tree(call, tree);
        return;
    }
    response.first_tree_size = first;
    response.second_tree_size = second;
    fill_path(hashes, &path);
    response.hashes = hashes;
    response.n_hashes = path.n;
    fill_hash(&response.first_root, &first_root);
    fill_hash(&response.second_root, &second_root);
    response.checkpoint = checkpoint_of(server, second, &checkpoint);
    message_reply(call, &response.base);
}

static void answer_consistency(struct server *server, struct rpc_call *call,
    const Kvpool__V1__GetConsistencyProofRequest *request)
{
    uint64_t first = request->first_tree_size;
    uint64_t second = size_in_force(server, request->second_tree_size);
    struct ledger_position position;

    recorder_position(server->recorder, &position);
    if (second > position.durable_sequence)
        refuse_ahead(call, "a tree of size", second, &position);
    else if (first > position.durable_sequence)
        refuse_ahead(call, "a tree of size", first, &position);
    else if (first > second) /* of the newest checkpoint */
        refuse_ahead(call, "a checkpoint of size", first, &position);
    else
        reply_consistency(server, call, first, second);
}

static void check_consistency(struct rpc_error *error,
    const Kvpool__V1__GetConsistencyProofRequest *request)
{
    if (request->first_tree_size == 0)
        rpc_error_add_violation(error, "first_tree_size",
            "0 was given; allowed is at least 1: every tree begins with none");
    if (request->second_tree_size > 0 &&
        request->second_tree_size < request->first_tree_size)
        rpc_error_add_violation(error, "second_tree_size",
            "%" PRIu64 " was given; allowed are 0 and at least "
            "first_tree_size, which is %" PRIu64,
            request->second_tree_size, request->first_tree_size);
}

static void on_get_consistency_proof(void *ctx, struct rpc_call *call,
    const unsigned char *bytes, size_t n_bytes)
{
    struct server *server = ctx;
    struct rpc_error error;
    Kvpool__V1__GetConsistencyProofRequest *request =
        (Kvpool__V1__GetConsistencyProofRequest *)message_parse(
            &kvpool__v1__get_consistency_proof_request__descriptor, bytes,
            n_bytes, &error);

    if (request != NULL)
        check_consistency(&error, request);
    if (error.code != RPC_OK)
        rpc_call_fail(call, &error);
    else if (server->recorder == NULL)
        refuse_off(call);
    else
        answer_consistency(server, call, request);
    kvpool__v1__get_consistency_proof_request__free_unpacked(request, NULL);
}

/* ---- life */

static void on_tick(uv_timer_t *timer)
{
    struct server *server = timer->data;

    notary_tick(recorder_notary(server->recorder));
    recorder_tick(server->recorder);
}

static void log_key(const struct notary *notary)
{
    struct checkpoint_key_text key = checkpoint_key_format(notary_key(notary));

    kv_log(KV_LOG_INFO, SERVER_LOG_TARGET, "checkpoints are signed",
        KV_LOG_TEXT("origin", notary_newest(notary)->checkpoint.origin),
        KV_LOG_TEXT("key", key.s));
}

void service_proof_start(struct server *server)
{
    struct notary *notary = recorder_notary(server->recorder);

    if (notary == NULL)
        return;
    log_key(notary);
    notary_listen(notary, on_signed, server);
    notary_tick(notary);
    uv_timer_start(
        &server->checkpoint_tick, on_tick, CHECKPOINT_MS, CHECKPOINT_MS);
}

enum kv_status service_proof_add(struct server *server)
{
    const struct rpc_method methods[] = {
        {PATH "GetCheckpoint", RPC_UNARY, on_get_checkpoint, server},
        {PATH "GetInclusionProof", RPC_UNARY, on_get_inclusion_proof, server},
        {PATH "GetConsistencyProof", RPC_UNARY, on_get_consistency_proof,
            server},
    };
    enum kv_status status = KV_OK;

    kv_list_init(&server->checkpoint_calls);
    for (size_t i = 0; i < sizeof methods / sizeof *methods; i++)
        if (status == KV_OK)
            status = rpc_server_add_method(server->rpc, &methods[i]);
    return status;
}
