#include "receipts/key_file.h"

#include <errno.h>
#include <fcntl.h>
#include <libgen.h>
#include <limits.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "receipts/checkpoint_internal.h"

static enum kv_status refuse_file(
    const char *path, const char *what, struct kv_error *error)
{
    return kv_error_set(
        error, KV_IO, "%s: %s: %s", path, what, strerror(errno));
}

/* All that is in the file, as a text. false: errno says why. */
static bool read_text(int file, struct checkpoint_key_text *out)
{
    size_t n = 0;
    ssize_t n_read;

    do {
        n_read = read(file, out->s + n, sizeof out->s - n);
        if (n_read > 0)
            n += (size_t)n_read;
        if (n == sizeof out->s) {
            errno = EFBIG;
            return false;
        }
    } while (n_read > 0 || (n_read < 0 && errno == EINTR));
    if (n > 0 && out->s[n - 1] == '\n')
        n--;
    out->s[n] = '\0';
    return n_read == 0;
}

static bool is_open_to_all(int file)
{
    struct stat status;

    return fstat(file, &status) == 0 && (status.st_mode & S_IRWXO) != 0;
}

static enum kv_status read_key(struct checkpoint_signer *out,
    enum checkpoint_role role, int file, const char *path,
    struct kv_error *error)
{
    struct checkpoint_key_text text = {.s = ""};
    struct kv_error cause;
    enum kv_status status;

    if (!read_text(file, &text)) {
        status = refuse_file(path, "cannot be read", error);
    } else {
        status = checkpoint_parse_signer(out, role, text.s, &cause);
        if (status != KV_OK)
            kv_error_set(error, status, "%s: %s", path, cause.text);
    }
    checkpoint_wipe(&text, sizeof text);
    return status;
}

static bool write_all(int file, const char *text, size_t n)
{
    while (n > 0) {
        ssize_t n_written = write(file, text, n);

        if (n_written < 0 && errno != EINTR)
            return false;
        if (n_written > 0) {
            text += n_written;
            n -= (size_t)n_written;
        }
    }
    return true;
}

/* Opens path, with its name changed, for writing; the name is in *out. */
static int open_beside(const char *path, char out[PATH_MAX])
{
    int n = snprintf(out, PATH_MAX, "%s.tmp", path);

    if (n < 0 || n >= PATH_MAX) {
        errno = ENAMETOOLONG;
        return -1;
    }
    return open(out, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0600);
}

static bool sync_dir_of(const char *path)
{
    char copy[PATH_MAX];
    int dir, number;
    bool ok;

    snprintf(copy, sizeof copy, "%s", path);
    dir = open(dirname(copy), O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    ok = dir >= 0 && fsync(dir) == 0;
    number = errno;
    if (dir >= 0)
        close(dir);
    errno = number;
    return ok;
}

/* Whole or not at all, and for good: what is signed with a key that a crash
 * takes away is signed by nobody. */
static enum kv_status write_key(const struct checkpoint_signer *signer,
    const char *path, struct kv_error *error)
{
    struct checkpoint_key_text text = checkpoint_signer_format(signer);
    enum kv_status status = KV_OK;
    char beside[PATH_MAX];
    int file = open_beside(path, beside);

    if (file < 0) {
        status = refuse_file(path, "cannot be created", error);
    } else if (!write_all(file, text.s, strlen(text.s)) ||
               !write_all(file, "\n", 1) || fsync(file) != 0 ||
               rename(beside, path) != 0 || !sync_dir_of(path)) {
        status = refuse_file(path, "cannot be written", error);
        unlink(beside);
    }
    if (file >= 0)
        close(file);
    checkpoint_wipe(&text, sizeof text);
    return status;
}

static enum kv_status make_key(struct checkpoint_signer *out,
    enum checkpoint_role role, const char *path, const char *name,
    struct kv_error *error)
{
    enum kv_status status = checkpoint_generate(out, role, name, error);

    if (status != KV_OK)
        return status;
    status = write_key(out, path, error);
    if (status != KV_OK)
        checkpoint_signer_fini(out);
    return status;
}

enum kv_status key_file_load(struct checkpoint_signer *out,
    enum checkpoint_role role, const char *path, const char *name,
    struct key_file_news *news, struct kv_error *error)
{
    enum kv_status status;
    int file = open(path, O_RDONLY | O_CLOEXEC);

    *news = (struct key_file_news){false, false};
    if (file < 0 && errno == ENOENT) {
        status = make_key(out, role, path, name, error);
        news->made = status == KV_OK;
        return status;
    }
    if (file < 0)
        return refuse_file(path, "cannot be opened", error);
    status = read_key(out, role, file, path, error);
    news->open_to_all = is_open_to_all(file);
    close(file);
    return status;
}
