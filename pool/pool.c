#include "pool/state.h"

#include <assert.h>
#include <inttypes.h>
#include <string.h>

#include "base/heap.h"

static const struct pool_observer nobody = {.ctx = NULL};

/* ---- open, close */

static enum kv_status check_config(
    const struct pool_config *config, struct kv_error *error)
{
    if (config->block_tokens == 0)
        return kv_error_set(error, KV_INVALID,
            "a block cannot hold 0 tokens: at least 1 is needed");
    if (config->block_tokens > BLOCK_POOL_MAX_TOKENS)
        return kv_error_set(error, KV_INVALID,
            "a block cannot hold %" PRIu32 " tokens: at most %d are allowed",
            config->block_tokens, BLOCK_POOL_MAX_TOKENS);
    if (config->max_sessions == 0)
        return kv_error_set(error, KV_INVALID,
            "the pool cannot have 0 sessions: at least 1 is needed");
    if (config->max_sessions > BLOCK_POOL_MAX_REFS)
        return kv_error_set(error, KV_INVALID,
            "the pool cannot have %" PRIu32 " sessions: at most %d are allowed",
            config->max_sessions, BLOCK_POOL_MAX_REFS);
    if (config->kept_ttl_ns < 0)
        return kv_error_set(error, KV_INVALID,
            "tokens cannot be kept for %" PRId64
            " ns: at least 0 is needed, which is for ever",
            config->kept_ttl_ns);
    if (config->default_idle_ttl_ns < 0)
        return kv_error_set(error, KV_INVALID,
            "sessions cannot have an idle TTL of %" PRId64
            " ns: at least 0 is needed, which is none",
            config->default_idle_ttl_ns);
    if (config->low_blocks > config->high_blocks)
        return kv_error_set(error, KV_INVALID,
            "the low watermark cannot be at %" PRIu32
            " blocks: at most those of the high one are allowed, %" PRIu32,
            config->low_blocks, config->high_blocks);
    if (policy_find(config->eviction_policy) == NULL)
        return kv_error_set(error, KV_INVALID,
            "there is no eviction policy \"%s\"", config->eviction_policy);
    return KV_OK;
}

static bool session_has_key(const struct kv_map_node *node, const void *key)
{
    const struct pool_session *session =
        KV_LIST_ENTRY(node, struct pool_session, node);
    const struct pool_key a = session_place(session);
    const struct pool_key *b = key;

    return a.tenant_bytes == b->tenant_bytes && a.id_bytes == b->id_bytes &&
           memcmp(a.id, b->id, a.id_bytes) == 0 &&
           (a.tenant_bytes == 0 ||
               memcmp(a.tenant, b->tenant, a.tenant_bytes) == 0);
}

static void init_lists(struct pool *pool, int64_t now_ns)
{
    timer_wheel_init(&pool->wheel, now_ns);
    pool->index = session_index();
    tenant_table_init(&pool->tenants, pool->config.max_sessions,
        pool->config.secret, policy_find(pool->config.eviction_policy));
    kv_list_init(&pool->active);
    kv_list_init(&pool->held);
    kv_list_init(&pool->kept);
    kv_list_init(&pool->beginnings);
}

/* Places for one session more than there may be, since a new one is there
 * before another goes for it, and who of them has which block. */
static enum kv_status open_sessions(struct pool *pool, struct kv_error *error)
{
    uint32_t n_most = pool->config.max_sessions;
    enum kv_status status = session_table_init(&pool->table, n_most + 1);

    if (status != KV_OK)
        return kv_error_set(
            error, status, "no memory for %" PRIu32 " sessions", n_most);
    status = owners_init(&pool->owners, pool->config.n_blocks, &pool->table);
    if (status == KV_OK)
        return KV_OK;
    session_table_fini(&pool->table);
    return kv_error_set(error, status,
        "no memory for the owners of %" PRIu32 " blocks",
        pool->config.n_blocks);
}

static void close_sessions(struct pool *pool)
{
    owners_fini(&pool->owners);
    session_table_fini(&pool->table);
}

