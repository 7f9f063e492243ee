/* One pass over the events of libyaml, which is met here alone:
 *
 *   file ─> bytes ─> checked UTF-8 ─> events ─> one mapping ─> option_set
 *
 * YAML is far larger than what we need. Whatever could make a line mean another
 * thing than it seems (anchors, aliases, tags, a second document, a quoted
 * number, `yes`) is refused, so nesting is at most one deep and nothing
 * expands.
 *
 * libyaml takes its memory from malloc; what we keep comes from base/heap.h. */
#include "server/options_file.h"

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include <yaml.h>

#include "base/heap.h"
#include "base/utf8.h"
#include "server/options_table.h"

enum {
    MAX_FILE_BYTES = 1 << 20,
    PATH_BYTES = 128,  /* of the path in a message */
    PLACE_BYTES = 256, /* of path:line:column: key */
};

struct options_file_text {
    struct options_file_text *next;
    char text[];
};

/* Where a message points: `kvpool.yaml:3:19`, or with the key behind it. */
struct place {
    char text[PLACE_BYTES];
};

struct reader {
    yaml_parser_t parser;
    const char *path;
    struct options *options;
    struct options_file_texts *texts;
    struct kv_error *error;
    uint32_t lines[N_OPTIONS]; /* where a key stood first; 0: nowhere */
};

/* ---- saying where */

/* The path, its beginning cut where it is long. */
static struct place place_of_file(const char *path)
{
    struct place place;
    size_t n = strlen(path), skipped = n < PATH_BYTES ? 0 : n - PATH_BYTES;

    while (skipped > 0 && kv_utf8_length(path + skipped, n - skipped) == 0)
        skipped++;
    snprintf(place.text, sizeof place.text, "%s%s", skipped > 0 ? "..." : "",
        path + skipped);
    return place;
}

static struct place place_at(const char *path, size_t line, size_t column)
{
    struct place place = place_of_file(path);
    size_t n = strlen(place.text);

    snprintf(place.text + n, sizeof place.text - n, ":%zu:%zu", line, column);
    return place;
}

static struct place place_of(const struct reader *reader, yaml_mark_t mark)
{
    return place_at(reader->path, mark.line + 1, mark.column + 1);
}

static struct place place_of_key(
    const struct reader *reader, yaml_mark_t mark, const struct option_row *row)
{
    struct place place = place_of(reader, mark);
    size_t n = strlen(place.text);

    snprintf(place.text + n, sizeof place.text - n, ": %s", row->name);
    return place;
}

/* Line and column of a byte, for what libyaml does not get to see. */
static struct place place_of_byte(
    const char *path, const char *text, size_t offset)
{
    size_t line = 1, column = 1;

    for (size_t i = 0; i < offset; i++) {
        if (text[i] == '\n') {
            line++;
            column = 1;
        } else if (((unsigned char)text[i] & 0xC0) != 0x80) {
            column++;
        }
    }
    return place_at(path, line, column);
}

/* ---- the bytes */

static enum kv_status refuse_read(
    const char *path, int number, struct kv_error *error)
{
    return kv_error_set(error, KV_IO,
        "%s: the configuration file cannot be read: %s",
        place_of_file(path).text, strerror(number));
}

/* Up to size bytes; *n of them. Where there are more, *n is size. */
static enum kv_status read_bytes(const char *path, char *bytes, size_t size,
    size_t *n, struct kv_error *error)
{
    int file = open(path, O_RDONLY | O_CLOEXEC);
    ssize_t got = 1;
    int number;

    *n = 0;
    if (file < 0)
        return refuse_read(path, errno, error);
    while (*n < size && got != 0) {
        got = read(file, bytes + *n, size - *n);
        if (got < 0 && errno != EINTR)
            break;
        *n += got > 0 ? (size_t)got : 0;
    }
    number = errno;
    close(file);
    return got < 0 ? refuse_read(path, number, error) : KV_OK;
}

/* YAML allows the controls that end or indent a line. */
static bool is_allowed(const char *text, size_t length)
{
    return *text == '\n' || *text == '\r' || *text == '\t' ||
           !kv_utf8_has_control(text, length);
}

static enum kv_status check_bytes(
    const char *path, const char *text, size_t n, struct kv_error *error)
{
    if (n > MAX_FILE_BYTES)
        return kv_error_set(error, KV_INVALID,
            "%s: given more than %d bytes, allowed are %d",
            place_of_file(path).text, MAX_FILE_BYTES, MAX_FILE_BYTES);
    for (size_t i = 0; i < n;) {
        int length = kv_utf8_length(text + i, n - i);

        if (length <= 0 || !is_allowed(text + i, (size_t)length))
            return kv_error_set(error, KV_INVALID,
                "%s: given the byte 0x%02x, allowed is UTF-8 without control "
                "characters",
                place_of_byte(path, text, i).text, (unsigned char)text[i]);
        i += (size_t)length;
    }
    return KV_OK;
}

