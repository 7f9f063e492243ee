/* KvPoolService: Snapshot and ListSessions. The other calls have files of their
 * own: service_evict.c, service_retention.c, service_receipts.c.
 */
#include <inttypes.h>
#include <stdio.h>
#include <string.h>

#include "base/clock.h"
#include "base/heap.h"
#include "server/check.h"
#include "server/histograms.h"
#include "server/message.h"
#include "server/server.h"
#include "server/state.h"
#include "server/state_order.h"
#include "server/state_sections.h"
#include "server/subscriber_status.h"

#define MAX_PAGE 1000
#define STANDARD_LIST_PAGE 100

/* How long a turn may be: what others on this thread wait for a call that has
 * many sessions to look at. */
#define TURN_NS KV_NS_PER_MS

static uint32_t page_size_of(uint32_t asked)
{
    return asked > 0 ? asked : STANDARD_LIST_PAGE;
}

/* ---- Snapshot */

static bool has_section(const Kvpool__V1__SnapshotRequest *request,
    Kvpool__V1__SnapshotSection section)
{
    for (size_t i = 0; i < request->n_sections; i++)
        if (request->sections[i] == section)
            return true;
    return false;
}

static void check_block_map(struct rpc_error *error,
    const Kvpool__V1__SnapshotRequest *request, uint64_t n_blocks)
{
    const Kvpool__V1__BlockMapQuery *query = request->block_map;

    if (query == NULL)
        return;
    if (!has_section(
            request, KVPOOL__V1__SNAPSHOT_SECTION__SNAPSHOT_SECTION_BLOCK_MAP))
        rpc_error_add_violation(error, "block_map",
            "a query was given; allowed with section BLOCK_MAP only");
    if (query->first_block >= n_blocks)
        rpc_error_add_violation(error, "block_map.first_block",
            "%" PRIu64 " was given; allowed are 0 to %" PRIu64,
            query->first_block, n_blocks - 1);
    check_count(error, "block_map.max_runs", query->max_runs, 1, STATE_MAX_RUNS,
        STATE_MAX_RUNS);
}

static void check_tenants(
    struct rpc_error *error, const Kvpool__V1__SnapshotRequest *request)
{
    if (request->tenants == NULL)
        return;
    if (!has_section(
            request, KVPOOL__V1__SNAPSHOT_SECTION__SNAPSHOT_SECTION_TENANTS))
        rpc_error_add_violation(error, "tenants",
            "a query was given; allowed with section TENANTS only");
    check_count(error, "tenants.page_size", request->tenants->page_size, 1,
        STATE_MAX_TENANTS, STATE_MAX_TENANTS);
}

static void check_snapshot(struct rpc_error *error,
    const Kvpool__V1__SnapshotRequest *request, uint64_t n_blocks)
{
    char path[32];

    for (size_t i = 0; i < request->n_sections &&
                       error->n_violations < RPC_ERROR_MAX_VIOLATIONS;
         i++) {
        snprintf(path, sizeof path, "sections[%zu]", i);
        check_section(error, path, request->sections[i]);
    }
    check_block_map(error, request, n_blocks);
    check_tenants(error, request);
    if (request->sessions == NULL)
        return;
    if (!has_section(
            request, KVPOOL__V1__SNAPSHOT_SECTION__SNAPSHOT_SECTION_SESSIONS))
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
    struct state_map map;
    struct histograms histograms;
    struct state_sinks sinks;
    struct subscriber_status_list subscribers;
    struct state_tenants tenants;
};

/* Its token is known to be one. */
static enum kv_status fill_tenants(struct sections *sections,
    Kvpool__V1__PoolSnapshot *snapshot, struct server *server,
    const Kvpool__V1__TenantQuery *query)
{
    const bool is_first = query == NULL || query->page_token[0] == '\0';
    const uint32_t page_size = query != NULL && query->page_size > 0
                                   ? query->page_size
                                   : STATE_MAX_TENANTS;
    struct state_place place;
    enum kv_status status;

    if (!is_first)
        state_tenants_parse(server, query->page_token, &place);
    status = state_tenants_fill(
        &sections->tenants, server, page_size, is_first ? NULL : &place);
    snapshot->tenants = sections->tenants.list;
    snapshot->n_tenants = sections->tenants.n;
    snapshot->tenants_next_page_token = sections->tenants.next_token;
    return status;
}

