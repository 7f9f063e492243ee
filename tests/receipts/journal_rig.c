#include "tests/receipts/journal_rig.h"

#include <dirent.h>
#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "receipts/checkpoint.h"
#include "tests/support/check_main.h"

#define MEMORY_DIR "/dev/shm" /* where there is one, a sync costs nothing */
#define SEGMENT_BYTES JOURNAL_MIN_SEGMENT_BYTES

static int64_t wall_now_ns = INT64_C(1763755000000000000);

static int64_t wall_ns(void)
{
    return __atomic_load_n(&wall_now_ns, __ATOMIC_RELAXED);
}

void journal_rig_pass(int64_t ns)
{
    __atomic_fetch_add(&wall_now_ns, ns, __ATOMIC_RELAXED);
}

static void on_receipt(
    void *ctx, uint64_t sequence, const unsigned char *bytes, size_t n_bytes)
{
    struct journal_rig *rig = ctx;
    unsigned char expected[JOURNAL_RIG_BYTES];
    size_t n_expected;

    n_expected = journal_rig_receipt(sequence, expected);
    if (n_expected > n_bytes)
        n_expected = n_bytes;
    if ((rig->n_seen > 0 && sequence != rig->last_seen + 1) ||
        memcmp(bytes, expected, n_expected) != 0)
        ck_abort_msg("receipt %u is another's", (unsigned)sequence);
    rig->last_seen = sequence;
    rig->n_seen++;
}

void journal_rig_init(struct journal_rig *rig)
{
    const char *base = access(MEMORY_DIR, W_OK) == 0 ? MEMORY_DIR : P_tmpdir;

    *rig = (struct journal_rig){
        .config = {.segment_bytes = SEGMENT_BYTES,
            .wall_ns = wall_ns,
            .on_receipt = on_receipt},
    };
    snprintf(rig->parent, sizeof rig->parent, "%s/kvpool-XXXXXX", base);
    ck_assert_ptr_nonnull(mkdtemp(rig->parent));
    snprintf(rig->dir, sizeof rig->dir, "%s/receipts", rig->parent);
}

void journal_rig_remove(const char *dir)
{
    DIR *stream = opendir(dir);
    struct dirent *entry;
    char path[512];

    if (stream == NULL)
        return;
    while ((entry = readdir(stream)) != NULL) {
        if (entry->d_name[0] == '.')
            continue;
        snprintf(path, sizeof path, "%s/%s", dir, entry->d_name);
        if (unlink(path) != 0 && errno == EISDIR)
            journal_rig_remove(path);
    }
    closedir(stream);
    rmdir(dir);
}

void journal_rig_fini(struct journal_rig *rig)
{
    journal_rig_close(rig);
    journal_rig_remove(rig->parent);
}

enum kv_status journal_rig_open(struct journal_rig *rig)
{
    enum kv_status status;

    rig->config.dir = rig->dir;
    rig->config.receipt_ctx = rig;
    rig->n_seen = rig->last_seen = 0;
    rig->error.text[0] = '\0';
    status =
        journal_open(&rig->journal, &rig->config, &rig->start, &rig->error);
    if (status != KV_OK) {
        ck_assert_str_ne(rig->error.text, "");
        return status;
    }
    rig->sequence = rig->start.last_sequence;
    ck_assert_int_eq(ring_init(&rig->ring, 2 * RING_CHUNK_BYTES), KV_OK);
    return KV_OK;
}

void journal_rig_must_open(struct journal_rig *rig)
{
    enum kv_status status = journal_rig_open(rig);

    ck_assert_msg(status == KV_OK, "%s", rig->error.text);
}

void journal_rig_close(struct journal_rig *rig)
{
    if (rig->journal == NULL)
        return;
    journal_close(rig->journal);
    ring_fini(&rig->ring);
    rig->journal = NULL;
}

size_t journal_rig_receipt(uint64_t sequence, unsigned char *out)
{
    return (size_t)snprintf((char *)out, JOURNAL_RIG_BYTES,
        "%08" PRIu64 " is a receipt%.*s", sequence, (int)(sequence % 23),
        " of those that are known");
}

static void put_receipt(struct journal_rig *rig, size_t n_bytes)
{
    unsigned char receipt[JOURNAL_RIG_BYTES];
    uint64_t sequence = ++rig->sequence;
    size_t n_receipt = journal_rig_receipt(sequence, receipt);
    size_t n_all = n_bytes > 0 ? n_bytes : n_receipt;
    struct journal_position position;
    unsigned char *at;

    journal_poll(rig->journal, &position);
    at = ring_reserve(&rig->ring, n_all, position.durable_sequence);
    ck_assert_ptr_nonnull(at);
    memset(at, (int)sequence, n_all);
    memcpy(at, receipt, n_all < n_receipt ? n_all : n_receipt);
    ring_commit(&rig->ring, sequence, n_all);
}

