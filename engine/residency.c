#include "engine/residency.h"

#include <errno.h>
#include <inttypes.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <unistd.h>

#define READ_BYTES ((size_t)64 << 20) /* that are waited for at a time */

/* Of Linux 5.14, which the headers may not know. */
#ifndef MADV_POPULATE_READ
#define MADV_POPULATE_READ 22
#endif

bool residency_prefetch_parse(const char *name, enum residency_prefetch *out)
{
    static const char *const names[] = {
        [RESIDENCY_AS_TOUCHED] = "off",
        [RESIDENCY_AHEAD] = "ahead",
        [RESIDENCY_WAIT] = "wait",
    };

    for (size_t i = 0; i < sizeof names / sizeof *names; i++)
        if (strcmp(name, names[i]) == 0) {
            *out = (enum residency_prefetch)i;
            return true;
        }
    return false;
}

/* ---- reading ahead */

struct range {
    unsigned char *begin;
    size_t n;
};

/* In whole pages. */
static struct range pages_of(const void *data, size_t n)
{
    const size_t page = (size_t)sysconf(_SC_PAGESIZE);
    const size_t before = (uintptr_t)data % page;

    return (struct range){
        .begin = (unsigned char *)(uintptr_t)data - before,
        .n = (before + n + page - 1) / page * page,
    };
}

static enum kv_status wait_for(const struct model *model, struct range file,
    const struct progress *progress, struct kv_error *error)
{
    for (size_t at = 0; at < file.n; at += READ_BYTES) {
        const size_t n = file.n - at < READ_BYTES ? file.n - at : READ_BYTES;

        if (progress != NULL)
            progress->report(progress->ctx, "reading", at, file.n);
        if (madvise(file.begin + at, n, MADV_POPULATE_READ) == 0)
            continue;
        if (errno == EINVAL)
            return KV_OK;
        return kv_error_set(error, KV_IO,
            "%s: bytes %zu to %zu cannot be read into memory: %s",
            gguf_name(model->gguf), at, at + n, strerrordesc_np(errno));
    }
    if (progress != NULL)
        progress->report(progress->ctx, "reading", file.n, file.n);
    return KV_OK;
}

enum kv_status residency_prefetch(const struct model *model,
    enum residency_prefetch how, const struct progress *progress,
    struct kv_error *error)
{
    const struct range file =
        pages_of(gguf_file_data(model->gguf), gguf_file_bytes(model->gguf));

    if (how == RESIDENCY_AS_TOUCHED)
        return KV_OK;
    (void)madvise(file.begin, file.n, MADV_WILLNEED); /* advice only */
    return how == RESIDENCY_WAIT ? wait_for(model, file, progress, error)
                                 : KV_OK;
}

/* ---- locking */

/* Calls each() with the ranges that a step reads, until it fails. */
static bool each_range(const struct model *model,
    const struct matrices *matrices,
    bool (*each)(struct range range, size_t *n_bytes), size_t *n_bytes)
{
    size_t n;
    const void *packed = matrices_packed(matrices, &n);

    if (n > 0 && !each(pages_of(packed, n), n_bytes))
        return false;
    for (size_t i = 0; i < matrices_count(matrices); i++) {
        const struct matrix *matrix = matrices_at(matrices, i);

        if (!matrix->is_packed &&
            !each(pages_of(matrix->weight->data, weight_bytes(matrix->weight)),
                n_bytes))
            return false;
    }
    /* An output of its own, or one that is packed, leaves it to be read. */
    return each(pages_of(model->token_embedding.data,
                    weight_bytes(&model->token_embedding)),
        n_bytes);
}

static bool lock_range(struct range range, size_t *n_bytes)
{
    if (mlock(range.begin, range.n) != 0)
        return false;
    *n_bytes += range.n;
    return true;
}

static bool unlock_range(struct range range, size_t *n_bytes)
{
    (void)n_bytes;
    (void)munlock(range.begin, range.n);
    return true;
}

static bool add_range(struct range range, size_t *n_bytes)
{
    *n_bytes += range.n;
    return true;
}

static enum kv_status refuse_lock(
    int number, size_t n_bytes, struct kv_error *error)
{
    struct rlimit limit = {0, 0};

    (void)getrlimit(RLIMIT_MEMLOCK, &limit);
    if (limit.rlim_cur != RLIM_INFINITY && limit.rlim_cur < n_bytes)
        return kv_error_set(error, KV_NO_MEMORY,
            "%zu bytes of weights cannot be locked in memory: RLIMIT_MEMLOCK "
            "allows %" PRIuMAX "; raise it (ulimit -l, LimitMEMLOCK= of "
            "systemd)",
            n_bytes, (uintmax_t)limit.rlim_cur);
    return kv_error_set(error, KV_NO_MEMORY,
        "%zu bytes of weights cannot be locked in memory: %s", n_bytes,
        strerrordesc_np(number));
}

enum kv_status residency_lock(const struct model *model,
    const struct matrices *matrices, size_t *n_bytes, struct kv_error *error)
{
    size_t n_all = 0, n_locked = 0;
    int number;

    each_range(model, matrices, add_range, &n_all);
    if (!each_range(model, matrices, lock_range, &n_locked)) {
        number = errno;
        residency_unlock(model, matrices);
        return refuse_lock(number, n_all, error);
    }
    *n_bytes = n_locked;
    return KV_OK;
}

void residency_unlock(
    const struct model *model, const struct matrices *matrices)
{
    size_t n_bytes = 0;

    each_range(model, matrices, unlock_range, &n_bytes);
}
