#include "receipts/journal_scan.h"

#include <string.h>
#include <sys/stat.h>

#include "base/heap.h"
#include "receipts/journal_notes.h"
#include "receipts/journal_reader.h"

struct journal_scan {
    struct journal_dir dir;
    struct journal_reader reader;
    struct journal_notes notes;
    struct journal_group group;
    size_t at;     /* of the next record in the group */
    uint64_t from; /* receipts before it are passed over */
    struct journal_scan_info info;
};

static void fill_info(struct journal_scan *scan)
{
    const struct journal_reader *reader = &scan->reader;
    struct journal_scan_info *info = &scan->info;
    struct stat stat;

    memcpy(info->pool_id, reader->identity.pool_id, sizeof info->pool_id);
    info->n_segments = reader->n_names;
    if (reader->n_names > 0)
        info->oldest_sequence = reader->names[0];
    for (size_t i = 0; i < reader->n_names; i++)
        if (fstatat(scan->dir.fd, journal_segment_name(reader->names[i]).s,
                &stat, 0) == 0)
            info->stored_bytes += (uint64_t)stat.st_size;
}

enum kv_status journal_scan_open(
    struct journal_scan **out, const char *dir, struct kv_error *error)
{
    struct journal_scan *scan = kv_calloc(1, sizeof *scan);
    enum kv_status status;

    if (scan == NULL)
        return kv_error_set(error, KV_NO_MEMORY, "no memory to read %s", dir);
    status = journal_dir_open(&scan->dir, dir, error);
    if (status != KV_OK)
        goto free_scan;
    status = journal_reader_init(&scan->reader, &scan->dir, error);
    if (status != KV_OK)
        goto close_dir;
    status = journal_notes_init(
        &scan->notes, &scan->dir, &scan->reader.identity, error);
    if (status != KV_OK)
        goto fini_reader;
    fill_info(scan);
    *out = scan;
    return KV_OK;

fini_reader:
    journal_reader_fini(&scan->reader);
close_dir:
    journal_dir_close(&scan->dir);
free_scan:
    kv_free(scan);
    return status;
}

void journal_scan_close(struct journal_scan *scan)
{
    if (scan == NULL)
        return;
    journal_notes_fini(&scan->notes);
    journal_reader_fini(&scan->reader);
    journal_dir_close(&scan->dir);
    kv_free(scan);
}

void journal_scan_info(
    const struct journal_scan *scan, struct journal_scan_info *info)
{
    *info = scan->info;
}

enum kv_status journal_scan_seek(
    struct journal_scan *scan, uint64_t sequence, struct kv_error *error)
{
    (void)error;
    journal_reader_seek(&scan->reader, sequence);
    scan->group = (struct journal_group){0};
    scan->at = 0;
    scan->from = sequence;
    return KV_OK;
}

static bool take_receipt(
    struct journal_scan *scan, struct journal_scan_receipt *receipt)
{
    struct journal_record record;

    while (scan->at < scan->group.n_bytes) {
        size_t at = scan->at;

        journal_record_peek(scan->group.bytes + at, &record);
        scan->at += record.n_bytes;
        if (record.type != JOURNAL_RECEIPT || record.sequence < scan->from)
            continue;
        *receipt = (struct journal_scan_receipt){
            .sequence = record.sequence,
            .epoch = record.epoch,
            .bytes = record.payload,
            .n_bytes = record.n_payload,
            .file = scan->reader.name.s,
            .offset = scan->group.offset + at,
        };
        return true;
    }
    return false;
}

enum kv_status journal_scan_next(struct journal_scan *scan,
    struct journal_scan_receipt *receipt, struct kv_error *error)
{
    enum kv_status status = KV_OK;

    while (!take_receipt(scan, receipt)) {
        scan->group = (struct journal_group){0};
        scan->at = 0;
        status = journal_reader_next(&scan->reader, &scan->group, error);
        if (status != KV_OK)
            return status;
    }
    return KV_OK;
}

enum kv_status journal_scan_checkpoint(struct journal_scan *scan,
    const void **note, size_t *n_bytes, struct kv_error *error)
{
    struct journal_record record;
    enum kv_status status = journal_notes_next(&scan->notes, &record, error);

    if (status != KV_OK)
        return status;
    *note = record.payload;
    *n_bytes = record.n_payload;
    return KV_OK;
}
