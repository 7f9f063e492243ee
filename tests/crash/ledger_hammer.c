/* A ledger on disk under load, for the tests that cut its power.
 *
 *   ledger_hammer write DIR SEED N [accept-loss]
 *       opens the ledger and issues N receipts in bursts of random length; says
 *       what it found, and each receipt once it is durable, on stdout, line by
 *       line, so that whoever reads knows what had been acknowledged
 *   ledger_hammer read DIR
 *       says what lies there, and opens nothing for writing
 *   ledger_hammer seek DIR AFTER:N...
 *       opens the ledger and reads N receipts after each of these, as a
 *       subscriber would
 *
 *   start EPOCH LAST clean|unclean CUT POOL_ID
 *   r SEQUENCE LEAF_HASH
 *   state STATE ERROR           when it is no longer well; it goes on
 *   end SEQUENCE                closed in order, after this receipt
 *
 * Exit: 0; 2 the ledger is refused (what for is on stderr); 3 it failed. */
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

#define SEGMENT_BYTES JOURNAL_MIN_SEGMENT_BYTES
#define REFUSED 2
#define FAILED 3
#define PATIENCE_MS 3000

struct hammer {
    struct ledger *ledger;
    struct feed_cursor cursor;
    struct merkle_hasher hasher;
    enum ledger_state state;
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
    for (;;) {
        struct pollfd readable = {.fd = hammer->wake[0], .events = POLLIN};
        struct ledger_position position;
        char drain[64];

        ledger_poll(hammer->ledger);
        say_durable(hammer);
        say_state(hammer);
        position = ledger_position(hammer->ledger);
        if (position.durable_sequence == position.applied_sequence ||
            hammer->state == LEDGER_FAILED ||
            poll(&readable, 1, PATIENCE_MS) <= 0)
            return;
        if (read(hammer->wake[0], drain, sizeof drain) < 0)
            return;
    }
}

static void issue_burst(struct hammer *hammer, int n, int64_t i)
{
    struct ledger_pool_snapshot snapshot = {.stats.total_bytes = 1 << 30};

    for (int j = 0; j < n; j++) {
        snapshot.sessions_created = (uint64_t)(rand() % 100000);
        snapshot.stats.used_bytes = (uint64_t)rand();
        ledger_issue_snapshot(hammer->ledger, &snapshot, i + j);
    }
}

static int open_ledger(struct hammer *hammer, const char *dir, bool accept_loss)
{
    const struct journal_config journal = {
        .dir = dir,
        .segment_bytes = SEGMENT_BYTES,
        .accept_loss = accept_loss,
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
    const struct journal_start *start;
    struct kv_error error;

    if (ledger_open(&hammer->ledger, &config, &error) != KV_OK) {
        fprintf(stderr, "%s\n", error.text);
        return REFUSED;
    }
    start = ledger_start(hammer->ledger);
    printf("start %" PRIu32 " %" PRIu64 " %s %" PRIu64 " ", start->epoch,
        start->last_sequence, start->clean ? "clean" : "unclean",
        start->cut_bytes);
    for (size_t i = 0; i < sizeof start->pool_id; i++)
        printf("%02x", start->pool_id[i]);
    putchar('\n');
    fflush(stdout);
    return 0;
}

static int hammer_write(const char *dir, unsigned seed, int n, bool accept_loss)
{
    struct hammer hammer = {0};
    struct ledger_boot boot = {.version = "test", .policy = "lru", .model = ""};
    struct ledger_position position;
    int status;

    srand(seed);
    if (pipe2(hammer.wake, O_NONBLOCK | O_CLOEXEC) != 0 ||
        merkle_hasher_init(&hammer.hasher) != KV_OK)
        return FAILED;
    status = open_ledger(&hammer, dir, accept_loss);
    if (status != 0)
        return status;
    feed_seek(hammer.ledger, ledger_start(hammer.ledger)->last_sequence,
        &hammer.cursor);
    ledger_issue_boot(hammer.ledger, &boot, 0);
    settle(&hammer);
    for (int done = 0; done < n;) {
        int burst = 1 + rand() % (rand() % 4 == 0 ? 300 : 20);

        if (hammer.state == LEDGER_OK)
            issue_burst(&hammer, burst, done);
        done += burst;
        if (rand() % 3 == 0)
            ledger_set_cursor(hammer.ledger, "sink",
                ledger_position(hammer.ledger).durable_sequence);
        settle(&hammer);
    }
    position = ledger_position(hammer.ledger);
    feed_leave(hammer.ledger, &hammer.cursor);
    ledger_close(hammer.ledger);
    if (position.durable_sequence == position.applied_sequence)
        printf("end %" PRIu64 "\n", position.durable_sequence);
    merkle_hasher_fini(&hammer.hasher);
    return hammer.state == LEDGER_FAILED ? FAILED : 0;
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
        if (status == KV_BUSY && poll(&readable, 1, PATIENCE_MS) > 0) {
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
            argc > 5 && strcmp(argv[5], "accept-loss") == 0);
    if (argc == 3 && strcmp(argv[1], "read") == 0)
        return hammer_read(argv[2]);
    if (argc > 3 && strcmp(argv[1], "seek") == 0)
        return hammer_seek(argv[2], argv + 3, argc - 3);
    fprintf(stderr, "usage: ledger_hammer write DIR SEED N [accept-loss]\n"
                    "       ledger_hammer read DIR\n"
                    "       ledger_hammer seek DIR AFTER:N...\n");
    return 64;
}
