/* The tree that lives in a file says what the tree in memory says, or nothing.
 */
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <pthread.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "receipts/merkle.h"
#include "tests/support/check_main.h"
#include "tests/support/faulty_heap.h"

#define HEADER_BYTES 32

/* More than a piece of nodes, which is 1,024 leaves. */
#define MANY 5000

static char dir[] = "/tmp/kvpool-merkle-XXXXXX";
static char path[64];
static struct merkle in_file, in_memory;
static struct merkle_hasher hasher;
static struct kv_error error;

static void set_up(void)
{
    faulty_heap_install();
    memcpy(dir + sizeof dir - 7, "XXXXXX", 6);
    ck_assert_ptr_nonnull(mkdtemp(dir));
    snprintf(path, sizeof path, "%s/tree", dir);
    ck_assert_int_eq(merkle_hasher_init(&hasher), KV_OK);
    ck_assert_int_eq(merkle_init(&in_memory), KV_OK);
    ck_assert_int_eq(merkle_open_file(&in_file, path, &error), KV_OK);
}

static void tear_down(void)
{
    merkle_fini(&in_file);
    merkle_fini(&in_memory);
    merkle_hasher_fini(&hasher);
    unlink(path);
    rmdir(dir);
    ck_assert_int_eq(faulty_heap_live(), 0);
}

/* An assertion that holds is slow, too. */
static void append_to(struct merkle *tree, uint64_t i)
{
    if (merkle_reserve(tree) != KV_OK || !merkle_append(tree, &i, sizeof i))
        ck_abort_msg("leaf %" PRIu64 " is not taken", i);
}

static void append_many(uint64_t n)
{
    for (uint64_t i = 0; i < n; i++) {
        uint64_t at = merkle_size(&in_memory);

        append_to(&in_memory, at);
        append_to(&in_file, at);
    }
}

static void sync_tree(void)
{
    ck_assert_int_eq(merkle_sync(&in_file), KV_OK);
}

static void open_again(void)
{
    merkle_fini(&in_file);
    ck_assert_int_eq(merkle_open_file(&in_file, path, &error), KV_OK);
}

static uint64_t random_state = 1;

static uint64_t random_below(uint64_t n)
{
    random_state ^= random_state << 13;
    random_state ^= random_state >> 7;
    random_state ^= random_state << 17;
    return random_state % n;
}

static void expect_same_path(
    const struct merkle_path *a, const struct merkle_path *b)
{
    ck_assert_uint_eq(a->n, b->n);
    ck_assert_mem_eq(a->hashes, b->hashes, a->n * sizeof *a->hashes);
}

/* The two trees agree at this size, and about all smaller ones as far as some
 * random questions show. */
static void expect_same(uint64_t n_questions)
{
    struct merkle_hash a, b;
    struct merkle_path x, y;
    uint64_t n = merkle_size(&in_memory);

    ck_assert_uint_eq(merkle_size(&in_file), n);
    ck_assert(merkle_root(&in_file, n, &a) && merkle_root(&in_memory, n, &b));
    ck_assert(merkle_hash_equal(&a, &b));
    for (uint64_t i = 0; i < n_questions && n > 0; i++) {
        uint64_t second = 1 + random_below(n), first = 1 + random_below(second);

        ck_assert(merkle_root(&in_file, second, &a));
        ck_assert(merkle_root(&in_memory, second, &b));
        ck_assert(merkle_hash_equal(&a, &b));
        ck_assert(merkle_prove_inclusion(&in_file, first - 1, second, &x));
        ck_assert(merkle_prove_inclusion(&in_memory, first - 1, second, &y));
        expect_same_path(&x, &y);
        ck_assert(merkle_prove_consistency(&in_file, first, second, &x));
        ck_assert(merkle_prove_consistency(&in_memory, first, second, &y));
        expect_same_path(&x, &y);
    }
    ck_assert_int_eq(merkle_damage(&in_file), KV_OK);
}

