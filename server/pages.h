/* The HTTP side of the server: /metrics, /livez, /readyz on a port of their
 * own.
 *
 * They are answered on the owner's thread, between its other work: a page is
 * made of one snapshot, and an answer at all says that the thread is alive
 * which serves gRPC too. */
#ifndef SERVER_PAGES_H
#define SERVER_PAGES_H

#include "server/server.h"

struct pages;

/* Listens where the options say, if they do: *out is NULL otherwise. KV_IO,
 * KV_INVALID, KV_NO_MEMORY. */
enum kv_status pages_open(
    struct pages **out, struct server *server, struct kv_error *error);

/* With the real port. */
const char *pages_address(const struct pages *pages);

/* Frees itself when the loop has run once more. NULL is fine. */
void pages_close(struct pages *pages);

#endif
