#include "receipts/verify.h"

#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <string.h>

#include "base/heap.h"
#include "receipts/journal_scan.h"
#include "receipts/merkle_nodes.h"

#define PROGRESS_RECEIPTS 4096
#define TREE_BUFFER_BYTES 65536

/* The first thing that was found to differ between receipts and tree; whose
 * fault it is shows at the next signed root. */
struct suspicion {
    bool found;
    bool is_leaf;
    uint64_t sequence, tree_offset;
    char place[128]; /* of the receipt: its file and offset */
};

struct verifying {
    const struct verify_request *request;
    struct verify_report *report;
    struct kv_error *error;
    struct journal_scan *scan;
    struct merkle_hasher hasher;
    struct merkle_frontier frontier;
    struct checkpoint_origin origin;

    FILE *tree; /* NULL: there is none, or it has ended */
    char *tree_buffer;
    uint64_t tree_offset;

    struct checkpoint next; /* that was not reached yet */
    bool has_next;
    uint64_t signed_before; /* the size of the one before it */
    bool old_was_met;

    struct suspicion suspicion;
};

static enum kv_status fail_hashing(struct verifying *verifying)
{
    return kv_error_set(
        verifying->error, KV_NO_MEMORY, "no memory to hash receipts");
}

/* ---- the tree's file */

static enum kv_status open_nodes(struct verifying *verifying, const char *path)
{
    verifying->tree_buffer = kv_calloc(TREE_BUFFER_BYTES, 1);
    if (verifying->tree_buffer == NULL)
        return kv_error_set(verifying->error, KV_NO_MEMORY, "out of memory");
    verifying->tree = fopen(path, "re");
    if (verifying->tree == NULL)
        return kv_error_set(verifying->error, KV_IO, "%s: cannot be opened: %s",
            path, strerror(errno));
    setvbuf(verifying->tree, verifying->tree_buffer, _IOFBF, TREE_BUFFER_BYTES);
    verifying->tree_offset = MERKLE_NODES_HEADER_BYTES;
    if (fseek(verifying->tree, MERKLE_NODES_HEADER_BYTES, SEEK_SET) == 0)
        return KV_OK;
    return kv_error_set(verifying->error, KV_IO, "%s: cannot be read: %s", path,
        strerror(errno));
}

static enum kv_status open_tree(struct verifying *verifying)
{
    size_t n_path = strlen(verifying->request->dir) + sizeof "/tree";
    char *path = kv_calloc(n_path, 1);
    enum kv_status status = KV_OK;
    struct merkle tree;

    if (path == NULL)
        return kv_error_set(verifying->error, KV_NO_MEMORY, "out of memory");
    snprintf(path, n_path, "%s/tree", verifying->request->dir);
    status = merkle_view_file(&tree, path, verifying->error);
    if (status == KV_OK) {
        verifying->report->has_tree = true;
        verifying->report->n_tree_leaves = merkle_size(&tree);
        merkle_fini(&tree);
        status = open_nodes(verifying, path);
    } else if (status == KV_NOT_FOUND) {
        status = KV_OK;
    }
    kv_free(path);
    return status;
}

/* Whether the file has all nodes of the next leaf. */
static bool tree_has_next(const struct verifying *verifying)
{
    return verifying->tree != NULL &&
           verifying->frontier.n_leaves < verifying->report->n_tree_leaves;
}

static enum kv_status read_nodes(
    struct verifying *verifying, struct merkle_hash *out, size_t n)
{
    if (fread(out, sizeof *out, n, verifying->tree) == n)
        return KV_OK;
    return kv_error_set(verifying->error, KV_IO,
        "tree: cannot be read at offset %" PRIu64, verifying->tree_offset);
}

static void suspect(struct verifying *verifying, bool is_leaf, size_t nth,
    const struct journal_scan_receipt *receipt)
{
    struct suspicion *suspicion = &verifying->suspicion;

    if (suspicion->found)
        return;
    *suspicion = (struct suspicion){.found = true,
        .is_leaf = is_leaf,
        .sequence = receipt->sequence,
        .tree_offset = verifying->tree_offset + nth * MERKLE_HASH_BYTES};
    snprintf(suspicion->place, sizeof suspicion->place, "%s, offset %" PRIu64,
        receipt->file, receipt->offset);
}

