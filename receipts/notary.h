/* The notary signs checkpoints of a ledger: every NOTARY_RECEIPTS durable
 * receipts at once, and whatever there is when its owner's clock says so (once
 * a second is the custom). The newest is kept, here and by the journal.
 *
 * It signs only what the ledger's own tree says, and a ledger only grows, so no
 * two of its checkpoints contradict one another. A ledger's origin is its own:
 * "kvpool/" and its pool_id in hexadecimal, whatever the key.
 *
 * Thread: the owner's. */
#ifndef RECEIPTS_NOTARY_H
#define RECEIPTS_NOTARY_H

#include "receipts/checkpoint.h"
#include "receipts/ledger.h"

#define NOTARY_RECEIPTS 1024

struct notary;

struct notary_checkpoint {
    struct checkpoint checkpoint;
    struct checkpoint_note note;
    int64_t time_unix_ns; /* when it was signed; 0: nothing was yet */
};

/* The origin of a ledger's checkpoints. */
struct notary_origin {
    char s[CHECKPOINT_NAME_BYTES + 1];
};
struct notary_origin notary_origin(const uint8_t pool_id[16]);

/* The ledger is borrowed and outlives the notary; the signer is copied. Signs
 * nothing yet: the first tick does. KV_DATA_LOSS: the checkpoint that the
 * journal keeps speaks of another ledger than this. KV_NO_MEMORY. */
enum kv_status notary_open(struct notary **out, struct ledger *ledger,
    const struct checkpoint_signer *signer, int64_t (*wall_ns)(void),
    struct kv_error *error);
/* Wipes the key. NULL is fine. */
void notary_close(struct notary *notary);

/* Called after a checkpoint was signed; may be within a hook of the pool, as a
 * ledger_watcher is. One at a time; NULL: nobody. */
void notary_listen(
    struct notary *notary, void (*on_signed)(void *ctx), void *ctx);

/* Signs if there are receipts that the newest checkpoint does not cover, or if
 * there is no checkpoint yet. */
void notary_tick(struct notary *notary);

/* Borrowed until the next one is signed. */
const struct notary_checkpoint *notary_newest(const struct notary *notary);

const struct checkpoint_key *notary_key(const struct notary *notary);

#endif
