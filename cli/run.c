/* From a command line to a command. */
#include <assert.h>
#include <string.h>

#include "base/heap.h"
#include "cli/command.h"

#define DEFAULT_SERVER "127.0.0.1:7440"

static void write_exit_codes(FILE *out)
{
    fputs("\nExit codes\n", out);
    option_help_line(out, "0", "done");
    option_help_line(out, "1",
        "the server refused or failed, or the output "
        "did");
    option_help_line(out, "2", "the command line is wrong");
    option_help_line(out, "3", "the server cannot be reached, or is too slow");
    option_help_line(out, "4",
        "nothing was evicted or forgotten; not retained\n"
        "for every session; the server does not serve");
    option_help_line(out, "5", "receipts are not what was signed");
    option_help_line(out, "130", "interrupted");
}

static void write_general_help(FILE *out)
{
    fputs("Usage: kvpoolctl [OPTION]... COMMAND [OPTION]... [ARGUMENT]...\n\n"
          "Talks to kvpoold, the inference server with a KV pool that can be "
          "watched.\n\nCommands\n",
        out);
    for (size_t i = 0; i < n_commands; i++)
        option_help_line(out, commands[i].name, commands[i].summary);
    fputs("\nOptions of every command\n", out);
    option_help(out, &command_globals);
    write_exit_codes(out);
}

static void write_command_help(FILE *out, const struct command *command)
{
    fprintf(out, "Usage: kvpoolctl %s [OPTION]...%s%s\n\n%s", command->name,
        command->arguments[0] != '\0' ? " " : "", command->arguments,
        command->text);
    if (command->options.n > 0) {
        fputs("\nOptions\n", out);
        option_help(out, &command->options);
    }
    fputs("\nOptions of every command\n", out);
    option_help(out, &command_globals);
    write_exit_codes(out);
}

/* The command whose words args begin with; *n_words of them. */
static const struct command *find_command(
    char *const *args, size_t n_args, size_t *n_words)
{
    for (size_t i = 0; i < n_commands; i++) {
        const char *name = commands[i].name;
        size_t n_first = strcspn(name, " ");

        if (strlen(args[0]) != n_first || memcmp(args[0], name, n_first) != 0)
            continue;
        *n_words = name[n_first] == '\0' ? 1 : 2;
        if (*n_words == 1 ||
            (n_args > 1 && strcmp(args[1], name + n_first + 1) == 0))
            return &commands[i];
    }
    return NULL;
}

static enum kv_status unknown_command(
    char *const *args, size_t n_args, struct kv_error *error)
{
    bool two = strcmp(args[0], "receipts") == 0;

    if (two && (n_args == 1 || option_is(args[1])))
        return kv_error_set(error, KV_INVALID,
            "receipts: needs tail, export, audit, checkpoint, verify or "
            "witness behind it");
    return kv_error_set(error, KV_INVALID, "%s%s%s: no such command",
        text_name(args[0]).s, two ? " " : "", two ? text_name(args[1]).s : "");
}

static enum kv_status read_command(struct cli *cli, char *const *args,
    size_t n_args, size_t *at, const struct command **command,
    struct kv_error *error)
{
    size_t n_words;

    while (*at < n_args && option_is(args[*at])) {
        enum kv_status status = option_parse(
            &command_globals, 1, args, n_args, at, &cli->values, error);

        if (status != KV_OK)
            return status;
    }
    if (*at == n_args)
        return KV_OK;
    *command = find_command(args + *at, n_args - *at, &n_words);
    if (*command == NULL)
        return cli->values.help
                   ? KV_OK
                   : unknown_command(args + *at, n_args - *at, error);
    cli->command = (*command)->name;
    *at += n_words;
    return KV_OK;
}

static enum kv_status read_rest(struct cli *cli, char *const *args,
    size_t n_args, size_t at, const struct command *command,
    struct kv_error *error)
{
    const struct option_table tables[] = {command->options, command_globals};
    struct option_values *values = &cli->values;
    bool only_arguments = false;

    while (at < n_args) {
        enum kv_status status;

        if (!only_arguments && strcmp(args[at], "--") == 0) {
            only_arguments = true;
            at++;
        } else if (!only_arguments && option_is(args[at])) {
            status = option_parse(tables, 2, args, n_args, &at, values, error);
            if (status != KV_OK)
                return status;
        } else {
            values->arguments[values->n_arguments++] = args[at++];
        }
    }
    if (values->n_arguments > command->max_arguments && !values->help)
        return kv_error_set(error, KV_INVALID,
            "\"%s\": %s takes %zu arguments at most; quote a text with blanks",
            text_name(values->arguments[command->max_arguments]).s,
            command->name, command->max_arguments);
    return KV_OK;
}

static enum kv_status choose_server(struct cli *cli, struct kv_error *error)
{
    enum kv_status status;

    if (cli->values.server != NULL)
        return KV_OK;
    if (cli->server == NULL || cli->server[0] == '\0') {
        cli->values.server = DEFAULT_SERVER;
        return KV_OK;
    }
    status = option_check_text(
        "KVPOOL_SERVER", cli->server, strlen(cli->server), 1, 255, true, error);
    if (status == KV_OK)
        cli->values.server = cli->server;
    return status;
}

static enum cli_exit run_command(struct cli *cli, const struct command *command)
{
    struct kv_error error;
    enum cli_exit code;

    if (cli->values.version) {
        fputs("kvpoolctl " CLI_VERSION "\n", cli->out);
        return CLI_OK;
    }
    if (command == NULL && !cli->values.help) {
        kv_error_set(&error, KV_INVALID, "a command is missing");
        return cli_fail_usage(cli, &error);
    }
    if (cli->values.help) {
        if (command == NULL)
            write_general_help(cli->out);
        else
            write_command_help(cli->out, command);
        return CLI_OK;
    }
    if (choose_server(cli, &error) != KV_OK)
        return cli_fail_usage(cli, &error);
    code = command->run(cli);
    interrupt_unwatch(cli->interrupt);
    rpc_client_close(cli->client);
    cli->client = NULL;
    return code;
}

enum cli_exit cli_run(struct cli *cli, int argc, char *const *argv)
{
    const struct command *command = NULL;
    size_t n_args = argc > 0 ? (size_t)argc : 0, at = 1;
    enum kv_status status;
    struct kv_error error;
    enum cli_exit code;

    cli->values.arguments =
        kv_calloc(n_args + 1, sizeof *cli->values.arguments);
    if (cli->values.arguments == NULL)
        return cli_fail(cli, CLI_FAILED, "out of memory");
    if (n_args == 0)
        at = 0;
    status = read_command(cli, argv, n_args, &at, &command, &error);
    if (status == KV_OK && command != NULL)
        status = read_rest(cli, argv, n_args, at, command, &error);
    if (status == KV_OK)
        code = run_command(cli, command);
    else
        code = cli_fail_usage(cli, &error);
    kv_free(cli->values.arguments);
    cli->values.arguments = NULL;
    return cli_finish(cli, code);
}
