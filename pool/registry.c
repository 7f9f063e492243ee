#include "pool/state.h"

#include <assert.h>
#include <string.h>

#include "base/utf8.h"

static bool name_is_valid(const char *name, size_t n_bytes)
{
    if (n_bytes == 0)
        return true;
    return n_bytes <= POOL_NAME_BYTES && kv_utf8_valid(name, n_bytes) &&
           !kv_utf8_has_control(name, n_bytes);
}

static uint64_t hash_key(const struct pool *pool, const struct pool_key *key)
{
    const struct kv_bytes parts[] = {
        {key->tenant, key->tenant_bytes}, {key->id, key->id_bytes}};

    return kv_map_hash(&pool->map, parts, 2);
}

static struct pool_session *longest_kept(const struct pool *pool)
{
    return kv_list_empty(&pool->kept)
               ? NULL
               : KV_LIST_ENTRY(pool->kept.next, struct pool_session, link);
}

static bool is_kept(const struct pool_session *session)
{
    return session->state == POOL_SESSION_EVICTED && !session->anonymous;
}

/* ---- lists and timers */

/* The end of keeping the tokens of a session without blocks. */
static int64_t kept_until_ns(
    const struct pool *pool, const struct pool_session *session)
{
    int64_t due_ns;

    if (pool->config.kept_ttl_ns == 0 ||
        __builtin_add_overflow(
            session->place.idle_ns, pool->config.kept_ttl_ns, &due_ns))
        return INT64_MAX;
    return due_ns;
}

int64_t registry_due_ns(
    const struct pool *pool, const struct pool_session *session)
{
    int64_t hold_ns = retention_is_held(session)
                          ? retention_hold_until_ns(session)
                          : INT64_MAX;
    int64_t due_ns = INT64_MAX;

    if (session->state == POOL_SESSION_CACHED)
        due_ns = retention_ttl_due_ns(session);
    else if (is_kept(session))
        due_ns = kept_until_ns(pool, session);
    return hold_ns < due_ns ? hold_ns : due_ns;
}

void registry_set_timer(struct pool *pool, struct pool_session *session)
{
    int64_t due_ns = registry_due_ns(pool, session);

    if (!timer_is_set_by(&session->timer, due_ns))
        timer_wheel_set(&pool->wheel, &session->timer, due_ns);
}

uint64_t registry_tokens_kept(
    const struct pool *pool, const struct pool_session *session)
{
    bool is_kept_at_all = !session->anonymous &&
                          session->n_tokens <= pool->config.max_kept_tokens;

    return is_kept_at_all ? session->n_tokens : 0;
}

/* The session goes last on the list, so it is not the one forgotten. */
static void keep(
    struct pool *pool, struct pool_session *session, int64_t now_ns)
{
    kv_list_append(&pool->kept, &session->link);
    pool->kept_tokens += session->n_tokens;
    session->place.idle_ns = now_ns;
    registry_set_timer(pool, session);
    while (pool->kept_tokens > pool->config.max_kept_tokens)
        registry_remove(pool, longest_kept(pool));
}

/* ---- pins
 *
 * A block that one session holds is pinned while that session runs or is held,
 * which need not be written down: only what others hold too counts its pins.
 * Sessions share beginnings, so each counts for its first blocks, up to the
 * last that was ever shared, and beginning a run of a conversation that has
 * nothing in common with others takes the same time however long it is. */

void registry_pin(struct pool *pool, struct pool_session *session)
{
    uint32_t n_before = pool->blocks.n_pinned;

    for (uint32_t i = 0; i < session->n_counted; i++)
        block_pool_pin(&pool->blocks, session->blocks[i]);
    block_pool_pin_single(
        &pool->blocks, session->n_blocks - session->n_counted);
    session->tenant->n_pinned += pool->blocks.n_pinned - n_before;
}

void registry_unpin(
    struct pool *pool, struct pool_session *session, uint32_t n_left)
{
    uint32_t n_before = pool->blocks.n_pinned, i = n_left;

    for (; i < session->n_counted; i++)
        block_pool_unpin(&pool->blocks, session->blocks[i]);
    block_pool_unpin_single(&pool->blocks, session->n_blocks - i);
    session->tenant->n_pinned -= n_before - pool->blocks.n_pinned;
}

void registry_count_pins(
    struct pool *pool, struct pool_session *session, uint32_t n)
{
    uint32_t n_more = n > session->n_counted ? n - session->n_counted : 0;

    if (session_pins(session)) {
        block_pool_unpin_single(&pool->blocks, n_more);
        for (uint32_t i = 0; i < n_more; i++)
            block_pool_pin(
                &pool->blocks, session->blocks[session->n_counted + i]);
    }
    session->n_counted += n_more;
}

