/* What sessions share: full blocks with the same beginning of a conversation.
 *
 *   a: [The cat sat][ on the mat][, and ]
 *            │             │
 *   b: [The cat sat][ on the mat][. So th][en ...
 *
 * A session seals its blocks as they become full, in order, so that others can
 * find them, and adopts those of others for as far as they go. Full blocks
 * that others hold never change. Who wants to go on from within one gives it up
 * and computes a block of its own, of which at most block_tokens - 1 tokens are
 * lost: that is the copy on write here. The last token of a conversation is
 * never adopted, for its logits say how to go on, and computing it writes.
 *
 * On a hit the tokens are compared as well. They are not stored twice: those of
 * a listed block lie in the session that is its owner, at the block's place in
 * its table, which is the same in all that have it, for a key stands for all
 * that comes before; and in a copy, once the owner has given the block up and
 * others have not, until the next that takes it is its owner. */
#include "pool/state.h"

#include <assert.h>
#include <string.h>

static const uint32_t *tokens_at(
    const struct pool *pool, const struct pool_session *session, uint32_t index)
{
    return session->tokens + (size_t)index * pool->config.block_tokens;
}

/* The key that block `index` of the table has or would have; those before it
 * are sealed. */
static bool key_at(const struct pool *pool, const struct pool_session *session,
    uint32_t index, struct prefix_key *out)
{
    const struct prefix_index *prefixes = &pool->prefixes;
    struct prefix_start root;

    if (index > 0)
        return prefix_key_after(prefixes,
            &prefixes->entries[session->blocks[index - 1]].key,
            tokens_at(pool, session, index), out);
    return prefix_root(prefixes, session->tenant->name,
               session->tenant->name_bytes, &root) &&
           prefix_key_after(prefixes, &root, tokens_at(pool, session, 0), out);
}

/* The next block, up to block `end`. false: none is left, or libcrypto fails.
 */
static bool seal_next(
    struct pool *pool, struct pool_session *session, uint32_t end)
{
    struct prefix_start start;
    struct prefix_key key;
    pool_block_id id;

    if (session->n_sealed == end ||
        !key_at(pool, session, session->n_sealed, &key))
        return false;
    start = prefix_start(&key);
    id = session->blocks[session->n_sealed++];
    owners_hold(&pool->owners, id, session);
    prefix_seal(&pool->prefixes, id, &start);
    return true;
}

void share_seal(struct pool *pool, struct pool_session *session)
{
    uint32_t n_full = session->n_cached / pool->config.block_tokens;
    uint32_t n;

    if (pool->prefixes.entries == NULL)
        return;
    do {
        const pool_block_id *blocks = &session->blocks[session->n_sealed];

        n = 0;
        while (n < PREFIX_FETCHED && seal_next(pool, session, n_full))
            n++;
        prefix_list(&pool->prefixes, blocks, n);
    } while (n == PREFIX_FETCHED);
}

static void unseal(struct pool *pool, pool_block_id id, bool has_owner)
{
    if (!has_owner)
        prefix_drop_tokens(&pool->prefixes, id);
    prefix_unseal(&pool->prefixes, id);
}

void share_leave(struct pool *pool, const struct pool_session *session,
    uint32_t index, bool is_last)
{
    pool_block_id id = session->blocks[index];
    bool was_owner = owners_release(&pool->owners, id, session);

    if (index >= session->n_sealed)
        return;
    if (is_last)
        unseal(pool, id, was_owner);
    else if (was_owner)
        prefix_keep_tokens(
            &pool->prefixes, id, tokens_at(pool, session, index));
}

/* Puts the key of block `index` where reports have theirs, at this place. NULL:
 * it is not full, or libcrypto fails. */
static const uint8_t *tell_key(struct pool *pool,
    const struct pool_session *session, uint32_t index, size_t place)
{
    struct prefix_key *key = &pool->told_keys[place];

    return index < session->n_sealed && key_at(pool, session, index, key)
               ? key->bytes
               : NULL;
}

