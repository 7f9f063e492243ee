/* How values reach struct options:
 *
 *     table ---> struct options (defaults, borrowed texts)
 *                  ^ KVPOOL_* of the environment, then flags, then the file:
 *                  | one value each, kept if no stronger source has set one
 *                options_own_texts: one allocation that all texts move into
 *
 * The file comes last because flags and environment name it. Until the last
 * step everything is borrowed, so that a failure has nothing to undo and the
 * caller's struct is written once, at the end. */
#include "server/options_table.h"

#include <stdio.h>
#include <string.h>

#include <openssl/evp.h>

#include "base/heap.h"
#include "server/options_file.h"
#include "server/options_sinks.h"
#include "server/options_tenants.h"

static const struct option_origin by_default = {OPTION_DEFAULT, 0};
static const struct option_origin by_variable = {OPTION_VARIABLE, 0};
static const struct option_origin by_flag = {OPTION_FLAG, 0};

static struct option_quote quote_text(const char *given)
{
    return option_quote(given, strlen(given));
}

/* n_prefix bytes of given are no part of a name. */
static enum kv_status refuse_unknown(const char *given, size_t n,
    size_t n_prefix, enum option_form form, struct kv_error *error)
{
    return kv_error_set(error, KV_INVALID,
        "unknown %s %s%s --help lists what is allowed",
        form == OPTION_AS_FLAG ? "option" : "environment variable",
        option_quote(given, n).text,
        option_hint(given + n_prefix, n - n_prefix, form).text);
}

static enum kv_status set_standards(
    struct options *options, struct kv_error *error)
{
    enum kv_status status = KV_OK;

    for (size_t i = 0; i < N_OPTION_ROWS && status == KV_OK; i++)
        status = option_set(options, &option_rows[i], by_default,
            option_rows[i].name, option_rows[i].standard, error);
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
    const size_t n_prefix = sizeof OPTION_VARIABLE_PREFIX - 1;
    enum kv_status status = KV_OK;

    for (; *environment != NULL && status == KV_OK; environment++) {
        const char *variable = *environment;
        size_t n = strcspn(variable, "=");
        const struct option_row *row;

        if (strncmp(variable, OPTION_VARIABLE_PREFIX, n_prefix) != 0 ||
            variable[n] == '\0')
            continue;
        row = option_find(variable, n, OPTION_AS_VARIABLE);
        if (row != NULL)
            status = option_set(options, row, by_variable,
                option_name(row, OPTION_AS_VARIABLE).text, variable + n + 1,
                error);
        else if (!is_foreign(variable, n))
            status = refuse_unknown(
                variable, n, n_prefix, OPTION_AS_VARIABLE, error);
    }
    return status;
}

/* --no-name, where name is a BOOL. */
static const struct option_row *find_negated(const char *flag, size_t n)
{
    struct option_name name;
    const struct option_row *row;

    if (n >= sizeof name.text || n < 5 || memcmp(flag, "--no-", 5) != 0)
        return NULL;
    snprintf(name.text, sizeof name.text, "--%.*s", (int)n - 5, flag + 5);
    row = option_find(name.text, strlen(name.text), OPTION_AS_FLAG);
    return row != NULL && row->kind == OPTION_BOOL ? row : NULL;
}

static enum kv_status refuse_flag(
    const char *flag, size_t n, struct kv_error *error)
{
    bool negated = n > 5 && memcmp(flag, "--no-", 5) == 0;
    size_t n_dashes = negated ? 5 : strspn(flag, "-");

    return refuse_unknown(
        flag, n, n_dashes < n ? n_dashes : n, OPTION_AS_FLAG, error);
}

/* A flag that takes no value: a switch, its --no- form, a command. */
static enum kv_status take_switch(struct options *options,
    const struct option_row *row, const char *flag, bool on,
    struct kv_error *error)
{
    const char *value = strchr(flag, '=');

    if (value != NULL)
        return kv_error_set(error, KV_INVALID,
            "%.*s: given %s, allowed is no value", (int)(value - flag), flag,
            quote_text(value + 1).text);
    return option_set(
        options, row, by_flag, flag, on ? "true" : "false", error);
}

/* The flag at argv[0]; *n_taken is how many of argc arguments it is. */
static enum kv_status take_flag(struct options *options, int argc,
    const char *const *argv, int *n_taken, struct kv_error *error)
{
    const char *flag = argv[0];
    size_t n = strcspn(flag, "=");
    const struct option_row *row = option_find(flag, n, OPTION_AS_FLAG);
    bool negated = row == NULL && (row = find_negated(flag, n)) != NULL;
    struct option_name name;

    *n_taken = 1;
    if (row == NULL)
        return refuse_flag(flag, n, error);
    if (negated || row->kind == OPTION_COMMAND)
        return take_switch(options, row, flag, !negated, error);
    name = option_name(row, OPTION_AS_FLAG);
    if (flag[n] == '=')
        return option_set(
            options, row, by_flag, name.text, flag + n + 1, error);
    if (row->kind == OPTION_BOOL)
        return take_switch(options, row, flag, true, error);
    if (argc < 2 || strncmp(argv[1], "--", 2) == 0)
        return kv_error_set(error, KV_INVALID,
            "%s: no value given, needed is %s=%s", name.text, name.text,
            row->kind == OPTION_UINT ? "NUMBER" : row->value);
    *n_taken = 2;
    return option_set(options, row, by_flag, name.text, argv[1], error);
}

