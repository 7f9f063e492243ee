#include "server/evict_walk.h"

#include <string.h>

#include "server/check.h"

void evict_walk_init(struct evict_walk *walk, struct pool *pool,
    const Kvpool__V1__EvictRequest *request, const struct pool_preview *preview,
    int64_t now_ns)
{
    memset(walk, 0, sizeof *walk);
    walk->pool = pool;
    walk->request = request;
    walk->preview = preview;
    walk->begin_ns = now_ns;
}

/* ---- who is in a target */

static bool is_tenant(const struct pool_key *key, const char *tenant)
{
    return strlen(tenant) == key->tenant_bytes &&
           memcmp(tenant, key->tenant, key->tenant_bytes) == 0;
}

static bool is_one_of(
    const struct pool_key *key, char *const *tenants, size_t n_tenants)
{
    for (size_t i = 0; i < n_tenants; i++)
        if (is_tenant(key, tenants[i]))
            return true;
    return n_tenants == 0;
}

static bool begins_so(
    const struct pool_session *session, const Kvpool__V1__EvictPrefix *prefix)
{
    size_t n;
    const uint32_t *tokens = pool_session_tokens(session, &n);

    return n >= prefix->n_token_ids &&
           memcmp(tokens, prefix->token_ids,
               prefix->n_token_ids * sizeof *tokens) == 0;
}

static bool is_idle_for(const struct evict_walk *walk,
    const struct pool_session_info *info, int64_t longer_than_ns)
{
    return info->state != POOL_SESSION_RUNNING &&
           info->state != POOL_SESSION_PREEMPTED &&
           walk->begin_ns - info->released_ns > longer_than_ns;
}

/* Whether the target names the session, which bytes never does: it takes whom
 * it needs. */
static bool is_in(const struct evict_walk *walk,
    const Kvpool__V1__EvictTarget *wanted, const struct pool_session *session)
{
    struct pool_session_info info = pool_session_glance(session);

    switch (wanted->target_case) {
    case KVPOOL__V1__EVICT_TARGET__TARGET_SESSION:
        return is_tenant(&info.key, wanted->session->tenant) &&
               strlen(wanted->session->session_id) == info.key.id_bytes &&
               memcmp(info.key.id, wanted->session->session_id,
                   info.key.id_bytes) == 0;
    case KVPOOL__V1__EVICT_TARGET__TARGET_TENANT:
        return is_tenant(&info.key, wanted->tenant);
    case KVPOOL__V1__EVICT_TARGET__TARGET_PREFIX:
        return is_tenant(&info.key, wanted->prefix->tenant) &&
               begins_so(session, wanted->prefix);
    case KVPOOL__V1__EVICT_TARGET__TARGET_IDLE:
        return is_one_of(
                   &info.key, wanted->idle->tenants, wanted->idle->n_tenants) &&
               is_idle_for(walk, &info, wanted->idle->longer_than_ns);
    case KVPOOL__V1__EVICT_TARGET__TARGET_ALL:
        return true;
    default:
        return false;
    }
}

/* The session is given for the present target, and not for later ones, which it
 * matches all the same. */
static void note_given(
    struct evict_walk *walk, const struct pool_session *session)
{
    for (size_t i = walk->target + 1; i < walk->request->n_targets; i++)
        if (is_in(walk, walk->request->targets[i], session))
            walk->given_before[i / 8] |= (uint8_t)(1 << i % 8);
}

static bool was_given_before(const struct evict_walk *walk)
{
    return (walk->given_before[walk->target / 8] >> walk->target % 8 & 1) != 0;
}

/* Whether an earlier target has decided this session already. */
static bool is_decided(
    const struct evict_walk *walk, const struct pool_session *session)
{
    for (size_t i = 0; i < walk->target; i++)
        if (is_in(walk, walk->request->targets[i], session))
            return true;
    return false;
}

/* Whether everybody that the later target names is named by the earlier. */
static bool covers(const Kvpool__V1__EvictTarget *earlier,
    const Kvpool__V1__EvictTarget *later)
{
    switch (earlier->target_case) {
    case KVPOOL__V1__EVICT_TARGET__TARGET_ALL:
        return true;
    case KVPOOL__V1__EVICT_TARGET__TARGET_TENANT:
        return (later->target_case == KVPOOL__V1__EVICT_TARGET__TARGET_TENANT &&
                   strcmp(earlier->tenant, later->tenant) == 0) ||
               (later->target_case == KVPOOL__V1__EVICT_TARGET__TARGET_PREFIX &&
                   strcmp(earlier->tenant, later->prefix->tenant) == 0);
    case KVPOOL__V1__EVICT_TARGET__TARGET_IDLE:
        return later->target_case == KVPOOL__V1__EVICT_TARGET__TARGET_IDLE &&
               earlier->idle->n_tenants == 0 &&
               earlier->idle->longer_than_ns <= later->idle->longer_than_ns;
    default:
        return false;
    }
}

