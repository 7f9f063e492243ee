/* The state that a stream may begin with.
 *
 * Each part is put together in one turn of the owner, encoded, and sent once
 * the receipts that it includes are durable, so that nobody learns of a change
 * that a crash could still undo. The first has the totals, and receipts go on
 * behind its stamp; each has some sessions of its own instant. One part is held
 * at a time. */
#include <string.h>

#include "base/clock.h"
#include "base/heap.h"
#include "server/check.h"
#include "server/histograms.h"
#include "server/message.h"
#include "server/state_sections.h"
#include "server/subscriber.h"
#include "server/subscriber_status.h"

#define PART_SESSIONS 128
#define PART_TENANTS 128

struct subscriber_listing {
    bool with_histograms, with_sinks, with_subscribers;
    bool with_sessions, with_tenants; /* still to come */
    uint32_t n_parts;
    struct state_place place; /* of the last session, behind the first part */
    struct state_place tenant_place; /* and of the last tenant */

    /* The part that is to go next, if there is one. */
    bool has_part, is_last;
    struct rpc_bytes part;
    uint64_t sequence; /* the last that it includes */
};

/* What a part is made of, while it is encoded. */
struct part {
    Kvpool__V1__StreamReceiptsResponse response;
    Kvpool__V1__SnapshotChunk chunk;
    struct state state;
    struct state_page page;
    struct histograms histograms;
    struct state_sinks sinks;
    struct subscriber_status_list subscribers;
    struct state_tenants tenants;
};

struct subscriber_listing *subscriber_listing_open(
    const Kvpool__V1__StartSnapshot *start)
{
    struct subscriber_listing *listing = kv_calloc(1, sizeof *listing);

    if (listing == NULL)
        return NULL;
    for (size_t i = 0; i < start->n_sections; i++) {
        if (start->sections[i] ==
            KVPOOL__V1__SNAPSHOT_SECTION__SNAPSHOT_SECTION_SESSIONS)
            listing->with_sessions = true;
        if (start->sections[i] ==
            KVPOOL__V1__SNAPSHOT_SECTION__SNAPSHOT_SECTION_TENANTS)
            listing->with_tenants = true;
        if (start->sections[i] ==
            KVPOOL__V1__SNAPSHOT_SECTION__SNAPSHOT_SECTION_HISTOGRAMS)
            listing->with_histograms = true;
        if (start->sections[i] ==
            KVPOOL__V1__SNAPSHOT_SECTION__SNAPSHOT_SECTION_SINKS)
            listing->with_sinks = true;
        if (start->sections[i] ==
            KVPOOL__V1__SNAPSHOT_SECTION__SNAPSHOT_SECTION_SUBSCRIBERS)
            listing->with_subscribers = true;
    }
    return listing;
}

void subscriber_listing_close(struct subscriber_listing *listing)
{
    if (listing != NULL && listing->has_part)
        kv_free(listing->part.ctx);
    kv_free(listing);
}

/* ---- making a part */

static void fill_totals(struct part *part, struct server *server, bool is_first)
{
    Kvpool__V1__PoolSnapshot *snapshot = &part->state.snapshot;

    if (is_first) {
        state_fill(&part->state, server);
        return;
    }
    kvpool__v1__pool_snapshot__init(snapshot);
    if (state_stamp(server, &part->state.stamp))
        snapshot->stamp = &part->state.stamp.stamp;
    snapshot->time_unix_ns = kv_clock_wall_ns();
}

static enum kv_status fill_sessions(
    struct part *part, struct subscriber *subscriber)
{
    struct subscriber_listing *listing = subscriber->listing;
    Kvpool__V1__PoolSnapshot *snapshot = &part->state.snapshot;
    enum kv_status status = state_page_fill(&part->page, subscriber->server,
        NULL, PART_SESSIONS, listing->n_parts > 0 ? &listing->place.key : NULL);

    if (status != KV_OK)
        return status;
    snapshot->sessions = part->page.list;
    snapshot->n_sessions = part->page.n;
    listing->with_sessions = part->page.next_token[0] != '\0';
    if (part->page.n > 0) {
        const struct state_session *last =
            &part->page.entries[part->page.n - 1];
        struct pool_key key = check_pool_key(last->tenant, last->id);

        state_place_copy(&listing->place, &key);
    }
    return KV_OK;
}

