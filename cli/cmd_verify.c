/* receipts checkpoint and receipts verify: what a ledger has signed, and
 * whether its receipts are those.
 *
 *   checkpoint ─> signature ─> older checkpoint is a prefix (--old)
 *                          └─> every receipt there is, hashed ─> the same root
 *
 * Receipts that the server no longer has are stood for by the nodes that the
 * proof of the oldest one brings: they must lead to the signed root too.
 *
 * A directory is verified by verify_directory.c. */
#include <inttypes.h>
#include <string.h>

#include "base/clock.h"
#include "cli/command.h"
#include "cli/follow.h"
#include "cli/leaves.h"
#include "cli/proofs.h"
#include "cli/verify_directory.h"

struct verifying {
    struct cli *cli;
    struct merkle_hasher hasher;
    struct checkpoint_key key;
    struct checkpoint newest, old;
    bool has_old;
    struct merkle_frontier frontier;
    uint64_t first_sequence, n_read;
};

/* ---- receipts checkpoint */

static enum cli_exit print_checkpoint(struct cli *cli,
    const Kvpool__V1__Checkpoint *checkpoint, const struct checkpoint_key *key)
{
    const char *note = (const char *)checkpoint->signed_note.data;

    if (!cli_is_text(cli))
        return cli_print_message(cli, &checkpoint->base);
    if (cli->out_tty)
        text_write(cli->out, note, checkpoint->signed_note.len, TEXT_PROSE);
    else
        fwrite(note, 1, checkpoint->signed_note.len, cli->out);
    if (cli->values.key == NULL)
        cli_note(cli, "unverified key: %s", checkpoint_key_format(key).s);
    return CLI_OK;
}

enum cli_exit cmd_receipts_checkpoint(struct cli *cli)
{
    struct checkpoint_key key;
    struct checkpoint checkpoint;
    enum cli_exit code = CLI_OK;
    Kvpool__V1__GetCheckpointResponse *answer =
        proofs_get_checkpoint(cli, 0, &code);

    if (answer == NULL)
        return code;
    code = proofs_find_key(cli, answer->checkpoint, cli->values.key, &key);
    if (code == CLI_OK)
        code =
            proofs_check_checkpoint(cli, answer->checkpoint, &key, &checkpoint);
    if (code == CLI_OK)
        code = print_checkpoint(cli, answer->checkpoint, &key);
    cli_free_answer(answer);
    return code;
}

/* ---- receipts verify: an older checkpoint */

static enum cli_exit check_old(struct verifying *verifying)
{
    struct cli *cli = verifying->cli;
    const char *path = cli->values.old_file;
    struct checkpoint *old = &verifying->old;
    enum cli_exit code = proofs_take_note(cli, path, NULL, old);

    if (code != CLI_OK)
        return code;
    /* Another ledger may well have had another key: that is said first. */
    if (strcmp(old->origin, verifying->newest.origin) != 0)
        return cli_fail(cli, CLI_DAMAGED,
            "%s is of another ledger, %s; a ledger in memory is a new one at "
            "each start",
            text_name(path).s, text_name(old->origin).s);
    code = proofs_take_note(cli, path, &verifying->key, old);
    if (code != CLI_OK)
        return code;
    verifying->has_old = true;
    return proofs_check_growth(
        cli, &verifying->hasher, old, &verifying->newest);
}

/* ---- receipts verify: the receipts */

/* Takes what stands for the receipts before this one, which is the oldest. */
static enum cli_exit begin_behind(
    struct verifying *verifying, uint64_t sequence)
{
    struct cli *cli = verifying->cli;
    Kvpool__V1__GetInclusionProofRequest request =
        KVPOOL__V1__GET_INCLUSION_PROOF_REQUEST__INIT;
    Kvpool__V1__GetInclusionProofResponse *answer;
    struct merkle_path path;
    enum cli_exit code = CLI_OK;

    request.sequence = request.tree_size = sequence;
    answer = cli_call(cli, CLI_POOL_SERVICE "GetInclusionProof", &request.base,
        &kvpool__v1__get_inclusion_proof_response__descriptor, &code);
    if (answer == NULL)
        return code;
    if (!proofs_read_path(answer->hashes, answer->n_hashes, &path) ||
        !merkle_frontier_start(&verifying->frontier, sequence - 1, &path))
        code = cli_fail(cli, CLI_FAILED,
            "the server's proof of receipt %" PRIu64 " is none", sequence);
    cli_free_answer(answer);
    return code;
}

