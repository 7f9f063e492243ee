#include "sinks/secret.h"

#include <errno.h>
#include <fcntl.h>
#include <stdbool.h>
#include <string.h>
#include <unistd.h>

static enum kv_status refuse_file(
    const char *path, int number, struct kv_error *error)
{
    return kv_error_set(
        error, KV_IO, "cannot read %s: %s", path, strerror(number));
}

/* At most `size` bytes. A pipe that nobody writes to is empty: who waited for
 * it could not be ended. */
static ssize_t read_file(const char *path, char *out, size_t size)
{
    int fd = open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK);
    size_t n_read = 0;
    ssize_t n = 0;
    int number;

    if (fd < 0)
        return -1;
    while (n_read < size && (n = read(fd, out + n_read, size - n_read)) > 0)
        n_read += (size_t)n;
    number = errno;
    close(fd);
    errno = number;
    return n < 0 ? -1 : (ssize_t)n_read;
}

static bool is_blank(char c)
{
    return c == ' ' || c == '\t' || c == '\r' || c == '\n';
}

enum kv_status secret_read(
    struct secret *out, const char *path, struct kv_error *error)
{
    char *text = out->text;
    ssize_t n = read_file(path, text, sizeof out->text);
    size_t begin = 0, end = n > 0 ? (size_t)n : 0;

    if (n < 0)
        return refuse_file(path, errno, error);
    if (end > SECRET_BYTES)
        return kv_error_set(error, KV_INVALID,
            "%s is longer than %d bytes: not a secret", path, SECRET_BYTES);
    while (end > 0 && is_blank(text[end - 1]))
        end--;
    while (begin < end && is_blank(text[begin]))
        begin++;
    memmove(text, text + begin, end - begin);
    text[end - begin] = '\0';
    if (end == begin)
        return kv_error_set(error, KV_INVALID, "%s is empty", path);
    for (size_t i = 0; i < end - begin; i++) {
        if (text[i] <= ' ' || text[i] > '~')
            return kv_error_set(error, KV_INVALID,
                "%s: byte %zu of the secret is not a visible ASCII character",
                path, i + 1);
    }
    return KV_OK;
}

void secret_wipe(struct secret *secret)
{
    explicit_bzero(secret, sizeof *secret);
}

enum kv_status secret_check_file(
    const char *setting, const char *path, struct kv_error *error)
{
    if (path[0] == '\0' || access(path, R_OK) == 0)
        return KV_OK;
    return kv_error_set(
        error, KV_IO, "%s: cannot read %s: %s", setting, path, strerror(errno));
}