/* ---- events */

static enum kv_status refuse_memory(struct reader *reader)
{
    return kv_error_set(reader->error, KV_NO_MEMORY, "%s: out of memory",
        place_of_file(reader->path).text);
}

static enum kv_status refuse_yaml(struct reader *reader)
{
    const yaml_parser_t *parser = &reader->parser;

    if (parser->error == YAML_MEMORY_ERROR)
        return refuse_memory(reader);
    return kv_error_set(reader->error, KV_INVALID,
        "%s: given what is no YAML: %s; allowed is one `name: value` a line",
        parser->error == YAML_READER_ERROR
            ? place_of_byte(reader->path,
                  (const char *)parser->input.string.start,
                  parser->problem_offset)
                  .text
            : place_of(reader, parser->problem_mark).text,
        parser->problem);
}

static enum kv_status refuse_feature(
    struct reader *reader, const yaml_event_t *event, const char *what)
{
    return kv_error_set(reader->error, KV_INVALID,
        "%s: given %s, allowed are plain names and values",
        place_of(reader, event->start_mark).text, what);
}

static enum kv_status check_event(
    struct reader *reader, const yaml_event_t *event)
{
    const yaml_char_t *anchor = NULL, *tag = NULL;

    if (event->type == YAML_ALIAS_EVENT)
        return refuse_feature(reader, event, "an alias");
    if (event->type == YAML_DOCUMENT_START_EVENT &&
        event->data.document_start.tag_directives.start !=
            event->data.document_start.tag_directives.end)
        return refuse_feature(reader, event, "a tag directive");
    if (event->type == YAML_SCALAR_EVENT) {
        anchor = event->data.scalar.anchor;
        tag = event->data.scalar.tag;
    } else if (event->type == YAML_SEQUENCE_START_EVENT) {
        anchor = event->data.sequence_start.anchor;
        tag = event->data.sequence_start.tag;
    } else if (event->type == YAML_MAPPING_START_EVENT) {
        anchor = event->data.mapping_start.anchor;
        tag = event->data.mapping_start.tag;
    }
    if (anchor != NULL)
        return refuse_feature(reader, event, "an anchor");
    return tag == NULL ? KV_OK : refuse_feature(reader, event, "a tag");
}

/* On KV_OK *event is to be deleted; otherwise there is none. */
static enum kv_status next_event(struct reader *reader, yaml_event_t *event)
{
    enum kv_status status;

    if (!yaml_parser_parse(&reader->parser, event))
        return refuse_yaml(reader);
    status = check_event(reader, event);
    if (status != KV_OK)
        yaml_event_delete(event);
    return status;
}

/* ---- values */

/* What stands there instead of the one text that may, in words; else NULL. */
static const char *name_nonscalar(const yaml_event_t *event)
{
    if (event->type == YAML_SEQUENCE_START_EVENT)
        return "a list";
    return event->type == YAML_MAPPING_START_EVENT ? "a mapping" : NULL;
}

static bool is_quoted(const yaml_event_t *event)
{
    return event->data.scalar.style != YAML_PLAIN_SCALAR_STYLE;
}

static const char *scalar_text(const yaml_event_t *event)
{
    return (const char *)event->data.scalar.value;
}

/* `name:` with nothing behind it, or what YAML calls the same. */
static bool is_null(const yaml_event_t *event)
{
    static const char *const nulls[] = {"", "~", "null", "Null", "NULL"};

    for (size_t i = 0; i < sizeof nulls / sizeof *nulls && !is_quoted(event);
         i++) {
        if (strcmp(scalar_text(event), nulls[i]) == 0)
            return true;
    }
    return false;
}

static enum kv_status refuse_value(struct reader *reader,
    const struct option_row *row, const yaml_event_t *event, const char *what)
{
    struct place place = place_of_key(reader, event->start_mark, row);

    if (row->kind == OPTION_UINT)
        return kv_error_set(reader->error, KV_INVALID,
            "%s: given %s, allowed is a decimal number from %" PRIu64
            " to %" PRIu64,
            place.text, what, row->least, row->most);
    return kv_error_set(reader->error, KV_INVALID,
        "%s: given %s, allowed is %s", place.text, what,
        row->kind == OPTION_BOOL ? "true|false" : row->value);
}

/* The rules of YAML that a flag does not have: a number or a truth value in
 * quotes is a text, and 1 is a number. */
