#include "server/retention.h"

#include <inttypes.h>
#include <stdio.h>
#include <string.h>

#include "base/clock.h"
#include "server/check.h"

/* ---- what is refused */

static void check_duration(struct rpc_error *error, const char *field,
    const char *name, int64_t duration_ns)
{
    char path[96];

    if (duration_ns >= 0)
        return;
    snprintf(path, sizeof path, "%s.%s.duration_ns", field, name);
    rpc_error_add_violation(error, path,
        "%" PRId64 " was given; allowed is 0 or more", duration_ns);
}

static void check_lease(struct rpc_error *error, const char *field,
    const Kvpool__V1__LeaseSetting *lease)
{
    size_t n = strlen(lease->lease_id), n_visible = 0;
    char path[96];

    while (lease->lease_id[n_visible] > ' ' && lease->lease_id[n_visible] < 127)
        n_visible++;
    if (n < 1 || n > POOL_LEASE_BYTES || n_visible < n) {
        snprintf(path, sizeof path, "%s.lease.lease_id", field);
        rpc_error_add_violation(error, path,
            "%zu bytes were given; allowed are 1 to %d of visible ASCII", n,
            POOL_LEASE_BYTES);
    }
    check_duration(error, field, "lease", lease->duration_ns);
}

static void check_absent(
    struct rpc_error *error, const char *field, const char *name, bool given)
{
    char path[96];

    if (!given)
        return;
    snprintf(path, sizeof path, "%s.%s", field, name);
    rpc_error_add_violation(
        error, path, "it was given; allowed with a session_id only");
}

void retention_check(struct rpc_error *error, const char *field,
    const Kvpool__V1__RetentionSettings *settings, bool has_session)
{
    char path[96];

    if (settings == NULL)
        return;
    if (settings->priority != NULL &&
        settings->priority->priority > POOL_MAX_PRIORITY) {
        snprintf(path, sizeof path, "%s.priority.priority", field);
        rpc_error_add_violation(error, path,
            "%" PRIu32 " was given; allowed are 0 to %d",
            settings->priority->priority, POOL_MAX_PRIORITY);
    }
    if (!has_session) {
        check_absent(error, field, "idle_ttl", settings->idle_ttl != NULL);
        check_absent(
            error, field, "absolute_ttl", settings->absolute_ttl != NULL);
        check_absent(error, field, "pin", settings->pin != NULL);
        check_absent(error, field, "lease", settings->lease != NULL);
        return;
    }
    if (settings->idle_ttl != NULL)
        check_duration(
            error, field, "idle_ttl", settings->idle_ttl->duration_ns);
    if (settings->absolute_ttl != NULL)
        check_duration(
            error, field, "absolute_ttl", settings->absolute_ttl->duration_ns);
    if (settings->pin != NULL)
        check_duration(error, field, "pin", settings->pin->duration_ns);
    if (settings->lease != NULL)
        check_lease(error, field, settings->lease);
}

/* ---- a request */

static bool same_session(
    const Kvpool__V1__RetentionChange *a, const Kvpool__V1__RetentionChange *b)
{
    return a->session != NULL && b->session != NULL &&
           strcmp(a->session->session_id, b->session->session_id) == 0 &&
           strcmp(a->session->tenant, b->session->tenant) == 0;
}

static void check_once(struct rpc_error *error,
    const Kvpool__V1__SetRetentionRequest *request, size_t i)
{
    char path[48];

    for (size_t j = 0; j < i; j++) {
        if (!same_session(request->changes[i], request->changes[j]))
            continue;
        snprintf(path, sizeof path, "changes[%zu].session", i);
        rpc_error_add_violation(error, path,
            "it is that of changes[%zu]; allowed is each session once", j);
        return;
    }
}

void retention_check_request(
    struct rpc_error *error, const Kvpool__V1__SetRetentionRequest *request)
{
    char path[48];

    if (request->n_changes < 1 || request->n_changes > RETENTION_MAX_CHANGES) {
        rpc_error_add_violation(error, "changes",
            "%zu were given; allowed are 1 to %d", request->n_changes,
            RETENTION_MAX_CHANGES);
        return;
    }
    for (size_t i = 0; i < request->n_changes &&
                       error->n_violations < RPC_ERROR_MAX_VIOLATIONS;
         i++) {
        snprintf(path, sizeof path, "changes[%zu].session", i);
        check_session_key(error, path, request->changes[i]->session);
        check_once(error, request, i);
        snprintf(path, sizeof path, "changes[%zu].settings", i);
        retention_check(error, path, request->changes[i]->settings, true);
    }
}

