/* KvPoolService: Snapshot, ListSessions, and the refusal of what is not there
 * yet. Evict has service_evict.c to itself, StreamReceipts service_receipts.c.
 */
#include <stdio.h>
#include <string.h>

#include "server/check.h"
#include "server/histograms.h"
#include "server/message.h"
#include "server/server.h"
#include "server/state.h"
#include "server/subscriber_status.h"

#define MAX_PAGE 1000
#define STANDARD_LIST_PAGE 100

/* ---- Snapshot */

static bool has_section(const Kvpool__V1__SnapshotRequest *request,
    Kvpool__V1__SnapshotSection section)
{
    for (size_t i = 0; i < request->n_sections; i++)
        if (request->sections[i] == section)
            return true;
    return false;
}

static void check_snapshot(
    struct rpc_error *error, const Kvpool__V1__SnapshotRequest *request)
{
    bool sessions = has_section(
        request, KVPOOL__V1__SNAPSHOT_SECTION__SNAPSHOT_SECTION_SESSIONS);
    char path[32];

    for (size_t i = 0; i < request->n_sections &&
                       error->n_violations < RPC_ERROR_MAX_VIOLATIONS;
         i++) {
        snprintf(path, sizeof path, "sections[%zu]", i);
        check_section(error, path, request->sections[i]);
    }
    check_unsupported(error, "block_map", request->block_map != NULL);
    if (request->sessions == NULL)
        return;
    if (!sessions)
        rpc_error_add_violation(error, "sessions",
            "a query was given; allowed with section SESSIONS only");
    check_session_filter(error, "sessions.filter", request->sessions->filter);
    check_session_order(error, "sessions.order", request->sessions->order);
    check_count(error, "sessions.page_size", request->sessions->page_size, 1,
        MAX_PAGE, STANDARD_LIST_PAGE);
}

/* What the request's sections add to the totals. */
struct sections {
    struct state_page page;
    struct histograms histograms;
    struct state_sinks sinks;
    struct subscriber_status_list subscribers;
};

static enum kv_status fill_sections(struct sections *sections,
    Kvpool__V1__PoolSnapshot *snapshot, struct server *server,
    const Kvpool__V1__SnapshotRequest *request)
{
    const Kvpool__V1__SessionQuery *query = request->sessions;
    enum kv_status status = KV_OK;

    if (has_section(
            request, KVPOOL__V1__SNAPSHOT_SECTION__SNAPSHOT_SECTION_SESSIONS)) {
        status = state_page_fill(&sections->page, server,
            query != NULL ? query->filter : NULL,
            query != NULL && query->page_size > 0 ? query->page_size
                                                  : STANDARD_LIST_PAGE,
            NULL);
        snapshot->sessions = sections->page.list;
        snapshot->n_sessions = sections->page.n;
        snapshot->sessions_next_page_token = sections->page.next_token;
    }
    if (has_section(request,
            KVPOOL__V1__SNAPSHOT_SECTION__SNAPSHOT_SECTION_HISTOGRAMS)) {
        histograms_fill(&sections->histograms, server);
        snapshot->histograms = &sections->histograms.message;
    }
    if (has_section(
            request, KVPOOL__V1__SNAPSHOT_SECTION__SNAPSHOT_SECTION_SINKS)) {
        state_sinks_fill(&sections->sinks, server);
        snapshot->sinks = sections->sinks.list;
        snapshot->n_sinks = sections->sinks.n;
    }
    if (status == KV_OK &&
        has_section(request,
            KVPOOL__V1__SNAPSHOT_SECTION__SNAPSHOT_SECTION_SUBSCRIBERS)) {
        status = subscriber_status_fill(&sections->subscribers, server);
        snapshot->subscribers = sections->subscribers.list;
        snapshot->n_subscribers = sections->subscribers.n;
    }
    return status;
}

static void reply_snapshot(struct server *server, struct rpc_call *call,
    const Kvpool__V1__SnapshotRequest *request)
{
    Kvpool__V1__SnapshotResponse response = KVPOOL__V1__SNAPSHOT_RESPONSE__INIT;
    struct sections sections = {.page = {.n = 0}, .subscribers = {.n = 0}};
    struct state state;

    state_fill(&state, server);
    response.snapshot = &state.snapshot;
    if (fill_sections(&sections, &state.snapshot, server, request) == KV_OK)
        message_reply(call, &response.base);
    else
        message_fail_no_memory(call);
    subscriber_status_fini(&sections.subscribers);
    state_page_fini(&sections.page);
}

