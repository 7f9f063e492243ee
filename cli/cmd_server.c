/* ping, describe, snapshot, sessions: what is there. */
#include <inttypes.h>
#include <string.h>

#include "base/clock.h"
#include "base/heap.h"
#include "cli/command.h"
#include "cli/proto_json.h"
#include "cli/view.h"

#define PING_PAUSE_NS (200 * KV_NS_PER_MS)
#define SESSIONS_PAGE 1000

/* ---- ping */

struct ping {
    enum rpc_code code;
    struct rpc_error error;
    const char *status; /* as answered, if it was */
    int64_t round_trip_ns;
};

/* One check with a connection of its own: gRPC's pauses between attempts to
 * connect are not ours. */
static enum cli_exit ping_once(
    struct cli *cli, int64_t timeout_ns, struct ping *ping)
{
    struct rpc_client_options options = {.timeout_ns = timeout_ns};
    enum cli_exit code = CLI_OK;
    struct rpc_client *client = cli_client(cli, &code);
    int64_t start_ns;

    if (client == NULL)
        return code;
    /* The first call connects, the second one measures. */
    for (int i = 0; i < 2; i++) {
        start_ns = kv_clock_mono_ns();
        ping->code = rpc_client_check_health(
            client, &options, &ping->status, &ping->error);
        ping->round_trip_ns = kv_clock_mono_ns() - start_ns;
        if (ping->code != RPC_OK)
            break;
    }
    rpc_client_close(cli->client);
    cli->client = NULL;
    return CLI_OK;
}

static bool is_serving(const struct ping *ping)
{
    return ping->code == RPC_OK && strcmp(ping->status, "SERVING") == 0;
}

static enum cli_exit report_ping(struct cli *cli, const struct ping *ping)
{
    enum cli_exit code = is_serving(ping) ? CLI_OK : CLI_NOTHING;

    if (ping->code != RPC_OK)
        return cli_fail_rpc(cli, &ping->error);
    if (cli_is_text(cli)) {
        fprintf(cli->out, "%s: %s, %s\n", text_name(cli->values.server).s,
            ping->status, text_duration(ping->round_trip_ns).s);
        return code;
    }
    cli_print_json(cli,
        json_pack("{s:s, s:s, s:I}", "server", cli->values.server, "status",
            ping->status, "round_trip_ns", (json_int_t)ping->round_trip_ns));
    return code;
}

static bool may_change(const struct ping *ping)
{
    return ping->code == RPC_OK || ping->code == RPC_UNAVAILABLE ||
           ping->code == RPC_DEADLINE_EXCEEDED;
}

enum cli_exit cmd_ping(struct cli *cli)
{
    int64_t timeout_ns = cli_call_options(cli, CLI_TIMEOUT_NS).timeout_ns;
    int64_t end_ns = kv_clock_mono_ns() + timeout_ns;
    struct ping ping = {.code = RPC_UNAVAILABLE};

    for (;;) {
        struct ping next = {0};
        enum cli_exit code = ping_once(cli, timeout_ns, &next);

        if (code != CLI_OK)
            return code;
        /* A try that the limit cuts short takes no earlier answer back. */
        if (ping.code != RPC_OK || next.code != RPC_DEADLINE_EXCEEDED)
            ping = next;
        timeout_ns = end_ns - kv_clock_mono_ns() - PING_PAUSE_NS;
        if (is_serving(&ping) || !cli->values.wait_serving ||
            !may_change(&ping) || timeout_ns <= 0)
            return report_ping(cli, &ping);
        cli_progress(cli, "waiting for %s", cli->values.server);
        interrupt_sleep(cli->interrupt, PING_PAUSE_NS);
    }
}

/* ---- describe and snapshot */

