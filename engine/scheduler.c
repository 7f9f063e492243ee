#include "engine/scheduler_internal.h"

#include <assert.h>
#include <string.h>

#include "base/heap.h"

enum kv_status scheduler_open(struct scheduler **out,
    const struct scheduler_config *config, struct kv_error *error)
{
    const struct pool_config *pool = pool_config(config->pool);
    struct scheduler *scheduler;

    assert(config->max_running > 0 && config->max_batch_tokens > 0);

    scheduler = kv_calloc(1, sizeof *scheduler);
    if (scheduler == NULL)
        goto fail;
    scheduler->batch = kv_calloc(config->max_running, sizeof(struct request *));
    if (scheduler->batch == NULL)
        goto free_scheduler;
    scheduler->text = kv_calloc(
        1, TEXT_STREAM_OUT_BYTES(tokenizer_longest_piece(config->tokenizer)));
    if (scheduler->text == NULL)
        goto free_batch;

    scheduler->config = *config;
    scheduler->block_tokens = pool->block_tokens;
    scheduler->max_tokens = (uint64_t)pool->n_blocks * pool->block_tokens;
    if (scheduler->max_tokens > config->n_context)
        scheduler->max_tokens = config->n_context;
    kv_list_init(&scheduler->running);
    kv_list_init(&scheduler->waiting);
    tenants_init(&scheduler->tenants);
    *out = scheduler;
    return KV_OK;

free_batch:
    kv_free(scheduler->batch);
free_scheduler:
    kv_free(scheduler);
fail:
    return kv_error_set(error, KV_NO_MEMORY, "no memory for the scheduler");
}

void scheduler_close(struct scheduler *scheduler)
{
    if (scheduler == NULL)
        return;
    assert(scheduler->n_running == 0 && scheduler->n_waiting == 0);
    kv_free(scheduler->text);
    kv_free(scheduler->batch);
    kv_free(scheduler);
}

uint64_t scheduler_max_tokens(const struct scheduler *scheduler)
{
    return scheduler->max_tokens;
}

bool scheduler_in_step(const struct scheduler *scheduler)
{
    return scheduler->in_step;
}

struct scheduler_load scheduler_load(const struct scheduler *scheduler)
{
    struct scheduler_load load = scheduler->load;

    load.running = scheduler->n_running;
    load.waiting = scheduler->n_waiting - load.set_aside;
    return load;
}

const struct scheduler_latencies *scheduler_latencies(
    const struct scheduler *scheduler)
{
    return &scheduler->latencies;
}

/* ---- what a request needs */

size_t request_n_pending(const struct request *request)
{
    size_t n_tokens, n_cached = pool_session_n_cached(request->session);

    pool_session_tokens(request->session, &n_tokens);
    return n_cached < n_tokens ? n_tokens - n_cached : 1;
}

uint64_t scheduler_blocks_for(
    const struct scheduler *scheduler, size_t n_tokens)
{
    return (n_tokens + scheduler->block_tokens - 1) / scheduler->block_tokens;
}

uint64_t scheduler_blocks_missing(
    const struct scheduler *scheduler, const struct request *request)
{
    size_t n_tokens, n_held;
    uint64_t n_needed;

    pool_session_tokens(request->session, &n_tokens);
    pool_session_blocks(request->session, &n_held);
    n_needed = scheduler_blocks_for(scheduler, n_tokens + 1);
    return n_needed > n_held ? n_needed - n_held : 0;
}

/* ---- the two queues */

bool request_outranks(const struct request *a, const struct request *b)
{
    return tenants_outranks(&a->turn, &b->turn);
}

static void insert_by_rank(struct kv_list *list, struct request *request)
{
    struct kv_list *after = list->prev;

    while (after != list && request_outranks(request, request_of(after)))
        after = after->prev;
    kv_list_insert_before(after->next, &request->link);
}

static void enter_waiting(struct scheduler *scheduler, struct request *request)
{
    insert_by_rank(&scheduler->waiting, request);
    tenants_wait(request->tenant, &request->turn);
    scheduler->n_waiting++;
}

static void leave_queue(struct scheduler *scheduler, struct request *request)
{
    kv_list_remove(&request->link);
    kv_list_remove(&request->turn.link);
    if (request->running) {
        request->tenant->n_running--;
        scheduler->n_running--;
        scheduler->n_left++;
    } else {
        scheduler->n_waiting--;
    }
    if (request->set_aside)
        scheduler->load.set_aside--;
    scheduler->n_held_up -= request->is_held_up;
    request->is_held_up = false;
}

