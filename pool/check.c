/* The laws of docs/pool.md, from first principles: everything that the pool
 * keeps count of is counted again, over all blocks and all sessions. */
#include "pool/state.h"

#include <inttypes.h>
#include <string.h>

#include "base/heap.h"

/* What the sessions and the scrub queue say of each block. */
struct census {
    const struct pool *pool;
    uint32_t *n_refs;    /* by block: places in block tables */
    uint32_t *n_pins;    /* by block: of those, of running sessions */
    uint32_t *n_counted; /* by block: of these, that are counted there */
    uint8_t *n_scrubs;   /* by block: scrub jobs that have it */
    const struct pool_tenant **owners; /* by block: whose session has it */
    uint64_t n_owned; /* places in block tables of the blocks' owners */
    uint64_t n_sessions, n_beginnings, n_holding;
    uint64_t session_tokens, kept_tokens, session_bytes;
    struct kv_error *error;
};

static bool broken(
    const struct census *census, const char *law, uint64_t is, uint64_t should)
{
    kv_error_set(census->error, KV_INVALID,
        "%s: is %" PRIu64 ", should be %" PRIu64, law, is, should);
    return false;
}

static bool equal(
    const struct census *census, const char *law, uint64_t is, uint64_t should)
{
    return is == should || broken(census, law, is, should);
}

/* ---- prefixes */

/* What session says of its sealed blocks is what they are listed under. */
static bool check_sealed(
    const struct census *census, const struct pool_session *session)
{
    const struct prefix_index *prefixes = &census->pool->prefixes;
    uint32_t block_tokens = census->pool->config.block_tokens;
    struct prefix_start start;
    struct prefix_key key;

    if (session->n_sealed == 0)
        return true;
    if (!prefix_root(prefixes, session->tenant->name,
            session->tenant->name_bytes, &start))
        return equal(census, "a hash that can be had", 0, 1);
    for (uint32_t i = 0; i < session->n_sealed; i++) {
        uint32_t id = session->blocks[i];
        const uint32_t *tokens = session->tokens + (size_t)i * block_tokens;

        if (!prefix_key_after(prefixes, &start, tokens, &key))
            return equal(census, "a hash that can be had", 0, 1);
        start = prefix_start(&key);
        if (!equal(census, "a sealed block of the table",
                prefix_is_sealed(prefixes, id), 1) ||
            !equal(census, "the key of a sealed block",
                memcmp(&prefixes->entries[id].key, &start, sizeof start) == 0,
                1) ||
            !equal(census, "a listed block is found by its tokens",
                !prefix_is_found(prefixes, id) ||
                    share_find(census->pool, &start, tokens, i) == id,
                1))
            return false;
    }
    return equal(census, "sealed blocks that are not full",
        (uint64_t)session->n_sealed * block_tokens > session->n_cached, 0);
}

static bool check_prefix(const struct census *census, uint32_t id)
{
    const struct prefix_index *prefixes = &census->pool->prefixes;

    if (prefixes->entries == NULL)
        return true;
    return equal(census, "a sealed block that nobody holds",
               prefix_is_sealed(prefixes, id) && census->n_refs[id] == 0, 0) &&
           equal(census, "a copy of the tokens that no owner has",
               prefix_kept_tokens(prefixes, id) != NULL,
               prefix_is_listed(prefixes, id) &&
                   owners_find(&census->pool->owners, id) == NULL);
}

/* ---- sessions */

static bool count_table(
    struct census *census, const struct pool_session *session)
{
    const struct pool *pool = census->pool;
    size_t block_tokens = pool->config.block_tokens;
    size_t left = session->n_cached;