void journal_rig_append(struct journal_rig *rig, size_t n, size_t n_bytes)
{
    struct ring_chunk *chunk = NULL;
    uint64_t serial = 0;

    for (size_t i = 0; i < n; i++) {
        struct ring_chunk *before = chunk;

        put_receipt(rig, n_bytes);
        chunk = ring_find(&rig->ring, rig->sequence, &serial);
        if (before != NULL && before != chunk)
            journal_append(rig->journal, before, rig->sequence - 1);
    }
    if (chunk != NULL)
        journal_append(rig->journal, chunk, rig->sequence);
}

struct journal_position journal_rig_settle(struct journal_rig *rig)
{
    struct journal_position position;

    for (;;) {
        journal_poll(rig->journal, &position);
        if (position.state == JOURNAL_FAILED ||
            position.durable_sequence >= rig->sequence)
            return position;
        usleep(100);
    }
}

void journal_rig_write(struct journal_rig *rig, size_t n)
{
    while (n-- > 0) {
        journal_rig_append(rig, 1, 0);
        ck_assert_int_eq(journal_rig_settle(rig).state, JOURNAL_OK);
    }
}

void journal_rig_sign(struct journal_rig *rig)
{
    struct checkpoint checkpoint = {.origin = "kvpool/test"};
    struct checkpoint_signer signer;
    struct checkpoint_note note;

    checkpoint.tree_size = journal_rig_settle(rig).durable_sequence;
    ck_assert(merkle_root(
        journal_tree(rig->journal), checkpoint.tree_size, &checkpoint.root));
    ck_assert_int_eq(checkpoint_signer_generate(&signer, "test", NULL), KV_OK);
    checkpoint_sign(&signer, &checkpoint, &note);
    checkpoint_signer_fini(&signer);
    journal_keep_checkpoint(
        rig->journal, note.bytes, note.n_bytes, checkpoint.tree_size);
}

size_t journal_rig_file_bytes(const char *dir, const char *name)
{
    char path[512];
    struct stat stat_;

    snprintf(path, sizeof path, "%s/%s", dir, name);
    return stat(path, &stat_) == 0 ? (size_t)stat_.st_size : 0;
}

void journal_rig_copy(const struct journal_rig *rig, char to[192])
{
    DIR *stream = opendir(rig->dir);
    struct dirent *entry;

    snprintf(to, 192, "%s/copy", rig->parent);
    journal_rig_remove(to);
    ck_assert_int_eq(mkdir(to, 0700), 0);
    ck_assert_ptr_nonnull(stream);
    while ((entry = readdir(stream)) != NULL) {
        char path[512];
        unsigned char *bytes;
        size_t n;

        if (entry->d_name[0] == '.' || strcmp(entry->d_name, "LOCK") == 0)
            continue;
        snprintf(path, sizeof path, "%s/%s", rig->dir, entry->d_name);
        n = journal_rig_read_file(path, &bytes);
        snprintf(path, sizeof path, "%s/%s", to, entry->d_name);
        journal_rig_write_file(path, bytes, n);
        free(bytes);
    }
    closedir(stream);
}

void journal_rig_segment(const char *dir, uint64_t first, char out[256])
{
    snprintf(out, 256, "%s/%020" PRIu64 ".log", dir, first);
}

size_t journal_rig_read_file(const char *path, unsigned char **out)
{
    FILE *file = fopen(path, "rb");
    struct stat stat;

    ck_assert_msg(file != NULL, "%s", path);
    ck_assert_int_eq(fstat(fileno(file), &stat), 0);
    *out = malloc((size_t)stat.st_size + 1);
    ck_assert_uint_eq(
        fread(*out, 1, (size_t)stat.st_size, file), (size_t)stat.st_size);
    fclose(file);
    return (size_t)stat.st_size;
}

void journal_rig_write_file(
    const char *path, const unsigned char *bytes, size_t n)
{
    FILE *file = fopen(path, "wb");

    ck_assert_msg(file != NULL, "%s", path);
    ck_assert_uint_eq(fwrite(bytes, 1, n, file), n);
    ck_assert_int_eq(fclose(file), 0);
}
