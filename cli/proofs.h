/* Asks a server for its checkpoints and proofs, and believes none of them.
 *
 * Failures have been told when a function returns; CLI_DAMAGED is the verdict
 * that something is not what was signed. */
#ifndef CLI_PROOFS_H
#define CLI_PROOFS_H

#include "cli/cli.h"
#include "kvpool/v1/pool_service.pb-c.h"
#include "receipts/checkpoint.h"

/* A checkpoint of now that covers this receipt. NULL: *code says why. */
Kvpool__V1__GetCheckpointResponse *proofs_get_checkpoint(
    struct cli *cli, uint64_t covering_sequence, enum cli_exit *code);

/* The key of this text, which came with --key; NULL: the server's own word in
 * its checkpoint, which proves less. */
enum cli_exit proofs_find_key(struct cli *cli,
    const Kvpool__V1__Checkpoint *checkpoint, const char *given,
    struct checkpoint_key *out);

/* What a checkpoint of the server's says, signed by this key. */
enum cli_exit proofs_check_checkpoint(struct cli *cli,
    const Kvpool__V1__Checkpoint *checkpoint, const struct checkpoint_key *key,
    struct checkpoint *out);

/* Hashes as they came; false: they are none, or too many. */
bool proofs_read_path(
    const ProtobufCBinaryData *hashes, size_t n, struct merkle_path *out);

/* That the ledger only grew between two checkpoints of it. */
enum cli_exit proofs_check_growth(struct cli *cli, struct merkle_hasher *hasher,
    const struct checkpoint *old, const struct checkpoint *newest);

/* The same without asking anybody, where the sizes decide alone. true: they do,
 * *code is the verdict. */
bool proofs_compare(struct cli *cli, const struct checkpoint *old,
    const struct checkpoint *newest, enum cli_exit *code);

/* A checkpoint that was kept in a file: signed by the key (NULL: by whomever),
 * and cosigned by --witness-key if that was given. */
enum cli_exit proofs_take_note(struct cli *cli, const char *path,
    const struct checkpoint_key *key, struct checkpoint *out);

/* Those of --old and --new, which must be of one ledger. */
enum cli_exit proofs_take_two(struct cli *cli, const struct checkpoint_key *key,
    struct checkpoint *old, struct checkpoint *newer);

/* The verdict that one is a prefix of the other; key NULL: nobody looked at
 * signatures. */
enum cli_exit proofs_print_growth(struct cli *cli, const struct checkpoint *old,
    const struct checkpoint *newer, const struct checkpoint_key *key);

/* "signed by", "unverified key", and what else is to be said of it. */
void proofs_print_key(struct cli *cli, const struct checkpoint_key *key);

/* With --stats: receipts a second since then, on stderr. */
void proofs_tell_speed(struct cli *cli, uint64_t n_receipts, int64_t start_ns);

enum cli_exit proofs_fail_memory(struct cli *cli);

#endif