    for (uint32_t i = 0; i < session->n_blocks; i++) {
        uint32_t id = session->blocks[i];
        size_t held = left < block_tokens ? left : block_tokens;

        if (id >= pool->config.n_blocks)
            return broken(census, "a block table leaves the arena", id,
                pool->config.n_blocks);
        if (census->owners[id] != NULL && census->owners[id] != session->tenant)
            return broken(census, "a block of two tenants", 2, 1);
        census->owners[id] = session->tenant;
        census->n_refs[id]++;
        census->n_owned += owners_is(&pool->owners, id, session);
        census->n_pins[id] += session_pins(session);
        census->n_counted[id] +=
            i < session->n_counted && session_pins(session);
        if (!equal(census, "holders of a block that counts no pins",
                i < session->n_counted || pool->blocks.blocks[id].n_refs == 1,
                1) ||
            !equal(census, "the owner of a block that counts no pins",
                i < session->n_counted || owners_is(&pool->owners, id, session),
                1) ||
            !equal(census, "tokens of a block",
                pool->blocks.blocks[id].n_tokens, held))
            return false;
        left -= held;
    }
    return equal(census, "cached tokens without a block", left, 0);
}

/* A request without a session that has ended is found by its last block, and
 * nobody else is. */
static bool check_beginning(
    const struct census *census, const struct pool_session *session)
{
    bool is_idle = session->anonymous && session->n_blocks > 0 &&
                   !session_is_active(session);
    const struct pool_session *found =
        is_idle
            ? beginning_at(census->pool, session->blocks[session->n_blocks - 1])
            : NULL;

    return equal(census, "a beginning", session->is_beginning, is_idle) &&
           equal(census, "a beginning that is found by its last block",
               !is_idle || found == session, 1) &&
           equal(census, "full blocks of a beginning",
               is_idle && session->n_sealed != session->n_blocks, 0);
}

static bool count_session(
    struct census *census, const struct pool_session *session)
{
    bool is_kept =
        session->state == POOL_SESSION_EVICTED && !session->anonymous;

    census->n_sessions++;
    census->n_beginnings += session->is_beginning;
    census->n_holding += session->n_blocks > 0;
    census->session_tokens += session->n_cached;
    census->kept_tokens += is_kept ? session->n_tokens : 0;
    census->session_bytes += session_metadata_bytes(session);
    return count_table(census, session) && check_sealed(census, session) &&
           check_beginning(census, session) &&
           equal(census, "told blocks that are not sealed",
               session->n_told > session->n_sealed, 0) &&
           equal(census, "blocks that count pins beyond the table",
               session->n_counted > session->n_blocks, 0) &&
           equal(census, "cached tokens beyond the conversation",
               session->n_cached > session->n_tokens, 0) &&
           equal(census, "a timer no later than the deadline",
               timer_is_set_by(
                   &session->timer, registry_due_ns(census->pool, session)),
               true);
}

static bool belongs(const struct pool *pool, const struct kv_list *list,
    const struct pool_session *session)
{
    if (list == &pool->active)
        return session_is_active(session) || session->anonymous;
    if (list == &pool->held)
        return session->state == POOL_SESSION_HELD && session->n_blocks > 0 &&
               retention_hold_until_ns(session) > 0;
    return session->state == POOL_SESSION_EVICTED && session->n_blocks == 0;
}

static bool count_list(struct census *census, const struct kv_list *list)
{
    const struct pool *pool = census->pool;

    for (const struct kv_list *at = list->next; at != list; at = at->next) {
        const struct pool_session *session =
            KV_LIST_ENTRY(at, struct pool_session, link);

        if (!equal(census, "a session on the list of its state",
                belongs(pool, list, session), true) ||
            !count_session(census, session))
            return false;
    }
    return true;
}

/* Every cached session is in the order of all, once, and nobody else. */
static bool check_order(const struct census *census, uint64_t n_cached)
{
    const struct pool_session *session = NULL;
    uint64_t n = 0;

    while ((session = policy_next(census->pool, NULL, session)) != NULL) {
        if (session->state != POOL_SESSION_CACHED || n == n_cached)
            return equal(census, "a victim that is not cached",
                (uint64_t)session->state, POOL_SESSION_CACHED);
        n++;
    }
    return equal(census, "sessions in the order of victims", n, n_cached);
}

