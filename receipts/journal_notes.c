#include "receipts/journal_notes.h"

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/heap.h"

#define BUFFER_BYTES ((size_t)128 << 10)

enum kv_status journal_notes_init(struct journal_notes *notes,
    const struct journal_dir *dir, const struct journal_identity *identity,
    struct kv_error *error)
{
    *notes = (struct journal_notes){
        .dir = dir,
        .seed = journal_notes_seed(identity->pool_id),
        .sure_bytes = identity->notes_bytes,
    };
    notes->buffer = kv_realloc(NULL, BUFFER_BYTES);
    if (notes->buffer == NULL)
        return kv_error_set(
            error, KV_NO_MEMORY, "no memory to read checkpoints with");
    notes->fd = openat(dir->fd, JOURNAL_NOTES_FILE, O_RDONLY | O_CLOEXEC);
    if (notes->fd >= 0 || errno == ENOENT)
        return KV_OK;
    kv_free(notes->buffer);
    return journal_file_error(
        dir, JOURNAL_NOTES_FILE, "cannot be opened", error);
}

void journal_notes_fini(struct journal_notes *notes)
{
    if (notes->fd >= 0)
        close(notes->fd);
    kv_free(notes->buffer);
}

/* Bytes read; 0 at the end of the file, -1 with errno. */
static ptrdiff_t read_on(struct journal_notes *notes)
{
    size_t n_left = notes->n_buffered - notes->position;
    ptrdiff_t n;

    memmove(notes->buffer, notes->buffer + notes->position, n_left);
    notes->buffer_offset += notes->position;
    notes->position = 0;
    notes->n_buffered = n_left;
    n = journal_read(notes->fd, notes->buffer + n_left, BUFFER_BYTES - n_left,
        notes->buffer_offset + n_left);
    if (n > 0)
        notes->n_buffered += (size_t)n;
    return n;
}

static enum kv_status take(struct journal_notes *notes,
    struct journal_record *out, struct kv_error *error)
{
    for (;;) {
        enum journal_parse parsed =
            journal_record_parse(notes->buffer + notes->position,
                notes->n_buffered - notes->position, notes->seed, out);
        ptrdiff_t n;

        if (parsed == JOURNAL_PARSED)
            return KV_OK;
        if (parsed == JOURNAL_DAMAGED)
            return KV_DATA_LOSS;
        n = read_on(notes);
        if (n < 0)
            return journal_file_error(
                notes->dir, JOURNAL_NOTES_FILE, "cannot be read", error);
        if (n == 0)
            return notes->n_buffered == 0 ? KV_NOT_FOUND : KV_DATA_LOSS;
    }
}

/* No note begins at end_offset: does one begin behind it? */
static enum kv_status find_another(
    struct journal_notes *notes, struct kv_error *error)
{
    struct journal_record record;

    for (;;) {
        enum kv_status status = take(notes, &record, error);

        if (status != KV_DATA_LOSS)
            return status;
        if (notes->n_buffered - notes->position < JOURNAL_RECORD_BYTES)
            return KV_NOT_FOUND;
        notes->position += 8;
    }
}

static enum kv_status refuse_damage(
    const struct journal_notes *notes, struct kv_error *error)
{
    return kv_error_set(error, KV_DATA_LOSS,
        "%s/%s: at byte %" PRIu64 ": no valid checkpoint", notes->dir->path,
        JOURNAL_NOTES_FILE, notes->end_offset);
}

enum kv_status journal_notes_skip(
    struct journal_notes *notes, struct kv_error *error)
{
    enum kv_status status;
    struct stat stat;

    if (notes->fd < 0)
        return KV_OK;
    if (fstat(notes->fd, &stat) != 0)
        return journal_file_error(
            notes->dir, JOURNAL_NOTES_FILE, "cannot be read", error);
    if ((uint64_t)stat.st_size <= JOURNAL_NOTES_TAIL_BYTES)
        return KV_OK;
    notes->buffer_offset = notes->end_offset =
        ((uint64_t)stat.st_size - JOURNAL_NOTES_TAIL_BYTES) & ~(uint64_t)7;
    status = find_another(notes, error);
    if (status == KV_NOT_FOUND)
        return refuse_damage(notes, error);
    notes->end_offset = notes->buffer_offset + notes->position;
    return status;
}

enum kv_status journal_notes_next(struct journal_notes *notes,
    struct journal_record *out, struct kv_error *error)
{
    enum kv_status status = KV_NOT_FOUND;

    if (notes->fd >= 0)
        status = take(notes, out, error);
    if (status == KV_OK && out->type != JOURNAL_CHECKPOINT)
        status = KV_DATA_LOSS;
    if (status == KV_OK) {
        notes->position += out->n_bytes;
        notes->end_offset += out->n_bytes;
        return KV_OK;
    }
    if (status == KV_DATA_LOSS)
        status = find_another(notes, error);
    if (status == KV_OK ||
        (status == KV_NOT_FOUND && notes->end_offset < notes->sure_bytes))
        return refuse_damage(notes, error);
    return status;
}
