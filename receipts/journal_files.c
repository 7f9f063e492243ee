#include "receipts/journal_files.h"

#include <dirent.h>
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

#define IDENTITY_NEXT_FILE "ledger.tmp"
#define FIRST_NAMES 64
#define DIGITS 20

enum kv_status journal_file_error(const struct journal_dir *dir,
    const char *name, const char *what, struct kv_error *error)
{
    int number = errno;

    return kv_error_set(error, KV_IO, "%s/%s: %s: %s", dir->path, name, what,
        strerrordesc_np(number));
}

/* ---- the directory */

enum kv_status journal_dir_open(
    struct journal_dir *dir, const char *path, struct kv_error *error)
{
    int n = snprintf(dir->path, sizeof dir->path, "%s", path);

    if (n < 0 || (size_t)n >= sizeof dir->path)
        return kv_error_set(error, KV_INVALID,
            "the path of the journal has %d bytes; at most %zu are allowed", n,
            sizeof dir->path - 1);
    dir->fd = open(path, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    if (dir->fd >= 0)
        return KV_OK;
    return kv_error_set(error, errno == ENOENT ? KV_NOT_FOUND : KV_IO,
        "%s: cannot be opened: %s", path, strerrordesc_np(errno));
}

/* The name must be durable as what is in it will be, whoever made it: we may
 * have been killed before we came to this. Where it is not ours, its parent
 * need not be ours either, nor one that can be synced. */
static enum kv_status sync_parent(
    const struct journal_dir *dir, bool is_ours, struct kv_error *error)
{
    int fd = openat(dir->fd, "..", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    enum kv_status status = KV_OK;

    if ((fd < 0 || fsync(fd) != 0) && (is_ours || errno == EIO))
        status = journal_file_error(dir, "..", "cannot be synced", error);
    if (fd >= 0)
        close(fd);
    return status;
}

enum kv_status journal_dir_make(
    struct journal_dir *dir, const char *path, struct kv_error *error)
{
    bool is_ours = mkdir(path, 0700) == 0;
    enum kv_status status;

    if (!is_ours && errno != EEXIST)
        return kv_error_set(error, KV_IO, "%s: cannot be made: %s", path,
            strerrordesc_np(errno));
    status = journal_dir_open(dir, path, error);
    if (status == KV_OK)
        status = sync_parent(dir, is_ours, error);
    if (status != KV_OK)
        journal_dir_close(dir);
    return status;
}

void journal_dir_close(struct journal_dir *dir)
{
    if (dir->fd >= 0)
        close(dir->fd);
    dir->fd = -1;
}

enum kv_status journal_dir_lock(
    const struct journal_dir *dir, int *out, struct kv_error *error)
{
    int fd =
        openat(dir->fd, JOURNAL_LOCK_FILE, O_RDWR | O_CREAT | O_CLOEXEC, 0600);
    int number;

    if (fd < 0)
        return journal_file_error(
            dir, JOURNAL_LOCK_FILE, "cannot be opened", error);
    if (flock(fd, LOCK_EX | LOCK_NB) == 0) {
        *out = fd;
        return KV_OK;
    }
    number = errno;
    close(fd);
    if (number == EWOULDBLOCK)
        return kv_error_set(error, KV_BUSY,
            "%s is in use: another process holds its lock", dir->path);
    errno = number;
    return journal_file_error(
        dir, JOURNAL_LOCK_FILE, "cannot be locked", error);
}

/* ---- segments' names */

struct journal_name journal_segment_name(uint64_t first_sequence)
{
    struct journal_name name;

    snprintf(name.s, sizeof name.s, "%020" PRIu64 ".log", first_sequence);
    return name;
}

static bool parse_name(const char *name, uint64_t *out)
{
    char *end;

    if (strlen(name) != DIGITS + 4 || strspn(name, "0123456789") != DIGITS ||
        strcmp(name + DIGITS, ".log") != 0)
        return false;
    errno = 0;
    *out = strtoull(name, &end, 10);
    return errno == 0;
}

static int compare(const void *a, const void *b)
{
    uint64_t x = *(const uint64_t *)a, y = *(const uint64_t *)b;

    return (x > y) - (x < y);
}

struct names {
    uint64_t *at;
    size_t n, capacity;
};

static bool add_name(struct names *names, uint64_t sequence)
{
    if (names->n == names->capacity) {
        size_t capacity =
            names->capacity > 0 ? 2 * names->capacity : FIRST_NAMES;
        uint64_t *larger = kv_realloc(names->at, capacity * sizeof *larger);

        if (larger == NULL)
            return false;
        names->at = larger;
        names->capacity = capacity;
    }
    names->at[names->n++] = sequence;
    return true;
}

static enum kv_status read_names(DIR *stream, struct names *names)
{
    struct dirent *entry;
    uint64_t sequence;

    /* The stream is this thread's alone. */
    /* cppcheck-suppress readdirCalled */
    while (errno = 0, (entry = readdir(stream)) != NULL)
        if (parse_name(entry->d_name, &sequence) && !add_name(names, sequence))
            return KV_NO_MEMORY;
    return errno == 0 ? KV_OK : KV_IO;
}

enum kv_status journal_dir_list(const struct journal_dir *dir, uint64_t **out,
    size_t *n_out, struct kv_error *error)
{
    int fd = openat(dir->fd, ".", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    DIR *stream = fd >= 0 ? fdopendir(fd) : NULL;
    struct names names = {0};
    enum kv_status status;

    if (stream == NULL) {
        status = journal_file_error(dir, ".", "cannot be read", error);
        if (fd >= 0)
            close(fd);
        return status;
    }
    status = read_names(stream, &names);
    if (status == KV_IO)
        journal_file_error(dir, ".", "cannot be read", error);
    closedir(stream);
    if (status == KV_NO_MEMORY)
        kv_error_set(error, status, "no memory for the names of segments");
    if (status != KV_OK) {
        kv_free(names.at);
        return status;
    }
    if (names.n > 0)
        qsort(names.at, names.n, sizeof *names.at, compare);
    *out = names.at;
    *n_out = names.n;
    return KV_OK;
}

/* ---- bytes */

ptrdiff_t journal_read(int fd, void *bytes, size_t n, uint64_t offset)
{
    size_t n_done = 0;

    while (n_done < n) {
        ssize_t n_read = pread(
            fd, (char *)bytes + n_done, n - n_done, (off_t)(offset + n_done));

        if (n_read < 0 && errno == EINTR)
            continue;
        if (n_read < 0)
            return -1;
        if (n_read == 0)
            break;
        n_done += (size_t)n_read;
    }
    return (ptrdiff_t)n_done;
}

bool journal_write(int fd, const void *bytes, size_t n, uint64_t offset)
{
    size_t n_done = 0;

    while (n_done < n) {
        ssize_t n_written = pwrite(fd, (const char *)bytes + n_done, n - n_done,
            (off_t)(offset + n_done));

        if (n_written < 0 && errno == EINTR)
            continue;
        if (n_written < 0)
            return false;
        n_done += (size_t)n_written;
    }
    return true;
}

bool journal_write_zeros(int fd, uint64_t from, uint64_t to)
{
    static const unsigned char zeros[1 << 16];

    while (from < to) {
        size_t n = to - from < sizeof zeros ? to - from : sizeof zeros;

        if (!journal_write(fd, zeros, n, from))
            return false;
        from += n;
    }
    return true;
}

bool journal_settle(int fd, uint64_t from, uint64_t to)
{
    unsigned char bytes[1 << 14];

    while (from < to) {
        size_t n = to - from < sizeof bytes ? to - from : sizeof bytes;
        ptrdiff_t n_read = journal_read(fd, bytes, n, from);

        if (n_read >= 0 && (size_t)n_read < n)
            errno = EIO; /* it was there a moment ago */
        if (n_read != (ptrdiff_t)n || !journal_write(fd, bytes, n, from))
            return false;
        from += n;
    }
    return fdatasync(fd) == 0;
}

/* ---- the identity */

enum kv_status journal_identity_load(const struct journal_dir *dir,
    struct journal_identity *out, struct kv_error *error)
{
    unsigned char bytes[JOURNAL_IDENTITY_BYTES];
    int fd = openat(dir->fd, JOURNAL_IDENTITY_FILE, O_RDONLY | O_CLOEXEC);
    const char *why;
    ptrdiff_t n;

    if (fd < 0 && errno == ENOENT)
        return kv_error_set(error, KV_NOT_FOUND, "%s/%s: there is no ledger",
            dir->path, JOURNAL_IDENTITY_FILE);
    if (fd < 0)
        return journal_file_error(
            dir, JOURNAL_IDENTITY_FILE, "cannot be opened", error);
    n = journal_read(fd, bytes, sizeof bytes, 0);
    close(fd);
    if (n < 0)
        return journal_file_error(
            dir, JOURNAL_IDENTITY_FILE, "cannot be read", error);
    if (!journal_identity_parse(bytes, (size_t)n, out, &why))
        return kv_error_set(error, KV_DATA_LOSS, "%s/%s: at byte 0: %s",
            dir->path, JOURNAL_IDENTITY_FILE, why);
    return KV_OK;
}

enum kv_status journal_identity_store(const struct journal_dir *dir,
    const struct journal_identity *identity, struct kv_error *error)
{
    unsigned char bytes[JOURNAL_IDENTITY_BYTES];
    int fd = openat(dir->fd, IDENTITY_NEXT_FILE,
        O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0600);
    bool is_written;
    int number;

    journal_identity_write(bytes, identity);
    is_written = fd >= 0 && journal_write(fd, bytes, sizeof bytes, 0) &&
                 fdatasync(fd) == 0;
    number = errno;
    if (fd >= 0)
        close(fd);
    errno = number;
    if (!is_written)
        return journal_file_error(
            dir, IDENTITY_NEXT_FILE, "cannot be written", error);
    if (renameat(dir->fd, IDENTITY_NEXT_FILE, dir->fd, JOURNAL_IDENTITY_FILE) !=
            0 ||
        fsync(dir->fd) != 0)
        return journal_file_error(
            dir, JOURNAL_IDENTITY_FILE, "cannot be replaced", error);
    return KV_OK;
}