/* ---- it is the same tree */

START_TEST(a_tree_in_a_file_is_the_tree_in_memory)
{
    for (int i = 0; i < 20; i++) {
        append_many(random_below(600));
        expect_same(10);
        sync_tree();
        expect_same(20);
        if (i % 3 == 0) {
            open_again();
            expect_same(20);
        }
    }
    ck_assert_uint_gt(merkle_size(&in_file), 3000);
}
END_TEST

/* The leaves and roots of the certificate-transparency project. */
START_TEST(roots_are_those_of_the_known_vectors)
{
    static const struct {
        size_t n_bytes;
        const char *bytes;
        unsigned char root[4]; /* how it begins */
    } known[8] = {
        {0, "", {0x6e, 0x34, 0x0b, 0x9c}},
        {1, "\x00", {0xfa, 0xc5, 0x42, 0x03}},
        {1, "\x10", {0xae, 0xb6, 0xbc, 0xfe}},
        {2, "\x20\x21", {0xd3, 0x7e, 0xe4, 0x18}},
        {2, "\x30\x31", {0x4e, 0x3b, 0xbb, 0x1f}},
        {4, "\x40\x41\x42\x43", {0x76, 0xe6, 0x7d, 0xad}},
        {8, "\x50\x51\x52\x53\x54\x55\x56\x57", {0xdd, 0xb8, 0x9b, 0xe4}},
        {16, "\x60\x61\x62\x63\x64\x65\x66\x67\x68\x69\x6a\x6b\x6c\x6d\x6e\x6f",
            {0x5d, 0xc9, 0xda, 0x79}},
    };
    struct merkle_hash root;

    for (size_t i = 0; i < 8; i++) {
        ck_assert_int_eq(merkle_reserve(&in_file), KV_OK);
        ck_assert(merkle_append(&in_file, known[i].bytes, known[i].n_bytes));
    }
    for (int round = 0; round < 2; round++) {
        for (size_t i = 0; i < 8; i++) {
            ck_assert(merkle_root(&in_file, i + 1, &root));
            ck_assert_mem_eq(root.bytes, known[i].root, 4);
        }
        sync_tree();
        open_again();
    }
}
END_TEST

START_TEST(every_small_size_survives_being_opened_again)
{
    for (int i = 0; i < 70; i++) {
        expect_same(3);
        append_many(1);
        sync_tree();
        open_again();
    }
}
END_TEST

START_TEST(a_hash_may_be_made_elsewhere)
{
    struct merkle_hash leaf, a, b;

    for (uint64_t i = 0; i < 10; i++) {
        append_to(&in_memory, i);
        ck_assert(merkle_hash_leaf(&hasher, &i, sizeof i, &leaf));
        ck_assert_int_eq(merkle_reserve(&in_file), KV_OK);
        ck_assert(merkle_append_hash(&in_file, &leaf));
    }
    ck_assert(merkle_root(&in_file, 10, &a) && merkle_root(&in_memory, 10, &b));
    ck_assert(merkle_hash_equal(&a, &b));
}
END_TEST

START_TEST(memory_does_not_grow_with_the_tree)
{
    int live;

    append_many(1500);
    sync_tree();
    live = faulty_heap_live();
    for (uint64_t i = 0; i < 20000; i++) {
        append_to(&in_file, i);
        if (i % 100 == 99)
            sync_tree();
    }
    ck_assert_int_le(faulty_heap_live(), live + 1);
}
END_TEST

START_TEST(a_file_has_a_header_and_two_nodes_a_leaf)
{
    struct stat status;

    append_many(1000);
    sync_tree();
    ck_assert_int_eq(stat(path, &status), 0);
    ck_assert_int_eq(status.st_size, HEADER_BYTES + 32 * (2000 - 6));
    ck_assert_int_eq(status.st_mode & 0777, 0600);
}
END_TEST

