/* Verifies the directory of a journal, without its server and without believing
 * anything in it: that its receipts are those that were signed.
 *
 *   receipts in order, each whole          journal_scan
 *     └─> hashed ─> tree, node by node     what `tree` has must be this
 *                     └─> root             where a checkpoint was signed, its
 *                                          root must be this, its signature
 *                                          the key's
 *
 * Receipts that retention has removed are stood for by their hashes in `tree`.
 *
 * What lies behind the newest checkpoint was signed by nobody yet; the report
 * says how much that is. Whoever has the directory may put back an older state
 * of all of it: only a checkpoint that was kept elsewhere (`old`) shows that.
 *
 * Thread: one. */
#ifndef RECEIPTS_VERIFY_H
#define RECEIPTS_VERIFY_H

#include "receipts/checkpoint.h"

struct verify_request {
    const char *dir;                  /* the folder of receipts */
    const struct checkpoint_key *key; /* NULL: signatures are not looked at */
    const struct checkpoint *old;     /* kept elsewhere, its signature is good;
                                         NULL: none */

    /* Now and then; false ends it with KV_CLOSED. NULL is fine. */
    bool (*on_progress)(void *ctx, uint64_t sequence);
    void *ctx;
};

struct verify_report {
    uint8_t pool_id[16];
    uint64_t first_sequence; /* that is still there; 0: none is */
    uint64_t last_sequence;
    uint64_t n_bytes; /* of the receipts that were hashed */
    uint64_t n_checkpoints;
    struct checkpoint newest; /* if there are any; else its size is 0 */
    bool old_is_newest;       /* `old` covers more than any that is kept: they
                                 were not written yet, or taken away */
    bool has_tree;            /* else the file is not there, nor needed */
    uint64_t n_tree_leaves;   /* in the file; more than last_sequence where
                                 receipts were lost that the tree had seen */
};

/* The report is written as far as it came, also on failure.
 *   KV_OK         all of it is as it was signed
 *   KV_DATA_LOSS  it is not: *error says which receipt, file and offset
 *   KV_NOT_FOUND  no ledger is there
 *   KV_CLOSED     on_progress wanted no more
 *   KV_IO, KV_NO_MEMORY */
enum kv_status verify_directory(const struct verify_request *request,
    struct verify_report *report, struct kv_error *error);

#endif
