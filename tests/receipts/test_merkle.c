#include <stdio.h>
#include <string.h>

#include "receipts/merkle.h"
#include "tests/support/check_main.h"
#include "tests/support/faulty_heap.h"

#define N_LEAVES 300

static struct merkle tree;
static struct merkle_hasher hasher;

static void set_up(void)
{
    faulty_heap_install();
    ck_assert_int_eq(merkle_init(&tree), KV_OK);
    ck_assert_int_eq(merkle_hasher_init(&hasher), KV_OK);
}

static void tear_down(void)
{
    merkle_hasher_fini(&hasher);
    merkle_fini(&tree);
    ck_assert_int_eq(faulty_heap_live(), 0);
}

static void append(const void *leaf, size_t n_bytes)
{
    ck_assert_int_eq(merkle_reserve(&tree), KV_OK);
    ck_assert(merkle_append(&tree, leaf, n_bytes));
}

static struct merkle_hash hash_of_hex(const char *hex)
{
    struct merkle_hash hash;

    ck_assert_uint_eq(strlen(hex), 64);
    for (size_t i = 0; i < 32; i++)
        ck_assert_int_eq(sscanf(hex + 2 * i, "%2hhx", &hash.bytes[i]), 1);
    return hash;
}

static void expect_hash(const struct merkle_hash *hash, const char *hex)
{
    struct merkle_hash expected = hash_of_hex(hex);

    ck_assert_mem_eq(hash->bytes, expected.bytes, 32);
}

/* ---- the vectors of the certificate-transparency project */

static const struct {
    size_t n_bytes;
    const char *bytes;
} ct_leaves[8] = {
    {0, ""},
    {1, "\x00"},
    {1, "\x10"},
    {2, "\x20\x21"},
    {2, "\x30\x31"},
    {4, "\x40\x41\x42\x43"},
    {8, "\x50\x51\x52\x53\x54\x55\x56\x57"},
    {16, "\x60\x61\x62\x63\x64\x65\x66\x67\x68\x69\x6a\x6b\x6c\x6d\x6e\x6f"},
};

static const char *const ct_roots[8] = {
    "6e340b9cffb37a989ca544e6bb780a2c78901d3fb33738768511a30617afa01d",
    "fac54203e7cc696cf0dfcb42c92a1d9dbaf70ad9e621f4bd8d98662f00e3c125",
    "aeb6bcfe274b70a14fb067a5e5578264db0fa9b51af5e0ba159158f329e06e77",
    "d37ee418976dd95753c1c73862b9398fa2a2cf9b4ff0fdfe8b30cd95209614b7",
    "4e3bbb1f7b478dcfe71fb631631519a3bca12c9aefca1612bfce4c13a86264d4",
    "76e67dadbcdf1e10e1b74ddc608abd2f98dfb16fbce75277b5232a127f2087ef",
    "ddb89be403809e325750d3d263cd78929c2942b7942a34b77e122c9594a74c8c",
    "5dc9da79a70659a9ad559cb701ded9a2ab9d823aad2f4960cfe370eff4604328",
};

static void append_ct_leaves(void)
{
    for (size_t i = 0; i < 8; i++)
        append(ct_leaves[i].bytes, ct_leaves[i].n_bytes);
}

START_TEST(roots_are_those_of_the_known_vectors)
{
    struct merkle_hash root;

    append_ct_leaves();
    ck_assert(merkle_root(&tree, 0, &root));
    expect_hash(&root,
        "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855");
    for (size_t i = 0; i < 8; i++) {
        ck_assert(merkle_root(&tree, i + 1, &root));
        expect_hash(&root, ct_roots[i]);
    }
}
END_TEST

static void expect_path(
    const struct merkle_path *path, const char *const *hexes, size_t n)
{
    ck_assert_uint_eq(path->n, n);
    for (size_t i = 0; i < n; i++)
        expect_hash(&path->hashes[i], hexes[i]);
}

