/* Commands that read the directory of a journal, in this process. */
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/heap.h"
#include "cli/command.h"
#include "kvpool/v1/receipts.pb-c.h"
#include "receipts/cosignature.h"
#include "tests/receipts/journal_rig.h"
#include "tests/support/check_main.h"
#include "tests/support/faulty_heap.h"

#define N_RECEIPTS 50
#define MAX_ARGS 16

static struct journal_rig rig;
static struct checkpoint_signer signer, witness;
static struct checkpoint_note notes[2]; /* an older one, and the newest */
static char key[CHECKPOINT_KEY_BYTES + 8], files[3][256];

/* ---- a ledger of real receipts */

static void append(uint64_t sequence)
{
    Kvpool__V1__Receipt receipt = KVPOOL__V1__RECEIPT__INIT;
    Kvpool__V1__LifecycleReceipt lifecycle =
        KVPOOL__V1__LIFECYCLE_RECEIPT__INIT;
    uint64_t serial = 0;
    unsigned char *at;
    size_t n;

    receipt.sequence = sequence;
    receipt.epoch = 1;
    receipt.time_unix_ns = INT64_C(1763755000000000000) + (int64_t)sequence;
    receipt.pool_id.data = rig.start.pool_id;
    receipt.pool_id.len = 16;
    receipt.kind_case = KVPOOL__V1__RECEIPT__KIND_LIFECYCLE;
    receipt.lifecycle = &lifecycle;
    n = kvpool__v1__receipt__get_packed_size(&receipt);
    at = ring_reserve(&rig.ring, n, 0);
    ck_assert_ptr_nonnull(at);
    kvpool__v1__receipt__pack(&receipt, at);
    ring_commit(&rig.ring, sequence, n);
    rig.sequence = sequence;
    journal_append(
        rig.journal, ring_find(&rig.ring, sequence, &serial), sequence);
}

static void keep_checkpoint(struct checkpoint_note *note)
{
    struct checkpoint_origin origin = checkpoint_origin_of(rig.start.pool_id);
    struct checkpoint checkpoint = {.tree_size = rig.sequence};

    snprintf(checkpoint.origin, sizeof checkpoint.origin, "%s", origin.s);
    journal_rig_settle(&rig);
    ck_assert(
        merkle_root(journal_tree(rig.journal), rig.sequence, &checkpoint.root));
    checkpoint_sign(&signer, &checkpoint, note);
    journal_keep_checkpoint(
        rig.journal, note->bytes, note->n_bytes, rig.sequence);
}

static void put(size_t nth, const char *name, const void *bytes, size_t n)
{
    snprintf(files[nth], sizeof files[nth], "%s/%s", rig.parent, name);
    journal_rig_write_file(files[nth], bytes, n);
}

static void set_up(void)
{
    char cosigned[CHECKPOINT_MAX_NOTE_BYTES];
    size_t n;

    faulty_heap_install();
    journal_rig_init(&rig);
    rig.config.on_receipt = NULL;
    ck_assert_int_eq(
        checkpoint_signer_generate(&signer, "ledger", NULL), KV_OK);
    ck_assert_int_eq(
        cosignature_signer_generate(&witness, "witness", NULL), KV_OK);
    snprintf(key, sizeof key, "%s", checkpoint_key_format(&signer.key).s);
    journal_rig_must_open(&rig);
    for (uint64_t i = 1; i <= N_RECEIPTS; i++) {
        append(i);
        if (i == N_RECEIPTS / 2)
            keep_checkpoint(&notes[0]);
    }
    keep_checkpoint(&notes[1]);
    journal_rig_close(&rig);
    put(0, "old", notes[0].bytes, notes[0].n_bytes);
    put(1, "new", notes[1].bytes, notes[1].n_bytes);
    ck_assert_int_eq(cosignature_add(&witness, 1, notes[0].bytes,
                         notes[0].n_bytes, cosigned, &n, NULL),
        KV_OK);
    put(2, "cosigned", cosigned, n);
}

static void tear_down(void)
{
    journal_rig_fini(&rig);
    ck_assert_int_eq(faulty_heap_live(), 0);
}

/* ---- running */

static char *out, *err;

