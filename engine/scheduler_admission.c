/* Waiting requests take turns by tenant, those set aside among them; where
 * nothing runs the first in rank of all goes in, which is what keeps requests
 * from taking blocks from each other for ever. They are let in only while the
 * pool, and their tenant's quota, could hold all of their conversation beside
 * what the running sequences still need of theirs, and a block more for each,
 * or else they would push each other out again at every step. What those of a
 * lower priority hold counts as free for that: they are set aside for it. One
 * of them also gives up its place in a full batch, with its blocks as long as
 * nobody needs them.
 *
 * A request whose prompt begins as that of a running one, which has yet to
 * compute that beginning, waits for it and takes it over: prompts that arrive
 * together are computed once. Others may go in before it meanwhile. */
#include "engine/scheduler_internal.h"

/* ---- quotas */

void request_note_quota(struct request *request, uint64_t n)
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

bool scheduler_fits_hard_quota(
    struct scheduler *scheduler, struct request *request, int64_t now_ns)
{
    const struct pool_tenant_info tenant =
        pool_session_tenant(request->session);
    uint64_t n = scheduler_blocks_missing(scheduler, request);

    if (tenant.quota.hard_blocks == 0 ||
        tenant.n_pinned_blocks + n <= tenant.quota.hard_blocks)
        return true;
    pool_session_adopt(scheduler->config.pool, request->session, now_ns);
    n = scheduler_blocks_missing(scheduler, request);
    if (pool_session_tenant(request->session).n_pinned_blocks + n <=
        tenant.quota.hard_blocks)
        return true;
    request_note_quota(request, n);
    return false;
}

/* ---- room */

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
        promises.n_blocks += scheduler_blocks_missing(scheduler, request);
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

/* Whether the request could get its blocks, with n_there that are free or
 * idle, and those of whoever is of a lower priority. */
static bool finds_room(struct scheduler *scheduler,
    const struct request *request, const struct tenant *tenant,
    uint64_t n_there)
{
    const struct promises promises =
        count_promises(scheduler, tenant, request->priority);
    const uint64_t n_needed = promises.n_blocks + promises.n_requests +
                              scheduler_blocks_missing(scheduler, request);

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

/* ---- admission */

/* Whether a running request is computing what this one could take over. */
static bool waits_for_prefix(
    const struct scheduler *scheduler, const struct request *request)
{
    size_t n_cached = pool_session_n_cached(request->session);

    KV_LIST_EACH (link, &scheduler->running) {
        const struct request *other = request_of(link);
        size_t n_other = pool_session_n_cached(other->session), n_common;

        if (request_n_pending(other) == 1)
            continue;
        n_common = pool_session_common(
            scheduler->config.pool, request->session, other->session);
        if (n_common > n_cached && n_common > n_other)
            return true;
    }
    return false;
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
    scheduler_to_running(scheduler, request, now_ns);
    if (!request->started)
        start_request(scheduler, request, now_ns);
}

void scheduler_admit_waiting(
    struct scheduler *scheduler, bool again, int64_t now_ns)
{
    struct tenant_turn *turn;

    tenants_begin_round(&scheduler->tenants);
    while ((turn = tenants_next_turn(&scheduler->tenants)) != NULL) {
        struct request *request = KV_LIST_ENTRY(turn, struct request, turn);

        if (!finds_place(scheduler, request))
            break;
        if (scheduler_is_held_up_yet(scheduler, request) ||
            waits_for_prefix(scheduler, request) ||
            (again && request->set_aside &&
                request->nth_left > scheduler->n_left_before))
            continue;
        pool_session_adopt(scheduler->config.pool, request->session, now_ns);
        if (scheduler_hold_up_at_once(scheduler, request, now_ns))
            continue;
        if (!fits_quota(scheduler, request)) {
            tenants_skip(request->tenant);
            continue;
        }
        if (!may_enter(scheduler, request))
            break;
        if (is_batch_full(scheduler))
            scheduler_to_waiting(scheduler, last_running(scheduler), now_ns);
        admit(scheduler, request, now_ns);
    }
}
