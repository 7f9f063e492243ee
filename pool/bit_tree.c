#include "pool/bit_tree.h"

#include "base/heap.h"

static size_t words_for(size_t n_bits)
{
    return (n_bits + 63) / 64;
}

enum kv_status bit_tree_init(struct bit_tree *tree, uint32_t n_bits)
{
    size_t offsets[BIT_TREE_LEVELS];
    size_t n_words = 0, n_level = n_bits;
    unsigned n_levels = 0;

    do {
        n_level = words_for(n_level);
        offsets[n_levels++] = n_words;
        n_words += n_level;
    } while (n_level > 1);

    tree->words = kv_calloc(n_words, sizeof *tree->words);
    if (tree->words == NULL)
        return KV_NO_MEMORY;
    for (unsigned level = 0; level < n_levels; level++)
        tree->levels[level] = tree->words + offsets[level];
    tree->n_words = n_words;
    tree->n_levels = n_levels;
    tree->least_word = 0;
    return KV_OK;
}

void bit_tree_fini(struct bit_tree *tree)
{
    kv_free(tree->words);
    tree->words = NULL;
}

void bit_tree_add_run(struct bit_tree *tree, uint32_t first, uint32_t n)
{
    uint32_t end = first + n;

    while (first < end) {
        uint32_t in_word = 64 - (first & 63);
        uint32_t n_now = end - first < in_word ? end - first : in_word;
        uint64_t ones = UINT64_MAX >> (64 - n_now);

        bit_tree_add(tree, first);
        tree->words[first >> 6] |= ones << (first & 63);
        first += n_now;
    }
}

uint32_t bit_tree_word_after(const struct bit_tree *tree, uint32_t i)
{
    uint32_t at = i >> 6;
    uint64_t above;

    if (tree->n_levels < 2 || (at & 63) == 63)
        return BIT_TREE_NONE;
    above = tree->levels[1][at >> 6] >> ((at & 63) + 1) << ((at & 63) + 1);
    if (above == 0)
        return BIT_TREE_NONE;
    at = (at & ~UINT32_C(63)) | (uint32_t)__builtin_ctzll(above);
    return at << 6 | (uint32_t)__builtin_ctzll(tree->words[at]);
}

/* Of a set that is not empty. */
static uint32_t find_least_word(const struct bit_tree *tree)
{
    uint32_t at = 0;

    for (unsigned level = tree->n_levels; level-- > 1;)
        at = at << 6 | (uint32_t)__builtin_ctzll(tree->levels[level][at]);
    return at;
}

uint32_t bit_tree_least(struct bit_tree *tree)
{
    if (tree->words[tree->least_word] == 0) {
        if (tree->levels[tree->n_levels - 1][0] == 0)
            return BIT_TREE_NONE;
        tree->least_word = find_least_word(tree);
    }
    return tree->least_word << 6 |
           (uint32_t)__builtin_ctzll(tree->words[tree->least_word]);
}
