#include "pool/session.h"

#include <string.h>

#include "base/heap.h"

struct pool_session *session_open(
    struct pool_tenant *tenant, const char *id, size_t id_bytes)
{
    struct pool_session *session = kv_calloc(1, sizeof *session + id_bytes);

    if (session == NULL)
        return NULL;
    session->state = POOL_SESSION_EVICTED;
    session->priority = POLICY_STANDARD_PRIORITY;
    session->tenant = tenant;
    session->id_bytes = (uint8_t)id_bytes;
    if (id_bytes > 0)
        memcpy(session->id, id, id_bytes);
    kv_list_init(&session->link);
    kv_list_init(&session->place.link);
    kv_list_init(&session->beginning);
    return session;
}

void session_close(struct pool_session *session)
{
    kv_free(session->leases);
    kv_free(session->blocks);
    kv_free(session->tokens);
    kv_free(session);
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
    if (n > SIZE_MAX / 2 / sizeof *tokens)
        return KV_NO_MEMORY;
    tokens = kv_realloc(session->tokens, roomy(n) * sizeof *tokens);
    if (tokens == NULL)
        return KV_NO_MEMORY;
    session->tokens = tokens;
    session->token_capacity = roomy(n);
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
    session->lease_capacity = n;
    return KV_OK;
}

void session_trim(struct pool_session *session)
{
    size_t n_tokens = session->n_tokens > 0 ? session->n_tokens : 1;
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
    return sizeof *session + session->id_bytes +
           session->token_capacity * sizeof *session->tokens +
           session->block_capacity * sizeof *session->blocks +
           session->lease_capacity * sizeof *session->leases;
}
