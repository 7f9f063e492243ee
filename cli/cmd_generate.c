/* generate: a continuation, printed as it comes. */
#include <string.h>

#include "base/heap.h"
#include "cli/command.h"
#include "cli/proto_json.h"
#include "cli/text.h"
#include "cli/view.h"
#include "kvpool/v1/inference_service.pb-c.h"

/* A request and the memory of its parts. */
struct prompt {
    Kvpool__V1__GenerateRequest request;
    Kvpool__V1__SamplingParameters sampling;
    Kvpool__V1__TokenIds tokens;
    Kvpool__V1__ContinueFrom continue_from;
    Kvpool__V1__LogitBias *biases;     /* or NULL, and */
    Kvpool__V1__LogitBias **bias_list; /* the message's way to them */
    char *text;                        /* or NULL */
};

/* What has come. */
struct continuation {
    struct rpc_client_stream *stream;
    json_t *text, *token_ids, *logprobs; /* for one document */
    Kvpool__V1__GenerateResponse *started, *finished;
    char last; /* byte of the text printed, '\n' before the first */
};

static enum cli_exit read_input(struct cli *cli, struct prompt *prompt)
{
    const struct option_values *values = &cli->values;
    struct kv_error error;
    enum cli_exit code = CLI_OK;

    if (values->tokens != NULL && values->n_arguments > 0) {
        kv_error_set(&error, KV_INVALID,
            "--tokens: not together with a PROMPT, one of the two is the "
            "input");
        return cli_fail_usage(cli, &error);
    }
    if (values->tokens != NULL) {
        enum kv_status status = cmd_parse_tokens("--tokens", values->tokens,
            &prompt->tokens.ids, &prompt->tokens.n_ids, &error);

        prompt->request.input_case = KVPOOL__V1__GENERATE_REQUEST__INPUT_TOKENS;
        prompt->request.tokens = &prompt->tokens;
        return status == KV_OK ? CLI_OK : cli_fail_usage(cli, &error);
    }
    if (values->n_arguments > 0) {
        prompt->text = cmd_read_text(cli, 0, &code);
        prompt->request.input_case = KVPOOL__V1__GENERATE_REQUEST__INPUT_TEXT;
        prompt->request.text = prompt->text;
        return prompt->text != NULL ? CLI_OK : code;
    }
    if (values->sessions.n == 0) {
        kv_error_set(&error, KV_INVALID,
            "a PROMPT is missing (only a --session can go on without one)");
        return cli_fail_usage(cli, &error);
    }
    return CLI_OK;
}

/* "15=-100", n bytes of it. */
static bool parse_bias(const char *text, size_t n, Kvpool__V1__LogitBias *out)
{
    char copy[64] = "", *value;
    uint64_t token;
    double bias;

    if (n >= sizeof copy)
        return false;
    memcpy(copy, text, n);
    value = strchr(copy, '=');
    if (value == NULL)
        return false;
    *value++ = '\0';
    if (!text_parse_count(copy, UINT32_MAX, &token) ||
        !text_parse_real(value, &bias) || bias < -100 || bias > 100)
        return false;
    kvpool__v1__logit_bias__init(out);
    out->token_id = (uint32_t)token;
    out->bias = (float)bias;
    return true;
}

static size_t count_biases(const char *text)
{
    size_t n = 1;

    for (; *text != '\0'; text++)
        n += *text == ',';
    return n;
}

static enum cli_exit read_biases(struct cli *cli, struct prompt *prompt)
{
    const char *text = cli->values.logit_bias;
    const size_t n = text == NULL ? 0 : count_biases(text);
    struct kv_error error;

