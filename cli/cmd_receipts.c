/* receipts tail and receipts audit. */
#include <errno.h>
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

#include "base/heap.h"
#include "cli/command.h"
#include "cli/directory.h"
#include "cli/follow.h"
#include "cli/proto_json.h"
#include "cli/receipt_filter.h"
#include "cli/receipt_text.h"
#include "cli/view.h"
#include "receipts/audit.h"
#include "receipts/json.h"

/* ---- tail */

static enum cli_exit print_receipt(
    void *ctx, const Kvpool__V1__Receipt *receipt)
{
    struct cli *cli = ctx;

    if (!cli_is_text(cli))
        return cli_list_item(cli, receipt_to_json(receipt));
    receipt_text_write(cli->out, receipt);
    fputc('\n', cli->out);
    return CLI_OK;
}

/* {"event": name, ...} of what is no receipt. */
static enum cli_exit print_event(
    struct cli *cli, const char *name, const ProtobufCMessage *message)
{
    json_t *rest = proto_to_json(message);
    json_t *json = json_pack("{s:s}", "event", name);

    if (json != NULL && (rest == NULL || json_object_update(json, rest) != 0)) {
        json_decref(json);
        json = NULL;
    }
    json_decref(rest);
    return cli_list_item(cli, json);
}

static enum cli_exit print_state(
    void *ctx, const Kvpool__V1__SnapshotChunk *part)
{
    struct cli *cli = ctx;
    struct table table;
    enum kv_status status;

    if (!cli_is_text(cli))
        return print_event(cli, "state", &part->base);
    if (part->index == 0)
        view_snapshot(cli->out, part->snapshot);
    view_sessions_begin(&table);
    for (size_t i = 0; i < part->snapshot->n_sessions; i++)
        view_sessions_add(&table, part->snapshot->sessions[i]);
    status = table_flush(&table, cli->out);
    table_fini(&table);
    return status == KV_OK ? CLI_OK
                           : cli_fail(cli, CLI_FAILED, "out of memory");
}

static enum cli_exit print_gap(void *ctx, const Kvpool__V1__Gap *gap)
{
    struct cli *cli = ctx;

    cli_note(cli, "the server left out receipts %" PRIu64 " to %" PRIu64,
        gap->first_sequence, gap->last_sequence);
    return cli_is_text(cli) ? CLI_OK : print_event(cli, "gap", &gap->base);
}

enum cli_exit cmd_receipts_tail(struct cli *cli)
{
    const struct option_values *values = &cli->values;
    struct follower follower = {.cli = cli,
        .max_batch = (uint32_t)values->max_batch,
        .n_left = values->limit != 0 ? values->limit : UINT64_MAX,
        .last = UINT64_MAX,
        .no_reconnect = values->no_reconnect,
        .take = print_receipt,
        .take_state = print_state,
        .take_gap = print_gap,
        .ctx = cli};
    struct receipt_filter filter;
    struct kv_error error;
    enum cli_exit code;

    if (tail_start(&follower.tail,
            values->from != NULL ? values->from : "latest", &error) != KV_OK ||
        receipt_filter_fill(&filter, values, &error) != KV_OK)
        return cli_fail_usage(cli, &error);
    follower.tail.filter = filter.is_set ? &filter.message : NULL;
    follower.tail.lossy = values->lossy;
    cli_list_begin(cli);
    code = follow_receipts(&follower);
    cli_list_end(cli);
    return code;
}

/* ---- audit */

struct auditing {
    struct cli *cli;
    struct audit audit;
    uint64_t first_sequence, n_read;
    bool failed; /* error says where and why */
    struct kv_error error;
};

static enum cli_exit audit_receipt(
    void *ctx, const Kvpool__V1__Receipt *receipt)
{
    struct auditing *auditing = ctx;

    if (auditing->n_read++ == 0)
        auditing->first_sequence = receipt->sequence;
    if (audit_add(&auditing->audit, receipt, &auditing->error) != KV_OK) {
        auditing->failed = true;
        return CLI_FAILED;
    }
    cli_progress(auditing->cli, "receipt %" PRIu64, receipt->sequence);
    return CLI_OK;
}

/* One line of a file. */
static enum cli_exit audit_line(struct auditing *auditing, const char *line,
    size_t n_line, uint64_t n_lines)
{
    struct cli *cli = auditing->cli;
    Kvpool__V1__Receipt *receipt;
    json_error_t where;
    struct kv_error error;
    json_t *json = json_loadb(line, n_line, JSON_REJECT_DUPLICATES, &where);
    enum cli_exit code;

    if (json == NULL)
        return cli_fail(cli, CLI_FAILED, "%s: line %" PRIu64 ": no JSON: %s",
            text_name(cli->values.file).s, n_lines, text_name(where.text).s);
    if (receipt_from_json(json, &receipt, &error) != KV_OK) {
        json_decref(json);
        return cli_fail(cli, CLI_FAILED, "%s: line %" PRIu64 ": %s",
            text_name(cli->values.file).s, n_lines, text_name(error.text).s);
    }
    json_decref(json);
    code = audit_receipt(auditing, receipt);
    kvpool__v1__receipt__free_unpacked(receipt, NULL);
    return code;
}

static enum cli_exit audit_stream(struct auditing *auditing, FILE *in)
{
    enum cli_exit code = CLI_OK;
    uint64_t n_lines = 0;
    size_t capacity = 0;
    char *line = NULL;

