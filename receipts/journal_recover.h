/* What a journal's directory has, found out without changing a byte of it but
 * in the file of the tree, which is cut to what is known to be right and then
 * grows by what the receipts say. */
#ifndef RECEIPTS_JOURNAL_RECOVER_H
#define RECEIPTS_JOURNAL_RECOVER_H

#include "receipts/journal_cursors.h"
#include "receipts/journal_files.h"
#include "receipts/journal_segments.h"
#include "receipts/merkle.h"

struct journal_found {
    bool is_new; /* nothing is there */
    struct journal_identity identity;
    struct journal_segments segments;
    struct journal_cursors cursors;
    uint64_t next_sequence; /* behind the last receipt */
    uint64_t last_group;
    uint64_t last_group_offset; /* in the last segment */
    uint64_t cut_bytes;         /* of a torn tail of that */

    unsigned char *note; /* the newest checkpoint */
    size_t n_note;
    uint64_t note_tree_size;         /* 0: there is none */
    uint64_t note_offset, notes_end; /* its place in its file */
};

/* Whoever wants to see the receipts, ascending. */
struct journal_visitor {
    void (*on_receipt)(void *ctx, uint64_t sequence, const unsigned char *bytes,
        size_t n_bytes); /* NULL: nobody */
    void *ctx;
};

/* Opens the tree too, with a leaf for every receipt.
 *   KV_DATA_LOSS: damage; *out then has what was found before it, and is to be
 *   finished. KV_IO, KV_NO_MEMORY: it is empty. With none of them there is a
 *   tree. */
enum kv_status journal_recover(struct journal_found *out, struct merkle *tree,
    const struct journal_dir *dir, const struct journal_visitor *visitor,
    struct kv_error *error);
void journal_found_fini(struct journal_found *found);

#endif
