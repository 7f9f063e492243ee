#include "pool/session_index.h"

#include <stddef.h>
#include <string.h>

#include "pool/session.h"

static int compare_bytes(
    const char *a, size_t a_bytes, const char *b, size_t b_bytes)
{
    size_t n = a_bytes < b_bytes ? a_bytes : b_bytes;
    int order = n > 0 ? memcmp(a, b, n) : 0;

    return order != 0 ? order : (a_bytes > b_bytes) - (a_bytes < b_bytes);
}

static int compare(const struct pool_session *session, const struct pool_key *b)
{
    struct pool_key a = session_place(session);
    int order =
        compare_bytes(a.tenant, a.tenant_bytes, b->tenant, b->tenant_bytes);

    return order != 0 ? order
                      : compare_bytes(a.id, a.id_bytes, b->id, b->id_bytes);
}

void session_index_insert(
    struct session_index *index, struct pool_session *session)
{
    struct pool_key key = session_place(session);
    struct pool_session **at = &index->root, *rest;
    struct pool_session **less = &session->order.left;
    struct pool_session **more = &session->order.right;

    while (*at != NULL && (*at)->node.hash >= session->node.hash)
        at = compare(*at, &key) < 0 ? &(*at)->order.right : &(*at)->order.left;
    rest = *at;
    *at = session;

    /* Part the subtree that was there into what comes before and after. */
    while (rest != NULL) {
        if (compare(rest, &key) < 0) {
            *less = rest;
            less = &rest->order.right;
            rest = *less;
        } else {
            *more = rest;
            more = &rest->order.left;
            rest = *more;
        }
    }
    *less = *more = NULL;
}

void session_index_remove(
    struct session_index *index, struct pool_session *session)
{
    struct pool_key key = session_place(session);
    struct pool_session **at = &index->root;
    struct pool_session *left = session->order.left;
    struct pool_session *right = session->order.right;

    while (*at != session)
        at = compare(*at, &key) < 0 ? &(*at)->order.right : &(*at)->order.left;

    /* Join the two subtrees in its place. */
    while (left != NULL && right != NULL) {
        if (left->node.hash >= right->node.hash) {
            *at = left;
            at = &left->order.right;
            left = *at;
        } else {
            *at = right;
            at = &right->order.left;
            right = *at;
        }
    }
    *at = left != NULL ? left : right;
}

struct pool_session *session_index_after(
    const struct session_index *index, const struct pool_key *key)
{
    struct pool_session *at = index->root, *found = NULL;

    while (at != NULL) {
        if (key == NULL || compare(at, key) > 0) {
            found = at;
            at = at->order.left;
        } else {
            at = at->order.right;
        }
    }
    return found;
}
