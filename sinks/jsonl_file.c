#include "sinks/jsonl_file.h"

#include <assert.h>
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/heap.h"
#include "base/log.h"
#include "receipts/json.h"
#include "sinks/jsonl_line.h"

#define LOG_TARGET "kvpool::sinks"

enum {
    WRITE_BYTES = 262144, /* gathered for one write */
    TAIL_BYTES = 8388608, /* one write of a sink is shorter: runs of 64 KiB, and
                             JSON is some 4 to 11 times as long */
};

static enum kv_status refuse(
    const struct jsonl_file *file, const char *doing, struct kv_error *error)
{
    return kv_error_set(error, KV_IO, "%s %s/%s: %s", doing, file->names.dir,
        file->names.name, strerror(errno));
}

static enum kv_status refuse_memory(struct kv_error *error)
{
    return kv_error_set(error, KV_NO_MEMORY, "no memory for lines of JSON");
}

void jsonl_file_init(struct jsonl_file *file, const struct jsonl_names *names,
    uint64_t rotate_bytes, int64_t rotate_ns)
{
    *file = (struct jsonl_file){.names = *names,
        .rotate_bytes = rotate_bytes,
        .rotate_ns = rotate_ns,
        .fd = -1,
        .dir = -1};
}

static void close_file(struct jsonl_file *file)
{
    if (file->fd >= 0)
        close(file->fd);
    if (file->dir >= 0)
        close(file->dir);
    file->fd = file->dir = -1;
    file->n_lines = 0;
}

void jsonl_file_fini(struct jsonl_file *file)
{
    close_file(file);
    kv_free(file->lines);
    file->lines = NULL;
    file->lines_capacity = 0;
}

/* ---- what is there */

/* The line [begin, end), of which the file says that it is one. */
static enum kv_status read_line(struct jsonl_file *file, uint64_t begin,
    uint64_t end, struct jsonl_line *line, struct kv_error *error)
{
    enum kv_status status = jsonl_line_read(file->fd, begin, end, line);

    if (status == KV_NO_MEMORY)
        return refuse_memory(error);
    if (status == KV_IO)
        return refuse(file, "reading", error);
    if (status == KV_INVALID)
        return kv_error_set(error, KV_INVALID,
            "%s/%s: the line at byte %" PRIu64 " is no receipt; another file "
            "is needed",
            file->names.dir, file->names.name, begin);
    return KV_OK;
}

/* Whether what is not even one whole line may be the beginning of one of ours,
 * or what a power cut made of it: zeros. */
static bool may_be_torn(struct jsonl_file *file)
{
    static const char ours[] = "{\"event\":\"kv_";
    char text[sizeof ours - 1];
    ssize_t n = pread(file->fd, text, sizeof text, 0);
    bool torn = n > 0;

    for (ssize_t i = 0; i < n; i++)
        torn = torn && (text[i] == ours[i] || text[i] == '\0');
    return torn;
}

/* Learns the first and the last receipt of the lines up to `end`. */
static enum kv_status learn(
    struct jsonl_file *file, uint64_t end, struct kv_error *error)
{
    uint64_t last_begin, first_end;
    struct jsonl_line first, last;
    enum kv_status status;

    if (!jsonl_line_begin(file->fd, end - 1, &last_begin) ||
        !jsonl_line_end(file->fd, 0, end, &first_end))
        return refuse(file, "reading", error);
    status = read_line(file, 0, first_end, &first, error);
    if (status == KV_OK)
        status = read_line(file, last_begin, end, &last, error);
    if (status != KV_OK)
        return status;
    file->first_sequence = first.sequence;
    file->first_unix_ns = first.unix_ns;
    file->last_sequence = last.sequence;
    memcpy(file->pool_id, last.pool_id, sizeof file->pool_id);
    file->knows_pool = true;
    return KV_OK;
}

/* ---- what a crash made of it
 *
 * A power cut may keep the end of the last write and lose a page before it, so
 * that whole lines stand behind one that is none. What was not synced was not
 * acknowledged either, and is offered again: it is cut from there on. */

/* The whole lines of the file's tail: *end is where they end, *last the last of
 * them, of which the sequence is 0 if there is none. */
static enum kv_status walk_tail(struct jsonl_file *file, uint64_t *end,
    struct jsonl_line *last, struct kv_error *error)
{
    uint64_t at = 0, next = 0;
    struct jsonl_line line;