/* What the options ask for beside the totals. */
static Kvpool__V1__SnapshotResponse *take_snapshot(
    struct cli *cli, enum cli_exit *code)
{
    Kvpool__V1__SnapshotRequest request = KVPOOL__V1__SNAPSHOT_REQUEST__INIT;
    Kvpool__V1__SessionQuery query = KVPOOL__V1__SESSION_QUERY__INIT;
    Kvpool__V1__SnapshotSection sections[6];
    Kvpool__V1__SnapshotResponse *answer;

    request.sections = sections;
    if (cli->values.with_sessions) {
        query.page_size = SESSIONS_PAGE;
        sections[request.n_sections++] =
            KVPOOL__V1__SNAPSHOT_SECTION__SNAPSHOT_SECTION_SESSIONS;
        request.sessions = &query;
    }
    if (cli->values.with_tenants)
        sections[request.n_sections++] =
            KVPOOL__V1__SNAPSHOT_SECTION__SNAPSHOT_SECTION_TENANTS;
    if (cli->values.with_block_map)
        sections[request.n_sections++] =
            KVPOOL__V1__SNAPSHOT_SECTION__SNAPSHOT_SECTION_BLOCK_MAP;
    if (cli->values.with_histograms)
        sections[request.n_sections++] =
            KVPOOL__V1__SNAPSHOT_SECTION__SNAPSHOT_SECTION_HISTOGRAMS;
    if (cli->values.with_sinks)
        sections[request.n_sections++] =
            KVPOOL__V1__SNAPSHOT_SECTION__SNAPSHOT_SECTION_SINKS;
    if (cli->values.with_subscribers)
        sections[request.n_sections++] =
            KVPOOL__V1__SNAPSHOT_SECTION__SNAPSHOT_SECTION_SUBSCRIBERS;
    answer = cli_call(cli, CLI_POOL_SERVICE "Snapshot", &request.base,
        &kvpool__v1__snapshot_response__descriptor, code);
    if (answer != NULL && answer->snapshot == NULL) {
        *code = cli_fail(cli, CLI_FAILED, "Snapshot: the answer is empty");
        cli_free_answer(answer);
        return NULL;
    }
    return answer;
}

static Kvpool__V1__GetModelResponse *get_model(
    struct cli *cli, enum cli_exit *code)
{
    Kvpool__V1__GetModelRequest request = KVPOOL__V1__GET_MODEL_REQUEST__INIT;
    Kvpool__V1__GetModelResponse *answer =
        cli_call(cli, CLI_INFERENCE_SERVICE "GetModel", &request.base,
            &kvpool__v1__get_model_response__descriptor, code);

    if (answer != NULL && answer->model == NULL) {
        *code = cli_fail(cli, CLI_FAILED, "GetModel: the answer is empty");
        cli_free_answer(answer);
        return NULL;
    }
    return answer;
}

static enum cli_exit print_description(struct cli *cli,
    const Kvpool__V1__Model *model, const Kvpool__V1__PoolSnapshot *snapshot)
{
    json_t *json;

    if (cli_is_text(cli)) {
        view_model(cli->out, model);
        view_snapshot(cli->out, snapshot);
        return CLI_OK;
    }
    json = json_pack("{s:o, s:o}", "model", proto_to_json(&model->base),
        "snapshot", proto_to_json(&snapshot->base));
    return cli_print_json(cli, json);
}

enum cli_exit cmd_describe(struct cli *cli)
{
    enum cli_exit code = CLI_OK;
    Kvpool__V1__GetModelResponse *model = get_model(cli, &code);
    Kvpool__V1__SnapshotResponse *snapshot;

    if (model == NULL)
        return code;
    snapshot = take_snapshot(cli, &code);
    if (snapshot != NULL)
        code = print_description(cli, model->model, snapshot->snapshot);
    cli_free_answer(snapshot);
    cli_free_answer(model);
    return code;
}

static enum cli_exit view_sessions_of(
    struct cli *cli, const Kvpool__V1__PoolSnapshot *snapshot)
{
    struct table table;
    enum kv_status status;