/* The nodes that a receipt has completed, against those of the file. */
static enum kv_status compare_nodes(struct verifying *verifying,
    const struct merkle_path *completed,
    const struct journal_scan_receipt *receipt)
{
    struct merkle_hash stored[MERKLE_MAX_PATH];
    enum kv_status status = read_nodes(verifying, stored, completed->n);

    if (status != KV_OK)
        return status;
    for (size_t i = 0; i < completed->n; i++)
        if (!merkle_hash_equal(&stored[i], &completed->hashes[i]))
            suspect(verifying, i == 0, i, receipt);
    verifying->tree_offset += completed->n * MERKLE_HASH_BYTES;
    return KV_OK;
}

/* ---- signed roots */

static enum kv_status fail_checkpoint(
    struct verifying *verifying, const char *why)
{
    return kv_error_set(verifying->error, KV_DATA_LOSS,
        "checkpoint %" PRIu64 ": %s", verifying->report->n_checkpoints + 1,
        why);
}

/* The next checkpoint that is kept, checked by itself. */
static enum kv_status take_checkpoint(
    struct verifying *verifying, const void *note, size_t n_bytes)
{
    const struct checkpoint_key *key = verifying->request->key;
    struct checkpoint *next = &verifying->next;
    struct kv_error cause;
    enum kv_status status =
        key != NULL ? checkpoint_verify(note, n_bytes, key, next, &cause)
                    : checkpoint_parse(note, n_bytes, next, &cause);

    if (status == KV_IO)
        return kv_error_set(verifying->error, KV_IO, "%s", cause.text);
    if (status != KV_OK)
        return fail_checkpoint(verifying, cause.text);
    if (strcmp(next->origin, verifying->origin.s) != 0)
        return fail_checkpoint(verifying, "it is of another ledger");
    if (next->tree_size < verifying->frontier.n_leaves)
        return fail_checkpoint(
            verifying, "it has fewer receipts than the one before it");
    verifying->has_next = true;
    return KV_OK;
}

static enum kv_status read_checkpoint(struct verifying *verifying)
{
    const void *note;
    size_t n_bytes;
    enum kv_status status = journal_scan_checkpoint(
        verifying->scan, &note, &n_bytes, verifying->error);

    verifying->has_next = false;
    if (status == KV_NOT_FOUND)
        return KV_OK;
    return status == KV_OK ? take_checkpoint(verifying, note, n_bytes) : status;
}

/* A root is another one than was signed: what is known of the reason. */
static enum kv_status fail_root(
    struct verifying *verifying, uint64_t size, const char *by)
{
    const struct suspicion *suspicion = &verifying->suspicion;
    uint64_t first = verifying->signed_before + 1;

    if (suspicion->found && suspicion->is_leaf)
        return kv_error_set(verifying->error, KV_DATA_LOSS,
            "receipt %" PRIu64 " (%s) is not the one that was signed: its hash "
            "is not the tree's, and the root at %" PRIu64 " is not that of %s",
            suspicion->sequence, suspicion->place, size, by);
    if (size < verifying->report->first_sequence)
        return kv_error_set(verifying->error, KV_DATA_LOSS,
            "tree: the hashes of receipts %" PRIu64 " to %" PRIu64
            ", which are no longer there, are not those of %s",
            first, size, by);
    return kv_error_set(verifying->error, KV_DATA_LOSS,
        "receipts %" PRIu64 " to %" PRIu64 " are not those of %s", first, size,
        by);
}

/* The receipts are right; was all else? */
static enum kv_status check_suspicion(struct verifying *verifying)
{
    const struct suspicion *suspicion = &verifying->suspicion;

    if (!suspicion->found)
        return KV_OK;
    return kv_error_set(verifying->error, KV_DATA_LOSS,
        "tree: the node at offset %" PRIu64 " is not what receipt %" PRIu64
        " (%s), which is as signed, leads to",
        suspicion->tree_offset, suspicion->sequence, suspicion->place);
}

