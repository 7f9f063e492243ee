#include "cli/cli.h"

#include <errno.h>
#include <poll.h>
#include <stdarg.h>
#include <string.h>

#include "base/clock.h"
#include "base/heap.h"
#include "cli/proto_json.h"

/* ---- saying what is wrong */

static void say_prefix(struct cli *cli)
{
    cli_progress_clear(cli);
    fputs("kvpoolctl: ", cli->err);
}

/* The words are ours, what they quote may be a stranger's. */
__attribute__((format(printf, 2, 0))) static void say(
    struct cli *cli, const char *format, va_list args)
{
    char line[2048];

    vsnprintf(line, sizeof line, format, args);
    text_write(cli->err, line, strlen(line), TEXT_PROSE);
    fputc('\n', cli->err);
    fflush(cli->err);
}

enum cli_exit cli_fail(
    struct cli *cli, enum cli_exit code, const char *format, ...)
{
    va_list args;

    say_prefix(cli);
    va_start(args, format);
    say(cli, format, args);
    va_end(args);
    return code;
}

void cli_note(struct cli *cli, const char *format, ...)
{
    va_list args;

    say_prefix(cli);
    va_start(args, format);
    say(cli, format, args);
    va_end(args);
}

enum cli_exit cli_fail_usage(struct cli *cli, const struct kv_error *error)
{
    cli_fail(cli, CLI_USAGE, "%s", error->text);
    fprintf(cli->err, "Try 'kvpoolctl %s%s--help'.\n",
        cli->command != NULL ? cli->command : "",
        cli->command != NULL ? " " : "");
    return CLI_USAGE;
}

static enum cli_exit exit_of(enum rpc_code code)
{
    switch (code) {
    case RPC_OK:
        return CLI_OK;
    case RPC_UNAVAILABLE:
    case RPC_DEADLINE_EXCEEDED:
        return CLI_UNREACHABLE;
    default:
        return CLI_FAILED;
    }
}

static void say_detail(struct cli *cli, const char *key, const char *value)
{
    fputs("  ", cli->err);
    text_write(cli->err, key, strlen(key), TEXT_NAME);
    fputs(": ", cli->err);
    text_write(cli->err, value, strlen(value), TEXT_NAME);
    fputc('\n', cli->err);
}

/* A server's message may be the words of its first violation. */
static bool is_said(const struct rpc_error *error, size_t nth)
{
    char words[sizeof error->violations[0] + 2];

    snprintf(words, sizeof words, "%s: %s", error->violations[nth].field,
        error->violations[nth].description);
    return strstr(error->message, words) != NULL;
}

/* gRPC's own words for a deadline that has passed are the code's name again. */
static const char *words_of(const struct rpc_error *error)
{
    return error->code == RPC_DEADLINE_EXCEEDED && error->reason[0] == '\0'
               ? "no answer within --timeout"
               : error->message;
}

enum cli_exit cli_fail_rpc(struct cli *cli, const struct rpc_error *error)
{
    const char *server = cli->values.server, *words = words_of(error);
    enum cli_exit code = exit_of(error->code);

    say_prefix(cli);
    if (code == CLI_UNREACHABLE)
        fprintf(cli->err, "%s: ", text_name(server).s);
    fputs(rpc_code_name(error->code), cli->err);
    if (error->reason[0] != '\0')
        fprintf(cli->err, " (%s)", text_name(error->reason).s);
    fputs(": ", cli->err);
    text_write(cli->err, words, strlen(words), TEXT_NAME);
    fputc('\n', cli->err);
    for (size_t i = 0; i < error->n_violations; i++)
        if (!is_said(error, i))
            say_detail(cli, error->violations[i].field,
                error->violations[i].description);
    for (size_t i = 0; i < error->n_metadata; i++)
        say_detail(cli, error->metadata[i].key, error->metadata[i].value);
    fflush(cli->err);
    return code;
}

/* ---- calling */

struct rpc_client *cli_client(struct cli *cli, enum cli_exit *code)
{
    struct kv_error error;
    enum kv_status status;

    if (cli->client != NULL)
        return cli->client;
    status = rpc_client_open(&cli->client, cli->values.server, &error);
    if (status == KV_OK)
        return cli->client;
    cli->client = NULL;
    if (status == KV_INVALID)
        *code = cli_fail_usage(cli, &error);
    else
        *code = cli_fail(cli, CLI_FAILED, "%s", error.text);
    return NULL;
}

struct rpc_client_options cli_call_options(
    const struct cli *cli, int64_t timeout_ns)
{
    int64_t given_ns = cli->values.timeout_ns;

    return (struct rpc_client_options){
        .timeout_ns = given_ns != 0 ? given_ns : timeout_ns};
}

unsigned char *cli_encode(const ProtobufCMessage *message, size_t *n)
{
    size_t n_bytes = protobuf_c_message_get_packed_size(message);
    unsigned char *bytes = kv_calloc(n_bytes + 1, 1);

    if (bytes != NULL)
        *n = protobuf_c_message_pack(message, bytes);
    return bytes;
}

void *cli_decode(const ProtobufCMessageDescriptor *kind,
    const unsigned char *bytes, size_t n)
{
    return protobuf_c_message_unpack(
        kind, (ProtobufCAllocator *)&proto_heap, n, bytes);
}

