/* What becomes of a journal whose files were damaged while it was closed. */
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "receipts/journal_recover.h"
#include "receipts/journal_scan.h"
#include "tests/receipts/journal_rig.h"
#include "tests/support/check_main.h"
#include "tests/support/faulty_heap.h"

#define N_GROUPS 8
#define N_GROUP_RECEIPTS 8
#define N_RECEIPTS (N_GROUPS * N_GROUP_RECEIPTS)
#define SMALL_SEGMENT_BYTES 4096
#define RECEIPT_BYTES 8 /* short, so that every bit may be tried */

/* Under AddressSanitizer, where a start costs ten times as much, one bit of
 * every byte must do. */
#if defined(__SANITIZE_ADDRESS__)
#define STRIDE 8
#else
#define STRIDE 1
#endif

static struct journal_rig rig;

static void set_up(void)
{
    faulty_heap_install();
    journal_rig_init(&rig);
}

static void tear_down(void)
{
    journal_rig_fini(&rig);
    ck_assert_int_eq(faulty_heap_live(), 0);
}

/* ---- journals to damage */

static void write_groups(void)
{
    for (int i = 0; i < N_GROUPS; i++) {
        journal_rig_append(&rig, N_GROUP_RECEIPTS, RECEIPT_BYTES);
        ck_assert_int_eq(journal_rig_settle(&rig).state, JOURNAL_OK);
    }
}

/* A segment that is to be damaged, byte by byte. */
struct victim {
    char dir[192];
    struct journal_dir opened;
    char path[256];
    unsigned char *bytes;
    size_t n_bytes;
    size_t n_used; /* the rest are zeros */
    int fd;
};

static void open_victim(struct victim *victim)
{
    journal_rig_segment(victim->dir, 1, victim->path);
    victim->n_bytes = journal_rig_read_file(victim->path, &victim->bytes);
    for (victim->n_used = victim->n_bytes;
         victim->bytes[victim->n_used - 1] == 0;)
        victim->n_used--;
    /* The last commit ends with zeros of its own. */
    victim->n_used = (victim->n_used + 7) / 8 * 8;
    victim->fd = open(victim->path, O_RDWR | O_CLOEXEC);
    ck_assert_int_ge(victim->fd, 0);
    ck_assert_int_eq(
        journal_dir_open(&victim->opened, victim->dir, NULL), KV_OK);
}

static void close_victim(struct victim *victim)
{
    journal_dir_close(&victim->opened);
    close(victim->fd);
    free(victim->bytes);
}

/* As if segments were that small: the rest of the zeros would only take time.
 */
static void shrink(const char *dir)
{
    struct journal_header header;
    unsigned char *bytes;
    const char *why;
    char path[256];
    size_t n;

    journal_rig_segment(dir, 1, path);
    n = journal_rig_read_file(path, &bytes);
    ck_assert_uint_eq(n, JOURNAL_MIN_SEGMENT_BYTES);
    ck_assert(journal_header_parse(bytes, n, &header, &why));
    header.reserved_bytes = SMALL_SEGMENT_BYTES;
    journal_header_write(bytes, &header);
    journal_rig_write_file(path, bytes, SMALL_SEGMENT_BYTES);
    free(bytes);
}

/* What a crash leaves behind the eighth group. */
static void copy_crashed(struct victim *victim)
{
    journal_rig_copy(&rig, victim->dir);
    shrink(victim->dir);
    open_victim(victim);
}

static void make_crashed(struct victim *victim)
{
    journal_rig_must_open(&rig);
    write_groups();
    copy_crashed(victim);
}

static void make_clean(struct victim *victim)
{
    journal_rig_must_open(&rig);
    write_groups();
    journal_rig_close(&rig);
    journal_rig_copy(&rig, victim->dir);
    open_victim(victim);
    ck_assert_uint_eq(victim->n_bytes, victim->n_used);
}

static void write_back(const struct victim *victim, size_t from)
{
    ck_assert(journal_write(
        victim->fd, victim->bytes + from, victim->n_bytes - from, from));
}

/* ---- what recovery finds */

struct result {
    enum kv_status status;
    uint64_t last_sequence, n_seen, cut_bytes;
    struct kv_error error;
};

static void see(
    void *ctx, uint64_t sequence, const unsigned char *bytes, size_t n_bytes)
{
    unsigned char expected[JOURNAL_RIG_BYTES];
    struct result *result = ctx;

    journal_rig_receipt(sequence, expected);
    if (n_bytes != RECEIPT_BYTES || memcmp(bytes, expected, n_bytes) != 0 ||
        sequence != ++result->n_seen)
        ck_abort_msg("receipt %u was invented", (unsigned)sequence);
}

