#include "receipts/journal_recover.h"

#include <errno.h>
#include <inttypes.h>
#include <string.h>
#include <sys/stat.h>

#include "base/heap.h"
#include "receipts/checkpoint.h"
#include "receipts/journal_notes.h"
#include "receipts/journal_reader.h"
#include "receipts/journal_tree.h"

void journal_found_fini(struct journal_found *found)
{
    journal_segments_fini(&found->segments);
    kv_free(found->note);
    *found = (struct journal_found){0};
}

/* ---- segments */

static enum kv_status no_memory(struct kv_error *error)
{
    return kv_error_set(
        error, KV_NO_MEMORY, "no memory for what the journal has");
}

/* n_leaves are in the tree already. */
static bool add_leaf(struct merkle *tree, const struct journal_record *receipt,
    uint64_t *n_leaves)
{
    if (receipt->sequence <= *n_leaves)
        return true;
    ++*n_leaves;
    return merkle_reserve(tree) == KV_OK &&
           merkle_append(tree, receipt->payload, receipt->n_payload);
}

static bool visit_records(struct journal_found *found, struct merkle *tree,
    const struct journal_group *group, const struct journal_visitor *visitor)
{
    uint64_t n_leaves = merkle_size(tree);
    struct journal_record record;

    for (size_t at = 0; at < group->n_bytes; at += record.n_bytes) {
        journal_record_peek(group->bytes + at, &record);
        if (record.type == JOURNAL_CURSOR)
            journal_cursors_read(&found->cursors, &record);
        if (record.type != JOURNAL_RECEIPT)
            continue;
        if (!add_leaf(tree, &record, &n_leaves))
            return false;
        if (visitor->on_receipt != NULL)
            visitor->on_receipt(visitor->ctx, record.sequence, record.payload,
                record.n_payload);
    }
    return true;
}

static bool take_group(struct journal_found *found,
    const struct journal_reader *reader, const struct journal_group *group)
{
    struct journal_segments *segments = &found->segments;

    if (group->starts_segment) {
        const struct journal_segment segment = {
            .first_sequence = group->first_sequence,
            .next_sequence = group->first_sequence,
            .epoch = reader->epoch,
            .seed = reader->seed,
        };

        if (!journal_segments_reserve(segments))
            return false;
        journal_segments_add(segments, &segment);
    }
    return journal_segment_enter(&segments->at[segments->n - 1], group->bytes,
        group->n_bytes, group->offset);
}

static enum kv_status read_groups(struct journal_found *found,
    struct merkle *tree, struct journal_reader *reader,
    const struct journal_visitor *visitor, struct kv_error *error)
{
    struct journal_group group;
    enum kv_status status;

    while ((status = journal_reader_next(reader, &group, error)) == KV_OK) {
        if (!take_group(found, reader, &group) ||
            !visit_records(found, tree, &group, visitor))
            return no_memory(error);
        found->last_group_offset = group.offset;
    }
    found->next_sequence =
        reader->next_sequence > 0 ? reader->next_sequence : 1;
    found->last_group = reader->last_group > found->identity.last_group
                            ? reader->last_group
                            : found->identity.last_group;
    found->cut_bytes = reader->cut_bytes;
    return status == KV_NOT_FOUND ? KV_OK : status;
}

/* ---- checkpoints */

static bool keep_note(
    struct journal_found *found, const struct journal_record *record)
{
    unsigned char *note = kv_realloc(found->note, record->n_payload + 1);

    if (note == NULL)
        return false;
    memcpy(note, record->payload, record->n_payload);
    found->note = note;
    found->n_note = record->n_payload;
    found->note_tree_size = record->sequence;
    return true;
}

/* The newest is looked for at the end: older ones are for whoever verifies. */
static enum kv_status read_notes(struct journal_found *found,
    const struct journal_dir *dir, struct kv_error *error)
{
    struct journal_record record;
    struct journal_notes notes;
    enum kv_status status =
        journal_notes_init(&notes, dir, &found->identity, error);

    if (status != KV_OK)
        return status;
    status = journal_notes_skip(&notes, error);
    while (status == KV_OK &&
           (status = journal_notes_next(&notes, &record, error)) == KV_OK) {
        if (!keep_note(found, &record))
            status = no_memory(error);
        found->note_offset = notes.end_offset - record.n_bytes;
    }
    found->notes_end = notes.end_offset;
    journal_notes_fini(&notes);
    return status == KV_NOT_FOUND ? KV_OK : status;
}

/* What the newest checkpoint says; nothing if there is none. */
static enum kv_status read_anchor(const struct journal_found *found,
    const struct journal_dir *dir, struct journal_anchor *out,
    struct kv_error *error)
{
    struct checkpoint checkpoint;

