/* evict: gives up blocks of sessions now, and shows what became of each: an
 * answer of several pages is read to its end. */
#include <inttypes.h>
#include <stdio.h>
#include <string.h>
#include <sys/random.h>

#include "base/heap.h"
#include "cli/command.h"
#include "cli/view.h"
#include "kvpool/v1/pool_service.pb-c.h"

/* A server remembers the outcomes of no more than this, unless the request has
 * an id. */
#define MAX_UNNAMED 1000

/* A request and the memory of its parts. */
struct evict {
    Kvpool__V1__EvictRequest request;
    Kvpool__V1__EvictTarget targets[OPTION_LIST_MAX];
    Kvpool__V1__EvictTarget *target_list[OPTION_LIST_MAX];
    Kvpool__V1__SessionKey keys[OPTION_LIST_MAX];
    Kvpool__V1__EvictAll all;
    Kvpool__V1__EvictPrefix prefix; /* token_ids are owned */
    Kvpool__V1__EvictIdle idle;
    Kvpool__V1__EvictBytes bytes;
    char *tenant; /* the list of one that these have */
    char made_id[32];
};

static Kvpool__V1__EvictTarget *add_target(
    struct evict *evict, Kvpool__V1__EvictTarget__TargetCase which)
{
    size_t n = evict->request.n_targets++;

    kvpool__v1__evict_target__init(&evict->targets[n]);
    evict->targets[n].target_case = which;
    evict->target_list[n] = &evict->targets[n];
    return &evict->targets[n];
}

static void add_session(
    struct evict *evict, const char *tenant, const char *session_id)
{
    Kvpool__V1__SessionKey *key = &evict->keys[evict->request.n_targets];

    kvpool__v1__session_key__init(key);
    key->session_id = (char *)session_id;
    if (tenant != NULL)
        key->tenant = (char *)tenant;
    add_target(evict, KVPOOL__V1__EVICT_TARGET__TARGET_SESSION)->session = key;
}

static void add_prefix(struct evict *evict)
{
    if (evict->tenant != NULL)
        evict->prefix.tenant = evict->tenant;
    add_target(evict, KVPOOL__V1__EVICT_TARGET__TARGET_PREFIX)->prefix =
        &evict->prefix;
}

static void add_idle(struct evict *evict, int64_t longer_than_ns)
{
    kvpool__v1__evict_idle__init(&evict->idle);
    evict->idle.longer_than_ns = longer_than_ns;
    evict->idle.tenants = &evict->tenant;
    evict->idle.n_tenants = evict->tenant != NULL;
    add_target(evict, KVPOOL__V1__EVICT_TARGET__TARGET_IDLE)->idle =
        &evict->idle;
}

static void add_bytes(struct evict *evict, uint64_t at_least_bytes)
{
    kvpool__v1__evict_bytes__init(&evict->bytes);
    evict->bytes.at_least_bytes = at_least_bytes;
    evict->bytes.tenants = &evict->tenant;
    evict->bytes.n_tenants = evict->tenant != NULL;
    add_target(evict, KVPOOL__V1__EVICT_TARGET__TARGET_BYTES)->bytes =
        &evict->bytes;
}

static void add_all(struct evict *evict)
{
    kvpool__v1__evict_all__init(&evict->all);
    add_target(evict, KVPOOL__V1__EVICT_TARGET__TARGET_ALL)->all = &evict->all;
}

static void add_targets(struct evict *evict, const struct option_values *values)
{
    evict->tenant = (char *)values->tenant;
    for (size_t i = 0; i < values->sessions.n; i++)
        add_session(evict, values->tenant, values->sessions.items[i]);
    if (values->all)
        add_all(evict);
    if (values->prefix_tokens != NULL)
        add_prefix(evict);
    if (values->idle_ns != 0)
        add_idle(evict, values->idle_ns);
    if (values->bytes != 0)
        add_bytes(evict, values->bytes);
    if (evict->request.n_targets == 0)
        add_target(evict, KVPOOL__V1__EVICT_TARGET__TARGET_TENANT)->tenant =
            evict->tenant;
}

/* One that nobody else has: its outcomes can be read on under it. */
static char *make_id(struct evict *evict)
{
    uint64_t chance = 0;

    if (getrandom(&chance, sizeof chance, 0) != (ssize_t)sizeof chance)
        return (char *)"";
    snprintf(
        evict->made_id, sizeof evict->made_id, "kvpoolctl-%016" PRIx64, chance);
    return evict->made_id;
}

static void evict_init(struct evict *evict, const struct option_values *values)
{
    static const Kvpool__V1__EvictWait waits[] = {
        [OPTION_WAIT_UNSET] = KVPOOL__V1__EVICT_WAIT__EVICT_WAIT_UNSPECIFIED,
        [OPTION_WAIT_APPLIED] = KVPOOL__V1__EVICT_WAIT__EVICT_WAIT_APPLIED,
        [OPTION_WAIT_DURABLE] = KVPOOL__V1__EVICT_WAIT__EVICT_WAIT_DURABLE};
    Kvpool__V1__EvictRequest *request = &evict->request;

    kvpool__v1__evict_request__init(request);
    add_targets(evict, values);
    request->targets = evict->target_list;
    request->preempt = values->preempt;
    request->forget = values->forget;
    request->dry_run = values->dry_run;
    if (values->request_id != NULL)
        request->request_id = (char *)values->request_id;
    else if (values->max_sessions > MAX_UNNAMED && !values->dry_run)
        request->request_id = make_id(evict);
    request->wait = waits[values->wait];
    request->max_sessions = (uint32_t)values->max_sessions;
}

