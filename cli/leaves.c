#include "cli/leaves.h"

#include <inttypes.h>

#include "base/heap.h"
#include "kvpool/v1/pool_service.pb-c.h"

/* Bytes of a message that came. */
struct span {
    const unsigned char *at;
    size_t n;
};

enum { WIRE_VARINT = 0, WIRE_64 = 1, WIRE_BYTES = 2, WIRE_32 = 5 };

static bool take_varint(struct span *in, uint64_t *out)
{
    *out = 0;
    for (unsigned shift = 0; shift < 64 && in->n > 0; shift += 7) {
        unsigned char byte = *in->at++;

        in->n--;
        *out |= (uint64_t)(byte & 0x7F) << shift;
        if ((byte & 0x80) == 0)
            return true;
    }
    return false;
}

static bool take_bytes(struct span *in, uint64_t n, struct span *out)
{
    if (n > in->n)
        return false;
    *out = (struct span){in->at, (size_t)n};
    in->at += n;
    in->n -= (size_t)n;
    return true;
}

/* The next field: its number, and its bytes if it is WIRE_BYTES. false: the
 * message is damaged. */
static bool take_field(struct span *in, uint64_t *tag, struct span *value)
{
    uint64_t n;

    *value = (struct span){NULL, 0};
    if (!take_varint(in, tag))
        return false;
    switch (*tag & 7) {
    case WIRE_VARINT:
        return take_varint(in, &n);
    case WIRE_64:
        return take_bytes(in, 8, value);
    case WIRE_32:
        return take_bytes(in, 4, value);
    case WIRE_BYTES:
        return take_varint(in, &n) && take_bytes(in, n, value);
    default:
        return false;
    }
}

static enum cli_exit take_receipt(struct leaves *leaves, struct span bytes)
{
    Kvpool__V1__Receipt *receipt =
        cli_decode(&kvpool__v1__receipt__descriptor, bytes.at, bytes.n);
    enum cli_exit code;

    if (receipt == NULL)
        return cli_fail(leaves->cli, CLI_FAILED,
            "what came after receipt %" PRIu64 " is no receipt",
            leaves->previous);
    if (receipt->sequence == 0 ||
        (leaves->previous != 0 && receipt->sequence != leaves->previous + 1))
        code = cli_fail(leaves->cli, CLI_FAILED,
            "receipt %" PRIu64 " came after %" PRIu64, receipt->sequence,
            leaves->previous);
    else
        code = leaves->take(leaves->ctx, receipt, bytes.at, bytes.n);
    leaves->previous = receipt->sequence;
    cli_free_answer(receipt);
    return code;
}

static enum cli_exit take_message(struct leaves *leaves, struct span message)
{
    const uint64_t receipts = 1 << 3 | WIRE_BYTES;
    enum cli_exit code = CLI_OK;
    struct span value;
    uint64_t tag;

    while (message.n > 0 && code == CLI_OK && leaves->previous < leaves->last) {
        if (!take_field(&message, &tag, &value))
            return cli_fail(leaves->cli, CLI_FAILED,
                "StreamReceipts: a message that is none");
        if (tag == receipts)
            code = take_receipt(leaves, value);
    }
    return code;
}

static enum cli_exit read_stream(
    struct leaves *leaves, struct rpc_client_stream *stream)
{
    struct cli *cli = leaves->cli;
    enum cli_exit code = CLI_OK;

    while (code == CLI_OK && leaves->previous < leaves->last) {
        struct rpc_error error;
        unsigned char *bytes;
        size_t n_bytes;
        enum kv_status status =
            rpc_client_stream_next(stream, INT64_MAX, &bytes, &n_bytes, &error);

        if (status == KV_CLOSED && error.code != RPC_OK)
            return cli_fail_rpc(cli, &error);
        if (status == KV_CLOSED)
            return cli_fail(cli, CLI_FAILED,
                "the server closed the stream after receipt %" PRIu64,
                leaves->previous);
        if (status == KV_OK) {
            code = take_message(leaves, (struct span){bytes, n_bytes});
            kv_free(bytes);
        } else if (status != KV_BUSY) {
            code = cli_fail(cli, CLI_FAILED, "%s", kv_status_text(status));
        }
        if (interrupt_seen(cli->interrupt))
            return CLI_INTERRUPTED;
    }
    return code;
}

enum cli_exit leaves_read(struct leaves *leaves)
{
    struct cli *cli = leaves->cli;
    Kvpool__V1__StreamReceiptsRequest request =
        KVPOOL__V1__STREAM_RECEIPTS_REQUEST__INIT;
    Kvpool__V1__StartEarliest earliest = KVPOOL__V1__START_EARLIEST__INIT;
    struct rpc_client_options options = cli_call_options(cli, 0);
    struct rpc_client_stream *stream;
    enum kv_status status = KV_NO_MEMORY;
    enum cli_exit code = CLI_OK;
    struct rpc_client *client = cli_client(cli, &code);
    unsigned char *bytes;
    size_t n_bytes;

    if (client == NULL)
        return code;
    request.start_case = KVPOOL__V1__STREAM_RECEIPTS_REQUEST__START_EARLIEST;
    request.earliest = &earliest;
    bytes = cli_encode(&request.base, &n_bytes);
    if (bytes != NULL)
        status =
            rpc_client_stream_open(client, CLI_POOL_SERVICE "StreamReceipts",
                bytes, n_bytes, &options, &stream);
    kv_free(bytes);
    if (status != KV_OK)
        return cli_fail(cli, CLI_FAILED, "%s", kv_status_text(status));
    interrupt_watch(cli->interrupt, client);
    code = read_stream(leaves, stream);
    interrupt_unwatch(cli->interrupt);
    rpc_client_stream_close(stream);
    return code;
}
