#include "pool/session_index.h"

#include "pool/session.h"

static struct pool_session *session_of(const struct treap_node *node)
{
    return node == NULL ? NULL
                        : KV_LIST_ENTRY(node, struct pool_session, order);
}

static int compare(const struct treap_node *node, const void *key)
{
    const struct pool_key a = session_place(session_of(node)), *b = key;
    int order = treap_compare_bytes(
        a.tenant, a.tenant_bytes, b->tenant, b->tenant_bytes);

    return order != 0
               ? order
               : treap_compare_bytes(a.id, a.id_bytes, b->id, b->id_bytes);
}

static uint64_t rank_of(const struct treap_node *node)
{
    return session_of(node)->node.hash;
}

struct treap session_index(void)
{
    return (struct treap){.compare = compare, .rank = rank_of};
}

void session_index_insert(struct treap *index, struct pool_session *session)
{
    const struct pool_key key = session_place(session);

    treap_insert(index, &session->order, &key);
}

void session_index_remove(struct treap *index, struct pool_session *session)
{
    const struct pool_key key = session_place(session);

    treap_remove(index, &session->order, &key);
}

struct pool_session *session_index_after(
    const struct treap *index, const struct pool_key *key)
{
    return session_of(treap_after(index, key));
}
