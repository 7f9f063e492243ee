/* A ledger on disk under load, for the tests that cut its power.
 *
 *   ledger_hammer write DIR SEED N [retain]
 *       opens the ledger and issues N receipts in bursts of random length, with
 *       cursors and checkpoints beside; says what it found, and each receipt
 *       once it is durable, on stdout, line by line, so that whoever reads
 *       knows what had been acknowledged. `retain`: only RETAIN_BYTES are kept
 *   ledger_hammer read DIR
 *       says what lies there, and opens nothing for writing
 *   ledger_hammer seek DIR AFTER:N...
 *       opens the ledger and reads N receipts after each of these, as a
 *       subscriber would
 *
 *   start EPOCH LAST clean|unclean CUT OLDEST
 *   cursor NAME SEQUENCE        as it was found
 *   checkpoint SIZE             the newest, as it was found; 0: none
 *   set NAME SEQUENCE           a cursor is moved
 *   r SEQUENCE LEAF_HASH
 *   state STATE ERROR           when it is no longer well; it goes on
 *   end SEQUENCE                closed in order, after this receipt
 *
 * Exit: 0; 2 the ledger is refused (what for is on stderr); 3 it failed; 4 the
 * disk was full for too long. */
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/clock.h"
#include "receipts/journal_scan.h"
#include "receipts/ledger.h"
#include "receipts/notary.h"

#define SEGMENT_BYTES JOURNAL_MIN_SEGMENT_BYTES
#define RETAIN_BYTES (2 * JOURNAL_MIN_SEGMENT_BYTES)
#define REFUSED 2
#define FAILED 3
#define FULL 4
#define PATIENCE_NS (4 * KV_NS_PER_S) /* with a full disk */
#define POLL_MS 500
#define NAME_BYTES 120

static const char *const cursor_names[] = {"sink", "other"};
#define N_CURSORS (sizeof cursor_names / sizeof *cursor_names)

struct hammer {
    struct ledger *ledger;
    struct notary *notary;
    struct feed_cursor cursor;
    struct merkle_hasher hasher;
    enum ledger_state state;
    bool gave_up;
    int wake[2];
};

static void on_wake(void *ctx)
{
    const struct hammer *hammer = ctx;

    if (write(hammer->wake[1], "", 1) < 0 && errno != EAGAIN)
        abort();
}

static void say_hash(struct merkle_hasher *hasher, uint64_t sequence,
    const unsigned char *bytes, size_t n_bytes)
{
    struct merkle_hash hash;

    if (!merkle_hash_leaf(hasher, bytes, n_bytes, &hash))
        abort();
    printf("r %" PRIu64 " ", sequence);
    for (size_t i = 0; i < 8; i++)
        printf("%02x", hash.bytes[i]);
    putchar('\n');
}

/* What is durable now, and was not before. */
static void say_durable(struct hammer *hammer)
{
    struct feed_run run;

    while (feed_next(hammer->ledger, &hammer->cursor, 1024, 65536, &run) ==
           KV_OK) {
        const unsigned char *at = run.bytes, *bytes;
        uint64_t sequence = run.first_sequence;
        size_t n_bytes;

        while (feed_run_entry(&run, &at, &bytes, &n_bytes))
            say_hash(&hammer->hasher, sequence++, bytes, n_bytes);
        feed_run_release(run.chunk);
    }
    fflush(stdout);
}

static void say_state(struct hammer *hammer)
{
    const char *error;
    enum ledger_state state = ledger_state(hammer->ledger, &error);

    if (state != hammer->state)
        printf("state %d %s\n", (int)state, error);
    hammer->state = state;
}

/* Until all that is numbered is durable, or nothing happens any more. */
static void settle(struct hammer *hammer)
{
    int64_t full_since_ns = INT64_MAX;

    for (;;) {
        struct pollfd readable = {.fd = hammer->wake[0], .events = POLLIN};
        struct ledger_position position;
        int64_t now_ns = kv_clock_mono_ns();
        char drain[64];

        ledger_poll(hammer->ledger);
        say_durable(hammer);
        say_state(hammer);
        position = ledger_position(hammer->ledger);
        if (hammer->state != LEDGER_FULL)
            full_since_ns = INT64_MAX;
        else if (full_since_ns == INT64_MAX)
            full_since_ns = now_ns;
        hammer->gave_up |= hammer->state == LEDGER_FULL &&
                           now_ns - full_since_ns > PATIENCE_NS;
        if ((position.durable_sequence == position.applied_sequence &&
                hammer->state == LEDGER_OK) ||
            hammer->state == LEDGER_FAILED || hammer->gave_up)
            return;
        if (poll(&readable, 1, POLL_MS) > 0 &&
            read(hammer->wake[0], drain, sizeof drain) < 0)
            return;
    }
}