void scheduler_to_waiting(
    struct scheduler *scheduler, struct request *request, int64_t now_ns)
{
    leave_queue(scheduler, request);
    request->running = false;
    request->set_aside = true;
    request->set_aside_ns = now_ns;
    request->nth_left = scheduler->n_left;
    request->n_known = 0;
    request->usage.preemptions++;
    scheduler->load.set_aside++;
    scheduler->load.preemptions++;
    enter_waiting(scheduler, request);
}

void scheduler_to_running(
    struct scheduler *scheduler, struct request *request, int64_t now_ns)
{
    leave_queue(scheduler, request);
    if (request->set_aside) {
        request->set_aside = false;
        request->usage.preempted_ns += now_ns - request->set_aside_ns;
    }
    request->running = true;
    request->tenant->n_running++;
    request->n_known = pool_session_n_cached(request->session);
    insert_by_rank(&scheduler->running, request);
    scheduler->n_running++;
}

/* ---- submission */

static void prepare(
    struct request *request, uint64_t age, size_t n_tokens, int64_t now_ns)
{
    memset(&request->usage, 0, sizeof request->usage);
    request->usage.prompt_tokens = (uint32_t)n_tokens;
    request->turn.age = age;
    request->turn.priority = request->priority;
    kv_list_init(&request->turn.link);
    request->started = request->running = request->in_step = false;
    request->set_aside = request->is_held_up = false;
    request->held_up_ns = 0;
    request->ends_with_step = REQUEST_GOES_ON;
    request->n_known = 0;
    request->accepted_ns = now_ns;
    request->first_token_ns = request->last_token_ns = 0;
    text_stream_init(&request->text, request->stops, request->n_stops);
}

static enum kv_status join_tenant(
    struct scheduler *scheduler, struct request *request)
{
    const struct pool_key key =
        pool_session_info(scheduler->config.pool, request->session).key;

    request->tenant =
        tenants_join(&scheduler->tenants, key.tenant, key.tenant_bytes);
    return request->tenant != NULL ? KV_OK : KV_NO_MEMORY;
}

/* How much of the input is what the session has behind its first n_kept tokens.
 */
static size_t count_repeated(const struct request *request, size_t n_kept,
    const uint32_t *input, size_t n_input)
{
    size_t n_tokens, n = 0;
    const uint32_t *tokens = pool_session_tokens(request->session, &n_tokens);

    while (
        n < n_input && n_kept + n < n_tokens && tokens[n_kept + n] == input[n])
        n++;
    return n;
}

/* The first n_kept tokens of the conversation, and these. KV_NO_MEMORY leaves
 * the first only. */
static enum kv_status put_behind(struct scheduler *scheduler,
    struct request *request, size_t n_kept, const uint32_t *tokens,
    size_t n_tokens, int64_t now_ns)
{
    const size_t n_repeated = count_repeated(request, n_kept, tokens, n_tokens);
    enum kv_status status;

    pool_session_truncate(
        scheduler->config.pool, request->session, n_kept + n_repeated, now_ns);
    if (n_repeated == n_tokens)
        return KV_OK;
    status = pool_session_append(scheduler->config.pool, request->session,
        tokens + n_repeated, n_tokens - n_repeated);
    if (status != KV_OK)
        pool_session_truncate(
            scheduler->config.pool, request->session, n_kept, now_ns);
    return status;
}

static void forget_dropped(struct request *request)
{
    kv_free(request->dropped);
    request->dropped = NULL;
}

/* The conversation as it was: what was dropped comes back, for which there is
 * room, since it was there. */
static void put_back(struct scheduler *scheduler, struct request *request,
    size_t n_kept, int64_t now_ns)
{
    put_behind(scheduler, request, n_kept, request->dropped, request->n_dropped,
        now_ns);
}

/* Of a session that has begun. */
static enum kv_status take_input(struct scheduler *scheduler,
    struct request *request, size_t n_kept, const uint32_t *tokens,
    size_t n_tokens, int64_t now_ns)
{
    enum kv_status status =
        put_behind(scheduler, request, n_kept, tokens, n_tokens, now_ns);

    if (status != KV_OK)
        return status;
    if (!scheduler_fits_hard_quota(scheduler, request, now_ns))
        return KV_OVER_QUOTA;
    return join_tenant(scheduler, request);
}

/* The same, or the conversation as it was. */
static enum kv_status replace_end(struct scheduler *scheduler,
    struct request *request, const uint32_t *tokens, size_t n_tokens,
    int64_t now_ns)
{
    const size_t n_dropped = request->n_dropped;
    size_t n_before, n_kept;
    const uint32_t *before = pool_session_tokens(request->session, &n_before);
    enum kv_status status;

    assert(n_dropped <= n_before);
    n_kept = n_before - n_dropped;
    request->dropped = NULL;
    if (n_dropped > 0) {
        request->dropped = kv_calloc(n_dropped, sizeof *request->dropped);
        if (request->dropped == NULL)
            return KV_NO_MEMORY;
        memcpy(request->dropped, before + n_kept,
            n_dropped * sizeof *request->dropped);
    }
    status = take_input(scheduler, request, n_kept, tokens, n_tokens, now_ns);
    if (status != KV_OK) {
        put_back(scheduler, request, n_kept, now_ns);
        forget_dropped(request);
    }
    return status;
}