    if (n == 0)
        return CLI_OK;
    prompt->biases = kv_calloc(n, sizeof *prompt->biases);
    prompt->bias_list = kv_calloc(n, sizeof(Kvpool__V1__LogitBias *));
    if (prompt->biases == NULL || prompt->bias_list == NULL)
        return cli_fail(cli, CLI_FAILED, "out of memory");
    for (size_t i = 0; i < n; i++) {
        size_t length = strcspn(text, ",");

        if (!parse_bias(text, length, &prompt->biases[i])) {
            kv_error_set(&error, KV_INVALID,
                "--logit-bias: \"%.*s\" given where TOKEN=X belongs, a token "
                "and a number from -100 to 100 as in 15=-100,7=2.5 allowed",
                (int)(length < 32 ? length : 32), text);
            return cli_fail_usage(cli, &error);
        }
        prompt->bias_list[i] = &prompt->biases[i];
        text += length + 1;
    }
    prompt->sampling.logit_bias = prompt->bias_list;
    prompt->sampling.n_logit_bias = n;
    return CLI_OK;
}

static enum cli_exit read_sampling(struct cli *cli, struct prompt *prompt)
{
    const struct option_values *values = &cli->values;
    Kvpool__V1__SamplingParameters *sampling = &prompt->sampling;

    sampling->temperature = (float)values->temperature;
    sampling->top_k = (uint32_t)values->top_k;
    sampling->top_p = (float)values->top_p;
    sampling->min_p = (float)values->min_p;
    sampling->seed = values->seed;
    sampling->repetition_penalty = (float)values->repetition_penalty;
    sampling->frequency_penalty = (float)values->frequency_penalty;
    sampling->presence_penalty = (float)values->presence_penalty;
    sampling->penalty_window = (uint32_t)values->penalty_window;
    prompt->request.sampling = sampling;
    return read_biases(cli, prompt);
}

static enum cli_exit read_logprobs(struct cli *cli, struct prompt *prompt)
{
    const struct option_values *values = &cli->values;
    struct kv_error error;

    if (values->top_logprobs > 0 && !values->logprobs)
        kv_error_set(&error, KV_INVALID, "--top-logprobs: needs --logprobs");
    else if (values->logprobs && cli_is_text(cli))
        kv_error_set(&error, KV_INVALID,
            "--logprobs: given with -o text, allowed with json and jsonl");
    else {
        prompt->request.logprobs = values->logprobs;
        prompt->request.top_logprobs = (uint32_t)values->top_logprobs;
        return CLI_OK;
    }
    return cli_fail_usage(cli, &error);
}

static enum cli_exit read_session(struct cli *cli, struct prompt *prompt)
{
    const struct option_values *values = &cli->values;
    struct kv_error error;

    if (values->sessions.n > 0)
        prompt->request.session_id = (char *)values->sessions.items[0];
    if (values->tenant != NULL)
        prompt->request.tenant = (char *)values->tenant;
    if (!values->continue_from.given)
        return CLI_OK;
    prompt->continue_from.tokens = values->continue_from.n;
    prompt->request.continue_from = &prompt->continue_from;
    if (values->sessions.n > 0)
        return CLI_OK;
    kv_error_set(&error, KV_INVALID, "--continue-from: needs a --session");
    return cli_fail_usage(cli, &error);
}

static enum cli_exit prompt_init(struct prompt *prompt, struct cli *cli)
{
    const struct option_values *values = &cli->values;
    Kvpool__V1__GenerateRequest *request = &prompt->request;
    enum cli_exit code;

    kvpool__v1__generate_request__init(request);
    kvpool__v1__sampling_parameters__init(&prompt->sampling);
    kvpool__v1__token_ids__init(&prompt->tokens);
    kvpool__v1__continue_from__init(&prompt->continue_from);
    prompt->text = NULL;
    prompt->biases = NULL;
    prompt->bias_list = NULL;
    request->max_tokens = (uint32_t)values->max_tokens;
    request->stop = (char **)values->stops.items;
    request->n_stop = values->stops.n;
    request->ignore_eos = values->ignore_eos;
    request->prefill_only = values->prefill_only;
    code = read_session(cli, prompt);
    if (code == CLI_OK)
        code = read_sampling(cli, prompt);
    if (code == CLI_OK)
        code = read_logprobs(cli, prompt);
    if (code != CLI_OK)
        return code;
    return read_input(cli, prompt);
}

