#include "receipts/merkle.h"

#include <assert.h>
#include <errno.h>
#include <string.h>

#include "receipts/merkle_nodes.h"

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
 * plus the level. Nothing that was written ever moves or changes.
 *
 * Why a proof cannot be wrong.
 *
 * The right edge is in memory, was never read again, and gives the root of the
 * whole tree. A root of fewer leaves that took nodes from the file is proven a
 * prefix of that one, as to a stranger, with further nodes of the file: if any
 * of them is not what it was, the proof fails, or a collision of SHA-256 was
 * found. What the file's nodes prove of roots so checked is verified the same
 * way. It costs some 100 hashes, so it is not done where all nodes were still
 * in memory. */

/* ---- life */

/* Nodes of all levels over the first n leaves. */
static uint64_t count_nodes(uint64_t n_leaves)
{
    return 2 * n_leaves - (uint64_t)__builtin_popcountll(n_leaves);
}

/* The most leaves that have all their nodes among the first n_nodes. */
static uint64_t count_leaves(uint64_t n_nodes)
{
    uint64_t low = n_nodes / 2, high = n_nodes;

    while (low < high) {
        uint64_t middle = low + (high - low + 1) / 2;

        if (count_nodes(middle) <= n_nodes)
            low = middle;
        else
            high = middle - 1;
    }
    return low;
}

static enum kv_status init_rest(struct merkle *tree)
{
    if (merkle_hasher_init(&tree->hasher) != KV_OK)
        return KV_NO_MEMORY;
    if (pthread_mutex_init(&tree->lock, NULL) == 0)
        return KV_OK;
    merkle_hasher_fini(&tree->hasher);
    return KV_NO_MEMORY;
}

enum kv_status merkle_init(struct merkle *tree)
{
    tree->edge.n_leaves = 0;
    if (merkle_nodes_init(&tree->nodes) != KV_OK)
        return KV_NO_MEMORY;
    if (init_rest(tree) == KV_OK)
        return KV_OK;
    merkle_nodes_fini(&tree->nodes);
    return KV_NO_MEMORY;
}

void merkle_fini(struct merkle *tree)
{
    merkle_nodes_fini(&tree->nodes);
    merkle_hasher_fini(&tree->hasher);
    pthread_mutex_destroy(&tree->lock);
}

static enum kv_status open_tree(struct merkle *tree, const char *path,
    bool may_write, struct kv_error *error)
{
    uint64_t n_nodes;
    enum kv_status status =
        merkle_nodes_open(&tree->nodes, path, may_write, &n_nodes, error);

    if (status != KV_OK)
        return status;
    status = init_rest(tree);
    if (status != KV_OK) {
        merkle_nodes_fini(&tree->nodes);
        return kv_error_set(error, status, "%s: no memory to read it", path);
    }
    tree->edge.n_leaves = count_leaves(n_nodes);
    status = merkle_truncate(tree, tree->edge.n_leaves);
    if (status == KV_OK)
        return KV_OK;
    kv_error_set(error, status, "%s: its end cannot be read or cut: %s", path,
        status == KV_IO ? strerrordesc_np(errno) : "there is not so much");
    merkle_fini(tree);
    return status;
}

enum kv_status merkle_open_file(
    struct merkle *tree, const char *path, struct kv_error *error)
{
    return open_tree(tree, path, true, error);
}

enum kv_status merkle_view_file(
    struct merkle *tree, const char *path, struct kv_error *error)
{
    return open_tree(tree, path, false, error);
}

/* ---- growing */

/* The place of the complete node of this level that begins with this leaf. */
static uint64_t place_of(unsigned level, uint64_t first)
{
    return count_nodes(first + ((uint64_t)1 << level) - 1) + level;
}

static bool has_peak(const struct merkle_frontier *edge, unsigned level)
{
    return (edge->n_leaves >> level & 1) != 0;
}

/* The first leaf below the peak of this level. */
static uint64_t peak_first(uint64_t n_leaves, unsigned level)
{
    return (n_leaves >> level >> 1) << level << 1;
}

uint64_t merkle_size(struct merkle *tree)
{
    uint64_t n_leaves;

    pthread_mutex_lock(&tree->lock);
    n_leaves = tree->edge.n_leaves;
    pthread_mutex_unlock(&tree->lock);
    return n_leaves;
}

enum kv_status merkle_reserve(struct merkle *tree)
{
    enum kv_status status;

    pthread_mutex_lock(&tree->lock);
    status = merkle_nodes_reserve(
        &tree->nodes, count_nodes(tree->edge.n_leaves + 1));
    pthread_mutex_unlock(&tree->lock);
    return status;
}

