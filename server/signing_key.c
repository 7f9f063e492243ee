#include "server/signing_key.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/log.h"
#include "server/server.h"

static enum kv_status refuse_file(
    const char *path, const char *what, struct kv_error *error)
{
    return kv_error_set(
        error, KV_IO, "signing-key: %s: %s: %s", path, what, strerror(errno));
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

static void warn_if_open_to_all(int file, const char *path)
{
    struct stat status;

    if (fstat(file, &status) == 0 && (status.st_mode & S_IRWXO) != 0)
        kv_log(KV_LOG_WARN, SERVER_LOG_TARGET,
            "the signing key is open to every user of this machine",
            KV_LOG_TEXT("file", path));
}

static enum kv_status read_key(struct checkpoint_signer *out, int file,
    const char *path, struct kv_error *error)
{
    struct checkpoint_key_text text = {.s = ""};
    struct kv_error cause;
    enum kv_status status;

    if (!read_text(file, &text)) {
        status = refuse_file(path, "cannot be read", error);
    } else {
        status = checkpoint_signer_parse(out, text.s, &cause);
        if (status != KV_OK)
            kv_error_set(
                error, status, "signing-key: %s: %s", path, cause.text);
    }
    checkpoint_wipe(&text, sizeof text);
    warn_if_open_to_all(file, path);
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

static enum kv_status write_key(const struct checkpoint_signer *signer,
    const char *path, struct kv_error *error)
{
    struct checkpoint_key_text text = checkpoint_signer_format(signer);
    int file = open(path, O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0600);
    enum kv_status status = KV_OK;

    if (file < 0) {
        status = refuse_file(path, "cannot be created", error);
    } else if (!write_all(file, text.s, strlen(text.s)) ||
               !write_all(file, "\n", 1) || fsync(file) != 0) {
        status = refuse_file(path, "cannot be written", error);
        unlink(path);
    }
    if (file >= 0)
        close(file);
    checkpoint_wipe(&text, sizeof text);
    return status;
}

static enum kv_status make_key(struct checkpoint_signer *out, const char *path,
    const char *name, struct kv_error *error)
{
    enum kv_status status = checkpoint_signer_generate(out, name, error);

    if (status != KV_OK || path[0] == '\0')
        return status;
    status = write_key(out, path, error);
    if (status == KV_OK)
        kv_log(KV_LOG_INFO, SERVER_LOG_TARGET, "signing key made",
            KV_LOG_TEXT("file", path));
    else
        checkpoint_signer_fini(out);
    return status;
}

enum kv_status signing_key_load(struct checkpoint_signer *out, const char *path,
    const char *name, struct kv_error *error)
{
    enum kv_status status;
    int file;

    if (path[0] == '\0')
        return make_key(out, path, name, error);
    file = open(path, O_RDONLY | O_CLOEXEC);
    if (file < 0 && errno == ENOENT)
        return make_key(out, path, name, error);
    if (file < 0)
        return refuse_file(path, "cannot be opened", error);
    status = read_key(out, file, path, error);
    close(file);
    return status;
}
