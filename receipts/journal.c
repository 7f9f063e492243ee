#include "receipts/journal.h"

#include <assert.h>
#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "base/clock.h"
#include "base/heap.h"
#include "base/thread.h"
#include "receipts/journal_core.h"

#define DEFAULT_GROUP_BYTES 65536
#define DEFAULT_GROUP_RECORDS 128
#define MAX_GROUP_BYTES (JOURNAL_MAX_GROUP_BYTES / 2)
#define PAGE_BYTES 4096

bool journal_is_full(int number)
{
    return number == ENOSPC || number == EDQUOT || number == ENOMEM ||
           number == EMFILE || number == ENFILE;
}

void journal_note_error(
    struct journal *journal, const char *name, const char *what, int number)
{
    snprintf(journal->error, sizeof journal->error, "%s: %s: %s", name, what,
        strerrordesc_np(number));
    journal->error_number = number;
}

void journal_fail(
    struct journal *journal, const char *name, const char *what, int number)
{
    pthread_mutex_lock(&journal->mutex);
    if (!journal->is_failed)
        journal_note_error(journal, name, what, number);
    journal->is_failed = true;
    pthread_cond_broadcast(&journal->work);
    pthread_cond_broadcast(&journal->room_changed);
    pthread_mutex_unlock(&journal->mutex);
    journal_wake(journal);
}

void journal_wake(struct journal *journal)
{
    if (journal->config.wake != NULL)
        journal->config.wake(journal->config.wake_ctx);
}

/* ---- settings */

static enum kv_status check_config(
    const struct journal_config *config, struct kv_error *error)
{
    if (config->segment_bytes < JOURNAL_MIN_SEGMENT_BYTES)
        return kv_error_set(error, KV_INVALID,
            "segments of %" PRIu64 " bytes; at least %" PRIu64 " are allowed",
            config->segment_bytes, JOURNAL_MIN_SEGMENT_BYTES);
    if (config->segment_bytes > INT64_MAX / 2)
        return kv_error_set(error, KV_INVALID,
            "segments of %" PRIu64 " bytes are too large",
            config->segment_bytes);
    if (config->group_bytes > MAX_GROUP_BYTES ||
        config->group_bytes > config->segment_bytes / 4)
        return kv_error_set(error, KV_INVALID,
            "groups of %" PRIu32 " bytes; at most %zu and a quarter of a "
            "segment are allowed",
            config->group_bytes, MAX_GROUP_BYTES);
    if (config->retain_ns < 0)
        return kv_error_set(error, KV_INVALID,
            "receipts cannot be kept for %" PRId64 " ns", config->retain_ns);
    return KV_OK;
}

static void take_config(
    struct journal *journal, const struct journal_config *config)
{
    journal->config = *config;
    journal->config.dir = NULL;
    if (config->group_bytes == 0)
        journal->config.group_bytes = DEFAULT_GROUP_BYTES;
    if (config->group_records == 0)
        journal->config.group_records = DEFAULT_GROUP_RECORDS;
    journal->segment_bytes =
        (config->segment_bytes + PAGE_BYTES - 1) / PAGE_BYTES * PAGE_BYTES;
}

/* ---- open */

static enum kv_status make_writer(
    struct journal *journal, struct kv_error *error)
{
    struct journal_writer *writer = &journal->writer;
    /* The bounds are passed by one receipt and every cursor. */
    size_t n_buffer = JOURNAL_HEADER_BYTES + journal->config.group_bytes +
                      journal_record_bytes(JOURNAL_MAX_PAYLOAD_BYTES) +
                      JOURNAL_CURSOR_PLACES *
                          journal_record_bytes(JOURNAL_CURSOR_PAYLOAD_BYTES) +
                      journal_record_bytes(JOURNAL_COMMIT_BYTES);

    writer->fd = writer->notes_fd = -1;
    writer->buffer = kv_realloc(NULL, n_buffer);
    writer->note_record =
        kv_realloc(NULL, journal_record_bytes(CHECKPOINT_MAX_NOTE_BYTES));
    if (writer->buffer != NULL && writer->note_record != NULL &&
        merkle_hasher_init(&writer->hasher) == KV_OK)
        return KV_OK;
    return kv_error_set(
        error, KV_NO_MEMORY, "no memory for the journal's writer");
}