static enum kv_status fill_arena(struct sections *sections,
    Kvpool__V1__PoolSnapshot *snapshot, const struct server *server,
    const Kvpool__V1__SnapshotRequest *request)
{
    if (has_section(request,
            KVPOOL__V1__SNAPSHOT_SECTION__SNAPSHOT_SECTION_HISTOGRAMS)) {
        histograms_fill(&sections->histograms, server);
        snapshot->histograms = &sections->histograms.message;
    }
    if (!has_section(
            request, KVPOOL__V1__SNAPSHOT_SECTION__SNAPSHOT_SECTION_BLOCK_MAP))
        return KV_OK;
    snapshot->block_map = &sections->map.map;
    return state_map_fill(&sections->map, server, request->block_map);
}

/* order is NULL where the sessions are in that of their keys. */
static enum kv_status fill_sections(struct sections *sections,
    Kvpool__V1__PoolSnapshot *snapshot, struct server *server,
    const Kvpool__V1__SnapshotRequest *request, struct state_order *order)
{
    const Kvpool__V1__SessionQuery *query = request->sessions;
    enum kv_status status = KV_OK;

    if (has_section(
            request, KVPOOL__V1__SNAPSHOT_SECTION__SNAPSHOT_SECTION_SESSIONS)) {
        status =
            order != NULL
                ? state_order_fill(order, &sections->page)
                : state_page_fill(&sections->page, server,
                      query != NULL ? query->filter : NULL,
                      page_size_of(query != NULL ? query->page_size : 0), NULL);
        snapshot->sessions = sections->page.list;
        snapshot->n_sessions = sections->page.n;
        snapshot->sessions_next_page_token = sections->page.next_token;
    }
    if (has_section(
            request, KVPOOL__V1__SNAPSHOT_SECTION__SNAPSHOT_SECTION_SINKS)) {
        state_sinks_fill(&sections->sinks, server);
        snapshot->sinks = sections->sinks.list;
        snapshot->n_sinks = sections->sinks.n;
    }
    if (status == KV_OK)
        status = fill_arena(sections, snapshot, server, request);
    if (status == KV_OK &&
        has_section(
            request, KVPOOL__V1__SNAPSHOT_SECTION__SNAPSHOT_SECTION_TENANTS))
        status = fill_tenants(sections, snapshot, server, request->tenants);
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
    const Kvpool__V1__SnapshotRequest *request, struct state_order *order)
{
    Kvpool__V1__SnapshotResponse response = KVPOOL__V1__SNAPSHOT_RESPONSE__INIT;
    struct sections sections = {.page = {.n = 0},
        .map = {.entries = NULL},
        .subscribers = {.n = 0},
        .tenants = {.n = 0}};
    struct state state;

    state_fill(&state, server);
    response.snapshot = &state.snapshot;
    if (fill_sections(&sections, &state.snapshot, server, request, order) ==
        KV_OK)
        message_reply(call, &response.base);
    else
        message_fail_no_memory(call);
    subscriber_status_fini(&sections.subscribers);
    state_tenants_fini(&sections.tenants);
    state_map_fini(&sections.map);
    state_page_fini(&sections.page);
}

/* ---- ListSessions */

