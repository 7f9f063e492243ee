#include "server/state.h"

#include <string.h>

#include "base/clock.h"
#include "base/heap.h"
#include "base/map.h"
#include "receipts/statistics.h"
#include "server/totals.h"

/* Sessions that one page looks at, at most: what bounds its time. */
#define PAGE_VISITS 20000

/* out->position is there. */
static void fill_stamp(struct state_stamp *out)
{
    Kvpool__V1__SnapshotStamp *stamp = &out->stamp;

    kvpool__v1__snapshot_stamp__init(stamp);
    stamp->applied_sequence = out->position.applied_sequence;
    stamp->durable_sequence = out->position.durable_sequence;
    stamp->epoch = out->position.epoch;
    stamp->pool_id.data = out->position.pool_id;
    stamp->pool_id.len = sizeof out->position.pool_id;
}

bool state_stamp(struct server *server, struct state_stamp *out)
{
    if (!recorder_position(server->recorder, &out->position))
        return false;
    fill_stamp(out);
    return true;
}

static void fill_ledger(
    Kvpool__V1__LedgerStatus *status, const struct server *server)
{
    kvpool__v1__ledger_status__init(status);
    recorder_fill_status(server->recorder, status);
}

static void fill_ratios(
    Kvpool__V1__PoolRatios *out, const struct totals *totals)
{
    const struct pool_stats *stats = &totals->stats;

    kvpool__v1__pool_ratios__init(out);
    out->utilization = pool_stats_utilization(stats);
    out->hit_rate = pool_stats_hit_rate(stats);
    out->average_session_length = pool_stats_average_session_length(stats);
    out->fragmentation = pool_stats_fragmentation(stats);
    out->memory_pool_efficiency = pool_stats_efficiency(stats);
    out->unfilled = totals->unfilled;
}

static void fill_blocks(Kvpool__V1__BlockCounts *out,
    const struct totals *totals, const struct pool_config *config)
{
    const struct pool_blocks *blocks = &totals->blocks;

    kvpool__v1__block_counts__init(out);
    out->total = blocks->total;
    out->pinned = blocks->pinned;
    out->cached = blocks->cached;
    out->scrubbing = blocks->scrubbing;
    out->free = blocks->free;
    out->shared = blocks->shared;
    out->free_runs = totals->stats.free_runs;
    out->block_bytes = config->block_bytes;
    out->block_tokens = config->block_tokens;
}

static void fill_load(
    Kvpool__V1__EngineLoad *out, const struct scheduler_load *load)
{
    kvpool__v1__engine_load__init(out);
    out->running_sequences = load->running;
    out->waiting_requests = load->waiting;
    out->preempted_sequences = load->set_aside;
    out->steps_total = load->steps;
    out->prompt_tokens_total = load->prompt_tokens;
    out->cached_tokens_total = load->cached_tokens;
    out->generated_tokens_total = load->generated_tokens;
    out->recomputed_tokens_total = load->recomputed_tokens;
    out->preemptions_total = load->preemptions;
}

static size_t fill_reasons(
    struct state *state, const struct pool_totals *totals)
{
    size_t n = 0;

    for (int reason = 1; reason < POOL_REASON_END; reason++) {
        Kvpool__V1__ReasonCount *count = &state->reasons[n];

        if (totals->evictions_by_reason[reason] == 0)
            continue;
        kvpool__v1__reason_count__init(count);
        count->reason = (Kvpool__V1__EvictionReason)reason;
        count->count = totals->evictions_by_reason[reason];
        state->reason_list[n++] = count;
    }
    return n;
}