static struct result recover(const struct victim *victim)
{
    struct result result = {.error.text = ""};
    const struct journal_visitor visitor = {see, &result};
    struct journal_found found;
    struct merkle tree;

    result.status = journal_recover(
        &found, &tree, &victim->opened, &visitor, &result.error);
    if (result.status == KV_OK) {
        merkle_fini(&tree);
        result.last_sequence = found.next_sequence - 1;
        result.cut_bytes = found.cut_bytes;
        if (result.n_seen != result.last_sequence)
            ck_abort_msg("not every receipt was seen");
    } else if (result.status != KV_DATA_LOSS ||
               strstr(result.error.text, victim->dir) == NULL) {
        ck_abort_msg("what, and in which file? %s", result.error.text);
    }
    journal_found_fini(&found);
    return result;
}

START_TEST(a_segment_that_is_cut_short_is_refused_wherever_it_was_cut)
{
    struct victim victim;

    make_crashed(&victim);
    for (size_t n = victim.n_used + 64; n-- > 0;) {
        ck_assert_int_eq(ftruncate(victim.fd, (off_t)n), 0);
        ck_assert_int_eq(recover(&victim).status, KV_DATA_LOSS);
    }
    write_back(&victim, 0);
    ck_assert_uint_eq(recover(&victim).last_sequence, N_RECEIPTS);
    close_victim(&victim);
}
END_TEST

START_TEST(a_clean_segment_that_is_cut_short_is_refused)
{
    struct victim victim;

    make_clean(&victim);
    for (size_t n = victim.n_used; n-- > 0;) {
        ck_assert_int_eq(ftruncate(victim.fd, (off_t)n), 0);
        ck_assert_int_eq(recover(&victim).status, KV_DATA_LOSS);
    }
    close_victim(&victim);
}
END_TEST

/* Where each group ends. */
static size_t find_group_end(const struct victim *victim, uint64_t group)
{
    size_t at = JOURNAL_HEADER_BYTES;

    for (uint64_t n = 0; n < group;) {
        struct journal_record record;

        journal_record_peek(victim->bytes + at, &record);
        at += record.n_bytes;
        n += record.type == JOURNAL_COMMIT;
    }
    return at;
}

/* A disk that lost what it said was written is not told from one that tore its
 * last group, but for what the identity vouches: the first group here. Nothing
 * is ever invented, and of a group there is all or nothing. */
START_TEST(a_group_that_is_not_whole_is_cut_whole)
{
    struct victim victim;
    uint64_t n_whole = N_GROUPS;

    make_crashed(&victim);
    for (size_t n = victim.n_used; n-- > 0;) {
        bool was_zero = victim.bytes[n] == 0;
        struct result result;

        ck_assert(journal_write_zeros(victim.fd, n, n + 1));
        if (n_whole > 0 && n < find_group_end(&victim, n_whole) && !was_zero)
            n_whole--;
        while (n_whole > 0 && n < find_group_end(&victim, n_whole - 1))
            n_whole--;
        result = recover(&victim);
        if (n_whole == 0) {
            ck_assert_int_eq(result.status, KV_DATA_LOSS);
            continue;
        }
        ck_assert_int_eq(result.status, KV_OK);
        ck_assert_uint_eq(result.last_sequence, n_whole * N_GROUP_RECEIPTS);
    }
    close_victim(&victim);
}
END_TEST

/* Every bit of the segment, one at a time; with a stride of 8, one bit of every
 * byte, another one each time. */
static void flip_bits(const struct victim *victim, size_t stride,
    void (*expect)(const struct result *result))
{
    for (size_t i = 0; i < victim->n_used; i++) {
        for (size_t bit = i % stride; bit < 8; bit += stride) {
            unsigned char flipped =
                (unsigned char)(victim->bytes[i] ^ 1u << bit);
            struct result result;

            if (!journal_write(victim->fd, &flipped, 1, i))
                ck_abort_msg("cannot flip a bit");
            result = recover(victim);
            expect(&result);
        }
        if (!journal_write(victim->fd, victim->bytes + i, 1, i))
            ck_abort_msg("cannot flip a bit back");
    }
    ck_assert_int_eq(recover(victim).status, KV_OK);
}

static void expect_refused(const struct result *result)
{
    if (result->status != KV_DATA_LOSS)
        ck_abort_msg("a flipped bit was not noticed");
}

static void expect_cut_or_refused(const struct result *result)
{
    if (result->status == KV_OK &&
        (result->last_sequence != N_RECEIPTS - N_GROUP_RECEIPTS ||
            result->cut_bytes == 0))
        ck_abort_msg("a flipped bit was not noticed");
}

START_TEST(a_flipped_bit_of_a_crashed_journal_is_cut_or_refused)
{
    struct victim victim;

    make_crashed(&victim);
    flip_bits(&victim, STRIDE, expect_cut_or_refused);
    close_victim(&victim);
}
END_TEST

