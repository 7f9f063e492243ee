/* A disk that can be looked at as a power cut would have left it.
 *
 * Preloaded into a program, it writes down every change below one directory, in
 * the order in which the program made them, and every sync that returned:
 *
 *     program ──write──> kernel (as always: a kill loses nothing of it)
 *        └────────────> trace: WRITE file 3, offset 4096, bytes ...
 *                              SYNC  file 3
 *
 * disk_image.py makes of a trace what may lie on the disk afterwards: what was
 * synced, and of the rest any page or none. A plain kill cannot see a missing
 * fsync; this can.
 *
 *   CRASH_DIR     what is watched: everything below, by absolute path
 *   CRASH_TRACE   the trace, appended to
 *   CRASH_KILL    N: SIGKILL when the Nth change is about to be made; of a
 *                 write, its first half is made
 *   CRASH_FAULT   CALL,N,ERROR,once|forever|kill: the Nth such call fails;
 *                 CALL is a name of `enum fault_call`, ERROR is EIO, ENOSPC or
 *                 SHORT (of a write or read, half of it is done)
 *   CRASH_COUNTS  a file that gets how often each call was made, and CHANGES
 *
 * A change is written down before it is made, a sync after it returned; so the
 * trace never promises more than the disk. */
#include <dirent.h>
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <limits.h>
#include <pthread.h>
#include <signal.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/uio.h>
#include <unistd.h>

#define EXPORT __attribute__((visibility("default")))
#define MAX_FDS 1024

/* The trace's operations; disk_image.py has them too. */
enum trace_op {
    TRACE_OPEN = 1, /* id, path: a file that was there already */
    TRACE_CREATE,   /* id, path */
    TRACE_WRITE,    /* id, offset, bytes */
    TRACE_TRUNCATE, /* id, length */
    TRACE_SYNC,     /* id */
    TRACE_SYNC_DIR, /* path */
    TRACE_RENAME,   /* path, path */
    TRACE_UNLINK,   /* path */
    TRACE_MKDIR,    /* path */
    TRACE_LOST,  /* id: a sync failed; what it was for may be gone for good */
    TRACE_FAULT, /* the fault has come about */
};

struct trace_head {
    uint32_t op, id;
    uint64_t offset;
    uint32_t n_path, n_bytes;
};

#define FAULT_CALLS(X)                                                         \
    X(open)                                                                    \
    X(pread)                                                                   \
    X(pwrite)                                                                  \
    X(fsync) X(fdatasync) X(ftruncate) X(rename) X(unlink) X(mkdir)
#define FAULT_NAME(name) FAULT_##name,
enum fault_call { FAULT_CALLS(FAULT_NAME) N_FAULT_CALLS };
#undef FAULT_NAME

static struct {
    pthread_mutex_t mutex;
    bool ready;
    char dir[PATH_MAX];
    size_t n_dir;
    int trace_fd;
    uint32_t next_id;
    uint64_t n_changes, kill_at;
    struct {
        ino_t inode;
        uint32_t id;
    } files[MAX_FDS];
    size_t n_files;
    uint32_t id_of_fd[MAX_FDS]; /* 0: not watched */
    char *dir_of_fd[MAX_FDS];   /* of a directory's */
    enum fault_call fault_call;
    uint64_t fault_at, n_calls[N_FAULT_CALLS];
    int fault_errno; /* 0: short */
    bool fault_set, fault_forever, fault_kill;
} shim = {.mutex = PTHREAD_MUTEX_INITIALIZER, .trace_fd = -1, .next_id = 1};

/* The function behind ours. */
#define NEXT(name) ((__typeof__(&name))(uintptr_t)dlsym(RTLD_NEXT, #name))

static void die(const char *what)
{
    fprintf(stderr, "crash_shim: %s: %s\n", what, strerror(errno));
    abort();
}

#define FAULT_TEXT(name) #name,
static const char *const fault_names[] = {FAULT_CALLS(FAULT_TEXT)};
#undef FAULT_TEXT