static enum cli_exit run(const char *const *words)
{
    char *args[MAX_ARGS] = {"kvpoolctl", "receipts"};
    size_t n_args = 2, n_out, n_err;
    struct cli cli = {.server = "127.0.0.1:1"};
    enum cli_exit code;

    free(out);
    free(err);
    for (; *words != NULL; words++)
        args[n_args++] = (char *)*words;
    cli.in = fopen("/dev/null", "r");
    cli.out = open_memstream(&out, &n_out);
    cli.err = open_memstream(&err, &n_err);
    code = cli_run(&cli, (int)n_args, args);
    fclose(cli.in);
    fclose(cli.out);
    fclose(cli.err);
    return code;
}

#define RUN(...) run((const char *const[]){__VA_ARGS__, NULL})

static void expect(const char *text, const char *words)
{
    ck_assert_msg(
        strstr(text, words) != NULL, "\"%s\" is not in \"%s\"", words, text);
}

static void damage(size_t offset)
{
    char path[256];
    unsigned char *bytes;
    size_t n;

    journal_rig_segment(rig.dir, 1, path);
    n = journal_rig_read_file(path, &bytes);
    bytes[offset] ^= 1;
    journal_rig_write_file(path, bytes, n);
    free(bytes);
}

/* ---- verify */

START_TEST(a_data_dir_and_its_folder_are_the_same_ledger)
{
    ck_assert_int_eq(RUN("verify", rig.parent, "--key", key), CLI_OK);
    expect(out, "receipts 1 to 50 are those of ");
    expect(out, "signed by: ledger+");
    ck_assert_int_eq(RUN("verify", rig.dir, "--key", key), CLI_OK);
    expect(out, "receipts 1 to 50 are those of ");
    ck_assert_int_eq(RUN("verify", rig.dir, "--stats"), CLI_OK);
    expect(out, "signatures were not looked at: give --key");
    expect(err, " a second");
    ck_assert_int_eq(RUN("verify", rig.dir, "-o", "json"), CLI_OK);
    expect(out, "\"verified\": true");
    expect(out, "\"tree_size\": 50");
}
END_TEST

START_TEST(damage_ends_with_its_own_exit_code)
{
    damage(200);
    ck_assert_int_eq(RUN("verify", rig.dir), CLI_DAMAGED);
    expect(err, "00000000000000000001.log");
    ck_assert_int_eq(RUN("audit", rig.dir), CLI_DAMAGED);
    ck_assert_int_eq(RUN("export", rig.dir), CLI_DAMAGED);
}
END_TEST

START_TEST(another_key_is_not_believed)
{
    struct checkpoint_signer other;

    ck_assert_int_eq(checkpoint_signer_generate(&other, "ledger", NULL), KV_OK);
    ck_assert_int_eq(
        RUN("verify", rig.dir, "--key", checkpoint_key_format(&other.key).s),
        CLI_DAMAGED);
    expect(err, "is not signed by the key");
    ck_assert_int_eq(RUN("verify", rig.dir, "--key", "x"), CLI_USAGE);
}
END_TEST

START_TEST(an_older_checkpoint_is_compared_and_its_witness_demanded)
{
    struct checkpoint_key_text text = checkpoint_key_format(&witness.key);

    ck_assert_int_eq(
        RUN("verify", rig.dir, "--key", key, "--old", files[0]), CLI_OK);
    expect(out, "nothing was changed since the older checkpoint");
    ck_assert_int_eq(RUN("verify", rig.dir, "--key", key, "--old", files[2],
                         "--witness-key", text.s),
        CLI_OK);
    expect(out, "cosigned by: witness+");
    ck_assert_int_eq(RUN("verify", rig.dir, "--key", key, "--old", files[0],
                         "--witness-key", text.s),
        CLI_DAMAGED);
    expect(err, "not cosigned");
}
END_TEST