    *out = (struct journal_anchor){.file = JOURNAL_NOTES_FILE};
    if (found->n_note == 0)
        return KV_OK;
    if (checkpoint_parse(found->note, found->n_note, &checkpoint, NULL) !=
            KV_OK ||
        checkpoint.tree_size != found->note_tree_size)
        return kv_error_set(error, KV_DATA_LOSS,
            "%s/%s: the newest note is not the checkpoint of %" PRIu64
            " receipts that it is kept as",
            dir->path, JOURNAL_NOTES_FILE, found->note_tree_size);
    out->size = checkpoint.tree_size;
    out->root = checkpoint.root;
    return KV_OK;
}

/* ---- all of it */

static bool is_there(const struct journal_dir *dir, const char *name)
{
    struct stat stat;

    return fstatat(dir->fd, name, &stat, 0) == 0 || errno != ENOENT;
}

/* There is no identity: is there nothing else either? */
static enum kv_status find_nothing(struct journal_found *found,
    const struct journal_dir *dir, struct kv_error *error)
{
    uint64_t *names;
    size_t n_names;
    enum kv_status status = journal_dir_list(dir, &names, &n_names, error);

    if (status != KV_OK)
        return status;
    kv_free(names);
    if (n_names > 0 || is_there(dir, JOURNAL_NOTES_FILE))
        return kv_error_set(error, KV_DATA_LOSS,
            "%s/%s: is missing, but there are receipts or checkpoints",
            dir->path, JOURNAL_IDENTITY_FILE);
    found->is_new = true;
    found->next_sequence = 1;
    return KV_OK;
}

/* The ledger is as long as what vouches for it, and has its root. */
static enum kv_status check_anchor(const struct journal_found *found,
    struct merkle *tree, const struct journal_dir *dir,
    const struct journal_anchor *anchor, struct kv_error *error)
{
    if (anchor->size >= found->next_sequence)
        return kv_error_set(error, KV_DATA_LOSS,
            "%s/%s: speaks of %" PRIu64
            " receipts, but the ledger ends with number %" PRIu64,
            dir->path, anchor->file, anchor->size, found->next_sequence - 1);
    return journal_tree_check(tree, dir, anchor, error);
}

/* With the tree opened. */
static enum kv_status read_all(struct journal_found *found, struct merkle *tree,
    struct journal_reader *reader, const struct journal_visitor *visitor,
    const struct journal_anchor anchors[2], struct kv_error *error)
{
    enum kv_status status = read_groups(found, tree, reader, visitor, error);

    for (size_t i = 0; i < 2 && status == KV_OK; i++)
        status = check_anchor(found, tree, reader->dir, &anchors[i], error);
    if (status != KV_OK)
        merkle_fini(tree);
    return status;
}

static enum kv_status recover_from(struct journal_found *found,
    struct merkle *tree, struct journal_reader *reader,
    const struct journal_visitor *visitor, struct kv_error *error)
{
    const struct journal_identity *identity = &reader->identity;
    struct journal_anchor anchors[2] = {
        [1] = {.size = identity->last_sequence, .file = JOURNAL_IDENTITY_FILE}};
    enum kv_status status;
    size_t newest;

    memcpy(anchors[1].root.bytes, identity->root, sizeof identity->root);
    found->identity = *identity;
    status = read_notes(found, reader->dir, error);
    if (status == KV_OK)
        status = read_anchor(found, reader->dir, &anchors[0], error);
    newest = anchors[1].size > anchors[0].size;
    if (status == KV_OK)
        status = journal_tree_open(tree, reader->dir, &anchors[newest],
            reader->n_names > 0 ? reader->names[0] : 1, error);
    if (status == KV_OK)
        status = read_all(found, tree, reader, visitor, anchors, error);
    return status;
}

enum kv_status journal_recover(struct journal_found *out, struct merkle *tree,
    const struct journal_dir *dir, const struct journal_visitor *visitor,
    struct kv_error *error)
{
    const struct journal_anchor none = {0};
    struct journal_reader reader;
    enum kv_status status;

    *out = (struct journal_found){0};
    status = journal_reader_init(&reader, dir, error);
    if (status == KV_NOT_FOUND) {
        status = find_nothing(out, dir, error);
        if (status == KV_OK)
            status = journal_tree_open(tree, dir, &none, 1, error);
        return status;
    }
    if (status != KV_OK)
        return status;
    status = recover_from(out, tree, &reader, visitor, error);
    journal_reader_fini(&reader);
    if (status != KV_OK && status != KV_DATA_LOSS)
        journal_found_fini(out);
    return status;
}