enum kv_status pool_open(struct pool **out, const struct pool_config *config,
    int64_t now_ns, struct kv_error *error)
{
    enum kv_status status = check_config(config, error);
    struct pool *pool;

    if (status != KV_OK)
        return status;
    pool = kv_calloc(1, sizeof *pool);
    if (pool == NULL)
        return kv_error_set(
            error, KV_NO_MEMORY, "no memory to open a pool with");
    pool->config = *config;
    pool->observer = config->observer != NULL ? config->observer : &nobody;
    init_lists(pool, now_ns);
    status = block_pool_init(
        &pool->blocks, config->block_bytes, config->n_blocks, error);
    if (status != KV_OK)
        goto free_pool;
    pool->stats.total_bytes = pool->blocks.arena_bytes;
    pool->stats.free_runs = pool->blocks.n_free_runs;
    status = scrub_queue_init(
        &pool->scrubs, config->block_bytes, pool->blocks.blocks);
    if (status != KV_OK) {
        kv_error_set(error, status,
            "no memory for zeroing the pool's %" PRIu32 " blocks",
            config->n_blocks);
        goto fini_blocks;
    }
    status = kv_map_init(
        &pool->map, config->max_sessions, config->secret, session_has_key);
    if (status != KV_OK) {
        kv_error_set(error, status,
            "no memory for a map of %" PRIu32 " sessions",
            config->max_sessions);
        goto fini_scrubs;
    }
    status = kv_map_init(&pool->leaves, config->max_beginnings, config->secret,
        beginning_ends_with);
    if (status != KV_OK) {
        kv_error_set(error, status,
            "no memory for a map of %" PRIu32 " beginnings",
            config->max_beginnings);
        goto fini_map;
    }
    if (config->share_prefixes)
        status = prefix_index_init(&pool->prefixes, config->n_blocks,
            config->block_tokens, config->secret);
    if (status != KV_OK) {
        kv_error_set(error, status,
            "no memory for the prefixes of %" PRIu32 " blocks",
            config->n_blocks);
        goto fini_leaves;
    }
    status = open_sessions(pool, error);
    if (status != KV_OK)
        goto fini_prefixes;
    status = policy_init(pool, policy_find(config->eviction_policy));
    if (status != KV_OK) {
        kv_error_set(error, status,
            "no memory for the eviction order of %" PRIu32 " sessions",
            config->max_sessions);
        goto close_sessions;
    }
    *out = pool;
    return KV_OK;

close_sessions:
    close_sessions(pool);
fini_prefixes:
    prefix_index_fini(&pool->prefixes);
fini_leaves:
    kv_map_fini(&pool->leaves);
fini_map:
    kv_map_fini(&pool->map);
fini_scrubs:
    scrub_queue_fini(&pool->scrubs);
fini_blocks:
    block_pool_fini(&pool->blocks);
free_pool:
    kv_free(pool);
    return status;
}

void pool_close(struct pool *pool)
{
    if (pool == NULL)
        return;
    assert(!scrub_queue_has_out(&pool->scrubs));
    policy_fini(pool);
    close_sessions(pool);
    tenant_table_fini(&pool->tenants);
    prefix_index_fini(&pool->prefixes);
    kv_map_fini(&pool->leaves);
    kv_map_fini(&pool->map);
    scrub_queue_fini(&pool->scrubs);
    block_pool_fini(&pool->blocks);
    kv_free(pool);
}

/* ---- zeroing */

bool pool_scrub_next(struct pool *pool, struct pool_scrub *out)
{
    return scrub_queue_next(&pool->scrubs, out);
}

void pool_scrub_done(struct pool *pool, uint64_t scrub_id, int64_t now_ns)
{
    const struct pool_scrub job = scrub_queue_done(&pool->scrubs, scrub_id);

    (void)now_ns; /* every change of state is told the time */
    for (size_t i = 0; i < job.n_extents; i++)
        block_pool_free(&pool->blocks, &job.extents[i]);
    if (pool->observer->scrubbed != NULL)
        pool->observer->scrubbed(pool->observer->ctx, scrub_id);
}

/* ---- reading */

struct pool_session_info pool_session_info(
    const struct pool *pool, const struct pool_session *session)
{
    struct pool_session_info info = pool_session_glance(session);

    for (uint32_t i = 0; i < session->n_blocks; i++)
        info.n_shared_blocks +=
            pool->blocks.blocks[session->blocks[i]].n_refs > 1;
    return info;
}