void state_fill(struct state *state, struct server *server)
{
    const struct totals totals = totals_publish(server);
    Kvpool__V1__PoolSnapshot *snapshot = &state->snapshot;

    kvpool__v1__pool_snapshot__init(snapshot);
    if (totals.has_ledger) {
        state->stamp.position = totals.ledger;
        fill_stamp(&state->stamp);
        snapshot->stamp = &state->stamp.stamp;
    }
    snapshot->time_unix_ns = kv_clock_wall_ns();
    statistics_fill(&state->statistics, &totals.stats);
    fill_ratios(&state->ratios, &totals);
    fill_blocks(&state->blocks, &totals, pool_config(server->pool));
    fill_ledger(&state->ledger, server);
    fill_load(&state->load, &totals.load);
    snapshot->statistics = &state->statistics;
    snapshot->ratios = &state->ratios;
    snapshot->blocks = &state->blocks;
    snapshot->ledger = &state->ledger;
    snapshot->load = &state->load;
    snapshot->evictions_by_reason = state->reason_list;
    snapshot->n_evictions_by_reason = fill_reasons(state, &totals.pool);
    kvpool__v1__tier_usage__init(&state->tier);
    state->tier.tier = (char *)"memory";
    state->tier.used_bytes = totals.stats.used_bytes;
    state->tier.total_bytes = totals.stats.total_bytes;
    state->tier_list[0] = &state->tier;
    snapshot->tiers = state->tier_list;
    snapshot->n_tiers = 1;
    snapshot->policy = (char *)pool_policy_name(server->pool);
    snapshot->started_unix_ns = server->started_unix_ns;
    snapshot->total_sessions_created = totals.pool.sessions_created;
}

static void fill_sink(
    Kvpool__V1__SinkStatus *out, const struct recorder_sink *sink)
{
    kvpool__v1__sink_status__init(out);
    out->name = (char *)sink->name;
    out->kind = (char *)sink->kind;
    out->state = (Kvpool__V1__SinkState)sink->state;
    out->guaranteed = sink->guaranteed;
    out->acknowledged_sequence = sink->acknowledged_sequence;
    out->lag_receipts = sink->lag_receipts;
    out->lag_ns = sink->lag_ns;
    out->delivered_total = sink->delivered_total;
    out->retries_total = sink->retries_total;
    out->lost_total = sink->lost_total;
    out->last_error = (char *)sink->last_error;
    out->last_error_unix_ns = sink->last_error_unix_ns;
}

void state_sinks_fill(struct state_sinks *out, struct server *server)
{
    out->n = recorder_sinks(server->recorder, out->sinks);
    for (size_t i = 0; i < out->n; i++) {
        fill_sink(&out->entries[i], &out->sinks[i]);
        out->list[i] = &out->entries[i];
    }
}

/* ---- sessions, page by page */

void state_name_copy(char *out, const char *name, size_t n)
{
    memcpy(out, name, n);
    out[n] = '\0';
}

static bool is_busy(const struct pool_session_info *info)
{
    return info->state == POOL_SESSION_RUNNING ||
           info->state == POOL_SESSION_PREEMPTED;
}

void state_session_fill(struct state_session *out, const struct pool *pool,
    const struct pool_session *from, int64_t mono_ns, int64_t wall_ns)
{
    const struct pool_session_info info = pool_session_info(pool, from);
    Kvpool__V1__Session *session = &out->session;

    state_name_copy(out->tenant, info.key.tenant, info.key.tenant_bytes);
    state_name_copy(out->id, info.key.id, info.key.id_bytes);
    kvpool__v1__session_key__init(&out->key);
    out->key.tenant = out->tenant;
    out->key.session_id = out->id;
    kvpool__v1__session__init(session);
    session->key = &out->key;
    session->state = (Kvpool__V1__SessionState)info.state;
    session->blocks = info.n_blocks;
    session->shared_blocks = info.n_shared_blocks;
    session->used_bytes = info.n_blocks * pool_config(pool)->block_bytes;
    session->tokens = info.n_tokens;
    session->cached_tokens = info.n_cached_tokens;
    session->age_ns = mono_ns - info.created_ns;
    session->idle_ns = is_busy(&info) ? 0 : mono_ns - info.released_ns;
    session->created_unix_ns = wall_ns - session->age_ns;
    session->last_access_unix_ns = wall_ns - session->idle_ns;
    session->hits = info.hits;
    session->evictions = info.evictions;
    retention_fill(&out->retention, pool, from, mono_ns, wall_ns);
    session->retention = &out->retention.retention;
}

static bool is_of_tenants(
    const struct pool_key *key, const Kvpool__V1__SessionFilter *filter)
{
    for (size_t i = 0; i < filter->n_tenants; i++)
        if (strlen(filter->tenants[i]) == key->tenant_bytes &&
            memcmp(filter->tenants[i], key->tenant, key->tenant_bytes) == 0)
            return true;
    return filter->n_tenants == 0;
}