void cli_free_answer(void *message)
{
    if (message != NULL)
        protobuf_c_message_free_unpacked(
            message, (ProtobufCAllocator *)&proto_heap);
}

void *cli_call(struct cli *cli, const char *path,
    const ProtobufCMessage *request, const ProtobufCMessageDescriptor *kind,
    enum cli_exit *code)
{
    struct rpc_client *client = cli_client(cli, code);
    struct rpc_client_options options = cli_call_options(cli, CLI_TIMEOUT_NS);
    struct rpc_error error;
    unsigned char *bytes, *answer = NULL;
    size_t n_bytes, n_answer = 0;
    enum rpc_code result;
    void *message;

    if (client == NULL)
        return NULL;
    bytes = cli_encode(request, &n_bytes);
    if (bytes == NULL) {
        *code = cli_fail(cli, CLI_FAILED, "out of memory");
        return NULL;
    }
    result = rpc_client_call(
        client, path, bytes, n_bytes, &options, &answer, &n_answer, &error);
    kv_free(bytes);
    if (result != RPC_OK) {
        *code = cli_fail_rpc(cli, &error);
        return NULL;
    }
    message = cli_decode(kind, answer, n_answer);
    kv_free(answer);
    if (message == NULL)
        *code = cli_fail(
            cli, CLI_FAILED, "%s: the answer is no %s", path, kind->name);
    return message;
}

/* ---- printing */

void cli_progress(struct cli *cli, const char *format, ...)
{
    int64_t now_ns = kv_clock_mono_ns();
    va_list args;

    if (!cli->err_tty || cli->out_tty)
        return;
    if (cli->progress_shown && now_ns - cli->progress_ns < 100 * KV_NS_PER_MS)
        return;
    fputs("\r\033[K", cli->err);
    va_start(args, format);
    vfprintf(cli->err, format, args);
    va_end(args);
    fflush(cli->err);
    cli->progress_shown = true;
    cli->progress_ns = now_ns;
}

void cli_progress_clear(struct cli *cli)
{
    if (cli->progress_shown)
        fputs("\r\033[K", cli->err);
    cli->progress_shown = false;
}

bool cli_is_text(const struct cli *cli)
{
    return cli->values.format == OPTION_FORMAT_TEXT;
}

/* JSON escapes C0 controls by itself; on a terminal C1 controls and what turns
 * the direction of writing must not pass either. */
static size_t json_flags(const struct cli *cli, bool indented)
{
    size_t flags = cli->out_tty ? JSON_ENSURE_ASCII : 0;

    return flags | (indented ? JSON_INDENT(2) : JSON_COMPACT);
}

static enum cli_exit print_json(struct cli *cli, json_t *json, bool indented)
{
    int failure;

    if (json == NULL)
        return cli_fail(cli, CLI_FAILED, "out of memory");
    failure = json_dumpf(json, cli->out, json_flags(cli, indented));
    json_decref(json);
    if (failure != 0 && !ferror(cli->out))
        return cli_fail(cli, CLI_FAILED, "out of memory");
    return CLI_OK;
}

enum cli_exit cli_print_json(struct cli *cli, json_t *json)
{
    enum cli_exit code =
        print_json(cli, json, cli->values.format == OPTION_FORMAT_JSON);

    fputc('\n', cli->out);
    return code;
}

enum cli_exit cli_print_message(
    struct cli *cli, const ProtobufCMessage *message)
{
    return cli_print_json(cli, proto_to_json(message));
}

void cli_list_begin(struct cli *cli)
{
    cli->n_listed = 0;
    if (cli->values.format == OPTION_FORMAT_JSON)
        fputc('[', cli->out);
}

enum cli_exit cli_list_item(struct cli *cli, json_t *json)
{
    enum cli_exit code;

    if (cli->values.format == OPTION_FORMAT_JSON)
        fputs(cli->n_listed == 0 ? "\n" : ",\n", cli->out);
    cli->n_listed++;
    code = print_json(cli, json, false);
    if (cli->values.format == OPTION_FORMAT_JSONL)
        fputc('\n', cli->out);
    return code;
}

void cli_list_end(struct cli *cli)
{
    if (cli->values.format == OPTION_FORMAT_JSON)
        fputs(cli->n_listed == 0 ? "]\n" : "\n]\n", cli->out);
}

bool cli_flush(struct cli *cli)
{
    cli_progress_clear(cli);
    return fflush(cli->out) == 0 && !ferror(cli->out);
}

/* A pipe without a reader is in error; a full disk is not. */
static bool is_closed_pipe(FILE *out)
{
    struct pollfd state = {.fd = fileno(out), .events = POLLOUT};

    return poll(&state, 1, 0) == 1 && (state.revents & POLLERR) != 0;
}

enum cli_exit cli_finish(struct cli *cli, enum cli_exit code)
{
    errno = 0;
    if (cli_flush(cli))
        return code;
    if (errno == EPIPE || is_closed_pipe(cli->out))
        return CLI_OK;
    return cli_fail(cli, CLI_FAILED, "the output cannot be written: %s",
        errno != 0 ? strerror(errno) : "an earlier write failed");
}
