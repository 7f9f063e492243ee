/* How values reach struct options:
 *
 *     table ---> struct options (defaults, borrowed texts)
 *                  ^ KVPOOL_* of the environment, then flags, one value each
 *                  |
 *                options_own_texts: one allocation that all texts move into
 *
 * Until the last step everything is borrowed, so that a failure has nothing to
 * undo and the caller's struct is written once, at the end. */
#include "server/options.h"

#include <inttypes.h>
#include <stddef.h>
#include <stdio.h>
#include <string.h>

#include <openssl/evp.h>

#include "base/heap.h"
#include "base/utf8.h"

enum option_kind { OPTION_TEXT, OPTION_UINT, OPTION_BOOL, OPTION_CHOICE };

struct option_row {
    const char *name; /* as the field: kv_cache_size_mb */
    enum option_kind kind;
    size_t offset; /* of the field in struct options */
    const char *standard;
    uint64_t least, most; /* UINT */
    const char *value;    /* TEXT: what --help calls it; UINT: its unit;
                             CHOICE: a|b|c */
    const char *help;
};

#define ROW_TEXT(field, standard, value, help)                                 \
    {#field, OPTION_TEXT, offsetof(struct options, field), standard, 0, 0,     \
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

static const struct option_row rows[] = {
    SERVER_OPTIONS(ROW_TEXT, ROW_UINT, ROW_BOOL, ROW_CHOICE)};

enum {
    N_ROWS = sizeof rows / sizeof *rows,
    NAME_BYTES = 64,  /* of a name in one of its forms, NUL included */
    QUOTE_BYTES = 96, /* of a given value in a message */
    HELP_COLUMN = 32,
};

#define ENVIRONMENT_PREFIX "KVPOOL_"

/* A name in the form of a flag or of a variable, to be shown. */
struct name {
    char text[NAME_BYTES];
};

static struct name name_of_flag(const char *field)
{
    struct name name;

    snprintf(name.text, sizeof name.text, "--%s", field);
    for (char *c = name.text; *c != '\0'; c++)
        *c = *c == '_' ? '-' : *c;
    return name;
}

static struct name name_of_variable(const char *field)
{
    struct name name;

    snprintf(name.text, sizeof name.text, ENVIRONMENT_PREFIX "%s", field);
    for (char *c = name.text; *c != '\0'; c++)
        *c = *c >= 'a' && *c <= 'z' ? (char)(*c - 'a' + 'A') : *c;
    return name;
}

/* A given text in quotes, for a message of one line: cut where it is long,
 * bytes that are no printable UTF-8 as \xNN. */
struct quote {
    char text[QUOTE_BYTES];
};

static struct quote quote_text(const char *given, size_t n)
{
    struct quote quote;
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

/* Edits that turn a into b (Levenshtein), '-' and '_' and both cases alike;
 * both shorter than NAME_BYTES. */
static int name_distance(const char *a, size_t n_a, const char *b)
{
    int row[NAME_BYTES];
    size_t n_b = strlen(b);

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
static const struct option_row *nearest_row(const char *given, size_t n)
{
    const struct option_row *nearest = NULL;
    int least = n / 3 < 2 ? 3 : (int)(n / 3) + 1;

    if (n >= NAME_BYTES)
        return NULL;
    for (size_t i = 0; i < N_ROWS; i++) {
        int distance = name_distance(given, n, rows[i].name);

        if (distance < least) {
            least = distance;
            nearest = &rows[i];
        }
    }
    return nearest;
}

static const struct option_row *find_row(const char *given, size_t n, char dash)
{
    for (size_t i = 0; i < N_ROWS; i++) {
        struct name name = dash == '-' ? name_of_flag(rows[i].name)
                                       : name_of_variable(rows[i].name);

        if (strlen(name.text) == n && memcmp(name.text, given, n) == 0)
            return &rows[i];
    }
    return NULL;
}

static enum kv_status refuse_unknown(const char *given, size_t n, char dash,
    const struct option_row *nearest, struct kv_error *error)
{
    const char *what = dash == '-' ? "option" : "environment variable";
    struct quote quote = quote_text(given, n);
    struct name name;

    if (nearest == NULL)
        return kv_error_set(error, KV_INVALID,
            "unknown %s %s; --help lists what is allowed", what, quote.text);
    name = dash == '-' ? name_of_flag(nearest->name)
                       : name_of_variable(nearest->name);
    return kv_error_set(error, KV_INVALID,
        "unknown %s %s; did you mean %s? --help lists what is allowed", what,
        quote.text, name.text);
}

static void *field_of(const struct option_row *row, struct options *options)
{
    return (char *)options + row->offset;
}

static const char *text_of(
    const struct option_row *row, const struct options *options)
{
    return *(
        const char *const *)(const void *)((const char *)options + row->offset);
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

static enum kv_status set_uint(struct options *options,
    const struct option_row *row, const char *name, const char *given,
    struct kv_error *error)
{
    uint64_t value;

    if (!parse_uint(given, &value) || value < row->least || value > row->most)
        return kv_error_set(error, KV_INVALID,
            "%s: given %s, allowed is a decimal number from %" PRIu64
            " to %" PRIu64,
            name, quote_text(given, strlen(given)).text, row->least, row->most);
    *(uint64_t *)field_of(row, options) = value;
    return KV_OK;
}

static enum kv_status set_bool(struct options *options,
    const struct option_row *row, const char *name, const char *given,
    struct kv_error *error)
{
    bool value;

    if (!parse_bool(given, &value))
        return kv_error_set(error, KV_INVALID, "%s: given %s, allowed is %s",
            name, quote_text(given, strlen(given)).text, row->value);
    *(bool *)field_of(row, options) = value;
    return KV_OK;
}

static enum kv_status set_choice(struct options *options,
    const struct option_row *row, const char *name, const char *given,
    struct kv_error *error)
{
    if (!is_choice(row->value, given))
        return kv_error_set(error, KV_INVALID, "%s: given %s, allowed is %s",
            name, quote_text(given, strlen(given)).text, row->value);
    *(const char **)field_of(row, options) = given;
    return KV_OK;
}

static enum kv_status set_text(struct options *options,
    const struct option_row *row, const char *name, const char *given,
    struct kv_error *error)
{
    size_t n = strlen(given);

    /* Where the default is empty, empty has a meaning. */
    if (n == 0 && row->standard[0] != '\0')
        return kv_error_set(error, KV_INVALID,
            "%s: given \"\", allowed is %s: %s", name, row->value, row->help);
    if (!kv_utf8_valid(given, n) || kv_utf8_has_control(given, n))
        return kv_error_set(error, KV_INVALID,
            "%s: given %s, allowed is UTF-8 without control characters", name,
            quote_text(given, n).text);
    *(const char **)field_of(row, options) = given;
    return KV_OK;
}

/* name is the flag or variable that given came with. */
static enum kv_status set_value(struct options *options,
    const struct option_row *row, const char *name, const char *given,
    struct kv_error *error)
{
    switch (row->kind) {
    case OPTION_UINT:
        return set_uint(options, row, name, given, error);
    case OPTION_BOOL:
        return set_bool(options, row, name, given, error);
    case OPTION_CHOICE:
        return set_choice(options, row, name, given, error);
    case OPTION_TEXT:
        break;
    }
    return set_text(options, row, name, given, error);
}

static enum kv_status set_standards(
    struct options *options, struct kv_error *error)
{
    enum kv_status status = KV_OK;

    for (size_t i = 0; i < N_ROWS && status == KV_OK; i++)
        status =
            set_value(options, &rows[i], rows[i].name, rows[i].standard, error);
    return status;
}

/* Variables that bear our prefix and are somebody else's: those of our client
 * and our tests, and what Kubernetes gives every container for a Service named
 * kvpool or kvpool-...: KVPOOL_SERVICE_HOST, KVPOOL_SERVICE_PORT[_NAME],
 * KVPOOL_PORT=tcp://..., KVPOOL_PORT_7440_TCP[_ADDR, _PORT, _PROTO]. */
static bool is_foreign(const char *variable, size_t n)
{
    static const char *const known[] = {"KVPOOL_SERVER", "KVPOOL_MODELS"};
    const char *port = strstr(variable, "_PORT");

    for (size_t i = 0; i < sizeof known / sizeof *known; i++) {
        if (strlen(known[i]) == n && memcmp(variable, known[i], n) == 0)
            return true;
    }
    if (memmem(variable, n, "_SERVICE_HOST", 13) != NULL ||
        memmem(variable, n, "_SERVICE_PORT", 13) != NULL)
        return true;
    if (port == NULL || port >= variable + n)
        return false;
    return (port[5] == '=' && strstr(port, "://") != NULL) ||
           (port[5] == '_' && port[6] >= '0' && port[6] <= '9');
}

static enum kv_status take_environment(struct options *options,
    const char *const *environment, struct kv_error *error)
{
    const size_t n_prefix = sizeof ENVIRONMENT_PREFIX - 1;
    enum kv_status status = KV_OK;

    for (; *environment != NULL && status == KV_OK; environment++) {
        const char *variable = *environment;
        size_t n = strcspn(variable, "=");
        const struct option_row *row;

        if (strncmp(variable, ENVIRONMENT_PREFIX, n_prefix) != 0 ||
            variable[n] == '\0')
            continue;
        row = find_row(variable, n, '_');
        if (row != NULL)
            status = set_value(options, row, name_of_variable(row->name).text,
                variable + n + 1, error);
        else if (!is_foreign(variable, n))
            status = refuse_unknown(variable, n, '_',
                nearest_row(variable + n_prefix, n - n_prefix), error);
    }
    return status;
}

/* --no-name, where name is a BOOL. */
static const struct option_row *find_negated(const char *flag, size_t n)
{
    struct name name;
    const struct option_row *row;

    if (n >= NAME_BYTES || n < 5 || memcmp(flag, "--no-", 5) != 0)
        return NULL;
    snprintf(name.text, sizeof name.text, "--%.*s", (int)n - 5, flag + 5);
    row = find_row(name.text, strlen(name.text), '-');
    return row != NULL && row->kind == OPTION_BOOL ? row : NULL;
}

static enum kv_status refuse_flag(
    const char *flag, size_t n, struct kv_error *error)
{
    bool negated = n > 5 && memcmp(flag, "--no-", 5) == 0;
    size_t n_dashes = negated ? 5 : strspn(flag, "-");

    n_dashes = n_dashes < n ? n_dashes : n;
    return refuse_unknown(
        flag, n, '-', nearest_row(flag + n_dashes, n - n_dashes), error);
}

/* The flag at argv[0]; *n_taken is how many of argc arguments it is. */
static enum kv_status take_flag(struct options *options, int argc,
    const char *const *argv, int *n_taken, struct kv_error *error)
{
    const char *flag = argv[0];
    size_t n = strcspn(flag, "=");
    const struct option_row *row = find_row(flag, n, '-');
    bool negated = row == NULL && (row = find_negated(flag, n)) != NULL;
    struct name name;

    *n_taken = 1;
    if (row == NULL)
        return refuse_flag(flag, n, error);
    name = name_of_flag(row->name);
    if (negated && flag[n] == '=')
        return kv_error_set(error, KV_INVALID,
            "--no-%s: given %s, allowed is no value", name.text + 2,
            quote_text(flag + n + 1, strlen(flag + n + 1)).text);
    if (flag[n] == '=')
        return set_value(options, row, name.text, flag + n + 1, error);
    if (row->kind == OPTION_BOOL)
        return set_value(
            options, row, name.text, negated ? "false" : "true", error);
    if (argc < 2 || strncmp(argv[1], "--", 2) == 0)
        return kv_error_set(error, KV_INVALID,
            "%s: no value given, needed is %s=%s", name.text, name.text,
            row->kind == OPTION_UINT ? "NUMBER" : row->value);
    *n_taken = 2;
    return set_value(options, row, name.text, argv[1], error);
}

static enum kv_status refuse_argument(const char *given, struct kv_error *error)
{
    return kv_error_set(error, KV_INVALID,
        "unexpected argument %s; allowed are only --name=value and --name "
        "value, a switch is --name or --no-name",
        quote_text(given, strlen(given)).text);
}

static enum kv_status take_flags(struct options *options, int argc,
    const char *const *argv, struct kv_error *error)
{
    enum kv_status status = KV_OK;
    int n_taken;

    for (int i = 0; i < argc && status == KV_OK; i += n_taken) {
        n_taken = 1;
        if (strcmp(argv[i], "--") == 0)
            return i + 1 == argc ? KV_OK : refuse_argument(argv[i + 1], error);
        if (argv[i][0] == '-' && argv[i][1] != '\0')
            status = take_flag(options, argc - i, argv + i, &n_taken, error);
        else
            status = refuse_argument(argv[i], error);
    }
    return status;
}

/* Whoever asks for help gets it, whatever else is wrong. */
static bool asks_for(const char *flag, int argc, const char *const *argv)
{
    for (int i = 0; i < argc && strcmp(argv[i], "--") != 0; i++) {
        if (strcmp(argv[i], flag) == 0)
            return true;
    }
    return false;
}

static bool is_string(const struct option_row *row)
{
    return row->kind == OPTION_TEXT || row->kind == OPTION_CHOICE;
}

/* Copies the texts, which are borrowed until now, into storage of our own. */
static enum kv_status own_texts(struct options *options, struct kv_error *error)
{
    size_t n_bytes = 0;
    char *out;

    for (size_t i = 0; i < N_ROWS; i++) {
        if (is_string(&rows[i]))
            n_bytes += strlen(text_of(&rows[i], options)) + 1;
    }
    options->storage = kv_calloc(n_bytes, 1);
    if (options->storage == NULL)
        return kv_error_set(error, KV_NO_MEMORY, "options: out of memory");
    out = options->storage;
    for (size_t i = 0; i < N_ROWS; i++) {
        const char *text;

        if (!is_string(&rows[i]))
            continue;
        text = text_of(&rows[i], options);
        *(const char **)field_of(&rows[i], options) = out;
        out = stpcpy(out, text) + 1;
    }
    return KV_OK;
}

enum kv_status options_parse(struct options *options, int argc,
    const char *const *argv, const char *const *environment,
    struct kv_error *error)
{
    struct options parsed = {0};
    enum kv_status status = set_standards(&parsed, error);
    int n_flags = argc > 0 ? argc - 1 : 0;
    const char *const *flags = argc > 0 ? argv + 1 : argv;

    parsed.help = asks_for("--help", n_flags, flags);
    parsed.version = asks_for("--version", n_flags, flags);
    if (!parsed.help && !parsed.version) {
        if (status == KV_OK)
            status = take_environment(&parsed, environment, error);
        if (status == KV_OK)
            status = take_flags(&parsed, n_flags, flags, error);
    }
    if (status == KV_OK)
        status = own_texts(&parsed, error);
    if (status == KV_OK)
        *options = parsed;
    return status;
}

void options_fini(struct options *options)
{
    kv_free(options->storage);
    *options = (struct options){0};
}

static void print_flag(const struct option_row *row)
{
    struct name name = name_of_flag(row->name);
    const char *value = row->kind == OPTION_UINT ? "N" : row->value;
    int n;

    if (row->kind == OPTION_BOOL)
        n = printf("  %s", name.text);
    else
        n = printf("  %s=%s", name.text, value);
    if (n >= HELP_COLUMN) {
        putchar('\n');
        n = 0;
    }
    printf("%*s%s\n", HELP_COLUMN - n, "", row->help);
}

static void print_values(const struct option_row *row)
{
    printf("%*s", HELP_COLUMN, "");
    if (row->kind == OPTION_UINT)
        printf("%" PRIu64 " to %" PRIu64 "%s%s, ", row->least, row->most,
            row->value[0] == '\0' ? "" : " ", row->value);
    printf("default %s; %s\n",
        row->standard[0] == '\0' ? "empty" : row->standard,
        name_of_variable(row->name).text);
}

void options_print_help(void)
{
    puts("kvpoold serves a language model over gRPC. Its KV cache is a pool "
         "that can be watched\n"
         "and steered, and that leaves a receipt of everything it gives up.\n"
         "\n"
         "Usage: kvpoold [OPTION]...\n"
         "\n"
         "Each option is --name=value or --name value, a switch --name or "
         "--no-name; or it is a variable in\n"
         "the environment. Flags win.\n");
    for (size_t i = 0; i < N_ROWS; i++) {
        print_flag(&rows[i]);
        print_values(&rows[i]);
    }
    printf("  %-*sthis text\n", HELP_COLUMN - 2, "--help");
    printf("  %-*sthe version\n", HELP_COLUMN - 2, "--version");
    puts("\nExit code: 0 after an orderly stop, 78 for a bad configuration, "
         "1 for any other failure.");
}

static bool digest_text(EVP_MD_CTX *context, const char *text)
{
    /* With its NUL, so that no two lists of values hash alike. */
    return EVP_DigestUpdate(context, text, strlen(text) + 1) == 1;
}

static bool digest_row(EVP_MD_CTX *context, const struct option_row *row,
    const struct options *options)
{
    const void *field = (const char *)options + row->offset;
    char number[24];
    const char *value = number;

    if (is_string(row))
        value = text_of(row, options);
    else if (row->kind == OPTION_BOOL)
        value = *(const bool *)field ? "true" : "false";
    else
        snprintf(number, sizeof number, "%" PRIu64, *(const uint64_t *)field);
    return digest_text(context, row->name) && digest_text(context, value);
}

void options_digest(const struct options *options, uint8_t digest[32])
{
    EVP_MD_CTX *context = EVP_MD_CTX_new();
    bool ok =
        context != NULL && EVP_DigestInit_ex(context, EVP_sha256(), NULL) == 1;

    for (size_t i = 0; i < N_ROWS && ok; i++)
        ok = digest_row(context, &rows[i], options);
    if (!ok || EVP_DigestFinal_ex(context, digest, NULL) != 1)
        memset(digest, 0, 32);
    EVP_MD_CTX_free(context);
}
