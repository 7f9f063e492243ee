#include "cli/verify_directory.h"

#include <inttypes.h>
#include <string.h>

#include "base/clock.h"
#include "base/heap.h"
#include "cli/directory.h"
#include "cli/proofs.h"
#include "receipts/verify.h"

/* NULL where none was given: then signatures are not looked at. */
static enum cli_exit choose_key(struct cli *cli, struct checkpoint_key *memory,
    const struct checkpoint_key **key)
{
    *key = cli->values.key != NULL ? memory : NULL;
    return *key != NULL ? proofs_find_key(cli, NULL, cli->values.key, memory)
                        : CLI_OK;
}

/* ---- two checkpoints */

static enum cli_exit prove_growth(struct cli *cli, struct merkle *tree,
    const struct checkpoint *old, const struct checkpoint *newer)
{
    struct merkle_path path;
    struct merkle_hasher hasher;
    bool is_proven;

    if (newer->tree_size > merkle_size(tree))
        return cli_fail(cli, CLI_DAMAGED,
            "the tree has %s, and the checkpoint %" PRIu64,
            text_count(merkle_size(tree), "receipt").s, newer->tree_size);
    if (merkle_hasher_init(&hasher) != KV_OK)
        return proofs_fail_memory(cli);
    is_proven = merkle_prove_consistency(
                    tree, old->tree_size, newer->tree_size, &path) &&
                merkle_verify_consistency(&hasher, old->tree_size,
                    newer->tree_size, &path, &old->root, &newer->root);
    merkle_hasher_fini(&hasher);
    if (is_proven)
        return CLI_OK;
    return cli_fail(cli, CLI_DAMAGED,
        "the directory's tree does not lead from the one checkpoint to the "
        "other%s",
        merkle_damage(tree) != KV_OK ? ": it is damaged" : "");
}

static enum cli_exit compare_two(struct cli *cli, const char *dir,
    const struct checkpoint *old, const struct checkpoint *newer)
{
    size_t n_path = strlen(dir) + sizeof "/tree";
    struct merkle tree;
    struct kv_error error;
    enum kv_status status;
    enum cli_exit code;
    char *path;

    if (proofs_compare(cli, old, newer, &code))
        return code;
    path = kv_calloc(n_path, 1);
    if (path == NULL)
        return proofs_fail_memory(cli);
    snprintf(path, n_path, "%s/tree", dir);
    status = merkle_view_file(&tree, path, &error);
    kv_free(path);
    if (status != KV_OK)
        return cli_fail(cli, status == KV_DATA_LOSS ? CLI_DAMAGED : CLI_FAILED,
            "%s", text_name(error.text).s);
    code = prove_growth(cli, &tree, old, newer);
    merkle_fini(&tree);
    return code;
}

static enum cli_exit verify_two(
    struct cli *cli, const char *dir, const struct checkpoint_key *key)
{
    struct checkpoint old, newer;
    enum cli_exit code = proofs_take_two(cli, key, &old, &newer);

    if (code == CLI_OK)
        code = compare_two(cli, dir, &old, &newer);
    return code == CLI_OK ? proofs_print_growth(cli, &old, &newer, key) : code;
}

/* ---- all receipts */

static bool on_progress(void *ctx, uint64_t sequence)
{
    struct cli *cli = ctx;

    cli_progress(cli, "receipt %" PRIu64, sequence);
    return !interrupt_seen(cli->interrupt);
}

