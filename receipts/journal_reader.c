#include "receipts/journal_reader.h"

#include <assert.h>
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/heap.h"

#define READ_BYTES ((size_t)1 << 20)
#define BUFFER_BYTES (JOURNAL_MAX_GROUP_BYTES + READ_BYTES)

/* What the bytes at one place turned out to be. */
enum finding { FOUND_GROUP, FOUND_END, FOUND_DAMAGE, FOUND_ERROR };

enum kv_status journal_reader_init(struct journal_reader *reader,
    const struct journal_dir *dir, struct kv_error *error)
{
    enum kv_status status;

    *reader = (struct journal_reader){.dir = dir, .fd = -1};
    status = journal_identity_load(dir, &reader->identity, error);
    if (status != KV_OK)
        return status;
    return journal_dir_list(dir, &reader->names, &reader->n_names, error);
}

/* A buffer for the segment: as large as the file, up to what it takes to read
 * any. false: no memory. */
static bool make_buffer(struct journal_reader *reader)
{
    size_t n = reader->file_bytes < BUFFER_BYTES ? (size_t)reader->file_bytes
                                                 : BUFFER_BYTES;
    unsigned char *larger;

    if (n <= reader->buffer_bytes)
        return true;
    larger = kv_realloc(reader->buffer, n);
    if (larger == NULL)
        return false;
    reader->buffer = larger;
    reader->buffer_bytes = n;
    return true;
}

static void leave_segment(struct journal_reader *reader)
{
    if (reader->fd >= 0)
        close(reader->fd);
    reader->fd = -1;
}

void journal_reader_fini(struct journal_reader *reader)
{
    leave_segment(reader);
    kv_free(reader->buffer);
    kv_free(reader->names);
}

static enum kv_status damaged(const struct journal_reader *reader,
    uint64_t offset, const char *what, struct kv_error *error)
{
    return kv_error_set(error, KV_DATA_LOSS, "%s/%s: at byte %" PRIu64 ": %s",
        reader->dir->path, reader->name.s, offset, what);
}

static enum kv_status unreadable(
    const struct journal_reader *reader, struct kv_error *error)
{
    return journal_file_error(
        reader->dir, reader->name.s, "cannot be read", error);
}

/* ---- segments */

/* The first segment behind the present one; NULL: none. */
static const uint64_t *find_next(const struct journal_reader *reader)
{
    for (size_t i = 0; i < reader->n_names; i++)
        if (!reader->has_segment ||
            reader->names[i] > reader->header.first_sequence)
            return &reader->names[i];
    return NULL;
}

void journal_reader_seek(struct journal_reader *reader, uint64_t sequence)
{
    leave_segment(reader);
    reader->has_segment = false;
    reader->next_sequence = 0;
    reader->last_group = 0;
    reader->epoch = 0;
    for (size_t i = 1; i < reader->n_names; i++)
        if (reader->names[i] <= sequence) {
            reader->has_segment = true;
            reader->header.first_sequence = reader->names[i - 1];
        }
}

static enum kv_status check_header(const struct journal_reader *reader,
    uint64_t name, const struct journal_header *header, struct kv_error *error)
{
    const struct journal_identity *identity = &reader->identity;

    if (memcmp(header->pool_id, identity->pool_id, sizeof header->pool_id) != 0)
        return damaged(reader, 0, "the segment is another ledger's", error);
    if (header->first_sequence != name)
        return damaged(reader, 0, "the segment has another's name", error);
    if (header->epoch > identity->epoch || header->epoch < reader->epoch ||
        header->first_group <= reader->last_group)
        return damaged(
            reader, 0, "the segment is not of this place in the ledger", error);
    if (reader->next_sequence != 0 && name != reader->next_sequence)
        return kv_error_set(error, KV_DATA_LOSS,
            "%s/%s: at byte 0: the segment begins with receipt %" PRIu64
            " where %" PRIu64 " is due",
            reader->dir->path, reader->name.s, name, reader->next_sequence);
    return KV_OK;
}

static enum kv_status read_header(struct journal_reader *reader,
    struct journal_header *header, struct kv_error *error)
{
    unsigned char bytes[JOURNAL_HEADER_BYTES];
    ptrdiff_t n = journal_read(reader->fd, bytes, sizeof bytes, 0);
    struct stat stat;
    const char *why;

    if (n < 0 || fstat(reader->fd, &stat) != 0)
        return unreadable(reader, error);
    if (!journal_header_parse(bytes, (size_t)n, header, &why))
        return damaged(reader, 0, why, error);
    reader->file_bytes = (uint64_t)stat.st_size;
    return KV_OK;
}

/* KV_NOT_FOUND: it was there when names were listed. */
static enum kv_status enter_segment(
    struct journal_reader *reader, uint64_t name, struct kv_error *error)
{
    struct journal_header header;
    enum kv_status status;