/* order is NULL where the sessions are in that of their keys. */
static void reply_list(struct server *server, struct rpc_call *call,
    const Kvpool__V1__ListSessionsRequest *request,
    const struct pool_key *after, struct state_order *order)
{
    Kvpool__V1__ListSessionsResponse response =
        KVPOOL__V1__LIST_SESSIONS_RESPONSE__INIT;
    struct state_stamp stamp;
    struct state_page page;
    enum kv_status status =
        order != NULL ? state_order_fill(order, &page)
                      : state_page_fill(&page, server, request->filter,
                            page_size_of(request->page_size), after);

    if (status != KV_OK) {
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

/* ---- in an order for which all sessions are looked at: turn by turn */

struct ordering {
    struct server *server;
    struct rpc_call *call;
    Kvpool__V1__SnapshotRequest *snapshot; /* one of the two; owned */
    Kvpool__V1__ListSessionsRequest *list;
    struct state_place after;
    struct state_order order;
    struct rpc_post turn;
};

static void free_ordering(struct ordering *ordering)
{
    state_order_fini(&ordering->order);
    kvpool__v1__snapshot_request__free_unpacked(ordering->snapshot, NULL);
    kvpool__v1__list_sessions_request__free_unpacked(ordering->list, NULL);
    kv_free(ordering);
}

static void on_turn(struct rpc_post *post)
{
    struct ordering *ordering = KV_LIST_ENTRY(post, struct ordering, turn);
    struct server *server = ordering->server;

    if (!state_order_look(&ordering->order, kv_clock_mono_ns() + TURN_NS)) {
        rpc_loop_post(server->loop, &ordering->turn);
        return;
    }
    if (ordering->snapshot != NULL)
        reply_snapshot(
            server, ordering->call, ordering->snapshot, &ordering->order);
    else
        reply_list(
            server, ordering->call, ordering->list, NULL, &ordering->order);
    free_ordering(ordering);
}

static bool needs_turns(Kvpool__V1__SessionOrder order)
{
    return order > KVPOOL__V1__SESSION_ORDER__SESSION_ORDER_KEY;
}

/* Takes the request, of which there is one. */
static void begin_ordering(struct server *server, struct rpc_call *call,
    Kvpool__V1__SnapshotRequest *snapshot,
    Kvpool__V1__ListSessionsRequest *list, const struct state_place *after)
{
    struct ordering *ordering = kv_calloc(1, sizeof *ordering);
    struct state_order *order;

    if (ordering == NULL) {
        message_fail_no_memory(call);
        kvpool__v1__snapshot_request__free_unpacked(snapshot, NULL);
        kvpool__v1__list_sessions_request__free_unpacked(list, NULL);
        return;
    }
    order = &ordering->order;
    ordering->server = order->server = server;
    ordering->call = call;
    ordering->snapshot = snapshot;
    ordering->list = list;
    ordering->turn.run = on_turn;
    order->filter =
        snapshot != NULL ? snapshot->sessions->filter : list->filter;
    order->order = snapshot != NULL ? snapshot->sessions->order : list->order;
    order->page_size = page_size_of(
        snapshot != NULL ? snapshot->sessions->page_size : list->page_size);
    if (after != NULL) {
        state_place_copy(&ordering->after, &after->key);
        ordering->after.rank = after->rank;
        order->after = &ordering->after;
    }
    if (state_order_begin(order) == KV_OK) {
        on_turn(&ordering->turn);
        return;
    }
    message_fail_no_memory(call);
    free_ordering(ordering);
}

/* ---- the calls */

static void on_snapshot(void *ctx, struct rpc_call *call,
    const unsigned char *bytes, size_t n_bytes)
{
    struct server *server = ctx;
    struct state_place place;
    struct rpc_error error;
    Kvpool__V1__SnapshotRequest *request =
        (Kvpool__V1__SnapshotRequest *)message_parse(
            &kvpool__v1__snapshot_request__descriptor, bytes, n_bytes, &error);

    if (request != NULL)
        check_snapshot(&error, request, pool_config(server->pool)->n_blocks);
    if (error.n_violations == 0 && request->tenants != NULL &&
        request->tenants->page_token[0] != '\0' &&
        !state_tenants_parse(server, request->tenants->page_token, &place))
        check_fail_page_token(&error);
    if (error.code != RPC_OK) {
        rpc_call_fail(call, &error);
    } else if (request->sessions != NULL &&
               needs_turns(request->sessions->order)) {
        begin_ordering(server, call, request, NULL, NULL);
        return;
    } else {
        reply_snapshot(server, call, request, NULL);
    }
    kvpool__v1__snapshot_request__free_unpacked(request, NULL);
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
        !state_place_parse(
            ctx, request->page_token, request->filter, request->order, &place))
        check_fail_page_token(&error);
    if (error.code != RPC_OK) {
        rpc_call_fail(call, &error);
    } else if (needs_turns(request->order)) {
        begin_ordering(ctx, call, NULL, request, first ? NULL : &place);
        return;
    } else {
        reply_list(ctx, call, request, first ? NULL : &place.key, NULL);
    }
    kvpool__v1__list_sessions_request__free_unpacked(request, NULL);
}

enum kv_status service_pool_add(struct server *server)
{
#define PATH "/kvpool.v1.KvPoolService/"
    const struct rpc_method methods[] = {
        {PATH "Snapshot", RPC_UNARY, on_snapshot, server},
        {PATH "ListSessions", RPC_UNARY, on_list_sessions, server},
    };
#undef PATH
    enum kv_status status = KV_OK;

    for (size_t i = 0; i < sizeof methods / sizeof *methods; i++)
        if (status == KV_OK)
            status = rpc_server_add_method(server->rpc, &methods[i]);
    return status;
}
