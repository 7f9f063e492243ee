#include "cli/option.h"

#include <assert.h>
#include <inttypes.h>
#include <string.h>

#include "base/utf8.h"
#include "cli/text.h"

#define HELP_COLUMN 30

bool option_is(const char *arg)
{
    return arg[0] == '-' && arg[1] != '\0';
}

static const struct option_spec *find_in(
    const struct option_table *table, const char *name, size_t n_name)
{
    for (size_t i = 0; i < table->n; i++) {
        const struct option_spec *spec = &table->specs[i];

        if (strlen(spec->name) == n_name &&
            memcmp(spec->name, name, n_name) == 0)
            return spec;
    }
    return NULL;
}

static const struct option_spec *find_letter(
    const struct option_table *table, char letter)
{
    for (size_t i = 0; i < table->n; i++)
        if (table->specs[i].letter == letter)
            return &table->specs[i];
    return NULL;
}

/* The option that arg means. *value is what follows within arg, or NULL. */
static const struct option_spec *find(const struct option_table *tables,
    size_t n_tables, const char *arg, const char **value)
{
    const struct option_spec *spec = NULL;
    size_t n_name = strcspn(arg, "=");

    *value = NULL;
    if (arg[1] == '-') {
        for (size_t i = 0; i < n_tables && spec == NULL; i++)
            spec = find_in(&tables[i], arg + 2, n_name - 2);
        if (arg[n_name] == '=')
            *value = arg + n_name + 1;
        return spec;
    }
    for (size_t i = 0; i < n_tables && spec == NULL; i++)
        spec = find_letter(&tables[i], arg[1]);
    if (arg[2] != '\0')
        *value = arg + 2;
    return spec;
}

enum kv_status option_check_text(const char *what, const char *text,
    size_t n_bytes, uint64_t min, uint64_t max, bool is_name,
    struct kv_error *error)
{
    if (!kv_utf8_valid(text, n_bytes))
        return kv_error_set(error, KV_INVALID, "%s: not UTF-8", what);
    if (memchr(text, '\0', n_bytes) != NULL)
        return kv_error_set(
            error, KV_INVALID, "%s: the character U+0000 is not allowed", what);
    if (n_bytes < min || n_bytes > max)
        return kv_error_set(error, KV_INVALID,
            "%s: %zu bytes given, %" PRIu64 " to %" PRIu64 " allowed", what,
            n_bytes, min, max);
    if (is_name && kv_utf8_has_control(text, n_bytes))
        return kv_error_set(
            error, KV_INVALID, "%s: control characters are not allowed", what);
    return KV_OK;
}

static enum kv_status store_text(const struct option_spec *spec,
    const char *what, const char *value, void *place, struct kv_error *error)
{
    enum kv_status status = option_check_text(what, value, strlen(value),
        spec->min, spec->max, spec->kind == OPTION_NAME, error);
    struct option_list *list = place;

    if (status != KV_OK)
        return status;
    if (spec->max_times == 0) {
        *(const char **)place = value;
        return KV_OK;
    }
    assert(spec->max_times <= OPTION_LIST_MAX);
    if (list->n == spec->max_times)
        return kv_error_set(error, KV_INVALID, "%s: given more than %zu times",
            what, spec->max_times);
    list->items[list->n++] = value;
    return KV_OK;
}

static enum kv_status store_choice(const struct option_spec *spec,
    const char *what, const char *value, int *place, struct kv_error *error)
{
    const char *choice = spec->value;

    for (int nth = spec->first_choice;; nth++) {
        size_t n = strcspn(choice, "|");

        if (strlen(value) == n && memcmp(choice, value, n) == 0) {
            *place = nth;
            return KV_OK;
        }
        if (choice[n] == '\0')
            break;
        choice += n + 1;
    }
    return kv_error_set(error, KV_INVALID, "%s: \"%s\" given, %s allowed", what,
        text_name(value).s, spec->value);
}

static enum kv_status store_real(const struct option_spec *spec,
    const char *what, const char *value, double *place, struct kv_error *error)
{
    const double most = (double)spec->max;
    const double least =
        spec->kind == OPTION_SIGNED ? -most : (double)spec->min;
    double real;

    if (!text_parse_real(value, &real) || real < least || real > most)
        return kv_error_set(error, KV_INVALID,
            "%s: \"%s\" given, a number from %g to %g allowed", what,
            text_name(value).s, least, most);
    *place = real;
    return KV_OK;
}