struct share_told share_tell(
    struct pool *pool, struct pool_session *session, bool goes_on)
{
    uint64_t block_bytes = pool->config.block_bytes;
    struct share_told told = {.n_sealed = 0};

    if (pool->observer->allocated == NULL)
        return told;
    if (goes_on && session->n_blocks > 0)
        told.parent_key =
            tell_key(pool, session, session->n_blocks - 1, POOL_PART_SEALED);
    while (session->n_told < session->n_sealed &&
           told.n_sealed < POOL_PART_SEALED) {
        const uint8_t *key =
            tell_key(pool, session, session->n_told, told.n_sealed);

        if (key == NULL)
            break;
        pool->sealed[told.n_sealed++] = (struct pool_sealed){
            session->blocks[session->n_told++] * block_bytes, key};
    }
    return told;
}

bool share_is_shared(const struct pool *pool, pool_block_id id)
{
    return pool->blocks.blocks[id].n_refs > 1;
}

void share_open(struct pool *pool, struct pool_session *session, uint32_t index)
{
    pool_block_id id = session->blocks[index];

    if (index >= session->n_sealed)
        return;
    unseal(pool, id, owners_is(&pool->owners, id, session));
    session->n_sealed = index;
    if (session->n_told > index)
        session->n_told = index;
}

/* ---- adopting */

/* Those of the block that is number `index` wherever it is; NULL if they cannot
 * be had. */
static const uint32_t *tokens_of(
    const struct pool *pool, pool_block_id id, uint32_t index)
{
    const struct pool_session *owner = owners_find(&pool->owners, id);

    if (owner == NULL)
        return prefix_kept_tokens(&pool->prefixes, id);
    return index < owner->n_blocks && owner->blocks[index] == id
               ? tokens_at(pool, owner, index)
               : NULL;
}

uint32_t share_find(const struct pool *pool, const struct prefix_start *key,
    const uint32_t *tokens, uint32_t index)
{
    pool_block_id id = prefix_find(&pool->prefixes, key);
    const uint32_t *others =
        id != PREFIX_NONE ? tokens_of(pool, id, index) : NULL;

    return others != NULL &&
                   memcmp(others, tokens,
                       pool->config.block_tokens * sizeof *tokens) == 0
               ? id
               : PREFIX_NONE;
}

/* The block of somebody else that comes next in this conversation. */
static uint32_t find_next(
    const struct pool *pool, const struct pool_session *session, uint32_t index)
{
    struct prefix_start start;
    struct prefix_key key;

    if (!key_at(pool, session, index, &key))
        return PREFIX_NONE;
    start = prefix_start(&key);
    return share_find(pool, &start, tokens_at(pool, session, index), index);
}

/* A block that has one holder, and counts no pins, has it for its owner. */
static void take_shared(
    struct pool *pool, struct pool_session *session, pool_block_id id)
{
    struct pool_session *owner = owners_find(&pool->owners, id);

    if (owner != NULL)
        registry_count_pins(pool, owner, session->n_blocks + 1);
    registry_count_pins(pool, session, session->n_blocks);
    session->tenant->n_pinned += pool->blocks.blocks[id].n_pins == 0;
    block_pool_retain(&pool->blocks, id);
    block_pool_pin(&pool->blocks, id);
    if (owner == NULL)
        prefix_drop_tokens(&pool->prefixes, id);
    owners_hold(&pool->owners, id, session);
    if (session->n_blocks == 0)
        registry_count_holder(pool, session);
    session->n_counted++;
    session->blocks[session->n_blocks++] = id;
    session->n_sealed = session->n_blocks;
    session->n_cached += pool->config.block_tokens;
    pool->stats.session_tokens += pool->config.block_tokens;
    session->state = POOL_SESSION_RUNNING;
}