bool registry_is_pinned(const struct pool *pool, pool_block_id id)
{
    const struct pool_session *owner = owners_find(&pool->owners, id);

    return pool->blocks.blocks[id].n_pins > 0 ||
           (owner != NULL && session_pins(owner));
}

void registry_count_holder(struct pool *pool, struct pool_session *session)
{
    pool->stats.total_sessions++;
    session->tenant->n_holding++;
    pool->sessions_created += !session->has_held_blocks;
    session->has_held_blocks = true;
}

/* Takes the session off its list, and out of the policy's order. */
static void leave(struct pool *pool, struct pool_session *session)
{
    if (session->state == POOL_SESSION_CACHED) {
        policy_remove(pool, session);
        tenant_uncache(&pool->tenants, session->tenant);
    }
    if (session->state == POOL_SESSION_HELD) {
        registry_unpin(pool, session, 0);
        pool->hold_ends++;
    }
    kv_list_remove(&session->link);
}

/* To the list that an idle session with blocks belongs on. */
static void cache(
    struct pool *pool, struct pool_session *session, int64_t now_ns)
{
    retention_drop_over(session, now_ns);
    if (retention_is_held(session)) {
        session->state = POOL_SESSION_HELD;
        registry_pin(pool, session);
        kv_list_append(&pool->held, &session->link);
    } else {
        session->state = POOL_SESSION_CACHED;
        policy_add(pool, session);
        tenant_cache(&pool->tenants, session->tenant);
    }
    registry_set_timer(pool, session);
}

void registry_settle(
    struct pool *pool, struct pool_session *session, int64_t now_ns)
{
    if (session->n_blocks == 0 &&
        (session->anonymous || session->n_tokens == 0 ||
            session->n_tokens > pool->config.max_kept_tokens)) {
        registry_remove(pool, session);
        return;
    }
    leave(pool, session);
    if (session->n_blocks > 0) {
        cache(pool, session, now_ns);
        return;
    }
    session->state = POOL_SESSION_EVICTED;
    keep(pool, session, now_ns);
}

void registry_activate(struct pool *pool, struct pool_session *session)
{
    if (is_kept(session))
        pool->kept_tokens -= session->n_tokens;
    leave(pool, session);
    kv_list_append(&pool->active, &session->link);
}

void registry_remove(struct pool *pool, struct pool_session *session)
{
    assert(session->n_blocks == 0);
    if (is_kept(session))
        pool->kept_tokens -= session->n_tokens;
    timer_wheel_cancel(&pool->wheel, &session->timer);
    leave(pool, session);
    if (session->is_beginning)
        beginning_leave(pool, session);
    session_index_remove(&pool->index, session);
    kv_map_remove(&pool->map, &session->node);
    pool->n_sessions--;
    pool->session_bytes -= session_metadata_bytes(session);
    tenant_leave(&pool->tenants, session->tenant);
    session_close(&pool->table, session);
}

enum kv_status registry_grow(struct pool *pool, struct pool_session *session,
    size_t n_tokens, uint32_t n_blocks)
{
    size_t bytes;
    enum kv_status status;

    if (n_tokens <= session->token_capacity &&
        n_blocks <= session->block_capacity)
        return KV_OK;
    bytes = session_metadata_bytes(session);
    status = session_grow_tokens(session, n_tokens);
    if (status == KV_OK)
        status = session_grow_blocks(session, n_blocks);
    pool->session_bytes += session_metadata_bytes(session) - bytes;
    return status;
}

void registry_set_loss(struct pool *pool, struct pool_session *session,
    const struct session_loss *loss)
{
    pool->session_bytes -= session_metadata_bytes(session);
    session_set_loss(session, loss);
    pool->session_bytes += session_metadata_bytes(session);
}

void registry_trim(struct pool *pool, struct pool_session *session)
{
    if (!session_has_room(session))
        return;
    pool->session_bytes -= session_metadata_bytes(session);
    session_trim(session);
    pool->session_bytes += session_metadata_bytes(session);
}

/* ---- the facade's part */

/* Somebody goes for a new session: the longest kept, who loses least, or else
 * whom the policy chooses. */
static void make_place(struct pool *pool, const struct pool_session *session,
    const uint8_t *trace_id, int64_t now_ns)
{
    if (kv_list_empty(&pool->kept))
        evict_for_place(pool, NULL, session, trace_id, now_ns);
    else
        registry_remove(pool, longest_kept(pool));
}

static bool is_full(const struct pool *pool)
{
    return pool->n_sessions >= pool->config.max_sessions;
}

static enum kv_status check_place(struct pool *pool, struct pool_tenant *asking)
{
    if (!is_full(pool) || !kv_list_empty(&pool->kept))
        return KV_OK;
    if (!evict_has_place(pool, asking))
        return KV_LIMIT;
    return pool_may_evict(pool) ? KV_OK : KV_IO;
}