static enum kv_status fill_tenants(
    struct part *part, struct subscriber *subscriber)
{
    struct subscriber_listing *listing = subscriber->listing;
    Kvpool__V1__PoolSnapshot *snapshot = &part->state.snapshot;
    enum kv_status status =
        state_tenants_fill(&part->tenants, subscriber->server, PART_TENANTS,
            listing->n_parts > 0 ? &listing->tenant_place : NULL);

    if (status != KV_OK)
        return status;
    snapshot->tenants = part->tenants.list;
    snapshot->n_tenants = part->tenants.n;
    listing->with_tenants = part->tenants.next_token[0] != '\0';
    if (part->tenants.n > 0) {
        struct pool_key key =
            check_pool_key(part->tenants.entries[part->tenants.n - 1].name, "");

        state_place_copy(&listing->tenant_place, &key);
    }
    return KV_OK;
}

static void fill_histograms(struct part *part, const struct server *server)
{
    histograms_fill(&part->histograms, server);
    part->state.snapshot.histograms = &part->histograms.message;
}

static void fill_sinks(struct part *part, struct server *server)
{
    state_sinks_fill(&part->sinks, server);
    part->state.snapshot.sinks = part->sinks.list;
    part->state.snapshot.n_sinks = part->sinks.n;
}

static enum kv_status fill_subscribers(
    struct part *part, struct subscriber *subscriber)
{
    enum kv_status status =
        subscriber_status_fill(&part->subscribers, subscriber->server);

    part->state.snapshot.subscribers = part->subscribers.list;
    part->state.snapshot.n_subscribers = part->subscribers.n;
    return status;
}

static void finish_part(struct part *part, struct subscriber *subscriber)
{
    struct subscriber_listing *listing = subscriber->listing;

    kvpool__v1__snapshot_chunk__init(&part->chunk);
    part->chunk.snapshot = &part->state.snapshot;
    part->chunk.index = listing->n_parts++;
    part->chunk.last = listing->is_last;
    kvpool__v1__stream_receipts_response__init(&part->response);
    part->response.snapshot = &part->chunk;
    if (listing->is_last) {
        part->response.through_sequence = subscriber->cursor.sequence;
        part->response.through_epoch = subscriber_epoch(subscriber);
    }
    listing->sequence = part->state.stamp.position.applied_sequence;
    listing->has_part = message_encode(&part->response.base, &listing->part);
}

static enum kv_status make_part(struct subscriber *subscriber)
{
    struct subscriber_listing *listing = subscriber->listing;
    bool is_first = listing->n_parts == 0;
    struct part part = {
        .page = {.n = 0}, .subscribers = {.n = 0}, .tenants = {.n = 0}};
    enum kv_status status = KV_OK;

    fill_totals(&part, subscriber->server, is_first);
    if (is_first)
        status = feed_seek(subscriber->ledger,
            part.state.stamp.position.applied_sequence, &subscriber->cursor);
    if (status == KV_OK && listing->with_sessions)
        status = fill_sessions(&part, subscriber);
    if (status == KV_OK && listing->with_tenants)
        status = fill_tenants(&part, subscriber);
    listing->is_last = !listing->with_sessions && !listing->with_tenants;
    if (listing->with_histograms && is_first)
        fill_histograms(&part, subscriber->server);
    if (listing->with_sinks && is_first)
        fill_sinks(&part, subscriber->server);
    if (status == KV_OK && listing->with_subscribers && is_first)
        status = fill_subscribers(&part, subscriber);
    if (status == KV_OK)
        finish_part(&part, subscriber);
    state_page_fini(&part.page);
    subscriber_status_fini(&part.subscribers);
    state_tenants_fini(&part.tenants);
    return listing->has_part ? KV_OK : KV_NO_MEMORY;
}

/* ---- sending it */

enum turn subscriber_send_listing(struct subscriber *subscriber)
{
    struct subscriber_listing *listing = subscriber->listing;
    struct ledger_position position;

    if (!listing->has_part && make_part(subscriber) != KV_OK) {
        subscriber_end_no_memory(subscriber);
        return TURN_OVER;
    }
    position = ledger_position(subscriber->ledger);
    if (listing->sequence > position.durable_sequence)
        return subscriber_send_nothing(subscriber);
    rpc_stream_send(subscriber->call, &listing->part);
    listing->has_part = false;
    if (listing->is_last) {
        subscriber_listing_close(listing);
        subscriber->listing = NULL;
        subscriber->bookmark_due = true;
    }
    return TURN_OVER;
}