/* ---- going back */

static void truncate_both(uint64_t n)
{
    merkle_fini(&in_memory);
    ck_assert_int_eq(merkle_init(&in_memory), KV_OK);
    for (uint64_t i = 0; i < n; i++)
        append_to(&in_memory, i);
    ck_assert_int_eq(merkle_truncate(&in_file, n), KV_OK);
}

START_TEST(a_tree_goes_back_to_any_size_and_on_from_there)
{
    append_many(MANY);
    sync_tree();
    append_many(700); /* these are not in the file */
    for (uint64_t n = MANY + 600; n > 0; n = n * 2 / 3) {
        truncate_both(n);
        expect_same(20);
        append_many(5);
        expect_same(20);
        if (n % 2 == 0) {
            sync_tree();
            open_again();
            expect_same(20);
        }
    }
    truncate_both(0);
    append_many(3);
    sync_tree();
    open_again();
    expect_same(3);
}
END_TEST

START_TEST(a_tree_does_not_go_back_to_more_than_there_is)
{
    append_many(10);
    ck_assert_int_eq(merkle_truncate(&in_file, 11), KV_RANGE);
    ck_assert_int_eq(merkle_truncate(&in_memory, 11), KV_RANGE);
    expect_same(3);
    ck_assert_int_eq(merkle_truncate(&in_memory, 4), KV_OK);
    ck_assert_int_eq(merkle_truncate(&in_file, 4), KV_OK);
    append_to(&in_file, 77);
    append_to(&in_memory, 77);
    expect_same(3);
}
END_TEST

START_TEST(what_was_not_synced_is_gone_and_in_nobodys_way)
{
    append_many(100);
    sync_tree();
    for (uint64_t i = 0; i < 50; i++)
        append_to(&in_file, 1000 + i);
    open_again();
    expect_same(10);
    append_many(30);
    sync_tree();
    open_again();
    expect_same(10);
}
END_TEST

/* ---- damage */

static uint64_t file_bytes(void)
{
    struct stat status;

    ck_assert_int_eq(stat(path, &status), 0);
    return (uint64_t)status.st_size;
}

static void flip_byte(uint64_t offset)
{
    int fd = open(path, O_RDWR);
    unsigned char byte;

    ck_assert_int_ge(fd, 0);
    ck_assert_int_eq(pread(fd, &byte, 1, (off_t)offset), 1);
    byte ^= 0x10;
    ck_assert_int_eq(pwrite(fd, &byte, 1, (off_t)offset), 1);
    close(fd);
}

/* The newest root is right, and every answer is the true one or none. */
static unsigned count_refusals(uint64_t n)
{
    struct merkle_hash a, b;
    struct merkle_path x, y;
    unsigned n_refused = 0;

    for (uint64_t size = 1; size <= n; size++) {
        if (!merkle_root(&in_file, size, &a)) {
            n_refused++;
        } else {
            ck_assert(merkle_root(&in_memory, size, &b));
            ck_assert(merkle_hash_equal(&a, &b));
        }
        for (uint64_t i = 1; i <= size; i += 1 + size / 8) {
            ck_assert(merkle_prove_inclusion(&in_memory, i - 1, size, &y));
            if (!merkle_prove_inclusion(&in_file, i - 1, size, &x))
                n_refused++;
            else
                expect_same_path(&x, &y);
            ck_assert(merkle_prove_consistency(&in_memory, i, size, &y));
            if (!merkle_prove_consistency(&in_file, i, size, &x))
                n_refused++;
            else
                expect_same_path(&x, &y);
        }
    }
    return n_refused;
}

#define SMALL 43

