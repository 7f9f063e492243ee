/* Retention in the contract's terms: checked, clipped to what the options
 * allow, and set on a session. SetRetention and Generate both do this. */
#ifndef SERVER_RETENTION_H
#define SERVER_RETENTION_H

#include "kvpool/v1/common.pb-c.h"
#include "kvpool/v1/pool_service.pb-c.h"
#include "kvpool/v1/stats.pb-c.h"
#include "pool/pool.h"
#include "rpc/error.h"
#include "server/options.h"

/* Adds a violation for each field that has no allowed value; *field* is the
 * path of the settings, which may be NULL. A request without a session has a
 * priority at most. */
void retention_check(struct rpc_error *error, const char *field,
    const Kvpool__V1__RetentionSettings *settings, bool has_session);

/* The same for all of SetRetention: whom it names, each once, and what for. */
#define RETENTION_MAX_CHANGES 256
void retention_check_request(
    struct rpc_error *error, const Kvpool__V1__SetRetentionRequest *request);

/* Makes sure that retention_set cannot fail: KV_LIMIT, the session has as many
 * leases as it may; KV_NO_MEMORY. Nothing is set yet. */
enum kv_status retention_prepare(struct pool *pool,
    struct pool_session *session, const Kvpool__V1__RetentionSettings *settings,
    int64_t now_ns);

/* For a person: what was clipped, or nothing. */
struct retention_detail {
    char text[160];
};

/* Sets all that is there, clipped. Prepared settings, or such without a lease.
 */
struct retention_detail retention_set(struct pool *pool,
    struct pool_session *session, const Kvpool__V1__RetentionSettings *settings,
    const struct options *options, int64_t now_ns);

/* What is in force; points into itself and into the pool. */
struct retention_message {
    Kvpool__V1__Retention retention;
    Kvpool__V1__Lease leases[POOL_MAX_LEASES], *list[POOL_MAX_LEASES];
};
void retention_fill(struct retention_message *out, const struct pool *pool,
    const struct pool_session *session, int64_t mono_ns, int64_t wall_ns);

#endif
