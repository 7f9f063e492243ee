#include "cli/proofs.h"

#include <errno.h>
#include <inttypes.h>
#include <string.h>

#include "base/clock.h"
#include "receipts/cosignature.h"

enum cli_exit proofs_fail_memory(struct cli *cli)
{
    return cli_fail(cli, CLI_FAILED, "out of memory");
}

/* ---- checkpoints */

Kvpool__V1__GetCheckpointResponse *proofs_get_checkpoint(
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

enum cli_exit proofs_find_key(struct cli *cli,
    const Kvpool__V1__Checkpoint *checkpoint, const char *given,
    struct checkpoint_key *out)
{
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

enum cli_exit proofs_check_checkpoint(struct cli *cli,
    const Kvpool__V1__Checkpoint *checkpoint, const struct checkpoint_key *key,
    struct checkpoint *out)
{
    struct kv_error error;

    if (checkpoint_verify(checkpoint->signed_note.data,
            checkpoint->signed_note.len, key, out, &error) == KV_OK)
        return CLI_OK;
    return cli_fail(cli, CLI_DAMAGED, "the server's checkpoint: %s",
        text_name(error.text).s);
}

/* ---- checkpoints in files */

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

static enum cli_exit check_witness(
    struct cli *cli, const char *path, const char *note, size_t n_bytes)
{
    struct checkpoint_key witness;
    struct kv_error error, cause;
    uint64_t time_s;

    if (cli->values.witness_key == NULL)
        return CLI_OK;
    if (cosignature_key_parse(&witness, cli->values.witness_key, &cause) !=
        KV_OK) {
        kv_error_set(&error, KV_INVALID, "--witness-key: %s", cause.text);
        return cli_fail_usage(cli, &error);
    }
    if (cosignature_verify(note, n_bytes, &witness, &time_s, &error) == KV_OK)
        return CLI_OK;
    return cli_fail(
        cli, CLI_DAMAGED, "%s: %s", text_name(path).s, text_name(error.text).s);
}

enum cli_exit proofs_take_note(struct cli *cli, const char *path,
    const struct checkpoint_key *key, struct checkpoint *out)
{
    char note[CHECKPOINT_MAX_NOTE_BYTES + 1];
    size_t n_bytes = 0;
    struct kv_error error;
    enum kv_status status;
    enum cli_exit code = read_note(cli, path, note, &n_bytes);

    if (code != CLI_OK)
        return code;
    status = key != NULL ? checkpoint_verify(note, n_bytes, key, out, &error)
                         : checkpoint_parse(note, n_bytes, out, &error);
    if (status != KV_OK)
        return cli_fail(cli, CLI_DAMAGED, "%s: %s", text_name(path).s,
            text_name(error.text).s);
    return check_witness(cli, path, note, n_bytes);
}

enum cli_exit proofs_take_two(struct cli *cli, const struct checkpoint_key *key,
    struct checkpoint *old, struct checkpoint *newer)
{
    enum cli_exit code = proofs_take_note(cli, cli->values.old_file, key, old);

    if (code == CLI_OK)
        code = proofs_take_note(cli, cli->values.new_file, key, newer);
    if (code == CLI_OK && strcmp(old->origin, newer->origin) != 0)
        return cli_fail(cli, CLI_DAMAGED,
            "the two checkpoints are of different ledgers, %s and %s",
            text_name(old->origin).s, text_name(newer->origin).s);
    return code;
}

/* ---- verdicts */

void proofs_print_key(struct cli *cli, const struct checkpoint_key *key)
{
    struct checkpoint_key_text text;

    if (key == NULL) {
        fputs("signatures were not looked at: give --key\n", cli->out);
        return;
    }
    text = checkpoint_key_format(key);
    fputs(
        cli->values.key != NULL ? "signed by: " : "unverified key: ", cli->out);
    text_write(cli->out, text.s, strlen(text.s), TEXT_NAME);
    fputc('\n', cli->out);
    if (cli->values.witness_key == NULL)
        return;
    fputs("cosigned by: ", cli->out);
    text_write(cli->out, cli->values.witness_key,
        strlen(cli->values.witness_key), TEXT_NAME);
    fputc('\n', cli->out);
}

enum cli_exit proofs_print_growth(struct cli *cli, const struct checkpoint *old,
    const struct checkpoint *newer, const struct checkpoint_key *key)
{
    if (!cli_is_text(cli))
        return cli_print_json(
            cli, json_pack("{s:b, s:s, s:I, s:I, s:b}", "verified", 1, "origin",
                     newer->origin, "old_tree_size", (json_int_t)old->tree_size,
                     "tree_size", (json_int_t)newer->tree_size, "key_given",
                     cli->values.key != NULL));
    fprintf(cli->out,
        "nothing was changed between the checkpoints of %" PRIu64 " and "
        "%s of %s\n",
        old->tree_size, text_count(newer->tree_size, "receipt").s,
        text_name(newer->origin).s);
    proofs_print_key(cli, key);
    return CLI_OK;
}

void proofs_tell_speed(struct cli *cli, uint64_t n_receipts, int64_t start_ns)
{
    int64_t duration_ns = kv_clock_mono_ns() - start_ns;

    if (cli->values.stats)
        cli_note(cli, "%s in %s: %.0f a second",
            text_count(n_receipts, "receipt").s, text_duration(duration_ns).s,
            (double)n_receipts * 1e9 / (double)(duration_ns + 1));
}

/* ---- growth */

bool proofs_read_path(
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

static enum cli_exit fail_rewritten(
    struct cli *cli, const struct checkpoint *old)
{
    return cli_fail(cli, CLI_DAMAGED,
        "the ledger was rewritten: its first %" PRIu64
        " receipts are not those of the older checkpoint",
        old->tree_size);
}

bool proofs_compare(struct cli *cli, const struct checkpoint *old,
    const struct checkpoint *newest, enum cli_exit *code)
{
    *code = CLI_OK;
    if (old->tree_size > newest->tree_size)
        *code = cli_fail(cli, CLI_DAMAGED,
            "the ledger was set back: it has %" PRIu64
            " receipts, and had %" PRIu64,
            newest->tree_size, old->tree_size);
    else if (old->tree_size == newest->tree_size &&
             !merkle_hash_equal(&old->root, &newest->root))
        *code = fail_rewritten(cli, old);
    return old->tree_size == 0 || old->tree_size >= newest->tree_size;
}

enum cli_exit proofs_check_growth(struct cli *cli, struct merkle_hasher *hasher,
    const struct checkpoint *old, const struct checkpoint *newest)
{
    Kvpool__V1__GetConsistencyProofRequest request =
        KVPOOL__V1__GET_CONSISTENCY_PROOF_REQUEST__INIT;
    Kvpool__V1__GetConsistencyProofResponse *answer;
    struct merkle_path path;
    enum cli_exit code;

    if (proofs_compare(cli, old, newest, &code))
        return code;
    request.first_tree_size = old->tree_size;
    request.second_tree_size = newest->tree_size;
    answer =
        cli_call(cli, CLI_POOL_SERVICE "GetConsistencyProof", &request.base,
            &kvpool__v1__get_consistency_proof_response__descriptor, &code);
    if (answer == NULL)
        return code;
    if (!proofs_read_path(answer->hashes, answer->n_hashes, &path) ||
        !merkle_verify_consistency(hasher, old->tree_size, newest->tree_size,
            &path, &old->root, &newest->root))
        code = fail_rewritten(cli, old);
    cli_free_answer(answer);
    return code;
}
