/* Sessions in ascending order of (tenant, id), byte by byte: a treap.
 *
 * A treap is a search tree whose nodes also carry a random number, no child's
 * greater than its parent's, which keeps it about 2 log2 n deep whatever order
 * they come in. The random number is the session's keyed hash, so nobody who
 * chooses the names can choose the shape. Nothing is allocated. */
#ifndef POOL_SESSION_INDEX_H
#define POOL_SESSION_INDEX_H

#include "pool/observer.h"

struct pool_session;

/* Embedded in struct pool_session. */
struct session_index_node {
    struct pool_session *left, *right;
};

struct session_index {
    struct pool_session *root;
};

/* The session must not be in the index, and in the map already: its hash is
 * needed. */
void session_index_insert(
    struct session_index *index, struct pool_session *session);

/* It must be in the index. */
void session_index_remove(
    struct session_index *index, struct pool_session *session);

/* The first that comes after *key, or the first of all for NULL; NULL if there
 * is none. */
struct pool_session *session_index_after(
    const struct session_index *index, const struct pool_key *key);

#endif