/* Some 16 KiB. */
static void issue_large(struct hammer *hammer, int64_t mono_ns)
{
    static const uint8_t digest[32] = {1};
    const char *names[LEDGER_MAX_CHANGES];
    char text[NAME_BYTES + 1];
    struct ledger_configuration_change change = {
        .previous_digest = digest,
        .config_digest = digest,
        .names = names,
        .n_names = LEDGER_MAX_CHANGES,
        .requested_by = "hammer",
    };

    for (size_t i = 0; i < NAME_BYTES; i++)
        text[i] = (char)('a' + rand() % 26);
    text[NAME_BYTES] = '\0';
    for (size_t i = 0; i < LEDGER_MAX_CHANGES; i++)
        names[i] = text + rand() % NAME_BYTES;
    ledger_issue_configuration_change(hammer->ledger, &change, mono_ns);
}

static void issue_burst(struct hammer *hammer, int n, int64_t i)
{
    struct ledger_pool_snapshot snapshot = {.stats.total_bytes = 1 << 30};

    for (int j = 0; j < n; j++) {
        snapshot.sessions_created = (uint64_t)(rand() % 100000);
        snapshot.stats.used_bytes = (uint64_t)rand();
        if (rand() % 4 == 0)
            issue_large(hammer, i + j);
        else
            ledger_issue_snapshot(hammer->ledger, &snapshot, i + j);
    }
}

/* As a sink does: up to what it has seen. */
static void move_cursor(struct hammer *hammer, const char *name)
{
    uint64_t sequence = hammer->cursor.sequence;

    if (strcmp(name, "other") == 0 && rand() % 3 == 0) {
        ledger_drop_cursor(hammer->ledger, name);
        return;
    }
    printf("set %s %" PRIu64 "\n", name, sequence);
    fflush(stdout);
    ledger_set_cursor(hammer->ledger, name, sequence);
}

static void issue_all(struct hammer *hammer, int n)
{
    for (int done = 0; done < n && !hammer->gave_up;) {
        int burst = 1 + rand() % (rand() % 4 == 0 ? 100 : 10);

        if (hammer->state == LEDGER_OK)
            issue_burst(hammer, burst, done);
        done += burst;
        if (rand() % 3 == 0)
            move_cursor(hammer, cursor_names[(size_t)rand() % N_CURSORS]);
        settle(hammer);
        if (rand() % 3 == 0)
            notary_tick(hammer->notary);
    }
}

static void say_start(struct hammer *hammer)
{
    const struct journal_start *start = ledger_start(hammer->ledger);
    struct checkpoint checkpoint = {.tree_size = 0};
    uint64_t sequence;
    const void *note;
    size_t n_note = ledger_checkpoint(hammer->ledger, &note);

    printf("start %" PRIu32 " %" PRIu64 " %s %" PRIu64 " %" PRIu64 "\n",
        start->epoch, start->last_sequence, start->clean ? "clean" : "unclean",
        start->cut_bytes, start->oldest_sequence);
    for (size_t i = 0; i < N_CURSORS; i++)
        if (ledger_cursor(hammer->ledger, cursor_names[i], &sequence))
            printf("cursor %s %" PRIu64 "\n", cursor_names[i], sequence);
    if (n_note > 0 &&
        checkpoint_parse(note, n_note, &checkpoint, NULL) != KV_OK)
        abort();
    printf("checkpoint %" PRIu64 "\n", checkpoint.tree_size);
    fflush(stdout);
}

static int open_ledger(struct hammer *hammer, const char *dir, bool retain)
{
    const struct journal_config journal = {
        .dir = dir,
        .segment_bytes = SEGMENT_BYTES,
        .retain_bytes = retain ? RETAIN_BYTES : 0,
        .cursor_hold_bytes = UINT64_MAX,
        .wall_ns = kv_clock_wall_ns,
        .wake = on_wake,
        .wake_ctx = hammer,
    };
    const struct ledger_config config = {
        .ring_bytes = LEDGER_MIN_RING_BYTES,
        .journal = &journal,
        .max_ahead = 4096,
        .wall_ns = kv_clock_wall_ns,
    };
    struct kv_error error;

    if (ledger_open(&hammer->ledger, &config, &error) != KV_OK) {
        fprintf(stderr, "%s\n", error.text);
        return REFUSED;
    }
    say_start(hammer);
    return 0;
}

/* Its key is another one each time, as nobody verifies the notes. */
static int open_notary(struct hammer *hammer)
{
    struct checkpoint_signer signer;
    struct kv_error error;

    if (checkpoint_signer_generate(&signer, "hammer", &error) == KV_OK &&
        notary_open(&hammer->notary, hammer->ledger, &signer, kv_clock_wall_ns,
            &error) == KV_OK)
        return 0;
    fprintf(stderr, "%s\n", error.text);
    return REFUSED;
}

