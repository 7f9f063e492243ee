#include "server/evict_answer.h"

#include "server/evict_page.h"
#include "server/message.h"

/* The page of a remembered call that the request asks for. */
static void reply_page(struct evict_answer *answer)
{
    const struct call *known = answer->known;
    Kvpool__V1__EvictResponse *response = answer->response;
    Kvpool__V1__EvictResponse *page =
        call_page(known, answer->page_begin, answer->page_size);
    char token[EVICT_PAGE_TOKEN_BYTES];
    size_t end;

    if (page == NULL) {
        message_fail_no_memory(answer->call);
        return;
    }
    response->outcomes = page->outcomes;
    response->n_outcomes = page->n_outcomes;
    end = answer->page_begin + page->n_outcomes;
    if (end < known->n_outcomes) {
        evict_page_token(
            token, known->digest, answer->request->request_id, end);
        response->next_page_token = token;
    }
    message_reply(answer->call, &response->base);
    kvpool__v1__evict_response__free_unpacked(page, NULL);
}

static void reply(struct evict_answer *answer)
{
    if (answer->known != NULL)
        reply_page(answer);
    else
        message_reply(answer->call, &answer->response->base);
    answer->done(answer);
}

static void reply_off(struct evict_answer *answer)
{
    kvpool__v1__receipts_off__init(&answer->receipts_off);
    answer->receipts_off.option = (char *)recorder_off_switch();
    answer->response->receipts_off = &answer->receipts_off;
    answer->response->issued_case =
        KVPOOL__V1__EVICT_RESPONSE__ISSUED_RECEIPTS_OFF;
    reply(answer);
}

/* The journal has failed: receipts that are not durable never will be. */
static void reply_unkept(struct evict_answer *answer)
{
    struct rpc_error error;

    recorder_refuse(answer->server->recorder, &error);
    rpc_error_add_metadata(&error, "evicted", "true");
    rpc_call_fail(answer->call, &error);
    answer->done(answer);
}

void evict_answer_refuse(struct evict_answer *answer)
{
    struct rpc_error error;

    recorder_refuse(answer->server->recorder, &error);
    rpc_call_fail(answer->call, &error);
    answer->done(answer);
}

void evict_answer_ready(struct evict_answer *answer)
{
    struct ledger_position *position = &answer->position;
    struct recorder *recorder = answer->server->recorder;
    Kvpool__V1__EvictReceipts *receipts = answer->receipts;
    const bool waits =
        answer->request->wait != KVPOOL__V1__EVICT_WAIT__EVICT_WAIT_APPLIED;
    bool durable;

    if (answer->request->dry_run) {
        reply(answer);
        return;
    }
    if (!recorder_position(recorder, position)) {
        reply_off(answer);
        return;
    }
    durable = position->durable_sequence >= receipts->last_sequence;
    receipts->pool_id.data = position->pool_id;
    receipts->pool_id.len = sizeof position->pool_id;
    receipts->durable = recorder_is_on_disk(recorder) && (durable || waits);
    answer->response->receipts = receipts;
    answer->response->issued_case = KVPOOL__V1__EVICT_RESPONSE__ISSUED_RECEIPTS;
    if (durable || !waits)
        reply(answer);
    else if (recorder_state(recorder) == LEDGER_FAILED)
        reply_unkept(answer);
    else
        kv_list_append(&answer->server->evict_calls, &answer->link);
}

static void on_answers(struct rpc_post *post)
{
    struct server *server = KV_LIST_ENTRY(post, struct server, evict_post);
    const bool failed = recorder_state(server->recorder) == LEDGER_FAILED;
    struct ledger_position position;

    server->evict_answers = false;
    recorder_position(server->recorder, &position);
    KV_LIST_EACH (link, &server->evict_calls) {
        struct evict_answer *answer =
            KV_LIST_ENTRY(link, struct evict_answer, link);
        const bool durable =
            answer->receipts->last_sequence <= position.durable_sequence;

        if (!durable && !failed)
            continue;
        kv_list_remove(&answer->link);
        if (durable)
            reply(answer);
        else
            reply_unkept(answer);
    }
}

/* Not here: subscribers get the receipts first, whose turns are posted too. */
static void on_durable(struct ledger_watcher *watcher)
{
    struct server *server =
        KV_LIST_ENTRY(watcher, struct server, evict_watcher);

    if (server->evict_answers || kv_list_empty(&server->evict_calls))
        return;
    server->evict_post.run = on_answers;
    server->evict_answers = rpc_loop_post(server->loop, &server->evict_post);
}

void evict_answers_begin(struct server *server)
{
    kv_list_init(&server->evict_calls);
    server->evict_watcher.on_durable = on_durable;
    recorder_watch(server->recorder, &server->evict_watcher);
}
