#include "receipts/merkle_nodes.h"

#include <assert.h>
#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/heap.h"

#define PIECE_HASHES 2048 /* 64 KiB */
#define FIRST_PIECES 32
#define CACHE_NODES 1024

/* The file's first bytes: a magic, the version, the size of a hash. Nodes
 * follow. */
#define HEADER_BYTES MERKLE_NODES_HEADER_BYTES

static const unsigned char header[HEADER_BYTES] = {
    'k', 'v', 'p', 'o', 'o', 'l', 't', 'r', 1, 0, 0, 0, MERKLE_HASH_BYTES};

/* A node of the file that was read lately; each place has one slot where it may
 * be. */
struct merkle_cached {
    uint64_t place_plus_1; /* 0: empty */
    struct merkle_hash hash;
};

static off_t offset_of(uint64_t place)
{
    return (off_t)(HEADER_BYTES + place * MERKLE_HASH_BYTES);
}

static bool is_file(const struct merkle_nodes *nodes)
{
    return nodes->fd >= 0;
}

/* ---- life */

enum kv_status merkle_nodes_init(struct merkle_nodes *nodes)
{
    *nodes = (struct merkle_nodes){.fd = -1, .capacity = FIRST_PIECES};
    nodes->pieces = kv_calloc(nodes->capacity, sizeof *nodes->pieces);
    return nodes->pieces != NULL ? KV_OK : KV_NO_MEMORY;
}

static void drop_pieces(struct merkle_nodes *nodes, size_t n)
{
    for (size_t i = 0; i < n; i++)
        kv_free(nodes->pieces[i]);
    nodes->n_pieces -= n;
    nodes->first_piece += n;
    memmove(nodes->pieces, nodes->pieces + n,
        nodes->n_pieces * sizeof *nodes->pieces);
}

void merkle_nodes_fini(struct merkle_nodes *nodes)
{
    if (nodes->pieces != NULL)
        drop_pieces(nodes, nodes->n_pieces);
    kv_free(nodes->pieces);
    kv_free(nodes->cache);
    if (is_file(nodes))
        close(nodes->fd);
    *nodes = (struct merkle_nodes){.fd = -1};
}

/* ---- the file */

/* KV_DATA_LOSS: it ends before. */
static enum kv_status read_at(int fd, void *out, size_t n_bytes, off_t offset)
{
    unsigned char *at = out;

    while (n_bytes > 0) {
        ssize_t n = pread(fd, at, n_bytes, offset);

        if (n == 0)
            return KV_DATA_LOSS;
        if (n < 0 && errno != EINTR)
            return KV_IO;
        if (n > 0) {
            at += n;
            n_bytes -= (size_t)n;
            offset += n;
        }
    }
    return KV_OK;
}

static enum kv_status write_at(
    int fd, const void *bytes, size_t n_bytes, off_t offset)
{
    const unsigned char *at = bytes;

    while (n_bytes > 0) {
        ssize_t n = pwrite(fd, at, n_bytes, offset);

        if (n < 0 && errno != EINTR)
            return KV_IO;
        if (n > 0) {
            at += n;
            n_bytes -= (size_t)n;
            offset += n;
        }
    }
    return KV_OK;
}

/* A file that was never finished being made, in a crash, has no header yet. */
static bool is_unborn(const unsigned char *first, uint64_t file_bytes)
{
    static const unsigned char zeroes[HEADER_BYTES];

    return file_bytes < HEADER_BYTES ||
           memcmp(first, zeroes, HEADER_BYTES) == 0;
}

static enum kv_status make_file(
    int fd, const char *path, struct kv_error *error)
{
    if (ftruncate(fd, 0) == 0 &&
        write_at(fd, header, sizeof header, 0) == KV_OK && fdatasync(fd) == 0)
        return KV_OK;
    return kv_error_set(
        error, KV_IO, "%s: cannot be written: %s", path, strerror(errno));
}

static enum kv_status read_header(struct merkle_nodes *nodes, const char *path,
    bool may_write, uint64_t *n_nodes, struct kv_error *error)
{
    unsigned char first[HEADER_BYTES] = {0};
    struct stat status;

    if (fstat(nodes->fd, &status) != 0)
        return kv_error_set(
            error, KV_IO, "%s: cannot be read: %s", path, strerror(errno));
    if (status.st_size >= HEADER_BYTES &&
        read_at(nodes->fd, first, sizeof first, 0) != KV_OK)
        return kv_error_set(
            error, KV_IO, "%s: cannot be read: %s", path, strerror(errno));
    *n_nodes = 0;
    if (is_unborn(first, (uint64_t)status.st_size))
        return may_write ? make_file(nodes->fd, path, error) : KV_OK;
    if (memcmp(first, header, sizeof header) != 0)
        return kv_error_set(error, KV_DATA_LOSS,
            "%s: does not begin as a tree of version %d does", path, header[8]);
    *n_nodes = ((uint64_t)status.st_size - HEADER_BYTES) / MERKLE_HASH_BYTES;
    return KV_OK;
}

