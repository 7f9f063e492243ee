/* KvPoolService.Evict: a call, from its request to its answer.
 *
 *   request ─> checked ─┬─> decision, turn by turn ─┬─> answer
 *                       └─> it repeats another ─────┘
 *
 * If it may preempt, a turn waits for the present step first, whose workers
 * touch the blocks of running sessions; at most as long as a step. */
#include <string.h>

#include "base/heap.h"
#include "server/evict_answer.h"
#include "server/evict_decision.h"
#include "server/evict_repeat.h"
#include "server/message.h"

struct evict {
    Kvpool__V1__EvictRequest *request;
    struct evict_decision decision;
    struct evict_answer answer;
    struct step_errand errand; /* until it is decided, */
    struct rpc_post turn;      /* from turn to turn */
};

static void free_evict(struct evict *evict)
{
    call_release(evict->answer.known);
    evict_decision_fini(&evict->decision);
    kvpool__v1__evict_request__free_unpacked(evict->request, NULL);
    kv_free(evict);
}

static void on_answered(struct evict_answer *answer)
{
    free_evict(KV_LIST_ENTRY(answer, struct evict, answer));
}

/* Nothing has been touched, by this call or by whoever repeats it. */
static void refuse_unrecorded(struct evict *evict)
{
    if (evict->answer.known != NULL)
        evict_repeat_refused(&evict->answer);
    evict_answer_refuse(&evict->answer);
}

/* A turn of it. */
static void decide(struct step_errand *errand)
{
    struct evict *evict = KV_LIST_ENTRY(errand, struct evict, errand);

    if (!evict_decision_may_begin(&evict->decision)) {
        refuse_unrecorded(evict);
        return;
    }
    if (!evict_decision_go_on(&evict->decision)) {
        rpc_loop_post(evict->answer.server->loop, &evict->turn);
        return;
    }
    if (evict->decision.no_memory) {
        message_fail_no_memory(evict->answer.call);
        free_evict(evict);
        return;
    }
    if (evict->answer.known != NULL)
        evict_repeat_decided(&evict->answer);
    evict_answer_ready(&evict->answer);
}

/* Whose blocks a step touches is not to be preempted while it does. */
static void take_turn(struct evict *evict)
{
    struct step *step = evict->answer.server->step;

    if (evict->request->preempt && !evict->request->dry_run)
        step_between(step, &evict->errand);
    else
        decide(&evict->errand);
    step_settle(step);
}

static void on_turn(struct rpc_post *post)
{
    take_turn(KV_LIST_ENTRY(post, struct evict, turn));
}

/* A call that may be decided, or repeats one. */
static void begin(struct evict *evict)
{
    struct evict_answer *answer = &evict->answer;
    struct rpc_error error = {.code = RPC_OK};
    enum kv_status status = KV_OK;
    bool repeats = false;

    if (evict_is_named(evict->request))
        status = evict_repeat_find(answer, evict->decision.digest,
            evict->decision.n_room, &repeats, &error);
    if (status == KV_NO_MEMORY)
        message_fail_no_memory(answer->call);
    else if (status != KV_OK)
        rpc_call_fail(answer->call, &error);
    if (status != KV_OK)
        free_evict(evict);
    else if (repeats)
        evict_repeat_answer(answer);
    else
        take_turn(evict);
}

static void init_parts(
    struct evict *evict, struct server *server, struct rpc_call *call)
{
    const uint8_t *trace_id = rpc_call_trace_id(call);

    evict->errand.run = decide;
    evict->turn.run = on_turn;
    evict->decision.server = server;
    evict->decision.request = evict->request;
    evict->decision.has_trace_id = trace_id != NULL;
    if (trace_id != NULL)
        memcpy(evict->decision.trace_id, trace_id, 16);
    evict->answer.server = server;
    evict->answer.call = call;
    evict->answer.request = evict->request;
    evict->answer.response = &evict->decision.response;
    evict->answer.receipts = &evict->decision.receipts;
    evict->answer.page_size = evict->decision.limits.page_size;
    evict->answer.done = on_answered;
}

static void on_evict(void *ctx, struct rpc_call *call,
    const unsigned char *bytes, size_t n_bytes)
{
    struct server *server = ctx;
    struct evict *evict = kv_calloc(1, sizeof *evict);
    struct rpc_error error;

    if (evict == NULL) {
        message_fail_no_memory(call);
        return;
    }
    evict->request = (Kvpool__V1__EvictRequest *)message_parse(
        &kvpool__v1__evict_request__descriptor, bytes, n_bytes, &error);
    if (evict->request != NULL)
        evict_check(&error, evict->request, &evict->decision.limits);
    if (error.n_violations > 0) {
        rpc_call_fail(call, &error);
        free_evict(evict);
        return;
    }
    init_parts(evict, server, call);
    if (!evict_decision_init(&evict->decision) ||
        !evict_repeat_digest(server, evict->request, evict->decision.digest)) {
        message_fail_no_memory(call);
        free_evict(evict);
        return;
    }
    begin(evict);
}

enum kv_status service_evict_add(struct server *server)
{
    const struct rpc_method method = {
        "/kvpool.v1.KvPoolService/Evict", RPC_UNARY, on_evict, server};
    enum kv_status status = evict_repeat_init(server);

    evict_answers_begin(server);
    return status != KV_OK ? status
                           : rpc_server_add_method(server->rpc, &method);
}

void service_evict_close(struct server *server)
{
    evict_repeat_fini(server);
}