static enum kv_status check_scalar(struct reader *reader,
    const struct option_row *row, const yaml_event_t *event)
{
    const char *text = scalar_text(event);
    size_t n = event->data.scalar.length;
    bool is_word = row->kind == OPTION_UINT || row->kind == OPTION_BOOL;

    if (is_null(event))
        return refuse_value(reader, row, event,
            row->standard[0] != '\0' ? "nothing" : "nothing; empty is \"\"");
    if (strlen(text) != n)
        return refuse_value(reader, row, event, "a NUL character");
    if (is_word && is_quoted(event))
        return refuse_value(reader, row, event, "a text in quotes");
    if (row->kind == OPTION_BOOL && strcmp(text, "true") != 0 &&
        strcmp(text, "false") != 0)
        return refuse_value(reader, row, event, option_quote(text, n).text);
    return KV_OK;
}

/* Appends n bytes to the newest of the texts, which now has n_present. */
static enum kv_status append_text(
    struct reader *reader, size_t n_present, const char *text, size_t n)
{
    struct options_file_text *longer =
        kv_realloc(reader->texts->first, sizeof *longer + n_present + n + 1);

    if (longer == NULL)
        return refuse_memory(reader);
    memcpy(longer->text + n_present, text, n);
    longer->text[n_present + n] = '\0';
    reader->texts->first = longer;
    return KV_OK;
}

/* A new text, still empty, at the head of the texts. */
static enum kv_status begin_text(struct reader *reader)
{
    struct options_file_text *text = kv_calloc(1, sizeof *text + 1);

    if (text == NULL)
        return refuse_memory(reader);
    text->next = reader->texts->first;
    reader->texts->first = text;
    return KV_OK;
}

/* The newest text becomes the row's value; mark is where it began. */
static enum kv_status set_newest(
    struct reader *reader, const struct option_row *row, yaml_mark_t mark)
{
    struct option_origin origin = {OPTION_FILE, (uint32_t)mark.line + 1};

    return option_set(reader->options, row, origin,
        place_of_key(reader, mark, row).text, reader->texts->first->text,
        reader->error);
}

static enum kv_status take_scalar(struct reader *reader,
    const struct option_row *row, const yaml_event_t *event)
{
    enum kv_status status = check_scalar(reader, row, event);

    if (status == KV_OK)
        status = begin_text(reader);
    if (status == KV_OK)
        status = append_text(
            reader, 0, scalar_text(event), event->data.scalar.length);
    if (status == KV_OK)
        status = set_newest(reader, row, event->start_mark);
    return status;
}

/* One item of a list is one address, with no comma of its own. */
static enum kv_status check_item(struct reader *reader,
    const struct option_row *row, const yaml_event_t *event)
{
    const char *what = name_nonscalar(event);
    enum kv_status status;

    if (what != NULL)
        return refuse_value(reader, row, event, what);
    status = check_scalar(reader, row, event);
    if (status == KV_OK && event->data.scalar.length == 0)
        return refuse_value(reader, row, event, "\"\"");
    if (status == KV_OK && strchr(scalar_text(event), ',') != NULL)
        return refuse_value(reader, row, event, "a comma within an item");
    return status;
}

/* Appends an item to the newest text, which has *n bytes. */
static enum kv_status take_item(struct reader *reader,
    const struct option_row *row, const yaml_event_t *event, size_t *n)
{
    enum kv_status status = check_item(reader, row, event);

    if (status == KV_OK && *n > 0)
        status = append_text(reader, (*n)++, ",", 1);
    if (status != KV_OK)
        return status;
    status =
        append_text(reader, *n, scalar_text(event), event->data.scalar.length);
    *n += event->data.scalar.length;
    return status;
}

/* A list of texts, its start taken, as one text with commas. */
static enum kv_status take_list(struct reader *reader,
    const struct option_row *row, const yaml_event_t *start)
{
    enum kv_status status = begin_text(reader);
    size_t n = 0;
    bool is_over = false;

    while (status == KV_OK && !is_over) {
        yaml_event_t event;

        status = next_event(reader, &event);
        if (status != KV_OK)
            return status;
        is_over = event.type == YAML_SEQUENCE_END_EVENT;
        if (!is_over)
            status = take_item(reader, row, &event, &n);
        yaml_event_delete(&event);
    }
    if (status == KV_OK && n == 0)
        return refuse_value(reader, row, start, "an empty list");
    return status == KV_OK ? set_newest(reader, row, start->start_mark)
                           : status;
}

static enum kv_status take_value(
    struct reader *reader, const struct option_row *row)
{
    yaml_event_t event;
    enum kv_status status = next_event(reader, &event);
    const char *nonscalar;

