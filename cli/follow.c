#include "cli/follow.h"

#include <inttypes.h>
#include <sys/random.h>

#include "base/clock.h"
#include "base/heap.h"

/* How a stream, or all of it, ended. */
struct ending {
    bool is_cut; /* *error says by what; else code is final */
    enum cli_exit code;
    struct rpc_error error;
};

static struct ending final(enum cli_exit code)
{
    return (struct ending){.code = code};
}

static void on_connected(struct follower *follower)
{
    if (follower->away)
        cli_note(follower->cli,
            "connected again, going on after receipt %" PRIu64,
            follower->tail.sequence);
    follower->connected = true;
    follower->away = false;
}

/* false: the end, *code says which. */
static bool take_receipts(struct follower *follower,
    const Kvpool__V1__StreamReceiptsResponse *message, enum cli_exit *code)
{
    struct kv_error error;

    for (size_t i = 0; i < message->n_receipts; i++) {
        const Kvpool__V1__Receipt *receipt = message->receipts[i];
        enum kv_status status = tail_take(&follower->tail, receipt, &error);

        if (status == KV_BUSY)
            continue;
        *code = status == KV_OK
                    ? follower->take(follower->ctx, receipt)
                    : cli_fail(follower->cli, CLI_FAILED, "%s", error.text);
        if (*code != CLI_OK)
            return false;
        if (--follower->n_left == 0 || receipt->sequence >= follower->last)
            return false;
    }
    return true;
}

static enum cli_exit take_gap(
    struct follower *follower, const Kvpool__V1__Gap *gap)
{
    if (follower->take_gap != NULL)
        return follower->take_gap(follower->ctx, gap);
    cli_note(follower->cli,
        "the server left out receipts %" PRIu64 " to %" PRIu64,
        gap->first_sequence, gap->last_sequence);
    return CLI_OK;
}

/* What a message has beside receipts, and was found in order. */
static enum cli_exit take_rest(struct follower *follower,
    const Kvpool__V1__StreamReceiptsResponse *message)
{
    enum cli_exit code = CLI_OK;

    if (message->snapshot != NULL && follower->take_state != NULL)
        code = follower->take_state(follower->ctx, message->snapshot);
    if (code == CLI_OK && message->gap != NULL)
        code = take_gap(follower, message->gap);
    return code;
}

/* false: the end, *code says which. */
static bool take_message(struct follower *follower,
    const Kvpool__V1__StreamReceiptsResponse *message, enum cli_exit *code)
{
    struct kv_error error;

    *code = CLI_OK;
    on_connected(follower);
    if (!take_receipts(follower, message, code))
        return false;
    if (tail_follow(&follower->tail, message, &error) != KV_OK) {
        *code = cli_fail(follower->cli, CLI_FAILED, "%s", error.text);
        return false;
    }
    *code = take_rest(follower, message);
    if (*code != CLI_OK)
        return false;
    return cli_flush(follower->cli);
}

static struct ending read_stream(
    struct follower *follower, struct rpc_client_stream *stream)
{
    struct ending ending = {.is_cut = true};

    for (;;) {
        Kvpool__V1__StreamReceiptsResponse *message;
        unsigned char *bytes;
        size_t n_bytes;
        bool goes_on;
        enum cli_exit code;
        enum kv_status status = rpc_client_stream_next(
            stream, INT64_MAX, &bytes, &n_bytes, &ending.error);

        if (status == KV_CLOSED)
            return ending;
        if (interrupt_seen(follower->cli->interrupt)) {
            if (status == KV_OK)
                kv_free(bytes);
            return final(CLI_INTERRUPTED);
        }
        if (status == KV_BUSY)
            continue;
        if (status != KV_OK)
            return final(cli_fail(
                follower->cli, CLI_FAILED, "%s", kv_status_text(status)));
        message = cli_decode(
            &kvpool__v1__stream_receipts_response__descriptor, bytes, n_bytes);
        kv_free(bytes);
        if (message == NULL)
            return final(cli_fail(follower->cli, CLI_FAILED,
                "StreamReceipts: a message that is none"));
        goes_on = take_message(follower, message, &code);
        cli_free_answer(message);
        if (!goes_on)
            return final(code);
    }
}

