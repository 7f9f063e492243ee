#include "server/options_reader.h"

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "base/heap.h"
#include "base/utf8.h"

enum {
    MAX_FILE_BYTES = 1 << 20,
    PATH_BYTES = 128, /* of the path in a message */
};

/* ---- saying where */

/* The path, its beginning cut where it is long. */
static struct options_place place_of_file(const char *path)
{
    struct options_place place;
    size_t n = strlen(path), skipped = n < PATH_BYTES ? 0 : n - PATH_BYTES;

    while (skipped > 0 && kv_utf8_length(path + skipped, n - skipped) == 0)
        skipped++;
    snprintf(place.text, sizeof place.text, "%s%s", skipped > 0 ? "..." : "",
        path + skipped);
    return place;
}

static struct options_place place_at(
    const char *path, size_t line, size_t column)
{
    struct options_place place = place_of_file(path);
    size_t n = strlen(place.text);

    snprintf(place.text + n, sizeof place.text - n, ":%zu:%zu", line, column);
    return place;
}

struct options_place reader_place(
    const struct options_reader *reader, yaml_mark_t mark)
{
    return place_at(reader->path, mark.line + 1, mark.column + 1);
}

struct options_place reader_place_of_key(const struct options_reader *reader,
    yaml_mark_t mark, const struct option_row *row)
{
    struct options_place place = reader_place(reader, mark);
    size_t n = strlen(place.text);

    snprintf(place.text + n, sizeof place.text - n, ": %s", row->name);
    return place;
}

/* Line and column of a byte, for what libyaml does not get to see. */
static struct options_place place_of_byte(
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

enum kv_status reader_refuse_memory(struct options_reader *reader)
{
    return kv_error_set(reader->error, KV_NO_MEMORY, "%s: out of memory",
        place_of_file(reader->path).text);
}

static enum kv_status refuse_yaml(struct options_reader *reader)
{
    const yaml_parser_t *parser = &reader->parser;

    if (parser->error == YAML_MEMORY_ERROR)
        return reader_refuse_memory(reader);
    return kv_error_set(reader->error, KV_INVALID,
        "%s: given what is no YAML: %s; allowed is one `name: value` a line",
        parser->error == YAML_READER_ERROR
            ? place_of_byte(reader->path,
                  (const char *)parser->input.string.start,
                  parser->problem_offset)
                  .text
            : reader_place(reader, parser->problem_mark).text,
        parser->problem);
}

enum kv_status reader_refuse_feature(
    struct options_reader *reader, const yaml_event_t *event, const char *what)
{
    return kv_error_set(reader->error, KV_INVALID,
        "%s: given %s, allowed are plain names and values",
        reader_place(reader, event->start_mark).text, what);
}

static enum kv_status check_event(
    struct options_reader *reader, const yaml_event_t *event)
{
    const yaml_char_t *anchor = NULL, *tag = NULL;

    if (event->type == YAML_ALIAS_EVENT)
        return reader_refuse_feature(reader, event, "an alias");
    if (event->type == YAML_DOCUMENT_START_EVENT &&
        event->data.document_start.tag_directives.start !=
            event->data.document_start.tag_directives.end)
        return reader_refuse_feature(reader, event, "a tag directive");
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
        return reader_refuse_feature(reader, event, "an anchor");
    return tag == NULL ? KV_OK : reader_refuse_feature(reader, event, "a tag");
}

enum kv_status reader_next(struct options_reader *reader, yaml_event_t *event)
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

const char *reader_nonscalar(const yaml_event_t *event)
{
    if (event->type == YAML_SEQUENCE_START_EVENT)
        return "a list";
    return event->type == YAML_MAPPING_START_EVENT ? "a mapping" : NULL;
}

static bool is_quoted(const yaml_event_t *event)
{
    return event->data.scalar.style != YAML_PLAIN_SCALAR_STYLE;
}

const char *reader_text(const yaml_event_t *event)
{
    return (const char *)event->data.scalar.value;
}

bool reader_is_null(const yaml_event_t *event)
{
    static const char *const nulls[] = {"", "~", "null", "Null", "NULL"};

    for (size_t i = 0; i < sizeof nulls / sizeof *nulls && !is_quoted(event);
         i++) {
        if (strcmp(reader_text(event), nulls[i]) == 0)
            return true;
    }
    return false;
}

enum kv_status reader_refuse_value(struct options_reader *reader,
    const struct option_row *row, const yaml_event_t *event, const char *what)
{
    struct options_place place =
        reader_place_of_key(reader, event->start_mark, row);

    if (row->kind == OPTION_UINT)
        return kv_error_set(reader->error, KV_INVALID,
            "%s: given %s, allowed is a decimal number from %" PRIu64
            " to %" PRIu64,
            place.text, what, row->least, row->most);
    return kv_error_set(reader->error, KV_INVALID,
        "%s: given %s, allowed is %s", place.text, what,
        row->kind == OPTION_BOOL ? "true|false" : row->value);
}

enum kv_status reader_check_scalar(struct options_reader *reader,
    const struct option_row *row, const yaml_event_t *event)
{
    const char *text = reader_text(event);
    size_t n = event->data.scalar.length;
    bool is_word = row->kind == OPTION_UINT || row->kind == OPTION_BOOL;

    if (reader_is_null(event))
        return reader_refuse_value(reader, row, event,
            row->standard[0] != '\0' ? "nothing" : "nothing; empty is \"\"");
    if (strlen(text) != n)
        return reader_refuse_value(reader, row, event, "a NUL character");
    if (is_word && is_quoted(event))
        return reader_refuse_value(reader, row, event, "a text in quotes");
    if (row->kind == OPTION_BOOL && strcmp(text, "true") != 0 &&
        strcmp(text, "false") != 0)
        return reader_refuse_value(
            reader, row, event, option_quote(text, n).text);
    return KV_OK;
}

/* ---- opening */

static enum kv_status open_parser(
    struct options_reader *reader, const char *text, size_t n)
{
    if (!yaml_parser_initialize(&reader->parser))
        return reader_refuse_memory(reader);
    yaml_parser_set_encoding(&reader->parser, YAML_UTF8_ENCODING);
    yaml_parser_set_input_string(
        &reader->parser, (const unsigned char *)text, n);
    return KV_OK;
}

enum kv_status reader_open(struct options_reader *reader, char **bytes)
{
    char *text = kv_calloc(1, MAX_FILE_BYTES + 1);
    enum kv_status status;
    size_t n;

    if (text == NULL)
        return reader_refuse_memory(reader);
    status =
        read_bytes(reader->path, text, MAX_FILE_BYTES + 1, &n, reader->error);
    if (status == KV_OK)
        status = check_bytes(reader->path, text, n, reader->error);
    if (status == KV_OK)
        status = open_parser(reader, text, n);
    if (status == KV_OK)
        *bytes = text;
    else
        kv_free(text);
    return status;
}
