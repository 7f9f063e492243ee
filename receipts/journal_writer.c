/* The thread that makes receipts durable.
 *
 * A group is copied into one buffer, written at once and synced; then its
 * receipts enter the tree; then they are durable. With a new segment the group
 * goes behind the header in the file of zeros, and the file gets its name once
 * that is synced: a segment that can be seen has a header and a whole group.
 * All cursors are in that group, so that an older segment may go. */
#include <assert.h>
#include <errno.h>
#include <stdio.h>
#include <string.h>
#include <sys/random.h>
#include <unistd.h>

#include "base/clock.h"
#include "base/heap.h"
#include "base/thread.h"
#include "receipts/journal_core.h"

#define RIDE_NS KV_NS_PER_S /* what rides along waits so long, at most */
#define NEVER INT64_MAX

/* ---- a group */

/* What a group will have, and the place that its walk has come to. */
struct group {
    struct ring_chunk *chunk, *last_chunk;
    uint64_t first_sequence, through; /* receipts that may be in it */
    uint32_t n_receipts, n_records;
    bool with_cursors;
    bool starts_segment;
    size_t n_bytes; /* of its records */
};

static const unsigned char *find_receipt(
    struct group *group, uint64_t sequence, size_t *n_bytes)
{
    while (group->chunk != group->last_chunk &&
           sequence == group->chunk->next_written->first_sequence)
        group->chunk = group->chunk->next_written;
    return ring_chunk_receipt(group->chunk, sequence, n_bytes);
}

/* How many receipts it takes: as they come, up to the bounds, at least one. */
static void choose_receipts(const struct journal *journal, struct group *group)
{
    struct group walk = *group;
    size_t n_total = 0, n_bytes;

    for (uint64_t sequence = group->first_sequence;
         sequence <= group->through &&
         group->n_receipts < journal->config.group_records;
         sequence++) {
        find_receipt(&walk, sequence, &n_bytes);
        n_total += journal_record_bytes(n_bytes);
        if (n_total > journal->config.group_bytes && group->n_receipts > 0)
            break;
        group->n_bytes = n_total;
        group->n_receipts++;
    }
    group->n_bytes += journal_record_bytes(JOURNAL_COMMIT_BYTES);
}

static bool takes_cursor(
    const struct group *group, const struct journal_cursor *cursor)
{
    return (group->with_cursors && cursor->is_new) ||
           (group->starts_segment && cursor->is_live);
}

static size_t cursor_bytes(
    const struct journal_cursors *cursors, const struct group *group)
{
    unsigned char payload[JOURNAL_CURSOR_PAYLOAD_BYTES];
    size_t n = 0;

    for (size_t i = 0; i < cursors->n; i++)
        if (takes_cursor(group, &cursors->at[i]))
            n += journal_record_bytes(
                journal_cursor_payload(&cursors->at[i], payload));
    return n;
}

static size_t put_record(const struct journal *journal, unsigned char *at,
    enum journal_record_type type, uint64_t sequence,
    const unsigned char *payload, size_t n_payload)
{
    const struct journal_record record = {
        .sequence = sequence,
        .epoch = journal->epoch,
        .flags = (uint16_t)(journal->writer.last_group + 1),
        .type = (uint8_t)type,
        .payload = payload,
        .n_payload = n_payload,
    };

    return journal_record_write(at, &record, journal->writer.seed);
}

static unsigned char *put_cursors(
    const struct journal *journal, struct group *group, unsigned char *at)
{
    const struct journal_cursors *cursors = &journal->writer.cursors;
    unsigned char payload[JOURNAL_CURSOR_PAYLOAD_BYTES];

    for (size_t i = 0; i < cursors->n; i++) {
        if (!takes_cursor(group, &cursors->at[i]))
            continue;
        at += put_record(journal, at, JOURNAL_CURSOR, cursors->at[i].sequence,
            payload, journal_cursor_payload(&cursors->at[i], payload));
        group->n_records++;
    }
    return at;
}

static void put_group(
    const struct journal *journal, struct group *group, unsigned char *at)
{
    const unsigned char *begin = at;
    unsigned char payload[JOURNAL_COMMIT_BYTES];
    struct journal_commit commit;

    at = put_cursors(journal, group, at);
    for (uint32_t i = 0; i < group->n_receipts; i++) {
        size_t n_bytes;
        const unsigned char *receipt =
            find_receipt(group, group->first_sequence + i, &n_bytes);

        at += put_record(journal, at, JOURNAL_RECEIPT,
            group->first_sequence + i, receipt, n_bytes);
    }
    group->n_records += group->n_receipts;
    commit = (struct journal_commit){
        .group = journal->writer.last_group + 1,
        .first_sequence = group->first_sequence,
        .n_receipts = group->n_receipts,
        .n_records = group->n_records,
        .time_unix_ns = journal->config.wall_ns(),
    };
    journal_commit_write(payload, &commit);
    at += put_record(journal, at, JOURNAL_COMMIT,
        group->first_sequence + group->n_receipts - 1, payload, sizeof payload);
    group->n_bytes = (size_t)(at - begin);
}