/* One connection, from beginning to end. */
static struct ending follow_once(struct follower *follower)
{
    struct cli *cli = follower->cli;
    struct rpc_client_options options = {0};
    struct rpc_client_stream *stream;
    struct tail_request request;
    struct ending ending;
    enum cli_exit code = CLI_FAILED;
    struct rpc_client *client = cli_client(cli, &code);
    unsigned char *bytes;
    size_t n_bytes;
    enum kv_status status = KV_NO_MEMORY;

    if (client == NULL)
        return final(code);
    tail_request(&follower->tail, follower->max_batch, &request);
    bytes = cli_encode(&request.request.base, &n_bytes);
    if (bytes != NULL)
        status =
            rpc_client_stream_open(client, CLI_POOL_SERVICE "StreamReceipts",
                bytes, n_bytes, &options, &stream);
    kv_free(bytes);
    if (status != KV_OK)
        return final(cli_fail(cli, CLI_FAILED, "%s", kv_status_text(status)));
    interrupt_watch(cli->interrupt, client);
    ending = read_stream(follower, stream);
    interrupt_unwatch(cli->interrupt);
    rpc_client_stream_close(stream);
    /* The next attempt has a connection of its own: gRPC's pauses between
     * attempts to connect are not ours. */
    rpc_client_close(client);
    cli->client = NULL;
    return ending;
}

static bool may_return(
    const struct follower *follower, const struct rpc_error *error)
{
    int64_t limit_ns = follower->cli->values.timeout_ns;

    if (follower->no_reconnect || !follower->connected ||
        !tail_may_return(error))
        return false;
    return !follower->away || limit_ns == 0 ||
           kv_clock_mono_ns() - follower->cut_ns < limit_ns;
}

/* Somebody else's clients must not all come back at the same instant. */
static uint32_t draw_chance(void)
{
    uint32_t chance = 0;

    if (getrandom(&chance, sizeof chance, GRND_NONBLOCK) !=
        (ssize_t)sizeof chance)
        return (uint32_t)kv_clock_mono_ns();
    return chance;
}

static void tell_cut(
    struct follower *follower, const struct rpc_error *error, int64_t pause_ns)
{
    if (follower->away && !follower->cli->values.verbose)
        return;
    cli_note(follower->cli,
        "connection lost (%s%s%s), going on after receipt %" PRIu64 " in %s",
        error->code == RPC_OK ? "closed by the server"
                              : rpc_code_name(error->code),
        error->message[0] != '\0' ? ": " : "",
        error->message[0] != '\0' ? text_name(error->message).s : "",
        follower->tail.sequence, text_duration(pause_ns).s);
}

static enum cli_exit end_by(
    struct follower *follower, const struct rpc_error *error)
{
    if (error->code != RPC_OK)
        return cli_fail_rpc(follower->cli, error);
    cli_note(follower->cli, "the server closed the stream");
    return CLI_OK;
}

enum cli_exit follow_receipts(struct follower *follower)
{
    for (;;) {
        struct ending ending = follow_once(follower);
        int64_t pause_ns;

        if (!ending.is_cut)
            return ending.code;
        if (!may_return(follower, &ending.error))
            return end_by(follower, &ending.error);
        pause_ns = tail_pause(&follower->tail, draw_chance());
        tell_cut(follower, &ending.error, pause_ns);
        if (!follower->away)
            follower->cut_ns = kv_clock_mono_ns();
        follower->away = true;
        if (interrupt_sleep(follower->cli->interrupt, pause_ns))
            return CLI_INTERRUPTED;
    }
}

enum cli_exit follow_end(struct cli *cli, uint64_t *last)
{
    Kvpool__V1__SnapshotRequest request = KVPOOL__V1__SNAPSHOT_REQUEST__INIT;
    enum cli_exit code = CLI_OK;
    Kvpool__V1__SnapshotResponse *answer =
        cli_call(cli, CLI_POOL_SERVICE "Snapshot", &request.base,
            &kvpool__v1__snapshot_response__descriptor, &code);

    if (answer == NULL)
        return code;
    if (answer->snapshot == NULL || answer->snapshot->stamp == NULL)
        code = cli_fail(cli, CLI_FAILED,
            "receipts are off (enable_receipts): there is nothing to read");
    else
        *last = answer->snapshot->stamp->durable_sequence;
    cli_free_answer(answer);
    return code;
}
