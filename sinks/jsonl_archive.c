#include "sinks/jsonl_archive.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include <zstd.h>

#include "base/heap.h"

#define LEVEL 3 /* zstd's own standard */
#define COMPRESSED ".zst"
#define UNFINISHED ".tmp"

enum {
    N_DIGITS = 20, /* of a sequence: any fits, and names sort like numbers */
    N_POOL = 8,    /* hexadecimal digits that tell ledgers apart */
};

static enum kv_status refuse(
    const char *doing, const char *name, struct kv_error *error)
{
    return kv_error_set(
        error, KV_IO, "%s %s: %s", doing, name, strerror(errno));
}

/* ---- names */

enum kv_status jsonl_names_parse(
    struct jsonl_names *names, const char *path, struct kv_error *error)
{
    const char *slash = strrchr(path, '/');
    const char *name = slash != NULL ? slash + 1 : path;
    const char *dot = strrchr(name, '.');
    size_t n_dir = slash == NULL   ? 0
                   : slash == path ? 1
                                   : (size_t)(slash - path);
    size_t n_stem =
        dot != NULL && dot != name ? (size_t)(dot - name) : strlen(name);

    if (name[0] == '\0' || strcmp(name, ".") == 0 || strcmp(name, "..") == 0)
        return kv_error_set(
            error, KV_INVALID, "given \"%s\", allowed is a file", path);
    if (strlen(path) > JSONL_MAX_PATH_BYTES || n_stem > JSONL_MAX_STEM_BYTES ||
        strlen(name + n_stem) > 16)
        return kv_error_set(error, KV_INVALID,
            "given a path of %zu bytes, allowed are %d, in its last part %d "
            "and an extension of 16",
            strlen(path), JSONL_MAX_PATH_BYTES, JSONL_MAX_STEM_BYTES);
    memcpy(names->dir, n_dir > 0 ? path : ".", n_dir > 0 ? n_dir : 1);
    names->dir[n_dir > 0 ? n_dir : 1] = '\0';
    strcpy(names->name, name);
    names->n_stem = n_stem;
    return KV_OK;
}

static void print_pool(char text[N_POOL + 1], const uint8_t pool_id[16])
{
    for (int i = 0; i < N_POOL / 2; i++)
        snprintf(text + 2 * i, 3, "%02x", pool_id[i]);
}

struct jsonl_closed_name jsonl_closed_name(const struct jsonl_names *names,
    uint64_t first_sequence, uint64_t last_sequence, const uint8_t pool_id[16])
{
    struct jsonl_closed_name closed;
    char pool[N_POOL + 1];

    print_pool(pool, pool_id);
    snprintf(closed.text, sizeof closed.text,
        "%.*s-%0*" PRIu64 "-%0*" PRIu64 "-%s%s", (int)names->n_stem,
        names->name, N_DIGITS, first_sequence, N_DIGITS, last_sequence, pool,
        names->name + names->n_stem);
    return closed;
}

/* What a name says; false if it is none of a closed file. */
struct closed {
    uint64_t last_sequence;
    char pool[N_POOL + 1];
    bool is_compressed;
};

static bool take_number(const char **at, uint64_t *out)
{
    if (**at != '-' || strspn(*at + 1, "0123456789") != N_DIGITS)
        return false;
    *out = strtoull(*at + 1, NULL, 10);
    *at += 1 + N_DIGITS;
    return true;
}

static bool parse_name(
    const struct jsonl_names *names, const char *name, struct closed *out)
{
    const char *at = name + names->n_stem;
    const char *extension = names->name + names->n_stem;
    uint64_t first;

    if (strncmp(name, names->name, names->n_stem) != 0 ||
        !take_number(&at, &first) || !take_number(&at, &out->last_sequence) ||
        *at != '-' || strspn(at + 1, "0123456789abcdef") != N_POOL)
        return false;
    memcpy(out->pool, at + 1, N_POOL);
    out->pool[N_POOL] = '\0';
    at += 1 + N_POOL;
    if (strncmp(at, extension, strlen(extension)) != 0)
        return false;
    at += strlen(extension);
    out->is_compressed = strcmp(at, COMPRESSED) == 0;
    return out->is_compressed || *at == '\0';
}

/* ---- walking the directory */

