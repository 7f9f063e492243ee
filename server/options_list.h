/* Lists of maps in a configuration file, whose key was taken:
 *
 *     sinks:
 *       - name: audit        an entry: pairs of a name and a single value,
 *         kind: file         in any order, each name once
 *
 * An entry's events are gathered first and read then, by whoever knows what
 * they mean.
 *
 * Private to server/options*.c. */
#ifndef SERVER_OPTIONS_LIST_H
#define SERVER_OPTIONS_LIST_H

#include "server/options_reader.h"

enum { OPTIONS_LIST_MAX_PAIRS = 34 };

struct options_entry {
    yaml_mark_t mark; /* where it begins */
    struct {
        yaml_event_t key, value; /* texts without a NUL: keys; values: any */
    } pairs[OPTIONS_LIST_MAX_PAIRS];
    size_t n_pairs;
};

/* `kind` stands for the list in messages: its key, and what it should be. */
struct options_list_kind {
    const char *key, *allowed;
    enum kv_status (*take)(
        struct options_reader *reader, const struct options_entry *entry);
};

/* Takes the list that comes next, an entry after the other, each borrowed for
 * the call. */
enum kv_status options_list_take(
    struct options_reader *reader, const struct options_list_kind *kind);

/* The value with this key, and its key unless that is NULL; NULL if there is
 * none. */
const yaml_event_t *options_entry_find(const struct options_entry *entry,
    const char *key, const yaml_event_t **key_event);

/* For a complaint about an entry, or about one of its values. */
struct option_row options_entry_row(const char *name, const char *allowed);
enum kv_status options_entry_refuse_missing(struct options_reader *reader,
    const struct options_entry *entry, const char *name, const char *needed);

/* Names in a line, with a comma of the caller's between. */
struct options_names {
    char text[512];
};
void options_names_add(
    struct options_names *names, const char *name, const char *comma);

#endif
