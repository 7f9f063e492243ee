#include "receipts/merkle.h"

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