START_TEST(no_damaged_node_makes_a_proof)
{
    append_many(SMALL);
    sync_tree();
    for (uint64_t at = HEADER_BYTES; at < file_bytes(); at += 32) {
        struct merkle_hash a, b;

        flip_byte(at + at / 32 % 32);
        open_again();
        ck_assert(merkle_root(&in_memory, SMALL, &a));
        ck_assert(merkle_root(&in_file, SMALL, &b));
        /* The right edge is read once, and is for the caller to compare. */
        if (merkle_hash_equal(&a, &b)) {
            ck_assert_uint_gt(count_refusals(SMALL), 0);
            ck_assert_int_eq(merkle_damage(&in_file), KV_DATA_LOSS);
        }
        flip_byte(at + at / 32 % 32);
    }
    open_again();
    ck_assert_uint_eq(count_refusals(SMALL), 0);
}
END_TEST

/* Damaged while it is open, even the right edge is known. */
START_TEST(a_node_damaged_under_way_makes_no_proof)
{
    struct merkle_hash a, b;

    append_many(2 * 1024 + SMALL);
    sync_tree();
    for (uint64_t at = HEADER_BYTES; at < HEADER_BYTES + 64 * 32; at += 32) {
        flip_byte(at);
        open_again();
        flip_byte(at); /* what matters was read: the end of the file */
        ck_assert_uint_eq(count_refusals(SMALL), 0);
        flip_byte(at);
        open_again();
        ck_assert_uint_gt(count_refusals(SMALL), 0);
        ck_assert(merkle_root(&in_file, merkle_size(&in_file), &a));
        ck_assert(merkle_root(&in_memory, merkle_size(&in_memory), &b));
        ck_assert(merkle_hash_equal(&a, &b));
        flip_byte(at);
    }
}
END_TEST

START_TEST(a_file_that_became_shorter_makes_no_proof)
{
    append_many(MANY);
    sync_tree();
    ck_assert_int_eq(truncate(path, HEADER_BYTES + 100 * 32 + 7), 0);
    ck_assert_uint_gt(count_refusals(60), 0);
    ck_assert_int_eq(merkle_damage(&in_file), KV_DATA_LOSS);
    ck_assert_int_eq(merkle_truncate(&in_file, 60), KV_DATA_LOSS);
    ck_assert_uint_eq(merkle_size(&in_file), MANY);
}
END_TEST

START_TEST(a_file_that_cannot_be_read_or_written_is_an_error)
{
    struct merkle_hash root;

    append_many(MANY);
    sync_tree();
    append_many(10);
    ck_assert_int_eq(close(in_file.nodes.fd), 0);
    ck_assert(!merkle_root(&in_file, 10, &root));
    ck_assert_int_eq(merkle_damage(&in_file), KV_IO);
    ck_assert_int_eq(merkle_sync(&in_file), KV_IO);
    ck_assert_int_eq(errno, EBADF);
    ck_assert_int_eq(merkle_truncate(&in_file, 10), KV_IO);
    ck_assert_uint_eq(merkle_size(&in_file), MANY + 10);
    ck_assert(merkle_root(&in_file, MANY + 10, &root));
}
END_TEST

/* A descriptor that takes writes and cannot be synced: a pipe cannot seek, and
 * /dev/full is always full. */
START_TEST(a_write_that_failed_may_be_tried_again)
{
    int full = open("/dev/full", O_RDWR | O_CLOEXEC);
    int own = in_file.nodes.fd;

    ck_assert_int_ge(full, 0);
    append_many(10);
    in_file.nodes.fd = full;
    ck_assert_int_eq(merkle_sync(&in_file), KV_IO);
    ck_assert_int_eq(errno, ENOSPC);
    in_file.nodes.fd = own;
    append_many(10);
    sync_tree();
    open_again();
    expect_same(10);
    close(full);
}
END_TEST

