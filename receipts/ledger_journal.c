/* The ledger on its journal: what is handed over, what comes back, and where
 * all of it stands. Without a journal the ring is the whole of it, and most of
 * this says so.
 *
 *   released ── journal_append ──> written, synced ── wake, poll ──> durable
 *
 * The ring keeps what is not durable, so a slow disk makes it grow: by as many
 * receipts as max_ahead allows, and those that no longer ask (the batch of a
 * sweep, snapshots, a Manual call under way). */
#include "receipts/ledger_core.h"

#include <string.h>

#include "base/clock.h"
#include "base/log.h"

/* ---- life */

static enum kv_status load_chunk(void *ctx, uint64_t sequence,
    struct ring_chunk **out, struct kv_error *error)
{
    return journal_load(ctx, sequence, out, error);
}

enum kv_status ledger_open_journal(struct ledger *ledger,
    const struct journal_config *config, struct kv_error *error)
{
    struct loader_config loader = {
        .load = load_chunk, .wake = config->wake, .wake_ctx = config->wake_ctx};
    struct journal_start *start = &ledger->start;
    enum kv_status status =
        journal_open(&ledger->journal, config, start, error);

    if (status != KV_OK)
        return status;
    loader.load_ctx = ledger->journal;
    status = loader_open(&ledger->loader, &loader, error);
    if (status != KV_OK) {
        journal_close(ledger->journal);
        return status;
    }
    memcpy(ledger->config.pool_id, start->pool_id, sizeof start->pool_id);
    ledger->config.epoch = start->epoch;
    ledger->retain_bytes = config->retain_bytes;
    ledger->applied = ledger->released = start->last_sequence;
    ledger->durable = start->last_sequence;
    journal_poll(ledger->journal, &ledger->disk);
    /* Its threads run already; what they may have met is the first
     * ledger_poll's to notice. */
    ledger->disk.state = JOURNAL_OK;
    return KV_OK;
}

void ledger_close_journal(struct ledger *ledger)
{
    loader_close(ledger->loader);
    journal_close(ledger->journal);
}

const char *ledger_dir(const struct ledger *ledger)
{
    return ledger->journal != NULL ? journal_dir_path(ledger->journal) : "";
}

/* ---- to the disk and back */

void ledger_hand_over(struct ledger *ledger, uint64_t from)
{
    if (from == ledger->durable)
        ledger->silent_since_ns = kv_clock_mono_ns();
    while (from < ledger->released) {
        struct ring_chunk *chunk =
            ring_find(&ledger->ring, from + 1, &ledger->handed_chunk);
        uint64_t last = chunk->first_sequence + chunk->n_entries - 1;

        from = last < ledger->released ? last : ledger->released;
        journal_append(ledger->journal, chunk, from);
    }
}

static void note_state(struct ledger *ledger, enum journal_state before)
{
    const struct journal_position *disk = &ledger->disk;

    if (disk->state == JOURNAL_FAILED)
        ledger_fail(ledger, disk->error, 0);
    else if (disk->state == JOURNAL_FULL)
        kv_log(KV_LOG_ERROR, "kvpool::receipts",
            "no room for receipts, nothing is evicted",
            KV_LOG_TEXT("dir", ledger_dir(ledger)),
            KV_LOG_TEXT("reason", disk->error));
    else if (before == JOURNAL_FULL)
        kv_log(KV_LOG_INFO, "kvpool::receipts", "room for receipts again",
            KV_LOG_UINT("durable_sequence", disk->durable_sequence));
}

void ledger_poll(struct ledger *ledger)
{
    enum journal_state before = ledger->disk.state;
    uint64_t durable = ledger->durable;

    if (ledger->journal == NULL)
        return;
    journal_poll(ledger->journal, &ledger->disk);
    if (ledger->disk.durable_sequence > durable) {
        ledger->durable = ledger->disk.durable_sequence;
        ledger->silent_since_ns = kv_clock_mono_ns();
        ring_trim(&ledger->ring, ledger->durable);
    }
    if (ledger->disk.state != before)
        note_state(ledger, before);
    loader_collect(ledger->loader);
    if (ledger->durable > durable || ledger->disk.state != before)
        ledger_tell_watchers(ledger);
}