/* ---- the disk */

/* A call has failed with errno. A full disk is waited for, for a second, unless
 * we are to stop; anything else is the end. false: it is not to be tried again.
 */
static bool wait_for_disk(
    struct journal *journal, const char *name, const char *what)
{
    int number = errno;
    bool stop;

    if (!journal_is_full(number)) {
        journal_fail(journal, name, what, number);
        return false;
    }
    pthread_mutex_lock(&journal->mutex);
    journal->is_short = true;
    journal_note_error(journal, name, what, number);
    stop = journal->stop;
    pthread_mutex_unlock(&journal->mutex);
    journal_wake(journal);
    if (stop)
        return false;
    pthread_mutex_lock(&journal->mutex);
    kv_condition_wait_until(
        &journal->work, &journal->mutex, kv_clock_mono_ns() + KV_NS_PER_S);
    pthread_mutex_unlock(&journal->mutex);
    return true;
}

static bool write_bytes(struct journal *journal, int fd, const char *name,
    const void *bytes, size_t n, uint64_t offset)
{
    while (!journal_write(fd, bytes, n, offset))
        if (!wait_for_disk(journal, name, "cannot be written"))
            return false;
    return true;
}

static bool sync_file(struct journal *journal, int fd, const char *name)
{
    if (fdatasync(fd) == 0)
        return true;
    journal_fail(journal, name, "cannot be synced", errno);
    return false;
}

/* Waits for the next segment; false: there will be none. */
static bool take_room(struct journal *journal, struct journal_room *out)
{
    struct journal_room *room = &journal->room;
    bool is_ready;

    pthread_mutex_lock(&journal->mutex);
    while (!room->is_ready && !journal->is_failed &&
           !(journal->stop && room->is_full))
        pthread_cond_wait(&journal->room_changed, &journal->mutex);
    is_ready = room->is_ready && !journal->is_failed;
    *out = *room;
    pthread_mutex_unlock(&journal->mutex);
    return is_ready;
}

/* The file in use before was the last one of the ledger: it is cut to its end,
 * which may well be lost in a crash. */
static void leave_segment(struct journal *journal)
{
    struct journal_writer *writer = &journal->writer;

    if (writer->fd < 0)
        return;
    if (ftruncate(writer->fd, (off_t)writer->offset) != 0)
        journal_fail(journal, writer->name.s, "cannot be cut", errno);
    close(writer->fd);
    writer->fd = -1;
}

/* The segment has its name: from now on it is the one in use. */
static void enter_segment(struct journal *journal,
    const struct journal_room *room, const struct journal_header *header)
{
    struct journal_segments *segments = &journal->segments;
    struct journal_segment segment = room->segment;

    leave_segment(journal);
    journal->writer.fd = room->fd;
    journal->writer.name = journal_segment_name(header->first_sequence);
    segment.first_sequence = segment.next_sequence = header->first_sequence;
    segment.epoch = header->epoch;
    segment.seed = journal->writer.seed;
    pthread_mutex_lock(&journal->mutex);
    /* One without receipts has just lost its name to this one. */
    if (segments->n > 0 &&
        segments->at[segments->n - 1].first_sequence == header->first_sequence)
        kv_free(segments->at[--segments->n].marks);
    journal_segments_add(segments, &segment);
    journal->room.is_ready = false;
    pthread_cond_broadcast(&journal->room_changed);
    pthread_mutex_unlock(&journal->mutex);
}

static bool name_segment(struct journal *journal, const char *name)
{
    int dir = journal->dir.fd;

    while (renameat(dir, JOURNAL_NEXT_FILE, dir, name) != 0)
        if (!wait_for_disk(journal, name, "cannot get its name"))
            return false;
    if (fsync(dir) == 0)
        return true;
    journal_fail(journal, name, "its name cannot be synced", errno);
    return false;
}

