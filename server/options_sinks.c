/* What the settings of an entry mean depends on its kind. */
#include "server/options_sinks.h"

#include <assert.h>
#include <inttypes.h>
#include <stdio.h>
#include <string.h>

#include "base/heap.h"
#include "server/options_list.h"

/* ---- settings as rows */

struct setting_row {
    struct option_row row;
    char name[2 * SINK_NAME_BYTES];
};

static enum option_kind kind_of(enum sink_setting_kind kind)
{
    switch (kind) {
    case SINK_UINT:
        return OPTION_UINT;
    case SINK_BOOL:
        return OPTION_BOOL;
    case SINK_CHOICE:
        return OPTION_CHOICE;
    case SINK_TEXT:
        break;
    }
    return OPTION_TEXT;
}

/* owner: the name of the sink, which messages call it by. */
static void make_row(struct setting_row *out, const char *owner,
    const struct sink_setting *setting)
{
    snprintf(out->name, sizeof out->name, "%s.%s", owner, setting->name);
    out->row = (struct option_row){
        .name = out->name,
        .kind = kind_of(setting->kind),
        .offset = setting->offset,
        .standard = setting->standard != NULL ? setting->standard : "needed",
        .least = setting->least,
        .most = setting->most,
        .value = setting->kind == SINK_BOOL ? "true|false" : setting->value,
        .help = setting->help,
    };
}

const char *option_sink_value(
    const struct option_sink *sink, size_t i, char number[24])
{
    struct setting_row row = {.name = ""};

    make_row(&row, sink->name, &sink->kind->settings[i]);
    return option_value_at(&row.row, sink->settings, number);
}

/* ---- messages */

static struct options_names kind_names(void)
{
    struct options_names names = {""};

    for (size_t i = 0; i < sink_n_kinds; i++)
        options_names_add(&names, sink_kinds[i]->name, "|");
    if (sink_n_kinds == 0)
        options_names_add(&names, "none: this build is without receipts", "");
    return names;
}

/* Of `; did you mean path? ` and ` allowed are ...`. */
static struct options_names setting_hint(
    const struct sink_kind *kind, const char *given, size_t n)
{
    const char *nearest = NULL;
    struct options_names names = {""}, hint = {";"};
    int least = 3;

    for (size_t i = 0; i < kind->n_settings; i++) {
        int distance = option_distance(given, n, kind->settings[i].name);

        options_names_add(&names, kind->settings[i].name, ", ");
        if (distance < least) {
            least = distance;
            nearest = kind->settings[i].name;
        }
    }
    if (nearest != NULL)
        snprintf(hint.text, sizeof hint.text, "; did you mean %s?", nearest);
    options_names_add(
        &hint, kind->n_settings > 0 ? " allowed are " : " it has none", "");
    options_names_add(&hint, names.text, "");
    return hint;
}

static enum kv_status refuse_setting(struct options_reader *reader,
    const struct option_sink *sink, const yaml_event_t *key)
{
    size_t n = key->data.scalar.length;

    return kv_error_set(reader->error, KV_INVALID,
        "%s: unknown setting %s of %s, a sink of kind %s%s",
        reader_place(reader, key->start_mark).text,
        option_quote(reader_text(key), n).text, sink->name, sink->kind->name,
        setting_hint(sink->kind, reader_text(key), n).text);
}

/* ---- an entry */

static bool is_name(const char *text)
{
    size_t n = strlen(text);

    return n > 0 && n <= SINK_NAME_BYTES &&
           strspn(text, "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ"
                        "0123456789-_.") == n;
}

