/* How fast a ledger on disk is verified: its bytes read, every CRC, every
 * receipt hashed, the tree compared node by node, every checkpoint's root and
 * signature.
 *
 *     bench_verify [RECEIPTS [FOLDER [KVPOOLCTL]]]
 *                                          1,000,000 in the current folder
 *
 * Receipts have 300 bytes, like those of an eviction; a checkpoint each 1,024.
 * Three rounds on what the page cache then holds, and the proofs that such a
 * tree gives from its file; with KVPOOLCTL, the path of the client, also what
 * an operator has who asks it to verify the folder. The ledger is removed at
 * the end. */
#include <dirent.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include "base/clock.h"
#include "receipts/journal.h"
#include "receipts/verify.h"

#define RECEIPT_BYTES 300
#define CHECKPOINT_RECEIPTS 1024
#define N_ROUNDS 3
#define N_PROOFS 20000

struct writing {
    struct journal *journal;
    struct journal_start start;
    struct ring ring;
    struct checkpoint_signer signer;
    uint64_t sequence;
};

static void die(const char *what)
{
    fprintf(stderr, "bench_verify: %s\n", what);
    exit(EXIT_FAILURE);
}

static void wait_for_disk(struct writing *writing)
{
    const struct timespec pause = {.tv_nsec = 100000};
    struct journal_position position;

    for (;;) {
        journal_poll(writing->journal, &position);
        if (position.state == JOURNAL_FAILED)
            die(position.error);
        if (position.durable_sequence == writing->sequence)
            return;
        nanosleep(&pause, NULL);
    }
}

static void append(struct writing *writing)
{
    uint64_t sequence = ++writing->sequence, serial = 0;
    unsigned char *at =
        ring_reserve(&writing->ring, RECEIPT_BYTES, sequence - 1);

    if (at == NULL)
        die("out of memory");
    memset(at, (int)sequence, RECEIPT_BYTES);
    memcpy(at, &sequence, sizeof sequence);
    ring_commit(&writing->ring, sequence, RECEIPT_BYTES);
    journal_append(writing->journal,
        ring_find(&writing->ring, sequence, &serial), sequence);
}

static void sign(struct writing *writing)
{
    struct checkpoint checkpoint = {.tree_size = writing->sequence};
    struct checkpoint_origin origin =
        checkpoint_origin_of(writing->start.pool_id);
    struct checkpoint_note note;

    snprintf(checkpoint.origin, sizeof checkpoint.origin, "%s", origin.s);
    if (!merkle_root(journal_tree(writing->journal), checkpoint.tree_size,
            &checkpoint.root))
        die("no root");
    checkpoint_sign(&writing->signer, &checkpoint, &note);
    journal_keep_checkpoint(
        writing->journal, note.bytes, note.n_bytes, checkpoint.tree_size);
}

static void write_ledger(
    struct writing *writing, const char *dir, uint64_t n_receipts)
{
    struct journal_config config = {.dir = dir,
        .segment_bytes = UINT64_C(64) << 20,
        .wall_ns = kv_clock_wall_ns};
    struct kv_error error;

    if (checkpoint_signer_generate(&writing->signer, "bench", &error) !=
            KV_OK ||
        journal_open(&writing->journal, &config, &writing->start, &error) !=
            KV_OK)
        die(error.text);
    if (ring_init(&writing->ring, 2 * RING_CHUNK_BYTES) != KV_OK)
        die("out of memory");
    while (writing->sequence < n_receipts) {
        append(writing);
        if (writing->sequence % CHECKPOINT_RECEIPTS == 0 ||
            writing->sequence == n_receipts) {
            wait_for_disk(writing);
            sign(writing);
        }
    }
    journal_close(writing->journal);
    ring_fini(&writing->ring);
}

static void remove_ledger(const char *dir)
{
    DIR *stream = opendir(dir);
    struct dirent *entry;
    char path[700];

    while (stream != NULL && (entry = readdir(stream)) != NULL) {
        snprintf(path, sizeof path, "%s/%s", dir, entry->d_name);
        unlink(path);
    }
    if (stream != NULL)
        closedir(stream);
    rmdir(dir);
}

/* A busy machine shares out the one clock, not the other. */
static int64_t cpu_ns(void)
{
    struct timespec now;

    clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &now);
    return now.tv_sec * KV_NS_PER_S + now.tv_nsec;
}

static void verify(const struct writing *writing, const char *dir)
{
    const struct verify_request request = {
        .dir = dir, .key = &writing->signer.key};
    int64_t start_ns = kv_clock_mono_ns(), start_cpu_ns = cpu_ns();
    struct verify_report report;
    struct kv_error error;
    double seconds, cpu_seconds;

    if (verify_directory(&request, &report, &error) != KV_OK)
        die(error.text);
    seconds = (double)(kv_clock_mono_ns() - start_ns) / 1e9;
    cpu_seconds = (double)(cpu_ns() - start_cpu_ns) / 1e9;
    printf("%10.0f receipts/s, %.0f MB/s; %.0f receipts a second of processor "
           "time\n",
        (double)report.last_sequence / seconds,
        (double)report.n_bytes / 1e6 / seconds,
        (double)report.last_sequence / cpu_seconds);
}

/* The same by the client, which prints what it found and how long it took. */
static void verify_by_client(
    const struct writing *writing, const char *kvpoolctl, const char *data_dir)
{
    struct checkpoint_key_text key =
        checkpoint_key_format(&writing->signer.key);
    pid_t pid = fork();
    int status;

    if (pid == 0) {
        execl(kvpoolctl, kvpoolctl, "receipts", "verify", data_dir, "--stats",
            "--key", key.s, (char *)NULL);
        _exit(127);
    }
    if (pid < 0 || waitpid(pid, &status, 0) != pid || status != 0)
        die("kvpoolctl failed");
}

static void prove(const char *dir, uint64_t n_receipts)
{
    struct merkle tree;
    struct merkle_path path;
    int64_t start_ns;
    char name[512];

    snprintf(name, sizeof name, "%s/tree", dir);
    if (merkle_view_file(&tree, name, NULL) != KV_OK)
        die("no tree");
    start_ns = cpu_ns();
    for (uint64_t i = 0; i < N_PROOFS; i++)
        if (!merkle_prove_inclusion(
                &tree, i * 7919 % n_receipts, n_receipts, &path))
            die("no proof");
    printf("%10.1f us an inclusion proof of old receipts, from the file\n",
        (double)(cpu_ns() - start_ns) / 1e3 / N_PROOFS);
    merkle_fini(&tree);
}

int main(int argc, char **argv)
{
    uint64_t n_receipts = argc > 1 ? strtoull(argv[1], NULL, 10) : 1000000;
    struct writing writing = {.sequence = 0};
    char data_dir[400], dir[420];

    snprintf(data_dir, sizeof data_dir, "%s/bench-verify.%d",
        argc > 2 ? argv[2] : ".", (int)getpid());
    snprintf(dir, sizeof dir, "%s/receipts", data_dir);
    if (n_receipts == 0)
        die("at least one receipt");
    if (mkdir(data_dir, 0700) != 0)
        die("the folder cannot be made");
    write_ledger(&writing, dir, n_receipts);
    for (int i = 0; i < N_ROUNDS; i++)
        verify(&writing, dir);
    if (argc > 3)
        verify_by_client(&writing, argv[3], data_dir);
    prove(dir, n_receipts);
    remove_ledger(dir);
    rmdir(data_dir);
    return EXIT_SUCCESS;
}