    view_sessions_begin(&table);
    for (size_t i = 0; i < snapshot->n_sessions; i++)
        view_sessions_add(&table, snapshot->sessions[i]);
    fputc('\n', cli->out);
    status = table_flush(&table, cli->out);
    table_fini(&table);
    if (status != KV_OK)
        return cli_fail(cli, CLI_FAILED, "out of memory");
    if (snapshot->sessions_next_page_token[0] != '\0')
        cli_note(cli, "there are more: see 'kvpoolctl sessions'");
    return CLI_OK;
}

static enum cli_exit view_sinks_of(
    struct cli *cli, const Kvpool__V1__PoolSnapshot *snapshot)
{
    fputc('\n', cli->out);
    return view_sinks(cli->out, snapshot) == KV_OK
               ? CLI_OK
               : cli_fail(cli, CLI_FAILED, "out of memory");
}

static enum cli_exit view_tenants_of(
    struct cli *cli, const Kvpool__V1__PoolSnapshot *snapshot)
{
    fputc('\n', cli->out);
    if (view_tenants(cli->out, snapshot) != KV_OK)
        return cli_fail(cli, CLI_FAILED, "out of memory");
    if (snapshot->tenants_next_page_token[0] != '\0')
        cli_note(cli, "there are more tenants");
    return CLI_OK;
}

static enum cli_exit view_arena_of(
    struct cli *cli, const Kvpool__V1__PoolSnapshot *snapshot)
{
    if (snapshot->histograms != NULL)
        view_histograms(cli->out, snapshot->histograms);
    if (!cli->values.with_block_map)
        return CLI_OK;
    fputc('\n', cli->out);
    if (view_block_map(cli->out, snapshot) != KV_OK)
        return cli_fail(cli, CLI_FAILED, "out of memory");
    return CLI_OK;
}

static enum cli_exit view_subscribers_of(
    struct cli *cli, const Kvpool__V1__PoolSnapshot *snapshot)
{
    fputc('\n', cli->out);
    if (view_subscribers(cli->out, snapshot) != KV_OK)
        return cli_fail(cli, CLI_FAILED, "out of memory");
    return CLI_OK;
}

enum cli_exit cmd_snapshot(struct cli *cli)
{
    enum cli_exit code = CLI_OK;
    Kvpool__V1__SnapshotResponse *answer = take_snapshot(cli, &code);

    if (answer == NULL)
        return code;
    if (!cli_is_text(cli)) {
        code = cli_print_message(cli, &answer->snapshot->base);
    } else {
        view_snapshot(cli->out, answer->snapshot);
        code = view_arena_of(cli, answer->snapshot);
        if (cli->values.with_tenants && code == CLI_OK)
            code = view_tenants_of(cli, answer->snapshot);
        if (cli->values.with_sessions && code == CLI_OK)
            code = view_sessions_of(cli, answer->snapshot);
        if (cli->values.with_sinks && code == CLI_OK)
            code = view_sinks_of(cli, answer->snapshot);
        if (cli->values.with_subscribers && code == CLI_OK)
            code = view_subscribers_of(cli, answer->snapshot);
    }
    cli_free_answer(answer);
    return code;
}

/* ---- sessions */

struct listing {
    struct table table;
    uint64_t n_left; /* UINT64_MAX: all */
    char *page_token;
    uint64_t n_pages;
};

/* The conditions that were given; tenants is where the list of one goes. */
static void fill_filter(Kvpool__V1__SessionFilter *filter,
    const struct option_values *values, char **tenants,
    Kvpool__V1__SessionState *states)
{
    *tenants = (char *)values->tenant;
    filter->tenants = tenants;
    filter->n_tenants = values->tenant != NULL;
    *states = (Kvpool__V1__SessionState)values->state;
    filter->states = states;
    filter->n_states = values->state != 0;
    if (values->prefix != NULL)
        filter->session_id_prefix = (char *)values->prefix;
    filter->min_idle_ns = values->min_idle_ns;
    filter->min_age_ns = values->min_age_ns;
    filter->min_used_bytes = values->min_bytes;
}