/* And in that of its tenant's. */
static bool count_cached_of(
    struct census *census, const struct pool_tenant *tenant)
{
    const struct pool_session *session = NULL;
    uint64_t n = 0;

    while ((session = policy_next(census->pool, tenant, session)) != NULL) {
        bool is_one = session->state == POOL_SESSION_CACHED &&
                      session->n_blocks > 0 && session->tenant == tenant &&
                      n < tenant->n_cached;

        if (!equal(census, "a victim of the tenant's own", is_one, true) ||
            !count_session(census, session))
            return false;
        n++;
    }
    return equal(census, "victims of a tenant", n, tenant->n_cached);
}

/* Those of all tenants. */
static bool count_cached(struct census *census, uint64_t *n_cached)
{
    const struct pool_tenant *tenant =
        tenant_after(&census->pool->tenants, NULL);
    uint64_t n_before = census->n_sessions;

    while (tenant != NULL) {
        const struct tenant_name name = {tenant->name, tenant->name_bytes};

        if (!count_cached_of(census, tenant))
            return false;
        tenant = tenant_after(&census->pool->tenants, &name);
    }
    *n_cached = census->n_sessions - n_before;
    return true;
}

static bool count_sessions(struct census *census)
{
    const struct pool *pool = census->pool;
    const struct pool_session *session = NULL;
    uint64_t n_indexed = 0, n_cached = 0;

    if (!count_cached(census, &n_cached) || !check_order(census, n_cached) ||
        !count_list(census, &pool->active) ||
        !count_list(census, &pool->held) || !count_list(census, &pool->kept))
        return false;
    session = session_index_after(&pool->index, NULL);
    while (session != NULL) {
        const struct pool_key key = session_place(session);

        n_indexed++;
        session = session_index_after(&pool->index, &key);
    }
    return equal(census, "sessions", pool->n_sessions, census->n_sessions) &&
           equal(census, "sessions in the map", pool->map.n_entries,
               census->n_sessions) &&
           equal(census, "sessions in the index", n_indexed,
               census->n_sessions) &&
           equal(census, "beginnings", pool->leaves.n_entries,
               census->n_beginnings) &&
           equal(census, "beginnings beyond the limit",
               census->n_beginnings > pool->config.max_beginnings, 0) &&
           equal(census, "total_sessions", pool->stats.total_sessions,
               census->n_holding) &&
           equal(census, "session_tokens", pool->stats.session_tokens,
               census->session_tokens) &&
           equal(
               census, "kept tokens", pool->kept_tokens, census->kept_tokens) &&
           equal(census, "kept tokens beyond the cap",
               pool->kept_tokens > pool->config.max_kept_tokens, 0) &&
           equal(census, "memory of sessions", pool->session_bytes,
               census->session_bytes) &&
           equal(census, "sessions beyond the limit",
               pool->n_sessions > pool->config.max_sessions, 0);
}

/* ---- tenants */

struct tenant_count {
    uint32_t n_sessions, n_holding, n_used, n_pinned;
};

static void count_tenant_sessions(struct tenant_count *count,
    const struct pool_tenant *tenant, const struct kv_list *list)
{
    for (const struct kv_list *at = list->next; at != list; at = at->next) {
        const struct pool_session *session =
            KV_LIST_ENTRY(at, struct pool_session, link);

        if (session->tenant != tenant)
            continue;
        count->n_sessions++;
        count->n_holding += session->n_blocks > 0;
    }
}

