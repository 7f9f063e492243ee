/* What the fuzzers begin with, since a few seconds from nothing would not get
 * through the first line of a signed note:
 *
 *     fuzz_seeds DIR      makes DIR/FUZZER/NAME, sound inputs of each fuzzer
 *
 * that reads a form of more than a few bytes. */
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

#include "kvpool/v1/pool_service.pb-c.h"
#include "receipts/cosignature.h"
#include "receipts/journal_format.h"
#include "tests/engine/tiny_model.h"
#include "tests/receipts/random_receipt.h"

static const char *dir;

static void fail(const char *what)
{
    fprintf(stderr, "fuzz_seeds: %s: %s\n", what, strerror(errno));
    exit(EXIT_FAILURE);
}

static void write_seed(
    const char *fuzzer, const char *name, const void *bytes, size_t n)
{
    char path[4096];
    FILE *file;

    snprintf(path, sizeof path, "%s/%s", dir, fuzzer);
    if (mkdir(path, 0777) != 0 && errno != EEXIST)
        fail(path);
    snprintf(path, sizeof path, "%s/%s/%s", dir, fuzzer, name);
    file = fopen(path, "wb");
    if (file == NULL || fwrite(bytes, 1, n, file) != n || fclose(file) != 0)
        fail(path);
}

/* ---- the journal and its notes */

/* A group of two receipts and its commit, as records without a segment's seed:
 * so the fuzzer reads them. */
static void write_records(void)
{
    static const unsigned char receipt[] = "a receipt, as far as this goes";
    unsigned char bytes[1024], payload[JOURNAL_COMMIT_BYTES];
    const struct journal_commit commit = {
        .group = 7, .first_sequence = 41, .n_receipts = 2, .n_records = 2};
    struct journal_record record = {.sequence = 41,
        .epoch = 3,
        .flags = 7,
        .type = JOURNAL_RECEIPT,
        .payload = receipt,
        .n_payload = sizeof receipt};
    size_t n = journal_record_write(bytes, &record, 0);

    write_seed("fuzz_journal_record", "record", bytes, n);
    record.sequence = 42;
    n += journal_record_write(bytes + n, &record, 0);
    journal_commit_write(payload, &commit);
    record.type = JOURNAL_COMMIT;
    record.payload = payload;
    record.n_payload = sizeof payload;
    n += journal_record_write(bytes + n, &record, 0);
    write_seed("fuzz_journal_record", "group", bytes, n);
}

static void write_heads(void)
{
    const struct journal_header header = {
        .id = 5, .first_sequence = 41, .first_group = 7, .epoch = 3};
    const struct journal_identity identity = {
        .epoch = 3, .clean = true, .last_sequence = 42, .last_group = 7};
    unsigned char bytes[JOURNAL_HEADER_BYTES + JOURNAL_IDENTITY_BYTES];

    journal_header_write(bytes, &header);
    write_seed("fuzz_journal_record", "header", bytes, JOURNAL_HEADER_BYTES);
    journal_identity_write(bytes, &identity);
    write_seed(
        "fuzz_journal_record", "identity", bytes, JOURNAL_IDENTITY_BYTES);
}

static void write_key(const char *name, const struct checkpoint_key *key)
{
    const struct checkpoint_key_text text = checkpoint_key_format(key);

    write_seed("fuzz_checkpoint", name, text.s, strlen(text.s));
}

static void write_notes(void)
{
    static char cosigned[CHECKPOINT_MAX_NOTE_BYTES];
    const struct checkpoint checkpoint = {
        .origin = "kvpool/5b0d", .tree_size = 42};
    struct checkpoint_signer ledger, witness;
    struct checkpoint_note note;
    size_t n_cosigned;

    if (checkpoint_signer_generate(&ledger, "kvpool/5b0d", NULL) != KV_OK ||
        cosignature_signer_generate(&witness, "witness.test/w", NULL) != KV_OK)
        fail("a new key");
    checkpoint_sign(&ledger, &checkpoint, &note);
    write_seed("fuzz_checkpoint", "note", note.bytes, note.n_bytes);
    if (cosignature_add(&witness, 7, note.bytes, note.n_bytes, cosigned,
            &n_cosigned, NULL) != KV_OK)
        fail("a cosignature");
    write_seed("fuzz_checkpoint", "cosigned", cosigned, n_cosigned);
    write_key("key", &ledger.key);
    write_key("witness_key", &witness.key);
    checkpoint_signer_fini(&ledger);
    checkpoint_signer_fini(&witness);
}

/* ---- requests */

static void write_message(
    const char *fuzzer, const char *name, const ProtobufCMessage *message)
{
    unsigned char bytes[1024];
    size_t n = protobuf_c_message_get_packed_size(message);

    if (n > sizeof bytes)
        fail(name);
    protobuf_c_message_pack(message, bytes);
    write_seed(fuzzer, name, bytes, n);
}