static Kvpool__V1__ListSessionsResponse *next_page(
    struct cli *cli, struct listing *listing, enum cli_exit *code)
{
    Kvpool__V1__ListSessionsRequest request =
        KVPOOL__V1__LIST_SESSIONS_REQUEST__INIT;
    Kvpool__V1__SessionFilter filter = KVPOOL__V1__SESSION_FILTER__INIT;
    Kvpool__V1__SessionState state;
    char *tenant;

    fill_filter(&filter, &cli->values, &tenant, &state);
    request.filter = &filter;
    request.order = (Kvpool__V1__SessionOrder)cli->values.order;
    request.page_size = listing->n_left < SESSIONS_PAGE
                            ? (uint32_t)listing->n_left
                            : SESSIONS_PAGE;
    if (listing->page_token != NULL)
        request.page_token = listing->page_token;
    return cli_call(cli, CLI_POOL_SERVICE "ListSessions", &request.base,
        &kvpool__v1__list_sessions_response__descriptor, code);
}

static enum cli_exit print_page(struct cli *cli, struct listing *listing,
    const Kvpool__V1__ListSessionsResponse *page)
{
    enum cli_exit code = CLI_OK;

    for (size_t i = 0; i < page->n_sessions && listing->n_left > 0; i++) {
        const Kvpool__V1__Session *session = page->sessions[i];

        if (cli_is_text(cli))
            view_sessions_add(&listing->table, session);
        else
            code = cli_list_item(cli, proto_to_json(&session->base));
        if (code != CLI_OK)
            return code;
        listing->n_left--;
    }
    if (cli_is_text(cli) && table_flush(&listing->table, cli->out) != KV_OK)
        return cli_fail(cli, CLI_FAILED, "out of memory");
    return CLI_OK;
}

/* Keeps the token of the page after this one, NULL behind the last. A server
 * that repeats a token would make us ask for ever. */
static enum cli_exit keep_token(struct cli *cli, struct listing *listing,
    const Kvpool__V1__ListSessionsResponse *page)
{
    char *old = listing->page_token;
    bool same = old != NULL && strcmp(old, page->next_page_token) == 0;

    listing->page_token = NULL;
    if (page->next_page_token[0] != '\0') {
        listing->page_token = kv_strdup(page->next_page_token);
        if (listing->page_token == NULL) {
            kv_free(old);
            return cli_fail(cli, CLI_FAILED, "out of memory");
        }
    }
    kv_free(old);
    if (same)
        return cli_fail(
            cli, CLI_FAILED, "ListSessions: the next page is this one");
    return CLI_OK;
}

static enum cli_exit list_page(struct cli *cli, struct listing *listing)
{
    enum cli_exit code = CLI_OK;
    Kvpool__V1__ListSessionsResponse *page = next_page(cli, listing, &code);

    if (page == NULL)
        return code;
    code = print_page(cli, listing, page);
    if (code == CLI_OK)
        code = keep_token(cli, listing, page);
    listing->n_pages++;
    cli_free_answer(page);
    return code;
}

enum cli_exit cmd_sessions(struct cli *cli)
{
    struct listing listing = {
        .n_left = cli->values.limit != 0 ? cli->values.limit : UINT64_MAX};
    enum cli_exit code;

    view_sessions_begin(&listing.table);
    if (!cli_is_text(cli))
        cli_list_begin(cli);
    do {
        code = list_page(cli, &listing);
        if (code == CLI_OK && !cli_flush(cli))
            break;
        cli_progress(
            cli, "%s of sessions", text_count(listing.n_pages, "page").s);
    } while (
        code == CLI_OK && listing.page_token != NULL && listing.n_left > 0);
    if (!cli_is_text(cli))
        cli_list_end(cli);
    kv_free(listing.page_token);
    table_fini(&listing.table);
    return code;
}
