#include "pool/session.h"

#include <string.h>

#include "base/heap.h"

enum kv_status session_table_init(
    struct session_table *table, uint32_t n_sessions)
{
    const size_t n_places = n_sessions + (size_t)1;

    *table = (struct session_table){
        .places = kv_calloc_table(n_places, sizeof *table->places),
        .n_places = n_places,
        .n_used = 1,
    };
    kv_list_init(&table->closed);
    return table->places != NULL ? KV_OK : KV_NO_MEMORY;
}

/* What a session has beside its place. */
static void free_parts(struct pool_session *session)
{
    kv_free(session->loss);
    kv_free(session->leases);
    kv_free(session->blocks);
    kv_free(session->tokens);
    if (session->anonymous)
        kv_free(session->beginning);
    else if (session->id_bytes > SESSION_SHORT_ID_BYTES)
        kv_free(session->long_id);
}

/* Where memory is watched, nobody may touch a session that is closed: all of
 * its place but the link. */
static void close_place(
    struct session_table *table, struct pool_session *session)
{
    kv_list_prepend(&table->closed, &session->link);
    kv_heap_forbid(&session->link + 1, sizeof *session - sizeof session->link);
}

static void open_place(struct pool_session *session)
{
    kv_heap_allow(session, sizeof *session);
}

void session_table_fini(struct session_table *table)
{
    while (!kv_list_empty(&table->closed)) {
        struct kv_list *link = table->closed.next;

        kv_list_remove(link);
        open_place(KV_LIST_ENTRY(link, struct pool_session, link));
    }
    for (uint32_t i = 1; i < table->n_used; i++)
        if (table->places[i].state != 0)
            free_parts(&table->places[i]);
    kv_free(table->places);
}

static struct pool_session *take_place(struct session_table *table)
{
    struct kv_list *link = table->closed.next;
    struct pool_session *session;

    if (kv_list_empty(&table->closed))
        return &table->places[table->n_used++];
    kv_list_remove(link);
    session = KV_LIST_ENTRY(link, struct pool_session, link);
    open_place(session);
    return session;
}

/* NULL: no memory. */
static char *room_for_id(struct pool_session *session)
{
    if (session->anonymous) {
        session->beginning = kv_calloc(1, sizeof *session->beginning);
        if (session->beginning == NULL)
            return NULL;
        session->beginning->session = session;
        return session->hidden_id;
    }
    if (session->id_bytes <= SESSION_SHORT_ID_BYTES)
        return session->short_id;
    return session->long_id = kv_calloc(session->id_bytes, 1);
}

struct pool_session *session_open(struct session_table *table,
    struct pool_tenant *tenant, const char *id, size_t id_bytes, bool anonymous)
{
    struct pool_session *session = take_place(table);
    char *room;

    *session = (struct pool_session){
        .state = POOL_SESSION_EVICTED,
        .priority = POLICY_STANDARD_PRIORITY,
        .tenant = tenant,
        .anonymous = anonymous,
        .id_bytes = (uint8_t)id_bytes,
    };
    kv_list_init(&session->link);
    room = room_for_id(session);
    if (room == NULL) {
        session_close(table, session);
        return NULL;
    }
    memcpy(room, id, id_bytes);
    return session;
}

void session_close(struct session_table *table, struct pool_session *session)
{
    free_parts(session);
    session->state = 0;
    close_place(table, session);
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
    return sizeof *session +
           (session->anonymous ? sizeof *session->beginning : 0) +
           (session->id_bytes > SESSION_SHORT_ID_BYTES ? session->id_bytes
                                                       : 0) +
           (session->loss != NULL ? sizeof *session->loss : 0) +
           session->token_capacity * sizeof *session->tokens +
           session->block_capacity * sizeof *session->blocks +
           session->lease_capacity * sizeof *session->leases;
}