enum kv_status merkle_nodes_open(struct merkle_nodes *nodes, const char *path,
    bool may_write, uint64_t *n_nodes, struct kv_error *error)
{
    int flags = may_write ? O_RDWR | O_CREAT : O_RDONLY;
    enum kv_status status = merkle_nodes_init(nodes);

    if (status == KV_OK)
        nodes->cache = kv_calloc(CACHE_NODES, sizeof *nodes->cache);
    if (nodes->cache == NULL) {
        status =
            kv_error_set(error, KV_NO_MEMORY, "%s: no memory to read it", path);
        goto fail;
    }
    nodes->fd = open(path, flags | O_CLOEXEC, 0600);
    nodes->may_write = may_write;
    if (nodes->fd < 0) {
        status = kv_error_set(error, errno == ENOENT ? KV_NOT_FOUND : KV_IO,
            "%s: cannot be opened: %s", path, strerror(errno));
        goto fail;
    }
    status = read_header(nodes, path, may_write, n_nodes, error);
    nodes->n_written = *n_nodes;
    if (status == KV_OK)
        return KV_OK;
fail:
    merkle_nodes_fini(nodes);
    return status;
}

/* ---- cutting */

/* The piece in which the first n_nodes end, as the file has it; the caller
 * frees it. */
static enum kv_status load_piece(const struct merkle_nodes *nodes,
    uint64_t n_nodes, struct merkle_hash **out)
{
    uint64_t n = n_nodes % PIECE_HASHES;
    struct merkle_hash *piece = kv_realloc(NULL, PIECE_HASHES * sizeof *piece);
    enum kv_status status;

    if (piece == NULL)
        return KV_NO_MEMORY;
    status =
        read_at(nodes->fd, piece, n * sizeof *piece, offset_of(n_nodes - n));
    if (status != KV_OK) {
        kv_free(piece);
        return status;
    }
    *out = piece;
    return KV_OK;
}

/* What lies behind n_nodes may be anything, and the next start must not take it
 * for nodes. */
static enum kv_status cut_file(
    const struct merkle_nodes *nodes, uint64_t n_nodes)
{
    if (!nodes->may_write || ftruncate(nodes->fd, offset_of(n_nodes)) == 0)
        return KV_OK;
    return KV_IO;
}

enum kv_status merkle_nodes_cut(struct merkle_nodes *nodes, uint64_t n_nodes)
{
    bool is_at_hand =
        nodes->n_pieces > 0 && n_nodes / PIECE_HASHES >= nodes->first_piece;
    struct merkle_hash *piece = NULL;
    enum kv_status status = KV_OK;

    if (!is_file(nodes))
        return KV_OK;
    if (!is_at_hand)
        status = load_piece(nodes, n_nodes, &piece);
    if (status == KV_OK)
        status = cut_file(nodes, n_nodes);
    if (status != KV_OK) {
        kv_free(piece);
        return status;
    }
    if (piece != NULL) {
        drop_pieces(nodes, nodes->n_pieces);
        nodes->pieces[nodes->n_pieces++] = piece;
        nodes->first_piece = n_nodes / PIECE_HASHES;
        nodes->n_loaded = n_nodes;
    }
    if (nodes->n_written > n_nodes)
        nodes->n_written = n_nodes;
    if (nodes->n_loaded > n_nodes)
        nodes->n_loaded = n_nodes;
    memset(nodes->cache, 0, CACHE_NODES * sizeof *nodes->cache);
    return KV_OK;
}

/* ---- room */

static bool make_table_room(struct merkle_nodes *nodes)
{
    struct merkle_hash **larger;

    if (nodes->n_pieces < nodes->capacity)
        return true;
    larger =
        kv_realloc(nodes->pieces, 2 * nodes->capacity * sizeof *nodes->pieces);
    if (larger == NULL)
        return false;
    nodes->pieces = larger;
    nodes->capacity *= 2;
    return true;
}