/* A ledger's origin ends with its pool_id. */
static bool is_of_ledger(
    const struct verifying *verifying, const Kvpool__V1__Receipt *receipt)
{
    const char *origin = verifying->newest.origin;
    size_t n = strlen(origin);

    return receipt->pool_id.len == 16 && n >= 32 &&
           strcmp(origin + n - 32, text_hex(receipt->pool_id.data, 16).s) == 0;
}

static enum cli_exit take_leaf(void *ctx, const Kvpool__V1__Receipt *receipt,
    const unsigned char *bytes, size_t n_bytes)
{
    struct verifying *verifying = ctx;
    struct cli *cli = verifying->cli;
    struct merkle_hash leaf;
    enum cli_exit code = CLI_OK;

    if (verifying->n_read++ == 0) {
        verifying->first_sequence = receipt->sequence;
        if (receipt->sequence > 1)
            code = begin_behind(verifying, receipt->sequence);
    }
    if (code != CLI_OK)
        return code;
    if (!is_of_ledger(verifying, receipt))
        return cli_fail(cli, CLI_DAMAGED,
            "receipt %" PRIu64 " is of ledger %s, the checkpoint of %s",
            receipt->sequence,
            text_hex(receipt->pool_id.data, receipt->pool_id.len).s,
            text_name(verifying->newest.origin).s);
    if (!merkle_hash_leaf(&verifying->hasher, bytes, n_bytes, &leaf) ||
        !merkle_frontier_append(
            &verifying->hasher, &verifying->frontier, &leaf))
        return proofs_fail_memory(cli);
    cli_progress(cli, "receipt %" PRIu64, receipt->sequence);
    return CLI_OK;
}

static enum cli_exit check_receipts(struct verifying *verifying)
{
    struct cli *cli = verifying->cli;
    const struct checkpoint *newest = &verifying->newest;
    struct leaves leaves = {.cli = cli,
        .last = newest->tree_size,
        .take = take_leaf,
        .ctx = verifying};
    struct merkle_hash root;
    enum cli_exit code = CLI_OK;

    if (newest->tree_size > 0)
        code = leaves_read(&leaves);
    cli_progress_clear(cli);
    if (code != CLI_OK)
        return code;
    if (!merkle_frontier_root(&verifying->hasher, &verifying->frontier, &root))
        return proofs_fail_memory(cli);
    if (verifying->frontier.n_leaves != newest->tree_size ||
        !merkle_hash_equal(&root, &newest->root))
        return cli_fail(cli, CLI_DAMAGED,
            "receipts %" PRIu64 " to %" PRIu64
            " are not those of the signed checkpoint",
            verifying->first_sequence, newest->tree_size);
    return CLI_OK;
}

/* ---- receipts verify: the verdict */

static void print_words(const struct verifying *verifying)
{
    const struct cli *cli = verifying->cli;
    const struct checkpoint *newest = &verifying->newest;

    if (newest->tree_size == 0)
        fprintf(cli->out, "there are no receipts yet, as signed\n");
    else
        fprintf(cli->out,
            "receipts %" PRIu64 " to %" PRIu64 " are those of the signed "
            "checkpoint of %s\n",
            verifying->first_sequence, newest->tree_size,
            text_name(newest->origin).s);
    if (verifying->first_sequence > 1)
        fprintf(cli->out,
            "receipts 1 to %" PRIu64 " are no longer there to be looked at\n",
            verifying->first_sequence - 1);
    if (verifying->has_old)
        fprintf(cli->out,
            "nothing was changed since the older checkpoint of %s\n",
            text_count(verifying->old.tree_size, "receipt").s);
    proofs_print_key(verifying->cli, &verifying->key);
}

static enum cli_exit print_verdict(const struct verifying *verifying)
{
    struct cli *cli = verifying->cli;
    const struct checkpoint *newest = &verifying->newest;
    json_t *json;

