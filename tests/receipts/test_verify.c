/* A ledger's directory is verified, and whatever is done to it is found. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "receipts/verify.h"
#include "tests/receipts/journal_rig.h"
#include "tests/receipts/ledger_files.h"
#include "tests/support/check_main.h"
#include "tests/support/faulty_heap.h"

/* KVPOOL_TAMPERINGS asks for more of them. */
#define DEFAULT_TAMPERINGS 10000

#define N_EPOCHS 3
#define N_RECEIPTS 120

static struct journal_rig rig;
static struct checkpoint_signer signer, stranger;
static struct checkpoint newest;
static struct ledger_files whole;
static char copy[192], scratch[224];
static struct verify_report report;
static struct kv_error error;

/* ---- a ledger */

static void keep_checkpoint(void)
{
    struct checkpoint_origin origin = checkpoint_origin_of(rig.start.pool_id);
    struct checkpoint_note note;

    snprintf(newest.origin, sizeof newest.origin, "%s", origin.s);
    newest.tree_size = journal_rig_settle(&rig).durable_sequence;
    ck_assert(
        merkle_root(journal_tree(rig.journal), newest.tree_size, &newest.root));
    checkpoint_sign(&signer, &newest, &note);
    journal_keep_checkpoint(
        rig.journal, note.bytes, note.n_bytes, newest.tree_size);
}

/* One checkpoint an epoch, at its end; and one before it where a newer one may
 * not take its place, which closing sees to. */
static void write_epoch(size_t n)
{
    journal_rig_must_open(&rig);
    journal_rig_write(&rig, n / 2);
    journal_rig_append(&rig, n - n / 2, 0);
    ck_assert_int_eq(
        journal_set_cursor(rig.journal, "a sink", rig.sequence / 2), KV_OK);
    keep_checkpoint();
    journal_rig_close(&rig);
}

static void set_up(void)
{
    faulty_heap_install();
    journal_rig_init(&rig);
    ck_assert_int_eq(
        checkpoint_signer_generate(&signer, "ledger", NULL), KV_OK);
    ck_assert_int_eq(
        checkpoint_signer_generate(&stranger, "ledger", NULL), KV_OK);
    for (size_t i = 0; i < N_EPOCHS; i++)
        write_epoch(N_RECEIPTS / N_EPOCHS);
    journal_rig_copy(&rig, copy);
    snprintf(scratch, sizeof scratch, "%s/scratch", rig.parent);
    ledger_files_read(&whole, copy);
}

static void tear_down(void)
{
    ledger_files_free(&whole);
    journal_rig_remove(copy);
    journal_rig_fini(&rig);
    ck_assert_int_eq(faulty_heap_live(), 0);
}

static enum kv_status verify(
    const struct checkpoint_key *key, const struct checkpoint *old)
{
    struct verify_request request = {.dir = copy, .key = key, .old = old};

    error.text[0] = '\0';
    return verify_directory(&request, &report, &error);
}

static void expect_damage(const char *words)
{
    ck_assert_int_eq(verify(&signer.key, &newest), KV_DATA_LOSS);
    ck_assert_msg(strstr(error.text, words) != NULL, "\"%s\" is not in \"%s\"",
        words, error.text);
}

/* ---- what is whole */

START_TEST(a_ledger_that_nobody_touched_is_as_it_was_signed)
{
    ck_assert_msg(verify(&signer.key, &newest) == KV_OK, "%s", error.text);
    ck_assert_uint_eq(report.first_sequence, 1);
    ck_assert_uint_eq(report.last_sequence, N_RECEIPTS);
    ck_assert_uint_eq(report.n_checkpoints, N_EPOCHS);
    ck_assert_uint_eq(report.newest.tree_size, N_RECEIPTS);
    ck_assert_uint_eq(report.n_tree_leaves, N_RECEIPTS);
    ck_assert(!report.old_is_newest);
    ck_assert_mem_eq(report.pool_id, rig.start.pool_id, 16);
    ck_assert_int_eq(verify(NULL, NULL), KV_OK);
}
END_TEST

