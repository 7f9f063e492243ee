#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stdio.h>
#include <string.h>
#include <sys/random.h>
#include <unistd.h>

#include "base/clock.h"
#include "receipts/journal_core.h"
#include "receipts/journal_recover.h"

/* The start. First everything is read and judged, without changing a byte. Then
 * what was found is made durable, as whoever wrote it may have been killed
 * before his sync returned, or have seen it fail; and a torn tail is
 * overwritten with zeros. Then the identity says the new epoch, and what is
 * there. Whatever part of that a crash leaves, the next start finds a ledger
 * that it understands. */

enum kv_status journal_store_identity(struct journal *journal,
    uint64_t last_sequence, bool clean, struct kv_error *error)
{
    struct journal_identity identity = {
        .epoch = journal->epoch,
        .clean = clean,
        .last_sequence = last_sequence,
        .last_group = journal->writer.last_group,
        .notes_bytes = journal->writer.notes_end,
    };
    struct merkle_hash root;

    if (!merkle_root(&journal->tree, last_sequence, &root)) {
        errno = merkle_damage(&journal->tree) == KV_OK ? ENOMEM : EIO;
        return journal_file_error(
            &journal->dir, JOURNAL_TREE_FILE, "has no root", error);
    }
    memcpy(identity.root, root.bytes, sizeof identity.root);
    memcpy(identity.pool_id, journal->pool_id, sizeof identity.pool_id);
    return journal_identity_store(&journal->dir, &identity, error);
}

/* ---- what recovery changes */

/* Only the last group of the last segment can be unsynced; the first one of a
 * segment comes with its header. */
static enum kv_status settle_segment(struct journal *journal,
    const struct journal_found *found, struct kv_error *error)
{
    const struct journal_segment *last;
    struct journal_name name;
    enum kv_status status = KV_OK;
    uint64_t offset = found->last_group_offset;
    int fd;

    if (found->segments.n == 0)
        return KV_OK;
    last = &found->segments.at[found->segments.n - 1];
    name = journal_segment_name(last->first_sequence);
    fd = openat(journal->dir.fd, name.s, O_RDWR | O_CLOEXEC);
    if (fd < 0 ||
        !journal_write_zeros(
            fd, last->end_offset, last->end_offset + found->cut_bytes) ||
        !journal_settle(
            fd, offset > JOURNAL_HEADER_BYTES ? offset : 0, last->end_offset))
        status = journal_file_error(
            &journal->dir, name.s, "its end cannot be made durable", error);
    if (fd >= 0)
        close(fd);
    return status;
}

static enum kv_status settle_notes(struct journal *journal,
    const struct journal_found *found, struct kv_error *error)
{
    enum kv_status status = KV_OK;
    int fd;

    if (found->notes_end == 0)
        return KV_OK;
    fd = openat(journal->dir.fd, JOURNAL_NOTES_FILE, O_RDWR | O_CLOEXEC);
    if (fd < 0 || !journal_settle(fd, found->note_offset, found->notes_end))
        status = journal_file_error(&journal->dir, JOURNAL_NOTES_FILE,
            "its end cannot be made durable", error);
    if (fd >= 0)
        close(fd);
    return status;
}

/* Names too. */
static enum kv_status settle(struct journal *journal,
    const struct journal_found *found, struct kv_error *error)
{
    enum kv_status status = settle_segment(journal, found, error);

    if (status == KV_OK)
        status = settle_notes(journal, found, error);
    if (status == KV_OK && fsync(journal->dir.fd) != 0)
        status =
            journal_file_error(&journal->dir, ".", "cannot be synced", error);
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
    if (merkle_sync(&journal->tree) != KV_OK)
        return journal_file_error(
            &journal->dir, JOURNAL_TREE_FILE, "cannot be written", error);
    if (!found->is_new)
        memcpy(
            journal->pool_id, found->identity.pool_id, sizeof journal->pool_id);
    else if (getrandom(journal->pool_id, sizeof journal->pool_id, 0) !=
             sizeof journal->pool_id)
        return kv_error_set(error, KV_IO, "no random number for a new ledger");
    journal->notes_seed = journal_notes_seed(journal->pool_id);
    journal->epoch = found->identity.epoch + 1;
    journal->writer.last_group = found->last_group;
    journal->writer.notes_end = found->notes_end;
    journal->writer.anchored_sequence = found->next_sequence - 1;
    return journal_store_identity(
        journal, found->next_sequence - 1, false, error);
}

