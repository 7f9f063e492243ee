/* What ledger.c (who writes) and feed.c (who reads) share. Nobody else's. */
#ifndef RECEIPTS_LEDGER_CORE_H
#define RECEIPTS_LEDGER_CORE_H

#include "receipts/draft.h"
#include "receipts/ledger.h"
#include "receipts/ring.h"

/* A receipt whose blocks are being zeroed; in ascending order of both. */
struct ledger_wait {
    uint64_t sequence, scrub_id;
    bool scrubbed;
};

struct ledger {
    struct ledger_config config;
    struct pool_observer observer;
    struct ring ring;
    struct merkle tree;
    uint64_t applied, durable;
    bool failed;

    struct ledger_wait *waits; /* [begin, end) of them */
    size_t waits_begin, waits_end, waits_capacity;

    /* Evictions since the last receipt of another kind or reason. */
    uint64_t first_member, last_member;
    enum pool_reason members_reason;
    const Kvpool__V1__EvictCall *call;

    struct ledger_watcher *watchers;
    struct ledger_watcher *next_watcher; /* of the walk in progress */
    bool telling;
    struct draft draft;
};

#endif