START_TEST(a_sync_that_failed_is_final)
{
    int null = open("/dev/null", O_RDWR | O_CLOEXEC);
    int own = in_file.nodes.fd;

    ck_assert_int_ge(null, 0);
    append_many(10);
    in_file.nodes.fd = null; /* fdatasync is EINVAL there */
    ck_assert_int_eq(merkle_sync(&in_file), KV_IO);
    in_file.nodes.fd = own;
    ck_assert_int_eq(merkle_sync(&in_file), KV_IO);
    expect_same(10); /* in memory it is all there */
    close(null);
}
END_TEST

/* ---- opening */

static void put_file(const void *bytes, size_t n_bytes)
{
    int fd = open(path, O_RDWR | O_TRUNC);

    ck_assert_int_ge(fd, 0);
    ck_assert_int_eq(write(fd, bytes, n_bytes), (ssize_t)n_bytes);
    close(fd);
}

START_TEST(a_file_of_something_else_is_refused)
{
    static const char other[] =
        "SQLite format 3 and so on, for some more bytes than a header has";
    struct merkle tree;

    put_file(other, sizeof other);
    ck_assert_int_eq(merkle_open_file(&tree, path, &error), KV_DATA_LOSS);
    ck_assert_ptr_nonnull(strstr(error.text, path));
    ck_assert_int_eq(merkle_open_file(&tree, dir, &error), KV_IO);
    ck_assert_int_eq(
        merkle_open_file(&tree, "/nowhere/tree", &error), KV_NOT_FOUND);
}
END_TEST

/* A crash within the first opening leaves a file without its header. */
START_TEST(a_file_that_was_never_made_whole_is_made_again)
{
    static const unsigned char zeroes[HEADER_BYTES + 64];
    struct merkle tree;

    for (size_t n = 0; n < HEADER_BYTES; n += 5) {
        put_file("kvpooltr\1\0\0\0 \0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0", n);
        ck_assert_int_eq(merkle_open_file(&tree, path, &error), KV_OK);
        ck_assert_uint_eq(merkle_size(&tree), 0);
        merkle_fini(&tree);
    }
    put_file(zeroes, sizeof zeroes);
    ck_assert_int_eq(merkle_open_file(&tree, path, &error), KV_OK);
    ck_assert_uint_eq(merkle_size(&tree), 0);
    merkle_fini(&tree);
    ck_assert_uint_eq(file_bytes(), HEADER_BYTES);
}
END_TEST

START_TEST(part_of_a_leafs_nodes_is_no_leaf)
{
    append_many(8);
    sync_tree();
    for (uint64_t bytes = file_bytes(); bytes > HEADER_BYTES; bytes -= 16) {
        uint64_t n_nodes = (bytes - HEADER_BYTES) / 32;

        merkle_fini(&in_file);
        ck_assert_int_eq(truncate(path, (off_t)bytes), 0);
        ck_assert_int_eq(merkle_open_file(&in_file, path, &error), KV_OK);
        truncate_both(n_nodes == 15   ? 8
                      : n_nodes >= 11 ? 7
                      : n_nodes >= 10 ? 6
                      : n_nodes >= 8  ? 5
                      : n_nodes >= 7  ? 4
                      : n_nodes >= 4  ? 3
                      : n_nodes >= 3  ? 2
                      : n_nodes >= 1  ? 1
                                      : 0);
        expect_same(3);
    }
}
END_TEST

START_TEST(a_view_writes_nothing)
{
    struct merkle view;
    struct merkle_hash a, b;
    uint64_t n_bytes;

    append_many(2000);
    sync_tree();
    append_many(1);
    n_bytes = file_bytes();
    ck_assert_int_eq(merkle_view_file(&view, path, &error), KV_OK);
    ck_assert_uint_eq(merkle_size(&view), 2000);
    ck_assert_int_eq(merkle_truncate(&view, 500), KV_OK);
    ck_assert(merkle_root(&view, 77, &a) && merkle_root(&in_memory, 77, &b));
    ck_assert(merkle_hash_equal(&a, &b));
    merkle_fini(&view);
    ck_assert_uint_eq(file_bytes(), n_bytes);
    unlink(path);
    ck_assert_int_eq(merkle_view_file(&view, path, &error), KV_NOT_FOUND);
    ck_assert_int_eq(access(path, F_OK), -1);
}
END_TEST