static enum kv_status apply(struct journal *journal,
    const struct journal_found *found, struct kv_error *error)
{
    enum kv_status status = settle(journal, found, error);

    /* The identity comes before segments and checkpoints, so that a directory
     * that has any of them has one. */
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

/* ---- all of it */

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

/* Reads the directory, and makes the tree. Where that fails nothing is to be
 * finished. */
static enum kv_status recover(struct journal *journal,
    const struct journal_visitor *visitor, struct journal_found *found,
    struct kv_error *error)
{
    enum kv_status status =
        journal_recover(found, &journal->tree, &journal->dir, visitor, error);

    if (status != KV_OK)
        journal_found_fini(found);
    return status;
}

/* The same where damage is accepted: then there is a new directory afterwards.
 * The caller's callback sees nothing before it is known that it sees the truth.
 */
static enum kv_status recover_or_renew(struct journal *journal,
    const struct journal_config *config, struct journal_found *found,
    struct journal_start *start, struct kv_error *error)
{
    const struct journal_visitor visitor = {
        config->on_receipt, config->receipt_ctx};
    const struct journal_visitor nobody = {0};
    struct kv_error loss = {.text = ""};
    enum kv_status status =
        journal_recover(found, &journal->tree, &journal->dir, &nobody, &loss);

    if (status == KV_DATA_LOSS) {
        describe_loss(found, &loss, start);
        journal_found_fini(found);
        status = set_aside(journal, start, error);
        if (status != KV_OK)
            return status;
        close_dir(journal);
        status = open_dir(journal, config->dir, error);
        return status == KV_OK ? recover(journal, &nobody, found, error)
                               : status;
    }
    if (status != KV_OK)
        return kv_error_set(error, status, "%s", loss.text);
    if (visitor.on_receipt == NULL)
        return KV_OK;
    journal_found_fini(found);
    merkle_fini(&journal->tree);
    return recover(journal, &visitor, found, error);
}

static enum kv_status recover_or_refuse(struct journal *journal,
    const struct journal_config *config, struct journal_found *found,
    struct kv_error *error)
{
    const struct journal_visitor visitor = {
        config->on_receipt, config->receipt_ctx};
    struct kv_error loss = {.text = ""};
    enum kv_status status = recover(journal, &visitor, found, &loss);

    if (status == KV_DATA_LOSS)
        return kv_error_set(error, status,
            "%s; --accept-loss sets this ledger aside and begins a new one",
            loss.text);
    return status == KV_OK ? KV_OK
                           : kv_error_set(error, status, "%s", loss.text);
}

enum kv_status journal_begin(struct journal *journal,
    const struct journal_config *config, struct journal_start *start,
    struct kv_error *error)
{
    struct journal_found found;
    enum kv_status status = open_dir(journal, config->dir, error);

    if (status != KV_OK)
        return status;
    status = config->accept_loss
                 ? recover_or_renew(journal, config, &found, start, error)
                 : recover_or_refuse(journal, config, &found, error);
    if (status != KV_OK)
        goto close_dir;
    status = apply(journal, &found, error);
    if (status == KV_OK)
        take_found(journal, &found, start);
    journal_found_fini(&found);
    if (status == KV_OK)
        return KV_OK;
    merkle_fini(&journal->tree);
close_dir:
    close_dir(journal);
    return status;
}

void journal_end(struct journal *journal)
{
    journal_segments_fini(&journal->segments);
    merkle_fini(&journal->tree);
    close_dir(journal);
}
