#include "server/logprobs.h"

#include <string.h>

#include "base/heap.h"

/* Behind the alternatives that there are stands a token that is none. */
#define NO_TOKEN UINT32_MAX

void logprobs_init(struct logprobs *logprobs, uint32_t n_top)
{
    *logprobs = (struct logprobs){.n_each = (size_t)n_top + 1};
}

void logprobs_fini(struct logprobs *logprobs)
{
    kv_free(logprobs->entries);
}

static bool make_room(struct logprobs *logprobs)
{
    const size_t room = logprobs->room == 0 ? 16 : 2 * logprobs->room;
    struct sampler_entry *grown;

    if (logprobs->n_tokens < logprobs->room)
        return true;
    grown =
        kv_realloc(logprobs->entries, room * logprobs->n_each * sizeof *grown);
    if (grown == NULL)
        return false;
    logprobs->entries = grown;
    logprobs->room = room;
    return true;
}

bool logprobs_put(struct logprobs *logprobs, uint32_t token,
    const struct sampler_logprobs *measured)
{
    struct sampler_entry *at;

    if (!make_room(logprobs))
        return false;
    at = logprobs->entries + logprobs->n_tokens++ * logprobs->n_each;
    at[0] = (struct sampler_entry){measured->chosen, token};
    for (size_t i = 1; i < logprobs->n_each; i++)
        at[i] = i <= measured->n_top ? measured->top[i - 1]
                                     : (struct sampler_entry){0, NO_TOKEN};
    return true;
}

/* What one allocation holds, in this order; all of it is aligned to pointers.
 */
struct message_parts {
    Kvpool__V1__TokenLogprob **list;
    Kvpool__V1__TokenAlternative **alternative_list;
    Kvpool__V1__TokenLogprob *tokens;
    Kvpool__V1__TokenAlternative *alternatives;
};

static bool allocate_parts(
    struct message_parts *parts, size_t n, size_t n_alternatives)
{
    const size_t bytes = n * (sizeof *parts->list + sizeof *parts->tokens) +
                         n_alternatives * (sizeof *parts->alternative_list +
                                              sizeof *parts->alternatives);
    unsigned char *at = kv_calloc(1, bytes);

    if (at == NULL)
        return false;
    parts->list = (Kvpool__V1__TokenLogprob **)(void *)at;
    at += n * sizeof *parts->list;
    parts->alternative_list = (Kvpool__V1__TokenAlternative **)(void *)at;
    at += n_alternatives * sizeof *parts->alternative_list;
    parts->tokens = (Kvpool__V1__TokenLogprob *)(void *)at;
    at += n * sizeof *parts->tokens;
    parts->alternatives = (Kvpool__V1__TokenAlternative *)(void *)at;
    return true;
}

static ProtobufCBinaryData piece_of(
    const struct tokenizer *tokenizer, uint32_t token)
{
    const struct gguf_string piece = tokenizer_piece(tokenizer, token);

    return (ProtobufCBinaryData){piece.n, (uint8_t *)piece.data};
}

/* Of a token, whose alternatives go where the pointers say. */
static void fill_token(Kvpool__V1__TokenLogprob *out,
    const struct sampler_entry *entries, size_t n_entries,
    Kvpool__V1__TokenAlternative *alternatives,
    Kvpool__V1__TokenAlternative **list, const struct tokenizer *tokenizer)
{
    kvpool__v1__token_logprob__init(out);
    out->token_id = entries[0].token;
    out->logprob = entries[0].logit;
    out->piece = piece_of(tokenizer, entries[0].token);
    out->top = list;
    for (size_t i = 1; i < n_entries && entries[i].token != NO_TOKEN; i++) {
        Kvpool__V1__TokenAlternative *alternative = &alternatives[i - 1];

        kvpool__v1__token_alternative__init(alternative);
        alternative->token_id = entries[i].token;
        alternative->logprob = entries[i].logit;
        alternative->piece = piece_of(tokenizer, entries[i].token);
        list[out->n_top++] = alternative;
    }
}

Kvpool__V1__TokenLogprob **logprobs_make(const struct logprobs *logprobs,
    size_t n, const struct tokenizer *tokenizer)
{
    const size_t n_each = logprobs->n_each, n_top = n_each - 1;
    struct message_parts parts;

    if (!allocate_parts(&parts, n, n * n_top))
        return NULL;
    for (size_t i = 0; i < n; i++) {
        parts.list[i] = &parts.tokens[i];
        fill_token(&parts.tokens[i], logprobs->entries + i * n_each, n_each,
            parts.alternatives + i * n_top, parts.alternative_list + i * n_top,
            tokenizer);
    }
    return parts.list;
}

void logprobs_drop(struct logprobs *logprobs, size_t n)
{
    if (n == 0)
        return;
    logprobs->n_tokens -= n;
    memmove(logprobs->entries, logprobs->entries + n * logprobs->n_each,
        logprobs->n_tokens * logprobs->n_each * sizeof *logprobs->entries);
}
