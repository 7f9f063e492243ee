/* Evict calls, as the service makes them: who is named is what the walk says,
 * and what a plain reading of the request says too. */
#include <inttypes.h>
#include <string.h>

#include "base/clock.h"
#include "server/evict_walk.h"
#include "tests/sim/world.h"

#define N_TARGETS 2
#define N_SELECTORS 6

enum evict_flags { DRY_RUN = 1, PREEMPT = 2, FORGET = 4 };

/* A request, and all that it points to. */
struct asked {
    Kvpool__V1__EvictRequest request;
    Kvpool__V1__EvictTarget targets[N_TARGETS], *list[N_TARGETS];
    Kvpool__V1__SessionKey keys[N_TARGETS];
    Kvpool__V1__EvictPrefix prefixes[N_TARGETS];
    Kvpool__V1__EvictIdle idles[N_TARGETS];
    Kvpool__V1__EvictBytes bytes[N_TARGETS];
    Kvpool__V1__EvictAll all;
    char ids[N_TARGETS][4];
    char *tenants[N_TARGETS][1];
};

/* A call, and what came of it. */
struct evict_call {
    struct asked asked;
    struct pool_cause cause;
    bool decided[WORLD_ACTORS];
    struct pool_outcome outcomes[WORLD_ACTORS];
    uint64_t freed_bytes[N_TARGETS];
    Kvpool__V1__EvictOutcome told[WORLD_ACTORS], *list[WORLD_ACTORS];
    size_t n_told;
};

static char *tenant_of(size_t actor)
{
    return (char *)world_key(actor).tenant;
}

/* ---- the request */

static void ask(struct world *world, struct asked *asked, size_t i,
    uint32_t selector, uint32_t choice)
{
    Kvpool__V1__EvictTarget *target = asked->list[i] = &asked->targets[i];
    struct actor *actor = &world->actors[choice % WORLD_NAMED];
    struct pool_key key = world_key(choice % WORLD_NAMED);

    asked->tenants[i][0] = (char *)key.tenant;
    kvpool__v1__evict_target__init(target);
    switch (selector) {
    case 0:
        target->target_case = KVPOOL__V1__EVICT_TARGET__TARGET_SESSION;
        target->session = &asked->keys[i];
        kvpool__v1__session_key__init(target->session);
        memcpy(asked->ids[i], key.id, key.id_bytes + 1);
        target->session->session_id = asked->ids[i];
        target->session->tenant = (char *)key.tenant;
        break;
    case 1:
        target->target_case = KVPOOL__V1__EVICT_TARGET__TARGET_TENANT;
        target->tenant = (char *)key.tenant;
        break;
    case 2: /* what somebody has said begins so */
        target->target_case = KVPOOL__V1__EVICT_TARGET__TARGET_PREFIX;
        target->prefix = &asked->prefixes[i];
        kvpool__v1__evict_prefix__init(target->prefix);
        target->prefix->tenant = (char *)key.tenant;
        target->prefix->token_ids = actor->tokens;
        target->prefix->n_token_ids =
            1 + choice % (actor->n_tokens > 0 ? actor->n_tokens : 1);
        break;
    case 3:
        target->target_case = KVPOOL__V1__EVICT_TARGET__TARGET_IDLE;
        target->idle = &asked->idles[i];
        kvpool__v1__evict_idle__init(target->idle);
        target->idle->longer_than_ns = 1 + choice % 900 * KV_NS_PER_MS;
        target->idle->tenants = asked->tenants[i];
        target->idle->n_tenants = choice % 2;
        break;
    case 4:
        target->target_case = KVPOOL__V1__EVICT_TARGET__TARGET_BYTES;
        target->bytes = &asked->bytes[i];
        kvpool__v1__evict_bytes__init(target->bytes);
        target->bytes->at_least_bytes = 1 + choice % 20 * WORLD_BLOCK_BYTES;
        target->bytes->tenants = asked->tenants[i];
        target->bytes->n_tenants = choice % 2;
        break;
    default:
        target->target_case = KVPOOL__V1__EVICT_TARGET__TARGET_ALL;
        target->all = &asked->all;
        kvpool__v1__evict_all__init(target->all);
    }
}

static void read_op(
    struct world *world, struct asked *asked, const struct op *op)
{
    uint32_t selectors[N_TARGETS] = {
        op->a % N_SELECTORS, op->a / N_SELECTORS % N_SELECTORS};

