/* receipts witness: cosigns a server's checkpoints, each only if the last one
 * that was cosigned is a prefix of it.
 *
 *   ledger's checkpoint ─> its signature ─> only grown since the last one?
 *                                             │ no: said loudly, the end
 *                                             v
 *                      cosigned ─> remembered, synced ─> shown to the world
 *
 * In this order a crash may lose a note, and never what was promised: that no
 * two notes of this witness contradict each other. */
#include <inttypes.h>
#include <string.h>

#include "base/clock.h"
#include "cli/command.h"
#include "cli/out_file.h"
#include "cli/proofs.h"
#include "cli/witness_state.h"
#include "receipts/cosignature.h"
#include "receipts/key_file.h"

#define INTERVAL_NS (10 * KV_NS_PER_S)
#define DEFAULT_NAME "kvpool-witness"

struct witness {
    struct cli *cli;
    struct merkle_hasher hasher;
    struct checkpoint_signer signer;
    struct witness_state state;
    uint64_t n_shown;
};

/* ---- what is remembered */

static enum cli_exit fail_state(
    struct witness *witness, const char *origin, const char *why)
{
    return cli_fail(witness->cli, CLI_FAILED,
        "%s: what it remembers of %s is not what this witness signed: %s",
        text_name(witness->cli->values.state_file).s, text_name(origin).s,
        text_name(why).s);
}

/* The last checkpoint of this ledger, as it was cosigned. *known false: there
 * was none. */
static enum cli_exit recall(struct witness *witness, const char *origin,
    struct checkpoint *last, const char **key, bool *known)
{
    const char *note;
    struct kv_error error;
    uint64_t time_s;

    *known = witness_state_find(&witness->state, origin, key, &note);
    if (!*known)
        return CLI_OK;
    if (cosignature_verify(note, strlen(note), &witness->signer.key, &time_s,
            &error) != KV_OK ||
        checkpoint_parse(note, strlen(note), last, &error) != KV_OK)
        return fail_state(witness, origin, error.text);
    if (strcmp(last->origin, origin) != 0)
        return fail_state(witness, origin, "it is of another ledger");
    return CLI_OK;
}

/* ---- one checkpoint */

/* The key that was given, or the one that signed before, or at first the
 * server's own word. */
static enum cli_exit choose_key(struct witness *witness,
    const Kvpool__V1__Checkpoint *message, const char *remembered,
    struct checkpoint_key *key)
{
    struct cli *cli = witness->cli;
    const char *given = cli->values.key != NULL ? cli->values.key : remembered;

    return proofs_find_key(cli, message, given, key);
}

static enum cli_exit check_ledger(struct witness *witness,
    const Kvpool__V1__Checkpoint *message, struct checkpoint_key *key,
    struct checkpoint *newest, bool *is_new)
{
    struct cli *cli = witness->cli;
    const char *remembered = NULL;
    struct checkpoint last;
    struct kv_error error;
    bool known = false;
    enum cli_exit code;

    if (checkpoint_parse(message->signed_note.data, message->signed_note.len,
            newest, &error) != KV_OK)
        return cli_fail(cli, CLI_DAMAGED, "the server's checkpoint: %s",
            text_name(error.text).s);
    code = recall(witness, newest->origin, &last, &remembered, &known);
    if (code == CLI_OK)
        code = choose_key(witness, message, remembered, key);
    if (code == CLI_OK)
        code = proofs_check_checkpoint(cli, message, key, newest);
    if (code != CLI_OK)
        return code;
    *is_new = !known || newest->tree_size != last.tree_size;
    if (known)
        return proofs_check_growth(cli, &witness->hasher, &last, newest);
    cli_note(cli, "%s is seen for the first time, with %s%s",
        text_name(newest->origin).s, text_count(newest->tree_size, "receipt").s,
        cli->values.key == NULL ? "; its key is its own word" : "");
    return CLI_OK;
}

/* Standard output, or the file, whole. */
static enum cli_exit show(
    struct witness *witness, const char *note, size_t n_note)
{
    struct cli *cli = witness->cli;
    const char *path = cli->values.out_file;
    struct out_file file;
    struct kv_error error;

    if (path == NULL) {
        if (cli->out_tty)
            text_write(cli->out, note, n_note, TEXT_PROSE);
        else
            fwrite(note, 1, n_note, cli->out);
        return cli_flush(cli) ? CLI_OK : CLI_FAILED;
    }
    if (out_file_open(&file, path, 0644, &error) != KV_OK)
        return cli_fail(cli, CLI_FAILED, "%s", error.text);
    fwrite(note, 1, n_note, file.stream);
    if (out_file_commit(&file, &error) != KV_OK)
        return cli_fail(cli, CLI_FAILED, "%s", error.text);
    return CLI_OK;
}