    while (code == CLI_OK) {
        ssize_t n = getline(&line, &capacity, in);

        if (n < 0)
            break;
        n_lines++;
        if (strspn(line, " \t\r\n") != (size_t)n)
            code = audit_line(auditing, line, (size_t)n, n_lines);
    }
    free(line); /* getline's, which knows only libc */
    if (code == CLI_OK && ferror(in))
        code = cli_fail(auditing->cli, CLI_FAILED, "%s: cannot be read",
            text_name(auditing->cli->values.file).s);
    return code;
}

static enum cli_exit audit_file(struct auditing *auditing)
{
    struct cli *cli = auditing->cli;
    const char *path = cli->values.file;
    enum cli_exit code;
    FILE *in;

    if (strcmp(path, "-") == 0)
        return audit_stream(auditing, cli->in);
    in = fopen(path, "re");
    if (in == NULL)
        return cli_fail(
            cli, CLI_FAILED, "%s: %s", text_name(path).s, strerror(errno));
    code = audit_stream(auditing, in);
    fclose(in);
    return code;
}

static enum cli_exit audit_server(struct auditing *auditing)
{
    struct follower follower = {.cli = auditing->cli,
        .max_batch = (uint32_t)auditing->cli->values.max_batch,
        .n_left = UINT64_MAX,
        .take = audit_receipt,
        .ctx = auditing};
    enum cli_exit code = follow_end(auditing->cli, &follower.last);
    struct kv_error error;

    if (code != CLI_OK || follower.last == 0)
        return code;
    if (tail_start(&follower.tail, "earliest", &error) != KV_OK)
        return cli_fail_usage(auditing->cli, &error);
    return follow_receipts(&follower);
}

static enum cli_exit audit_directory(struct auditing *auditing)
{
    struct cli *cli = auditing->cli;
    char *path = directory_of_receipts(cli, cli->values.arguments[0]);
    struct directory_reader reader = {.cli = cli,
        .path = path,
        .last = UINT64_MAX,
        .take = audit_receipt,
        .ctx = auditing};
    enum cli_exit code = path != NULL ? directory_read(&reader) : CLI_FAILED;

    kv_free(path);
    return code;
}

static enum cli_exit audit_all(struct auditing *auditing)
{
    const struct option_values *values = &auditing->cli->values;
    struct kv_error error;

    if (values->n_arguments > 0 && values->file != NULL) {
        kv_error_set(&error, KV_INVALID,
            "--file and a directory are given; one of them is allowed");
        return cli_fail_usage(auditing->cli, &error);
    }
    if (values->n_arguments > 0)
        return audit_directory(auditing);
    return values->file != NULL ? audit_file(auditing) : audit_server(auditing);
}

static enum cli_exit print_verdict(const struct auditing *auditing)
{
    const struct audit *audit = &auditing->audit;
    struct cli *cli = auditing->cli;

    if (!cli_is_text(cli))
        return cli_print_json(
            cli, json_pack("{s:b, s:I, s:I, s:I, s:I, s:I, s:I, s:I, s:I, s:I,"
                           " s:s}",
                     "adds_up", !auditing->failed, "first_sequence",
                     (json_int_t)auditing->first_sequence, "last_sequence",
                     (json_int_t)audit->last_sequence, "receipts",
                     (json_int_t)audit->n_receipts, "evictions",
                     (json_int_t)audit->n_evictions, "batches",
                     (json_int_t)audit->n_batches, "snapshots",
                     (json_int_t)audit->n_snapshots, "allocations",
                     (json_int_t)audit->n_allocations, "releases",
                     (json_int_t)audit->n_releases, "recomputations",
                     (json_int_t)audit->n_recomputations, "detail",
                     auditing->failed ? auditing->error.text : ""));
    if (auditing->failed)
        return CLI_OK;
    fprintf(cli->out, "receipts %" PRIu64 " to %" PRIu64 " add up: %s, %s, %s",
        auditing->first_sequence, audit->last_sequence,
        text_count(audit->n_evictions, "eviction").s,
        text_count(audit->n_batches, "batch").s,
        text_count(audit->n_snapshots, "snapshot").s);
    if (audit->n_recomputations > 0)
        fprintf(cli->out, ", %s",
            text_count(audit->n_recomputations, "recomputation").s);
    if (audit->n_allocations > 0)
        fprintf(cli->out, ", %s, %s; %s in use",
            text_count(audit->n_allocations, "allocation").s,
            text_count(audit->n_releases, "release").s,
            text_count(replay_used_blocks(audit->replay), "block").s);
    fputc('\n', cli->out);
    return CLI_OK;
}

static enum cli_exit audit_and_print(struct auditing *auditing)
{
    struct cli *cli = auditing->cli;
    enum cli_exit code = audit_all(auditing);

    cli_progress_clear(cli);
    if (auditing->failed)
        cli_fail(cli, CLI_FAILED, "%s", auditing->error.text);
    else if (code != CLI_OK)
        return code;
    if (auditing->n_read == 0) {
        cli_note(cli, "there are no receipts yet");
        return CLI_OK;
    }
    if (print_verdict(auditing) != CLI_OK)
        return CLI_FAILED;
    return auditing->failed ? CLI_FAILED : CLI_OK;
}

enum cli_exit cmd_receipts_audit(struct cli *cli)
{
    struct auditing auditing = {.cli = cli};
    enum cli_exit code;

    if (audit_init(&auditing.audit) == KV_OK)
        code = audit_and_print(&auditing);
    else
        code = cli_fail(cli, CLI_FAILED, "no memory for an audit");
    audit_fini(&auditing.audit);
    return code;
}