static void prompt_fini(struct prompt *prompt)
{
    kv_free(prompt->text);
    kv_free(prompt->tokens.ids);
    kv_free(prompt->bias_list);
    kv_free(prompt->biases);
}

/* ---- what comes */

/* A terminal gets what is harmless; a pipe gets what was generated. */
static void print_text(struct cli *cli, const char *text, char *last)
{
    size_t n = strlen(text);

    if (n == 0)
        return;
    if (cli->out_tty)
        text_write(cli->out, text, n, TEXT_PROSE);
    else
        fwrite(text, 1, n, cli->out);
    *last = text[n - 1];
}

/* For one document: the texts, the tokens and their log-probabilities in a row.
 */
static enum cli_exit gather(struct cli *cli, struct continuation *continuation,
    const Kvpool__V1__GenerateResponse *message)
{
    json_t *json = proto_to_json(&message->base);
    json_t *tokens = json_object_get(json, "token_ids");
    json_t *text = json_object_get(json, "text");
    bool kept = json != NULL &&
                json_array_append(continuation->text, text) == 0 &&
                json_array_extend(continuation->token_ids, tokens) == 0 &&
                json_array_extend(continuation->logprobs,
                    json_object_get(json, "logprobs")) == 0;

    json_decref(json);
    return kept ? CLI_OK : cli_fail(cli, CLI_FAILED, "out of memory");
}

/* Takes the message over. */
static enum cli_exit take_message(struct cli *cli,
    struct continuation *continuation, Kvpool__V1__GenerateResponse *message)
{
    enum cli_exit code = CLI_OK;

    if (cli_is_text(cli))
        print_text(cli, message->text, &continuation->last);
    else if (cli->values.format == OPTION_FORMAT_JSONL)
        code = cli_print_message(cli, &message->base);
    else
        code = gather(cli, continuation, message);
    if (message->started != NULL && continuation->started == NULL)
        continuation->started = message;
    if (message->finished != NULL && continuation->finished == NULL)
        continuation->finished = message;
    if (message != continuation->started && message != continuation->finished)
        cli_free_answer(message);
    return code;
}

static enum cli_exit on_end(struct cli *cli,
    const struct continuation *continuation, const struct rpc_error *error)
{
    if (error->code != RPC_OK)
        return cli_fail_rpc(cli, error);
    if (continuation->finished == NULL)
        return cli_fail(
            cli, CLI_FAILED, "Generate: the stream ended without `finished`");
    return CLI_OK;
}

static enum cli_exit follow(struct cli *cli, struct continuation *continuation)
{
    for (;;) {
        unsigned char *bytes;
        size_t n_bytes;
        struct rpc_error error;
        Kvpool__V1__GenerateResponse *message;
        enum cli_exit code;
        enum kv_status status = rpc_client_stream_next(
            continuation->stream, INT64_MAX, &bytes, &n_bytes, &error);

        if (status == KV_CLOSED)
            return on_end(cli, continuation, &error);
        if (status == KV_BUSY && interrupt_seen(cli->interrupt))
            return CLI_INTERRUPTED;
        if (status == KV_BUSY)
            continue;
        if (status != KV_OK)
            return cli_fail(cli, CLI_FAILED, "%s", kv_status_text(status));
        message = cli_decode(
            &kvpool__v1__generate_response__descriptor, bytes, n_bytes);
        kv_free(bytes);
        if (message == NULL)
            return cli_fail(
                cli, CLI_FAILED, "Generate: a message that is none");
        code = take_message(cli, continuation, message);
        if (code != CLI_OK || !cli_flush(cli))
            return code;
    }
}

/* ---- at the end */