/* ---- where it stands */

uint64_t ledger_oldest(const struct ledger *ledger)
{
    uint64_t first = ring_first(&ledger->ring, ledger->applied + 1);
    uint64_t stored = ledger->disk.oldest_sequence;

    return stored != 0 && stored < first ? stored : first;
}

struct ledger_position ledger_position(const struct ledger *ledger)
{
    bool on_disk = ledger->journal != NULL;
    uint64_t first = ledger_oldest(ledger);
    struct ledger_position position = {
        .epoch = ledger->config.epoch,
        .applied_sequence = ledger->applied,
        .durable_sequence = ledger->durable,
        .oldest_sequence = first <= ledger->durable ? first : 0,
        .stored_bytes =
            on_disk ? ledger->disk.stored_bytes : ledger->ring.stored_bytes,
        .limit_bytes =
            on_disk ? ledger->retain_bytes : ledger->config.ring_bytes,
        .silent_since_ns = ledger->silent_since_ns,
    };

    memcpy(position.pool_id, ledger->config.pool_id, sizeof position.pool_id);
    return position;
}

bool ledger_failed(const struct ledger *ledger)
{
    return ledger->failed;
}

enum ledger_state ledger_state(const struct ledger *ledger, const char **error)
{
    *error = "";
    if (ledger->failed) {
        *error = ledger->failure;
        return LEDGER_FAILED;
    }
    if (ledger->disk.state == JOURNAL_FULL) {
        *error = ledger->disk.error;
        return LEDGER_FULL;
    }
    if (ledger->journal == NULL ||
        ledger->applied - ledger->durable < ledger->config.max_ahead)
        return LEDGER_OK;
    *error = "as many receipts wait for the disk as may";
    return LEDGER_BEHIND;
}

int ledger_error_number(const struct ledger *ledger)
{
    return ledger->disk.error_number;
}

const struct journal_start *ledger_start(const struct ledger *ledger)
{
    return ledger->journal != NULL ? &ledger->start : NULL;
}

struct merkle *ledger_tree(struct ledger *ledger)
{
    return ledger->journal != NULL ? journal_tree(ledger->journal)
                                   : &ledger->tree;
}

uint32_t ledger_epoch_of(const struct ledger *ledger, uint64_t sequence)
{
    if (sequence == 0 || sequence > ledger->applied)
        return 0;
    if (sequence > ledger->start.last_sequence)
        return ledger->config.epoch;
    return journal_epoch_of(ledger->journal, sequence);
}

/* ---- what is kept beside the receipts */

enum kv_status ledger_set_cursor(
    struct ledger *ledger, const char *name, uint64_t sequence)
{
    return ledger->journal != NULL
               ? journal_set_cursor(ledger->journal, name, sequence)
               : KV_OK;
}

bool ledger_cursor(struct ledger *ledger, const char *name, uint64_t *sequence)
{
    return ledger->journal != NULL &&
           journal_cursor(ledger->journal, name, sequence);
}

void ledger_drop_cursor(struct ledger *ledger, const char *name)
{
    if (ledger->journal != NULL)
        journal_drop_cursor(ledger->journal, name);
}

size_t ledger_checkpoint(const struct ledger *ledger, const void **note)
{
    return ledger->journal != NULL ? journal_checkpoint(ledger->journal, note)
                                   : 0;
}

void ledger_keep_checkpoint(
    struct ledger *ledger, const void *note, size_t n_bytes, uint64_t tree_size)
{
    if (ledger->journal != NULL)
        journal_keep_checkpoint(ledger->journal, note, n_bytes, tree_size);
}
