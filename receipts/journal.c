#include "receipts/journal.h"

#include <assert.h>
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stdio.h>
#include <string.h>
#include <sys/random.h>
#include <time.h>
#include <unistd.h>

#include "base/clock.h"
#include "base/heap.h"
#include "receipts/journal_core.h"
#include "receipts/journal_recover.h"

/* The start. First everything is read and judged, without changing a byte; then
 * a torn tail is overwritten with zeros; then the identity says the new epoch,
 * and what is there. Whatever part of that a crash leaves, the next start finds
 * a ledger that it understands. */

#define DEFAULT_GROUP_BYTES 65536
#define DEFAULT_GROUP_RECORDS 128
#define MAX_GROUP_BYTES (JOURNAL_MAX_GROUP_BYTES / 2)
#define PAGE_BYTES 4096

/* ---- among threads */

bool journal_condition_init(pthread_cond_t *condition)
{
    pthread_condattr_t attributes;
    bool ok;

    if (pthread_condattr_init(&attributes) != 0)
        return false;
    ok = pthread_condattr_setclock(&attributes, CLOCK_MONOTONIC) == 0 &&
         pthread_cond_init(condition, &attributes) == 0;
    pthread_condattr_destroy(&attributes);
    return ok;
}

void journal_wait(
    struct journal *journal, pthread_cond_t *condition, int64_t until_ns)
{
    const struct timespec until = {
        .tv_sec = until_ns / KV_NS_PER_S, .tv_nsec = until_ns % KV_NS_PER_S};

    if (until_ns == INT64_MAX)
        pthread_cond_wait(condition, &journal->mutex);
    else
        pthread_cond_timedwait(condition, &journal->mutex, &until);
}

bool journal_is_full(int number)
{
    return number == ENOSPC || number == EDQUOT || number == ENOMEM;
}

void journal_note_error(
    struct journal *journal, const char *name, const char *what, int number)
{
    snprintf(journal->error, sizeof journal->error, "%s: %s: %s", name, what,
        strerrordesc_np(number));
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

/* ---- recovery */

/* The caller's callback and the tree. */
struct readers {
    const struct journal_config *config;
    struct merkle *tree;
};

static bool read_receipt(void *ctx, const struct journal_record *receipt)
{
    const struct readers *readers = ctx;
    const struct journal_config *config = readers->config;

    if (receipt->sequence == merkle_size(readers->tree) + 1 &&
        (merkle_reserve(readers->tree) != KV_OK ||
            !merkle_append(
                readers->tree, receipt->payload, receipt->n_payload)))
        return false;
    if (config->on_receipt != NULL)
        config->on_receipt(config->receipt_ctx, receipt->sequence,
            receipt->payload, receipt->n_payload);
    return true;
}

/* The newest checkpoint must be of the ledger that is there. */
static enum kv_status check_root(struct journal *journal,
    const struct journal_found *found, struct kv_error *error)
{
    struct checkpoint checkpoint;
    struct merkle_hash root;

    if (found->next_sequence - 1 != merkle_size(&journal->tree))
        return kv_error_set(error, KV_DATA_LOSS,
            "%s/%s: has %" PRIu64 " leaves; the ledger has %" PRIu64
            " receipts",
            journal->dir.path, JOURNAL_TREE_FILE, merkle_size(&journal->tree),
            found->next_sequence - 1);
    if (found->n_note == 0)
        return KV_OK;
    if (checkpoint_parse(found->note, found->n_note, &checkpoint, NULL) !=
            KV_OK ||
        checkpoint.tree_size != found->note_tree_size)
        return kv_error_set(error, KV_DATA_LOSS,
            "%s/%s: the newest note is not the checkpoint of %" PRIu64
            " receipts that it is kept as",
            journal->dir.path, JOURNAL_NOTES_FILE, found->note_tree_size);
    if (!merkle_root(&journal->tree, checkpoint.tree_size, &root))
        return kv_error_set(
            error, KV_NO_MEMORY, "no memory to verify a checkpoint with");
    if (!merkle_hash_equal(&root, &checkpoint.root))
        return kv_error_set(error, KV_DATA_LOSS,
            "%s/%s: the receipts up to %" PRIu64
            " are not those of the newest checkpoint",
            journal->dir.path, JOURNAL_NOTES_FILE, checkpoint.tree_size);
    return KV_OK;
}

static enum kv_status recover(struct journal *journal,
    const struct journal_config *config, struct journal_found *found,
    struct kv_error *error)
{
    struct readers readers = {.config = config, .tree = &journal->tree};
    const struct journal_visitor visitor = {read_receipt, &readers};
    enum kv_status status =
        journal_recover(found, &journal->dir, &visitor, error);