static bool is_in_states(
    enum pool_session_state session, const Kvpool__V1__SessionFilter *filter)
{
    for (size_t i = 0; i < filter->n_states; i++)
        if ((int)filter->states[i] == (int)session)
            return true;
    return filter->n_states == 0;
}

bool state_matches(const struct pool *pool,
    const struct pool_session_info *info,
    const Kvpool__V1__SessionFilter *filter, int64_t mono_ns)
{
    const struct pool_key *key = &info->key;
    size_t n;

    if (filter == NULL)
        return true;
    n = strlen(filter->session_id_prefix);
    return is_of_tenants(key, filter) && n <= key->id_bytes &&
           memcmp(key->id, filter->session_id_prefix, n) == 0 &&
           is_in_states(info->state, filter) &&
           (is_busy(info) ? 0 : mono_ns - info->released_ns) >=
               filter->min_idle_ns &&
           mono_ns - info->created_ns >= filter->min_age_ns &&
           info->n_blocks * pool_config(pool)->block_bytes >=
               filter->min_used_bytes;
}

uint64_t state_rank(
    const struct pool_session_info *info, Kvpool__V1__SessionOrder order)
{
    const uint64_t sign = UINT64_C(1) << 63;

    switch ((int)order) {
    case KVPOOL__V1__SESSION_ORDER__SESSION_ORDER_AGE:
        return (uint64_t)info->created_ns ^ sign;
    case KVPOOL__V1__SESSION_ORDER__SESSION_ORDER_SIZE:
        return UINT64_MAX - info->n_blocks;
    case KVPOOL__V1__SESSION_ORDER__SESSION_ORDER_IDLE:
        return is_busy(info) ? UINT64_MAX : (uint64_t)info->released_ns ^ sign;
    case KVPOOL__V1__SESSION_ORDER__SESSION_ORDER_HITS:
        return UINT64_MAX - info->hits;
    default:
        return 0;
    }
}

/* What a token is bound to beside the place: this process, the filter and the
 * order. */
static uint64_t seal(const struct server *server,
    const Kvpool__V1__SessionFilter *filter, Kvpool__V1__SessionOrder order,
    const void *place, size_t n)
{
    const int kind =
        order == KVPOOL__V1__SESSION_ORDER__SESSION_ORDER_UNSPECIFIED
            ? KVPOOL__V1__SESSION_ORDER__SESSION_ORDER_KEY
            : (int)order;
    uint64_t hash[2] = {server->secret[0], server->secret[1]};

    hash[0] = kv_siphash(hash, place, n);
    hash[0] = kv_siphash(hash, &kind, sizeof kind);
    if (filter == NULL)
        return hash[0];
    for (size_t i = 0; i < filter->n_tenants; i++)
        hash[0] = kv_siphash(
            hash, filter->tenants[i], strlen(filter->tenants[i]) + 1);
    hash[0] = kv_siphash(
        hash, filter->session_id_prefix, strlen(filter->session_id_prefix));
    hash[0] = kv_siphash(
        hash, filter->states, filter->n_states * sizeof *filter->states);
    hash[0] = kv_siphash(hash, &filter->min_idle_ns, sizeof(int64_t));
    hash[0] = kv_siphash(hash, &filter->min_age_ns, sizeof(int64_t));
    hash[0] = kv_siphash(hash, &filter->min_used_bytes, sizeof(uint64_t));
    return hash[0];
}

/* A token is, in hexadecimal, the seal (8 bytes), the rank (8 bytes), the
 * length of the tenant (1 byte), the tenant, the id. */
#define TOKEN_NAMES 17

void state_token_print(const struct server *server,
    const Kvpool__V1__SessionFilter *filter, Kvpool__V1__SessionOrder order,
    const struct state_place *place, char out[STATE_TOKEN_BYTES])
{
    static const char digits[] = "0123456789abcdef";
    const struct pool_key *key = &place->key;
    unsigned char bytes[TOKEN_NAMES + 2 * POOL_NAME_BYTES];
    size_t n = TOKEN_NAMES + key->tenant_bytes + key->id_bytes;
    uint64_t sealed;

    memcpy(bytes + 8, &place->rank, 8);
    bytes[16] = (unsigned char)key->tenant_bytes;
    memcpy(bytes + TOKEN_NAMES, key->tenant, key->tenant_bytes);
    memcpy(bytes + TOKEN_NAMES + key->tenant_bytes, key->id, key->id_bytes);
    sealed = seal(server, filter, order, bytes + 8, n - 8);
    memcpy(bytes, &sealed, 8);
    for (size_t i = 0; i < n; i++) {
        out[2 * i] = digits[bytes[i] >> 4];
        out[2 * i + 1] = digits[bytes[i] & 15];
    }
    out[2 * n] = '\0';
}

