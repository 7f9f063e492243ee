/* receipts checkpoint and receipts verify: what a ledger has signed, and
 * whether its receipts are those.
 *
 *   checkpoint ─> signature ─> older checkpoint is a prefix (--old)
 *                          └─> every receipt there is, hashed ─> the same root
 *
 * Receipts that the server no longer has are stood for by the nodes that the
 * proof of the oldest one brings: they must lead to the signed root too. */
#include <errno.h>
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

#include "cli/command.h"
#include "cli/follow.h"
#include "cli/leaves.h"
#include "kvpool/v1/pool_service.pb-c.h"
#include "receipts/checkpoint.h"

struct verifying {
    struct cli *cli;
    struct merkle_hasher hasher;
    struct checkpoint_key key;
    struct checkpoint newest, old;
    bool has_old;
    struct merkle_frontier frontier;
    uint64_t first_sequence, n_read;
};

/* ---- the key, and checkpoints */

static enum cli_exit fail_memory(struct cli *cli)
{
    return cli_fail(cli, CLI_FAILED, "out of memory");
}

/* The key that was given; else the server's own, which proves less. */
static enum cli_exit find_key(struct cli *cli,
    const Kvpool__V1__Checkpoint *checkpoint, struct checkpoint_key *out)
{
    const char *given = cli->values.key;
    struct kv_error error, cause;

    if (checkpoint_key_parse(
            out, given != NULL ? given : checkpoint->key, &cause) == KV_OK)
        return CLI_OK;
    if (given == NULL)
        return cli_fail(
            cli, CLI_FAILED, "the server's key: %s", text_name(cause.text).s);
    kv_error_set(&error, KV_INVALID, "--key: %s", cause.text);
    return cli_fail_usage(cli, &error);
}

/* A new checkpoint that covers this receipt. NULL: said why. */
static Kvpool__V1__GetCheckpointResponse *get_checkpoint(
    struct cli *cli, uint64_t covering_sequence, enum cli_exit *code)
{
    Kvpool__V1__GetCheckpointRequest request =
        KVPOOL__V1__GET_CHECKPOINT_REQUEST__INIT;
    Kvpool__V1__GetCheckpointResponse *answer;

    request.covering_sequence = covering_sequence;
    answer = cli_call(cli, CLI_POOL_SERVICE "GetCheckpoint", &request.base,
        &kvpool__v1__get_checkpoint_response__descriptor, code);
    if (answer != NULL && answer->checkpoint == NULL) {
        *code = cli_fail(cli, CLI_FAILED, "the server has no checkpoint");
        cli_free_answer(answer);
        return NULL;
    }
    return answer;
}

static enum cli_exit check_checkpoint(struct cli *cli,
    const Kvpool__V1__Checkpoint *checkpoint, struct checkpoint_key *key,
    struct checkpoint *out)
{
    enum cli_exit code = find_key(cli, checkpoint, key);
    struct kv_error error;

    if (code == CLI_OK &&
        checkpoint_verify(checkpoint->signed_note.data,
            checkpoint->signed_note.len, key, out, &error) != KV_OK)
        code = cli_fail(cli, CLI_FAILED, "the server's checkpoint: %s",
            text_name(error.text).s);
    return code;
}

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
    Kvpool__V1__GetCheckpointResponse *answer = get_checkpoint(cli, 0, &code);

    if (answer == NULL)
        return code;
    code = check_checkpoint(cli, answer->checkpoint, &key, &checkpoint);
    if (code == CLI_OK)
        code = print_checkpoint(cli, answer->checkpoint, &key);
    cli_free_answer(answer);
    return code;
}

/* ---- receipts verify: an older checkpoint */

/* Up to CHECKPOINT_MAX_NOTE_BYTES and one more, which is too much. */
static enum cli_exit read_note(
    struct cli *cli, const char *path, char *note, size_t *n_bytes)
{
    FILE *in = fopen(path, "re");
    bool failed;

    if (in == NULL)
        return cli_fail(
            cli, CLI_FAILED, "%s: %s", text_name(path).s, strerror(errno));
    *n_bytes = fread(note, 1, CHECKPOINT_MAX_NOTE_BYTES + 1, in);
    failed = ferror(in) != 0;
    fclose(in);
    return failed ? cli_fail(cli, CLI_FAILED, "%s: cannot be read",
                        text_name(path).s)
                  : CLI_OK;
}

static enum cli_exit take_old(struct verifying *verifying)
{
    struct cli *cli = verifying->cli;
    const char *path = cli->values.old_file;
    char note[CHECKPOINT_MAX_NOTE_BYTES + 1];
    struct checkpoint *old = &verifying->old;
    struct kv_error error;
    size_t n_bytes = 0;
    enum cli_exit code = read_note(cli, path, note, &n_bytes);

