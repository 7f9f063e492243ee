/* Sessions in ascending order of (tenant, id), byte by byte. */
#ifndef POOL_SESSION_INDEX_H
#define POOL_SESSION_INDEX_H

#include "pool/observer.h"
#include "pool/treap.h"

struct pool_session;

/* An empty one. */
struct treap session_index(void);

/* The session must not be in the index, and in the map already: its hash is
 * needed. */
void session_index_insert(struct treap *index, struct pool_session *session);

/* It must be in the index. */
void session_index_remove(struct treap *index, struct pool_session *session);

/* The first that comes after *key, or the first of all for NULL; NULL if there
 * is none. */
struct pool_session *session_index_after(
    const struct treap *index, const struct pool_key *key);

#endif
