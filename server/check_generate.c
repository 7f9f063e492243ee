/* What a GenerateRequest may say, whatever the state of its session. */
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "engine/sampler.h"
#include "engine/text_stream.h"
#include "server/check.h"
#include "server/retention.h"

static void check_real(struct rpc_error *error, const char *field, float value,
    float least, float most)
{
    if (!(value >= least && value <= most))
        rpc_error_add_violation(error, field,
            "%g was given; allowed are %g to %g", (double)value, (double)least,
            (double)most);
}

static void check_repetition(struct rpc_error *error, float penalty)
{
    /* The negated form is true for what is not a number, too. */
    if (!(penalty >= 0 && penalty <= 2))
        rpc_error_add_violation(error, "sampling.repetition_penalty",
            "%g was given; allowed are above 0 to 2, or 0 for none",
            (double)penalty);
}

static int by_number(const void *a, const void *b)
{
    const uint32_t *x = a, *y = b;

    return (*x > *y) - (*x < *y);
}

/* Each token once. */
static void check_bias_tokens(
    struct rpc_error *error, const Kvpool__V1__SamplingParameters *sampling)
{
    uint32_t tokens[CHECK_MAX_BIASES];
    const size_t n = sampling->n_logit_bias;

    for (size_t i = 0; i < n; i++)
        tokens[i] = sampling->logit_bias[i]->token_id;
    qsort(tokens, n, sizeof *tokens, by_number);
    for (size_t i = 1; i < n; i++)
        if (tokens[i] == tokens[i - 1]) {
            rpc_error_add_violation(error, "sampling.logit_bias",
                "token_id %" PRIu32
                " was given more than once; allowed is each token once",
                tokens[i]);
            return;
        }
}

/* The first entry that is wrong is named. */
static void check_biases(struct rpc_error *error,
    const Kvpool__V1__SamplingParameters *sampling, uint32_t n_vocab)
{
    const size_t n_before = error->n_violations + error->n_violations_left_out;
    char path[64];

    if (sampling->n_logit_bias > CHECK_MAX_BIASES) {
        rpc_error_add_violation(error, "sampling.logit_bias",
            "%zu were given; allowed are at most %d", sampling->n_logit_bias,
            CHECK_MAX_BIASES);
        return;
    }
    for (size_t i = 0; i < sampling->n_logit_bias; i++) {
        const Kvpool__V1__LogitBias *bias = sampling->logit_bias[i];

        snprintf(path, sizeof path, "sampling.logit_bias[%zu].token_id", i);
        if (bias->token_id >= n_vocab)
            rpc_error_add_violation(error, path,
                "%" PRIu32 " was given; allowed are 0 to %" PRIu32,
                bias->token_id, n_vocab - 1);
        snprintf(path, sizeof path, "sampling.logit_bias[%zu].bias", i);
        check_real(error, path, bias->bias, -100, 100);
        if (error->n_violations + error->n_violations_left_out > n_before)
            return;
    }
    check_bias_tokens(error, sampling);
}

static void check_sampling(struct rpc_error *error,
    const Kvpool__V1__SamplingParameters *sampling,
    const struct model_shape *shape)
{
    if (sampling == NULL)
        return;
    check_real(error, "sampling.temperature", sampling->temperature, 0, 2);
    check_real(error, "sampling.top_p", sampling->top_p, 0, 1);
    check_count(error, "sampling.top_k", sampling->top_k, 1, shape->n_vocab, 0);
    check_real(error, "sampling.min_p", sampling->min_p, 0, 1);
    check_repetition(error, sampling->repetition_penalty);
    check_real(error, "sampling.frequency_penalty", sampling->frequency_penalty,
        -2, 2);
    check_real(
        error, "sampling.presence_penalty", sampling->presence_penalty, -2, 2);
    check_count(error, "sampling.penalty_window", sampling->penalty_window, 1,
        shape->n_context, 0);
    check_biases(error, sampling, shape->n_vocab);
}

static void check_logprobs(
    struct rpc_error *error, const Kvpool__V1__GenerateRequest *message)
{
    check_count(
        error, "top_logprobs", message->top_logprobs, 1, SAMPLER_MAX_TOP, 0);
    if (message->top_logprobs > 0 && !message->logprobs)
        rpc_error_add_violation(error, "top_logprobs",
            "%" PRIu32 " was given; allowed with logprobs only",
            message->top_logprobs);
}

static void check_stops(
    struct rpc_error *error, const Kvpool__V1__GenerateRequest *message)
{
    char path[32];

    if (message->n_stop > TEXT_STREAM_MAX_STOPS) {
        rpc_error_add_violation(error, "stop",
            "%zu were given; allowed are at most %d", message->n_stop,
            TEXT_STREAM_MAX_STOPS);
        return;
    }
    for (size_t i = 0; i < message->n_stop; i++) {
        size_t n = strlen(message->stop[i]);

        snprintf(path, sizeof path, "stop[%zu]", i);
        if (n < 1 || n > TEXT_STREAM_STOP_BYTES)
            rpc_error_add_violation(error, path,
                "%zu bytes were given; allowed are 1 to %d", n,
                TEXT_STREAM_STOP_BYTES);
    }
}

void check_generate(struct rpc_error *error, const struct model_shape *shape,
    const Kvpool__V1__GenerateRequest *message)
{
    if (message->session_id[0] != '\0')
        check_session_id(error, "session_id", message->session_id);
    check_tenant(error, "tenant", message->tenant);
    if (message->input_case == KVPOOL__V1__GENERATE_REQUEST__INPUT_TOKENS)
        check_ids(error, "tokens.ids", message->tokens->ids,
            message->tokens->n_ids, shape->n_vocab);
    check_count(error, "max_tokens", message->max_tokens, 1, shape->n_context,
        CHECK_STANDARD_MAX_TOKENS);
    check_sampling(error, message->sampling, shape);
    check_stops(error, message);
    if (message->continue_from != NULL && message->session_id[0] == '\0')
        rpc_error_add_violation(error, "continue_from",
            "%" PRIu64 " tokens were given; allowed with a session_id only",
            message->continue_from->tokens);
    retention_check(
        error, "retention", message->retention, message->session_id[0] != '\0');
    check_logprobs(error, message);
}
