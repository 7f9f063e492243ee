/* What a GenerateRequest may say, whatever the state of its session. */
#include <inttypes.h>
#include <stdio.h>
#include <string.h>

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

static void check_sampling(struct rpc_error *error,
    const Kvpool__V1__SamplingParameters *sampling, uint32_t n_vocab)
{
    if (sampling == NULL)
        return;
    check_real(error, "sampling.temperature", sampling->temperature, 0, 2);
    check_real(error, "sampling.top_p", sampling->top_p, 0, 1);
    check_count(error, "sampling.top_k", sampling->top_k, 1, n_vocab, 0);
    check_unsupported(error, "sampling.min_p", sampling->min_p != 0);
    check_unsupported(error, "sampling.repetition_penalty",
        sampling->repetition_penalty != 0 && sampling->repetition_penalty != 1);
    check_unsupported(
        error, "sampling.frequency_penalty", sampling->frequency_penalty != 0);
    check_unsupported(
        error, "sampling.presence_penalty", sampling->presence_penalty != 0);
    check_unsupported(
        error, "sampling.penalty_window", sampling->penalty_window != 0);
    check_unsupported(error, "sampling.logit_bias", sampling->n_logit_bias > 0);
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
    check_sampling(error, message->sampling, shape->n_vocab);
    check_stops(error, message);
    check_unsupported(error, "continue_from", message->continue_from != NULL);
    retention_check(
        error, "retention", message->retention, message->session_id[0] != '\0');
    check_unsupported(error, "logprobs", message->logprobs);
    check_unsupported(error, "top_logprobs", message->top_logprobs != 0);
    check_unsupported(error, "ignore_eos", message->ignore_eos);
    check_unsupported(error, "prefill_only", message->prefill_only);
}