static bool check_tenant(
    const struct census *census, const struct pool_tenant *tenant)
{
    const struct pool *pool = census->pool;
    struct tenant_count count = {
        .n_sessions = tenant->n_cached, .n_holding = tenant->n_cached};
    bool goes_first;

    count_tenant_sessions(&count, tenant, &pool->active);
    count_tenant_sessions(&count, tenant, &pool->held);
    count_tenant_sessions(&count, tenant, &pool->kept);
    for (uint32_t id = 0; id < pool->config.n_blocks; id++) {
        count.n_used += census->owners[id] == tenant;
        count.n_pinned +=
            census->owners[id] == tenant && census->n_pins[id] > 0;
    }
    goes_first = tenant->n_cached > 0 &&
                 tenant_excess(tenant->quota.soft_blocks, count.n_used) > 0;
    return equal(census, "sessions of a tenant", tenant->n_sessions,
               count.n_sessions) &&
           equal(census, "sessions of a tenant with blocks", tenant->n_holding,
               count.n_holding) &&
           equal(census, "used blocks of a tenant", tenant->n_used,
               count.n_used) &&
           equal(census, "pinned blocks of a tenant", tenant->n_pinned,
               count.n_pinned) &&
           equal(census, "a tenant goes first beyond its soft quota",
               !kv_list_empty(&tenant->over), goes_first);
}

static bool check_tenants(const struct census *census)
{
    const struct tenant_table *table = &census->pool->tenants;
    const struct pool_tenant *tenant = NULL;
    uint64_t n_used = 0, n_sessions = 0, n_evictions = 0;
    struct tenant_name name;

    while (
        (tenant = tenant_after(table, tenant == NULL ? NULL : &name)) != NULL) {
        if (!check_tenant(census, tenant))
            return false;
        name = (struct tenant_name){tenant->name, tenant->name_bytes};
        n_used += tenant->n_used;
        n_sessions += tenant->n_sessions;
        n_evictions += tenant->evictions;
    }
    return equal(census, "used blocks of all tenants", n_used,
               census->pool->blocks.n_used) &&
           equal(census, "sessions of all tenants", n_sessions,
               census->n_sessions) &&
           equal(census, "evictions of tenants beyond those of all",
               n_evictions > census->pool->stats.evictions, 0);
}

/* ---- blocks */

static void count_scrub(struct census *census, uint64_t first, uint64_t n)
{
    while (n-- > 0)
        census->n_scrubs[first + n]++;
}

static void count_scrubs(struct census *census)
{
    const struct scrub_queue *queue = &census->pool->scrubs;
    uint32_t first = queue->head;

    for (uint64_t i = 0; i < queue->n_runs; i++) {
        const struct scrub_run run = scrub_queue_run(queue, first);

        count_scrub(census, run.blocks.first, run.blocks.n);
        first = run.behind;
    }
    for (size_t i = 0; i < POOL_SCRUBS_OUT; i++) {
        const struct pool_scrub *job = &queue->out[i];

        for (size_t j = 0; job->scrub_id != 0 && j < job->n_extents; j++)
            count_scrub(census, job->extents[j].offset / queue->block_bytes,
                job->extents[j].size / queue->block_bytes);
    }
}

static bool check_block(const struct census *census, uint32_t id)
{
    const struct block_pool *blocks = &census->pool->blocks;
    const struct block *block = &blocks->blocks[id];
    uint32_t n_refs = block->n_refs;
    uint64_t n_states = (uint64_t)(n_refs > 0) + census->n_scrubs[id] +
                        bit_tree_has(&blocks->free, id);

    return equal(census, "references of a block", n_refs, census->n_refs[id]) &&
           equal(census, "pins of a block", n_refs > 0 ? block->n_pins : 0,
               census->n_counted[id]) &&
           equal(census, "whether a block is pinned",
               n_refs > 0 && registry_is_pinned(census->pool, id),
               census->n_pins[id] > 0) &&
           check_prefix(census, id) &&
           equal(census, "states of a block", n_states, 1) &&
           equal(census, "a block that leaves outside a turn",
               block_pool_is_leaving(blocks, id), 0);
}