static bool is_covered(const struct evict_walk *walk)
{
    for (size_t i = 0; i < walk->target; i++)
        if (covers(walk->request->targets[i],
                walk->request->targets[walk->target]))
            return true;
    return false;
}

/* ---- from one target to the next */

static enum evict_walk_step leave_target(struct evict_walk *walk)
{
    bool matched = walk->matched || was_given_before(walk);

    walk->target++;
    walk->begun = walk->matched = walk->has_spared = false;
    walk->pass = EVICT_WALK_FIRST;
    walk->stays.set = walk->given.set = false;
    walk->tenant = 0;
    walk->freed_bytes = 0;
    return matched ? EVICT_WALK_ON : EVICT_WALK_MISSING;
}

void evict_walk_skip(struct evict_walk *walk, size_t target)
{
    if (walk->target == target)
        leave_target(walk);
}

/* ---- one session */

static enum evict_walk_step walk_session(
    struct evict_walk *walk, struct pool_session **out)
{
    const Kvpool__V1__SessionKey *name =
        walk->request->targets[walk->target]->session;
    struct pool_key key = check_pool_key(name->tenant, name->session_id);
    struct pool_session *session = pool_session_find(walk->pool, &key);

    if (session == NULL || was_given_before(walk))
        return leave_target(walk);
    walk->matched = true;
    if (is_decided(walk, session))
        return leave_target(walk);
    note_given(walk, session);
    leave_target(walk);
    *out = session;
    return EVICT_WALK_SESSION;
}

/* ---- in the order of names */

/* The tenant whose sessions are walked now; NULL: all. */
static const char *range_tenant(const struct evict_walk *walk)
{
    const Kvpool__V1__EvictTarget *wanted =
        walk->request->targets[walk->target];

    switch (wanted->target_case) {
    case KVPOOL__V1__EVICT_TARGET__TARGET_TENANT:
        return wanted->tenant;
    case KVPOOL__V1__EVICT_TARGET__TARGET_PREFIX:
        return wanted->prefix->tenant;
    case KVPOOL__V1__EVICT_TARGET__TARGET_IDLE:
        return wanted->idle->n_tenants > 0 ? wanted->idle->tenants[walk->tenant]
                                           : NULL;
    default:
        return NULL;
    }
}

static void begin_range(struct evict_walk *walk)
{
    const char *tenant = range_tenant(walk);
    struct pool_key from = check_pool_key(tenant != NULL ? tenant : "", "");

    state_place_copy(&walk->place, &from);
    walk->begun = true;
    walk->covered = is_covered(walk);
}

/* Whether the list has the tenant at this place before it as well. */
static bool is_repeated(const Kvpool__V1__EvictIdle *idle, size_t tenant)
{
    for (size_t i = 0; i < tenant; i++)
        if (strcmp(idle->tenants[i], idle->tenants[tenant]) == 0)
            return true;
    return false;
}

static enum evict_walk_step leave_range(struct evict_walk *walk)
{
    const Kvpool__V1__EvictTarget *wanted =
        walk->request->targets[walk->target];

    walk->begun = false;
    if (wanted->target_case != KVPOOL__V1__EVICT_TARGET__TARGET_IDLE)
        return leave_target(walk);
    do
        walk->tenant++;
    while (walk->tenant < wanted->idle->n_tenants &&
           is_repeated(wanted->idle, walk->tenant));
    return walk->tenant < wanted->idle->n_tenants ? EVICT_WALK_ON
                                                  : leave_target(walk);
}

static enum evict_walk_step walk_names(
    struct evict_walk *walk, struct pool_session **out)
{
    const Kvpool__V1__EvictTarget *wanted =
        walk->request->targets[walk->target];
    const char *tenant = range_tenant(walk);
    struct pool_session_info info;
    struct pool_session *session;
    struct pool_key place;

    if (!walk->begun)
        begin_range(walk);
    session = pool_holder_after(walk->pool, &walk->place.key);
    if (session == NULL)
        return leave_range(walk);
    info = pool_session_glance(session);
    place = pool_session_place(session);
    if (tenant != NULL && !is_tenant(&info.key, tenant))
        return leave_range(walk);
    state_place_copy(&walk->place, &place);
    if (!is_in(walk, wanted, session))
        return EVICT_WALK_ON;
    walk->matched = true;
    if (walk->covered) /* and there is no second walk over all sessions */
        return leave_target(walk);
    if ((info.n_blocks == 0 && !walk->request->forget) ||
        is_decided(walk, session))
        return EVICT_WALK_ON;
    note_given(walk, session);
    *out = session;
    return EVICT_WALK_SESSION;
}