void state_place_copy(struct state_place *place, const struct pool_key *key)
{
    place->rank = 0;
    memcpy(place->names, key->tenant, key->tenant_bytes);
    memcpy(place->names + key->tenant_bytes, key->id, key->id_bytes);
    place->key = (struct pool_key){
        .tenant = place->names,
        .tenant_bytes = key->tenant_bytes,
        .id = place->names + key->tenant_bytes,
        .id_bytes = key->id_bytes,
    };
}

static int digit_value(char c)
{
    if (c >= '0' && c <= '9')
        return c - '0';
    return c >= 'a' && c <= 'f' ? c - 'a' + 10 : -1;
}

bool state_place_parse(struct server *server, const char *token,
    const Kvpool__V1__SessionFilter *filter, Kvpool__V1__SessionOrder order,
    struct state_place *place)
{
    unsigned char bytes[TOKEN_NAMES + 2 * POOL_NAME_BYTES];
    size_t n = strlen(token) / 2, n_tenant;
    uint64_t sealed;

    if (strlen(token) % 2 != 0 || n < TOKEN_NAMES || n > sizeof bytes)
        return false;
    for (size_t i = 0; i < n; i++) {
        int high = digit_value(token[2 * i]);
        int low = digit_value(token[2 * i + 1]);

        if (high < 0 || low < 0)
            return false;
        bytes[i] = (unsigned char)(high << 4 | low);
    }
    memcpy(&sealed, bytes, 8);
    n_tenant = bytes[16];
    if (sealed != seal(server, filter, order, bytes + 8, n - 8) ||
        n_tenant > n - TOKEN_NAMES || n_tenant > POOL_NAME_BYTES ||
        n - TOKEN_NAMES - n_tenant > POOL_NAME_BYTES)
        return false;
    state_place_copy(
        place, &(struct pool_key){
                   .tenant = (const char *)bytes + TOKEN_NAMES,
                   .tenant_bytes = n_tenant,
                   .id = (const char *)bytes + TOKEN_NAMES + n_tenant,
                   .id_bytes = n - TOKEN_NAMES - n_tenant,
               });
    memcpy(&place->rank, bytes + 8, 8);
    return true;
}

enum kv_status state_page_fill(struct state_page *page, struct server *server,
    const Kvpool__V1__SessionFilter *filter, uint32_t page_size,
    const struct pool_key *after)
{
    int64_t mono_ns = kv_clock_mono_ns(), wall_ns = kv_clock_wall_ns();
    struct pool_session_info info = {0};
    struct pool_session *session;
    struct state_place place;
    size_t visits = 0;

    memset(page, 0, sizeof *page);
    page->entries = kv_calloc(page_size, sizeof *page->entries);
    page->list = kv_calloc(page_size, sizeof *page->list);
    if (page->entries == NULL || page->list == NULL)
        return KV_NO_MEMORY;
    session = pool_session_after(server->pool, after);
    while (session != NULL && page->n < page_size && visits++ < PAGE_VISITS) {
        info = pool_session_glance(session);
        if (state_matches(server->pool, &info, filter, mono_ns)) {
            state_session_fill(&page->entries[page->n], server->pool, session,
                mono_ns, wall_ns);
            page->list[page->n] = &page->entries[page->n].session;
            page->n++;
        }
        session = pool_session_after(server->pool, &info.key);
    }
    if (session != NULL) {
        state_place_copy(&place, &info.key);
        state_token_print(server, filter,
            KVPOOL__V1__SESSION_ORDER__SESSION_ORDER_KEY, &place,
            page->next_token);
    }
    return KV_OK;
}

void state_page_fini(struct state_page *page)
{
    kv_free(page->list);
    kv_free(page->entries);
}
