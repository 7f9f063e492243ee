#include "server/options_list.h"

#include <inttypes.h>
#include <stdio.h>
#include <string.h>

/* ---- messages */

struct option_row options_entry_row(const char *name, const char *allowed)
{
    return (struct option_row){
        .name = name, .kind = OPTION_TEXT, .standard = "", .value = allowed};
}

enum kv_status options_entry_refuse_missing(struct options_reader *reader,
    const struct options_entry *entry, const char *name, const char *needed)
{
    return kv_error_set(reader->error, KV_INVALID, "%s: no %s given, needed %s",
        reader_place(reader, entry->mark).text, name, needed);
}

void options_names_add(
    struct options_names *names, const char *name, const char *comma)
{
    size_t n = strlen(names->text);

    snprintf(names->text + n, sizeof names->text - n, "%s%s",
        n > 0 ? comma : "", name);
}

static enum kv_status refuse_list(struct options_reader *reader,
    const struct options_list_kind *kind, const yaml_event_t *event,
    const char *what)
{
    struct option_row row = options_entry_row(kind->key, kind->allowed);

    return reader_refuse_value(reader, &row, event, what);
}

/* ---- gathering */

const yaml_event_t *options_entry_find(const struct options_entry *entry,
    const char *key, const yaml_event_t **key_event)
{
    for (size_t i = 0; i < entry->n_pairs; i++) {
        if (strcmp(reader_text(&entry->pairs[i].key), key) == 0) {
            if (key_event != NULL)
                *key_event = &entry->pairs[i].key;
            return &entry->pairs[i].value;
        }
    }
    return NULL;
}

static enum kv_status check_pair_key(struct options_reader *reader,
    const struct options_entry *entry, const yaml_event_t *key)
{
    const char *what = reader_nonscalar(key);
    struct options_place place = reader_place(reader, key->start_mark);
    const yaml_event_t *first;

    if (what == NULL && strlen(reader_text(key)) != key->data.scalar.length)
        what = "a NUL character";
    if (what != NULL)
        return kv_error_set(reader->error, KV_INVALID,
            "%s: given %s as a name, allowed is the name of a setting",
            place.text, what);
    if (options_entry_find(entry, reader_text(key), &first) != NULL)
        return kv_error_set(reader->error, KV_INVALID,
            "%s: %s: given a second time, allowed is once; the first is on "
            "line %zu",
            place.text,
            option_quote(reader_text(key), strlen(reader_text(key))).text,
            first->start_mark.line + 1);
    if (entry->n_pairs == OPTIONS_LIST_MAX_PAIRS)
        return kv_error_set(reader->error, KV_INVALID,
            "%s: given more than %d settings; nothing has so many", place.text,
            OPTIONS_LIST_MAX_PAIRS);
    return KV_OK;
}

static enum kv_status gather_value(
    struct options_reader *reader, const yaml_event_t *key, yaml_event_t *value)
{
    enum kv_status status = reader_next(reader, value);
    const char *what;

    if (status != KV_OK)
        return status;
    what = reader_nonscalar(value);
    if (what == NULL)
        return KV_OK;
    status = kv_error_set(reader->error, KV_INVALID,
        "%s: %s: given %s, allowed is a single value",
        reader_place(reader, value->start_mark).text,
        option_quote(reader_text(key), strlen(reader_text(key))).text, what);
    yaml_event_delete(value);
    return status;
}

/* Of a mapping, its start taken, to its end. */
static enum kv_status gather(
    struct options_reader *reader, struct options_entry *entry)
{
    for (;;) {
        yaml_event_t key, value;
        enum kv_status status = reader_next(reader, &key);
        bool is_over;

        if (status != KV_OK)
            return status;
        is_over = key.type == YAML_MAPPING_END_EVENT;
        if (!is_over)
            status = check_pair_key(reader, entry, &key);
        if (!is_over && status == KV_OK)
            status = gather_value(reader, &key, &value);
        if (is_over || status != KV_OK) {
            yaml_event_delete(&key);
            return status;
        }
        entry->pairs[entry->n_pairs].key = key;
        entry->pairs[entry->n_pairs++].value = value;
    }
}

static void entry_fini(struct options_entry *entry)
{
    for (size_t i = 0; i < entry->n_pairs; i++) {
        yaml_event_delete(&entry->pairs[i].key);
        yaml_event_delete(&entry->pairs[i].value);
    }
}

/* ---- the list */

static enum kv_status take_entry(struct options_reader *reader,
    const struct options_list_kind *kind, const yaml_event_t *start)
{
    struct options_entry entry = {.mark = start->start_mark};
    enum kv_status status;

    if (start->type != YAML_MAPPING_START_EVENT)
        return refuse_list(reader, kind, start,
            start->type == YAML_SEQUENCE_START_EVENT ? "a list within the list"
                                                     : "a single value");
    status = gather(reader, &entry);
    if (status == KV_OK)
        status = kind->take(reader, &entry);
    entry_fini(&entry);
    return status;
}

static enum kv_status take_entries(
    struct options_reader *reader, const struct options_list_kind *kind)
{
    for (;;) {
        yaml_event_t event;
        enum kv_status status = reader_next(reader, &event);
        bool is_over;

        if (status != KV_OK)
            return status;
        is_over = event.type == YAML_SEQUENCE_END_EVENT;
        if (!is_over)
            status = take_entry(reader, kind, &event);
        yaml_event_delete(&event);
        if (is_over || status != KV_OK)
            return status;
    }
}

enum kv_status options_list_take(
    struct options_reader *reader, const struct options_list_kind *kind)
{
    yaml_event_t event;
    enum kv_status status = reader_next(reader, &event);

    if (status != KV_OK)
        return status;
    if (event.type == YAML_SEQUENCE_START_EVENT)
        status = take_entries(reader, kind);
    else
        status = refuse_list(reader, kind, &event,
            event.type == YAML_MAPPING_START_EVENT ? "a mapping"
            : reader_is_null(&event)               ? "nothing"
                                                   : "a single value");
    yaml_event_delete(&event);
    return status;
}
