/* Rows, their names in each form, and the check of a value. */
#include "server/options_table.h"

#include <inttypes.h>
#include <limits.h>
#include <stdio.h>
#include <string.h>

#include "base/utf8.h"

#define ROW_TEXT(field, standard, value, help)                                 \
    {#field, OPTION_TEXT, offsetof(struct options, field), standard, 0, 0,     \
        value, help},
#define ROW_LIST(field, standard, value, help)                                 \
    {#field, OPTION_LIST, offsetof(struct options, field), standard, 0, 0,     \
        value, help},
#define ROW_UINT(field, standard, least, most, unit, help)                     \
    {#field, OPTION_UINT, offsetof(struct options, field), #standard, least,   \
        most, unit, help},
#define ROW_BOOL(field, standard, help)                                        \
    {#field, OPTION_BOOL, offsetof(struct options, field), #standard, 0, 0,    \
        "true|false|1|0", help},
#define ROW_CHOICE(field, standard, choices, help)                             \
    {#field, OPTION_CHOICE, offsetof(struct options, field), standard, 0, 0,   \
        choices, help},
#define ROW_COMMAND(field, help)                                               \
    {#field, OPTION_COMMAND, offsetof(struct options, field), "false", 0, 0,   \
        "", help},

const struct option_row option_rows[N_OPTION_ROWS] = {SERVER_OPTIONS(
    ROW_TEXT, ROW_LIST, ROW_UINT, ROW_BOOL, ROW_CHOICE) ROW_TEXT(config, "",
    "FILE", "YAML file of options, weaker than flags and variables")
        SERVER_COMMANDS(ROW_COMMAND)};

/* ---- names */

static struct option_name name_of_flag(const char *field)
{
    struct option_name name;

    snprintf(name.text, sizeof name.text, "--%s", field);
    for (char *c = name.text; *c != '\0'; c++)
        *c = *c == '_' ? '-' : *c;
    return name;
}

static struct option_name name_of_variable(const char *field)
{
    struct option_name name;

    snprintf(name.text, sizeof name.text, OPTION_VARIABLE_PREFIX "%s", field);
    for (char *c = name.text; *c != '\0'; c++)
        *c = *c >= 'a' && *c <= 'z' ? (char)(*c - 'a' + 'A') : *c;
    return name;
}

struct option_name option_name(
    const struct option_row *row, enum option_form form)
{
    struct option_name name;

    if (form == OPTION_AS_FLAG)
        return name_of_flag(row->name);
    if (form == OPTION_AS_VARIABLE)
        return name_of_variable(row->name);
    snprintf(name.text, sizeof name.text, "%s", row->name);
    return name;
}

static bool has_form(const struct option_row *row, enum option_form form)
{
    if (form == OPTION_AS_KEY)
        return row < option_rows + N_OPTIONS;
    return form == OPTION_AS_FLAG || row->kind != OPTION_COMMAND;
}

const struct option_row *option_find(
    const char *given, size_t n, enum option_form form)
{
    for (size_t i = 0; i < N_OPTION_ROWS; i++) {
        struct option_name name = option_name(&option_rows[i], form);

        if (has_form(&option_rows[i], form) && strlen(name.text) == n &&
            memcmp(name.text, given, n) == 0)
            return &option_rows[i];
    }
    return NULL;
}

/* Levenshtein's. A name that is too long is far from any. */
int option_distance(const char *a, size_t n_a, const char *b)
{
    int row[OPTION_NAME_BYTES];
    size_t n_b = strlen(b);

    if (n_a >= OPTION_NAME_BYTES || n_b >= OPTION_NAME_BYTES)
        return INT_MAX;
    for (size_t j = 0; j <= n_b; j++)
        row[j] = (int)j;
    for (size_t i = 0; i < n_a; i++) {
        char c = a[i] == '-' ? '_' : a[i];
        int diagonal = row[0];

        if (c >= 'A' && c <= 'Z')
            c = (char)(c - 'A' + 'a');
        row[0] = (int)i + 1;
        for (size_t j = 0; j < n_b; j++) {
            int best = diagonal + (c != b[j]);

            best = row[j] + 1 < best ? row[j] + 1 : best;
            diagonal = row[j + 1];
            best = diagonal + 1 < best ? diagonal + 1 : best;
            row[j + 1] = best;
        }
    }
    return row[n_b];
}