START_TEST(receipts_behind_the_newest_checkpoint_are_told_apart)
{
    journal_rig_must_open(&rig);
    journal_rig_write(&rig, 7);
    journal_rig_close(&rig);
    journal_rig_copy(&rig, copy);
    ck_assert_msg(verify(&signer.key, &newest) == KV_OK, "%s", error.text);
    ck_assert_uint_eq(report.last_sequence, N_RECEIPTS + 7);
    ck_assert_uint_eq(report.newest.tree_size, N_RECEIPTS);
}
END_TEST

START_TEST(an_open_journal_is_verified_over_its_shoulder)
{
    struct verify_request request = {
        .dir = rig.dir, .key = &signer.key, .old = &newest};

    journal_rig_must_open(&rig);
    for (size_t i = 0; i < 20; i++) {
        journal_rig_append(&rig, 50, 0);
        if (i % 3 == 0)
            keep_checkpoint();
        ck_assert_msg(verify_directory(&request, &report, &error) == KV_OK,
            "%s", error.text);
    }
    journal_rig_close(&rig);
}
END_TEST

START_TEST(a_directory_without_a_ledger_has_none)
{
    struct verify_request request = {.dir = rig.parent};

    ck_assert_int_eq(verify_directory(&request, &report, &error), KV_NOT_FOUND);
    request.dir = "/nowhere";
    ck_assert_int_eq(verify_directory(&request, &report, &error), KV_NOT_FOUND);
}
END_TEST

/* Retention: whole segments are gone, and their hashes stay. */
START_TEST(what_retention_removed_is_stood_for_by_the_tree)
{
    char path[256];

    for (uint64_t first = 1; first <= N_RECEIPTS;
         first += N_RECEIPTS / N_EPOCHS) {
        ck_assert_msg(verify(&signer.key, &newest) == KV_OK, "%s", error.text);
        ck_assert_uint_eq(report.first_sequence, first);
        ck_assert_uint_eq(report.last_sequence, N_RECEIPTS);
        ck_assert_uint_eq(report.n_checkpoints, N_EPOCHS);
        if (first + N_RECEIPTS / N_EPOCHS > N_RECEIPTS)
            break;
        journal_rig_segment(copy, first, path);
        ck_assert_int_eq(unlink(path), 0);
    }
    snprintf(path, sizeof path, "%s/tree", copy);
    ck_assert_int_eq(unlink(path), 0);
    expect_damage("what stands for those before it is missing");
}
END_TEST

START_TEST(without_its_tree_a_whole_ledger_can_still_be_verified)
{
    char path[256];

    snprintf(path, sizeof path, "%s/tree", copy);
    ck_assert_int_eq(unlink(path), 0);
    ck_assert_int_eq(verify(&signer.key, &newest), KV_OK);
    ck_assert(!report.has_tree);
}
END_TEST

static bool stop(void *ctx, uint64_t sequence)
{
    (void)sequence;
    ++*(unsigned *)ctx;
    return false;
}

START_TEST(whoever_asks_may_end_it)
{
    unsigned n_calls = 0;
    struct verify_request request = {
        .dir = rig.dir, .on_progress = stop, .ctx = &n_calls};

    journal_rig_must_open(&rig);
    journal_rig_append(&rig, 5000, 0);
    journal_rig_close(&rig);
    ck_assert_int_eq(verify_directory(&request, &report, &error), KV_CLOSED);
    ck_assert_uint_eq(n_calls, 1);
}
END_TEST

START_TEST(each_allocation_may_fail)
{
    int n = 0;

    for (;; n++) {
        enum kv_status status;

        faulty_heap_fail_at(n);
        status = verify(&signer.key, &newest);
        faulty_heap_fail_at(-1);
        if (status == KV_OK)
            break;
        ck_assert_int_eq(status, KV_NO_MEMORY);
        ck_assert_str_ne(error.text, "");
    }
    ck_assert_int_ge(n, 5);
}
END_TEST

/* ---- what is found, and how it is told */

static struct ledger_files tampered;

static void tamper_begin(void)
{
    ledger_files_copy(&tampered, &whole);
}

static void tamper_end(void)
{
    ledger_files_write(&tampered, copy);
    ledger_files_free(&tampered);
}

/* A receipt whose bytes are others, and all but the signature made to fit. */
static void replace_receipt(size_t nth_segment, size_t nth)
{
    static unsigned char other[JOURNAL_RIG_BYTES];
    struct ledger_segment segment;
    struct journal_record *record;

    ledger_segment_read(&segment, &tampered.at[nth_segment]);
    record = &segment.records[ledger_segment_receipt(&segment, nth)];
    memcpy(other, record->payload, record->n_payload);
    other[record->n_payload - 1] ^= 1;
    record->payload = other;
    ledger_segment_write(&segment, &tampered.at[nth_segment]);
}

