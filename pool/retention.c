/* How long, and how firmly, a session's blocks stay.
 *
 *   running > pin or lease > TTL > pressure
 *
 * A hold is the pin or a lease. While one of them runs, an idle session with
 * blocks is HELD: its blocks are pinned, and it is nobody's victim. Its timer
 * is set to the end of the last of them, when it becomes CACHED, or goes at
 * once if a TTL was over before. */
#include "pool/state.h"

#include <assert.h>
#include <string.h>

#include "base/heap.h"

int64_t retention_hold_until_ns(const struct pool_session *session)
{
    int64_t until_ns = session->pin_until_ns;

    for (uint32_t i = 0; i < session->n_leases; i++)
        if (session->leases[i].until_ns > until_ns)
            until_ns = session->leases[i].until_ns;
    return until_ns;
}

bool retention_is_held(const struct pool_session *session)
{
    return retention_hold_until_ns(session) > 0;
}

void retention_drop_over(struct pool_session *session, int64_t now_ns)
{
    uint8_t n = 0;

    if (session->pin_until_ns <= now_ns)
        session->pin_until_ns = 0;
    for (uint32_t i = 0; i < session->n_leases; i++)
        if (session->leases[i].until_ns > now_ns)
            session->leases[n++] = session->leases[i];
    session->n_leases = n;
}

struct pool_holds pool_holds(const struct pool *pool)
{
    struct pool_holds holds = {.first_end_ns = INT64_MAX};

    for (const struct kv_list *at = pool->held.next; at != &pool->held;
         at = at->next) {
        int64_t end_ns = retention_hold_until_ns(
            KV_LIST_ENTRY(at, struct pool_session, link));

        holds.n_sessions++;
        if (end_ns < holds.first_end_ns)
            holds.first_end_ns = end_ns;
    }
    return holds;
}

uint64_t pool_hold_ends(const struct pool *pool)
{
    return pool->hold_ends;
}

/* since + ttl; INT64_MAX if there is none, or for ever. */
static int64_t end_of(int64_t since_ns, int64_t ttl_ns)
{
    int64_t due_ns;

    if (ttl_ns == 0 || __builtin_add_overflow(since_ns, ttl_ns, &due_ns))
        return INT64_MAX;
    return due_ns;
}

int64_t retention_ttl_due_ns(const struct pool_session *session)
{
    int64_t idle_ns = end_of(session->released_ns, session->idle_ttl_ns);
    int64_t absolute_ns = end_of(session->created_ns, session->absolute_ttl_ns);

    return idle_ns < absolute_ns ? idle_ns : absolute_ns;
}

/* What was set may call for another list, or an earlier or later timer. */
static void changed(
    struct pool *pool, struct pool_session *session, int64_t now_ns)
{
    bool is_idle = session->state == POOL_SESSION_CACHED ||
                   session->state == POOL_SESSION_HELD;
    bool was_held = session->state == POOL_SESSION_HELD;

    retention_drop_over(session, now_ns);
    timer_wheel_cancel(&pool->wheel, &session->timer);
    if (is_idle && was_held != retention_is_held(session))
        registry_settle(pool, session, now_ns);
    else
        registry_set_timer(pool, session);
}

void pool_session_set_idle_ttl(struct pool *pool, struct pool_session *session,
    int64_t idle_ttl_ns, int64_t now_ns)
{
    session->idle_ttl_ns = idle_ttl_ns > 0 ? idle_ttl_ns : 0;
    changed(pool, session, now_ns);
}

void pool_session_set_absolute_ttl(struct pool *pool,
    struct pool_session *session, int64_t absolute_ttl_ns, int64_t now_ns)
{
    session->absolute_ttl_ns = absolute_ttl_ns > 0 ? absolute_ttl_ns : 0;
    changed(pool, session, now_ns);
}

void pool_session_set_priority(
    struct pool *pool, struct pool_session *session, uint32_t priority)
{
    bool moves = session->state == POOL_SESSION_CACHED &&
                 pool->policy.class->looks_at_priority;

    assert(priority <= POOL_MAX_PRIORITY);
    if (session->priority == priority)
        return;
    if (moves)
        policy_remove(pool, session);
    session->priority = (uint8_t)priority;
    if (moves)
        policy_add(pool, session);
}

static int64_t until(int64_t now_ns, int64_t duration_ns)
{
    return duration_ns > 0 ? end_of(now_ns, duration_ns) : 0;
}

void pool_session_pin(struct pool *pool, struct pool_session *session,
    int64_t duration_ns, int64_t now_ns)
{
    session->pin_until_ns = until(now_ns, duration_ns);
    changed(pool, session, now_ns);
}

/* ---- leases */

static struct session_lease *find_lease(
    const struct pool_session *session, const char *name)
{
    for (uint32_t i = 0; i < session->n_leases; i++)
        if (strcmp(session->leases[i].name, name) == 0)
            return &session->leases[i];
    return NULL;
}

enum kv_status pool_session_prepare_lease(struct pool *pool,
    struct pool_session *session, const char *name, int64_t now_ns)
{
    size_t bytes = session_metadata_bytes(session);
    enum kv_status status;

    if (find_lease(session, name) != NULL)
        return KV_OK;
    retention_drop_over(session, now_ns); /* which makes room */
    if (session->n_leases == POOL_MAX_LEASES)
        return KV_LIMIT;
    status = session_grow_leases(session, session->n_leases + 1);
    pool->session_bytes += session_metadata_bytes(session) - bytes;
    return status;
}

static void set_lease(
    struct pool_session *session, const char *name, int64_t until_ns)
{
    struct session_lease *lease = find_lease(session, name);

    if (lease == NULL) {
        lease = &session->leases[session->n_leases++];
        strcpy(lease->name, name);
    }
    lease->until_ns = until_ns;
}

enum kv_status pool_session_lease(struct pool *pool,
    struct pool_session *session, const char *name, int64_t duration_ns,
    int64_t now_ns)
{
    enum kv_status status = KV_OK;

    assert(strlen(name) >= 1 && strlen(name) <= POOL_LEASE_BYTES);
    if (duration_ns > 0)
        status = pool_session_prepare_lease(pool, session, name, now_ns);
    if (status != KV_OK)
        return status;
    if (duration_ns > 0 || find_lease(session, name) != NULL)
        set_lease(session, name, until(now_ns, duration_ns));
    changed(pool, session, now_ns);
    return KV_OK;
}

bool pool_session_lease_at(
    const struct pool_session *session, uint32_t index, struct pool_lease *out)
{
    if (index >= session->n_leases)
        return false;
    *out = (struct pool_lease){
        .name = session->leases[index].name,
        .until_ns = session->leases[index].until_ns,
    };
    return true;
}
