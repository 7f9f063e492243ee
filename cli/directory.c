#include "cli/directory.h"

#include <inttypes.h>
#include <string.h>
#include <unistd.h>

#include "base/heap.h"
#include "receipts/journal_scan.h"

char *directory_of_receipts(struct cli *cli, const char *path)
{
    size_t n_bytes = strlen(path) + sizeof "/receipts/ledger";
    char *inner = kv_calloc(n_bytes, 1);

    if (inner == NULL) {
        cli_fail(cli, CLI_FAILED, "out of memory");
        return NULL;
    }
    snprintf(inner, n_bytes, "%s/receipts/ledger", path);
    if (access(inner, F_OK) == 0)
        inner[strlen(inner) - strlen("/ledger")] = '\0';
    else
        snprintf(inner, n_bytes, "%s", path);
    return inner;
}

static enum cli_exit fail(
    struct cli *cli, enum kv_status status, const struct kv_error *error)
{
    return cli_fail(cli, status == KV_DATA_LOSS ? CLI_DAMAGED : CLI_FAILED,
        "%s", text_name(error->text).s);
}

static enum cli_exit take(struct directory_reader *reader,
    const struct journal_scan_receipt *at, uint64_t *previous)
{
    struct cli *cli = reader->cli;
    Kvpool__V1__Receipt *receipt =
        cli_decode(&kvpool__v1__receipt__descriptor, at->bytes, at->n_bytes);
    enum cli_exit code;

    if (receipt == NULL)
        return cli_fail(cli, CLI_DAMAGED,
            "receipt %" PRIu64 " (%s, offset %" PRIu64 ") is no receipt",
            at->sequence, text_name(at->file).s, at->offset);
    if (receipt->sequence != at->sequence ||
        (*previous != 0 && at->sequence != *previous + 1))
        code = cli_fail(cli, CLI_DAMAGED,
            "receipt %" PRIu64 " (%s, offset %" PRIu64 ") says number %" PRIu64
            " and came after %" PRIu64,
            at->sequence, text_name(at->file).s, at->offset, receipt->sequence,
            *previous);
    else
        code = reader->take(reader->ctx, receipt);
    *previous = at->sequence;
    cli_free_answer(receipt);
    return code;
}

static enum cli_exit read_scan(
    struct directory_reader *reader, struct journal_scan *scan)
{
    struct cli *cli = reader->cli;
    struct journal_scan_receipt receipt;
    uint64_t previous = 0;
    struct kv_error error;
    enum cli_exit code = CLI_OK;

    while (code == CLI_OK && previous < reader->last) {
        enum kv_status status = journal_scan_next(scan, &receipt, &error);

        if (status == KV_NOT_FOUND ||
            (status == KV_OK && receipt.sequence > reader->last))
            break;
        code = status == KV_OK ? take(reader, &receipt, &previous)
                               : fail(cli, status, &error);
        if (interrupt_seen(cli->interrupt))
            code = CLI_INTERRUPTED;
    }
    return code;
}

enum cli_exit directory_read(struct directory_reader *reader)
{
    struct journal_scan *scan;
    struct kv_error error;
    enum cli_exit code;
    enum kv_status status = journal_scan_open(&scan, reader->path, &error);

    if (status != KV_OK)
        return fail(reader->cli, status, &error);
    if (reader->first > 1)
        status = journal_scan_seek(scan, reader->first, &error);
    code = status == KV_OK ? read_scan(reader, scan)
                           : fail(reader->cli, status, &error);
    journal_scan_close(scan);
    return code;
}