    reader->name = journal_segment_name(name);
    reader->fd = openat(reader->dir->fd, reader->name.s, O_RDONLY | O_CLOEXEC);
    if (reader->fd < 0 && errno == ENOENT)
        return KV_NOT_FOUND;
    if (reader->fd < 0)
        return journal_file_error(
            reader->dir, reader->name.s, "cannot be opened", error);
    status = read_header(reader, &header, error);
    if (status == KV_OK)
        status = check_header(reader, name, &header, error);
    if (status == KV_OK && !make_buffer(reader))
        status = kv_error_set(
            error, KV_NO_MEMORY, "no memory to read %s with", reader->name.s);
    if (status != KV_OK) {
        leave_segment(reader);
        return status;
    }
    posix_fadvise(reader->fd, 0, 0, POSIX_FADV_SEQUENTIAL);
    reader->header = header;
    reader->has_segment = true;
    reader->seed = journal_seed(header.id);
    reader->epoch = header.epoch;
    reader->next_sequence = name;
    reader->last_group = header.first_group - 1;
    reader->n_buffered = reader->position = 0;
    reader->buffer_offset = reader->end_offset = JOURNAL_HEADER_BYTES;
    reader->cut_bytes = 0;
    reader->looked_twice = false;
    return KV_OK;
}

/* ---- bytes */

/* Reads on, and moves what is left to the front for it. Bytes read, 0 at the
 * file's end, or where the buffer is full; -1 with errno. */
static ptrdiff_t read_on(struct journal_reader *reader)
{
    size_t n_left = reader->n_buffered - reader->position;
    size_t n_room = reader->buffer_bytes - reader->n_buffered;
    ptrdiff_t n;

    if (n_room < READ_BYTES && reader->position > 0) {
        memmove(reader->buffer, reader->buffer + reader->position, n_left);
        reader->buffer_offset += reader->position;
        reader->position = 0;
        reader->n_buffered = n_left;
        n_room = reader->buffer_bytes - n_left;
    }
    n = journal_read(reader->fd, reader->buffer + reader->n_buffered,
        n_room < READ_BYTES ? n_room : READ_BYTES,
        reader->buffer_offset + reader->n_buffered);
    if (n > 0)
        reader->n_buffered += (size_t)n;
    return n;
}

/* The end of the last byte behind the offset that is not zero; the offset
 * itself if there is none. The buffer is used up. false: errno. */
static bool find_used_end(
    struct journal_reader *reader, uint64_t offset, uint64_t *out)
{
    size_t n_block =
        reader->buffer_bytes < READ_BYTES ? reader->buffer_bytes : READ_BYTES;
    ptrdiff_t n;

    *out = offset;
    reader->n_buffered = reader->position = 0;
    for (;; offset += (uint64_t)n) {
        n = journal_read(reader->fd, reader->buffer, n_block, offset);
        if (n <= 0)
            break;
        if (reader->buffer[0] == 0 &&
            memcmp(reader->buffer, reader->buffer + 1, (size_t)n - 1) == 0)
            continue;
        for (size_t i = (size_t)n; i > 0; i--)
            if (reader->buffer[i - 1] != 0) {
                *out = offset + i;
                break;
            }
    }
    return n == 0;
}

/* ---- one group */

/* A parse of a group as it goes on. */
struct progress {
    size_t n_bytes;
    uint64_t next_sequence;
    uint32_t n_receipts, n_records;
};

/* A record in its place, as the group so far has it? */
static bool is_in_place(const struct journal_reader *reader,
    const struct progress *progress, const struct journal_record *record)
{
    if (record->epoch != reader->epoch ||
        record->flags != (uint16_t)(reader->last_group + 1))
        return false;
    switch (record->type) {
    case JOURNAL_RECEIPT:
        return record->sequence == progress->next_sequence;
    case JOURNAL_COMMIT:
        return record->sequence + 1 == progress->next_sequence;
    case JOURNAL_CURSOR:
        return record->n_payload > 1;
    default:
        return false;
    }
}

static bool is_commit_of(const struct journal_reader *reader,
    const struct progress *progress, const struct journal_record *record,
    struct journal_commit *out)
{
    return journal_commit_parse(record, out) &&
           out->group == reader->last_group + 1 &&
           out->first_sequence == reader->next_sequence &&
           out->n_receipts == progress->n_receipts &&
           out->n_records == progress->n_records;
}

/* The record behind those of the group so far, with as much read as that needs.
 * errno is 0 unless it cannot be read. */
static enum journal_parse take_record(struct journal_reader *reader,
    const struct progress *progress, struct journal_record *out)
{
    enum journal_parse parsed;

    errno = 0;
    for (;;) {
        size_t at = reader->position + progress->n_bytes;
        ptrdiff_t n;

        parsed = journal_record_parse(
            reader->buffer + at, reader->n_buffered - at, reader->seed, out);
        if (parsed != JOURNAL_SHORT)
            return parsed;
        n = read_on(reader);
        if (n <= 0)
            return n < 0 ? JOURNAL_DAMAGED : JOURNAL_SHORT;
    }
}