START_TEST(a_changed_receipt_is_named_with_its_file_and_offset)
{
    tamper_begin();
    replace_receipt(1, 3);
    tamper_end();
    expect_damage("receipt 44 (00000000000000000041.log, offset ");
    expect_damage("is not the one that was signed");
}
END_TEST

START_TEST(a_changed_receipt_is_found_though_the_tree_was_built_anew)
{
    tamper_begin();
    replace_receipt(1, 3);
    ledger_files_build_tree(&tampered, scratch);
    tamper_end();
    expect_damage("receipts 41 to 80 are not those of its checkpoint");
}
END_TEST

START_TEST(a_damaged_tree_is_not_blamed_on_the_receipts)
{
    struct ledger_file *tree;

    tamper_begin();
    tree = ledger_files_find(&tampered, "tree");
    tree->bytes[32 + 32 * 20 + 5] ^= 4;
    tree->changed = true;
    tamper_end();
    expect_damage("tree: the node at offset 672 is not what receipt ");
}
END_TEST

START_TEST(another_key_has_not_signed_it)
{
    ck_assert_int_eq(verify(&stranger.key, NULL), KV_DATA_LOSS);
    ck_assert_ptr_nonnull(strstr(error.text, "checkpoint 1: "));
}
END_TEST

START_TEST(a_checkpoint_of_another_ledger_says_nothing_of_this_one)
{
    struct checkpoint other = newest;

    snprintf(other.origin, sizeof other.origin, "kvpool/other");
    ck_assert_int_eq(verify(&signer.key, &other), KV_DATA_LOSS);
    ck_assert_ptr_nonnull(strstr(error.text, "of another ledger"));
}
END_TEST

/* ---- whatever is done to it */

static uint64_t random_state;

static size_t random_below(size_t n)
{
    random_state ^= random_state << 13;
    random_state ^= random_state >> 7;
    random_state ^= random_state << 17;
    return (size_t)(random_state % n);
}

static struct ledger_file *random_segment(void)
{
    return &tampered.at[random_below(ledger_files_n_segments(&tampered))];
}

static struct ledger_file *last_segment(void)
{
    return &tampered.at[ledger_files_n_segments(&tampered) - 1];
}

static void flip_bit(struct ledger_file *file, size_t begin, size_t end)
{
    size_t at = begin + random_below(end - begin);

    file->bytes[at] ^= (unsigned char)(1 << random_below(8));
    file->changed = true;
}

static void flip_segment(void)
{
    struct ledger_file *file = random_segment();
    struct journal_header header;
    const char *why;

    ck_assert(journal_header_parse(file->bytes, file->n, &header, &why));
    flip_bit(file, 0,
        ledger_file_end(file, JOURNAL_HEADER_BYTES, journal_seed(header.id)));
}

static void flip_tree(void)
{
    struct ledger_file *file = ledger_files_find(&tampered, "tree");

    flip_bit(file, 0, file->n);
}

static void flip_checkpoints(void)
{
    struct ledger_file *file = ledger_files_find(&tampered, "checkpoints");

    flip_bit(file, 0, file->n);
}

static void flip_identity(void)
{
    struct ledger_file *file = ledger_files_find(&tampered, "ledger");

    flip_bit(file, 0, file->n);
}

/* Behind the last receipt and the commit of its group there may be groups of
 * sinks' positions alone, which nobody signs. */
static size_t receipts_end(const struct ledger_segment *segment)
{
    size_t n_receipts = ledger_segment_n_receipts(segment);
    size_t last = ledger_segment_receipt(segment, n_receipts - 1);
    size_t end = JOURNAL_HEADER_BYTES, i = 0;

    while (i <= last || segment->records[i - 1].type != JOURNAL_COMMIT)
        end += segment->records[i++].n_bytes;
    return end;
}

static void cut_segment(void)
{
    struct ledger_file *file = random_segment();
    struct ledger_segment segment;

    ledger_segment_read(&segment, file);
    file->n = random_below(receipts_end(&segment));
    file->changed = true;
}