    if (status == KV_OK)
        status = check_root(journal, found, error);
    return status;
}

/* ---- what recovery changes */

static enum kv_status clear_tail(struct journal *journal,
    const struct journal_found *found, struct kv_error *error)
{
    const struct journal_segment *last;
    struct journal_name name;
    enum kv_status status = KV_OK;
    int fd;

    if (found->cut_bytes == 0)
        return KV_OK;
    last = &found->segments.at[found->segments.n - 1];
    name = journal_segment_name(last->first_sequence);
    fd = openat(journal->dir.fd, name.s, O_WRONLY | O_CLOEXEC);
    if (fd < 0 ||
        !journal_write_zeros(
            fd, last->end_offset, last->end_offset + found->cut_bytes) ||
        fdatasync(fd) != 0)
        status = journal_file_error(
            &journal->dir, name.s, "its torn end cannot be cleared", error);
    if (fd >= 0)
        close(fd);
    return status;
}

/* Zeros behind the last segment's end are of no use any more. */
static enum kv_status cut_last(struct journal *journal,
    const struct journal_found *found, struct kv_error *error)
{
    const struct journal_segment *last;
    struct journal_name name;
    enum kv_status status = KV_OK;
    int fd;

    if (found->segments.n == 0)
        return KV_OK;
    last = &found->segments.at[found->segments.n - 1];
    name = journal_segment_name(last->first_sequence);
    fd = openat(journal->dir.fd, name.s, O_WRONLY | O_CLOEXEC);
    if (fd < 0 || ftruncate(fd, (off_t)last->end_offset) != 0)
        status = journal_file_error(
            &journal->dir, name.s, "cannot be cut to its end", error);
    if (fd >= 0)
        close(fd);
    return status;
}

static enum kv_status open_notes(struct journal *journal,
    const struct journal_found *found, struct kv_error *error)
{
    struct journal_writer *writer = &journal->writer;

    writer->notes_end = found->notes_end;
    writer->notes_fd = openat(journal->dir.fd, JOURNAL_NOTES_FILE,
        O_RDWR | O_CREAT | O_CLOEXEC, 0600);
    if (writer->notes_fd < 0 ||
        ftruncate(writer->notes_fd, (off_t)found->notes_end) != 0 ||
        fsync(writer->notes_fd) != 0)
        return journal_file_error(
            &journal->dir, JOURNAL_NOTES_FILE, "cannot be opened", error);
    return KV_OK;
}

static enum kv_status begin_epoch(struct journal *journal,
    const struct journal_found *found, struct kv_error *error)
{
    struct journal_identity identity = {
        .epoch = found->identity.epoch + 1,
        .last_sequence = found->next_sequence - 1,
        .last_group = found->last_group,
        .notes_bytes = found->notes_end,
    };

    if (found->is_new && getrandom(journal->pool_id, sizeof journal->pool_id,
                             0) != sizeof journal->pool_id)
        return kv_error_set(error, KV_IO, "no random number for a new ledger");
    if (!found->is_new)
        memcpy(
            journal->pool_id, found->identity.pool_id, sizeof journal->pool_id);
    memcpy(identity.pool_id, journal->pool_id, sizeof identity.pool_id);
    journal->epoch = identity.epoch;
    journal->notes_seed = journal_notes_seed(journal->pool_id);
    return journal_identity_store(&journal->dir, &identity, error);
}

static enum kv_status apply(struct journal *journal,
    const struct journal_found *found, struct kv_error *error)
{
    enum kv_status status = clear_tail(journal, found, error);

    /* The identity comes before any other file, so that a directory with
     * anything in it has one. */
    if (status == KV_OK)
        status = begin_epoch(journal, found, error);
    if (status == KV_OK)
        status = cut_last(journal, found, error);
    if (status == KV_OK)
        status = open_notes(journal, found, error);
    if (status == KV_OK &&
        unlinkat(journal->dir.fd, JOURNAL_NEXT_FILE, 0) != 0 && errno != ENOENT)
        status = journal_file_error(
            &journal->dir, JOURNAL_NEXT_FILE, "cannot be removed", error);
    return status;
}

/* Takes over what was found. */
static void take_found(struct journal *journal, struct journal_found *found,
    struct journal_start *start)
{
    memcpy(start->pool_id, journal->pool_id, sizeof start->pool_id);
    start->epoch = journal->epoch;
    start->last_sequence = found->next_sequence - 1;
    start->oldest_sequence = journal_segments_oldest(&found->segments);
    start->clean = found->identity.clean;
    start->cut_bytes = found->cut_bytes;