/* The option whose name is most like the given one, or NULL if none is. */
static const struct option_row *nearest_row(
    const char *given, size_t n, enum option_form form)
{
    const struct option_row *nearest = NULL;
    int least = n / 3 < 2 ? 3 : (int)(n / 3) + 1;

    for (size_t i = 0; i < N_OPTION_ROWS; i++) {
        int distance = option_distance(given, n, option_rows[i].name);

        if (distance < least && has_form(&option_rows[i], form)) {
            least = distance;
            nearest = &option_rows[i];
        }
    }
    return nearest;
}

struct option_hint option_hint(
    const char *given, size_t n, enum option_form form)
{
    const struct option_row *nearest = nearest_row(given, n, form);
    struct option_hint hint = {";"};

    if (nearest != NULL)
        snprintf(hint.text, sizeof hint.text, "; did you mean %s?",
            option_name(nearest, form).text);
    return hint;
}

struct option_quote option_quote(const char *given, size_t n)
{
    struct option_quote quote;
    char *out = quote.text, *end = quote.text + sizeof quote.text - 8;

    *out++ = '"';
    for (size_t i = 0; i < n;) {
        int length = kv_utf8_length(given + i, n - i);

        if (out + 4 > end) {
            out = stpcpy(out, "...");
            break;
        }
        if (length > 0 && !kv_utf8_has_control(given + i, (size_t)length)) {
            memcpy(out, given + i, (size_t)length);
            out += length;
            i += (size_t)length;
        } else {
            out += sprintf(out, "\\x%02x", (unsigned char)given[i++]);
        }
    }
    strcpy(out, "\"");
    return quote;
}

/* ---- values */

void *option_field(const struct option_row *row, struct options *options)
{
    return (char *)options + row->offset;
}

static const void *const_field(
    const struct option_row *row, const struct options *options)
{
    return (const char *)options + row->offset;
}

bool option_is_text(const struct option_row *row)
{
    return row->kind == OPTION_TEXT || row->kind == OPTION_LIST ||
           row->kind == OPTION_CHOICE;
}

const char *option_text(
    const struct option_row *row, const struct options *options)
{
    return *(const char *const *)const_field(row, options);
}

const char *option_value_at(
    const struct option_row *row, const void *base, char number[24])
{
    const void *field = (const char *)base + row->offset;

    if (option_is_text(row))
        return *(const char *const *)field;
    if (row->kind != OPTION_UINT)
        return *(const bool *)field ? "true" : "false";
    snprintf(number, 24, "%" PRIu64, *(const uint64_t *)field);
    return number;
}

const char *option_value(const struct option_row *row,
    const struct options *options, char number[24])
{
    return option_value_at(row, options, number);
}

/* Decimal digits and nothing else; too large for 64 bits is false as well. */
static bool parse_uint(const char *text, uint64_t *out)
{
    uint64_t value = 0;

    if (*text == '\0')
        return false;
    for (; *text != '\0'; text++) {
        if (*text < '0' || *text > '9' ||
            __builtin_mul_overflow(value, (uint64_t)10, &value) ||
            __builtin_add_overflow(value, (uint64_t)(*text - '0'), &value))
            return false;
    }
    *out = value;
    return true;
}

static bool parse_bool(const char *text, bool *out)
{
    *out = strcmp(text, "true") == 0 || strcmp(text, "1") == 0;
    return *out || strcmp(text, "false") == 0 || strcmp(text, "0") == 0;
}

static bool is_choice(const char *choices, const char *text)
{
    size_t n = strlen(text);

    for (const char *choice = choices;; choice = strchr(choice, '|') + 1) {
        size_t length = strcspn(choice, "|");

        if (length == n && memcmp(choice, text, n) == 0)
            return true;
        if (choice[length] == '\0')
            return false;
    }
}

