#include "receipts/notary.h"

#include <inttypes.h>
#include <stdio.h>
#include <string.h>

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
    ledger_keep_checkpoint(notary->ledger, notary->newest.note.bytes,
        notary->newest.note.n_bytes, tree_size);
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

/* What was signed before the start, by whatever key, binds us still. */
static enum kv_status check_kept(const struct notary *notary, const void *note,
    size_t n_bytes, struct kv_error *error)
{
    uint64_t durable = ledger_position(notary->ledger).durable_sequence;
    const char *origin = notary->newest.checkpoint.origin;
    struct checkpoint kept;
    struct merkle_hash root;
    struct kv_error cause;

    if (checkpoint_parse(note, n_bytes, &kept, &cause) != KV_OK)
        return kv_error_set(error, KV_DATA_LOSS,
            "the newest checkpoint cannot be read: %s", cause.text);
    if (strcmp(kept.origin, origin) != 0)
        return kv_error_set(error, KV_DATA_LOSS,
            "the newest checkpoint is of %s, and the ledger is %s", kept.origin,
            origin);
    if (kept.tree_size > durable)
        return kv_error_set(error, KV_DATA_LOSS,
            "the newest checkpoint covers %" PRIu64
            " receipts, and the ledger has %" PRIu64,
            kept.tree_size, durable);
    if (!merkle_root(ledger_tree(notary->ledger), kept.tree_size, &root))
        return kv_error_set(error, KV_NO_MEMORY, "no memory for checkpoints");
    if (!merkle_hash_equal(&root, &kept.root))
        return kv_error_set(error, KV_DATA_LOSS,
            "the first %" PRIu64
            " receipts are not those of the newest checkpoint",
            kept.tree_size);
    return KV_OK;
}

enum kv_status notary_open(struct notary **out, struct ledger *ledger,
    const struct checkpoint_signer *signer, int64_t (*wall_ns)(void),
    struct kv_error *error)
{
    struct notary *notary = kv_calloc(1, sizeof *notary);
    struct ledger_position position = ledger_position(ledger);
    struct notary_origin origin = notary_origin(position.pool_id);
    enum kv_status status = KV_OK;
    const void *note;
    size_t n_bytes;

    if (notary == NULL)
        return kv_error_set(error, KV_NO_MEMORY, "no memory for checkpoints");
    notary->ledger = ledger;
    notary->wall_ns = wall_ns;
    notary->watcher.on_durable = on_durable;
    snprintf(notary->newest.checkpoint.origin,
        sizeof notary->newest.checkpoint.origin, "%s", origin.s);
    n_bytes = ledger_checkpoint(ledger, &note);
    if (n_bytes > 0)
        status = check_kept(notary, note, n_bytes, error);
    if (status != KV_OK) {
        kv_free(notary);
        return status;
    }
    notary->signer = *signer;
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