/* ---- in the order of the policy */

static void set_mark(
    struct evict_walk_mark *mark, const struct pool_session *session)
{
    const struct pool_key place = pool_session_place(session);

    state_place_copy(&mark->place, &place);
    mark->released_ns = pool_session_glance(session).released_ns;
    mark->set = true;
}

/* The session where it was; NULL if it is gone, or was used. */
static struct pool_session *find_mark(
    const struct evict_walk *walk, const struct evict_walk_mark *mark)
{
    struct pool_session *session =
        mark->set ? pool_session_find(walk->pool, &mark->place.key) : NULL;
    struct pool_session_info info;

    if (session == NULL)
        return NULL;
    info = pool_session_glance(session);
    return info.state == POOL_SESSION_CACHED &&
                   info.released_ns == mark->released_ns
               ? session
               : NULL;
}

/* Behind what stays. Where that was used meanwhile it went to the end, and the
 * walk begins anew: those before it are looked at again, and nobody missed. */
static struct pool_session *next_victim(struct evict_walk *walk)
{
    struct pool_session *stays = find_mark(walk, &walk->given);

    if (stays != NULL)
        set_mark(&walk->stays, stays);
    else
        stays = find_mark(walk, &walk->stays);
    walk->given.set = false;
    return pool_victim_after(walk->pool, stays);
}

/* First those that free something by themselves, and have no other chance; then
 * who has; then the rest, for the last holder of shared blocks frees them. */
static enum evict_walk_step leave_victims(struct evict_walk *walk)
{
    if (walk->pass == EVICT_WALK_SHARED)
        return leave_target(walk);
    walk->pass = walk->has_spared && walk->pass == EVICT_WALK_FIRST
                     ? EVICT_WALK_SPARED
                     : EVICT_WALK_SHARED;
    walk->stays.set = walk->given.set = false;
    return EVICT_WALK_ON;
}

static bool may_be_given(
    const struct evict_walk *walk, const struct pool_session *session)
{
    const Kvpool__V1__EvictBytes *wanted =
        walk->request->targets[walk->target]->bytes;
    struct pool_session_info info = pool_session_glance(session);

    return is_one_of(&info.key, wanted->tenants, wanted->n_tenants) &&
           info.released_ns <= walk->begin_ns && !is_decided(walk, session);
}

/* Whether it is the turn of such a session in this pass. */
static bool is_its_turn(
    struct evict_walk *walk, const struct pool_session *session)
{
    if (walk->pass == EVICT_WALK_SHARED)
        return true;
    if (pool_evict_preview(walk->pool, walk->preview, session, false, false)
            .blocks_freed == 0)
        return false;
    if (walk->pass == EVICT_WALK_SPARED || !pool_spares(walk->pool, session))
        return true;
    walk->has_spared = true;
    return false;
}

static enum evict_walk_step walk_victims(
    struct evict_walk *walk, struct pool_session **out)
{
    const Kvpool__V1__EvictBytes *wanted =
        walk->request->targets[walk->target]->bytes;
    struct pool_session *session;

    if (walk->freed_bytes >= wanted->at_least_bytes)
        return leave_target(walk);
    session = next_victim(walk);
    if (session == NULL)
        return leave_victims(walk);
    set_mark(&walk->given, session);
    if (!may_be_given(walk, session) || !is_its_turn(walk, session))
        return EVICT_WALK_ON;
    note_given(walk, session);
    *out = session;
    return EVICT_WALK_SESSION;
}

void evict_walk_decided(
    struct evict_walk *walk, size_t target, uint64_t bytes_freed)
{
    if (walk->target != target)
        return;
    walk->matched = true;
    walk->freed_bytes += bytes_freed;
}

enum evict_walk_step evict_walk_next(
    struct evict_walk *walk, size_t *at, struct pool_session **session)
{
    if (walk->target == walk->request->n_targets)
        return EVICT_WALK_END;
    *at = walk->target;
    switch (walk->request->targets[walk->target]->target_case) {
    case KVPOOL__V1__EVICT_TARGET__TARGET_SESSION:
        return walk_session(walk, session);
    case KVPOOL__V1__EVICT_TARGET__TARGET_BYTES:
        return walk_victims(walk, session);
    default:
        return walk_names(walk, session);
    }
}
