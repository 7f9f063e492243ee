#include "server/evict_check.h"

#include <inttypes.h>
#include <stdio.h>

#include "server/check.h"
#include "server/evict_page.h"

static void check_tenants(
    struct rpc_error *error, const char *path, char *const *tenants, size_t n)
{
    char field[128];

    snprintf(field, sizeof field, "%s.tenants", path);
    if (n > EVICT_MAX_TENANTS) {
        rpc_error_add_violation(error, field,
            "%zu were given; allowed are at most %d", n, EVICT_MAX_TENANTS);
        return;
    }
    for (size_t i = 0; i < n; i++) {
        snprintf(field, sizeof field, "%s.tenants[%zu]", path, i);
        check_tenant(error, field, tenants[i]);
    }
}

static void check_prefix(struct rpc_error *error, const char *path,
    const Kvpool__V1__EvictPrefix *prefix)
{
    char field[128];

    snprintf(field, sizeof field, "%s.tenant", path);
    check_tenant(error, field, prefix->tenant);
    snprintf(field, sizeof field, "%s.token_ids", path);
    if (prefix->n_token_ids == 0)
        rpc_error_add_violation(
            error, field, "0 were given; allowed are at least 1");
}

static void check_idle(struct rpc_error *error, const char *path,
    const Kvpool__V1__EvictIdle *idle)
{
    char field[128];

    snprintf(field, sizeof field, "%s.longer_than_ns", path);
    if (idle->longer_than_ns <= 0)
        rpc_error_add_violation(error, field,
            "%" PRId64 " was given; allowed is more than 0",
            idle->longer_than_ns);
    check_tenants(error, path, idle->tenants, idle->n_tenants);
}

static void check_bytes(struct rpc_error *error, const char *path,
    const Kvpool__V1__EvictBytes *bytes)
{
    char field[128];

    snprintf(field, sizeof field, "%s.at_least_bytes", path);
    if (bytes->at_least_bytes == 0)
        rpc_error_add_violation(
            error, field, "0 was given; allowed is more than 0");
    check_tenants(error, path, bytes->tenants, bytes->n_tenants);
}

static void check_target(
    struct rpc_error *error, size_t i, const Kvpool__V1__EvictTarget *target)
{
    char path[96];

    switch (target->target_case) {
    case KVPOOL__V1__EVICT_TARGET__TARGET_SESSION:
        snprintf(path, sizeof path, "targets[%zu].session", i);
        check_session_key(error, path, target->session);
        break;
    case KVPOOL__V1__EVICT_TARGET__TARGET_TENANT:
        snprintf(path, sizeof path, "targets[%zu].tenant", i);
        check_tenant(error, path, target->tenant);
        break;
    case KVPOOL__V1__EVICT_TARGET__TARGET_PREFIX:
        snprintf(path, sizeof path, "targets[%zu].prefix", i);
        check_prefix(error, path, target->prefix);
        break;
    case KVPOOL__V1__EVICT_TARGET__TARGET_IDLE:
        snprintf(path, sizeof path, "targets[%zu].idle", i);
        check_idle(error, path, target->idle);
        break;
    case KVPOOL__V1__EVICT_TARGET__TARGET_BYTES:
        snprintf(path, sizeof path, "targets[%zu].bytes", i);
        check_bytes(error, path, target->bytes);
        break;
    case KVPOOL__V1__EVICT_TARGET__TARGET_ALL:
        break;
    default:
        snprintf(path, sizeof path, "targets[%zu].target", i);
        rpc_error_add_violation(error, path,
            "none was given; allowed is exactly one of session, tenant, "
            "prefix, idle, bytes, all");
    }
}

static void check_targets(
    struct rpc_error *error, const Kvpool__V1__EvictRequest *request)
{
    if (request->n_targets < 1 || request->n_targets > EVICT_MAX_TARGETS)
        rpc_error_add_violation(error, "targets",
            "%zu were given; allowed are 1 to %d", request->n_targets,
            EVICT_MAX_TARGETS);
    else
        for (size_t i = 0; i < request->n_targets; i++)
            check_target(error, i, request->targets[i]);
}

bool evict_is_named(const Kvpool__V1__EvictRequest *request)
{
    return request->request_id[0] != '\0' && !request->dry_run;
}

void evict_check(struct rpc_error *error,
    const Kvpool__V1__EvictRequest *request, struct evict_limits *limits)
{
    bool has_id = evict_is_named(request);

    check_targets(error, request);
    evict_check_id(error, request->request_id);
    if (request->page_token[0] != '\0' && !has_id)
        rpc_error_add_violation(error, "page_token",
            "a token was given; allowed with the request_id of the call that "
            "it is of");
    if (request->wait < 0 ||
        request->wait > KVPOOL__V1__EVICT_WAIT__EVICT_WAIT_APPLIED)
        rpc_error_add_violation(error, "wait",
            "%d was given; allowed are values of EvictWait",
            (int)request->wait);
    limits->page_size = check_count(error, "page_size", request->page_size, 1,
        EVICT_MAX_PAGE, EVICT_MAX_PAGE);
    limits->max_sessions =
        check_count(error, "max_sessions", request->max_sessions, 1,
            EVICT_MAX_SESSIONS, has_id ? EVICT_MAX_PAGE : limits->page_size);
    if (!has_id && request->max_sessions > limits->page_size &&
        request->max_sessions <= EVICT_MAX_SESSIONS)
        rpc_error_add_violation(error, "max_sessions",
            "%u was given; allowed without request_id is at most page_size, "
            "which is %u",
            request->max_sessions, limits->page_size);
}
