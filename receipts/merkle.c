#include "receipts/merkle.h"

#include <assert.h>
#include <string.h>

#include <openssl/evp.h>

#include "base/heap.h"

/* Where nodes lie.
 *
 * In the order in which they become complete: each leaf, and behind it every
 * node that it completes.
 *
 *     level 2              6
 *     level 1      2       5       9
 *     level 0    0   1   3   4   7   8   10
 *
 * Behind n leaves there are n + n/2 + n/4 + ... = 2n - popcount(n) of them. So
 * the node of a level whose last leaf is number i has the place of that leaf,
 * plus the level. Nothing that was written ever moves or changes. */

#define PIECE_HASHES 2048 /* 64 KiB */
#define FIRST_PIECES 32

#define LEAF_PREFIX 0x00
#define NODE_PREFIX 0x01

bool merkle_hash_equal(const struct merkle_hash *a, const struct merkle_hash *b)
{
    return memcmp(a->bytes, b->bytes, sizeof a->bytes) == 0;
}

/* ---- hashing */

enum kv_status merkle_hasher_init(struct merkle_hasher *hasher)
{
    hasher->sha256 = EVP_MD_fetch(NULL, "SHA256", NULL);
    hasher->context = EVP_MD_CTX_new();
    if (hasher->sha256 != NULL && hasher->context != NULL &&
        EVP_DigestInit_ex2(hasher->context, hasher->sha256, NULL) == 1)
        return KV_OK;
    merkle_hasher_fini(hasher);
    return KV_NO_MEMORY;
}

void merkle_hasher_fini(struct merkle_hasher *hasher)
{
    EVP_MD_CTX_free(hasher->context);
    EVP_MD_free(hasher->sha256);
    *hasher = (struct merkle_hasher){0};
}

static bool finish(struct merkle_hasher *hasher, struct merkle_hash *out)
{
    return EVP_DigestFinal_ex(hasher->context, out->bytes, NULL) == 1;
}

bool merkle_hash_leaf(struct merkle_hasher *hasher, const void *bytes,
    size_t n_bytes, struct merkle_hash *out)
{
    const unsigned char prefix = LEAF_PREFIX;

    return EVP_DigestInit_ex2(hasher->context, NULL, NULL) == 1 &&
           EVP_DigestUpdate(hasher->context, &prefix, 1) == 1 &&
           EVP_DigestUpdate(hasher->context, bytes, n_bytes) == 1 &&
           finish(hasher, out);
}

bool merkle_hash_node(struct merkle_hasher *hasher,
    const struct merkle_hash *left, const struct merkle_hash *right,
    struct merkle_hash *out)
{
    unsigned char node[1 + 2 * MERKLE_HASH_BYTES];

    node[0] = NODE_PREFIX;
    memcpy(node + 1, left->bytes, sizeof left->bytes);
    memcpy(node + 1 + MERKLE_HASH_BYTES, right->bytes, sizeof right->bytes);
    return EVP_DigestInit_ex2(hasher->context, NULL, NULL) == 1 &&
           EVP_DigestUpdate(hasher->context, node, sizeof node) == 1 &&
           finish(hasher, out);
}

bool merkle_hash_empty(struct merkle_hasher *hasher, struct merkle_hash *out)
{
    return EVP_DigestInit_ex2(hasher->context, NULL, NULL) == 1 &&
           finish(hasher, out);
}

/* ---- storage */

enum kv_status merkle_init(struct merkle *tree)
{
    *tree = (struct merkle){.capacity = FIRST_PIECES};
    if (merkle_hasher_init(&tree->hasher) != KV_OK)
        return KV_NO_MEMORY;
    tree->pieces = kv_calloc(tree->capacity, sizeof(struct merkle_hash *));
    if (tree->pieces != NULL)
        return KV_OK;
    merkle_hasher_fini(&tree->hasher);
    return KV_NO_MEMORY;
}

void merkle_fini(struct merkle *tree)
{
    for (size_t i = 0; i < tree->n_pieces; i++)
        kv_free(tree->pieces[i]);
    kv_free(tree->pieces);
    merkle_hasher_fini(&tree->hasher);
    *tree = (struct merkle){0};
}

/* Nodes of all levels over the first n leaves. */
static uint64_t count_nodes(uint64_t n_leaves)
{
    return 2 * n_leaves - (uint64_t)__builtin_popcountll(n_leaves);
}

/* The complete node of this level that begins with leaf `first`. */
static struct merkle_hash *node_at(
    const struct merkle *tree, unsigned level, uint64_t first)
{
    uint64_t last = first + ((uint64_t)1 << level) - 1;
    uint64_t place = count_nodes(last) + level;

    return &tree->pieces[place / PIECE_HASHES][place % PIECE_HASHES];
}

