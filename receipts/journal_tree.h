/* The tree of a journal, from its file. What the file has is believed as far as
 * it leads to a root that is known otherwise: the newest checkpoint's, or the
 * one in the identity. The rest is cut, and comes again from the receipts; all
 * of it does where the file is lost or damaged and the first receipt is still
 * there. */
#ifndef RECEIPTS_JOURNAL_TREE_H
#define RECEIPTS_JOURNAL_TREE_H

#include "receipts/journal_files.h"
#include "receipts/merkle.h"

/* The root of so many receipts. */
struct journal_anchor {
    uint64_t size; /* 0: none is known */
    struct merkle_hash root;
    const char *file; /* that says so */
};

/* oldest_sequence: the first receipt that there still is. KV_DATA_LOSS: the
 * file is damaged, and cannot be made again. KV_IO, KV_NO_MEMORY. */
enum kv_status journal_tree_open(struct merkle *tree,
    const struct journal_dir *dir, const struct journal_anchor *anchor,
    uint64_t oldest_sequence, struct kv_error *error);

/* KV_DATA_LOSS: the tree, which has as many leaves, has another root. */
enum kv_status journal_tree_check(struct merkle *tree,
    const struct journal_dir *dir, const struct journal_anchor *anchor,
    struct kv_error *error);

#endif
