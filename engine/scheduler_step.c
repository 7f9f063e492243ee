/* Running requests are kept in the order of their rank, and planned in it. Each
 * that only generates takes one token of the budget, which is set apart for it
 * beforehand; the rest is divided among the tenants whose prompts are not
 * computed yet, and each tenant's share goes to the first in rank. */
#include "engine/scheduler_internal.h"

#include <assert.h>

/* ---- planning */

/* Somebody evicted running sessions since the last step: those requests are set
 * aside as well. */
static void notice_evictions(struct scheduler *scheduler, int64_t now_ns)
{
    KV_LIST_EACH (link, &scheduler->running) {
        struct request *request = request_of(link);

        if (pool_session_n_cached(request->session) < request->n_known)
            scheduler_to_waiting(scheduler, request, now_ns);
    }
}

/* Tokens that prompts may take in this step: what the generating leave over,
 * cut so that a step takes about max_step_ns; always at least one. */
static size_t prompt_budget(struct scheduler *scheduler)
{
    size_t budget = scheduler->config.max_batch_tokens;

    if (scheduler->token_ns > 0) {
        double fit =
            (double)scheduler->config.max_step_ns / scheduler->token_ns;

        budget = fit < (double)budget ? (size_t)fit : budget;
    }
    KV_LIST_EACH (link, &scheduler->running)
        if (request_n_pending(request_of(link)) == 1 && budget > 1)
            budget--;
    return budget > 0 ? budget : 1;
}

/* What prompts may take in this step, by tenant. */
static void share_prompts(struct scheduler *scheduler)
{
    KV_LIST_EACH (link, &scheduler->running) {
        const size_t n = request_n_pending(request_of(link));

        if (n > 1)
            tenants_ask(&scheduler->tenants, request_of(link)->tenant, n);
    }
    tenants_divide(&scheduler->tenants, prompt_budget(scheduler));
}

/* Tokens that a request may compute in this step. */
static size_t n_allowed(const struct request *request)
{
    const size_t n = request_n_pending(request),
                 share = request->tenant->n_share;

    return n == 1 || n < share ? n : share;
}

/* The step reads tokens and writes log-probabilities where they lie: while a
 * request is in a step its session gets no tokens, and the request stays. */
static void fill_slice(
    struct request *request, size_t n, struct compute_slice *slice)
{
    size_t n_tokens, n_blocks;
    const uint32_t *tokens = pool_session_tokens(request->session, &n_tokens);
    size_t position = n_tokens - request_n_pending(request);

    *slice = (struct compute_slice){
        .tokens = tokens + position,
        .n_tokens = (uint32_t)n,
        .position = (uint32_t)position,
        .blocks = pool_session_blocks(request->session, &n_blocks),
        .samples = position + n == n_tokens && !request->prefills_only,
        .sampling = request->sampling,
        .draw = request->usage.generated_tokens,
        .history = tokens,
        .n_history = position + n,
        .logprobs = request->wants_logprobs ? &request->logprobs : NULL,
        .n_top_logprobs = request->n_top_logprobs,
    };
}

static void add_to_batch(struct scheduler *scheduler, struct request *request,
    size_t n, struct compute_slice *slices)
{
    if (request_n_pending(request) > 1)
        request->tenant->n_share -= n;
    fill_slice(request, n, &slices[scheduler->n_batch]);
    request->in_step = true;
    request->n_slice = (uint32_t)n;
    scheduler->batch[scheduler->n_batch++] = request;
}

/* Of those that run, whoever gets the blocks for it. */
static void make_batch(
    struct scheduler *scheduler, struct compute_slice *slices, int64_t now_ns)
{
    size_t total = 0;

    share_prompts(scheduler);
    /* Setting requests aside takes younger ones off the list, so the next is
     * looked up by age each time, never remembered. */
    for (struct kv_list *link = scheduler->running.next;
         link != &scheduler->running;) {
        struct request *request = request_of(link);
        struct kv_list *before = link->prev;
        const size_t n = n_allowed(request);

        if (n > 0 && total + n <= scheduler->config.max_batch_tokens &&
            scheduler_make_room(scheduler, request, n, now_ns)) {
            add_to_batch(scheduler, request, n, slices);
            total += n;
        }
        link = before->next == link ? link->next : before->next;
    }
}

/* Where nobody got any, and somebody who ran was turned away or set aside for
 * it, there may be room for one who waits, and nothing else would say so. */
size_t scheduler_plan(
    struct scheduler *scheduler, struct compute_slice *slices, int64_t now_ns)
{
    bool again = false;
    uint64_t n_left;

    assert(!scheduler->in_step);
    notice_evictions(scheduler, now_ns);
    scheduler_end_held_up(scheduler, now_ns);
    scheduler->n_left_before = scheduler->n_left;
    scheduler->n_batch = 0;
    do {
        n_left = scheduler->n_left;
        scheduler_admit_waiting(scheduler, again, now_ns);
        make_batch(scheduler, slices, now_ns);
        again = true;
    } while (scheduler->n_batch == 0 && scheduler->n_left > n_left);
    scheduler->in_step = scheduler->n_batch > 0;
    scheduler->step_began_ns = now_ns;
    return scheduler->n_batch;
}

/* ---- committing */

