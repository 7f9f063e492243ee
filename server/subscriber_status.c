#include "server/subscriber_status.h"

#include <string.h>

#include "base/clock.h"
#include "base/heap.h"
#include "server/subscriber.h"

static void fill(Kvpool__V1__SubscriberStatus *out,
    const struct subscriber *subscriber, uint64_t durable, int64_t now_ns)
{
    uint64_t sent = subscriber->cursor.sequence;

    kvpool__v1__subscriber_status__init(out);
    out->subscriber_id = subscriber->id;
    out->peer = (char *)rpc_call_peer(subscriber->call);
    out->connected_unix_ns = subscriber->connected_unix_ns;
    out->sent_sequence = sent;
    out->lag_receipts = durable > sent ? durable - sent : 0;
    if (!rpc_stream_ready(subscriber->call) && out->lag_receipts > 0)
        out->stalled_ns = now_ns - subscriber->progress_ns;
    out->sent_total = subscriber->n_sent;
    out->lost_total = subscriber->n_lost;
}

enum kv_status subscriber_status_fill(
    struct subscriber_status_list *out, struct server *server)
{
    int64_t now_ns = kv_clock_mono_ns();
    size_t n_room = server->n_subscribers;
    struct ledger_position position;

    memset(out, 0, sizeof *out);
    if (n_room == 0 || !recorder_position(server->recorder, &position))
        return KV_OK;
    out->entries = kv_calloc(n_room, sizeof *out->entries);
    out->list = kv_calloc(n_room, sizeof(Kvpool__V1__SubscriberStatus *));
    if (out->entries == NULL || out->list == NULL)
        return KV_NO_MEMORY;
    KV_LIST_EACH (link, &server->subscribers) {
        const struct subscriber *subscriber =
            KV_LIST_ENTRY(link, struct subscriber, link);

        if (subscriber->ending)
            continue;
        out->list[out->n] = &out->entries[out->n];
        fill(&out->entries[out->n++], subscriber, position.durable_sequence,
            now_ns);
    }
    return KV_OK;
}

void subscriber_status_fini(struct subscriber_status_list *list)
{
    kv_free(list->list);
    kv_free(list->entries);
}