static enum kv_status take_name(struct options_reader *reader,
    const struct options_entry *entry, struct option_sink *sink)
{
    const yaml_event_t *value = options_entry_find(entry, "name", NULL);
    struct option_row row =
        options_entry_row("name", "1 to 64 of a-z, A-Z, 0-9, '-', '_' and '.'");
    const struct option_sink *other;
    const char *text;

    if (value == NULL)
        return options_entry_refuse_missing(
            reader, entry, "name", "is one of its own");
    text = reader_text(value);
    if (!is_name(text) || strlen(text) != value->data.scalar.length)
        return reader_refuse_value(reader, &row, value,
            option_quote(text, value->data.scalar.length).text);
    other = option_sinks_find(&reader->options->sinks, text);
    if (other != NULL)
        return kv_error_set(reader->error, KV_INVALID,
            "%s: given %s a second time, allowed is a name of its own; the "
            "first is on line %" PRIu32,
            reader_place_of_key(reader, value->start_mark, &row).text, text,
            other->line);
    strcpy(sink->name, text);
    return KV_OK;
}

static enum kv_status take_kind(struct options_reader *reader,
    const struct options_entry *entry, struct option_sink *sink)
{
    const yaml_event_t *value = options_entry_find(entry, "kind", NULL);
    struct options_names names = kind_names();
    struct option_row row = options_entry_row("kind", names.text);

    if (value == NULL)
        return options_entry_refuse_missing(reader, entry, "kind", names.text);
    for (size_t i = 0; i < sink_n_kinds; i++) {
        if (strcmp(reader_text(value), sink_kinds[i]->name) == 0)
            sink->kind = sink_kinds[i];
    }
    if (sink->kind != NULL)
        return KV_OK;
    return reader_refuse_value(reader, &row, value,
        option_quote(reader_text(value), value->data.scalar.length).text);
}

static bool is_setting(const struct sink_kind *kind, const char *name)
{
    for (size_t i = 0; i < kind->n_settings; i++) {
        if (strcmp(kind->settings[i].name, name) == 0)
            return true;
    }
    return strcmp(name, "name") == 0 || strcmp(name, "kind") == 0;
}

static enum kv_status check_keys(struct options_reader *reader,
    const struct options_entry *entry, const struct option_sink *sink)
{
    for (size_t i = 0; i < entry->n_pairs; i++) {
        if (!is_setting(sink->kind, reader_text(&entry->pairs[i].key)))
            return refuse_setting(reader, sink, &entry->pairs[i].key);
    }
    return KV_OK;
}

/* Setting i, from the file or its standard; its text goes to *room. */
static enum kv_status take_setting(struct options_reader *reader,
    const struct options_entry *entry, struct option_sink *sink, size_t i,
    char **room)
{
    const struct sink_setting *setting = &sink->kind->settings[i];
    const yaml_event_t *value = options_entry_find(entry, setting->name, NULL);
    const char *text = setting->standard;
    enum kv_status status = KV_OK;
    struct setting_row row = {.name = ""};

    make_row(&row, sink->name, setting);
    if (value == NULL && text == NULL) {
        struct options_names needed = {""};

        options_names_add(&needed, setting->value, "");
        options_names_add(&needed, setting->help, ": ");
        return options_entry_refuse_missing(
            reader, entry, row.name, needed.text);
    }
    if (value == NULL)
        return option_read(
            sink->settings, &row.row, row.name, text, reader->error);
    status = reader_check_scalar(reader, &row.row, value);
    if (status != KV_OK)
        return status;
    text = *room;
    *room = stpcpy(*room, reader_text(value)) + 1;
    sink->lines[i] = (uint32_t)value->start_mark.line + 1;
    return option_read(sink->settings, &row.row,
        reader_place_of_key(reader, value->start_mark, &row.row).text, text,
        reader->error);
}

/* Whether the kind finds that its settings make sense. */
static enum kv_status check_settings(struct options_reader *reader,
    const struct options_entry *entry, const struct option_sink *sink)
{
    const char *field = sink->kind->name;
    struct kv_error why = {0};
    const yaml_event_t *value;
    enum kv_status status;

    if (sink->kind->check == NULL)
        return KV_OK;
    status = sink->kind->check(sink->settings, &field, &why);
    if (status == KV_OK)
        return KV_OK;
    value = options_entry_find(entry, field, NULL);
    return kv_error_set(reader->error, status, "%s: %s.%s: %s",
        reader_place(reader, value != NULL ? value->start_mark : entry->mark)
            .text,
        sink->name, field, why.text);
}