/* A session that is on no list yet. KV_LIMIT, KV_IO, KV_NO_MEMORY. */
static enum kv_status create(struct pool *pool, const struct pool_key *key,
    bool anonymous, const uint8_t *trace_id, int64_t now_ns,
    struct pool_session **out)
{
    struct pool_tenant *tenant = tenant_join(
        &pool->tenants, (struct tenant_name){key->tenant, key->tenant_bytes});
    struct pool_session *session = NULL;
    enum kv_status status;

    if (tenant == NULL)
        return KV_NO_MEMORY;
    status = check_place(pool, tenant);
    if (status == KV_OK) {
        session = session_open(
            &pool->table, tenant, key->id, key->id_bytes, anonymous);
        status = session != NULL ? KV_OK : KV_NO_MEMORY;
    }
    if (status != KV_OK) {
        tenant_leave(&pool->tenants, tenant);
        return status;
    }
    if (is_full(pool))
        make_place(pool, session, trace_id, now_ns);
    session->created_ns = session->released_ns = now_ns;
    session->idle_ttl_ns = pool->config.default_idle_ttl_ns;
    kv_map_insert(&pool->map, &session->node, hash_key(pool, key));
    session_index_insert(&pool->index, session);
    pool->n_sessions++;
    pool->session_bytes += session_metadata_bytes(session);
    *out = session;
    return KV_OK;
}

enum kv_status pool_session_get(struct pool *pool, const struct pool_key *key,
    const uint8_t *trace_id, int64_t now_ns, struct pool_session **out,
    bool *created)
{
    struct pool_session *session;
    enum kv_status status;

    if (key->id_bytes == 0 || !name_is_valid(key->id, key->id_bytes) ||
        !name_is_valid(key->tenant, key->tenant_bytes))
        return KV_INVALID;
    session = pool_session_find(pool, key);
    *created = session == NULL;
    if (session == NULL) {
        status = create(pool, key, false, trace_id, now_ns, &session);
        if (status != KV_OK)
            return status;
        keep(pool, session, now_ns);
    }
    *out = session;
    return KV_OK;
}

/* NUL, and the number with its first byte first: later ones come later. */
struct hidden_id {
    char bytes[SESSION_HIDDEN_ID_BYTES];
};

static struct hidden_id hidden_id(uint64_t number)
{
    struct hidden_id id = {{0}};

    for (int i = SESSION_HIDDEN_ID_BYTES - 1; i > 0; i--, number >>= 8)
        id.bytes[i] = (char)(number & 0xFF);
    return id;
}

enum kv_status pool_session_anonymous(struct pool *pool, const char *tenant,
    size_t tenant_bytes, const uint8_t *trace_id, int64_t now_ns,
    struct pool_session **out)
{
    struct hidden_id id = hidden_id(pool->last_anonymous + 1);
    const struct pool_key key = {
        .tenant = tenant,
        .tenant_bytes = tenant_bytes,
        .id = id.bytes,
        .id_bytes = sizeof id.bytes,
    };
    struct pool_session *session;
    enum kv_status status;

    if (!name_is_valid(tenant, tenant_bytes))
        return KV_INVALID;
    status = create(pool, &key, true, trace_id, now_ns, &session);
    if (status != KV_OK)
        return status;
    pool->last_anonymous++;
    kv_list_append(&pool->active, &session->link);
    *out = session;
    return KV_OK;
}

struct pool_session *pool_session_find(
    struct pool *pool, const struct pool_key *key)
{
    struct kv_map_node *node =
        kv_map_find(&pool->map, hash_key(pool, key), key);

    return node == NULL ? NULL : KV_LIST_ENTRY(node, struct pool_session, node);
}

struct pool_session *pool_holder_after(
    struct pool *pool, const struct pool_key *place)
{
    return session_index_after(&pool->index, place);
}

/* Those without a name come first among a tenant's, and are passed at once:
 * every name is more than "\\1", for it has no control characters. */
struct pool_session *pool_session_after(
    struct pool *pool, const struct pool_key *key)
{
    struct pool_session *session = session_index_after(&pool->index, key);

    while (session != NULL && session->anonymous) {
        struct pool_key past = session_place(session);

        past.id = "\1";
        past.id_bytes = 1;
        session = session_index_after(&pool->index, &past);
    }
    return session;
}

struct pool_key pool_session_place(const struct pool_session *session)
{
    return session_place(session);
}

void pool_session_forget(
    struct pool *pool, struct pool_session *session, int64_t now_ns)
{
    assert(!session_is_active(session));
    if (session->n_blocks > 0)
        evict_release(pool, session, 0, now_ns);
    registry_remove(pool, session);
}
