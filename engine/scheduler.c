#include "engine/scheduler.h"

#include <assert.h>
#include <string.h>

#include "base/heap.h"

/* How a plan is made
 *
 * Running requests are kept in the order of their rank, and planned in it. Each
 * that only generates takes one token of the budget, which is set apart for it
 * beforehand; the rest is divided among the tenants whose prompts are not
 * computed yet, and each tenant's share goes to the first in rank.
 *
 * A request that needs blocks asks the pool, which gives up idle sessions if it
 * has to. When even that is not enough, blocks are taken from the last in rank
 * that holds any; where only the quota of the tenant is in the way, from the
 * last of that tenant. That one is never in the plan yet: victims are behind
 * whoever forces them, and are planned later. Blocks
 * that were given up are zeroed first; until then the pool answers KV_BUSY and
 * the request sits this step out.
 *
 * A request whose prompt begins as that of a running one, which has yet to
 * compute that beginning, waits for it and takes it over: prompts that arrive
 * together are computed once. Others may go in before it meanwhile.
 *
 * Waiting requests take turns by tenant, those set aside among them; where
 * nothing runs the first in rank of all goes in, which is what keeps requests
 * from taking blocks from each other for ever. They are let in only while the
 * pool, and their tenant's quota, could hold all of their conversation beside
 * what the running sequences still need of theirs, and a block more for each,
 * or else they would push each other out again at every step. What those of a
 * lower priority hold counts as free for that: they are set aside for it. One
 * of them also gives up its place in a full batch, with its blocks as long as
 * nobody needs them. */

struct scheduler {
    struct scheduler_config config;
    uint32_t block_tokens;
    uint64_t max_tokens;
    struct kv_list running, waiting; /* first in rank first */
    struct tenants tenants;
    uint32_t n_running, n_waiting; /* n_waiting includes those set aside */
    uint32_t n_held_up;            /* of those that wait */
    uint64_t next_age;
    struct request **batch; /* [max_running], those of the present step */
    size_t n_batch;
    bool in_step;
    int64_t step_began_ns;
    double token_ns; /* what a token cost lately; 0: not known */
    char *text;      /* room for the longest piece */
    struct scheduler_load load;
    struct scheduler_latencies latencies;
};

static struct request *request_of(struct kv_list *link)
{
    return KV_LIST_ENTRY(link, struct request, link);
}

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

/* ---- the two queues */

static struct pool_key key_of(
    const struct scheduler *scheduler, const struct request *request)
{
    return pool_session_info(scheduler->config.pool, request->session).key;
}

static bool outranks(const struct request *a, const struct request *b)
{
    return tenants_outranks(&a->turn, &b->turn);
}

static void insert_by_rank(struct kv_list *list, struct request *request)
{
    struct kv_list *after = list->prev;

    while (after != list && outranks(request, request_of(after)))
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
    } else {
        scheduler->n_waiting--;
    }
    if (request->set_aside)
        scheduler->load.set_aside--;
    scheduler->n_held_up -= request->is_held_up;
    request->is_held_up = false;
}

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
    const struct pool_key key = key_of(scheduler, request);

    request->tenant =
        tenants_join(&scheduler->tenants, key.tenant, key.tenant_bytes);
    return request->tenant != NULL ? KV_OK : KV_NO_MEMORY;
}

static uint64_t blocks_for(const struct scheduler *scheduler, size_t n_tokens)
{
    return (n_tokens + scheduler->block_tokens - 1) / scheduler->block_tokens;
}

/* Blocks that a request has yet to get for its conversation and a token. */
static uint64_t blocks_missing(
    const struct scheduler *scheduler, const struct request *request)
{
    size_t n_tokens, n_held;
    uint64_t n_needed;

    pool_session_tokens(request->session, &n_tokens);
    pool_session_blocks(request->session, &n_held);
    n_needed = blocks_for(scheduler, n_tokens + 1);
    return n_needed > n_held ? n_needed - n_held : 0;
}

/* Why it gets no n blocks more. */
static void note_quota(struct request *request, uint64_t n)
{
    const struct pool_tenant_info tenant =
        pool_session_tenant(request->session);
    const struct pool_quota *quota = &tenant.quota;
    const bool is_hard = quota->hard_blocks > 0 &&
                         tenant.n_pinned_blocks + n > quota->hard_blocks;

    request->quota = (struct request_quota){
        .used_blocks = tenant.n_used_blocks,
        .needed_blocks = n,
        .quota_blocks = is_hard ? quota->hard_blocks : quota->soft_blocks,
    };
}

