/* A request that needs blocks asks the pool, which gives up idle sessions if it
 * has to. When even that is not enough, blocks are taken from the last in rank
 * that holds any; where only the quota of the tenant is in the way, from the
 * last of that tenant. That one is never in the plan yet: victims are behind
 * whoever forces them, and are planned later. Blocks that were given up are
 * zeroed first; until then the pool answers KV_BUSY and the request sits this
 * step out.
 *
 * Where nobody is left to take blocks from, pins and leases hold them, and the
 * request waits for these to end. */
#include "engine/scheduler_internal.h"

static bool holds_blocks(const struct request *request)
{
    size_t n_blocks;

    pool_session_blocks(request->session, &n_blocks);
    return n_blocks > 0;
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
        .needed_blocks = scheduler_blocks_for(scheduler, n_tokens + 1),
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
        scheduler_turn_away(scheduler, request, REQUEST_HELD_UP, now_ns);
        return;
    }
    if (request->running)
        scheduler_to_waiting(scheduler, request, now_ns);
    request->n_hold_ends = pool_hold_ends(scheduler->config.pool);
    scheduler->n_held_up += !request->is_held_up;
    request->is_held_up = true;
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
    return scheduler_blocks_for(scheduler, n_tokens) >
               n_own + pool_reclaimable_blocks(scheduler->config.pool) &&
           has_pool_alone(scheduler, request);
}

bool scheduler_hold_up_at_once(
    struct scheduler *scheduler, struct request *request, int64_t now_ns)
{
    if (!is_held_up_at_once(scheduler, request))
        return false;
    hold_up(scheduler, request, now_ns);
    return true;
}

bool scheduler_is_held_up_yet(
    const struct scheduler *scheduler, const struct request *request)
{
    return request->is_held_up &&
           request->n_hold_ends == pool_hold_ends(scheduler->config.pool);
}

void scheduler_end_held_up(struct scheduler *scheduler, int64_t now_ns)
{
    if (scheduler->n_held_up == 0)
        return;
    KV_LIST_EACH (link, &scheduler->waiting) {
        struct request *request = request_of(link);

        if (request->is_held_up &&
            hold_wait_end_ns(scheduler, request) <= now_ns)
            scheduler_turn_away(scheduler, request, REQUEST_HELD_UP, now_ns);
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

/* ---- victims */

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

    if (victim == NULL ||
        (running != NULL && request_outranks(victim, running)))
        victim = running;
    return victim != NULL && request_outranks(needy, victim) ? victim : needy;
}

static void set_aside(struct scheduler *scheduler, struct request *victim,
    const struct request *needy, int64_t now_ns)
{
    struct pool *pool = scheduler->config.pool;
    const struct pool_key forced_by =
        pool_session_info(scheduler->config.pool, needy->session).key;
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
        scheduler_to_waiting(scheduler, victim, now_ns);
}

/* Takes blocks from whoever is last, of one tenant or (NULL) of all, for a
 * request that may be the last itself. false: it gets none in this step. */
static bool take_blocks(struct scheduler *scheduler, struct request *request,
    const struct tenant *tenant, int64_t now_ns)
{
    struct request *victim = choose_victim(scheduler, request, tenant);

    if (holds_blocks(victim) && !pool_may_evict(scheduler->config.pool)) {
        scheduler_turn_away(scheduler, request, REQUEST_NO_EVICTION, now_ns);
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
    request_note_quota(
        request, scheduler_blocks_for(scheduler, n_tokens) - n_held);
    scheduler_turn_away(scheduler, request, REQUEST_OVER_QUOTA, now_ns);
    return false;
}

bool scheduler_make_room(struct scheduler *scheduler, struct request *request,
    size_t n, int64_t now_ns)
{
    const uint8_t *trace_id = request->has_trace_id ? request->trace_id : NULL;
    size_t n_tokens;

    pool_session_tokens(request->session, &n_tokens);
    n_tokens = n_tokens - request_n_pending(request) + n;
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
            scheduler_turn_away(
                scheduler, request, REQUEST_NO_EVICTION, now_ns);
            return false;
        default:
            scheduler_end_request(
                scheduler, request, REQUEST_NO_MEMORY, now_ns);
            return false;
        }
    }
}