START_TEST(inclusion_proofs_are_those_of_the_known_vectors)
{
    static const char *const first_of_8[] = {
        "96a296d224f285c67bee93c30f8a309157f0daa35dc5b87e410b78630a09cfc7",
        "5f083f0a1a33ca076a95279832580db3e0ef4584bdff1f54c8a360f50de3031e",
        "6b47aaf29ee3c2af9af889bc1fb9254dabd31177f16232dd6aab035ca39bf6e4"};
    static const char *const sixth_of_8[] = {
        "bc1a0643b12e4d2d7c77918f44e0f4f79a838b6cf9ec5b5c283e1f4d88599e6b",
        "ca854ea128ed050b41b35ffc1b87b8eb2bde461e9e3b5596ece6b9d5975a0ae0",
        "d37ee418976dd95753c1c73862b9398fa2a2cf9b4ff0fdfe8b30cd95209614b7"};
    static const char *const third_of_3[] = {
        "fac54203e7cc696cf0dfcb42c92a1d9dbaf70ad9e621f4bd8d98662f00e3c125"};
    struct merkle_path path;

    append_ct_leaves();
    ck_assert(merkle_prove_inclusion(&tree, 0, 1, &path));
    ck_assert_uint_eq(path.n, 0);
    ck_assert(merkle_prove_inclusion(&tree, 0, 8, &path));
    expect_path(&path, first_of_8, 3);
    ck_assert(merkle_prove_inclusion(&tree, 5, 8, &path));
    expect_path(&path, sixth_of_8, 3);
    ck_assert(merkle_prove_inclusion(&tree, 2, 3, &path));
    expect_path(&path, third_of_3, 1);
}
END_TEST

START_TEST(consistency_proofs_are_those_of_the_known_vectors)
{
    static const char *const from_1_to_8[] = {
        "96a296d224f285c67bee93c30f8a309157f0daa35dc5b87e410b78630a09cfc7",
        "5f083f0a1a33ca076a95279832580db3e0ef4584bdff1f54c8a360f50de3031e",
        "6b47aaf29ee3c2af9af889bc1fb9254dabd31177f16232dd6aab035ca39bf6e4"};
    static const char *const from_6_to_8[] = {
        "0ebc5d3437fbe2db158b9f126a1d118e308181031d0a949f8dededebc558ef6a",
        "ca854ea128ed050b41b35ffc1b87b8eb2bde461e9e3b5596ece6b9d5975a0ae0",
        "d37ee418976dd95753c1c73862b9398fa2a2cf9b4ff0fdfe8b30cd95209614b7"};
    struct merkle_path path;

    append_ct_leaves();
    ck_assert(merkle_prove_consistency(&tree, 1, 1, &path));
    ck_assert_uint_eq(path.n, 0);
    ck_assert(merkle_prove_consistency(&tree, 1, 8, &path));
    expect_path(&path, from_1_to_8, 3);
    ck_assert(merkle_prove_consistency(&tree, 6, 8, &path));
    expect_path(&path, from_6_to_8, 3);
}
END_TEST

/* ---- every size */

static struct merkle_hash roots[N_LEAVES + 1];

static void append_many(void)
{
    for (uint32_t i = 0; i < N_LEAVES; i++) {
        append(&i, sizeof i);
        ck_assert(merkle_root(&tree, i + 1, &roots[i + 1]));
    }
}

static struct merkle_hash leaf_hash(uint32_t i)
{
    struct merkle_hash hash;

    ck_assert(merkle_hash_leaf(&hasher, &i, sizeof i, &hash));
    return hash;
}

/* The definition of RFC 6962, 2.1, as it stands there. */
static struct merkle_hash plain_root(uint32_t begin, uint32_t end)
{
    struct merkle_hash left, right;
    uint32_t k = 1;

    if (end - begin == 1)
        return leaf_hash(begin);
    while (2 * k < end - begin)
        k *= 2;
    left = plain_root(begin, begin + k);
    right = plain_root(begin + k, end);
    ck_assert(merkle_hash_node(&hasher, &left, &right, &left));
    return left;
}