static enum cli_exit cosign(struct witness *witness,
    const Kvpool__V1__Checkpoint *message, const struct checkpoint_key *key,
    const struct checkpoint *newest)
{
    static const int64_t ns = KV_NS_PER_S;
    struct cli *cli = witness->cli;
    char note[CHECKPOINT_MAX_NOTE_BYTES];
    size_t n_note;
    struct kv_error error;

    if (cosignature_add(&witness->signer, (uint64_t)(kv_clock_wall_ns() / ns),
            message->signed_note.data, message->signed_note.len, note, &n_note,
            &error) != KV_OK ||
        witness_state_put(&witness->state, newest->origin,
            checkpoint_key_format(key).s, note, n_note, &error) != KV_OK)
        return cli_fail(cli, CLI_FAILED, "%s", error.text);
    witness->n_shown++;
    return show(witness, note, n_note);
}

/* Whoever signed two checkpoints that contradict each other has proven it
 * himself: both are evidence, and are to be kept. */
static void refuse(
    struct witness *witness, const Kvpool__V1__Checkpoint *message)
{
    struct cli *cli = witness->cli;

    cli_note(cli, "NOT COSIGNED: do not trust this ledger. What it says now:");
    text_write(cli->err, (const char *)message->signed_note.data,
        message->signed_note.len, TEXT_PROSE);
    cli_note(cli, "What was cosigned before is in %s",
        text_name(cli->values.state_file).s);
}

static enum cli_exit witness_once(struct witness *witness)
{
    struct cli *cli = witness->cli;
    struct checkpoint newest;
    struct checkpoint_key key;
    bool is_new = false;
    enum cli_exit code = CLI_OK;
    Kvpool__V1__GetCheckpointResponse *answer =
        proofs_get_checkpoint(cli, 0, &code);

    if (answer == NULL)
        return code;
    code = check_ledger(witness, answer->checkpoint, &key, &newest, &is_new);
    if (code == CLI_OK && (is_new || witness->n_shown == 0))
        code = cosign(witness, answer->checkpoint, &key, &newest);
    else if (code == CLI_DAMAGED)
        refuse(witness, answer->checkpoint);
    cli_free_answer(answer);
    return code;
}

/* ---- again and again */

/* A server that is away, or starting, comes back. */
static bool may_go_on(enum cli_exit code)
{
    return code == CLI_OK || code == CLI_UNREACHABLE;
}

static enum cli_exit watch(struct witness *witness)
{
    struct cli *cli = witness->cli;
    int64_t interval_ns =
        cli->values.interval_ns != 0 ? cli->values.interval_ns : INTERVAL_NS;

    for (;;) {
        enum cli_exit code = witness_once(witness);

        if (!may_go_on(code))
            return code;
        if (code == CLI_UNREACHABLE) { /* gRPC's own pauses are not ours */
            rpc_client_close(cli->client);
            cli->client = NULL;
        }
        if (interrupt_sleep(cli->interrupt, interval_ns))
            return CLI_INTERRUPTED;
    }
}

/* ---- the command */

static enum cli_exit load_key(struct witness *witness)
{
    struct cli *cli = witness->cli;
    const struct option_values *values = &cli->values;
    struct key_file_news news;
    struct kv_error error;

    if (key_file_load(&witness->signer, CHECKPOINT_WITNESS, values->signing_key,
            values->name != NULL ? values->name : DEFAULT_NAME, &news,
            &error) != KV_OK)
        return cli_fail(cli, CLI_FAILED, "--signing-key: %s", error.text);
    if (news.made)
        cli_note(
            cli, "%s: a new key was made", text_name(values->signing_key).s);
    if (news.open_to_all)
        cli_note(cli, "%s: is open to every user of this machine",
            text_name(values->signing_key).s);
    cli_note(
        cli, "this witness: %s", checkpoint_key_format(&witness->signer.key).s);
    return CLI_OK;
}

static enum cli_exit run(struct witness *witness)
{
    struct cli *cli = witness->cli;
    struct kv_error error;
    enum cli_exit code;

    if (witness_state_open(&witness->state, cli->values.state_file, &error) !=
        KV_OK)
        return cli_fail(cli, CLI_FAILED, "--state: %s", error.text);
    code = cli->values.watch ? watch(witness) : witness_once(witness);
    witness_state_close(&witness->state);
    return code;
}

static enum cli_exit check_options(struct cli *cli)
{
    const struct option_values *values = &cli->values;
    const char *missing = values->signing_key == NULL  ? "--signing-key"
                          : values->state_file == NULL ? "--state"
                                                       : NULL;
    struct kv_error error;

    if (missing == NULL)
        return CLI_OK;
    kv_error_set(&error, KV_INVALID, "%s is missing", missing);
    return cli_fail_usage(cli, &error);
}

enum cli_exit cmd_receipts_witness(struct cli *cli)
{
    struct witness witness = {.cli = cli};
    enum cli_exit code = check_options(cli);

    if (code != CLI_OK)
        return code;
    if (merkle_hasher_init(&witness.hasher) != KV_OK)
        return proofs_fail_memory(cli);
    code = load_key(&witness);
    if (code == CLI_OK) {
        code = run(&witness);
        checkpoint_signer_fini(&witness.signer);
    }
    merkle_hasher_fini(&witness.hasher);
    return code;
}