static void take_group(struct journal_reader *reader,
    const struct progress *progress, const struct journal_commit *commit,
    struct journal_group *out)
{
    *out = (struct journal_group){
        .bytes = reader->buffer + reader->position,
        .n_bytes = progress->n_bytes,
        .offset = reader->end_offset,
        .first_sequence = commit->first_sequence,
        .n_receipts = commit->n_receipts,
        .time_unix_ns = commit->time_unix_ns,
        .starts_segment = reader->end_offset == JOURNAL_HEADER_BYTES,
    };
    reader->position += progress->n_bytes;
    reader->end_offset += progress->n_bytes;
    reader->next_sequence = progress->next_sequence;
    reader->last_group++;
    reader->looked_twice = false;
}

/* Reads the group at end_offset. Without one, *n_good is how far it went. */
static enum finding read_group(
    struct journal_reader *reader, struct journal_group *out, size_t *n_good)
{
    struct progress progress = {.next_sequence = reader->next_sequence};
    struct journal_record record;
    struct journal_commit commit;

    while (progress.n_bytes <= JOURNAL_MAX_GROUP_BYTES) {
        *n_good = progress.n_bytes;
        if (take_record(reader, &progress, &record) != JOURNAL_PARSED)
            return errno != 0 ? FOUND_ERROR : FOUND_DAMAGE;
        if (!is_in_place(reader, &progress, &record))
            return FOUND_DAMAGE;
        progress.n_bytes += record.n_bytes;
        if (record.type == JOURNAL_COMMIT) {
            if (!is_commit_of(reader, &progress, &record, &commit))
                return FOUND_DAMAGE;
            take_group(reader, &progress, &commit, out);
            return FOUND_GROUP;
        }
        progress.n_records++;
        if (record.type == JOURNAL_RECEIPT) {
            progress.n_receipts++;
            progress.next_sequence++;
        }
    }
    return FOUND_DAMAGE;
}

/* ---- what is behind the last group */

/* Is there a record of a later group behind this offset? Bytes of receipts that
 * look like one do not matter: the seed is random and kept from clients. */
static bool is_of_later_group(
    const struct journal_reader *reader, const struct journal_record *record)
{
    uint16_t ahead = (uint16_t)(record->flags - (reader->last_group + 1));

    return record->epoch == reader->epoch && ahead >= 1 && ahead < 0x8000;
}

static enum finding find_later_group(
    struct journal_reader *reader, uint64_t offset, uint64_t used_end)
{
    struct journal_record record;

    reader->n_buffered = reader->position = 0;
    reader->buffer_offset = offset;
    while (reader->buffer_offset + reader->position < used_end) {
        const struct progress nothing = {0};

        switch (take_record(reader, &nothing, &record)) {
        case JOURNAL_PARSED:
            if (is_of_later_group(reader, &record))
                return FOUND_GROUP;
            break;
        case JOURNAL_SHORT:
            if (reader->n_buffered - reader->position < JOURNAL_RECORD_BYTES)
                return FOUND_END;
            break;
        default:
            if (errno != 0)
                return FOUND_ERROR;
        }
        reader->position += 8; /* records are aligned */
    }
    return FOUND_END;
}

/* Could a crash have torn what is behind the last group? */
static bool can_be_torn(const struct journal_reader *reader)
{
    return find_next(reader) == NULL &&
           reader->epoch == reader->identity.epoch && !reader->identity.clean &&
           reader->end_offset > JOURNAL_HEADER_BYTES;
}

static enum kv_status list_again(
    struct journal_reader *reader, struct kv_error *error)
{
    uint64_t *names;
    size_t n_names;
    enum kv_status status =
        journal_dir_list(reader->dir, &names, &n_names, error);

    if (status != KV_OK)
        return status;
    kv_free(reader->names);
    reader->names = names;
    reader->n_names = n_names;
    return KV_OK;
}

/* The same place once more, with the directory as it is now. */
static enum kv_status look_again(
    struct journal_reader *reader, struct kv_error *error)
{
    struct journal_identity identity;
    struct stat stat;
    enum kv_status status =
        journal_identity_load(reader->dir, &identity, error);

    if (status == KV_OK)
        status = list_again(reader, error);
    if (status != KV_OK)
        return status;
    reader->identity = identity;
    if (fstat(reader->fd, &stat) != 0)
        return unreadable(reader, error);
    reader->file_bytes = (uint64_t)stat.st_size;
    reader->n_buffered = reader->position = 0;
    reader->buffer_offset = reader->end_offset;
    reader->looked_twice = true;
    return KV_OK;
}

