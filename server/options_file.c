/* One pass over the events of a file:
 *
 *   reader_next ─> one mapping ─> option_set, or a list of maps
 */
#include "server/options_file.h"

#include <inttypes.h>
#include <string.h>

#include "base/heap.h"
#include "server/options_reader.h"
#include "server/options_sinks.h"
#include "server/options_tenants.h"

struct options_file_text {
    struct options_file_text *next;
    char text[];
};

/* ---- values */

/* Appends n bytes to the newest of the texts, which now has n_present. */
static enum kv_status append_text(
    struct options_reader *reader, size_t n_present, const char *text, size_t n)
{
    struct options_file_text *longer =
        kv_realloc(reader->texts->first, sizeof *longer + n_present + n + 1);

    if (longer == NULL)
        return reader_refuse_memory(reader);
    memcpy(longer->text + n_present, text, n);
    longer->text[n_present + n] = '\0';
    reader->texts->first = longer;
    return KV_OK;
}

/* A new text, still empty, at the head of the texts. */
static enum kv_status begin_text(struct options_reader *reader)
{
    struct options_file_text *text = kv_calloc(1, sizeof *text + 1);

    if (text == NULL)
        return reader_refuse_memory(reader);
    text->next = reader->texts->first;
    reader->texts->first = text;
    return KV_OK;
}

/* The newest text becomes the row's value; mark is where it began. */
static enum kv_status set_newest(struct options_reader *reader,
    const struct option_row *row, yaml_mark_t mark)
{
    struct option_origin origin = {OPTION_FILE, (uint32_t)mark.line + 1};

    return option_set(reader->options, row, origin,
        reader_place_of_key(reader, mark, row).text, reader->texts->first->text,
        reader->error);
}

static enum kv_status take_scalar(struct options_reader *reader,
    const struct option_row *row, const yaml_event_t *event)
{
    enum kv_status status = reader_check_scalar(reader, row, event);

    if (status == KV_OK)
        status = begin_text(reader);
    if (status == KV_OK)
        status = append_text(
            reader, 0, reader_text(event), event->data.scalar.length);
    if (status == KV_OK)
        status = set_newest(reader, row, event->start_mark);
    return status;
}

/* One item of a list is one address, with no comma of its own. */
static enum kv_status check_item(struct options_reader *reader,
    const struct option_row *row, const yaml_event_t *event)
{
    const char *what = reader_nonscalar(event);
    enum kv_status status;

    if (what != NULL)
        return reader_refuse_value(reader, row, event, what);
    status = reader_check_scalar(reader, row, event);
    if (status == KV_OK && event->data.scalar.length == 0)
        return reader_refuse_value(reader, row, event, "\"\"");
    if (status == KV_OK && strchr(reader_text(event), ',') != NULL)
        return reader_refuse_value(
            reader, row, event, "a comma within an item");
    return status;
}

/* Appends an item to the newest text, which has *n bytes. */
static enum kv_status take_item(struct options_reader *reader,
    const struct option_row *row, const yaml_event_t *event, size_t *n)
{
    enum kv_status status = check_item(reader, row, event);

    if (status == KV_OK && *n > 0)
        status = append_text(reader, (*n)++, ",", 1);
    if (status != KV_OK)
        return status;
    status =
        append_text(reader, *n, reader_text(event), event->data.scalar.length);
    *n += event->data.scalar.length;
    return status;
}

/* A list of texts, its start taken, as one text with commas. */
static enum kv_status take_list(struct options_reader *reader,
    const struct option_row *row, const yaml_event_t *start)
{
    enum kv_status status = begin_text(reader);
    size_t n = 0;
    bool is_over = false;

    while (status == KV_OK && !is_over) {
        yaml_event_t event;

        status = reader_next(reader, &event);
        if (status != KV_OK)
            return status;
        is_over = event.type == YAML_SEQUENCE_END_EVENT;
        if (!is_over)
            status = take_item(reader, row, &event, &n);
        yaml_event_delete(&event);
    }
    if (status == KV_OK && n == 0)
        return reader_refuse_value(reader, row, start, "an empty list");
    return status == KV_OK ? set_newest(reader, row, start->start_mark)
                           : status;
}

static enum kv_status take_value(
    struct options_reader *reader, const struct option_row *row)
{
    yaml_event_t event;
    enum kv_status status = reader_next(reader, &event);
    const char *nonscalar;

    if (status != KV_OK)
        return status;
    nonscalar = reader_nonscalar(&event);
    if (nonscalar == NULL)
        status = take_scalar(reader, row, &event);
    else if (row->kind == OPTION_LIST &&
             event.type == YAML_SEQUENCE_START_EVENT)
        status = take_list(reader, row, &event);
    else
        status = reader_refuse_value(reader, row, &event, nonscalar);
    yaml_event_delete(&event);
    return status;
}

/* ---- the mapping */

static enum kv_status refuse_second(struct options_reader *reader,
    const yaml_event_t *event, uint32_t first_line)
{
    return kv_error_set(reader->error, KV_INVALID,
        "%s: %s: given a second time, allowed is once; the first is on "
        "line %" PRIu32,
        reader_place(reader, event->start_mark).text, reader_text(event),
        first_line);
}