    if (code != CLI_OK)
        return code;
    /* Another ledger may well have had another key: that is said first. */
    if (checkpoint_parse(note, n_bytes, old, &error) == KV_OK &&
        strcmp(old->origin, verifying->newest.origin) != 0)
        return cli_fail(cli, CLI_FAILED,
            "%s is of another ledger, %s; a ledger in memory is a new one at "
            "each start",
            text_name(path).s, text_name(old->origin).s);
    if (checkpoint_verify(note, n_bytes, &verifying->key, old, &error) != KV_OK)
        return cli_fail(cli, CLI_FAILED, "%s: %s", text_name(path).s,
            text_name(error.text).s);
    verifying->has_old = true;
    return CLI_OK;
}

/* Hashes as they came; false: they are none, or too many. */
static bool read_path(
    const ProtobufCBinaryData *hashes, size_t n, struct merkle_path *out)
{
    if (n > MERKLE_MAX_PATH)
        return false;
    for (out->n = 0; out->n < n; out->n++) {
        if (hashes[out->n].len != MERKLE_HASH_BYTES)
            return false;
        memcpy(
            out->hashes[out->n].bytes, hashes[out->n].data, MERKLE_HASH_BYTES);
    }
    return true;
}

static enum cli_exit check_growth(struct verifying *verifying)
{
    struct cli *cli = verifying->cli;
    const struct checkpoint *old = &verifying->old;
    const struct checkpoint *newest = &verifying->newest;
    Kvpool__V1__GetConsistencyProofRequest request =
        KVPOOL__V1__GET_CONSISTENCY_PROOF_REQUEST__INIT;
    Kvpool__V1__GetConsistencyProofResponse *answer;
    struct merkle_path path;
    enum cli_exit code = CLI_OK;

    request.first_tree_size = old->tree_size;
    request.second_tree_size = newest->tree_size;
    answer =
        cli_call(cli, CLI_POOL_SERVICE "GetConsistencyProof", &request.base,
            &kvpool__v1__get_consistency_proof_response__descriptor, &code);
    if (answer == NULL)
        return code;
    if (!read_path(answer->hashes, answer->n_hashes, &path) ||
        !merkle_verify_consistency(&verifying->hasher, old->tree_size,
            newest->tree_size, &path, &old->root, &newest->root))
        code = cli_fail(cli, CLI_FAILED,
            "the ledger was rewritten: its first %" PRIu64
            " receipts are not those of the older checkpoint",
            old->tree_size);
    cli_free_answer(answer);
    return code;
}

static enum cli_exit check_old(struct verifying *verifying)
{
    struct cli *cli = verifying->cli;
    enum cli_exit code = take_old(verifying);

    if (code != CLI_OK)
        return code;
    if (verifying->old.tree_size > verifying->newest.tree_size)
        return cli_fail(cli, CLI_FAILED,
            "the ledger was set back: it has %" PRIu64
            " receipts, and had %" PRIu64,
            verifying->newest.tree_size, verifying->old.tree_size);
    return verifying->old.tree_size > 0 ? check_growth(verifying) : CLI_OK;
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
    if (!read_path(answer->hashes, answer->n_hashes, &path) ||
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
        return cli_fail(cli, CLI_FAILED,
            "receipt %" PRIu64 " is of ledger %s, the checkpoint of %s",
            receipt->sequence,
            text_hex(receipt->pool_id.data, receipt->pool_id.len).s,
            text_name(verifying->newest.origin).s);
    if (!merkle_hash_leaf(&verifying->hasher, bytes, n_bytes, &leaf) ||
        !merkle_frontier_append(
            &verifying->hasher, &verifying->frontier, &leaf))
        return fail_memory(cli);
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
        return fail_memory(cli);
    if (verifying->frontier.n_leaves != newest->tree_size ||
        !merkle_hash_equal(&root, &newest->root))
        return cli_fail(cli, CLI_FAILED,
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
    struct checkpoint_key_text key = checkpoint_key_format(&verifying->key);

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
            "nothing was changed since the older checkpoint of %" PRIu64
            " receipts\n",
            verifying->old.tree_size);
    fputs(
        cli->values.key != NULL ? "signed by: " : "unverified key: ", cli->out);
    text_write(cli->out, key.s, strlen(key.s), TEXT_NAME);
    fputc('\n', cli->out);
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
    answer = get_checkpoint(cli, end, &code);
    if (answer == NULL)
        return code;
    code = check_checkpoint(
        cli, answer->checkpoint, &verifying->key, &verifying->newest);
    if (code == CLI_OK && verifying->newest.tree_size < end)
        code = cli_fail(cli, CLI_FAILED,
            "the checkpoint has %" PRIu64
            " receipts, and was to cover %" PRIu64,
            verifying->newest.tree_size, end);
    cli_free_answer(answer);
    return code;
}

enum cli_exit cmd_receipts_verify(struct cli *cli)
{
    struct verifying verifying = {.cli = cli};
    enum cli_exit code;

    if (merkle_hasher_init(&verifying.hasher) != KV_OK)
        return fail_memory(cli);
    code = take_newest(&verifying);
    if (code == CLI_OK && cli->values.old_file != NULL)
        code = check_old(&verifying);
    if (code == CLI_OK)
        code = check_receipts(&verifying);
    if (code == CLI_OK)
        code = print_verdict(&verifying);
    merkle_hasher_fini(&verifying.hasher);
    return code;
}