static bool start_segment(struct journal *journal, struct group *group)
{
    struct journal_header header = {
        .first_sequence = group->first_sequence,
        .first_group = journal->writer.last_group + 1,
        .reserved_bytes = journal->segment_bytes,
        .epoch = journal->epoch,
    };
    struct journal_name name = journal_segment_name(group->first_sequence);
    unsigned char *buffer = journal->writer.buffer;
    struct journal_room room;

    if (!take_room(journal, &room))
        return false;
    memcpy(header.pool_id, journal->pool_id, sizeof header.pool_id);
    if (getrandom(&header.id, sizeof header.id, 0) != sizeof header.id) {
        journal_fail(journal, name.s, "cannot get a random number", errno);
        return false;
    }
    journal->writer.seed = journal_seed(header.id);
    group->starts_segment = true;
    journal_header_write(buffer, &header);
    put_group(journal, group, buffer + JOURNAL_HEADER_BYTES);
    if (!write_bytes(journal, room.fd, JOURNAL_NEXT_FILE, buffer,
            JOURNAL_HEADER_BYTES + group->n_bytes, 0) ||
        !sync_file(journal, room.fd, JOURNAL_NEXT_FILE))
        return false;
    if (!name_segment(journal, name.s))
        return false;
    enter_segment(journal, &room, &header);
    journal->writer.offset = JOURNAL_HEADER_BYTES;
    return true;
}

static bool continue_segment(struct journal *journal, struct group *group)
{
    struct journal_writer *writer = &journal->writer;
    unsigned char *at = writer->buffer + JOURNAL_HEADER_BYTES;

    put_group(journal, group, at);
    return write_bytes(journal, writer->fd, writer->name.s, at, group->n_bytes,
               writer->offset) &&
           sync_file(journal, writer->fd, writer->name.s);
}

static bool enter_tree(struct journal *journal, const struct group *group)
{
    const unsigned char *at = journal->writer.buffer + JOURNAL_HEADER_BYTES;
    struct journal_record record;

    for (size_t n = 0; n < group->n_bytes; n += record.n_bytes) {
        journal_record_peek(at + n, &record);
        if (record.type != JOURNAL_RECEIPT)
            continue;
        if (merkle_reserve(&journal->tree) != KV_OK ||
            !merkle_append(&journal->tree, record.payload, record.n_payload)) {
            journal_fail(
                journal, JOURNAL_TREE_FILE, "cannot be hashed into", ENOMEM);
            return false;
        }
    }
    return true;
}

/* The mutex is held. */
static void publish(struct journal *journal, const struct group *group)
{
    struct journal_writer *writer = &journal->writer;
    struct journal_queue *queue = &journal->queue;
    struct journal_segments *segments = &journal->segments;
    bool is_entered;

    is_entered = journal_segment_enter(&segments->at[segments->n - 1],
        writer->buffer + JOURNAL_HEADER_BYTES, group->n_bytes, writer->offset);
    assert(is_entered); /* marks were reserved with the room */
    (void)is_entered;
    writer->offset += group->n_bytes;
    writer->last_group++;
    queue->next_sequence = group->first_sequence + group->n_receipts;
    journal->durable_sequence = queue->next_sequence - 1;
    journal->is_short = false;
    journal->stored_bytes = journal_segments_bytes(segments);
    if (group->with_cursors || group->starts_segment)
        journal_cursors_written(&journal->cursors, &writer->cursors);
    while (queue->head != queue->tail &&
           queue->head->next_written->first_sequence <= queue->next_sequence) {
        struct ring_chunk *chunk = queue->head;

        queue->head = chunk->next_written;
        ring_chunk_release(chunk);
    }
}

/* The mutex is held, and in between it is not. */
static bool write_group(struct journal *journal, bool with_cursors)
{
    struct journal_writer *writer = &journal->writer;
    struct group group = {
        .chunk = journal->queue.head,
        .last_chunk = journal->queue.tail,
        .first_sequence = journal->queue.next_sequence,
        .through = journal->queue.through,
        .with_cursors = with_cursors,
    };
    bool is_written;

    writer->cursors = journal->cursors;
    pthread_mutex_unlock(&journal->mutex);
    choose_receipts(journal, &group);
    if (writer->fd < 0 || writer->offset + group.n_bytes +
                                  cursor_bytes(&writer->cursors, &group) >
                              journal->segment_bytes)
        is_written = start_segment(journal, &group);
    else
        is_written = continue_segment(journal, &group);
    is_written = is_written && enter_tree(journal, &group);
    pthread_mutex_lock(&journal->mutex);
    if (!is_written)
        return false;
    publish(journal, &group);
    writer->anchor_is_due |= group.starts_segment;
    pthread_mutex_unlock(&journal->mutex);
    journal_wake(journal);
    pthread_mutex_lock(&journal->mutex);
    return true;
}

