#include "tests/receipts/ledger_files.h"

#include <dirent.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "receipts/merkle.h"
#include "tests/receipts/journal_rig.h"
#include "tests/support/check_main.h"

/* ---- files */

/* Segments first, as digits sort before letters. */
static int by_name(const void *a, const void *b)
{
    const struct ledger_file *x = a, *y = b;

    return strcmp(x->name, y->name);
}

void ledger_files_read(struct ledger_files *files, const char *dir)
{
    DIR *stream = opendir(dir);
    struct dirent *entry;

    ck_assert_ptr_nonnull(stream);
    files->n = 0;
    while ((entry = readdir(stream)) != NULL) {
        struct ledger_file *file = &files->at[files->n];
        char path[512];

        if (entry->d_name[0] == '.' || strcmp(entry->d_name, "LOCK") == 0)
            continue;
        ck_assert_uint_lt(files->n, LEDGER_FILES);
        snprintf(file->name, sizeof file->name, "%.63s", entry->d_name);
        snprintf(path, sizeof path, "%s/%s", dir, entry->d_name);
        file->n = journal_rig_read_file(path, &file->bytes);
        file->changed = true;
        files->n++;
    }
    closedir(stream);
    qsort(files->at, files->n, sizeof *files->at, by_name);
}

void ledger_files_free(struct ledger_files *files)
{
    for (size_t i = 0; i < files->n; i++)
        free(files->at[i].bytes);
    files->n = 0;
}

void ledger_file_set(
    struct ledger_file *file, const unsigned char *bytes, size_t n)
{
    unsigned char *copy = malloc(n + 1);

    ck_assert_ptr_nonnull(copy);
    memcpy(copy, bytes, n);
    free(file->bytes);
    file->bytes = copy;
    file->n = n;
    file->changed = true;
}

void ledger_files_copy(
    struct ledger_files *out, const struct ledger_files *files)
{
    *out = *files;
    for (size_t i = 0; i < files->n; i++) {
        out->at[i].bytes = NULL;
        ledger_file_set(&out->at[i], files->at[i].bytes, files->at[i].n);
        out->at[i].changed = false;
    }
}

void ledger_files_write(const struct ledger_files *files, const char *dir)
{
    for (size_t i = 0; i < files->n; i++) {
        const struct ledger_file *file = &files->at[i];
        char path[512];

        if (!file->changed)
            continue;
        snprintf(path, sizeof path, "%s/%s", dir, file->name);
        journal_rig_write_file(path, file->bytes, file->n);
    }
}

size_t ledger_files_n_segments(const struct ledger_files *files)
{
    size_t n = 0;

    while (n < files->n && files->at[n].name[0] <= '9')
        n++;
    return n;
}

struct ledger_file *ledger_files_find(
    struct ledger_files *files, const char *name)
{
    for (size_t i = 0; i < files->n; i++)
        if (strcmp(files->at[i].name, name) == 0)
            return &files->at[i];
    return NULL;
}

size_t ledger_file_end(
    const struct ledger_file *file, size_t begin, uint32_t seed)
{
    struct journal_record record;

    while (journal_record_parse(file->bytes + begin, file->n - begin, seed,
               &record) == JOURNAL_PARSED)
        begin += record.n_bytes;
    return begin;
}

/* ---- segments */

void ledger_segment_read(
    struct ledger_segment *segment, const struct ledger_file *file)
{
    const char *why;
    size_t at = JOURNAL_HEADER_BYTES;

    ck_assert(
        journal_header_parse(file->bytes, file->n, &segment->header, &why));
    segment->n = 0;
    while (segment->n < LEDGER_RECORDS &&
           journal_record_parse(file->bytes + at, file->n - at,
               journal_seed(segment->header.id),
               &segment->records[segment->n]) == JOURNAL_PARSED)
        at += segment->records[segment->n++].n_bytes;
    ck_assert_uint_gt(segment->n, 0);
    ck_assert_uint_lt(segment->n, LEDGER_RECORDS);
}

size_t ledger_segment_n_receipts(const struct ledger_segment *segment)
{
    size_t n = 0;

    for (size_t i = 0; i < segment->n; i++)
        n += segment->records[i].type == JOURNAL_RECEIPT;
    return n;
}

size_t ledger_segment_receipt(const struct ledger_segment *segment, size_t nth)
{
    for (size_t i = 0; i < segment->n; i++)
        if (segment->records[i].type == JOURNAL_RECEIPT && nth-- == 0)
            return i;
    ck_abort_msg("there are fewer receipts");
    return 0;
}