START_TEST(a_flipped_bit_of_a_clean_journal_is_refused)
{
    struct victim victim;

    make_clean(&victim);
    flip_bits(&victim, 8, expect_refused);
    close_victim(&victim);
}
END_TEST

START_TEST(a_flipped_bit_under_a_checkpoint_is_refused)
{
    struct victim victim;

    journal_rig_must_open(&rig);
    write_groups();
    journal_rig_sign(&rig);
    while (journal_rig_file_bytes(rig.dir, JOURNAL_NOTES_FILE) == 0)
        usleep(100);
    copy_crashed(&victim);
    flip_bits(&victim, 8, expect_refused);
    close_victim(&victim);
}
END_TEST

/* Every bit of another file; what is found must satisfy `expect`. */
static void flip_file(const struct victim *victim, const char *name,
    void (*expect)(const struct result *result))
{
    unsigned char *bytes;
    char path[256];
    size_t n;

    snprintf(path, sizeof path, "%s/%s", victim->dir, name);
    n = journal_rig_read_file(path, &bytes);
    ck_assert_uint_gt(n, 0);
    for (size_t bit = 0; bit < 8 * n; bit += STRIDE == 1 ? 1 : STRIDE + 1) {
        struct result result;

        bytes[bit / 8] ^= (unsigned char)(1u << bit % 8);
        journal_rig_write_file(path, bytes, n);
        result = recover(victim);
        expect(&result);
        bytes[bit / 8] ^= (unsigned char)(1u << bit % 8);
    }
    journal_rig_write_file(path, bytes, n);
    free(bytes);
}

START_TEST(a_flipped_bit_of_identity_or_checkpoints_is_refused)
{
    struct victim victim;

    journal_rig_must_open(&rig);
    write_groups();
    journal_rig_sign(&rig);
    journal_rig_close(&rig);
    journal_rig_copy(&rig, victim.dir);
    open_victim(&victim);
    flip_file(&victim, JOURNAL_IDENTITY_FILE, expect_refused);
    flip_file(&victim, JOURNAL_NOTES_FILE, expect_refused);
    ck_assert_int_eq(recover(&victim).status, KV_OK);
    close_victim(&victim);
}
END_TEST

static void expect_whole(const struct result *result)
{
    ck_assert_msg(result->status == KV_OK, "%s", result->error.text);
    ck_assert_uint_eq(result->last_sequence, N_RECEIPTS);
}

/* The tree is made again from the receipts. */
START_TEST(a_flipped_bit_of_the_tree_loses_nothing_while_receipts_are_there)
{
    struct victim victim;

    make_clean(&victim);
    flip_file(&victim, JOURNAL_TREE_FILE, expect_whole);
    close_victim(&victim);
}
END_TEST

START_TEST(a_journal_without_one_of_its_files_is_refused)
{
    const char *names[] = {
        "00000000000000000001.log", JOURNAL_IDENTITY_FILE, JOURNAL_NOTES_FILE};

    for (size_t i = 0; i < sizeof names / sizeof *names; i++) {
        struct victim victim;
        char path[256];

        journal_rig_must_open(&rig);
        if (i == 0)
            write_groups();
        journal_rig_sign(&rig);
        journal_rig_close(&rig);
        journal_rig_copy(&rig, victim.dir);
        open_victim(&victim);
        snprintf(path, sizeof path, "%s/%s", victim.dir, names[i]);
        ck_assert_int_eq(unlink(path), 0);
        ck_assert_int_eq(recover(&victim).status, KV_DATA_LOSS);
        close_victim(&victim);
    }
}
END_TEST

START_TEST(a_segment_of_another_ledger_is_refused)
{
    unsigned char *bytes;
    char path[256];
    size_t n;

    journal_rig_must_open(&rig);
    journal_rig_write(&rig, 3);
    journal_rig_close(&rig);
    journal_rig_segment(rig.dir, 1, path);
    n = journal_rig_read_file(path, &bytes);
    journal_rig_remove(rig.dir);
    journal_rig_must_open(&rig);
    journal_rig_write(&rig, 3);
    journal_rig_close(&rig);
    journal_rig_write_file(path, bytes, n);
    free(bytes);
    ck_assert_int_eq(journal_rig_open(&rig), KV_DATA_LOSS);
    ck_assert_ptr_nonnull(strstr(rig.error.text, "another ledger"));
    ck_assert_ptr_nonnull(strstr(rig.error.text, "--accept-loss"));
}
END_TEST