/* What stands in a file only: lists of maps. */
struct list_key {
    const char *name;
    uint32_t *(*line)(struct options *options); /* where the key stood */
    enum kv_status (*take)(struct options_reader *reader);
};

static uint32_t *line_of_sinks(struct options *options)
{
    return &options->sinks.line;
}

static uint32_t *line_of_tenants(struct options *options)
{
    return &options->tenants.line;
}

static const struct list_key list_keys[] = {
    {OPTIONS_SINKS_KEY, line_of_sinks, options_sinks_take},
    {OPTIONS_TENANTS_KEY, line_of_tenants, options_tenants_take},
};

static const struct list_key *find_list(const char *name, size_t n)
{
    for (size_t i = 0; i < sizeof list_keys / sizeof *list_keys; i++)
        if (strlen(list_keys[i].name) == n &&
            memcmp(list_keys[i].name, name, n) == 0)
            return &list_keys[i];
    return NULL;
}

static enum kv_status check_list_key(struct options_reader *reader,
    const struct list_key *list, const yaml_event_t *event)
{
    uint32_t *line = list->line(reader->options);

    if (*line != 0)
        return refuse_second(reader, event, *line);
    *line = (uint32_t)event->start_mark.line + 1;
    return KV_OK;
}

/* A key is that of a list, or else of a row. */
struct file_key {
    const struct list_key *list;
    const struct option_row *row;
};

static enum kv_status check_key(struct options_reader *reader,
    const yaml_event_t *event, struct file_key *out)
{
    struct options_place place = reader_place(reader, event->start_mark);
    const struct option_row *row;
    size_t n;

    if (event->type != YAML_SCALAR_EVENT)
        return kv_error_set(reader->error, KV_INVALID,
            "%s: given %s as a name, allowed is the name of an option",
            place.text, reader_nonscalar(event));
    n = event->data.scalar.length;
    out->list = find_list(reader_text(event), n);
    if (out->list != NULL)
        return check_list_key(reader, out->list, event);
    row = option_find(reader_text(event), n, OPTION_AS_KEY);
    if (row == NULL)
        return kv_error_set(reader->error, KV_INVALID,
            "%s: unknown option %s%s --help lists what is allowed", place.text,
            option_quote(reader_text(event), n).text,
            option_hint(reader_text(event), n, OPTION_AS_KEY).text);
    if (reader->lines[row - option_rows] != 0)
        return refuse_second(reader, event, reader->lines[row - option_rows]);
    reader->lines[row - option_rows] = (uint32_t)event->start_mark.line + 1;
    out->row = row;
    return KV_OK;
}

/* The mapping, its start taken, to its end. */
static enum kv_status take_mapping(struct options_reader *reader)
{
    for (;;) {
        struct file_key key = {NULL, NULL};
        yaml_event_t event;
        enum kv_status status = reader_next(reader, &event);
        bool is_over;

        if (status != KV_OK)
            return status;
        is_over = event.type == YAML_MAPPING_END_EVENT;
        if (!is_over)
            status = check_key(reader, &event, &key);
        yaml_event_delete(&event);
        if (status == KV_OK && !is_over)
            status = key.list != NULL ? key.list->take(reader)
                                      : take_value(reader, key.row);
        if (status != KV_OK || is_over)
            return status;
    }
}

static enum kv_status take_root(
    struct options_reader *reader, const yaml_event_t *event)
{
    if (event->type == YAML_MAPPING_START_EVENT)
        return take_mapping(reader);
    if (event->type == YAML_SCALAR_EVENT && reader_is_null(event))
        return KV_OK;
    return kv_error_set(reader->error, KV_INVALID,
        "%s: given %s, allowed is one `name: value` a line",
        reader_place(reader, event->start_mark).text,
        event->type == YAML_SCALAR_EVENT ? "a single value" : "a list");
}

/* All events of the stream; a file without any document is fine. */
static enum kv_status take_stream(struct options_reader *reader)
{
    enum kv_status status = KV_OK;
    int n_documents = 0;
    bool is_over = false;

    while (status == KV_OK && !is_over) {
        yaml_event_t event;

        status = reader_next(reader, &event);
        if (status != KV_OK)
            return status;
        is_over = event.type == YAML_STREAM_END_EVENT;
        if (event.type == YAML_DOCUMENT_START_EVENT && ++n_documents > 1)
            status = reader_refuse_feature(reader, &event, "a second document");
        else if (event.type == YAML_MAPPING_START_EVENT ||
                 event.type == YAML_SEQUENCE_START_EVENT ||
                 event.type == YAML_SCALAR_EVENT)
            status = take_root(reader, &event);
        yaml_event_delete(&event);
    }
    return status;
}

enum kv_status options_file_read(const char *path, struct options *options,
    struct options_file_texts *texts, struct kv_error *error)
{
    struct options_reader reader = {
        .path = path, .options = options, .texts = texts, .error = error};
    char *bytes;
    enum kv_status status = reader_open(&reader, &bytes);

    if (status != KV_OK)
        return status;
    status = take_stream(&reader);
    yaml_parser_delete(&reader.parser);
    kv_free(bytes);
    return status;
}

void options_file_texts_fini(struct options_file_texts *texts)
{
    while (texts->first != NULL) {
        struct options_file_text *text = texts->first;

        texts->first = text->next;
        kv_free(text);
    }
}