START_TEST(each_allocation_may_fail)
{
    struct merkle tree;
    int n = 0;

    append_many(1500);
    sync_tree();
    for (;; n++) {
        enum kv_status status;

        faulty_heap_fail_at(n);
        status = merkle_open_file(&tree, path, &error);
        faulty_heap_fail_at(-1);
        if (status == KV_OK)
            break;
        ck_assert_int_eq(status, KV_NO_MEMORY);
    }
    ck_assert_int_ge(n, 3);
    faulty_heap_fail_at(0);
    ck_assert_int_eq(merkle_truncate(&tree, 100), KV_NO_MEMORY);
    faulty_heap_fail_at(-1);
    ck_assert_uint_eq(merkle_size(&tree), 1500);
    merkle_fini(&tree);
    expect_same(10);
}
END_TEST

/* ---- two threads */

struct reader {
    _Atomic bool done;
    unsigned n_proofs;
};

static void *read_proofs(void *ctx)
{
    struct reader *reader = ctx;
    struct merkle_hasher own;
    struct merkle_hash first_root, root;
    struct merkle_path proof;

    ck_assert_int_eq(merkle_hasher_init(&own), KV_OK);
    while (!reader->done || reader->n_proofs == 0) {
        uint64_t n = merkle_size(&in_file), first = n / 3 + 1;

        if (n < 2)
            continue;
        ck_assert(merkle_root(&in_file, first, &first_root));
        ck_assert(merkle_root(&in_file, n, &root));
        ck_assert(merkle_prove_consistency(&in_file, first, n, &proof));
        ck_assert(merkle_verify_consistency(
            &own, first, n, &proof, &first_root, &root));
        reader->n_proofs++;
    }
    merkle_hasher_fini(&own);
    return NULL;
}

START_TEST(one_thread_appends_while_another_proves)
{
    struct reader reader = {.done = false};
    pthread_t thread;

    ck_assert_int_eq(pthread_create(&thread, NULL, read_proofs, &reader), 0);
    for (int i = 0; i < 40; i++) {
        append_many(100);
        sync_tree();
        if (i % 10 == 9) {
            append_many(50);
            ck_assert_int_eq(merkle_sync(&in_file), KV_OK);
        }
    }
    reader.done = true;
    ck_assert_int_eq(pthread_join(thread, NULL), 0);
    ck_assert_uint_gt(reader.n_proofs, 0);
    expect_same(20);
}
END_TEST

int main(void)
{
    const TTest *tests[] = {
        a_tree_in_a_file_is_the_tree_in_memory,
        roots_are_those_of_the_known_vectors,
        every_small_size_survives_being_opened_again,
        a_hash_may_be_made_elsewhere,
        memory_does_not_grow_with_the_tree,
        a_file_has_a_header_and_two_nodes_a_leaf,
        a_tree_goes_back_to_any_size_and_on_from_there,
        a_tree_does_not_go_back_to_more_than_there_is,
        what_was_not_synced_is_gone_and_in_nobodys_way,
        no_damaged_node_makes_a_proof,
        a_node_damaged_under_way_makes_no_proof,
        a_file_that_became_shorter_makes_no_proof,
        a_file_that_cannot_be_read_or_written_is_an_error,
        a_write_that_failed_may_be_tried_again,
        a_sync_that_failed_is_final,
        a_file_of_something_else_is_refused,
        a_file_that_was_never_made_whole_is_made_again,
        part_of_a_leafs_nodes_is_no_leaf,
        a_view_writes_nothing,
        each_allocation_may_fail,
        one_thread_appends_while_another_proves,
    };

    return CHECK_RUN("merkle_file", set_up, tear_down, tests);
}
