#include "cli/out_file.h"

#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/heap.h"
#include "cli/text.h"

static enum kv_status refuse(
    const char *path, const char *what, struct kv_error *error)
{
    return kv_error_set(
        error, KV_IO, "%s: %s: %s", text_name(path).s, what, strerror(errno));
}

static void forget(struct out_file *file)
{
    kv_free(file->path);
    kv_free(file->unfinished);
    *file = (struct out_file){.stream = NULL};
}

enum kv_status out_file_open(struct out_file *file, const char *path,
    unsigned permissions, struct kv_error *error)
{
    size_t n_bytes = strlen(path) + sizeof ".XXXXXX";
    enum kv_status status;
    int fd;

    file->stream = NULL;
    file->path = kv_strdup(path);
    file->unfinished = kv_calloc(n_bytes, 1);
    if (file->path == NULL || file->unfinished == NULL) {
        forget(file);
        return kv_error_set(error, KV_NO_MEMORY, "out of memory");
    }
    snprintf(file->unfinished, n_bytes, "%s.XXXXXX", path);
    fd = mkostemp(file->unfinished, O_CLOEXEC);
    if (fd >= 0)
        file->stream = fdopen(fd, "w");
    if (file->stream != NULL && fchmod(fd, permissions) == 0)
        return KV_OK;
    status = refuse(path, "cannot be created", error);
    if (file->stream == NULL && fd >= 0) {
        close(fd);
        unlink(file->unfinished);
    }
    out_file_abandon(file);
    return status;
}

/* The name is for good only once its directory is. */
static bool sync_directory(const char *path)
{
    const char *end = strrchr(path, '/');
    char *directory = end == NULL   ? kv_strdup(".")
                      : end == path ? kv_strdup("/")
                                    : kv_strndup(path, (size_t)(end - path));
    int fd = directory != NULL
                 ? open(directory, O_RDONLY | O_DIRECTORY | O_CLOEXEC)
                 : -1;
    bool ok = fd >= 0 && fsync(fd) == 0;

    if (fd >= 0)
        close(fd);
    kv_free(directory);
    return ok;
}

enum kv_status out_file_commit(struct out_file *file, struct kv_error *error)
{
    enum kv_status status;

    if (fflush(file->stream) != 0 || ferror(file->stream) ||
        fsync(fileno(file->stream)) != 0 ||
        rename(file->unfinished, file->path) != 0) {
        status = refuse(file->path, "cannot be written", error);
        out_file_abandon(file);
        return status;
    }
    fclose(file->stream);
    status = sync_directory(file->path)
                 ? KV_OK
                 : refuse(file->path, "its directory cannot be synced", error);
    forget(file);
    return status;
}

void out_file_abandon(struct out_file *file)
{
    if (file->stream != NULL) {
        fclose(file->stream);
        unlink(file->unfinished);
    }
    forget(file);
}