    journal->segments = found->segments;
    found->segments = (struct journal_segments){0};
    journal->cursors = found->cursors;
    journal->queue.next_sequence = found->next_sequence;
    journal->queue.through = journal->durable_sequence =
        found->next_sequence - 1;
    journal->stored_bytes = journal_segments_bytes(&journal->segments);
    journal->writer.last_group = found->last_group;
    journal->n_note = found->n_note;
    journal->note_tree_size = found->note_tree_size;
    if (found->n_note > 0)
        memcpy(journal->note, found->note, found->n_note);
}

/* ---- a loss that is accepted */

/* How much of the ledger that is set aside could be read. */
static void describe_loss(const struct journal_found *found,
    const struct kv_error *error, struct journal_start *start)
{
    uint64_t last = found->identity.last_sequence;

    if (found->note_tree_size > last)
        last = found->note_tree_size;
    start->loss_accepted = true;
    memcpy(start->lost_pool_id, found->identity.pool_id,
        sizeof start->lost_pool_id);
    start->lost_first = found->next_sequence > 0 ? found->next_sequence : 1;
    start->lost_last = last >= start->lost_first ? last : 0;
    snprintf(start->lost_detail, sizeof start->lost_detail, "%.*s",
        (int)sizeof start->lost_detail - 1, error->text);
}

static size_t path_length(const char *path)
{
    size_t n = strlen(path);

    while (n > 1 && path[n - 1] == '/')
        n--;
    return n;
}

/* Renames the directory; what it was is still open. */
static enum kv_status set_aside(struct journal *journal,
    const struct journal_start *start, struct kv_error *error)
{
    char path[sizeof journal->dir.path + 64];
    const uint8_t *id = start->lost_pool_id;

    snprintf(path, sizeof path, "%.*s.lost-%02x%02x%02x%02x-%" PRId64,
        (int)path_length(journal->dir.path), journal->dir.path, id[0], id[1],
        id[2], id[3], journal->config.wall_ns() / KV_NS_PER_S);
    if (rename(journal->dir.path, path) == 0)
        return KV_OK;
    return kv_error_set(error, KV_IO, "%s: cannot be renamed to %s: %s",
        journal->dir.path, path, strerrordesc_np(errno));
}

/* ---- open */

static enum kv_status open_dir(
    struct journal *journal, const char *path, struct kv_error *error)
{
    enum kv_status status = journal_dir_make(&journal->dir, path, error);