    kvpool__v1__evict_request__init(&asked->request);
    asked->request.targets = asked->list;
    asked->request.n_targets = 1 + op->a % N_TARGETS;
    asked->request.dry_run = (op->b & DRY_RUN) != 0;
    asked->request.preempt = (op->b & PREEMPT) != 0;
    asked->request.forget = (op->b & FORGET) != 0;
    for (size_t i = 0; i < asked->request.n_targets; i++) {
        ask(world, asked, i, selectors[i], op->c + (uint32_t)i * 7);
        world->tally->n_by_selector[selectors[i]]++;
    }
}

/* ---- what it says */

static bool is_named(
    const struct world *world, const struct asked *asked, size_t i, size_t at)
{
    const Kvpool__V1__EvictTarget *target = asked->list[i];
    const struct actor *actor = &world->actors[at];
    bool same_tenant = strcmp(tenant_of(at), asked->tenants[i][0]) == 0;

    switch (target->target_case) {
    case KVPOOL__V1__EVICT_TARGET__TARGET_SESSION:
        return same_tenant && at < WORLD_NAMED &&
               memcmp(world_key(at).id, target->session->session_id, 3) == 0;
    case KVPOOL__V1__EVICT_TARGET__TARGET_TENANT:
        return same_tenant;
    case KVPOOL__V1__EVICT_TARGET__TARGET_PREFIX:
        return same_tenant && actor->n_tokens >= target->prefix->n_token_ids &&
               memcmp(actor->tokens, target->prefix->token_ids,
                   target->prefix->n_token_ids * sizeof *actor->tokens) == 0;
    case KVPOOL__V1__EVICT_TARGET__TARGET_IDLE:
        return (target->idle->n_tenants == 0 || same_tenant) &&
               !actor->active &&
               world->now_ns - actor->released_ns >
                   target->idle->longer_than_ns;
    case KVPOOL__V1__EVICT_TARGET__TARGET_BYTES:
        return (target->bytes->n_tenants == 0 || same_tenant) &&
               actor->state == POOL_SESSION_CACHED;
    default:
        return true;
    }
}

/* ---- one session */

static bool same_outcome(
    const struct pool_outcome *a, const struct pool_outcome *b)
{
    return a->result == b->result && a->bytes_freed == b->bytes_freed &&
           a->blocks_freed == b->blocks_freed &&
           a->shared_blocks_kept == b->shared_blocks_kept &&
           a->tokens_kept == b->tokens_kept && a->preempted == b->preempted &&
           a->forgotten == b->forgotten;
}

static void tell(struct world *world, struct evict_call *call,
    const struct pool_outcome *outcome, uint64_t sequence)
{
    Kvpool__V1__EvictOutcome *told = &call->told[call->n_told];

    if (ledger_position(world->ledger).applied_sequence < sequence)
        world_fail(world, "an eviction without a receipt");
    kvpool__v1__evict_outcome__init(told);
    told->result = KVPOOL__V1__EVICT_RESULT__EVICT_RESULT_EVICTED;
    told->bytes_freed = outcome->bytes_freed;
    told->sequence = sequence;
    call->list[call->n_told++] = told;
}

static void decide(struct world *world, struct evict_call *call, size_t at)
{
    const Kvpool__V1__EvictRequest *request = &call->asked.request;
    struct pool_session *session = world_session(world, at);
    uint64_t next = ledger_position(world->ledger).applied_sequence + 1;
    struct pool_outcome preview = pool_evict_preview(
        world->pool, NULL, session, request->preempt, request->forget);
    struct pool_outcome outcome = preview;
    bool is_kept = pool_session_glance(session).state == POOL_SESSION_EVICTED;

    if (preview.forgotten !=
        (preview.result == POOL_NOTHING_TO_FREE && request->forget && is_kept))
        world_fail(world, "whether session %zu is forgotten is wrong", at);
    if (!request->dry_run)
        outcome = pool_evict_session(world->pool, session, &call->cause,
            request->preempt, world->now_ns);
    if (!same_outcome(&preview, &outcome))
        world_fail(world, "a dry run of session %zu said something else", at);
    call->outcomes[at] = outcome;
    if (request->dry_run)
        return;
    if (outcome.result == POOL_EVICTED)
        tell(world, call, &outcome, next);
    if (outcome.result == POOL_EVICTED && request->forget &&
        !outcome.preempted) {
        world->actors[at].exists = false;
        world->tally->n_forgotten++;
    }
    if (outcome.forgotten)
        world->actors[at].exists = false;
}