START_TEST(two_checkpoints_are_compared_by_the_directorys_tree)
{
    char path[256];
    unsigned char *bytes;
    size_t n;

    ck_assert_int_eq(RUN("verify", rig.dir, "--key", key, "--old", files[0],
                         "--new", files[1]),
        CLI_OK);
    expect(out, "nothing was changed between the checkpoints of 25 and 50");
    ck_assert_int_eq(
        RUN("verify", rig.dir, "--old", files[1], "--new", files[0]),
        CLI_DAMAGED);
    expect(err, "was set back");
    snprintf(path, sizeof path, "%s/tree", rig.dir);
    n = journal_rig_read_file(path, &bytes);
    bytes[32 + 32 * 30 + 3] ^= 1; /* level 4 over leaves 0 to 15 */
    journal_rig_write_file(path, bytes, n);
    free(bytes);
    ck_assert_int_eq(
        RUN("verify", rig.dir, "--old", files[0], "--new", files[1]),
        CLI_DAMAGED);
    expect(err, "does not lead from the one checkpoint to the other");
    ck_assert_int_eq(RUN("verify", rig.dir, "--new", files[1]), CLI_USAGE);
}
END_TEST

/* ---- export and audit */

START_TEST(an_export_has_every_receipt_once_and_any_range_of_them)
{
    const char *line;
    uint64_t sequence = 0;

    ck_assert_int_eq(RUN("export", rig.dir), CLI_OK);
    for (line = out; *line != '\0'; line = strchr(line, '\n') + 1) {
        char words[64];

        snprintf(words, sizeof words,
            "{\"event\":\"kv_lifecycle\",\"sequence\""
            ":%llu,",
            (unsigned long long)++sequence);
        ck_assert_msg(strncmp(line, words, strlen(words)) == 0, "%.80s", line);
    }
    ck_assert_uint_eq(sequence, N_RECEIPTS);
    ck_assert_int_eq(
        RUN("export", rig.dir, "--from", "7", "--to", "7"), CLI_OK);
    expect(out, "\"sequence\":7,");
    ck_assert_ptr_eq(strchr(out, '\n'), out + strlen(out) - 1);
    ck_assert_int_eq(RUN("export", rig.dir, "--from", "51"), CLI_OK);
    ck_assert_str_eq(out, "");
}
END_TEST

START_TEST(an_audit_of_the_directory_is_that_of_its_export)
{
    char path[256], *verdict;
    enum cli_exit code = RUN("audit", rig.parent, "-o", "json");

    verdict = strdup(out);
    snprintf(path, sizeof path, "%s/exported", rig.parent);
    ck_assert_int_eq(RUN("export", rig.parent, "--out", path), CLI_OK);
    expect(err, "50 receipts");
    ck_assert_int_eq(RUN("audit", "--file", path, "-o", "json"), code);
    ck_assert_str_eq(out, verdict);
    free(verdict);
    ck_assert_int_eq(RUN("audit", rig.dir, "--file", path), CLI_USAGE);
}
END_TEST

START_TEST(an_export_that_fails_leaves_no_file)
{
    char path[256];

    damage(2000);
    snprintf(path, sizeof path, "%s/exported", rig.parent);
    ck_assert_int_eq(RUN("export", rig.dir, "--out", path), CLI_DAMAGED);
    ck_assert_int_eq(access(path, F_OK), -1);
}
END_TEST

START_TEST(each_allocation_may_fail)
{
    static const char *const words[] = {"verify", "audit", "export"};

    for (size_t i = 0; i < 3; i++)
        for (int n = 0;; n += n < 40 ? 1 : 37) {
            enum cli_exit code;

            faulty_heap_fail_at(n);
            code = RUN(words[i], rig.parent);
            faulty_heap_fail_at(-1);
            if (err[0] == '\0')
                break;
            ck_assert_msg(code == CLI_FAILED || code == CLI_DAMAGED, "%s: %s",
                words[i], err);
        }
}
END_TEST

int main(void)
{
    const TTest *tests[] = {
        a_data_dir_and_its_folder_are_the_same_ledger,
        damage_ends_with_its_own_exit_code,
        another_key_is_not_believed,
        an_older_checkpoint_is_compared_and_its_witness_demanded,
        two_checkpoints_are_compared_by_the_directorys_tree,
        an_export_has_every_receipt_once_and_any_range_of_them,
        an_audit_of_the_directory_is_that_of_its_export,
        an_export_that_fails_leaves_no_file,
        each_allocation_may_fail,
    };

    return CHECK_RUN("directory", set_up, tear_down, tests);
}