/* A stream of its own over the directory, from its start. */
static DIR *open_walk(int dir)
{
    int fd = openat(dir, ".", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    DIR *walk = fd >= 0 ? fdopendir(fd) : NULL;

    if (walk == NULL && fd >= 0)
        close(fd);
    return walk;
}

enum kv_status jsonl_archive_last(const struct jsonl_names *names, int dir,
    const uint8_t pool_id[16], uint64_t *last_sequence, struct kv_error *error)
{
    DIR *walk = open_walk(dir);
    const struct dirent *entry;
    struct closed closed;
    char pool[N_POOL + 1];

    *last_sequence = 0;
    if (walk == NULL)
        return refuse("reading", names->dir, error);
    print_pool(pool, pool_id);
    while ((entry = readdir(walk)) != NULL) {
        if (parse_name(names, entry->d_name, &closed) &&
            strcmp(closed.pool, pool) == 0 &&
            closed.last_sequence > *last_sequence)
            *last_sequence = closed.last_sequence;
    }
    closedir(walk);
    return KV_OK;
}

/* ---- compressing */

struct compression {
    int from, to;
    ZSTD_CCtx *context;
    void *in, *out;
    size_t in_bytes, out_bytes;
};

static bool write_all(int fd, const char *bytes, size_t n)
{
    while (n > 0) {
        ssize_t written = write(fd, bytes, n);

        if (written < 0 && errno == EINTR)
            continue;
        if (written < 0)
            return false;
        bytes += written;
        n -= (size_t)written;
    }
    return true;
}

/* What was read goes through; at the end the frame is finished. */
static bool compress_block(struct compression *run, size_t n, bool is_last)
{
    ZSTD_inBuffer in = {run->in, n, 0};
    size_t left;

    do {
        ZSTD_outBuffer out = {run->out, run->out_bytes, 0};

        left = ZSTD_compressStream2(
            run->context, &out, &in, is_last ? ZSTD_e_end : ZSTD_e_continue);
        if (ZSTD_isError(left)) {
            errno = ENOMEM; /* the only way it fails on our input */
            return false;
        }
        if (!write_all(run->to, run->out, out.pos))
            return false;
    } while (is_last ? left > 0 : in.pos < in.size);
    return true;
}

static bool compress_all(struct compression *run, const atomic_bool *stop)
{
    for (;;) {
        ssize_t n = read(run->from, run->in, run->in_bytes);

        if (n < 0 && errno == EINTR)
            continue;
        if (atomic_load(stop))
            errno = ECANCELED;
        if (n < 0 || atomic_load(stop) ||
            !compress_block(run, (size_t)n, n == 0))
            return false;
        if (n == 0)
            return fsync(run->to) == 0;
    }
}

static bool compress_file(int from, int to, const atomic_bool *stop)
{
    struct compression run = {.from = from,
        .to = to,
        .in_bytes = ZSTD_CStreamInSize(),
        .out_bytes = ZSTD_CStreamOutSize()};
    bool done = false;

    run.in = kv_calloc(1, run.in_bytes);
    run.out = kv_calloc(1, run.out_bytes);
    run.context = ZSTD_createCCtx();
    errno = ENOMEM;
    if (run.in != NULL && run.out != NULL && run.context != NULL &&
        !ZSTD_isError(ZSTD_CCtx_setParameter(
            run.context, ZSTD_c_compressionLevel, LEVEL)) &&
        !ZSTD_isError(
            ZSTD_CCtx_setParameter(run.context, ZSTD_c_checksumFlag, 1)))
        done = compress_all(&run, stop);
    ZSTD_freeCCtx(run.context);
    kv_free(run.out);
    kv_free(run.in);
    return done;
}

/* As old as the other, so that the oldest closed file is the first to go. */
static bool copy_time(int from, int to)
{
    struct timespec times[2] = {{.tv_nsec = UTIME_OMIT}};
    struct stat stat;

    if (fstat(from, &stat) != 0)
        return false;
    times[1] = stat.st_mtim;
    return futimens(to, times) == 0;
}

/* name becomes name.zst; on failure there is name still. */
static bool compress_closed(int dir, const char *name, const atomic_bool *stop)
{
    char finished[NAME_MAX + sizeof COMPRESSED];
    char unfinished[sizeof finished + sizeof UNFINISHED];
    int from = openat(dir, name, O_RDONLY | O_CLOEXEC | O_NOFOLLOW);
    int to, number;
    bool done;

    snprintf(finished, sizeof finished, "%s" COMPRESSED, name);
    snprintf(unfinished, sizeof unfinished, "%s" UNFINISHED, finished);
    to = from < 0
             ? -1
             : openat(dir, unfinished,
                   O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC | O_NOFOLLOW, 0640);
    done = to >= 0 && compress_file(from, to, stop) && copy_time(from, to) &&
           renameat(dir, unfinished, dir, finished) == 0 && fsync(dir) == 0 &&
           unlinkat(dir, name, 0) == 0;
    number = errno;
    if (!done && to >= 0)
        unlinkat(dir, unfinished, 0);
    if (to >= 0)
        close(to);
    if (from >= 0)
        close(from);
    errno = number;
    return done;
}

/* ---- tidying */

/* Names are gathered first: the directory changes while they are worked on. */
struct entry {
    char name[NAME_MAX + 1];
    struct timespec changed;
    bool is_compressed;
};
struct listing {
    struct entry *entries;
    size_t n, capacity;
};

static bool add_entry(struct listing *listing, int dir, const char *name,
    const struct closed *closed)
{
    struct entry *entry;
    struct stat stat;

    if (fstatat(dir, name, &stat, AT_SYMLINK_NOFOLLOW) != 0)
        return errno == ENOENT;
    if (!S_ISREG(stat.st_mode))
        return true;
    if (listing->n == listing->capacity) {
        size_t capacity = listing->capacity > 0 ? 2 * listing->capacity : 64;
        struct entry *larger =
            kv_realloc(listing->entries, capacity * sizeof *larger);

        if (larger == NULL) {
            errno = ENOMEM;
            return false;
        }
        listing->entries = larger;
        listing->capacity = capacity;
    }
    entry = &listing->entries[listing->n++];
    snprintf(entry->name, sizeof entry->name, "%s", name);
    entry->changed = stat.st_mtim;
    entry->is_compressed = closed->is_compressed;
    return true;
}

static int compare_entries(const void *a, const void *b)
{
    const struct entry *left = a, *right = b;

    if (left->changed.tv_sec != right->changed.tv_sec)
        return left->changed.tv_sec < right->changed.tv_sec ? -1 : 1;
    if (left->changed.tv_nsec != right->changed.tv_nsec)
        return left->changed.tv_nsec < right->changed.tv_nsec ? -1 : 1;
    return strcmp(left->name, right->name);
}

/* All closed files, oldest first. */
static bool list_closed(
    struct listing *listing, const struct jsonl_names *names, int dir)
{
    DIR *walk = open_walk(dir);
    const struct dirent *entry;
    struct closed closed;
    bool done = walk != NULL;

    while (done && (entry = readdir(walk)) != NULL) {
        if (parse_name(names, entry->d_name, &closed))
            done = add_entry(listing, dir, entry->d_name, &closed);
    }
    if (walk != NULL)
        closedir(walk);
    if (done && listing->n > 0)
        qsort(listing->entries, listing->n, sizeof *listing->entries,
            compare_entries);
    return done;
}

static bool compress_listed(
    const struct listing *listing, int dir, const atomic_bool *stop)
{
    for (size_t i = 0; i < listing->n; i++) {
        if (!listing->entries[i].is_compressed &&
            !compress_closed(dir, listing->entries[i].name, stop))
            return false;
    }
    return true;
}

static bool delete_oldest(
    const struct jsonl_names *names, int dir, uint64_t keep_files)
{
    struct listing listing = {0};
    bool done = list_closed(&listing, names, dir);

    for (size_t i = 0; done && i + keep_files < listing.n; i++)
        done =
            unlinkat(dir, listing.entries[i].name, 0) == 0 || errno == ENOENT;
    kv_free(listing.entries);
    return done;
}

static enum kv_status refuse_tidy(
    const struct jsonl_names *names, struct kv_error *error)
{
    if (errno == ECANCELED)
        return KV_OK;
    if (errno == ENOMEM)
        return kv_error_set(error, KV_NO_MEMORY,
            "no memory to tidy the closed files in %s", names->dir);
    return refuse("tidying the closed files in", names->dir, error);
}

enum kv_status jsonl_archive_tidy(const struct jsonl_names *names,
    bool compress, uint64_t keep_files, const atomic_bool *stop,
    struct kv_error *error)
{
    int dir = open(names->dir, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    enum kv_status status = KV_OK;
    struct listing listing = {0};
    bool done;

    if (dir < 0)
        return refuse("opening", names->dir, error);
    done = !compress || (list_closed(&listing, names, dir) &&
                            compress_listed(&listing, dir, stop));
    if (done && keep_files > 0)
        done = delete_oldest(names, dir, keep_files);
    if (!done)
        status = refuse_tidy(names, error);
    kv_free(listing.entries);
    close(dir);
    return status;
}