/* ---- setting */

enum kv_status retention_prepare(struct pool *pool,
    struct pool_session *session, const Kvpool__V1__RetentionSettings *settings,
    int64_t now_ns)
{
    if (settings == NULL || settings->lease == NULL ||
        settings->lease->duration_ns == 0)
        return KV_OK;
    return pool_session_prepare_lease(
        pool, session, settings->lease->lease_id, now_ns);
}

/* A duration of at most so many seconds, and a word about it if that is less
 * than was asked for. */
static int64_t clip(struct retention_detail *detail, const char *name,
    int64_t duration_ns, uint64_t most_s)
{
    int64_t most_ns = (int64_t)most_s * KV_NS_PER_S;
    size_t n = strlen(detail->text);

    if (duration_ns <= most_ns)
        return duration_ns;
    snprintf(detail->text + n, sizeof detail->text - n,
        "%s%s: at most %" PRIu64 " s", n > 0 ? "; " : "", name, most_s);
    return most_ns;
}

/* The same for a limit, of which 0 is none: more than any. */
static int64_t clip_ttl(struct retention_detail *detail, const char *name,
    int64_t duration_ns, uint64_t most_s)
{
    if (most_s == 0)
        return duration_ns;
    return clip(
        detail, name, duration_ns == 0 ? INT64_MAX : duration_ns, most_s);
}

static void set_ttls(struct retention_detail *detail, struct pool *pool,
    struct pool_session *session, const Kvpool__V1__RetentionSettings *settings,
    const struct options *options, int64_t now_ns)
{
    uint64_t most_s = options->retention_max_ttl_s;

    if (settings->idle_ttl != NULL)
        pool_session_set_idle_ttl(pool, session,
            clip_ttl(
                detail, "idle_ttl", settings->idle_ttl->duration_ns, most_s),
            now_ns);
    if (settings->absolute_ttl != NULL)
        pool_session_set_absolute_ttl(pool, session,
            clip_ttl(detail, "absolute_ttl",
                settings->absolute_ttl->duration_ns, most_s),
            now_ns);
}

struct retention_detail retention_set(struct pool *pool,
    struct pool_session *session, const Kvpool__V1__RetentionSettings *settings,
    const struct options *options, int64_t now_ns)
{
    struct retention_detail detail = {""};

    if (settings == NULL)
        return detail;
    set_ttls(&detail, pool, session, settings, options, now_ns);
    if (settings->priority != NULL)
        pool_session_set_priority(pool, session, settings->priority->priority);
    if (settings->pin != NULL)
        pool_session_pin(pool, session,
            clip(&detail, "pin", settings->pin->duration_ns,
                options->retention_max_pin_s),
            now_ns);
    if (settings->lease != NULL)
        (void)pool_session_lease(pool, session, settings->lease->lease_id,
            clip(&detail, "lease", settings->lease->duration_ns,
                options->retention_max_lease_s),
            now_ns); /* prepared: it cannot fail */
    return detail;
}

/* ---- telling */

void retention_fill(struct retention_message *out, const struct pool *pool,
    const struct pool_session *session, int64_t mono_ns, int64_t wall_ns)
{
    const struct pool_session_info info = pool_session_info(pool, session);
    Kvpool__V1__Retention *retention = &out->retention;
    struct pool_lease lease;

    kvpool__v1__retention__init(retention);
    retention->idle_ttl_ns = info.idle_ttl_ns;
    retention->absolute_ttl_ns = info.absolute_ttl_ns;
    retention->priority = info.priority;
    if (info.pin_until_ns > mono_ns)
        retention->pin_expires_unix_ns =
            wall_ns + (info.pin_until_ns - mono_ns);
    retention->leases = out->list;
    for (uint32_t i = 0; pool_session_lease_at(session, i, &lease); i++) {
        Kvpool__V1__Lease *told = &out->leases[retention->n_leases];

        if (lease.until_ns <= mono_ns)
            continue;
        kvpool__v1__lease__init(told);
        told->lease_id = (char *)lease.name;
        told->expires_unix_ns = wall_ns + (lease.until_ns - mono_ns);
        out->list[retention->n_leases++] = told;
    }
}