static void print_words(struct cli *cli, const struct verify_report *report,
    const struct checkpoint_key *key)
{
    uint64_t n_signed = report->newest.tree_size;
    struct checkpoint_origin origin = checkpoint_origin_of(report->pool_id);

    if (report->last_sequence == 0)
        fprintf(cli->out, "%s has no receipts yet\n", origin.s);
    else if (n_signed == 0)
        fprintf(cli->out, "%s has no checkpoint yet\n", origin.s);
    else
        fprintf(cli->out,
            "receipts %" PRIu64 " to %" PRIu64 " are those of %s of %s\n",
            report->first_sequence, n_signed,
            text_count(report->n_checkpoints, "signed checkpoint").s, origin.s);
    if (report->last_sequence > n_signed)
        fprintf(cli->out,
            "receipts %" PRIu64 " to %" PRIu64 " are not signed yet\n",
            n_signed + 1, report->last_sequence);
    if (report->first_sequence > 1)
        fprintf(cli->out,
            "receipts 1 to %" PRIu64
            " are no longer there to be looked at; their hashes are\n",
            report->first_sequence - 1);
    if (cli->values.old_file != NULL)
        fputs("nothing was changed since the older checkpoint\n", cli->out);
    proofs_print_key(cli, key);
}

static enum cli_exit print_verdict(struct cli *cli,
    const struct verify_report *report, const struct checkpoint_key *key)
{
    if (report->n_tree_leaves > report->last_sequence)
        cli_note(cli,
            "the tree has hashes of %s, and the last that is there is %" PRIu64
            ": those between were lost, by a crash of a server that had told "
            "nobody of them, or by somebody's hand",
            text_count(report->n_tree_leaves, "receipt").s,
            report->last_sequence);
    if (report->old_is_newest)
        cli_note(cli,
            "the newest checkpoint that is kept is of %s, the older one from "
            "elsewhere of more: later ones were not written yet, or taken away",
            text_count(report->newest.tree_size, "receipt").s);
    if (cli_is_text(cli)) {
        print_words(cli, report, key);
        return CLI_OK;
    }
    return cli_print_json(
        cli, json_pack("{s:b, s:s, s:I, s:I, s:I, s:I, s:b}", "verified", 1,
                 "origin", checkpoint_origin_of(report->pool_id).s, "tree_size",
                 (json_int_t)report->newest.tree_size, "first_sequence",
                 (json_int_t)report->first_sequence, "last_sequence",
                 (json_int_t)report->last_sequence, "checkpoints",
                 (json_int_t)report->n_checkpoints, "key_given", key != NULL));
}

static enum cli_exit exit_of(enum kv_status status)
{
    switch (status) {
    case KV_DATA_LOSS:
        return CLI_DAMAGED;
    case KV_CLOSED:
        return CLI_INTERRUPTED;
    default:
        return CLI_FAILED;
    }
}

static enum cli_exit verify_all(
    struct cli *cli, const char *dir, const struct checkpoint_key *key)
{
    struct verify_request request = {
        .dir = dir, .key = key, .on_progress = on_progress, .ctx = cli};
    int64_t start_ns = kv_clock_mono_ns();
    struct verify_report report;
    struct checkpoint old;
    struct kv_error error;
    enum kv_status status;
    enum cli_exit code = CLI_OK;

    if (cli->values.old_file != NULL) {
        code = proofs_take_note(cli, cli->values.old_file, key, &old);
        request.old = &old;
    }
    if (code != CLI_OK)
        return code;
    status = verify_directory(&request, &report, &error);
    cli_progress_clear(cli);
    if (status != KV_OK && status != KV_CLOSED)
        cli_fail(cli, exit_of(status), "%s", text_name(error.text).s);
    if (status != KV_OK)
        return exit_of(status);
    proofs_tell_speed(
        cli, report.last_sequence + 1 - report.first_sequence, start_ns);
    return print_verdict(cli, &report, key);
}

enum cli_exit verify_directory_run(struct cli *cli, const char *path)
{
    struct checkpoint_key memory;
    const struct checkpoint_key *key;
    enum cli_exit code = choose_key(cli, &memory, &key);
    char *dir;

    if (code != CLI_OK)
        return code;
    dir = directory_of_receipts(cli, path);
    if (dir == NULL)
        return CLI_FAILED;
    code = cli->values.new_file != NULL ? verify_two(cli, dir, key)
                                        : verify_all(cli, dir, key);
    kv_free(dir);
    return code;
}