static int hammer_write(const char *dir, unsigned seed, int n, bool retain)
{
    struct hammer hammer = {0};
    struct ledger_boot boot = {.version = "test", .policy = "lru", .model = ""};
    struct ledger_position position;
    int status;

    srand(seed);
    if (pipe2(hammer.wake, O_NONBLOCK | O_CLOEXEC) != 0 ||
        merkle_hasher_init(&hammer.hasher) != KV_OK)
        return FAILED;
    status = open_ledger(&hammer, dir, retain);
    if (status == 0)
        status = open_notary(&hammer);
    if (status != 0)
        return status;
    feed_seek(hammer.ledger, ledger_start(hammer.ledger)->last_sequence,
        &hammer.cursor);
    ledger_issue_boot(hammer.ledger, &boot, 0);
    settle(&hammer);
    issue_all(&hammer, n);
    position = ledger_position(hammer.ledger);
    feed_leave(hammer.ledger, &hammer.cursor);
    notary_close(hammer.notary);
    ledger_close(hammer.ledger);
    if (position.durable_sequence == position.applied_sequence)
        printf("end %" PRIu64 "\n", position.durable_sequence);
    merkle_hasher_fini(&hammer.hasher);
    if (hammer.state == LEDGER_FAILED)
        return FAILED;
    return hammer.gave_up ? FULL : 0;
}

/* At most n of them; false: the place is not there. */
static bool say_after(struct hammer *hammer, uint64_t after, uint64_t n)
{
    uint64_t last = after + n;

    printf("seek %" PRIu64 "\n", after);
    if (feed_seek(hammer->ledger, after, &hammer->cursor) != KV_OK)
        return false;
    while (hammer->cursor.sequence < last) {
        struct pollfd readable = {.fd = hammer->wake[0], .events = POLLIN};
        const unsigned char *at, *bytes;
        enum kv_status status;
        struct feed_run run;
        size_t n_bytes;

        status = feed_next(hammer->ledger, &hammer->cursor,
            (uint32_t)(last - hammer->cursor.sequence), 65536, &run);
        if (status == KV_BUSY && poll(&readable, 1, POLL_MS) >= 0) {
            ledger_poll(hammer->ledger);
            continue;
        }
        if (status != KV_OK)
            return status == KV_NOT_FOUND;
        at = run.bytes;
        for (uint64_t i = 0; feed_run_entry(&run, &at, &bytes, &n_bytes); i++)
            say_hash(&hammer->hasher, run.first_sequence + i, bytes, n_bytes);
        feed_run_release(run.chunk);
    }
    return true;
}

static int hammer_seek(const char *dir, char **places, int n_places)
{
    struct hammer hammer = {0};
    int status;

    if (pipe2(hammer.wake, O_NONBLOCK | O_CLOEXEC) != 0 ||
        merkle_hasher_init(&hammer.hasher) != KV_OK)
        return FAILED;
    status = open_ledger(&hammer, dir, false);
    if (status != 0)
        return status;
    for (int i = 0; i < n_places; i++) {
        uint64_t after = 0, n = 0;

        if (sscanf(places[i], "%" SCNu64 ":%" SCNu64, &after, &n) != 2 ||
            !say_after(&hammer, after, n))
            status = FAILED;
    }
    feed_leave(hammer.ledger, &hammer.cursor);
    ledger_close(hammer.ledger);
    merkle_hasher_fini(&hammer.hasher);
    return status;
}

static int hammer_read(const char *dir)
{
    struct journal_scan *scan;
    struct journal_scan_receipt receipt;
    struct merkle_hasher hasher;
    struct kv_error error;
    enum kv_status status;

    if (merkle_hasher_init(&hasher) != KV_OK)
        return FAILED;
    if (journal_scan_open(&scan, dir, &error) != KV_OK) {
        fprintf(stderr, "%s\n", error.text);
        return REFUSED;
    }
    while ((status = journal_scan_next(scan, &receipt, &error)) == KV_OK)
        say_hash(&hasher, receipt.sequence, receipt.bytes, receipt.n_bytes);
    if (status != KV_NOT_FOUND)
        fprintf(stderr, "%s\n", error.text);
    journal_scan_close(scan);
    merkle_hasher_fini(&hasher);
    return status == KV_NOT_FOUND ? 0 : REFUSED;
}

int main(int argc, char **argv)
{
    if (argc >= 5 && strcmp(argv[1], "write") == 0)
        return hammer_write(argv[2], (unsigned)atoi(argv[3]), atoi(argv[4]),
            argc > 5 && strcmp(argv[5], "retain") == 0);
    if (argc == 3 && strcmp(argv[1], "read") == 0)
        return hammer_read(argv[2]);
    if (argc > 3 && strcmp(argv[1], "seek") == 0)
        return hammer_seek(argv[2], argv + 3, argc - 3);
    fprintf(stderr, "usage: ledger_hammer write DIR SEED N [retain]\n"
                    "       ledger_hammer read DIR\n"
                    "       ledger_hammer seek DIR AFTER:N...\n");
    return 64;
}