static void on_snapshot(void *ctx, struct rpc_call *call,
    const unsigned char *bytes, size_t n_bytes)
{
    struct rpc_error error;
    Kvpool__V1__SnapshotRequest *request =
        (Kvpool__V1__SnapshotRequest *)message_parse(
            &kvpool__v1__snapshot_request__descriptor, bytes, n_bytes, &error);

    if (request != NULL)
        check_snapshot(&error, request);
    if (error.n_violations > 0)
        rpc_call_fail(call, &error);
    else
        reply_snapshot(ctx, call, request);
    kvpool__v1__snapshot_request__free_unpacked(request, NULL);
}

/* ---- ListSessions */

static void reply_list(struct server *server, struct rpc_call *call,
    const Kvpool__V1__ListSessionsRequest *request,
    const struct pool_key *after)
{
    Kvpool__V1__ListSessionsResponse response =
        KVPOOL__V1__LIST_SESSIONS_RESPONSE__INIT;
    uint32_t page_size =
        request->page_size > 0 ? request->page_size : STANDARD_LIST_PAGE;
    struct state_stamp stamp;
    struct state_page page;

    if (state_page_fill(&page, server, request->filter, page_size, after) !=
        KV_OK) {
        message_fail_no_memory(call);
    } else {
        response.sessions = page.list;
        response.n_sessions = page.n;
        response.next_page_token = page.next_token;
        if (state_stamp(server, &stamp))
            response.stamp = &stamp.stamp;
        message_reply(call, &response.base);
    }
    state_page_fini(&page);
}

static void on_list_sessions(void *ctx, struct rpc_call *call,
    const unsigned char *bytes, size_t n_bytes)
{
    struct rpc_error error;
    struct state_place place;
    Kvpool__V1__ListSessionsRequest *request =
        (Kvpool__V1__ListSessionsRequest *)message_parse(
            &kvpool__v1__list_sessions_request__descriptor, bytes, n_bytes,
            &error);
    bool first = request == NULL || request->page_token[0] == '\0';

    if (request != NULL) {
        check_count(&error, "page_size", request->page_size, 1, MAX_PAGE,
            STANDARD_LIST_PAGE);
        check_session_filter(&error, "filter", request->filter);
        check_session_order(&error, "order", request->order);
    }
    if (error.n_violations == 0 && !first &&
        !state_place_parse(ctx, request->page_token, request->filter, &place))
        check_fail_page_token(&error);
    if (error.code != RPC_OK)
        rpc_call_fail(call, &error);
    else
        reply_list(ctx, call, request, first ? NULL : &place.key);
    kvpool__v1__list_sessions_request__free_unpacked(request, NULL);
}

/* ---- what is part of the contract and not there */

static void on_unsupported(void *ctx, struct rpc_call *call,
    const unsigned char *bytes, size_t n_bytes)
{
    const char *rpc = ctx;
    struct rpc_error error;

    (void)bytes;
    (void)n_bytes;
    rpc_error_init(&error, RPC_UNIMPLEMENTED, "RPC_NOT_SUPPORTED",
        "this server does not have %s", rpc);
    rpc_error_add_metadata(&error, "rpc", "%s", rpc);
    rpc_call_fail(call, &error);
}

enum kv_status service_pool_add(struct server *server)
{
#define PATH "/kvpool.v1.KvPoolService/"
    const struct rpc_method methods[] = {
        {PATH "Snapshot", RPC_UNARY, on_snapshot, server},
        {PATH "ListSessions", RPC_UNARY, on_list_sessions, server},
        {PATH "SetRetention", RPC_UNARY, on_unsupported,
            (void *)"SetRetention"},
    };
#undef PATH
    enum kv_status status = KV_OK;

    for (size_t i = 0; i < sizeof methods / sizeof *methods; i++)
        if (status == KV_OK)
            status = rpc_server_add_method(server->rpc, &methods[i]);
    return status;
}