static bool make_table_room(struct merkle *tree)
{
    struct merkle_hash **larger;

    if (tree->n_pieces < tree->capacity)
        return true;
    larger = kv_realloc(
        tree->pieces, 2 * tree->capacity * sizeof(struct merkle_hash *));
    if (larger == NULL)
        return false;
    tree->pieces = larger;
    tree->capacity *= 2;
    return true;
}

enum kv_status merkle_reserve(struct merkle *tree)
{
    uint64_t n_nodes = count_nodes(tree->n_leaves + 1);

    while (tree->n_pieces * PIECE_HASHES < n_nodes) {
        struct merkle_hash *piece;

        if (!make_table_room(tree))
            return KV_NO_MEMORY;
        piece = kv_realloc(NULL, PIECE_HASHES * sizeof *piece);
        if (piece == NULL)
            return KV_NO_MEMORY;
        tree->pieces[tree->n_pieces++] = piece;
    }
    return KV_OK;
}

bool merkle_append(struct merkle *tree, const void *leaf, size_t n_bytes)
{
    uint64_t end = tree->n_leaves + 1;

    assert(tree->n_pieces * PIECE_HASHES >= count_nodes(end));
    if (!merkle_hash_leaf(
            &tree->hasher, leaf, n_bytes, node_at(tree, 0, end - 1)))
        return false;
    for (unsigned level = 1; end % ((uint64_t)1 << level) == 0; level++) {
        uint64_t first = end - ((uint64_t)1 << level);
        uint64_t middle = end - ((uint64_t)1 << (level - 1));

        if (!merkle_hash_node(&tree->hasher, node_at(tree, level - 1, first),
                node_at(tree, level - 1, middle), node_at(tree, level, first)))
            return false;
    }
    tree->n_leaves = end;
    return true;
}

/* ---- roots and proofs */

static unsigned log2_floor(uint64_t n)
{
    return 63 - (unsigned)__builtin_clzll(n);
}

/* The largest power of two below n; n > 1. Where the RFC divides n leaves. */
static uint64_t split(uint64_t n)
{
    return (uint64_t)1 << log2_floor(n - 1);
}

/* The hash over leaves [begin, end), begin < end, a range that the RFC's
 * division comes upon: complete nodes, each smaller than the one before it. */
static bool hash_range(
    struct merkle *tree, uint64_t begin, uint64_t end, struct merkle_hash *out)
{
    const struct merkle_hash *nodes[64];
    size_t n = 0;

    assert(begin < end);
    do {
        unsigned level = log2_floor(end - begin);

        nodes[n++] = node_at(tree, level, begin);
        begin += (uint64_t)1 << level;
    } while (begin < end);
    *out = *nodes[--n];
    while (n-- > 0)
        if (!merkle_hash_node(&tree->hasher, nodes[n], out, out))
            return false;
    return true;
}

bool merkle_root(struct merkle *tree, uint64_t size, struct merkle_hash *out)
{
    assert(size <= tree->n_leaves);
    if (size == 0)
        return merkle_hash_empty(&tree->hasher, out);
    return hash_range(tree, 0, size, out);
}

/* Proofs are found from the root down, and told from the leaves up. */
static void reverse(struct merkle_path *path)
{
    for (size_t i = 0; i < path->n / 2; i++) {
        struct merkle_hash *a = &path->hashes[i];
        struct merkle_hash *b = &path->hashes[path->n - 1 - i];
        struct merkle_hash kept = *a;

        *a = *b;
        *b = kept;
    }
}

static bool add_range(
    struct merkle *tree, uint64_t begin, uint64_t end, struct merkle_path *path)
{
    assert(path->n < MERKLE_MAX_PATH);
    return hash_range(tree, begin, end, &path->hashes[path->n++]);
}

bool merkle_prove_inclusion(
    struct merkle *tree, uint64_t index, uint64_t size, struct merkle_path *out)
{
    uint64_t begin = 0, end = size;
    bool ok = true;

    assert(index < size && size <= tree->n_leaves);
    out->n = 0;
    while (end - begin > 1 && ok) {
        uint64_t middle = begin + split(end - begin);

        if (index < middle) {
            ok = add_range(tree, middle, end, out);
            end = middle;
        } else {
            ok = add_range(tree, begin, middle, out);
            begin = middle;
        }
    }
    reverse(out);
    return ok;
}

bool merkle_prove_consistency(struct merkle *tree, uint64_t first,
    uint64_t second, struct merkle_path *out)
{
    uint64_t begin = 0, end = second;
    bool ok = true;

    assert(1 <= first && first <= second && second <= tree->n_leaves);
    out->n = 0;
    while (end != first && ok) {
        uint64_t middle = begin + split(end - begin);

        if (first <= middle) {
            ok = add_range(tree, middle, end, out);
            end = middle;
        } else {
            ok = add_range(tree, begin, middle, out);
            begin = middle;
        }
    }
    /* What is left ends both trees; if it is all of the older one, the reader
     * has its hash already. */
    if (ok && begin > 0)
        ok = add_range(tree, begin, end, out);
    reverse(out);
    return ok;
}

