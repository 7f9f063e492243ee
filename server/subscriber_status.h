/* The streams of receipts that are open, in the contract's terms: section
 * SUBSCRIBERS of a snapshot. None in a build without receipts. */
#ifndef SERVER_SUBSCRIBER_STATUS_H
#define SERVER_SUBSCRIBER_STATUS_H

#include "kvpool/v1/stats.pb-c.h"
#include "server/server.h"

struct subscriber_status_list {
    Kvpool__V1__SubscriberStatus *entries; /* [n]; texts are the calls' */
    Kvpool__V1__SubscriberStatus **list;   /* [n] */
    size_t n;
};

/* To be encoded before anything changes. KV_NO_MEMORY: it is empty;
 * subscriber_status_fini in any case. */
enum kv_status subscriber_status_fill(
    struct subscriber_status_list *out, struct server *server);
void subscriber_status_fini(struct subscriber_status_list *list);

#endif
