#include "receipts/notary.h"

#include <stdio.h>

#include "base/heap.h"
#include "base/list.h"
#include "base/log.h"

struct notary {
    struct ledger *ledger;
    struct checkpoint_signer signer;
    int64_t (*wall_ns)(void);
    struct ledger_watcher watcher;
    struct notary_checkpoint newest;
    void (*on_signed)(void *ctx);
    void *ctx;
};

struct notary_origin notary_origin(const uint8_t pool_id[16])
{
    struct checkpoint_origin said = checkpoint_origin_of(pool_id);
    struct notary_origin origin;

    snprintf(origin.s, sizeof origin.s, "%s", said.s);
    return origin;
}

static void sign(struct notary *notary, uint64_t tree_size)
{
    struct checkpoint *checkpoint = &notary->newest.checkpoint;
    struct merkle *tree = ledger_tree(notary->ledger);
    struct merkle_hash root;

    if (!merkle_root(tree, tree_size, &root)) {
        kv_log(KV_LOG_ERROR, "kvpool::receipts", "no checkpoint was signed",
            KV_LOG_TEXT("reason", merkle_damage(tree) != KV_OK
                                      ? "the tree's file is damaged"
                                      : "hashing failed"),
            KV_LOG_UINT("tree_size", tree_size));
        return;
    }
    checkpoint->tree_size = tree_size;
    checkpoint->root = root;
    checkpoint_sign(&notary->signer, checkpoint, &notary->newest.note);
    notary->newest.time_unix_ns = notary->wall_ns();
    if (notary->on_signed != NULL)
        notary->on_signed(notary->ctx);
}

static void on_durable(struct ledger_watcher *watcher)
{
    struct notary *notary = KV_LIST_ENTRY(watcher, struct notary, watcher);
    uint64_t durable = ledger_position(notary->ledger).durable_sequence;

    if (durable - notary->newest.checkpoint.tree_size >= NOTARY_RECEIPTS)
        sign(notary, durable);
}

void notary_tick(struct notary *notary)
{
    uint64_t durable = ledger_position(notary->ledger).durable_sequence;

    if (durable > notary->newest.checkpoint.tree_size ||
        notary->newest.time_unix_ns == 0)
        sign(notary, durable);
}

enum kv_status notary_open(struct notary **out, struct ledger *ledger,
    const struct checkpoint_signer *signer, int64_t (*wall_ns)(void))
{
    struct notary *notary = kv_calloc(1, sizeof *notary);
    struct ledger_position position = ledger_position(ledger);
    struct notary_origin origin = notary_origin(position.pool_id);

    if (notary == NULL)
        return KV_NO_MEMORY;
    notary->ledger = ledger;
    notary->signer = *signer;
    notary->wall_ns = wall_ns;
    notary->watcher.on_durable = on_durable;
    snprintf(notary->newest.checkpoint.origin,
        sizeof notary->newest.checkpoint.origin, "%s", origin.s);
    ledger_watch(ledger, &notary->watcher);
    *out = notary;
    return KV_OK;
}

void notary_close(struct notary *notary)
{
    if (notary == NULL)
        return;
    ledger_unwatch(notary->ledger, &notary->watcher);
    checkpoint_signer_fini(&notary->signer);
    kv_free(notary);
}

void notary_listen(
    struct notary *notary, void (*on_signed)(void *ctx), void *ctx)
{
    notary->on_signed = on_signed;
    notary->ctx = ctx;
}

const struct notary_checkpoint *notary_newest(const struct notary *notary)
{
    return &notary->newest;
}

const struct checkpoint_key *notary_key(const struct notary *notary)
{
    return &notary->signer.key;
}