static void learn_speed(
    struct scheduler *scheduler, size_t n_tokens, int64_t now_ns)
{
    double token_ns =
        (double)(now_ns - scheduler->step_began_ns) / (double)n_tokens;

    /* Steps of a few tokens cost a pass over the weights, whatever they hold,
     * so they only say that a token costs no more than that: which is how a
     * budget cut short by one slow step grows again. */
    if (n_tokens < 16 && token_ns >= scheduler->token_ns)
        return;
    scheduler->token_ns = scheduler->token_ns > 0
                              ? 0.75 * scheduler->token_ns + 0.25 * token_ns
                              : token_ns;
}

static bool ends_after(const struct scheduler *scheduler,
    const struct request *request, uint32_t token, enum request_end *end)
{
    size_t n_tokens;

    pool_session_tokens(request->session, &n_tokens);
    if (tokenizer_is_end(scheduler->config.tokenizer, token) &&
        !request->ignores_end)
        *end = REQUEST_END_OF_TEXT;
    else if (request->text.stopped_by >= 0)
        *end = REQUEST_STOP_STRING;
    else if (request->usage.generated_tokens >= request->max_tokens)
        *end = REQUEST_MAX_TOKENS;
    else if (n_tokens >= scheduler->max_tokens)
        *end = REQUEST_CONTEXT_FULL;
    else
        *end = request->ends_with_step;
    return *end != REQUEST_GOES_ON;
}

static void note_token(
    struct scheduler *scheduler, struct request *request, int64_t now_ns)
{
    struct scheduler_latencies *latencies = &scheduler->latencies;

    if (request->usage.generated_tokens++ == 0) {
        request->first_token_ns = now_ns;
        kv_histogram_add(
            &latencies->first_token, now_ns - request->accepted_ns);
    } else {
        kv_histogram_add(
            &latencies->next_token, now_ns - request->last_token_ns);
    }
    request->last_token_ns = now_ns;
}

static void take_token(struct scheduler *scheduler, struct request *request,
    uint32_t token, int64_t now_ns)
{
    struct gguf_string piece = {NULL, 0};
    enum request_end end;
    size_t n_text;

    if (pool_session_append(
            scheduler->config.pool, request->session, &token, 1) != KV_OK) {
        scheduler_end_request(scheduler, request, REQUEST_NO_MEMORY, now_ns);
        return;
    }
    if (!tokenizer_is_end(scheduler->config.tokenizer, token))
        piece = tokenizer_piece(scheduler->config.tokenizer, token);
    n_text =
        text_stream_put(&request->text, piece.data, piece.n, scheduler->text);
    note_token(scheduler, request, now_ns);
    scheduler->load.generated_tokens++;
    request->ops->on_token(request, token, scheduler->text, n_text);
    if (ends_after(scheduler, request, token, &end))
        scheduler_end_request(scheduler, request, end, now_ns);
}

/* What lay in blocks once and does not now, up to `end`. A last token whose
 * blocks are there, computed only for its logits, is not among them. */
static void count_recomputed(struct scheduler *scheduler,
    struct request *request, size_t end, int64_t now_ns)
{
    size_t computed = pool_session_n_computed(request->session);
    size_t n_cached = pool_session_n_cached(request->session);
    size_t until = end < computed ? end : computed;

    if (until <= n_cached)
        return;
    request->usage.recomputed_tokens += (uint32_t)(until - n_cached);
    scheduler->load.recomputed_tokens += until - n_cached;
    pool_session_count_recomputed(scheduler->config.pool, request->session,
        until - n_cached, request->has_trace_id ? request->trace_id : NULL,
        scheduler->step_began_ns, now_ns);
}

/* Whether nothing but a token could follow, and none is wanted. */
static bool has_prefilled(const struct request *request, size_t end)
{
    size_t n_tokens;

    pool_session_tokens(request->session, &n_tokens);
    return request->prefills_only && end == n_tokens;
}

static void commit_slice(struct scheduler *scheduler, struct request *request,
    const struct compute_slice *slice, int64_t now_ns)
{
    size_t end = slice->position + slice->n_tokens;

    count_recomputed(scheduler, request, end, now_ns);
    pool_session_commit(scheduler->config.pool, request->session, end);
    request->in_step = false;
    request->n_known = end;
    if (slice->samples && request->ends_with_step != REQUEST_CANCELLED)
        take_token(scheduler, request, slice->next_token, now_ns);
    else if (request->ends_with_step != REQUEST_CANCELLED &&
             has_prefilled(request, end))
        scheduler_end_request(scheduler, request, REQUEST_MAX_TOKENS, now_ns);
    else if (request->ends_with_step != REQUEST_GOES_ON)
        scheduler_end_request(
            scheduler, request, request->ends_with_step, now_ns);
}

void scheduler_commit(struct scheduler *scheduler,
    const struct compute_slice *slices, size_t n_slices, int64_t now_ns)
{
    size_t n_tokens = 0;

    assert(scheduler->in_step && n_slices == scheduler->n_batch);
    scheduler->in_step = false;
    scheduler->load.steps++;
    for (size_t i = 0; i < n_slices; i++)
        n_tokens += slices[i].n_tokens;
    learn_speed(scheduler, n_tokens, now_ns);
    for (size_t i = 0; i < n_slices; i++)
        commit_slice(scheduler, scheduler->batch[i], &slices[i], now_ns);
    scheduler->n_batch = 0;
}