    if (status != KV_OK)
        return status;
    nonscalar = name_nonscalar(&event);
    if (nonscalar == NULL)
        status = take_scalar(reader, row, &event);
    else if (row->kind == OPTION_LIST &&
             event.type == YAML_SEQUENCE_START_EVENT)
        status = take_list(reader, row, &event);
    else
        status = refuse_value(reader, row, &event, nonscalar);
    yaml_event_delete(&event);
    return status;
}

/* ---- the mapping */

static enum kv_status check_key(struct reader *reader,
    const yaml_event_t *event, const struct option_row **out)
{
    struct place place = place_of(reader, event->start_mark);
    const struct option_row *row;
    size_t n;

    if (event->type != YAML_SCALAR_EVENT)
        return kv_error_set(reader->error, KV_INVALID,
            "%s: given %s as a name, allowed is the name of an option",
            place.text, name_nonscalar(event));
    n = event->data.scalar.length;
    row = option_find(scalar_text(event), n, OPTION_AS_KEY);
    if (row == NULL)
        return kv_error_set(reader->error, KV_INVALID,
            "%s: unknown option %s%s --help lists what is allowed", place.text,
            option_quote(scalar_text(event), n).text,
            option_hint(scalar_text(event), n, OPTION_AS_KEY).text);
    if (reader->lines[row - option_rows] != 0)
        return kv_error_set(reader->error, KV_INVALID,
            "%s: %s: given a second time, allowed is once; the first is on "
            "line %" PRIu32,
            place.text, row->name, reader->lines[row - option_rows]);
    reader->lines[row - option_rows] = (uint32_t)event->start_mark.line + 1;
    *out = row;
    return KV_OK;
}

/* The mapping, its start taken, to its end. */
static enum kv_status take_mapping(struct reader *reader)
{
    for (;;) {
        const struct option_row *row = NULL;
        yaml_event_t event;
        enum kv_status status = next_event(reader, &event);
        bool is_over;

        if (status != KV_OK)
            return status;
        is_over = event.type == YAML_MAPPING_END_EVENT;
        if (!is_over)
            status = check_key(reader, &event, &row);
        yaml_event_delete(&event);
        if (status == KV_OK && !is_over)
            status = take_value(reader, row);
        if (status != KV_OK || is_over)
            return status;
    }
}

static enum kv_status take_root(
    struct reader *reader, const yaml_event_t *event)
{
    if (event->type == YAML_MAPPING_START_EVENT)
        return take_mapping(reader);
    if (event->type == YAML_SCALAR_EVENT && is_null(event))
        return KV_OK;
    return kv_error_set(reader->error, KV_INVALID,
        "%s: given %s, allowed is one `name: value` a line",
        place_of(reader, event->start_mark).text,
        event->type == YAML_SCALAR_EVENT ? "a single value" : "a list");
}

/* All events of the stream; a file without any document is fine. */
static enum kv_status take_stream(struct reader *reader)
{
    enum kv_status status = KV_OK;
    int n_documents = 0;
    bool is_over = false;

    while (status == KV_OK && !is_over) {
        yaml_event_t event;

        status = next_event(reader, &event);
        if (status != KV_OK)
            return status;
        is_over = event.type == YAML_STREAM_END_EVENT;
        if (event.type == YAML_DOCUMENT_START_EVENT && ++n_documents > 1)
            status = refuse_feature(reader, &event, "a second document");
        else if (event.type == YAML_MAPPING_START_EVENT ||
                 event.type == YAML_SEQUENCE_START_EVENT ||
                 event.type == YAML_SCALAR_EVENT)
            status = take_root(reader, &event);
        yaml_event_delete(&event);
    }
    return status;
}

static enum kv_status take_text(
    struct reader *reader, const char *text, size_t n)
{
    enum kv_status status;

    if (!yaml_parser_initialize(&reader->parser))
        return refuse_memory(reader);
    yaml_parser_set_encoding(&reader->parser, YAML_UTF8_ENCODING);
    yaml_parser_set_input_string(
        &reader->parser, (const unsigned char *)text, n);
    status = take_stream(reader);
    yaml_parser_delete(&reader->parser);
    return status;
}

enum kv_status options_file_read(const char *path, struct options *options,
    struct options_file_texts *texts, struct kv_error *error)
{
    struct reader reader = {
        .path = path, .options = options, .texts = texts, .error = error};
    char *bytes = kv_calloc(1, MAX_FILE_BYTES + 1);
    enum kv_status status;
    size_t n;

    if (bytes == NULL)
        return refuse_memory(&reader);
    status = read_bytes(path, bytes, MAX_FILE_BYTES + 1, &n, error);
    if (status == KV_OK)
        status = check_bytes(path, bytes, n, error);
    if (status == KV_OK)
        status = take_text(&reader, bytes, n);
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