/* CALL,N,ERROR,MODE */
static void parse_fault(const char *text)
{
    char call[16], error[16], mode[16];
    unsigned long at;

    if (sscanf(text, "%15[^,],%lu,%15[^,],%15s", call, &at, error, mode) != 4)
        die("CRASH_FAULT is not CALL,N,ERROR,MODE");
    for (size_t i = 0; i < N_FAULT_CALLS; i++)
        if (strcmp(call, fault_names[i]) == 0) {
            shim.fault_call = (enum fault_call)i;
            shim.fault_set = true;
        }
    if (!shim.fault_set)
        die("CRASH_FAULT names no call");
    shim.fault_at = at;
    shim.fault_errno = strcmp(error, "EIO") == 0      ? EIO
                       : strcmp(error, "ENOSPC") == 0 ? ENOSPC
                                                      : 0;
    shim.fault_forever = strcmp(mode, "forever") == 0;
    shim.fault_kill = strcmp(mode, "kill") == 0;
}

static void start(void)
{
    const char *dir = getenv("CRASH_DIR"), *trace = getenv("CRASH_TRACE");
    const char *kill_at = getenv("CRASH_KILL"), *fault = getenv("CRASH_FAULT");

    shim.ready = true;
    if (dir == NULL)
        return;
    snprintf(shim.dir, sizeof shim.dir, "%s", dir);
    shim.n_dir = strlen(shim.dir);
    if (trace != NULL) {
        shim.trace_fd =
            NEXT(open)(trace, O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0600);
        if (shim.trace_fd < 0)
            die(trace);
    }
    if (kill_at != NULL)
        shim.kill_at = strtoull(kill_at, NULL, 10);
    if (fault != NULL)
        parse_fault(fault);
}

__attribute__((destructor)) static void say_counts(void)
{
    const char *path = getenv("CRASH_COUNTS");
    FILE *out = path != NULL ? fopen(path, "we") : NULL;

    if (out == NULL)
        return;
    for (size_t i = 0; i < N_FAULT_CALLS; i++)
        fprintf(out, "%s %" PRIu64 "\n", fault_names[i], shim.n_calls[i]);
    fprintf(out, "CHANGES %" PRIu64 "\n", shim.n_changes);
    fclose(out);
}

static void lock(void)
{
    pthread_mutex_lock(&shim.mutex);
    if (!shim.ready)
        start();
}

static void unlock(void)
{
    pthread_mutex_unlock(&shim.mutex);
}

/* ---- which files */

static bool join(char full[PATH_MAX], const char *base, const char *path)
{
    size_t n_base = strlen(base), n_path = strlen(path);

    if (n_base + 1 + n_path >= PATH_MAX)
        return false;
    memcpy(full, base, n_base);
    full[n_base] = '/';
    memcpy(full + n_base + 1, path, n_path + 1);
    return true;
}

static bool make_absolute(int at_fd, const char *path, char full[PATH_MAX])
{
    char base[PATH_MAX];

    if (path[0] == '/') {
        snprintf(full, PATH_MAX, "%s", path);
        return true;
    }
    if (at_fd == AT_FDCWD)
        return getcwd(base, sizeof base) != NULL && join(full, base, path);
    return at_fd >= 0 && at_fd < MAX_FDS && shim.dir_of_fd[at_fd] != NULL &&
           join(full, shim.dir_of_fd[at_fd], path);
}

/* The absolute path if it is watched, else NULL. */
static const char *watched(int at_fd, const char *path, char full[PATH_MAX])
{
    if (shim.n_dir == 0 || path == NULL || !make_absolute(at_fd, path, full) ||
        strncmp(full, shim.dir, shim.n_dir) != 0 ||
        (full[shim.n_dir] != '/' && full[shim.n_dir] != '\0'))
        return NULL;
    return full;
}

static uint32_t id_of(int fd)
{
    return fd >= 0 && fd < MAX_FDS ? shim.id_of_fd[fd] : 0;
}

static uint32_t *id_of_inode(ino_t inode)
{
    for (size_t i = 0; i < shim.n_files; i++)
        if (shim.files[i].inode == inode)
            return &shim.files[i].id;
    if (shim.n_files == MAX_FDS)
        die("too many files");
    shim.files[shim.n_files].inode = inode;
    shim.files[shim.n_files].id = 0;
    return &shim.files[shim.n_files++].id;
}

static void forget_inode(const char *path)
{
    struct stat info;

    if (lstat(path, &info) == 0)
        *id_of_inode(info.st_ino) = 0;
}

/* ---- the trace */

