#include "receipts/merkle.h"

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

bool merkle_frontier_grow(struct merkle_hasher *hasher,
    struct merkle_frontier *frontier, const struct merkle_hash *leaf,
    struct merkle_path *completed)
{
    struct merkle_hash *hash = completed->hashes;
    unsigned level = 0;

    *hash = *leaf;
    for (; has_peak(frontier, level); level++, hash++)
        if (!merkle_hash_node(hasher, &frontier->peaks[level], hash, hash + 1))
            return false;
    completed->n = level + 1;
    frontier->peaks[level] = *hash;
    frontier->n_leaves++;
    return true;
}

bool merkle_frontier_append(struct merkle_hasher *hasher,
    struct merkle_frontier *frontier, const struct merkle_hash *leaf)
{
    struct merkle_path completed;

    return merkle_frontier_grow(hasher, frontier, leaf, &completed);
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