static void cut_checkpoints(void)
{
    struct ledger_file *file = ledger_files_find(&tampered, "checkpoints");

    file->n = random_below(file->n);
    file->changed = true;
}

static struct journal_record *random_receipt(
    struct ledger_segment *segment, struct ledger_file *file)
{
    size_t n;

    ledger_segment_read(segment, file);
    n = random_below(ledger_segment_n_receipts(segment));
    return &segment->records[ledger_segment_receipt(segment, n)];
}

static void maybe_build_tree(void)
{
    if (random_below(2) == 0)
        ledger_files_build_tree(&tampered, scratch);
}

/* A bit of a receipt, with its CRC made right. */
static void change_receipt(void)
{
    struct ledger_file *file = random_segment();
    struct ledger_segment segment;
    struct journal_record *record = random_receipt(&segment, file);
    unsigned char other[JOURNAL_RIG_BYTES];

    memcpy(other, record->payload, record->n_payload);
    other[random_below(record->n_payload)] ^=
        (unsigned char)(1 << random_below(8));
    record->payload = other;
    ledger_segment_write(&segment, file);
    maybe_build_tree();
}

static void swap_receipts(void)
{
    struct ledger_file *file = random_segment();
    struct ledger_segment segment;
    struct journal_record *a = random_receipt(&segment, file), *b;
    struct journal_record kept = *a;
    size_t n = ledger_segment_n_receipts(&segment);

    do
        b = &segment.records[ledger_segment_receipt(&segment, random_below(n))];
    while (a == b);
    a->payload = b->payload;
    a->n_payload = b->n_payload;
    b->payload = kept.payload;
    b->n_payload = kept.n_payload;
    if (random_below(4) == 0) { /* with their numbers */
        a->sequence = b->sequence;
        b->sequence = kept.sequence;
    }
    ledger_segment_write(&segment, file);
    maybe_build_tree();
}

static void remove_record(struct ledger_segment *segment, size_t at)
{
    memmove(&segment->records[at], &segment->records[at + 1],
        (--segment->n - at) * sizeof *segment->records);
}

static void remove_receipt(void)
{
    bool hides = random_below(2) == 0;
    struct ledger_file *file = hides ? last_segment() : random_segment();
    struct ledger_segment segment;
    struct journal_record *record = random_receipt(&segment, file);

    remove_record(&segment, (size_t)(record - segment.records));
    if (hides)
        ledger_segment_renumber(&segment);
    ledger_segment_write(&segment, file);
    maybe_build_tree();
    if (hides)
        ledger_files_fix_identity(&tampered);
}

/* A receipt twice, the rest renumbered: one more than was signed, or as many,
 * if the last one goes. */
static void repeat_receipt(void)
{
    struct ledger_file *file = last_segment();
    struct ledger_segment segment;
    struct journal_record *record = random_receipt(&segment, file);
    size_t at = (size_t)(record - segment.records);
    bool same_length = random_below(2) == 0;

    memmove(&segment.records[at + 1], &segment.records[at],
        (segment.n++ - at) * sizeof *segment.records);
    if (same_length)
        remove_record(&segment, ledger_segment_receipt(&segment,
                                    ledger_segment_n_receipts(&segment) - 1));
    ledger_segment_renumber(&segment);
    ledger_segment_write(&segment, file);
    maybe_build_tree();
    ledger_files_fix_identity(&tampered);
}

static uint32_t notes_seed(void)
{
    return journal_notes_seed(rig.start.pool_id);
}

/* A note's text, with its CRC made right. */
static void edit_checkpoint(void)
{
    struct ledger_file *file = ledger_files_find(&tampered, "checkpoints");
    size_t nth = random_below(N_EPOCHS), at = 0;
    struct journal_record record;
    unsigned char note[CHECKPOINT_NOTE_BYTES];

    do {
        ck_assert_int_eq(journal_record_parse(file->bytes + at, file->n - at,
                             notes_seed(), &record),
            JOURNAL_PARSED);
        at += record.n_bytes;
    } while (nth-- > 0);
    memcpy(note, record.payload, record.n_payload);
    note[random_below(record.n_payload)] ^=
        (unsigned char)(1 << random_below(8));
    record.payload = note;
    journal_record_write(
        file->bytes + at - record.n_bytes, &record, notes_seed());
    file->changed = true;
}