static enum kv_status check_root(struct verifying *verifying,
    const struct checkpoint *signed_one, const char *by)
{
    struct merkle_hash root;

    if (!merkle_frontier_root(&verifying->hasher, &verifying->frontier, &root))
        return fail_hashing(verifying);
    if (!merkle_hash_equal(&root, &signed_one->root))
        return fail_root(verifying, signed_one->tree_size, by);
    return check_suspicion(verifying);
}

/* All that was signed at the size that has been reached. */
static enum kv_status check_signed(struct verifying *verifying)
{
    const struct checkpoint *old = verifying->request->old;
    uint64_t size = verifying->frontier.n_leaves;
    enum kv_status status = KV_OK;

    if (old != NULL && !verifying->old_was_met && old->tree_size == size) {
        verifying->old_was_met = true;
        status = check_root(verifying, old, "the older checkpoint");
    }
    while (status == KV_OK && verifying->has_next &&
           verifying->next.tree_size == size) {
        status = check_root(verifying, &verifying->next, "its checkpoint");
        if (status != KV_OK)
            break;
        verifying->signed_before = size;
        verifying->report->newest = verifying->next;
        verifying->report->n_checkpoints++;
        status = read_checkpoint(verifying);
    }
    return status;
}

/* ---- leaves */

/* What stands for the receipts before the first that is there: the tree's
 * hashes, of which each node must be that of its children. */
static enum kv_status add_removed(struct verifying *verifying)
{
    struct merkle_hash leaf, stored[MERKLE_MAX_PATH];
    struct merkle_path completed;
    enum kv_status status;

    if (!tree_has_next(verifying))
        return kv_error_set(verifying->error, KV_DATA_LOSS,
            "tree: ends before receipt %" PRIu64
            ", the first that is there; what stands for those before it is "
            "missing",
            verifying->report->first_sequence);
    status = read_nodes(verifying, &leaf, 1);
    if (status != KV_OK)
        return status;
    if (!merkle_frontier_grow(
            &verifying->hasher, &verifying->frontier, &leaf, &completed))
        return fail_hashing(verifying);
    status = read_nodes(verifying, stored, completed.n - 1);
    if (status != KV_OK)
        return status;
    for (size_t i = 1; i < completed.n; i++)
        if (!merkle_hash_equal(&stored[i - 1], &completed.hashes[i]))
            return kv_error_set(verifying->error, KV_DATA_LOSS,
                "tree: the node at offset %" PRIu64
                " is not that of its children",
                verifying->tree_offset + i * MERKLE_HASH_BYTES);
    verifying->tree_offset += completed.n * MERKLE_HASH_BYTES;
    return check_signed(verifying);
}

static enum kv_status add_receipt(
    struct verifying *verifying, const struct journal_scan_receipt *receipt)
{
    struct merkle_hash leaf;
    struct merkle_path completed;
    bool is_in_tree = tree_has_next(verifying);
    enum kv_status status = KV_OK;

    if (receipt->sequence != verifying->frontier.n_leaves + 1)
        return kv_error_set(verifying->error, KV_DATA_LOSS,
            "receipt %" PRIu64 " (%s, offset %" PRIu64
            ") stands where receipt %" PRIu64 " was",
            receipt->sequence, receipt->file, receipt->offset,
            verifying->frontier.n_leaves + 1);
    if (!merkle_hash_leaf(
            &verifying->hasher, receipt->bytes, receipt->n_bytes, &leaf) ||
        !merkle_frontier_grow(
            &verifying->hasher, &verifying->frontier, &leaf, &completed))
        return fail_hashing(verifying);
    verifying->report->last_sequence = receipt->sequence;
    verifying->report->n_bytes += receipt->n_bytes;
    if (is_in_tree)
        status = compare_nodes(verifying, &completed, receipt);
    return status == KV_OK ? check_signed(verifying) : status;
}

static bool wants_more(const struct verifying *verifying)
{
    const struct verify_request *request = verifying->request;
    uint64_t n = verifying->frontier.n_leaves;

    return n % PROGRESS_RECEIPTS != 0 || request->on_progress == NULL ||
           request->on_progress(request->ctx, n);
}