/* ---- the right edge */

static bool has_peak(const struct merkle_frontier *frontier, unsigned level)
{
    return (frontier->n_leaves >> level & 1) != 0;
}

bool merkle_frontier_start(struct merkle_frontier *frontier, uint64_t n_leaves,
    const struct merkle_path *path)
{
    size_t n = 0;

    if (path->n != (size_t)__builtin_popcountll(n_leaves))
        return false;
    frontier->n_leaves = n_leaves;
    for (unsigned level = 0; level < 64; level++)
        if (has_peak(frontier, level))
            frontier->peaks[level] = path->hashes[n++];
    return true;
}

bool merkle_frontier_append(struct merkle_hasher *hasher,
    struct merkle_frontier *frontier, const struct merkle_hash *leaf)
{
    struct merkle_hash hash = *leaf;
    unsigned level = 0;

    for (; has_peak(frontier, level); level++)
        if (!merkle_hash_node(hasher, &frontier->peaks[level], &hash, &hash))
            return false;
    frontier->peaks[level] = hash;
    frontier->n_leaves++;
    return true;
}

bool merkle_frontier_root(struct merkle_hasher *hasher,
    const struct merkle_frontier *frontier, struct merkle_hash *out)
{
    unsigned level = 0;

    if (frontier->n_leaves == 0)
        return merkle_hash_empty(hasher, out);
    while (!has_peak(frontier, level))
        level++;
    *out = frontier->peaks[level];
    for (level++; level < 64; level++)
        if (has_peak(frontier, level) &&
            !merkle_hash_node(hasher, &frontier->peaks[level], out, out))
            return false;
    return true;
}

/* ---- verifying */

/* Goes up to where the node is a right child, or the leftmost of its level. */
static void skip_levels(uint64_t *node, uint64_t *last)
{
    while ((*node & 1) == 0 && *node != 0) {
        *node >>= 1;
        *last >>= 1;
    }
}

bool merkle_verify_inclusion(struct merkle_hasher *hasher,
    const struct merkle_hash *leaf, uint64_t index, uint64_t size,
    const struct merkle_path *path, const struct merkle_hash *root)
{
    uint64_t node = index, last = size - 1;
    struct merkle_hash hash = *leaf;

    if (index >= size)
        return false;
    for (size_t i = 0; i < path->n; i++) {
        const struct merkle_hash *next = &path->hashes[i];
        bool ok;

        if (last == 0)
            return false;
        if ((node & 1) != 0 || node == last) {
            ok = merkle_hash_node(hasher, next, &hash, &hash);
            skip_levels(&node, &last);
        } else {
            ok = merkle_hash_node(hasher, &hash, next, &hash);
        }
        if (!ok)
            return false;
        node >>= 1;
        last >>= 1;
    }
    return last == 0 && merkle_hash_equal(&hash, root);
}

/* Both roots from the node that ends the older tree, up along the path. */
static bool climb(struct merkle_hasher *hasher, uint64_t node, uint64_t last,
    const struct merkle_hash *hashes, size_t n, struct merkle_hash *older,
    struct merkle_hash *newer)
{
    for (size_t i = 0; i < n; i++) {
        bool ok;

        if (last == 0)
            return false;
        if ((node & 1) != 0 || node == last) {
            ok = merkle_hash_node(hasher, &hashes[i], older, older) &&
                 merkle_hash_node(hasher, &hashes[i], newer, newer);
            skip_levels(&node, &last);
        } else {
            ok = merkle_hash_node(hasher, newer, &hashes[i], newer);
        }
        if (!ok)
            return false;
        node >>= 1;
        last >>= 1;
    }
    return last == 0;
}

bool merkle_verify_consistency(struct merkle_hasher *hasher, uint64_t first,
    uint64_t second, const struct merkle_path *path,
    const struct merkle_hash *first_root, const struct merkle_hash *second_root)
{
    bool is_complete = (first & (first - 1)) == 0; /* the proof leaves it out */
    uint64_t node = first - 1, last = second - 1;
    struct merkle_hash older, newer;
    size_t n_taken = is_complete ? 0 : 1;

    if (first == 0 || first > second)
        return false;
    if (first == second)
        return path->n == 0 && merkle_hash_equal(first_root, second_root);
    if (path->n == 0)
        return false;
    for (; (node & 1) != 0; node >>= 1)
        last >>= 1;
    older = newer = is_complete ? *first_root : path->hashes[0];
    return climb(hasher, node, last, path->hashes + n_taken, path->n - n_taken,
               &older, &newer) &&
           merkle_hash_equal(&older, first_root) &&
           merkle_hash_equal(&newer, second_root);
}
