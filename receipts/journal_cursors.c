#include "receipts/journal_cursors.h"

#include <stdio.h>
#include <string.h>

static struct journal_cursor *find(
    const struct journal_cursors *cursors, const char *name)
{
    for (size_t i = 0; i < cursors->n; i++)
        if (strcmp(cursors->at[i].name, name) == 0)
            return (struct journal_cursor *)&cursors->at[i];
    return NULL;
}

static size_t count_live(const struct journal_cursors *cursors)
{
    size_t n = 0;

    for (size_t i = 0; i < cursors->n; i++)
        n += cursors->at[i].is_live;
    return n;
}

static void mark_new(
    struct journal_cursors *cursors, struct journal_cursor *cursor)
{
    cursors->n_new += !cursor->is_new;
    cursor->is_new = true;
}

static struct journal_cursor *add(
    struct journal_cursors *cursors, const char *name)
{
    struct journal_cursor *cursor;

    if (count_live(cursors) == JOURNAL_MAX_CURSORS ||
        cursors->n == JOURNAL_CURSOR_PLACES)
        return NULL;
    cursor = &cursors->at[cursors->n++];
    *cursor = (struct journal_cursor){0};
    snprintf(cursor->name, sizeof cursor->name, "%s", name);
    return cursor;
}

enum kv_status journal_cursors_set(
    struct journal_cursors *cursors, const char *name, uint64_t sequence)
{
    size_t n = strlen(name);
    struct journal_cursor *cursor;

    if (n == 0 || n > JOURNAL_NAME_BYTES)
        return KV_INVALID;
    cursor = find(cursors, name);
    if (cursor != NULL && cursor->is_live && cursor->sequence == sequence)
        return KV_OK;
    if (cursor != NULL && !cursor->is_live &&
        count_live(cursors) == JOURNAL_MAX_CURSORS)
        return KV_LIMIT;
    if (cursor == NULL)
        cursor = add(cursors, name);
    if (cursor == NULL)
        return KV_LIMIT;
    cursor->is_live = true;
    cursor->sequence = sequence;
    mark_new(cursors, cursor);
    return KV_OK;
}

void journal_cursors_drop(struct journal_cursors *cursors, const char *name)
{
    struct journal_cursor *cursor = find(cursors, name);

    if (cursor == NULL || !cursor->is_live)
        return;
    cursor->is_live = false;
    mark_new(cursors, cursor);
}

bool journal_cursors_get(
    const struct journal_cursors *cursors, const char *name, uint64_t *sequence)
{
    const struct journal_cursor *cursor = find(cursors, name);

    if (cursor == NULL || !cursor->is_live)
        return false;
    *sequence = cursor->sequence;
    return true;
}

static void forget(
    struct journal_cursors *cursors, struct journal_cursor *cursor)
{
    *cursor = cursors->at[--cursors->n];
}

void journal_cursors_read(
    struct journal_cursors *cursors, const struct journal_record *record)
{
    size_t n_name = record->n_payload - 1;
    char name[JOURNAL_NAME_BYTES + 1];
    struct journal_cursor *cursor;

    if (record->n_payload < 2 || n_name > JOURNAL_NAME_BYTES)
        return;
    memcpy(name, record->payload + 1, n_name);
    name[n_name] = '\0';
    cursor = find(cursors, name);
    if (record->payload[0] == 0) {
        if (cursor != NULL)
            forget(cursors, cursor);
        return;
    }
    if (cursor == NULL)
        cursor = add(cursors, name);
    if (cursor == NULL)
        return;
    cursor->is_live = true;
    cursor->sequence = cursor->written = record->sequence;
}

size_t journal_cursor_payload(
    const struct journal_cursor *cursor, unsigned char *at)
{
    size_t n_name = strlen(cursor->name);

    at[0] = cursor->is_live;
    memcpy(at + 1, cursor->name, n_name);
    return 1 + n_name;
}

void journal_cursors_written(
    struct journal_cursors *cursors, const struct journal_cursors *copied)
{
    for (size_t i = 0; i < copied->n; i++) {
        const struct journal_cursor *copy = &copied->at[i];
        struct journal_cursor *cursor = find(cursors, copy->name);

        if (!copy->is_new || cursor == NULL)
            continue;
        cursor->written = copy->sequence;
        if (cursor->is_live != copy->is_live ||
            cursor->sequence != copy->sequence)
            continue; /* changed since */
        cursors->n_new -= cursor->is_new;
        cursor->is_new = false;
        if (!cursor->is_live)
            forget(cursors, cursor);
    }
}

uint64_t journal_cursors_least(const struct journal_cursors *cursors)
{
    uint64_t least = UINT64_MAX;

    for (size_t i = 0; i < cursors->n; i++)
        if (cursors->at[i].is_live && cursors->at[i].written < least)
            least = cursors->at[i].written;
    return least;
}