static void report_adoption(struct pool *pool, struct pool_session *session,
    const struct pool_stats *before, uint32_t first, int64_t now_ns)
{
    uint64_t block_bytes = pool->config.block_bytes;
    struct pool_allocation adoption = {
        .key = session_key(session),
        .reused = pool->extents,
        .sealed = pool->sealed,
        .part = 1,
        .before = before,
        .after = &pool->stats,
        .mono_ns = now_ns,
    };

    if (pool->observer->allocated == NULL)
        return;
    adoption.n_parts =
        (session->n_blocks - first + POOL_PART_EXTENTS - 1) / POOL_PART_EXTENTS;
    for (uint32_t i = first; i < session->n_blocks; i++) {
        pool->extents[adoption.n_reused++] =
            (struct pool_extent){session->blocks[i] * block_bytes, block_bytes};
        if (adoption.n_reused == POOL_PART_EXTENTS ||
            i + 1 == session->n_blocks) {
            adoption.n_sealed = share_tell(pool, session, false).n_sealed;
            pool->observer->allocated(pool->observer->ctx, &adoption);
            adoption.before = adoption.after;
            adoption.part++;
            adoption.n_reused = 0;
        }
    }
}

/* A run that would write into a block which others hold too begins before it.
 */
static void leave_last_shared(
    struct pool *pool, struct pool_session *session, int64_t now_ns)
{
    uint32_t index;

    if (session->n_cached < session->n_tokens)
        return;
    index = (uint32_t)((session->n_tokens - 1) / pool->config.block_tokens);
    if (share_is_shared(pool, session->blocks[index]))
        evict_release(pool, session, index, now_ns);
}

/* Takes over what there is from block `first` on, up to block `end`. */
static void adopt_from(struct pool *pool, struct pool_session *session,
    uint32_t first, uint32_t end, int64_t now_ns)
{
    pool_block_id id = find_next(pool, session, first);
    struct pool_stats before;

    if (id == PREFIX_NONE)
        return;
    /* Blocks for what was not computed yet, or not to the end. */
    if (first < session->n_blocks)
        evict_release(pool, session, first, now_ns);
    before = pool->stats;
    while (id != PREFIX_NONE) {
        take_shared(pool, session, id);
        id = session->n_blocks < end
                 ? find_next(pool, session, session->n_blocks)
                 : PREFIX_NONE;
    }
    if (session->n_cached > session->n_computed)
        session->n_computed = session->n_cached;
    report_adoption(pool, session, &before, first, now_ns);
}

size_t pool_session_adopt(
    struct pool *pool, struct pool_session *session, int64_t now_ns)
{
    uint32_t block_tokens = pool->config.block_tokens;
    uint32_t n_own, n_most;

    assert(session_is_active(session));
    if (pool->prefixes.entries == NULL || session->n_tokens == 0)
        return session->n_cached;
    leave_last_shared(pool, session, now_ns);
    n_own = (uint32_t)(session->n_cached / block_tokens);
    n_most = (uint32_t)((session->n_tokens - 1) / block_tokens);
    if (n_own < n_most && session->n_sealed == n_own &&
        run_may_allocate(pool) &&
        registry_grow(pool, session, 0, n_most) == KV_OK)
        adopt_from(pool, session, n_own, n_most, now_ns);
    return session->n_cached;
}

size_t pool_session_common(const struct pool *pool,
    const struct pool_session *session, const struct pool_session *other)
{
    size_t n = 0, n_most = session->n_tokens;

    if (pool->prefixes.entries == NULL || session->tenant != other->tenant)
        return 0;
    n_most = n_most < other->n_tokens ? n_most : other->n_tokens;
    while (n < n_most && session->tokens[n] == other->tokens[n])
        n++;
    if (n == session->n_tokens && n > 0) /* the last is its own to compute */
        n--;
    return n - n % pool->config.block_tokens;
}