/* ---- what is kept beside the segments. A full disk must not keep receipts
 * waiting for it: it is tried again a second later. */

/* errno says why something was not kept: a full disk, or the end. */
static void keep_later(struct journal *journal, const char *name)
{
    int number = errno;

    if (!journal_is_full(number)) {
        journal_fail(journal, name, "cannot be written", number);
        return;
    }
    pthread_mutex_lock(&journal->mutex);
    journal_note_error(journal, name, "cannot be written", number);
    pthread_mutex_unlock(&journal->mutex);
}

/* The tree's file first: a start finds in it what the others vouch for. */
static bool append_note(struct journal *journal, size_t n)
{
    struct journal_writer *writer = &journal->writer;

    if (merkle_sync(&journal->tree) != KV_OK) {
        keep_later(journal, JOURNAL_TREE_FILE);
        return false;
    }
    if (!journal_write(
            writer->notes_fd, writer->note_record, n, writer->notes_end)) {
        keep_later(journal, JOURNAL_NOTES_FILE);
        return false;
    }
    if (!sync_file(journal, writer->notes_fd, JOURNAL_NOTES_FILE))
        return false;
    writer->notes_end += n;
    return true;
}

static bool store_anchor(struct journal *journal, uint64_t sequence)
{
    if (merkle_sync(&journal->tree) != KV_OK) {
        keep_later(journal, JOURNAL_TREE_FILE);
        return false;
    }
    if (journal_store_identity(journal, sequence, false, NULL) != KV_OK) {
        keep_later(journal, JOURNAL_IDENTITY_FILE);
        return false;
    }
    journal->writer.anchored_sequence = sequence;
    return true;
}

/* Whoever waits for room hears of it, and of its end: while there is none
 * nothing else would wake him. The mutex is held, and in between it is not. */
static void note_keeping(struct journal *journal, bool is_short)
{
    const bool is_news = is_short || journal->keeping_is_short;

    journal->keeping_is_short = is_short;
    if (!is_news)
        return;
    pthread_mutex_unlock(&journal->mutex);
    journal_wake(journal);
    pthread_mutex_lock(&journal->mutex);
}

/* The mutex is held, and in between it is not. */
static void write_anchor(struct journal *journal)
{
    uint64_t sequence = journal->durable_sequence;
    bool is_written;

    pthread_mutex_unlock(&journal->mutex);
    is_written = store_anchor(journal, sequence);
    pthread_mutex_lock(&journal->mutex);
    journal->writer.anchor_is_due = !is_written;
    journal->writer.retention_due_ns = 0; /* more may go now */
    note_keeping(journal, !is_written);
}

/* The mutex is held, and in between it is not. */
static void write_note(struct journal *journal)
{
    const struct journal_record record = {
        .sequence = journal->note_tree_size,
        .epoch = journal->epoch,
        .type = JOURNAL_CHECKPOINT,
        .payload = journal->note,
        .n_payload = journal->n_note,
    };
    size_t n = journal_record_write(
        journal->writer.note_record, &record, journal->notes_seed);
    bool is_written;

    journal->note_is_new = false;
    pthread_mutex_unlock(&journal->mutex);
    is_written = append_note(journal, n);
    pthread_mutex_lock(&journal->mutex);
    journal->note_is_new |= !is_written;
    note_keeping(journal, !is_written);
}

/* ---- retention */

/* Bytes of closed segments that are to go: by their age, from the oldest on, or
 * because of how many there are. */
static uint64_t count_overdue(const struct journal *journal)
{
    const struct journal_segments *segments = &journal->segments;
    const struct journal_config *config = &journal->config;
    uint64_t n_closed = 0, n_aged = 0, n_beyond = 0;
    int64_t now_ns = config->wall_ns();

    for (size_t i = 0; i + 1 < segments->n; i++) {
        const struct journal_segment *segment = &segments->at[i];

        if (config->retain_ns > 0 && n_aged == n_closed &&
            now_ns - segment->last_unix_ns > config->retain_ns)
            n_aged += segment->end_offset;
        n_closed += segment->end_offset;
    }
    if (config->retain_bytes > 0 && n_closed > config->retain_bytes)
        n_beyond = n_closed - config->retain_bytes;
    return n_aged > n_beyond ? n_aged : n_beyond;
}

static bool is_first_overdue(const struct journal *journal)
{
    const struct journal_segment *first = journal->segments.at;
    uint64_t n_overdue;

    if (journal->segments.n < 2 ||
        journal->writer.anchored_sequence < first->next_sequence - 1)
        return false;
    n_overdue = count_overdue(journal);
    if (n_overdue == 0)
        return false;
    return journal_cursors_least(&journal->cursors) >=
               first->next_sequence - 1 ||
           n_overdue > journal->config.cursor_hold_bytes;
}