static void trace(enum trace_op op, uint32_t id, uint64_t offset,
    const char *path, const struct iovec *bytes, size_t n_bytes)
{
    struct trace_head head = {.op = op,
        .id = id,
        .offset = offset,
        .n_path = path != NULL ? (uint32_t)strlen(path) : 0,
        .n_bytes = (uint32_t)n_bytes};
    struct iovec parts[3] = {
        {&head, sizeof head}, {(void *)path, head.n_path}, {NULL, 0}};

    if (shim.trace_fd < 0)
        return;
    if (bytes != NULL)
        parts[2] = *bytes;
    parts[2].iov_len = n_bytes;
    if (NEXT(writev)(shim.trace_fd, parts, 3) !=
        (ssize_t)(sizeof head + head.n_path + n_bytes))
        die("the trace");
}

/* Before a change is made. */
static void count_change(void)
{
    if (++shim.n_changes == shim.kill_at)
        raise(SIGKILL);
}

static bool dies_within_write(void)
{
    return shim.n_changes + 1 == shim.kill_at;
}

/* ---- faults */

/* Whether this call fails; *error is what with, 0 for half of it. */
static bool faulty(enum fault_call call, int *error)
{
    uint64_t n = ++shim.n_calls[call];

    if (!shim.fault_set || shim.fault_call != call)
        return false;
    if (n != shim.fault_at && !(shim.fault_forever && n > shim.fault_at))
        return false;
    trace(TRACE_FAULT, 0, 0, NULL, NULL, 0);
    if (shim.fault_kill)
        raise(SIGKILL);
    *error = shim.fault_errno;
    return true;
}

/* -1 with errno; a call that cannot be done by half fails with EIO. */
static int fail(int error)
{
    unlock();
    errno = error != 0 ? error : EIO;
    return -1;
}

/* ---- open */

static void remember_open(int fd, const char *path, bool was_there)
{
    struct stat info;
    uint32_t *id;

    if (fd >= MAX_FDS || fstat(fd, &info) != 0)
        die(path);
    if (S_ISDIR(info.st_mode)) {
        shim.dir_of_fd[fd] = strdup(path);
        return;
    }
    id = id_of_inode(info.st_ino);
    if (*id == 0) {
        *id = shim.next_id++;
        trace(was_there ? TRACE_OPEN : TRACE_CREATE, *id, 0, path, NULL, 0);
    }
    shim.id_of_fd[fd] = *id;
}

static int open_at(int at_fd, const char *path, int flags, mode_t mode)
{
    char full[PATH_MAX];
    const char *name;
    struct stat info;
    bool was_there;
    int fd, error;

    lock();
    name = watched(at_fd, path, full);
    if (name == NULL) {
        unlock();
        return NEXT(openat)(at_fd, path, flags, mode);
    }
    if (faulty(FAULT_open, &error))
        return fail(error);
    was_there = lstat(name, &info) == 0;
    if (!was_there && (flags & O_CREAT))
        count_change();
    fd = NEXT(openat)(AT_FDCWD, name, flags, mode);
    if (fd >= 0)
        remember_open(fd, name, was_there);
    if (fd >= 0 && was_there && (flags & O_TRUNC))
        trace(TRACE_TRUNCATE, id_of(fd), 0, NULL, NULL, 0);
    unlock();
    return fd;
}

static mode_t mode_of(int flags, va_list arguments)
{
    return flags & (O_CREAT | __O_TMPFILE) ? va_arg(arguments, mode_t) : 0;
}

#define DEFINE_OPEN(name)                                                      \
    EXPORT int name(const char *path, int flags, ...)                          \
    {                                                                          \
        va_list arguments;                                                     \
        mode_t mode;                                                           \
                                                                               \
        va_start(arguments, flags);                                            \
        mode = mode_of(flags, arguments);                                      \
        va_end(arguments);                                                     \
        return open_at(AT_FDCWD, path, flags, mode);                           \
    }
DEFINE_OPEN(open)
DEFINE_OPEN(open64)

#define DEFINE_OPENAT(name)                                                    \
    EXPORT int name(int at_fd, const char *path, int flags, ...)               \
    {                                                                          \
        va_list arguments;                                                     \
        mode_t mode;                                                           \
                                                                               \
        va_start(arguments, flags);                                            \
        mode = mode_of(flags, arguments);                                      \
        va_end(arguments);                                                     \
        return open_at(at_fd, path, flags, mode);                              \
    }
DEFINE_OPENAT(openat)
DEFINE_OPENAT(openat64)