static void walk(struct world *world, struct evict_call *call)
{
    const Kvpool__V1__EvictRequest *request = &call->asked.request;
    struct pool_session *session;
    enum evict_walk_step step;
    struct evict_walk at;
    size_t target;

    evict_walk_init(&at, world->pool, request, NULL, world->now_ns);
    while ((step = evict_walk_next(&at, &target, &session)) != EVICT_WALK_END) {
        size_t actor;

        if (step != EVICT_WALK_SESSION)
            continue;
        actor = world_actor_of(world, session);
        if (!is_named(world, &call->asked, target, actor))
            world_fail(
                world, "target %zu does not name session %zu", target, actor);
        if (call->decided[actor] && !request->dry_run)
            world_fail(world, "session %zu is decided twice", actor);
        call->decided[actor] = true;
        decide(world, call, actor);
        evict_walk_decided(&at, target, call->outcomes[actor].bytes_freed);
        call->freed_bytes[target] += call->outcomes[actor].bytes_freed;
    }
}

/* ---- nobody is missed */

static void check_decided(const struct world *world,
    const struct evict_call *call, size_t target, size_t at)
{
    const struct actor *actor = &world->actors[at];
    bool is_held = actor_hold_until_ns(actor) > 0;

    if (!actor->exists || actor->n_blocks == 0 ||
        !is_named(world, &call->asked, target, at))
        return;
    if (!call->decided[at])
        world_fail(
            world, "target %zu names session %zu, which stays", target, at);
    if (!actor->active && !is_held && call->outcomes[at].result != POOL_EVICTED)
        world_fail(world, "session %zu was free to go", at);
    if (actor_hold_until_ns(actor) > world->now_ns &&
        call->outcomes[at].result == POOL_EVICTED)
        world_fail(world, "session %zu was held", at);
    if (actor->active && !call->asked.request.preempt &&
        call->outcomes[at].result != POOL_EVICT_BUSY)
        world_fail(world, "session %zu was running", at);
}

/* Enough was freed, or nobody is left who could have gone. */
static void check_enough(
    const struct world *world, const struct evict_call *call, size_t target)
{
    if (call->freed_bytes[target] >= call->asked.bytes[target].at_least_bytes)
        return;
    for (size_t i = 0; i < WORLD_NAMED; i++)
        if (world->actors[i].exists && !call->decided[i] &&
            is_named(world, &call->asked, target, i))
            world_fail(world, "too little was freed, and session %zu stays", i);
}

static void check_call(const struct world *world, const struct evict_call *call)
{
    for (size_t i = 0; i < call->asked.request.n_targets; i++) {
        if (call->asked.list[i]->target_case ==
            KVPOOL__V1__EVICT_TARGET__TARGET_BYTES) {
            check_enough(world, call, i);
            continue;
        }
        for (size_t at = 0; at < WORLD_ACTORS; at++)
            check_decided(world, call, i, at);
    }
}

/* ---- the call */

static void end_batch(struct world *world, struct evict_call *call,
    struct pool_batch_scope *scope)
{
    Kvpool__V1__EvictCall told = KVPOOL__V1__EVICT_CALL__INIT;

    told.outcomes = call->list;
    told.n_outcomes = call->n_told;
    told.number = 1;
    told.final = true;
    ledger_set_call(world->ledger, &told);
    pool_batch_end(world->pool, scope, &call->cause, world->now_ns);
}

void world_evict(struct world *world, const struct op *op)
{
    struct evict_call call = {
        .cause = {.reason = POOL_REASON_MANUAL, .requested_by = "anonymous"}};
    uint64_t applied = ledger_position(world->ledger).applied_sequence;
    struct pool_stats stats = pool_stats(world->pool), after;
    struct pool_batch_scope scope;

    if (!pool_may_evict(world->pool))
        return;
    read_op(world, &call.asked, op);
    call.cause.forget = call.asked.request.forget;
    scope = pool_batch_begin(world->pool, world->now_ns);
    walk(world, &call);
    check_call(world, &call);
    if (!call.asked.request.dry_run) {
        end_batch(world, &call, &scope);
        return;
    }
    after = pool_stats(world->pool);
    world->tally->n_dry++;
    if (memcmp(&stats, &after, sizeof stats) != 0 ||
        ledger_position(world->ledger).applied_sequence != applied)
        world_fail(world, "a dry run has changed something");
}