/* From behind the ring's first receipts; what the fuzzer's ledger is called. */
static void write_positions(void)
{
    Kvpool__V1__LedgerPosition position = KVPOOL__V1__LEDGER_POSITION__INIT;
    Kvpool__V1__StreamReceiptsRequest request =
        KVPOOL__V1__STREAM_RECEIPTS_REQUEST__INIT;

    position.pool_id.data = (uint8_t *)"0123456789abcdef";
    position.pool_id.len = 16;
    position.epoch = 3;
    position.sequence = 4990;
    request.start_case = KVPOOL__V1__STREAM_RECEIPTS_REQUEST__START_AFTER;
    request.after = &position;
    write_message("fuzz_position", "after", &request.base);
    position.sequence = 3;
    write_message("fuzz_position", "expired", &request.base);
}

static void write_evictions(void)
{
    Kvpool__V1__SessionKey key = KVPOOL__V1__SESSION_KEY__INIT;
    Kvpool__V1__EvictAll all = KVPOOL__V1__EVICT_ALL__INIT;
    Kvpool__V1__EvictTarget targets[] = {
        KVPOOL__V1__EVICT_TARGET__INIT, KVPOOL__V1__EVICT_TARGET__INIT};
    Kvpool__V1__EvictTarget *list[] = {&targets[0], &targets[1]};
    Kvpool__V1__EvictRequest request = KVPOOL__V1__EVICT_REQUEST__INIT;

    key.session_id = "s0";
    targets[0].target_case = KVPOOL__V1__EVICT_TARGET__TARGET_SESSION;
    targets[0].session = &key;
    targets[1].target_case = KVPOOL__V1__EVICT_TARGET__TARGET_ALL;
    targets[1].all = &all;
    request.n_targets = 2;
    request.targets = list;
    write_message("fuzz_evict", "session", &request.base);
}

static void write_changes(void)
{
    Kvpool__V1__SessionKey key = KVPOOL__V1__SESSION_KEY__INIT;
    Kvpool__V1__LeaseSetting lease = KVPOOL__V1__LEASE_SETTING__INIT;
    Kvpool__V1__RetentionSettings settings =
        KVPOOL__V1__RETENTION_SETTINGS__INIT;
    Kvpool__V1__RetentionChange change = KVPOOL__V1__RETENTION_CHANGE__INIT;
    Kvpool__V1__RetentionChange *list[] = {&change};
    Kvpool__V1__SetRetentionRequest request =
        KVPOOL__V1__SET_RETENTION_REQUEST__INIT;

    key.session_id = "1";
    lease.lease_id = "r";
    lease.duration_ns = 5;
    settings.lease = &lease;
    change.session = &key;
    change.settings = &settings;
    request.n_changes = 1;
    request.changes = list;
    write_message("fuzz_retention", "lease", &request.base);
}

/* A filter that asks nothing, then a receipt of any kind: only short ones, as
 * the fuzzer's inputs are. */
static void write_receipts(void)
{
    for (int i = 0; i < 40; i++) {
        Kvpool__V1__Receipt *receipt = random_receipt();
        unsigned char bytes[1024] = {0};
        size_t n = kvpool__v1__receipt__get_packed_size(receipt);
        char name[16];

        if (n < sizeof bytes) {
            kvpool__v1__receipt__pack(receipt, bytes + 1);
            snprintf(name, sizeof name, "receipt%d", i);
            write_seed("fuzz_filter", name, bytes, n + 1);
        }
        kvpool__v1__receipt__free_unpacked(receipt, NULL);
    }
}

/* ---- the engine */

static void write_models(void)
{
    static const char *const architectures[] = {
        "llama", "qwen2", "qwen3", "bitnet", "bitnet-b1.58"};

    for (size_t i = 0; i < sizeof architectures / sizeof *architectures; i++) {
        struct tiny_model tiny;
        unsigned char *file;
        size_t n;

        tiny_model_init(&tiny, architectures[i]);
        tiny_model_add_word(&tiny, "hello", -1, 1);
        file = tiny_model_write(&tiny, &n);
        write_seed("fuzz_gguf", architectures[i], file, n);
        free(file);
    }
}

int main(int argc, char **argv)
{
    if (argc != 2) {
        fprintf(stderr, "usage: fuzz_seeds DIR\n");
        return EXIT_FAILURE;
    }
    dir = argv[1];
    if (mkdir(dir, 0777) != 0 && errno != EEXIST)
        fail(dir);
    write_records();
    write_heads();
    write_notes();
    write_positions();
    write_evictions();
    write_changes();
    write_receipts();
    write_models();
    return EXIT_SUCCESS;
}