/* Each check_ refuses what is no value of the row. */
static enum kv_status check_uint(const struct option_row *row, const char *name,
    const char *given, uint64_t *value, struct kv_error *error)
{
    if (parse_uint(given, value) && *value >= row->least && *value <= row->most)
        return KV_OK;
    return kv_error_set(error, KV_INVALID,
        "%s: given %s, allowed is a decimal number from %" PRIu64
        " to %" PRIu64,
        name, option_quote(given, strlen(given)).text, row->least, row->most);
}

static enum kv_status check_word(const struct option_row *row, const char *name,
    const char *given, bool is_word, struct kv_error *error)
{
    if (is_word)
        return KV_OK;
    return kv_error_set(error, KV_INVALID, "%s: given %s, allowed is %s", name,
        option_quote(given, strlen(given)).text, row->value);
}

static enum kv_status check_text(const struct option_row *row, const char *name,
    const char *given, struct kv_error *error)
{
    size_t n = strlen(given);

    /* Where the default is empty, empty has a meaning. */
    if (n == 0 && row->standard[0] != '\0')
        return kv_error_set(error, KV_INVALID,
            "%s: given \"\", allowed is %s: %s", name, row->value, row->help);
    if (kv_utf8_valid(given, n) && !kv_utf8_has_control(given, n))
        return KV_OK;
    return kv_error_set(error, KV_INVALID,
        "%s: given %s, allowed is UTF-8 without control characters", name,
        option_quote(given, n).text);
}

/* What a given text means; which member counts is the row's to say. */
struct value {
    uint64_t number;
    bool on;
    const char *text;
};

static enum kv_status read_value(struct value *value,
    const struct option_row *row, const char *name, const char *given,
    struct kv_error *error)
{
    value->text = given;
    switch (row->kind) {
    case OPTION_UINT:
        return check_uint(row, name, given, &value->number, error);
    case OPTION_BOOL:
    case OPTION_COMMAND:
        return check_word(
            row, name, given, parse_bool(given, &value->on), error);
    case OPTION_CHOICE:
        return check_word(
            row, name, given, is_choice(row->value, given), error);
    case OPTION_TEXT:
    case OPTION_LIST:
        break;
    }
    return check_text(row, name, given, error);
}

static void store(
    void *base, const struct option_row *row, const struct value *value)
{
    void *field = (char *)base + row->offset;

    if (row->kind == OPTION_UINT)
        *(uint64_t *)field = value->number;
    else if (option_is_text(row))
        *(const char **)field = value->text;
    else
        *(bool *)field = value->on;
}

enum kv_status option_read(void *base, const struct option_row *row,
    const char *name, const char *given, struct kv_error *error)
{
    struct value value = {0};
    enum kv_status status = read_value(&value, row, name, given, error);

    if (status == KV_OK)
        store(base, row, &value);
    return status;
}

/* Of two flags or variables one would be lost; a file says that with its place.
 */
static enum kv_status refuse_second(const struct options *options,
    const struct option_row *row, const char *name, const char *given,
    struct kv_error *error)
{
    char number[24];
    const char *first = option_value(row, options, number);

    return kv_error_set(error, KV_INVALID,
        "%s: given twice, as %s and as %s; allowed is one%s", name,
        option_quote(first, strlen(first)).text,
        option_quote(given, strlen(given)).text,
        row->kind == OPTION_LIST ? ", with commas in it" : "");
}

enum kv_status option_set(struct options *options, const struct option_row *row,
    struct option_origin origin, const char *name, const char *given,
    struct kv_error *error)
{
    struct option_origin *present = &options->origins[row - option_rows];
    struct value value = {0};
    enum kv_status status = read_value(&value, row, name, given, error);

    if (status != KV_OK || present->source > origin.source)
        return status;
    if (present->source == origin.source && origin.source > OPTION_FILE)
        return refuse_second(options, row, name, given, error);
    *present = origin;
    store(options, row, &value);
    return KV_OK;
}