    *last = (struct jsonl_line){0};
    if (*end > TAIL_BYTES &&
        !jsonl_line_begin(file->fd, *end - TAIL_BYTES, &at))
        return refuse(file, "reading", error);
    for (; at < *end; at = next) {
        enum kv_status status = KV_OK;

        if (!jsonl_line_end(file->fd, at, *end, &next))
            return refuse(file, "reading", error);
        status = read_line(file, at, next, &line, error);
        if (status == KV_INVALID)
            break;
        if (status != KV_OK)
            return status;
        *last = line;
    }
    *end = at;
    return KV_OK;
}

/* The receipt that is to be written next; NULL: there is none, or no memory. */
static Kvpool__V1__Receipt *next_receipt(
    const struct feed_run *runs, size_t n_runs)
{
    const unsigned char *at, *bytes;
    size_t n_bytes;

    if (n_runs == 0)
        return NULL;
    at = runs[0].bytes;
    return feed_run_entry(&runs[0], &at, &bytes, &n_bytes)
               ? kvpool__v1__receipt__unpack(NULL, n_bytes, bytes)
               : NULL;
}

/* Whether all that follows the last whole line in the ledger comes with these
 * runs, or after them. Where no line is whole, closed files may have it. */
static bool is_offered(struct jsonl_file *file, struct jsonl_line *last,
    const struct feed_run *runs, size_t n_runs)
{
    Kvpool__V1__Receipt *next = next_receipt(runs, n_runs);
    bool offered = false;

    if (next != NULL && last->sequence == 0) {
        memcpy(last->pool_id, next->pool_id.data, sizeof last->pool_id);
        if (jsonl_archive_last(&file->names, file->dir, last->pool_id,
                &last->sequence, NULL) != KV_OK)
            last->sequence = 0;
    }
    if (next != NULL)
        offered = last->sequence > 0 && next->sequence <= last->sequence + 1 &&
                  memcmp(next->pool_id.data, last->pool_id,
                      sizeof last->pool_id) == 0;
    kvpool__v1__receipt__free_unpacked(next, NULL);
    return offered;
}

/* Moves *end before the first line that is none, if that is a crash's. */
static enum kv_status find_torn(struct jsonl_file *file, uint64_t *end,
    const struct feed_run *runs, size_t n_runs, struct kv_error *error)
{
    uint64_t whole = *end;
    struct jsonl_line last;
    enum kv_status status = walk_tail(file, &whole, &last, error);

    if (status != KV_OK || whole == *end)
        return status;
    if ((last.sequence == 0 && (whole > 0 || !may_be_torn(file))) ||
        !is_offered(file, &last, runs, n_runs))
        return kv_error_set(error, KV_INVALID,
            "%s/%s: the line at byte %" PRIu64
            " is no receipt; another file is needed",
            file->names.dir, file->names.name, whole);
    kv_log(KV_LOG_WARN, LOG_TARGET, "the torn end of a file is written again",
        KV_LOG_TEXT("file", file->names.name), KV_LOG_UINT("offset", whole),
        KV_LOG_UINT("bytes", *end - whole),
        KV_LOG_UINT("after_sequence", last.sequence));
    *end = whole;
    return KV_OK;
}

/* Sees that the file is one of ours; then cuts what follows the last newline,
 * what a crash has torn, and what is not known to be on disk after a failure.
 */
static enum kv_status examine(struct jsonl_file *file, uint64_t size,
    uint64_t most, const struct feed_run *runs, size_t n_runs,
    struct kv_error *error)
{
    enum kv_status status = KV_OK;
    uint64_t end;

    if (!jsonl_line_begin(file->fd, size < most ? size : most, &end))
        return refuse(file, "reading", error);
    file->first_sequence = 0;
    if (end > 0 && most == UINT64_MAX)
        status = find_torn(file, &end, runs, n_runs, error);
    if (status == KV_OK && end > 0)
        status = learn(file, end, error);
    else if (status == KV_OK && size > 0 && !may_be_torn(file))
        status = kv_error_set(error, KV_INVALID,
            "%s/%s: what it begins with is no receipt; another file is needed",
            file->names.dir, file->names.name);
    if (status != KV_OK)
        return status;
    if (end < size &&
        (ftruncate(file->fd, (off_t)end) != 0 || fdatasync(file->fd) != 0))
        return refuse(file, "cutting the end of", error);
    file->n_written = file->n_synced = end;
    return KV_OK;
}