/* Whether the request's tenant may have what the request needs, beside what
 * runs and what is held; what others of it have computed needs no block. */
static bool fits_hard_quota(
    struct scheduler *scheduler, struct request *request, int64_t now_ns)
{
    const struct pool_tenant_info tenant =
        pool_session_tenant(request->session);
    uint64_t n = blocks_missing(scheduler, request);

    if (tenant.quota.hard_blocks == 0 ||
        tenant.n_pinned_blocks + n <= tenant.quota.hard_blocks)
        return true;
    pool_session_adopt(scheduler->config.pool, request->session, now_ns);
    n = blocks_missing(scheduler, request);
    if (pool_session_tenant(request->session).n_pinned_blocks + n <=
        tenant.quota.hard_blocks)
        return true;
    note_quota(request, n);
    return false;
}

/* The session as it was before the input. */
static void take_input_back(struct scheduler *scheduler,
    struct request *request, size_t n_input, int64_t now_ns)
{
    size_t n_tokens;

    pool_session_tokens(request->session, &n_tokens);
    pool_session_truncate(
        scheduler->config.pool, request->session, n_tokens - n_input, now_ns);
}

/* Of a session that has begun. */
static enum kv_status take_input(struct scheduler *scheduler,
    struct request *request, const uint32_t *tokens, size_t n_tokens,
    int64_t now_ns)
{
    enum kv_status status = pool_session_append(
        scheduler->config.pool, request->session, tokens, n_tokens);

    if (status != KV_OK)
        return status;
    if (!fits_hard_quota(scheduler, request, now_ns)) {
        take_input_back(scheduler, request, n_tokens, now_ns);
        return KV_OVER_QUOTA;
    }
    status = join_tenant(scheduler, request);
    if (status != KV_OK)
        take_input_back(scheduler, request, n_tokens, now_ns);
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
        status = take_input(scheduler, request, tokens, n_tokens, now_ns);
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

static void end_request(struct scheduler *scheduler, struct request *request,
    enum request_end end, int64_t now_ns)
{
    size_t n_text = text_stream_end(&request->text, scheduler->text);

    note_times(request, now_ns);
    leave_queue(scheduler, request);
    tenants_leave(request->tenant);
    pool_session_end(scheduler->config.pool, request->session, now_ns);
    request->ops->on_ended(request, end, scheduler->text, n_text);
}

void scheduler_cancel(
    struct scheduler *scheduler, struct request *request, int64_t now_ns)
{
    if (request->in_step)
        request->ends_with_step = REQUEST_CANCELLED;
    else
        end_request(scheduler, request, REQUEST_CANCELLED, now_ns);
}

static void hand_back(
    struct scheduler *scheduler, struct kv_list *queue, int64_t now_ns)
{
    KV_LIST_EACH (link, queue)
        if (!request_of(link)->in_step)
            end_request(scheduler, request_of(link), REQUEST_DRAINED, now_ns);
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

/* ---- planning */

/* Tokens of the conversation that are not in blocks; at least the last one,
 * whose logits say how to go on. */
static size_t n_pending(const struct request *request)
{
    size_t n_tokens, n_cached = pool_session_n_cached(request->session);

    pool_session_tokens(request->session, &n_tokens);
    return n_cached < n_tokens ? n_tokens - n_cached : 1;
}

static void to_waiting(
    struct scheduler *scheduler, struct request *request, int64_t now_ns)
{
    leave_queue(scheduler, request);
    request->running = false;
    request->set_aside = true;
    request->set_aside_ns = now_ns;
    request->n_known = 0;
    request->usage.preemptions++;
    scheduler->load.set_aside++;
    scheduler->load.preemptions++;
    enter_waiting(scheduler, request);
}

/* Somebody evicted running sessions since the last step: those requests are set
 * aside as well. */
static void notice_evictions(struct scheduler *scheduler, int64_t now_ns)
{
    KV_LIST_EACH (link, &scheduler->running) {
        struct request *request = request_of(link);

        if (pool_session_n_cached(request->session) < request->n_known)
            to_waiting(scheduler, request, now_ns);
    }
}

static bool holds_blocks(const struct request *request)
{
    size_t n_blocks;

    pool_session_blocks(request->session, &n_blocks);
    return n_blocks > 0;
}

/* The last in rank of the queue that holds blocks; of one tenant, unless that
 * is NULL. */
static struct request *last_holder(
    struct kv_list *queue, const struct tenant *tenant)
{
    for (struct kv_list *link = queue->prev; link != queue; link = link->prev) {
        struct request *request = request_of(link);

        if (holds_blocks(request) &&
            (tenant == NULL || request->tenant == tenant))
            return request;
    }
    return NULL;
}

/* The last in rank that holds blocks, if it is behind `needy`; else needy
 * itself. */
static struct request *choose_victim(struct scheduler *scheduler,
    struct request *needy, const struct tenant *tenant)
{
    struct request *running = last_holder(&scheduler->running, tenant);
    struct request *victim = last_holder(&scheduler->waiting, tenant);

    if (victim == NULL || (running != NULL && outranks(victim, running)))
        victim = running;
    return victim != NULL && outranks(needy, victim) ? victim : needy;
}

static void set_aside(struct scheduler *scheduler, struct request *victim,
    const struct request *needy, int64_t now_ns)
{
    struct pool *pool = scheduler->config.pool;
    const struct pool_key forced_by = key_of(scheduler, needy);
    const struct pool_cause cause = {
        .reason = POOL_REASON_PRESSURE,
        .forced_by = &forced_by,
        .trace_id = needy->has_trace_id ? needy->trace_id : NULL,
    };

    if (holds_blocks(victim)) {
        struct pool_batch_scope scope = pool_batch_begin(pool, now_ns);

        pool_session_preempt(pool, victim->session, &cause, now_ns);
        pool_batch_end(pool, &scope, &cause, now_ns);
    }
    if (victim->running)
        to_waiting(scheduler, victim, now_ns);
}

/* What it needs cannot be had. Where nothing was generated the session is as it
 * was, so that the same request may come again. */
static void turn_away(struct scheduler *scheduler, struct request *request,
    enum request_end end, int64_t now_ns)
{
    if (request->usage.generated_tokens == 0)
        take_input_back(
            scheduler, request, request->usage.prompt_tokens, now_ns);
    end_request(scheduler, request, end, now_ns);
}

/* ---- what pins and leases hold */

static bool others_hold_blocks(
    const struct kv_list *queue, const struct request *request)
{
    for (struct kv_list *link = queue->next; link != queue; link = link->next)
        if (request_of(link) != request && holds_blocks(request_of(link)))
            return true;
    return false;
}

/* Whether no other request has blocks, so that what it cannot have is held by
 * pins and leases. */
static bool has_pool_alone(
    const struct scheduler *scheduler, const struct request *request)
{
    return !others_hold_blocks(&scheduler->running, request) &&
           !others_hold_blocks(&scheduler->waiting, request);
}

static int64_t hold_wait_end_ns(
    const struct scheduler *scheduler, const struct request *request)
{
    return request->held_up_ns + scheduler->config.max_hold_wait_ns;
}

static struct request_shortage shortage_of(
    const struct scheduler *scheduler, const struct request *request)
{
    const struct pool *pool = scheduler->config.pool;
    size_t n_tokens, n_own;

    pool_session_tokens(request->session, &n_tokens);
    pool_session_blocks(request->session, &n_own);
    return (struct request_shortage){
        .needed_blocks = blocks_for(scheduler, n_tokens + 1),
        .held_blocks = pool_blocks(pool).pinned - n_own,
        .holds = pool_holds(pool),
    };
}

/* It waits, with the blocks it has, until a hold ends; if none does in time it
 * goes at once. Others go first meanwhile. */
static void hold_up(
    struct scheduler *scheduler, struct request *request, int64_t now_ns)
{
    if (request->held_up_ns == 0)
        request->held_up_ns = now_ns;
    request->shortage = shortage_of(scheduler, request);
    if (request->shortage.holds.first_end_ns >
        hold_wait_end_ns(scheduler, request)) {
        turn_away(scheduler, request, REQUEST_HELD_UP, now_ns);
        return;
    }
    if (request->running)
        to_waiting(scheduler, request, now_ns);
    request->n_hold_ends = pool_hold_ends(scheduler->config.pool);
    scheduler->n_held_up += !request->is_held_up;
    request->is_held_up = true;
}

/* Whether no hold has ended since it looked. */
static bool is_held_up_yet(
    const struct scheduler *scheduler, const struct request *request)
{
    return request->is_held_up &&
           request->n_hold_ends == pool_hold_ends(scheduler->config.pool);
}

static void end_held_up(struct scheduler *scheduler, int64_t now_ns)
{
    if (scheduler->n_held_up == 0)
        return;
    KV_LIST_EACH (link, &scheduler->waiting) {
        struct request *request = request_of(link);

        if (request->is_held_up &&
            hold_wait_end_ns(scheduler, request) <= now_ns)
            turn_away(scheduler, request, REQUEST_HELD_UP, now_ns);
    }
}

int64_t scheduler_next_deadline(const struct scheduler *scheduler)
{
    int64_t deadline_ns = INT64_MAX;

    if (scheduler->n_held_up == 0)
        return INT64_MAX;
    for (struct kv_list *link = scheduler->waiting.next;
         link != &scheduler->waiting; link = link->next) {
        const struct request *request = request_of(link);
        int64_t end_ns = hold_wait_end_ns(scheduler, request);

        if (request->is_held_up && end_ns < deadline_ns)
            deadline_ns = end_ns;
    }
    return deadline_ns;
}

/* Takes blocks from whoever is last, of one tenant or (NULL) of all, for a
 * request that may be the last itself. false: it gets none in this step. */
static bool take_blocks(struct scheduler *scheduler, struct request *request,
    const struct tenant *tenant, int64_t now_ns)
{
    struct request *victim = choose_victim(scheduler, request, tenant);

    if (holds_blocks(victim) && !pool_may_evict(scheduler->config.pool)) {
        turn_away(scheduler, request, REQUEST_NO_EVICTION, now_ns);
        return false;
    }
    set_aside(scheduler, victim, request, now_ns);
    return victim != request;
}

/* Whether another active request of its tenant holds blocks. */
static bool has_company(struct scheduler *scheduler, struct request *request)
{
    bool found = false;

    KV_LIST_EACH (link, &scheduler->running)
        found |= request_of(link) != request &&
                 request_of(link)->tenant == request->tenant &&
                 holds_blocks(request_of(link));
    KV_LIST_EACH (link, &scheduler->waiting)
        found |= request_of(link)->tenant == request->tenant &&
                 holds_blocks(request_of(link));
    return found;
}

/* Its tenant may not have n blocks more. Others of the tenant give way or are
 * waited for; where there are none, waiting would not help. */
static bool keep_to_quota(struct scheduler *scheduler, struct request *request,
    size_t n_tokens, int64_t now_ns)
{
    size_t n_held;

    if (has_company(scheduler, request))
        return take_blocks(scheduler, request, request->tenant, now_ns);
    pool_session_blocks(request->session, &n_held);
    note_quota(request, blocks_for(scheduler, n_tokens) - n_held);
    turn_away(scheduler, request, REQUEST_OVER_QUOTA, now_ns);
    return false;
}

/* Blocks for the next n tokens of a running request. false: not in this step.
 */
static bool make_room(struct scheduler *scheduler, struct request *request,
    size_t n, int64_t now_ns)
{
    const uint8_t *trace_id = request->has_trace_id ? request->trace_id : NULL;
    size_t n_tokens;

    pool_session_tokens(request->session, &n_tokens);
    n_tokens = n_tokens - n_pending(request) + n;
    for (;;) {
        switch ((int)pool_session_reserve(scheduler->config.pool,
            request->session, n_tokens, trace_id, now_ns)) {
        case KV_OK:
            request->held_up_ns = 0;
            return true;
        case KV_POOL_FULL:
            if (has_pool_alone(scheduler, request)) {
                hold_up(scheduler, request, now_ns);
                return false;
            }
            if (!take_blocks(scheduler, request, NULL, now_ns))
                return false;
            break;
        case KV_OVER_QUOTA:
            if (!keep_to_quota(scheduler, request, n_tokens, now_ns))
                return false;
            break;
        case KV_BUSY:
            return false;
        case KV_IO:
            turn_away(scheduler, request, REQUEST_NO_EVICTION, now_ns);
            return false;
        default:
            end_request(scheduler, request, REQUEST_NO_MEMORY, now_ns);
            return false;
        }
    }
}

/* What the running requests have yet to get, and how many they are; of one
 * tenant, unless that is NULL, and of at least this priority. */
struct promises {
    uint64_t n_blocks;
    uint32_t n_requests;
};

static struct promises count_promises(
    struct scheduler *scheduler, const struct tenant *tenant, uint32_t priority)
{
    struct promises promises = {0};

    KV_LIST_EACH (link, &scheduler->running) {
        const struct request *request = request_of(link);

        if (request->priority < priority ||
            (tenant != NULL && request->tenant != tenant))
            continue;
        promises.n_blocks += blocks_missing(scheduler, request);
        promises.n_requests++;
    }
    return promises;
}

/* Blocks that those hold who would be set aside for this priority: at the end
 * of the queue, and of one tenant unless that is NULL. */
static uint64_t count_takeable(
    struct kv_list *queue, const struct tenant *tenant, uint32_t priority)
{
    uint64_t n = 0;

    for (struct kv_list *link = queue->prev;
         link != queue && request_of(link)->priority < priority;
         link = link->prev) {
        size_t n_blocks;

        pool_session_blocks(request_of(link)->session, &n_blocks);
        if (tenant == NULL || request_of(link)->tenant == tenant)
            n += n_blocks;
    }
    return n;
}

/* Whether pins and leases hold what its prompt needs, so that nothing of it is
 * to be computed yet. */
static bool is_held_up_at_once(
    const struct scheduler *scheduler, const struct request *request)
{
    size_t n_tokens, n_own;

    if (scheduler->n_running > 0)
        return false;
    pool_session_tokens(request->session, &n_tokens);
    pool_session_blocks(request->session, &n_own);
    return blocks_for(scheduler, n_tokens) >
               n_own + pool_reclaimable_blocks(scheduler->config.pool) &&
           has_pool_alone(scheduler, request);
}

/* Whether the request could get its blocks, with n_there that are free or
 * idle, and those of whoever is of a lower priority. */
static bool finds_room(struct scheduler *scheduler,
    const struct request *request, const struct tenant *tenant,
    uint64_t n_there)
{
    const struct promises promises =
        count_promises(scheduler, tenant, request->priority);
    const uint64_t n_needed = promises.n_blocks + promises.n_requests +
                              blocks_missing(scheduler, request);

    if (n_needed <= n_there)
        return true;
    n_there += count_takeable(&scheduler->running, tenant, request->priority);
    if (n_needed <= n_there)
        return true;
    n_there += count_takeable(&scheduler->waiting, tenant, request->priority);
    return n_needed <= n_there;
}

/* A tenant without limits takes part in what all have; and the first of a
 * tenant goes in, since it does not wait for another. */
static bool fits_quota(
    struct scheduler *scheduler, const struct request *request)
{
    const struct pool_quota quota = pool_session_tenant(request->session).quota;

    return (quota.soft_blocks == 0 && quota.hard_blocks == 0) ||
           request->tenant->n_running == 0 ||
           finds_room(scheduler, request, request->tenant,
               pool_obtainable_blocks(
                   scheduler->config.pool, request->session));
}

static struct request *last_running(struct scheduler *scheduler)
{
    return kv_list_empty(&scheduler->running)
               ? NULL
               : request_of(scheduler->running.prev);
}

static bool is_batch_full(const struct scheduler *scheduler)
{
    return scheduler->n_running == scheduler->config.max_running;
}

static bool finds_place(
    struct scheduler *scheduler, const struct request *request)
{
    return !is_batch_full(scheduler) ||
           last_running(scheduler)->priority < request->priority;
}

static bool may_enter(
    struct scheduler *scheduler, const struct request *request)
{
    if (scheduler->n_running == 0)
        return true;
    return finds_place(scheduler, request) &&
           finds_room(scheduler, request, NULL,
               pool_reclaimable_blocks(scheduler->config.pool));
}

/* The first time in the batch: what of the prompt is there, for the counters.
 */
static void start_request(
    struct scheduler *scheduler, struct request *request, int64_t now_ns)
{
    size_t n_tokens, n_cached = pool_session_n_cached(request->session);
    uint64_t n_full, n_hit;

    pool_session_tokens(request->session, &n_tokens);
    if (n_cached == n_tokens)
        n_cached--;
    n_full = n_tokens / scheduler->block_tokens;
    n_hit = n_cached / scheduler->block_tokens;
    pool_session_count_prompt(
        scheduler->config.pool, request->session, n_hit, n_full - n_hit);
    request->started = true;
    request->usage.cached_tokens = (uint32_t)n_cached;
    request->usage.queue_ns = now_ns - request->accepted_ns;
    kv_histogram_add(&scheduler->latencies.queue_wait, request->usage.queue_ns);
    scheduler->load.cached_tokens += n_cached;
    request->ops->on_started(request);
}

static void admit(
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
    if (!request->started)
        start_request(scheduler, request, now_ns);
}

/* Whether a running request is computing what this one could take over. */
static bool waits_for_prefix(
    const struct scheduler *scheduler, const struct request *request)
{
    size_t n_cached = pool_session_n_cached(request->session);

    KV_LIST_EACH (link, &scheduler->running) {
        const struct request *other = request_of(link);
        size_t n_other = pool_session_n_cached(other->session), n_common;

        if (n_pending(other) == 1)
            continue;
        n_common = pool_session_common(
            scheduler->config.pool, request->session, other->session);
        if (n_common > n_cached && n_common > n_other)
            return true;
    }
    return false;
}

static void admit_waiting(struct scheduler *scheduler, int64_t now_ns)
{
    struct tenant_turn *turn;

    tenants_begin_round(&scheduler->tenants);
    while ((turn = tenants_next_turn(&scheduler->tenants)) != NULL) {
        struct request *request = KV_LIST_ENTRY(turn, struct request, turn);

        if (!finds_place(scheduler, request))
            break;
        if (is_held_up_yet(scheduler, request) ||
            waits_for_prefix(scheduler, request))
            continue;
        pool_session_adopt(scheduler->config.pool, request->session, now_ns);
        if (is_held_up_at_once(scheduler, request)) {
            hold_up(scheduler, request, now_ns);
            continue;
        }
        if (!fits_quota(scheduler, request)) {
            tenants_skip(request->tenant);
            continue;
        }
        if (!may_enter(scheduler, request))
            break;
        if (is_batch_full(scheduler))
            to_waiting(scheduler, last_running(scheduler), now_ns);
        admit(scheduler, request, now_ns);
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
        if (n_pending(request_of(link)) == 1 && budget > 1)
            budget--;
    return budget > 0 ? budget : 1;
}

/* What prompts may take in this step, by tenant. */
static void share_prompts(struct scheduler *scheduler)
{
    KV_LIST_EACH (link, &scheduler->running) {
        const size_t n = n_pending(request_of(link));

        if (n > 1)
            tenants_ask(&scheduler->tenants, request_of(link)->tenant, n);
    }
    tenants_divide(&scheduler->tenants, prompt_budget(scheduler));
}

/* Tokens that a request may compute in this step. */
static size_t n_allowed(const struct request *request)
{
    const size_t n = n_pending(request), share = request->tenant->n_share;

    return n == 1 || n < share ? n : share;
}

/* The step reads tokens and writes log-probabilities where they lie: while a
 * request is in a step its session gets no tokens, and the request stays. */
static void fill_slice(
    struct request *request, size_t n, struct compute_slice *slice)
{
    size_t n_tokens, n_blocks;
    const uint32_t *tokens = pool_session_tokens(request->session, &n_tokens);
    size_t position = n_tokens - n_pending(request);

    *slice = (struct compute_slice){
        .tokens = tokens + position,
        .n_tokens = (uint32_t)n,
        .position = (uint32_t)position,
        .blocks = pool_session_blocks(request->session, &n_blocks),
        .samples = position + n == n_tokens,
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
    if (n_pending(request) > 1)
        request->tenant->n_share -= n;
    fill_slice(request, n, &slices[scheduler->n_batch]);
    request->in_step = true;
    request->n_slice = (uint32_t)n;
    scheduler->batch[scheduler->n_batch++] = request;
}

size_t scheduler_plan(
    struct scheduler *scheduler, struct compute_slice *slices, int64_t now_ns)
{
    size_t total = 0;

    assert(!scheduler->in_step);
    notice_evictions(scheduler, now_ns);
    end_held_up(scheduler, now_ns);
    admit_waiting(scheduler, now_ns);
    share_prompts(scheduler);
    scheduler->n_batch = 0;

    /* Setting requests aside takes younger ones off the list, so the next is
     * looked up by age each time, never remembered. */
    for (struct kv_list *link = scheduler->running.next;
         link != &scheduler->running;) {
        struct request *request = request_of(link);
        struct kv_list *before = link->prev;
        const size_t n = n_allowed(request);

        if (n > 0 && total + n <= scheduler->config.max_batch_tokens &&
            make_room(scheduler, request, n, now_ns)) {
            add_to_batch(scheduler, request, n, slices);
            total += n;
        }
        link = before->next == link ? link->next : before->next;
    }
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
        end_request(scheduler, request, REQUEST_NO_MEMORY, now_ns);
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
        end_request(scheduler, request, end, now_ns);
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
    else if (request->ends_with_step != REQUEST_GOES_ON)
        end_request(scheduler, request, request->ends_with_step, now_ns);
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
