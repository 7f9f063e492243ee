/* What ledger.c (who numbers), ledger_journal.c (who keeps) and feed.c (who
 * reads) share. Nobody else's. */
#ifndef RECEIPTS_LEDGER_CORE_H
#define RECEIPTS_LEDGER_CORE_H

#include "receipts/draft.h"
#include "receipts/ledger.h"
#include "receipts/loader.h"
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
    struct merkle tree; /* without a journal, which has its own */
    uint64_t applied, released, durable;
    bool failed;
    const char *failure; /* why */

    struct journal *journal; /* NULL: the ring is all there is */
    struct journal_start start;
    struct journal_position disk; /* as of the last poll */
    int64_t silent_since_ns;      /* the disk, while it has something to do */
    uint64_t retain_bytes;
    uint64_t handed_chunk; /* a hint: where receipts were handed over last */
    struct loader *loader;

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

/* The oldest receipt that can be read; one beyond the newest if none. */
uint64_t ledger_oldest(const struct ledger *ledger);

/* ledger.c: from now on nothing is numbered. `why` is borrowed. */
void ledger_fail(struct ledger *ledger, const char *why, size_t n_bytes);
void ledger_tell_watchers(struct ledger *ledger);

/* ledger_journal.c; the ledger has its ring and its config. */
enum kv_status ledger_open_journal(struct ledger *ledger,
    const struct journal_config *config, struct kv_error *error);
void ledger_close_journal(struct ledger *ledger);
/* Where the journal is; "" without one. */
const char *ledger_dir(const struct ledger *ledger);
/* Hands over what was released after `from`. */
void ledger_hand_over(struct ledger *ledger, uint64_t from);

#endif