bool merkle_nodes_have_room(const struct merkle_nodes *nodes, uint64_t n_nodes)
{
    return (nodes->first_piece + nodes->n_pieces) * PIECE_HASHES >= n_nodes;
}

enum kv_status merkle_nodes_reserve(
    struct merkle_nodes *nodes, uint64_t n_nodes)
{
    while (!merkle_nodes_have_room(nodes, n_nodes)) {
        struct merkle_hash *piece;

        if (!make_table_room(nodes))
            return KV_NO_MEMORY;
        piece = kv_realloc(NULL, PIECE_HASHES * sizeof *piece);
        if (piece == NULL)
            return KV_NO_MEMORY;
        nodes->pieces[nodes->n_pieces++] = piece;
    }
    return KV_OK;
}

/* ---- nodes */

static bool is_in_pieces(const struct merkle_nodes *nodes, uint64_t place)
{
    uint64_t piece = place / PIECE_HASHES;

    return piece >= nodes->first_piece &&
           piece - nodes->first_piece < nodes->n_pieces;
}

static struct merkle_hash *in_piece(
    const struct merkle_nodes *nodes, uint64_t place)
{
    return nodes->pieces[place / PIECE_HASHES - nodes->first_piece] +
           place % PIECE_HASHES;
}

void merkle_nodes_put(
    struct merkle_nodes *nodes, uint64_t place, const struct merkle_hash *hash)
{
    assert(is_in_pieces(nodes, place));
    *in_piece(nodes, place) = *hash;
}

enum kv_status merkle_nodes_get(struct merkle_nodes *nodes, uint64_t place,
    struct merkle_hash *out, bool *is_certain)
{
    struct merkle_cached *cached;
    enum kv_status status;

    if (is_in_pieces(nodes, place)) {
        *out = *in_piece(nodes, place);
        if (place < nodes->n_loaded)
            *is_certain = false;
        return KV_OK;
    }
    *is_certain = false;
    cached = &nodes->cache[place % CACHE_NODES];
    if (cached->place_plus_1 != place + 1) {
        cached->place_plus_1 = 0;
        status = read_at(
            nodes->fd, &cached->hash, sizeof cached->hash, offset_of(place));
        if (status != KV_OK) {
            nodes->damage = status;
            return status;
        }
        cached->place_plus_1 = place + 1;
    }
    *out = cached->hash;
    return KV_OK;
}

void merkle_nodes_doubt(struct merkle_nodes *nodes)
{
    nodes->damage = KV_DATA_LOSS;
    memset(nodes->cache, 0, CACHE_NODES * sizeof *nodes->cache);
}

/* ---- bringing them into the file */

/* The run of nodes from `begin` in one piece. Pieces stay until this thread
 * drops them, and filled places stay as they are. */
static const struct merkle_hash *run_at(const struct merkle_nodes *nodes,
    uint64_t begin, uint64_t end, size_t *n, pthread_mutex_t *lock)
{
    uint64_t piece_end = begin - begin % PIECE_HASHES + PIECE_HASHES;
    const struct merkle_hash *run;

    pthread_mutex_lock(lock);
    run = in_piece(nodes, begin);
    pthread_mutex_unlock(lock);
    *n = (size_t)((end < piece_end ? end : piece_end) - begin);
    return run;
}

static enum kv_status write_out(
    struct merkle_nodes *nodes, uint64_t n_nodes, pthread_mutex_t *lock)
{
    for (uint64_t at = nodes->n_written; at < n_nodes;) {
        size_t n;
        const struct merkle_hash *run = run_at(nodes, at, n_nodes, &n, lock);

        if (write_at(nodes->fd, run, n * sizeof *run, offset_of(at)) != KV_OK)
            return KV_IO;
        at += n;
    }
    return KV_OK;
}

enum kv_status merkle_nodes_sync(
    struct merkle_nodes *nodes, uint64_t n_nodes, pthread_mutex_t *lock)
{
    if (nodes->sync_failed) {
        errno = EIO;
        return KV_IO;
    }
    if (!is_file(nodes) || n_nodes == nodes->n_written)
        return KV_OK;
    if (write_out(nodes, n_nodes, lock) != KV_OK)
        return KV_IO;
    if (fdatasync(nodes->fd) != 0) {
        nodes->sync_failed = true; /* what the file has now, nobody knows */
        return KV_IO;
    }
    pthread_mutex_lock(lock);
    nodes->n_written = n_nodes;
    drop_pieces(nodes, (size_t)(n_nodes / PIECE_HASHES - nodes->first_piece));
    pthread_mutex_unlock(lock);
    return KV_OK;
}
