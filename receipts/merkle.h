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
 * for the tree's life, whatever becomes of the receipts, 64 bytes for each: in
 * memory (64 MB for a million), or in a file. Appending costs one hash of the
 * leaf, and one of a node on average, log2(n) at most.
 *
 * In a file: in memory are the right edge, what has not been written yet, and
 * at most some 200 KiB of what was. Older nodes are read when a root or a proof
 * needs them. Nothing that was read is believed: a root or a proof with such
 * nodes must lead to the root of the whole tree, which the right edge gives,
 * before it leaves here; so a file that was damaged under us makes it fail, and
 * never makes it wrong. What nobody here can check is the right edge as it lay
 * in the file when it was opened: whoever opens it compares the root with one
 * that is known otherwise, such as a signed checkpoint's.
 *
 *   merkle_open_file ─> [merkle_truncate ─> compare merkle_root]
 *       ─> merkle_reserve, merkle_append ... merkle_sync ... ─> merkle_fini
 *
 * What was not synced may after a crash be there, or not, or be garbage: go
 * back to what was synced, and append the rest again.
 *
 * Sizes and indexes of leaves: as in RFC 6962, from 0.
 *
 * Thread: a tree's functions take turns by a lock of its own, so that one
 * thread may append and sync while another takes roots and proofs; merkle_sync
 * holds it for no longer than it takes to look, not while the disk works. One
 * thread at a time appends, syncs and truncates. A hasher: one thread. */
#ifndef RECEIPTS_MERKLE_H
#define RECEIPTS_MERKLE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include <openssl/types.h>
#include <pthread.h>

#include "base/error.h"

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

/* ---- the right edge of a tree: enough to go on appending, and for the root.
 * Zeroed, it has no leaves. Its functions are below. */

struct merkle_frontier {
    struct merkle_hash peaks[64]; /* the complete node of each level, where
                                     n_leaves has that bit */
    uint64_t n_leaves;
};

/* ---- the tree */

struct merkle_cached;

/* Of merkle_nodes.h. */
struct merkle_nodes {
    struct merkle_hash **pieces; /* those from number first_piece on */
    size_t n_pieces, capacity;
    uint64_t first_piece;
    int fd; /* -1: all is in memory */
    bool may_write, sync_failed;
    uint64_t n_written; /* into the file, for good */
    uint64_t n_loaded;  /* below it, pieces are what the file had */
    struct merkle_cached *cache;
    enum kv_status damage;
};

/* The caller's memory, and nothing in it for him: it is behind the lock. */
struct merkle {
    pthread_mutex_t lock;
    struct merkle_hasher hasher;
    struct merkle_frontier edge;
    struct merkle_nodes nodes;
};

/* A tree in memory. KV_NO_MEMORY. */
enum kv_status merkle_init(struct merkle *tree);

/* A tree in this file, which is made (0600; its directory is the caller's to
 * sync) if it is not there. A leaf whose nodes are not all there is none.
 *   KV_NOT_FOUND  the directory is not there
 *   KV_DATA_LOSS  it is no such file
 *   KV_IO, KV_NO_MEMORY */
enum kv_status merkle_open_file(
    struct merkle *tree, const char *path, struct kv_error *error);

/* The same to look at only, of a running server too: nothing is made or
 * written, and nothing may be appended. KV_NOT_FOUND: it is not there. */
enum kv_status merkle_view_file(
    struct merkle *tree, const char *path, struct kv_error *error);

/* What was not synced is lost. */
void merkle_fini(struct merkle *tree);

uint64_t merkle_size(struct merkle *tree);

/* Room for one leaf more: after it, appending needs no memory of ours.
 * KV_NO_MEMORY: nothing is done. */
enum kv_status merkle_reserve(struct merkle *tree);

/* Appends a leaf, or one that was hashed elsewhere; there is room. false:
 * hashing failed, nothing is done. */
bool merkle_append(struct merkle *tree, const void *leaf, size_t n_bytes);
bool merkle_append_hash(struct merkle *tree, const struct merkle_hash *leaf);

/* Brings what was appended before into the file. KV_IO, errno says what: it is
 * all still in memory; a write that failed may be tried again (of a full disk,
 * say), a sync that failed is final. In memory mode nothing is to be done. */
enum kv_status merkle_sync(struct merkle *tree);

/* Back to the first n_leaves. KV_RANGE: there are not so many. KV_DATA_LOSS,
 * KV_IO: the file cannot be read, or cut. KV_NO_MEMORY. Nothing is done then.
 */
enum kv_status merkle_truncate(struct merkle *tree, uint64_t n_leaves);

/* ---- roots and proofs. false: hashing failed, or what lies in the file is not
 * what was written there; merkle_damage tells which. */

/* KV_DATA_LOSS: some root or proof was not given as the file is damaged. KV_IO:
 * as it cannot be read. Else KV_OK. */
enum kv_status merkle_damage(struct merkle *tree);

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

/* ---- the right edge */

/* Begins behind n_leaves that are not there: their peaks are what proves leaf
 * number n_leaves in the tree that ends with it. false: it is not such a
 * proof; *frontier is untouched. */
bool merkle_frontier_start(struct merkle_frontier *frontier, uint64_t n_leaves,
    const struct merkle_path *path);
bool merkle_frontier_append(struct merkle_hasher *hasher,
    struct merkle_frontier *frontier, const struct merkle_hash *leaf);
/* The same, and tells the nodes that it completes: the leaf, then up. */
bool merkle_frontier_grow(struct merkle_hasher *hasher,
    struct merkle_frontier *frontier, const struct merkle_hash *leaf,
    struct merkle_path *completed);
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
