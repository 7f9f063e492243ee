#include "receipts/journal_tree.h"

#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

static enum kv_status open_file(
    struct merkle *tree, const struct journal_dir *dir, struct kv_error *error)
{
    char path[sizeof dir->path + sizeof JOURNAL_TREE_FILE + 1];

    snprintf(path, sizeof path, "%s/%s", dir->path, JOURNAL_TREE_FILE);
    return merkle_open_file(tree, path, error);
}

enum kv_status journal_tree_check(struct merkle *tree,
    const struct journal_dir *dir, const struct journal_anchor *anchor,
    struct kv_error *error)
{
    struct merkle_hash root;

    if (anchor->size == 0)
        return KV_OK;
    if (merkle_root(tree, anchor->size, &root)) {
        if (merkle_hash_equal(&root, &anchor->root))
            return KV_OK;
    } else if (merkle_damage(tree) != KV_DATA_LOSS) {
        bool is_read = merkle_damage(tree) == KV_OK;

        return kv_error_set(error, is_read ? KV_NO_MEMORY : KV_IO,
            "%s/%s: the root of %" PRIu64 " receipts cannot be taken: %s",
            dir->path, JOURNAL_TREE_FILE, anchor->size,
            is_read ? "no memory" : strerrordesc_np(errno));
    }
    return kv_error_set(error, KV_DATA_LOSS,
        "%s/%s: the first %" PRIu64
        " receipts do not have the root that %s says",
        dir->path, JOURNAL_TREE_FILE, anchor->size, anchor->file);
}

/* As much as the anchor vouches for; less if the file has less. */
static enum kv_status cut_and_check(struct merkle *tree,
    const struct journal_dir *dir, const struct journal_anchor *anchor,
    struct kv_error *error)
{
    uint64_t size = merkle_size(tree);
    enum kv_status status;

    if (size < anchor->size)
        return KV_OK; /* checked when it has grown */
    status = merkle_truncate(tree, anchor->size);
    if (status != KV_OK)
        return kv_error_set(error, status,
            "%s/%s: cannot be cut to %" PRIu64 " receipts: %s", dir->path,
            JOURNAL_TREE_FILE, anchor->size,
            status == KV_IO ? strerrordesc_np(errno) : "it is damaged");
    return journal_tree_check(tree, dir, anchor, error);
}

static enum kv_status open_checked(struct merkle *tree,
    const struct journal_dir *dir, const struct journal_anchor *anchor,
    uint64_t oldest_sequence, struct kv_error *error)
{
    enum kv_status status = open_file(tree, dir, error);

    if (status != KV_OK)
        return status;
    status = cut_and_check(tree, dir, anchor, error);
    if (status == KV_OK && merkle_size(tree) + 1 < oldest_sequence)
        status = kv_error_set(error, KV_DATA_LOSS,
            "%s/%s: has %" PRIu64 " leaves of %" PRIu64
            " receipts that are gone",
            dir->path, JOURNAL_TREE_FILE, merkle_size(tree),
            oldest_sequence - 1);
    if (status != KV_OK)
        merkle_fini(tree);
    return status;
}

enum kv_status journal_tree_open(struct merkle *tree,
    const struct journal_dir *dir, const struct journal_anchor *anchor,
    uint64_t oldest_sequence, struct kv_error *error)
{
    enum kv_status status =
        open_checked(tree, dir, anchor, oldest_sequence, error);

    if (status != KV_DATA_LOSS || oldest_sequence > 1)
        return status;
    if (unlinkat(dir->fd, JOURNAL_TREE_FILE, 0) != 0 && errno != ENOENT)
        return journal_file_error(
            dir, JOURNAL_TREE_FILE, "cannot be removed", error);
    return open_file(tree, dir, error);
}
