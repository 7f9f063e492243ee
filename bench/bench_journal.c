/* How fast receipts become durable, and how fast a journal is read again:
 *
 *     bench_journal [DIRECTORY]
 *
 * on the disk of the directory (the present one by default). Durable receipts:
 * through journal_append, the owner at most 4,096 ahead, against SQLite (WAL,
 * synchronous=FULL) with the same batches in a transaction each; in turns,
 * after a first batch of each that makes files. The bound is one fdatasync of
 * 64 KiB over bytes that were there before, for every batch. Recovery: the
 * start on a journal of 1 GiB whose process ended without closing it. */
#include <fcntl.h>
#include <semaphore.h>
#include <sqlite3.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

#include "base/clock.h"
#include "bench/measure.h"
#include "receipts/journal.h"

#define N_ROUNDS 5
#define N_BATCH 128
#define N_RECEIPTS (100 * N_BATCH)
#define N_AHEAD 4096
#define N_SYNCS 200
#define SYNC_BYTES 65536
#define RECEIPT_BYTES 420
#define RECOVERY_BYTES ((uint64_t)1 << 30)
#define RECORD_BYTES 448 /* of such a receipt in the journal */

static void check(bool ok, const char *what)
{
    if (ok)
        return;
    fprintf(stderr, "bench_journal: %s\n", what);
    exit(EXIT_FAILURE);
}

static double seconds_since(int64_t start_ns)
{
    return (double)(kv_clock_mono_ns() - start_ns) / 1e9;
}

static void make_receipt(uint64_t sequence, unsigned char *out)
{
    memset(out, (int)(sequence % 251), RECEIPT_BYTES);
    memcpy(out, &sequence, sizeof sequence);
}

/* ---- ours */

struct owner {
    struct journal *journal;
    struct ring ring;
    sem_t woken;
    uint64_t sequence;
};

static void wake(void *ctx)
{
    sem_post(&((struct owner *)ctx)->woken);
}

static void open_journal(
    struct owner *owner, const char *dir, struct journal_config config)
{
    struct journal_start start;
    struct kv_error error;

    config.dir = dir;
    config.segment_bytes = (uint64_t)64 << 20;
    config.wall_ns = kv_clock_wall_ns;
    config.wake = wake;
    config.wake_ctx = owner;
    check(sem_init(&owner->woken, 0, 0) == 0, "no semaphore");
    check(ring_init(&owner->ring, 16 << 20) == KV_OK, "no ring");
    if (journal_open(&owner->journal, &config, &start, &error) != KV_OK)
        check(false, error.text);
    owner->sequence = start.last_sequence;
}

static void await_durable(struct owner *owner, uint64_t sequence)
{
    struct journal_position position;

    while (journal_poll(owner->journal, &position),
        position.durable_sequence < sequence) {
        check(position.state != JOURNAL_FAILED, position.error);
        sem_wait(&owner->woken);
    }
}

static void append(struct owner *owner, size_t n, uint64_t n_ahead)
{
    struct journal_position position;
    uint64_t serial = 0;

    while (n-- > 0) {
        uint64_t sequence = ++owner->sequence;
        unsigned char *at;

        if (sequence > n_ahead)
            await_durable(owner, sequence - n_ahead);
        journal_poll(owner->journal, &position);
        at = ring_reserve(
            &owner->ring, RECEIPT_BYTES, position.durable_sequence);
        check(at != NULL, "no room in the ring");
        make_receipt(sequence, at);
        ring_commit(&owner->ring, sequence, RECEIPT_BYTES);
        journal_append(owner->journal,
            ring_find(&owner->ring, sequence, &serial), sequence);
    }
}

static void close_journal(struct owner *owner)
{
    journal_close(owner->journal);
    ring_fini(&owner->ring);
    sem_destroy(&owner->woken);
}

static double measure_journal(struct owner *owner)
{
    int64_t start_ns = kv_clock_mono_ns();

    append(owner, N_RECEIPTS, N_AHEAD);
    await_durable(owner, owner->sequence);
    return N_RECEIPTS / seconds_since(start_ns);
}

/* ---- SQLite */

struct table {
    sqlite3 *db;
    sqlite3_stmt *insert;
    uint64_t sequence;
};

static void run(sqlite3 *db, const char *sql)
{
    check(sqlite3_exec(db, sql, NULL, NULL, NULL) == SQLITE_OK,
        sqlite3_errmsg(db));
}

static void open_table(struct table *table, const char *path)
{
    *table = (struct table){0};
    check(sqlite3_open(path, &table->db) == SQLITE_OK, "no database");
    run(table->db,
        "PRAGMA journal_mode=WAL; PRAGMA synchronous=FULL;"
        "CREATE TABLE receipts(seq INTEGER PRIMARY KEY, bytes BLOB)");
    check(sqlite3_prepare_v2(table->db, "INSERT INTO receipts VALUES(?,?)", -1,
              &table->insert, NULL) == SQLITE_OK,
        "no statement");
}

static void insert(struct table *table, size_t n)
{
    unsigned char receipt[RECEIPT_BYTES];

    for (size_t i = 0; i < n; i++) {
        uint64_t sequence = ++table->sequence;

        if (i % N_BATCH == 0)
            run(table->db, "BEGIN");
        make_receipt(sequence, receipt);
        sqlite3_bind_int64(table->insert, 1, (sqlite3_int64)sequence);
        sqlite3_bind_blob(
            table->insert, 2, receipt, sizeof receipt, SQLITE_STATIC);
        check(sqlite3_step(table->insert) == SQLITE_DONE, "no insert");
        sqlite3_reset(table->insert);
        if (i % N_BATCH == N_BATCH - 1)
            run(table->db, "COMMIT");
    }
}