START_TEST(a_root_is_what_the_definition_says_at_every_size)
{
    append_many();
    for (uint32_t n = 1; n <= N_LEAVES; n++) {
        struct merkle_hash expected = plain_root(0, n), later;

        ck_assert_mem_eq(roots[n].bytes, expected.bytes, 32);
        ck_assert(merkle_root(&tree, n, &later));
        ck_assert_mem_eq(later.bytes, expected.bytes, 32);
    }
}
END_TEST

START_TEST(every_leaf_is_proven_in_every_tree_and_no_other_is)
{
    struct merkle_path path;

    append_many();
    for (uint32_t n = 1; n <= N_LEAVES; n++)
        for (uint32_t i = 0; i < n; i++) {
            struct merkle_hash leaf = leaf_hash(i);

            ck_assert(merkle_prove_inclusion(&tree, i, n, &path));
            ck_assert(merkle_verify_inclusion(
                &hasher, &leaf, i, n, &path, &roots[n]));
            ck_assert(!merkle_verify_inclusion(
                &hasher, &leaf, i + 1, n, &path, &roots[n]));
        }
}
END_TEST

START_TEST(every_tree_is_proven_a_prefix_of_every_later_one)
{
    struct merkle_path path;

    append_many();
    for (uint32_t n = 1; n <= N_LEAVES; n++)
        for (uint32_t m = 1; m <= n; m++) {
            ck_assert(merkle_prove_consistency(&tree, m, n, &path));
            ck_assert(merkle_verify_consistency(
                &hasher, m, n, &path, &roots[m], &roots[n]));
            ck_assert(m == n || !merkle_verify_consistency(&hasher, m, n, &path,
                                    &roots[n], &roots[n]));
        }
}
END_TEST

START_TEST(the_right_edge_goes_on_from_anywhere_to_the_same_root)
{
    struct merkle_path path;
    struct merkle_hash root;

    append_many();
    for (uint32_t first = 0; first < N_LEAVES; first += 7) {
        struct merkle_frontier frontier;

        ck_assert(merkle_prove_inclusion(&tree, first, first + 1, &path));
        ck_assert(merkle_frontier_start(&frontier, first, &path));
        for (uint32_t i = first; i < N_LEAVES; i++) {
            struct merkle_hash leaf = leaf_hash(i);

            ck_assert(merkle_frontier_append(&hasher, &frontier, &leaf));
        }
        ck_assert(merkle_frontier_root(&hasher, &frontier, &root));
        ck_assert_mem_eq(root.bytes, roots[N_LEAVES].bytes, 32);
        path.n++;
        ck_assert(!merkle_frontier_start(&frontier, first, &path));
    }
}
END_TEST

START_TEST(the_right_edge_has_the_root_of_every_size)
{
    struct merkle_frontier frontier = {.n_leaves = 0};
    struct merkle_hash root, empty;

    append_many();
    ck_assert(merkle_frontier_root(&hasher, &frontier, &root));
    ck_assert(merkle_root(&tree, 0, &empty));
    ck_assert_mem_eq(root.bytes, empty.bytes, 32);
    for (uint32_t i = 0; i < N_LEAVES; i++) {
        struct merkle_hash leaf = leaf_hash(i);

        ck_assert(merkle_frontier_append(&hasher, &frontier, &leaf));
        ck_assert(merkle_frontier_root(&hasher, &frontier, &root));
        ck_assert_mem_eq(root.bytes, roots[i + 1].bytes, 32);
    }
}
END_TEST

/* ---- nothing that was changed is proven */

static void flip(struct merkle_hash *hash, unsigned bit)
{
    hash->bytes[bit / 8] ^= (uint8_t)(1 << bit % 8);
}

/* Sizes about powers of two, and some between. */
static const uint32_t sizes[] = {1, 2, 3, 4, 5, 7, 8, 9, 11, 16, 31, 33, 100,
    127, 128, 129, 255, 256, 257, 300};