/* Oldest first, each durably gone before the next goes: there is never a hole.
 * The mutex is held, and in between it is not. */
static void drop_overdue(struct journal *journal)
{
    while (!journal->is_failed && is_first_overdue(journal)) {
        struct journal_name name =
            journal_segment_name(journal->segments.at[0].first_sequence);

        journal_segments_drop_first(&journal->segments);
        journal->stored_bytes = journal_segments_bytes(&journal->segments);
        pthread_mutex_unlock(&journal->mutex);
        if (unlinkat(journal->dir.fd, name.s, 0) != 0 ||
            fsync(journal->dir.fd) != 0)
            journal_fail(journal, name.s, "cannot be removed", errno);
        pthread_mutex_lock(&journal->mutex);
    }
}

/* ---- the thread */

static bool has_receipts(const struct journal *journal)
{
    return journal->queue.through >= journal->queue.next_sequence;
}

static bool has_note(const struct journal *journal)
{
    return journal->note_is_new &&
           journal->note_tree_size <= journal->durable_sequence;
}

static bool has_to_keep(const struct journal *journal)
{
    return has_note(journal) || journal->writer.anchor_is_due;
}

/* Checkpoints come at most once a second. What a closed segment asks for waits
 * for nothing but a full disk. */
static bool is_time_to_keep(const struct journal *journal, int64_t now_ns)
{
    const struct journal_writer *writer = &journal->writer;

    return has_to_keep(journal) &&
           (now_ns >= writer->keep_due_ns ||
               (writer->anchor_is_due && !journal->keeping_is_short));
}

static void keep(struct journal *journal, int64_t now_ns)
{
    struct journal_writer *writer = &journal->writer;

    if (writer->anchor_is_due)
        write_anchor(journal);
    if (has_note(journal) && !writer->anchor_is_due &&
        (now_ns >= writer->keep_due_ns || journal->stop)) {
        write_note(journal);
        writer->keep_due_ns = now_ns + RIDE_NS;
    }
    if (journal->keeping_is_short)
        writer->keep_due_ns = now_ns + RIDE_NS;
}

static bool may_retain(const struct journal *journal)
{
    return journal->segments.n > 1 &&
           (journal->config.retain_ns > 0 || journal->config.retain_bytes > 0);
}

static int64_t earlier(int64_t a, int64_t b)
{
    return a < b ? a : b;
}

/* The time of what comes next by itself. */
static int64_t next_due(const struct journal *journal)
{
    const struct journal_writer *writer = &journal->writer;
    int64_t due_ns = NEVER;

    if (journal->cursors.n_new > 0)
        due_ns = earlier(due_ns, writer->cursors_due_ns);
    if (has_to_keep(journal))
        due_ns = earlier(due_ns, writer->keep_due_ns);
    if (may_retain(journal))
        due_ns = earlier(due_ns, writer->retention_due_ns);
    return due_ns;
}

/* One turn of work; false: there was none. */
static bool work(struct journal *journal)
{
    struct journal_writer *writer = &journal->writer;
    int64_t now_ns = kv_clock_mono_ns();
    bool with_cursors = journal->cursors.n_new > 0 &&
                        (journal->stop || now_ns >= writer->cursors_due_ns);

    if (may_retain(journal) && now_ns >= writer->retention_due_ns) {
        writer->retention_due_ns = now_ns + RIDE_NS;
        drop_overdue(journal);
    }
    if (is_time_to_keep(journal, now_ns)) {
        keep(journal, now_ns);
        return true;
    }
    if (has_receipts(journal) || with_cursors) {
        if (with_cursors)
            writer->cursors_due_ns = now_ns + RIDE_NS;
        if (write_group(journal, with_cursors))
            return true;
        journal->stop = true; /* failed, or stopped on a full disk */
        return false;
    }
    if (has_to_keep(journal) && journal->stop) {
        keep(journal, now_ns);
        return !journal->keeping_is_short;
    }
    return false;
}

void *journal_writer_main(void *arg)
{
    struct journal *journal = arg;

    pthread_mutex_lock(&journal->mutex);
    while (!journal->is_failed) {
        if (work(journal))
            continue;
        if (journal->stop || journal->is_failed)
            break;
        kv_condition_wait_until(
            &journal->work, &journal->mutex, next_due(journal));
    }
    pthread_mutex_unlock(&journal->mutex);
    return NULL;
}