void ledger_segment_renumber(struct ledger_segment *segment)
{
    uint64_t sequence = segment->header.first_sequence;

    for (size_t i = 0; i < segment->n; i++)
        if (segment->records[i].type == JOURNAL_RECEIPT)
            segment->records[i].sequence = sequence++;
}

/* A commit as the records before it want it. */
struct group {
    uint64_t first_sequence, next_sequence;
    uint32_t n_receipts, n_records;
};

static void fix_commit(struct journal_record *record, const struct group *group,
    unsigned char payload[JOURNAL_COMMIT_BYTES])
{
    struct journal_commit commit;

    ck_assert(journal_commit_parse(record, &commit));
    commit.first_sequence = group->first_sequence;
    commit.n_receipts = group->n_receipts;
    commit.n_records = group->n_records;
    journal_commit_write(payload, &commit);
    record->payload = payload;
    record->sequence = group->next_sequence - 1;
}

void ledger_segment_write(
    struct ledger_segment *segment, struct ledger_file *file)
{
    struct group group = {.first_sequence = segment->header.first_sequence,
        .next_sequence = segment->header.first_sequence};
    size_t n_bytes = JOURNAL_HEADER_BYTES, n_all = file->n;
    unsigned char *bytes;

    for (size_t i = 0; i < segment->n; i++)
        n_bytes += journal_record_bytes(segment->records[i].n_payload);
    if (n_all < n_bytes)
        n_all = n_bytes;
    bytes = calloc(n_all, 1);
    ck_assert_ptr_nonnull(bytes);
    memcpy(bytes, file->bytes, JOURNAL_HEADER_BYTES);
    n_bytes = JOURNAL_HEADER_BYTES;
    for (size_t i = 0; i < segment->n; i++) {
        struct journal_record record = segment->records[i];
        unsigned char payload[JOURNAL_COMMIT_BYTES];

        group.n_records++;
        if (record.type == JOURNAL_RECEIPT) {
            group.n_receipts++;
            group.next_sequence = record.sequence + 1;
        } else if (record.type == JOURNAL_COMMIT) {
            group.n_records--;
            fix_commit(&record, &group, payload);
            group = (struct group){.first_sequence = group.next_sequence,
                .next_sequence = group.next_sequence};
        }
        n_bytes += journal_record_write(
            bytes + n_bytes, &record, journal_seed(segment->header.id));
    }
    ledger_file_set(file, bytes, n_all);
    free(bytes);
}

/* ---- what must fit them */

void ledger_files_build_tree(struct ledger_files *files, const char *scratch)
{
    struct ledger_segment segment;
    struct merkle tree;
    unsigned char *bytes;
    size_t n;

    unlink(scratch);
    ck_assert_int_eq(merkle_open_file(&tree, scratch, NULL), KV_OK);
    for (size_t i = 0; i < ledger_files_n_segments(files); i++) {
        ledger_segment_read(&segment, &files->at[i]);
        for (size_t k = 0; k < segment.n; k++) {
            const struct journal_record *record = &segment.records[k];

            if (record->type != JOURNAL_RECEIPT)
                continue;
            ck_assert_int_eq(merkle_reserve(&tree), KV_OK);
            ck_assert(merkle_append(&tree, record->payload, record->n_payload));
        }
    }
    ck_assert_int_eq(merkle_sync(&tree), KV_OK);
    merkle_fini(&tree);
    n = journal_rig_read_file(scratch, &bytes);
    ledger_file_set(ledger_files_find(files, "tree"), bytes, n);
    free(bytes);
}

void ledger_files_fix_identity(struct ledger_files *files)
{
    struct ledger_file *file = ledger_files_find(files, "ledger");
    struct ledger_file *notes = ledger_files_find(files, "checkpoints");
    unsigned char bytes[JOURNAL_IDENTITY_BYTES];
    struct journal_identity identity;
    struct journal_commit commit;
    struct ledger_segment last;
    const char *why;

    ck_assert(journal_identity_parse(file->bytes, file->n, &identity, &why));
    ledger_segment_read(&last, &files->at[ledger_files_n_segments(files) - 1]);
    ck_assert(journal_commit_parse(&last.records[last.n - 1], &commit));
    identity.last_sequence = last.records[last.n - 1].sequence;
    identity.last_group = commit.group;
    identity.notes_bytes = notes->n;
    journal_identity_write(bytes, &identity);
    ledger_file_set(file, bytes, sizeof bytes);
}
