/* KvPoolService.SetRetention: each change is set, clipped, rejected or missing
 * by itself; what no server could set is refused for all of them. */
#include <stdio.h>
#include <string.h>

#include "base/clock.h"
#include "base/heap.h"
#include "kvpool/v1/pool_service.pb-c.h"
#include "server/check.h"
#include "server/message.h"
#include "server/retention.h"
#include "server/server.h"

/* ---- accepted */

/* One outcome, and what it points to. */
struct entry {
    Kvpool__V1__RetentionOutcome outcome;
    struct retention_message retention;
    struct retention_detail detail;
};

static void reject(struct entry *entry, enum kv_status status)
{
    entry->outcome.result =
        KVPOOL__V1__RETENTION_RESULT__RETENTION_RESULT_REJECTED;
    if (status == KV_LIMIT)
        snprintf(entry->detail.text, sizeof entry->detail.text,
            "lease: %d others run; at most %d", POOL_MAX_LEASES,
            POOL_MAX_LEASES);
    else
        strcpy(entry->detail.text, "lease: out of memory");
}

static void change_one(struct server *server, struct entry *entry,
    const Kvpool__V1__RetentionChange *change)
{
    const struct pool_key key =
        check_pool_key(change->session->tenant, change->session->session_id);
    struct pool_session *session = pool_session_find(server->pool, &key);
    int64_t now_ns = kv_clock_mono_ns();
    enum kv_status status;

    kvpool__v1__retention_outcome__init(&entry->outcome);
    entry->outcome.session = change->session;
    entry->outcome.detail = entry->detail.text;
    if (session == NULL) {
        entry->outcome.result =
            KVPOOL__V1__RETENTION_RESULT__RETENTION_RESULT_MISSING;
        return;
    }
    status = retention_prepare(server->pool, session, change->settings, now_ns);
    if (status != KV_OK) {
        reject(entry, status);
    } else {
        entry->detail = retention_set(
            server->pool, session, change->settings, server->options, now_ns);
        entry->outcome.result =
            entry->detail.text[0] != '\0'
                ? KVPOOL__V1__RETENTION_RESULT__RETENTION_RESULT_CLIPPED
                : KVPOOL__V1__RETENTION_RESULT__RETENTION_RESULT_ACCEPTED;
    }
    retention_fill(
        &entry->retention, server->pool, session, now_ns, kv_clock_wall_ns());
    entry->outcome.retention = &entry->retention.retention;
}

static void reply(struct server *server, struct rpc_call *call,
    const Kvpool__V1__SetRetentionRequest *request)
{
    Kvpool__V1__SetRetentionResponse response =
        KVPOOL__V1__SET_RETENTION_RESPONSE__INIT;
    struct entry *entries = kv_calloc(request->n_changes, sizeof *entries);
    Kvpool__V1__RetentionOutcome **list =
        kv_calloc(request->n_changes, sizeof *list);

    if (entries == NULL || list == NULL) {
        message_fail_no_memory(call);
    } else {
        for (size_t i = 0; i < request->n_changes; i++) {
            change_one(server, &entries[i], request->changes[i]);
            list[i] = &entries[i].outcome;
        }
        response.outcomes = list;
        response.n_outcomes = request->n_changes;
        message_reply(call, &response.base);
    }
    kv_free(list);
    kv_free(entries);
    step_settle(server->step); /* deadlines, and perhaps room */
}

static void on_set_retention(void *ctx, struct rpc_call *call,
    const unsigned char *bytes, size_t n_bytes)
{
    struct rpc_error error;
    Kvpool__V1__SetRetentionRequest *request =
        (Kvpool__V1__SetRetentionRequest *)message_parse(
            &kvpool__v1__set_retention_request__descriptor, bytes, n_bytes,
            &error);

    if (request != NULL)
        retention_check_request(&error, request);
    if (error.n_violations > 0)
        rpc_call_fail(call, &error);
    else
        reply(ctx, call, request);
    kvpool__v1__set_retention_request__free_unpacked(request, NULL);
}

enum kv_status service_retention_add(struct server *server)
{
    const struct rpc_method method = {"/kvpool.v1.KvPoolService/SetRetention",
        RPC_UNARY, on_set_retention, server};

    return rpc_server_add_method(server->rpc, &method);
}