static json_t *joined(const json_t *parts)
{
    size_t n_parts = json_array_size(parts), n = 0, at = 0;
    char *text;
    json_t *json;

    for (size_t i = 0; i < n_parts; i++)
        n += json_string_length(json_array_get(parts, i));
    text = kv_calloc(n + 1, 1);
    if (text == NULL)
        return NULL;
    for (size_t i = 0; i < n_parts; i++) {
        const json_t *part = json_array_get(parts, i);

        memcpy(text + at, json_string_value(part), json_string_length(part));
        at += json_string_length(part);
    }
    json = json_stringn(text, n);
    kv_free(text);
    return json;
}

static enum cli_exit print_document(
    struct cli *cli, struct continuation *continuation)
{
    const Kvpool__V1__GenerateResponse *started = continuation->started;
    const Kvpool__V1__GenerateResponse *finished = continuation->finished;
    json_t *json = json_pack("{s:o, s:O}", "text", joined(continuation->text),
        "token_ids", continuation->token_ids);
    int failure = json == NULL ? -1 : 0;

    if (failure == 0 && cli->values.logprobs)
        failure = json_object_set(json, "logprobs", continuation->logprobs);
    if (failure == 0 && started != NULL)
        failure = json_object_set_new(
            json, "started", proto_to_json(&started->started->base));
    if (failure == 0 && finished != NULL)
        failure = json_object_set_new(
            json, "finished", proto_to_json(&finished->finished->base));
    if (failure != 0) {
        json_decref(json);
        return cli_fail(cli, CLI_FAILED, "out of memory");
    }
    return cli_print_json(cli, json);
}

/* What was generated stands, however the call ended. */
static enum cli_exit report(
    struct cli *cli, struct continuation *continuation, enum cli_exit code)
{
    enum cli_exit printed = CLI_OK;

    if (cli->values.format == OPTION_FORMAT_JSON &&
        continuation->started != NULL)
        printed = print_document(cli, continuation);
    if (cli_is_text(cli) && cli->out_tty && continuation->last != '\n')
        fputc('\n', cli->out);
    cli_flush(cli);
    if (continuation->finished != NULL && (cli->err_tty || cli->values.verbose))
        view_finished(cli->err, continuation->finished->finished);
    return code != CLI_OK ? code : printed;
}

static enum cli_exit generate(
    struct cli *cli, const Kvpool__V1__GenerateRequest *request)
{
    enum cli_exit code = CLI_FAILED;
    struct rpc_client *client = cli_client(cli, &code);
    struct rpc_client_options options = cli_call_options(cli, 0);
    struct continuation continuation = {.last = '\n'};
    unsigned char *bytes;
    size_t n_bytes;
    enum kv_status status = KV_NO_MEMORY;

    if (client == NULL)
        return code;
    continuation.text = json_array();
    continuation.token_ids = json_array();
    continuation.logprobs = json_array();
    bytes = cli_encode(&request->base, &n_bytes);
    if (bytes != NULL && continuation.text != NULL &&
        continuation.token_ids != NULL && continuation.logprobs != NULL)
        status =
            rpc_client_stream_open(client, CLI_INFERENCE_SERVICE "Generate",
                bytes, n_bytes, &options, &continuation.stream);
    kv_free(bytes);
    if (status == KV_OK) {
        interrupt_watch(cli->interrupt, client);
        code = follow(cli, &continuation);
        rpc_client_stream_close(continuation.stream);
        interrupt_unwatch(cli->interrupt);
        code = report(cli, &continuation, code);
    } else {
        code = cli_fail(cli, CLI_FAILED, "%s", kv_status_text(status));
    }
    if (continuation.finished != continuation.started)
        cli_free_answer(continuation.finished);
    cli_free_answer(continuation.started);
    json_decref(continuation.text);
    json_decref(continuation.token_ids);
    json_decref(continuation.logprobs);
    return code;
}

enum cli_exit cmd_generate(struct cli *cli)
{
    struct prompt prompt;
    enum cli_exit code = prompt_init(&prompt, cli);

    if (code == CLI_OK)
        code = generate(cli, &prompt.request);
    prompt_fini(&prompt);
    return code;
}