static enum kv_status check(
    const struct option_values *values, struct kv_error *error)
{
    int n_targets = (values->sessions.n > 0) + values->all +
                    (values->prefix_tokens != NULL) + (values->idle_ns != 0) +
                    (values->bytes != 0);

    if (values->all && (n_targets > 1 || values->tenant != NULL))
        return kv_error_set(error, KV_INVALID,
            "--all: not together with --session, --tenant or another target, "
            "it means every session");
    if (n_targets > 1)
        return kv_error_set(error, KV_INVALID,
            "--session, --prefix-tokens, --idle and --bytes: not together, "
            "one of them says who is meant");
    if (n_targets == 0 && values->tenant == NULL)
        return kv_error_set(error, KV_INVALID,
            "one of --session, --prefix-tokens, --idle, --bytes, --tenant or "
            "--all is needed");
    return KV_OK;
}

/* The tokens of --prefix-tokens, if it was given. */
static enum kv_status parse_prefix(struct evict *evict,
    const struct option_values *values, struct kv_error *error)
{
    enum kv_status status;

    if (values->prefix_tokens == NULL)
        return KV_OK;
    status = cmd_parse_tokens("--prefix-tokens", values->prefix_tokens,
        &evict->prefix.token_ids, &evict->prefix.n_token_ids, error);
    if (status == KV_OK && evict->prefix.n_token_ids == 0)
        status = kv_error_set(error, KV_INVALID,
            "--prefix-tokens: none were given, at least 1 is needed");
    return status;
}

static enum cli_exit print(
    struct cli *cli, const Kvpool__V1__EvictResponse *answer)
{
    if (!cli_is_text(cli))
        return cli_print_message(cli, &answer->base);
    return view_evicted(cli->out, answer) == KV_OK
               ? CLI_OK
               : cli_fail(cli, CLI_FAILED, "out of memory");
}

static Kvpool__V1__EvictResponse *ask(
    struct cli *cli, const struct evict *evict, enum cli_exit *code)
{
    return cli_call(cli, CLI_POOL_SERVICE "Evict", &evict->request.base,
        &kvpool__v1__evict_response__descriptor, code);
}

/* The page's outcomes go behind those of the answer, and its token with them.
 * false: no memory, and nothing was moved. */
static bool join_page(
    Kvpool__V1__EvictResponse *answer, Kvpool__V1__EvictResponse *page)
{
    size_t n = answer->n_outcomes + page->n_outcomes;
    Kvpool__V1__EvictOutcome **joined =
        kv_realloc(answer->outcomes, n * sizeof *joined);
    char *token = answer->next_page_token;

    if (joined == NULL)
        return false;
    memcpy(joined + answer->n_outcomes, page->outcomes,
        page->n_outcomes * sizeof *joined);
    answer->outcomes = joined;
    answer->n_outcomes = n;
    page->n_outcomes = 0;
    answer->next_page_token = page->next_page_token;
    page->next_page_token = token;
    return true;
}

/* A page that leads on: it has outcomes, and another token than the one before.
 */
static bool leads_on(const Kvpool__V1__EvictResponse *answer,
    const Kvpool__V1__EvictResponse *page)
{
    return page->n_outcomes > 0 &&
           strcmp(page->next_page_token, answer->next_page_token) != 0;
}

/* The answer's other pages: the same request again evicts nothing more. */
static enum cli_exit read_on(
    struct cli *cli, struct evict *evict, Kvpool__V1__EvictResponse *answer)
{
    enum cli_exit code = CLI_OK;

    while (code == CLI_OK && answer->next_page_token[0] != '\0') {
        Kvpool__V1__EvictResponse *page;

        evict->request.page_token = answer->next_page_token;
        page = ask(cli, evict, &code);
        if (page == NULL)
            return code;
        if (!leads_on(answer, page))
            code = cli_fail(
                cli, CLI_FAILED, "the server does not go on with its pages");
        else if (!join_page(answer, page))
            code = cli_fail(cli, CLI_FAILED, "out of memory");
        cli_free_answer(page);
    }
    return code;
}

/* What was evicted is shown even if some of its outcomes could not be read. */
static enum cli_exit evict_and_show(struct cli *cli, struct evict *evict)
{
    Kvpool__V1__EvictResponse *answer;
    enum cli_exit code = CLI_OK, printed;

    evict_init(evict, &cli->values);
    answer = ask(cli, evict, &code);
    if (answer == NULL)
        return code;
    code = read_on(cli, evict, answer);
    printed = print(cli, answer);
    if (code == CLI_OK)
        code = printed;
    if (code == CLI_OK && answer->sessions_evicted == 0 &&
        answer->sessions_forgotten == 0)
        code = CLI_NOTHING;
    cli_free_answer(answer);
    return code;
}

enum cli_exit cmd_evict(struct cli *cli)
{
    struct evict evict;
    struct kv_error error;
    enum cli_exit code;

    kvpool__v1__evict_prefix__init(&evict.prefix);
    if (check(&cli->values, &error) != KV_OK ||
        parse_prefix(&evict, &cli->values, &error) != KV_OK)
        code = cli_fail_usage(cli, &error);
    else
        code = evict_and_show(cli, &evict);
    kv_free(evict.prefix.token_ids);
    return code;
}