static void forget_fd(int fd)
{
    lock();
    if (fd >= 0 && fd < MAX_FDS) {
        shim.id_of_fd[fd] = 0;
        free(shim.dir_of_fd[fd]);
        shim.dir_of_fd[fd] = NULL;
    }
    unlock();
}

EXPORT int close(int fd)
{
    forget_fd(fd);
    return NEXT(close)(fd);
}

/* libc closes the descriptor of a stream by itself. */
EXPORT int closedir(DIR *stream)
{
    forget_fd(dirfd(stream));
    return NEXT(closedir)(stream);
}

/* ---- writing and reading */

static ssize_t write_at(int fd, const void *bytes, size_t n, off_t offset)
{
    struct iovec part = {(void *)bytes, n};
    bool dies = dies_within_write();
    int error;
    ssize_t done;

    if (faulty(FAULT_pwrite, &error)) {
        if (error != 0 || n < 2)
            return fail(error);
        n /= 2;
    }
    if (dies)
        n /= 2;
    trace(TRACE_WRITE, id_of(fd), (uint64_t)offset, NULL, &part, n);
    done = NEXT(pwrite)(fd, bytes, n, offset);
    count_change();
    unlock();
    return done;
}

#define DEFINE_PWRITE(name)                                                    \
    EXPORT ssize_t name(int fd, const void *bytes, size_t n, off_t offset)     \
    {                                                                          \
        lock();                                                                \
        if (id_of(fd) != 0)                                                    \
            return write_at(fd, bytes, n, offset);                             \
        unlock();                                                              \
        return NEXT(pwrite)(fd, bytes, n, offset);                             \
    }
DEFINE_PWRITE(pwrite)
DEFINE_PWRITE(pwrite64)

/* As pwrite at the descriptor's place, or at the end. */
EXPORT ssize_t write(int fd, const void *bytes, size_t n)
{
    off_t offset;
    ssize_t done;

    lock();
    if (id_of(fd) == 0) {
        unlock();
        return NEXT(write)(fd, bytes, n);
    }
    offset = lseek(fd, 0, fcntl(fd, F_GETFL) & O_APPEND ? SEEK_END : SEEK_CUR);
    done = write_at(fd, bytes, n, offset);
    if (done > 0)
        lseek(fd, offset + done, SEEK_SET);
    return done;
}

/* One part at a time would be another order than the kernel's; nobody needs
 * these on a watched file. */
EXPORT ssize_t writev(int fd, const struct iovec *parts, int n)
{
    lock();
    if (id_of(fd) != 0)
        die("writev on a watched file");
    unlock();
    return NEXT(writev)(fd, parts, n);
}

EXPORT ssize_t pwritev(int fd, const struct iovec *parts, int n, off_t offset)
{
    lock();
    if (id_of(fd) != 0)
        die("pwritev on a watched file");
    unlock();
    return NEXT(pwritev)(fd, parts, n, offset);
}

#define DEFINE_PREAD(name)                                                     \
    EXPORT ssize_t name(int fd, void *bytes, size_t n, off_t offset)           \
    {                                                                          \
        int error;                                                             \
                                                                               \
        lock();                                                                \
        if (id_of(fd) != 0 && faulty(FAULT_pread, &error)) {                   \
            if (error != 0 || n < 2)                                           \
                return fail(error);                                            \
            n /= 2;                                                            \
        }                                                                      \
        unlock();                                                              \
        return NEXT(pread)(fd, bytes, n, offset);                              \
    }
DEFINE_PREAD(pread)
DEFINE_PREAD(pread64)

#define DEFINE_FTRUNCATE(name)                                                 \
    EXPORT int name(int fd, off_t length)                                      \
    {                                                                          \
        int error;                                                             \
                                                                               \
        lock();                                                                \
        if (id_of(fd) != 0) {                                                  \
            if (faulty(FAULT_ftruncate, &error))                               \
                return fail(error);                                            \
            count_change();                                                    \
            trace(TRACE_TRUNCATE, id_of(fd), (uint64_t)length, NULL, NULL, 0); \
        }                                                                      \
        unlock();                                                              \
        return NEXT(ftruncate)(fd, length);                                    \
    }
DEFINE_FTRUNCATE(ftruncate)
DEFINE_FTRUNCATE(ftruncate64)