    if (status != KV_OK)
        return status;
    status = journal_dir_lock(&journal->dir, &journal->lock_fd, error);
    if (status != KV_OK)
        journal_dir_close(&journal->dir);
    return status;
}

static void close_dir(struct journal *journal)
{
    if (journal->lock_fd >= 0)
        close(journal->lock_fd);
    journal->lock_fd = -1;
    journal_dir_close(&journal->dir);
}

static enum kv_status renew_tree(
    struct journal *journal, struct kv_error *error)
{
    merkle_fini(&journal->tree);
    if (merkle_init(&journal->tree) == KV_OK)
        return KV_OK;
    return kv_error_set(error, KV_NO_MEMORY, "no memory for the Merkle tree");
}

/* Reads the directory; where that shows damage which is accepted, there is a
 * new directory afterwards. The caller's callback sees nothing before it is
 * known that it sees the truth. */
static enum kv_status find(struct journal *journal,
    const struct journal_config *config, struct journal_found *found,
    struct journal_start *start, struct kv_error *error)
{
    struct journal_config quiet = *config;
    struct kv_error loss;
    enum kv_status status;

    if (!config->accept_loss) {
        status = recover(journal, config, found, error);
        if (status != KV_OK)
            journal_found_fini(found);
        return status;
    }
    quiet.on_receipt = NULL;
    status = recover(journal, &quiet, found, &loss);
    if (status == KV_DATA_LOSS) {
        describe_loss(found, &loss, start);
        journal_found_fini(found);
        status = set_aside(journal, start, error);
        if (status == KV_OK) {
            close_dir(journal);
            status = open_dir(journal, config->dir, error);
        }
    } else {
        if (status != KV_OK && error != NULL)
            *error = loss;
        journal_found_fini(found);
    }
    if (status == KV_OK)
        status = renew_tree(journal, error);
    if (status == KV_OK) {
        status = recover(journal, config, found, error);
        if (status != KV_OK)
            journal_found_fini(found);
    }
    return status;
}

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
    if (writer->buffer != NULL && writer->note_record != NULL)
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
    kv_free(writer->note_record);
    kv_free(writer->buffer);
}

static bool init_sync(struct journal *journal)
{
    if (pthread_mutex_init(&journal->mutex, NULL) != 0)
        return false;
    if (!journal_condition_init(&journal->work))
        goto destroy_mutex;
    if (!journal_condition_init(&journal->room_changed))
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
    struct journal_found found;
    enum kv_status status;

    if (merkle_init(&journal->tree) != KV_OK)
        return kv_error_set(
            error, KV_NO_MEMORY, "no memory for the Merkle tree");
    status = make_writer(journal, error);
    if (status != KV_OK)
        goto unmake_writer;
    status = open_dir(journal, config->dir, error);
    if (status != KV_OK)
        goto unmake_writer;
    status = find(journal, config, &found, start, error);
    if (status != KV_OK)
        goto close_dir;
    status = apply(journal, &found, error);
    if (status == KV_OK)
        take_found(journal, &found, start);
    journal_found_fini(&found);
    if (status == KV_OK)
        status = start_threads(journal, error);
    if (status == KV_OK)
        return KV_OK;
    journal_segments_fini(&journal->segments);

close_dir:
    close_dir(journal);
unmake_writer:
    unmake_writer(journal);
    merkle_fini(&journal->tree);
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
    struct journal_identity identity = {
        .epoch = journal->epoch,
        .clean = true,
        .last_sequence = journal->durable_sequence,
        .last_group = writer->last_group,
        .notes_bytes = writer->notes_end,
    };

    memcpy(identity.pool_id, journal->pool_id, sizeof identity.pool_id);
    if (journal_identity_store(&journal->dir, &identity, NULL) == KV_OK &&
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
    close_dir(journal);
    journal_segments_fini(&journal->segments);
    merkle_fini(&journal->tree);
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
    pthread_cond_signal(&journal->work);
    pthread_mutex_unlock(&journal->mutex);
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
    else if (journal->is_short || journal->notes_are_short ||
             journal->room.is_full)
        out->state = JOURNAL_FULL;
    if (out->state != JOURNAL_OK)
        memcpy(out->error, journal->error, sizeof out->error);
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