static enum kv_status store_count(const struct option_spec *spec,
    const char *what, const char *value, uint64_t *place,
    struct kv_error *error)
{
    uint64_t count;

    if (!text_parse_count(value, spec->max, &count) || count < spec->min)
        return kv_error_set(error, KV_INVALID,
            "%s: \"%s\" given, a whole number from %" PRIu64 " to %" PRIu64
            " allowed",
            what, text_name(value).s, spec->min, spec->max);
    *place = count;
    return KV_OK;
}

static enum kv_status store_duration(
    const char *what, const char *value, int64_t *place, struct kv_error *error)
{
    if (text_parse_duration(value, place))
        return KV_OK;
    return kv_error_set(error, KV_INVALID,
        "%s: \"%s\" given, a whole number with ns, us, ms, s, m or h "
        "allowed, as 500ms",
        what, text_name(value).s);
}

static enum kv_status store_set_duration(const char *what, const char *value,
    struct option_duration *place, struct kv_error *error)
{
    place->given = true;
    return store_duration(what, value, &place->ns, error);
}

static enum kv_status store_set_count(const struct option_spec *spec,
    const char *what, const char *value, struct option_number *place,
    struct kv_error *error)
{
    place->given = true;
    return store_count(spec, what, value, &place->n, error);
}

static enum kv_status store(const struct option_spec *spec, const char *value,
    struct option_values *values, struct kv_error *error)
{
    void *place = (char *)values + spec->offset;
    char what[64];

    snprintf(what, sizeof what, "--%s", spec->name);
    switch (spec->kind) {
    case OPTION_FLAG:
        *(bool *)place = true;
        return KV_OK;
    case OPTION_NAME:
    case OPTION_TEXT:
        return store_text(spec, what, value, place, error);
    case OPTION_COUNT:
        return store_count(spec, what, value, place, error);
    case OPTION_REAL:
    case OPTION_SIGNED:
        return store_real(spec, what, value, place, error);
    case OPTION_CHOICE:
        return store_choice(spec, what, value, place, error);
    case OPTION_DURATION:
        return store_duration(what, value, place, error);
    case OPTION_SET_DURATION:
        return store_set_duration(what, value, place, error);
    case OPTION_SET_COUNT:
        return store_set_count(spec, what, value, place, error);
    }
    assert(false);
    return KV_INVALID;
}

enum kv_status option_parse(const struct option_table *tables, size_t n_tables,
    char *const *args, size_t n_args, size_t *at, struct option_values *values,
    struct kv_error *error)
{
    const char *arg = args[*at], *value;
    const struct option_spec *spec = find(tables, n_tables, arg, &value);
    size_t n_used = 1;

    if (spec == NULL)
        return kv_error_set(
            error, KV_NOT_FOUND, "%s: no such option", text_name(arg).s);
    if (spec->kind == OPTION_FLAG && value != NULL)
        return kv_error_set(
            error, KV_INVALID, "--%s: takes no value", spec->name);
    if (spec->kind != OPTION_FLAG && value == NULL) {
        if (*at + 1 == n_args)
            return kv_error_set(error, KV_INVALID,
                "--%s: its value is missing, as in --%s %s", spec->name,
                spec->name, spec->value);
        value = args[*at + 1];
        n_used = 2;
    }
    *at += n_used;
    return store(spec, value, values, error);
}

void option_help_line(FILE *out, const char *left, const char *help)
{
    size_t n_left = strlen(left);
    size_t n = strcspn(help, "\n");

    if (n_left + 3 > HELP_COLUMN)
        fprintf(out, "  %s\n%*s%.*s\n", left, HELP_COLUMN, "", (int)n, help);
    else
        fprintf(out, "  %-*s%.*s\n", HELP_COLUMN - 2, left, (int)n, help);
    while (help[n] == '\n') {
        help += n + 1;
        n = strcspn(help, "\n");
        fprintf(out, "%*s%.*s\n", HELP_COLUMN, "", (int)n, help);
    }
}

void option_help(FILE *out, const struct option_table *table)
{
    for (size_t i = 0; i < table->n; i++) {
        const struct option_spec *spec = &table->specs[i];
        char left[96], letter[8] = "    ";

        if (spec->letter != '\0')
            snprintf(letter, sizeof letter, "-%c, ", spec->letter);
        snprintf(left, sizeof left, "%s--%s%s%s", letter, spec->name,
            spec->value != NULL ? " " : "",
            spec->value != NULL ? spec->value : "");
        option_help_line(out, left, spec->help);
    }
}