/* ---- opening */

/* A file that was made is there after a crash only if its directory is synced.
 */
static bool open_locked(struct jsonl_file *file)
{
    file->dir = open(file->names.dir, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    if (file->dir < 0)
        return false;
    file->fd = openat(file->dir, file->names.name,
        O_RDWR | O_CREAT | O_APPEND | O_CLOEXEC, 0640);
    return file->fd >= 0 && flock(file->fd, LOCK_EX | LOCK_NB) == 0 &&
           fsync(file->dir) == 0;
}

static enum kv_status refuse_kind(
    struct jsonl_file *file, struct kv_error *error)
{
    close_file(file);
    return kv_error_set(error, KV_INVALID, "%s/%s is no file", file->names.dir,
        file->names.name);
}

static enum kv_status refuse_open(
    struct jsonl_file *file, struct kv_error *error)
{
    enum kv_status status;

    if (errno == EISDIR || errno == ENXIO)
        return refuse_kind(file, error);
    if (errno == EWOULDBLOCK)
        status = kv_error_set(error, KV_BUSY,
            "%s/%s: another process, or another sink, writes this file",
            file->names.dir, file->names.name);
    else
        status = refuse(file, "opening", error);
    close_file(file);
    return status;
}

/* Whether the open file is still the one that its path names. */
static bool is_in_place(const struct jsonl_file *file)
{
    char path[JSONL_MAX_PATH_BYTES + NAME_MAX + 2];
    struct stat stat_now;

    if (file->fd < 0)
        return false;
    snprintf(path, sizeof path, "%s/%s", file->names.dir, file->names.name);
    return stat(path, &stat_now) == 0 && stat_now.st_dev == file->device &&
           stat_now.st_ino == file->inode;
}

/* The runs are what is to be written next. */
static enum kv_status open_file(struct jsonl_file *file,
    const struct feed_run *runs, size_t n_runs, struct kv_error *error)
{
    uint64_t most = UINT64_MAX;
    struct stat stat;
    enum kv_status status;

    if (is_in_place(file))
        return KV_OK;
    close_file(file);
    if (!open_locked(file) || fstat(file->fd, &stat) != 0)
        return refuse_open(file, error);
    if (!S_ISREG(stat.st_mode))
        return refuse_kind(file, error);
    /* What a failed sync left behind may be in memory only, whatever a later
     * sync says. */
    if (stat.st_dev == file->device && stat.st_ino == file->inode)
        most = file->n_synced;
    status = examine(file, (uint64_t)stat.st_size, most, runs, n_runs, error);
    if (status != KV_OK) {
        close_file(file);
        return status;
    }
    file->device = stat.st_dev;
    file->inode = stat.st_ino;
    return KV_OK;
}

/* ---- rotation */

/* The file gets its closed name; a new one follows with the next line. */
static enum kv_status rotate(struct jsonl_file *file, struct kv_error *error)
{
    struct jsonl_closed_name closed = jsonl_closed_name(
        &file->names, file->first_sequence, file->last_sequence, file->pool_id);

    if (renameat(file->dir, file->names.name, file->dir, closed.text) != 0 ||
        fsync(file->dir) != 0)
        return refuse(file, "closing", error);
    close_file(file);
    file->device = 0;
    file->inode = 0;
    file->rotated = true;
    return open_file(file, NULL, 0, error);
}

static bool is_due(const struct jsonl_file *file, int64_t now_ns)
{
    return file->first_sequence != 0 &&
           ((file->rotate_bytes > 0 && file->n_synced >= file->rotate_bytes) ||
               (file->rotate_ns > 0 &&
                   now_ns - file->first_unix_ns >= file->rotate_ns));
}

/* Another ledger than before: it has a file of its own, and perhaps closed ones
 * from which we learn how far it got. */
static enum kv_status begin_pool(
    struct jsonl_file *file, const uint8_t pool_id[16], struct kv_error *error)
{
    enum kv_status status = KV_OK;

    if (file->first_sequence != 0)
        status = rotate(file, error);
    if (status == KV_OK)
        status = jsonl_archive_last(
            &file->names, file->dir, pool_id, &file->last_sequence, error);
    if (status != KV_OK)
        return status;
    memcpy(file->pool_id, pool_id, sizeof file->pool_id);
    file->knows_pool = true;
    return KV_OK;
}

/* ---- lines */

static bool flush_lines(struct jsonl_file *file)
{
    const char *at = file->lines;

    while (file->n_lines > 0) {
        ssize_t n = write(file->fd, at, file->n_lines);

        if (n < 0 && errno == EINTR)
            continue;
        if (n < 0)
            return false;
        at += n;
        file->n_lines -= (size_t)n;
        file->n_written += (uint64_t)n;
    }
    return true;
}

static enum kv_status append_line(
    struct jsonl_file *file, const char *text, struct kv_error *error)
{
    size_t n = strlen(text), needed = file->n_lines + n + 1;

    if (needed > file->lines_capacity) {
        size_t capacity = needed < WRITE_BYTES ? WRITE_BYTES : needed;
        char *larger = kv_realloc(file->lines, capacity);

        if (larger == NULL)
            return refuse_memory(error);
        file->lines = larger;
        file->lines_capacity = capacity;
    }
    memcpy(file->lines + file->n_lines, text, n);
    file->lines[file->n_lines + n] = '\n';
    file->n_lines = needed;
    if (needed >= WRITE_BYTES / 2 && !flush_lines(file))
        return refuse(file, "writing", error);
    return KV_OK;
}

static enum kv_status append_receipt(struct jsonl_file *file,
    const Kvpool__V1__Receipt *receipt, struct kv_error *error)
{
    json_t *json = receipt_to_json(receipt);
    char *text = json != NULL ? json_dumps(json, JSON_COMPACT) : NULL;
    enum kv_status status =
        text != NULL ? append_line(file, text, error) : refuse_memory(error);

    free(text);
    json_decref(json);
    if (status != KV_OK)
        return status;
    if (file->first_sequence == 0) {
        file->first_sequence = receipt->sequence;
        file->first_unix_ns = receipt->time_unix_ns;
    }
    file->last_sequence = receipt->sequence;
    return KV_OK;
}

/* Unless it is there already. */
static enum kv_status take_receipt(struct jsonl_file *file,
    const unsigned char *bytes, size_t n_bytes, struct kv_error *error)
{
    Kvpool__V1__Receipt *receipt =
        kvpool__v1__receipt__unpack(NULL, n_bytes, bytes);
    enum kv_status status = KV_OK;

    if (receipt == NULL)
        return refuse_memory(error);
    assert(receipt->pool_id.len == sizeof file->pool_id);
    if (!file->knows_pool ||
        memcmp(file->pool_id, receipt->pool_id.data, sizeof file->pool_id) != 0)
        status = begin_pool(file, receipt->pool_id.data, error);
    if (status == KV_OK && receipt->sequence > file->last_sequence)
        status = append_receipt(file, receipt, error);
    kvpool__v1__receipt__free_unpacked(receipt, NULL);
    return status;
}

static enum kv_status take_run(
    struct jsonl_file *file, const struct feed_run *run, struct kv_error *error)
{
    const unsigned char *at = run->bytes, *bytes;
    enum kv_status status = KV_OK;
    size_t n_bytes;

    while (status == KV_OK && feed_run_entry(run, &at, &bytes, &n_bytes))
        status = take_receipt(file, bytes, n_bytes, error);
    return status;
}

static enum kv_status take_runs(struct jsonl_file *file,
    const struct feed_run *runs, size_t n_runs, struct kv_error *error)
{
    enum kv_status status = KV_OK;

    for (size_t i = 0; i < n_runs && status == KV_OK; i++)
        status = take_run(file, &runs[i], error);
    if (status == KV_OK && !flush_lines(file))
        status = refuse(file, "writing", error);
    if (status == KV_OK && fdatasync(file->fd) != 0)
        status = refuse(file, "syncing", error);
    if (status == KV_OK)
        file->n_synced = file->n_written;
    return status;
}

/* What the next opening finds in the file is the truth; where it is empty, the
 * closed files are. */
static void doubt(struct jsonl_file *file)
{
    close_file(file);
    file->knows_pool = false;
    file->first_sequence = file->last_sequence = 0;
}

enum kv_status jsonl_file_write(struct jsonl_file *file,
    const struct feed_run *runs, size_t n_runs, int64_t now_ns,
    struct kv_error *error)
{
    enum kv_status status = open_file(file, runs, n_runs, error);

    if (status == KV_OK && is_due(file, now_ns))
        status = rotate(file, error);
    if (status == KV_OK)
        status = take_runs(file, runs, n_runs, error);
    if (status != KV_OK)
        doubt(file);
    return status;
}