static bool check_blocks(const struct census *census)
{
    const struct block_pool *blocks = &census->pool->blocks;
    uint64_t n_used = 0, n_scrubbing = 0, n_shared = 0, n_runs = 0, tokens = 0;
    uint64_t n_pinned = 0, n_owned = 0;
    bool was_used = true;

    for (uint32_t id = 0; id < blocks->n_blocks; id++) {
        bool is_used = census->n_refs[id] > 0;

        if (!check_block(census, id))
            return false;
        n_used += is_used;
        n_owned += owners_find(&census->pool->owners, id) != NULL;
        n_scrubbing += census->n_scrubs[id];
        n_shared += census->n_refs[id] > 1;
        n_pinned += census->n_pins[id] > 0;
        n_runs += was_used && !is_used;
        tokens += is_used ? blocks->blocks[id].n_tokens : 0;
        was_used = is_used;
    }
    return equal(census, "used blocks", blocks->n_used, n_used) &&
           equal(
               census, "scrubbing blocks", blocks->n_scrubbing, n_scrubbing) &&
           equal(census, "free blocks", blocks->n_free,
               blocks->n_blocks - n_used - n_scrubbing) &&
           equal(census, "shared blocks", blocks->n_shared, n_shared) &&
           equal(census, "blocks of an owner that has them", n_owned,
               census->n_owned) &&
           equal(census, "pinned blocks", blocks->n_pinned, n_pinned) &&
           equal(census, "free runs", blocks->n_free_runs, n_runs) &&
           equal(census, "free runs that are told",
               census->pool->stats.free_runs, n_runs) &&
           equal(census, "tokens in blocks", blocks->n_tokens, tokens);
}

static bool check_totals(const struct census *census)
{
    const struct pool *pool = census->pool;
    const struct pool_blocks blocks = pool_blocks(pool);
    const struct pool_stats stats = pool_stats(pool);
    uint64_t n_evictions = 0;

    for (int reason = 0; reason < POOL_REASON_END; reason++)
        n_evictions += pool->evictions_by_reason[reason];
    return equal(census, "evictions of all reasons", n_evictions,
               stats.evictions) &&
           equal(census, "total of all states",
               blocks.pinned + blocks.cached + blocks.scrubbing + blocks.free,
               blocks.total) &&
           equal(census, "used bytes",
               (blocks.pinned + blocks.cached) * pool->config.block_bytes,
               stats.used_bytes) &&
           equal(census, "allocated less freed bytes",
               stats.allocated_bytes_total - stats.freed_bytes_total,
               stats.used_bytes);
}

bool pool_check(const struct pool *pool, struct kv_error *error)
{
    struct census census = {.pool = pool, .error = error};
    bool holds = false;

    census.n_refs = kv_calloc(pool->config.n_blocks, sizeof *census.n_refs);
    census.n_pins = kv_calloc(pool->config.n_blocks, sizeof *census.n_pins);
    census.n_counted =
        kv_calloc(pool->config.n_blocks, sizeof *census.n_counted);
    census.n_scrubs = kv_calloc(pool->config.n_blocks, sizeof *census.n_scrubs);
    census.owners =
        kv_calloc(pool->config.n_blocks, sizeof(struct pool_tenant *));
    if (census.n_refs == NULL || census.n_pins == NULL ||
        census.n_counted == NULL || census.n_scrubs == NULL ||
        census.owners == NULL) {
        kv_error_set(error, KV_NO_MEMORY, "no memory to check the pool with");
        goto done;
    }
    count_scrubs(&census);
    holds = count_sessions(&census) && check_tenants(&census) &&
            check_blocks(&census) && check_totals(&census);

done:
    kv_free(census.owners);
    kv_free(census.n_scrubs);
    kv_free(census.n_counted);
    kv_free(census.n_pins);
    kv_free(census.n_refs);
    return holds;
}
