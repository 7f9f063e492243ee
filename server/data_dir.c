#include "server/data_dir.h"

#include <errno.h>
#include <fcntl.h>
#include <libgen.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/heap.h"
#include "base/log.h"
#include "server/server.h"

static enum kv_status refuse(
    const char *path, const char *what, struct kv_error *error)
{
    return kv_error_set(
        error, KV_IO, "data-dir: %s: %s: %s", path, what, strerror(errno));
}

char *data_dir_join(const char *path, const char *name)
{
    size_t n = strlen(path) + 1 + strlen(name) + 1;
    char *joined = kv_calloc(1, n);

    if (joined != NULL)
        snprintf(joined, n, "%s/%s", path, name);
    return joined;
}

/* A directory that a crash undoes takes the receipts with it, whoever made it:
 * we may have been killed before we came to this. Where it is not ours, its
 * parent need not be ours either, nor one that can be synced. */
static enum kv_status sync_parent(
    const char *path, bool is_ours, struct kv_error *error)
{
    char *copy = kv_strdup(path);
    enum kv_status status = KV_OK;
    int parent;

    if (copy == NULL)
        return kv_error_set(error, KV_NO_MEMORY, "no memory for data-dir");
    parent = open(dirname(copy), O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    if ((parent < 0 || fsync(parent) != 0) && (is_ours || errno == EIO))
        status = refuse(path, "its parent cannot be synced", error);
    if (parent >= 0)
        close(parent);
    kv_free(copy);
    return status;
}

enum kv_status data_dir_open(const char *path, struct kv_error *error)
{
    bool is_ours = mkdir(path, 0700) == 0;
    struct stat status;

    if (is_ours)
        kv_log(KV_LOG_INFO, SERVER_LOG_TARGET, "data directory made",
            KV_LOG_TEXT("dir", path));
    else if (errno != EEXIST)
        return refuse(path, "cannot be created", error);
    if (stat(path, &status) != 0)
        return refuse(path, "cannot be looked at", error);
    if (S_ISDIR(status.st_mode))
        return sync_parent(path, is_ours, error);
    return kv_error_set(
        error, KV_IO, "data-dir: %s: is there, and is no directory", path);
}