/* Nobody needs these on a watched file, and they would escape the trace. */
EXPORT int fallocate(int fd, int mode, off_t offset, off_t length)
{
    lock();
    if (id_of(fd) != 0)
        die("fallocate on a watched file");
    unlock();
    return NEXT(fallocate)(fd, mode, offset, length);
}

EXPORT int posix_fallocate(int fd, off_t offset, off_t length)
{
    lock();
    if (id_of(fd) != 0)
        die("posix_fallocate on a watched file");
    unlock();
    return NEXT(posix_fallocate)(fd, offset, length);
}

/* ---- syncing */

static int sync_with(int (*next)(int), enum fault_call call, int fd)
{
    bool is_dir = fd >= 0 && fd < MAX_FDS && shim.dir_of_fd[fd] != NULL;
    int status, error;

    lock();
    if (id_of(fd) == 0 && !is_dir) {
        unlock();
        return next(fd);
    }
    if (faulty(call, &error)) {
        trace(TRACE_LOST, id_of(fd), 0, NULL, NULL, 0);
        return fail(error);
    }
    count_change();
    status = next(fd);
    if (status == 0)
        trace(is_dir ? TRACE_SYNC_DIR : TRACE_SYNC, id_of(fd), 0,
            is_dir ? shim.dir_of_fd[fd] : NULL, NULL, 0);
    unlock();
    return status;
}

EXPORT int fsync(int fd)
{
    return sync_with(NEXT(fsync), FAULT_fsync, fd);
}

EXPORT int fdatasync(int fd)
{
    return sync_with(NEXT(fdatasync), FAULT_fdatasync, fd);
}

/* ---- names */

static int rename_at(int from_fd, const char *from, int to_fd, const char *to)
{
    char full_from[PATH_MAX], full_to[PATH_MAX], both[2 * PATH_MAX];
    int error, status;

    lock();
    if (watched(from_fd, from, full_from) == NULL ||
        watched(to_fd, to, full_to) == NULL) {
        unlock();
        return NEXT(renameat)(from_fd, from, to_fd, to);
    }
    if (faulty(FAULT_rename, &error))
        return fail(error);
    count_change();
    forget_inode(full_to);
    snprintf(both, sizeof both, "%s\n%s", full_from, full_to);
    trace(TRACE_RENAME, 0, 0, both, NULL, 0);
    status = NEXT(renameat)(AT_FDCWD, full_from, AT_FDCWD, full_to);
    unlock();
    return status;
}

EXPORT int rename(const char *from, const char *to)
{
    return rename_at(AT_FDCWD, from, AT_FDCWD, to);
}

EXPORT int renameat(int from_fd, const char *from, int to_fd, const char *to)
{
    return rename_at(from_fd, from, to_fd, to);
}

static int unlink_at(int at_fd, const char *path, int flags)
{
    char full[PATH_MAX];
    int error, status;

    lock();
    if (watched(at_fd, path, full) == NULL) {
        unlock();
        return NEXT(unlinkat)(at_fd, path, flags);
    }
    if (faulty(FAULT_unlink, &error))
        return fail(error);
    count_change();
    forget_inode(full);
    trace(TRACE_UNLINK, 0, 0, full, NULL, 0);
    status = NEXT(unlinkat)(AT_FDCWD, full, flags);
    unlock();
    return status;
}

EXPORT int unlink(const char *path)
{
    return unlink_at(AT_FDCWD, path, 0);
}

EXPORT int unlinkat(int at_fd, const char *path, int flags)
{
    return unlink_at(at_fd, path, flags);
}

static int mkdir_at(int at_fd, const char *path, mode_t mode)
{
    char full[PATH_MAX];
    int error, status;

    lock();
    if (watched(at_fd, path, full) == NULL) {
        unlock();
        return NEXT(mkdirat)(at_fd, path, mode);
    }
    if (faulty(FAULT_mkdir, &error))
        return fail(error);
    count_change();
    status = NEXT(mkdirat)(AT_FDCWD, full, mode);
    if (status == 0)
        trace(TRACE_MKDIR, 0, 0, full, NULL, 0);
    unlock();
    return status;
}

EXPORT int mkdir(const char *path, mode_t mode)
{
    return mkdir_at(AT_FDCWD, path, mode);
}

EXPORT int mkdirat(int at_fd, const char *path, mode_t mode)
{
    return mkdir_at(at_fd, path, mode);
}