/* Everything was read: is it everything that there was? */
static enum kv_status check_end(
    const struct journal_reader *reader, struct kv_error *error)
{
    const struct journal_identity *identity = &reader->identity;

    if (reader->has_segment && reader->epoch == identity->epoch &&
        !identity->clean && reader->file_bytes < reader->header.reserved_bytes)
        return damaged(reader, reader->file_bytes,
            "the file ends before the length that it was given", error);
    if (identity->last_sequence > 0 && !reader->has_segment)
        return kv_error_set(error, KV_DATA_LOSS,
            "%s: all segments are missing; receipts up to %" PRIu64
            " were there",
            reader->dir->path, identity->last_sequence);
    if (reader->has_segment &&
        (reader->next_sequence - 1 < identity->last_sequence ||
            reader->last_group < identity->last_group))
        return kv_error_set(error, KV_DATA_LOSS,
            "%s/%s: at byte %" PRIu64 ": the ledger ends with receipt %" PRIu64
            " of group %" PRIu64 "; it had %" PRIu64 " of group %" PRIu64,
            reader->dir->path, reader->name.s, reader->end_offset,
            reader->next_sequence - 1, reader->last_group,
            identity->last_sequence, identity->last_group);
    return KV_NOT_FOUND;
}

/* Behind the segment's last group, n_good bytes of another one, maybe. */
static enum kv_status end_segment(
    struct journal_reader *reader, size_t n_good, struct kv_error *error)
{
    uint64_t used_end, at = reader->end_offset + n_good;

    if (!find_used_end(reader, reader->end_offset, &used_end))
        return unreadable(reader, error);
    reader->buffer_offset = reader->end_offset;
    reader->looked_twice = false;
    if (reader->end_offset == JOURNAL_HEADER_BYTES &&
        used_end == reader->end_offset)
        return damaged(reader, at, "the segment has no group", error);
    reader->cut_bytes = used_end - reader->end_offset;
    if (reader->cut_bytes == 0)
        return KV_OK;
    if (!can_be_torn(reader))
        return damaged(reader, at, "no valid record of its group", error);
    switch (find_later_group(reader, at, used_end)) {
    case FOUND_END:
        break;
    case FOUND_ERROR:
        return unreadable(reader, error);
    default:
        return damaged(reader, at,
            "no valid record of its group, but there are some of later groups",
            error);
    }
    reader->n_buffered = reader->position = 0;
    reader->buffer_offset = reader->end_offset;
    return KV_OK;
}

/* Retention takes segments from the oldest on, of a running server's ledger. */
static enum kv_status check_not_overtaken(
    const struct journal_reader *reader, struct kv_error *error)
{
    if (reader->next_sequence == 0 || reader->n_names == 0 ||
        reader->names[0] <= reader->next_sequence)
        return KV_OK;
    return kv_error_set(error, KV_RANGE,
        "%s: receipts from %" PRIu64
        " on have gone meanwhile, as retention asks; the oldest is %" PRIu64,
        reader->dir->path, reader->next_sequence, reader->names[0]);
}

/* The segment has gone since names were listed. */
static enum kv_status pass_over(
    struct journal_reader *reader, uint64_t name, struct kv_error *error)
{
    enum kv_status status = list_again(reader, error);

    if (status == KV_OK && (reader->n_names == 0 || reader->names[0] <= name))
        status = kv_error_set(error, KV_DATA_LOSS,
            "%s/%s: is missing, and others are there", reader->dir->path,
            reader->name.s);
    return status;
}

static enum kv_status enter_next(
    struct journal_reader *reader, struct kv_error *error)
{
    enum kv_status status = KV_OK;

    while (status == KV_OK) {
        const uint64_t *next = find_next(reader);
        uint64_t name;

        if (next == NULL)
            return check_end(reader, error);
        status = check_not_overtaken(reader, error);
        if (status != KV_OK)
            return status;
        name = *next;
        leave_segment(reader);
        status = enter_segment(reader, name, error);
        if (status != KV_NOT_FOUND)
            return status;
        status = pass_over(reader, name, error);
    }
    return status;
}

enum kv_status journal_reader_next(struct journal_reader *reader,
    struct journal_group *out, struct kv_error *error)
{
    enum kv_status status = KV_OK;
    size_t n_good = 0;

    if (reader->fd < 0)
        status = enter_next(reader, error);
    while (status == KV_OK) {
        switch (read_group(reader, out, &n_good)) {
        case FOUND_GROUP:
            return KV_OK;
        case FOUND_ERROR:
            return unreadable(reader, error);
        default:
            break;
        }
        if (!reader->looked_twice) {
            status = look_again(reader, error);
            continue;
        }
        status = end_segment(reader, n_good, error);
        if (status == KV_OK)
            status = enter_next(reader, error);
    }
    return status;
}