#define N_SIZES (sizeof sizes / sizeof *sizes)

/* Assertions are slow, and here are many questions: they are counted. */
static void tamper_with_inclusion(uint32_t i, uint32_t n)
{
    struct merkle_hash leaf = leaf_hash(i), root = roots[n];
    struct merkle_path path;
    size_t n_proven = 0;

    ck_assert(merkle_prove_inclusion(&tree, i, n, &path));
    for (unsigned bit = 0; bit < 256; bit++) {
        flip(&leaf, bit);
        n_proven += merkle_verify_inclusion(&hasher, &leaf, i, n, &path, &root);
        flip(&leaf, bit);
        flip(&root, bit);
        n_proven += merkle_verify_inclusion(&hasher, &leaf, i, n, &path, &root);
        flip(&root, bit);
        for (size_t k = 0; k < path.n; k++) {
            flip(&path.hashes[k], bit);
            n_proven +=
                merkle_verify_inclusion(&hasher, &leaf, i, n, &path, &root);
            flip(&path.hashes[k], bit);
        }
    }
    ck_assert_uint_eq(n_proven, 0);
    path.hashes[path.n++] = root;
    ck_assert(!merkle_verify_inclusion(&hasher, &leaf, i, n, &path, &root));
    path.n -= path.n > 1 ? 2 : 1;
    ck_assert(
        n == 1 || !merkle_verify_inclusion(&hasher, &leaf, i, n, &path, &root));
}

START_TEST(no_single_bit_of_an_inclusion_proof_may_differ)
{
    append_many();
    for (size_t k = 0; k < N_SIZES; k++) {
        uint32_t n = sizes[k];

        tamper_with_inclusion(0, n);
        tamper_with_inclusion(n / 2, n);
        tamper_with_inclusion(n - 1, n);
    }
}
END_TEST

static void tamper_with_consistency(uint32_t m, uint32_t n)
{
    struct merkle_hash first = roots[m], second = roots[n];
    struct merkle_path path;
    size_t n_proven = 0;

    ck_assert(merkle_prove_consistency(&tree, m, n, &path));
    for (unsigned bit = 0; bit < 256; bit++) {
        flip(&first, bit);
        n_proven +=
            merkle_verify_consistency(&hasher, m, n, &path, &first, &second);
        flip(&first, bit);
        flip(&second, bit);
        n_proven +=
            merkle_verify_consistency(&hasher, m, n, &path, &first, &second);
        flip(&second, bit);
        for (size_t k = 0; k < path.n; k++) {
            flip(&path.hashes[k], bit);
            n_proven += merkle_verify_consistency(
                &hasher, m, n, &path, &first, &second);
            flip(&path.hashes[k], bit);
        }
    }
    ck_assert_uint_eq(n_proven, 0);
    path.hashes[path.n++] = second;
    ck_assert(
        !merkle_verify_consistency(&hasher, m, n, &path, &first, &second));
    path.n -= path.n > 1 ? 2 : 1;
    ck_assert(m == n || !merkle_verify_consistency(
                            &hasher, m, n, &path, &first, &second));
}

START_TEST(no_single_bit_of_a_consistency_proof_may_differ)
{
    append_many();
    for (size_t i = 1; i < N_SIZES; i++) {
        tamper_with_consistency(sizes[0], sizes[i]);
        tamper_with_consistency(sizes[i / 2], sizes[i]);
        tamper_with_consistency(sizes[i - 1], sizes[i]);
        tamper_with_consistency(sizes[i], sizes[i]);
    }
}
END_TEST