static enum kv_status take_settings(struct options_reader *reader,
    const struct options_entry *entry, struct option_sink *sink)
{
    size_t n_bytes = sink->kind->settings_bytes + 1;
    enum kv_status status = check_keys(reader, entry, sink);
    char *room;

    assert(sink->kind->n_settings <= OPTION_SINK_MAX_SETTINGS);
    if (status != KV_OK)
        return status;
    for (size_t i = 0; i < entry->n_pairs; i++)
        n_bytes += entry->pairs[i].value.data.scalar.length + 1;
    sink->settings = kv_calloc(1, n_bytes);
    if (sink->settings == NULL)
        return reader_refuse_memory(reader);
    room = (char *)sink->settings + sink->kind->settings_bytes;
    for (size_t i = 0; i < sink->kind->n_settings && status == KV_OK; i++)
        status = take_setting(reader, entry, sink, i, &room);
    return status == KV_OK ? check_settings(reader, entry, sink) : status;
}

static enum kv_status keep(
    struct options_reader *reader, const struct option_sink *sink)
{
    struct option_sinks *sinks = &reader->options->sinks;
    struct option_sink *longer;

    if (sinks->n == SINK_MAX_SINKS)
        return kv_error_set(reader->error, KV_INVALID,
            "%s: line %" PRIu32 ": %s: given one sink more than the %d that "
            "are allowed",
            reader->path, sink->line, OPTIONS_SINKS_KEY, SINK_MAX_SINKS);
    longer = kv_realloc(sinks->list, (sinks->n + 1) * sizeof *longer);
    if (longer == NULL)
        return reader_refuse_memory(reader);
    sinks->list = longer;
    sinks->list[sinks->n++] = *sink;
    return KV_OK;
}

static enum kv_status read_entry(
    struct options_reader *reader, const struct options_entry *entry)
{
    struct option_sink sink = {.line = (uint32_t)entry->mark.line + 1};
    enum kv_status status = take_name(reader, entry, &sink);

    if (status == KV_OK)
        status = take_kind(reader, entry, &sink);
    if (status == KV_OK)
        status = take_settings(reader, entry, &sink);
    if (status == KV_OK)
        status = keep(reader, &sink);
    if (status != KV_OK)
        kv_free(sink.settings);
    return status;
}

enum kv_status options_sinks_take(struct options_reader *reader)
{
    static const struct options_list_kind kind = {
        .key = OPTIONS_SINKS_KEY,
        .allowed = "a list of sinks, each `- name: NAME` with a kind and its "
                   "settings",
        .take = read_entry,
    };

    return options_list_take(reader, &kind);
}

const struct option_sink *option_sinks_find(
    const struct option_sinks *sinks, const char *name)
{
    for (size_t i = 0; i < sinks->n; i++) {
        if (strcmp(sinks->list[i].name, name) == 0)
            return &sinks->list[i];
    }
    return NULL;
}

bool option_sink_equal(const struct option_sink *a, const struct option_sink *b)
{
    char numbers[2][24];

    if (a->kind != b->kind)
        return false;
    for (size_t i = 0; i < a->kind->n_settings; i++) {
        if (strcmp(option_sink_value(a, i, numbers[0]),
                option_sink_value(b, i, numbers[1])) != 0)
            return false;
    }
    return true;
}

void option_sinks_fini(struct option_sinks *sinks)
{
    for (size_t i = 0; i < sinks->n; i++)
        kv_free(sinks->list[i].settings);
    kv_free(sinks->list);
    *sinks = (struct option_sinks){0};
}
