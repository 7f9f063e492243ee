/* kvpoolctl, but for main(): what all commands share.
 *
 *   cli_run ─> finds the command, reads its options ─> its run() ─> exit code
 *
 * A command calls with cli_call, prints with the functions below, and returns
 * an exit code; whoever finds an error prints it. Output that nobody reads any
 * more (a closed pipe) ends a command quietly.
 *
 * Thread: one. */
#ifndef CLI_CLI_H
#define CLI_CLI_H

#include <stdbool.h>
#include <stdio.h>

#include <jansson.h>
#include <protobuf-c/protobuf-c.h>

#include "cli/interrupt.h"
#include "cli/option.h"
#include "cli/text.h"
#include "rpc/client.h"

#define CLI_TIMEOUT_NS (10 * INT64_C(1000000000)) /* of calls, by default */

enum cli_exit {
    CLI_OK = 0,
    CLI_FAILED = 1,        /* the server refused or failed, or output did */
    CLI_USAGE = 2,         /* the command line is wrong */
    CLI_UNREACHABLE = 3,   /* no server, or too slow */
    CLI_NOTHING = 4,       /* none evicted or forgotten; not set; not serving */
    CLI_DAMAGED = 5,       /* receipts are not what was signed */
    CLI_INTERRUPTED = 130, /* SIGINT or SIGTERM */
};

#define CLI_POOL_SERVICE "/kvpool.v1.KvPoolService/"
#define CLI_INFERENCE_SERVICE "/kvpool.v1.InferenceService/"

struct cli {
    FILE *in, *out, *err; /* borrowed */
    bool in_tty, out_tty, err_tty;
    const char *server;          /* of the environment; NULL: none */
    struct interrupt *interrupt; /* borrowed; may be NULL */

    /* cli_run's */
    const char *command; /* its name, for hints; NULL before it is known */
    struct option_values values;
    struct rpc_client *client; /* once something was called */
    bool progress_shown;
    int64_t progress_ns; /* when it was written last */
    size_t n_listed;
};

/* Runs a command line, argv[0] included. Everything above "cli_run's" is set,
 * the rest zero. */
enum cli_exit cli_run(struct cli *cli, int argc, char *const *argv);

/* ---- calling */

/* The client of --server, opened once. NULL: said why, *code set. */
struct rpc_client *cli_client(struct cli *cli, enum cli_exit *code);

/* The options of a call that has `timeout_ns` unless --timeout says otherwise;
 * 0 is none. */
struct rpc_client_options cli_call_options(
    const struct cli *cli, int64_t timeout_ns);

/* Calls a unary method and decodes its answer (free it with cli_free_answer).
 * NULL: the error has been printed, *code is set. */
void *cli_call(struct cli *cli, const char *path,
    const ProtobufCMessage *request, const ProtobufCMessageDescriptor *kind,
    enum cli_exit *code);
void cli_free_answer(void *message); /* NULL is fine */

/* The request's bytes, kv_free'd by the caller; NULL when there is no memory.
 */
unsigned char *cli_encode(const ProtobufCMessage *message, size_t *n);

/* The reverse; NULL if they are not such a message. */
void *cli_decode(const ProtobufCMessageDescriptor *kind,
    const unsigned char *bytes, size_t n);

/* ---- saying what is wrong, on stderr */

/* "kvpoolctl: ..." and a line end; returns code. */
__attribute__((format(printf, 3, 4))) enum cli_exit cli_fail(
    struct cli *cli, enum cli_exit code, const char *format, ...);

/* A wrong command line: the same, with a hint at the help. */
enum cli_exit cli_fail_usage(struct cli *cli, const struct kv_error *error);

/* An error of the server's, with all its details; returns its exit code. */
enum cli_exit cli_fail_rpc(struct cli *cli, const struct rpc_error *error);

/* A note on stderr that is no failure. */
__attribute__((format(printf, 2, 3))) void cli_note(
    struct cli *cli, const char *format, ...);

/* ---- printing */

/* Shows how far long work is, on one line of a terminal that shows nothing
 * else: never in a pipe. */
__attribute__((format(printf, 2, 3))) void cli_progress(
    struct cli *cli, const char *format, ...);
void cli_progress_clear(struct cli *cli);

/* Prints a document (which it releases) as --output wants it: indented for
 * json, one line for jsonl. NULL is no memory. */
enum cli_exit cli_print_json(struct cli *cli, json_t *json);

/* Prints a message: as JSON as above. */
enum cli_exit cli_print_message(
    struct cli *cli, const ProtobufCMessage *message);

/* A list that is printed as it comes: one array for json, one line each for
 * jsonl. Between begin and end any number of items. */
void cli_list_begin(struct cli *cli);
enum cli_exit cli_list_item(struct cli *cli, json_t *json);
void cli_list_end(struct cli *cli);

bool cli_is_text(const struct cli *cli);

/* Brings out what was printed. false: nobody reads it, or it cannot be
 * written (cli_finish tells which). */
bool cli_flush(struct cli *cli);

/* The same at a command's end: code, or CLI_FAILED if the output could not be
 * written; a closed pipe is CLI_OK. */
enum cli_exit cli_finish(struct cli *cli, enum cli_exit code);

#endif