/* The newest ones are taken away, as if they had never been. */
static void put_old_checkpoint_back(void)
{
    struct ledger_file *file = ledger_files_find(&tampered, "checkpoints");
    size_t n_left = random_below(N_EPOCHS), at = 0;
    struct journal_record record;

    while (n_left-- > 0) {
        ck_assert_int_eq(journal_record_parse(file->bytes + at, file->n - at,
                             notes_seed(), &record),
            JOURNAL_PARSED);
        at += record.n_bytes;
    }
    file->n = at;
    file->changed = true;
    if (random_below(2) == 0)
        ledger_files_fix_identity(&tampered);
}

/* All of it as it was at an earlier checkpoint: only who kept a newer one can
 * tell. */
static void set_back(void)
{
    struct ledger_segment segment;
    size_t n = ledger_files_n_segments(&tampered), n_left;
    size_t last = random_below(n);
    struct ledger_file *notes = ledger_files_find(&tampered, "checkpoints");
    size_t at = 0;
    struct journal_record record;

    for (size_t i = 0; i <= last; i++) {
        ck_assert_int_eq(journal_record_parse(notes->bytes + at, notes->n - at,
                             notes_seed(), &record),
            JOURNAL_PARSED);
        at += i < last ? record.n_bytes : 0;
    }
    notes->n = at; /* one fewer: the last segment may be cut anywhere */
    notes->changed = true;
    ledger_segment_read(&segment, &tampered.at[last]);
    n_left = 1 + random_below(segment.n - 1);
    while (n_left > 0 && segment.records[n_left - 1].type != JOURNAL_COMMIT)
        n_left--;
    segment.n = n_left;
    if (n_left == 0)
        return; /* the notes alone, then */
    ledger_segment_write(&segment, &tampered.at[last]);
    for (size_t i = n - 1; i > last; i--) { /* empty their names */
        char path[256];

        snprintf(path, sizeof path, "%s/%s", copy, tampered.at[i].name);
        unlink(path);
        free(tampered.at[i].bytes);
        memmove(&tampered.at[i], &tampered.at[i + 1],
            (--tampered.n - i) * sizeof *tampered.at);
    }
    ledger_files_build_tree(&tampered, scratch);
    ledger_files_fix_identity(&tampered);
}

/* Receipts changed, and all checkpoints from there on signed again by somebody
 * who calls himself the same. */
static void sign_by_stranger(void)
{
    struct ledger_file *file = ledger_files_find(&tampered, "checkpoints");
    unsigned char notes[N_EPOCHS * CHECKPOINT_NOTE_BYTES];
    size_t n_notes = 0;
    struct merkle tree;

    replace_receipt(random_below(N_EPOCHS), random_below(10));
    ledger_files_build_tree(&tampered, scratch);
    ck_assert_int_eq(merkle_view_file(&tree, scratch, NULL), KV_OK);
    for (uint64_t size = N_RECEIPTS / N_EPOCHS; size <= N_RECEIPTS;
         size += N_RECEIPTS / N_EPOCHS) {
        struct checkpoint forged = newest;
        struct checkpoint_note note;
        struct journal_record record = {
            .sequence = size, .type = JOURNAL_CHECKPOINT};

        forged.tree_size = size;
        ck_assert(merkle_root(&tree, size, &forged.root));
        checkpoint_sign(&stranger, &forged, &note);
        record.payload = (const unsigned char *)note.bytes;
        record.n_payload = note.n_bytes;
        n_notes += journal_record_write(notes + n_notes, &record, notes_seed());
    }
    merkle_fini(&tree);
    ledger_file_set(file, notes, n_notes);
    ledger_files_fix_identity(&tampered);
}

/* A segment is not there. */
static void remove_segment(void)
{
    size_t n = ledger_files_n_segments(&tampered);
    size_t nth = 1 + random_below(n - 1); /* the oldest may be: retention */
    char path[256];

    snprintf(path, sizeof path, "%s/%s", copy, tampered.at[nth].name);
    ck_assert_int_eq(unlink(path), 0);
}

