/* What requests without a session leave behind: beginnings.
 *
 * A request that ends keeps its full blocks, as a session without a name that
 * is idle: found by its blocks' keys, and evicted as any session is, by policy,
 * TTL, and hand. Its last block, which is not full, and what it computed anew
 * although others had it, are released.
 *
 *   [The cat sat][ on the mat]                       left by a first request
 *   [The cat sat][ on the mat][. It was b][ored, s   a second, which ends now
 *                     ^ its last block is one of ours: we take its place
 *
 * A request that goes on where an earlier one ended takes over all its blocks,
 * and takes its place: age, hits and standing with the policy become its own.
 * So a conversation that comes without a session, ever longer, is one
 * beginning, and of all that end with one block there is one. Where two part,
 * both hold what they have in common, by reference count: it stays for as long
 * as the later used of them. One that ends within another is later than it. */
#include "pool/state.h"

#include <assert.h>

static struct pool_session *session_of_leaf(const struct kv_map_node *leaf)
{
    return KV_LIST_ENTRY(leaf, struct beginning, leaf)->session;
}

bool beginning_ends_with(const struct kv_map_node *node, const void *key)
{
    const struct pool_session *session = session_of_leaf(node);
    const pool_block_id *id = key;

    return session->blocks[session->n_blocks - 1] == *id;
}

/* Nobody chooses the numbers of blocks. */
static uint64_t hash_block(pool_block_id id)
{
    return id;
}

struct pool_session *beginning_at(const struct pool *pool, pool_block_id id)
{
    struct kv_map_node *node = kv_map_find(&pool->leaves, hash_block(id), &id);

    return node == NULL ? NULL : session_of_leaf(node);
}

static void enter_leaves(struct pool *pool, struct pool_session *session)
{
    pool_block_id last = session->blocks[session->n_blocks - 1];

    assert(beginning_at(pool, last) == NULL);
    kv_map_insert(&pool->leaves, &session->beginning->leaf, hash_block(last));
}

void beginning_leave(struct pool *pool, struct pool_session *session)
{
    kv_map_remove(&pool->leaves, &session->beginning->leaf);
    kv_list_remove(&session->beginning->link);
    session->is_beginning = false;
}

void beginning_shorten(struct pool *pool, struct pool_session *session)
{
    kv_map_remove(&pool->leaves, &session->beginning->leaf);
    enter_leaves(pool, session);
}

/* How many first blocks are worth keeping: up to the last that is found. */
static uint32_t count_found(
    const struct pool *pool, const struct pool_session *session)
{
    uint32_t n = session->n_sealed;

    while (n > 0 && !prefix_is_found(&pool->prefixes, session->blocks[n - 1]))
        n--;
    return n;
}

static uint32_t sum(uint32_t a, uint32_t b)
{
    return a > UINT32_MAX - b ? UINT32_MAX : a + b;
}

static void take_place(struct pool *pool, struct pool_session *session,
    struct pool_session *earlier, int64_t now_ns)
{
    session->hits = sum(session->hits, earlier->hits);
    if (session->created_ns > earlier->created_ns)
        session->created_ns = earlier->created_ns;
    session->place.list = earlier->place.list;
    session->place.uses = earlier->place.uses;
    evict_release(pool, earlier, 0, now_ns);
    registry_remove(pool, earlier);
}

/* Of those that end with one of the session's first n blocks. */
static void take_places(
    struct pool *pool, struct pool_session *session, uint32_t n, int64_t now_ns)
{
    for (uint32_t i = 0; i < n; i++) {
        struct pool_session *earlier =
            share_is_shared(pool, session->blocks[i])
                ? beginning_at(pool, session->blocks[i])
                : NULL;

        if (earlier != NULL)
            take_place(pool, session, earlier, now_ns);
    }
}

/* How many of other tenants are looked past. */
#define MAX_LOOKS 64

/* Whose end is longest ago; of one tenant, unless that is NULL. */
static struct pool_session *oldest(
    const struct pool *pool, const struct pool_tenant *tenant)
{
    const struct kv_list *at = pool->beginnings.next;

    for (int n = 0; at != &pool->beginnings && n < MAX_LOOKS; n++) {
        struct pool_session *session =
            KV_LIST_ENTRY(at, struct beginning, link)->session;

        if (tenant == NULL || session->tenant == tenant)
            return session;
        at = at->next;
    }
    return NULL;
}

/* false: nobody can go for it now. */
static bool make_place(
    struct pool *pool, const struct pool_session *session, int64_t now_ns)
{
    struct pool_session *victim;

    if (pool->leaves.n_entries < pool->config.max_beginnings)
        return true;
    victim = oldest(pool, quota_turn_for_place(pool, session->tenant).tenant);
    if (victim == NULL || !pool_may_evict(pool))
        return false;
    evict_for_place(pool, victim, session, NULL, now_ns);
    return true;
}

bool beginning_keep(
    struct pool *pool, struct pool_session *session, int64_t now_ns)
{
    uint32_t n;

    if (pool->config.max_beginnings == 0 || pool->prefixes.entries == NULL)
        return false;
    n = count_found(pool, session);
    if (n == 0)
        return false;
    take_places(pool, session, n, now_ns);
    if (!make_place(pool, session, now_ns))
        return false;
    pool_session_truncate(
        pool, session, (size_t)n * pool->config.block_tokens, now_ns);
    session->is_beginning = true;
    enter_leaves(pool, session);
    kv_list_append(&pool->beginnings, &session->beginning->link);
    return true;
}
