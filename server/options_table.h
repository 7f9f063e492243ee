/* The table of options.h as rows that code can walk, and one door for values.
 *
 *   file ──────┐
 *   variables ─┼─> option_find ─> option_set ─> struct options
 *   flags ─────┘    (a name)      (a text)
 *
 * Private to server/options*.c. */
#ifndef SERVER_OPTIONS_TABLE_H
#define SERVER_OPTIONS_TABLE_H

#include <stddef.h>

#include "server/options.h"

enum option_kind {
    OPTION_TEXT,
    OPTION_LIST,
    OPTION_UINT,
    OPTION_BOOL,
    OPTION_CHOICE,
    OPTION_COMMAND,
};

struct option_row {
    const char *name; /* as the field: kv_cache_size_mb */
    enum option_kind kind;
    size_t offset; /* of the field in struct options */
    const char *standard;
    uint64_t least, most; /* UINT */
    const char *value;    /* TEXT, LIST: what --help calls it; UINT: its unit;
                             CHOICE, BOOL: a|b|c */
    const char *help;
};

/* The first N_OPTIONS are those of SERVER_OPTIONS. */
extern const struct option_row option_rows[N_OPTION_ROWS];

/* How a name is written. Not every row has each form: config and the commands
 * are no keys of a file, the commands no variables. */
enum option_form {
    OPTION_AS_FLAG,     /* --kv-cache-size-mb */
    OPTION_AS_VARIABLE, /* KVPOOL_KV_CACHE_SIZE_MB */
    OPTION_AS_KEY,      /* kv_cache_size_mb */
};

#define OPTION_VARIABLE_PREFIX "KVPOOL_"

enum { OPTION_NAME_BYTES = 64 }; /* of a name in any form, NUL included */

struct option_name {
    char text[OPTION_NAME_BYTES];
};

struct option_name option_name(
    const struct option_row *row, enum option_form form);

/* The row that has exactly this name of n bytes in this form, or NULL. */
const struct option_row *option_find(
    const char *given, size_t n, enum option_form form);

/* How a message about an unknown name goes on: "; did you mean --threads?", or
 * ";" if no name is near the given one, whose prefix (--, KVPOOL_) is left out.
 */
struct option_hint {
    char text[OPTION_NAME_BYTES + 24];
};

struct option_hint option_hint(
    const char *given, size_t n, enum option_form form);

/* Edits that turn the given name into b, '-' and '_' and both cases alike. */
int option_distance(const char *given, size_t n, const char *b);

/* A given text in quotes, for a message of one line: cut where it is long,
 * bytes that are no printable UTF-8 as \xNN. */
struct option_quote {
    char text[96];
};

struct option_quote option_quote(const char *given, size_t n);

/* Checks the given text and makes it the row's value, unless a stronger source
 * has set one; the same source, but for a file, sets it once. name is what
 * messages call it. given is borrowed by *options. KV_INVALID. */
enum kv_status option_set(struct options *options, const struct option_row *row,
    struct option_origin origin, const char *name, const char *given,
    struct kv_error *error);

/* The same for a row of another struct than struct options, which is at base.
 */
enum kv_status option_read(void *base, const struct option_row *row,
    const char *name, const char *given, struct kv_error *error);
const char *option_value_at(
    const struct option_row *row, const void *base, char number[24]);

/* Whether the field is a const char *. */
bool option_is_text(const struct option_row *row);

void *option_field(const struct option_row *row, struct options *options);
const char *option_text(
    const struct option_row *row, const struct options *options);

/* The value as text; a number's is written to number, of 24 bytes. */
const char *option_value(const struct option_row *row,
    const struct options *options, char number[24]);

#endif