/* Receipts that are no longer there: all, where retention left none. */
static uint64_t count_removed(const struct verify_report *report)
{
    return report->first_sequence > 0 ? report->first_sequence - 1
                                      : report->n_tree_leaves;
}

static enum kv_status add_all(struct verifying *verifying)
{
    uint64_t n_removed = count_removed(verifying->report);
    struct journal_scan_receipt receipt;
    enum kv_status status = check_signed(verifying); /* of no receipts */

    while (status == KV_OK && verifying->frontier.n_leaves < n_removed)
        status = wants_more(verifying) ? add_removed(verifying) : KV_CLOSED;
    verifying->report->last_sequence = n_removed;
    while (status == KV_OK) {
        status = journal_scan_next(verifying->scan, &receipt, verifying->error);
        if (status == KV_OK)
            status = add_receipt(verifying, &receipt);
        if (status == KV_OK && !wants_more(verifying))
            status = KV_CLOSED;
    }
    return status == KV_NOT_FOUND ? KV_OK : status;
}

/* ---- the end */

static enum kv_status check_end(struct verifying *verifying)
{
    const struct checkpoint *old = verifying->request->old;
    const struct suspicion *suspicion = &verifying->suspicion;
    uint64_t last = verifying->report->last_sequence;

    if (verifying->has_next)
        return kv_error_set(verifying->error, KV_DATA_LOSS,
            "receipts %" PRIu64 " to %" PRIu64
            " are missing: they were signed, and the ledger ends before them",
            last + 1, verifying->next.tree_size);
    if (old != NULL && !verifying->old_was_met)
        return kv_error_set(verifying->error, KV_DATA_LOSS,
            "the ledger was set back: it has %" PRIu64
            " receipts, and had %" PRIu64 " at the older checkpoint",
            last, old->tree_size);
    verifying->report->old_is_newest =
        old != NULL && old->tree_size > verifying->report->newest.tree_size;
    if (suspicion->found)
        return kv_error_set(verifying->error, KV_DATA_LOSS,
            "receipt %" PRIu64 " (%s) and the node of the tree at offset "
            "%" PRIu64 " contradict each other; neither is signed yet",
            suspicion->sequence, suspicion->place, suspicion->tree_offset);
    return KV_OK;
}

static enum kv_status check_old(const struct verifying *verifying)
{
    const struct checkpoint *old = verifying->request->old;

    if (old == NULL || strcmp(old->origin, verifying->origin.s) == 0)
        return KV_OK;
    return kv_error_set(verifying->error, KV_DATA_LOSS,
        "the older checkpoint is of another ledger, %s; this is %s",
        old->origin, verifying->origin.s);
}

static enum kv_status run(struct verifying *verifying)
{
    struct journal_scan_info info;
    enum kv_status status;

    journal_scan_info(verifying->scan, &info);
    memcpy(verifying->report->pool_id, info.pool_id, sizeof info.pool_id);
    verifying->report->first_sequence = info.oldest_sequence;
    verifying->origin = checkpoint_origin_of(info.pool_id);
    status = check_old(verifying);
    if (status == KV_OK)
        status = open_tree(verifying);
    if (status == KV_OK)
        status = read_checkpoint(verifying);
    if (status == KV_OK)
        status = add_all(verifying);
    return status == KV_OK ? check_end(verifying) : status;
}

enum kv_status verify_directory(const struct verify_request *request,
    struct verify_report *report, struct kv_error *error)
{
    struct verifying verifying = {
        .request = request, .report = report, .error = error};
    enum kv_status status;

    *report = (struct verify_report){.n_bytes = 0};
    if (merkle_hasher_init(&verifying.hasher) != KV_OK)
        return fail_hashing(&verifying);
    status = journal_scan_open(&verifying.scan, request->dir, error);
    if (status == KV_OK) {
        status = run(&verifying);
        journal_scan_close(verifying.scan);
    }
    if (verifying.tree != NULL)
        fclose(verifying.tree);
    kv_free(verifying.tree_buffer);
    merkle_hasher_fini(&verifying.hasher);
    return status;
}
