/* tokenize and detokenize, and how prompts are read. */
#include <inttypes.h>
#include <string.h>

#include "base/heap.h"
#include "cli/command.h"
#include "cli/view.h"
#include "kvpool/v1/inference_service.pb-c.h"

#define TEXT_BYTES_MAX (4 << 20) /* what gRPC servers take by default */

/* All of stdin; NULL when there is no memory, it is too long (*too_long), or
 * it cannot be read (ferror). */
static char *read_all(FILE *in, size_t *n, bool *too_long)
{
    size_t capacity = 4096;
    char *text = kv_calloc(capacity, 1);

    *n = 0;
    *too_long = false;
    while (text != NULL) {
        char *grown;

        *n += fread(text + *n, 1, capacity - *n - 1, in);
        if (*n < capacity - 1)
            break;
        *too_long = capacity > TEXT_BYTES_MAX;
        grown = *too_long ? NULL : kv_realloc(text, 2 * capacity);
        if (grown == NULL)
            kv_free(text);
        text = grown;
        capacity *= 2;
    }
    if (text != NULL && ferror(in)) {
        kv_free(text);
        return NULL;
    }
    if (text != NULL)
        text[*n] = '\0';
    return text;
}

static char *read_stdin(struct cli *cli, size_t *n, enum cli_exit *code)
{
    bool too_long;
    char *text = read_all(cli->in, n, &too_long);

    if (text != NULL)
        return text;
    if (too_long)
        *code = cli_fail(
            cli, CLI_USAGE, "stdin: more than %d bytes", TEXT_BYTES_MAX);
    else
        *code = cli_fail(cli, CLI_FAILED, "stdin: %s",
            ferror(cli->in) ? "cannot be read" : "out of memory");
    return NULL;
}

char *cmd_read_text(struct cli *cli, size_t nth, enum cli_exit *code)
{
    const char *argument = cli->values.arguments[nth];
    bool from_stdin = strcmp(argument, "-") == 0;
    struct kv_error error;
    size_t n = strlen(argument);
    char *text =
        from_stdin ? read_stdin(cli, &n, code) : kv_strndup(argument, n);

    if (text == NULL) {
        if (!from_stdin)
            *code = cli_fail(cli, CLI_FAILED, "out of memory");
        return NULL;
    }
    if (option_check_text(from_stdin ? "stdin" : "the text", text, n, 0,
            TEXT_BYTES_MAX, false, &error) != KV_OK) {
        *code = cli_fail_usage(cli, &error);
        kv_free(text);
        return NULL;
    }
    return text;
}

static enum kv_status append_token(
    uint32_t **ids, size_t *n, uint32_t id, struct kv_error *error)
{
    uint32_t *grown = *ids;

    if ((*n & (*n - 1)) == 0) /* full at every power of two */
        grown = kv_realloc(*ids, (*n == 0 ? 1 : 2 * *n) * sizeof *grown);
    if (grown == NULL)
        return kv_error_set(error, KV_NO_MEMORY, "out of memory");
    *ids = grown;
    grown[(*n)++] = id;
    return KV_OK;
}

enum kv_status cmd_parse_tokens(const char *what, const char *text,
    uint32_t **ids, size_t *n, struct kv_error *error)
{
    for (;;) {
        size_t length = strcspn(text, ",");
        char digits[16] = "";
        uint64_t id;
        enum kv_status status;

        if (length < sizeof digits)
            memcpy(digits, text, length);
        if (!text_parse_count(digits, UINT32_MAX, &id))
            return kv_error_set(error, KV_INVALID,
                "%s: \"%.*s\" given where a token belongs, numbers from 0 to "
                "%" PRIu32 " as in 1,2,3 allowed",
                what, (int)(length < 32 ? length : 32), text_name(text).s,
                UINT32_MAX);
        status = append_token(ids, n, (uint32_t)id, error);
        if (status != KV_OK || text[length] == '\0')
            return status;
        text += length + 1;
    }
}

/* ---- tokenize */

static void print_tokens(
    struct cli *cli, const Kvpool__V1__TokenizeResponse *answer)
{
    for (size_t i = 0; i < answer->n_token_ids; i++) {
        fprintf(cli->out, "%" PRIu32, answer->token_ids[i]);
        if (i < answer->n_pieces) {
            fputc('\t', cli->out);
            text_write(cli->out, (const char *)answer->pieces[i].data,
                answer->pieces[i].len, TEXT_NAME);
        }
        fputc('\n', cli->out);
    }
}

enum cli_exit cmd_tokenize(struct cli *cli)
{
    Kvpool__V1__TokenizeRequest request = KVPOOL__V1__TOKENIZE_REQUEST__INIT;
    Kvpool__V1__TokenizeResponse *answer;
    struct kv_error error;
    enum cli_exit code = CLI_OK;
    char *text;

    if (cli->values.n_arguments == 0) {
        kv_error_set(&error, KV_INVALID, "tokenize: a text is missing");
        return cli_fail_usage(cli, &error);
    }
    text = cmd_read_text(cli, 0, &code);
    if (text == NULL)
        return code;
    request.text = text;
    request.add_special = cli->values.add_special;
    request.parse_special = cli->values.parse_special;
    request.with_pieces = cli->values.with_pieces;
    answer = cli_call(cli, CLI_INFERENCE_SERVICE "Tokenize", &request.base,
        &kvpool__v1__tokenize_response__descriptor, &code);
    kv_free(text);
    if (answer == NULL)
        return code;
    if (cli_is_text(cli))
        print_tokens(cli, answer);
    else
        code = cli_print_message(cli, &answer->base);
    cli_free_answer(answer);
    return code;
}

/* ---- detokenize */

static enum cli_exit read_tokens(struct cli *cli, uint32_t **ids, size_t *n)
{
    struct kv_error error;

    if (cli->values.n_arguments == 0) {
        kv_error_set(&error, KV_INVALID, "detokenize: tokens are missing");
        return cli_fail_usage(cli, &error);
    }
    for (size_t i = 0; i < cli->values.n_arguments; i++) {
        enum kv_status status = cmd_parse_tokens(
            "detokenize", cli->values.arguments[i], ids, n, &error);

        if (status == KV_NO_MEMORY)
            return cli_fail(cli, CLI_FAILED, "%s", error.text);
        if (status != KV_OK)
            return cli_fail_usage(cli, &error);
    }
    return CLI_OK;
}

enum cli_exit cmd_detokenize(struct cli *cli)
{
    Kvpool__V1__DetokenizeRequest request =
        KVPOOL__V1__DETOKENIZE_REQUEST__INIT;
    Kvpool__V1__DetokenizeResponse *answer;
    enum cli_exit code =
        read_tokens(cli, &request.token_ids, &request.n_token_ids);

    if (code != CLI_OK)
        goto free_ids;
    request.with_special = cli->values.with_special;
    answer = cli_call(cli, CLI_INFERENCE_SERVICE "Detokenize", &request.base,
        &kvpool__v1__detokenize_response__descriptor, &code);
    if (answer == NULL)
        goto free_ids;
    if (!cli_is_text(cli)) {
        code = cli_print_message(cli, &answer->base);
    } else if (cli->out_tty) {
        text_write(cli->out, answer->text, strlen(answer->text), TEXT_PROSE);
        fputc('\n', cli->out);
    } else {
        fwrite(answer->raw.data, 1, answer->raw.len, cli->out);
    }
    cli_free_answer(answer);

free_ids:
    kv_free(request.token_ids);
    return code;
}