    if (cli_is_text(cli)) {
        print_words(verifying);
        return CLI_OK;
    }
    json = json_pack("{s:b, s:s, s:I, s:I, s:s, s:b}", "verified", 1, "origin",
        newest->origin, "tree_size", (json_int_t)newest->tree_size,
        "first_sequence", (json_int_t)verifying->first_sequence, "key",
        checkpoint_key_format(&verifying->key).s, "key_given",
        cli->values.key != NULL);
    if (json != NULL && verifying->has_old &&
        json_object_set_new(json, "old_tree_size",
            json_integer((json_int_t)verifying->old.tree_size)) != 0) {
        json_decref(json);
        json = NULL;
    }
    return cli_print_json(cli, json);
}

/* ---- receipts verify */

static enum cli_exit take_newest(struct verifying *verifying)
{
    struct cli *cli = verifying->cli;
    Kvpool__V1__GetCheckpointResponse *answer;
    uint64_t end = 0;
    enum cli_exit code = follow_end(cli, &end);

    if (code != CLI_OK)
        return code;
    answer = proofs_get_checkpoint(cli, end, &code);
    if (answer == NULL)
        return code;
    code = proofs_find_key(
        cli, answer->checkpoint, cli->values.key, &verifying->key);
    if (code == CLI_OK)
        code = proofs_check_checkpoint(
            cli, answer->checkpoint, &verifying->key, &verifying->newest);
    if (code == CLI_OK && verifying->newest.tree_size < end)
        code = cli_fail(cli, CLI_FAILED,
            "the checkpoint has %" PRIu64
            " receipts, and was to cover %" PRIu64,
            verifying->newest.tree_size, end);
    cli_free_answer(answer);
    return code;
}

static enum cli_exit verify_server(struct cli *cli)
{
    struct verifying verifying = {.cli = cli};
    int64_t start_ns = kv_clock_mono_ns();
    enum cli_exit code;

    if (merkle_hasher_init(&verifying.hasher) != KV_OK)
        return proofs_fail_memory(cli);
    code = take_newest(&verifying);
    if (code == CLI_OK && cli->values.old_file != NULL)
        code = check_old(&verifying);
    if (code == CLI_OK)
        code = check_receipts(&verifying);
    if (code == CLI_OK)
        code = print_verdict(&verifying);
    if (code == CLI_OK)
        proofs_tell_speed(cli, verifying.n_read, start_ns);
    merkle_hasher_fini(&verifying.hasher);
    return code;
}

/* ---- receipts verify --old --new: two checkpoints, a server's proof */

/* The key that was given; else the server's word. */
static enum cli_exit choose_key(struct cli *cli, struct checkpoint_key *key)
{
    Kvpool__V1__GetCheckpointResponse *answer;
    enum cli_exit code = CLI_OK;

    if (cli->values.key != NULL)
        return proofs_find_key(cli, NULL, cli->values.key, key);
    answer = proofs_get_checkpoint(cli, 0, &code);
    if (answer == NULL)
        return code;
    code = proofs_find_key(cli, answer->checkpoint, NULL, key);
    cli_free_answer(answer);
    return code;
}

static enum cli_exit verify_two(struct cli *cli)
{
    struct merkle_hasher hasher;
    struct checkpoint_key key;
    struct checkpoint old, newer;
    enum cli_exit code = choose_key(cli, &key);

    if (code == CLI_OK)
        code = proofs_take_two(cli, &key, &old, &newer);
    if (code != CLI_OK)
        return code;
    if (merkle_hasher_init(&hasher) != KV_OK)
        return proofs_fail_memory(cli);
    code = proofs_check_growth(cli, &hasher, &old, &newer);
    merkle_hasher_fini(&hasher);
    if (code != CLI_OK)
        return code;
    return proofs_print_growth(cli, &old, &newer, &key);
}

/* ---- receipts verify: which of them */

static enum cli_exit check_options(struct cli *cli)
{
    const struct option_values *values = &cli->values;
    struct kv_error error;

    if (values->old_file != NULL ||
        (values->new_file == NULL && values->witness_key == NULL))
        return CLI_OK;
    kv_error_set(&error, KV_INVALID, "%s is given without --old",
        values->new_file != NULL ? "--new" : "--witness-key");
    return cli_fail_usage(cli, &error);
}

enum cli_exit cmd_receipts_verify(struct cli *cli)
{
    enum cli_exit code = check_options(cli);

    if (code != CLI_OK)
        return code;
    if (cli->values.n_arguments > 0)
        return verify_directory_run(cli, cli->values.arguments[0]);
    return cli->values.new_file != NULL ? verify_two(cli) : verify_server(cli);
}