static bool add_leaf(struct merkle *tree, const struct merkle_hash *leaf)
{
    uint64_t place = count_nodes(tree->edge.n_leaves);
    struct merkle_path completed;

    assert(merkle_nodes_have_room(
        &tree->nodes, count_nodes(tree->edge.n_leaves + 1)));
    if (!merkle_frontier_grow(&tree->hasher, &tree->edge, leaf, &completed))
        return false;
    for (size_t i = 0; i < completed.n; i++)
        merkle_nodes_put(&tree->nodes, place + i, &completed.hashes[i]);
    return true;
}

bool merkle_append_hash(struct merkle *tree, const struct merkle_hash *leaf)
{
    bool ok;

    pthread_mutex_lock(&tree->lock);
    ok = add_leaf(tree, leaf);
    pthread_mutex_unlock(&tree->lock);
    return ok;
}

bool merkle_append(struct merkle *tree, const void *leaf, size_t n_bytes)
{
    struct merkle_hash hash;
    bool ok;

    pthread_mutex_lock(&tree->lock);
    ok = merkle_hash_leaf(&tree->hasher, leaf, n_bytes, &hash) &&
         add_leaf(tree, &hash);
    pthread_mutex_unlock(&tree->lock);
    return ok;
}

enum kv_status merkle_sync(struct merkle *tree)
{
    return merkle_nodes_sync(
        &tree->nodes, count_nodes(merkle_size(tree)), &tree->lock);
}

static enum kv_status load_edge(
    struct merkle *tree, uint64_t n_leaves, struct merkle_frontier *edge)
{
    bool is_certain;

    edge->n_leaves = n_leaves;
    for (unsigned level = 0; level < 64; level++) {
        enum kv_status status;

        if (!has_peak(edge, level))
            continue;
        status = merkle_nodes_get(&tree->nodes,
            place_of(level, peak_first(n_leaves, level)), &edge->peaks[level],
            &is_certain);
        if (status != KV_OK)
            return status;
    }
    return KV_OK;
}

enum kv_status merkle_truncate(struct merkle *tree, uint64_t n_leaves)
{
    struct merkle_frontier edge = {.n_leaves = 0};
    enum kv_status status = KV_RANGE;

    pthread_mutex_lock(&tree->lock);
    if (n_leaves <= tree->edge.n_leaves)
        status = load_edge(tree, n_leaves, &edge);
    if (status == KV_OK)
        status = merkle_nodes_cut(&tree->nodes, count_nodes(n_leaves));
    if (status == KV_OK)
        tree->edge = edge;
    pthread_mutex_unlock(&tree->lock);
    return status;
}

/* ---- roots and proofs */

/* A root or proof in the making. */
struct search {
    struct merkle *tree;
    bool is_certain; /* no node came from the file */
};

static unsigned log2_floor(uint64_t n)
{
    return 63 - (unsigned)__builtin_clzll(n);
}

/* The largest power of two below n; n > 1. Where the RFC divides n leaves. */
static uint64_t split(uint64_t n)
{
    return (uint64_t)1 << log2_floor(n - 1);
}

/* The complete node of this level that begins with leaf `first`. */
static bool find_node(struct search *search, unsigned level, uint64_t first,
    struct merkle_hash *out)
{
    struct merkle *tree = search->tree;

    if (has_peak(&tree->edge, level) &&
        first == peak_first(tree->edge.n_leaves, level)) {
        *out = tree->edge.peaks[level];
        return true;
    }
    return merkle_nodes_get(&tree->nodes, place_of(level, first), out,
               &search->is_certain) == KV_OK;
}

/* The hash over leaves [begin, end), begin < end, a range that the RFC's
 * division comes upon: complete nodes, each smaller than the one before it. */
static bool hash_range(struct search *search, uint64_t begin, uint64_t end,
    struct merkle_hash *out)
{
    struct merkle_hash nodes[64];
    size_t n = 0;

    assert(begin < end);
    do {
        unsigned level = log2_floor(end - begin);

        if (!find_node(search, level, begin, &nodes[n++]))
            return false;
        begin += (uint64_t)1 << level;
    } while (begin < end);
    *out = nodes[--n];
    while (n-- > 0)
        if (!merkle_hash_node(&search->tree->hasher, &nodes[n], out, out))
            return false;
    return true;
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

static bool add_range(struct search *search, uint64_t begin, uint64_t end,
    struct merkle_path *path)
{
    assert(path->n < MERKLE_MAX_PATH);
    return hash_range(search, begin, end, &path->hashes[path->n++]);
}

static bool find_inclusion(struct search *search, uint64_t index, uint64_t size,
    struct merkle_path *out)
{
    uint64_t begin = 0, end = size;
    bool ok = true;

