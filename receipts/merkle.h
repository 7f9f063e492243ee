/* The Merkle tree of RFC 6962 over the ledger's receipts: what its root says,
 * and the proofs that go with it.
 *
 *            root of 7
 *           /         \
 *         n4           .          leaf  SHA-256(0x00 | receipt)
 *       /    \       /   \        node  SHA-256(0x01 | left | right)
 *      n2    n2     n2    |
 *     / \   / \    / \    |
 *    0   1 2   3  4   5   6
 *
 * Kept are all leaves and all complete nodes: from them any root of any size
 * that there was, and any proof, is a matter of some log2(n) hashes. They stay
 * for the tree's life, whatever becomes of the receipts: 64 bytes for each, so
 * 64 MB for a million, in pieces of 64 KiB that never move. Appending costs one
 * hash of the leaf, and one of a node on average, log2(n) at most.
 *
 * Sizes and indexes of leaves: as in RFC 6962, from 0.
 *
 * Thread: one for a tree, one for a hasher. */
#ifndef RECEIPTS_MERKLE_H
#define RECEIPTS_MERKLE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include <openssl/types.h>

#include "base/status.h"

#define MERKLE_HASH_BYTES 32
#define MERKLE_MAX_PATH 65

struct merkle_hash {
    uint8_t bytes[MERKLE_HASH_BYTES];
};

bool merkle_hash_equal(
    const struct merkle_hash *a, const struct merkle_hash *b);

/* ---- hashing: libcrypto's SHA-256, set up once. Functions that hash are false
 * if libcrypto fails, which it does where it has no memory. */

struct merkle_hasher {
    EVP_MD *sha256;
    EVP_MD_CTX *context;
};

/* KV_NO_MEMORY. */
enum kv_status merkle_hasher_init(struct merkle_hasher *hasher);
void merkle_hasher_fini(struct merkle_hasher *hasher);

bool merkle_hash_leaf(struct merkle_hasher *hasher, const void *bytes,
    size_t n_bytes, struct merkle_hash *out);
/* out may be one of the others. */
bool merkle_hash_node(struct merkle_hasher *hasher,
    const struct merkle_hash *left, const struct merkle_hash *right,
    struct merkle_hash *out);
/* The root of no leaves. */
bool merkle_hash_empty(struct merkle_hasher *hasher, struct merkle_hash *out);

/* ---- the tree */

/* The caller's memory; fields are for reading only. */
struct merkle {
    struct merkle_hasher hasher;
    struct merkle_hash **pieces;
    size_t n_pieces, capacity;
    uint64_t n_leaves;
};

/* KV_NO_MEMORY. */
enum kv_status merkle_init(struct merkle *tree);
void merkle_fini(struct merkle *tree);

/* Room for one leaf more: after it, merkle_append needs no memory of ours.
 * KV_NO_MEMORY: nothing is done. */
enum kv_status merkle_reserve(struct merkle *tree);

/* Appends a leaf; there is room. false: nothing is done. */
bool merkle_append(struct merkle *tree, const void *leaf, size_t n_bytes);

/* The root over the first `size` leaves, at most all of them. */
bool merkle_root(struct merkle *tree, uint64_t size, struct merkle_hash *out);

/* A proof: its hashes in the order of the RFC. */
struct merkle_path {
    struct merkle_hash hashes[MERKLE_MAX_PATH];
    size_t n;
};

/* That leaf `index` is in the tree of `size`: index < size <= n_leaves. */
bool merkle_prove_inclusion(struct merkle *tree, uint64_t index, uint64_t size,
    struct merkle_path *out);

/* That the tree of `first` is a prefix of that of `second`: 1 <= first <=
 * second <= n_leaves. */
bool merkle_prove_consistency(struct merkle *tree, uint64_t first,
    uint64_t second, struct merkle_path *out);

/* ---- a tree of which only the right edge is kept: enough to go on appending,
 * and for the root. Zeroed, it has no leaves. */

struct merkle_frontier {
    struct merkle_hash peaks[64]; /* the complete node of each level, where
                                     n_leaves has that bit */
    uint64_t n_leaves;
};

/* Begins behind n_leaves that are not there: their peaks are what proves leaf
 * number n_leaves in the tree that ends with it. false: it is not such a
 * proof; *frontier is untouched. */
bool merkle_frontier_start(struct merkle_frontier *frontier, uint64_t n_leaves,
    const struct merkle_path *path);
bool merkle_frontier_append(struct merkle_hasher *hasher,
    struct merkle_frontier *frontier, const struct merkle_hash *leaf);
bool merkle_frontier_root(struct merkle_hasher *hasher,
    const struct merkle_frontier *frontier, struct merkle_hash *out);

/* ---- verifying, without the tree (RFC 9162, 2.1.3.2 and 2.1.4.2). Any values
 * may be given; false: it is not proven. */

bool merkle_verify_inclusion(struct merkle_hasher *hasher,
    const struct merkle_hash *leaf, uint64_t index, uint64_t size,
    const struct merkle_path *path, const struct merkle_hash *root);

bool merkle_verify_consistency(struct merkle_hasher *hasher, uint64_t first,
    uint64_t second, const struct merkle_path *path,
    const struct merkle_hash *first_root,
    const struct merkle_hash *second_root);

#endif