struct pool_session_info pool_session_glance(const struct pool_session *session)
{
    return (struct pool_session_info){
        .key = session_key(session),
        .state = session->state,
        .n_blocks = session->n_blocks,
        .n_tokens = session->n_tokens,
        .n_cached_tokens = session->n_cached,
        .created_ns = session->created_ns,
        .released_ns = session->released_ns,
        .idle_ttl_ns = session->idle_ttl_ns,
        .absolute_ttl_ns = session->absolute_ttl_ns,
        .pin_until_ns = session->pin_until_ns,
        .priority = session->priority,
        .hits = session->hits,
        .evictions = session->evictions,
    };
}

const uint32_t *pool_session_tokens(
    const struct pool_session *session, size_t *n_tokens)
{
    *n_tokens = session->n_tokens;
    return session->tokens;
}

const pool_block_id *pool_session_blocks(
    const struct pool_session *session, size_t *n_blocks)
{
    *n_blocks = session->n_blocks;
    return session->blocks;
}

size_t pool_session_n_cached(const struct pool_session *session)
{
    return session->n_cached;
}

size_t pool_session_n_computed(const struct pool_session *session)
{
    return session->n_computed;
}

struct pool_stats pool_stats(const struct pool *pool)
{
    return pool->stats;
}

struct pool_blocks pool_blocks(const struct pool *pool)
{
    const struct block_pool *blocks = &pool->blocks;

    return (struct pool_blocks){
        .total = blocks->n_blocks,
        .pinned = blocks->n_pinned,
        .cached = blocks->n_used - blocks->n_pinned,
        .scrubbing = blocks->n_scrubbing,
        .free = blocks->n_free,
        .shared = blocks->n_shared,
    };
}

static enum pool_block_state block_state(
    const struct pool *pool, pool_block_id id)
{
    if (pool->blocks.blocks[id].n_refs > 0)
        return registry_is_pinned(pool, id) ? POOL_BLOCK_PINNED
                                            : POOL_BLOCK_CACHED;
    return bit_tree_has(&pool->blocks.free, id) ? POOL_BLOCK_FREE
                                                : POOL_BLOCK_SCRUBBING;
}

static const struct pool_session *named_owner(
    const struct pool *pool, pool_block_id id)
{
    const struct pool_session *session = owners_find(&pool->owners, id);

    return session != NULL && !session->anonymous ? session : NULL;
}

struct pool_block_run pool_block_run(
    const struct pool *pool, pool_block_id first, uint32_t n_most)
{
    const struct block_pool *blocks = &pool->blocks;
    struct pool_block_run run = {
        .state = block_state(pool, first), .owner = named_owner(pool, first)};
    uint32_t n_left = blocks->n_blocks - first;

    assert(first < blocks->n_blocks);
    do {
        uint32_t n_refs = blocks->blocks[first + run.n_blocks].n_refs;

        if (n_refs > run.n_holders)
            run.n_holders = n_refs;
        run.n_blocks++;
    } while (run.n_blocks < n_most && run.n_blocks < n_left &&
             block_state(pool, first + run.n_blocks) == run.state &&
             named_owner(pool, first + run.n_blocks) == run.owner);
    return run;
}

double pool_unfilled(const struct pool *pool)
{
    uint64_t n_slots =
        (uint64_t)pool->blocks.n_used * pool->config.block_tokens;

    return n_slots == 0
               ? 0
               : (double)(n_slots - pool->blocks.n_tokens) / (double)n_slots;
}

struct pool_totals pool_totals(const struct pool *pool)
{
    struct pool_totals totals = {
        .sessions_created = pool->sessions_created,
        .kept_tokens = pool->kept_tokens,
        .beginnings = pool->leaves.n_entries,
        .metadata_bytes = sizeof *pool + pool->session_bytes +
                          pool->tenants.metadata_bytes +
                          block_pool_metadata_bytes(&pool->blocks) +
                          scrub_queue_metadata_bytes() +
                          prefix_metadata_bytes(&pool->prefixes) +
                          owners_metadata_bytes(pool->config.n_blocks) +
                          (pool->map.n_buckets + pool->leaves.n_buckets) *
                              sizeof *pool->map.buckets,
    };

    memcpy(totals.evictions_by_reason, pool->evictions_by_reason,
        sizeof totals.evictions_by_reason);
    return totals;
}

uint64_t pool_reclaimable_blocks(const struct pool *pool)
{
    return pool->config.n_blocks - pool->blocks.n_pinned;
}

unsigned char *pool_arena(const struct pool *pool)
{
    return pool->blocks.arena;
}

const struct pool_config *pool_config(const struct pool *pool)
{
    return &pool->config;
}