/* No option is taken twice, but whoever names two models wants both. */
static enum kv_status check_models(
    int argc, const char *const *argv, struct kv_error *error)
{
    size_t n_models = 0;

    for (int i = 0; i < argc && strcmp(argv[i], "--") != 0; i++)
        n_models += strcmp(argv[i], "--model") == 0 ||
                    strncmp(argv[i], "--model=", 8) == 0;
    if (n_models < 2)
        return KV_OK;
    return kv_error_set(error, KV_INVALID,
        "--model: given %zu models, allowed is one; a second one needs a "
        "server of its own",
        n_models);
}

static enum kv_status refuse_argument(const char *given, struct kv_error *error)
{
    return kv_error_set(error, KV_INVALID,
        "unexpected argument %s; allowed are only --name=value and --name "
        "value, a switch is --name or --no-name",
        quote_text(given).text);
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

/* Copies the texts, which are borrowed until now, into storage of our own. */
static enum kv_status own_texts(struct options *options, struct kv_error *error)
{
    size_t n_bytes = 0;
    char *out;

    for (size_t i = 0; i < N_OPTION_ROWS; i++) {
        if (option_is_text(&option_rows[i]))
            n_bytes += strlen(option_text(&option_rows[i], options)) + 1;
    }
    options->storage = kv_calloc(n_bytes, 1);
    if (options->storage == NULL)
        return kv_error_set(error, KV_NO_MEMORY, "options: out of memory");
    out = options->storage;
    for (size_t i = 0; i < N_OPTION_ROWS; i++) {
        const char *text;

        if (!option_is_text(&option_rows[i]))
            continue;
        text = option_text(&option_rows[i], options);
        *(const char **)option_field(&option_rows[i], options) = out;
        out = stpcpy(out, text) + 1;
    }
    return KV_OK;
}

enum kv_status options_parse(struct options *options, int argc,
    const char *const *argv, const char *const *environment,
    struct kv_error *error)
{
    struct options parsed = {
        .argc = argc, .argv = argv, .environment = environment};
    struct options_file_texts texts = {NULL};
    enum kv_status status = set_standards(&parsed, error);
    int n_flags = argc > 0 ? argc - 1 : 0;
    const char *const *flags = argc > 0 ? argv + 1 : argv;

    parsed.help = asks_for("--help", n_flags, flags);
    parsed.version = asks_for("--version", n_flags, flags);
    if (!parsed.help && !parsed.version) {
        if (status == KV_OK)
            status = take_environment(&parsed, environment, error);
        if (status == KV_OK)
            status = check_models(n_flags, flags, error);
        if (status == KV_OK)
            status = take_flags(&parsed, n_flags, flags, error);
        if (status == KV_OK && parsed.config[0] != '\0')
            status = options_file_read(parsed.config, &parsed, &texts, error);
    }
    if (status == KV_OK)
        status = own_texts(&parsed, error);
    options_file_texts_fini(&texts);
    if (status == KV_OK) {
        *options = parsed;
    } else {
        option_sinks_fini(&parsed.sinks);
        option_tenants_fini(&parsed.tenants);
    }
    return status;
}

enum kv_status options_parse_again(
    const struct options *options, struct options *out, struct kv_error *error)
{
    return options_parse(
        out, options->argc, options->argv, options->environment, error);
}

void options_fini(struct options *options)
{
    option_sinks_fini(&options->sinks);
    option_tenants_fini(&options->tenants);
    kv_free(options->storage);
    *options = (struct options){0};
}

static bool digest_text(EVP_MD_CTX *context, const char *text)
{
    /* With its NUL, so that no two lists of values hash alike. */
    return EVP_DigestUpdate(context, text, strlen(text) + 1) == 1;
}

static bool digest_row(EVP_MD_CTX *context, const struct option_row *row,
    const struct options *options)
{
    char number[24];

    return digest_text(context, row->name) &&
           digest_text(context, option_value(row, options, number));
}

static bool digest_sink(EVP_MD_CTX *context, const struct option_sink *sink)
{
    bool ok = digest_text(context, sink->name) &&
              digest_text(context, sink->kind->name);
    char number[24];

    for (size_t i = 0; i < sink->kind->n_settings && ok; i++)
        ok = digest_text(context, sink->kind->settings[i].name) &&
             digest_text(context, option_sink_value(sink, i, number));
    return ok;
}

static bool digest_tenant(
    EVP_MD_CTX *context, const struct option_tenant *tenant)
{
    return digest_text(context, tenant->name) &&
           EVP_DigestUpdate(context, &tenant->quota, sizeof tenant->quota) == 1;
}

void options_digest(const struct options *options, uint8_t digest[32])
{
    EVP_MD_CTX *context = EVP_MD_CTX_new();
    bool ok =
        context != NULL && EVP_DigestInit_ex(context, EVP_sha256(), NULL) == 1;

    for (size_t i = 0; i < N_OPTIONS && ok; i++)
        ok = digest_row(context, &option_rows[i], options);
    for (size_t i = 0; i < options->sinks.n && ok; i++)
        ok = digest_sink(context, &options->sinks.list[i]);
    for (size_t i = 0; i < options->tenants.n && ok; i++)
        ok = digest_tenant(context, &options->tenants.list[i]);
    if (!ok || EVP_DigestFinal_ex(context, digest, NULL) != 1)
        memset(digest, 0, 32);
    EVP_MD_CTX_free(context);
}
