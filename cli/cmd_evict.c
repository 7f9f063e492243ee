/* evict: gives up blocks of sessions now. */
#include <string.h>

#include "cli/command.h"
#include "cli/view.h"
#include "kvpool/v1/pool_service.pb-c.h"

/* A request and the memory of its parts. */
struct evict {
    Kvpool__V1__EvictRequest request;
    Kvpool__V1__EvictTarget targets[OPTION_LIST_MAX];
    Kvpool__V1__EvictTarget *target_list[OPTION_LIST_MAX];
    Kvpool__V1__SessionKey keys[OPTION_LIST_MAX];
    Kvpool__V1__EvictAll all;
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

static void add_targets(struct evict *evict, const struct option_values *values)
{
    if (values->all) {
        kvpool__v1__evict_all__init(&evict->all);
        add_target(evict, KVPOOL__V1__EVICT_TARGET__TARGET_ALL)->all =
            &evict->all;
    } else if (values->sessions.n > 0) {
        for (size_t i = 0; i < values->sessions.n; i++)
            add_session(evict, values->tenant, values->sessions.items[i]);
    } else {
        add_target(evict, KVPOOL__V1__EVICT_TARGET__TARGET_TENANT)->tenant =
            (char *)values->tenant;
    }
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
    request->wait = waits[values->wait];
    request->max_sessions = (uint32_t)values->max_sessions;
}

static enum kv_status check(
    const struct option_values *values, struct kv_error *error)
{
    bool named = values->sessions.n > 0 || values->tenant != NULL;

    if (values->all && named)
        return kv_error_set(error, KV_INVALID,
            "--all: not together with --session or --tenant, it means every "
            "session");
    if (!values->all && !named)
        return kv_error_set(
            error, KV_INVALID, "one of --session, --tenant or --all is needed");
    return KV_OK;
}

enum cli_exit cmd_evict(struct cli *cli)
{
    struct evict evict;
    struct kv_error error;
    enum cli_exit code = CLI_OK;
    Kvpool__V1__EvictResponse *answer;

    if (check(&cli->values, &error) != KV_OK)
        return cli_fail_usage(cli, &error);
    evict_init(&evict, &cli->values);
    answer = cli_call(cli, CLI_POOL_SERVICE "Evict", &evict.request.base,
        &kvpool__v1__evict_response__descriptor, &code);
    if (answer == NULL)
        return code;
    if (!cli_is_text(cli))
        code = cli_print_message(cli, &answer->base);
    else if (view_evicted(cli->out, answer) != KV_OK)
        code = cli_fail(cli, CLI_FAILED, "out of memory");
    if (code == CLI_OK && answer->sessions_evicted == 0)
        code = CLI_NOTHING;
    cli_free_answer(answer);
    return code;
}
