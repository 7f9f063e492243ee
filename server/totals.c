#include "server/totals.h"

#include "server/server.h"

_Static_assert(sizeof(struct totals) % 8 == 0 &&
                   sizeof(struct totals) <= 8 * KV_PUBLISHED_WORDS,
    "totals are published as words");

struct totals totals_publish(struct server *server)
{
    struct totals totals = {
        .stats = pool_stats(server->pool),
        .pool = pool_totals(server->pool),
        .blocks = pool_blocks(server->pool),
        .unfilled = pool_unfilled(server->pool),
        .load = scheduler_load(server->scheduler),
    };

    totals.has_ledger = recorder_position(server->recorder, &totals.ledger);
    kv_published_write(&server->totals, &totals, sizeof totals);
    return totals;
}

struct totals totals_read(const struct kv_published *published)
{
    struct totals totals;

    kv_published_read(published, &totals, sizeof totals);
    return totals;
}