static void unmake_writer(struct journal *journal)
{
    struct journal_writer *writer = &journal->writer;

    if (writer->notes_fd >= 0)
        close(writer->notes_fd);
    if (writer->fd >= 0)
        close(writer->fd);
    merkle_hasher_fini(&writer->hasher);
    kv_free(writer->note_record);
    kv_free(writer->buffer);
}

static bool init_sync(struct journal *journal)
{
    if (pthread_mutex_init(&journal->mutex, NULL) != 0)
        return false;
    if (kv_condition_init(&journal->work) != 0)
        goto destroy_mutex;
    if (kv_condition_init(&journal->room_changed) != 0)
        goto destroy_work;
    return true;

destroy_work:
    pthread_cond_destroy(&journal->work);
destroy_mutex:
    pthread_mutex_destroy(&journal->mutex);
    return false;
}

static void fini_sync(struct journal *journal)
{
    pthread_cond_destroy(&journal->room_changed);
    pthread_cond_destroy(&journal->work);
    pthread_mutex_destroy(&journal->mutex);
}

static void stop_room(struct journal *journal)
{
    pthread_mutex_lock(&journal->mutex);
    journal->room.stop = true;
    pthread_cond_broadcast(&journal->room_changed);
    pthread_mutex_unlock(&journal->mutex);
    pthread_join(journal->room.thread, NULL);
    if (!journal->room.is_ready)
        return;
    close(journal->room.fd);
    kv_free(journal->room.segment.marks);
    unlinkat(journal->dir.fd, JOURNAL_NEXT_FILE, 0);
}

static enum kv_status start_threads(
    struct journal *journal, struct kv_error *error)
{
    int number =
        pthread_create(&journal->room.thread, NULL, journal_room_main, journal);

    if (number == 0) {
        number = pthread_create(
            &journal->writer.thread, NULL, journal_writer_main, journal);
        if (number == 0)
            return KV_OK;
        stop_room(journal);
    }
    return kv_error_set(error, KV_NO_MEMORY,
        "the journal's threads cannot be started: %s", strerrordesc_np(number));
}

/* Everything but the memory of *journal itself. */
static enum kv_status build(struct journal *journal,
    const struct journal_config *config, struct journal_start *start,
    struct kv_error *error)
{
    enum kv_status status = make_writer(journal, error);

    if (status != KV_OK)
        goto unmake_writer;
    status = journal_begin(journal, config, start, error);
    if (status != KV_OK)
        goto unmake_writer;
    status = start_threads(journal, error);
    if (status == KV_OK)
        return KV_OK;
    journal_end(journal);
unmake_writer:
    unmake_writer(journal);
    return status;
}

enum kv_status journal_open(struct journal **out,
    const struct journal_config *config, struct journal_start *start,
    struct kv_error *error)
{
    struct journal_start found = {0};
    struct journal *journal;
    enum kv_status status = check_config(config, error);

    if (status != KV_OK)
        return status;
    journal = kv_calloc(1, sizeof *journal);
    if (journal == NULL || !init_sync(journal)) {
        kv_free(journal);
        return kv_error_set(error, KV_NO_MEMORY, "no memory for the journal");
    }
    take_config(journal, config);
    journal->dir.fd = journal->lock_fd = -1;
    status = build(journal, config, &found, error);
    if (status != KV_OK) {
        fini_sync(journal);
        kv_free(journal);
        return status;
    }
    *start = found;
    *out = journal;
    return KV_OK;
}

/* ---- close */

/* The identity says so first: then the file may be shorter than it was. */
static void end_epoch(struct journal *journal)
{
    struct journal_writer *writer = &journal->writer;

    if (merkle_sync(&journal->tree) == KV_OK &&
        journal_store_identity(
            journal, journal->durable_sequence, true, NULL) == KV_OK &&
        writer->fd >= 0 && ftruncate(writer->fd, (off_t)writer->offset) == 0)
        (void)fsync(writer->fd);
}

static void release_chunks(struct journal_queue *queue)
{
    while (queue->head != NULL) {
        struct ring_chunk *chunk = queue->head;

        queue->head = chunk != queue->tail ? chunk->next_written : NULL;
        ring_chunk_release(chunk);
    }
}

