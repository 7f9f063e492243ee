#include "server/check.h"

#include <inttypes.h>
#include <stdio.h>
#include <string.h>

#include "base/utf8.h"
#include "pool/pool.h"

#define MAX_FILTER_TENANTS 64

static void check_name(
    struct rpc_error *error, const char *field, const char *name, size_t least)
{
    size_t n = strlen(name);

    if (n < least || n > POOL_NAME_BYTES)
        rpc_error_add_violation(error, field,
            "%zu bytes were given; allowed are %zu to %d", n, least,
            POOL_NAME_BYTES);
    else if (kv_utf8_has_control(name, n))
        rpc_error_add_violation(
            error, field, "a control character was given; allowed are none");
}

void check_tenant(
    struct rpc_error *error, const char *field, const char *tenant)
{
    check_name(error, field, tenant, 0);
}

void check_session_id(
    struct rpc_error *error, const char *field, const char *id)
{
    check_name(error, field, id, 1);
}

void check_session_key(struct rpc_error *error, const char *field,
    const Kvpool__V1__SessionKey *key)
{
    char path[96];

    if (key == NULL) {
        rpc_error_add_violation(
            error, field, "none was given; allowed is the key of a session");
        return;
    }
    snprintf(path, sizeof path, "%s.tenant", field);
    check_tenant(error, path, key->tenant);
    snprintf(path, sizeof path, "%s.session_id", field);
    check_session_id(error, path, key->session_id);
}

uint32_t check_count(struct rpc_error *error, const char *field, uint32_t value,
    uint32_t least, uint32_t most, uint32_t standard)
{
    if (value == 0)
        return standard;
    if (value < least || value > most)
        rpc_error_add_violation(error, field,
            "%" PRIu32 " was given; allowed are %" PRIu32 " to %" PRIu32, value,
            least, most);
    return value;
}

static void check_state(
    struct rpc_error *error, const char *field, Kvpool__V1__SessionState state)
{
    if ((int)state < KVPOOL__V1__SESSION_STATE__SESSION_STATE_RUNNING ||
        (int)state > KVPOOL__V1__SESSION_STATE__SESSION_STATE_EVICTED)
        rpc_error_add_violation(error, field,
            "%d was given; allowed are values of SessionState from 1 to %d",
            (int)state, KVPOOL__V1__SESSION_STATE__SESSION_STATE_EVICTED);
}

static void check_duration(
    struct rpc_error *error, const char *field, int64_t duration_ns)
{
    if (duration_ns < 0)
        rpc_error_add_violation(error, field,
            "%" PRId64 " was given; allowed is at least 0", duration_ns);
}

void check_session_filter(struct rpc_error *error, const char *field,
    const Kvpool__V1__SessionFilter *filter)
{
    char path[96];

    if (filter == NULL)
        return;
    if (filter->n_tenants > MAX_FILTER_TENANTS) {
        snprintf(path, sizeof path, "%s.tenants", field);
        rpc_error_add_violation(error, path,
            "%zu were given; allowed are at most %d", filter->n_tenants,
            MAX_FILTER_TENANTS);
        return;
    }
    for (size_t i = 0; i < filter->n_tenants; i++) {
        snprintf(path, sizeof path, "%s.tenants[%zu]", field, i);
        check_tenant(error, path, filter->tenants[i]);
    }
    snprintf(path, sizeof path, "%s.session_id_prefix", field);
    check_name(error, path, filter->session_id_prefix, 0);
    for (size_t i = 0; i < filter->n_states; i++) {
        snprintf(path, sizeof path, "%s.states[%zu]", field, i);
        check_state(error, path, filter->states[i]);
    }
    snprintf(path, sizeof path, "%s.min_idle_ns", field);
    check_duration(error, path, filter->min_idle_ns);
    snprintf(path, sizeof path, "%s.min_age_ns", field);
    check_duration(error, path, filter->min_age_ns);
}

void check_session_order(
    struct rpc_error *error, const char *field, Kvpool__V1__SessionOrder order)
{
    if (order > KVPOOL__V1__SESSION_ORDER__SESSION_ORDER_HITS || (int)order < 0)
        rpc_error_add_violation(error, field,
            "%d was given; allowed are values of SessionOrder", (int)order);
}

void check_section(struct rpc_error *error, const char *field,
    Kvpool__V1__SnapshotSection section)
{
    switch ((int)section) {
    case KVPOOL__V1__SNAPSHOT_SECTION__SNAPSHOT_SECTION_TENANTS:
    case KVPOOL__V1__SNAPSHOT_SECTION__SNAPSHOT_SECTION_SESSIONS:
    case KVPOOL__V1__SNAPSHOT_SECTION__SNAPSHOT_SECTION_BLOCK_MAP:
    case KVPOOL__V1__SNAPSHOT_SECTION__SNAPSHOT_SECTION_HISTOGRAMS:
    case KVPOOL__V1__SNAPSHOT_SECTION__SNAPSHOT_SECTION_SINKS:
    case KVPOOL__V1__SNAPSHOT_SECTION__SNAPSHOT_SECTION_SUBSCRIBERS:
        break;
    default:
        rpc_error_add_violation(error, field,
            "%d was given; allowed are TENANTS, SESSIONS, BLOCK_MAP, "
            "HISTOGRAMS, SINKS and SUBSCRIBERS",
            (int)section);
    }
}

void check_stream_section(struct rpc_error *error, const char *field,
    Kvpool__V1__SnapshotSection section)
{
    if (section == KVPOOL__V1__SNAPSHOT_SECTION__SNAPSHOT_SECTION_BLOCK_MAP)
        rpc_error_add_unsupported(error, field, "it");
    else
        check_section(error, field, section);
}

struct pool_key check_pool_key(const char *tenant, const char *id)
{
    return (struct pool_key){
        .tenant = tenant,
        .tenant_bytes = strlen(tenant),
        .id = id,
        .id_bytes = strlen(id),
    };
}

void check_ids(struct rpc_error *error, const char *field, const uint32_t *ids,
    size_t n_ids, uint32_t n_vocab)
{
    char path[64];

    for (size_t i = 0; i < n_ids; i++) {
        if (ids[i] < n_vocab)
            continue;
        snprintf(path, sizeof path, "%s[%zu]", field, i);
        rpc_error_add_violation(error, path,
            "%" PRIu32 " was given; allowed are 0 to %" PRIu32, ids[i],
            n_vocab - 1);
        return;
    }
}

bool check_model(
    struct rpc_error *error, const struct model *model, const char *name)
{
    const bool is_it = name[0] == '\0' || strcmp(name, model->name) == 0;
    struct kv_error lost;

    if (is_it && model_check_file(model, &lost) == KV_OK)
        return true;
    if (is_it)
        rpc_error_init(error, RPC_UNAVAILABLE, "MODEL_UNAVAILABLE",
            "the model is lost until a restart: %s", lost.text);
    else
        rpc_error_init(error, RPC_NOT_FOUND, "MODEL_NOT_FOUND",
            "no model of that name is loaded; \"%s\" is", model->name);
    rpc_error_add_metadata(error, "model", "%s", model->name);
    return false;
}

void check_fail_page_token(struct rpc_error *error)
{
    rpc_error_init(error, RPC_INVALID_ARGUMENT, "PAGE_TOKEN_INVALID", "%s", "");
    rpc_error_add_violation(error, "page_token",
        "damaged, of another epoch, or of another request; allowed is the "
        "next_page_token of the page before");
}
