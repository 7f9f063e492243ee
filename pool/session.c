#include "pool/session.h"

#include <string.h>

#include "base/heap.h"

/* What lies before an anonymous one is its own as well. */
static size_t bytes_before(bool anonymous)
{
    return anonymous ? sizeof(struct beginning) : 0;
}

static size_t bytes_of(bool anonymous, size_t id_bytes)
{
    size_t n = offsetof(struct pool_session, id) + id_bytes;

    if (n < sizeof(struct pool_session))
        n = sizeof(struct pool_session);
    return bytes_before(anonymous) + n;
}

struct pool_session *session_open(
    struct pool_tenant *tenant, const char *id, size_t id_bytes, bool anonymous)
{
    char *memory = kv_calloc(1, bytes_of(anonymous, id_bytes));
    struct pool_session *session;

    if (memory == NULL)
        return NULL;
    session = (void *)(memory + bytes_before(anonymous));
    session->state = POOL_SESSION_EVICTED;
    session->priority = POLICY_STANDARD_PRIORITY;
    session->tenant = tenant;
    session->anonymous = anonymous;
    session->id_bytes = (uint8_t)id_bytes;
    if (id_bytes > 0)
        memcpy(session->id, id, id_bytes);
    kv_list_init(&session->link);
    return session;
}

void session_close(struct pool_session *session)
{
    kv_free(session->loss);
    kv_free(session->leases);
    kv_free(session->blocks);
    kv_free(session->tokens);
    kv_free((char *)session - bytes_before(session->anonymous));
}

void session_set_loss(
    struct pool_session *session, const struct session_loss *loss)
{
    if (loss == NULL) {
        kv_free(session->loss);
        session->loss = NULL;
        return;
    }
    if (session->loss == NULL)
        session->loss = kv_calloc(1, sizeof *loss);
    if (session->loss != NULL)
        *session->loss = *loss;
}

/* A sixteenth more than needed keeps growing cheap while a session runs; what
 * is not used is given back then, see session_trim. */
static size_t roomy(size_t n)
{
    return n + n / 16 + 4;
}

enum kv_status session_grow_tokens(struct pool_session *session, size_t n)
{
    uint32_t *tokens;

    if (n <= session->token_capacity)
        return KV_OK;
    if (roomy(n) > UINT32_MAX)
        return KV_NO_MEMORY;
    tokens = kv_realloc(session->tokens, roomy(n) * sizeof *tokens);
    if (tokens == NULL)
        return KV_NO_MEMORY;
    session->tokens = tokens;
    session->token_capacity = (uint32_t)roomy(n);
    return KV_OK;
}

enum kv_status session_grow_blocks(struct pool_session *session, uint32_t n)
{
    pool_block_id *blocks;

    if (n <= session->block_capacity)
        return KV_OK;
    blocks = kv_realloc(session->blocks, roomy(n) * sizeof *blocks);
    if (blocks == NULL)
        return KV_NO_MEMORY;
    session->blocks = blocks;
    session->block_capacity = (uint32_t)roomy(n);
    return KV_OK;
}

enum kv_status session_grow_leases(struct pool_session *session, uint32_t n)
{
    struct session_lease *leases;

    if (n <= session->lease_capacity)
        return KV_OK;
    leases = kv_realloc(session->leases, n * sizeof *leases);
    if (leases == NULL)
        return KV_NO_MEMORY;
    session->leases = leases;
    session->lease_capacity = (uint8_t)n;
    return KV_OK;
}

void session_trim(struct pool_session *session)
{
    uint32_t n_tokens = session->n_tokens > 0 ? session->n_tokens : 1;
    uint32_t n_blocks = session->n_blocks > 0 ? session->n_blocks : 1;
    void *less;

    if (n_tokens < session->token_capacity) {
        less = kv_realloc(session->tokens, n_tokens * sizeof *session->tokens);
        if (less != NULL) {
            session->tokens = less;
            session->token_capacity = n_tokens;
        }
    }
    if (n_blocks < session->block_capacity) {
        less = kv_realloc(session->blocks, n_blocks * sizeof *session->blocks);
        if (less != NULL) {
            session->blocks = less;
            session->block_capacity = n_blocks;
        }
    }
}

size_t session_metadata_bytes(const struct pool_session *session)
{
    return bytes_of(session->anonymous, session->id_bytes) +
           (session->loss != NULL ? sizeof *session->loss : 0) +
           session->token_capacity * sizeof *session->tokens +
           session->block_capacity * sizeof *session->blocks +
           session->lease_capacity * sizeof *session->leases;
}