/* Two segments' contents under each other's names. */
static void swap_segments(void)
{
    size_t n = ledger_files_n_segments(&tampered);
    size_t a = random_below(n), b = (a + 1 + random_below(n - 1)) % n;
    struct ledger_file kept = tampered.at[a];

    tampered.at[a].bytes = tampered.at[b].bytes;
    tampered.at[a].n = tampered.at[b].n;
    tampered.at[b].bytes = kept.bytes;
    tampered.at[b].n = kept.n;
    tampered.at[a].changed = tampered.at[b].changed = true;
}

static const struct {
    const char *name;
    void (*tamper)(void);
} tamperings[] = {
    {"a bit of a segment", flip_segment},
    {"a bit of the tree", flip_tree},
    {"a bit of the checkpoints", flip_checkpoints},
    {"a bit of the identity", flip_identity},
    {"a segment cut", cut_segment},
    {"checkpoints cut", cut_checkpoints},
    {"a receipt changed", change_receipt},
    {"receipts swapped", swap_receipts},
    {"a receipt removed", remove_receipt},
    {"a receipt repeated", repeat_receipt},
    {"a checkpoint edited", edit_checkpoint},
    {"an old checkpoint put back", put_old_checkpoint_back},
    {"all of it set back", set_back},
    {"signed by a stranger", sign_by_stranger},
    {"a segment removed", remove_segment},
    {"segments swapped", swap_segments},
};
#define N_KINDS (sizeof tamperings / sizeof *tamperings)

static bool is_same(void)
{
    for (size_t i = 0; i < whole.n; i++)
        if (i >= tampered.n || tampered.at[i].n != whole.at[i].n ||
            memcmp(tampered.at[i].bytes, whole.at[i].bytes, whole.at[i].n) != 0)
            return false;
    return true;
}

/* Refused; or told apart, where nothing that was signed is another: newer
 * checkpoints are missing, or receipts were added that nobody signed. */
static bool is_found(void)
{
    enum kv_status status = verify(&signer.key, &newest);

    if (status == KV_OK)
        return report.old_is_newest ||
               report.last_sequence > report.newest.tree_size;
    ck_assert_int_eq(status, KV_DATA_LOSS);
    ck_assert_str_ne(error.text, "");
    return true;
}

/* Files as they were. */
static void mend(void)
{
    for (size_t i = 0; i < whole.n; i++) {
        const struct ledger_file *now =
            ledger_files_find(&tampered, whole.at[i].name);
        char path[256];

        snprintf(path, sizeof path, "%s/%s", copy, whole.at[i].name);
        if (now == NULL || now->changed || access(path, F_OK) != 0)
            journal_rig_write_file(path, whole.at[i].bytes, whole.at[i].n);
    }
    ledger_files_free(&tampered);
}

START_TEST(every_tampering_is_found)
{
    const char *wanted = getenv("KVPOOL_TAMPERINGS");
    size_t n = wanted != NULL ? strtoul(wanted, NULL, 10) : DEFAULT_TAMPERINGS;

    random_state = UINT64_C(0x9e3779b97f4a7c15);
    for (size_t i = 0; i < n; i++) {
        uint64_t seed = random_state;
        size_t kind = random_below(N_KINDS);

        tamper_begin();
        tamperings[kind].tamper();
        ledger_files_write(&tampered, copy);
        ck_assert_msg(is_found() || (is_same() && tamperings[kind].tamper !=
                                                      remove_segment),
            "%s: seed %#llx: not found", tamperings[kind].name,
            (unsigned long long)seed);
        mend();
    }
    ck_assert_int_eq(verify(&signer.key, &newest), KV_OK);
}
END_TEST

int main(void)
{
    const TTest *tests[] = {
        a_ledger_that_nobody_touched_is_as_it_was_signed,
        receipts_behind_the_newest_checkpoint_are_told_apart,
        an_open_journal_is_verified_over_its_shoulder,
        a_directory_without_a_ledger_has_none,
        what_retention_removed_is_stood_for_by_the_tree,
        without_its_tree_a_whole_ledger_can_still_be_verified,
        whoever_asks_may_end_it,
        each_allocation_may_fail,
        a_changed_receipt_is_named_with_its_file_and_offset,
        a_changed_receipt_is_found_though_the_tree_was_built_anew,
        a_damaged_tree_is_not_blamed_on_the_receipts,
        another_key_has_not_signed_it,
        a_checkpoint_of_another_ledger_says_nothing_of_this_one,
        every_tampering_is_found,
    };

    return CHECK_RUN("verify", set_up, tear_down, tests);
}
