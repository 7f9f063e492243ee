/* The table of commands: it generates dispatch and help. */
#ifndef CLI_COMMAND_H
#define CLI_COMMAND_H

#include <stddef.h>

#include "cli/cli.h"

struct command {
    const char *name;      /* "receipts tail" */
    const char *arguments; /* as help shows them */
    size_t max_arguments;
    const char *summary;
    const char *text; /* more help; lines end in \n */
    struct option_table options;
    enum cli_exit (*run)(struct cli *cli);
};

extern const struct command commands[];
extern const size_t n_commands;

/* What every command takes. */
extern const struct option_table command_globals;

/* ---- the commands */
enum cli_exit cmd_ping(struct cli *cli);
enum cli_exit cmd_describe(struct cli *cli);
enum cli_exit cmd_generate(struct cli *cli);
enum cli_exit cmd_tokenize(struct cli *cli);
enum cli_exit cmd_detokenize(struct cli *cli);
enum cli_exit cmd_sessions(struct cli *cli);
enum cli_exit cmd_snapshot(struct cli *cli);
enum cli_exit cmd_evict(struct cli *cli);
enum cli_exit cmd_retain(struct cli *cli);
enum cli_exit cmd_receipts_tail(struct cli *cli);
enum cli_exit cmd_receipts_audit(struct cli *cli);
enum cli_exit cmd_receipts_checkpoint(struct cli *cli);
enum cli_exit cmd_receipts_verify(struct cli *cli);
enum cli_exit cmd_receipts_export(struct cli *cli);
enum cli_exit cmd_receipts_witness(struct cli *cli);

/* ---- what some of them share */

/* The words of argument nth, or of stdin where it is "-": kv_free it. NULL: it
 * has been said why, *code set. */
char *cmd_read_text(struct cli *cli, size_t nth, enum cli_exit *code);

/* "1,2,3", appended to *ids (kv_free it). KV_INVALID, KV_NO_MEMORY. */
enum kv_status cmd_parse_tokens(const char *what, const char *text,
    uint32_t **ids, size_t *n, struct kv_error *error);

#endif