static double measure_table(struct table *table)
{
    int64_t start_ns = kv_clock_mono_ns();

    insert(table, N_RECEIPTS);
    return N_RECEIPTS / seconds_since(start_ns);
}

static void close_table(struct table *table)
{
    sqlite3_finalize(table->insert);
    sqlite3_close(table->db);
}

/* ---- the disk */

/* The median of one sync, in seconds. */
static double measure_sync(const char *path)
{
    static unsigned char bytes[SYNC_BYTES];
    double seconds[N_SYNCS];
    int fd = open(path, O_RDWR | O_CREAT | O_CLOEXEC, 0600);

    check(fd >= 0, "no file");
    for (int i = 0; i < 2 * N_SYNCS; i++) {
        int64_t start_ns = kv_clock_mono_ns();

        memset(bytes, i + 1, sizeof bytes);
        check(pwrite(fd, bytes, sizeof bytes,
                  (off_t)(i % N_SYNCS) * SYNC_BYTES) == SYNC_BYTES &&
                  fdatasync(fd) == 0,
            "no sync");
        if (i >= N_SYNCS) /* the first ones made the file */
            seconds[i - N_SYNCS] = seconds_since(start_ns);
    }
    close(fd);
    return measure_median(seconds, N_SYNCS);
}

/* ---- recovery */

/* Another process, that ends as a crash does. */
static void write_without_end(const char *dir)
{
    const struct journal_config config = {
        .group_bytes = 1 << 20, .group_records = UINT32_MAX};
    struct owner owner;
    pid_t child = fork();
    int status;

    check(child >= 0, "no process");
    if (child == 0) {
        open_journal(&owner, dir, config);
        append(&owner, RECOVERY_BYTES / RECORD_BYTES, 4 * N_AHEAD);
        await_durable(&owner, owner.sequence);
        _exit(EXIT_SUCCESS);
    }
    check(waitpid(child, &status, 0) == child && status == 0,
        "the writer failed");
}

static void count(
    void *ctx, uint64_t sequence, const unsigned char *bytes, size_t n_bytes)
{
    (void)sequence;
    (void)bytes;
    *(uint64_t *)ctx += n_bytes;
}

static void measure_recovery(const char *dir)
{
    uint64_t n_bytes = 0;
    const struct journal_config config = {
        .on_receipt = count, .receipt_ctx = &n_bytes};
    struct owner owner;
    int64_t start_ns;
    double seconds;

    write_without_end(dir);
    start_ns = kv_clock_mono_ns();
    open_journal(&owner, dir, config);
    seconds = seconds_since(start_ns);
    check(n_bytes == owner.sequence * RECEIPT_BYTES, "receipts are missing");
    close_journal(&owner);
    printf("%-28s %14s %14.2f s\n", "recovery of 1 GiB", "", seconds);
}

/* ---- all of it */

static void measure_durable(const char *dir, double sync_s)
{
    double ours[N_ROUNDS], theirs[N_ROUNDS];
    char path[512];
    struct owner owner;
    struct table table;

    snprintf(path, sizeof path, "%s/receipts", dir);
    open_journal(&owner, path, (struct journal_config){0});
    snprintf(path, sizeof path, "%s/sqlite.db", dir);
    open_table(&table, path);
    append(&owner, N_BATCH, N_AHEAD);
    await_durable(&owner, owner.sequence);
    insert(&table, N_BATCH);
    for (int i = 0; i < N_ROUNDS; i++) {
        ours[i] = measure_journal(&owner);
        theirs[i] = measure_table(&table);
    }
    close_journal(&owner);
    close_table(&table);
    printf("%-28s %14.0f %14.2f\n", "journal", measure_median(ours, N_ROUNDS),
        ours[N_ROUNDS / 2] / measure_median(theirs, N_ROUNDS));
    printf("%-28s %14.0f %14.2f\n", "SQLite, WAL, FULL", theirs[N_ROUNDS / 2],
        1.0);
    printf("%-28s %14.0f %14.2f\n", "bound: a sync per batch", N_BATCH / sync_s,
        N_BATCH / sync_s / theirs[N_ROUNDS / 2]);
}

int main(int argc, char **argv)
{
    char dir[256], path[512];
    double sync_s;

    snprintf(
        dir, sizeof dir, "%s/bench-journal-XXXXXX", argc > 1 ? argv[1] : ".");
    check(mkdtemp(dir) != NULL, "no directory of our own");
    snprintf(path, sizeof path, "%s/syncs", dir);
    sync_s = measure_sync(path);
    printf("in %s, medians of %d, %d receipts of %d bytes each, batches of "
           "%d\n",
        dir, N_ROUNDS, N_RECEIPTS, RECEIPT_BYTES, N_BATCH);
    printf("fdatasync of 64 KiB, median: %.3f ms\n", sync_s * 1e3);
    printf("%-28s %14s %14s\n", "", "durable/s", "to SQLite");
    measure_durable(dir, sync_s);
    snprintf(path, sizeof path, "%s/gibibyte", dir);
    measure_recovery(path);
    return EXIT_SUCCESS;
}