enum kv_status scheduler_submit(struct scheduler *scheduler,
    struct request *request, const uint32_t *tokens, size_t n_tokens,
    int64_t now_ns)
{
    struct pool *pool = scheduler->config.pool;
    enum kv_status status = pool_session_begin(pool, request->session);

    if (status != KV_OK)
        return status;
    if (scheduler_load(scheduler).waiting >= scheduler->config.max_waiting)
        status = KV_LIMIT;
    else
        status = replace_end(scheduler, request, tokens, n_tokens, now_ns);
    if (status != KV_OK) {
        pool_session_end(pool, request->session, now_ns);
        return status;
    }
    prepare(request, scheduler->next_age++, n_tokens, now_ns);
    enter_waiting(scheduler, request);
    pool_session_tokens(request->session, &n_tokens);
    scheduler->load.prompt_tokens += n_tokens;
    return KV_OK;
}

/* ---- the end of a request */

static void note_times(struct request *request, int64_t now_ns)
{
    struct request_usage *usage = &request->usage;

    if (request->set_aside)
        usage->preempted_ns += now_ns - request->set_aside_ns;
    if (!request->started)
        usage->queue_ns = now_ns - request->accepted_ns;
    if (usage->generated_tokens > 0) {
        usage->ttft_ns = request->first_token_ns - request->accepted_ns;
        usage->decode_ns = request->last_token_ns - request->first_token_ns;
    }
    usage->total_ns = now_ns - request->accepted_ns;
}

void scheduler_end_request(struct scheduler *scheduler, struct request *request,
    enum request_end end, int64_t now_ns)
{
    size_t n_text = text_stream_end(&request->text, scheduler->text);

    note_times(request, now_ns);
    forget_dropped(request);
    leave_queue(scheduler, request);
    scheduler->n_left_before = scheduler->n_left;
    tenants_leave(request->tenant);
    pool_session_end(scheduler->config.pool, request->session, now_ns);
    request->ops->on_ended(request, end, scheduler->text, n_text);
}

void scheduler_turn_away(struct scheduler *scheduler, struct request *request,
    enum request_end end, int64_t now_ns)
{
    size_t n_tokens;

    pool_session_tokens(request->session, &n_tokens);
    if (request->usage.generated_tokens == 0)
        put_back(scheduler, request, n_tokens - request->usage.prompt_tokens,
            now_ns);
    scheduler_end_request(scheduler, request, end, now_ns);
}

void scheduler_cancel(
    struct scheduler *scheduler, struct request *request, int64_t now_ns)
{
    if (request->in_step)
        request->ends_with_step = REQUEST_CANCELLED;
    else
        scheduler_end_request(scheduler, request, REQUEST_CANCELLED, now_ns);
}

static void hand_back(
    struct scheduler *scheduler, struct kv_list *queue, int64_t now_ns)
{
    KV_LIST_EACH (link, queue)
        if (!request_of(link)->in_step)
            scheduler_end_request(
                scheduler, request_of(link), REQUEST_DRAINED, now_ns);
}

void scheduler_hand_back(struct scheduler *scheduler, int64_t now_ns)
{
    hand_back(scheduler, &scheduler->waiting, now_ns);
    hand_back(scheduler, &scheduler->running, now_ns);
    /* Those in the step end with it; one that was cancelled stays so. */
    KV_LIST_EACH (link, &scheduler->running)
        if (request_of(link)->ends_with_step == REQUEST_GOES_ON)
            request_of(link)->ends_with_step = REQUEST_DRAINED;
}

static void fail_all(
    struct scheduler *scheduler, struct kv_list *queue, int64_t now_ns)
{
    KV_LIST_EACH (link, queue)
        scheduler_turn_away(
            scheduler, request_of(link), REQUEST_MODEL_LOST, now_ns);
}

void scheduler_fail(struct scheduler *scheduler, int64_t now_ns)
{
    for (size_t i = 0; i < scheduler->n_batch; i++)
        scheduler->batch[i]->in_step = false;
    scheduler->n_batch = 0;
    scheduler->in_step = false;
    fail_all(scheduler, &scheduler->running, now_ns);
    fail_all(scheduler, &scheduler->waiting, now_ns);
}
