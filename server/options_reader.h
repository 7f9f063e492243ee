/* What of YAML a configuration file may have: events of libyaml, the rest
 * refused, and messages that say where.
 *
 *   file ─> bytes ─> checked UTF-8 ─> reader_next ─> options_file.c: options
 *                                                    options_sinks.c: `sinks`
 *
 * YAML is far larger than what we need. Whatever could make a line mean another
 * thing than it seems (anchors, aliases, tags, a second document, a quoted
 * number, `yes`) is refused, so nothing expands.
 *
 * libyaml takes its memory from malloc; what we keep comes from base/heap.h.
 *
 * Private to server/options*.c. */
#ifndef SERVER_OPTIONS_READER_H
#define SERVER_OPTIONS_READER_H

#include <yaml.h>

#include "server/options_file.h"
#include "server/options_table.h"

struct options_reader {
    yaml_parser_t parser;
    const char *path;
    struct options *options;
    struct options_file_texts *texts;
    struct kv_error *error;
    uint32_t lines[N_OPTIONS]; /* where a key stood first; 0: nowhere */
};

/* Opens the parser over the file's bytes, which `*bytes` owns: kv_free it after
 * yaml_parser_delete. On failure there is neither. */
enum kv_status reader_open(struct options_reader *reader, char **bytes);

/* Where a message points: `kvpool.yaml:3:19`, or with the key behind it. */
struct options_place {
    char text[256];
};
struct options_place reader_place(
    const struct options_reader *reader, yaml_mark_t mark);
struct options_place reader_place_of_key(const struct options_reader *reader,
    yaml_mark_t mark, const struct option_row *row);

enum kv_status reader_refuse_memory(struct options_reader *reader);
enum kv_status reader_refuse_feature(
    struct options_reader *reader, const yaml_event_t *event, const char *what);

/* `what` stands where a value of the row is allowed. */
enum kv_status reader_refuse_value(struct options_reader *reader,
    const struct option_row *row, const yaml_event_t *event, const char *what);

/* On KV_OK *event is to be deleted; otherwise there is none. */
enum kv_status reader_next(struct options_reader *reader, yaml_event_t *event);

/* What stands there instead of the one text that may, in words; else NULL. */
const char *reader_nonscalar(const yaml_event_t *event);
const char *reader_text(const yaml_event_t *event);
/* `name:` with nothing behind it, or what YAML calls the same. */
bool reader_is_null(const yaml_event_t *event);

/* The rules of YAML that a flag does not have: a number or a truth value in
 * quotes is a text, and 1 is a number. */
enum kv_status reader_check_scalar(struct options_reader *reader,
    const struct option_row *row, const yaml_event_t *event);

#endif
