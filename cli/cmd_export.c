/* receipts export: receipts as JSON lines, from a server or from a directory,
 * to the output or into a file that is there whole or not at all. */
#include <inttypes.h>

#include "base/heap.h"
#include "cli/command.h"
#include "cli/directory.h"
#include "cli/follow.h"
#include "cli/out_file.h"
#include "receipts/json.h"

struct exporting {
    struct cli *cli;
    FILE *out;
    size_t flags;
    uint64_t n_written;
};

static enum cli_exit export_receipt(
    void *ctx, const Kvpool__V1__Receipt *receipt)
{
    struct exporting *exporting = ctx;
    struct cli *cli = exporting->cli;
    json_t *json = receipt_to_json(receipt);
    bool failed;

    if (json == NULL)
        return cli_fail(cli, CLI_FAILED, "out of memory");
    failed = json_dumpf(json, exporting->out, exporting->flags) != 0;
    json_decref(json);
    if (failed && !ferror(exporting->out))
        return cli_fail(cli, CLI_FAILED, "out of memory");
    if (failed || fputc('\n', exporting->out) == EOF)
        return CLI_FAILED; /* whoever finishes the output says why */
    exporting->n_written++;
    cli_progress(cli, "receipt %" PRIu64, receipt->sequence);
    return CLI_OK;
}

/* ---- where they come from */

static enum cli_exit from_directory(struct exporting *exporting)
{
    struct cli *cli = exporting->cli;
    const struct option_values *values = &cli->values;
    char *path = directory_of_receipts(cli, values->arguments[0]);
    struct directory_reader reader = {.cli = cli,
        .path = path,
        .first = values->first,
        .last = values->last != 0 ? values->last : UINT64_MAX,
        .take = export_receipt,
        .ctx = exporting};
    enum cli_exit code = path != NULL ? directory_read(&reader) : CLI_FAILED;

    kv_free(path);
    return code;
}

/* Up to --to, or to what is there now. */
static enum cli_exit choose_end(struct cli *cli, uint64_t *last)
{
    uint64_t given = cli->values.last;
    enum cli_exit code = follow_end(cli, last);

    if (code != CLI_OK || given == 0)
        return code;
    if (given > *last)
        return cli_fail(cli, CLI_FAILED,
            "--to: %" PRIu64 " given; the last durable receipt is %" PRIu64,
            given, *last);
    *last = given;
    return CLI_OK;
}

static enum cli_exit from_server(struct exporting *exporting)
{
    struct cli *cli = exporting->cli;
    struct follower follower = {.cli = cli,
        .n_left = UINT64_MAX,
        .take = export_receipt,
        .ctx = exporting};
    enum cli_exit code = choose_end(cli, &follower.last);
    char from[32] = "earliest";
    struct kv_error error;

    if (code != CLI_OK || follower.last < cli->values.first ||
        follower.last == 0)
        return code;
    if (cli->values.first > 0)
        snprintf(from, sizeof from, "after:%" PRIu64, cli->values.first - 1);
    if (tail_start(&follower.tail, from, &error) != KV_OK)
        return cli_fail_usage(cli, &error);
    return follow_receipts(&follower);
}

static enum cli_exit export_all(struct exporting *exporting)
{
    struct cli *cli = exporting->cli;
    enum cli_exit code = cli->values.n_arguments > 0 ? from_directory(exporting)
                                                     : from_server(exporting);

    cli_progress_clear(cli);
    return code;
}

/* ---- where they go */

static enum cli_exit into_file(struct exporting *exporting, const char *path)
{
    struct cli *cli = exporting->cli;
    struct out_file file;
    struct kv_error error;
    enum cli_exit code;

    if (out_file_open(&file, path, 0600, &error) != KV_OK)
        return cli_fail(cli, CLI_FAILED, "--out: %s", error.text);
    exporting->out = file.stream;
    cli->out_tty = false; /* it shows nothing, so progress may be shown */
    code = export_all(exporting);
    if (code != CLI_OK && !ferror(file.stream)) {
        out_file_abandon(&file);
        return code;
    }
    if (out_file_commit(&file, &error) != KV_OK)
        return cli_fail(cli, CLI_FAILED, "--out: %s", error.text);
    cli_note(cli, "%s: %s", text_name(path).s,
        text_count(exporting->n_written, "receipt").s);
    return CLI_OK;
}

enum cli_exit cmd_receipts_export(struct cli *cli)
{
    const struct option_values *values = &cli->values;
    struct exporting exporting = {.cli = cli,
        .out = cli->out,
        .flags = JSON_COMPACT | (cli->out_tty ? JSON_ENSURE_ASCII : 0)};
    struct kv_error error;

    if (values->last != 0 && values->last < values->first) {
        kv_error_set(&error, KV_INVALID,
            "--to: %" PRIu64 " given; at least --from, %" PRIu64 ", is allowed",
            values->last, values->first);
        return cli_fail_usage(cli, &error);
    }
    if (values->out_file != NULL)
        return into_file(&exporting, values->out_file);
    return export_all(&exporting);
}