START_TEST(sizes_that_cannot_be_are_never_proven)
{
    struct merkle_path empty = {.n = 0};
    struct merkle_hash leaf = leaf_hash(0);

    ck_assert(!merkle_verify_inclusion(&hasher, &leaf, 0, 0, &empty, &leaf));
    ck_assert(!merkle_verify_inclusion(&hasher, &leaf, 1, 1, &empty, &leaf));
    ck_assert(!merkle_verify_inclusion(
        &hasher, &leaf, UINT64_MAX, UINT64_MAX, &empty, &leaf));
    ck_assert(merkle_verify_inclusion(&hasher, &leaf, 0, 1, &empty, &leaf));
    ck_assert(!merkle_verify_consistency(&hasher, 0, 1, &empty, &leaf, &leaf));
    ck_assert(!merkle_verify_consistency(&hasher, 0, 0, &empty, &leaf, &leaf));
    ck_assert(!merkle_verify_consistency(&hasher, 2, 1, &empty, &leaf, &leaf));
    ck_assert(!merkle_verify_consistency(&hasher, 1, 2, &empty, &leaf, &leaf));
    ck_assert(!merkle_verify_consistency(
        &hasher, 1, UINT64_MAX, &empty, &leaf, &leaf));
}
END_TEST

/* ---- memory */

START_TEST(a_tree_without_memory_is_not_there)
{
    struct merkle other;

    faulty_heap_fail_at(0);
    ck_assert_int_eq(merkle_init(&other), KV_NO_MEMORY);
    faulty_heap_fail_at(-1);
}
END_TEST

START_TEST(a_leaf_without_room_changes_nothing)
{
    struct merkle_hash before, after;
    uint64_t n;

    append_many();
    for (;;) { /* until a piece is full */
        faulty_heap_fail_at(0);
        if (merkle_reserve(&tree) == KV_NO_MEMORY)
            break;
        ck_assert(merkle_append(&tree, "leaf", 4));
    }
    n = merkle_size(&tree);
    ck_assert(merkle_root(&tree, n, &before));
    ck_assert_int_eq(merkle_reserve(&tree), KV_NO_MEMORY);
    faulty_heap_fail_at(-1);
    ck_assert_uint_eq(merkle_size(&tree), n);
    append("leaf", 4);
    ck_assert(merkle_root(&tree, n, &after));
    ck_assert_mem_eq(before.bytes, after.bytes, 32);
}
END_TEST

/* The table of pieces grows: 32 of them hold 32,768 leaves. */
START_TEST(a_large_tree_proves_its_ends)
{
    struct merkle_hash leaf, old, root;
    struct merkle_path path;
    uint32_t n = 40000, last = n - 1;

    for (uint32_t i = 0; i < n; i++)
        append(&i, sizeof i);
    ck_assert(merkle_root(&tree, n, &root));
    ck_assert(merkle_root(&tree, 1000, &old));
    leaf = leaf_hash(last);
    ck_assert(merkle_prove_inclusion(&tree, last, n, &path));
    ck_assert(merkle_verify_inclusion(&hasher, &leaf, last, n, &path, &root));
    ck_assert(merkle_prove_consistency(&tree, 1000, n, &path));
    ck_assert(merkle_verify_consistency(&hasher, 1000, n, &path, &old, &root));
}
END_TEST

int main(void)
{
    const TTest *tests[] = {
        roots_are_those_of_the_known_vectors,
        inclusion_proofs_are_those_of_the_known_vectors,
        consistency_proofs_are_those_of_the_known_vectors,
        a_root_is_what_the_definition_says_at_every_size,
        every_leaf_is_proven_in_every_tree_and_no_other_is,
        every_tree_is_proven_a_prefix_of_every_later_one,
        the_right_edge_goes_on_from_anywhere_to_the_same_root,
        the_right_edge_has_the_root_of_every_size,
        no_single_bit_of_an_inclusion_proof_may_differ,
        no_single_bit_of_a_consistency_proof_may_differ,
        sizes_that_cannot_be_are_never_proven,
        a_tree_without_memory_is_not_there,
        a_leaf_without_room_changes_nothing,
        a_large_tree_proves_its_ends,
    };

    return CHECK_RUN("merkle", set_up, tear_down, tests);
}