    out->n = 0;
    while (end - begin > 1 && ok) {
        uint64_t middle = begin + split(end - begin);

        if (index < middle) {
            ok = add_range(search, middle, end, out);
            end = middle;
        } else {
            ok = add_range(search, begin, middle, out);
            begin = middle;
        }
    }
    reverse(out);
    return ok;
}

static bool find_consistency(struct search *search, uint64_t first,
    uint64_t second, struct merkle_path *out)
{
    uint64_t begin = 0, end = second;
    bool ok = true;

    out->n = 0;
    while (end != first && ok) {
        uint64_t middle = begin + split(end - begin);

        if (first <= middle) {
            ok = add_range(search, middle, end, out);
            end = middle;
        } else {
            ok = add_range(search, begin, middle, out);
            begin = middle;
        }
    }
    /* What is left ends both trees; if it is all of the older one, the reader
     * has its hash already. */
    if (ok && begin > 0)
        ok = add_range(search, begin, end, out);
    reverse(out);
    return ok;
}

/* ---- the same, checked */

/* That a root that took nodes from the file is one that this tree had. */
static bool check_root(
    struct search *search, uint64_t size, const struct merkle_hash *root)
{
    struct merkle *tree = search->tree;
    struct merkle_path path;
    struct merkle_hash newest;

    if (!merkle_frontier_root(&tree->hasher, &tree->edge, &newest) ||
        !find_consistency(search, size, tree->edge.n_leaves, &path))
        return false;
    if (merkle_verify_consistency(
            &tree->hasher, size, tree->edge.n_leaves, &path, root, &newest))
        return true;
    merkle_nodes_doubt(&tree->nodes);
    return false;
}

static bool find_root(
    struct search *search, uint64_t size, struct merkle_hash *out)
{
    struct merkle_hasher *hasher = &search->tree->hasher;

    if (size == 0)
        return merkle_hash_empty(hasher, out);
    return hash_range(search, 0, size, out) &&
           (search->is_certain || check_root(search, size, out));
}

static bool check_inclusion(struct search *search, uint64_t index,
    uint64_t size, const struct merkle_path *path)
{
    struct merkle *tree = search->tree;
    struct merkle_hash leaf, root;

    if (search->is_certain)
        return true;
    if (!find_root(search, size, &root) || !find_node(search, 0, index, &leaf))
        return false;
    if (merkle_verify_inclusion(&tree->hasher, &leaf, index, size, path, &root))
        return true;
    merkle_nodes_doubt(&tree->nodes);
    return false;
}

static bool check_consistency(struct search *search, uint64_t first,
    uint64_t second, const struct merkle_path *path)
{
    struct merkle *tree = search->tree;
    struct merkle_hash older, newer;

    if (search->is_certain)
        return true;
    if (!find_root(search, first, &older) || !find_root(search, second, &newer))
        return false;
    if (merkle_verify_consistency(
            &tree->hasher, first, second, path, &older, &newer))
        return true;
    merkle_nodes_doubt(&tree->nodes);
    return false;
}

enum kv_status merkle_damage(struct merkle *tree)
{
    enum kv_status damage;

    pthread_mutex_lock(&tree->lock);
    damage = tree->nodes.damage;
    pthread_mutex_unlock(&tree->lock);
    return damage;
}

bool merkle_root(struct merkle *tree, uint64_t size, struct merkle_hash *out)
{
    struct search search = {tree, true};
    bool ok;

    pthread_mutex_lock(&tree->lock);
    assert(size <= tree->edge.n_leaves);
    ok = find_root(&search, size, out);
    pthread_mutex_unlock(&tree->lock);
    return ok;
}

bool merkle_prove_inclusion(
    struct merkle *tree, uint64_t index, uint64_t size, struct merkle_path *out)
{
    struct search search = {tree, true};
    bool ok;

    pthread_mutex_lock(&tree->lock);
    assert(index < size && size <= tree->edge.n_leaves);
    ok = find_inclusion(&search, index, size, out) &&
         check_inclusion(&search, index, size, out);
    pthread_mutex_unlock(&tree->lock);
    return ok;
}

bool merkle_prove_consistency(struct merkle *tree, uint64_t first,
    uint64_t second, struct merkle_path *out)
{
    struct search search = {tree, true};
    bool ok;

    pthread_mutex_lock(&tree->lock);
    assert(1 <= first && first <= second && second <= tree->edge.n_leaves);
    ok = find_consistency(&search, first, second, out) &&
         check_consistency(&search, first, second, out);
    pthread_mutex_unlock(&tree->lock);
    return ok;
}