void journal_close(struct journal *journal)
{
    if (journal == NULL)
        return;
    pthread_mutex_lock(&journal->mutex);
    journal->stop = true;
    pthread_cond_broadcast(&journal->work);
    pthread_cond_broadcast(&journal->room_changed);
    pthread_mutex_unlock(&journal->mutex);
    pthread_join(journal->writer.thread, NULL);
    stop_room(journal);
    if (!journal->is_failed &&
        journal->queue.through < journal->queue.next_sequence)
        end_epoch(journal);
    release_chunks(&journal->queue);
    unmake_writer(journal);
    journal_end(journal);
    fini_sync(journal);
    kv_free(journal);
}

/* ---- the owner's calls */

void journal_append(
    struct journal *journal, struct ring_chunk *chunk, uint64_t through)
{
    struct journal_queue *queue = &journal->queue;

    pthread_mutex_lock(&journal->mutex);
    assert(through >= queue->through);
    if (chunk != queue->tail) {
        ring_chunk_retain(chunk);
        chunk->next_written = NULL;
        if (queue->tail != NULL)
            queue->tail->next_written = chunk;
        else
            queue->head = chunk;
        queue->tail = chunk;
    }
    queue->through = through;
    pthread_mutex_unlock(&journal->mutex);
    /* Not under the mutex: the writer often takes our processor at once. */
    pthread_cond_signal(&journal->work);
}

const char *journal_dir_path(const struct journal *journal)
{
    return journal->dir.path;
}

void journal_poll(struct journal *journal, struct journal_position *out)
{
    pthread_mutex_lock(&journal->mutex);
    *out = (struct journal_position){
        .durable_sequence = journal->durable_sequence,
        .oldest_sequence = journal_segments_oldest(&journal->segments),
        .stored_bytes = journal->stored_bytes,
    };
    if (journal->is_failed)
        out->state = JOURNAL_FAILED;
    else if (journal->is_short || journal->keeping_is_short ||
             journal->room.is_full)
        out->state = JOURNAL_FULL;
    if (out->state != JOURNAL_OK) {
        memcpy(out->error, journal->error, sizeof out->error);
        out->error_number = journal->error_number;
    }
    pthread_mutex_unlock(&journal->mutex);
}

struct merkle *journal_tree(struct journal *journal)
{
    return &journal->tree;
}

uint32_t journal_epoch_of(struct journal *journal, uint64_t sequence)
{
    const struct journal_segment *segment;
    uint32_t epoch = 0;

    pthread_mutex_lock(&journal->mutex);
    segment = journal_segments_find(&journal->segments, sequence);
    if (segment != NULL)
        epoch = segment->epoch;
    else if (sequence > journal->durable_sequence)
        epoch = journal->epoch;
    pthread_mutex_unlock(&journal->mutex);
    return epoch;
}

enum kv_status journal_set_cursor(
    struct journal *journal, const char *name, uint64_t sequence)
{
    enum kv_status status;

    pthread_mutex_lock(&journal->mutex);
    status = journal_cursors_set(&journal->cursors, name, sequence);
    pthread_cond_signal(&journal->work);
    pthread_mutex_unlock(&journal->mutex);
    return status;
}

void journal_drop_cursor(struct journal *journal, const char *name)
{
    pthread_mutex_lock(&journal->mutex);
    journal_cursors_drop(&journal->cursors, name);
    pthread_cond_signal(&journal->work);
    pthread_mutex_unlock(&journal->mutex);
}

bool journal_cursor(
    struct journal *journal, const char *name, uint64_t *sequence)
{
    bool is_there;

    pthread_mutex_lock(&journal->mutex);
    is_there = journal_cursors_get(&journal->cursors, name, sequence);
    pthread_mutex_unlock(&journal->mutex);
    return is_there;
}

void journal_keep_checkpoint(struct journal *journal, const void *note,
    size_t n_bytes, uint64_t tree_size)
{
    assert(n_bytes <= sizeof journal->note);
    pthread_mutex_lock(&journal->mutex);
    memcpy(journal->note, note, n_bytes);
    journal->n_note = n_bytes;
    journal->note_tree_size = tree_size;
    journal->note_is_new = true;
    pthread_cond_signal(&journal->work);
    pthread_mutex_unlock(&journal->mutex);
}

size_t journal_checkpoint(struct journal *journal, const void **note)
{
    *note = journal->note;
    return journal->n_note;
}