START_TEST(a_torn_tail_is_cut_and_the_ledger_goes_on)
{
    struct victim victim;
    size_t end;

    make_crashed(&victim);
    journal_rig_close(&rig);
    end = find_group_end(&victim, N_GROUPS - 1);
    /* The last group's commit was not written. */
    ck_assert(journal_write_zeros(victim.fd,
        victim.n_used - journal_record_bytes(JOURNAL_COMMIT_BYTES),
        victim.n_used));
    snprintf(rig.dir, sizeof rig.dir, "%s", victim.dir);
    journal_rig_must_open(&rig);
    ck_assert(!rig.start.clean);
    ck_assert_uint_eq(rig.start.cut_bytes,
        victim.n_used - journal_record_bytes(JOURNAL_COMMIT_BYTES) - end);
    ck_assert_uint_eq(rig.start.last_sequence, N_RECEIPTS - N_GROUP_RECEIPTS);
    ck_assert_uint_eq(rig.n_seen, rig.start.last_sequence);
    journal_rig_write(&rig, 5);
    journal_rig_close(&rig);
    journal_rig_must_open(&rig);
    ck_assert_uint_eq(rig.start.cut_bytes, 0);
    ck_assert_uint_eq(
        rig.start.last_sequence, N_RECEIPTS - N_GROUP_RECEIPTS + 5);
    close_victim(&victim);
}
END_TEST

START_TEST(an_accepted_loss_sets_the_ledger_aside_and_begins_a_new_one)
{
    struct journal_scan_receipt receipt;
    struct journal_scan *scan;
    struct victim victim;
    char aside[320];

    make_clean(&victim);
    close_victim(&victim);
    journal_rig_segment(rig.dir, 1, victim.path);
    victim.n_bytes = journal_rig_read_file(victim.path, &victim.bytes);
    victim.bytes[find_group_end(&victim, 2) + 30] ^= 1;
    journal_rig_write_file(victim.path, victim.bytes, victim.n_bytes);
    free(victim.bytes);
    ck_assert_int_eq(journal_rig_open(&rig), KV_DATA_LOSS);

    rig.config.accept_loss = true;
    journal_rig_must_open(&rig);
    ck_assert(rig.start.loss_accepted);
    ck_assert_uint_eq(rig.start.lost_first, 2 * N_GROUP_RECEIPTS + 1);
    ck_assert_uint_eq(rig.start.lost_last, N_RECEIPTS);
    ck_assert_ptr_nonnull(strstr(rig.start.lost_detail, "at byte"));
    ck_assert_uint_eq(rig.start.epoch, 1);
    ck_assert_uint_eq(rig.start.last_sequence, 0);
    ck_assert_uint_eq(rig.n_seen, 0);
    ck_assert_mem_ne(rig.start.pool_id, rig.start.lost_pool_id, 16);
    journal_rig_write(&rig, 3);
    snprintf(aside, sizeof aside, "%s.lost-%02x%02x%02x%02x-%lld", rig.dir,
        rig.start.lost_pool_id[0], rig.start.lost_pool_id[1],
        rig.start.lost_pool_id[2], rig.start.lost_pool_id[3],
        (long long)(rig.config.wall_ns() / 1000000000));
    ck_assert_int_eq(journal_scan_open(&scan, aside, &rig.error), KV_OK);
    for (uint64_t i = 1; i <= 2 * N_GROUP_RECEIPTS; i++)
        ck_assert_int_eq(journal_scan_next(scan, &receipt, &rig.error), KV_OK);
    ck_assert_int_eq(
        journal_scan_next(scan, &receipt, &rig.error), KV_DATA_LOSS);
    journal_scan_close(scan);

    journal_rig_close(&rig);
    journal_rig_must_open(&rig);
    ck_assert(!rig.start.loss_accepted);
    ck_assert_uint_eq(rig.start.last_sequence, 3);
    ck_assert_uint_eq(rig.n_seen, 3);
}
END_TEST

int main(void)
{
    const TTest *tests[] = {
        a_segment_that_is_cut_short_is_refused_wherever_it_was_cut,
        a_clean_segment_that_is_cut_short_is_refused,
        a_group_that_is_not_whole_is_cut_whole,
        a_flipped_bit_of_a_crashed_journal_is_cut_or_refused,
        a_flipped_bit_of_a_clean_journal_is_refused,
        a_flipped_bit_under_a_checkpoint_is_refused,
        a_flipped_bit_of_identity_or_checkpoints_is_refused,
        a_flipped_bit_of_the_tree_loses_nothing_while_receipts_are_there,
        a_journal_without_one_of_its_files_is_refused,
        a_segment_of_another_ledger_is_refused,
        a_torn_tail_is_cut_and_the_ledger_goes_on,
        an_accepted_loss_sets_the_ledger_aside_and_begins_a_new_one,
    };

    return CHECK_RUN("journal_damage", set_up, tear_down, tests);
}
